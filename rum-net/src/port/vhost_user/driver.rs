//! The driver's side of a virtio-net device: the memory, both rings in it, and the protocol of sleeping.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

use super::{
    ETHERNET_HEADER_BYTES,
    driver_ring::{Buffers, ReceiveRing, TransmitRing},
    handshake::{Offer, RingOffer},
    memory_map::{Mapping, MemoryMap},
    notify,
    ring::{NET_HEADER_BYTES, PushError, Violation, part_bytes},
};
use crate::port::LinkId;

/// Entries, and so buffers, in each ring.
const RING_SIZE: u16 = 256;
/// What the shared memory is called towards the device. It need not know where it really is.
const MEMORY_START: u64 = 1 << 32;
/// The longest packet that a device may spread over several buffers. One longer than the MTU is dropped; one that is longer
/// than this no device sends.
const LONGEST_BYTES: usize = 64 << 10;

/// A driver whose device may come, go, and come again. Only `new` allocates from the heap.
#[derive(Debug)]
pub(super) struct Driver {
    layout: Layout,
    /// Bytes of the longest packet that is taken or given, without the virtio-net header.
    max_frame_bytes: usize,
    /// Until the device has it.
    file: Option<OwnedFd>,
    /// The device signals it, for either ring, when this side sleeps.
    pub(super) call: OwnedFd,
    /// This side signals them when the device sleeps.
    kicks: [OwnedFd; 2],
    receive_ring: ReceiveRing,
    transmit_ring: TransmitRing,
    /// What the rings' memory is changed for at `renew`, without a mapping until then.
    spare: Arc<MemoryMap>,
    packet: Box<[u8]>,
    /// The last packet found no free buffer: be woken when there is one.
    starved: bool,
    counts: Counts,
}

/// Of all devices so far.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    received: u64,
    transmitted: u64,
    bad_length: u64,
}

impl Driver {
    /// A driver with fresh rings, for packets with at most `mtu` bytes behind the Ethernet header.
    pub(super) fn new(mtu: usize) -> io::Result<Self> {
        let layout = Layout::new(RING_SIZE, mtu);
        let (file, mapping) = shared_memory(layout.bytes)?;
        let memory = Arc::new(MemoryMap::own(mapping, MEMORY_START));
        let [receive, transmit] = layout.rings;
        let receive_ring = ReceiveRing::new(memory.clone(), RING_SIZE, receive, layout.buffers[0]);
        let transmit_ring = TransmitRing::new(memory, RING_SIZE, transmit, layout.buffers[1]);
        Ok(Self {
            max_frame_bytes: ETHERNET_HEADER_BYTES + mtu,
            file: Some(file),
            call: notify::eventfd()?,
            kicks: [notify::eventfd()?, notify::eventfd()?],
            receive_ring: receive_ring.ok_or_else(no_room)?,
            transmit_ring: transmit_ring.ok_or_else(no_room)?,
            spare: Arc::new(MemoryMap::none()),
            packet: vec![0; LONGEST_BYTES].into_boxed_slice(),
            starved: false,
            counts: Counts::default(),
            layout,
        })
    }

