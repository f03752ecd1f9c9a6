//! The client of RUM: the grid handle, the allocator, the pager and the fault engines.
#![deny(unsafe_code)]

pub mod alloc;
pub mod collections;
pub mod config;
pub mod fault;
pub mod grid;
pub mod pager;
