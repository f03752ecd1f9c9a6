//! Where the allocator's own memory comes from, and the count of it.
//!
//! Each table of the allocator grows through [`Metadata`], so that there is one place to change when the tables
//! are to come from elsewhere than the Rust global allocator. None of it lies in the region.

use std::{
    mem::size_of,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Hands out memory for tables, and counts it in bytes.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    bytes: AtomicUsize,
}

impl Metadata {
    /// A table of `len` values.
    pub(super) fn table<T>(&self, len: usize, value: impl FnMut() -> T) -> Box<[T]> {
        self.bytes.fetch_add(len * size_of::<T>(), Ordering::Relaxed);
        std::iter::repeat_with(value).take(len).collect()
    }

    /// The value in `slot`, made at the first call.
    pub(super) fn once<'a, T>(&self, slot: &'a OnceLock<Box<T>>, value: impl FnOnce() -> T) -> &'a T {
        slot.get_or_init(|| {
            self.bytes.fetch_add(size_of::<T>(), Ordering::Relaxed);
            Box::new(value())
        })
    }

    /// Bytes of all tables handed out.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
