//! The allocator. All its metadata lies outside the region: no call here reads or writes a far page.
//!
//! ```text
//!   allocate(size, align)                       free(offset)
//!          │ size_class                              │ page_map: what is this page?
//!     ┌────┴───────────┐                    ┌────────┴────────┐
//!     ▼                ▼                    ▼                 ▼
//!  stripe → slab     large                slab              large      slots and their bitmaps, whole pages
//!     └────────┬───────┘                    └────────┬────────┘
//!              ▼                                     ▼
//!          page_heap  ◄──────────────────────── page_heap              runs of free pages
//!              ▼ reserve                             ▼ release, discard
//!                             ExtentSource                             the grid
//! ```
#![forbid(unsafe_code)]

mod allocator;
mod large;
mod metadata;
mod page_heap;
mod page_map;
mod size_class;
mod slab;
mod stripe;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use allocator::{AllocateError, Allocator, AllocatorStats, Block, FreedSize, NotAllocated};

/// Takes a lock, also when a thread panicked while it held it: nobody calls foreign code under one but an
/// `ExtentSource`, and that before anything is changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the allocator gets pieces of the region from, and gives them back to: the grid.
pub trait ExtentSource: Send + Sync {
    /// Reserves `extents` (1 MiB each) that lie side by side in the region, on the grid and in it. All their
    /// pages are absent: they read as zeros. Returns the offset in the region, in bytes.
    fn reserve(&self, extents: usize) -> Result<usize, ReserveError>;
    /// Gives extents back to the grid; `offset` and `extents` name extents reserved before, not
    /// necessarily by one call. Their contents are gone.
    fn release(&self, offset: usize, extents: usize);
    /// Makes whole pages absent again (they read as zeros and cost nothing), and keeps them reserved.
    fn discard(&self, offset: usize, bytes: usize);
}

/// Why the grid gave no extents.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReserveError {
    /// Neither the grid nor the client's quota has room.
    #[error("the grid has no room for {extents} more MiB")]
    GridFull {
        /// Extents asked for.
        extents: usize,
    },
    /// The client's own address range is used up.
    #[error("the region has no room for {extents} more MiB side by side")]
    RegionFull {
        /// Extents asked for.
        extents: usize,
    },
}
