//! Grids whose pages are replicated: slaves die, hang and come back, clients die and sleep, and nothing is lost that a client was
//! told is stored.

mod grid_common;

use std::{
    alloc::Layout,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn,
    dice::{Dice, seed},
    far::Far,
    holder::{hold_data, hold_nothing},
    local_grid::{LONG_LEASE, VhostGrid, client, config, join_as_told, play_slave},
    player::{number, role, say},
    shadow::{self, Plan},
    wait_for,
};
use nix::sys::signal::Signal;
use rum_core::{
    config::Config,
    grid::{Grid, ObjectHash},
};

const MEMORY: usize = 96 * MIB;
const LONGEST: Duration = Duration::from_secs(120);

/// Extents given out, as the leaders know it.
fn reserved(grid: &Grid) -> u64 {
    grid.slaves().iter().flatten().map(|stat| stat.reserved_extents).sum()
}

#[test]
fn a_program_does_not_notice_that_its_slaves_are_killed_one_after_the_other() {
    let _turn = Turn::wait();
    let seed = seed();
    let mut dice = Dice::new(seed);
    let mut grid = VhostGrid::replicated((3, 3), MEMORY, LONG_LEASE);
    let mut client = client("work", &grid.machines(), 1, &[("seed", seed.to_string()), ("seconds", "9".to_owned())]);
    client.hear("working");
    let end = Instant::now() + Duration::from_secs(7);
    let mut killed = 0;
    while Instant::now() < end {
        let victim = dice.below(3);
        grid.slaves[victim].kill();
        std::thread::sleep(Duration::from_millis(dice.below(400) as u64));
        grid.slaves[victim].start();
        // Another may only go when this one has what the grid has.
        grid.slaves[victim].recover();
        killed += 1;
    }
    println!("{killed} slaves killed, seed {seed}");
    assert!(killed > 0);
    let longest = client.hear("worked");
    println!("longest stall {longest}");
    client.succeed(LONGEST);
}

#[test]
fn who_is_told_another_replication_factor_than_the_slaves_says_what_to_do() {
    let _turn = Turn::wait();
    let join = |machines, replication_factor| {
        let config = Config { replication_factor, ..config(machines, MIB, None) };
        Grid::join(config).expect_err("no grid").to_string()
    };
    let grid = VhostGrid::replicated((3, 3), MEMORY, LONG_LEASE);
    let said = join(grid.machine_list(), 1);
    assert!(said.contains("replicates its pages") && said.contains("# rf=N"), "{said}");
    let grid = VhostGrid::start(3, MEMORY);
    let said = join(grid.machine_list(), 3);
    assert!(said.contains("says rf=3: start it with --machines"), "{said}");
}

#[test]
fn slaves_that_hang_are_done_without() {
    let _turn = Turn::wait();
    let seed = seed();
    let grid = VhostGrid::replicated((3, 3), MEMORY, LONG_LEASE);
    let mut client = client("work", &grid.machines(), 1, &[("seed", seed.to_string()), ("seconds", "8".to_owned())]);
    client.hear("working");
    for slave in &grid.slaves {
        slave.player().signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(1500));
        slave.player().signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(700));
    }
    client.hear("worked");
    client.succeed(LONGEST);
}

#[test]
fn a_client_joins_and_works_while_a_slave_is_dead() {
    let _turn = Turn::wait();
    for dead in 0..3 {
        let mut grid = VhostGrid::replicated((3, 3), MEMORY, LONG_LEASE);
        drop(grid.join(MIB));
        grid.slaves[dead].kill();
        let grid = grid.join(MIB);
        shadow::run(&grid, Plan { seed: seed(), bytes: 8 * MIB, ops: 5_000, far_one_in: 10 });
    }
}

