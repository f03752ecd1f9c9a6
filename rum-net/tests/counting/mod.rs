//! Counts what a thread takes from the heap and gives back.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    /// Whether allocations of this thread count, and how many there were.
    static COUNTED: Cell<(bool, u64)> = const { Cell::new((false, 0)) };
}

struct CountingAllocator;

fn count() {
    COUNTED.with(|counted| {
        let (is_on, number) = counted.get();
        counted.set((is_on, number + u64::from(is_on)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a constant-initialised thread-local
// without a destructor, which neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs something with counting on; returns how often it allocated or freed.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    COUNTED.set((true, 0));
    let result = work();
    let (_, number) = COUNTED.replace((false, 0));
    (result, number)
}
