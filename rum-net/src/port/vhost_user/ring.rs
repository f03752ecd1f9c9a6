//! The split virtqueue of virtio 1.1 (section 2.6), seen from both sides.
//!
//! ```text
//! descriptors  n x { address u64, len u32, flags u16, next u16 }          written by the driver (client)
//! available    flags u16, index u16, n x { head u16 }                     written by the driver
//! used         flags u16, index u16, n x { head u32, len u32 }            written by the device (slave)
//! ```
//!
//! Each side keeps its own counters in private memory and takes nothing for granted that it reads from the ring:
//! an index is masked or checked, an address translated and checked, a chain bounded.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use super::{memory_map::MemoryMap, shared};

/// Most entries in a ring.
pub(super) const MAX_SIZE: u16 = 1024;
/// Most descriptors in one chain, and most chains in one packet. (virtio allows a whole ring's length; no driver
/// comes near, and a bound keeps the cost of a hostile packet small.)
pub(super) const MAX_CHAIN: usize = 64;
/// So many packets ahead a buffer is fetched into the cache.
pub(super) const AHEAD: u16 = 4;
/// Bytes of the virtio-net header before each packet: all zero but the number of buffers in the last two.
pub(super) const NET_HEADER_BYTES: usize = 12;

pub(super) const DESCRIPTOR_NEXT: u16 = 1;
pub(super) const DESCRIPTOR_WRITE: u16 = 2;
pub(super) const DESCRIPTOR_INDIRECT: u16 = 4;
/// In the used ring's flags: the device polls, no kick is needed.
const NO_NOTIFY: u16 = 1;
/// In the available ring's flags: the driver polls, no call is needed.
const NO_INTERRUPT: u16 = 1;

/// What was wrong with a ring. Its owner is broken or hostile; there is no way on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error("a ring index moved by more than the ring's size")]
    Index,
    #[error("a descriptor number beyond the ring")]
    Descriptor,
    #[error("a descriptor with flags that do not belong there (indirect, or for the other direction)")]
    Flags,
    #[error("a chain that is too long or runs in a circle")]
    Chain,
    #[error("an address outside the shared memory")]
    Address,
    #[error("a packet longer than any port sends")]
    Length,
}

/// Why a packet was not put into a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PushError {
    Full,
    TooLong,
    Violation(Violation),
}

impl From<Violation> for PushError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Bytes of the three parts of a ring with `size` entries: descriptors, available, used.
pub(super) const fn part_bytes(size: u16) -> [usize; 3] {
    let size = size as usize;
    [16 * size, 4 + 2 * size, 4 + 8 * size]
}

#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// The shared parts of a ring: raw pointers, checked when made; indices are masked, so every access stays inside.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    pub(super) mask: u16,
    pub(super) memory: Arc<MemoryMap>,
}

// SAFETY: the pointers lead into `memory`, which the ring owns a share of; all access is raw.
unsafe impl Send for Parts {}

impl Parts {
    /// `addresses` are user addresses of descriptors, available and used ring. `None` if one is outside the memory
    /// or misaligned, or the size is not a power of two.
    pub(super) fn new(memory: Arc<MemoryMap>, size: u16, addresses: [u64; 3]) -> Option<Self> {
        if !size.is_power_of_two() || size > MAX_SIZE {
            return None;
        }
        let mut parts = [std::ptr::null_mut(); 3];
        for (i, (bytes, align)) in part_bytes(size).into_iter().zip([16, 2, 4]).enumerate() {
            parts[i] = memory.user(addresses[i], bytes).filter(|at| at.addr() % align == 0)?;
        }
        let [descriptors, available, used] = parts;
        Some(Self { descriptors, available, used, mask: size - 1, memory })
    }

    pub(super) fn size(&self) -> u16 {
        self.mask + 1
    }

