//! Who gets a session. Nothing is kept about a peer before it has shown, by a cookie, that it receives where it says it is,
//! and, if there are keys, that it holds one. Answers to strangers are few and not longer than what they sent.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Control, Responder, Server, ServerEvent, Session, SessionId};
use crate::{
    port::Address,
    rpc::{Incarnation, MAX_PACKET_BYTES, MAX_SLOTS, MIN_MTU, Response, flaws::Flaw},
    seal::{CookieInput, Cookies, Key, KeyFile, Opener, Responder as Handshake, Sealer, TRAILER_BYTES},
    wire::{
        header::{HEADER_BYTES, Header, Kind, flag},
        hello::{Claim, Grant, Hello, MAX_FIRST_BYTES, MAX_SECOND_BYTES, Verdict},
    },
};

/// A cookie is good for so long, and at most twice as long.
const COOKIE_PERIOD: Duration = Duration::from_secs(4);
const PERIOD: Duration = Duration::from_millis(10);
/// Answers to packets of unknown sessions and to hellos without a session, at most in each period.
const MAX_STRANGERS: u32 = 256;
/// What one of the senders may have of them, as a part: the others get theirs while one floods.
const SENDER_SHARE: u32 = 8;
/// Senders are told apart by a hash into so many.
const SENDERS: usize = 64;
/// Handshakes computed at most in each period: one takes some 100 µs, and those who have a session come first.
const MAX_HANDSHAKES: u32 = 16;

/// A session's keys.
#[derive(Debug)]
pub(crate) struct Keys {
    pub sealer: Sealer,
    pub opener: Opener,
    /// Which client of the key file.
    pub name: usize,
    /// The handshake's second message, for hellos that come again.
    pub second: [u8; MAX_SECOND_BYTES],
    pub second_bytes: usize,
}

/// What decides about hellos.
#[derive(Debug)]
pub(super) struct Admission {
    keys: Option<Arc<KeyFile>>,
    cookies: Cookies,
    secret: [u8; 32],
    strangers: u32,
    by_sender: [u8; SENDERS],
    handshakes: u32,
    period: Instant,
}

impl Admission {
    pub fn new(keys: Option<Arc<KeyFile>>, secret: [u8; 32], now: Instant) -> Self {
        let cookies = Cookies::new(&Key::from_bytes(secret), COOKIE_PERIOD, now);
        Self { keys, cookies, secret, strangers: 0, by_sender: [0; SENDERS], handshakes: 0, period: now }
    }

    fn begin_period(&mut self, now: Instant) {
        if now.saturating_duration_since(self.period) >= PERIOD {
            self.by_sender = [0; SENDERS];
            (self.period, self.strangers, self.handshakes) = (now, 0, 0);
        }
    }

    /// Limits the rate of answers to packets that belong to no session, in sum and to one sender.
    fn may_answer_stranger(&mut self, now: Instant, from: Address) -> bool {
        self.begin_period(now);
        if self.strangers == MAX_STRANGERS {
            return false;
        }
        // Nobody outside can tell whose share is whose.
        let mut hasher = DefaultHasher::new();
        (self.secret, from.bytes()).hash(&mut hasher);
        let answered = &mut self.by_sender[hasher.finish() as usize % SENDERS];
        if u32::from(*answered) == MAX_STRANGERS / SENDER_SHARE {
            return false;
        }
        *answered += 1;
        self.strangers += 1;
        true
    }

    fn may_shake_hands(&mut self, now: Instant) -> bool {
        self.begin_period(now);
        self.handshakes += 1;
        self.handshakes <= MAX_HANDSHAKES
    }

    /// Checks that the hello is by a holder of its client's key.
    fn verify(&self, keys: &KeyFile, hello: &Hello<'_>, attempt: u64) -> Option<(usize, Handshake)> {
        let name = keys.clients().iter().position(|client| client.name.as_bytes() == hello.name)?;
        let mut said = [0; MAX_FIRST_BYTES];
        let (handshake, length) = Handshake::read(&keys.clients()[name].key, &[], hello.handshake, &mut said).ok()?;
        let Hello { client, slots, channel, .. } = *hello;
        (said[..length] == Claim { client, attempt, slots, channel }.encode()).then_some((name, handshake))
    }
}

type Sink<'a> = &'a mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>);

impl Server {
    /// Takes a hello, of a packet of `packet_bytes`.
    pub(super) fn on_hello(
        &mut self,
        now: Instant,
        from: Address,
        (header, payload): (&Header, &[u8]),
        packet_bytes: usize,
        sink: Sink<'_>,
    ) {
        let hello = Hello::decode(payload).filter(|hello| {
            let mtu = hello.mtu as usize;
            mtu >= MIN_MTU && mtu.min(MAX_PACKET_BYTES) <= packet_bytes && hello.slots > 0
        });
        let Some(hello) = hello else {
            self.stats.drops.malformed += 1;
            return;
        };
        let (client, attempt) = (Incarnation(hello.client), header.request);
        let address = from.bytes();
        let input = CookieInput { address: &address, client: hello.client, attempt };
        // Who has none yet costs no computation, so that floods of such hellos cost little.
        let is_proven = hello.cookie != [0; _] && self.admission.cookies.check(now, &input, &hello.cookie);
        if !is_proven && !self.flaws.has(Flaw::TakesAnyCookie) {
            self.stats.drops.cookie += u64::from(hello.cookie != [0; _]);
            if self.admission.may_answer_stranger(now, from) {
                let cookie = self.admission.cookies.make(now, &input);
                self.push_control(Control::HelloRetry { to: from, attempt, client, cookie });
            }
            return;
        }
        if let Err(verdict) = self.admit(now, from, &hello, header, sink) {
            if verdict == Verdict::Full {
                self.stats.drops.refused += 1;
            } else {
                self.stats.drops.key += 1;
            }
            if self.admission.may_answer_stranger(now, from) {
                self.push_control(Control::HelloAck { to: from, attempt, client, session: 0, verdict });
            }
        }
    }

