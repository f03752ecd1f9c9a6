//! `sigsegv`: for machines that refuse userfaultfd. The region is a shared mapping of a memory file, and a page that
//! is not mapped in the pager's sense forbids any access. Bytes enter and leave through the file.
//!
//! Each run of equal protection is a mapping of its own to the kernel, which allows vm.max_map_count of them; they
//! are counted exactly, so that the limit is an error and not a crash.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    os::unix::fs::FileExt,
    slice,
    sync::Arc,
};

use rum_net::PAGE_BYTES;

use super::{
    FrameNumber, Memory, PageNumber, TakeError,
    bitmap::Bitmap,
    region::{self, Mapping, check, protect},
    registry::Region,
    uffd::own,
    uffd_memory::misuse,
};

/// An access that the page's protection forbids.
const SEGV_ACCERR: i32 = 2;
const OPEN: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
/// Mappings left to the program's own later needs (libraries, thread stacks).
const MAPS_FOR_OTHERS: usize = 2_000;
/// Mappings that only `take` may use: it must be able to make room.
const MAPS_FOR_TAKING: usize = 1_000;

/// The region, its file and the frames.
#[derive(Debug)]
pub(super) struct FileRegion {
    region: Mapping,
    file: File,
    /// Frames are private memory of our own.
    staging: Mapping,
    pages: usize,
    frames: usize,
}

impl FileRegion {
    pub fn new(region_bytes: usize, frames: usize) -> io::Result<Self> {
        let pages = region_bytes.div_ceil(PAGE_BYTES);
        // SAFETY: makes a new descriptor.
        let fd = own(unsafe { libc::memfd_create(c"rum-region".as_ptr(), libc::MFD_CLOEXEC) })?;
        let file = File::from(fd);
        file.set_len((pages * PAGE_BYTES) as u64)?;
        let region = Mapping::reserve(pages * PAGE_BYTES, Some(file.as_raw_fd()))?;
        let staging = Mapping::reserve(frames.max(1) * PAGE_BYTES, None)?;
        // SAFETY: our own new mapping.
        unsafe { protect(staging.start(), frames.max(1) * PAGE_BYTES, OPEN)? };
        Ok(Self { region, file, staging, pages, frames })
    }

    pub fn base(&self) -> *mut u8 {
        self.region.start()
    }

    pub fn bytes(&self) -> usize {
        self.pages * PAGE_BYTES
    }

    fn protect(&self, first: usize, count: usize, protection: libc::c_int) -> io::Result<()> {
        let start = self.base().wrapping_add(first * PAGE_BYTES);
        // SAFETY: our own mapping, which only the program uses: it gets a signal, not wrong data.
        unsafe { protect(start, count * PAGE_BYTES, protection) }
    }
}

impl Region for FileRegion {
    fn is_forked(&self) -> bool {
        self.region.is_forked()
    }

    fn claims(&self, signal: i32, code: i32, _page: PageNumber) -> bool {
        signal == libc::SIGSEGV && code == SEGV_ACCERR
    }

    fn close(&self) {
        if !self.is_forked() {
            let _ = self.protect(0, self.pages, libc::PROT_NONE);
        }
    }
}

/// `Memory` by a file and mprotect.
#[derive(Debug)]
pub(super) struct FileMemory {
    region: Arc<FileRegion>,
    loaded: Bitmap,
    mapped: Bitmap,
    maps: Maps,
}

impl FileMemory {
    pub fn new(region: Arc<FileRegion>) -> Self {
        let maps = Maps::new(max_map_count(), used_maps());
        Self { loaded: Bitmap::new(region.frames), mapped: Bitmap::new(region.pages), maps, region }
    }

    /// One line that says what the kernel's limit means, when it is smaller than what `frames` pages may need.
    pub fn warning(&self) -> Option<String> {
        let room = self.maps.room() / 2;
        let frames = self.region.frames;
        (room < frames).then(|| {
            let enough = frames * 2 + (max_map_count() - self.maps.limit) + self.maps.edges;
            format!(
                "fault engine sigsegv: only {room} scattered pages can be resident, as vm.max_map_count is {}; \
                 `sysctl vm.max_map_count={enough}` allows {frames}",
                max_map_count()
            )
        })
    }

    fn expect(&self, first: PageNumber, count: usize) -> io::Result<usize> {
        let first = first.0 as usize;
        match first.checked_add(count) {
            Some(end) if end <= self.region.pages => Ok(first),
            _ => Err(misuse("pages outside the region")),
        }
    }

    fn expect_frames(&self, first: FrameNumber, count: usize, loaded: bool) -> io::Result<()> {
        match (self.loaded.all(first.0 as usize, count, loaded), loaded) {
            (true, _) => Ok(()),
            (false, true) => Err(misuse("a frame is empty")),
            (false, false) => Err(misuse("a frame is loaded")),
        }
    }

    fn frame_address(&self, frame: usize) -> *mut u8 {
        self.region.staging.start().wrapping_add(frame * PAGE_BYTES)
    }

