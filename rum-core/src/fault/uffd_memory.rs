//! The region under userfaultfd: pages enter and leave by UFFDIO_MOVE, so that no byte is copied and a page is
//! taken at one instant. Below Linux 6.8 (or when asked) by write-protecting, copying and giving back.

use std::{io, sync::Arc};

use rum_net::PAGE_BYTES;

use super::{
    FrameNumber, Memory, PageNumber, TakeError,
    bitmap::Bitmap,
    region::{self, Layout},
    uffd::{self, Uffd},
};

/// What frames are loaded from, this many pages at once.
static ZEROS: [u8; 64 * PAGE_BYTES] = [0; 64 * PAGE_BYTES];

/// A region registered with userfaultfd; shared by the memory and its engine.
#[derive(Debug)]
pub(super) struct UffdRegion {
    // Unmapped before the descriptor closes: afterwards missing pages would read as zeros.
    pub layout: Layout,
    pub uffd: Uffd,
    moves: bool,
}

impl UffdRegion {
    /// Maps and registers. `moves` permits UFFDIO_MOVE if the kernel has it.
    pub fn new(uffd: Uffd, region_bytes: usize, frames: usize, moves: bool) -> io::Result<Self> {
        let layout = Layout::new(region_bytes, frames)?;
        let moves = moves && uffd.has(uffd::FEATURE_MOVE);
        let mode = if moves { uffd::MODE_MISSING } else { uffd::MODE_MISSING | uffd::MODE_WP };
        uffd.register(layout.base() as usize, layout.pages() * PAGE_BYTES, mode)?;
        uffd.register(layout.frame(0) as usize, layout.frames().max(1) * PAGE_BYTES, mode)?;
        Ok(Self { layout, uffd, moves })
    }

    /// Ends the program's use of the region: who still touches it dies by SIGSEGV, and never reads zeros.
    pub fn close(&self) {
        if self.layout.is_forked() {
            return;
        }
        // Failures leave the pages closed (missing, with nobody to serve them), which is safe, too.
        let _ = self.layout.protect_region(libc::PROT_NONE);
        let _ = self.uffd.unregister(self.layout.base() as usize, self.layout.pages() * PAGE_BYTES);
    }
}

/// `Memory` by userfaultfd.
#[derive(Debug)]
pub(super) struct UffdMemory {
    region: Arc<UffdRegion>,
    loaded: Bitmap,
    /// Without MOVE: which pages are mapped. Reading one that is not, in order to copy it, would be a fault of our own.
    mapped: Option<Bitmap>,
}

impl UffdMemory {
    pub fn new(region: Arc<UffdRegion>) -> Self {
        let loaded = Bitmap::new(region.layout.frames());
        let mapped = (!region.moves).then(|| Bitmap::new(region.layout.pages()));
        Self { region, loaded, mapped }
    }

    fn set_mapped(&mut self, first: PageNumber, done: usize, count: usize, to: bool) {
        if let Some(mapped) = &mut self.mapped {
            mapped.fill(first.0 as usize + done, count, to);
        }
    }

    fn page(&self, first: PageNumber, done: usize) -> usize {
        self.region.layout.page(first.0 as usize + done) as usize
    }

    fn frame_address(&self, first: FrameNumber, done: usize) -> usize {
        self.region.layout.frame(first.0 as usize + done) as usize
    }

    fn expect(&self, first: PageNumber, count: usize) -> io::Result<()> {
        if self.region.layout.holds_pages(first, count) { Ok(()) } else { Err(misuse("pages outside the region")) }
    }

    fn expect_frames(&self, first: FrameNumber, count: usize, loaded: bool) -> io::Result<()> {
        match (self.loaded.all(first.0 as usize, count, loaded), loaded) {
            (true, _) => Ok(()),
            (false, true) => Err(misuse("a frame is empty")),
            (false, false) => Err(misuse("a frame is loaded")),
        }
    }

    fn set_loaded(&mut self, first: FrameNumber, done: usize, count: usize, loaded: bool) {
        self.loaded.fill(first.0 as usize + done, count, loaded);
    }

    /// Gives the physical pages of frames back, whatever their state.
    fn empty_frames(&mut self, first: FrameNumber, done: usize, count: usize) -> io::Result<()> {
        self.set_loaded(first, done, count, false);
        // SAFETY: frames are ours, and `&mut self` proves that no reference into them lives.
        unsafe { region::release(self.region.layout.frame(first.0 as usize + done), count * PAGE_BYTES) }
    }

