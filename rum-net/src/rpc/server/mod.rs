//! The answering side: all sessions of a slave.

mod admission;
mod control;
pub(super) mod session;
mod sessions;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    admission::Admission,
    control::Control,
    session::{Phase, Pool, Session, SharedPool},
    sessions::Sessions,
};
use super::{
    Incarnation, MAX_PACKET_BYTES, MIN_MTU, PACKET_THRESHOLD, Response, ServerStats, ZEROS, ack_every,
    flaws::{Flaw, Flaws},
    fragment::{FragmentSet, Layout},
};
use crate::{
    packet::Packet,
    port::{Address, LinkId},
    seal::{ClientKey, KeyFile},
    shared::SharedBytes,
    wire::{
        checksum::Checksummer,
        header::{HEADER_BYTES, Header, Kind, Parsed, flag},
        hello::{HelloAck, HelloRetry, Verdict},
    },
};

/// Names a session of this server; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub u64);

/// What to answer: handed out with each request, given back with its response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestToken {
    /// The session that asked.
    pub session: SessionId,
    /// The request in it.
    pub request: u64,
}

/// What came of a packet or of the time.
#[derive(Debug)]
pub enum ServerEvent<'a> {
    /// A client opens a session, unless `Responder::refuse` says that the incarnation is not its own. When it is the same
    /// client's next session on the same channel, `Closed` of the former follows.
    Opened {
        /// The session.
        session: SessionId,
        /// Of the client's process.
        client: Incarnation,
        /// Whose key the client holds, if the session is sealed.
        key: Option<&'a ClientKey>,
    },
    /// A whole request arrived, for the first and only time. To be answered now or later by `Server::respond`.
    Request {
        /// Goes back with the response.
        token: RequestToken,
        /// Of the client's process.
        client: Incarnation,
        /// The message.
        message: &'a [u8],
    },
    /// A session ended: closed by its client, or silent for longer than the configured time.
    Closed {
        /// The session.
        session: SessionId,
        /// Of the client's process.
        client: Incarnation,
    },
}

/// Settings of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Of this process.
    pub incarnation: Incarnation,
    /// The port's MTU in bytes, at least [`MIN_MTU`].
    pub mtu: usize,
    /// A session is closed after this long without a packet from its client.
    pub session_timeout: Duration,
    /// Sessions at once; further ones are refused.
    pub max_sessions: usize,
}

/// Small packets waiting to be sent; above, they are not made: the clients ask again.
const MAX_CONTROL: usize = 4096;

/// What `poll_transmit` gave last, to take it back.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Control(Control),
    Fragment { session: u64, slot: usize, fragment: u32 },
}

/// All sessions of a slave.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    shares_memory: bool,
    next_session: u64,
    sessions: Sessions,
    /// The last session of each client and channel.
    clients: HashMap<(Incarnation, u32), u64>,
    control: VecDeque<Control>,
    /// Sessions with fragments of responses to send.
    ready: VecDeque<u64>,
    requests: SharedPool,
    responses: Pool<Response>,
    /// No session expires earlier.
    earliest_expiry: Option<Instant>,
    admission: Admission,
    checksummer: Checksummer,
    /// A packet to be sealed.
    sealed: Box<[u8]>,
    /// A payload that was opened.
    opened: Box<[u8]>,
    head: [u8; HEADER_BYTES + HelloAck::MAX_BYTES],
    last_sent: Option<Sent>,
    stats: ServerStats,
    flaws: Flaws,
}

impl Server {
    /// A server without sessions. With `keys` it lets in their holders alone. `secret` is drawn at random when the process
    /// starts.
    ///
    /// # Panics
    /// If the MTU is below [`MIN_MTU`].
    pub fn new(config: ServerConfig, keys: Option<Arc<KeyFile>>, secret: [u8; 32], now: Instant) -> Self {
        assert!(config.mtu >= MIN_MTU, "MTU {} is below {MIN_MTU}", config.mtu);
        let seal_bytes = if keys.is_some() { config.mtu.min(MAX_PACKET_BYTES) } else { 0 };
        Self {
            next_session: first_session(config.incarnation),
            config,
            shares_memory: false,
            sessions: Sessions::default(),
            clients: HashMap::new(),
            control: VecDeque::new(),
            ready: VecDeque::new(),
            requests: SharedPool::default(),
            responses: Pool::default(),
            earliest_expiry: None,
            admission: Admission::new(keys, secret, now),
            checksummer: Checksummer::new(),
            sealed: vec![0; seal_bytes].into_boxed_slice(),
            opened: vec![0; seal_bytes].into_boxed_slice(),
            head: [0; HEADER_BYTES + HelloAck::MAX_BYTES],
            last_sent: None,
            stats: ServerStats::default(),
            flaws: Flaws::default(),
        }
    }

