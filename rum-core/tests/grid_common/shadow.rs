//! Random work on far memory by several threads, compared with a copy in plain memory.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rum_core::grid::{Grid, Stats};

use super::{
    PAGE,
    dice::Dice,
    far::Far,
    resident::{Region, bound},
};

pub const THREADS: usize = 4;
/// The bytes that one thread owns, side by side; every page has some of each thread, and many lie across a page's end.
const UNIT: usize = 600;
/// Shared counters stand this far apart: on different pages, and at different places of them.
const COUNTER_STRIDE: usize = PAGE + 64;
const COUNTERS: usize = 64;
/// Operations of a thread that stay near each other, as in most programs.
const STAY: usize = 16_000;
/// The units of such a place.
const PLACE_UNITS: usize = 64;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Of the data that is read and written.
    pub bytes: usize,
    /// Each thread's.
    pub ops: usize,
    /// One in so many operations goes anywhere, the others near the last.
    pub far_one_in: usize,
}

/// What one thread owns, and what it knows of it.
struct Worker<'a> {
    index: usize,
    data: Far,
    counters: &'a Far,
    shadow: Vec<[u8; UNIT]>,
    added: Vec<u64>,
    dice: Dice,
    place: usize,
}

impl<'a> Worker<'a> {
    fn new(index: usize, plan: &Plan, data: Far, counters: &'a Far) -> Self {
        let units = plan.bytes / UNIT / THREADS;
        Self {
            index,
            data,
            counters,
            shadow: vec![[0; UNIT]; units],
            added: vec![0; COUNTERS],
            dice: Dice::new(plan.seed ^ (index as u64) << 32),
            place: 0,
        }
    }

    /// The far bytes of one of its units.
    fn at(&self, unit: usize) -> usize {
        (unit * THREADS + self.index) * UNIT
    }

    fn pick(&mut self, far_one_in: usize) -> usize {
        let units = self.shadow.len();
        match self.dice.below(far_one_in) {
            0 => self.dice.below(units),
            _ => (self.place + self.dice.below(PLACE_UNITS)) % units,
        }
    }

    fn run(&mut self, plan: &Plan) {
        for op in 0..plan.ops {
            if op % STAY == 0 {
                self.place = self.dice.below(self.shadow.len());
            }
            let unit = self.pick(plan.far_one_in);
            self.operate(unit);
        }
    }

    fn operate(&mut self, unit: usize) {
        let start = self.dice.below(UNIT - 8);
        let len = 1 + self.dice.below(UNIT - start);
        let at = self.at(unit);
        match self.dice.below(100) {
            0..40 => self.check(unit, start, len),
            40..50 => {
                let word = u64::from_ne_bytes(self.shadow[unit][start..start + 8].try_into().expect("eight"));
                assert_eq!(self.data.word(at + start), word, "unit {unit} of thread {}", self.index);
            }
            50..68 => {
                self.dice.fill(&mut self.shadow[unit][start..start + len]);
                self.data.write(at + start, &self.shadow[unit][start..start + len]);
            }
            // Lesson 1: a page that was first read and then written.
            68..78 => {
                let byte = self.data.byte(at + start);
                assert_eq!(byte, self.shadow[unit][start], "unit {unit} of thread {}", self.index);
                self.data.set_byte(at + start, byte.wrapping_add(1));
                self.shadow[unit][start] = byte.wrapping_add(1);
            }
            78..84 => {
                self.dice.fill(&mut self.shadow[unit]);
                self.data.write(at, &self.shadow[unit]);
            }
            84..88 => {
                self.shadow[unit].fill(0);
                self.data.fill(at, UNIT, 0);
            }
            _ => {
                let counter = self.dice.below(COUNTERS);
                let add = self.dice.next() >> 40;
                self.counters.counter(counter * COUNTER_STRIDE).fetch_add(add, Ordering::Relaxed);
                self.added[counter] += add;
            }
        }
    }

    fn check(&self, unit: usize, start: usize, len: usize) {
        let (mut bytes, at) = ([0; UNIT], self.at(unit) + start);
        self.data.read(at, &mut bytes[..len]);
        let expected = &self.shadow[unit][start..start + len];
        if &bytes[..len] != expected {
            let first = (0..len).find(|&i| bytes[i] != expected[i]).expect("they differ");
            panic!(
                "thread {}: byte {:#x} (page {}) is {} in place of {}; {} of {len} bytes differ",
                self.index,
                at + first,
                (at + first) / PAGE,
                bytes[first],
                expected[first],
                (0..len).filter(|&i| bytes[i] != expected[i]).count(),
            );
        }
    }
}

