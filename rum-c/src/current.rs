//! The grid that this process has joined, as the C functions and the system-call wrappers find it.
//!
//! One pointer and a counter of the calls that use it. Entering takes two uncontended atomic operations and no lock, so that it
//! may happen in a signal handler and in a forked child, whatever another thread was doing.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rum_core::grid::Grid;

static GRID: AtomicPtr<Grid> = AtomicPtr::new(ptr::null_mut());

/// Counters of calls in progress, a cache line each so that threads do not share one.
static CALLS: [Calls; 16] = [const { Calls(AtomicUsize::new(0)) }; 16];

#[repr(align(64))]
struct Calls(AtomicUsize);

/// How long leaving waits for calls in progress on other threads.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

/// The use of the grid by one call; the grid stays while it lives.
pub(crate) struct Entered {
    grid: *const Grid,
    calls: &'static AtomicUsize,
}

impl std::ops::Deref for Entered {
    type Target = Grid;

    fn deref(&self) -> &Grid {
        // SAFETY: `detach` gives the grid up only when no call is counted, and this one is.
        unsafe { &*self.grid }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, SeqCst);
    }
}

/// The grid, if this process has joined one.
pub(crate) fn enter() -> Option<Entered> {
    if GRID.load(SeqCst).is_null() {
        return None;
    }
    let on_stack = 0u8;
    let stripe = (ptr::from_ref(&on_stack) as usize >> 16).wrapping_mul(0x9E37_79B9) >> 8;
    let calls = &CALLS[stripe % CALLS.len()].0;
    calls.fetch_add(1, SeqCst);
    let entered = Entered { grid: GRID.load(SeqCst), calls };
    (!entered.grid.is_null()).then_some(entered)
}

/// Makes `grid` the one whose far buffers the system-call wrappers know. Gives it back when there is one already.
pub fn attach(grid: Arc<Grid>) -> Result<(), Arc<Grid>> {
    let new = Arc::into_raw(grid).cast_mut();
    match GRID.compare_exchange(ptr::null_mut(), new, SeqCst, SeqCst) {
        Ok(_) => Ok(()),
        // SAFETY: `new` comes from into_raw above and was not stored.
        Err(_) => Err(unsafe { Arc::from_raw(new) }),
    }
}

/// Takes the grid back; from then on system calls get far buffers as they are. `None` when none was attached, or
/// when a call of another thread still uses it after two seconds (the grid then stays until the process ends).
pub fn detach() -> Option<Arc<Grid>> {
    let old = GRID.swap(ptr::null_mut(), SeqCst);
    if old.is_null() {
        return None;
    }
    let deadline = Instant::now() + LEAVE_WAIT;
    while CALLS.iter().any(|calls| calls.0.load(SeqCst) != 0) {
        if Instant::now() > deadline {
            return None;
        }
        thread::yield_now();
    }
    // SAFETY: `old` comes from into_raw in `attach`, was taken out once, and no call uses it any more.
    Some(unsafe { Arc::from_raw(old) })
}

/// Forgets the grid in a forked child, whose parent goes on using it. Touches no lock and no memory of the grid.
pub(crate) fn forget_in_child() {
    GRID.store(ptr::null_mut(), SeqCst);
    for calls in &CALLS {
        calls.0.store(0, SeqCst);
    }
}
