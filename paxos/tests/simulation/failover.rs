//! How long nobody can write when a process ends in a calm network, with the default times and clocks that drift.

use std::time::Duration;

use paxos::Settings;

use crate::{
    weather::{Rng, Weather},
    world::World,
};

const MS: Duration = Duration::from_millis(1);
const SEEDS: u64 = 100;

/// The longest time without an answered write, of all seeds, from when something is done to a group at work.
fn longest_stall(voters: usize, act: impl Fn(&mut World)) -> Duration {
    let stalls = (0..SEEDS).map(|seed| {
        let mut world = World::of(Rng(seed), Weather::calm(), Settings::default(), voters, None);
        // Not always the same time after a sign of life.
        world.pass(400 * MS + Duration::from_micros(seed * 97));
        world.checker.longest_stall = Duration::ZERO;
        act(&mut world);
        world.pass(1100 * MS);
        assert!(world.checker.last_write_at > 1090 * MS, "seed {seed}: nobody writes any more: {}", world.describe());
        world.checker.longest_stall
    });
    stalls.max().expect("there are seeds")
}

/// Clients try again elsewhere after 10 ms.
#[test]
fn a_leader_that_is_killed_is_replaced_in_time() {
    for voters in [3, 5] {
        let stall = longest_stall(voters, |world| world.kill(true));
        println!("{voters} voters: {stall:.0?} at most without a leader");
        assert!(stall < 450 * MS, "{stall:?}");
    }
}

#[test]
fn a_follower_that_is_killed_is_not_missed() {
    let stall = longest_stall(3, |world| world.kill(false));
    println!("{stall:.1?} at most without a follower");
    assert!(stall < 50 * MS, "{stall:?}");
}

#[test]
fn a_leadership_is_handed_over_at_once() {
    let stall = longest_stall(3, World::give_up);
    println!("{stall:.1?} at most while it is handed over");
    assert!(stall < 50 * MS, "{stall:?}");
}
