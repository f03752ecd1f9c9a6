//! The RPC protocol against a hostile network, in virtual time, from a seed: several clients, one server that crashes
//! and comes back, packets lost, doubled, reordered, damaged and delayed. Checked:
//! - a request is executed at most once by each incarnation of the server, with the bytes that were sent;
//! - it is answered exactly once, with the right bytes, from the incarnation that the session is with, or voided by a
//!   reset; no byte of an answer is delivered twice;
//! - once the network is well, every request is answered soon.
//!
//! `RUM_SIM_SEEDS=N` tries N seeds, `RUM_SIM_SEED=S` one seed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use rum_net::{
    port::{Address, LinkId},
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES,
        client::{Client, ClientConfig, ClientEvent, RequestId},
        server::{RequestToken, Server, ServerConfig, ServerEvent, SessionId},
    },
};

const DEFAULT_SEEDS: u64 = 500;
const REQUESTS_PER_CLIENT: u32 = 40;
const SICK_FOR: Duration = Duration::from_secs(3);
/// After the network has become well, everything has to be done within this time.
const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability && probability > 0.0
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// How the network of one run behaves.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: f64,
    duplicate: f64,
    corrupt: f64,
    truncate: f64,
    /// Packets that take much longer than others, and so overtake and are overtaken.
    late: f64,
    latency_us: u64,
    late_us: u64,
    /// The port takes no packet.
    full: f64,
    crash_every_ms: u64,
}

impl Weather {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            loss: rng.pick(&[0.0, 0.01, 0.1, 0.3]),
            duplicate: rng.pick(&[0.0, 0.02, 0.2]),
            corrupt: rng.pick(&[0.0, 0.02, 0.1]),
            truncate: rng.pick(&[0.0, 0.02]),
            late: rng.pick(&[0.0, 0.05, 0.3]),
            latency_us: rng.pick(&[2, 50, 800]),
            late_us: rng.pick(&[100, 3_000, 100_000]),
            full: rng.pick(&[0.0, 0.1]),
            crash_every_ms: rng.pick(&[u64::MAX, 1000, 200, 30]),
        }
    }
    fn well() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            truncate: 0.0,
            late: 0.0,
            latency_us: 20,
            late_us: 20,
            full: 0.0,
            crash_every_ms: u64::MAX,
        }
    }
}

enum Delivery {
    ToServer {
        from: Address,
        packet: Vec<u8>,
    },
    ToClient {
        link: LinkId,
        packet: Vec<u8>,
    },
    /// The server's answer to a request, given later.
    Answer {
        server: Incarnation,
        token: RequestToken,
        response: Vec<u8>,
    },
}

