//! A server, what it was told, and what it may do.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rum_net::{
    port::{Address, LinkId},
    rpc::{
        Incarnation,
        server::{Server, ServerConfig, ServerEvent, SessionId},
    },
    seal::KeyFile,
};

use crate::{
    attacker,
    network::{Delivery, Journey},
    packet::{self, KEEP_ALIVE},
    payload::Question,
    world::World,
};

/// A session is closed after so long without a packet from its client.
pub const SESSION_TIMEOUT: Duration = Duration::from_millis(500);
/// Fewer than clients that crash and come back may want.
const MAX_SESSIONS: usize = 16;
/// Clients that the sealed servers know.
pub const KEYS: usize = 4;

/// The key file of all sealed servers.
pub fn keys() -> &'static Arc<KeyFile> {
    static KEY_FILE: OnceLock<Arc<KeyFile>> = OnceLock::new();
    KEY_FILE.get_or_init(|| {
        let line = |number: usize| format!("client-{number} {}\n", format!("{:02x}", number + 1).repeat(32));
        Arc::new(KeyFile::parse("keys", &(0..KEYS).map(line).collect::<String>()).unwrap())
    })
}

struct Open {
    client: Incarnation,
    sealed: bool,
    /// When a packet of its client, and not a copy of one, came last.
    heard: Instant,
}

pub struct Host {
    pub server: Server,
    pub incarnation: Incarnation,
    pub mtu: usize,
    pub sealed: bool,
    /// Requests executed by this incarnation: asker, life, number.
    executed: HashSet<(u32, u32, u32)>,
    open: HashMap<u64, Open>,
    /// Of all incarnations.
    ever_opened: HashSet<u64>,
    /// To whom cookies were sent by this incarnation.
    cookies: HashSet<(LinkId, u128)>,
    /// Session and counter of sealed packets that came.
    seen: HashSet<(u64, u64)>,
    /// The port was full.
    pub retry_at: Option<Instant>,
    /// To and from the attacker.
    pub attacker_bytes: [u64; 2],
}

fn new_server(incarnation: Incarnation, mtu: usize, sealed: bool, now: Instant) -> Server {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(&incarnation.0.to_le_bytes());
    let config = ServerConfig { incarnation, mtu, session_timeout: SESSION_TIMEOUT, max_sessions: MAX_SESSIONS };
    Server::new(config, sealed.then(|| keys().clone()), secret, now)
}

impl Host {
    pub fn new(incarnation: Incarnation, mtu: usize, sealed: bool, now: Instant) -> Self {
        Self {
            server: new_server(incarnation, mtu, sealed, now),
            incarnation,
            mtu,
            sealed,
            executed: HashSet::new(),
            open: HashMap::new(),
            ever_opened: HashSet::new(),
            cookies: HashSet::new(),
            seen: HashSet::new(),
            retry_at: None,
            attacker_bytes: [0; 2],
        }
    }

    /// The process is gone, and another one serves in its place.
    pub fn crash(&mut self, incarnation: Incarnation, now: Instant) {
        self.incarnation = incarnation;
        self.server = new_server(incarnation, self.mtu, self.sealed, now);
        self.executed.clear();
        self.open.clear();
        self.cookies.clear();
    }

    /// Ends what was silent too long, and checks what is left.
    pub fn expire(&mut self, now: Instant) {
        let open = &mut self.open;
        self.server.expire(now, &mut |event| match event {
            ServerEvent::Closed { session, .. } => assert!(open.remove(&session.0).is_some()),
            other => panic!("{other:?} from expire"),
        });
        self.check(now);
    }

    fn check(&self, now: Instant) {
        assert_eq!(self.server.session_count(), self.open.len());
        assert!(self.open.len() <= MAX_SESSIONS, "more sessions than allowed");
        for open in self.open.values().filter(|open| open.sealed) {
            let age = now.saturating_duration_since(open.heard);
            assert!(age < SESSION_TIMEOUT + Duration::from_millis(20), "a dead session is kept alive by replays");
        }
    }

    /// A packet came: its client is alive, if it is no copy and not by another.
    fn note_heard(&mut self, now: Instant, bytes: &[u8], journey: Journey) {
        let Some(open) = self.open.get_mut(&packet::session(bytes)) else { return };
        if journey.forged || journey.damaged {
            return;
        }
        if packet::counter(bytes).is_none_or(|counter| self.seen.insert((packet::session(bytes), counter))) {
            open.heard = now;
        }
    }

