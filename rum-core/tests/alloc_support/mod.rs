//! A grid for the allocator's tests: it checks what is reserved and released, and holds the region's bytes.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use rum_core::alloc::{Allocator, Block, ExtentSource, ReserveError};
use rum_net::{EXTENT_BYTES, PAGE_BYTES};

/// Extents of a region, reserved and released by offset. Panics at a wrong release.
pub struct TestGrid {
    extents: Mutex<Vec<bool>>,
    quota: usize,
    /// Gaps left between reservations, so that they are not adjacent.
    gap: usize,
    pub reserves: AtomicUsize,
    pub discarded_bytes: AtomicUsize,
    memory: Option<Vec<AtomicU8>>,
}

impl TestGrid {
    /// A grid without contents.
    pub fn new(extents: usize) -> Self {
        Self {
            extents: Mutex::new(vec![false; extents]),
            quota: extents,
            gap: 0,
            reserves: AtomicUsize::new(0),
            discarded_bytes: AtomicUsize::new(0),
            memory: None,
        }
    }

    /// The same with bytes, so that contents can be checked.
    pub fn with_memory(mut self) -> Self {
        let bytes = self.extents.get_mut().unwrap().len() * EXTENT_BYTES;
        self.memory = Some((0..bytes).map(|_| AtomicU8::new(0)).collect());
        self
    }

    pub fn with_quota(mut self, extents: usize) -> Self {
        self.quota = extents;
        self
    }

    pub fn with_gap(mut self, extents: usize) -> Self {
        self.gap = extents;
        self
    }

    pub fn allocator(self) -> (Arc<Self>, Allocator) {
        let region_bytes = self.region_bytes();
        let grid = Arc::new(self);
        (grid.clone(), Allocator::new(grid, region_bytes))
    }

    pub fn region_bytes(&self) -> usize {
        self.extents.lock().unwrap().len() * EXTENT_BYTES
    }

    pub fn reserved(&self) -> usize {
        self.extents.lock().unwrap().iter().filter(|reserved| **reserved).count()
    }

    /// Whether all bytes lie in reserved extents.
    pub fn covers(&self, offset: usize, bytes: usize) -> bool {
        let extents = self.extents.lock().unwrap();
        (offset / EXTENT_BYTES..=(offset + bytes - 1) / EXTENT_BYTES).all(|extent| extents[extent])
    }

    /// Fills a block with `tag`, after a check that it is zero if it says so.
    pub fn fill(&self, block: &Block, tag: u8) {
        let memory = &self.memory.as_ref().expect("a grid with memory")[block.offset..block.offset + block.usable];
        for byte in memory {
            let old = byte.swap(tag, Ordering::Relaxed);
            assert!(!block.zeroed || old == 0, "{block:?} says zeroed and holds {old}");
        }
    }

    /// Checks that bytes still hold `tag`.
    pub fn check(&self, offset: usize, bytes: usize, tag: u8) {
        let memory = &self.memory.as_ref().expect("a grid with memory")[offset..offset + bytes];
        let wrong = memory.iter().position(|byte| byte.load(Ordering::Relaxed) != tag);
        assert_eq!(wrong, None, "a byte of {offset:#x}, {bytes} bytes, was overwritten");
    }

    fn wipe(&self, offset: usize, bytes: usize) {
        for byte in self.memory.iter().flat_map(|memory| &memory[offset..offset + bytes]) {
            byte.store(0, Ordering::Relaxed);
        }
    }
}

impl ExtentSource for TestGrid {
    fn reserve(&self, count: usize) -> Result<usize, ReserveError> {
        self.reserves.fetch_add(1, Ordering::Relaxed);
        let mut extents = self.extents.lock().unwrap();
        if extents.iter().filter(|reserved| **reserved).count() + count > self.quota {
            return Err(ReserveError::GridFull { extents: count });
        }
        let fits = |first: &usize| extents[*first..(*first + count + self.gap).min(extents.len())].iter().all(|r| !r);
        let last = extents.len().checked_sub(count).ok_or(ReserveError::RegionFull { extents: count })?;
        let first = (0..=last).find(fits).ok_or(ReserveError::RegionFull { extents: count })?;
        let first = if self.gap > 0 && first + count + self.gap <= extents.len() { first + self.gap } else { first };
        extents[first..first + count].fill(true);
        Ok(first * EXTENT_BYTES)
    }

    fn release(&self, offset: usize, count: usize) {
        assert_eq!(offset % EXTENT_BYTES, 0);
        assert!(count > 0);
        // Wiped before others can have it.
        self.wipe(offset, count * EXTENT_BYTES);
        for reserved in &mut self.extents.lock().unwrap()[offset / EXTENT_BYTES..][..count] {
            assert!(*reserved, "released an extent that was not reserved");
            *reserved = false;
        }
    }

    fn discard(&self, offset: usize, bytes: usize) {
        assert!(offset.is_multiple_of(PAGE_BYTES) && bytes.is_multiple_of(PAGE_BYTES) && bytes > 0);
        assert!(self.covers(offset, bytes), "discarded pages that are not reserved");
        self.discarded_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.wipe(offset, bytes);
    }
}
