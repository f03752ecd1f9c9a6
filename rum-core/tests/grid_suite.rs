//! The correctness suite: the same work under every engine that this machine allows, over vhost-user, the in-process port
//! and DPDK's af_packet.
//!
//! Each run is a process of its own, with a local budget of a tenth of its data, and compares all it reads with plain
//! memory. `RUM_TEST_SEED` repeats one.

mod grid_common;

use std::{
    alloc::Layout,
    collections::HashMap,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn, allows,
    dice::{Dice, seed},
    far::Far,
    local_grid::{EthernetGrid, MEMORY_MTU, MemoryGrid, VhostGrid, join_as_told, machines_text, play_slave},
    namespaces::is_root,
    player::{Player, argument, number, role, say},
    resident::Region,
    shadow::{self, Plan, Watch},
};
use rum_core::{collections::FarAllocator, fault::EngineKind, grid::Grid};

/// The data of a run, of which a tenth may be resident.
const DATA: usize = 20 * MIB;
const BUDGET_MIB: usize = 2;
/// Operations of each thread.
const OPS: usize = 2_000_000;
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
            suite(&slaves.join(BUDGET_MIB * MIB, Some(engine), None), seed, &link);
        }
        _ => suite(&join_as_told(), seed, &link),
    }
}

fn suite(grid: &Grid, seed: u64, link: &str) {
    assert_eq!(grid.engine().to_string(), argument("engine"), "the engine asked for, and no other");
    let started = Instant::now();
    let outcome = shadow::run(grid, Plan { seed, bytes: DATA, ops: OPS, far_one_in: 120 });
    let stats = outcome.stats;
    say(&format!(
        "{} over {link}: {} operations in {:.1?}, {} fetches (p50 {:.1} us), {} written, {} clean, resident {} KiB",
        grid.engine(),
        outcome.ops,
        outcome.took,
        stats.fetch_faults,
        stats.fault_p50_ns as f64 / 1e3,
        stats.pages_written,
        stats.pages_clean,
        outcome.peak_resident_bytes >> 10,
    ));
    assert!(
        outcome.ops >= OPS * shadow::THREADS && stats.pages_evicted > 1_000 && stats.pages_written > 1_000,
        "{stats:?}"
    );
    let mut dice = Dice::new(seed);
    let anywhere = Far::zeroed(grid, PAGE);
    let watch = Watch::new(grid, Region::of(grid, anywhere.base()));
    watch.during(|| {
        shadow::touch_together(grid, seed, 8 * MIB / PAGE, 6_000);
        zero_pages(grid);
        partial_writes(grid);
        rewritten_after_eviction(grid);
        free_and_reuse(grid, &mut dice);
        growing_vectors(grid);
        hash_map_of_strings(grid, &mut dice);
    });
    watch.check_budget();
    say(&format!("{} over {link}: all in {:.1?}", grid.engine(), started.elapsed()));
}

/// Pages of zeros are not stored: neither those only read, nor those filled with zeros, nor those that become zeros.
fn zero_pages(grid: &Grid) {
    let before = grid.stats();
    let data = Far::zeroed(grid, 16 * MIB);
    for page in 0..data.len() / PAGE {
        if page % 2 == 0 {
            data.fill(page * PAGE, PAGE, 0);
        } else {
            assert_eq!(data.byte(page * PAGE + page % PAGE), 0);
        }
    }
    evict_all(grid);
    let after = grid.stats();
    assert_eq!(after.pages_written, before.pages_written, "zeros were sent");
    assert!(after.pages_evicted - before.pages_evicted > 2_000, "{after:?}");
    (0..data.len()).step_by(PAGE).for_each(|at| data.set_word(at + 8, at as u64 + 1));
    evict_all(grid);
    (0..data.len()).step_by(PAGE).for_each(|at| {
        assert_eq!(data.word(at + 8), at as u64 + 1);
        data.set_word(at + 8, 0);
    });
    evict_all(grid);
    (0..data.len()).step_by(512).for_each(|at| assert_eq!(data.word(at), 0));
    grid.free(data.base()).expect("allocated");
}

/// Touches other pages until nothing else can be resident.
fn evict_all(grid: &Grid) {
    let budget = grid.stats().budget_bytes as usize;
    let other = Far::zeroed(grid, 2 * budget);
    (0..other.len()).step_by(PAGE).for_each(|at| other.set_byte(at, 0));
    grid.free(other.base()).expect("allocated");
}

/// Lesson 2: writing a part of a page keeps the rest.
fn partial_writes(grid: &Grid) {
    let data = Far::zeroed(grid, 4 * MIB);
    let pages = data.len() / PAGE;
    (0..pages).for_each(|page| data.fill(page * PAGE, PAGE, page as u8 | 1));
    evict_all(grid);
    // The first touch of each page is a write now.
    (0..pages).for_each(|page| data.set_byte(page * PAGE + page % PAGE, 0xaa));
    evict_all(grid);
    let mut bytes = [0; PAGE];
    for page in 0..pages {
        data.read(page * PAGE, &mut bytes);
        let mut expected = [page as u8 | 1; PAGE];
        expected[page % PAGE] = 0xaa;
        assert!(bytes == expected, "page {page}");
    }
    grid.free(data.base()).expect("allocated");
}

