//! The asking side of one session with one slave.

mod answers;
mod opening;
mod recovery;
mod slot;

use std::time::{Duration, Instant};

use self::{
    opening::{Attempt, Handshake, Keys},
    recovery::MIN_RETRY,
    slot::Slot,
};
use super::{
    ClientStats, Incarnation, MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, MAX_SLOTS, MIN_MTU, ack_every,
    congestion::Congestion,
    flaws::{Flaw, Flaws},
    fragment::{FragmentSet, Layout},
    rtt::RttEstimator,
};
use crate::{
    packet::Packet,
    seal::ClientKey,
    shared::SharedBytes,
    wire::{
        checksum::Checksummer,
        header::{HEADER_BYTES, Header, Kind, Parsed, flag},
        hello::{Hello, Verdict},
    },
};

/// The longest payload of a packet that is no fragment.
const MAX_SMALL_PAYLOAD_BYTES: usize = Hello::MAX_BYTES;
/// A payload so short is copied behind its header: a packet in one piece costs less than one in two.
const CLOSE_BYTES: usize = 128;
/// A fragment that was to be told of at once, and was not for so long, will not be.
const MARK_LOST: Duration = Duration::from_millis(10);
/// A session that somebody says is gone is asked for so long, if its packets are sealed and those words are not.
const DOUBT: Duration = Duration::from_millis(10);

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

/// What `poll_transmit` gave last, to take it back.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Hello {
        /// Hellos of this attempt before this one.
        tries: u32,
    },
    Bye,
    KeepAlive,
    /// The idle slots only.
    Release,
    Ack(usize),
    Probe(usize),
    Fragment {
        index: usize,
        fragment: u32,
        /// The server is to say at once which it has.
        wants_ack: bool,
    },
}

/// The asking side of a session. After `new` nothing here allocates: it is called from fault handlers.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    attempt: Attempt,
    session: u64,
    server: Incarnation,
    /// Of a client with a key.
    handshake: Option<Handshake>,
    /// Of a sealed session.
    keys: Option<Keys>,
    /// Since when somebody says that the server does not know the sealed session.
    doubted: Option<Instant>,
    last_heard: Option<Instant>,
    /// When the port was last seen empty.
    looked: Option<Instant>,

    /// Of the port.
    shares_memory: bool,
    /// As granted by the server: payloads carry no checksum.
    unsummed: bool,
    /// As granted by the server.
    slots: usize,
    /// As granted by the server.
    mtu: usize,
    fragment_bytes: u32,
    last_id: u64,
    last_request: u64,
    slot: Box<[Slot]>,
    buffers: Box<[u8]>,
    /// The bodies of requests that lie with who asks.
    bodies: Box<[Option<SharedBytes>]>,

    // One bit for each slot.
    busy: u32,
    /// Requests of which nothing was sent yet. They have no id.
    unsent: u32,
    /// Requests of one packet that have to be sent.
    single: u32,
    /// Requests of several packets with fragments to send.
    bulk: u32,
    /// Requests that are sent and have no answer yet.
    waiting: u32,
    probe: u32,
    /// Of those to be probed, the ones that later answers show to be lost.
    missed: u32,
    ack: u32,
    /// Responses of several packets with fragments that the server does not know to be here.
    progress: u32,

    /// Fragments of requests of several packets sent and not known to have arrived.
    in_flight: u32,
    /// Of those, how many were sent since the server was last asked to tell which it has.
    unmarked: u32,
    /// The last fragment of which it was asked so: its request's id, its number, and when it was sent.
    marked: Option<(u64, u32, Instant)>,
    /// Fragments that arrived, by its word, since a delay was learnt from it.
    arrived: u32,
    /// Fragments of responses received since the server was last told.
    unacked: u32,
    /// Packets of the last response that came.
    response_packets: u32,
    /// Packets of requests given out so far.
    sequence: u64,
    /// No request that waits for an answer was sent before the packet of this number.
    oldest: u64,
    /// Requests answered so far.
    completed: u64,
    /// A response of several packets was completed since the server was last told.
    release: bool,
    release_due: bool,
    keep_alive_due: bool,

    /// No deadline is earlier.
    earliest: Option<Instant>,
    rtt: RttEstimator,
    congestion: Congestion,
    checksummer: Checksummer,
    /// A packet to be sealed.
    sealed: Box<[u8]>,
    /// A payload that was opened.
    opened: Box<[u8]>,
    head: [u8; HEADER_BYTES + MAX_SMALL_PAYLOAD_BYTES],
    last_sent: Option<(Sent, Instant)>,
    stats: ClientStats,
    flaws: Flaws,
}

