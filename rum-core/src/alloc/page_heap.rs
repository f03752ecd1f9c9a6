//! Runs of free pages within the reserved extents: best fit, coalesced at once, whole empty extents given back.
//!
//! Best fit at the lowest address, with immediate coalescing, follows Wilson et al., "Dynamic Storage Allocation: A
//! Survey and Critical Review" (1995), which found it to fragment least on real programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rum_net::{EXTENT_BYTES, PAGE_BYTES};

use super::{
    ExtentSource, ReserveError,
    metadata::Metadata,
    page_map::{PageMap, PageUse},
};

/// Pages in an extent.
const EXTENT_PAGES: u32 = (EXTENT_BYTES / PAGE_BYTES) as u32;
/// A part this long that is freed at once is discarded at once.
const DISCARD_PAGES: u32 = EXTENT_PAGES;
/// Dirty free pages that are kept at any rate: reusing one costs no fault.
const KEEP_DIRTY_PAGES: u32 = EXTENT_PAGES;
/// A sweep leaves runs with fewer dirty pages alone.
const SWEEP_PAGES: u32 = 8;
/// Runs that best fit looks at for an alignment above a page before it takes one that surely fits.
const ALIGNED_TRIES: usize = 64;
/// Bytes a free run takes in the two trees, which are about two thirds full.
const RUN_METADATA_BYTES: usize = 36;

/// Pages handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageRun {
    /// The first page.
    pub(super) first: u32,
    /// Whether all pages are absent, so that they read as zeros.
    pub(super) zeroed: bool,
}

#[derive(Clone, Copy, Debug)]
struct FreeRun {
    pages: u32,
    dirty: u32,
}

/// The free pages of an allocator. One thread at a time.
pub(super) struct PageHeap {
    source: Arc<dyn ExtentSource>,
    /// By first page.
    runs: BTreeMap<u32, FreeRun>,
    /// (pages, first page) of each run.
    by_size: BTreeSet<(u32, u32)>,
    region_pages: u32,
    reserved_extents: u32,
    /// Whole extents inside free runs.
    empty_extents: u32,
    used_pages: u32,
    dirty_pages: u32,
    /// How many dirty pages start the next sweep, when above the limit.
    sweep_at: u32,
    /// The most pages used since `take_shrunk` last said yes.
    peak_pages: u32,
}

impl PageHeap {
    pub(super) fn new(source: Arc<dyn ExtentSource>, region_pages: u32) -> Self {
        Self {
            source,
            runs: BTreeMap::new(),
            by_size: BTreeSet::new(),
            region_pages,
            reserved_extents: 0,
            empty_extents: 0,
            used_pages: 0,
            dirty_pages: 0,
            sweep_at: 0,
            peak_pages: 0,
        }
    }

    /// Takes `pages` pages whose first is a multiple of `align` (a power of two) pages from the region's start.
    pub(super) fn allocate(&mut self, pages: u32, align: u32, map: &PageMap) -> Result<PageRun, ReserveError> {
        let (run, first) = match self.find(pages, align) {
            Some(found) => found,
            None => {
                self.reserve(pages, align)?;
                self.find(pages, align).expect("the extents just reserved hold the run")
            }
        };
        let zeroed = self.take(run, first, pages, map);
        if align > EXTENT_PAGES {
            // The alignment cost extents that hold nothing.
            self.release_empty(map, self.keep_extents());
        }
        Ok(PageRun { first, zeroed })
    }

    /// Takes the `pages` free pages that start at `first`, if they are free.
    pub(super) fn allocate_at(&mut self, first: u32, pages: u32, map: &PageMap) -> bool {
        let fits = self.runs.get(&first).is_some_and(|run| run.pages >= pages);
        if fits {
            self.take(first, first, pages, map);
        }
        fits
    }