    #[inline]
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        let at = self.descriptors.wrapping_add(16 * usize::from(index & self.mask)).cast::<u64>();
        // SAFETY: a masked index; `new` has checked 16 bytes for each, 16-byte aligned.
        let (address, rest) = unsafe { (shared::load(at), shared::load(at.add(1))) };
        Descriptor { address, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    #[inline]
    pub(super) fn set_descriptor(&self, index: u16, value: Descriptor) {
        let at = self.descriptors.wrapping_add(16 * usize::from(index & self.mask)).cast::<u64>();
        let rest = u64::from(value.len) | u64::from(value.flags) << 32 | u64::from(value.next) << 48;
        // SAFETY: as in `descriptor`.
        unsafe {
            shared::store(at, value.address);
            shared::store(at.add(1), rest);
        }
    }

    #[inline]
    pub(super) fn available_index(&self) -> u16 {
        // SAFETY: `new` has checked the available ring's 4 + 2n bytes, 2-byte aligned.
        unsafe { shared::load_acquire(self.available.cast::<u16>().add(1)) }
    }

    #[inline]
    pub(super) fn publish_available(&self, index: u16) {
        // SAFETY: as above.
        unsafe { shared::store_release(self.available.cast::<u16>().add(1), index) }
    }

    #[inline]
    pub(super) fn available_head(&self, position: u16) -> u16 {
        // SAFETY: as above; a masked position.
        unsafe { shared::load(self.available.cast::<u16>().add(2 + usize::from(position & self.mask))) }
    }

    #[inline]
    pub(super) fn set_available_head(&self, position: u16, head: u16) {
        // SAFETY: as above; a masked position.
        unsafe { shared::store(self.available.cast::<u16>().add(2 + usize::from(position & self.mask)), head) }
    }

    #[inline]
    pub(super) fn used_index(&self) -> u16 {
        // SAFETY: `new` has checked the used ring's 4 + 8n bytes, 4-byte aligned.
        unsafe { shared::load_acquire(self.used.cast::<u16>().add(1)) }
    }

    #[inline]
    pub(super) fn publish_used(&self, index: u16) {
        // SAFETY: as above.
        unsafe { shared::store_release(self.used.cast::<u16>().add(1), index) }
    }

    #[inline]
    pub(super) fn used_element(&self, position: u16) -> (u32, u32) {
        let at = self.used.cast::<u32>().wrapping_add(1 + 2 * usize::from(position & self.mask));
        // SAFETY: as above; a masked position.
        unsafe { (shared::load(at), shared::load(at.add(1))) }
    }

    #[inline]
    pub(super) fn set_used_element(&self, position: u16, head: u16, len: u32) {
        let at = self.used.cast::<u32>().wrapping_add(1 + 2 * usize::from(position & self.mask));
        // SAFETY: as above; a masked position.
        unsafe {
            shared::store(at, u32::from(head));
            shared::store(at.add(1), len);
        }
    }

    /// Tells the driver whether to kick. With `true`, look into the ring again afterwards.
    pub(super) fn want_kicks(&self, wanted: bool) {
        // SAFETY: the flags are the used ring's first word.
        unsafe { shared::store(self.used.cast::<u16>(), if wanted { 0 } else { NO_NOTIFY }) };
        if wanted {
            fence(Ordering::SeqCst);
        }
    }

    /// Tells the device whether to call. With `true`, look into the ring again afterwards.
    pub(super) fn want_calls(&self, wanted: bool) {
        // SAFETY: the flags are the available ring's first word.
        unsafe { shared::store(self.available.cast::<u16>(), if wanted { 0 } else { NO_INTERRUPT }) };
        if wanted {
            fence(Ordering::SeqCst);
        }
    }

    /// After publishing available entries: whether the device sleeps.
    pub(super) fn kick_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: as in `want_kicks`.
        unsafe { shared::load(self.used.cast::<u16>()) & NO_NOTIFY == 0 }
    }

    /// After publishing used entries: whether the driver sleeps.
    pub(super) fn call_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: as in `want_calls`.
        unsafe { shared::load(self.available.cast::<u16>()) & NO_INTERRUPT == 0 }
    }
}

/// Writes a virtio-net header and the parts, one after the other; the caller has checked the room at `to`.
#[inline]
pub(super) fn write_packet(mut to: *mut u8, parts: &[&[u8]]) {
    const ONE_BUFFER: [u8; NET_HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    // SAFETY: the caller has checked 12 bytes and those of all parts at `to`.
    unsafe { shared::copy_in(&ONE_BUFFER, to) };
    to = to.wrapping_add(NET_HEADER_BYTES);
    for part in parts {
        // SAFETY: as above.
        unsafe { shared::copy_in(part, to) };
        to = to.wrapping_add(part.len());
    }
}