/// Pseudo-random bytes that depend on all of `key`.
fn fill(key: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(key);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// `client u32, number u32, response bytes u32, body`: what the clients ask.
fn request_message(client: u32, number: u32, response_bytes: u32, body_bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(12 + body_bytes);
    message.extend_from_slice(&client.to_le_bytes());
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(&response_bytes.to_le_bytes());
    message.extend_from_slice(&fill(u64::from(client) << 32 | u64::from(number), body_bytes));
    message
}

/// What a server of this incarnation answers; panics unless the request is as a client made it.
fn response_message(server: Incarnation, request: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
    let (client, number, response_bytes) = (word(0), word(4), word(8));
    assert_eq!(request, request_message(client, number, response_bytes, request.len() - 12), "a damaged request");
    let key = server.0 as u64 ^ (u64::from(client) << 32 | u64::from(number)).rotate_left(17);
    fill(key, response_bytes as usize)
}

struct Asked {
    number: u32,
    message: Vec<u8>,
    response: Vec<u8>,
    /// For each byte of the response whether it was delivered.
    delivered: Vec<bool>,
}

struct Asker {
    client: Client,
    link: LinkId,
    /// The incarnation that the session is with.
    server: Incarnation,
    next: u32,
    asked: HashMap<RequestId, Asked>,
    answered: u32,
    voided: u32,
    reset: bool,
    /// Asks nothing until then.
    pause_until: Instant,
}

struct Simulation {
    rng: Rng,
    weather: Weather,
    start: Instant,
    now: Instant,
    askers: Vec<Asker>,
    server: Server,
    incarnation: Incarnation,
    server_mtu: usize,
    next_link: u64,
    in_flight: BTreeMap<(Instant, u64), Delivery>,
    sequence: u64,
    /// Requests executed by the server of this incarnation.
    executed: HashSet<(u32, u32)>,
    open_sessions: HashSet<SessionId>,
    ever_opened: HashSet<SessionId>,
    next_crash: Option<Instant>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let now = Instant::now();
        let weather = Weather::draw(&mut rng);
        let incarnation = Incarnation(1);
        let server_mtu = rng.pick(&[1500, 2000, 9000, 65_535]);
        let clients = 1 + rng.below(4);
        let askers = (0..clients)
            .map(|number| {
                let config = ClientConfig {
                    incarnation: Incarnation(1000 + u128::from(number / 2)),
                    channel: (number % 2) as u32,
                    mtu: rng.pick(&[1500, 4352, 9000]),
                    slots: rng.pick(&[1, 4, 32]),
                    max_request_bytes: MAX_MESSAGE_BYTES,
                };
                Asker {
                    client: Client::new(config, None, now),
                    link: LinkId(number),
                    server: Incarnation(0),
                    next: 0,
                    asked: HashMap::new(),
                    answered: 0,
                    voided: 0,
                    reset: false,
                    pause_until: now,
                }
            })
            .collect();
        let next_crash = now.checked_add(Duration::from_millis(weather.crash_every_ms.min(1 << 40)));
        Self {
            rng,
            weather,
            start: now,
            now,
            askers,
            server: new_server(incarnation, server_mtu, now),
            incarnation,
            server_mtu,
            next_link: clients,
            in_flight: BTreeMap::new(),
            sequence: 0,
            executed: HashSet::new(),
            open_sessions: HashSet::new(),
            ever_opened: HashSet::new(),
            next_crash,
        }
    }

    fn run(&mut self) {
        let well_from = self.start + SICK_FOR;
        let mut is_well = false;
        while !self.is_done() {
            if !is_well && self.now >= well_from {
                is_well = true;
                self.weather = Weather::well();
                self.next_crash = None;
            }
            assert!(self.now < well_from + HEALED_WITHIN, "the network is well, but requests hang");
            self.step();
        }
    }

    fn is_done(&self) -> bool {
        self.askers.iter().all(|asker| asker.answered + asker.voided == REQUESTS_PER_CLIENT)
    }

    fn step(&mut self) {
        self.maybe_crash();
        self.server_expire();
        for index in 0..self.askers.len() {
            self.misbehave(index);
            self.ask(index);
            self.transmit_from_client(index);
        }
        self.transmit_from_server();
        let next_packet = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let timers = self.askers.iter().filter_map(|asker| asker.client.poll_timeout());
        let pauses = self.askers.iter().filter(|asker| asker.next < REQUESTS_PER_CLIENT).map(|asker| asker.pause_until);
        let later = timers.chain(pauses).filter(|at| *at > self.now).min();
        let a_while = self.now + Duration::from_millis(10);
        self.now = next_packet.into_iter().chain(later).min().unwrap_or(a_while).max(self.now);
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Delivery::ToServer { from, packet } => self.server_handle(from, &packet),
                Delivery::ToClient { link, packet } => self.client_handle(link, &packet),
                Delivery::Answer { server, token, response } => {
                    if server == self.incarnation {
                        self.server.respond(token, &response);
                    }
                }
            }
        }
        // Nothing due: time has to move, or a timer that is due would be polled for ever.
        self.now += Duration::from_nanos(500);
    }

    /// Loses, doubles, damages and delays a packet.
    fn send(&mut self, make: impl Fn(Vec<u8>) -> Delivery, packet: Vec<u8>) {
        let copies = if self.rng.chance(self.weather.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.chance(self.weather.loss) {
                continue;
            }
            let mut packet = packet.clone();
            if self.rng.chance(self.weather.corrupt) {
                for _ in 0..=self.rng.below(4) {
                    let bit = self.rng.below(packet.len() as u64 * 8) as usize;
                    packet[bit / 8] ^= 1 << (bit % 8);
                }
            }
            if self.rng.chance(self.weather.truncate) {
                packet.truncate(self.rng.below(packet.len() as u64) as usize);
            } else if packet.len() < 60 {
                packet.resize(60, 0);
            }
            let mut delay_us = self.weather.latency_us;
            if self.rng.chance(self.weather.late) {
                delay_us += self.rng.below(self.weather.late_us);
            }
            self.schedule(Duration::from_micros(delay_us), make(packet));
        }
    }

    fn schedule(&mut self, delay: Duration, delivery: Delivery) {
        self.sequence += 1;
        self.in_flight.insert((self.now + delay, self.sequence), delivery);
    }

    fn transmit_from_client(&mut self, index: usize) {
        while let Some(packet) = self.askers[index].client.poll_transmit(self.now) {
            let packet = [packet.head, packet.body].concat();
            if self.rng.chance(self.weather.full) {
                self.askers[index].client.not_sent();
                return;
            }
            let from = Address { link: self.askers[index].link, ..Address::default() };
            self.send(|packet| Delivery::ToServer { from, packet }, packet);
        }
    }

    fn transmit_from_server(&mut self) {
        while let Some((to, packet)) = self.server.poll_transmit(self.now) {
            let packet = [packet.head, packet.body].concat();
            if self.askers.iter().all(|asker| asker.link != to.link) {
                self.server.link_closed(to.link);
                self.server.not_sent();
                continue;
            }
            if self.rng.chance(self.weather.full) {
                self.server.not_sent();
                return;
            }
            self.send(|packet| Delivery::ToClient { link: to.link, packet }, packet);
        }
        assert!(!self.server.wants_transmit(), "nothing to send, but it says so");
    }

    fn server_handle(&mut self, from: Address, packet: &[u8]) {
        let Self { server, rng, executed, open_sessions, ever_opened, incarnation, .. } = self;
        let mut later = None;
        server.handle(self.now, from, packet, &mut |responder, event| match event {
            ServerEvent::Opened { session, .. } => {
                assert!(open_sessions.insert(session) && ever_opened.insert(session), "a session id was drawn twice");
            }
            ServerEvent::Closed { session, .. } => {
                assert!(open_sessions.remove(&session), "a session was closed that is not open");
            }
            ServerEvent::Request { token, message, .. } => {
                assert!(open_sessions.contains(&token.session));
                let response = response_message(*incarnation, message);
                let client = u32::from_le_bytes(message[..4].try_into().unwrap());
                let number = u32::from_le_bytes(message[4..8].try_into().unwrap());
                assert!(executed.insert((client, number)), "request {number} of client {client} ran twice");
                if rng.chance(0.7) {
                    responder.response().extend_from_slice(&response);
                } else {
                    let delay = Duration::from_micros(rng.pick(&[1, 50, 5_000, 60_000]));
                    later = Some((delay, token, response));
                }
            }
        });
        if let Some((delay, token, response)) = later {
            self.schedule(delay, Delivery::Answer { server: self.incarnation, token, response });
        }
    }

    fn client_handle(&mut self, link: LinkId, packet: &[u8]) {
        let Some(asker) = self.askers.iter_mut().find(|asker| asker.link == link) else { return };
        let Asker { client, server, asked, answered, voided, reset, .. } = asker;
        client.handle(self.now, packet, &mut |event| match event {
            ClientEvent::Opened { incarnation } => {
                assert!(asked.is_empty(), "a session opened while requests of another were in flight");
                *server = incarnation;
            }
            ClientEvent::Fragment { request, offset, bytes } => {
                let asked = asked.get_mut(&request).expect("a fragment of a request that is not in flight");
                if asked.response.is_empty() {
                    asked.response = response_message(*server, &asked.message);
                    asked.delivered = vec![false; asked.response.len()];
                }
                assert_eq!(&asked.response[offset..offset + bytes.len()], bytes, "wrong bytes");
                for delivered in &mut asked.delivered[offset..offset + bytes.len()] {
                    assert!(!std::mem::replace(delivered, true), "a byte was delivered twice");
                }
            }
            ClientEvent::Complete { request, len } => {
                let asked = asked.remove(&request).expect("a request was completed that is not in flight");
                assert_eq!(asked.delivered.len(), len);
                assert!(asked.delivered.iter().all(|delivered| *delivered), "bytes of request {} lack", asked.number);
                *answered += 1;
            }
            ClientEvent::Reset => {
                *voided += asked.len() as u32;
                asked.clear();
                *reset = true;
            }
        });
        assert_eq!(client.in_flight(), asked.len());
    }

    fn ask(&mut self, index: usize) {
        let now = self.now;
        let asker = &mut self.askers[index];
        if std::mem::take(&mut asker.reset) {
            asker.client.reopen(now);
        }
        if now < asker.pause_until {
            return;
        }
        while asker.next < REQUESTS_PER_CLIENT && asker.client.free_slots() > 0 {
            let sizes = [0, 20, 200, 1400, 4136, 9000, 30_000];
            let big = MAX_MESSAGE_BYTES - 12;
            let body_bytes = if self.rng.chance(0.03) { big } else { self.rng.pick(&sizes) };
            let response_bytes = if self.rng.chance(0.03) { big } else { self.rng.pick(&sizes) };
            let message = request_message(index as u32, asker.next, response_bytes as u32, body_bytes);
            let (head, body) = message.split_at(self.rng.below(13) as usize);
            let request = asker.client.request(now, head, body).expect("a slot is free");
            let asked = Asked { number: asker.next, message, response: Vec::new(), delivered: Vec::new() };
            assert!(asker.asked.insert(request, asked).is_none(), "a request id was used twice");
            asker.next += 1;
            if self.rng.chance(0.2) {
                // Sometimes longer than the session lives.
                let pause_us = self.rng.pick(&[10, 1_000, 50_000, 700_000]);
                asker.pause_until = now + Duration::from_micros(pause_us);
                return;
            }
        }
    }

    /// What clients do now and then: keep-alive, a new link, a new session.
    fn misbehave(&mut self, index: usize) {
        let asker = &mut self.askers[index];
        if self.now >= self.start + SICK_FOR {
            return;
        }
        match self.rng.below(4000) {
            0..20 => asker.client.keep_alive(self.now),
            20..23 => {
                self.server.link_closed(asker.link);
                asker.link = LinkId(self.next_link);
                self.next_link += 1;
            }
            23 => {
                asker.voided += asker.asked.len() as u32;
                asker.asked.clear();
                asker.client.reopen(self.now);
            }
            24 => {
                asker.voided += asker.asked.len() as u32;
                asker.asked.clear();
                asker.client.close(self.now);
                asker.reset = true;
            }
            _ => {}
        }
    }

    fn maybe_crash(&mut self) {
        if self.next_crash.is_some_and(|at| self.now >= at) {
            self.next_crash = Some(self.now + Duration::from_millis(self.weather.crash_every_ms));
            self.incarnation = Incarnation(self.incarnation.0 + 1);
            self.server = new_server(self.incarnation, self.server_mtu, self.now);
            self.executed.clear();
            self.open_sessions.clear();
        }
    }

    fn server_expire(&mut self) {
        let open_sessions = &mut self.open_sessions;
        self.server.expire(self.now, &mut |event| match event {
            ServerEvent::Closed { session, .. } => assert!(open_sessions.remove(&session)),
            other => panic!("{other:?} from expire"),
        });
        assert_eq!(self.server.session_count(), self.open_sessions.len());
    }
}

fn new_server(incarnation: Incarnation, mtu: usize, now: Instant) -> Server {
    let config = ServerConfig { incarnation, mtu, session_timeout: Duration::from_millis(500), max_sessions: 100 };
    Server::new(config, None, [incarnation.0 as u8; 32], now)
}

#[test]
fn requests_survive_a_hostile_network() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seeds = match number("RUM_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RUM_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    let (mut answered, mut voided) = (0, 0);
    for seed in seeds {
        let mut simulation = Simulation::new(seed);
        let weather = simulation.weather;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulation.run()));
        if outcome.is_err() {
            panic!(
                "seed {seed} fails at {:?} in {weather:?}: RUM_SIM_SEED={seed} repeats it",
                simulation.now - simulation.start
            );
        }
        answered += simulation.askers.iter().map(|asker| asker.answered).sum::<u32>();
        voided += simulation.askers.iter().map(|asker| asker.voided).sum::<u32>();
    }
    println!("{answered} requests answered, {voided} voided by resets");
    assert!(answered > voided, "hardly anything was answered: the simulation is too rough to show anything");
}
