//! Several threads on one allocator: nothing is handed out twice, wrong frees are found, and all comes back.

mod alloc_support;

use std::sync::{
    Arc, Barrier, Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering},
    mpsc::sync_channel,
};

use alloc_support::TestGrid;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rum_core::alloc::{Allocator, Block, NotAllocated};

/// Whose each granule of 8 bytes is, to see two owners at once.
struct Owners(Vec<AtomicU32>);

impl Owners {
    fn new(bytes: usize) -> Self {
        Self((0..bytes / 8).map(|_| AtomicU32::new(0)).collect())
    }
    /// The granules of a block that are looked at: of a long one only some.
    fn granules(&self, block: &Block) -> impl Iterator<Item = &AtomicU32> {
        let (first, count) = (block.offset / 8, block.usable / 8);
        let step = if count > 512 { 512 } else { 1 };
        self.0[first..first + count].iter().step_by(step)
    }
    fn take(&self, block: &Block, owner: u32) {
        for granule in self.granules(block) {
            let other = granule.swap(owner, Ordering::Relaxed);
            assert_eq!(other, 0, "{block:?} was handed out to {owner} and {other}");
        }
    }
    fn give(&self, block: &Block, owner: u32) {
        for granule in self.granules(block) {
            assert_eq!(granule.swap(0, Ordering::Relaxed), owner, "{block:?} of {owner} was handed out again");
        }
    }
}

struct Shared {
    grid: Arc<TestGrid>,
    allocator: Allocator,
    owners: Owners,
}

impl Shared {
    fn new(extents: usize) -> Self {
        let (grid, allocator) = TestGrid::new(extents).allocator();
        Self { owners: Owners::new(grid.region_bytes()), grid, allocator }
    }
    fn allocate(&self, size: usize, owner: u32) -> Block {
        let block = self.allocator.allocate(size, 8).unwrap();
        assert!(block.usable >= size);
        self.owners.take(&block, owner);
        block
    }
    fn free(&self, block: &Block, owner: u32) {
        self.owners.give(block, owner);
        assert_eq!(self.allocator.free(block.offset).unwrap().0, block.usable);
    }
    fn assert_all_returned(&self) {
        self.allocator.trim();
        assert_eq!(self.grid.reserved(), 0);
        let stats = self.allocator.stats();
        assert_eq!((stats.allocations, stats.allocated_bytes, stats.used_page_bytes), (0, 0, 0));
    }
}

fn seed() -> u64 {
    let seed = rand::random();
    println!("seed {seed}");
    seed
}

fn mixed_size(random: &mut SmallRng) -> usize {
    match random.random_range(0..100) {
        0..60 => random.random_range(0..300),
        60..90 => random.random_range(0..5000),
        90..99 => random.random_range(0..40_000),
        _ => random.random_range(0..400_000),
    }
}

/// Each thread churns, and gives some of its blocks to the others to free; one trims all the time.
#[test]
fn churn_with_remote_frees_and_trims() {
    let shared = Shared::new(1024);
    let seed = seed();
    let parcels: Vec<Mutex<Vec<(Block, u32)>>> = (0..4).map(|_| Mutex::default()).collect();
    let running = AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (shared, parcels, running) = (&shared, &parcels, &running);
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed ^ thread as u64);
                let owner = thread as u32 + 1;
                let mut live = Vec::new();
                for _ in 0..60_000 {
                    if live.len() < 300 && random.random_bool(0.55) {
                        live.push(shared.allocate(mixed_size(&mut random), owner));
                    } else if !live.is_empty() {
                        let block = live.swap_remove(random.random_range(0..live.len()));
                        if random.random_bool(0.3) {
                            parcels[random.random_range(0..4)].lock().unwrap().push((block, owner));
                        } else {
                            shared.free(&block, owner);
                        }
                    }
                    let parcel = std::mem::take(&mut *parcels[thread].lock().unwrap());
                    parcel.iter().for_each(|(block, owner)| shared.free(block, *owner));
                }
                live.iter().for_each(|block| shared.free(block, owner));
                running.fetch_sub(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            while running.load(Ordering::Acquire) > 0 {
                shared.allocator.trim();
                shared.allocator.stats();
                std::thread::yield_now();
            }
        });
    });
    for parcel in parcels {
        parcel.into_inner().unwrap().iter().for_each(|(block, owner)| shared.free(block, *owner));
    }
    shared.assert_all_returned();
}

