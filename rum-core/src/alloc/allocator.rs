//! The allocator as its users see it: small sizes to slabs, large ones to runs of pages.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use rum_net::{EXTENT_BYTES, PAGE_BYTES};

use super::{
    ExtentSource, ReserveError,
    large::{LargeRun, LargeTable},
    lock,
    metadata::Metadata,
    page_heap::PageHeap,
    page_map::{PageMap, PageUse},
    size_class::{CLASSES, SizeClass},
    slab::{Lists, NO_SLAB, Phase, Shelf, SlabTable},
    stripe::Stripes,
};

/// Memory handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Where it starts, in bytes from the region's start.
    pub offset: usize,
    /// Bytes that may be used.
    pub usable: usize,
    /// Whether all of them are known to read as zeros.
    pub zeroed: bool,
}

/// The bytes that were usable in what was freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreedSize(pub usize);

/// Why nothing was allocated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AllocateError {
    /// The alignment is no power of two, or the size or the alignment exceeds the region.
    #[error("impossible layout: {size} bytes at a multiple of {align}")]
    BadLayout {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for.
        align: usize,
    },
    /// The grid or the region is full.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
}

/// Nothing that is allocated starts at this offset: it was freed before, or never allocated, or lies inside an
/// allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nothing allocated starts at offset {0:#x}")]
pub struct NotAllocated(pub usize);

/// Gauges of an allocator.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AllocatorStats {
    /// Bytes asked for and not freed. Objects up to 28 KiB that differ in size within one class are counted by the
    /// mean of their slab once some of them are freed.
    pub allocated_bytes: usize,
    /// The same, as rounded up to size classes and pages.
    pub usable_bytes: usize,
    /// Allocations not freed.
    pub allocations: usize,
    /// Bytes of slabs and large runs.
    pub used_page_bytes: usize,
    /// Bytes reserved on the grid.
    pub reserved_bytes: usize,
    /// Bytes of the allocator's own tables, all outside the region.
    pub metadata_bytes: usize,
}

/// A class's slabs that wait for use; a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Class {
    lists: Mutex<Lists>,
}

/// An allocator over the extents of one source. Any thread may free what any other allocated.
///
/// Works on offsets from the start of the region, and never touches the region itself. An offset is a multiple of
/// the alignment asked for; the address is, too, if the region starts at one.
///
/// Locks are taken in the order class, large runs, page heap, slab numbers; the common paths take none.
pub struct Allocator {
    metadata: Metadata,
    map: PageMap,
    slabs: SlabTable,
    stripes: Stripes,
    classes: [Class; CLASSES],
    large: Mutex<LargeTable>,
    heap: Mutex<PageHeap>,
    region_bytes: usize,
}

impl fmt::Debug for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocator").field("region_bytes", &self.region_bytes).finish_non_exhaustive()
    }
}

impl Allocator {
    /// An allocator for the extents that `source` reserves in a region of `region_bytes` bytes, at most 8 TiB.
    ///
    /// # Panics
    /// When the region is larger.
    pub fn new(source: Arc<dyn ExtentSource>, region_bytes: usize) -> Self {
        let pages = u32::try_from(region_bytes / EXTENT_BYTES * (EXTENT_BYTES / PAGE_BYTES)).unwrap_or(u32::MAX);
        assert!(pages <= 1 << 31, "a region of {region_bytes} bytes is larger than 8 TiB");
        let metadata = Metadata::default();
        let stripes = Stripes::new(&metadata);
        Self {
            map: PageMap::new(pages, &metadata),
            slabs: SlabTable::new(pages, stripes.len(), &metadata),
            stripes,
            classes: std::array::from_fn(|_| Class { lists: Mutex::new(Lists::new()) }),
            large: Mutex::default(),
            heap: Mutex::new(PageHeap::new(source, pages)),
            region_bytes,
            metadata,
        }
    }

    /// Allocates at least `size` bytes (0 counts as 1) at a multiple of `align`, a power of two.
    #[inline]
    pub fn allocate(&self, size: usize, align: usize) -> Result<Block, AllocateError> {
        if !align.is_power_of_two() || size > self.region_bytes || align > self.region_bytes {
            return Err(AllocateError::BadLayout { size, align });
        }
        match SizeClass::of(size.max(1), align) {
            Some(class) => self.allocate_small(class, size),
            None => self.allocate_large(size, align),
        }
    }

    /// Frees what `allocate` gave at `offset`. An error changes nothing.
    #[inline]
    pub fn free(&self, offset: usize) -> Result<FreedSize, NotAllocated> {
        match self.map.get(offset / PAGE_BYTES) {
            PageUse::Slab(slab) => {
                let freed = self.slabs.free(slab, offset).ok_or(NotAllocated(offset))?;
                if freed.misplaced {
                    self.settle(freed.class, slab);
                }
                Ok(FreedSize(freed.class.info().bytes as usize))
            }
            PageUse::Large => self.free_large(offset),
            PageUse::Clean | PageUse::Dirty => Err(NotAllocated(offset)),
        }
    }

