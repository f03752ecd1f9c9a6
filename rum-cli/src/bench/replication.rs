//! R6: a slave's memory over what it stores. R7: a write that a majority of three slaves keeps over a round trip to one. R8: how fast a
//! slave that lost its memory gets it back.
//!
//! For R7 one polling process hosts three slaves that replicate and one that does not: more pollers than CPUs would measure the scheduler.

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use rum_core::{
    config::Config,
    fault::EngineKind,
    grid::{Grid, draw_incarnation},
};
use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    fabric::{Fabric, PeerIndex},
    machines::Machine,
    port::{
        MacAddr, Port,
        vhost_user::{ListenOptions, VhostListenPort},
    },
    rpc::{MAX_MESSAGE_BYTES, client::ClientEvent},
    wire::message::{
        ExtentRef, MAX_BATCH_PAGES, PageKind, PageRef, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, Status,
        WRITE_HEAD_MAX_BYTES, command_head, decode_reserve_response, encode_read, encode_reserve, encode_write_head,
    },
};
use rum_slave::{Options, Slave, replication::ReplicationOptions};

use super::{
    data,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value, worker_ready},
    stats::quantile,
    worker::{WorkerError, join, measured},
};
use crate::slaves::Slaves;

const REPLICAS: usize = 3;
const SLAVE_BYTES: u64 = 192 << 20;
/// What R6 and R8 store.
const STORED_BYTES: usize = 128 << 20;
const BUDGET_BYTES: u64 = 4 << 20;
const WARM_UP: usize = 2_000;
const WRITES: usize = 20_000;
/// Batches of pages that the streams write, and how many are in flight.
const BATCHES: usize = 2_000;
const IN_FLIGHT: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);
/// After this time slaves are at rest.
const REST: Duration = Duration::from_millis(500);
/// By then another slave leads what one that was killed led: that is not a matter of R8.
const FAILOVER: Duration = Duration::from_secs(1);

pub fn memory(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let mut pairs = Vec::new();
    for _ in 0..stage.runs {
        let measured = stage.worker("store", &[&stage.slave_pid().to_string()], BUDGET_BYTES)?;
        pairs.push((value(&measured, "slave")? / 1e6, value(&measured, "stored")? / 1e6));
    }
    let mut replicated = Vec::new();
    for run in 0..stage.runs {
        let folder = stage.folder().join(format!("store-{run}"));
        std::fs::create_dir(&folder)?;
        let (slaves, machines) = Slaves::start_local((REPLICAS, REPLICAS), SLAVE_BYTES, &folder, stage.signals())?;
        let pids: Vec<String> = slaves.pids().iter().map(ToString::to_string).collect();
        let machines = machines.display().to_string();
        let arguments: Vec<&str> = std::iter::once(&machines).chain(&pids).map(String::as_str).collect();
        let measured = stage.worker("store-replicated", &arguments, BUDGET_BYTES)?;
        replicated.push((value(&measured, "slave")? / 1e6, value(&measured, "stored")? / 1e6));
    }
    let what = "memory of a slave ÷ bytes stored there, 128 MiB of pages, one slave";
    let of_three = "memory of three slaves ÷ bytes stored, each page on all of them, 128 MiB of pages, at rest";
    Ok(vec![
        Label::new("R6", what, "MB").at_most(1.03).figure(&pairs),
        Label::new("R6.replicated", of_three, "MB").at_most(3.1).figure(&replicated),
    ])
}

/// Fills far memory of the grid that the environment names, and says by how much its slave has grown.
pub fn store_worker(slave: &str) -> Result<Measured, WorkerError> {
    store(&join(EngineKind::UffdInline)?, &[slave])
}

/// Fills far memory of a grid, and says by how much its slaves have grown.
pub fn store_replicated_worker(machines: &Path, slaves: &[&str]) -> Result<Measured, WorkerError> {
    store(&Grid::join(Config { local_budget_bytes: BUDGET_BYTES, ..Config::from_env(Some(machines))? })?, slaves)
}

