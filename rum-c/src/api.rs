//! The C functions of rum_c_version.h, which documents them. The C++ overloads of rum.h are inline over these.
//!
//! A panic in one of them cannot reach the caller: Rust ends the process at an `extern "C"` boundary.

use std::{
    alloc::Layout,
    ffi::{c_char, c_int, c_void},
    fmt::Write,
    ptr::{self, NonNull},
};

use rum_core::grid::{AllocError, FreeError, Grid, Location, ObjectHash, ReallocError, Stats};

use crate::{
    errors::{die, errno_of, meaning, set_errno},
    location::{CHash, CLocation, path_of},
    process::{self, grid_for},
};

/// As malloc's on this platform.
const ALIGNMENT: usize = 16;
const MAX_ALIGNMENT: usize = 4096;

/// The layout of `size` bytes; a size of 0 counts as 1, so that its pointer is unique.
fn layout(size: usize, alignment: usize) -> Result<Layout, AllocError> {
    Layout::from_size_align(size.max(1), alignment).map_err(|_| AllocError::BadLayout)
}

fn pointer_or_errno(result: Result<NonNull<u8>, AllocError>) -> *mut c_void {
    match result {
        Ok(pointer) => pointer.as_ptr().cast(),
        Err(error) => {
            set_errno(errno_of(&error));
            ptr::null_mut()
        }
    }
}

fn allocate(call: &str, take: impl FnOnce(&Grid) -> Result<NonNull<u8>, AllocError>) -> *mut c_void {
    match grid_for(call) {
        Some(grid) => pointer_or_errno(take(&grid)),
        None => ptr::null_mut(),
    }
}

fn named(grid: &Grid, hash: &ObjectHash, size: usize, place: Option<&Location>) -> Result<NonNull<u8>, AllocError> {
    // A name of an impossible size can neither be created nor exist.
    layout(size, ALIGNMENT)?;
    grid.alloc_named(hash, size.max(1), place).map(|object| object.pointer)
}

