//! The device's (slave's) side of a split virtqueue. Nothing that the driver wrote is trusted.

use std::sync::Arc;

use super::{
    memory_map::MemoryMap,
    ring::{
        AHEAD, DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, MAX_CHAIN, NET_HEADER_BYTES, Parts,
        PushError, Violation, write_packet,
    },
    shared,
};

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
