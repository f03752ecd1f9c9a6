//! The allocator against a model: what it hands out never overlaps, is large and aligned enough, keeps its bytes,
//! reads as zeros when it says so, and all of it comes back.

mod alloc_support;

use std::collections::BTreeMap;

use alloc_support::TestGrid;
use proptest::{collection::vec, prelude::*};
use rum_core::alloc::{AllocateError, Allocator, FreedSize, NotAllocated, ReserveError};
use rum_net::{EXTENT_BYTES, PAGE_BYTES};

#[derive(Clone, Debug)]
enum Action {
    Allocate { size: usize, align_log2: u32 },
    Free { nth: usize },
    Resize { nth: usize, size: usize },
    FreeWrong { nth: usize, at: usize },
    Trim,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..200_usize,
        4 => 0..5000_usize,
        2 => 0..40_000_usize,
        1 => 0..3_000_000_usize,
        1 => (1..40_usize, 0..3_usize).prop_map(|(pages, off)| pages * PAGE_BYTES + off - 1),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let align_log2 = prop_oneof![8 => 0..5_u32, 2 => 5..13_u32, 1 => 13..23_u32];
    prop_oneof![
        30 => (size(), align_log2).prop_map(|(size, align_log2)| Action::Allocate { size, align_log2 }),
        20 => any::<usize>().prop_map(|nth| Action::Free { nth }),
        5 => (any::<usize>(), size()).prop_map(|(nth, size)| Action::Resize { nth, size }),
        5 => (any::<usize>(), any::<usize>()).prop_map(|(nth, at)| Action::FreeWrong { nth, at }),
        1 => Just(Action::Trim),
    ]
}

struct Live {
    requested: usize,
    usable: usize,
    tag: u8,
}

struct Model {
    grid: std::sync::Arc<TestGrid>,
    allocator: Allocator,
    live: BTreeMap<usize, Live>,
    freed: Vec<usize>,
    next_tag: u8,
}

impl Model {
    fn new(grid: TestGrid) -> Self {
        let (grid, allocator) = grid.allocator();
        Self { grid, allocator, live: BTreeMap::new(), freed: Vec::new(), next_tag: 1 }
    }

    fn nth(&self, nth: usize) -> Option<usize> {
        (!self.live.is_empty()).then(|| *self.live.keys().nth(nth % self.live.len()).unwrap())
    }

    fn allocate(&mut self, size: usize, align: usize) {
        let block = match self.allocator.allocate(size, align) {
            Ok(block) => block,
            Err(AllocateError::Reserve(_)) => return,
            Err(error) => panic!("{error}"),
        };
        assert!(block.usable >= size.max(1), "{block:?} for {size}");
        assert_eq!(block.offset % align, 0, "{block:?} at a multiple of {align}");
        assert!(self.grid.covers(block.offset, block.usable));
        let end = block.offset + block.usable;
        if let Some((offset, other)) = self.live.range(..end).next_back() {
            assert!(offset + other.usable <= block.offset, "{block:?} overlaps {offset:#x}, {} bytes", other.usable);
        }
        self.next_tag = self.next_tag.wrapping_add(1).max(1);
        self.grid.fill(&block, self.next_tag);
        self.live.insert(block.offset, Live { requested: size, usable: block.usable, tag: self.next_tag });
    }

    fn free(&mut self, offset: usize) {
        let live = self.live.remove(&offset).unwrap();
        assert_eq!(self.allocator.usable_size(offset), Some(live.usable));
        self.grid.check(offset, live.usable, live.tag);
        assert_eq!(self.allocator.free(offset), Ok(FreedSize(live.usable)));
        assert_eq!(self.allocator.free(offset), Err(NotAllocated(offset)), "freed twice");
        assert_eq!(self.allocator.usable_size(offset), None);
        self.freed.push(offset);
    }

    fn resize(&mut self, offset: usize, size: usize) {
        let before = self.allocator.usable_size(offset).unwrap();
        let resized = self.allocator.resize_in_place(offset, size);
        let usable = self.allocator.usable_size(offset).unwrap();
        let live = self.live.get_mut(&offset).unwrap();
        if !resized {
            assert_eq!(usable, before);
            return;
        }
        assert!(usable >= size, "resized to {size}, usable {usable}");
        self.grid.check(offset, live.usable.min(usable), live.tag);
        (live.requested, live.usable) = (size, usable);
        let block = rum_core::alloc::Block { offset, usable, zeroed: false };
        self.grid.fill(&block, live.tag);
        if let Some((next, _)) = self.live.range(offset + 1..).next() {
            assert!(offset + usable <= *next, "grew into {next:#x}");
        }
    }