    /// Says whether the server shares memory with its clients (see `Port::shares_memory`): then payloads need no checksum.
    pub fn over_shared_memory(self, shares_memory: bool) -> Self {
        Self { shares_memory, ..self }
    }

    /// Makes a mistake from now on.
    #[cfg(feature = "broken")]
    pub fn break_by(&mut self, flaw: Flaw) {
        self.flaws = Flaws::of(flaw);
        if flaw == Flaw::ReusesSessions {
            self.next_session = 1;
        }
    }

    /// Sessions that are open.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Counters since `new`.
    pub fn stats(&self) -> ServerStats {
        self.stats
    }

    /// Takes a packet (the bytes after the Ethernet header). A bad one is counted and dropped.
    pub fn handle(
        &mut self,
        now: Instant,
        from: Address,
        packet: &[u8],
        sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        let parsed = match Header::decode(packet) {
            Ok(parsed) => parsed,
            Err(error) => return self.stats.drops.count(error),
        };
        self.stats.packets_received += 1;
        let header = &parsed.header;
        match header.kind {
            // Whoever says hello has no keys yet, and a packet that claims a seal has no checksum.
            Kind::Hello if parsed.trailer.is_some() => {
                self.stats.drops.malformed += 1;
                return;
            }
            Kind::Hello => return self.on_hello(now, from, (header, parsed.payload), packet.len(), sink),
            Kind::HelloAck | Kind::HelloRetry | Kind::Response | Kind::Status | Kind::Reset => {
                self.stats.drops.kind += 1;
                return;
            }
            Kind::Request | Kind::Probe | Kind::Ack | Kind::KeepAlive | Kind::Bye => {}
        }
        let Some(session) = self.sessions.get(header.session) else {
            return self.on_unknown_session(now, from, header);
        };
        if parsed.is_unsummed() && !session.unsummed {
            self.stats.drops.checksum += 1;
            return;
        }
        match (session.keys.is_some(), parsed.trailer.is_some()) {
            (false, false) => self.take(now, from, header, parsed.payload, sink),
            (true, true) => self.open_packet(now, from, &parsed, sink),
            (true, false) if self.flaws.has(Flaw::TakesUnsealed) => self.take(now, from, header, parsed.payload, sink),
            _ => self.stats.drops.unsealed += 1,
        }
    }

    /// Takes a sealed packet.
    fn open_packet(
        &mut self,
        now: Instant,
        from: Address,
        parsed: &Parsed<'_>,
        sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        let session = self.sessions.get_mut(parsed.header.session);
        let (Some(keys), Some(trailer)) = (session.and_then(|session| session.keys.as_mut()), parsed.trailer) else {
            return;
        };
        let Some(payload) = self.opened.get_mut(..parsed.payload.len()) else {
            self.stats.drops.malformed += 1;
            return;
        };
        payload.copy_from_slice(parsed.payload);
        #[cfg(feature = "broken")]
        if self.flaws.has(Flaw::IgnoresReplays) {
            keys.opener.forget_window();
        }
        if let Err(error) = keys.opener.open(parsed.head, payload, trailer) {
            return self.stats.drops.count_unopened(error);
        }
        let opened = std::mem::take(&mut self.opened);
        self.take(now, from, &parsed.header, &opened[..parsed.payload.len()], sink);
        self.opened = opened;
    }