fn store(grid: &Grid, slaves: &[&str]) -> Result<Measured, WorkerError> {
    let resident = || slaves.iter().map(|slave| resident_bytes(slave)).sum::<Result<f64, WorkerError>>();
    let before = resident()?;
    let words = data::far_words(grid, STORED_BYTES / 8)?;
    // What is kept for others that lag is forgotten when they have it.
    std::thread::sleep(REST);
    let after = resident()?;
    let stored = grid.slaves().iter().flatten().map(|stat| stat.used_pages).sum::<u64>() * PAGE_BYTES as u64;
    drop(words);
    Ok(measured([("slave", after - before), ("stored", stored as f64)]))
}

fn resident_bytes(process: &str) -> Result<f64, WorkerError> {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    Ok(pages.ok_or_else(|| WorkerError::Wrong("statm has no resident size".into()))? * PAGE_BYTES as f64)
}

pub fn quorum(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let (mut latency, mut stream) = (Vec::new(), Vec::new());
    for run in 0..stage.runs {
        let folder = stage.folder().join(format!("quorum-{run}"));
        std::fs::create_dir(&folder)?;
        let path = folder.display().to_string();
        let _slaves = stage.answerer("four-slaves", &[&path])?;
        let measured = stage.worker("quorum", &[&path], BUDGET_BYTES)?;
        latency.push((value(&measured, "write")? / 1e3, value(&measured, "round-trip")? / 1e3));
        stream.push((value(&measured, "stream")? / 1e9, value(&measured, "alone")? / 1e9 / REPLICAS as f64));
    }
    let write = "write of 4 KiB that a majority of three slaves keeps ÷ read of 4 KiB from one; all slaves in one polling process";
    let flow = "replicated writes of 128 KiB, eight in flight ÷ a third of the same to one slave; all slaves in one polling process";
    Ok(vec![
        Label::new("R7", write, "us").at_most(2.5).figure(&latency),
        Label::new("R7.stream", flow, "GB/s").at_least(0.7).figure(&stream),
    ])
}

fn socket(folder: &Path, number: usize) -> std::path::PathBuf {
    folder.join(format!("s{number}"))
}

fn machines(folder: &Path) -> Result<Vec<Machine>, WorkerError> {
    let machine = |number: usize| {
        let link = format!("vhost:{}", socket(folder, number).display());
        Ok(Machine {
            ip: "127.0.0.1".into(),
            mac: MacAddr([2, 0, 0, 0, 0, number as u8 + 1]),
            link: link.parse().map_err(|_| WorkerError::Usage)?,
            name: None,
            memory_bytes: None,
        })
    };
    (0..=REPLICAS).map(machine).collect()
}

/// Three slaves that replicate and one that does not, all polled by this thread until the process is killed. Those that replicate keep all on disk if
/// `is_durable`.
pub fn host_slaves(folder: &Path, is_durable: bool) -> Result<Measured, WorkerError> {
    let mut machines = machines(folder)?;
    machines.truncate(REPLICAS);
    let start = |number: usize| {
        let port = VhostListenPort::bind(socket(folder, number), ListenOptions::default())?;
        let replication = (number < REPLICAS).then(|| ReplicationOptions {
            data_dir: is_durable.then(|| folder.join(format!("data-{number}"))),
            ..ReplicationOptions::new(machines.clone(), REPLICAS, number as u16)
        });
        let options = Options { replication, ..Options::new(SLAVE_BYTES) };
        let port: Box<dyn Port> = Box::new(port);
        Slave::new(vec![port], options).map_err(|error| WorkerError::Wrong(error.to_string()))
    };
    let mut slaves = (0..=REPLICAS).map(start).collect::<Result<Vec<_>, _>>()?;
    println!("{}", worker_ready());
    std::io::stdout().flush()?;
    loop {
        for slave in &mut slaves {
            slave.step(Instant::now());
        }
    }
}

/// A client that has some requests in flight with one slave at a time.
pub struct Asker {
    fabric: Fabric,
    /// Of the last command, and of the last that is answered like all before it.
    sequence: u64,
    settled: u64,
    /// Answers of requests that were complete, the latest last.
    answer: Vec<u8>,
    complete: usize,
    sent: u64,
}

