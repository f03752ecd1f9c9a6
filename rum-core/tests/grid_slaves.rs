//! Slaves that are killed, restarted, or hang: nothing is ever computed on zeros, and nothing is lost that need not be.

mod grid_common;

use std::time::{Duration, Instant};

use grid_common::{
    MIB, PAGE, Turn,
    dice::seed,
    far::Far,
    holder::{hold_data, hold_nothing},
    local_grid::{VhostGrid, client, join_as_told, play_slave},
    player::{Player, number, role, say},
    shadow::{self, Plan},
};
use nix::sys::signal::Signal;

const MEMORY: usize = 64 * MIB;
const LONGEST: Duration = Duration::from_secs(60);

fn holder(grid: &VhostGrid, engine: &str) -> Player {
    client("hold-data", &grid.machines(), 1, &[("engine", engine.to_owned())])
}

#[test]
fn a_restarted_slave_is_found_within_a_second() {
    let _turn = Turn::wait();
    let mut grid = VhostGrid::start(2, MEMORY);
    let mut times: Vec<Duration> = (0..3)
        .map(|_| {
            let mut client = client("hold-nothing", &grid.machines(), 1, &[]);
            client.hear("joined");
            grid.slaves.iter_mut().for_each(|slave| slave.kill());
            grid.slaves.iter_mut().for_each(|slave| slave.start());
            let ready = Instant::now();
            client.tell("allocate");
            client.hear("allocated");
            let found = ready.elapsed();
            client.succeed(LONGEST);
            found
        })
        .collect();
    times.sort();
    println!("found again after {times:.1?}");
    assert!(times[1] < Duration::from_secs(1), "{times:?}");
}

/// The client asks while the slave is not there: it waits, and is served when the slave is back.
#[test]
fn a_call_waits_for_a_slave_that_restarts() {
    let _turn = Turn::wait();
    let mut grid = VhostGrid::start(1, MEMORY);
    let mut client = client("hold-nothing", &grid.machines(), 1, &[]);
    client.hear("joined");
    grid.slaves[0].kill();
    client.tell("allocate");
    client.hear("asking");
    grid.slaves[0].start();
    client.hear("allocated");
    client.succeed(LONGEST);
}

#[test]
fn a_client_whose_data_is_gone_says_so_and_aborts() {
    let _turn = Turn::wait();
    for engine in grid_common::engines() {
        let mut grid = VhostGrid::start(2, MEMORY);
        let mut client = holder(&grid, &engine.to_string());
        client.hear("written");
        client.tell("read again and again");
        client.hear("reading");
        grid.slaves[1].kill();
        grid.slaves[1].start();
        client.aborted("far memory on slave 2 is lost: the slave restarted", LONGEST);
    }
}

/// The slave goes while the client has as many writes in flight as it may, and comes back only after the client has waited
/// for room: no thread may wait for it in a way that keeps the port from being opened anew.
#[test]
fn a_client_that_was_writing_when_its_slave_died_says_so_and_aborts() {
    let _turn = Turn::wait();
    for engine in grid_common::engines() {
        let mut grid = VhostGrid::start(1, MEMORY);
        let mut client = client("write-on", &grid.machines(), 1, &[("engine", engine.to_string())]);
        client.hear("writing");
        grid.slaves[0].player().signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(300));
        grid.slaves[0].kill();
        std::thread::sleep(Duration::from_millis(300));
        grid.slaves[0].start();
        client.aborted("far memory on slave 1 is lost: the slave restarted", LONGEST);
    }
}

/// Also a client that touches nothing at the time learns it, before it computes on anything.
#[test]
fn a_client_at_rest_learns_that_its_data_is_gone() {
    let _turn = Turn::wait();
    let mut grid = VhostGrid::start(1, MEMORY);
    let mut client = holder(&grid, "");
    client.hear("written");
    grid.slaves[0].kill();
    grid.slaves[0].start();
    client.aborted("far memory on slave 1 is lost: the slave restarted", LONGEST);
}

#[test]
fn a_slave_that_hangs_for_a_while_loses_nothing() {
    let _turn = Turn::wait();
    let grid = VhostGrid::with_lease(2, MEMORY, Duration::from_secs(10));
    let mut client = client("work", &grid.machines(), 1, &[("seed", seed().to_string())]);
    client.hear("working");
    let slave = grid.slaves[0].player();
    slave.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(2));
    slave.signal(Signal::SIGCONT);
    client.hear("worked");
    client.succeed(LONGEST);
}

/// A slave that hung for longer than the leases it gave finds its clients' packets waiting: they have not been silent.
#[test]
fn a_slave_that_hangs_for_longer_than_its_leases_keeps_its_clients() {
    let _turn = Turn::wait();
    let grid = VhostGrid::with_lease(1, MEMORY, Duration::from_secs(1));
    let mut client = holder(&grid, "");
    client.hear("written");
    let slave = grid.slaves[0].player();
    slave.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(3));
    slave.signal(Signal::SIGCONT);
    client.tell("read once");
    client.hear("all there");
    client.succeed(LONGEST);
}

/// A client that does nothing keeps its lease, however short that is.
#[test]
fn a_client_at_rest_keeps_its_lease() {
    let _turn = Turn::wait();
    let grid = VhostGrid::with_lease(1, MEMORY, Duration::from_millis(700));
    let mut client = holder(&grid, "");
    client.hear("written");
    std::thread::sleep(Duration::from_secs(3));
    client.tell("read once");
    client.hear("all there");
    client.succeed(LONGEST);
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("hold-nothing") => hold_nothing(&join_as_told()),
        Some("hold-data") => hold_data(&join_as_told()),
        Some("write-on") => play_write_on(),
        Some("work") => play_work(),
        Some(other) => panic!("no role {other:?}"),
    }
}

/// Writes to pages that were never written before: nothing is fetched, and evictions alone fill the session.
fn play_write_on() {
    let grid = join_as_told();
    let held = Far::zeroed(&grid, MIB);
    held.set_word(0, 1);
    for round in 1.. {
        let data = Far::zeroed(&grid, 40 * MIB);
        (0..data.len()).step_by(PAGE).for_each(|at| data.set_word(at, (at + round) as u64));
        grid.free(data.base()).expect("allocated");
        if round == 1 {
            say("writing");
        }
    }
}

fn play_work() {
    let grid = join_as_told();
    say("working");
    let started = Instant::now();
    let mut seed = number("seed");
    while started.elapsed() < Duration::from_secs(4) {
        shadow::run(&grid, Plan { seed, bytes: 10 * MIB, ops: 20_000, far_one_in: 10 });
        seed += 1;
    }
    say("worked");
}
