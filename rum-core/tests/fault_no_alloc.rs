//! The fault path never calls the program's allocator: here it aborts when it is called on that path.

mod fault_common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{Arc, Mutex},
};

use fault_common::Variant;
use rum_core::fault::{FaultHandler, FaultOutcome, FrameNumber, Memory, PageNumber, start_with};

thread_local! {
    /// Whether this thread may call the allocator.
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

struct Guarded;

fn check() {
    if FORBIDDEN.with(Cell::get) {
        // SAFETY: writes a constant and ends the process.
        unsafe {
            let said = b"allocation on the fault path\n";
            libc::write(2, said.as_ptr().cast(), said.len());
            libc::abort();
        }
    }
}

// SAFETY: the system's allocator, after a check that allocates nothing.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

/// Keeps one page mapped: takes the last one out, and installs the next.
struct OnePage(Mutex<(Box<dyn Memory>, Option<PageNumber>)>);

impl FaultHandler for OnePage {
    fn fault(&self, page: PageNumber) -> FaultOutcome {
        // In a handler thread the flag stays: from its first fault on it never allocates, also between faults.
        FORBIDDEN.with(|flag| flag.set(true));
        let mut state = self.0.lock().unwrap();
        let (memory, mapped) = &mut *state;
        if let Some(last) = mapped.replace(page) {
            memory.take(last, FrameNumber(last.0), 1).unwrap();
        }
        memory.unload_frames(FrameNumber(page.0), 1).unwrap();
        memory.load_frames(FrameNumber(page.0), 1).unwrap();
        memory.frame_mut(FrameNumber(page.0)).fill(page.0 as u8);
        memory.install(page, FrameNumber(page.0), 1).unwrap();
        FaultOutcome::Resolved
    }
}

#[test]
fn no_engine_allocates_while_it_serves_a_fault() {
    const PAGES: usize = 200;
    for variant in Variant::allowed() {
        let (mut memory, pending) = start_with(&variant.ask(PAGES, PAGES)).unwrap();
        memory.load_frames(FrameNumber(0), PAGES).unwrap();
        let base = memory.base();
        let handler = Arc::new(OnePage(Mutex::new((memory, None))));
        let engine = pending.run(Arc::clone(&handler) as Arc<dyn FaultHandler>);
        let mut read = [0u8; PAGES];
        // Inline engines run on this thread: all their work lies between these two lines.
        FORBIDDEN.with(|flag| flag.set(true));
        for (page, byte) in read.iter_mut().enumerate() {
            // SAFETY: a byte of the region.
            *byte = unsafe { base.add(page * fault_common::PAGE + 77).read_volatile() };
        }
        FORBIDDEN.with(|flag| flag.set(false));
        assert!(read.iter().enumerate().all(|(page, &byte)| byte == page as u8), "{}", variant.name());
        // The handler thread may free memory when it ends: that is no fault.
        std::mem::forget(engine);
    }
}