    /// The bytes that may be used at `offset`, if something allocated starts there.
    pub fn usable_size(&self, offset: usize) -> Option<usize> {
        match self.map.get(offset / PAGE_BYTES) {
            PageUse::Slab(slab) => Some(self.slabs.find(slab, offset)?.info().bytes as usize),
            PageUse::Large => {
                let run = lock(&self.large).get(large_page(offset)?)?;
                Some(run.pages as usize * PAGE_BYTES)
            }
            PageUse::Clean | PageUse::Dirty => None,
        }
    }

    /// Changes the size of the allocation at `offset` where it is; true when it now has `new_size` usable bytes.
    ///
    /// A large one grows into free pages behind it, and gives pages back when it shrinks. A small one stays where
    /// it is as long as at least half of its slot is used. False when nothing allocated starts at `offset`.
    pub fn resize_in_place(&self, offset: usize, new_size: usize) -> bool {
        match self.map.get(offset / PAGE_BYTES) {
            PageUse::Slab(slab) => {
                let Some(class) = self.slabs.find(slab, offset) else { return false };
                let usable = class.info().bytes as usize;
                let stays = new_size <= usable && new_size.max(16) >= usable / 2;
                if stays {
                    self.slabs.request_again(slab, new_size);
                }
                stays
            }
            PageUse::Large => self.resize_large(offset, new_size),
            PageUse::Clean | PageUse::Dirty => false,
        }
    }

    /// Gives back all that holds nothing: empty slabs, dirty free pages, empty extents.
    pub fn trim(&self) {
        self.retire_idle();
        lock(&self.heap).trim(&self.map);
    }

    /// Gauges. Walks over all slabs.
    pub fn stats(&self) -> AllocatorStats {
        let mut stats = AllocatorStats::default();
        for state in self.slabs.states() {
            stats.allocated_bytes += state.requested() as usize;
            stats.usable_bytes += (state.live() * state.class().info().bytes) as usize;
            stats.allocations += state.live() as usize;
        }
        let mut metadata_bytes = self.metadata.bytes() + self.slabs.metadata_bytes() + size_of::<Self>();
        {
            let large = lock(&self.large);
            stats.allocated_bytes += large.requested_bytes();
            stats.usable_bytes += large.pages() * PAGE_BYTES;
            stats.allocations += large.len();
            metadata_bytes += large.metadata_bytes();
        }
        let heap = lock(&self.heap);
        stats.used_page_bytes = heap.used_pages() as usize * PAGE_BYTES;
        stats.reserved_bytes = heap.reserved_bytes();
        stats.metadata_bytes = metadata_bytes + heap.metadata_bytes();
        stats
    }

