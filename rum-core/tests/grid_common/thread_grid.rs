//! Slaves that replicate their pages, as threads of this process, whose memory tests can get at.

use std::{
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rum_core::{
    config::{Config, Machine},
    grid::Grid,
};
use rum_net::{PAGE_BYTES, port::middleware::Middlewares};
use rum_slave::{Options, Slave, group::scrub::ScrubOptions, port::open_link, replication::ReplicationOptions};

use super::local_grid::{LONG_LEASE, config, machine};

type Job = Box<dyn FnOnce(&mut Slave) + Send>;

/// A slave in its thread.
struct Host {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A grid of three of them, each page on all.
pub struct ThreadGrid {
    hosts: Vec<Host>,
    machines: Vec<Machine>,
    _folder: tempfile::TempDir,
}

impl ThreadGrid {
    pub fn start(memory_each: usize) -> Self {
        // Nothing but what tests ask for is repaired.
        Self::with(memory_each, ScrubOptions { bytes_per_second: 0, ..ScrubOptions::default() })
    }

    pub fn with(memory_each: usize, scrub: ScrubOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let link = |number: usize| format!("vhost:{}", folder.path().join(format!("s{number}")).display());
        let machines: Vec<Machine> = (0..3).map(|number| machine(number, &link(number))).collect();
        let host = |number: usize| {
            let station = open_link(&machines[number].link, false, &Middlewares::default()).expect("a socket");
            let replication =
                ReplicationOptions { scrub, ..ReplicationOptions::new(machines.clone(), 3, number as u16) };
            let options =
                Options { lease: LONG_LEASE, replication: Some(replication), ..Options::new(memory_each as u64) };
            let mut slave = Slave::new(vec![station], options).expect("a slave");
            let (jobs, to_do) = mpsc::channel::<Job>();
            let thread = thread::spawn(move || {
                loop {
                    match to_do.try_recv() {
                        Ok(job) => job(&mut slave),
                        Err(mpsc::TryRecvError::Empty) => {}
                        Err(mpsc::TryRecvError::Disconnected) => return,
                    }
                    if !slave.step(Instant::now()) {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
            });
            Host { jobs: Some(jobs), thread: Some(thread) }
        };
        let hosts = (0..3).map(host).collect();
        Self { hosts, machines, _folder: folder }
    }

    pub fn join(&self, budget: usize) -> Grid {
        let config = Config { replication_factor: 3, ..config(self.machines.clone(), budget, None) };
        Grid::join(config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Does something in a slave's thread.
    pub fn on<T: Send + 'static>(&self, slave: usize, job: impl FnOnce(&mut Slave) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move |slave| done.send(job(slave)).expect("the test waits"));
        self.hosts[slave].jobs.as_ref().expect("it runs").send(job).expect("it runs");
        result.recv().expect("it runs")
    }

    /// Flips a bit in a slave's pages that begin with these words. Returns how many there are.
    pub fn damage(&self, slave: usize, words: &[u64]) -> usize {
        let words = words.to_vec();
        self.tamper(slave, move |page, first| {
            if words.contains(&first) {
                page[PAGE_BYTES - 1] ^= 4;
            }
            words.contains(&first)
        })
    }

    /// How many of a slave's pages begin with one of these words and are as `damage` leaves them.
    pub fn damaged(&self, slave: usize, words: &[u64]) -> usize {
        let words = words.to_vec();
        self.tamper(slave, move |page, first| words.contains(&first) && page[PAGE_BYTES - 1] & 4 != 0)
    }

    fn tamper(&self, slave: usize, mut look: impl FnMut(&mut [u8; PAGE_BYTES], u64) -> bool + Send + 'static) -> usize {
        self.on(slave, move |slave| {
            let mut found = 0;
            slave.tamper(&mut |page| {
                let first = u64::from_le_bytes(page[..8].try_into().expect("eight bytes"));
                found += usize::from(look(page, first));
            });
            found
        })
    }
}

impl Drop for ThreadGrid {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.jobs = None;
            let _ = host.thread.take().expect("it runs").join();
        }
    }
}
