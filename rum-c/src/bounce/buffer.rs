//! Local buffers that data passes through on its way between the kernel and far memory.
//!
//! A few are kept for ever; a call that finds all of them in use maps one for itself. No lock, no heap and no thread-local
//! state, so a wrapper works in a signal handler, in a forked child and before main. They come from the bare system
//! call: mmap itself may be interposed, too, and give far memory.

use std::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};

/// The most bytes that one system call moves for streams and files.
pub(super) const PIECE_BYTES: usize = 128 * 1024;

struct Slot {
    busy: AtomicBool,
    base: AtomicPtr<u8>,
}

static SLOTS: [Slot; 4] = [const { Slot { busy: AtomicBool::new(false), base: AtomicPtr::new(ptr::null_mut()) } }; 4];

/// A local buffer, aligned to a page.
pub(super) struct Buffer {
    base: NonNull<u8>,
    bytes: usize,
    slot: Option<&'static Slot>,
}

impl Buffer {
    /// A buffer of at least `bytes` (counted as 1 when 0). Sets errno to ENOMEM when there is none.
    pub(super) fn take(bytes: usize) -> Option<Self> {
        #[cfg(test)]
        tests::count();
        let bytes = bytes.max(1);
        let slot = (bytes <= PIECE_BYTES)
            .then(|| SLOTS.iter().find(|slot| !slot.busy.swap(true, Ordering::Acquire)))
            .flatten();
        let Some(slot) = slot else {
            return Some(Self { base: map(bytes)?, bytes, slot: None });
        };
        let base = NonNull::new(slot.base.load(Ordering::Relaxed)).or_else(|| map(PIECE_BYTES));
        let Some(base) = base else {
            slot.busy.store(false, Ordering::Release);
            return None;
        };
        slot.base.store(base.as_ptr(), Ordering::Relaxed);
        Some(Self { base, bytes: PIECE_BYTES, slot: Some(slot) })
    }

    /// Its first byte.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.slot {
            Some(slot) => slot.busy.store(false, Ordering::Release),
            // SAFETY: `map` made this mapping of as many bytes, and nobody else knows it.
            None => {
                let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                // SAFETY: as above.
                unsafe { libc::syscall(libc::SYS_munmap, self.base.as_ptr(), self.bytes) };
                crate::errors::set_errno(errno);
            }
        }
    }
}

fn map(bytes: usize) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping touches nothing that exists.
    let address = unsafe { libc::syscall(libc::SYS_mmap, 0, bytes, protection, flags, -1, 0) };
    if address == -1 { None } else { NonNull::new(address as *mut u8) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        TAKEN.set(TAKEN.get() + 1);
    }

    /// Buffers that this thread has taken.
    pub(crate) fn taken() -> usize {
        TAKEN.get()
    }

    #[test]
    fn more_callers_than_slots_each_get_their_own() {
        let taken: Vec<_> = (0..10).map(|_| Buffer::take(100).unwrap()).collect();
        for (number, buffer) in taken.iter().enumerate() {
            // SAFETY: at least 100 bytes, ours.
            unsafe { buffer.base().write_bytes(number as u8, 100) };
        }
        for (number, buffer) in taken.iter().enumerate() {
            // SAFETY: as above.
            assert_eq!(unsafe { *buffer.base().add(99) }, number as u8);
        }
    }

    #[test]
    fn a_large_message_gets_a_buffer_of_its_size() {
        let buffer = Buffer::take(5 << 20).unwrap();
        assert_eq!(buffer.bytes, 5 << 20);
        assert!(Buffer::take(usize::MAX / 2).is_none());
    }
}