impl Asker {
    /// Of all slaves.
    fn new(folder: &Path) -> Result<Self, WorkerError> {
        Self::of(folder, REPLICAS + 1)
    }

    /// Of the first `slaves`.
    pub fn of(folder: &Path, slaves: usize) -> Result<Self, WorkerError> {
        let mut fabric = Fabric::new(draw_incarnation().map_err(WorkerError::Wrong)?, None);
        for machine in machines(folder)?.into_iter().take(slaves) {
            let added = fabric.add_peer(&machine.link, machine.mac, None, MAX_MESSAGE_BYTES);
            added.map_err(|error| WorkerError::Wrong(error.to_string()))?;
        }
        Ok(Self { fabric, sequence: 0, settled: 0, answer: Vec::new(), complete: 0, sent: 0 })
    }

    fn poll(&mut self) {
        let Self { fabric, answer, complete, .. } = self;
        fabric.poll(&mut |_, event| match event {
            ClientEvent::Fragment { offset, bytes, .. } => {
                answer.resize(answer.len().max(offset + bytes.len()), 0);
                answer[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            ClientEvent::Complete { len, .. } => {
                answer.truncate(len);
                *complete += 1;
            }
            ClientEvent::Opened { .. } | ClientEvent::Reset => {}
        });
    }

    /// Sends a request as soon as there is room. One to a group is a command.
    pub fn send(&mut self, slave: usize, head: &[u8], body: &[u8]) {
        let mut whole = Vec::with_capacity(head.len() + 32);
        if slave < REPLICAS {
            self.sequence += 1;
            whole.extend_from_slice(&command_head(slave as u16, self.sequence, self.settled));
        }
        whole.extend_from_slice(head);
        while self.fabric.request(PeerIndex(slave), &whole, body).is_err() {
            self.poll();
        }
        self.sent += 1;
    }

    /// Whether the last answer is that the slave does not lead, or takes nothing more now.
    pub fn is_refused(&self) -> bool {
        self.answer.first() == Some(&(Status::NotLeader as u8))
    }

    /// Polls once. Whether all requests are answered.
    pub fn is_answered(&mut self) -> bool {
        self.poll();
        let is_answered = self.complete as u64 == self.sent;
        if is_answered {
            self.settled = self.sequence;
        }
        is_answered
    }

    /// One request and its answer.
    fn ask(&mut self, slave: usize, head: &[u8], body: &[u8]) {
        let before = self.complete;
        self.send(slave, head, body);
        while self.complete == before {
            self.poll();
        }
        self.settled = self.sequence;
    }

    /// An extent of a slave, or of the group that it leads; waits until it does.
    pub fn reserve(&mut self, slave: usize) -> Result<ExtentRef, WorkerError> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.ask(slave, encode_reserve(1, &mut [0; RESERVE_REQUEST_BYTES]), &[]);
            if let Ok(extents) = decode_reserve_response(&self.answer, 1)
                && let Some(extent) = extents.iter().next()
            {
                return Ok(extent);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(WorkerError::Wrong(format!("slave {slave} does not lead its group")))
    }

    pub fn check(&self) -> Result<(), WorkerError> {
        match self.answer.first() {
            Some(&status) if status == Status::Ok as u8 => Ok(()),
            status => Err(WorkerError::Wrong(format!("an answer of status {status:?}"))),
        }
    }

    /// Bytes a second of writes to one slave, or to the group that it leads.
    fn stream(&mut self, slave: usize, extent: ExtentRef) -> Result<f64, WorkerError> {
        let page = |page: usize| (PageRef { extent, page: page as u32 }, PageKind::Data);
        let body = vec![7; MAX_BATCH_PAGES * PAGE_BYTES];
        let batches = EXTENT_BYTES / body.len();
        let (begun, start) = (self.complete, Instant::now());
        for batch in 0..BATCHES {
            let first = batch % batches * MAX_BATCH_PAGES;
            let pages: [_; MAX_BATCH_PAGES] = std::array::from_fn(|at| page(first + at));
            while batch - (self.complete - begun) >= IN_FLIGHT {
                self.poll();
            }
            self.send(slave, encode_write_head(&pages, &mut [0; WRITE_HEAD_MAX_BYTES]), &body);
        }
        while self.complete - begun < BATCHES {
            self.poll();
        }
        let took = start.elapsed();
        self.check()?;
        Ok((BATCHES * body.len()) as f64 / took.as_secs_f64())
    }
}

pub fn quorum_worker(folder: &Path) -> Result<Measured, WorkerError> {
    const ALONE: usize = REPLICAS;
    let mut asker = Asker::new(folder)?;
    let (shared, own) = (asker.reserve(0)?, asker.reserve(ALONE)?);
    let body = [7; PAGE_BYTES];
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    asker.ask(
        ALONE,
        encode_write_head(&[(PageRef { extent: own, page: 0 }, PageKind::Data)], &mut [0; WRITE_HEAD_MAX_BYTES]),
        &body,
    );
    for round in 0..WARM_UP + WRITES {
        let page = PageRef { extent: shared, page: (round % 256) as u32 };
        let start = Instant::now();
        asker.ask(0, encode_write_head(&[(page, PageKind::Data)], &mut [0; WRITE_HEAD_MAX_BYTES]), &body);
        let write = start.elapsed();
        asker.check()?;
        let start = Instant::now();
        asker.ask(ALONE, encode_read(&[PageRef { extent: own, page: 0 }], &mut [0; READ_REQUEST_MAX_BYTES]), &[]);
        let read = start.elapsed();
        asker.check()?;
        if round >= WARM_UP {
            writes.push(write.as_nanos() as u64);
            reads.push(read.as_nanos() as u64);
        }
    }
    let (write, read) = (quantile(&mut writes, 0.5), quantile(&mut reads, 0.5));
    let (alone, stream) = (asker.stream(ALONE, own)?, asker.stream(0, shared)?);
    Ok(measured([("write", write), ("round-trip", read), ("stream", stream), ("alone", alone)]))
}

pub fn recovery(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let mut pairs = Vec::new();
    for run in 0..stage.runs {
        let path = stage.folder().join(format!("echo-{run}")).display().to_string();
        let echo = stage.answerer("echo", &[&path])?;
        let stream = value(&stage.worker("stream", &[&path], BUDGET_BYTES)?, "gbps")?;
        drop(echo);
        pairs.push((recover(stage, run)?, stream));
    }
    let what = "what a slave without memory gets back from two others ÷ the port's streaming of pages copied once";
    Ok(vec![Label::new("R8", what, "GB/s").at_least(0.5).figure(&pairs)])
}

/// A grid of its own, filled; one of its slaves is killed and started again. In GB/s from its start.
fn recover(stage: &mut Stage, run: u32) -> Result<f64, BenchError> {
    let folder = stage.folder().join(format!("grid-{run}"));
    std::fs::create_dir(&folder)?;
    let (mut slaves, machines) = Slaves::start_local((REPLICAS, REPLICAS), SLAVE_BYTES, &folder, stage.signals())?;
    let _client = stage.answerer("hold", &[&machines.display().to_string()])?;
    let victim = REPLICAS - 1;
    slaves.kill(victim)?;
    std::thread::sleep(FAILOVER);
    slaves.restart(victim, SLAVE_BYTES, &machines)?;
    let said = slaves.wait_until_recovered(victim, stage.signals())?;
    let numbers: Vec<f64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [megabytes, seconds] if megabytes * 1e6 >= STORED_BYTES as f64 * 0.95 => Ok(megabytes / 1e3 / seconds),
        _ => Err(BenchError::Worker { name: "hold".into(), how: format!("the slave said {said:?}") }),
    }
}

/// Fills far memory of a grid, says so, and holds it until it is killed.
pub fn hold_worker(machines: &Path) -> Result<Measured, WorkerError> {
    let grid = Grid::join(Config { local_budget_bytes: BUDGET_BYTES, ..Config::from_env(Some(machines))? })?;
    let words = data::far_words(&grid, STORED_BYTES / PAGE_BYTES * data::PAGE_WORDS + BUDGET_BYTES as usize / 8)?;
    println!("{}", worker_ready());
    std::io::stdout().flush()?;
    loop {
        std::thread::sleep(PATIENCE);
        std::hint::black_box(&words);
    }
}
