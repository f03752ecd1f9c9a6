//! The transport's figures: each against the bare port, over vhost-user and over veth.
//!
//! One worker measures both sides in turns of some milliseconds, on the first CPU; what answers has a process of its own
//! on the last CPU and sleeps while others are measured.

mod answer;
mod flood;
pub mod hosts;
mod latency;
mod loss;
mod many;
mod reader;
mod rig;
mod small;
mod stream;

use std::time::Duration;

pub use self::answer::answer;
use super::{
    figure::Figure,
    stage::{BenchError, Ended, Measured, Stage},
    worker::WorkerError,
};

/// What the transport runs over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Medium {
    Vhost,
    /// As `Vhost`, but the bare port is DPDK's own pair.
    DpdkVhost,
    Veth,
}

impl Medium {
    /// Behind a figure's id.
    fn suffix(self) -> &'static str {
        match self {
            Self::Vhost => "",
            Self::DpdkVhost => ".dpdk",
            Self::Veth => ".veth",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Vhost => "vhost-user",
            Self::DpdkVhost => "vhost-user, the bare port being DPDK's net_virtio_user and net_vhost",
            Self::Veth => "veth (af_packet)",
        }
    }
}

/// Those who answer, each on a link of its own.
struct Answerers {
    medium: Medium,
    links: Vec<String>,
    /// Who keeps the host of those who measure.
    host: String,
    processes: Vec<Ended>,
}

impl Drop for Answerers {
    /// Hosts last: those who are on them would complain.
    fn drop(&mut self) {
        while self.processes.pop().is_some() {}
    }
}

impl Answerers {
    fn start(stage: &mut Stage, medium: Medium, roles: &[&str]) -> Result<Self, BenchError> {
        let mut processes = Vec::new();
        let (mut host, mut peer) = (hosts::NO_HOST.to_owned(), hosts::NO_HOST.to_owned());
        if medium == Medium::Veth {
            let answering = stage.answerer("host", &[])?;
            peer = answering.id().to_string();
            processes.push(answering);
            let measuring = stage.answerer("host", &[&peer, &roles.len().to_string()])?;
            host = measuring.id().to_string();
            processes.push(measuring);
        }
        let mut links = Vec::new();
        for (number, role) in roles.iter().enumerate() {
            let socket = stage.folder().join(format!("{role}{}", medium.suffix())).display().to_string();
            let [answering, measuring] = match medium {
                Medium::DpdkVhost if *role == "echo" => [
                    format!("vdev:net_vhost0,iface={socket},queues=1"),
                    format!("vdev:net_virtio_user0,path={socket},queues=1,queue_size=256"),
                ],
                Medium::Vhost | Medium::DpdkVhost => [(); 2].map(|()| format!("vhost:{socket}")),
                Medium::Veth => [(); 2].map(|()| format!("af_packet:{}", hosts::interface(number))),
            };
            processes.push(start(stage, &[&peer, role, &answering])?);
            links.push(measuring);
        }
        Ok(Self { medium, links, host, processes })
    }

    /// Runs a worker that is told its host, the turns to take, what else there is to know, and the links.
    fn worker(&self, stage: &mut Stage, name: &str, more: &[&str]) -> Result<Measured, BenchError> {
        let turns = if stage.smoke { Turns::SMOKE } else { Turns::USUAL };
        let (count, each) = (turns.count.to_string(), turns.each.as_millis().to_string());
        let mut arguments: Vec<&str> = vec![&self.host, &count, &each];
        arguments.extend(more);
        arguments.extend(self.links.iter().map(String::as_str));
        stage.worker(name, &arguments, 1 << 20)
    }
}

/// Starts who answers. DPDK 22.11 numbers a packet socket's group by process and interface, and two that come to the same
/// number on one host are refused: another process has another.
fn start(stage: &mut Stage, arguments: &[&str]) -> Result<Ended, BenchError> {
    const TRIES: usize = 5;
    let mut last = stage.answerer("answer", arguments);
    for _ in 1..TRIES {
        match last {
            Err(BenchError::Interrupted(_)) | Ok(_) => break,
            Err(_) => last = stage.answerer("answer", arguments),
        }
    }
    last
}

/// Both sides are measured alternately, so often and so long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Turns {
    count: u32,
    each: Duration,
}

impl Turns {
    const USUAL: Self = Self { count: 8, each: Duration::from_millis(60) };
    const SMOKE: Self = Self { count: 2, each: Duration::from_millis(5) };
}

/// Measures over all media; but for the first they are left out where they cannot be had.
fn over_media(
    stage: &mut Stage,
    id: &str,
    roles: &[&str],
    measure: impl Fn(&mut Stage, &Answerers) -> Result<Vec<Figure>, BenchError>,
) -> Result<Vec<Figure>, BenchError> {
    let answerers = Answerers::start(stage, Medium::Vhost, roles)?;
    let mut figures = measure(stage, &answerers)?;
    drop(answerers);
    if roles.contains(&"echo") {
        figures.extend(over(stage, id, Medium::DpdkVhost, roles, &measure)?);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("rum bench: {id}.veth: not measured: it needs root, for network namespaces and packet sockets");
        return Ok(figures);
    }
    figures.extend(over(stage, id, Medium::Veth, roles, &measure)?);
    Ok(figures)
}

/// Measures over a medium that may not be there: then says so.
fn over(
    stage: &mut Stage,
    id: &str,
    medium: Medium,
    roles: &[&str],
    measure: &impl Fn(&mut Stage, &Answerers) -> Result<Vec<Figure>, BenchError>,
) -> Result<Vec<Figure>, BenchError> {
    match Answerers::start(stage, medium, roles).and_then(|answerers| measure(stage, &answerers)) {
        Err(BenchError::Interrupted(signal)) => Err(BenchError::Interrupted(signal)),
        Err(error) => {
            eprintln!("rum bench: {id}{}: not measured: {error}", medium.suffix());
            Ok(Vec::new())
        }
        figures => figures,
    }
}

pub use self::{
    flood::measure as flood, latency::measure as latency, loss::measure as loss, many::measure as many,
    small::measure as small, stream::measure as stream,
};

/// Runs a worker of the transport: `[host, turns, milliseconds a turn, …]`.
pub fn worker(name: &str, arguments: &[&str]) -> Result<Measured, WorkerError> {
    let [host, count, each, rest @ ..] = arguments else { return Err(WorkerError::Usage) };
    hosts::enter(host)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| WorkerError::Usage);
    let turns = Turns { count: number(count)?, each: Duration::from_millis(number(each)?.into()) };
    match (name, rest) {
        ("small", [echo, small]) => small::worker(turns, echo, small),
        ("latency", [echo, pages, sealed]) => latency::worker(turns, echo, pages, sealed),
        ("page-stream", [echo, pages, sealed]) => stream::worker(turns, echo, pages, sealed),
        ("loss", [loss, pages]) => loss::worker(turns, loss, pages),
        ("many", [pages]) => many::worker(turns, pages),
        ("flood", [pages]) => flood::worker(turns, pages),
        _ => Err(WorkerError::Usage),
    }
}