    /// Fresh memory, rings and descriptors, for another device: nothing that the last one still does, or did, matters any more.
    /// After an error this driver must not be used before a later call has succeeded.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        let (file, mapping) = shared_memory(self.layout.bytes)?;
        Arc::get_mut(&mut self.spare).ok_or_else(no_room)?.replace(mapping, MEMORY_START);
        let (call, kicks) = (notify::eventfd()?, [notify::eventfd()?, notify::eventfd()?]);
        let [receive, transmit] = self.layout.rings;
        self.receive_ring.renew(self.spare.clone(), receive).ok_or_else(no_room)?;
        let old = self.transmit_ring.renew(self.spare.clone(), transmit).ok_or_else(no_room)?;
        self.spare = old;
        if let Some(old) = Arc::get_mut(&mut self.spare) {
            old.clear();
        }
        (self.file, self.call, self.kicks) = (Some(file), call, kicks);
        self.starved = false;
        Ok(())
    }

    /// What the device has to be told; `None` when it was told already.
    pub(super) fn offer(&self) -> Option<Offer<'_>> {
        let ring = |index: usize| RingOffer {
            size: RING_SIZE,
            addresses: self.layout.rings[index],
            call: &self.call,
            kick: &self.kicks[index],
        };
        let bytes = self.layout.bytes as u64;
        Some(Offer { file: self.file.as_ref()?, start: MEMORY_START, bytes, rings: [ring(0), ring(1)] })
    }

    /// The device has the memory: one descriptor less.
    pub(super) fn offered(&mut self) {
        self.file = None;
    }

    #[inline]
    pub(super) fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > self.max_frame_bytes {
            return Err(PushError::TooLong);
        }
        let result = self.transmit_ring.push(parts);
        self.starved |= result == Err(PushError::Full);
        self.counts.transmitted += u64::from(result.is_ok());
        result
    }

    #[inline]
    pub(super) fn flush(&mut self) {
        if self.transmit_ring.publish() {
            notify::ring(&self.kicks[1]);
        }
    }

    fn refill(&mut self) {
        if self.receive_ring.publish() {
            notify::ring(&self.kicks[0]);
        }
    }

    /// Takes up to `budget` packets. With a violation the device is not to be trusted any further.
    #[inline]
    pub(super) fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> (usize, Option<Violation>) {
        let mut count = 0;
        while count < budget {
            match self.receive_ring.pop(&mut self.packet) {
                Ok(Some(len)) => {
                    count += 1;
                    let frame = &self.packet[NET_HEADER_BYTES..len];
                    if (ETHERNET_HEADER_BYTES..=self.max_frame_bytes).contains(&frame.len()) {
                        sink(LinkId(0), frame);
                    } else {
                        self.counts.bad_length += 1;
                    }
                }
                Ok(None) => break,
                Err(violation) => {
                    self.counts.received += count as u64;
                    return (count, Some(violation));
                }
            }
        }
        self.counts.received += count as u64;
        // Without a packet it is off the way of one: nothing is there to do now.
        if count == 0 || self.receive_ring.refill_due() {
            self.refill();
        }
        (count, None)
    }

    /// As `Port::counters`.
    pub(super) fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        let Counts { received, transmitted, bad_length } = self.counts;
        let counters = [("received", received), ("transmitted", transmitted), ("dropped_bad_length", bad_length)];
        counters.into_iter().for_each(|(name, count)| sink(name, count));
    }

    /// Before a sleep: asks for calls. `true`: there is something to do already.
    pub(super) fn ask_for_calls(&mut self) -> bool {
        self.flush();
        self.refill();
        self.receive_ring.want_calls(true);
        let mut ready = self.receive_ring.has_used();
        if self.starved {
            self.transmit_ring.want_calls(true);
            ready |= self.transmit_ring.has_used();
        }
        ready
    }

    /// After a sleep: this side polls again.
    pub(super) fn decline_calls(&mut self) {
        self.receive_ring.want_calls(false);
        if std::mem::take(&mut self.starved) {
            self.transmit_ring.want_calls(false);
        }
    }
}

/// Where rings and buffers lie in the shared memory, as addresses from `MEMORY_START`.
#[derive(Debug)]
struct Layout {
    rings: [[u64; 3]; 2],
    buffers: [Buffers; 2],
    bytes: usize,
}

impl Layout {
    /// Rings first, each part on cache lines of its own (the two sides write different parts), then the buffers.
    fn new(size: u16, mtu: usize) -> Self {
        // A whole packet, and an odd number of cache lines, so that the buffers spread over all sets of the cache.
        let buffer_bytes = (NET_HEADER_BYTES + ETHERNET_HEADER_BYTES + mtu).next_multiple_of(128) + 64;
        let mut end = 0usize;
        let mut take = |bytes: usize, align: usize| {
            let start = end.next_multiple_of(align);
            end = start + bytes;
            MEMORY_START + start as u64
        };
        let rings = [(); 2].map(|()| part_bytes(size).map(|bytes| take(bytes, 128)));
        let stride = buffer_bytes as u32;
        let buffers = [(); 2].map(|()| Buffers { start: take(buffer_bytes * usize::from(size), 4096), stride });
        Self { rings, buffers, bytes: end.next_multiple_of(4096) }
    }
}

fn no_room() -> io::Error {
    io::Error::other("the rings do not fit their memory")
}

fn shared_memory(bytes: usize) -> io::Result<(OwnedFd, Mapping)> {
    let file = sealed_memory(bytes)?;
    let mapping = Mapping::new(file.as_fd(), 0, bytes)?;
    Ok((file, mapping))
}

/// A memory file that can neither shrink nor grow any more.
fn sealed_memory(bytes: usize) -> io::Result<OwnedFd> {
    const NAME: &CStr = c"rum-vhost";
    // SAFETY: the name is a live C string; a non-negative result is a new descriptor that nobody else owns. The two
    // calls after it take no pointers.
    unsafe {
        let fd = libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let file = OwnedFd::from_raw_fd(fd);
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        if libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) != 0
            || libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }
}