    /// Gives `pages` pages back, of which the first `dirty` have contents and the others are absent.
    pub(super) fn free(&mut self, first: u32, pages: u32, dirty: u32, map: &PageMap, metadata: &Metadata) {
        self.used_pages -= pages;
        if dirty >= DISCARD_PAGES {
            self.free_long(first, dirty, map, metadata);
        } else {
            map.set(first, dirty, PageUse::Dirty, metadata);
            self.insert(first, dirty, dirty);
        }
        self.insert(first + dirty, pages - dirty, 0);
        let keep = if self.used_pages == 0 { 0 } else { self.keep_extents() };
        if self.empty_extents > keep {
            self.release_empty(map, keep / 2);
        }
        let limit = KEEP_DIRTY_PAGES + self.used_pages / 32;
        if self.dirty_pages > limit.max(self.sweep_at) {
            self.sweep(SWEEP_PAGES, map);
            self.sweep_at = self.dirty_pages * 2;
        }
    }

    /// Discards what is dirty in runs of some length, and gives all empty extents back.
    pub(super) fn trim(&mut self, map: &PageMap) {
        self.release_empty(map, 0);
        self.sweep(1, map);
    }

    /// Whether half of the pages used at the peak are free again since this last said so.
    pub(super) fn take_shrunk(&mut self) -> bool {
        let shrunk = self.used_pages < self.peak_pages / 2;
        if shrunk {
            self.peak_pages = self.used_pages;
        }
        shrunk
    }

    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved_extents as usize * EXTENT_BYTES
    }

    pub(super) fn used_pages(&self) -> u32 {
        self.used_pages
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.runs.len() * RUN_METADATA_BYTES
    }

    /// Empty extents kept while something is allocated, so that a program that breathes does not reserve and
    /// release all the time.
    fn keep_extents(&self) -> u32 {
        1 + (self.reserved_extents / 16).min(31)
    }

    /// The run to take from, and the first page to take.
    fn find(&self, pages: u32, align: u32) -> Option<(u32, u32)> {
        let aligned = |&(length, run): &(u32, u32)| {
            let first = run.checked_next_multiple_of(align)?;
            (first - run <= length - pages).then_some((run, first))
        };
        self.by_size.range((pages, 0)..).take(ALIGNED_TRIES).find_map(aligned).or_else(|| {
            let surely = pages.checked_add(align - 1)?;
            self.by_size.range((surely, 0)..).find_map(aligned)
        })
    }

    fn reserve(&mut self, pages: u32, align: u32) -> Result<(), ReserveError> {
        let extents = (pages as usize).div_ceil(EXTENT_PAGES as usize);
        let extents = extents + (align as usize / EXTENT_PAGES as usize).saturating_sub(1);
        if extents > (self.region_pages / EXTENT_PAGES) as usize {
            return Err(ReserveError::RegionFull { extents });
        }
        let offset = self.source.reserve(extents)?;
        assert!(
            offset.is_multiple_of(EXTENT_BYTES)
                && offset / PAGE_BYTES + extents * EXTENT_PAGES as usize <= self.region_pages as usize,
            "the source reserved {extents} extents at {offset:#x}, outside the region"
        );
        self.reserved_extents += extents as u32;
        self.insert((offset / PAGE_BYTES) as u32, extents as u32 * EXTENT_PAGES, 0);
        Ok(())
    }

    /// Takes pages out of the free run `run`; returns whether none was dirty.
    fn take(&mut self, run: u32, first: u32, pages: u32, map: &PageMap) -> bool {
        let free = self.remove(run);
        let dirty = if free.dirty > 0 { map.clean(first, pages) } else { 0 };
        let before = first - run;
        let dirty_before = if free.dirty > dirty { map.count_dirty(run, before) } else { 0 };
        self.insert(run, before, dirty_before);
        self.insert(first + pages, free.pages - before - pages, free.dirty - dirty - dirty_before);
        self.used_pages += pages;
        self.peak_pages = self.peak_pages.max(self.used_pages);
        dirty == 0
    }

    /// Frees dirty pages that are many: whole extents go back as they are, and only what is left is discarded.
    fn free_long(&mut self, first: u32, pages: u32, map: &PageMap, metadata: &Metadata) {
        let (from, to) = (first.next_multiple_of(EXTENT_PAGES), (first + pages) / EXTENT_PAGES * EXTENT_PAGES);
        let whole = to.saturating_sub(from) / EXTENT_PAGES;
        let keep = if self.used_pages == 0 { 0 } else { self.keep_extents() };
        let release = whole.min((self.empty_extents + whole).saturating_sub(keep));
        if release == 0 {
            self.source.discard(first as usize * PAGE_BYTES, pages as usize * PAGE_BYTES);
            self.insert(first, pages, 0);
            return;
        }
        let cut = to - release * EXTENT_PAGES;
        self.give_back(cut, release);
        for (part, length) in [(first, cut - first), (to, first + pages - to)] {
            if length >= DISCARD_PAGES {
                self.source.discard(part as usize * PAGE_BYTES, length as usize * PAGE_BYTES);
                self.insert(part, length, 0);
            } else {
                map.set(part, length, PageUse::Dirty, metadata);
                self.insert(part, length, length);
            }
        }
    }

    /// Gives empty extents back, those at the highest addresses first, until `keep` are left.
    fn release_empty(&mut self, map: &PageMap, keep: u32) {
        let mut below = self.region_pages;
        while self.empty_extents > keep {
            let Some((&run, &free)) =
                self.runs.range(..below).rfind(|(run, free)| whole_extents(**run, free.pages) > 0)
            else {
                break;
            };
            below = run;
            let release = whole_extents(run, free.pages).min(self.empty_extents - keep);
            let to = (run + free.pages) / EXTENT_PAGES * EXTENT_PAGES;
            let from = to - release * EXTENT_PAGES;
            self.remove(run);
            let dirty = if free.dirty > 0 { map.clean(from, to - from) } else { 0 };
            let dirty_before = if free.dirty > dirty { map.count_dirty(run, from - run) } else { 0 };
            self.insert(run, from - run, dirty_before);
            self.insert(to, run + free.pages - to, free.dirty - dirty - dirty_before);
            self.give_back(from, release);
        }
    }

    fn give_back(&mut self, first: u32, extents: u32) {
        self.reserved_extents -= extents;
        self.source.release(first as usize * PAGE_BYTES, extents as usize);
    }

    /// Discards the dirty pages of free runs that have at least `at_least` of them.
    fn sweep(&mut self, at_least: u32, map: &PageMap) {
        for (&run, free) in self.runs.iter_mut().filter(|(_, free)| free.dirty >= at_least) {
            let is_dirty = |page: &u32| map.get(*page as usize) == PageUse::Dirty;
            let mut pages = run..run + free.pages;
            let (Some(first), Some(last)) = (pages.clone().find(is_dirty), pages.rfind(is_dirty)) else {
                continue;
            };
            map.clean(first, last - first + 1);
            self.source.discard(first as usize * PAGE_BYTES, (last - first + 1) as usize * PAGE_BYTES);
            self.dirty_pages -= free.dirty;
            free.dirty = 0;
        }
    }

    /// Adds free pages, together with the free runs beside them.
    fn insert(&mut self, first: u32, pages: u32, dirty: u32) {
        if pages == 0 {
            return;
        }
        let (mut first, mut free) = (first, FreeRun { pages, dirty });
        if let Some((&before, &run)) = self.runs.range(..first).next_back() {
            debug_assert!(before + run.pages <= first, "pages {first}.. freed twice");
            if before + run.pages == first {
                self.remove(before);
                (first, free) = (before, FreeRun { pages: run.pages + free.pages, dirty: run.dirty + free.dirty });
            }
        }
        if let Some(&after) = self.runs.get(&(first + free.pages)) {
            self.remove(first + free.pages);
            free = FreeRun { pages: free.pages + after.pages, dirty: free.dirty + after.dirty };
        }
        self.runs.insert(first, free);
        self.by_size.insert((free.pages, first));
        self.empty_extents += whole_extents(first, free.pages);
        self.dirty_pages += free.dirty;
    }

    fn remove(&mut self, first: u32) -> FreeRun {
        let free = self.runs.remove(&first).expect("a run in the tree");
        self.by_size.remove(&(free.pages, first));
        self.empty_extents -= whole_extents(first, free.pages);
        self.dirty_pages -= free.dirty;
        free
    }
}

/// How many whole extents lie within a run.
fn whole_extents(first: u32, pages: u32) -> u32 {
    ((first + pages) / EXTENT_PAGES).saturating_sub(first.div_ceil(EXTENT_PAGES))
}
