//! Large allocations: runs of whole pages, known by their first page.

use std::collections::BTreeMap;

/// Bytes a run takes in the tree, which is about two thirds full.
const RUN_METADATA_BYTES: usize = 30;

/// A large allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LargeRun {
    /// Its pages.
    pub(super) pages: u32,
    /// Bytes asked for.
    pub(super) requested: usize,
}

/// All large allocations, by first page. One thread at a time.
#[derive(Debug, Default)]
pub(super) struct LargeTable {
    runs: BTreeMap<u32, LargeRun>,
    requested_bytes: usize,
    pages: usize,
}

impl LargeTable {
    pub(super) fn insert(&mut self, first: u32, run: LargeRun) {
        self.requested_bytes += run.requested;
        self.pages += run.pages as usize;
        let old = self.runs.insert(first, run);
        debug_assert!(old.is_none(), "page {first} was given out twice");
    }

    pub(super) fn remove(&mut self, first: u32) -> Option<LargeRun> {
        let run = self.runs.remove(&first)?;
        self.requested_bytes -= run.requested;
        self.pages -= run.pages as usize;
        Some(run)
    }

    pub(super) fn get(&self, first: u32) -> Option<LargeRun> {
        self.runs.get(&first).copied()
    }

    /// Bytes asked for in all runs.
    pub(super) fn requested_bytes(&self) -> usize {
        self.requested_bytes
    }

    /// Pages of all runs.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.runs.len() * RUN_METADATA_BYTES
    }
}
