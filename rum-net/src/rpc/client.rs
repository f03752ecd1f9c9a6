//! The asking side of one session with one slave.

use std::time::Instant;

use super::{
    ACK_EVERY, ClientStats, Incarnation, MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, MAX_SLOTS, MIN_MTU, Packet, WINDOW,
    fragment::{FragmentSet, Layout},
    rtt::RttEstimator,
};
use crate::wire::{
    checksum::Checksummer,
    header::{HEADER_BYTES, Header, Kind, flag},
    hello::{Hello, HelloAck},
};

/// Names a request in flight; used once in a client's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub u64);

/// What came of a packet or of the time.
#[derive(Debug)]
pub enum ClientEvent<'a> {
    /// The slave accepted the session.
    Opened {
        /// Of the slave.
        incarnation: Incarnation,
    },
    /// Bytes of a response, in any order, each byte once.
    Fragment {
        /// Of which request.
        request: RequestId,
        /// Where in the response the bytes belong.
        offset: usize,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// All bytes of a response were delivered by `Fragment`.
    Complete {
        /// Of which request.
        request: RequestId,
        /// The response's length in bytes.
        len: usize,
    },
    /// The slave does not know this session: it restarted, or the session expired there. All requests in flight are
    /// void (each ran at most once); `Client::reopen` starts a new session.
    Reset,
}

/// No slot is free for another request: wait for a response. Also while the session is not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("all request slots are in use")]
pub struct Busy;

/// Settings of a session.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// Of this process.
    pub incarnation: Incarnation,
    /// Tells apart the sessions of this process with the same slave; 0 if there is only one.
    pub channel: u32,
    /// The port's MTU in bytes, at least [`MIN_MTU`]; a packet's head and body together never exceed it.
    pub mtu: usize,
    /// Requests in flight at once (power of two, at most [`MAX_SLOTS`]).
    pub slots: usize,
    /// Longest request, at most [`MAX_MESSAGE_BYTES`]. The session reserves `slots` buffers of this size, of which the
    /// kernel backs those that are used; the lowest free slot is always taken.
    pub max_request_bytes: usize,
}

/// When something that is repeated until it is answered is due again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    due: bool,
    deadline: Instant,
    attempts: u32,
}

impl Retry {
    fn at_once(now: Instant) -> Self {
        Self { due: true, deadline: now, attempts: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Hello is being sent.
    Opening(Retry),
    Open,
    /// The server does not know the session; waits for `reopen`.
    Void,
    /// Bye is being sent.
    Closing(Retry),
    Closed,
}

/// One request in flight. Which slots are in use is `Client::busy`.
#[derive(Clone, Copy, Debug)]
struct Slot {
    id: u64,
    /// Of the request.
    layout: Layout,
    /// Fragments of the request given out for sending and not known to be lost.
    sent: FragmentSet,
    /// Fragments of the request that the server has.
    acked: FragmentSet,
    /// Of the response, once a fragment of it is here.
    response: Option<Layout>,
    /// Fragments of the response that are here.
    received: FragmentSet,
    first_sent: Option<Instant>,
    deadline: Instant,
    attempts: u32,
    /// A part of the request was sent again, so the round-trip time tells nothing.
    repeated: bool,
}

/// What `poll_transmit` gave last, to take it back.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Hello,
    Bye,
    KeepAlive,
    /// The idle slots only.
    Release,
    Ack(usize),
    Probe(usize),
    Fragment(usize, u32),
}

/// The asking side of a session. After `new` nothing here allocates: it is called from fault handlers.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    /// Counts the sessions asked for: a hello-ack of an earlier one is not taken.
    attempt: u64,
    session: u64,
    server: Incarnation,
    refused: bool,
    last_heard: Option<Instant>,

    /// As granted by the server.
    slots: usize,
    /// As granted by the server.
    fragment_bytes: u32,
    last_id: u64,
    slot: Box<[Slot]>,
    buffers: Box<[u8]>,

