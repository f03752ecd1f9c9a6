//! One session as the server sees it.

use std::{
    hash::{BuildHasherDefault, Hasher},
    time::Instant,
};

use super::{
    Incarnation, WINDOW,
    fragment::{FragmentSet, Layout},
};
use crate::port::Address;

/// What became of the last request of a slot.
#[derive(Debug, Default)]
pub(crate) enum Phase {
    /// No request yet, or the client has said that it has the response.
    #[default]
    Idle,
    /// Some fragments of the request are here. The buffer is at least as long as the message.
    Receiving { layout: Layout, received: FragmentSet, buffer: Vec<u8> },
    /// The request was handed up.
    Executing { layout: Layout },
    /// The response is kept until the client has it.
    Answered {
        layout: Layout,
        response: Vec<u8>,
        /// Fragments given out for sending and not known to be lost.
        sent: FragmentSet,
        /// Fragments that the client has.
        acked: FragmentSet,
    },
}

/// A request slot: its last request and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub id: u64,
    pub phase: Phase,
    /// The slot waits in the server's queue for its turn to send.
    pub queued: bool,
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub client: Incarnation,
    pub channel: u32,
    /// Which of the client's attempts opened the session.
    pub attempt: u64,
    /// Where the client's last packet came from; `None` once that link has closed.
    pub address: Option<Address>,
    pub heard: Instant,
    pub fragment_bytes: u32,
    pub slot_count: u32,
    /// As many as were used so far.
    pub slots: Vec<Slot>,
    /// One bit for each slot that holds a response.
    pub answered: u32,
    /// One bit for each slot that the window holds back.
    pub blocked: u32,
    /// Fragments of responses of several packets sent and not known to have arrived.
    pub in_flight: u32,
    /// One bit for each slot with request fragments that the client does not know to be here.
    pub progress: u32,
    /// Fragments of requests of several packets received since the client was last told.
    pub unacked: u32,
}

impl Session {
    /// The slot that a request goes to; made when it is first used.
    pub fn slot_mut(&mut self, id: u64) -> (usize, &mut Slot) {
        let index = (id & u64::from(self.slot_count - 1)) as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        (index, &mut self.slots[index])
    }

    /// Takes the response out of a slot whose client has it.
    pub fn forget_response(&mut self, index: usize) -> Option<Vec<u8>> {
        let slot = self.slots.get_mut(index)?;
        if !matches!(slot.phase, Phase::Answered { .. }) {
            return None;
        }
        let Phase::Answered { layout, response, sent, acked } = std::mem::take(&mut slot.phase) else {
            return None;
        };
        if !layout.is_single() {
            self.in_flight -= sent.without(acked).len();
        }
        self.answered &= !(1 << index);
        self.blocked &= !(1 << index);
        Some(response)
    }

    /// The client has these fragments of the response; if `lost`, it has no others that were sent.
    /// Returns whether there is more to send.
    pub fn on_response_progress(&mut self, index: usize, has: FragmentSet, lost: bool) -> bool {
        let Phase::Answered { layout, sent, acked, .. } = &mut self.slots[index].phase else { return false };
        let before = sent.without(*acked).len();
        *acked = acked.union(has.intersection(layout.all()));
        *sent = if lost { *acked } else { sent.union(*acked) };
        if !layout.is_single() {
            self.in_flight = self.in_flight - before + sent.without(*acked).len();
        }
        *sent != layout.all()
    }

    /// The next fragment of a slot's response to send, marked as sent, and whether there are more. `None` if all are
    /// sent or the window is full: then the slot is in `blocked`.
    pub fn next_fragment(&mut self, index: usize) -> Option<(u32, bool)> {
        let Phase::Answered { layout, sent, .. } = &mut self.slots.get_mut(index)?.phase else { return None };
        if *sent == layout.all() {
            return None;
        }
        if !layout.is_single() {
            if self.in_flight >= WINDOW {
                self.blocked |= 1 << index;
                return None;
            }
            self.in_flight += 1;
        }
        let fragment = sent.lowest_missing();
        sent.insert(fragment);
        Some((fragment, *sent != layout.all()))
    }

    /// The fragment that was given out last stays to be sent.
    pub fn take_back(&mut self, index: usize, fragment: u32) {
        let Some(Slot { phase: Phase::Answered { layout, sent, .. }, .. }) = self.slots.get_mut(index) else { return };
        sent.remove(fragment);
        if !layout.is_single() {
            self.in_flight -= 1;
        }
    }

    /// The link has closed: what was sent may be lost, and nothing can be sent until the client comes by another.
    pub fn disconnect(&mut self) {
        self.address = None;
        self.blocked = 0;
    }
}

/// Hashes session ids, which the server draws itself, by one multiplication (Knuth, The Art of Computer Programming,
/// volume 3, section 6.4): nobody can choose them to collide.
#[derive(Debug, Default)]
pub(crate) struct SessionHasher(u64);

impl Hasher for SessionHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Sessions by id.
pub(crate) type SessionMap = std::collections::HashMap<u64, Session, BuildHasherDefault<SessionHasher>>;

/// Buffers of finished requests and responses, for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
}

impl Pool {
    const MAX_BUFFERS: usize = 64;

    pub fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    pub fn give(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < Self::MAX_BUFFERS && buffer.capacity() > 0 {
            self.buffers.push(buffer);
        }
    }
}
