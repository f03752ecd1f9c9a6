//! The memory of one extent. Pages that were never written, or were written as zeros, are absent: they cost nothing
//! and read as zeros.

use std::io;

use memmap2::{Advice, MmapMut};
use rum_net::{EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES, wire::message::PageContent};

/// A page's number within its extent. Every value of the type is one, so that it needs no check.
pub type PageNumber = u8;

const _: () = assert!(EXTENT_PAGES == PageNumber::MAX as usize + 1);

/// The pages of one extent: an anonymous map, which the kernel populates page by page at the first write, and a
/// bit for each page that holds data.
#[derive(Debug)]
pub struct Frames {
    map: MmapMut,
    present: [u64; EXTENT_PAGES / 64],
}

impl Frames {
    /// Maps an extent with all pages absent, so that no later write can fail. It takes address space, no memory.
    pub fn map() -> io::Result<Self> {
        Ok(Self { map: map()?, present: [0; EXTENT_PAGES / 64] })
    }

    /// What a page holds.
    pub fn read(&self, page: PageNumber) -> PageContent<'_> {
        if self.is_present(page) { PageContent::Data(&self.map[bytes_of(page)]) } else { PageContent::Zeros }
    }

    /// Lets a page hold `content`; `Data` must be `PAGE_BYTES` long.
    pub fn write(&mut self, page: PageNumber, content: PageContent<'_>) {
        let (word, bit) = position(page);
        match content {
            PageContent::Data(bytes) => {
                self.map[bytes_of(page)].copy_from_slice(bytes);
                self.present[word] |= bit;
            }
            PageContent::Zeros if self.is_present(page) => {
                self.present[word] &= !bit;
                if self.present_pages() == 0 {
                    self.give_memory_back();
                }
            }
            PageContent::Zeros => {}
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
        if let Ok(map) = map() {
            self.map = map;
        }
    }
}

fn map() -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(EXTENT_BYTES)?;
    // Neighbouring maps merge, and a huge page under one written page would cost 512 pages. A kernel without
    // transparent huge pages refuses the advice, and needs none.
    let _ = map.advise(Advice::NoHugePage);
    Ok(map)
}

fn position(page: PageNumber) -> (usize, u64) {
    (usize::from(page) / 64, 1 << (page % 64))
}

fn bytes_of(page: PageNumber) -> std::ops::Range<usize> {
    let start = usize::from(page) * PAGE_BYTES;
    start..start + PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(fill: u8) -> [u8; PAGE_BYTES] {
        [fill; PAGE_BYTES]
    }

    #[test]
    fn absent_pages_read_as_zeros() {
        let frames = Frames::map().unwrap();
        for page in 0..=PageNumber::MAX {
            assert_eq!(frames.read(page), PageContent::Zeros);
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
            assert_eq!(frames.read(page), PageContent::Data(&data(page)));
        }
        assert_eq!(frames.present_pages() as usize, EXTENT_PAGES);
    }

    #[test]
    fn zeros_make_a_page_absent_and_never_show_old_data() {
        let mut frames = Frames::map().unwrap();
        frames.write(7, PageContent::Data(&data(1)));
        frames.write(8, PageContent::Data(&data(2)));
        frames.write(7, PageContent::Zeros);
        assert_eq!(frames.read(7), PageContent::Zeros);
        assert_eq!(frames.read(8), PageContent::Data(&data(2)));
        frames.write(8, PageContent::Zeros);
        frames.write(8, PageContent::Zeros);
        assert_eq!(frames.present_pages(), 0);
        assert_eq!(frames.read(8), PageContent::Zeros);
    }
}
