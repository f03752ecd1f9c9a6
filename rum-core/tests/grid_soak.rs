//! Everything together, and everything that can happen to slaves: three of them on hosts of their own keep each page, sealed, over raw
//! Ethernet, while one after the other is killed, stopped, or cut off in one direction or in both. Programs work meanwhile, and notice
//! nothing: each byte is right, nothing fails, and what several of them see of one object is linearizable.
//!
//! `RUM_SOAK_SECONDS=600` goes on for ten minutes, `RUM_TEST_SEED=n` repeats a run's faults. Needs root; says so and passes without.

mod grid_common;

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn,
    dice::{Dice, seed},
    far::Far,
    hosts::{HostGrid, RAW, Wire},
    local_grid::join_as_told,
    namespaces::is_root,
    player::{Player, argument, number, role, say, told},
    shadow::{self, Plan},
    sharer, wait_for,
};
use nix::sys::signal::Signal;

const SLAVES: usize = 3;
const SLAVE_MEMORY: usize = 192 * MIB;
const WORKERS: usize = 2;
const SHARERS: usize = 3;
/// A host from which the grid is looked at.
const OBSERVER: usize = WORKERS + SHARERS;
const USUAL_SECONDS: u64 = 50;
/// So long a program may need to end, on a machine that has other things to do.
const LONGEST: Duration = Duration::from_secs(150);
/// A member that lags no more than this has what it needs: entries go on coming.
const NEAR: u64 = 200;

/// What may happen to a slave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Killed,
    Stopped,
    /// Its cable is out.
    CutOff,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
}

const FAULTS: [Fault; 5] = [Fault::Killed, Fault::Stopped, Fault::CutOff, Fault::Deaf, Fault::Mute];

fn strike(grid: &mut HostGrid, slave: usize, fault: Fault) {
    match fault {
        Fault::Killed => grid.kill_slave(slave),
        Fault::Stopped => grid.slave(slave).signal(Signal::SIGSTOP),
        Fault::CutOff => grid.hosts.set_cable(slave, "down"),
        Fault::Deaf => grid.hosts.set_deaf(slave, true),
        Fault::Mute => grid.hosts.set_mute(slave, true),
    }
}

fn mend(grid: &mut HostGrid, slave: usize, fault: Fault) {
    match fault {
        Fault::Killed => {
            grid.start_slave(slave);
            grid.slave(slave).recover();
        }
        Fault::Stopped => grid.slave(slave).signal(Signal::SIGCONT),
        Fault::CutOff => grid.hosts.set_cable(slave, "up"),
        Fault::Deaf => grid.hosts.set_deaf(slave, false),
        Fault::Mute => grid.hosts.set_mute(slave, false),
    }
}

/// Whether each group has a leader, and all its members nearly everything: then another may go.
fn is_whole(grid: &HostGrid) -> bool {
    let slaves = grid.status(OBSERVER);
    let parts: Vec<_> = slaves.iter().flatten().flat_map(|slave| &slave.parts).collect();
    let led = |group: usize| {
        let leader = parts.iter().find(|part| usize::from(part.group) == group && part.standing == "leader");
        leader.is_some_and(|part| part.lags.iter().all(|&(_, lag)| lag <= NEAR))
    };
    slaves.iter().all(Option::is_some) && parts.iter().all(|part| part.standing != "blank") && (0..SLAVES).all(led)
}

#[test]
fn programs_notice_nothing_of_all_that_happens_to_slaves() {
    if !is_root() {
        return;
    }
    let _turn = Turn::wait();
    let seconds = std::env::var("RUM_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_SECONDS);
    let seed = seed();
    let mut dice = Dice::new(seed);
    let wire = Wire::new(RAW, 9000).sealed();
    let mut grid = HostGrid::replicated(wire, (SLAVES, SLAVES), OBSERVER + 1, SLAVE_MEMORY);
    let folder = tempfile::tempdir().expect("a folder");
    let history = |number: usize| folder.path().join(format!("history-{number}"));
    let mut clients: Vec<Player> = (0..WORKERS + SHARERS)
        .map(|number| {
            let role = if number < WORKERS { "work" } else { "share" };
            let file = history(number).display().to_string();
            let more = [("seed", (seed + number as u64).to_string()), ("number", number.to_string()), ("file", file)];
            grid.client(number, role, 1, &more)
        })
        .collect();
    clients[..WORKERS].iter_mut().for_each(|client| drop(client.hear("working")));
    clients[WORKERS..].iter_mut().for_each(|client| drop(client.hear("sharing")));
    let (start, mut counts) = (Instant::now(), [0; FAULTS.len()]);
    while start.elapsed() < Duration::from_secs(seconds) || counts.contains(&0) {
        // The first times each of them once.
        let rounds = counts.iter().sum::<usize>();
        let kind = if rounds < FAULTS.len() { rounds } else { dice.below(FAULTS.len()) };
        let (slave, fault) = (dice.below(SLAVES), FAULTS[kind]);
        let lasts = Duration::from_millis(100 + dice.below(2_400) as u64);
        println!("{:.1?}: slave {slave} is {fault:?} for {lasts:.1?}", start.elapsed());
        strike(&mut grid, slave, fault);
        sleep(lasts);
        mend(&mut grid, slave, fault);
        wait_for("the grid is whole again", LONGEST, || is_whole(&grid));
        counts[kind] += 1;
    }
    println!("{counts:?} times {FAULTS:?} in {:.1?}, seed {seed}", start.elapsed());
    clients.iter_mut().for_each(|client| client.tell("end"));
    for (number, mut client) in clients.into_iter().enumerate() {
        let said = client.hear_within(if number < WORKERS { "worked" } else { "shared" }, LONGEST);
        println!("client {number}: {said}");
        client.succeed(LONGEST);
    }
    let files: Vec<_> = (WORKERS..WORKERS + SHARERS).map(history).collect();
    assert!(sharer::check(&files) > 100, "that is no work");
}

// ---- the parts ----

/// Not a test of its own: the entry of the processes that the test starts.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("work") => play_work(),
        Some("share") => {
            let (grid, mut is_over) = (join_as_told(), end_as_told());
            sharer::share(&grid, number("seed"), number("number") + 1, Path::new(&argument("file")), &mut is_over);
        }
        Some(other) => panic!("no role {other:?}"),
    }
}

/// Says whether this process has been told to end.
fn end_as_told() -> impl FnMut() -> bool {
    let (orders, order) = std::sync::mpsc::channel();
    std::thread::spawn(move || orders.send(told()));
    move || order.try_recv().is_ok()
}

/// Works until it is told to end. What it has written at the beginning is looked at after each round.
fn play_work() {
    let (grid, mut is_over) = (join_as_told(), end_as_told());
    let kept = Far::zeroed(&grid, 2 * MIB);
    let value = |at: usize| number("seed") ^ at as u64;
    (0..kept.len()).step_by(PAGE).for_each(|at| kept.set_word(at, value(at)));
    say("working");
    let mut rounds = 0;
    while !is_over() {
        let seed = number("seed") + rounds;
        shadow::run(&grid, Plan { seed, bytes: 4 * MIB, ops: 2_000, far_one_in: 10 });
        (0..kept.len()).step_by(PAGE).for_each(|at| assert_eq!(kept.word(at), value(at), "in round {rounds}"));
        rounds += 1;
    }
    let longest = Duration::from_nanos(grid.stats().fault_longest_ns);
    say(&format!("worked {rounds} rounds, longest stall {longest:.1?}"));
}
