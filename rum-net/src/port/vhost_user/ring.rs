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

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use super::{memory_map::MemoryMap, shared};

/// Most entries in a ring.
pub(super) const MAX_SIZE: u16 = 1024;
/// Most descriptors in one chain, and most chains in one packet. (virtio allows a whole ring's length; no driver
/// comes near, and a bound keeps the cost of a hostile packet small.)
const MAX_CHAIN: usize = 64;
/// So many packets ahead a buffer is fetched into the cache.
const AHEAD: u16 = 4;
/// So many emptied receive buffers are offered in one go while packets keep coming.
const REFILL: u16 = 32;
/// Bytes of the virtio-net header before each packet: all zero but the number of buffers in the last two.
pub(super) const NET_HEADER_BYTES: usize = 12;

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const DESCRIPTOR_INDIRECT: u16 = 4;
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
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// The shared parts of a ring: raw pointers, checked when made; indices are masked, so every access stays inside.
#[derive(Debug)]
struct Parts {
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    mask: u16,
    memory: Arc<MemoryMap>,
}

// SAFETY: the pointers lead into `memory`, which the ring owns a share of; all access is raw.
unsafe impl Send for Parts {}

impl Parts {
    /// `addresses` are user addresses of descriptors, available and used ring. `None` if one is outside the memory
    /// or misaligned, or the size is not a power of two.
    fn new(memory: Arc<MemoryMap>, size: u16, addresses: [u64; 3]) -> Option<Self> {
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

    fn size(&self) -> u16 {
        self.mask + 1
    }

    #[inline]
    fn descriptor(&self, index: u16) -> Descriptor {
        let at = self.descriptors.wrapping_add(16 * usize::from(index & self.mask)).cast::<u64>();
        // SAFETY: a masked index; `new` has checked 16 bytes for each, 16-byte aligned.
        let (address, rest) = unsafe { (shared::load(at), shared::load(at.add(1))) };
        Descriptor { address, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    #[inline]
    fn set_descriptor(&self, index: u16, value: Descriptor) {
        let at = self.descriptors.wrapping_add(16 * usize::from(index & self.mask)).cast::<u64>();
        let rest = u64::from(value.len) | u64::from(value.flags) << 32 | u64::from(value.next) << 48;
        // SAFETY: as in `descriptor`.
        unsafe {
            shared::store(at, value.address);
            shared::store(at.add(1), rest);
        }
    }

    #[inline]
    fn available_index(&self) -> u16 {
        // SAFETY: `new` has checked the available ring's 4 + 2n bytes, 2-byte aligned.
        unsafe { shared::load_acquire(self.available.cast::<u16>().add(1)) }
    }

    #[inline]
    fn publish_available(&self, index: u16) {
        // SAFETY: as above.
        unsafe { shared::store_release(self.available.cast::<u16>().add(1), index) }
    }

    #[inline]
    fn available_head(&self, position: u16) -> u16 {
        // SAFETY: as above; a masked position.
        unsafe { shared::load(self.available.cast::<u16>().add(2 + usize::from(position & self.mask))) }
    }

    #[inline]
    fn set_available_head(&self, position: u16, head: u16) {
        // SAFETY: as above; a masked position.
        unsafe { shared::store(self.available.cast::<u16>().add(2 + usize::from(position & self.mask)), head) }
    }

    #[inline]
    fn used_index(&self) -> u16 {
        // SAFETY: `new` has checked the used ring's 4 + 8n bytes, 4-byte aligned.
        unsafe { shared::load_acquire(self.used.cast::<u16>().add(1)) }
    }

    #[inline]
    fn publish_used(&self, index: u16) {
        // SAFETY: as above.
        unsafe { shared::store_release(self.used.cast::<u16>().add(1), index) }
    }

    #[inline]
    fn used_element(&self, position: u16) -> (u32, u32) {
        let at = self.used.cast::<u32>().wrapping_add(1 + 2 * usize::from(position & self.mask));
        // SAFETY: as above; a masked position.
        unsafe { (shared::load(at), shared::load(at.add(1))) }
    }

    #[inline]
    fn set_used_element(&self, position: u16, head: u16, len: u32) {
        let at = self.used.cast::<u32>().wrapping_add(1 + 2 * usize::from(position & self.mask));
        // SAFETY: as above; a masked position.
        unsafe {
            shared::store(at, u32::from(head));
            shared::store(at.add(1), len);
        }
    }

    /// Tells the driver whether to kick. With `true`, look into the ring again afterwards.
    fn want_kicks(&self, wanted: bool) {
        // SAFETY: the flags are the used ring's first word.
        unsafe { shared::store(self.used.cast::<u16>(), if wanted { 0 } else { NO_NOTIFY }) };
        if wanted {
            fence(Ordering::SeqCst);
        }
    }

    /// Tells the device whether to call. With `true`, look into the ring again afterwards.
    fn want_calls(&self, wanted: bool) {
        // SAFETY: the flags are the available ring's first word.
        unsafe { shared::store(self.available.cast::<u16>(), if wanted { 0 } else { NO_INTERRUPT }) };
        if wanted {
            fence(Ordering::SeqCst);
        }
    }

    /// After publishing available entries: whether the device sleeps.
    fn kick_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: as in `want_kicks`.
        unsafe { shared::load(self.used.cast::<u16>()) & NO_NOTIFY == 0 }
    }

    /// After publishing used entries: whether the driver sleeps.
    fn call_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: as in `want_calls`.
        unsafe { shared::load(self.available.cast::<u16>()) & NO_INTERRUPT == 0 }
    }
}

/// The device's (slave's) side of a ring: buffers come as available, go back as used.
#[derive(Debug)]
pub(super) struct DeviceRing {
    parts: Parts,
    /// The next available entry to take.
    next: u16,
    /// The available index as last seen.
    seen: u16,
    /// Used entries written, and how many of them the driver was shown.
    used: u16,
    published: u16,
    /// Where each descriptor pointed last. Drivers tend to use their descriptors in turn, each for a buffer of its
    /// own, so this tells where the next packet will be before its descriptor has arrived in the cache. Used for
    /// nothing but prefetching.
    last_buffers: Box<[*const u8]>,
}

// SAFETY: `last_buffers` are never read through.
unsafe impl Send for DeviceRing {}

impl DeviceRing {
    /// `addresses` as in the message SET_VRING_ADDR; `base` is where to go on.
    pub(super) fn new(memory: Arc<MemoryMap>, size: u16, addresses: [u64; 3], base: u16) -> Option<Self> {
        let parts = Parts::new(memory, size, addresses)?;
        let used = parts.used_index();
        let last_buffers = vec![std::ptr::null(); size.into()].into_boxed_slice();
        Some(Self { parts, next: base, seen: base, used, published: used, last_buffers })
    }

