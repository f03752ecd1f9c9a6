//! A group of replicas against everything that can happen to it, in virtual time, from a seed: processes that crash and come back,
//! with their disk, with a torn tail of what was not synced, or with nothing; that stop for a while; partitions in two, of one
//! member, one way, at random, flapping; messages lost, doubled, late; clocks that drift as far as allowed; slow disks; members that
//! are added, promoted, removed and added again; leaderships handed over. Checked:
//! - one value a slot; only what was proposed, and nothing twice; applied in order;
//! - page reads and writes are linearizable, whoever may read being asked all the time;
//! - once everything is well, all members have all pages as written, and requests are answered.
//!
//! `RUM_SIM_SEEDS=N` tries N seeds from `RUM_SIM_FROM` (0) on, `RUM_SIM_SEED=S` one seed, with
//! `RUM_SIM_TRACE=1` and `--nocapture` printing each event and effect.

mod broken;
mod checker;
mod disk;
mod failover;
mod host;
mod machine;
mod network;
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

use broken::Broken;
use world::World;

const DEFAULT_SEEDS: u64 = 5_000;

/// What a run came to.
#[derive(Clone, Copy, Default, Debug)]
struct Outcome {
    writes: u64,
    reads: u64,
    messages: u64,
    crashes: u64,
    amnesias: u64,
    leaders: u64,
    installs: u64,
    changes: u64,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.writes += other.writes;
        self.reads += other.reads;
        self.messages += other.messages;
        self.crashes += other.crashes;
        self.amnesias += other.amnesias;
        self.leaders += other.leaders;
        self.installs += other.installs;
        self.changes += other.changes;
    }
}

struct Failure {
    message: String,
}

fn text_of(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs one seed; what a check or a replica panics with is its failure.
fn try_seed(make: fn(u64, Option<Broken>) -> World, seed: u64, broken: Option<Broken>) -> Result<Outcome, Failure> {
    let mut world = make(seed, broken);
    let weather = world.net.weather;
    let run = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = run {
        let message = format!("{}\n  at {:?}, {weather:?}, {:?}", text_of(&*panic), world.now, world.settings);
        return Err(Failure { message });
    }
    Ok(Outcome {
        writes: world.checker.writes,
        reads: world.checker.reads,
        messages: world.net.messages,
        crashes: world.crashes,
        amnesias: world.amnesias,
        leaders: world.leaders,
        installs: world.installs,
        changes: world.changes,
    })
}

/// Tries seeds on all cores until one fails.
fn try_seeds(
    make: fn(u64, Option<Broken>) -> World,
    from: u64,
    count: u64,
    broken: Option<Broken>,
) -> (Outcome, Option<(u64, Failure)>) {
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
                    match try_seed(make, seed, broken) {
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

fn assert_right(make: fn(u64, Option<Broken>) -> World, count: u64) -> Outcome {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let from = number("RUM_SIM_FROM").unwrap_or(0);
    let (from, count) = match number("RUM_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (from, number("RUM_SIM_SEEDS").unwrap_or(count)),
    };
    let began = Instant::now();
    let (sum, failure) = try_seeds(make, from, count, None);
    if let Some((seed, failure)) = failure {
        panic!("seed {seed} fails: {}\n  RUM_SIM_SEED={seed} repeats it", failure.message);
    }
    let took = began.elapsed();
    println!("{count} seeds in {took:.1?}, {:.0} seeds/s: {sum:?}", count as f64 / took.as_secs_f64());
    sum
}

#[test]
fn a_group_survives_whatever_happens() {
    let sum = assert_right(World::new, DEFAULT_SEEDS);
    assert!(sum.writes > 30 * sum.crashes, "hardly anything was written: the simulation is too rough to show anything");
}

#[test]
fn a_group_survives_members_that_forget() {
    let sum = assert_right(World::forgetful, DEFAULT_SEEDS / 10);
    assert!(sum.amnesias > 0 && sum.writes > 10 * sum.amnesias, "{sum:?}");
}