    /// Takes a packet of a session that is there.
    fn take(
        &mut self,
        now: Instant,
        from: Address,
        header: &Header,
        payload: &[u8],
        sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        session.heard = now;
        session.proven = true;
        session.address = Some(from);
        session.set_window(header.window);
        if header.idle & session.answered != 0 && !self.flaws.has(Flaw::KeepsResponses) {
            self.forget_responses(header);
        }
        match header.kind {
            Kind::Request => self.on_request(from, header, payload, sink),
            Kind::Probe => self.on_probe(from, header, payload),
            Kind::Ack => self.on_ack(header, payload),
            Kind::KeepAlive => self.push_control(Control::KeepAlive { to: from, session: header.session }),
            _ => {
                self.push_control(Control::Bye { to: from, session: header.session });
                if let Some(client) = self.remove(header.session) {
                    let event = ServerEvent::Closed { session: SessionId(header.session), client };
                    sink(
                        &mut Responder {
                            response: &mut Response::default(),
                            message: None,
                            answered: false,
                            refused: false,
                        },
                        event,
                    );
                }
            }
        }
        self.queue(header.session);
    }

    /// The client says which slots are idle: their responses have arrived.
    fn forget_responses(&mut self, header: &Header) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        let mut idle = header.idle & session.answered;
        let horizon = header.request.saturating_add(u64::from(header.ahead));
        while idle != 0 {
            let index = idle.trailing_zeros() as usize;
            idle &= idle - 1;
            if session.slots[index].id <= horizon
                && let Some(response) = session.forget_response(index)
            {
                self.responses.give(response);
            }
        }
    }

    fn on_request(
        &mut self,
        from: Address,
        header: &Header,
        payload: &[u8],
        sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        let layout = Layout::new(header.message_bytes, session.fragment_bytes);
        let fragment = layout.and_then(|layout| layout.index(header.offset, payload.len()));
        let (Some(layout), Some(fragment)) = (layout, fragment) else {
            self.stats.drops.malformed += 1;
            return;
        };
        let since = session.heard;
        let (index, slot) = session.slot_mut(header.request);
        if header.request < slot.id {
            self.stats.drops.stale += 1;
            return;
        }
        if header.request == slot.id && layout.is_single() && self.flaws.has(Flaw::RunsDuplicates) {
            slot.phase = Phase::Executing { layout, since };
            return self.execute(header, index, payload, None, sink);
        }
        if header.request == slot.id && !matches!(slot.phase, Phase::Receiving { .. }) {
            return self.on_repeated_request(from, header, index);
        }
        if header.request > slot.id {
            if matches!(slot.phase, Phase::Executing { .. }) {
                self.stats.drops.malformed += 1;
                return;
            }
            slot.id = header.request;
            // Of all copies the one that came first: since then the server has the request.
            slot.attempt = (header.flags >> flag::ATTEMPT_SHIFT) as u8;
            if let Some(response) = session.forget_response(index) {
                self.responses.give(response);
            }
            let slot = &mut session.slots[index];
            if layout.is_single() {
                slot.phase = Phase::Executing { layout, since };
                return self.execute(header, index, payload, None, sink);
            }
            if let Phase::Receiving { buffer, .. } = std::mem::take(&mut slot.phase) {
                self.requests.give(buffer);
            }
            let buffer = self.requests.take(layout.message_bytes() as usize);
            let (received, reported) = (FragmentSet::default(), FragmentSet::default());
            slot.phase = Phase::Receiving { layout, received, reported, buffer };
        }
        self.on_request_fragment(from, header, index, (layout, fragment), payload, sink);
    }

    /// Takes one of several fragments of a request.
    fn on_request_fragment(
        &mut self,
        from: Address,
        header: &Header,
        index: usize,
        (layout, fragment): (Layout, u32),
        payload: &[u8],
        sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        let since = session.heard;
        let slot = &mut session.slots[index];
        let Phase::Receiving { layout: expected, received, reported, buffer } = &mut slot.phase else { return };
        if *expected != layout {
            self.stats.drops.malformed += 1;
            return;
        }
        if !received.insert(fragment) {
            self.stats.drops.duplicate += 1;
            return;
        }
        let Some(bytes) = Arc::get_mut(buffer) else { return };
        bytes[layout.range(fragment)].copy_from_slice(payload);
        if *received == layout.all() {
            let message = SharedBytes::front(std::mem::take(buffer), layout.message_bytes() as usize);
            slot.phase = Phase::Executing { layout, since };
            session.progress &= !(1 << index);
            self.execute(header, index, &message, Some(&message), sink);
            self.requests.give(message.into_buffer());
            self.tell_if_executing(from, header, index);
            return;
        }
        let passed = FragmentSet::first(received.end().saturating_sub(PACKET_THRESHOLD));
        let lost = passed.without(*received).without(*reported);
        *reported = reported.union(lost);
        session.progress |= 1 << index;
        session.unacked += 1;
        let wants_ack = header.flags & flag::WANTS_ACK != 0 || !lost.is_empty();
        if !wants_ack && session.unacked < ack_every(session.window) {
            return;
        }
        session.unacked = 0;
        let mut progress = std::mem::take(&mut session.progress);
        while progress != 0 {
            let index = progress.trailing_zeros() as usize;
            progress &= progress - 1;
            self.push_status(from, header.session, index, 0);
        }
    }

    /// Lets the client's window go on while a long request without an answer yet is executed.
    fn tell_if_executing(&mut self, from: Address, header: &Header, index: usize) {
        let session = self.sessions.get(header.session);
        if session.is_some_and(|session| matches!(session.slots[index].phase, Phase::Executing { .. })) {
            self.push_status(from, header.session, index, 0);
        }
    }

    /// Hands a whole request up, and takes the answer if there is one at once. `whole` is the message if it may be kept.
    fn execute(
        &mut self,
        header: &Header,
        index: usize,
        message: &[u8],
        whole: Option<&SharedBytes>,
        sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        let Some(session) = self.sessions.get(header.session) else { return };
        self.stats.requests += 1;
        let mut response = self.responses.take();
        let mut responder = Responder { response: &mut response, message: whole, answered: false, refused: false };
        let token = RequestToken { session: SessionId(header.session), request: header.request };
        sink(&mut responder, ServerEvent::Request { token, client: session.client, message });
        if responder.answered {
            self.answer(token, index, response);
        } else {
            response.clear();
            self.responses.give(response);
        }
    }

    fn on_repeated_request(&mut self, from: Address, header: &Header, index: usize) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        match session.slots[index].phase {
            Phase::Answered { sent, .. } if sent.is_empty() => self.push_status(from, header.session, index, 0),
            Phase::Answered { .. } => {
                self.stats.repeated += 1;
                session.on_response_progress(index, FragmentSet::default(), FragmentSet::all());
            }
            Phase::Executing { .. } => self.push_status(from, header.session, index, flag::ANSWERS_PROBE),
            Phase::Idle | Phase::Receiving { .. } => self.stats.drops.stale += 1,
        }
    }

    fn on_probe(&mut self, from: Address, header: &Header, payload: &[u8]) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        let Ok(bits) = payload.try_into() else {
            self.stats.drops.malformed += 1;
            return;
        };
        let (index, slot) = session.slot_mut(header.request);
        if header.request < slot.id {
            self.stats.drops.stale += 1;
            return;
        }
        if header.request > slot.id {
            // The client has the answer to the one before, or it would not have begun this one.
            if let Some(response) = session.forget_response(index) {
                self.responses.give(response);
            }
            return self.push_control(Control::Status {
                to: from,
                session: header.session,
                request: header.request,
                received: FragmentSet::default(),
                flags: flag::ANSWERS_PROBE,
            });
        }
        match slot.phase {
            Phase::Answered { sent, .. } if sent.is_empty() => self.push_status(from, header.session, index, 0),
            Phase::Answered { .. } => {
                let has = FragmentSet(u128::from_le_bytes(bits));
                let patience = Duration::from_nanos(u64::from(header.message_bytes));
                session.on_response_missed(session.heard, index, has, patience);
            }
            Phase::Receiving { .. } | Phase::Executing { .. } => {
                self.push_status(from, header.session, index, flag::ANSWERS_PROBE);
            }
            Phase::Idle => self.stats.drops.stale += 1,
        }
    }

    fn on_ack(&mut self, header: &Header, payload: &[u8]) {
        let Some(session) = self.sessions.get_mut(header.session) else { return };
        if payload.is_empty() {
            return;
        }
        const SET_BYTES: usize = size_of::<u128>();
        let set = |at: usize| Some(FragmentSet(u128::from_le_bytes(payload.get(at..at + SET_BYTES)?.try_into().ok()?)));
        let (Some(has), true) = (set(0), payload.len() == SET_BYTES || payload.len() == 2 * SET_BYTES) else {
            self.stats.drops.malformed += 1;
            return;
        };
        let (index, slot) = session.slot_mut(header.request);
        if slot.id == header.request {
            session.on_response_progress(index, has, set(SET_BYTES).unwrap_or_default());
        } else {
            self.stats.drops.stale += 1;
        }
    }

    /// Puts a session with something to send into the queue.
    fn queue(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !session.queued && session.can_send() {
            session.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Answers a request later than in `handle`. Ignored when its session has gone.
    pub fn respond(&mut self, token: RequestToken, response: &[u8]) {
        let Some(session) = self.sessions.get_mut(token.session.0) else { return };
        let (index, slot) = session.slot_mut(token.request);
        if slot.id != token.request || !matches!(slot.phase, Phase::Executing { .. }) {
            return;
        }
        let mut own = self.responses.take();
        own.head.extend_from_slice(response);
        self.answer(token, index, own);
    }

    fn answer(&mut self, token: RequestToken, index: usize, mut response: Response) {
        let Some(session) = self.sessions.get_mut(token.session.0) else { return };
        response.cut();
        let layout = Layout::new(response.len() as u32, session.fragment_bytes).expect("cut to the longest allowed");
        session.answered |= 1 << index;
        let (sent, acked) = (FragmentSet::default(), FragmentSet::default());
        let Phase::Executing { since, .. } = session.slots[index].phase else { return };
        session.slots[index].phase = Phase::Answered { layout, since, response, sent, sent_at: since, acked };
        session.make_ready(index);
        self.queue(token.session.0);
    }

    fn push_control(&mut self, control: Control) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back(control);
        } else {
            self.stats.drops.refused += 1;
        }
    }

    /// Tells the client how far a request is.
    fn push_status(&mut self, to: Address, session: u64, index: usize, flags: u16) {
        let Some(slot) = self.sessions.get(session).map(|session| &session.slots[index]) else { return };
        let (received, flags) = match slot.phase {
            Phase::Receiving { received, .. } => (received, flags),
            Phase::Executing { layout, .. } => (layout.all(), flags | flag::EXECUTING),
            // The answer waits for its turn.
            Phase::Answered { .. } => (FragmentSet::all(), flags),
            Phase::Idle => return,
        };
        self.push_control(Control::Status { to, session, request: slot.id, received, flags });
    }

    /// The next packet to send and where to: call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Address, Packet<'_>)> {
        self.last_sent = None;
        if let Some(control) = self.control.pop_front() {
            self.last_sent = Some(Sent::Control(control));
            self.stats.packets_sent += 1;
            return Some((control.to(), self.build_control(control)));
        }
        let (id, to, (index, fragment, wants_ack)) = self.next_fragment(now)?;
        self.last_sent = Some(Sent::Fragment { session: id, slot: index, fragment });
        self.stats.packets_sent += 1;
        let slot = &self.sessions.get(id)?.slots[index];
        let Phase::Answered { layout, since, .. } = &slot.phase else { return None };
        let range = layout.range(fragment);
        let mut header = Header::new(Kind::Response, id, slot.id);
        header.idle = u32::try_from(now.saturating_duration_since(*since).as_nanos()).unwrap_or(u32::MAX);
        header.message_bytes = layout.message_bytes();
        header.offset = range.start as u32;
        header.flags = u16::from(slot.attempt) << flag::ATTEMPT_SHIFT;
        header.flags |= if wants_ack { flag::WANTS_ACK } else { 0 };
        let session = self.sessions.get_mut(id)?;
        header.flags |= if session.unsummed { flag::UNSUMMED } else { 0 };
        let Phase::Answered { response, .. } = &session.slots[index].phase else { return None };
        let payload_bytes = range.len();
        let body = response.parts(range);
        let Some(keys) = &mut session.keys else {
            header.encode_parts(&mut self.head[..HEADER_BYTES], body.clone(), &mut self.checksummer);
            return Some((to, Packet::new(&self.head[..HEADER_BYTES], body)));
        };
        let mut at = HEADER_BYTES;
        for part in body {
            self.sealed[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let length = header.encode_sealed(&mut self.sealed, payload_bytes, &mut keys.sealer);
        Some((to, Packet::whole(&self.sealed[..length])))
    }

    /// A packet of each session in turn: one that asks for much does not hold up one that asks for little.
    fn next_fragment(&mut self, now: Instant) -> Option<(u64, Address, (usize, u32, bool))> {
        while let Some(id) = self.ready.pop_front() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.queued = false;
            let Some(to) = session.address else { continue };
            let Some(fragment) = session.next_fragment(now) else { continue };
            self.queue(id);
            return Some((id, to, fragment));
        }
        None
    }

    fn build_control(&mut self, control: Control) -> Packet<'_> {
        let payload = &mut self.head[HEADER_BYTES..];
        let (mut header, mut payload_bytes, mut packet_bytes) = match control {
            Control::HelloRetry { attempt, .. } => (Header::new(Kind::HelloRetry, 0, attempt), HelloRetry::BYTES, 0),
            Control::HelloAck { attempt, session, .. } => (Header::new(Kind::HelloAck, session, attempt), 0, 0),
            Control::Reset { session, .. } => (Header::new(Kind::Reset, session, 0), 0, 0),
            Control::KeepAlive { session, .. } => (Header::new(Kind::KeepAlive, session, 0), 0, 0),
            Control::Bye { session, .. } => (Header::new(Kind::Bye, session, 0), 0, 0),
            Control::Status { session, request, .. } => {
                (Header::new(Kind::Status, session, request), size_of::<u128>(), 0)
            }
        };
        match control {
            Control::HelloRetry { client, cookie, .. } => {
                payload[..payload_bytes].copy_from_slice(&HelloRetry { client: client.0, cookie }.encode());
            }
            Control::HelloAck { client, session, verdict, .. } => {
                let session = self.sessions.get(session);
                let keys = session.and_then(|session| session.keys.as_ref());
                let ack = HelloAck {
                    client: client.0,
                    verdict: if session.is_some() || verdict != Verdict::Granted { verdict } else { Verdict::Full },
                    grant: session.filter(|session| session.keys.is_none()).map(|session| session.grant),
                    handshake: keys.map_or(&[], |keys| &keys.second[..keys.second_bytes]),
                };
                payload_bytes = ack.encode(payload);
                header.flags |= if session.is_some_and(|session| session.unsummed) { flag::UNSUMMED } else { 0 };
                packet_bytes = session.map_or(0, |session| session.grant.mtu as usize);
            }
            Control::Status { received, flags, .. } => {
                payload[..payload_bytes].copy_from_slice(&received.0.to_le_bytes());
                header.flags = flags;
            }
            _ => {}
        }
        let head_bytes = HEADER_BYTES + payload_bytes;
        let is_open = !matches!(header.kind, Kind::HelloAck | Kind::HelloRetry | Kind::Reset);
        let session = self.sessions.get_mut(header.session).filter(|_| is_open);
        if let Some(keys) = session.and_then(|session| session.keys.as_mut()) {
            self.sealed[HEADER_BYTES..head_bytes].copy_from_slice(&self.head[HEADER_BYTES..head_bytes]);
            let length = header.encode_sealed(&mut self.sealed, payload_bytes, &mut keys.sealer);
            return Packet::whole(&self.sealed[..length]);
        }
        header.encode(&mut self.head[..head_bytes], &[], &mut self.checksummer);
        let padding = &ZEROS[..packet_bytes.saturating_sub(head_bytes)];
        Packet::new(&self.head[..head_bytes], [padding])
    }

    /// The packet that `poll_transmit` gave last could not be sent: keep it. When its link has closed, call
    /// `link_closed`, too: that drops it.
    pub fn not_sent(&mut self) {
        let Some(sent) = self.last_sent.take() else { return };
        self.stats.packets_sent -= 1;
        match sent {
            Sent::Control(control) => self.control.push_front(control),
            Sent::Fragment { session: id, slot, fragment } => {
                let Some(session) = self.sessions.get_mut(id) else { return };
                session.take_back(slot, fragment);
                self.queue(id);
            }
        }
    }

    /// Closes sessions that were silent too long; their ends are told to `sink`.
    pub fn expire(&mut self, now: Instant, sink: &mut dyn FnMut(ServerEvent<'_>)) {
        if self.earliest_expiry.is_none_or(|earliest| now < earliest) {
            return;
        }
        let timeout = self.config.session_timeout;
        let is_silent = |session: &Session| now >= session.heard + timeout;
        let silent: Vec<u64> =
            self.sessions.iter().filter(|session| is_silent(session)).map(|session| session.grant.session).collect();
        for id in silent {
            if let Some(client) = self.remove(id) {
                sink(ServerEvent::Closed { session: SessionId(id), client });
            }
        }
        self.earliest_expiry = self.sessions.iter().map(|session| session.heard + timeout).min();
    }

    /// When `expire` has to be called. May be earlier than needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.earliest_expiry
    }

    fn remove(&mut self, id: u64) -> Option<Incarnation> {
        let session = self.sessions.remove(id)?;
        let key = (session.client, session.channel);
        if self.clients.get(&key) == Some(&id) {
            self.clients.remove(&key);
        }
        for slot in session.slots {
            match slot.phase {
                Phase::Receiving { buffer, .. } => self.requests.give(buffer),
                Phase::Answered { mut response, .. } => {
                    response.clear();
                    self.responses.give(response);
                }
                Phase::Idle | Phase::Executing { .. } => {}
            }
        }
        Some(session.client)
    }

    /// Nothing more can be sent on this link; its sessions live on until they expire or their clients come by another.
    pub fn link_closed(&mut self, link: LinkId) {
        self.control.retain(|control| control.to().link != link);
        for session in self.sessions.iter_mut() {
            if session.address.is_some_and(|address| address.link == link) {
                session.disconnect();
            }
        }
        if let Some(Sent::Control(control)) = self.last_sent
            && control.to().link == link
        {
            self.last_sent = None;
        }
    }

    /// Bytes of responses kept for clients that have not said that they have them.
    pub fn kept_response_bytes(&self) -> usize {
        let slots = self.sessions.iter().flat_map(|session| &session.slots);
        slots.map(|slot| if let Phase::Answered { response, .. } = &slot.phase { response.len() } else { 0 }).sum()
    }

    #[cfg(test)]
    pub(super) fn any_session(&self) -> Option<u64> {
        self.sessions.iter().next().map(|session| session.grant.session)
    }

    /// Whether packets wait to be sent.
    pub fn wants_transmit(&self) -> bool {
        !self.control.is_empty() || !self.ready.is_empty()
    }
}

