//! What is replicated: pages, each with the slot that wrote it last.

use paxos::{Configuration, Entry, MemberId, Slot};

pub const PAGES: usize = 24;
/// Of one message of a transfer.
const CHUNK_PAGES: usize = 5;

/// A page gets a value that no other write has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Write {
    pub page: usize,
    pub value: u64,
}

impl Entry for Write {
    fn size_bytes(&self) -> usize {
        4096
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Page {
    pub value: u64,
    pub slot: Slot,
}

/// The state after `applied`, in which pages may be newer if a transfer brought them.
#[derive(Clone, Debug)]
pub struct Pages {
    pub pages: [Page; PAGES],
    pub applied: Slot,
    pub configuration: Configuration,
}

impl Pages {
    pub fn new(configuration: Configuration) -> Self {
        Self { pages: [Page::default(); PAGES], applied: Slot::ZERO, configuration }
    }

    pub fn write(&mut self, slot: Slot, write: Write) {
        self.take(write.page, Page { value: write.value, slot });
    }

    fn take(&mut self, index: usize, page: Page) {
        if page.slot > self.pages[index].slot {
            self.pages[index] = page;
        }
    }

    /// The part of the pages at `cursor` that was written after `since`.
    pub fn chunk(&self, from: MemberId, through: Slot, since: Slot, cursor: u64) -> Chunk {
        let begin = (cursor as usize).min(PAGES);
        let end = (begin + CHUNK_PAGES).min(PAGES);
        let pages = (begin..end).map(|index| (index, self.pages[index])).filter(|(_, page)| page.slot > since);
        Chunk { from, through, cursor, next: end as u64, is_last: end == PAGES, pages: pages.collect() }
    }

    pub fn install(&mut self, chunk: &Chunk) {
        for (index, page) in &chunk.pages {
            self.take(*index, *page);
        }
    }
}

/// A message of a transfer of state.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub from: MemberId,
    pub through: Slot,
    pub cursor: u64,
    pub next: u64,
    pub is_last: bool,
    pub pages: Vec<(usize, Page)>,
}
