//! Starting and stopping engines.

use std::{fmt, io, sync::Arc};

use super::{
    EngineKind, FaultHandler, Memory,
    inline::Inline,
    region::MAX_REGION_BYTES,
    registry::{Claim, Entry, Region},
    signals::Handlers,
    uffd::{self, Access, Uffd},
    uffd_memory::{UffdMemory, UffdRegion},
};

/// Why an engine cannot start, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine does not allow it.
    #[error("fault engine {kind} cannot start: {why}; {remedy}")]
    Unavailable {
        /// The engine.
        kind: EngineKind,
        /// What was refused.
        why: String,
        /// What would allow it.
        remedy: String,
    },
    /// The region's size is out of range.
    #[error("a region of {bytes} bytes and {frames} frames: expected 1 byte to 1 TiB and less than 2^32 frames")]
    Size {
        /// Bytes asked for.
        bytes: usize,
        /// Frames asked for.
        frames: usize,
    },
    /// No address space.
    #[error("cannot map a region of {bytes} bytes: {source}; raise `ulimit -v`, or set vm.overcommit_memory to 0 or 1")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Too many regions in one process.
    #[error("64 regions live in this process already: end one of them first")]
    TooMany,
}

/// What to start. `start` is the short form.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine, or `None` for the best that this machine allows.
    pub kind: Option<EngineKind>,
    /// Bytes of the region, rounded up to pages.
    pub region_bytes: usize,
    /// Frames of the staging area.
    pub frames: usize,
    /// Uses UFFDIO_MOVE where the kernel has it (Linux 6.8). Off, pages are copied as on an older kernel: for tests.
    pub moves: bool,
}

/// Maps a region with its staging area. Nothing may touch the region before `PendingEngine::run`.
///
/// `kind` None chooses correct first: with full userfaultfd `uffd-thread`, else `uffd-inline`, else `sigsegv`. A
/// named engine that cannot start is an error.
pub fn start(
    kind: Option<EngineKind>,
    region_bytes: usize,
    frames: usize,
) -> Result<(Box<dyn Memory>, PendingEngine), EngineError> {
    start_with(&Options { kind, region_bytes, frames, moves: true })
}

/// `start` with all its options.
pub fn start_with(options: &Options) -> Result<(Box<dyn Memory>, PendingEngine), EngineError> {
    let Options { region_bytes: bytes, frames, .. } = *options;
    if bytes == 0 || bytes > MAX_REGION_BYTES || u32::try_from(frames).is_err() {
        return Err(EngineError::Size { bytes, frames });
    }
    let claim = Claim::new().ok_or(EngineError::TooMany)?;
    match options.kind.unwrap_or_else(best) {
        EngineKind::UffdInline => inline(options, claim),
        kind => Err(EngineError::Unavailable { kind, why: "not built yet".into(), remedy: "use uffd-inline".into() }),
    }
}

/// The first engine of DESIGN.md's order that this machine allows.
fn best() -> EngineKind {
    EngineKind::UffdInline
}

fn inline(options: &Options, claim: Claim) -> Result<(Box<dyn Memory>, PendingEngine), EngineError> {
    let kind = EngineKind::UffdInline;
    let optional = uffd::FEATURE_MOVE | uffd::FEATURE_PAGEFAULT_FLAG_WP;
    let uffd = Uffd::open(Access::UserMode, uffd::FEATURE_SIGBUS, optional).map_err(|error| refused(kind, &error))?;
    let region = register(options, uffd)?;
    let memory = UffdMemory::new(Arc::clone(&region));
    let pending = PendingEngine { kind, claim, served: Arc::new(Inline(Arc::clone(&region))), region };
    Ok((Box::new(memory), pending))
}

fn register(options: &Options, uffd: Uffd) -> Result<Arc<UffdRegion>, EngineError> {
    UffdRegion::new(uffd, options.region_bytes, options.frames, options.moves)
        .map(Arc::new)
        .map_err(|source| EngineError::Map { bytes: options.region_bytes, source })
}

fn refused(kind: EngineKind, error: &uffd::OpenError) -> EngineError {
    let remedy = match kind {
        EngineKind::UffdThread => {
            "run as root, or `sysctl vm.unprivileged_userfaultfd=1`, or `chmod 666 /dev/userfaultfd`"
        }
        _ => {
            "let the sandbox allow userfaultfd (docker run --security-opt seccomp=unconfined), or choose the engine sigsegv"
        }
    };
    EngineError::Unavailable { kind, why: error.to_string(), remedy: remedy.into() }
}

/// An engine whose region is mapped, and that waits for its handler.
pub struct PendingEngine {
    kind: EngineKind,
    claim: Claim,
    served: Arc<dyn Region>,
    region: Arc<UffdRegion>,
}

impl PendingEngine {
    /// The engine that runs.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// From now on touches of the region reach `handler`.
    pub fn run(mut self, handler: Arc<dyn FaultHandler>) -> Engine {
        let handlers = Handlers::install(false);
        let layout = &self.region.layout;
        let entry = Entry {
            start: layout.base() as usize,
            bytes: layout.pages() * rum_net::PAGE_BYTES,
            region: self.served,
            handler,
        };
        self.claim.publish(entry);
        Engine { kind: self.kind, region: self.region, claim: Some(self.claim), _handlers: handlers }
    }
}

/// A running engine. At drop it closes the region (who touches it afterwards dies by SIGSEGV), waits for the faults
/// that are being served, and gives the signals back; the addresses are free when its `Memory` has gone, too.
pub struct Engine {
    kind: EngineKind,
    region: Arc<UffdRegion>,
    claim: Option<Claim>,
    _handlers: Handlers,
}

impl Engine {
    /// Which engine it is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Whether the kernel's own touches are served, too: system calls on far buffers work.
    pub fn serves_kernel_faults(&self) -> bool {
        false
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Waits for signal handlers; later faults go to whoever had the signal before.
        self.claim = None;
        self.region.close();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for PendingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingEngine").field("kind", &self.kind).finish_non_exhaustive()
    }
}
