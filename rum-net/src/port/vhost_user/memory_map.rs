//! Memory shared by client and slave: mapped, checked, translated.
//!
//! A client hands its memory over as files. A file that its owner may truncate would kill the slave by SIGBUS at the
//! next touch, so only a memfd that is sealed against shrinking is taken, and no hugetlb file (which may run out of
//! pages). A hole that the client punches reads as zeros and is harmless.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
};

use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::shared;

/// Most regions a client may share.
pub(super) const MAX_REGIONS: usize = 8;

/// Why a client's memory was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("more than {MAX_REGIONS} regions, or none")]
    RegionCount,
    #[error("the memory file is not a memfd sealed against shrinking (F_SEAL_SHRINK)")]
    NotSealed,
    #[error("the region lies outside its file, overlaps another, or is misaligned")]
    Range,
    #[error("more memory than a client may share")]
    TooMuch,
    #[error("cannot map the memory: {0}")]
    Map(#[from] io::Error),
}

/// A shared mapping of a file; unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access to it is raw (see `shared`).
unsafe impl Send for Mapping {}
// SAFETY: as above; a `&Mapping` gives out raw pointers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` (page-aligned) of a file, for reading and writing.
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: the range is the mapping just made. Advice only: core dumps need no packets.
        unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTDUMP) };
        Ok(Self { base, len })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`, unmapped only here; rings that point into it own it by `Arc`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A run of shared memory and the two names that its owner has for it.
#[derive(Debug)]
struct Region {
    guest: u64,
    user: u64,
    len: u64,
    host: *mut u8,
    _mapping: Mapping,
}

impl Region {
    /// The bytes `[address, address + len)`, where the region is called `start`.
    #[inline]
    fn locate(&self, start: u64, address: u64, len: usize) -> Option<*mut u8> {
        let offset = address.wrapping_sub(start);
        // `offset` is huge when `address` lies before the region.
        if offset < self.len && len as u64 <= self.len - offset {
            // `offset` is inside the mapping, so it fits a usize and the pointer stays inside.
            Some(self.host.wrapping_add(offset as usize))
        } else {
            None
        }
    }
}

/// All memory that one client shares.
#[derive(Debug)]
pub(super) struct MemoryMap {
    regions: Vec<Region>,
}

// SAFETY: `host` points into the region's own mapping; all access is raw.
unsafe impl Send for MemoryMap {}
// SAFETY: as above.
unsafe impl Sync for MemoryMap {}

impl MemoryMap {
    /// Our own side's memory: one region that is called `start` in both address spaces.
    pub(super) fn own(mapping: Mapping, start: u64) -> Self {
        let mut map = Self::none();
        map.replace(mapping, start);
        map
    }

    /// No memory yet, with a place for one region.
    pub(super) fn none() -> Self {
        Self { regions: Vec::with_capacity(1) }
    }

    /// As `own`, in place of what was there. Does not allocate.
    pub(super) fn replace(&mut self, mapping: Mapping, start: u64) {
        self.clear();
        let (len, host) = (mapping.len as u64, mapping.base());
        self.regions.push(Region { guest: start, user: start, len, host, _mapping: mapping });
    }

    /// Unmaps everything.
    pub(super) fn clear(&mut self) {
        self.regions.clear();
    }

    /// Maps what a client shares, once every file has proved safe. At most `max_bytes` in all.
    pub(super) fn of_client(
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        max_bytes: u64,
    ) -> Result<Self, MemoryError> {
        if regions.is_empty() || regions.len() > MAX_REGIONS || regions.len() != files.len() {
            return Err(MemoryError::RegionCount);
        }
        let mut total = 0u64;
        let mut map = Self { regions: Vec::with_capacity(regions.len()) };
        for (region, file) in regions.iter().zip(&files) {
            let (guest, user, len) = (region.guest_phys_addr, region.user_addr, region.memory_size);
            total = total.checked_add(len).filter(|total| *total <= max_bytes).ok_or(MemoryError::TooMuch)?;
            if overlaps_any(map.regions.iter().map(|r| (r.guest, r.len)), guest, len)
                || overlaps_any(map.regions.iter().map(|r| (r.user, r.len)), user, len)
            {
                return Err(MemoryError::Range);
            }
            let (mapping, host) = map_checked(file, region.mmap_offset, len)?;
            map.regions.push(Region { guest, user, len, host, _mapping: mapping });
        }
        Ok(map)
    }

    /// Where `len` bytes at the guest address of a descriptor are, if they lie in one region.
    #[inline]
    pub(super) fn guest(&self, address: u64, len: usize) -> Option<*mut u8> {
        self.regions.iter().find_map(|region| region.locate(region.guest, address, len))
    }

    /// Where `len` bytes at the owner's own (virtual) address of a ring are.
    pub(super) fn user(&self, address: u64, len: usize) -> Option<*mut u8> {
        self.regions.iter().find_map(|region| region.locate(region.user, address, len))
    }

    /// Copies shared bytes at a guest address out; `None` if they are not all in one region.
    #[inline]
    pub(super) fn copy_out(&self, address: u64, to: &mut [u8]) -> Option<()> {
        let from = self.guest(address, to.len())?;
        // SAFETY: `guest` has checked the range, the mapping lives as long as `self`, and `to` is private.
        unsafe { shared::copy_out(from, to) };
        Some(())
    }
}

fn overlaps_any(mut others: impl Iterator<Item = (u64, u64)>, start: u64, len: u64) -> bool {
    let end = start.saturating_add(len);
    others.any(|(other, other_len)| start < other.saturating_add(other_len) && other < end)
}

fn map_checked(file: &File, offset: u64, len: u64) -> Result<(Mapping, *mut u8), MemoryError> {
    let fd = file.as_raw_fd();
    // SAFETY: an fcntl without pointers on a descriptor that `file` owns.
    let seals = unsafe { libc::fcntl(fd, libc::F_GET_SEALS) };
    if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 || !is_tmpfs(file)? {
        return Err(MemoryError::NotSealed);
    }
    let end = offset.checked_add(len).ok_or(MemoryError::Range)?;
    if end > file.metadata()?.len() || len == 0 {
        return Err(MemoryError::Range);
    }
    // The file need not be mapped from a page boundary; the kernel wants one.
    let page = 4096;
    let slack = offset % page;
    let span = usize::try_from(len + slack).map_err(|_| MemoryError::TooMuch)?;
    let mapping = Mapping::new(std::os::fd::AsFd::as_fd(file), offset - slack, span)?;
    let host = mapping.base().wrapping_add(slack as usize);
    Ok((mapping, host))
}

fn is_tmpfs(file: &File) -> io::Result<bool> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and `stat` is large enough.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatfs has filled it.
    Ok(unsafe { stat.assume_init() }.f_type == libc::TMPFS_MAGIC)
}