    /// Frees what is not the start of an allocation: nothing may change.
    fn free_wrong(&self, nth: usize, at: usize) {
        let before = self.allocator.stats();
        if let Some(offset) = self.nth(nth) {
            let inside = offset + 1 + at % self.live[&offset].usable.max(2).saturating_sub(1);
            if !self.live.contains_key(&inside) {
                assert_eq!(self.allocator.free(inside), Err(NotAllocated(inside)));
                assert_eq!(self.allocator.usable_size(inside), None);
                assert!(!self.allocator.resize_in_place(inside, 1));
            }
        }
        for wrong in [at, at % (2 * self.grid.region_bytes()), usize::MAX - at % 4096] {
            if !self.live.contains_key(&wrong) {
                assert_eq!(self.allocator.free(wrong), Err(NotAllocated(wrong)));
            }
        }
        if let Some(old) = self.freed.get(nth % self.freed.len().max(1)).filter(|old| !self.live.contains_key(old)) {
            assert_eq!(self.allocator.free(*old), Err(NotAllocated(*old)), "freed long ago");
        }
        assert_eq!(self.allocator.stats(), before);
    }

    fn run(&mut self, action: Action) {
        match action {
            Action::Allocate { size, align_log2 } => self.allocate(size, 1 << align_log2),
            Action::Free { nth } => {
                if let Some(offset) = self.nth(nth) {
                    self.free(offset);
                }
            }
            Action::Resize { nth, size } => {
                if let Some(offset) = self.nth(nth) {
                    self.resize(offset, size);
                }
            }
            Action::FreeWrong { nth, at } => self.free_wrong(nth, at),
            Action::Trim => self.allocator.trim(),
        }
        let stats = self.allocator.stats();
        assert_eq!(stats.allocations, self.live.len());
        assert_eq!(stats.usable_bytes, self.live.values().map(|live| live.usable).sum::<usize>());
        assert_eq!(stats.reserved_bytes, self.grid.reserved() * EXTENT_BYTES);
        assert!(stats.allocated_bytes <= stats.usable_bytes && stats.usable_bytes <= stats.used_page_bytes);
        assert!(stats.used_page_bytes <= stats.reserved_bytes);
    }

