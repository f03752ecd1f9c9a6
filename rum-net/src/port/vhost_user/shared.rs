//! Access to memory that another process may change at any moment.
//!
//! Why this is sound: no Rust reference to such memory is ever formed, only raw pointers, so the compiler is never
//! told that its bytes are stable. Single words are read and written volatile, each exactly once, and ordered by
//! fences. Bulk bytes are copied raw into (or out of) private buffers; after the copy an empty assembly block, which
//! the compiler must take for a function that may have changed all memory, keeps it from ever reading the shared
//! bytes again in place of the private copy. A copy that races with a writer may be torn, which is what a bad
//! packet is; everything is checked on the private copy.

use std::sync::atomic::{Ordering, fence};

/// Reads a word once.
///
/// # Safety
/// `at` is aligned and lies in a live mapping.
#[inline]
pub(super) unsafe fn load<T: Copy>(at: *const T) -> T {
    // SAFETY: the caller's promise; volatile, so read exactly once, and no reference is formed.
    unsafe { at.read_volatile() }
}

/// Writes a word once.
///
/// # Safety
/// `at` is aligned and lies in a live writable mapping.
#[inline]
pub(super) unsafe fn store<T: Copy>(at: *mut T, value: T) {
    // SAFETY: the caller's promise; volatile, so written exactly once, and no reference is formed.
    unsafe { at.write_volatile(value) }
}

/// Reads a word that another side publishes; what it wrote before is visible afterwards.
///
/// # Safety
/// As for `load`.
#[inline]
pub(super) unsafe fn load_acquire<T: Copy>(at: *const T) -> T {
    // SAFETY: the caller's promise.
    let value = unsafe { load(at) };
    fence(Ordering::Acquire);
    value
}

/// Publishes a word: what was written before is visible to whoever reads it.
///
/// # Safety
/// As for `store`.
#[inline]
pub(super) unsafe fn store_release<T: Copy>(at: *mut T, value: T) {
    fence(Ordering::Release);
    // SAFETY: the caller's promise.
    unsafe { store(at, value) }
}

/// Copies shared bytes into a private buffer.
///
/// # Safety
/// `from` and the next `to.len()` bytes lie in a live mapping that is not `to`.
#[inline]
pub(super) unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller's promise; any bytes are valid `u8`s, torn or not.
    unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    forget_memory(to.as_ptr());
}

/// Copies private bytes into shared memory.
///
/// # Safety
/// `to` and the next `from.len()` bytes lie in a live writable mapping that is not `from`.
#[inline]
pub(super) unsafe fn copy_in(from: &[u8], to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    forget_memory(to);
}

/// Fetches the two cache lines at an address, to be read soon. Any address will do.
#[inline]
pub(super) fn expect_read(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it cannot fault and changes nothing.
    unsafe {
        std::arch::asm!("prefetcht0 [{0}]", "prefetcht0 [{0} + 64]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Fetches the two cache lines at an address, to be written soon. Any address will do.
#[inline]
pub(super) fn expect_write(at: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it cannot fault and changes nothing (a CPU without it takes it for no instruction).
    unsafe {
        std::arch::asm!("prefetchw [{0}]", "prefetchw [{0} + 64]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Makes the compiler forget all it knows of the contents of memory. Costs no instruction.
#[inline]
fn forget_memory(at: *const u8) {
    // SAFETY: the block is empty; without `nomem` the compiler must assume that it read and wrote all memory.
    unsafe { std::arch::asm!("/* {0} */", in(reg) at, options(nostack, preserves_flags)) };
}