/// Where a server starts to count its sessions: far from where any other incarnation does, so that an id is not drawn
/// again (finaliser of splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn first_session(incarnation: Incarnation) -> u64 {
    let mix = |word: u64| {
        let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    };
    mix(mix(incarnation.0 as u64) ^ (incarnation.0 >> 64) as u64).max(1)
}

/// Lets the sink of `Server::handle` answer at once, without a copy on the way.
#[derive(Debug)]
pub struct Responder<'a> {
    response: &'a mut Response,
    /// The request, if it came in several packets.
    message: Option<&'a SharedBytes>,
    answered: bool,
    refused: bool,
}

impl<'a> Responder<'a> {
    /// The response to be built: empty, at most `MAX_MESSAGE_BYTES` are sent. Calling this answers the
    /// request when the sink returns; without it the answer comes later by `Server::respond`.
    pub fn response(&mut self) -> &mut Response {
        self.answered = true;
        self.response
    }

    /// A part of the request, to be kept when the sink returns. If it is most of a long request, there is no copy of it.
    pub fn keep(&self, part: &[u8]) -> SharedBytes {
        self.message.map_or_else(|| part.into(), |message| message.keep(part))
    }

    /// The request, if it came in several packets: its parts may be kept.
    pub fn long_request(&self) -> Option<&'a SharedBytes> {
        self.message
    }

    /// Does not let the client of an `Opened` in: its incarnation is another's.
    pub fn refuse(&mut self) {
        self.refused = true;
    }
}
