//! Grids of several hosts: network namespaces joined by a bridge, DPDK's af_packet on every side, slaves as real
//! `rum-slave` processes. Raw and UDP framing, short and jumbo packets, a clean network and a bad one, with and without keys;
//! cables that are pulled, and slaves that restart. Needs root; says so and passes without.

mod grid_common;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn, allows,
    dice::seed,
    far::Far,
    holder::{hold_data, hold_nothing},
    hosts::{HostGrid, RAW, UDP, Wire},
    local_grid::join_as_told,
    namespaces::is_root,
    player::{Player, argument, number, role, say, told},
    shadow::{self, Plan},
    suite::{self, BUDGET_MIB},
};
use rum_core::fault::EngineKind;

/// A change to the network, and what it is called.
type NamedChange<'a> = (&'a str, &'a dyn Fn(&str));

const SLAVES: usize = 2;
const SLAVE_MEMORY: usize = 128 * MIB;
const LONGEST: Duration = Duration::from_secs(150);
/// So long a cable is out.
const OUTAGE: Duration = Duration::from_secs(3);

// ---- the suite over every kind of packet ----

/// Each direction of each way between two hosts loses, doubles and reorders packets.
fn bad() -> Option<String> {
    Some(format!("out.loss=0.01,out.dup=0.01,out.reorder=0.02,seed={}", seed()))
}

fn suite_over(engine: EngineKind, wire: Wire) {
    if !is_root() || !allows(engine) {
        return;
    }
    let _turn = Turn::wait();
    let effort = if wire.faults.is_some() { "slow" } else { "fast" };
    let name = format!("{} at MTU {}, sealed: {}, {effort}", wire.link, wire.mtu, wire.is_sealed);
    let longest_packet = wire.mtu - if wire.link == UDP { 28 } else { 0 };
    let grid = HostGrid::start(wire.clone(), SLAVES, 1, SLAVE_MEMORY);
    let more = [
        ("engine", engine.to_string()),
        ("wire", name),
        ("seed", seed().to_string()),
        ("mtu", longest_packet.to_string()),
        ("sealed", wire.is_sealed.to_string()),
    ];
    grid.client(0, "suite", BUDGET_MIB, &more).succeed(LONGEST);
}

#[test]
fn raw_in_short_packets() {
    suite_over(EngineKind::UffdInline, Wire::new(RAW, 1500));
}

#[test]
fn raw_in_jumbo_packets() {
    suite_over(EngineKind::UffdThread, Wire::new(RAW, 9000));
}

#[test]
fn udp_in_short_packets() {
    suite_over(EngineKind::Sigsegv, Wire::new(UDP, 1500));
}

#[test]
fn udp_in_jumbo_packets() {
    suite_over(EngineKind::UffdInline, Wire::new(UDP, 9000));
}

#[test]
fn raw_in_short_packets_over_a_bad_network() {
    suite_over(EngineKind::UffdThread, Wire { faults: bad(), ..Wire::new(RAW, 1500) });
}

#[test]
fn raw_in_jumbo_packets_over_a_bad_network() {
    suite_over(EngineKind::Sigsegv, Wire { faults: bad(), ..Wire::new(RAW, 9000) });
}

#[test]
fn udp_in_short_packets_over_a_bad_network() {
    suite_over(EngineKind::UffdInline, Wire { faults: bad(), ..Wire::new(UDP, 1500) });
}

#[test]
fn udp_in_jumbo_packets_over_a_bad_network() {
    suite_over(EngineKind::UffdThread, Wire { faults: bad(), ..Wire::new(UDP, 9000) });
}

#[test]
fn sealed_raw_in_jumbo_packets() {
    suite_over(EngineKind::UffdInline, Wire::new(RAW, 9000).sealed());
}

#[test]
fn sealed_raw_in_short_packets_over_a_bad_network() {
    suite_over(EngineKind::UffdInline, Wire { faults: bad(), ..Wire::new(RAW, 1500).sealed() });
}

#[test]
fn sealed_udp_in_short_packets_over_a_bad_network() {
    suite_over(EngineKind::UffdThread, Wire { faults: bad(), ..Wire::new(UDP, 1500).sealed() });
}

/// Both hosts and their switches take 9,000 bytes, and the cable between the switches 1,500.
#[test]
fn a_path_that_is_narrower_than_its_ends_is_found() {
    if !is_root() {
        return;
    }
    let _turn = Turn::wait();
    for (link, mtu, is_sealed) in [(RAW, 1500, false), (UDP, 1472, true)] {
        let wire = Wire { mtu: 9000, path_mtu: 1500, link, is_sealed, faults: None };
        let grid = HostGrid::start(wire, SLAVES, 1, SLAVE_MEMORY);
        let mut client = grid.client(0, "hold-data", 1, &[]);
        assert_eq!(client.hear("mtus"), format!("{:?}", vec![mtu; SLAVES]), "over {link}");
        client.hear("written");
        client.tell("read once");
        client.hear("all there");
        client.succeed(LONGEST);
    }
}

// ---- cables ----

