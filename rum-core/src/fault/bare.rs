//! What a fault costs with nothing behind it: the handler installs a prepared frame at once. It is the floor that
//! `rum bench` compares the pager's faults with.

use std::{
    hint::black_box,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rum_net::PAGE_BYTES;

use super::{Engine, EngineError, EngineKind, FaultHandler, FaultOutcome, FrameNumber, Memory, PageNumber, start};

/// Pages taken by one system call between the rounds.
const RUN: usize = 64;

/// Installs the frame of the same number.
struct Prepared(Mutex<Box<dyn Memory>>);

impl Prepared {
    fn lock(&self) -> MutexGuard<'_, Box<dyn Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultHandler for Prepared {
    fn fault(&self, page: PageNumber) -> FaultOutcome {
        let installed = self.lock().install(page, FrameNumber(page.0), 1);
        if installed.is_ok() { FaultOutcome::Resolved } else { FaultOutcome::Lost }
    }
}

/// A region whose pages all lie prepared in frames of the same number.
#[derive(Debug)]
pub struct BareFaults {
    handler: Arc<Prepared>,
    base: usize,
    pages: usize,
    _engine: Engine,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared")
    }
}

impl BareFaults {
    /// Starts the engine `kind` over `pages` pages, rounded up to whole runs of 64.
    ///
    /// # Errors
    /// When the engine cannot start here, or there is no memory for the frames.
    pub fn start(kind: EngineKind, pages: usize) -> Result<Self, EngineError> {
        let pages = pages.next_multiple_of(RUN);
        let (mut memory, pending) = start(Some(kind), pages * PAGE_BYTES, pages)?;
        let no_memory = |error: io::Error| EngineError::Unavailable {
            kind,
            why: format!("no memory for {pages} frames: {error}"),
            remedy: "free some memory".into(),
        };
        for first in (0..pages).step_by(RUN) {
            memory.load_frames(FrameNumber(first as u32), RUN).map_err(no_memory)?;
            for frame in first..first + RUN {
                memory.frame_mut(FrameNumber(frame as u32))[0] = 1;
            }
        }
        let base = memory.base() as usize;
        let handler = Arc::new(Prepared(Mutex::new(memory)));
        let engine = pending.run(Arc::clone(&handler) as Arc<dyn FaultHandler>);
        Ok(Self { handler, base, pages, _engine: engine })
    }

    /// Touches each page once, in the order of `pages`, and appends the nanoseconds of each touch to `times`.
    /// Afterwards all pages are back in their frames.
    ///
    /// # Errors
    /// When the kernel does not give a page back.
    ///
    /// # Panics
    /// When a number is not one of a page, or `times` would have to grow while it is measured.
    pub fn touch(&mut self, pages: &[u32], times: &mut Vec<u64>) -> Result<(), super::TakeError> {
        times.reserve(pages.len());
        for &page in pages {
            assert!((page as usize) < self.pages, "there is no page {page}");
            let address = self.base + page as usize * PAGE_BYTES;
            let begin = Instant::now();
            // SAFETY: a byte of the region, which is mapped as long as `handler` lives; the engine serves the touch.
            black_box(unsafe { (address as *const u8).read_volatile() });
            times.push(begin.elapsed().as_nanos() as u64);
        }
        let mut touched = pages.to_vec();
        touched.sort_unstable();
        touched.dedup();
        let mut memory = self.handler.lock();
        for run in touched.chunk_by(|a, b| a + 1 == *b) {
            for part in run.chunks(RUN) {
                memory.take(PageNumber(part[0]), FrameNumber(part[0]), part.len())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_touch_is_a_fault_again_in_the_next_round() {
        // Where userfaultfd is blocked, sigsegv still works.
        let mut bare = BareFaults::start(EngineKind::Sigsegv, 100).unwrap();
        let order: Vec<u32> = (0..100).rev().collect();
        let mut times = Vec::new();
        for _ in 0..3 {
            bare.touch(&order, &mut times).unwrap();
        }
        assert_eq!(times.len(), 300);
        // A touch without a fault takes no microsecond; with one it always does.
        times.sort_unstable();
        assert!(times[150] >= 500, "median {} ns", times[150]);
    }
}
