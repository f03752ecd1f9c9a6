//! Pages that are damaged in a slave's memory: no client sees them, and they are repaired from the slaves that have them right.

mod grid_common;

use std::{alloc::Layout, time::Duration};

use grid_common::{DEADLINE, MIB, PAGE, Turn, far::Far, player::role, thread_grid::ThreadGrid, wait_for};
use rum_core::grid::Grid;
use rum_slave::group::scrub::ScrubOptions;

const MEMORY: usize = 64 * MIB;
const BYTES: usize = 16 * MIB;

/// Pages that begin with words that no others begin with.
fn fill(grid: &Grid) -> Far {
    let far = Far::of(grid.alloc(Layout::from_size_align(BYTES, PAGE).expect("a layout")).expect("room"), BYTES);
    (0..BYTES).step_by(PAGE).for_each(|at| far.set_word(at, word(at)));
    // All but the budget is on the slaves: the first pages are.
    (BYTES / 2..BYTES).step_by(PAGE).for_each(|at| assert_eq!(far.word(at), word(at)));
    far
}

fn word(at: usize) -> u64 {
    0xFA_0000_0000 + at as u64
}

/// The words of every 16th page of the first half, from one on: of several groups.
fn words(first: usize) -> Vec<u64> {
    (first..BYTES / 2 / PAGE).step_by(16).map(|page| word(page * PAGE)).collect()
}

/// What is there, and nothing of what `damage` leaves.
fn check(far: &Far) {
    for at in (0..BYTES).step_by(PAGE) {
        assert_eq!((far.word(at), far.byte(at + PAGE - 1)), (word(at), 0), "at {at:#x}");
    }
}

#[test]
fn pages_that_some_replicas_have_wrong_come_from_others_and_are_repaired() {
    let _turn = Turn::wait();
    let slaves = ThreadGrid::start(MEMORY);
    let grid = slaves.join(MIB);
    let far = fill(&grid);
    // On each slave others: of some of these pages it leads the group, of others it follows.
    let wrong = [0, 5, 10].map(words);
    let damaged: usize = (0..3).map(|slave| slaves.damage(slave, &wrong[slave])).sum();
    assert_eq!(damaged, 3 * BYTES / 2 / PAGE / 16);
    check(&far);
    let stats = grid.stats();
    assert!(stats.pages_repaired > 0 && stats.pages_wrong >= stats.pages_repaired, "{stats:?}");
    // Where a leader had wrong contents, all slaves have the right ones now; others' were not looked at.
    let left: usize = (0..3).map(|slave| slaves.damaged(slave, &wrong[slave])).sum();
    assert_eq!(left + stats.pages_repaired as usize, damaged);
    check(&far);
}

#[test]
fn one_replica_that_has_a_page_right_is_enough() {
    let _turn = Turn::wait();
    let slaves = ThreadGrid::start(MEMORY);
    let grid = slaves.join(MIB);
    let far = fill(&grid);
    // Whoever leads has two of these three wrong, each with another slave.
    let pairs = [(0, 1, words(0)), (1, 2, words(5)), (2, 0, words(10))];
    let damage = |a, b, words: &[u64]| slaves.damage(a, words) + slaves.damage(b, words);
    let damaged: usize = pairs.iter().map(|(a, b, words)| damage(*a, *b, words)).sum();
    check(&far);
    let repaired = grid.stats().pages_repaired as usize;
    assert!(repaired > 0);
    let left = |a, b, words: &[u64]| slaves.damaged(a, words) + slaves.damaged(b, words);
    let left: usize = pairs.iter().map(|(a, b, words)| left(*a, *b, words)).sum();
    assert_eq!(left + 2 * repaired, damaged);
}

#[test]
fn what_nobody_reads_is_found_by_comparing_replicas() {
    let _turn = Turn::wait();
    let fast = ScrubOptions { bytes_per_second: 256 << 20, round: Duration::from_millis(50) };
    let slaves = ThreadGrid::with(MEMORY, fast);
    let grid = slaves.join(MIB);
    let far = fill(&grid);
    let wrong = [0, 5, 10].map(words);
    let damaged: usize = (0..3).map(|slave| slaves.damage(slave, &wrong[slave])).sum();
    let left = || (0..3).map(|slave| slaves.damaged(slave, &wrong[slave])).sum::<usize>();
    wait_for("all slaves have all pages right", DEADLINE, || left() == 0);
    let totals = || (0..3).map(|slave| slaves.on(slave, |slave| slave.totals()));
    assert_eq!(totals().map(|totals| totals.pages_repaired).sum::<u64>(), damaged as u64);
    assert!(totals().any(|totals| totals.pages_compared > 0));
    check(&far);
    assert_eq!(grid.stats().pages_wrong, 0);
}

/// Not a test of its own: the entry of the process that the test starts.
#[test]
fn play() {
    if role().as_deref() == Some("all-wrong") {
        let slaves = ThreadGrid::start(MEMORY);
        let grid = slaves.join(MIB);
        let far = fill(&grid);
        (0..3).for_each(|slave| assert_eq!(slaves.damage(slave, &[word(7 * PAGE)]), 1));
        grid_common::player::say("damaged");
        println!("{}", far.word(7 * PAGE));
        grid_common::player::say("a wrong page was shown");
    }
}

#[test]
fn a_page_that_is_wrong_everywhere_ends_the_program() {
    let _turn = Turn::wait();
    let mut player = grid_common::player::Player::start("all-wrong", &[]);
    player.hear("damaged");
    player.aborted("4 times with wrong contents", grid_common::DEADLINE);
}
