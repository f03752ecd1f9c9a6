//! Which regions live in this process: looked up by the signal handlers, so without locks and without memory.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
};

use super::{FaultHandler, FaultOutcome, PageNumber};

const SLOTS: usize = 64;
static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// How an engine treats the signals of its region.
pub(super) trait Region: Send + Sync {
    /// Whether this process is a forked child, which does not have the region.
    fn is_forked(&self) -> bool;
    /// Whether a fault that the kernel signals this way is one that the handler must resolve. Called before it.
    fn claims(&self, signal: i32, code: i32, page: PageNumber) -> bool;
    /// Ends the program's use of the region: who still touches it dies, and never reads zeros.
    fn close(&self);
}

/// A region and who resolves its faults.
pub(super) struct Entry {
    pub start: usize,
    pub bytes: usize,
    pub region: Arc<dyn Region>,
    pub handler: Arc<dyn FaultHandler>,
}

impl Entry {
    /// The page of an address in the region.
    pub fn page(&self, address: usize) -> PageNumber {
        PageNumber(((address - self.start) / rum_net::PAGE_BYTES) as u32)
    }

    pub fn fault(&self, page: PageNumber) -> FaultOutcome {
        self.handler.fault(page)
    }
}

struct Slot {
    claimed: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Signal handlers that look at `entry`.
    readers: AtomicUsize,
    entry: AtomicPtr<Entry>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            entry: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

/// A place in the table.
pub(super) struct Claim {
    slot: &'static Slot,
    region: Option<Arc<dyn Region>>,
}

impl Claim {
    /// A free place, or `None` when as many regions live as the table holds.
    pub fn new() -> Option<Self> {
        let slot = TABLE.iter().find(|slot| slot.claimed.compare_exchange(false, true, SeqCst, SeqCst).is_ok())?;
        Some(Self { slot, region: None })
    }

    /// From now on signal handlers find the region.
    pub fn publish(&mut self, entry: Entry) {
        self.region = Some(Arc::clone(&entry.region));
        self.slot.start.store(entry.start, SeqCst);
        self.slot.end.store(entry.start + entry.bytes, SeqCst);
        let before = self.slot.entry.swap(Box::into_raw(Box::new(entry)), SeqCst);
        assert!(before.is_null(), "published twice");
    }
}

impl Drop for Claim {
    /// Waits for the signal handlers that are at work on the region.
    fn drop(&mut self) {
        self.slot.start.store(0, SeqCst);
        self.slot.end.store(0, SeqCst);
        let entry = self.slot.entry.swap(ptr::null_mut(), SeqCst);
        // In a forked child a reader may be counted that does not exist here: leave its entry and its slot alone.
        if self.region.as_ref().is_some_and(|region| region.is_forked()) {
            return;
        }
        while self.slot.readers.load(SeqCst) > 0 {
            std::thread::yield_now();
        }
        if !entry.is_null() {
            // SAFETY: made by Box::into_raw in `publish`, taken out of the slot by the swap, and no reader that could
            // have seen it is left; later ones see null.
            drop(unsafe { Box::from_raw(entry) });
        }
        self.slot.claimed.store(false, SeqCst);
    }
}

/// An entry that is kept alive while a signal handler uses it.
pub(super) struct Found {
    slot: &'static Slot,
    entry: *const Entry,
}

impl std::ops::Deref for Found {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        // SAFETY: counted in `readers` before the pointer was loaded, so that `Claim::drop` waits for us.
        unsafe { &*self.entry }
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        self.slot.readers.fetch_sub(1, SeqCst);
    }
}

/// The region that an address lies in.
pub(super) fn find(address: usize) -> Option<Found> {
    for slot in &TABLE {
        if address < slot.start.load(SeqCst) || address >= slot.end.load(SeqCst) {
            continue;
        }
        slot.readers.fetch_add(1, SeqCst);
        let found = slot.entry.load(SeqCst);
        let guard = Found { slot, entry: found };
        // The slot may have changed hands since its bounds were read.
        if !found.is_null() && address >= guard.start && address - guard.start < guard.bytes {
            return Some(guard);
        }
    }
    None
}
