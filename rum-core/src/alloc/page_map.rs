//! What each page of the region is to the allocator: four bytes a page, in leaves made when first needed.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

use super::metadata::Metadata;

/// Pages a leaf describes: 16 MiB of the region.
const LEAF_PAGES: usize = 4096;

type Leaf = [AtomicU32; LEAF_PAGES];

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageUse {
    /// Free or not reserved, and absent when reserved; or inside a large run.
    Clean,
    /// Free, with old contents.
    Dirty,
    /// The first page of a large run.
    Large,
    /// A page of the slab with this number.
    Slab(u32),
}

impl PageUse {
    const DIRTY: u32 = 1;
    const LARGE: u32 = 2;
    const SLAB: u32 = 3;

    #[inline]
    fn decode(bits: u32) -> Self {
        match bits & 3 {
            Self::SLAB => Self::Slab(bits >> 2),
            Self::LARGE => Self::Large,
            Self::DIRTY => Self::Dirty,
            _ => Self::Clean,
        }
    }

    fn encode(self) -> u32 {
        match self {
            Self::Clean => 0,
            Self::Dirty => Self::DIRTY,
            Self::Large => Self::LARGE,
            Self::Slab(slab) => {
                debug_assert!(slab < 1 << 30);
                slab << 2 | Self::SLAB
            }
        }
    }
}

/// The map. Reads take no lock; a page is set only by who owns it.
#[derive(Debug)]
pub(super) struct PageMap {
    leaves: Box<[OnceLock<Box<Leaf>>]>,
}

impl PageMap {
    pub(super) fn new(pages: u32, metadata: &Metadata) -> Self {
        Self { leaves: metadata.table((pages as usize).div_ceil(LEAF_PAGES), OnceLock::new) }
    }

    /// What `page` is. Pages outside the region are clean.
    #[inline]
    pub(super) fn get(&self, page: usize) -> PageUse {
        match self.leaves.get(page / LEAF_PAGES).and_then(OnceLock::get) {
            Some(leaf) => PageUse::decode(leaf[page % LEAF_PAGES].load(Ordering::Acquire)),
            None => PageUse::Clean,
        }
    }

    /// Sets `count` pages.
    pub(super) fn set(&self, first: u32, count: u32, to: PageUse, metadata: &Metadata) {
        self.for_each(first, count, |leaf, range| {
            let leaf = match (leaf.get(), to) {
                (None, PageUse::Clean) => return,
                _ => metadata.once(leaf, || [const { AtomicU32::new(0) }; LEAF_PAGES]),
            };
            for entry in &leaf[range] {
                entry.store(to.encode(), Ordering::Release);
            }
        });
    }

    /// Makes `count` free pages clean; returns how many were dirty.
    pub(super) fn clean(&self, first: u32, count: u32) -> u32 {
        let mut dirty = 0;
        self.for_each(first, count, |leaf, range| {
            let Some(leaf) = leaf.get() else { return };
            for entry in &leaf[range] {
                if entry.load(Ordering::Relaxed) == PageUse::DIRTY {
                    dirty += 1;
                    entry.store(PageUse::Clean.encode(), Ordering::Release);
                }
            }
        });
        dirty
    }

    /// How many of `count` pages are dirty.
    pub(super) fn count_dirty(&self, first: u32, count: u32) -> u32 {
        let mut dirty = 0;
        self.for_each(first, count, |leaf, range| {
            let Some(leaf) = leaf.get() else { return };
            dirty += leaf[range].iter().filter(|entry| entry.load(Ordering::Relaxed) == PageUse::DIRTY).count() as u32;
        });
        dirty
    }

    fn for_each(&self, first: u32, count: u32, mut visit: impl FnMut(&OnceLock<Box<Leaf>>, std::ops::Range<usize>)) {
        let (mut page, end) = (first as usize, first as usize + count as usize);
        while page < end {
            let leaf = page / LEAF_PAGES;
            let stop = end.min((leaf + 1) * LEAF_PAGES);
            visit(&self.leaves[leaf], page - leaf * LEAF_PAGES..stop - leaf * LEAF_PAGES);
            page = stop;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_survive_the_encoding_and_leaves_appear_when_needed() {
        let metadata = Metadata::default();
        let map = PageMap::new(3 * LEAF_PAGES as u32, &metadata);
        let empty = metadata.bytes();
        map.set(0, 3 * LEAF_PAGES as u32, PageUse::Clean, &metadata);
        assert_eq!(metadata.bytes(), empty);
        for to in [PageUse::Dirty, PageUse::Large, PageUse::Slab(0), PageUse::Slab((1 << 30) - 1), PageUse::Clean] {
            map.set(4094, 4, to, &metadata);
            assert_eq!(
                [4093, 4094, 4097, 4098].map(|page| map.get(page) == to),
                [to == PageUse::Clean, true, true, to == PageUse::Clean]
            );
        }
        assert_eq!(map.get(usize::MAX), PageUse::Clean);
        map.set(4094, 4, PageUse::Dirty, &metadata);
        assert_eq!(map.count_dirty(0, 3 * LEAF_PAGES as u32), 4);
        assert_eq!(map.clean(4095, 2), 2);
        assert_eq!(map.count_dirty(0, 3 * LEAF_PAGES as u32), 2);
    }
}