/// A slave that is gone for good fills no session with requests that nobody answers.
#[test]
fn a_slave_that_stays_dead_is_done_without() {
    let _turn = Turn::wait();
    for dead in 0..3 {
        let mut grid = VhostGrid::replicated((3, 3), MEMORY, LONG_LEASE);
        let arguments = [("seed", seed().to_string()), ("seconds", "2".to_owned())];
        let mut client = client("work", &grid.machines(), 1, &arguments);
        client.hear("working");
        std::thread::sleep(Duration::from_millis(500));
        grid.slaves[dead].kill();
        client.hear("worked");
        client.succeed(LONGEST);
    }
}

#[test]
fn five_slaves_do_without_two() {
    let _turn = Turn::wait();
    let mut slaves = VhostGrid::replicated((5, 5), MEMORY, LONG_LEASE);
    let grid = slaves.join(MIB);
    shadow::run(&grid, Plan { seed: seed(), bytes: 8 * MIB, ops: 10_000, far_one_in: 10 });
    slaves.slaves[0].kill();
    slaves.slaves[3].kill();
    shadow::run(&grid, Plan { seed: seed() + 1, bytes: 8 * MIB, ops: 10_000, far_one_in: 10 });
}

/// Lesson 15, with replication: what a dead client had is free after its lease, and named objects stay.
#[test]
fn what_dead_clients_had_is_free_again_and_named_objects_are_not() {
    let _turn = Turn::wait();
    let lease = Duration::from_secs(1);
    let slaves = VhostGrid::replicated((3, 3), MEMORY, lease);
    let grid = slaves.join(MIB);
    let hash = ObjectHash([7; 32]);
    let named = grid.alloc_named(&hash, 3 * MIB, None).expect("room");
    let object = Far::of(named.pointer, 3 * MIB);
    (0..object.len()).step_by(PAGE).for_each(|at| object.set_word(at, at as u64));
    grid.flush();
    let before = reserved(&grid);
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut client = client("hold-data", &slaves.machines(), 1, &[]);
            client.hear("written");
            client
        })
        .collect();
    assert!(reserved(&grid) >= before + 6 * 8);
    clients.into_iter().for_each(|client| client.kill());
    let dead = Instant::now();
    wait_for("all extents of the dead are free", LONGEST, || reserved(&grid) == before);
    println!("free after {:.1?}", dead.elapsed());
    let again = grid.get_named(&hash, None).expect("it stays");
    let object = Far::of(again.pointer, 3 * MIB);
    (0..object.len()).step_by(PAGE).for_each(|at| assert_eq!(object.word(at), at as u64));
}

#[test]
fn a_client_that_slept_past_its_lease_says_so_and_aborts() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::replicated((3, 3), MEMORY, Duration::from_secs(1));
    let grid = slaves.join(MIB);
    let before = reserved(&grid);
    let mut client = client("hold-data", &slaves.machines(), 1, &[]);
    client.hear("written");
    client.signal(Signal::SIGSTOP);
    wait_for("its lease has run out", LONGEST, || reserved(&grid) == before);
    // Others use what it had.
    let layout = Layout::from_size_align(32 * MIB, PAGE).expect("a layout");
    let other = Far::of(grid.alloc(layout).expect("room"), 32 * MIB);
    (0..other.len()).step_by(PAGE).for_each(|at| other.set_word(at, at as u64));
    client.signal(Signal::SIGCONT);
    client.tell("read again and again");
    client.aborted("silent longer than its lease", LONGEST);
    (0..other.len()).step_by(PAGE).for_each(|at| assert_eq!(other.word(at), at as u64));
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("hold-nothing") => hold_nothing(&join_as_told()),
        Some("hold-data") => hold_data(&join_as_told()),
        Some("work") => play_work(),
        Some(other) => panic!("no role {other:?}"),
    }
}

fn play_work() {
    let grid = join_as_told();
    say("working");
    let started = Instant::now();
    let mut seed = number("seed");
    while started.elapsed() < Duration::from_secs(number("seconds")) {
        shadow::run(&grid, Plan { seed, bytes: 10 * MIB, ops: 20_000, far_one_in: 10 });
        seed += 1;
    }
    say(&format!("worked, longest stall {:.1?}", Duration::from_nanos(grid.stats().fault_longest_ns)));
}