/// Blocks of one class through a pipe, so that slabs fill on one side and empty on the other.
#[test]
fn producers_and_consumers() {
    let shared = Shared::new(256);
    std::thread::scope(|scope| {
        for pair in 0..2 {
            let (sender, receiver) = sync_channel::<Vec<Block>>(16);
            let shared = &shared;
            scope.spawn(move || {
                for round in 0..1000_usize {
                    let size = [16, 48, 640, 3000, 9000, 28_672][round / 50 % 6];
                    sender.send((0..40).map(|_| shared.allocate(size, pair + 1)).collect()).unwrap();
                }
            });
            scope.spawn(move || receiver.into_iter().flatten().for_each(|block| shared.free(&block, pair + 1)));
        }
    });
    shared.assert_all_returned();
}

/// Threads come and go; what they leave behind is freed by others, and their stripes serve the next.
#[test]
fn threads_that_end_leave_nothing_behind() {
    let shared = Shared::new(64);
    for round in 0..60 {
        let blocks: Vec<Block> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| (0..200).map(|n| shared.allocate(n * 7, round + 1)).collect::<Vec<_>>()))
                .collect();
            handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
        });
        blocks.iter().for_each(|block| shared.free(block, round + 1));
    }
    assert!(shared.grid.reserved() <= 8, "{} extents kept for nothing", shared.grid.reserved());
    shared.assert_all_returned();
}

/// Of two threads that free the same block at once, exactly one succeeds.
#[test]
fn a_block_freed_by_two_threads_at_once_is_freed_once() {
    let shared = Shared::new(64);
    for size in [16, 1000, 20_000, 50_000] {
        let blocks: Vec<Block> = (0..300).map(|_| shared.allocator.allocate(size, 8).unwrap()).collect();
        let barrier = Barrier::new(2);
        let free_all = || {
            barrier.wait();
            blocks.iter().filter(|block| shared.allocator.free(block.offset).is_ok()).count()
        };
        let freed = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(free_all), scope.spawn(free_all));
            a.join().unwrap() + b.join().unwrap()
        });
        assert_eq!(freed, blocks.len());
        for block in &blocks {
            assert_eq!(shared.allocator.free(block.offset), Err(NotAllocated(block.offset)));
        }
    }
    shared.assert_all_returned();
}

/// Many threads on the few slots of the largest classes, on a grid that is full all the time: each error is a real
/// one, and afterwards all is there again.
#[test]
fn threads_on_a_full_grid() {
    let (grid, allocator) = TestGrid::new(64).with_quota(3).allocator();
    let shared = Shared { owners: Owners::new(grid.region_bytes()), grid, allocator };
    let seed = seed();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (shared, refused) = (&shared, &refused);
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed ^ u64::from(thread));
                let mut live = Vec::new();
                for _ in 0..20_000 {
                    match shared.allocator.allocate(random.random_range(1..60_000), 8) {
                        Ok(block) => {
                            shared.owners.take(&block, thread + 1);
                            live.push(block);
                        }
                        Err(_) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            live.drain(..live.len() / 2).for_each(|block| shared.free(&block, thread + 1));
                        }
                    }
                }
                live.iter().for_each(|block| shared.free(block, thread + 1));
            });
        }
    });
    assert!(refused.into_inner() > 0, "the grid was never full");
    shared.assert_all_returned();
}