    /// Where another device would have to go on.
    pub(super) fn base(&self) -> u16 {
        self.next
    }

    #[inline]
    fn refresh(&mut self) -> Result<bool, Violation> {
        let seen = self.parts.available_index();
        if seen.wrapping_sub(self.next) > self.parts.size() {
            return Err(Violation::Index);
        }
        self.seen = seen;
        Ok(seen != self.next)
    }

    /// Whether the driver has made buffers available that were not looked at yet. A bad index counts as some.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.parts.available_index() != self.seen || self.seen != self.next
    }

    /// Whether buffers arrived since the ring was last found short of them.
    pub(super) fn has_grown(&self) -> bool {
        self.parts.available_index() != self.seen
    }

    pub(super) fn want_kicks(&self, wanted: bool) {
        self.parts.want_kicks(wanted);
    }

    /// Copies the next chain into `buffer` and marks it used; `None` if there is none.
    #[inline]
    pub(super) fn pop(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Violation> {
        if self.next == self.seen {
            if !self.refresh()? {
                return Ok(None);
            }
            self.expect_next();
        }
        if let Some(buffer) = self.buffer_ahead() {
            shared::expect_read(buffer);
        }
        let head = self.parts.available_head(self.next);
        let len = self.gather(head, buffer)?;
        self.next = self.next.wrapping_add(1);
        self.put_used(head, 0);
        Ok(Some(len))
    }

    /// Fetches all that a packet that has just been noticed probably lies in at once: one wait for the other CPU's
    /// cache instead of three in a row.
    #[inline]
    fn expect_next(&self) {
        let guess = self.next & self.parts.mask;
        shared::expect_read(self.parts.descriptors.wrapping_add(16 * usize::from(guess)));
        shared::expect_read(self.last_buffers[usize::from(guess)]);
    }

    /// The buffer of a packet that will be due soon.
    #[inline]
    fn buffer_ahead(&self) -> Option<*mut u8> {
        if self.seen.wrapping_sub(self.next) <= AHEAD {
            return None;
        }
        let head = self.parts.available_head(self.next.wrapping_add(AHEAD));
        self.parts.memory.guest(self.parts.descriptor(head).address, 1)
    }

    #[inline]
    fn gather(&mut self, head: u16, buffer: &mut [u8]) -> Result<usize, Violation> {
        let mut index = head;
        let mut filled = 0usize;
        for _ in 0..MAX_CHAIN {
            let descriptor = self.checked(index, 0)?;
            let end = filled + descriptor.len as usize;
            let to = buffer.get_mut(filled..end).ok_or(Violation::Length)?;
            let from = self.parts.memory.guest(descriptor.address, to.len()).ok_or(Violation::Address)?;
            self.last_buffers[usize::from(index)] = from;
            // SAFETY: `guest` has checked the range, the ring keeps the mapping, and `to` is private.
            unsafe { shared::copy_out(from, to) };
            filled = end;
            if descriptor.flags & DESCRIPTOR_NEXT == 0 {
                return Ok(filled);
            }
            index = descriptor.next;
        }
        Err(Violation::Chain)
    }

    /// A descriptor of the wanted direction (`DESCRIPTOR_WRITE` or 0).
    #[inline]
    fn checked(&self, index: u16, direction: u16) -> Result<Descriptor, Violation> {
        if index > self.parts.mask {
            return Err(Violation::Descriptor);
        }
        let descriptor = self.parts.descriptor(index);
        if descriptor.flags & (DESCRIPTOR_INDIRECT | DESCRIPTOR_WRITE) != direction {
            return Err(Violation::Flags);
        }
        Ok(descriptor)
    }

    #[inline]
    fn put_used(&mut self, head: u16, len: u32) {
        self.parts.set_used_element(self.used, head, len);
        self.used = self.used.wrapping_add(1);
    }

    /// Writes one packet, the concatenation of `parts` behind a virtio-net header, into the next buffers. One chain
    /// must hold it unless the driver takes `mergeable` ones. Nothing is visible before `publish`; when it fails
    /// nothing has happened.
    #[inline]
    pub(super) fn push(&mut self, parts: &[&[u8]], mergeable: bool) -> Result<(), PushError> {
        if self.next == self.seen && !self.refresh()? {
            return Err(PushError::Full);
        }
        if let Some(buffer) = self.buffer_ahead() {
            shared::expect_write(buffer);
        }
        let total = NET_HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
        let head = self.parts.available_head(self.next);
        let first = self.checked(head, DESCRIPTOR_WRITE)?;
        if first.len as usize >= total {
            let to = self.parts.memory.guest(first.address, total).ok_or(Violation::Address)?;
            write_packet(to, parts);
            self.next = self.next.wrapping_add(1);
            self.put_used(head, total as u32);
            return Ok(());
        }
        let (next, used) = (self.next, self.used);
        self.scatter(parts, total, mergeable).inspect_err(|_| {
            self.next = next;
            self.used = used;
        })
    }

    /// The slow way of `push`: over several descriptors, or several chains.
    fn scatter(&mut self, parts: &[&[u8]], total: usize, mergeable: bool) -> Result<(), PushError> {
        let net_header = [0u8; NET_HEADER_BYTES];
        let mut source =
            Source { parts: [&net_header as &[u8]].into_iter().chain(parts.iter().copied()), current: &[] };
        let mut count_at = None;
        let mut left = total;
        let mut chains = 0u16;
        while left > 0 {
            if chains > 0 && !mergeable || usize::from(chains) == MAX_CHAIN {
                return Err(PushError::TooLong);
            }
            if self.next == self.seen && !self.refresh()? {
                return Err(PushError::Full);
            }
            let head = self.parts.available_head(self.next);
            let before = left;
            let mut index = head;
            let mut hops = 0;
            loop {
                let descriptor = self.checked(index, DESCRIPTOR_WRITE)?;
                let len = left.min(descriptor.len as usize);
                let to = self.parts.memory.guest(descriptor.address, len).ok_or(Violation::Address)?;
                if count_at.is_none() {
                    // The header with its count is to lie in the first descriptor, as with every known driver.
                    if len < NET_HEADER_BYTES {
                        return Err(Violation::Length.into());
                    }
                    count_at = Some(to.wrapping_add(NET_HEADER_BYTES - 2));
                }
                source.write(to, len);
                left -= len;
                hops += 1;
                if left == 0 || descriptor.flags & DESCRIPTOR_NEXT == 0 {
                    break;
                }
                if hops == MAX_CHAIN {
                    return Err(Violation::Chain.into());
                }
                index = descriptor.next;
            }
            self.next = self.next.wrapping_add(1);
            self.put_used(head, (before - left) as u32);
            chains += 1;
        }
        if let Some(at) = count_at {
            // SAFETY: `guest` has checked the 12 bytes of the header that these are the last two of.
            unsafe { shared::copy_in(&chains.to_le_bytes(), at) };
        }
        Ok(())
    }

    /// Shows the driver what was used. `true`: the driver sleeps and is to be called.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.used == self.published {
            return false;
        }
        self.published = self.used;
        self.parts.publish_used(self.used);
        self.parts.call_wanted()
    }
}

