//! R13: what a program notices when a slave is killed that leads the group of its pages, or that follows in it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use allocator_api2::vec::Vec as FarVec;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rum_core::{
    collections::FarAllocator,
    config::Config,
    grid::{Grid, Location},
};
use rum_net::PAGE_BYTES;

use super::{
    data::PAGE_WORDS,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    stats::Random,
    worker::{WorkerError, measured},
};
use crate::slaves::Slaves;

const REPLICAS: usize = 3;
const SLAVE_BYTES: u64 = 192 << 20;
const DATA_BYTES: usize = 32 << 20;
const BUDGET_BYTES: u64 = 4 << 20;
/// Before the first measurement: a slave that has led in another's place gives the lead back after two seconds.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long is measured before the slave is killed, and after that.
const SPAN: Duration = Duration::from_secs(3);
/// What a program may notice.
const LEADER_MS: f64 = 500.0;
const FOLLOWER_MS: f64 = 50.0;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let (mut leader, mut follower, mut throughput) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..stage.runs {
        let dies = bereave(stage, run, 0)?;
        leader.push((value(&dies, "stall")? / 1e6, LEADER_MS));
        let dies = bereave(stage, run, 1)?;
        follower.push((value(&dies, "stall")? / 1e6, FOLLOWER_MS));
        throughput.push((value(&dies, "after")? / 1e3, value(&dies, "before")? / 1e3));
    }
    let stall = |who: &str, most: f64| format!("longest stall of a program when {who} is killed ÷ {most} ms");
    let rate = "reads and writes of random pages a second, seven of eight far, after a follower is killed ÷ before";
    Ok(vec![
        Label::new("R13", stall("the leader", LEADER_MS), "ms").at_most(1.0).figure(&leader),
        Label::new("R13.follower", stall("a follower", FOLLOWER_MS), "ms").at_most(1.0).figure(&follower),
        Label::new("R13.rate", rate, "k/s").at_least(0.9).figure(&throughput),
    ])
}

/// A grid of its own, whose slave `victim` is killed while a program works with what slave 0 leads.
fn bereave(stage: &mut Stage, run: u32, victim: usize) -> Result<Measured, BenchError> {
    let folder = stage.folder().join(format!("failover-{run}-{victim}"));
    std::fs::create_dir(&folder)?;
    let (slaves, machines) = Slaves::start_local((REPLICAS, REPLICAS), SLAVE_BYTES, &folder, stage.signals())?;
    let pid = slaves.pids()[victim].to_string();
    stage.worker("bereaved", &[&machines.display().to_string(), &pid], BUDGET_BYTES)
}

/// Works with far memory, and kills a slave meanwhile.
pub fn worker(machines: &Path, slave: &str) -> Result<Measured, WorkerError> {
    let slave = Pid::from_raw(slave.parse().map_err(|_| WorkerError::Usage)?);
    let config = Config { local_budget_bytes: BUDGET_BYTES, ..Config::from_env(Some(machines))? };
    let first = config.machines.first().ok_or(WorkerError::Usage)?;
    let location = Location { ip: first.ip.clone(), mac: first.mac };
    let grid = Grid::join(config)?;
    let mut words = FarVec::new_in(FarAllocator::at(&grid, &location));
    let count = DATA_BYTES / 8;
    words.try_reserve_exact(count).map_err(|error| WorkerError::Full(error.to_string()))?;
    words.extend(0..count as u64);
    let (mut random, mut work) = (Random(1), Work { words: &mut words, counts: vec![0; DATA_BYTES / PAGE_BYTES] });
    work.go_on(WARM_UP, &mut random);
    let (before, _) = work.go_on(SPAN, &mut random);
    kill(slave, Signal::SIGKILL).map_err(std::io::Error::from)?;
    let (after, stall) = work.go_on(SPAN, &mut random);
    work.check()?;
    Ok(measured([("before", before), ("after", after), ("stall", stall)]))
}

struct Work<'a> {
    words: &'a mut [u64],
    /// What was added to the first word of each page.
    counts: Vec<u64>,
}

impl Work<'_> {
    /// Adds to random pages; returns how many a second, and how long the longest took in ns.
    fn go_on(&mut self, time: Duration, random: &mut Random) -> (f64, f64) {
        let (start, mut last, mut longest, mut done) = (Instant::now(), Instant::now(), Duration::ZERO, 0u64);
        while last - start < time {
            let page = random.below(self.counts.len() as u64) as usize;
            self.words[page * PAGE_WORDS] += 1;
            self.counts[page] += 1;
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
            done += 1;
        }
        (done as f64 / (last - start).as_secs_f64(), longest.as_nanos() as f64)
    }

    fn check(&self) -> Result<(), WorkerError> {
        let is_right =
            |(page, &count): (usize, &u64)| self.words[page * PAGE_WORDS] == (page * PAGE_WORDS) as u64 + count;
        if self.counts.iter().enumerate().all(is_right) {
            return Ok(());
        }
        Err(WorkerError::Wrong("a page is not as it was written".into()))
    }
}