    /// What the server sends to whom, and whether it may.
    fn note_sent(&mut self, to: Address, bytes: &[u8]) {
        if packet::kind(bytes) == packet::HELLO_RETRY {
            self.cookies.insert((to.link, packet::client(bytes)));
        }
        if to.link == attacker::LINK {
            self.attacker_bytes[0] += bytes.len() as u64;
            let [sent, received] = self.attacker_bytes;
            assert!(sent <= received, "the attacker got {sent} bytes for {received}");
            let sealed = packet::counter(bytes).is_some();
            assert!(!sealed && packet::kind(bytes) != KEEP_ALIVE, "a client's packets go to the attacker");
        }
    }
}

impl World {
    pub fn host_handle(&mut self, index: usize, from: Address, bytes: &[u8], journey: Journey) {
        let Self { hosts, net, askers, byes, .. } = self;
        let now = self.now;
        let host = &mut hosts[index];
        if from.link == attacker::LINK {
            host.attacker_bytes[1] += bytes.len() as u64;
        }
        host.note_heard(now, bytes, journey);
        let Host { server, executed, open, ever_opened, incarnation, sealed, cookies, .. } = host;
        let (mut later, mut replaced) = (None, None);
        server.handle(now, from, bytes, &mut |responder, event| match event {
            ServerEvent::Opened { session: SessionId(session), client, key } => {
                assert!(ever_opened.insert(session), "a session id was drawn twice");
                assert!(
                    cookies.contains(&(from.link, client.0)),
                    "a session for a peer that was never asked to prove itself"
                );
                assert_eq!(key.is_some(), *sealed, "a session with keys on one side only");
                let asker = askers.iter().find(|asker| asker.incarnation() == client);
                assert!(asker.is_none_or(|asker| asker.welcome || !*sealed), "let in without a key");
                open.insert(session, Open { client, sealed: *sealed, heard: now });
                replaced = Some(client);
            }
            ServerEvent::Closed { session: SessionId(session), client } => {
                let closed = open.remove(&session).expect("a session was closed that is not open");
                assert_eq!(closed.client, client);
                let is_due = replaced == Some(client) || byes.contains(&session);
                assert!(is_due || !closed.sealed, "a sealed session was ended by a stranger");
            }
            ServerEvent::Request { token, message, client } => {
                assert!(open.get(&token.session.0).is_some_and(|open| open.client == client));
                let question = Question::read(message).expect("a damaged request was executed");
                assert_eq!(question.server, *incarnation, "a request to another incarnation was executed");
                let name = (question.asker, question.life, question.number);
                assert!(executed.insert(name), "request {name:?} ran twice");
                if net.rng.chance(0.7) {
                    responder.response().head.extend_from_slice(question.answer());
                } else {
                    let delay = Duration::from_micros(net.rng.pick(&[1, 50, 5_000, 60_000]));
                    later = Some((delay, token, question));
                }
            }
        });
        if let Some((delay, token, question)) = later {
            let server = *incarnation;
            net.schedule(now + delay, Delivery::Answer { host: index, server, token, question });
        }
        self.host_transmit(index);
    }

    pub fn host_transmit(&mut self, index: usize) {
        loop {
            let host = &mut self.hosts[index];
            host.retry_at = None;
            let Some((to, packet)) = host.server.poll_transmit(self.now) else { break };
            let bytes = self.net.packet(&packet);
            let is_known = to.link == attacker::LINK || self.askers.iter().any(|asker| asker.link == to.link);
            if !is_known {
                host.server.link_closed(to.link);
                host.server.not_sent();
                self.net.take_back(bytes);
                continue;
            }
            if self.net.rng.chance(self.net.weather.full) {
                host.server.not_sent();
                host.retry_at = Some(self.now + Duration::from_micros(20));
                self.net.take_back(bytes);
                return;
            }
            host.note_sent(to, &bytes);
            if to.link == attacker::LINK {
                self.attacker.receive(&bytes);
                self.net.take_back(bytes);
            } else {
                self.net.send_to_asker(self.now, index, to.link, bytes, false);
            }
        }
        assert!(!self.hosts[index].server.wants_transmit(), "nothing to send, but it says so");
    }
}
