//! A client's session: what it asks, and what it is told.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use rum_net::{
    port::{Address, LinkId},
    rpc::{
        Incarnation,
        client::{Client, ClientConfig, ClientEvent, RequestId},
    },
    seal::ClientKey,
};

use crate::{
    network::Journey,
    packet,
    payload::{HEAD_BYTES, MAX_BODY_BYTES, Question},
    world::World,
};

/// What each session asks in a run.
pub const REQUESTS: u32 = 24;
/// Nobody talks a client out of a sealed session in less.
const DOUBT: Duration = Duration::from_millis(10);

pub struct Asked {
    question: Question,
    /// Offsets and ends of the fragments that came.
    fragments: Vec<(usize, usize)>,
}

pub struct Asker {
    pub number: u32,
    /// Which process it is a session of.
    pub process: usize,
    pub host: usize,
    pub link: LinkId,
    pub client: Client,
    config: ClientConfig,
    key: Option<ClientKey>,
    /// Whether the server is to let it in.
    pub welcome: bool,
    life: u32,
    /// The incarnation that the session is with.
    server: Incarnation,
    /// As its packets say; 0 before the first one.
    session: u64,
    asked: Vec<(RequestId, Asked)>,
    next: u32,
    pub answered: u32,
    /// By resets and by the client's own doing.
    pub voided: u32,
    reopen: bool,
    /// Asks nothing until then.
    pause_until: Instant,
    polled_at: Instant,
    /// Counters of sealed packets that came in this session.
    counters: HashSet<u64>,
    /// Since when it is told that the session is gone, without a sealed packet of the server.
    doubted: Option<Instant>,
}

impl Asker {
    pub fn new(
        (number, process, host): (u32, usize, usize),
        config: ClientConfig,
        key: Option<ClientKey>,
        welcome: bool,
        now: Instant,
    ) -> Self {
        Self {
            number,
            process,
            host,
            link: LinkId(u64::from(number)),
            client: Client::new(config, key.clone(), now),
            config,
            key,
            welcome,
            life: 0,
            server: Incarnation(0),
            session: 0,
            asked: Vec::new(),
            next: 0,
            answered: 0,
            voided: 0,
            reopen: false,
            pause_until: now,
            polled_at: now,
            counters: HashSet::new(),
            doubted: None,
        }
    }

    pub fn incarnation(&self) -> Incarnation {
        self.config.incarnation
    }

    pub fn is_done(&self) -> bool {
        !self.welcome || self.answered + self.voided == REQUESTS
    }

    pub fn state(&self) -> String {
        let Self { number, client, answered, voided, next, welcome, .. } = self;
        format!(
            "{number}: welcome {welcome}, asked {next}, answered {answered}, voided {voided}, open {}, in flight {}, MTU {}, \
             window {}, {:?}, refused {:?}, {:?}",
            client.is_open(),
            client.in_flight(),
            client.mtu(),
            client.window(),
            client.round_trip(),
            client.refusal(),
            client.stats()
        )
    }

    fn void(&mut self) {
        self.voided += self.asked.len() as u32;
        self.asked.clear();
    }

    /// The process is gone, and another one is in its place.
    pub fn crash(&mut self, incarnation: Incarnation, now: Instant) {
        self.void();
        self.life += 1;
        self.config.incarnation = incarnation;
        self.client = Client::new(self.config, self.key.clone(), now);
        self.reopen = false;
    }

    /// When it has to be polled.
    pub fn due(&self) -> Option<Instant> {
        let may_ask = self.next < REQUESTS && self.client.free_slots() > 0;
        let times = [self.client.poll_timeout(), may_ask.then_some(self.pause_until)];
        let first = times.into_iter().flatten().min()?;
        Some(first.max(self.polled_at + Duration::from_micros(1)))
    }

    /// A packet of its session came: what it says about the session's end.
    fn note_heard(&mut self, now: Instant, bytes: &[u8], journey: Journey) {
        let is_other = self.session != 0 && packet::session(bytes) != self.session;
        if is_other || journey.damaged {
            return;
        }
        match packet::counter(bytes) {
            Some(counter) if !journey.forged && self.counters.insert(counter) => self.doubted = None,
            None if packet::kind(bytes) == packet::RESET => drop(self.doubted.get_or_insert(now)),
            _ => {}
        }
    }
}

