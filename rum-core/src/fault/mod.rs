//! The fault engines: how a touch of a non-resident page reaches the pager, and how pages enter and leave the
//! region. The only place that knows signals, userfaultfd and mprotect.
//!
//! A region is a range of virtual pages that the program uses. Beside it lies the staging area: frames, which
//! belong to the pager alone. A frame is *loaded* while it owns a physical page, else *empty*. Installing moves
//! a loaded frame's page into the region and leaves the frame empty; taking moves a page of the region, whole
//! and at one instant, into an empty frame and leaves it loaded.

#![allow(unsafe_code)]

mod bare;
mod bitmap;
mod cpu;
mod engine;
mod inline;
mod probe;
mod region;
mod registry;
mod signals;
mod sigsegv;
mod threaded;
mod uffd;
mod uffd_memory;

use std::{fmt, io, str::FromStr};

use rum_net::PAGE_BYTES;

pub use bare::BareFaults;
pub use engine::{Engine, EngineError, Options, PendingEngine, start, start_with};
pub use probe::{Capability, probe};

/// A page of the region, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageNumber(pub u32);

/// A frame of the staging area, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameNumber(pub u32);

/// How a touch of a non-resident page reaches the pager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// userfaultfd with a handler thread; the kernel's own touches (system calls) are served, too.
    UffdThread,
    /// userfaultfd with the SIGBUS feature: the faulting thread serves itself.
    UffdInline,
    /// PROT_NONE pages over a memfd, opened by mprotect from the SIGSEGV handler.
    Sigsegv,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UffdThread => "uffd-thread",
            Self::UffdInline => "uffd-inline",
            Self::Sigsegv => "sigsegv",
        })
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "uffd-thread" => Ok(Self::UffdThread),
            "uffd-inline" => Ok(Self::UffdInline),
            "sigsegv" => Ok(Self::Sigsegv),
            _ => Err(format!("unknown fault engine {text:?}: expected uffd-thread, uffd-inline or sigsegv")),
        }
    }
}

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// The page is mapped: the thread tries its instruction again.
    Resolved,
    /// No such page is allocated: the thread gets the signal that the kernel would give it (a wild pointer).
    Unallocated,
    /// The page cannot be had; the handler has said why on stderr. The process aborts.
    Lost,
}

/// What an engine calls for each fault. Runs in a signal handler or in the handler thread: it must not allocate,
/// take a lock that the program may hold, or touch the region.
pub trait FaultHandler: Send + Sync + 'static {
    /// A thread touched `page` while it was not mapped. Returns when it is, or cannot be.
    fn fault(&self, page: PageNumber) -> FaultOutcome;
}

/// Why pages of the region could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The page `done` places after the first is pinned or shared at the moment; those before it were taken.
    #[error("page busy after {done} taken")]
    Busy {
        /// How many pages were taken.
        done: usize,
    },
    /// The kernel refused.
    #[error("cannot take pages out of the region: {0}")]
    Os(#[from] io::Error),
}

/// The region and its staging area, as the pager uses them. One thread at a time (the pager's lock).
///
/// Runs of pages are contiguous, and so are the frames they go to or come from: one system call a run.
pub trait Memory: Send + 'static {
    /// Where the region starts.
    fn base(&self) -> *mut u8;
    /// Pages in the region.
    fn pages(&self) -> usize;
    /// Frames in the staging area.
    fn frames(&self) -> usize;
    /// Loads empty frames with zero-filled physical pages.
    fn load_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()>;
    /// Gives the physical pages of loaded frames back to the kernel.
    fn unload_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()>;
    /// The bytes of a loaded frame. Panics if it is empty.
    fn frame(&self, frame: FrameNumber) -> &[u8; PAGE_BYTES];
    /// The bytes of loaded frames side by side. Panics if one is empty.
    fn frame_run(&self, first: FrameNumber, count: usize) -> &[u8];
    /// The bytes of a loaded frame, to be written. Panics if it is empty.
    fn frame_mut(&mut self, frame: FrameNumber) -> &mut [u8; PAGE_BYTES];
    /// Moves `count` loaded frames into unmapped pages, and wakes the threads that wait for them. A page that is mapped
    /// already keeps its contents, and its frame is emptied.
    fn install(&mut self, first: PageNumber, from: FrameNumber, count: usize) -> io::Result<()>;
    /// Maps unmapped pages as zeros, and wakes the threads that wait for them. Mapped ones stay as they are.
    fn install_zeros(&mut self, first: PageNumber, count: usize) -> io::Result<()>;
    /// Moves `count` mapped pages into empty frames. A thread that touches such a page later faults. Pages that
    /// were mapped as zeros and never written arrive as zeros.
    fn take(&mut self, first: PageNumber, to: FrameNumber, count: usize) -> Result<(), TakeError>;
    /// Unmaps pages, mapped or not, and forgets their contents.
    fn discard(&mut self, first: PageNumber, count: usize) -> io::Result<()>;
    /// Wakes threads that wait for a page that was mapped since they faulted.
    fn wake(&self, page: PageNumber);
    /// How many more pages may be installed before the kernel's limit of mappings is reached, when the engine has
    /// such a limit.
    fn install_limit(&self) -> Option<usize> {
        None
    }
}