/// What was measured meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub ops: usize,
    pub took: Duration,
    pub stats: Stats,
    pub peak_resident_bytes: usize,
}

/// Looks at what is resident until told to stop, and gives the most ever seen.
pub struct Watch<'a> {
    grid: &'a Grid,
    region: Region,
    stop: AtomicBool,
    peak: AtomicUsize,
}

impl<'a> Watch<'a> {
    pub fn new(grid: &'a Grid, region: Region) -> Self {
        Self { grid, region, stop: AtomicBool::new(false), peak: AtomicUsize::new(0) }
    }

    /// Does `work` while watching; checks the budget at the end.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            scope.spawn(|| {
                while !self.stop.load(Ordering::Relaxed) {
                    self.peak.fetch_max(self.sample(), Ordering::Relaxed);
                    thread::park_timeout(Duration::from_millis(25));
                }
            });
            // The watcher ends also when the work panics.
            struct Stop<'s>(&'s AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&self.stop);
            work()
        })
    }

    /// What is resident now. The kernel looks at page after page while they come and go, and counts some twice when it is
    /// interrupted: what is too much has to be so several times in a row.
    fn sample(&self) -> usize {
        let bound = bound(self.grid.stats().budget_bytes as usize);
        let mut least = self.region.resident_bytes();
        for _ in 0..8 {
            if least <= bound {
                break;
            }
            least = least.min(self.region.resident_bytes());
        }
        least
    }

    /// Lesson 6: eviction gives memory back. Returns the most bytes that were resident by the kernel's account.
    pub fn check_budget(&self) -> usize {
        let (stats, peak) = (self.grid.stats(), self.peak.load(Ordering::Relaxed));
        let bound = bound(stats.budget_bytes as usize);
        assert!(stats.resident_peak_bytes as usize <= bound, "{} by its own account", stats.resident_peak_bytes);
        assert!(peak <= bound, "{peak} bytes were resident, the budget is {}", stats.budget_bytes);
        assert!(stats.resident_bytes <= stats.resident_peak_bytes);
        peak
    }
}

/// Four threads read, write and count at random; each compares what it reads with its copy, at the end all of it.
pub fn run(grid: &Grid, plan: Plan) -> Outcome {
    let data = Far::zeroed(grid, plan.bytes);
    let counters = Far::zeroed(grid, COUNTERS * COUNTER_STRIDE);
    let mut workers: Vec<_> = (0..THREADS).map(|index| Worker::new(index, &plan, data, &counters)).collect();
    let watch = Watch::new(grid, Region::of(grid, data.base()));
    let started = Instant::now();
    watch.during(|| {
        thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| worker.run(&plan));
            }
        });
        for worker in &workers {
            (0..worker.shadow.len()).for_each(|unit| worker.check(unit, 0, UNIT));
        }
        for counter in 0..COUNTERS {
            let sum: u64 = workers.iter().map(|worker| worker.added[counter]).sum();
            assert_eq!(counters.counter(counter * COUNTER_STRIDE).load(Ordering::Relaxed), sum, "counter {counter}");
        }
    });
    let took = started.elapsed();
    let peak_resident_bytes = watch.check_budget();
    [data, counters].iter().for_each(|far| grid.free(far.base()).expect("allocated"));
    Outcome { ops: plan.ops * THREADS, took, stats: grid.stats(), peak_resident_bytes }
}

/// Lesson 4: threads that want the same page at the same moment all see its contents, never zeros.
pub fn touch_together(grid: &Grid, seed: u64, pages: usize, rounds: usize) {
    let data = Far::zeroed(grid, pages * PAGE);
    let contents = |page: usize, word: usize| (page as u64) << 32 | word as u64 | 1 << 31;
    for page in 0..pages {
        [0, 255, 511].iter().for_each(|&word| data.set_word(page * PAGE + word * 8, contents(page, word)));
    }
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, mut dice) = (&barrier, Dice::new(seed));
            scope.spawn(move || {
                for round in 0..rounds {
                    if round % 64 == 0 {
                        barrier.wait();
                    }
                    let page = dice.below(pages);
                    let word = [0, 255, 511][(round + thread) % 3];
                    assert_eq!(data.word(page * PAGE + word * 8), contents(page, word), "page {page}");
                }
            });
        }
    });
    grid.free(data.base()).expect("allocated");
}
