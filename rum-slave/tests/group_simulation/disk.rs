//! A disk that can lose power: what was not synced is lost or torn, sector by sector. Jobs take their time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use paxos::{Configuration, MemberId};
use rum_slave::disk::{
    files::{FileError, Files},
    lane::{Job, Lane},
    memory::{self, Memory, Remembered},
};

use crate::{host::accounts, weather::Rng};

pub const SALT: u64 = 7;

const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

/// Sectors that are not there are zeros.
#[derive(Clone, Default)]
struct File {
    durable: BTreeMap<u64, Sector>,
    unsynced: BTreeMap<u64, Sector>,
    length: u64,
}

impl File {
    fn sector(&self, number: u64) -> Sector {
        self.unsynced.get(&number).or_else(|| self.durable.get(&number)).copied().unwrap_or([0; SECTOR])
    }
}

/// The files of one slave.
#[derive(Clone, Default)]
pub struct Disk {
    files: BTreeMap<String, File>,
    /// Each lane's jobs, with the time when each is done.
    jobs: [VecDeque<(Duration, Job)>; 2],
    done: [u64; 2],
    now: Duration,
    latency: Duration,
    draws: u64,
    /// A crash is under way: nothing is made durable any more.
    is_failing: bool,
    /// Of the group.
    hosts: u8,
}

/// A disk with its process.
pub type Shared = Arc<Mutex<Disk>>;

/// One of the two lanes of a process.
pub struct SimulatedLane {
    disk: Shared,
    which: usize,
}

impl SimulatedLane {
    pub fn both(disk: &Shared) -> (Box<dyn Lane>, Box<dyn Lane>) {
        let lane = |which| Box::new(Self { disk: Arc::clone(disk), which });
        (lane(0), lane(1))
    }
}

impl Lane for SimulatedLane {
    fn submit(&mut self, job: Job) {
        let mut disk = self.disk.lock().unwrap();
        let mut rng = Rng(disk.draws);
        let took = rng.around(disk.latency);
        disk.draws = rng.0;
        let before = disk.jobs[self.which].back().map_or(disk.now, |(at, _)| *at);
        let at = before.max(disk.now) + took;
        disk.jobs[self.which].push_back((at, job));
    }

    fn done(&mut self) -> Result<u64, FileError> {
        let mut disk = self.disk.lock().unwrap();
        disk.run_due()?;
        Ok(disk.done[self.which])
    }
}

impl Disk {
    pub fn new(hosts: u8, latency: Duration, seed: u64) -> Self {
        Self { hosts, latency, draws: seed, ..Self::default() }
    }

    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    fn run_due(&mut self) -> Result<(), FileError> {
        loop {
            let due = (0..2).filter(|&lane| self.jobs[lane].front().is_some_and(|(at, _)| *at <= self.now));
            let Some(lane) = due.min_by_key(|&lane| self.jobs[lane].front().map(|(at, _)| *at)) else { return Ok(()) };
            if let Some((_, job)) = self.jobs[lane].pop_front() {
                job.run(self)?;
                self.done[lane] += 1;
            }
        }
    }

    /// As the process leaves it when it ends now: the job of each lane that was being done is done in part, what was written survives as it may.
    pub fn crash(&mut self, rng: &mut Rng) {
        let _ = self.run_due();
        self.is_failing = true;
        for lane in 0..2 {
            if let Some((_, job)) = self.jobs[lane].pop_front().filter(|_| rng.chance(0.8)) {
                let _ = job.run(self);
            }
            self.jobs[lane].clear();
        }
        let survives = rng.pick(&[0.0, 0.5, 0.9, 1.0]);
        for file in self.files.values_mut() {
            for (number, sector) in std::mem::take(&mut file.unsynced) {
                if rng.chance(survives) {
                    file.durable.insert(number, sector);
                }
            }
        }
        (self.is_failing, self.done) = (false, [0, 0]);
    }

    /// Lets some bits of some files be wrong.
    pub fn damage(&mut self, rng: &mut Rng) {
        for _ in 0..1 + rng.below(3) {
            let names: Vec<String> = self.files.keys().cloned().collect();
            if names.is_empty() {
                return;
            }
            let Some(file) = self.files.get_mut(&names[rng.below(names.len())]) else { return };
            let numbers: Vec<u64> = file.durable.keys().copied().collect();
            if !numbers.is_empty()
                && let Some(sector) = file.durable.get_mut(&numbers[rng.below(numbers.len())])
            {
                sector[rng.below(SECTOR)] ^= 1 << rng.below(8);
            }
        }
    }

    /// Whether a process that starts from it knows all that it ever said.
    pub fn is_whole(&self) -> bool {
        let mut copy = self.clone();
        let (_, memory) = read(&mut copy);
        matches!(memory, Memory::Whole(whole) if whole.damaged.is_empty())
    }
}

/// What a process finds when it starts.
pub fn read(disk: &mut Disk) -> (Remembered, Memory) {
    let voters = (0..disk.hosts).filter_map(MemberId::new).collect();
    let groups = [(0, Configuration::of(voters))];
    let mut remembered = memory::read(disk, SALT, &groups, &accounts().0).expect("files that can be read");
    let memory = remembered.groups.pop().expect("a group");
    (remembered, memory)
}

impl Files for Disk {
    fn names(&self) -> Result<Vec<String>, FileError> {
        Ok(self.files.keys().cloned().collect())
    }

    fn len(&mut self, name: &str) -> Result<u64, FileError> {
        Ok(self.files.get(name).map_or(0, |file| file.length))
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        let Some(file) = self.files.get(name) else { return Ok(0) };
        let count = file.length.saturating_sub(offset).min(into.len() as u64) as usize;
        into[..count].fill(0);
        let (first, last) = (offset / SECTOR as u64, (offset + count as u64).div_ceil(SECTOR as u64));
        let there = file.durable.range(first..last).chain(file.unsynced.range(first..last));
        for (number, sector) in there {
            let begin = number * SECTOR as u64;
            let (from, to) = (begin.max(offset), (begin + SECTOR as u64).min(offset + count as u64));
            let (place, length) = ((from - offset) as usize, (to - from) as usize);
            into[place..place + length].copy_from_slice(&sector[(from - begin) as usize..][..length]);
        }
        Ok(count)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let file = self.files.entry(name.to_owned()).or_default();
        file.length = file.length.max(offset + bytes.len() as u64);
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, inside) = (at / SECTOR as u64, at as usize % SECTOR);
            let count = rest.len().min(SECTOR - inside);
            let mut sector = file.sector(number);
            sector[inside..inside + count].copy_from_slice(&rest[..count]);
            file.unsynced.insert(number, sector);
            (at, rest) = (at + count as u64, &rest[count..]);
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), FileError> {
        if self.is_failing {
            return Err(FileError::new("sync", name, std::io::Error::other("no power")));
        }
        if let Some(file) = self.files.get_mut(name) {
            let unsynced = std::mem::take(&mut file.unsynced);
            file.durable.extend(unsynced);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<bool, FileError> {
        let file = self.files.remove(from);
        let is_there = file.is_some();
        self.files.extend(file.map(|file| (to.to_owned(), file)));
        Ok(is_there)
    }

    fn remove(&mut self, name: &str) -> Result<(), FileError> {
        self.files.remove(name);
        Ok(())
    }

    fn set_aside(&mut self) -> Result<(), FileError> {
        self.files.clear();
        self.files.insert("damaged-0".to_owned(), File::default());
        Ok(())
    }
}
