//! Many clients of one grid: each has its own memory, the grid's is given out strictly, and what a dead or silent client
//! had goes to others without harm to them.

mod grid_common;

use std::{
    alloc::Layout,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn,
    dice::{Dice, seed},
    far::Far,
    local_grid::{VhostGrid, client, join_as_told, play_slave},
    player::{number, role, say, told},
    shadow::{self, Plan},
    wait_for,
};
use nix::sys::signal::Signal;
use rum_core::grid::{AllocError, Grid};

const LONGEST: Duration = Duration::from_secs(120);

fn mebibyte(grid: &Grid) -> Result<Far, AllocError> {
    let layout = Layout::from_size_align(MIB, PAGE).expect("a layout");
    grid.alloc(layout).map(|base| Far::of(base, MIB))
}

fn fill(far: &Far, mark: u64) {
    (0..far.len()).step_by(64).for_each(|at| far.set_word(at, mark ^ at as u64));
}

fn check(far: &Far, mark: u64) {
    (0..far.len()).step_by(64).for_each(|at| assert_eq!(far.word(at), mark ^ at as u64, "byte {at} of {mark:#x}"));
}

/// Allocates and fills all the memory of a grid.
fn take_all(grid: &Grid, seed: u64) -> Vec<(Far, u64)> {
    let mut dice = Dice::new(seed);
    let mut taken = vec![];
    while let Ok(far) = mebibyte(grid) {
        taken.push((far, dice.next()));
    }
    // Only now, when nothing is left: no fault finds the grid full.
    taken.iter().for_each(|(far, mark)| fill(far, *mark));
    taken
}

/// Lesson 14: clients of one host are told apart.
#[test]
fn eight_clients_at_once_each_have_their_own_data() {
    let _turn = Turn::wait();
    let grid = VhostGrid::start(3, 64 * MIB);
    let seed = seed();
    let clients: Vec<_> = (0..8)
        .map(|n| client("work", &grid.machines(), 1, &[("seed", (seed + n).to_string()), ("mark", n.to_string())]))
        .collect();
    clients.into_iter().for_each(|client| drop(client.succeed(LONGEST)));
}

#[test]
fn a_full_grid_refuses_and_serves_again_after_a_free() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(3, 8 * MIB);
    let grid = slaves.join(2 * MIB);
    let mut taken = take_all(&grid, seed());
    assert_eq!(taken.len(), 24, "all of the grid's extents, and no more");
    assert_eq!(grid.stats().reserved_bytes, 24 * MIB as u64);
    assert!(matches!(mebibyte(&grid), Err(AllocError::OutOfMemory(_))));
    assert!(matches!(grid.alloc(Layout::new::<u64>()), Err(AllocError::OutOfMemory(_))), "nothing is left over");
    // Not even another client gets anything.
    let other = slaves.join(MIB);
    assert!(matches!(mebibyte(&other), Err(AllocError::OutOfMemory(_))));
    let (freed, _) = taken.remove(11);
    grid.free(freed.base()).expect("allocated");
    let again = mebibyte(&grid).expect("what was freed");
    fill(&again, 7);
    assert!(matches!(mebibyte(&grid), Err(AllocError::OutOfMemory(_))));
    taken.push((again, 7));
    for (far, mark) in taken {
        check(&far, mark);
        grid.free(far.base()).expect("allocated");
    }
    grid.leave();
    // Lesson 8: what was freed is the slaves' again, which the other client can have at once.
    assert_eq!(take_all(&other, 3).len(), 24);
}

#[test]
fn more_than_the_grid_has_is_refused_and_leaves_it_as_it_was() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(3, 8 * MIB);
    let grid = slaves.join(2 * MIB);
    for size in [25 * MIB, 1 << 40, isize::MAX as usize - 15] {
        let refused = grid.alloc(Layout::from_size_align(size, 16).expect("a layout"));
        assert!(matches!(refused, Err(AllocError::OutOfMemory(_))), "{size}: {refused:?}");
    }
    let all = grid.alloc(Layout::from_size_align(24 * MIB, 16).expect("a layout")).expect("all of it, side by side");
    let all = Far::of(all, 24 * MIB);
    fill(&all, 1);
    check(&all, 1);
}

