//! A piece of far memory, touched as a program would, with its bounds checked.

use std::{alloc::Layout, ptr::NonNull, sync::atomic::AtomicU64};

use rum_core::grid::Grid;

/// Far memory. Several threads may use it at once if they keep to different bytes, or to `counter`.
#[derive(Clone, Copy, Debug)]
pub struct Far {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory; the tests let no two threads touch the same bytes other than as atomics.
unsafe impl Send for Far {}
// SAFETY: as above.
unsafe impl Sync for Far {}

impl Far {
    /// Allocates zeroed bytes on page boundaries.
    pub fn zeroed(grid: &Grid, len: usize) -> Self {
        let layout = Layout::from_size_align(len, super::PAGE).expect("a layout");
        Self { base: grid.alloc_zeroed(layout).expect("far memory"), len }
    }

    pub fn of(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.len, "{at} + {len} of {}", self.len);
        self.base.as_ptr().wrapping_add(at)
    }

    pub fn read(&self, at: usize, into: &mut [u8]) {
        // SAFETY: inside the allocation; no other thread writes these bytes now.
        unsafe { self.at(at, into.len()).copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        // SAFETY: inside the allocation; no other thread uses these bytes now.
        unsafe { self.at(at, bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    pub fn fill(&self, at: usize, len: usize, byte: u8) {
        // SAFETY: as for `write`.
        unsafe { self.at(at, len).write_bytes(byte, len) }
    }

    pub fn byte(&self, at: usize) -> u8 {
        // SAFETY: as for `read`.
        unsafe { self.at(at, 1).read_volatile() }
    }

    pub fn set_byte(&self, at: usize, byte: u8) {
        // SAFETY: as for `write`.
        unsafe { self.at(at, 1).write_volatile(byte) }
    }

    /// A word at any byte.
    pub fn word(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes);
        u64::from_ne_bytes(bytes)
    }

    pub fn set_word(&self, at: usize, word: u64) {
        self.write(at, &word.to_ne_bytes());
    }

    /// A word that several threads may use.
    pub fn counter(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8));
        // SAFETY: inside the allocation, aligned, and touched as an atomic only.
        unsafe { AtomicU64::from_ptr(self.at(at, 8).cast()) }
    }
}