impl Client {
    /// A session that is about to open; a sealed one if there is a key.
    ///
    /// # Panics
    /// If the settings are outside the limits that [`ClientConfig`] gives.
    pub fn new(config: ClientConfig, key: Option<ClientKey>, now: Instant) -> Self {
        assert!(config.mtu >= MIN_MTU, "MTU {} is below {MIN_MTU}", config.mtu);
        assert!(
            config.slots.is_power_of_two() && config.slots <= MAX_SLOTS,
            "{} slots are not a power of two up to {MAX_SLOTS}",
            config.slots
        );
        assert!(config.max_request_bytes <= MAX_MESSAGE_BYTES, "requests longer than {MAX_MESSAGE_BYTES} bytes");
        let empty = Slot::new(RequestId(0), Layout::new(0, 1).expect("an empty message is short"), now);
        let seal_bytes = if key.is_some() { config.mtu.min(MAX_PACKET_BYTES) } else { 0 };
        Self {
            config,
            state: State::Opening(Retry::at_once(now)),
            attempt: Attempt::first(),
            session: 0,
            server: Incarnation::default(),
            handshake: key.map(Handshake::new),
            keys: None,
            doubted: None,
            last_heard: None,
            looked: None,
            shares_memory: false,
            unsummed: false,
            slots: config.slots,
            mtu: 0,
            fragment_bytes: 0,
            last_id: 0,
            last_request: 0,
            slot: vec![empty; config.slots].into_boxed_slice(),
            buffers: vec![0; config.slots * config.max_request_bytes].into_boxed_slice(),
            bodies: vec![None; config.slots].into_boxed_slice(),
            busy: 0,
            unsent: 0,
            single: 0,
            bulk: 0,
            waiting: 0,
            probe: 0,
            missed: 0,
            ack: 0,
            progress: 0,
            in_flight: 0,
            unmarked: 0,
            marked: None,
            arrived: 0,
            unacked: 0,
            response_packets: 1,
            sequence: 0,
            oldest: 0,
            completed: 0,
            release: false,
            release_due: false,
            keep_alive_due: false,
            earliest: Some(now),
            rtt: RttEstimator::default(),
            congestion: Congestion::new(),
            checksummer: Checksummer::new(),
            sealed: vec![0; seal_bytes].into_boxed_slice(),
            opened: vec![0; seal_bytes].into_boxed_slice(),
            head: [0; HEADER_BYTES + MAX_SMALL_PAYLOAD_BYTES],
            last_sent: None,
            stats: ClientStats::default(),
            flaws: Flaws::default(),
        }
    }

    /// Says whether the client and its slave share memory (see `Port::shares_memory`): then payloads need no checksum.
    pub fn over_shared_memory(self, shares_memory: bool) -> Self {
        Self { shares_memory, ..self }
    }

    /// Makes a mistake from now on.
    #[cfg(feature = "broken")]
    pub fn break_by(&mut self, flaw: Flaw) {
        self.flaws = Flaws::of(flaw);
    }

    /// Whether requests may be made.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// What the server said last, if it refused a session. The client goes on asking.
    pub fn refusal(&self) -> Option<Verdict> {
        self.attempt.refusal
    }

