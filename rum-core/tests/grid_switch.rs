//! Many clients of one host behind a real software switch (Open vSwitch with DPDK), each by a port `vhost-listen:` of its own,
//! towards slaves in other network namespaces. Needs root and the switch; says so and passes without.

mod grid_common;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn,
    dice::seed,
    far::Far,
    local_grid::{config, machines_argument, play_slave},
    open_vswitch::{self, Switch},
    player::{Player, argument, number, role, say, told},
    wait_for,
};
use rum_core::grid::Grid;

const CLIENTS: usize = 5;
const SLAVES: usize = 2;
const FAR_BYTES: usize = 4 * MIB;
const BUDGET: usize = MIB;
/// The switch looks for its clients once a second, and may have to start first.
const LONGEST: Duration = Duration::from_secs(120);

/// A slave in each namespace, and the lines of machines.csv without their links.
fn start_slaves(switch: &Switch) -> (Vec<Player>, Vec<String>) {
    let start = |(number, namespace): (usize, &String)| {
        let arguments = [("link", "af_packet:rum0"), ("memory", "67108864"), ("lease_ms", "120000")];
        let mut slave = Player::start_in(namespace, "slave", &arguments.map(|(name, value)| (name, value.to_owned())));
        let mac = slave.hear("ready");
        (slave, format!("10.0.0.{},{mac}", number + 1))
    };
    switch.machines().iter().enumerate().map(start).unzip()
}

fn start_client(number: usize, socket: &Path, slaves: &[String]) -> Player {
    let line = |slave: &String| format!("{slave},vhost-listen:{}", socket.display());
    let machines = slaves.iter().map(line).collect::<Vec<_>>().join(";");
    Player::start("client", &[("machines", machines), ("mark", (number + 1).to_string())])
}

/// Each of them verifies and changes all of its memory.
fn round(what: &str, clients: &mut [Player]) {
    let start = Instant::now();
    clients.iter_mut().for_each(|client| client.tell("go"));
    clients.iter_mut().for_each(|client| drop(client.hear_within("verified", LONGEST)));
    println!("{what}: {} clients verified {} MiB each in {:.1?}", clients.len(), FAR_BYTES / MIB, start.elapsed());
}

#[test]
fn clients_share_a_switch_and_outlive_it() {
    if !open_vswitch::is_installed() {
        return;
    }
    let _turn = Turn::wait();
    let mut switch = Switch::start(SLAVES);
    let (_slaves, lines) = start_slaves(&switch);
    let sockets: Vec<PathBuf> = (0..CLIENTS).map(|number| switch.add_client(&format!("client{number}"))).collect();
    let mut clients: Vec<Player> =
        sockets.iter().enumerate().map(|(number, socket)| start_client(number, socket, &lines)).collect();
    for client in &mut clients {
        client.hear_within("joined", LONGEST);
    }
    round("all", &mut clients);
    round("again", &mut clients);

    // A page was fetched and another written for each of theirs, if not by a packet each.
    let pages = (FAR_BYTES / PAGE) as u64;
    wait_for("the switch to have counted", LONGEST, || {
        (0..CLIENTS).all(|number| switch.packets_from(&format!("client{number}")) > pages)
    });

    clients.remove(0).kill();
    round("one was killed", &mut clients);

    // They are at work when their switch ends.
    clients.iter_mut().for_each(|client| client.tell("go"));
    switch.kill();
    switch.run();
    clients.iter_mut().for_each(|client| drop(client.hear_within("verified", LONGEST)));
    round("the switch was restarted", &mut clients);

    // On the port of the killed one, whose socket file is still there.
    assert!(sockets[0].exists());
    clients.push(start_client(CLIENTS, &sockets[0], &lines));
    clients.last_mut().expect("just pushed").hear_within("joined", LONGEST);
    round("a new one in the place of the killed", &mut clients);
    for mut client in clients {
        client.tell("end");
        client.succeed(LONGEST);
    }
    assert!(sockets.iter().all(|socket| !socket.exists()), "sockets are left");
}

/// Not a test of its own: the entry of the processes that the test starts.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("client") => play_client(),
        Some(other) => panic!("no role {other:?}"),
    }
}

/// The switch may not have connected yet when the patience of a join ends.
fn join() -> Grid {
    let deadline = Instant::now() + LONGEST;
    loop {
        match Grid::join(config(machines_argument().0, BUDGET, None)) {
            Ok(grid) => return grid,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

fn play_client() {
    assert!(argument("machines").contains("vhost-listen:"));
    let grid = join();
    let far = Far::zeroed(&grid, FAR_BYTES);
    let seed = seed() ^ number("mark") << 48;
    let value = |round: u64, at: usize| if round == 0 { 0 } else { seed ^ (round << 32) ^ at as u64 };
    say("joined");
    for round in (0..).take_while(|_| told() == "go") {
        for at in (0..FAR_BYTES).step_by(64) {
            assert_eq!(far.word(at), value(round, at), "byte {at} in round {round}");
            far.set_word(at, value(round + 1, at));
        }
        let fetched = grid.stats().fetch_faults as usize;
        assert!(round == 0 || fetched > 0, "nothing came from a slave");
        say("verified");
    }
    grid.leave();
}
