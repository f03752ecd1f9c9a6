//! Patterns of real programs, and what they cost: fragmentation, density, metadata.

mod alloc_support;

use std::collections::{BTreeSet, VecDeque};

use alloc_support::TestGrid;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rum_core::alloc::{Allocator, AllocatorStats, Block};
use rum_net::{EXTENT_BYTES, PAGE_BYTES};

const MIB: usize = 1 << 20;

fn seeded() -> SmallRng {
    let seed = rand::random();
    println!("seed {seed}");
    SmallRng::seed_from_u64(seed)
}

fn ratio(a: usize, b: usize) -> f64 {
    a as f64 / b as f64
}

fn reserved_to_allocated(stats: &AllocatorStats) -> f64 {
    ratio(stats.reserved_bytes, stats.allocated_bytes)
}

/// As C's realloc over this allocator.
fn realloc(allocator: &Allocator, block: Block, size: usize) -> Block {
    if allocator.resize_in_place(block.offset, size) {
        return Block { usable: allocator.usable_size(block.offset).unwrap(), ..block };
    }
    let new = allocator.allocate(size, 16).unwrap();
    allocator.free(block.offset).unwrap();
    new
}

/// Replaces random objects until each was replaced some times; returns the worst ratio seen.
fn churn(allocator: &Allocator, live_bytes: usize, rounds: usize, mut size: impl FnMut() -> usize) -> f64 {
    let mut random = seeded();
    let mut live: Vec<(usize, usize)> = Vec::new();
    let mut bytes = 0;
    let mut worst = 0.0_f64;
    let mut replaced = 0;
    while replaced < rounds * live_bytes {
        let wanted = size();
        while bytes + wanted > live_bytes {
            let (offset, old) = live.swap_remove(random.random_range(0..live.len()));
            allocator.free(offset).unwrap();
            bytes -= old;
        }
        live.push((allocator.allocate(wanted, 16).unwrap().offset, wanted));
        (bytes, replaced) = (bytes + wanted, replaced + wanted);
        if replaced > live_bytes && live.len().is_multiple_of(997) {
            worst = worst.max(reserved_to_allocated(&allocator.stats()));
        }
    }
    worst = worst.max(reserved_to_allocated(&allocator.stats()));
    live.iter().for_each(|(offset, _)| assert!(allocator.free(*offset).is_ok()));
    worst
}

#[test]
fn fragmentation_after_random_churn_is_bounded() {
    type Size = fn(&mut SmallRng) -> usize;
    let mixes: [(&str, Size); 4] = [
        ("small, 16 B to 1 KiB", |random| random.random_range(16..1024)),
        ("each doubling alike, 16 B to 32 KiB", |random| {
            let exponent = random.random_range(4..15);
            random.random_range(1 << exponent..2 << exponent)
        }),
        ("mostly small, bytes mostly large", |random| match random.random_range(0..100) {
            0..80 => random.random_range(16..256),
            80..98 => random.random_range(256..8192),
            _ => random.random_range(8192..500_000),
        }),
        ("large, 30 KiB to 1 MiB", |random| random.random_range(30_000..1_000_000)),
    ];
    for (name, mix) in mixes {
        let (grid, allocator) = TestGrid::new(1024).allocator();
        let mut random = seeded();
        let worst = churn(&allocator, 64 * MIB, 3, || mix(&mut random));
        println!("reserved / allocated, {name}: {worst:.3}");
        assert!(worst <= 1.25, "{name}: {worst}");
        allocator.trim();
        assert_eq!(grid.reserved(), 0);
    }
}

/// A program that frees most of what it had, at random, keeps pages for what is left; new objects go there first.
#[test]
fn new_objects_fill_the_holes_of_old_ones() {
    let (_grid, allocator) = TestGrid::new(1024).allocator();
    let mut random = seeded();
    let mut live: Vec<_> = (0..400_000).map(|_| allocator.allocate(100, 16).unwrap().offset).collect();
    let full = allocator.stats().used_page_bytes;
    for index in (0..live.len()).rev().filter(|_| random.random_bool(0.6)).collect::<Vec<_>>() {
        allocator.free(live.swap_remove(index)).unwrap();
    }
    let holes = 400_000 - live.len();
    live.extend((0..holes).map(|_| allocator.allocate(100, 16).unwrap().offset));
    assert!(allocator.stats().used_page_bytes <= full + 32 * PAGE_BYTES);
}

