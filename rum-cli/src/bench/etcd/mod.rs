//! R15: a replicated write beside etcd, with three nodes each on this machine, for one client and for 64, each with one write under way.
//!
//! etcd puts values of 256 B. RUM has no write of less than a page, so it writes 4 KiB. etcd is driven by gRPC over HTTP/2, a connection for each
//! client, to the member that answers fastest, which is the leader (`load.rs`); that needs the feature `etcd`. Its members may use all CPUs, the client has the
//! measuring one. RUM's slaves are polled by one process on the other CPU, as in R7.

mod cluster;
#[cfg(feature = "etcd")]
mod load;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    wire::message::{ExtentRef, PageKind, PageRef, WRITE_HEAD_MAX_BYTES, encode_write_head},
};

use self::cluster::Cluster;
use super::{
    figure::{Figure, Label},
    replication::Asker,
    stage::{BenchError, Measured, Stage, value},
    stats::quantile,
    worker::{WorkerError, measured},
};

const CLIENTS: [usize; 2] = [1, 64];
const VALUE_BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
const SMOKE: Duration = Duration::from_millis(100);
const BUDGET_BYTES: u64 = 1 << 20;
/// Where a file system in memory is.
const MEMORY: &str = "/dev/shm";

/// What one side of a comparison did.
struct Side {
    puts: f64,
    p99: f64,
}

impl Side {
    fn of(measured: &Measured) -> Result<Self, BenchError> {
        Ok(Self { puts: value(measured, "puts")?, p99: value(measured, "p99")? })
    }
}

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    if !cfg!(feature = "etcd") {
        let how = "this rum was built without etcd's protocol: cargo build --release -p rum-cli --features etcd";
        return Err(BenchError::Impossible(how.to_owned()));
    }
    cluster::find()?;
    let seconds = if stage.smoke { SMOKE } else { MEASURED }.as_secs_f64().to_string();
    let mut figures = Vec::new();
    for (place, slaves, parent, of) in [
        ("memory", "four-slaves", Some(Path::new(MEMORY)), "whose data is in memory, as RUM's"),
        ("disk", "durable-slaves", None, "with its data on disk, as RUM's: both sync before they answer"),
    ] {
        for clients in CLIENTS {
            let (mut puts, mut p99) = (Vec::new(), Vec::new());
            for run in 0..stage.runs {
                let ours = ours(stage, (slaves, &format!("{place}-{clients}-{run}")), clients, &seconds)?;
                let theirs = theirs(stage, parent, clients, &seconds)?;
                puts.push((ours.puts / 1e3, theirs.puts / 1e3));
                p99.push((ours.p99 / 1e3, theirs.p99 / 1e3));
            }
            let what = format!(
                "replicated writes of a page by {clients} clients ÷ puts of 256 B into etcd {of}; three nodes each"
            );
            let goal = if parent.is_some() { 10.0 } else { 1.0 };
            figures.push(Label::new(format!("R15.{place}.{clients}"), what, "k/s").at_least(goal).figure(&puts));
            let what = format!("p99 of the same writes ÷ p99 of etcd's puts, {clients} clients, etcd {of}");
            figures.push(Label::new(format!("R15.{place}.{clients}.p99"), what, "us").at_most(1.0).figure(&p99));
        }
    }
    Ok(figures)
}

fn ours(stage: &mut Stage, (slaves, name): (&str, &str), clients: usize, seconds: &str) -> Result<Side, BenchError> {
    let folder = stage.folder().join(name);
    std::fs::create_dir(&folder)?;
    let path = folder.display().to_string();
    let _slaves = stage.answerer(slaves, &[&path])?;
    Side::of(&stage.worker("page-puts", &[&path, &clients.to_string(), seconds], BUDGET_BYTES)?)
}

fn theirs(stage: &mut Stage, parent: Option<&Path>, clients: usize, seconds: &str) -> Result<Side, BenchError> {
    let cluster = Cluster::start(parent)?;
    Side::of(&stage.worker("etcd-puts", &[&cluster.ports(), &clients.to_string(), seconds], BUDGET_BYTES)?)
}

/// How long each put took, of those that ended after the warm-up.
struct Puts {
    begin: Instant,
    end: Instant,
    nanoseconds: Vec<u64>,
}

impl Puts {
    fn begin(seconds: Duration) -> Self {
        let begin = Instant::now() + WARM_UP;
        Self { begin, end: begin + seconds, nanoseconds: Vec::with_capacity(1 << 20) }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn done(&mut self, sent: Instant) {
        let now = Instant::now();
        if now >= self.begin && now < self.end {
            self.nanoseconds.push((now - sent).as_nanos() as u64);
        }
    }

    fn measured(mut self) -> Measured {
        let seconds = (self.end - self.begin).as_secs_f64();
        let puts = self.nanoseconds.len() as f64 / seconds;
        measured([("puts", puts), ("p99", quantile(&mut self.nanoseconds, 0.99))])
    }
}

fn seconds(text: &str) -> Result<Duration, WorkerError> {
    text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or(WorkerError::Usage)
}

/// Clients of the group that slave 0 leads, in this thread.
pub fn page_puts_worker(folder: &Path, clients: &str, measured_for: &str) -> Result<Measured, WorkerError> {
    let (clients, measured_for) = (clients.parse::<usize>().map_err(|_| WorkerError::Usage)?, seconds(measured_for)?);
    let mut askers = Vec::new();
    for _ in 0..clients {
        let mut asker = Asker::of(folder, 1)?;
        let extent = asker.reserve(0)?;
        askers.push((asker, extent, Instant::now(), 0usize));
    }
    let body = [7; PAGE_BYTES];
    let send = |asker: &mut Asker, extent: ExtentRef, round: usize| {
        let page = PageRef { extent, page: (round % 256) as u32 };
        asker.send(0, encode_write_head(&[(page, PageKind::Data)], &mut [0; WRITE_HEAD_MAX_BYTES]), &body);
    };
    let mut puts = Puts::begin(measured_for);
    for (asker, extent, sent, round) in &mut askers {
        *sent = Instant::now();
        send(asker, *extent, *round);
    }
    while !puts.is_over() {
        for (asker, extent, sent, round) in &mut askers {
            if !asker.is_answered() {
                continue;
            }
            // The leader takes no more at the moment: the put is not done.
            if !asker.is_refused() {
                asker.check()?;
                puts.done(*sent);
                (*sent, *round) = (Instant::now(), *round + 1);
            }
            send(asker, *extent, *round);
        }
    }
    Ok(puts.measured())
}

#[cfg(feature = "etcd")]
pub use load::etcd_puts_worker;

/// Without the feature there is none to be driven.
#[cfg(not(feature = "etcd"))]
pub fn etcd_puts_worker(_ports: &str, _clients: &str, _seconds: &str) -> Result<Measured, WorkerError> {
    let _ = VALUE_BYTES;
    Err(WorkerError::Usage)
}
