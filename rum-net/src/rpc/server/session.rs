//! One session as the server sees it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::admission::Keys;
use crate::{
    port::Address,
    rpc::{
        Incarnation, Response, ack_every,
        congestion::MAX_WINDOW,
        fragment::{FragmentSet, Layout},
    },
    wire::hello::Grant,
};

/// What became of the last request of a slot.
#[derive(Debug, Default)]
pub(crate) enum Phase {
    /// No request yet, or the client has said that it has the response.
    #[default]
    Idle,
    /// Some fragments of the request are here. The buffer is at least as long as the message.
    Receiving {
        layout: Layout,
        received: FragmentSet,
        /// Fragments that later ones showed to be lost, which the client was told.
        reported: FragmentSet,
        buffer: Arc<Vec<u8>>,
    },
    /// The request was handed up.
    Executing { layout: Layout, since: Instant },
    /// The response is kept until the client has it.
    Answered {
        layout: Layout,
        /// When the whole request was here.
        since: Instant,
        response: Response,
        /// Fragments given out for sending and not known to be lost.
        sent: FragmentSet,
        /// When the last of them was.
        sent_at: Instant,
        /// Fragments that the client has.
        acked: FragmentSet,
    },
}

/// A request slot: its last request and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub id: u64,
    /// Which of the request's packets is answered.
    pub attempt: u8,
    pub phase: Phase,
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub client: Incarnation,
    pub channel: u32,
    /// Which of the client's attempts opened the session.
    pub attempt: u64,
    pub grant: Grant,
    /// Of a sealed session.
    pub keys: Option<Box<Keys>>,
    /// Where the client's last packet came from; `None` once that link has closed.
    pub address: Option<Address>,
    pub heard: Instant,
    /// A packet of the session came: the client knows that it is open.
    pub proven: bool,
    pub fragment_bytes: u32,
    /// Payloads carry no checksum.
    pub unsummed: bool,
    /// As many as were used so far.
    pub slots: Vec<Slot>,
    /// One bit for each slot that holds a response.
    pub answered: u32,
    /// One bit for each slot with fragments of a response to send.
    pub ready: u32,
    /// Of those, the slots whose response is one packet, in the order in which they were answered. May name slots that have
    /// nothing to send any more.
    pub singles: VecDeque<u8>,
    /// The session waits in the server's queue for its turn to send.
    pub queued: bool,
    /// Packets of long responses that the client wants under way at once.
    pub window: u32,
    /// Fragments of responses of several packets sent and not known to have arrived.
    pub in_flight: u32,
    /// Of those, how many were sent since the client was last asked to tell which it has.
    pub unmarked: u32,
    /// One bit for each slot with request fragments that the client does not know to be here.
    pub progress: u32,
    /// Fragments of requests of several packets received since the client was last told.
    pub unacked: u32,
}

impl Session {
    /// A session without a request, heard of now.
    pub fn new(client: Incarnation, channel: u32, grant: Grant, keys: Option<Box<Keys>>, now: Instant) -> Self {
        Self {
            client,
            channel,
            attempt: 0,
            grant,
            keys,
            address: None,
            heard: now,
            proven: false,
            fragment_bytes: 1,
            unsummed: false,
            slots: Vec::new(),
            answered: 0,
            ready: 0,
            singles: VecDeque::new(),
            queued: false,
            window: 1,
            in_flight: 0,
            unmarked: 0,
            progress: 0,
            unacked: 0,
        }
    }

    /// The slot that a request goes to; made when it is first used.
    pub fn slot_mut(&mut self, id: u64) -> (usize, &mut Slot) {
        let index = (id & u64::from(self.grant.slots - 1)) as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        (index, &mut self.slots[index])
    }

    /// Takes the response, emptied, out of a slot whose client has it.
    pub fn forget_response(&mut self, index: usize) -> Option<Response> {
        let slot = self.slots.get_mut(index)?;
        if !matches!(slot.phase, Phase::Answered { .. }) {
            return None;
        }
        let Phase::Answered { layout, mut response, sent, acked, .. } = std::mem::take(&mut slot.phase) else {
            return None;
        };
        response.clear();
        if !layout.is_single() {
            self.in_flight -= sent.without(acked).len();
        }
        self.answered &= !(1 << index);
        self.ready &= !(1 << index);
        Some(response)
    }

    /// The client has these fragments of the response, and of those that were sent these are lost.
    pub fn on_response_progress(&mut self, index: usize, has: FragmentSet, lost: FragmentSet) {
        let Phase::Answered { layout, sent, acked, .. } = &mut self.slots[index].phase else { return };
        let before = sent.without(*acked).len();
        *acked = acked.union(has.intersection(layout.all()));
        *sent = sent.without(lost).union(*acked);
        if !layout.is_single() {
            self.in_flight = self.in_flight - before + sent.without(*acked).len();
        }
        if *sent == layout.all() {
            self.ready &= !(1 << index);
        } else {
            self.make_ready(index);
        }
    }

    /// The response in a slot has fragments to send.
    pub fn make_ready(&mut self, index: usize) {
        let is_single = matches!(self.slots[index].phase, Phase::Answered { layout, .. } if layout.is_single());
        if is_single && self.ready >> index & 1 == 0 {
            self.singles.push_back(index as u8);
        }
        self.ready |= 1 << index;
    }

