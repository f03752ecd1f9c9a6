//! Rust collections in far memory: an allocator for `allocator_api2`, and so for `hashbrown`, its `Vec` and its `Box`.
//!
//! ```no_run
//! use rum_core::{collections::FarAllocator, config::Config, grid::Grid};
//!
//! let grid = Grid::join(Config::from_env(None)?)?;
//! let mut numbers = allocator_api2::vec::Vec::new_in(FarAllocator::new(&grid));
//! numbers.extend(0..1_000_000u64);
//! # Ok::<(), rum_core::grid::JoinError>(())
//! ```
#![allow(unsafe_code)]

use std::{alloc::Layout, ptr::NonNull};

use allocator_api2::alloc::{AllocError, Allocator};

use crate::grid::{Grid, Location};

/// Puts a collection into the far memory of a grid. The borrow keeps the grid joined for as long as the collection lives.
#[derive(Clone, Copy, Debug)]
pub struct FarAllocator<'g> {
    grid: &'g Grid,
    location: Option<&'g Location>,
}

impl<'g> FarAllocator<'g> {
    /// An allocator of this grid's memory.
    pub fn new(grid: &'g Grid) -> Self {
        Self { grid, location: None }
    }

    /// An allocator of the memory that one slave keeps, or leads.
    pub fn at(grid: &'g Grid, location: &'g Location) -> Self {
        Self { grid, location: Some(location) }
    }

    /// # Safety
    /// As `Allocator::grow` and `Allocator::shrink` together.
    unsafe fn resize(&self, pointer: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() != 0 && new.size() != 0 && old.align() == new.align() {
            let moved = self.grid.realloc_aligned(pointer, new.size(), new.align()).map_err(|_| AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(moved, new.size()));
        }
        let fresh = self.allocate(new)?;
        // SAFETY: the caller gives `old.size()` readable bytes at `pointer`; `fresh` is another allocation of `new.size()`.
        unsafe {
            pointer.copy_to_nonoverlapping(fresh.cast(), old.size().min(new.size()));
            self.deallocate(pointer, old);
        }
        Ok(fresh)
    }
}

/// What stands for an allocation of no bytes: aligned, never touched, never freed.
fn empty(layout: Layout) -> NonNull<[u8]> {
    let aligned = NonNull::new(std::ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling());
    NonNull::slice_from_raw_parts(aligned, 0)
}

// SAFETY: the grid's allocations stay where they are until they are freed, and the grid outlives every copy of the
// allocator by its borrow; copies are interchangeable, since all free into the same grid.
unsafe impl Allocator for FarAllocator<'_> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(empty(layout));
        }
        let pointer = match self.location {
            None => self.grid.alloc(layout),
            Some(location) => self.grid.alloc_at(layout, location),
        };
        let pointer = pointer.map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(pointer, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(empty(layout));
        }
        if self.location.is_some() {
            let pointer = self.allocate(layout)?;
            // SAFETY: `layout.size()` fresh bytes that nobody else has.
            unsafe { pointer.cast::<u8>().write_bytes(0, layout.size()) };
            return Ok(pointer);
        }
        let pointer = self.grid.alloc_zeroed(layout).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(pointer, layout.size()))
    }

    unsafe fn deallocate(&self, pointer: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        if let Err(error) = self.grid.free(pointer) {
            // The heap is damaged, as with a double free in C: nothing after this could be trusted.
            eprintln!("rum: {error}");
            std::process::abort();
        }
    }

    unsafe fn grow(&self, pointer: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the promises of `grow`.
        unsafe { self.resize(pointer, old, new) }
    }

    unsafe fn shrink(&self, pointer: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the promises of `shrink`.
        unsafe { self.resize(pointer, old, new) }
    }
}
