//! Starting and stopping engines.

use std::{fmt, io, sync::Arc};

use rum_net::PAGE_BYTES;

use super::{
    EngineKind, FaultHandler, Memory,
    inline::Inline,
    region::MAX_REGION_BYTES,
    registry::{Claim, Entry, Region},
    signals::Handlers,
    sigsegv::{FileMemory, FileRegion},
    threaded::{HandlerThread, Threaded},
    uffd::{self, Access, Uffd},
    uffd_memory::{UffdMemory, UffdRegion},
};

/// What lets userfaultfd serve the kernel's touches.
pub(super) const ALLOW_FULL: &str =
    "run as root, or `sysctl vm.unprivileged_userfaultfd=1`, or `chmod 666 /dev/userfaultfd`";
/// What lets userfaultfd serve a program's own touches.
pub(super) const ALLOW_USER_MODE: &str =
    "let the sandbox allow userfaultfd (`docker run --security-opt seccomp=unconfined`), or choose the engine sigsegv";

const OPTIONAL_FEATURES: u64 = uffd::FEATURE_MOVE | uffd::FEATURE_PAGEFAULT_FLAG_WP;

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
    let order = match &options.kind {
        Some(kind) => std::slice::from_ref(kind),
        None => &[EngineKind::UffdThread, EngineKind::UffdInline, EngineKind::Sigsegv],
    };
    let mut result = Err(EngineError::TooMany);
    for kind in order {
        // Left to us, only an engine that can do all its name promises is chosen.
        let user_mode_will_do = options.kind.is_some();
        result = match kind {
            EngineKind::UffdThread => threaded(options, user_mode_will_do),
            EngineKind::UffdInline => inline(options),
            EngineKind::Sigsegv => sigsegv(options),
        };
        if !matches!(result, Err(EngineError::Unavailable { .. })) {
            break;
        }
    }
    let (memory, parts) = result?;
    Ok((memory, PendingEngine { claim, parts }))
}

type Built = (Box<dyn Memory>, Parts);

fn threaded(options: &Options, user_mode_will_do: bool) -> Result<Built, EngineError> {
    let kind = EngineKind::UffdThread;
    let optional = OPTIONAL_FEATURES | uffd::FEATURE_THREAD_ID;
    let uffd = match Uffd::open(Access::Full, 0, optional) {
        Err(_) if user_mode_will_do => Uffd::open(Access::UserMode, 0, optional),
        opened => opened,
    };
    let uffd = uffd.map_err(|error| refused(kind, &error))?;
    let kernel_faults = uffd.is_full();
    let region = register(options, uffd)?;
    let no_thread = |error: io::Error| EngineError::Unavailable {
        kind,
        why: format!("no handler thread: {error}"),
        remedy: "raise `ulimit -u` or `ulimit -n`".into(),
    };
    let served = Arc::new(Threaded::new(Arc::clone(&region)).map_err(no_thread)?);
    let thread = HandlerThread::spawn(Arc::clone(&served)).map_err(no_thread)?;
    let (start, bytes) = bounds(&region);
    let parts = Parts { kind, kernel_faults, served, start, bytes, thread: Some(thread) };
    Ok((Box::new(UffdMemory::new(region)), parts))
}

fn inline(options: &Options) -> Result<Built, EngineError> {
    let kind = EngineKind::UffdInline;
    let uffd = Uffd::open(Access::UserMode, uffd::FEATURE_SIGBUS, OPTIONAL_FEATURES);
    let region = register(options, uffd.map_err(|error| refused(kind, &error))?)?;
    let (start, bytes) = bounds(&region);
    let served = Arc::new(Inline(Arc::clone(&region)));
    let parts = Parts { kind, kernel_faults: false, served, start, bytes, thread: None };
    Ok((Box::new(UffdMemory::new(region)), parts))
}

fn sigsegv(options: &Options) -> Result<Built, EngineError> {
    let kind = EngineKind::Sigsegv;
    let bytes = options.region_bytes;
    let region = FileRegion::new(bytes, options.frames).map_err(|source| EngineError::Map { bytes, source })?;
    let region = Arc::new(region);
    let memory = FileMemory::new(Arc::clone(&region));
    if let Some(warning) = memory.warning() {
        eprintln!("rum: {warning}");
    }
    let (start, bytes) = (region.base() as usize, region.bytes());
    let parts = Parts { kind, kernel_faults: false, served: region, start, bytes, thread: None };
    Ok((Box::new(memory), parts))
}

fn register(options: &Options, uffd: Uffd) -> Result<Arc<UffdRegion>, EngineError> {
    UffdRegion::new(uffd, options.region_bytes, options.frames, options.moves)
        .map(Arc::new)
        .map_err(|source| EngineError::Map { bytes: options.region_bytes, source })
}

fn bounds(region: &UffdRegion) -> (usize, usize) {
    (region.layout.base() as usize, region.layout.pages() * PAGE_BYTES)
}

fn refused(kind: EngineKind, error: &uffd::OpenError) -> EngineError {
    let remedy = match kind {
        EngineKind::UffdThread => ALLOW_FULL,
        _ => ALLOW_USER_MODE,
    };
    EngineError::Unavailable { kind, why: error.to_string(), remedy: remedy.into() }
}

/// What an engine is made of.
struct Parts {
    kind: EngineKind,
    kernel_faults: bool,
    served: Arc<dyn Region>,
    start: usize,
    bytes: usize,
    thread: Option<HandlerThread>,
}

/// An engine whose region is mapped, and that waits for its handler.
pub struct PendingEngine {
    claim: Claim,
    parts: Parts,
}

impl PendingEngine {
    /// The engine that will run.
    pub fn kind(&self) -> EngineKind {
        self.parts.kind
    }

    /// From now on touches of the region reach `handler`.
    pub fn run(mut self, handler: Arc<dyn FaultHandler>) -> Engine {
        let Parts { kind, kernel_faults, served, start, bytes, mut thread } = self.parts;
        let handlers = Handlers::install(kind == EngineKind::Sigsegv);
        if let Some(thread) = &mut thread {
            thread.run(Arc::clone(&handler));
        }
        self.claim.publish(Entry { start, bytes, region: Arc::clone(&served), handler });
        Engine { kind, kernel_faults, served, claim: Some(self.claim), thread, _handlers: handlers }
    }
}

/// A running engine. At drop it closes the region (who touches it afterwards dies), waits for the faults that are
/// being served, and gives the signals back; the addresses are free when its `Memory` has gone, too.
pub struct Engine {
    kind: EngineKind,
    kernel_faults: bool,
    served: Arc<dyn Region>,
    claim: Option<Claim>,
    thread: Option<HandlerThread>,
    _handlers: Handlers,
}

impl Engine {
    /// Which engine it is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Whether the kernel's own touches are served, too: system calls on far buffers work.
    pub fn serves_kernel_faults(&self) -> bool {
        self.kernel_faults
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Waits for signal handlers; later faults go to whoever had the signal before.
        self.claim = None;
        self.thread = None;
        self.served.close();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for PendingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingEngine").field("kind", &self.parts.kind).finish_non_exhaustive()
    }
}
