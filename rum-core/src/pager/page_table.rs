//! What the pager knows of each page of the region: 25 bytes a page, 0.61 %, touched only for pages in use.

use super::state::{PageEvent, PageState};
use crate::fault::PageNumber;

/// A page's XXH3 hash over its 4 KiB.
pub type PageHash = u128;

const STATE_BITS: u8 = 0b0000_0111;
const STORED: u8 = 0b0000_1000;
const HASH_KNOWN: u8 = 0b0001_0000;
const NO_PAGE: u32 = 0;

/// Neighbours in the eviction queue: previous and next, as page numbers plus one. An array, because only of plain
/// numbers does `vec!` take fresh zero pages from the kernel.
type Link = [u32; 2];

/// State, flags, hash and eviction order of every page. Its arrays are allocated at once and zeroed lazily by the
/// kernel, so that a large region costs nothing until it is used.
pub struct PageTable {
    bits: Vec<u8>,
    hashes: Vec<PageHash>,
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    queued: usize,
}

impl PageTable {
    /// A table of `pages` absent pages.
    pub fn new(pages: usize) -> Self {
        assert!(pages < u32::MAX as usize, "page numbers are 32 bits");
        Self {
            bits: vec![0; pages],
            hashes: vec![0; pages],
            links: vec![[NO_PAGE; 2]; pages],
            oldest: NO_PAGE,
            newest: NO_PAGE,
            queued: 0,
        }
    }

    /// Bytes of metadata for one page.
    pub const BYTES_PER_PAGE: usize = 1 + size_of::<PageHash>() + size_of::<Link>();

    pub fn len(&self) -> usize {
        self.bits.len()
    }

    pub fn state(&self, page: PageNumber) -> PageState {
        PageState::from_bits(self.bits[page.0 as usize] & STATE_BITS)
    }

    /// Applies `event`. An illegal one is a mistake in the pager: going on would lose data, so it panics.
    pub fn apply(&mut self, page: PageNumber, event: PageEvent) {
        let bits = &mut self.bits[page.0 as usize];
        match PageState::from_bits(*bits & STATE_BITS).after(event) {
            Ok(state) => *bits = (*bits & !STATE_BITS) | state as u8,
            Err(illegal) => panic!("page {}: {illegal}", page.0),
        }
    }

    /// Whether a slave holds a copy, current or stale.
    pub fn is_stored(&self, page: PageNumber) -> bool {
        self.bits[page.0 as usize] & STORED != 0
    }

    pub fn set_stored(&mut self, page: PageNumber, stored: bool) {
        let bits = &mut self.bits[page.0 as usize];
        *bits = if stored { *bits | STORED } else { *bits & !STORED };
    }

    /// The hash of the contents as last stored, if this client knows it.
    pub fn hash(&self, page: PageNumber) -> Option<PageHash> {
        let index = page.0 as usize;
        (self.bits[index] & HASH_KNOWN != 0).then(|| self.hashes[index])
    }

    pub fn set_hash(&mut self, page: PageNumber, hash: Option<PageHash>) {
        let index = page.0 as usize;
        match hash {
            Some(hash) => {
                self.hashes[index] = hash;
                self.bits[index] |= HASH_KNOWN;
            }
            None => self.bits[index] &= !HASH_KNOWN,
        }
    }

    /// Puts a page that has become resident at the end of the eviction queue.
    pub fn enqueue(&mut self, page: PageNumber) {
        let name = page.0 + 1;
        let newest = self.newest;
        self.links[page.0 as usize] = [newest, NO_PAGE];
        match newest {
            NO_PAGE => self.oldest = name,
            _ => self.links[newest as usize - 1][1] = name,
        }
        self.newest = name;
        self.queued += 1;
    }

    /// Takes a page out of the eviction queue; it must be in it.
    pub fn dequeue(&mut self, page: PageNumber) {
        let [previous, next] = self.links[page.0 as usize];
        match previous {
            NO_PAGE => self.oldest = next,
            _ => self.links[previous as usize - 1][1] = next,
        }
        match next {
            NO_PAGE => self.newest = previous,
            _ => self.links[next as usize - 1][0] = previous,
        }
        self.queued -= 1;
    }

    /// The page that has been resident for longest.
    pub fn oldest(&self) -> Option<PageNumber> {
        self.oldest.checked_sub(1).map(PageNumber)
    }

    /// The page that became resident after `page`.
    pub fn next_newer(&self, page: PageNumber) -> Option<PageNumber> {
        self.links[page.0 as usize][1].checked_sub(1).map(PageNumber)
    }

    /// Pages in the eviction queue.
    pub fn queued(&self) -> usize {
        self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_keeps_order_under_removal() {
        let mut table = PageTable::new(8);
        for page in [3, 1, 7, 0] {
            table.enqueue(PageNumber(page));
        }
        table.dequeue(PageNumber(1));
        table.dequeue(PageNumber(0));
        table.enqueue(PageNumber(1));
        let mut order = vec![];
        let mut at = table.oldest();
        while let Some(page) = at {
            order.push(page.0);
            at = table.next_newer(page);
        }
        assert_eq!(order, [3, 7, 1]);
        for page in [7, 1, 3] {
            table.dequeue(PageNumber(page));
        }
        assert_eq!((table.queued(), table.oldest()), (0, None));
    }

    #[test]
    fn a_fresh_page_is_absent_and_unknown() {
        let mut table = PageTable::new(2);
        let page = PageNumber(1);
        assert_eq!((table.state(page), table.is_stored(page), table.hash(page)), (PageState::Absent, false, None));
        table.set_hash(page, Some(7));
        table.set_stored(page, true);
        table.apply(page, PageEvent::ZerosMapped);
        assert_eq!((table.state(page), table.is_stored(page), table.hash(page)), (PageState::Resident, true, Some(7)));
    }

    #[test]
    #[should_panic(expected = "cannot take")]
    fn an_illegal_event_stops_the_program() {
        PageTable::new(1).apply(PageNumber(0), PageEvent::Fetched);
    }
}