    /// The client misses the response, of which it has these fragments. What was sent
    /// within `patience` may still arrive.
    pub fn on_response_missed(&mut self, now: Instant, index: usize, has: FragmentSet, patience: Duration) {
        let Phase::Answered { sent_at, .. } = self.slots[index].phase else { return };
        let is_late = now.saturating_duration_since(sent_at) >= patience;
        self.on_response_progress(index, has, if is_late { FragmentSet::all() } else { FragmentSet::default() });
    }

    /// What the client says of its window with every packet.
    pub fn set_window(&mut self, window: u16) {
        self.window = u32::from(window).clamp(1, MAX_WINDOW);
    }

    /// Whether something is ready to be sent now.
    pub fn can_send(&self) -> bool {
        self.ready != 0 && self.address.is_some() && (self.in_flight < self.window || !self.singles.is_empty())
    }

    /// The next slot whose whole response is one packet, which needs no window: the client counts it in its own.
    fn next_single(&mut self) -> Option<usize> {
        while let Some(index) = self.singles.pop_front().map(usize::from) {
            let is_single = matches!(self.slots[index].phase, Phase::Answered { layout, .. } if layout.is_single());
            if is_single && self.ready >> index & 1 == 1 {
                return Some(index);
            }
        }
        None
    }

    /// What is nearly done goes first, then what was asked first: the least time spent waiting (Schrage, "A Proof of the
    /// Optimality of the Shortest Remaining Processing Time Discipline", 1968), and answers of one length come in the order
    /// of their requests, so that who waits for one can tell from later ones that it was lost.
    fn urgency(&self, index: usize) -> (u32, u64) {
        let slot = &self.slots[index];
        match slot.phase {
            Phase::Answered { layout, sent, .. } => (layout.count() - sent.len(), slot.id),
            _ => (0, slot.id),
        }
    }

    /// The next fragment to send, marked as sent: its slot, its number, and whether the client is to say at once which it
    /// has. `None` if all is sent or the window is full.
    pub fn next_fragment(&mut self, now: Instant) -> Option<(usize, u32, bool)> {
        let index = match self.next_single() {
            Some(index) => index,
            None if self.in_flight < self.window => bits(self.ready).min_by_key(|&index| self.urgency(index))?,
            None => return None,
        };
        let Phase::Answered { layout, sent, sent_at, .. } = &mut self.slots[index].phase else {
            self.ready &= !(1 << index);
            return None;
        };
        let fragment = sent.lowest_missing();
        sent.insert(fragment);
        *sent_at = now;
        if *sent == layout.all() {
            self.ready &= !(1 << index);
        }
        let mut wants_ack = false;
        if !layout.is_single() {
            self.in_flight += 1;
            self.unmarked += 1;
            wants_ack = self.unmarked >= ack_every(self.window);
            self.unmarked *= u32::from(!wants_ack);
        }
        Some((index, fragment, wants_ack))
    }

    /// The fragment that was given out last stays to be sent.
    pub fn take_back(&mut self, index: usize, fragment: u32) {
        let Some(Slot { phase: Phase::Answered { layout, sent, .. }, .. }) = self.slots.get_mut(index) else { return };
        sent.remove(fragment);
        if layout.is_single() {
            self.singles.push_front(index as u8);
        } else {
            self.in_flight -= 1;
        }
        self.ready |= 1 << index;
    }

    /// The link has closed: what was sent may be lost, and nothing can be sent until the client comes by another.
    pub fn disconnect(&mut self) {
        self.address = None;
    }
}

/// The numbers of the bits that are set, from the lowest.
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (index < u32::BITS).then_some(index as usize)
    })
}

/// Buffers of requests, for the next ones: of those that somebody keeps, the first to be given is asked for first.
#[derive(Debug, Default)]
pub(crate) struct SharedPool {
    buffers: VecDeque<Arc<Vec<u8>>>,
}

impl SharedPool {
    const MOST: usize = 64;
    /// Buffers that are looked at before a new one is made.
    const TRIES: usize = 2;

    /// A buffer with at least so many bytes, which nobody else has.
    pub fn take(&mut self, bytes: usize) -> Arc<Vec<u8>> {
        for _ in 0..Self::TRIES.min(self.buffers.len()) {
            let Some(mut buffer) = self.buffers.pop_front() else { break };
            if let Some(own) = Arc::get_mut(&mut buffer) {
                own.resize(own.len().max(bytes), 0);
                return buffer;
            }
            self.give(buffer);
        }
        Arc::new(vec![0; bytes])
    }

    pub fn give(&mut self, buffer: Arc<Vec<u8>>) {
        if self.buffers.len() < Self::MOST {
            self.buffers.push_back(buffer);
        }
    }
}

/// Buffers of finished responses, for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Pool<T> {
    unused: Vec<T>,
}

impl<T: Default> Pool<T> {
    const MOST: usize = 64;

    pub fn take(&mut self) -> T {
        self.unused.pop().unwrap_or_default()
    }

    pub fn give(&mut self, buffer: T) {
        if self.unused.len() < Self::MOST {
            self.unused.push(buffer);
        }
    }
}
