//! How a session begins: hello, the server's cookie, hello again with it, hello-ack. With a key the hello and its answer
//! carry a handshake, and all that follows is sealed.
//!
//! Each hello is as long as the MTU that it asks for, and so is the answer that grants it: the first length that comes
//! through both ways is the session's. Hellos that fetch a cookie ask for the least MTU, so that they come through
//! everywhere: the search for the longest begins when the server is known to answer, and one that starts late does not
//! shorten it.

use std::time::{Duration, Instant};

use super::{Client, ClientEvent, HEADER_BYTES, Header, Incarnation, Kind, Retry, State};
use crate::{
    packet::Packet,
    rpc::{MAX_PACKET_BYTES, MIN_MTU, ZEROS},
    seal::{COOKIE_BYTES, ClientKey, Initiator, Opener, Sealer, TRAILER_BYTES},
    wire::{
        header::flag,
        hello::{Claim, Grant, Hello, HelloAck, HelloRetry, MAX_FIRST_BYTES, Verdict},
    },
};

/// Hellos of one length before a shorter one is tried.
const TRIES_PER_MTU: u32 = 3;
/// The last of them is waited for so long at least: a server may lose its processor for some slices.
const MTU_PATIENCE: Duration = Duration::from_millis(50);
/// Lengths that networks are known to pass, less what UDP takes, tried when the port's own MTU does not come through.
const USUAL_MTUS: [usize; 6] = [8972, 4352, 3000, 1500, 1472, MIN_MTU];

/// The session's keys.
#[derive(Debug)]
pub(super) struct Keys {
    pub sealer: Sealer,
    pub opener: Opener,
}

/// The client's side of the handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    key: ClientKey,
    /// Made by `prepare`, since that allocates; used up by an attempt.
    initiator: Option<Initiator>,
    /// The first message of this attempt: the same in each hello.
    first: [u8; MAX_FIRST_BYTES],
    /// 0 before it is written.
    first_bytes: usize,
}

impl Handshake {
    pub fn new(key: ClientKey) -> Self {
        let mut handshake = Self { key, initiator: None, first: [0; MAX_FIRST_BYTES], first_bytes: 0 };
        handshake.prepare();
        handshake
    }

    /// Without random numbers from the system there is no handshake, and no session.
    fn prepare(&mut self) {
        self.initiator = Initiator::new(&self.key.key, &[]).ok();
        self.first_bytes = 0;
    }

    /// The first message of this attempt.
    fn first(&mut self, claim: Claim) -> &[u8] {
        if let (0, Some(initiator)) = (self.first_bytes, &mut self.initiator) {
            self.first_bytes = initiator.first_message(&claim.encode(), &mut self.first).unwrap_or(0);
        }
        &self.first[..self.first_bytes]
    }
}

/// Where an attempt to open a session is.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Counts the sessions asked for: an answer to an earlier one is not taken.
    pub number: u64,
    cookie: [u8; COOKIE_BYTES],
    /// When the first hello was sent.
    pub asked_at: Option<Instant>,
    /// What the server said last, if it was no.
    pub refusal: Option<Verdict>,
    /// The initiator belongs to an earlier attempt: `prepare` has to make another.
    is_stale: bool,
}

impl Attempt {
    /// Its handshake, if there is one, was made by `Handshake::new`.
    pub fn first() -> Self {
        Self { number: 1, ..Self::default() }
    }
}

impl Client {
    pub(super) fn begin_attempt(&mut self) {
        let is_stale = self.handshake.is_some();
        self.attempt = Attempt { number: self.attempt.number + 1, is_stale, ..Attempt::default() };
    }

    /// Whether the session waits for `prepare`.
    pub fn wants_prepare(&self) -> bool {
        matches!(self.state, State::Opening(_)) && self.attempt.is_stale
    }

    /// Makes what the next handshake needs. Allocates, unlike all the rest, so it is not to be called in a fault handler; until
    /// it is called, a session with a key does not open again.
    pub fn prepare(&mut self) {
        if let (true, Some(handshake)) = (self.wants_prepare(), &mut self.handshake) {
            handshake.prepare();
            self.attempt.is_stale = false;
        }
    }

    pub(super) fn on_hello_retry(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        let Some(retry) = HelloRetry::decode(payload) else {
            self.stats.drops.malformed += 1;
            return;
        };
        let is_ours = header.request == self.attempt.number && retry.client == self.config.incarnation.0;
        let State::Opening(state) = &mut self.state else {
            self.stats.drops.stale += 1;
            return;
        };
        if !is_ours || retry.cookie == self.attempt.cookie {
            self.stats.drops.stale += 1;
            return;
        }
        // At once the first time. Who floods with cookies does not make the client send faster.
        if self.attempt.cookie == [0; COOKIE_BYTES] {
            if let (1, Some(asked_at)) = (state.attempts, self.attempt.asked_at) {
                self.rtt.sample(now.saturating_duration_since(asked_at));
            }
            *state = Retry::at_once(now);
            self.wake_at(now);
        }
        self.attempt.cookie = retry.cookie;
    }