/// Packet parts, handed out in pieces of any length.
struct Source<'a, I> {
    parts: I,
    current: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Source<'a, I> {
    /// Writes the next `len` bytes to `to`, which the caller has checked.
    fn write(&mut self, mut to: *mut u8, mut len: usize) {
        while len > 0 {
            if self.current.is_empty() {
                match self.parts.next() {
                    Some(part) => self.current = part,
                    None => return,
                }
                continue;
            }
            let (now, later) = self.current.split_at(len.min(self.current.len()));
            // SAFETY: the caller has checked `len` bytes at `to`, and `now` is no longer than what is left of them.
            unsafe { shared::copy_in(now, to) };
            to = to.wrapping_add(now.len());
            len -= now.len();
            self.current = later;
        }
    }
}

/// Writes a virtio-net header and the parts, one after the other; the caller has checked the room at `to`.
#[inline]
fn write_packet(mut to: *mut u8, parts: &[&[u8]]) {
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

/// Buffers of one size, one for each descriptor of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    /// The guest address of buffer 0.
    pub(super) start: u64,
    /// Bytes in a buffer, and from one to the next.
    pub(super) stride: u32,
}

impl Buffers {
    fn address(self, index: u16) -> u64 {
        self.start + u64::from(index) * u64::from(self.stride)
    }
}