    /// The MTU of the session in bytes: what came through both ways. 0 before the first one opened.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether packets of the session are sealed.
    pub fn is_sealed(&self) -> bool {
        self.keys.is_some()
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

    /// Packets that may be under way in each direction.
    pub fn window(&self) -> u32 {
        self.congestion.window()
    }

    /// After `Reset` (or at any time): drop all requests and open a new session.
    pub fn reopen(&mut self, now: Instant) {
        self.drop_requests();
        self.begin_attempt();
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
        let message_bytes = head.len() + body.len();
        let (index, request) = self.begin_request(now, message_bytes)?;
        let buffer = &mut self.buffers[index * self.config.max_request_bytes..][..message_bytes];
        buffer[..head.len()].copy_from_slice(head);
        buffer[head.len()..].copy_from_slice(body);
        Ok(request)
    }

    /// As `request`, with a body that is not copied. Not for fault handlers: it may free memory later.
    ///
    /// # Panics
    /// As `request`.
    pub fn request_shared(&mut self, now: Instant, head: &[u8], body: SharedBytes) -> Result<RequestId, Busy> {
        let (index, request) = self.begin_request(now, head.len() + body.len())?;
        self.buffers[index * self.config.max_request_bytes..][..head.len()].copy_from_slice(head);
        self.slot[index].head_bytes = head.len();
        self.bodies[index] = Some(body);
        Ok(request)
    }

    /// The slot and number of a request of so many bytes, which are all to be in its buffer.
    fn begin_request(&mut self, now: Instant, message_bytes: usize) -> Result<(usize, RequestId), Busy> {
        if self.free_slots() == 0 {
            return Err(Busy);
        }
        assert!(message_bytes <= self.config.max_request_bytes, "a request of {message_bytes} bytes is too long");
        let index = self.busy.trailing_ones() as usize;
        let bit = 1 << index;
        self.last_request = next_of_slot(self.last_request, index, self.slots);
        let request = RequestId(self.last_request);
        let layout = Layout::new(message_bytes as u32, self.fragment_bytes).expect("the length was checked");
        self.slot[index] = Slot::new(request, layout, now);
        self.busy |= bit;
        self.unsent |= bit;
        *(if layout.is_single() { &mut self.single } else { &mut self.bulk }) |= bit;
        Ok((index, request))
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
        let parsed = match Header::decode(packet) {
            Ok(parsed) => parsed,
            Err(error) => return self.stats.drops.count(error),
        };
        self.stats.packets_received += 1;
        let header = &parsed.header;
        match header.kind {
            // There are no keys yet, and a packet that claims a seal has no checksum.
            Kind::HelloAck | Kind::HelloRetry if parsed.trailer.is_some() => {
                self.stats.drops.malformed += 1;
                return;
            }
            Kind::HelloAck => return self.on_hello_ack(now, header, parsed.payload, sink),
            Kind::HelloRetry => return self.on_hello_retry(now, header, parsed.payload),
            _ => {}
        }
        if self.session == 0 || header.session != self.session {
            self.stats.drops.session += 1;
            return;
        }
        if parsed.is_unsummed() && !self.unsummed {
            self.stats.drops.checksum += 1;
            return;
        }
        match (&mut self.keys, parsed.trailer) {
            (None, None) => self.take(now, header, parsed.payload, sink),
            (Some(_), Some(_)) => self.open(now, &parsed, sink),
            (Some(_), None) if self.flaws.has(Flaw::TakesUnsealed) => self.take(now, header, parsed.payload, sink),
            (Some(_), None) => self.on_unsealed(now, header.kind, sink),
            (None, Some(_)) => self.stats.drops.unsealed += 1,
        }
    }

    /// Takes a sealed packet.
    fn open(&mut self, now: Instant, parsed: &Parsed<'_>, sink: &mut dyn FnMut(ClientEvent<'_>)) {
        let (Some(keys), Some(trailer)) = (&mut self.keys, parsed.trailer) else { return };
        let Some(payload) = self.opened.get_mut(..parsed.payload.len()) else {
            self.stats.drops.malformed += 1;
            return;
        };
        payload.copy_from_slice(parsed.payload);
        if let Err(error) = keys.opener.open(parsed.head, payload, trailer) {
            return self.stats.drops.count_unopened(error);
        }
        self.doubted = None;
        let opened = std::mem::take(&mut self.opened);
        self.take(now, &parsed.header, &opened[..parsed.payload.len()], sink);
        self.opened = opened;
    }