    // One bit for each slot.
    busy: u32,
    /// Requests of one packet that have to be sent.
    single: u32,
    /// Requests of several packets with fragments to send; held back while the window is full.
    bulk: u32,
    probe: u32,
    ack: u32,
    /// Responses of several packets with fragments that the server does not know to be here.
    progress: u32,

    /// Fragments of requests in `bulk` sent and not known to have arrived.
    in_flight: u32,
    /// Fragments of responses received since the server was last told.
    unacked: u32,
    /// A response of several packets was completed since the server was last told.
    release: bool,
    release_due: bool,
    keep_alive_due: bool,

    /// No deadline is earlier.
    earliest: Option<Instant>,
    rtt: RttEstimator,
    checksummer: Checksummer,
    head: [u8; HEADER_BYTES + 32],
    last_sent: Option<(Sent, Instant)>,
    stats: ClientStats,
}

impl Client {
    /// A session that is about to open.
    ///
    /// # Panics
    /// If the settings are outside the limits that [`ClientConfig`] gives.
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        assert!(config.mtu >= MIN_MTU, "MTU {} is below {MIN_MTU}", config.mtu);
        assert!(
            config.slots.is_power_of_two() && config.slots <= MAX_SLOTS,
            "{} slots are not a power of two up to {MAX_SLOTS}",
            config.slots
        );
        assert!(config.max_request_bytes <= MAX_MESSAGE_BYTES, "requests longer than {MAX_MESSAGE_BYTES} bytes");
        let empty = Slot {
            id: 0,
            layout: Layout::new(0, 1).expect("an empty message is short"),
            sent: FragmentSet::default(),
            acked: FragmentSet::default(),
            response: None,
            received: FragmentSet::default(),
            first_sent: None,
            deadline: now,
            attempts: 0,
            repeated: false,
        };
        Self {
            config,
            state: State::Opening(Retry::at_once(now)),
            attempt: 1,
            session: 0,
            server: Incarnation::default(),
            refused: false,
            last_heard: None,
            slots: config.slots,
            fragment_bytes: 0,
            last_id: 0,
            slot: vec![empty; config.slots].into_boxed_slice(),
            buffers: vec![0; config.slots * config.max_request_bytes].into_boxed_slice(),
            busy: 0,
            single: 0,
            bulk: 0,
            probe: 0,
            ack: 0,
            progress: 0,
            in_flight: 0,
            unacked: 0,
            release: false,
            release_due: false,
            keep_alive_due: false,
            earliest: Some(now),
            rtt: RttEstimator::default(),
            checksummer: Checksummer::new(),
            head: [0; HEADER_BYTES + 32],
            last_sent: None,
            stats: ClientStats::default(),
        }
    }

    /// Whether requests may be made.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether the server said last that it has no room for another session. The client goes on asking.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether `close` is done: the server has said good-bye, or there was nothing to close.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// When the last packet of this session came.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    /// Counters since `new`.
    pub fn stats(&self) -> ClientStats {
        self.stats
    }

    /// The smoothed round-trip time of requests, the server's work included.
    pub fn round_trip(&self) -> Option<std::time::Duration> {
        self.rtt.smoothed()
    }

    /// After `Reset` (or at any time): drop all requests and open a new session.
    pub fn reopen(&mut self, now: Instant) {
        self.drop_requests();
        self.attempt += 1;
        self.session = 0;
        self.state = State::Opening(Retry::at_once(now));
        self.earliest = Some(now);
    }

    /// As `reopen`, as another client: the slave does not serve the old incarnation any more.
    pub fn reopen_as(&mut self, incarnation: Incarnation, now: Instant) {
        self.config.incarnation = incarnation;
        self.reopen(now);
    }

    /// Drops all requests and tells the server that the session is over, until it answers: then `is_closed`.
    pub fn close(&mut self, now: Instant) {
        self.drop_requests();
        match self.state {
            State::Open => {
                self.state = State::Closing(Retry::at_once(now));
                self.earliest = Some(now);
            }
            State::Opening(_) | State::Void => self.state = State::Closed,
            State::Closing(_) | State::Closed => {}
        }
    }

    /// Sends a small packet, so that an idle session does not expire; the server answers it.
    pub fn keep_alive(&mut self, _now: Instant) {
        self.keep_alive_due = self.is_open();
    }

    /// Starts a request whose message is `head` followed by `body`; both are copied.
    ///
    /// # Panics
    /// If the message is longer than `ClientConfig::max_request_bytes`.
    pub fn request(&mut self, now: Instant, head: &[u8], body: &[u8]) -> Result<RequestId, Busy> {
        if self.free_slots() == 0 {
            return Err(Busy);
        }
        let message_bytes = head.len() + body.len();
        assert!(message_bytes <= self.config.max_request_bytes, "a request of {message_bytes} bytes is too long");
        let index = self.busy.trailing_ones() as usize;
        let bit = 1 << index;
        let mut id = (self.last_id & !(self.slots as u64 - 1)) + index as u64;
        if id <= self.last_id {
            id += self.slots as u64;
        }
        self.last_id = id;

        let buffer = &mut self.buffers[index * self.config.max_request_bytes..][..message_bytes];
        buffer[..head.len()].copy_from_slice(head);
        buffer[head.len()..].copy_from_slice(body);
        let layout = Layout::new(message_bytes as u32, self.fragment_bytes).expect("the length was checked");
        let deadline = now + self.rtt.timeout(0);
        self.slot[index] = Slot {
            id,
            layout,
            sent: FragmentSet::default(),
            acked: FragmentSet::default(),
            response: None,
            received: FragmentSet::default(),
            first_sent: None,
            deadline,
            attempts: 0,
            repeated: false,
        };
        self.busy |= bit;
        *(if layout.is_single() { &mut self.single } else { &mut self.bulk }) |= bit;
        self.wake_at(deadline);
        Ok(RequestId(id))
    }

    /// Requests that may be started now.
    pub fn free_slots(&self) -> usize {
        if self.is_open() { self.slots - self.in_flight() } else { 0 }
    }

    /// Requests without an answer yet.
    pub fn in_flight(&self) -> usize {
        self.busy.count_ones() as usize
    }

    /// Takes a packet (the bytes after the Ethernet header) from the slave. A bad one is counted and dropped.
    pub fn handle(&mut self, now: Instant, packet: &[u8], sink: &mut dyn FnMut(ClientEvent<'_>)) {
        let (header, payload) = match Header::decode(packet) {
            Ok(parts) => parts,
            Err(error) => return self.stats.drops.count(error),
        };
        self.stats.packets_received += 1;
        if header.kind == Kind::HelloAck {
            return self.on_hello_ack(now, &header, payload, sink);
        }
        if self.session == 0 || header.session != self.session {
            self.stats.drops.session += 1;
            return;
        }
        match (header.kind, self.state) {
            (Kind::Bye | Kind::Reset, State::Closing(_)) => {
                self.state = State::Closed;
                self.earliest = None;
            }
            (Kind::Response, State::Open) => self.on_response(now, &header, payload, sink),
            (Kind::Status, State::Open) => self.on_status(now, &header, payload),
            (Kind::KeepAlive, State::Open) => {}
            (Kind::Reset, State::Open) => {
                self.drop_requests();
                self.state = State::Void;
                self.stats.resets += 1;
                self.last_heard = Some(now);
                return sink(ClientEvent::Reset);
            }
            (Kind::Hello | Kind::Request | Kind::Probe | Kind::Ack, _) => self.stats.drops.kind += 1,
            _ => self.stats.drops.stale += 1,
        }
        self.last_heard = Some(now);
    }

    fn on_hello_ack(&mut self, now: Instant, header: &Header, payload: &[u8], sink: &mut dyn FnMut(ClientEvent<'_>)) {
        let Some(ack) = HelloAck::decode(payload) else {
            self.stats.drops.malformed += 1;
            return;
        };
        if !matches!(self.state, State::Opening(_))
            || header.request != self.attempt
            || ack.client != self.config.incarnation.0
        {
            self.stats.drops.stale += 1;
            return;
        }
        if header.session == 0 {
            self.refused = true;
            return;
        }
        let (mtu, slots) = (ack.mtu as usize, ack.slots as usize);
        if !(MIN_MTU..=self.config.mtu).contains(&mtu) || !slots.is_power_of_two() || slots > self.config.slots {
            self.stats.drops.malformed += 1;
            return;
        }
        self.refused = false;
        self.session = header.session;
        self.server = Incarnation(ack.server);
        self.slots = slots;
        self.fragment_bytes = (mtu.min(MAX_PACKET_BYTES) - HEADER_BYTES) as u32;
        self.state = State::Open;
        self.last_heard = Some(now);
        self.earliest = None;
        sink(ClientEvent::Opened { incarnation: self.server });
    }

    fn on_response(&mut self, now: Instant, header: &Header, payload: &[u8], sink: &mut dyn FnMut(ClientEvent<'_>)) {
        let Some(index) = self.slot_of(header.request) else {
            self.stats.drops.stale += 1;
            return;
        };
        let slot = &mut self.slot[index];
        let layout = Layout::new(header.message_bytes, self.fragment_bytes);
        let fragment = layout.and_then(|layout| layout.index(header.offset, payload.len()));
        let (Some(layout), Some(fragment)) = (layout, fragment) else {
            self.stats.drops.malformed += 1;
            return;
        };
        if *slot.response.get_or_insert(layout) != layout {
            self.stats.drops.malformed += 1;
            return;
        }
        if !slot.received.insert(fragment) {
            self.stats.drops.duplicate += 1;
            return;
        }
        if let (Some(sent), false) = (slot.first_sent.take(), slot.repeated) {
            self.rtt.sample(now.saturating_duration_since(sent));
        }
        let request = RequestId(header.request);
        let is_complete = slot.received == layout.all();
        if !is_complete {
            slot.attempts = 0;
            slot.deadline = now + self.rtt.timeout(0);
        }
        self.set_progress_of_request(index, self.slot[index].layout.all());
        let bit = 1 << index;
        if !layout.is_single() {
            self.unacked += 1;
            if is_complete {
                self.release = true;
            } else {
                self.progress |= bit;
            }
        }
        if is_complete {
            self.busy &= !bit;
            self.probe &= !bit;
            self.ack &= !bit;
            self.progress &= !bit;
            if self.busy == 0 {
                self.earliest = None;
            }
        }
        if self.unacked >= ACK_EVERY {
            self.ack |= self.progress;
            self.release_due |= self.release;
            self.unacked = 0;
        }
        if !payload.is_empty() {
            sink(ClientEvent::Fragment { request, offset: header.offset as usize, bytes: payload });
        }
        if is_complete {
            sink(ClientEvent::Complete { request, len: layout.message_bytes() as usize });
        }
    }

    fn on_status(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        let Some(index) = self.slot_of(header.request) else {
            self.stats.drops.stale += 1;
            return;
        };
        let Ok(bits) = payload.try_into() else {
            self.stats.drops.malformed += 1;
            return;
        };
        let slot = &self.slot[index];
        let all = slot.layout.all();
        if header.flags & flag::EXECUTING != 0 {
            return self.set_progress_of_request(index, all);
        }
        let acked = slot.acked.union(FragmentSet(u128::from_le_bytes(bits)).intersection(all));
        if acked != slot.acked {
            let deadline = now + self.rtt.timeout(0);
            let slot = &mut self.slot[index];
            slot.attempts = 0;
            slot.deadline = deadline;
        }
        self.set_progress_of_request(index, acked);
        if header.flags & flag::ANSWERS_PROBE != 0 {
            self.send_missing_again(index);
        }
    }

    /// The server has these fragments of the request.
    fn set_progress_of_request(&mut self, index: usize, acked: FragmentSet) {
        let slot = &mut self.slot[index];
        if !slot.layout.is_single() {
            self.in_flight -= slot.sent.without(slot.acked).len();
            self.in_flight += slot.sent.without(acked).len();
        }
        slot.acked = acked;
        slot.sent = slot.sent.union(acked);
        if slot.sent == slot.layout.all() {
            self.single &= !(1 << index);
            self.bulk &= !(1 << index);
        }
    }

    /// What the server does not have of the request is lost.
    fn send_missing_again(&mut self, index: usize) {
        let slot = &mut self.slot[index];
        slot.repeated = true;
        let lost = slot.sent.without(slot.acked).len();
        slot.sent = slot.acked;
        if slot.sent == slot.layout.all() {
            return;
        }
        if slot.layout.is_single() {
            self.single |= 1 << index;
        } else {
            self.in_flight -= lost;
            self.bulk |= 1 << index;
        }
    }

    /// The next packet to send, if any: call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Packet<'_>> {
        if self.earliest.is_some_and(|earliest| now >= earliest) {
            self.on_timeout(now);
        }
        self.last_sent = None;
        let sent = self.choose(now)?;
        self.last_sent = Some((sent, now));
        self.stats.packets_sent += 1;
        Some(self.build(sent))
    }

    /// Decides what to send, and marks it as sent.
    fn choose(&mut self, now: Instant) -> Option<Sent> {
        match &mut self.state {
            State::Open => {}
            State::Opening(retry) | State::Closing(retry) => {
                if !retry.due {
                    return None;
                }
                retry.due = false;
                retry.deadline = now + self.rtt.timeout(retry.attempts);
                retry.attempts += 1;
                let deadline = retry.deadline;
                let sent = if matches!(self.state, State::Opening(_)) { Sent::Hello } else { Sent::Bye };
                self.wake_at(deadline);
                return Some(sent);
            }
            State::Void | State::Closed => return None,
        }
        if let Some(index) = take_lowest(&mut self.probe) {
            return Some(Sent::Probe(index));
        }
        if let Some(index) = take_lowest(&mut self.ack) {
            self.progress &= !(1 << index);
            self.release = false;
            self.release_due = false;
            return Some(Sent::Ack(index));
        }
        if self.single != 0 {
            let index = take_lowest(&mut self.single).expect("a bit is set");
            let slot = &mut self.slot[index];
            slot.sent.insert(0);
            slot.first_sent.get_or_insert(now);
            return Some(Sent::Fragment(index, 0));
        }
        if self.bulk != 0 && self.in_flight < WINDOW {
            let index = self.bulk.trailing_zeros() as usize;
            let slot = &mut self.slot[index];
            let fragment = slot.sent.lowest_missing();
            slot.sent.insert(fragment);
            slot.first_sent.get_or_insert(now);
            self.in_flight += 1;
            if slot.sent == slot.layout.all() {
                self.bulk &= !(1 << index);
            }
            return Some(Sent::Fragment(index, fragment));
        }
        if std::mem::take(&mut self.keep_alive_due) {
            return Some(Sent::KeepAlive);
        }
        if std::mem::take(&mut self.release_due) {
            return Some(Sent::Release);
        }
        None
    }

    fn build(&mut self, sent: Sent) -> Packet<'_> {
        let (kind, index) = match sent {
            Sent::Hello => return self.build_hello(),
            Sent::Bye => (Kind::Bye, None),
            Sent::KeepAlive => (Kind::KeepAlive, None),
            Sent::Release => (Kind::Ack, None),
            Sent::Ack(index) => (Kind::Ack, Some(index)),
            Sent::Probe(index) => (Kind::Probe, Some(index)),
            Sent::Fragment(index, _) => (Kind::Request, Some(index)),
        };
        let id = index.map_or(self.last_id, |index| self.slot[index].id);
        let mut header = Header::new(kind, self.session, id);
        header.idle = !self.busy;
        header.ahead = (self.last_id - id).min(u64::from(u32::MAX)) as u32;
        let mut head_bytes = HEADER_BYTES;
        let mut body = 0..0;
        match sent {
            Sent::Fragment(index, fragment) => {
                let layout = self.slot[index].layout;
                let range = layout.range(fragment);
                header.message_bytes = layout.message_bytes();
                header.offset = range.start as u32;
                let buffer = index * self.config.max_request_bytes;
                body = buffer + range.start..buffer + range.end;
            }
            Sent::Ack(index) | Sent::Probe(index) => {
                head_bytes += size_of::<u128>();
                let received = self.slot[index].received.0.to_le_bytes();
                self.head[HEADER_BYTES..head_bytes].copy_from_slice(&received);
            }
            _ => {}
        }
        let body = &self.buffers[body];
        header.encode(&mut self.head[..head_bytes], body, &mut self.checksummer);
        Packet { head: &self.head[..head_bytes], body }
    }

    fn build_hello(&mut self) -> Packet<'_> {
        let hello = Hello {
            client: self.config.incarnation.0,
            mtu: self.config.mtu.min(u32::MAX as usize) as u32,
            slots: self.config.slots as u32,
            channel: self.config.channel,
        };
        let head = &mut self.head[..HEADER_BYTES + Hello::BYTES];
        head[HEADER_BYTES..].copy_from_slice(&hello.encode());
        Header::new(Kind::Hello, 0, self.attempt).encode(head, &[], &mut self.checksummer);
        Packet { head, body: &[] }
    }

    /// The packet that `poll_transmit` gave last could not be sent: keep it.
    pub fn not_sent(&mut self) {
        let Some((sent, tried)) = self.last_sent.take() else { return };
        self.stats.packets_sent -= 1;
        self.wake_at(tried);
        match sent {
            Sent::Hello | Sent::Bye => {
                if let State::Opening(retry) | State::Closing(retry) = &mut self.state {
                    retry.due = true;
                    retry.attempts = retry.attempts.saturating_sub(1);
                }
            }
            Sent::KeepAlive => self.keep_alive_due = true,
            Sent::Release => self.release_due = true,
            Sent::Ack(index) => self.ack |= 1 << index,
            Sent::Probe(index) => self.probe |= 1 << index,
            Sent::Fragment(index, fragment) => {
                let slot = &mut self.slot[index];
                slot.sent.remove(fragment);
                if slot.layout.is_single() {
                    self.single |= 1 << index;
                } else {
                    self.in_flight -= 1;
                    self.bulk |= 1 << index;
                }
            }
        }
    }

    /// When `poll_transmit` has to be called even if no packet arrives. May be earlier than needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.earliest
    }

    fn on_timeout(&mut self, now: Instant) {
        self.earliest = None;
        if let State::Opening(retry) | State::Closing(retry) = &mut self.state {
            if retry.deadline <= now {
                retry.due = true;
            } else {
                self.earliest = Some(retry.deadline);
            }
            return;
        }
        let mut busy = self.busy;
        while let Some(index) = take_lowest(&mut busy) {
            if self.slot[index].deadline <= now {
                self.on_slot_timeout(now, index);
            }
            self.wake_at(self.slot[index].deadline);
        }
    }

    /// A request has had no answer, or no further fragment of one, for too long.
    fn on_slot_timeout(&mut self, now: Instant, index: usize) {
        self.stats.timeouts += 1;
        let slot = &mut self.slot[index];
        slot.attempts += 1;
        slot.deadline = now + self.rtt.timeout(slot.attempts);
        if slot.layout.is_single() && slot.acked.is_empty() && slot.received.is_empty() {
            self.send_missing_again(index);
        } else {
            slot.repeated = true;
            self.probe |= 1 << index;
        }
    }

    fn wake_at(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// The slot in which this request is in flight.
    fn slot_of(&self, id: u64) -> Option<usize> {
        let index = id as usize & (self.slots - 1);
        (self.busy >> index & 1 == 1 && self.slot[index].id == id).then_some(index)
    }

    fn drop_requests(&mut self) {
        self.busy = 0;
        self.single = 0;
        self.bulk = 0;
        self.probe = 0;
        self.ack = 0;
        self.progress = 0;
        self.in_flight = 0;
        self.unacked = 0;
        self.release = false;
        self.release_due = false;
        self.keep_alive_due = false;
        self.earliest = None;
        self.last_sent = None;
    }
}

/// Takes the lowest bit out of a set.
fn take_lowest(bits: &mut u32) -> Option<usize> {
    let index = bits.trailing_zeros();
    *bits &= bits.wrapping_sub(1);
    (index < u32::BITS).then_some(index as usize)
}