/// The driver's (client's) transmit ring.
#[derive(Debug)]
pub(super) struct TransmitRing {
    parts: Parts,
    buffers: Buffers,
    /// Buffers not in flight. In turn, so that a slave can guess where the next packet will be.
    free: VecDeque<u16>,
    in_flight: Vec<bool>,
    next: u16,
    published: u16,
    reclaimed: u16,
}

impl TransmitRing {
    /// A ring in fresh (zeroed) memory.
    pub(super) fn new(memory: Arc<MemoryMap>, size: u16, addresses: [u64; 3], buffers: Buffers) -> Option<Self> {
        let parts = Parts::new(memory, size, addresses)?;
        parts.memory.guest(buffers.start, buffers.stride as usize * usize::from(size))?;
        parts.want_calls(false);
        let ring = Self {
            parts,
            buffers,
            free: (0..size).collect(),
            in_flight: vec![false; size.into()],
            next: 0,
            published: 0,
            reclaimed: 0,
        };
        Some(ring)
    }

    /// Copies a packet behind a virtio-net header into a free buffer. Not visible before `publish`.
    #[inline]
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        let total = NET_HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
        if total > self.buffers.stride as usize {
            return Err(PushError::TooLong);
        }
        if self.free.is_empty() {
            self.reclaim()?;
        }
        let index = self.free.pop_front().ok_or(PushError::Full)?;
        if let Some(ahead) = self.free.get(usize::from(AHEAD))
            && let Some(buffer) = self.parts.memory.guest(self.buffers.address(*ahead), 1)
        {
            shared::expect_write(buffer);
        }
        let address = self.buffers.address(index);
        let to = self.parts.memory.guest(address, total).ok_or(Violation::Address)?;
        write_packet(to, parts);
        self.parts.set_descriptor(index, Descriptor { address, len: total as u32, flags: 0, next: 0 });
        self.parts.set_available_head(self.next, index);
        self.in_flight[usize::from(index)] = true;
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Takes back the buffers that the device has read.
    fn reclaim(&mut self) -> Result<(), Violation> {
        let used = self.parts.used_index();
        if used.wrapping_sub(self.reclaimed) > self.published.wrapping_sub(self.reclaimed) {
            return Err(Violation::Index);
        }
        while self.reclaimed != used {
            let (head, _) = self.parts.used_element(self.reclaimed);
            let in_flight = self.in_flight.get_mut(head as usize).ok_or(Violation::Descriptor)?;
            if !std::mem::take(in_flight) {
                return Err(Violation::Descriptor);
            }
            self.free.push_back(head as u16);
            self.reclaimed = self.reclaimed.wrapping_add(1);
        }
        Ok(())
    }

    /// Shows the device what was pushed. `true`: the device sleeps and is to be kicked.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.next == self.published {
            return false;
        }
        self.published = self.next;
        self.parts.publish_available(self.next);
        self.parts.kick_wanted()
    }

    pub(super) fn want_calls(&self, wanted: bool) {
        self.parts.want_calls(wanted);
    }

    /// Whether buffers can be taken back.
    pub(super) fn has_used(&self) -> bool {
        self.parts.used_index() != self.reclaimed
    }
}