    /// Anybody can say that a session is gone. It is believed if the server does not deny it by a sealed packet.
    fn on_unsealed(&mut self, now: Instant, kind: Kind, sink: &mut dyn FnMut(ClientEvent<'_>)) {
        match (kind, self.state) {
            (Kind::Reset | Kind::Bye, State::Closing(_)) => self.end(),
            (Kind::Reset, State::Open) => {
                let since = *self.doubted.get_or_insert(now);
                if now.saturating_duration_since(since) >= DOUBT || self.flaws.has(Flaw::BelievesResets) {
                    return self.reset(now, sink);
                }
                self.keep_alive_due = true;
                self.wake_at(since + DOUBT);
            }
            _ => self.stats.drops.unsealed += 1,
        }
    }

    fn take(&mut self, now: Instant, header: &Header, payload: &[u8], sink: &mut dyn FnMut(ClientEvent<'_>)) {
        match (header.kind, self.state) {
            (Kind::Bye | Kind::Reset, State::Closing(_)) => self.end(),
            (Kind::Response, State::Open) => self.on_response(now, header, payload, sink),
            (Kind::Status, State::Open) => self.on_status(now, header, payload),
            (Kind::KeepAlive, State::Open) => {}
            (Kind::Reset, State::Open) => return self.reset(now, sink),
            (Kind::Hello | Kind::Request | Kind::Probe | Kind::Ack, _) => self.stats.drops.kind += 1,
            _ => self.stats.drops.stale += 1,
        }
        self.last_heard = Some(now);
    }

    fn end(&mut self) {
        self.state = State::Closed;
        self.earliest = None;
    }

    fn reset(&mut self, now: Instant, sink: &mut dyn FnMut(ClientEvent<'_>)) {
        self.drop_requests();
        self.state = State::Void;
        self.stats.resets += 1;
        self.last_heard = Some(now);
        sink(ClientEvent::Reset);
    }

    /// Packets of requests that are on their way, or whose answers are.
    fn under_way(&self) -> u32 {
        self.in_flight + self.waiting.count_ones()
    }

    /// Every packet that had come by `now` has been handled: only from then on is what has not come late. A client of which this is
    /// never said takes each packet to come when it is handled.
    pub fn looked(&mut self, now: Instant) {
        self.looked = Some(now);
    }

    /// The next packet to send, if any: call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Packet<'_>> {
        // What came while nobody looked is not late.
        let looked = self.looked.unwrap_or(now);
        if self.earliest.is_some_and(|earliest| looked >= earliest) {
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
        match self.state {
            State::Open => {}
            State::Opening(_) | State::Closing(_) => return self.choose_retry(now),
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
        if self.single | self.bulk != 0 && self.under_way() < self.congestion.window() {
            return Some(self.choose_fragment(now));
        }
        if std::mem::take(&mut self.keep_alive_due) {
            return Some(Sent::KeepAlive);
        }
        if std::mem::take(&mut self.release_due) {
            return Some(Sent::Release);
        }
        None
    }

    /// Hello or bye, when it is time.
    fn choose_retry(&mut self, now: Instant) -> Option<Sent> {
        let (State::Opening(mut retry) | State::Closing(mut retry)) = self.state else { return None };
        let is_opening = matches!(self.state, State::Opening(_));
        if !retry.due || is_opening && !self.can_ask() {
            return None;
        }
        let tries = retry.attempts;
        retry.due = false;
        let timeout = if is_opening { self.hello_timeout(tries) } else { self.rtt.timeout(tries) };
        retry.deadline = now + timeout.max(MIN_RETRY);
        if is_opening && tries == 0 {
            self.attempt.asked_at = Some(now);
        }
        retry.attempts += 1;
        self.wake_at(retry.deadline);
        self.state = if is_opening { State::Opening(retry) } else { State::Closing(retry) };
        Some(if is_opening { Sent::Hello { tries } } else { Sent::Bye })
    }

    /// Short requests first: they are what somebody waits for.
    fn choose_fragment(&mut self, now: Instant) -> Sent {
        let index = if self.single != 0 { self.single } else { self.bulk }.trailing_zeros() as usize;
        let timeout = self.timeout(now, self.slot[index].attempts);
        self.sequence += 1;
        let slot = &mut self.slot[index];
        if self.unsent >> index & 1 == 1 {
            // Ids grow in the order in which requests are sent, so that `idle` can speak of all up to one.
            self.unsent &= !(1 << index);
            slot.first_sent_at = now;
            self.last_id = next_of_slot(self.last_id, index, self.slots);
            slot.id = self.last_id;
            slot.first_sequence = self.sequence;
            self.queue_behind_others(index);
        }
        let slot = &mut self.slot[index];
        let fragment = slot.sent.lowest_missing();
        slot.sent.insert(fragment);
        slot.sent_at = now;
        slot.sequence = self.sequence;
        slot.deadline = now + timeout;
        let mut wants_ack = false;
        if !slot.layout.is_single() {
            self.in_flight += 1;
            self.unmarked += 1;
            wants_ack = self.unmarked >= ack_every(self.congestion.window());
            self.unmarked *= u32::from(!wants_ack);
            // One at a time, so that its answer is recognised.
            let is_free = self.marked.is_none_or(|(_, _, since)| now.saturating_duration_since(since) > MARK_LOST);
            if wants_ack && is_free {
                self.marked = Some((slot.id, fragment, now));
            }
        }
        let deadline = slot.deadline;
        self.note_sent(index);
        self.wake_at(deadline);
        Sent::Fragment { index, fragment, wants_ack }
    }

    fn build(&mut self, sent: Sent) -> Packet<'_> {
        let (kind, index) = match sent {
            Sent::Hello { tries } => return self.build_hello(tries),
            Sent::Bye => (Kind::Bye, None),
            Sent::KeepAlive => (Kind::KeepAlive, None),
            Sent::Release => (Kind::Ack, None),
            Sent::Ack(index) => (Kind::Ack, Some(index)),
            Sent::Probe(index) => (Kind::Probe, Some(index)),
            Sent::Fragment { index, .. } => (Kind::Request, Some(index)),
        };
        let id = index.map_or(self.last_id, |index| self.slot[index].id);
        let mut header = Header::new(kind, self.session, id);
        header.idle = !self.busy | self.unsent;
        header.ahead = (self.last_id - id).min(u64::from(u16::MAX)) as u16;
        header.window = self.congestion.window() as u16;
        let mut head_bytes = HEADER_BYTES;
        let mut body: [&[u8]; 2] = [&[]; 2];
        match sent {
            Sent::Fragment { index, fragment, wants_ack } => {
                let layout = self.slot[index].layout;
                let range = layout.range(fragment);
                header.message_bytes = layout.message_bytes();
                header.offset = range.start as u32;
                header.flags = u16::from(self.slot[index].tries) << flag::ATTEMPT_SHIFT;
                header.flags |= if wants_ack { flag::WANTS_ACK } else { 0 };
                header.flags |= if self.unsummed { flag::UNSUMMED } else { 0 };
                let own = self.slot[index].head_bytes;
                let buffer = &self.buffers[index * self.config.max_request_bytes..][..own];
                body[0] = &buffer[range.start.min(own)..range.end.min(own)];
                if let Some(shared) = &self.bodies[index] {
                    body[1] = &shared[range.start.saturating_sub(own)..range.end.saturating_sub(own)];
                }
            }
            Sent::Ack(index) | Sent::Probe(index) => {
                let bit = 1 << index;
                if matches!(sent, Sent::Probe(_)) && self.missed & bit == 0 {
                    header.message_bytes = u32::try_from(self.rtt.timeout(0).as_nanos()).unwrap_or(u32::MAX);
                }
                self.missed &= !bit;
                head_bytes += size_of::<u128>();
                let slot = &mut self.slot[index];
                self.head[HEADER_BYTES..head_bytes].copy_from_slice(&slot.received.0.to_le_bytes());
                let lost = std::mem::take(&mut slot.lost).without(slot.received);
                if matches!(sent, Sent::Ack(_)) && !lost.is_empty() {
                    self.head[head_bytes..][..size_of::<u128>()].copy_from_slice(&lost.0.to_le_bytes());
                    head_bytes += size_of::<u128>();
                }
            }
            _ => {}
        }
        for part in &mut body {
            if let Some(close) = self.head.get_mut(head_bytes..head_bytes + part.len())
                && part.len() <= CLOSE_BYTES
            {
                close.copy_from_slice(part);
                head_bytes += part.len();
                *part = &[];
            } else {
                break;
            }
        }
        let Some(keys) = &mut self.keys else {
            header.encode_parts(&mut self.head[..head_bytes], body.into_iter(), &mut self.checksummer);
            return Packet::new(&self.head[..head_bytes], body);
        };
        self.sealed[HEADER_BYTES..head_bytes].copy_from_slice(&self.head[HEADER_BYTES..head_bytes]);
        let mut end = head_bytes;
        for part in body {
            self.sealed[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        let payload_bytes = end - HEADER_BYTES;
        let length = header.encode_sealed(&mut self.sealed, payload_bytes, &mut keys.sealer);
        Packet::whole(&self.sealed[..length])
    }

    /// The packet that `poll_transmit` gave last could not be sent: keep it.
    pub fn not_sent(&mut self) {
        let Some((sent, tried)) = self.last_sent.take() else { return };
        self.stats.packets_sent -= 1;
        self.wake_at(tried);
        match sent {
            Sent::Hello { .. } | Sent::Bye => {
                if let State::Opening(retry) | State::Closing(retry) = &mut self.state {
                    retry.due = true;
                    retry.attempts = retry.attempts.saturating_sub(1);
                }
            }
            Sent::KeepAlive => self.keep_alive_due = true,
            Sent::Release => self.release_due = true,
            Sent::Ack(index) => self.ack |= 1 << index,
            Sent::Probe(index) => self.probe |= 1 << index,
            Sent::Fragment { index, fragment, wants_ack } => {
                let slot = &mut self.slot[index];
                slot.sent.remove(fragment);
                if !slot.layout.is_single() {
                    self.in_flight -= 1;
                    // The next one asks, if this would have.
                    self.unmarked = if wants_ack { u32::MAX / 2 } else { self.unmarked - 1 };
                }
                self.note_sent(index);
            }
        }
    }

    /// When `poll_transmit` has to be called even if no packet arrives. May be earlier than needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.earliest
    }

    /// The slot in which this request is in flight.
    fn slot_of(&self, id: u64) -> Option<usize> {
        let index = id as usize & (self.slots - 1);
        ((self.busy & !self.unsent) >> index & 1 == 1 && self.slot[index].id == id).then_some(index)
    }

    fn drop_requests(&mut self) {
        self.bodies.fill(None);
        self.busy = 0;
        self.unsent = 0;
        self.single = 0;
        self.bulk = 0;
        self.waiting = 0;
        self.probe = 0;
        self.missed = 0;
        self.ack = 0;
        self.progress = 0;
        self.in_flight = 0;
        self.unmarked = 0;
        self.marked = None;
        self.arrived = 0;
        self.unacked = 0;
        self.release = false;
        self.release_due = false;
        self.keep_alive_due = false;
        self.doubted = None;
        self.earliest = None;
        self.last_sent = None;
    }
}

/// The lowest number above `last` that is this slot's.
fn next_of_slot(last: u64, index: usize, slots: usize) -> u64 {
    let slots = slots as u64;
    let number = (last & !(slots - 1)) + index as u64;
    if number <= last { number + slots } else { number }
}

/// Takes the lowest bit out of a set.
fn take_lowest(bits: &mut u32) -> Option<usize> {
    let index = bits.trailing_zeros();
    *bits &= bits.wrapping_sub(1);
    (index < u32::BITS).then_some(index as usize)
}