    fn empty_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        self.loaded.fill(first.0 as usize, count, false);
        // SAFETY: frames are ours, and `&mut self` proves that no reference into them lives.
        unsafe { region::release(self.frame_address(first.0 as usize), count * PAGE_BYTES) }
    }

    /// The bytes of frames, loaded or not: empty ones read as zeros.
    fn bytes_mut(&mut self, first: FrameNumber, count: usize) -> &mut [u8] {
        assert!(first.0 as usize + count <= self.region.frames);
        // SAFETY: readable, writable memory of our own, which `&mut self` makes ours alone.
        unsafe { slice::from_raw_parts_mut(self.frame_address(first.0 as usize), count * PAGE_BYTES) }
    }

    /// Opens or closes a run whose pages are all in the other state.
    fn set_mapped(&mut self, first: usize, count: usize, mapped: bool) -> io::Result<()> {
        let edges = self.maps.edges_after(&self.mapped, first, count, mapped);
        self.maps.admit(edges, if mapped { 0 } else { MAPS_FOR_TAKING })?;
        self.region.protect(first, count, if mapped { OPEN } else { libc::PROT_NONE })?;
        self.maps.edges = edges;
        self.mapped.fill(first, count, mapped);
        Ok(())
    }

    /// The pages from `first` that are all in the state of `first`, up to `end`: how many, and whether mapped.
    fn run(&self, first: usize, end: usize) -> (usize, bool) {
        let mapped = self.mapped.get(first);
        let count = (first..end).take_while(|&page| self.mapped.get(page) == mapped).count();
        (count, mapped)
    }

    fn punch(&self, first: usize, count: usize) -> io::Result<()> {
        debug_assert!(count > 0);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, length) = ((first * PAGE_BYTES) as i64, (count * PAGE_BYTES) as i64);
        // SAFETY: a file of our own; the program's pages of it are closed.
        check(unsafe { libc::fallocate(self.region.file.as_raw_fd(), mode, offset, length) })
    }
}

impl Memory for FileMemory {
    fn base(&self) -> *mut u8 {
        self.region.base()
    }

    fn pages(&self) -> usize {
        self.region.pages
    }

    fn frames(&self) -> usize {
        self.region.frames
    }

    fn load_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        self.expect_frames(first, count, false)?;
        // Emptied frames have no memory, so that this gives zeros.
        populate(self.bytes_mut(first, count));
        self.loaded.fill(first.0 as usize, count, true);
        Ok(())
    }

    fn unload_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        self.expect_frames(first, count, true)?;
        self.empty_frames(first, count)
    }

    fn frame(&self, frame: FrameNumber) -> &[u8; PAGE_BYTES] {
        assert!(self.loaded.get(frame.0 as usize), "frame {} is empty", frame.0);
        // SAFETY: readable memory of our own that changes only through `&mut self`.
        unsafe { &*self.frame_address(frame.0 as usize).cast() }
    }

    fn frame_run(&self, first: FrameNumber, count: usize) -> &[u8] {
        assert!(self.loaded.all(first.0 as usize, count, true), "a frame of {}+{count} is empty", first.0);
        // SAFETY: as in `frame`; the frames lie side by side in one mapping.
        unsafe { slice::from_raw_parts(self.frame_address(first.0 as usize), count * PAGE_BYTES) }
    }

    fn frame_mut(&mut self, frame: FrameNumber) -> &mut [u8; PAGE_BYTES] {
        assert!(self.loaded.get(frame.0 as usize), "frame {} is empty", frame.0);
        // SAFETY: as in `frame`, and `&mut self` makes the reference the only one.
        unsafe { &mut *self.frame_address(frame.0 as usize).cast() }
    }

    fn install(&mut self, first: PageNumber, from: FrameNumber, count: usize) -> io::Result<()> {
        let start = self.expect(first, count)?;
        self.expect_frames(from, count, true)?;
        let mut done = 0;
        while done < count {
            let (run, mapped) = self.run(start + done, start + count);
            if !mapped {
                let bytes = self.frame_run(FrameNumber(from.0 + done as u32), run);
                let offset = ((start + done) * PAGE_BYTES) as u64;
                let opened = match self.region.file.write_all_at(bytes, offset) {
                    Ok(()) => self.set_mapped(start + done, run, true),
                    Err(error) => Err(error),
                };
                if let Err(error) = opened {
                    self.punch(start + done, run)?;
                    return Err(error);
                }
            }
            self.empty_frames(FrameNumber(from.0 + done as u32), run)?;
            done += run;
        }
        Ok(())
    }

    fn install_zeros(&mut self, first: PageNumber, count: usize) -> io::Result<()> {
        let start = self.expect(first, count)?;
        let mut done = 0;
        while done < count {
            let (run, mapped) = self.run(start + done, start + count);
            if !mapped {
                // The file has no bytes where no page is mapped.
                self.set_mapped(start + done, run, true)?;
            }
            done += run;
        }
        Ok(())
    }

    fn take(&mut self, first: PageNumber, to: FrameNumber, count: usize) -> Result<(), TakeError> {
        let start = self.expect(first, count)?;
        self.expect_frames(to, count, false)?;
        if !self.mapped.all(start, count, true) {
            return Err(TakeError::Os(misuse("a page is not mapped")));
        }
        if count == 0 {
            return Ok(());
        }
        // From here on writers wait for the pager.
        self.set_mapped(start, count, false)?;
        let region = Arc::clone(&self.region);
        let read = region.file.read_exact_at(self.bytes_mut(to, count), (start * PAGE_BYTES) as u64);
        if let Err(error) = read {
            self.empty_frames(to, count)?;
            self.set_mapped(start, count, true)?;
            return Err(error.into());
        }
        self.loaded.fill(to.0 as usize, count, true);
        self.punch(start, count)?;
        Ok(())
    }

    fn discard(&mut self, first: PageNumber, count: usize) -> io::Result<()> {
        let start = self.expect(first, count)?;
        let mut done = 0;
        while done < count {
            let (run, mapped) = self.run(start + done, start + count);
            if mapped {
                self.set_mapped(start + done, run, false)?;
                self.punch(start + done, run)?;
            }
            done += run;
        }
        Ok(())
    }

    fn wake(&self, _page: PageNumber) {
        // Nobody sleeps: a thread that faults serves itself.
    }

    fn install_limit(&self) -> Option<usize> {
        Some(self.maps.room() / 2)
    }
}