#[test]
fn a_killed_clients_memory_is_free_after_its_lease() {
    let _turn = Turn::wait();
    let lease = Duration::from_secs(1);
    let slaves = VhostGrid::with_lease(2, 8 * MIB, lease);
    let mut dying = client("take-all", &slaves.machines(), 1, &[]);
    assert_eq!(dying.hear("took"), "16");
    let grid = slaves.join(MIB);
    assert!(mebibyte(&grid).is_err());
    let killed = Instant::now();
    dying.kill();
    let mut first = None;
    wait_for("the dead client's memory", lease * 10, || {
        first = mebibyte(&grid).ok();
        first.is_some()
    });
    println!("free again {:.1?} after the kill, the lease is {lease:?}", killed.elapsed());
    let first = first.expect("waited for");
    let mut dice = Dice::new(1);
    let mut rest = vec![];
    wait_for("all of it", lease * 10, || {
        rest.extend(mebibyte(&grid));
        rest.len() == 15
    });
    for far in rest.iter().chain([&first]) {
        (0..MIB).step_by(PAGE).for_each(|at| assert_eq!(far.word(at + 8), 0, "another client's data"));
        fill(far, dice.next());
    }
}

/// Lesson 15: a client comes back after its memory was given to another. It learns that, and the other never notices.
#[test]
fn a_client_stopped_for_longer_than_its_lease_is_fenced() {
    let _turn = Turn::wait();
    for engine in grid_common::engines() {
        let lease = Duration::from_secs(1);
        let slaves = VhostGrid::with_lease(2, 8 * MIB, lease);
        let mut stopped = client("take-all", &slaves.machines(), 1, &[("engine", engine.to_string())]);
        assert_eq!(stopped.hear("took"), "16");
        stopped.tell("write on");
        stopped.hear("writing");
        stopped.signal(Signal::SIGSTOP);
        let grid = slaves.join(MIB);
        let mut taken = vec![];
        wait_for("the stopped client's memory", lease * 10, || {
            taken.extend(mebibyte(&grid));
            taken.len() == 16
        });
        taken.iter().enumerate().for_each(|(mark, far)| fill(far, mark as u64));
        stopped.signal(Signal::SIGCONT);
        stopped.aborted("this client was silent longer than its lease", LONGEST);
        taken.iter().enumerate().for_each(|(mark, far)| check(far, mark as u64));
    }
}

/// A client that was stopped for longer than its lease, and had nothing, has lost nothing: it goes on.
#[test]
fn a_client_without_memory_outlives_its_lease() {
    let _turn = Turn::wait();
    let lease = Duration::from_secs(1);
    let slaves = VhostGrid::with_lease(2, 8 * MIB, lease);
    let mut stopped = client("come-back", &slaves.machines(), 1, &[]);
    stopped.hear("joined");
    stopped.signal(Signal::SIGSTOP);
    let grid = slaves.join(MIB);
    wait_for("the end of the stopped client's lease", lease * 10, || {
        grid.slaves().iter().all(|slave| slave.is_some_and(|slave| slave.sessions == 1))
    });
    stopped.signal(Signal::SIGCONT);
    stopped.tell("allocate");
    drop(stopped.succeed(LONGEST));
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("work") => play_work(),
        Some("take-all") => play_take_all(),
        Some("come-back") => play_come_back(),
        Some(other) => panic!("no role {other:?}"),
    }
}

fn play_work() {
    let grid = join_as_told();
    let mark = number("mark") << 32;
    let own = Far::zeroed(&grid, 3 * MIB);
    fill(&own, mark);
    let outcome = shadow::run(&grid, Plan { seed: number("seed"), bytes: 8 * MIB, ops: 20_000, far_one_in: 40 });
    check(&own, mark);
    say(&format!("{} operations in {:.1?}, {} fetches", outcome.ops, outcome.took, outcome.stats.fetch_faults));
}

fn play_come_back() {
    let grid = join_as_told();
    say("joined");
    told();
    // A request that was on its way when the session ended is not repeated.
    let mut allocated = None;
    wait_for("memory on every slave", LONGEST, || {
        allocated = (0..4).map(|_| mebibyte(&grid).ok()).collect::<Option<Vec<_>>>();
        allocated.is_some()
    });
    for (mark, far) in allocated.unwrap_or_default().iter().enumerate() {
        fill(far, mark as u64);
        check(far, mark as u64);
    }
}

fn play_take_all() {
    let grid = join_as_told();
    let taken = take_all(&grid, 5);
    say(&format!("took {}", taken.len()));
    told();
    say("writing");
    for round in 0.. {
        taken.iter().for_each(|(far, mark)| fill(far, mark ^ round));
    }
}