/// Of several slabs with room the fullest is filled first, so that the others can become empty.
#[test]
fn the_fullest_slab_is_filled_first() {
    let (_grid, allocator) = TestGrid::new(16).allocator();
    const SLOTS: usize = 4 * PAGE_BYTES / 64;
    let slabs: Vec<Vec<usize>> =
        (0..4).map(|_| (0..SLOTS).map(|_| allocator.allocate(64, 16).unwrap().offset).collect()).collect();
    for (slab, free) in slabs.iter().zip([SLOTS * 3 / 4, SLOTS / 8, SLOTS / 2, 0]) {
        slab[..free].iter().for_each(|offset| assert!(allocator.free(*offset).is_ok()));
    }
    for (slab, count) in [(&slabs[1], SLOTS / 8), (&slabs[2], SLOTS / 2), (&slabs[0], SLOTS * 3 / 4)] {
        for _ in 0..count {
            let offset = allocator.allocate(64, 16).unwrap().offset;
            assert!(slab.contains(&offset), "{offset:#x} lies in a slab that is less full");
        }
    }
}

/// The pages that objects lie on are dense: a set of objects made together lies on few pages.
#[test]
fn objects_of_one_age_lie_together() {
    let (_grid, allocator) = TestGrid::new(1024).allocator();
    for size in [16, 24, 48, 100, 200, 1000] {
        // Others come and go meanwhile.
        let pages: BTreeSet<_> = (0..10_000)
            .map(|n| {
                let other = allocator.allocate(n % 700, 16).unwrap();
                let offset = allocator.allocate(size, 16).unwrap().offset;
                allocator.free(other.offset).unwrap();
                offset / PAGE_BYTES
            })
            .collect();
        let least = (10_000 * size).div_ceil(PAGE_BYTES);
        assert!(pages.len() * 100 <= least * 140, "{size} bytes: {} pages for {least}", pages.len());
    }
}

#[test]
fn growing_vectors() {
    let (grid, allocator) = TestGrid::new(4096).allocator();
    let mut vectors: Vec<_> = (0..8).map(|_| allocator.allocate(64, 16).unwrap()).collect();
    let mut in_place = 0;
    for doubling in 7..24 {
        for vector in &mut vectors {
            let grown = realloc(&allocator, *vector, 1 << doubling);
            in_place += usize::from(grown.offset == vector.offset);
            *vector = grown;
        }
    }
    println!("{in_place} of {} in place", 17 * 8);
    let stats = allocator.stats();
    assert_eq!(stats.allocated_bytes, 8 << 23);
    assert!(reserved_to_allocated(&stats) <= 1.25, "{stats:?}");
    vectors.iter().for_each(|vector| assert!(allocator.free(vector.offset).is_ok()));
    allocator.trim();
    assert_eq!(grid.reserved(), 0);
}

/// A hash table with separate nodes that doubles: a new bucket array beside the old one, and nodes all the while.
#[test]
fn a_hash_table_that_resizes() {
    let (_grid, allocator) = TestGrid::new(4096).allocator();
    let mut random = seeded();
    let mut buckets = allocator.allocate(8 * 16, 16).unwrap();
    let (mut capacity, mut bytes) = (16, 0);
    for nodes in 0..500_000 {
        let size = 24 + random.random_range(0..60);
        allocator.allocate(size, 16).unwrap();
        bytes += size;
        if nodes == capacity {
            capacity *= 2;
            let new = allocator.allocate(8 * capacity, 16).unwrap();
            allocator.free(buckets.offset).unwrap();
            buckets = new;
        }
    }
    let stats = allocator.stats();
    println!("hash table: reserved / allocated {:.3}", reserved_to_allocated(&stats));
    assert_eq!(stats.allocations, 500_001);
    assert!(stats.allocated_bytes.abs_diff(bytes + 8 * capacity) <= stats.allocated_bytes / 1000);
    assert!(reserved_to_allocated(&stats) <= 1.25, "{stats:?}");
}