/// Gives memory to a range of zeros before it is written, a page table at a time instead of a fault a page.
fn populate(bytes: &mut [u8]) {
    // Refused before Linux 5.14: then the pages come as they are touched.
    // SAFETY: changes no contents, and the range is borrowed.
    unsafe { libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), libc::MADV_POPULATE_WRITE) };
}

/// How many mappings the region is split into.
#[derive(Debug)]
struct Maps {
    /// Changes of protection between neighbouring pages: each costs a mapping.
    edges: usize,
    /// The most edges.
    limit: usize,
}

impl Maps {
    fn new(max_maps: usize, used: usize) -> Self {
        Self { edges: 0, limit: max_maps.saturating_sub(used + MAPS_FOR_OTHERS.min(max_maps / 4)) }
    }

    /// The edges when a run, all of whose pages are in the other state, has changed.
    fn edges_after(&self, mapped: &Bitmap, first: usize, count: usize, to: bool) -> usize {
        let mut edges = self.edges;
        let before = first.checked_sub(1);
        let after = Some(first + count).filter(|&page| page < mapped.len());
        for neighbour in [before, after].into_iter().flatten() {
            if mapped.get(neighbour) == to {
                edges -= 1;
            } else {
                edges += 1;
            }
        }
        edges
    }

    /// Edges that `install` may still add.
    fn room(&self) -> usize {
        (self.limit - self.reserve()).saturating_sub(self.edges)
    }

    fn reserve(&self) -> usize {
        MAPS_FOR_TAKING.min(self.limit / 4)
    }

    /// Whether so many edges are allowed, of which `extra` beyond the limit for installing.
    fn admit(&self, edges: usize, extra: usize) -> io::Result<()> {
        let limit = self.limit - self.reserve() + extra.min(self.reserve());
        if edges <= limit || edges <= self.edges { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOMEM)) }
    }
}

/// The kernel's limit of mappings a process.
pub(super) fn max_map_count() -> usize {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530)
}

fn used_maps() -> usize {
    fs::read_to_string("/proc/self/maps").map_or(1_000, |maps| maps.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts edges the slow way, after each of many changes.
    #[test]
    fn edges_are_counted_exactly() {
        const PAGES: usize = 40;
        let mut mapped = Bitmap::new(PAGES);
        let mut maps = Maps::new(65_530, 100);
        let mut seed = 12_345u64;
        for step in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let first = (seed >> 33) as usize % PAGES;
            let state = mapped.get(first);
            let longest = (first..PAGES).take_while(|&page| mapped.get(page) == state).count();
            let count = 1 + (seed >> 50) as usize % longest;
            maps.edges = maps.edges_after(&mapped, first, count, !state);
            mapped.fill(first, count, !state);
            let counted = (1..PAGES).filter(|&page| mapped.get(page) != mapped.get(page - 1)).count();
            assert_eq!(maps.edges, counted, "step {step}");
        }
    }

    #[test]
    fn a_tiny_limit_leaves_no_room_and_does_not_underflow() {
        for (max, used) in [(0, 0), (10, 100), (1_000, 900), (3_000, 100)] {
            let maps = Maps::new(max, used);
            assert!(maps.room() <= max);
            assert!(maps.admit(maps.limit + 1, MAPS_FOR_TAKING).is_err());
        }
    }

    #[test]
    fn a_limit_that_is_too_small_is_said_in_one_line() {
        let enough = FileMemory::new(Arc::new(FileRegion::new(1 << 30, 8).unwrap()));
        assert_eq!(enough.warning(), None);
        let scarce = FileMemory::new(Arc::new(FileRegion::new(1 << 32, max_map_count()).unwrap()));
        let warning = scarce.warning().unwrap();
        assert!(warning.contains("sysctl vm.max_map_count=") && !warning.contains('\n'), "{warning}");
    }
}
