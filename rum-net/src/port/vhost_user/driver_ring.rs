//! The driver's (client's) side of split virtqueues: one to transmit, one to receive, each with a buffer of a fixed
//! size for every descriptor. The descriptors are written, never read back: the device might have changed them.

use std::{collections::VecDeque, sync::Arc};

use super::{
    memory_map::MemoryMap,
    ring::{AHEAD, DESCRIPTOR_WRITE, Descriptor, NET_HEADER_BYTES, Parts, PushError, Violation, write_packet},
    shared,
};

/// So many emptied receive buffers are offered in one go while packets keep coming.
const REFILL: u16 = 32;

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

    /// The same ring, empty, in other memory, which is fresh. Gives the memory that it was in. Does not allocate.
    pub(super) fn renew(&mut self, memory: Arc<MemoryMap>, addresses: [u64; 3]) -> Option<Arc<MemoryMap>> {
        let size = self.parts.size();
        let parts = Parts::new(memory, size, addresses)?;
        parts.want_calls(false);
        let old = std::mem::replace(&mut self.parts, parts);
        self.free.clear();
        self.free.extend(0..size);
        self.in_flight.fill(false);
        (self.next, self.published, self.reclaimed) = (0, 0, 0);
        Some(old.memory)
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
        let mut ring = Self { parts, buffers, next: 0, published: 0, taken: 0, seen: 0 };
        ring.offer_all();
        Some(ring)
    }

    /// The same ring in other memory, which is fresh; all buffers are offered again. Does not allocate.
    pub(super) fn renew(&mut self, memory: Arc<MemoryMap>, addresses: [u64; 3]) -> Option<()> {
        self.parts = Parts::new(memory, self.parts.size(), addresses)?;
        (self.next, self.published, self.taken, self.seen) = (0, 0, 0, 0);
        self.offer_all();
        Some(())
    }

    fn offer_all(&mut self) {
        self.parts.want_calls(false);
        let Buffers { stride: len, .. } = self.buffers;
        for index in 0..self.parts.size() {
            let address = self.buffers.address(index);
            self.parts.set_descriptor(index, Descriptor { address, len, flags: DESCRIPTOR_WRITE, next: 0 });
            self.give_back(index);
        }
        self.publish();
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
