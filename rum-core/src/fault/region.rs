//! The address space of a region: the pages that the program uses, a guard, and the staging area.

use std::{
    io, ptr,
    sync::atomic::{AtomicU8, Ordering},
};

use rum_net::PAGE_BYTES;

use super::PageNumber;

/// Between region and staging: a program that runs past its region dies instead of writing into a frame.
const GUARD_BYTES: usize = 2 << 20;
/// Where regions start: a page table each.
const ALIGNMENT: usize = 2 << 20;
/// The largest region.
pub(super) const MAX_REGION_BYTES: usize = 1 << 40;

/// An anonymous private mapping of our own, removed at drop.
#[derive(Debug)]
pub(super) struct Mapping {
    start: *mut u8,
    bytes: usize,
    fork: ForkMark,
}

// SAFETY: a range of addresses; what may be done with its bytes is decided by the owners of pages and frames.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods only hand out the addresses.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `bytes` of address space, aligned to 2 MiB, without access and without memory. A forked child does not get it,
    /// nor does a core dump.
    pub fn reserve(bytes: usize, file: Option<i32>) -> io::Result<Self> {
        let fork = ForkMark::new()?;
        let padded = bytes + ALIGNMENT;
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let hint = unsafe { map(ptr::null_mut(), padded, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)? };
        let start = hint.wrapping_add(hint.align_offset(ALIGNMENT));
        let head = start as usize - hint as usize;
        // SAFETY: both ends lie in the mapping that was just made and that nobody else knows.
        unsafe {
            unmap(hint, head);
            unmap(start.wrapping_add(bytes), padded - head - bytes);
        }
        let mapping = Self { start, bytes, fork };
        if let Some(fd) = file {
            // SAFETY: replaces our own reservation.
            unsafe { map(start, bytes, libc::MAP_SHARED | libc::MAP_FIXED, fd)? };
        }
        mapping.advise(libc::MADV_DONTFORK)?;
        mapping.advise(libc::MADV_DONTDUMP)?;
        // A kernel without huge pages refuses, and needs no telling.
        let _ = mapping.advise(libc::MADV_NOHUGEPAGE);
        Ok(mapping)
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// Whether this process is a forked child of the one that made the mapping, and so has no such mapping.
    pub fn is_forked(&self) -> bool {
        self.fork.is_forked()
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the pieces of advice used here change no contents.
        check(unsafe { libc::madvise(self.start.cast(), self.bytes, advice) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.is_forked() {
            // SAFETY: our own mapping; whoever could reach it (pager, engine) has gone, as they own `self`.
            unsafe { unmap(self.start, self.bytes) };
        }
    }
}

/// Region and staging in one mapping.
#[derive(Debug)]
pub(super) struct Layout {
    mapping: Mapping,
    pages: usize,
    frames: usize,
}

impl Layout {
    /// Address space for `region_bytes`, rounded up to pages, and `frames`.
    pub fn new(region_bytes: usize, frames: usize) -> io::Result<Self> {
        let pages = region_bytes.div_ceil(PAGE_BYTES);
        let mapping = Mapping::reserve(pages * PAGE_BYTES + GUARD_BYTES + frames.max(1) * PAGE_BYTES, None)?;
        let layout = Self { mapping, pages, frames };
        layout.protect_region(libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the staging area lies in our own mapping.
        unsafe { protect(layout.frame(0), frames.max(1) * PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE)? };
        Ok(layout)
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn frames(&self) -> usize {
        self.frames
    }

    pub fn base(&self) -> *mut u8 {
        self.mapping.start()
    }

    /// The address of a page, which need not exist.
    pub fn page(&self, index: usize) -> *mut u8 {
        self.base().wrapping_add(index * PAGE_BYTES)
    }

    /// The address of a frame, which need not exist.
    pub fn frame(&self, index: usize) -> *mut u8 {
        self.base().wrapping_add(self.pages * PAGE_BYTES + GUARD_BYTES + index * PAGE_BYTES)
    }

    pub fn is_forked(&self) -> bool {
        self.mapping.is_forked()
    }

    /// Changes what the program may do with the region.
    pub fn protect_region(&self, protection: libc::c_int) -> io::Result<()> {
        // SAFETY: our own mapping; a program that still uses the region gets a signal, not wrong data.
        unsafe { protect(self.base(), self.pages * PAGE_BYTES, protection) }
    }

    /// Whether the run lies in the region.
    pub fn holds_pages(&self, first: PageNumber, count: usize) -> bool {
        (first.0 as usize).checked_add(count).is_some_and(|end| end <= self.pages)
    }
}

/// A byte that a forked child reads as zero.
#[derive(Debug)]
struct ForkMark(*mut AtomicU8);

impl ForkMark {
    fn new() -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let page = unsafe { map(ptr::null_mut(), PAGE_BYTES, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)? };
        let mark = Self(page.cast());
        // SAFETY: the page is ours, and nothing refers to it yet.
        unsafe {
            protect(page, PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE)?;
            check(libc::madvise(page.cast(), PAGE_BYTES, libc::MADV_WIPEONFORK))?;
        }
        mark.byte().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped, readable and writable for as long as `self` lives, also in a forked child.
        unsafe { &*self.0 }
    }

    fn is_forked(&self) -> bool {
        self.byte().load(Ordering::Relaxed) == 0
    }
}

impl Drop for ForkMark {
    fn drop(&mut self) {
        // SAFETY: our own page, which nobody refers to any more.
        unsafe { unmap(self.0.cast(), PAGE_BYTES) };
    }
}

/// Maps `bytes` without access and without reserving memory.
///
/// # Safety
/// With MAP_FIXED the caller owns what was mapped there.
unsafe fn map(at: *mut u8, bytes: usize, flags: libc::c_int, fd: i32) -> io::Result<*mut u8> {
    let flags = flags | libc::MAP_NORESERVE;
    // SAFETY: as the caller promises.
    match unsafe { libc::mmap(at.cast(), bytes, libc::PROT_NONE, flags, fd, 0) } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        start => Ok(start.cast()),
    }
}

/// # Safety
/// The caller owns the range, and nothing refers to it.
unsafe fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: as the caller promises.
        unsafe { libc::munmap(start.cast(), bytes) };
    }
}

/// # Safety
/// The caller owns the range; references into it must be allowed by the new protection.
pub(super) unsafe fn protect(start: *mut u8, bytes: usize, protection: libc::c_int) -> io::Result<()> {
    // SAFETY: as the caller promises.
    check(unsafe { libc::mprotect(start.cast(), bytes, protection) })
}

/// Gives the memory of a range back to the kernel, also where the program has locked it.
///
/// # Safety
/// The caller owns the contents of the range, and nothing refers to them.
pub(super) unsafe fn release(start: *mut u8, bytes: usize) -> io::Result<()> {
    /// `MADV_DONTNEED_LOCKED`, Linux 5.18.
    const DONTNEED_LOCKED: libc::c_int = 24;
    // SAFETY: as the caller promises.
    unsafe {
        check(libc::madvise(start.cast(), bytes, libc::MADV_DONTNEED)).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => check(libc::madvise(start.cast(), bytes, DONTNEED_LOCKED)),
            _ => Err(error),
        })
    }
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