    fn end(mut self) {
        while let Some(offset) = self.nth(0) {
            self.free(offset);
        }
        let kept = self.grid.reserved();
        self.allocator.trim();
        assert_eq!(self.grid.reserved(), 0, "of {kept} extents before trim");
        let stats = self.allocator.stats();
        assert_eq!(
            (stats.allocated_bytes, stats.usable_bytes, stats.used_page_bytes, stats.reserved_bytes),
            (0, 0, 0, 0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(actions in vec(action(), 1..400), gap in 0..2_usize) {
        let mut model = Model::new(TestGrid::new(48).with_memory().with_gap(gap));
        for action in actions {
            model.run(action);
        }
        model.end();
    }

    #[test]
    fn behaves_like_the_model_when_the_grid_is_full(actions in vec(action(), 1..400)) {
        let mut model = Model::new(TestGrid::new(16).with_memory().with_quota(4));
        for action in actions {
            model.run(action);
        }
        model.end();
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let (grid, allocator) = TestGrid::new(8).allocator();
    for (size, align) in [(1, 0), (1, 3), (usize::MAX, 1), (usize::MAX - 4095, 4096), (1, 1 << 63), (9 << 20, 1)] {
        assert_eq!(allocator.allocate(size, align), Err(AllocateError::BadLayout { size, align }));
    }
    assert_eq!(grid.reserved(), 0);
    let small = allocator.allocate(1, 1).unwrap();
    // The region would hold these, but for the one that is there.
    assert!(matches!(allocator.allocate(1, 8 << 20), Err(AllocateError::Reserve(_))));
    assert!(matches!(allocator.allocate(8 << 20, 1), Err(AllocateError::Reserve(_))));
    allocator.free(small.offset).unwrap();
    assert!(allocator.allocate(8 << 20, 1).is_ok());
}

#[test]
fn zero_bytes_are_an_allocation_like_any_other() {
    let (_grid, allocator) = TestGrid::new(8).allocator();
    let (a, b) = (allocator.allocate(0, 1).unwrap(), allocator.allocate(0, 1).unwrap());
    assert_ne!(a.offset, b.offset);
    assert_eq!(allocator.stats().allocated_bytes, 0);
    allocator.free(a.offset).unwrap();
    allocator.free(b.offset).unwrap();
}

/// LESSONS.md 5: sizes just over a page were rounded wrongly.
#[test]
fn sizes_about_a_page_are_rounded_up() {
    let (_grid, allocator) = TestGrid::new(64).allocator();
    for pages in 1..=20 {
        let page_size = pages * PAGE_BYTES;
        for size in [page_size - 1, page_size, page_size + 1] {
            let block = allocator.allocate(size, 1).unwrap();
            assert!(block.usable >= size, "{size} got {}", block.usable);
            assert!((block.usable - size) * 8 <= block.usable, "{size} got {}", block.usable);
            assert_eq!(allocator.usable_size(block.offset), Some(block.usable));
        }
    }
}

/// LESSONS.md 5: realloc within a page kept the old size.
#[test]
fn a_resize_changes_the_size_that_is_known() {
    let (_grid, allocator) = TestGrid::new(64).allocator();
    let small = allocator.allocate(2000, 1).unwrap();
    assert!(allocator.resize_in_place(small.offset, 2040));
    assert_eq!(allocator.stats().allocated_bytes, 2040);
    assert!(!allocator.resize_in_place(small.offset, 3000), "a slot of {} bytes holds no 3000", small.usable);
    assert!(!allocator.resize_in_place(small.offset, 100), "a slot of {} bytes is too large for 100", small.usable);
    assert_eq!(allocator.stats().allocated_bytes, 2040);

    let large = allocator.allocate(100_000, 1).unwrap();
    assert!(allocator.resize_in_place(large.offset, 100_001));
    assert_eq!(allocator.stats().allocated_bytes, 2040 + 100_001);
    assert!(allocator.resize_in_place(large.offset, 200_000));
    assert!(allocator.usable_size(large.offset).unwrap() >= 200_000);
    assert!(allocator.resize_in_place(large.offset, 40_000));
    assert_eq!(allocator.usable_size(large.offset), Some(40_960));
    assert_eq!(allocator.stats().allocated_bytes, 2040 + 40_000);
    // The pages given back are used again.
    let next = allocator.allocate(100_000, 1).unwrap();
    assert_eq!(next.offset, large.offset + 40_960);
    assert!(!allocator.resize_in_place(large.offset, 41_000), "grew into its neighbour");
    assert!(!allocator.resize_in_place(large.offset, usize::MAX));
}

#[test]
fn fresh_memory_is_known_to_be_zero_and_reused_memory_is_not() {
    let (_grid, allocator) = TestGrid::new(64).allocator();
    for size in [16, 100, 5000, 100_000, 3 << 20] {
        let block = allocator.allocate(size, 16).unwrap();
        assert!(block.zeroed, "{size} bytes of fresh memory");
    }
    let used = allocator.allocate(64, 16).unwrap();
    allocator.free(used.offset).unwrap();
    let again = allocator.allocate(64, 16).unwrap();
    assert_eq!((again.offset, again.zeroed), (used.offset, false));
    let long = allocator.allocate(8 << 20, 16).unwrap();
    allocator.free(long.offset).unwrap();
    let again = allocator.allocate(8 << 20, 16).unwrap();
    assert!(again.zeroed, "a long run is made absent");
}

#[test]
fn alignments_beyond_an_extent() {
    let (grid, allocator) = TestGrid::new(64).allocator();
    let small = allocator.allocate(100, 1).unwrap();
    for shift in 12..=24 {
        let block = allocator.allocate(10_000, 1 << shift).unwrap();
        assert_eq!(block.offset % (1 << shift), 0);
        allocator.free(block.offset).unwrap();
    }
    let block = allocator.allocate(10_000, 16 << 20).unwrap();
    assert!(grid.reserved() <= 4, "{} extents for 10,000 bytes", grid.reserved());
    allocator.free(block.offset).unwrap();
    allocator.free(small.offset).unwrap();
}

#[test]
fn a_full_grid_serves_again_after_frees_of_other_sizes() {
    let (_grid, allocator) = TestGrid::new(64).with_quota(4).allocator();
    for round in 0..3 {
        for size in [16, 48, 200, 1000, 5000, 30_000, 500_000] {
            let mut blocks = Vec::new();
            let error = loop {
                match allocator.allocate(size, 16) {
                    Ok(block) => blocks.push(block.offset),
                    Err(error) => break error,
                }
            };
            assert_eq!(error, AllocateError::Reserve(ReserveError::GridFull { extents: 1 }));
            let payload = blocks.len() * size;
            assert!(payload > (4 << 20) * 7 / 10, "round {round}: only {payload} bytes in objects of {size}");
            for offset in blocks {
                allocator.free(offset).unwrap();
            }
        }
    }
}