    #[inline]
    fn allocate_small(&self, class: SizeClass, requested: usize) -> Result<Block, AllocateError> {
        let stripe = self.stripes.current();
        let mut trimmed = false;
        loop {
            let slab = self.stripes.get(stripe).active(class);
            if slab != NO_SLAB
                && let Some(slot) = self.slabs.allocate(slab, class, requested)
            {
                let usable = class.info().bytes as usize;
                let offset = slot.first_page as usize * PAGE_BYTES + slot.slot as usize * usable;
                return Ok(Block { offset, usable, zeroed: slot.zeroed });
            }
            match self.refill(stripe, class) {
                Ok(()) => {}
                // Other classes may hold pages that nothing uses.
                Err(_) if !trimmed => {
                    trimmed = true;
                    self.retire_idle();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives a stripe an active slab with room: the fullest that waits, else a new one.
    #[cold]
    fn refill(&self, stripe: usize, class: SizeClass) -> Result<(), ReserveError> {
        let mut lists = lock(&self.classes[class.index()].lists);
        let stripe_slabs = self.stripes.get(stripe);
        let active = stripe_slabs.active(class);
        if active != NO_SLAB {
            if self.slabs.state(active).live() < class.info().capacity {
                return Ok(());
            }
            stripe_slabs.set_active(class, NO_SLAB);
            self.slabs.set_phase(active, Phase::Detached);
            self.settle_locked(&mut lists, class, active);
        }
        let slab = match lists.take_fullest(&self.slabs) {
            Some(slab) => {
                self.slabs.set_phase(slab, Phase::Active);
                slab
            }
            None => self.start_slab(stripe, class)?,
        };
        stripe_slabs.set_active(class, slab);
        Ok(())
    }

    fn start_slab(&self, stripe: usize, class: SizeClass) -> Result<u32, ReserveError> {
        let pages = class.info().pages;
        let mut heap = lock(&self.heap);
        let run = heap.allocate(pages, 1, &self.map)?;
        let Some(slab) = self.slabs.number(class, stripe, &self.metadata) else {
            heap.free(run.first, pages, if run.zeroed { 0 } else { pages }, &self.map, &self.metadata);
            return Err(ReserveError::RegionFull { extents: 1 });
        };
        drop(heap);
        self.slabs.start(slab, class, run.first, run.zeroed);
        self.map.set(run.first, pages, PageUse::Slab(slab), &self.metadata);
        Ok(slab)
    }

    /// Puts a slab on the shelf it belongs to after a free.
    #[cold]
    fn settle(&self, class: SizeClass, slab: u32) {
        let shrunk = self.settle_locked(&mut lock(&self.classes[class.index()].lists), class, slab);
        if shrunk {
            self.retire_idle();
        }
    }

    /// Between the free and this call the slab may have been settled by others, or have become another one: what
    /// counts is its state now. True when the page heap has shrunk much since it last said so.
    fn settle_locked(&self, lists: &mut Lists, class: SizeClass, slab: u32) -> bool {
        let state = self.slabs.state(slab);
        if state.class() != class || state.phase() != Phase::Detached {
            return false;
        }
        lists.place(&self.slabs, slab, state.shelf());
        if state.shelf() != Shelf::Empty {
            return false;
        }
        let (first, pages) = (self.slabs.first_page(slab), class.info().pages);
        self.map.set(first, pages, PageUse::Clean, &self.metadata);
        let written = self.slabs.end(slab);
        self.slabs.forget(slab);
        let mut heap = lock(&self.heap);
        heap.free(first, pages, written, &self.map, &self.metadata);
        heap.take_shrunk()
    }

    /// Ends the active slabs that hold nothing.
    #[cold]
    fn retire_idle(&self) {
        for class in SizeClass::all() {
            if self.stripes.iter().all(|stripe| stripe.active(class) == NO_SLAB) {
                continue;
            }
            let mut lists = lock(&self.classes[class.index()].lists);
            for stripe in self.stripes.iter() {
                let slab = stripe.active(class);
                if slab == NO_SLAB || self.slabs.state(slab).live() > 0 {
                    continue;
                }
                stripe.set_active(class, NO_SLAB);
                self.slabs.set_phase(slab, Phase::Detached);
                self.settle_locked(&mut lists, class, slab);
            }
        }
    }

    fn allocate_large(&self, size: usize, align: usize) -> Result<Block, AllocateError> {
        let pages = size.max(1).div_ceil(PAGE_BYTES) as u32;
        let align_pages = (align / PAGE_BYTES).max(1) as u32;
        let first_try = lock(&self.heap).allocate(pages, align_pages, &self.map);
        let run = first_try.or_else(|_| {
            self.retire_idle();
            lock(&self.heap).allocate(pages, align_pages, &self.map)
        })?;
        lock(&self.large).insert(run.first, LargeRun { pages, requested: size });
        self.map.set(run.first, 1, PageUse::Large, &self.metadata);
        let (offset, usable) = (run.first as usize * PAGE_BYTES, pages as usize * PAGE_BYTES);
        Ok(Block { offset, usable, zeroed: run.zeroed })
    }

    fn free_large(&self, offset: usize) -> Result<FreedSize, NotAllocated> {
        let first = large_page(offset).ok_or(NotAllocated(offset))?;
        let run = lock(&self.large).remove(first).ok_or(NotAllocated(offset))?;
        self.map.set(first, 1, PageUse::Clean, &self.metadata);
        let shrunk = {
            let mut heap = lock(&self.heap);
            heap.free(first, run.pages, run.pages, &self.map, &self.metadata);
            heap.take_shrunk()
        };
        if shrunk {
            self.retire_idle();
        }
        Ok(FreedSize(run.pages as usize * PAGE_BYTES))
    }

    fn resize_large(&self, offset: usize, new_size: usize) -> bool {
        if new_size > self.region_bytes {
            return false;
        }
        let pages = new_size.max(1).div_ceil(PAGE_BYTES) as u32;
        let mut large = lock(&self.large);
        let Some((first, run)) = large_page(offset).and_then(|first| Some((first, large.get(first)?))) else {
            return false;
        };
        let mut heap = lock(&self.heap);
        if pages > run.pages && !heap.allocate_at(first + run.pages, pages - run.pages, &self.map) {
            return false;
        }
        if pages < run.pages {
            let tail = run.pages - pages;
            heap.free(first + pages, tail, tail, &self.map, &self.metadata);
        }
        large.remove(first);
        large.insert(first, LargeRun { pages, requested: new_size });
        true
    }
}

/// The page that a large allocation at `offset` would start with.
fn large_page(offset: usize) -> Option<u32> {
    offset.is_multiple_of(PAGE_BYTES).then(|| u32::try_from(offset / PAGE_BYTES).ok()).flatten()
}