/// # Safety
/// `machines_csv` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rum_c_init(machines_csv: *const c_char) {
    // SAFETY: as the caller promises.
    process::init(unsafe { path_of(machines_csv) });
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_alloc(size: usize) -> *mut c_void {
    allocate("rum_alloc", |grid| grid.alloc(layout(size, ALIGNMENT)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_alloc_location(size: usize, location: CLocation) -> *mut c_void {
    allocate("rum_alloc", |grid| match location.named() {
        Some(place) => grid.alloc_at(layout(size, ALIGNMENT)?, &place),
        None => grid.alloc(layout(size, ALIGNMENT)?),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_alloc_hash(size: usize, hash: CHash) -> *mut c_void {
    allocate("rum_alloc", |grid| named(grid, &hash.name(), size, None))
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_alloc_hash_location(size: usize, hash: CHash, location: CLocation) -> *mut c_void {
    allocate("rum_alloc", |grid| named(grid, &hash.name(), size, location.named().as_ref()))
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_calloc(count: usize, size: usize) -> *mut c_void {
    allocate("rum_calloc", |grid| {
        let bytes = count.checked_mul(size).ok_or(AllocError::BadLayout)?;
        grid.alloc_zeroed(layout(bytes, ALIGNMENT)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        set_errno(libc::EINVAL);
        return ptr::null_mut();
    }
    allocate("rum_aligned_alloc", |grid| grid.alloc(layout(size, alignment.max(ALIGNMENT))?))
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(pointer.cast::<u8>()) else {
        return allocate("rum_realloc", |grid| grid.alloc(layout(size, ALIGNMENT)?));
    };
    if size == 0 {
        rum_c_free(pointer);
        return ptr::null_mut();
    }
    allocate("rum_realloc", |grid| {
        layout(size, ALIGNMENT)?;
        match grid.realloc(old, size) {
            Ok(new) => Ok(new),
            Err(ReallocError::Alloc(error)) => Err(error),
            Err(ReallocError::Free(error)) => die(format_args!("rum_realloc: {error}")),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_free(pointer: *mut c_void) {
    let Some(start) = NonNull::new(pointer.cast::<u8>()) else { return };
    let Some(grid) = crate::current::enter() else { return process::free_without_grid(pointer as usize) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    if let Err(error @ (FreeError::NotAllocated(_) | FreeError::Foreign(_))) = grid.free(start) {
        die(format_args!("rum_free: {error}"));
    }
    // As free does: a clean-up path keeps the error that led to it.
    set_errno(errno);
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_free_hash(pointer: *mut c_void, hash: CHash) {
    if pointer.is_null() {
        return;
    }
    let Some(grid) = crate::current::enter() else { return process::free_without_grid(pointer as usize) };
    let name = hash.name();
    match grid.get_named(&name, None) {
        Some(object) if object.pointer.as_ptr().cast() != pointer => {
            die(format_args!("rum_free: {pointer:p} is not the object of this name, which is at {:p}", object.pointer))
        }
        Some(_) if grid.free_named(&name, None) => {}
        _ => set_errno(libc::ENOENT),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_free_hash_location(location: CLocation, hash: CHash) {
    let Some(grid) = grid_for("rum_free") else { return };
    if !grid.free_named(&hash.name(), location.named().as_ref()) {
        set_errno(libc::ENOENT);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_get(hash: CHash, location: CLocation) -> *mut c_void {
    let Some(grid) = grid_for("rum_get") else { return ptr::null_mut() };
    match grid.get_named(&hash.name(), location.named().as_ref()) {
        Some(object) => object.pointer.as_ptr().cast(),
        None => {
            set_errno(libc::ENOENT);
            ptr::null_mut()
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_flush_cache() {
    if let Some(grid) = grid_for("rum_flush_cache") {
        grid.flush();
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_stats() {
    if let Some(grid) = grid_for("rum_stats") {
        process::print(&stats_text(&grid.links(), &grid.engine().to_string(), &grid.stats()));
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_end() {
    process::end();
}

#[unsafe(no_mangle)]
pub extern "C" fn rum_c_errno_string(error: c_int) -> *const c_char {
    meaning(error).as_ptr()
}

fn stats_text(links: &[String], engine: &str, stats: &Stats) -> String {
    let mut text = format!("links {}\nengine {engine}\n", links.join(" "));
    let numbers = [
        ("budget_bytes", stats.budget_bytes),
        ("resident_bytes", stats.resident_bytes),
        ("resident_peak_bytes", stats.resident_peak_bytes),
        ("reserved_bytes", stats.reserved_bytes),
        ("allocated_bytes", stats.allocated_bytes),
        ("metadata_bytes", stats.metadata_bytes),
        ("faults", stats.faults),
        ("fetch_faults", stats.fetch_faults),
        ("pages_fetched", stats.pages_fetched),
        ("pages_written", stats.pages_written),
        ("pages_evicted", stats.pages_evicted),
        ("pages_clean", stats.pages_clean),
        ("pages_wrong", stats.pages_wrong),
        ("pages_repaired", stats.pages_repaired),
        ("fault_p50_ns", stats.fault_p50_ns),
        ("fault_p99_ns", stats.fault_p99_ns),
        ("fault_longest_ns", stats.fault_longest_ns),
        ("fault_mean_ns", stats.fault_mean_ns),
    ];
    for (name, value) in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_errors_and_zero_is_one_byte() {
        assert!(layout(usize::MAX, 16).is_err());
        assert!(layout(isize::MAX as usize, 16).is_err());
        assert_eq!(layout(0, 16).unwrap().size(), 1);
    }

    #[test]
    fn stats_are_one_name_and_value_a_line() {
        let stats = Stats { faults: 7, budget_bytes: 65536, ..Stats::default() };
        let text = stats_text(&["vhost:/a".into(), "vhost:/b".into()], "uffd-inline", &stats);
        assert!(text.starts_with("links vhost:/a vhost:/b\nengine uffd-inline\nbudget_bytes 65536\n"));
        assert!(text.contains("\nfaults 7\n"));
        assert!(text.lines().all(|line| line.contains(' ')));
    }
}
