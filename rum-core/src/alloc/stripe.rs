//! Stripes stand in for per-thread caches: each has one active slab a class, and a thread allocates from those of
//! its stripe. A stripe outlives every thread and holds no objects, so nothing is to be flushed when a thread ends.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    thread::available_parallelism,
};

use super::{
    metadata::Metadata,
    size_class::{CLASSES, SizeClass},
    slab::NO_SLAB,
};

/// The most stripes.
const MAX_STRIPES: usize = 64;

thread_local! {
    /// This thread's number. It has no destructor, so that it can be used until the thread's very end.
    static THREAD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The active slabs of the threads on one stripe. Changed only under the lock of the class.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Stripe {
    active: [AtomicU32; CLASSES],
}

impl Stripe {
    fn new() -> Self {
        Self { active: [const { AtomicU32::new(NO_SLAB) }; CLASSES] }
    }

    /// The active slab of a class, or `NO_SLAB`.
    #[inline]
    pub(super) fn active(&self, class: SizeClass) -> u32 {
        self.active[class.index()].load(Ordering::Acquire)
    }

    pub(super) fn set_active(&self, class: SizeClass, slab: u32) {
        self.active[class.index()].store(slab, Ordering::Release);
    }
}

/// As many stripes as threads can run at once, or more.
#[derive(Debug)]
pub(super) struct Stripes {
    all: Box<[Stripe]>,
}

impl Stripes {
    pub(super) fn new(metadata: &Metadata) -> Self {
        let threads = available_parallelism().map_or(1, |threads| threads.get());
        Self { all: metadata.table((2 * threads).next_power_of_two().min(MAX_STRIPES), Stripe::new) }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stripe> {
        self.all.iter()
    }

    /// The number of the calling thread's stripe.
    #[inline]
    pub(super) fn current(&self) -> usize {
        thread_number() & (self.all.len() - 1)
    }

    #[inline]
    pub(super) fn get(&self, stripe: usize) -> &Stripe {
        &self.all[stripe]
    }
}

#[inline]
fn thread_number() -> usize {
    let number = THREAD.get();
    if number == usize::MAX { number_thread() } else { number }
}

#[cold]
fn number_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1);
    THREAD.set(number);
    number
}
