//! A small pager for the tests of the fault engines: each page has a frame of the same number, where its bytes
//! lie while it is out.
#![allow(dead_code)]

use std::{
    process::{Command, Output},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use rum_core::fault::{
    Engine, EngineKind, FaultHandler, FaultOutcome, FrameNumber, Memory, Options, PageNumber, PendingEngine, TakeError,
    start_with,
};

pub const PAGE: usize = 4096;

/// An engine and how it is started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    pub kind: EngineKind,
    pub moves: bool,
}

impl Variant {
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kind in [EngineKind::UffdInline, EngineKind::UffdThread, EngineKind::Sigsegv] {
            all.push(Self { kind, moves: true });
            if kind != EngineKind::Sigsegv {
                all.push(Self { kind, moves: false });
            }
        }
        all
    }

    /// The engines that this machine allows.
    pub fn allowed() -> Vec<Self> {
        let allowed: Vec<_> =
            Self::all().into_iter().filter(|variant| start_with(&variant.ask(1, 1)).is_ok()).collect();
        assert!(!allowed.is_empty(), "no engine starts here");
        allowed
    }

    pub fn ask(self, pages: usize, frames: usize) -> Options {
        Options { kind: Some(self.kind), region_bytes: pages * PAGE, frames, moves: self.moves }
    }

    pub fn name(self) -> String {
        format!("{}{}", self.kind, if self.moves { "" } else { "+copy" })
    }

    pub fn from_name(name: &str) -> Self {
        Self { kind: name.trim_end_matches("+copy").parse().unwrap(), moves: !name.ends_with("+copy") }
    }
}

/// A region that no handler serves yet.
pub fn start_sized(variant: Variant, pages: usize, frames: usize) -> (Box<dyn Memory>, PendingEngine) {
    start_with(&variant.ask(pages, frames)).expect("engine starts")
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum State {
    Unallocated,
    Absent,
    Mapped,
    Out,
}

pub struct Inner {
    pub memory: Box<dyn Memory>,
    pub state: Vec<State>,
}

/// The pager: one lock, and the page's state.
pub struct Pager {
    pub inner: Mutex<Inner>,
    pub faults: AtomicUsize,
    base: usize,
}

impl FaultHandler for Pager {
    fn fault(&self, page: PageNumber) -> FaultOutcome {
        self.faults.fetch_add(1, Ordering::Relaxed);
        // As failing system calls of a real pager would: the interrupted code must not notice.
        // SAFETY: errno is the calling thread's own.
        unsafe { *libc::__errno_location() = libc::EXDEV };
        let mut inner = self.inner.lock().unwrap();
        let index = page.0 as usize;
        match inner.state[index] {
            State::Unallocated => return FaultOutcome::Unallocated,
            State::Mapped => inner.memory.wake(page),
            State::Absent => inner.memory.install_zeros(page, 1).expect("install zeros"),
            State::Out => inner.memory.install(page, FrameNumber(page.0), 1).expect("install"),
        }
        inner.state[index] = State::Mapped;
        FaultOutcome::Resolved
    }
}

/// A region of absent pages with its engine.
pub struct Rig {
    // Stopped before the pager's memory goes.
    pub engine: Engine,
    pub pager: Arc<Pager>,
    pub pages: usize,
}

impl Rig {
    pub fn new(variant: Variant, pages: usize) -> Self {
        let (memory, pending) = start_with(&variant.ask(pages, pages)).expect("engine starts");
        assert_eq!((memory.pages(), memory.frames()), (pages, pages));
        let base = memory.base() as usize;
        let inner = Mutex::new(Inner { memory, state: vec![State::Absent; pages] });
        let pager = Arc::new(Pager { inner, faults: AtomicUsize::new(0), base });
        let engine = pending.run(Arc::clone(&pager) as Arc<dyn FaultHandler>);
        assert_eq!(engine.kind(), variant.kind);
        Self { engine, pager, pages }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.pager.inner.lock().unwrap()
    }

    pub fn faults(&self) -> usize {
        self.pager.faults.load(Ordering::Relaxed)
    }

    pub fn at(&self, page: usize, offset: usize) -> *mut u8 {
        assert!(page < self.pages && offset < PAGE);
        (self.pager.base + page * PAGE + offset) as *mut u8
    }

    /// A word of the region, as the program reads it.
    pub fn read(&self, page: usize, word: usize) -> u64 {
        // SAFETY: in the region, aligned; the engine serves the touch.
        unsafe { ptr::read_volatile(self.at(page, word * 8).cast()) }
    }

    pub fn write(&self, page: usize, word: usize, value: u64) {
        // SAFETY: in the region, aligned; the engine serves the touch.
        unsafe { ptr::write_volatile(self.at(page, word * 8).cast(), value) }
    }

    /// Takes a mapped run out, each page to its own frame.
    pub fn take(&self, first: usize, count: usize) -> Result<(), TakeError> {
        let mut inner = self.lock();
        inner.memory.take(PageNumber(first as u32), FrameNumber(first as u32), count)?;
        inner.state[first..first + count].fill(State::Out);
        Ok(())
    }

    pub fn state(&self, page: usize) -> State {
        self.lock().state[page]
    }
}

/// A small generator from a seed (xorshift64*), printed by the tests.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn from_environment() -> Self {
        let seed = std::env::var("RUM_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        });
        println!("RUM_TEST_SEED={seed}");
        Self::new(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }
}

/// Runs a test of this file again in a process of its own, which may die. The test looks at `case()`.
pub fn run_case(test: &str, case: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("RUM_FAULT_CASE", case)
        .output()
        .unwrap()
}

/// The case that this process was started for.
pub fn case() -> Option<String> {
    std::env::var("RUM_FAULT_CASE").ok()
}

/// What a process wrote to stderr and stdout.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}
