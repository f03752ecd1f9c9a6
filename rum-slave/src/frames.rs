//! The memory of one extent. Pages that were never written, or were written as zeros, are absent: they cost nothing
//! and read as zeros.

use std::{collections::HashMap, io};

use rum_net::{
    EXTENT_PAGES, PAGE_BYTES,
    port::page::{Page, PageMap},
    wire::message::PageContent,
};

/// A page's number within its extent. Every value of the type is one, so that it needs no check.
pub type PageNumber = u8;

const _: () = assert!(EXTENT_PAGES == PageNumber::MAX as usize + 1);

/// The pages of one extent: a map of memory, and a bit for each page that holds data. Responses borrow pages until their
/// clients have them; a page that is written meanwhile lies elsewhere until it is written again.
#[derive(Debug)]
pub struct Frames {
    map: PageMap,
    present: [u64; EXTENT_PAGES / 64],
    elsewhere: HashMap<PageNumber, Page>,
}

impl Frames {
    /// Maps an extent with all pages absent, so that no later write can fail. It takes address space, no memory.
    pub fn map() -> io::Result<Self> {
        let map = PageMap::new(EXTENT_PAGES)?;
        Ok(Self { map, present: [0; EXTENT_PAGES / 64], elsewhere: HashMap::new() })
    }

    /// What a page holds; `None` are zeros.
    pub fn read(&self, page: PageNumber) -> Option<Page> {
        if !self.is_present(page) {
            return None;
        }
        let elsewhere = if self.elsewhere.is_empty() { None } else { self.elsewhere.get(&page) };
        Some(elsewhere.cloned().unwrap_or_else(|| self.map.lend(page.into())))
    }

    /// Lets a page hold `content`.
    pub fn write(&mut self, page: PageNumber, content: PageContent<'_>) {
        let (word, bit) = position(page);
        match content {
            PageContent::Data(bytes) => {
                self.write_data(page, bytes);
                self.present[word] |= bit;
            }
            PageContent::Zeros if self.is_present(page) => {
                self.present[word] &= !bit;
                self.elsewhere.remove(&page);
                if self.present_pages() == 0 {
                    self.give_memory_back();
                }
            }
            PageContent::Zeros => {}
        }
    }

    fn write_data(&mut self, page: PageNumber, bytes: &[u8; PAGE_BYTES]) {
        if !self.map.write(page.into(), bytes) {
            self.elsewhere.insert(page, Page::copy_of(bytes));
        } else if !self.elsewhere.is_empty() {
            self.elsewhere.remove(&page);
        }
    }

    /// Whether the page holds data.
    pub fn is_present(&self, page: PageNumber) -> bool {
        let (word, bit) = position(page);
        self.present[word] & bit != 0
    }

    /// How many pages hold data.
    pub fn present_pages(&self) -> u32 {
        self.present.iter().map(|word| word.count_ones()).sum()
    }

    /// A new map in the place of the old, whose memory goes back to the kernel. When there is none to be had the old
    /// one stays: its bytes are not read any more.
    fn give_memory_back(&mut self) {
        if let Ok(map) = PageMap::new(EXTENT_PAGES) {
            self.map = map;
        }
    }
}

fn position(page: PageNumber) -> (usize, u64) {
    (usize::from(page) / 64, 1 << (page % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(fill: u8) -> [u8; PAGE_BYTES] {
        [fill; PAGE_BYTES]
    }

    fn holds(frames: &Frames, page: PageNumber) -> Option<[u8; PAGE_BYTES]> {
        frames.read(page).map(|page| *page)
    }

    #[test]
    fn absent_pages_read_as_zeros() {
        let frames = Frames::map().unwrap();
        for page in 0..=PageNumber::MAX {
            assert_eq!(holds(&frames, page), None);
        }
        assert_eq!(frames.present_pages(), 0);
    }

    #[test]
    fn every_page_has_a_place_of_its_own() {
        let mut frames = Frames::map().unwrap();
        for page in 0..=PageNumber::MAX {
            frames.write(page, PageContent::Data(&data(page)));
        }
        for page in 0..=PageNumber::MAX {
            assert_eq!(holds(&frames, page), Some(data(page)));
        }
        assert_eq!(frames.present_pages() as usize, EXTENT_PAGES);
    }

    #[test]
    fn zeros_make_a_page_absent_and_never_show_old_data() {
        let mut frames = Frames::map().unwrap();
        frames.write(7, PageContent::Data(&data(1)));
        frames.write(8, PageContent::Data(&data(2)));
        frames.write(7, PageContent::Zeros);
        assert_eq!(holds(&frames, 7), None);
        assert_eq!(holds(&frames, 8), Some(data(2)));
        frames.write(8, PageContent::Zeros);
        frames.write(8, PageContent::Zeros);
        assert_eq!(frames.present_pages(), 0);
        assert_eq!(holds(&frames, 8), None);
    }

    #[test]
    fn a_page_that_is_being_sent_keeps_its_bytes() {
        let mut frames = Frames::map().unwrap();
        frames.write(7, PageContent::Data(&data(1)));
        let sent = frames.read(7).unwrap();
        frames.write(7, PageContent::Data(&data(2)));
        let later = frames.read(7).unwrap();
        frames.write(7, PageContent::Data(&data(3)));
        assert_eq!((*sent, *later, holds(&frames, 7)), (data(1), data(2), Some(data(3))));
        frames.write(7, PageContent::Zeros);
        assert_eq!((*sent, holds(&frames, 7)), (data(1), None));
        drop((sent, later));
        frames.write(7, PageContent::Data(&data(4)));
        assert_eq!(holds(&frames, 7), Some(data(4)));
        assert!(frames.elsewhere.is_empty());
    }
}
