//! A process: a replica, its pages, its disk if it has one, and its clock.

use std::time::Duration;

use paxos::{Configuration, MemberId, Replica, Settings, Slot, Start};

use crate::{
    broken::Broken,
    disk::Disk,
    machine::{Chunk, Pages, Write},
    weather::Rng,
};

/// A write that a client waits for.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub slot: Slot,
    pub write: Write,
    pub client: usize,
    /// The number of the client's request.
    pub request: u64,
    /// What had been answered about the page when the write arrived.
    pub floor: Slot,
}

/// Pages that go to another member.
#[derive(Clone, Copy, Debug)]
pub struct Providing {
    pub to: MemberId,
    pub since: Slot,
    pub through: Slot,
    pub cursor: u64,
}

pub struct Process {
    pub replica: Replica<Write>,
    pub pages: Pages,
    /// Its clock showed this when it started.
    clock_at_start: Duration,
    started_at: Duration,
    /// A clock's nanoseconds for a thousand of real time.
    rate_permille: u128,
    pub waiting: Vec<Waiting>,
    pub providing: Vec<Providing>,
    /// From whom, up to which slot, and how far.
    pub installing: Option<(MemberId, Slot, u64)>,
    pub is_removed: bool,
    pub paused_until: Duration,
    /// Tells events of this process from those of former ones.
    pub number: u64,
}

pub struct Host {
    pub id: MemberId,
    pub settings: Settings,
    pub disk: Option<Disk>,
    pub process: Option<Process>,
    pub restart_at: Option<Duration>,
    /// Its memory is whole, or nothing was ever in it.
    pub remembers: bool,
}

impl Host {
    pub fn new(id: MemberId, settings: Settings, configuration: Configuration) -> Self {
        let disk = settings.has_disk.then(|| Disk::new(configuration));
        Self { id, settings, disk, process: None, restart_at: None, remembers: false }
    }

    /// Starts a process: from disk if there is something on it.
    pub fn start(
        &mut self,
        now: Duration,
        rng: &mut Rng,
        drift_permille: u32,
        configuration: Configuration,
        broken: Option<Broken>,
    ) {
        let loaded = self.disk.as_ref().and_then(Disk::load);
        self.remembers = loaded.is_some();
        let (start, pages) = loaded.unwrap_or_else(|| (Start::Blank(configuration), Pages::new(configuration)));
        let drift = u128::from(rng.pick(&[0, drift_permille, drift_permille, drift_permille / 2]));
        let rate_permille = if rng.chance(0.5) { 1000 + drift } else { 1000 - drift };
        let clock_at_start = Duration::from_millis(rng.below(1_000_000));
        let seed = rng.next();
        let replica = Replica::new(self.id, self.settings, start, clock_at_start, seed);
        let mut replica = replica.expect("the settings make sense");
        Broken::apply(broken, &mut replica);
        self.process = Some(Process {
            replica,
            pages,
            clock_at_start,
            started_at: now,
            rate_permille,
            waiting: Vec::new(),
            providing: Vec::new(),
            installing: None,
            is_removed: false,
            paused_until: Duration::ZERO,
            number: rng.next(),
        });
        self.restart_at = None;
    }

    /// Ends the process; what was not synced is torn, and all is lost if it loses its memory.
    pub fn crash(&mut self, rng: &mut Rng, loses_memory: bool, configuration: Configuration) {
        self.process = None;
        if let Some(disk) = &mut self.disk {
            disk.crash(rng);
        }
        if loses_memory || self.disk.is_none() {
            self.remembers = false;
            self.disk = self.settings.has_disk.then(|| Disk::new(configuration));
        }
    }

    /// Without a disk, or with one that would bring its memory back.
    pub fn is_durable(&self) -> bool {
        self.disk.as_ref().is_none_or(Disk::has_returned)
    }

    /// A process that answers at this time.
    pub fn running(&mut self, now: Duration) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.paused_until <= now)
    }
}

impl Process {
    /// What its clock shows.
    pub fn clock(&self, now: Duration) -> Duration {
        let passed = (now - self.started_at).as_nanos() * self.rate_permille / 1000;
        self.clock_at_start + Duration::from_nanos(passed as u64)
    }

    /// When its clock will show this, or a little later.
    fn real(&self, clock: Duration) -> Duration {
        let passed = clock.saturating_sub(self.clock_at_start).as_nanos() * 1000 / self.rate_permille;
        self.started_at + Duration::from_nanos(passed as u64 + 2)
    }

    pub fn due(&self) -> Option<Duration> {
        let due = self.replica.next_timeout().map(|at| self.real(at));
        due.map(|due| due.max(self.paused_until))
    }

    /// Whether it has taken part in something that it could forget.
    pub fn is_whole(&self) -> bool {
        self.replica.status().standing != paxos::Standing::Blank
    }

    /// Takes a part of a transfer, if it is the next.
    pub fn install(&mut self, now: Duration, disk: &mut Option<Disk>, chunk: &Chunk) {
        if self.installing != Some((chunk.from, chunk.through, chunk.cursor)) {
            return;
        }
        self.pages.install(chunk);
        if let Some(disk) = disk {
            disk.merge_pages(&self.pages);
        }
        let clock = self.clock(now);
        if !chunk.is_last {
            self.installing = Some((chunk.from, chunk.through, chunk.next));
            return self.replica.state_progress(clock, chunk.from, chunk.through, chunk.next);
        }
        self.installing = None;
        let before = self.replica.status().commit;
        self.replica.state_installed(clock, chunk.from, chunk.through);
        let status = self.replica.status();
        if status.commit > before {
            (self.pages.applied, self.pages.configuration) = (status.commit, status.configuration);
            if let Some(disk) = disk {
                disk.write_pages(&self.pages);
            }
        }
    }
}
