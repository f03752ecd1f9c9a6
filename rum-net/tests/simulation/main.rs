//! The RPC protocol against a hostile network, in virtual time, from a seed: servers and clients that crash and come back
//! with packets of their former lives under way; packets lost, also in bursts, doubled, reordered, damaged, cut, delayed, held
//! up by a narrow link, and too long for the path; an attacker who repeats what was seen and forges what needs no key.
//! About half of the seeds have keys. Checked:
//! - a request is executed at most once by each incarnation of a server, with the bytes that were sent, and only by the
//!   incarnation that the session is with;
//! - it is answered exactly once, with the right bytes, or voided by a reset; no byte of an answer is delivered twice;
//! - once the network is well, every request is answered soon, and every session closes;
//! - servers keep no more sessions than allowed, none of a dead client though its packets are replayed, and no answer that has
//!   arrived;
//! - nobody gets a session who did not show a cookie and, where there are keys, a key; nobody in the clear ends a sealed session, or
//!   is sent what belongs to one, or more bytes than were received.
//!
//! `RUM_SIM_SEEDS=N` tries N seeds from `RUM_SIM_FROM` (0) on, `RUM_SIM_SEED=S` one seed, with
//! `RUM_SIM_TRACE=1` and `--nocapture` printing each packet that arrives.

mod asker;
mod attacker;
mod broken;
mod congestion;
mod host;
mod network;
mod packet;
mod payload;
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

const DEFAULT_SEEDS: u64 = 10_000;

/// What a run came to.
#[derive(Clone, Copy, Default, Debug)]
struct Outcome {
    answered: u64,
    voided: u64,
    packets: u64,
    crashes: u64,
    attacks: u64,
}

struct Failure {
    message: String,
}

fn text_of(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs one seed; what a check or an endpoint panics with is its failure.
fn try_seed(seed: u64, broken: Option<Broken>) -> Result<Outcome, Failure> {
    let mut world = World::new(seed, broken);
    let weather = world.net.weather;
    let run = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = run {
        let message =
            format!("{}\n  at {:?}, sealed: {}, {weather:?}", text_of(&*panic), world.now - world.start, world.sealed);
        return Err(Failure { message });
    }
    Ok(Outcome {
        answered: world.askers.iter().map(|asker| u64::from(asker.answered)).sum(),
        voided: world.askers.iter().map(|asker| u64::from(asker.voided)).sum(),
        packets: world.net.packets,
        crashes: world.crashes,
        attacks: world.attacker.done,
    })
}

#[test]
fn requests_survive_a_hostile_network() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let from = number("RUM_SIM_FROM").unwrap_or(0);
    let (from, count) = match number("RUM_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (from, number("RUM_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS)),
    };
    let next = AtomicU64::new(from);
    let (sum, failures) = (Mutex::new(Outcome::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Outcome::default();
                while failures.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        break;
                    }
                    match try_seed(seed, None) {
                        Ok(outcome) => {
                            own.answered += outcome.answered;
                            own.voided += outcome.voided;
                            own.packets += outcome.packets;
                            own.crashes += outcome.crashes;
                            own.attacks += outcome.attacks;
                        }
                        Err(failure) => failures.lock().unwrap().push((seed, failure)),
                    }
                }
                let mut sum = sum.lock().unwrap();
                sum.answered += own.answered;
                sum.voided += own.voided;
                sum.packets += own.packets;
                sum.crashes += own.crashes;
                sum.attacks += own.attacks;
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    if let Some((seed, failure)) = failures.first() {
        panic!("seed {seed} fails: {}\n  RUM_SIM_SEED={seed} repeats it", failure.message);
    }
    let sum = sum.into_inner().unwrap();
    let took = began.elapsed();
    println!("{count} seeds in {took:.1?}, {:.0} seeds/s: {sum:?}", count as f64 / took.as_secs_f64());
    assert!(sum.answered > sum.voided, "hardly anything was answered: the simulation is too rough to show anything");
}