/// The driver's (client's) receive ring.
#[derive(Debug)]
pub(super) struct ReceiveRing {
    parts: Parts,
    buffers: Buffers,
    /// Available entries written and shown, used entries taken.
    next: u16,
    published: u16,
    taken: u16,
    seen: u16,
}

impl ReceiveRing {
    /// A ring in fresh (zeroed) memory; all buffers are offered at once.
    pub(super) fn new(memory: Arc<MemoryMap>, size: u16, addresses: [u64; 3], buffers: Buffers) -> Option<Self> {
        let parts = Parts::new(memory, size, addresses)?;
        parts.memory.guest(buffers.start, buffers.stride as usize * usize::from(size))?;
        parts.want_calls(false);
        let mut ring = Self { parts, buffers, next: 0, published: 0, taken: 0, seen: 0 };
        for index in 0..size {
            ring.parts.set_descriptor(
                index,
                Descriptor { address: buffers.address(index), len: buffers.stride, flags: DESCRIPTOR_WRITE, next: 0 },
            );
            ring.give_back(index);
        }
        ring.publish();
        Some(ring)
    }

    fn give_back(&mut self, index: u16) {
        self.parts.set_available_head(self.next, index);
        self.next = self.next.wrapping_add(1);
    }

    #[inline]
    fn refresh(&mut self) -> Result<bool, Violation> {
        let seen = self.parts.used_index();
        if seen.wrapping_sub(self.taken) > self.published.wrapping_sub(self.taken) {
            return Err(Violation::Index);
        }
        self.seen = seen;
        Ok(seen != self.taken)
    }

    /// Whether the device has used buffers that were not looked at yet.
    #[inline]
    pub(super) fn has_used(&self) -> bool {
        self.parts.used_index() != self.taken
    }

    /// Copies the next packet with its virtio-net header into `packet` and gives its buffers back.
    #[inline]
    pub(super) fn pop(&mut self, packet: &mut [u8]) -> Result<Option<usize>, Violation> {
        if self.seen == self.taken {
            if !self.refresh()? {
                return Ok(None);
            }
            // As in `DeviceRing::expect_next`: a slave that uses the buffers in turn is a good guess.
            let guess = self.buffers.address(self.taken & self.parts.mask);
            self.parts.memory.guest(guess, 1).inspect(|buffer| shared::expect_read(*buffer));
        }
        if self.seen.wrapping_sub(self.taken) > AHEAD {
            let (head, _) = self.parts.used_element(self.taken.wrapping_add(AHEAD));
            if let Some(buffer) = self.parts.memory.guest(self.buffers.address(head as u16 & self.parts.mask), 1) {
                shared::expect_read(buffer);
            }
        }
        let mut filled = self.take_buffer(packet)?;
        if filled < NET_HEADER_BYTES {
            return Err(Violation::Length);
        }
        let buffers = u16::from_le_bytes([packet[10], packet[11]]);
        for _ in 1..buffers {
            if self.seen == self.taken && !self.refresh()? {
                // The device shows all buffers of a packet at once.
                return Err(Violation::Chain);
            }
            filled += self.take_buffer(&mut packet[filled..])?;
        }
        Ok(Some(filled))
    }

    #[inline]
    fn take_buffer(&mut self, to: &mut [u8]) -> Result<usize, Violation> {
        let (head, len) = self.parts.used_element(self.taken);
        let index = u16::try_from(head).ok().filter(|i| *i <= self.parts.mask).ok_or(Violation::Descriptor)?;
        if len > self.buffers.stride {
            return Err(Violation::Length);
        }
        let to = to.get_mut(..len as usize).ok_or(Violation::Length)?;
        self.parts.memory.copy_out(self.buffers.address(index), to).ok_or(Violation::Address)?;
        self.taken = self.taken.wrapping_add(1);
        self.give_back(index);
        Ok(len as usize)
    }

    /// Whether so many buffers were emptied that the device ought to have them back.
    #[inline]
    pub(super) fn refill_due(&self) -> bool {
        self.next.wrapping_sub(self.published) >= REFILL
    }

    /// Offers the emptied buffers again. `true`: the device waits for them and is to be kicked.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.next == self.published {
            return false;
        }
        self.published = self.next;
        self.parts.publish_available(self.next);
        self.parts.kick_wanted()
    }

    pub(super) fn want_calls(&self, wanted: bool) {
        self.parts.want_calls(wanted);
    }
}