/// Strings that are built up, copied, and dropped in the order they came, as a parser or an interpreter does.
#[test]
fn string_churn() {
    let (grid, allocator) = TestGrid::new(1024).allocator();
    let mut random = seeded();
    let mut queue = VecDeque::new();
    let mut live_bytes = 0;
    for _ in 0..400_000 {
        let mut text = allocator.allocate(16, 1).unwrap();
        let length = 1 << random.random_range(3..10);
        for capacity in (5..).map(|shift| 1 << shift).take_while(|capacity| *capacity <= length) {
            text = realloc(&allocator, text, capacity);
        }
        queue.push_back(text);
        live_bytes += text.usable;
        while live_bytes > 32 * MIB {
            let old: Block = queue.pop_front().unwrap();
            live_bytes -= old.usable;
            allocator.free(old.offset).unwrap();
        }
    }
    let stats = allocator.stats();
    println!("strings: reserved / allocated {:.3}", reserved_to_allocated(&stats));
    assert!(reserved_to_allocated(&stats) <= 1.25, "{stats:?}");
    queue.iter().for_each(|text| assert!(allocator.free(text.offset).is_ok()));
    allocator.trim();
    assert_eq!(grid.reserved(), 0);
}

/// What is freed goes back to the grid without being asked, but for a little.
#[test]
fn empty_extents_go_back_while_the_program_runs() {
    let (grid, allocator) = TestGrid::new(1024).allocator();
    let kept = allocator.allocate(100, 16).unwrap();
    for size in [64, 3000, 50_000, 5_000_000] {
        let blocks: Vec<_> = (0..100 * MIB / size).map(|_| allocator.allocate(size, 16).unwrap()).collect();
        assert!(grid.reserved() >= 95);
        blocks.iter().for_each(|block| assert!(allocator.free(block.offset).is_ok()));
        assert!(grid.reserved() <= 6, "{} extents kept after objects of {size} bytes", grid.reserved());
    }
    assert_eq!(allocator.usable_size(kept.offset), Some(kept.usable));
}

/// A program whose use goes up and down a little does not reserve and release all the time.
#[test]
fn a_breathing_program_keeps_its_extents() {
    let (grid, allocator) = TestGrid::new(1024).allocator();
    let _kept: Vec<_> = (0..40).map(|_| allocator.allocate(MIB, 16).unwrap()).collect();
    for _ in 0..1000 {
        let breath = allocator.allocate(600_000, 16).unwrap();
        allocator.free(breath.offset).unwrap();
    }
    let reserves = grid.reserves.load(std::sync::atomic::Ordering::Relaxed);
    assert!(reserves <= 45, "{reserves} reservations");
}

/// Metadata for pages stays below 0.5 %, with bitmaps 16-byte objects cost below 1.05 of their payload.
#[test]
fn metadata_is_small() {
    for (size, limit) in [(64, 0.007), (256, 0.005), (1000, 0.005), (4096, 0.005), (20_000, 0.005), (100_000, 0.005)] {
        let allocator = Allocator::new(TestGrid::new(512).allocator().0, 64 << 30);
        for _ in 0..400 * MIB / size {
            allocator.allocate(size, 16).unwrap();
        }
        let stats = allocator.stats();
        let part = ratio(stats.metadata_bytes, stats.used_page_bytes);
        println!("metadata / pages, objects of {size}: {:.3} %", part * 100.0);
        assert!(part <= limit, "{size}: {stats:?}");
    }
    let allocator = Allocator::new(TestGrid::new(512).allocator().0, 64 << 30);
    let count = 4_000_000;
    for _ in 0..count {
        allocator.allocate(16, 16).unwrap();
    }
    let stats = allocator.stats();
    let all = ratio(stats.metadata_bytes + stats.used_page_bytes, count * 16);
    println!("memory / payload, objects of 16: {all:.4}");
    assert!(all <= 1.05, "{stats:?}");
    assert!(stats.reserved_bytes - stats.used_page_bytes < EXTENT_BYTES);
}