    /// Puts the contents of loaded frames into unmapped pages; returns how many, and what stopped it.
    fn install_run(&mut self, page: PageNumber, frame: FrameNumber, done: usize, count: usize) -> (usize, Option<i32>) {
        let (dst, src, len) = (self.page(page, done), self.frame_address(frame, done), count * PAGE_BYTES);
        if self.region.moves {
            // SAFETY: the frames are ours, and `&mut self` proves that no reference into them lives. The kernel
            // refuses a destination that is mapped.
            let progress = unsafe { self.region.uffd.move_pages(dst, src, len) };
            let moved = progress.bytes / PAGE_BYTES;
            self.set_loaded(frame, done, moved, false);
            return (moved, progress.stopped_by);
        }
        let progress = self.region.uffd.copy(dst, src, len);
        let copied = progress.bytes / PAGE_BYTES;
        self.set_mapped(page, done, copied, true);
        let emptied = self.empty_frames(frame, done, copied);
        (copied, progress.stopped_by.or(emptied.err().and_then(|error| error.raw_os_error())))
    }

    /// One page that MOVE refuses, for instance because its frame is pinned or the program has changed its
    /// protection: by copy.
    fn install_copy(&mut self, page: PageNumber, frame: FrameNumber, done: usize) -> io::Result<()> {
        let progress = self.region.uffd.copy(self.page(page, done), self.frame_address(frame, done), PAGE_BYTES);
        match progress.stopped_by {
            None => self.empty_frames(frame, done, 1),
            Some(error) => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Takes a run; returns how many pages, and what stopped it.
    fn take_run(&mut self, page: PageNumber, frame: FrameNumber, done: usize, count: usize) -> (usize, Option<i32>) {
        let (dst, src, len) = (self.frame_address(frame, done), self.page(page, done), count * PAGE_BYTES);
        let progress = if self.region.moves {
            // SAFETY: the region's bytes belong to the program, which reaches them by the kernel's mappings only
            // and faults when they have gone; no Rust reference into the region exists. The destination is
            // unmapped, or the kernel refuses.
            unsafe { self.region.uffd.move_pages(dst, src, len) }
        } else if self.mapped.as_ref().is_some_and(|mapped| !mapped.all(page.0 as usize + done, count, true)) {
            match count {
                1 => return (0, Some(libc::ENOENT)),
                // As far as it goes, one by one.
                _ => return (0, Some(libc::EINVAL)),
            }
        } else {
            self.take_by_copy(dst, src, len)
        };
        let taken = progress.bytes / PAGE_BYTES;
        self.set_loaded(frame, done, taken, true);
        self.set_mapped(page, done, taken, false);
        (taken, progress.stopped_by)
    }

    /// Write-protected, the pages cannot change between the copy and their removal: a thread that writes faults
    /// and waits for the pager.
    fn take_by_copy(&self, dst: usize, src: usize, len: usize) -> uffd::Progress {
        let os = |error: io::Error, bytes| uffd::Progress { bytes, stopped_by: error.raw_os_error() };
        if let Err(error) = self.region.uffd.write_protect(src, len, true) {
            return os(error, 0);
        }
        let mut progress = self.region.uffd.copy(dst, src, len);
        if progress.bytes > 0 {
            // SAFETY: the program's bytes were copied while nobody could write them, and go back at its next touch.
            if let Err(error) = unsafe { region::release(src as *mut u8, progress.bytes) } {
                // SAFETY: frames of ours that hold a second copy.
                let _ = unsafe { region::release(dst as *mut u8, progress.bytes) };
                progress = os(error, 0);
            }
        }
        if progress.bytes < len {
            // Wakes writers that wait already, too.
            let _ = self.region.uffd.write_protect(src + progress.bytes, len - progress.bytes, false);
        }
        progress
    }

    /// What a page that MOVE refuses means. Linux 6.8 refuses pages of zeros that were never written, too (EBUSY):
    /// there they stay in the region until they are written.
    fn take_error(&mut self, page: PageNumber, frame: FrameNumber, done: usize, error: i32) -> TakeError {
        match error {
            // Pinned or shared; or locked in memory by the program, or its protection changed.
            libc::EBUSY | libc::EINVAL => TakeError::Busy { done },
            _ => {
                // A hole is the caller's mistake: put back what was taken, so that nothing is lost.
                for index in 0..done {
                    if let (0, Some(error)) = self.install_run(page, frame, index, 1) {
                        return TakeError::Os(io::Error::from_raw_os_error(error));
                    }
                }
                TakeError::Os(io::Error::from_raw_os_error(error))
            }
        }
    }
}

impl Memory for UffdMemory {
    fn base(&self) -> *mut u8 {
        self.region.layout.base()
    }

    fn pages(&self) -> usize {
        self.region.layout.pages()
    }

    fn frames(&self) -> usize {
        self.region.layout.frames()
    }

    fn load_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        self.expect_frames(first, count, false)?;
        let mut done = 0;
        while done < count {
            let len = ((count - done) * PAGE_BYTES).min(ZEROS.len());
            let progress = self.region.uffd.copy(self.frame_address(first, done), ZEROS.as_ptr() as usize, len);
            let loaded = progress.bytes / PAGE_BYTES;
            self.set_loaded(first, done, loaded, true);
            done += loaded;
            if let Some(error) = progress.stopped_by {
                self.empty_frames(first, 0, done)?;
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        Ok(())
    }

    fn unload_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        self.expect_frames(first, count, true)?;
        self.empty_frames(first, 0, count)
    }

    fn frame(&self, frame: FrameNumber) -> &[u8; PAGE_BYTES] {
        assert!(self.loaded.get(frame.0 as usize), "frame {} is empty", frame.0);
        // SAFETY: a loaded frame is mapped and readable, nobody but `self` writes it, and whatever unmaps it needs
        // `&mut self`.
        unsafe { &*self.region.layout.frame(frame.0 as usize).cast() }
    }

    fn frame_run(&self, first: FrameNumber, count: usize) -> &[u8] {
        assert!(self.loaded.all(first.0 as usize, count, true), "a frame of {}+{count} is empty", first.0);
        // SAFETY: as in `frame`; the frames lie side by side in one mapping.
        unsafe { std::slice::from_raw_parts(self.region.layout.frame(first.0 as usize), count * PAGE_BYTES) }
    }

    fn frame_mut(&mut self, frame: FrameNumber) -> &mut [u8; PAGE_BYTES] {
        assert!(self.loaded.get(frame.0 as usize), "frame {} is empty", frame.0);
        // SAFETY: as in `frame`, and `&mut self` makes the reference the only one.
        unsafe { &mut *self.region.layout.frame(frame.0 as usize).cast() }
    }

    fn install(&mut self, first: PageNumber, from: FrameNumber, count: usize) -> io::Result<()> {
        self.expect(first, count)?;
        self.expect_frames(from, count, true)?;
        let mut done = 0;
        while done < count {
            let (installed, stopped_by) = self.install_run(first, from, done, count - done);
            done += installed;
            match stopped_by {
                None => {}
                Some(libc::EEXIST) => {
                    self.empty_frames(from, done, 1)?;
                    self.wake(PageNumber(first.0 + done as u32));
                    done += 1;
                }
                Some(error) if self.region.moves && error != libc::ENOMEM => {
                    self.install_copy(first, from, done)?;
                    done += 1;
                }
                Some(error) => return Err(io::Error::from_raw_os_error(error)),
            }
        }
        Ok(())
    }

    fn install_zeros(&mut self, first: PageNumber, count: usize) -> io::Result<()> {
        self.expect(first, count)?;
        let mut done = 0;
        let mut step = count;
        while done < count {
            let len = step.min(count - done) * PAGE_BYTES;
            let progress = self.region.uffd.zero_pages(self.page(first, done), len);
            self.set_mapped(first, done, progress.bytes / PAGE_BYTES, true);
            done += progress.bytes / PAGE_BYTES;
            match progress.stopped_by {
                None => {}
                Some(libc::EEXIST) => {
                    self.wake(PageNumber(first.0 + done as u32));
                    done += 1;
                }
                // A run over a boundary that the program has made is refused as a whole.
                Some(libc::EINVAL | libc::ENOENT) if step > 1 && count - done > 1 => step = 1,
                Some(error) => return Err(io::Error::from_raw_os_error(error)),
            }
        }
        Ok(())
    }

    fn take(&mut self, first: PageNumber, to: FrameNumber, count: usize) -> Result<(), TakeError> {
        self.expect(first, count)?;
        self.expect_frames(to, count, false)?;
        let mut done = 0;
        let mut step = count;
        let mut emptied = false;
        while done < count {
            let (taken, stopped_by) = self.take_run(first, to, done, step.min(count - done));
            done += taken;
            emptied &= taken == 0;
            match stopped_by {
                None => {}
                // The program itself has given the page up (MADV_DONTNEED): it reads as zeros.
                Some(libc::ENOENT) => {
                    self.load_frames(FrameNumber(to.0 + done as u32), 1)?;
                    done += 1;
                }
                // A run over a boundary that the program has made (mlock, mprotect) is refused as a whole.
                Some(libc::EINVAL) if step > 1 && count - done > 1 => step = 1,
                // The frame holds a page that we do not know of: nothing of ours.
                Some(libc::EEXIST) if !emptied => {
                    self.empty_frames(to, done, 1)?;
                    emptied = true;
                }
                Some(error) => return Err(self.take_error(first, to, done, error)),
            }
        }
        Ok(())
    }

    fn discard(&mut self, first: PageNumber, count: usize) -> io::Result<()> {
        self.expect(first, count)?;
        self.set_mapped(first, 0, count, false);
        // SAFETY: the program has given these pages up; no Rust reference into the region exists.
        unsafe { region::release(self.region.layout.page(first.0 as usize), count * PAGE_BYTES) }
    }

    fn wake(&self, page: PageNumber) {
        // Fails only if the region is closed, and then nobody waits.
        let _ = self.region.uffd.wake(self.page(page, 0), PAGE_BYTES);
    }
}

pub(super) fn misuse(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