impl World {
    pub fn asker_handle(&mut self, link: LinkId, bytes: &[u8], journey: Journey) {
        let Some(index) = self.askers.iter().position(|asker| asker.link == link) else { return };
        let now = self.now;
        let asker = &mut self.askers[index];
        asker.note_heard(now, bytes, journey);
        let Asker { client, server, asked, answered, voided, reopen, welcome, counters, doubted, .. } = asker;
        let (is_sealed, mut opened) = (client.is_sealed(), false);
        client.handle(now, bytes, &mut |event| match event {
            ClientEvent::Opened { incarnation } => {
                assert!(*welcome, "a session without a key");
                assert!(asked.is_empty(), "a session opened while requests of another were in flight");
                (*server, *doubted, opened) = (incarnation, None, true);
                counters.clear();
            }
            ClientEvent::Fragment { request, offset, bytes } => {
                let (_, asked) = asked.iter_mut().find(|(id, _)| *id == request).expect("a fragment nobody asked for");
                let end = offset + bytes.len();
                assert_eq!(asked.question.answer().get(offset..end), Some(bytes), "wrong bytes in an answer");
                asked.fragments.push((offset, end));
            }
            ClientEvent::Complete { request, len } => {
                let at = asked.iter().position(|(id, _)| *id == request).expect("a request was completed twice");
                let (_, mut asked) = asked.swap_remove(at);
                asked.fragments.sort_unstable();
                let end = asked.fragments.iter().fold(0, |end, fragment| {
                    assert_eq!(fragment.0, end, "a byte was delivered twice, or not at all");
                    fragment.1
                });
                assert_eq!((end, len), (asked.question.answer().len(), end), "an answer of another length");
                *answered += 1;
            }
            ClientEvent::Reset => {
                let is_patient = doubted.is_some_and(|since| now.saturating_duration_since(since) >= DOUBT);
                assert!(is_patient || !is_sealed, "talked out of a sealed session");
                *voided += asked.len() as u32;
                asked.clear();
                *reopen = true;
            }
        });
        assert_eq!(client.in_flight(), asked.len());
        if opened {
            asker.session = 0;
        }
        self.tend(index);
    }

    /// Lets a session do what it wants to do now.
    pub fn tend(&mut self, index: usize) {
        let now = self.now;
        self.misbehave(index);
        let asker = &mut self.askers[index];
        if std::mem::take(&mut asker.reopen) {
            asker.client.reopen(now);
        }
        asker.client.prepare();
        self.ask(index);
        let asker = &mut self.askers[index];
        asker.polled_at = now;
        let from = Address { link: asker.link, ..Address::default() };
        while let Some(packet) = asker.client.poll_transmit(now) {
            let bytes = self.net.packet(&packet);
            assert!(bytes.len() <= asker.config.mtu, "a packet longer than the MTU");
            if self.net.rng.chance(self.net.weather.full) {
                asker.client.not_sent();
                self.net.take_back(bytes);
                return;
            }
            if packet::kind(&bytes) != packet::HELLO {
                asker.session = packet::session(&bytes);
            }
            if packet::kind(&bytes) == packet::BYE {
                self.byes.insert(packet::session(&bytes));
            }
            self.net.send_to_host(now, asker.host, from, bytes, false);
        }
    }

    fn ask(&mut self, index: usize) {
        let now = self.now;
        let asker = &mut self.askers[index];
        let rng = &mut self.net.rng;
        while now >= asker.pause_until && asker.next < REQUESTS && asker.client.free_slots() > 0 {
            let mut size = || if rng.chance(0.01) { MAX_BODY_BYTES } else { rng.pick(&[0, 20, 200, 1400, 4136, 9000]) };
            let (body_bytes, response_bytes) = (size().min(asker.config.max_request_bytes - HEAD_BYTES), size());
            let question = Question {
                asker: asker.number,
                life: asker.life,
                number: asker.next,
                response_bytes: response_bytes as u32,
                server: asker.server,
            };
            let request = asker.client.request(now, &question.head(), question.body(body_bytes)).expect("a free slot");
            assert!(asker.asked.iter().all(|(id, _)| *id != request), "a request id was used twice");
            asker.asked.push((request, Asked { question, fragments: Vec::new() }));
            asker.next += 1;
            if rng.chance(0.3) {
                // Sometimes longer than the session lives.
                asker.pause_until = now + Duration::from_micros(rng.pick(&[10, 1_000, 50_000, 50_000, 700_000]));
            }
        }
    }

    /// What clients do now and then: keep-alive, a new link, a new session.
    fn misbehave(&mut self, index: usize) {
        if self.is_well {
            return;
        }
        let (now, next_link) = (self.now, &mut self.next_link);
        let asker = &mut self.askers[index];
        match self.net.rng.below(2000) {
            0..10 => asker.client.keep_alive(now),
            10..12 => {
                self.hosts[asker.host].server.link_closed(asker.link);
                asker.link = LinkId(*next_link);
                *next_link += 1;
            }
            12 => {
                asker.void();
                asker.client.reopen(now);
            }
            13 => {
                asker.void();
                asker.client.close(now);
                asker.reopen = true;
            }
            _ => {}
        }
    }
}
