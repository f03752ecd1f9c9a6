//! librum: the C and C++ interface of RUM, and the wrappers that let system calls use far buffers.
//!
//! C and C++ programs link `librum.so` and include the headers of `include/`. A Rust program may use `rum_core` alone; when it
//! uses this crate and hands its grid to [`attach`], `std::fs`, `std::net` and `std::io` work on far buffers under every
//! fault engine.

mod api;
mod bounce;
mod current;
mod errors;
mod location;
mod process;

pub use current::{attach, detach};
pub use rum_core::{
    collections::FarAllocator,
    config::Config,
    grid::{AllocError, FreeError, Grid, JoinError, Location, NamedObject, ObjectHash, ReallocError, Stats},
};
