//! Memory of pages that ports send from: what a port is given is where the page is stored, and is not copied before.
//!
//! Why the unsafe code is sound: a map's owner writes a page only while nobody has it lent, which a count for each page
//! says. Only the owner, whom the compiler lets write or lend but not both at once, raises the count; whoever has
//! borrowed lowers it when done, from any thread.
#![allow(unsafe_code)]

use std::{
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::PAGE_BYTES;

/// So many pages of memory, which the kernel populates page by page at the first write, and their counts.
#[derive(Debug)]
struct Map {
    memory: MmapRaw,
    /// How often each page is lent.
    lent: Box<[AtomicU32]>,
}

impl Map {
    fn at(&self, number: usize) -> *mut u8 {
        assert!(number < self.lent.len(), "page {number} of {}", self.lent.len());
        self.memory.as_mut_ptr().wrapping_add(number * PAGE_BYTES)
    }
}

/// Memory of some pages, all zeros at first. It goes back to the kernel when it is dropped and nothing of it is lent.
#[derive(Debug)]
pub struct PageMap(Arc<Map>);

impl PageMap {
    /// Maps `pages` pages. It takes address space, no memory.
    pub fn new(pages: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(pages * PAGE_BYTES).map_anon()?;
        // Neighbouring maps merge, and a huge page under one written page would cost 512 pages. A kernel without
        // transparent huge pages refuses the advice, and needs none.
        let _ = memory.advise(Advice::NoHugePage);
        let lent = (0..pages).map(|_| AtomicU32::new(0)).collect();
        Ok(Self(Arc::new(Map { memory: memory.into(), lent })))
    }

    /// Lends a page.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn lend(&self, number: usize) -> Page {
        self.0.lent[number].fetch_add(1, Ordering::Relaxed);
        Page(Place::Mapped { map: self.0.clone(), number })
    }

    /// Writes a page; does nothing, and says `false`, while it is lent.
    ///
    /// # Panics
    /// If there is no such page.
    #[must_use]
    pub fn write(&mut self, number: usize, bytes: &[u8; PAGE_BYTES]) -> bool {
        let to = self.0.at(number);
        // What the last who had it read comes before what is written now.
        if self.0.lent[number].load(Ordering::Acquire) > 0 {
            return false;
        }
        // SAFETY: `at` has checked that the page lies in the map. Nobody has it: the count is zero, and only `lend` raises
        // it, which cannot run now, since it borrows what `&mut self` has alone. The bytes come from elsewhere, for who
        // has a part of this map as `bytes` has it lent.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, PAGE_BYTES) };
        true
    }
}

/// The bytes of a page, lent by who stores it: they do not change before it is dropped.
#[derive(Debug)]
pub struct Page(Place);

#[derive(Debug)]
enum Place {
    /// In a map.
    Mapped { map: Arc<Map>, number: usize },
    /// In memory of its own.
    Own(Arc<[u8; PAGE_BYTES]>),
}

impl Page {
    /// A page in memory of its own, with a copy of these bytes.
    pub fn copy_of(bytes: &[u8; PAGE_BYTES]) -> Self {
        Self(Place::Own(Arc::new(*bytes)))
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Place::Mapped { map, number } => {
                map.lent[*number].fetch_add(1, Ordering::Relaxed);
                Place::Mapped { map: map.clone(), number: *number }
            }
            Place::Own(bytes) => Place::Own(bytes.clone()),
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Place::Mapped { map, number } = &self.0 {
            map.lent[*number].fetch_sub(1, Ordering::Release);
        }
    }
}

impl Deref for Page {
    type Target = [u8; PAGE_BYTES];

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            // SAFETY: `at` has checked that the page lies in the map, which `self` keeps; any bytes are valid; and they are
            // not written while `self` is counted.
            Place::Mapped { map, number } => unsafe { &*map.at(*number).cast() },
            Place::Own(bytes) => bytes,
        }
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Page {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_lent_is_not_written() {
        let mut map = PageMap::new(2).unwrap();
        assert!(map.write(1, &[1; PAGE_BYTES]));
        let lent = map.lend(1);
        let again = lent.clone();
        assert!(map.write(0, &[5; PAGE_BYTES]), "the other page");
        drop(lent);
        assert!(!map.write(1, &[2; PAGE_BYTES]));
        assert_eq!(*again, [1; PAGE_BYTES]);
        drop(again);
        assert!(map.write(1, &[2; PAGE_BYTES]));
        assert_eq!(*map.lend(1), [2; PAGE_BYTES]);
    }

    #[test]
    fn what_is_lent_outlives_its_map() {
        let mut map = PageMap::new(1).unwrap();
        assert!(map.write(0, &[7; PAGE_BYTES]));
        let lent = map.lend(0);
        drop(map);
        assert_eq!(std::thread::spawn(move || lent[PAGE_BYTES - 1]).join().unwrap(), 7);
    }
}