/// Clients go on, and find what they have written, after their own cable, their slave's, and their slave's interface
/// were out for three seconds.
fn cables_are_pulled(wire: Wire) {
    if !is_root() {
        return;
    }
    let _turn = Turn::wait();
    let grid = HostGrid::start(wire, SLAVES, 2, SLAVE_MEMORY);
    let start = |client| grid.client(client, "work", 1, &[("seed", seed().to_string())]);
    let mut clients: Vec<Player> = (0..2).map(start).collect();
    clients.iter_mut().for_each(|client| drop(client.hear("working")));
    let rounds = |clients: &mut Vec<Player>| {
        let start = Instant::now();
        for client in clients {
            client.tell("say when a round of work is done");
            client.hear_within("round", LONGEST);
        }
        start.elapsed()
    };
    println!("a round of all takes {:.1?}", rounds(&mut clients));
    let change: [NamedChange; 4] = [
        ("a client's cable", &|state| grid.hosts.set_cable(grid.client_host(0), state)),
        ("a slave's cable", &|state| grid.hosts.set_cable(0, state)),
        ("a client's interface", &|state| grid.hosts.set_interface(grid.client_host(1), state)),
        ("a slave's interface", &|state| grid.hosts.set_interface(1, state)),
    ];
    for (what, set) in change {
        set("down");
        sleep(OUTAGE);
        set("up");
        println!("{what} was out: a round took {:.1?}", rounds(&mut clients));
    }
    for mut client in clients {
        client.tell("end");
        client.hear_within("worked", LONGEST);
        client.succeed(LONGEST);
    }
}

#[test]
fn a_link_that_is_down_for_three_seconds_loses_nothing() {
    cables_are_pulled(Wire::new(RAW, 9000));
}

#[test]
fn a_link_that_is_down_for_three_seconds_loses_nothing_of_sealed_sessions() {
    cables_are_pulled(Wire::new(UDP, 1500).sealed());
}

// ---- slaves that restart ----

#[test]
fn a_slave_that_restarts_with_its_keys_is_found_again() {
    if !is_root() {
        return;
    }
    let _turn = Turn::wait();
    for link in [RAW, UDP] {
        let mut grid = HostGrid::start(Wire::new(link, 1500).sealed(), SLAVES, 1, SLAVE_MEMORY);
        let mut times: Vec<Duration> = (0..3)
            .map(|_| {
                let mut client = grid.client(0, "hold-nothing", 1, &[]);
                client.hear("joined");
                (0..SLAVES).for_each(|slave| grid.kill_slave(slave));
                (0..SLAVES).for_each(|slave| grid.start_slave(slave));
                let ready = Instant::now();
                client.tell("allocate");
                client.hear("allocated");
                let found = ready.elapsed();
                client.succeed(LONGEST);
                found
            })
            .collect();
        times.sort();
        println!("over {link} found again after {times:.1?}");
        assert!(times[1] < Duration::from_secs(1), "{times:?}");
    }
}

#[test]
fn a_client_whose_sealed_data_is_gone_says_so_and_aborts() {
    if !is_root() {
        return;
    }
    let _turn = Turn::wait();
    let mut grid = HostGrid::start(Wire::new(RAW, 1500).sealed(), SLAVES, 1, SLAVE_MEMORY);
    for message in ["read again and again", "rest"] {
        let mut client = grid.client(0, "hold-data", 1, &[]);
        client.hear("written");
        if message != "rest" {
            client.tell(message);
            client.hear("reading");
        }
        grid.kill_slave(1);
        grid.start_slave(1);
        client.aborted("far memory on slave 2 is lost: the slave restarted", LONGEST);
    }
}

// ---- the parts ----

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("suite") => play_suite(),
        Some("hold-nothing") => hold_nothing(&join_as_told()),
        Some("hold-data") => play_hold_data(),
        Some("work") => play_work(),
        Some(other) => panic!("no role {other:?}"),
    }
}

fn play_suite() {
    let grid = join_as_told();
    for session in grid.sessions() {
        assert_eq!(session.is_sealed.to_string(), argument("sealed"));
        assert_eq!(session.mtu_bytes as u64, number("mtu"), "what both hosts and the switch take");
    }
    suite::run(&grid, number("seed"), &argument("wire"), suite::SHORT);
}

fn play_hold_data() {
    let grid = join_as_told();
    let mtus: Vec<_> = grid.sessions().iter().map(|session| session.mtu_bytes).collect();
    say(&format!("mtus {mtus:?}"));
    hold_data(&grid);
}

/// Works until it is told to end. What it has written at the beginning is looked at after each round.
fn play_work() {
    let grid = join_as_told();
    let kept = Far::zeroed(&grid, 2 * MIB);
    let value = |at: usize| number("seed") ^ at as u64;
    (0..kept.len()).step_by(PAGE).for_each(|at| kept.set_word(at, value(at)));
    let (orders, order) = std::sync::mpsc::channel();
    std::thread::spawn(move || while orders.send(told()).is_ok() {});
    say("working");
    for round in 0.. {
        let seed = number("seed") + round;
        shadow::run(&grid, Plan { seed, bytes: 4 * MIB, ops: 1_000, far_one_in: 10 });
        (0..kept.len()).step_by(PAGE).for_each(|at| assert_eq!(kept.word(at), value(at), "in round {round}"));
        match order.try_recv().as_deref() {
            Ok("end") => break,
            // It may have been said while a round was going on: the next one begins afterwards.
            Ok(_) => {
                shadow::run(&grid, Plan { seed, bytes: 4 * MIB, ops: 1_000, far_one_in: 10 });
                say("round done");
            }
            Err(_) => {}
        }
    }
    say("worked");
}