/// Lessons 1 and 3: what is written after the page was read, or after it was stored once already, is stored, too.
fn rewritten_after_eviction(grid: &Grid) {
    let data = Far::zeroed(grid, 3 * MIB);
    for round in 1..=4u64 {
        for at in (0..data.len()).step_by(PAGE) {
            assert_eq!(data.word(at + 80), if round == 1 { 0 } else { at as u64 + round - 1 });
            data.set_word(at + 80, at as u64 + round);
        }
        evict_all(grid);
    }
    (0..data.len()).step_by(PAGE).for_each(|at| assert_eq!(data.word(at + 80), at as u64 + 4));
    grid.free(data.base()).expect("allocated");
}

/// Allocations of all sizes come and go; each keeps its bytes while it lives, and zeroed ones start as zeros.
fn free_and_reuse(grid: &Grid, dice: &mut Dice) {
    let mut live: Vec<(Far, u8)> = vec![];
    let mut bytes = 0;
    for round in 0..6_000 {
        let is_full = bytes > 12 * MIB;
        if live.is_empty() || (!is_full && dice.below(5) < 3) {
            let scale = 3 + dice.below(15);
            let len = 1 + dice.below(1 << scale);
            let mark = 1 + (round % 255) as u8;
            let layout = Layout::from_size_align(len, 1 << dice.below(8)).expect("a layout");
            let far = if dice.below(4) == 0 {
                let far = Far::of(grid.alloc_zeroed(layout).expect("far memory"), len);
                assert!([0, len / 2, len - 1].iter().all(|&at| far.byte(at) == 0), "{len} bytes are not zero");
                far
            } else {
                Far::of(grid.alloc(layout).expect("far memory"), len)
            };
            far.fill(0, len, mark);
            live.push((far, mark));
            bytes += len;
        } else {
            let (far, mark) = live.swap_remove(dice.below(live.len()));
            release(grid, far, mark);
            bytes -= far.len();
        }
    }
    live.into_iter().for_each(|(far, mark)| release(grid, far, mark));
}

fn release(grid: &Grid, far: Far, mark: u8) {
    let mut bytes = vec![0; far.len()];
    far.read(0, &mut bytes);
    assert!(bytes.iter().all(|&byte| byte == mark), "{} bytes of {mark} were changed", far.len());
    grid.free(far.base()).expect("allocated");
}

/// Many vectors that grow in turns, as in a parser.
fn growing_vectors(grid: &Grid) {
    let mut vectors: Vec<_> = (0..64).map(|_| allocator_api2::vec::Vec::new_in(FarAllocator::new(grid))).collect();
    for i in 0..640_000u64 {
        vectors[(i * 7 % 64) as usize].push(i);
    }
    for (index, vector) in vectors.iter().enumerate() {
        assert_eq!(vector.len(), 10_000);
        let step = (1..64).find(|step| step * 7 % 64 == index as u64).unwrap_or(0);
        assert!(vector.iter().enumerate().all(|(n, &i)| i == step + n as u64 * 64), "vector {index}");
    }
}

/// A map from words to their counts, its keys in far memory, too, compared with one in plain memory.
fn hash_map_of_strings(grid: &Grid, dice: &mut Dice) {
    type FarText<'g> = allocator_api2::vec::Vec<u8, FarAllocator<'g>>;
    let mut table: Vec<Vec<(FarText<'_>, u64)>> = (0..4_096).map(|_| vec![]).collect();
    let mut plain: HashMap<Vec<u8>, u64> = HashMap::new();
    for _ in 0..60_000 {
        let number = dice.below(30_000);
        let word = format!("{number:0width$}", width = 5 + number % 60).into_bytes();
        *plain.entry(word.clone()).or_default() += 1;
        let bucket = &mut table[number % 4_096];
        match bucket.iter_mut().find(|(key, _)| key.as_slice() == word) {
            Some((_, count)) => *count += 1,
            None => {
                let mut key = FarText::new_in(FarAllocator::new(grid));
                key.extend_from_slice(&word);
                bucket.push((key, 1));
            }
        }
        // Some words are forgotten again.
        if dice.below(10) == 0
            && let Some((key, _)) = table[dice.below(4_096)].pop()
        {
            plain.remove(key.as_slice());
        }
    }
    let found: HashMap<Vec<u8>, u64> = table.iter().flatten().map(|(key, count)| (key.to_vec(), *count)).collect();
    assert_eq!(found.len(), plain.len());
    assert!(found == plain);
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
