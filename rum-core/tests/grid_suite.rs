//! The correctness suite: the same work under every engine that this machine allows, over vhost-user, the in-process port
//! and DPDK's af_packet.
//!
//! Each run is a process of its own, with a local budget of a tenth of its data, and compares all it reads with plain
//! memory. `RUM_TEST_SEED` repeats one.

mod grid_common;

use std::time::Duration;

use grid_common::{
    MIB, PAGE, Turn, allows,
    dice::seed,
    local_grid::{EthernetGrid, MEMORY_MTU, MemoryGrid, VhostGrid, join_as_told, machines_text, play_slave},
    namespaces::is_root,
    player::{Player, argument, number, role, say},
    shadow::{self, Plan},
    suite::{self, BUDGET_MIB, DATA},
};
use rum_core::fault::EngineKind;

const SLAVE_MEMORY: usize = 128 * MIB;
const LONGEST: Duration = Duration::from_secs(150);

// ---- the tests ----

fn arguments(engine: EngineKind, link: &str, machines: &str) -> Vec<(&'static str, String)> {
    vec![
        ("engine", engine.to_string()),
        ("link", link.to_owned()),
        ("machines", machines.to_owned()),
        ("budget_mib", BUDGET_MIB.to_string()),
        ("seed", seed().to_string()),
    ]
}

fn over_vhost(engine: EngineKind) {
    if allows(engine) {
        let _turn = Turn::wait();
        let grid = VhostGrid::start(2, SLAVE_MEMORY);
        let client = Player::start("suite", &arguments(engine, "vhost", &grid.machines()));
        client.succeed(LONGEST);
    }
}

fn in_process(engine: EngineKind) {
    if allows(engine) {
        let _turn = Turn::wait();
        Player::start("suite", &arguments(engine, "memory", "")).succeed(LONGEST);
    }
}

fn over_ethernet(engine: EngineKind) {
    over_veth(engine, || EthernetGrid::start(9000, SLAVE_MEMORY));
}

fn over_udp(engine: EngineKind, mtu: usize) {
    over_veth(engine, || EthernetGrid::with_udp(mtu, SLAVE_MEMORY));
}

fn over_veth(engine: EngineKind, start: impl FnOnce() -> EthernetGrid) {
    if is_root() && allows(engine) {
        let _turn = Turn::wait();
        let grid = start();
        let machines = machines_text(std::slice::from_ref(&grid.slave.machine));
        let arguments = arguments(engine, "ethernet", &machines);
        Player::start_in(&grid.namespaces.left, "suite", &arguments).succeed(LONGEST);
    }
}

#[test]
fn uffd_inline_over_vhost_user() {
    over_vhost(EngineKind::UffdInline);
}

#[test]
fn uffd_thread_over_vhost_user() {
    over_vhost(EngineKind::UffdThread);
}

#[test]
fn sigsegv_over_vhost_user() {
    over_vhost(EngineKind::Sigsegv);
}

#[test]
fn uffd_inline_over_udp() {
    over_udp(EngineKind::UffdInline, 9000);
}

#[test]
fn uffd_thread_over_udp_at_mtu_1500() {
    over_udp(EngineKind::UffdThread, 1500);
}

#[test]
fn uffd_inline_in_process() {
    in_process(EngineKind::UffdInline);
}

#[test]
fn uffd_thread_in_process() {
    in_process(EngineKind::UffdThread);
}

#[test]
fn sigsegv_in_process() {
    in_process(EngineKind::Sigsegv);
}

#[test]
fn uffd_inline_over_af_packet() {
    over_ethernet(EngineKind::UffdInline);
}

#[test]
fn uffd_thread_over_af_packet() {
    over_ethernet(EngineKind::UffdThread);
}

#[test]
fn sigsegv_over_af_packet() {
    over_ethernet(EngineKind::Sigsegv);
}

/// Lesson 8: lost, doubled, reordered and damaged packets are only slower. Lesson 9: a page takes three packets here, and
/// a packet that was damaged is noticed.
#[test]
fn a_bad_network_changes_nothing() {
    let _turn = Turn::wait();
    for engine in grid_common::engines() {
        Player::start("bad-network", &arguments(engine, "memory", "")).succeed(LONGEST);
    }
}

// ---- the parts ----

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("suite") => play_suite(),
        Some("bad-network") => play_bad_network(),
        Some(other) => panic!("no role {other:?}"),
    }
}

fn play_suite() {
    let seed = number("seed");
    let link = argument("link");
    let engine = argument("engine").parse().expect("an engine");
    match link.as_str() {
        "memory" => {
            let slaves = MemoryGrid::with(2, SLAVE_MEMORY, MEMORY_MTU);
            suite::run(&slaves.join(BUDGET_MIB * MIB, Some(engine), None), seed, &link, suite::WHOLE);
        }
        _ => suite::run(&join_as_told(), seed, &link, suite::WHOLE),
    }
}

fn play_bad_network() {
    let seed = number("seed");
    let engine = argument("engine").parse().expect("an engine");
    for text in ["loss=0.02", "dup=0.05,reorder=0.05", "corrupt=0.02,truncate=0.01", "loss=0.01,dup=0.01,delay=0.02"] {
        let faults = rum_net::port::inject::Faults { seed, ..text.parse().expect("faults") };
        let slaves = MemoryGrid::with(2, SLAVE_MEMORY, 1500);
        let grid = slaves.join(BUDGET_MIB * MIB, Some(engine), Some(faults));
        let outcome = shadow::run(&grid, Plan { seed, bytes: DATA / 2, ops: 15_000, far_one_in: 20 });
        shadow::touch_together(&grid, seed, 4 * MIB / PAGE, 500);
        say(&format!(
            "{engine} with {faults}: {} operations in {:.1?}, {} fetches",
            outcome.ops, outcome.took, outcome.stats.fetch_faults
        ));
    }
}
