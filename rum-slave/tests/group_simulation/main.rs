//! A group of slaves with everything that it keeps, and its clients, against whatever can happen to them, in virtual time, from a seed:
//! slaves that crash and begin anew without memory or with a damaged disk, a minority at a time, or with what their disk has, also all at once; that stop for a while; partitions; messages lost, late, out of
//! order; clocks that drift; transfers of state that break off; clients that die, are cut off, or sleep longer than their
//! leases; commands that lay somewhere and arrive again, anywhere. Checked:
//! - page reads and writes are linearizable: a client's own pages hold exactly what it wrote, and shared ones of named objects what could be;
//! - no extent has two owners, none is reclaimed while its client is heard, a fenced client is refused whatever it asks;
//! - a command is run once: clients own what they know to own, and nothing else;
//! - once everything is well, requests are answered, and all slaves have the same directory and pages;
//! - what is damaged in one slave's memory then is repaired from the others;
//! - when all clients are gone, so is what they had, but for named objects.
//!
//! `RUM_SIM_SEEDS=N` tries N seeds from `RUM_SIM_FROM` (0) on, `RUM_SIM_SEED=S` one seed, with
//! `RUM_SIM_TRACE=1` and `--nocapture` printing each event.

mod checker;
mod client;
mod disk;
mod end;
mod faults;
mod host;
mod losses;
#[path = "../support/registers.rs"]
mod registers;
mod weather;
mod world;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use world::World;

const DEFAULT_SEEDS: u64 = 1000;

/// What runs came to.
#[derive(Clone, Copy, Default, Debug)]
struct Outcome {
    writes: u64,
    reads: u64,
    messages: u64,
    pieces: u64,
    crashes: u64,
    expired: u64,
    power_losses: u64,
    damaged: u64,
    repaired: u64,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.writes += other.writes;
        self.reads += other.reads;
        self.messages += other.messages;
        self.pieces += other.pieces;
        self.crashes += other.crashes;
        self.expired += other.expired;
        self.power_losses += other.power_losses;
        self.damaged += other.damaged;
        self.repaired += other.repaired;
    }
}

fn text_of(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs one seed; what a check panics with is its failure.
fn try_seed(seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(seed);
    let weather = world.weather;
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.run())) {
        return Err(format!("{}\n  at {:?}, {weather:?}, {:?}", text_of(&*panic), world.now, world.settings));
    }
    Ok(Outcome {
        writes: world.checker.writes,
        reads: world.checker.reads,
        messages: world.messages,
        pieces: world.pieces,
        crashes: world.crashes,
        expired: world.expired,
        power_losses: world.power_losses,
        damaged: world.damaged,
        repaired: world.repaired,
    })
}

/// Tries seeds on all cores until one fails.
fn try_seeds(from: u64, count: u64) -> (Outcome, Option<(u64, String)>) {
    let next = AtomicU64::new(from);
    let (sum, failures) = (Mutex::new(Outcome::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Outcome::default();
                while failures.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        break;
                    }
                    match try_seed(seed) {
                        Ok(outcome) => own.add(outcome),
                        Err(failure) => failures.lock().unwrap().push((seed, failure)),
                    }
                }
                sum.lock().unwrap().add(own);
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort_by_key(|(seed, _)| *seed);
    (sum.into_inner().unwrap(), failures.into_iter().next())
}

#[test]
fn a_group_keeps_what_it_acknowledged_whatever_happens() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let from = number("RUM_SIM_FROM").unwrap_or(0);
    let (from, count) = match number("RUM_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (from, number("RUM_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS)),
    };
    let began = Instant::now();
    let (sum, failure) = try_seeds(from, count);
    if let Some((seed, failure)) = failure {
        panic!("seed {seed} fails: {failure}\n  RUM_SIM_SEED={seed} repeats it");
    }
    let took = began.elapsed();
    println!("{count} seeds in {took:.1?}, {:.0} seeds/s: {sum:?}", count as f64 / took.as_secs_f64());
    let is_much = sum.writes > 50 * count && sum.pieces > count && sum.expired > 0 && sum.repaired > count;
    assert!(count == 1 || is_much, "the simulation is too rough to show anything: {sum:?}");
}