    pub(super) fn on_hello_ack(
        &mut self,
        now: Instant,
        header: &Header,
        payload: &[u8],
        sink: &mut dyn FnMut(ClientEvent<'_>),
    ) {
        let Some(ack) = HelloAck::decode(payload) else {
            self.stats.drops.malformed += 1;
            return;
        };
        let is_ours = header.request == self.attempt.number && ack.client == self.config.incarnation.0;
        if !matches!(self.state, State::Opening(_)) || !is_ours {
            self.stats.drops.stale += 1;
            return;
        }
        if ack.verdict != Verdict::Granted {
            self.attempt.refusal = Some(ack.verdict);
            return;
        }
        let Some((grant, keys)) = self.accept(&ack) else { return };
        let (mtu, slots) = (grant.mtu as usize, grant.slots as usize);
        let fits = (MIN_MTU..=self.config.mtu).contains(&mtu) && slots.is_power_of_two() && slots <= self.config.slots;
        // The header of an answer with a handshake can be changed by anybody: what is under the key counts.
        let is_other = keys.is_none() && grant.session != header.session;
        if !fits || grant.session == 0 || is_other {
            self.stats.drops.malformed += 1;
            return;
        }
        self.attempt.refusal = None;
        self.session = grant.session;
        self.server = Incarnation(grant.server);
        self.slots = slots;
        self.mtu = mtu.min(MAX_PACKET_BYTES);
        self.fragment_bytes = (self.mtu - HEADER_BYTES - if keys.is_some() { TRAILER_BYTES } else { 0 }) as u32;
        self.unsummed = keys.is_none() && self.shares_memory && header.flags & flag::UNSUMMED != 0;
        self.keys = keys;
        self.state = State::Open;
        self.last_heard = Some(now);
        self.earliest = None;
        sink(ClientEvent::Opened { incarnation: self.server });
    }

    /// What the server grants: in the clear if there is no key, in the handshake if there is.
    fn accept(&mut self, ack: &HelloAck<'_>) -> Option<(Grant, Option<Keys>)> {
        let Some(handshake) = &mut self.handshake else {
            if ack.grant.is_none() {
                self.stats.drops.malformed += 1;
            }
            return Some((ack.grant?, None));
        };
        let mut bytes = [0; Grant::BYTES];
        let finished = match &mut handshake.initiator {
            Some(initiator) if !self.attempt.is_stale && handshake.first_bytes > 0 => {
                initiator.finish(ack.handshake, &mut bytes).ok()
            }
            _ => None,
        };
        let Some((_, sealer, opener)) = finished else {
            self.stats.drops.forged += 1;
            return None;
        };
        Some((Grant::decode(&bytes)?, Some(Keys { sealer, opener })))
    }

    /// Whether a hello can be sent: not while its handshake is of another attempt.
    pub(super) fn can_ask(&self) -> bool {
        !self.attempt.is_stale
    }

    /// The MTUs that are asked for, one after another: that of the session before, the port's own, then shorter ones.
    fn mtus(&self) -> impl Iterator<Item = usize> + use<> {
        let longest = self.config.mtu.min(MAX_PACKET_BYTES);
        let known = (self.mtu > 0 && self.mtu < longest).then_some(self.mtu);
        let shorter = USUAL_MTUS.into_iter().filter(move |mtu| *mtu < longest);
        known.into_iter().chain(std::iter::once(longest)).chain(shorter)
    }

    /// The MTU that the hello number `tries` asks for.
    fn mtu_to_ask(&self, tries: u32) -> usize {
        if self.attempt.cookie == [0; COOKIE_BYTES] {
            return MIN_MTU;
        }
        let choice = (tries / TRIES_PER_MTU) as usize % self.mtus().count();
        self.mtus().nth(choice).unwrap_or(MIN_MTU)
    }

    /// How long the answer to the hello number `tries` is waited for. Each MTU is tried as patiently as the first, and
    /// all of them more so the next time.
    pub(super) fn hello_timeout(&self, tries: u32) -> Duration {
        if self.attempt.cookie == [0; COOKIE_BYTES] {
            return self.rtt.timeout(tries);
        }
        let rounds = tries / TRIES_PER_MTU / self.mtus().count() as u32;
        let timeout = self.rtt.timeout(tries % TRIES_PER_MTU + 2 * rounds);
        if (tries + 1).is_multiple_of(TRIES_PER_MTU) { timeout.max(MTU_PATIENCE) } else { timeout }
    }

    /// The hello number `tries` of this attempt, from 0.
    pub(super) fn build_hello(&mut self, tries: u32) -> Packet<'_> {
        let mtu = self.mtu_to_ask(tries);
        let (client, slots, channel) = (self.config.incarnation.0, self.config.slots as u32, self.config.channel);
        let claim = Claim { client, attempt: self.attempt.number, slots, channel };
        let (name, handshake) = match &mut self.handshake {
            Some(handshake) => {
                handshake.first(claim);
                (handshake.key.name.as_bytes(), &handshake.first[..handshake.first_bytes])
            }
            None => (&[][..], &[][..]),
        };
        let hello = Hello { client, mtu: mtu as u32, slots, channel, cookie: self.attempt.cookie, name, handshake };
        let payload_bytes = hello.encode(&mut self.head[HEADER_BYTES..]);
        let head = &mut self.head[..HEADER_BYTES + payload_bytes];
        let flags = if self.shares_memory { flag::UNSUMMED } else { 0 };
        let header = Header { flags, ..Header::new(Kind::Hello, 0, self.attempt.number) };
        header.encode(head, &[], &mut self.checksummer);
        let padding = &ZEROS[..mtu - head.len()];
        Packet::new(head, [padding])
    }
}