    fn admit(
        &mut self,
        now: Instant,
        from: Address,
        hello: &Hello<'_>,
        header: &Header,
        sink: Sink<'_>,
    ) -> Result<(), Verdict> {
        let attempt = header.request;
        let keys = self.admission.keys.clone();
        match (&keys, hello.name.is_empty()) {
            (None, false) => return Err(Verdict::NoKeys),
            (Some(_), true) => return Err(Verdict::KeyNeeded),
            _ => {}
        }
        let client = Incarnation(hello.client);
        let former = self.clients.get(&(client, hello.channel)).copied();
        let count = self.sessions.len();
        match former.and_then(|id| self.sessions.get_mut(id)) {
            Some(session) if session.attempt > attempt => {
                self.stats.drops.stale += 1;
                return Ok(());
            }
            Some(session) if session.attempt == attempt => {
                match (&session.keys, &keys) {
                    // Another client that claims the same incarnation.
                    (Some(own), Some(keys)) if keys.clients()[own.name].name.as_bytes() != hello.name => {
                        return Err(Verdict::Taken);
                    }
                    // A hello that is repeated proves nothing about who repeats it: only packets that open move the session.
                    (Some(_), _) => {}
                    (None, _) => {
                        session.heard = now;
                        session.address = Some(from);
                    }
                }
                if hello.mtu >= session.grant.mtu {
                    let (session, verdict) = (session.grant.session, Verdict::Granted);
                    self.push_control(Control::HelloAck { to: from, attempt, client, session, verdict });
                    return Ok(());
                }
                if session.proven {
                    self.stats.drops.stale += 1;
                    return Ok(());
                }
                // Shorter than what was granted: the answer did not get through, and another session takes its place.
            }
            None if count >= self.config.max_sessions => return Err(Verdict::Full),
            _ => {}
        }
        let handshake = match &keys {
            None => None,
            Some(keys) => {
                if !self.admission.may_shake_hands(now) {
                    self.stats.drops.refused += 1;
                    return Ok(());
                }
                Some(self.admission.verify(keys, hello, attempt).ok_or(Verdict::KeyRefused)?)
            }
        };
        let session = self.open(now, from, hello, header, handshake)?;
        let name = session.keys.as_ref().zip(keys.as_ref()).map(|(own, keys)| &keys.clients()[own.name]);
        let mut unused = Response::default();
        let mut responder = Responder { response: &mut unused, message: None, answered: false, refused: false };
        let id = self.next_session;
        sink(&mut responder, ServerEvent::Opened { session: SessionId(id), client, key: name });
        if responder.refused {
            return Err(Verdict::Taken);
        }
        self.next_session = id.wrapping_add(1).max(1);
        self.sessions.insert(session);
        self.clients.insert((client, hello.channel), id);
        self.earliest_expiry.get_or_insert(now + self.config.session_timeout);
        self.push_control(Control::HelloAck { to: from, attempt, client, session: id, verdict: Verdict::Granted });
        if let Some(former) = former
            && self.remove(former).is_some()
        {
            sink(&mut responder, ServerEvent::Closed { session: SessionId(former), client });
        }
        Ok(())
    }

    /// The session that a hello asks for, with the next id.
    fn open(
        &self,
        now: Instant,
        from: Address,
        hello: &Hello<'_>,
        header: &Header,
        handshake: Option<(usize, Handshake)>,
    ) -> Result<Session, Verdict> {
        let mtu = (hello.mtu as usize).min(self.config.mtu).min(MAX_PACKET_BYTES);
        let slots = 1 << hello.slots.min(MAX_SLOTS as u32).ilog2();
        let grant = Grant { server: self.config.incarnation.0, session: self.next_session, mtu: mtu as u32, slots };
        let keys = match handshake {
            None => None,
            Some((name, handshake)) => {
                let mut second = [0; MAX_SECOND_BYTES];
                let (second_bytes, sealer, opener) =
                    handshake.answer(&grant.encode(), &mut second).map_err(|_| Verdict::KeyRefused)?;
                Some(Box::new(Keys { sealer, opener, name, second, second_bytes }))
            }
        };
        let trailer_bytes = if keys.is_some() { TRAILER_BYTES } else { 0 };
        let is_offered = header.flags & flag::UNSUMMED != 0;
        Ok(Session {
            attempt: header.request,
            unsummed: is_offered && self.shares_memory && keys.is_none(),
            address: Some(from),
            fragment_bytes: (mtu - HEADER_BYTES - trailer_bytes) as u32,
            ..Session::new(Incarnation(hello.client), hello.channel, grant, keys, now)
        })
    }

    pub(super) fn on_unknown_session(&mut self, now: Instant, from: Address, header: &Header) {
        self.stats.drops.session += 1;
        if self.admission.may_answer_stranger(now, from) {
            self.stats.resets += 1;
            let session = header.session;
            self.push_control(match header.kind {
                Kind::Bye => Control::Bye { to: from, session },
                _ => Control::Reset { to: from, session },
            });
        }
    }
}

#[cfg(test)]
mod tests;
