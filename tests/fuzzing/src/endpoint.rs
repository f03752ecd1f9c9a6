//! A whole endpoint against an adversary who decides everything: which packets come, in which order, changed how, how late,
//! and what is said besides. The input is a list of [`Operation`]s.
//!
//! Both ends are real, so that the adversary has packets of a real session to lose, repeat and change; where there are keys
//! these are the only ones that can get past the seal. There, and wherever nothing was forged, a request must run at most
//! once, and an answer must be the one that was given.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use rum_net::{
    port::{Address, LinkId, MacAddr},
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES, MAX_SLOTS,
        client::{Client, ClientConfig, ClientEvent, RequestId},
        server::{RequestToken, Responder, Server, ServerConfig, ServerEvent},
    },
    seal::{ClientKey, Key, KeyFile},
    wire::{
        header::{HEADER_BYTES, Header, Kind},
        hello::{Hello, HelloRetry},
    },
};

use crate::{Cutter, decoders::repair};

const MTU: usize = 1500;
const MAX_SESSIONS: usize = 4;
/// Packets that the adversary holds back in each direction, and that it remembers.
const MAX_HELD: usize = 256;
/// A server holds at most, for each slot of each session, a request that is assembled and a response, and as many more in its
/// pools. A buffer that grows may be twice as long as what is in it. The rest is for packets that wait, the client's few
/// buffers, and the adversary's own.
pub const ENDPOINT_BYTES: usize = 2 * (2 * MAX_SESSIONS * MAX_SLOTS + 2 * 64) * MAX_MESSAGE_BYTES + (8 << 20);
/// The input is cut off after so many operations.
const MAX_OPERATIONS: usize = 2000;

/// What the adversary may do next: the lower half of a byte, which is followed by an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Operation {
    /// Lets the client send all that it has to send.
    PollClient,
    /// Lets the server send all that it has to send.
    PollServer,
    /// Delivers the server's next packets, as many as the argument says, 0 being one.
    DeliverToServer,
    /// Delivers the client's next packets.
    DeliverToClient,
    /// Loses the next packet; to the server if the argument is odd.
    Lose,
    /// Delivers a remembered packet once more; two words follow: where and what to change.
    Replay,
    /// The client asks for something; a word follows: the length of the message. The answer is 64 times as long as the
    /// argument says, above 127 later.
    Ask,
    /// Answers the oldest request that waits for it.
    Answer,
    /// Lets time pass: 2^argument nanoseconds, up to 2^35.
    Wait,
    /// Delivers the bytes that follow.
    Inject,
    /// Delivers the bytes that follow with a right checksum.
    InjectRepaired,
    /// Delivers the bytes that follow with a right checksum, in the session, about a request of late.
    InjectInSession,
    /// Says hello with a right cookie; the bytes that follow are the payload, in which the argument's bits put the client's own
    /// incarnation (1) and its attempt (2), from another address (4).
    InjectHello,
    /// Lets a packet not be sent: the client's if the argument is odd.
    NotSent,
    /// The client begins something: by argument, keep-alive, close, a new session, a new client.
    Change,
    /// The server's link closes if the argument is odd; else it looks which sessions have expired.
    Close,
}

impl Operation {
    const ALL: [Self; 16] = [
        Self::PollClient,
        Self::PollServer,
        Self::DeliverToServer,
        Self::DeliverToClient,
        Self::Lose,
        Self::Replay,
        Self::Ask,
        Self::Answer,
        Self::Wait,
        Self::Inject,
        Self::InjectRepaired,
        Self::InjectInSession,
        Self::InjectHello,
        Self::NotSent,
        Self::Change,
        Self::Close,
    ];
}

/// Whom the adversary talks to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Server,
    Client,
}

pub fn server(bytes: &[u8]) {
    World::new(Aim::Server, false).run(Cutter(bytes));
}

pub fn client(bytes: &[u8]) {
    World::new(Aim::Client, false).run(Cutter(bytes));
}

pub fn server_sealed(bytes: &[u8]) {
    World::new(Aim::Server, true).run(Cutter(bytes));
}

pub fn client_sealed(bytes: &[u8]) {
    World::new(Aim::Client, true).run(Cutter(bytes));
}

const HOME: Address = Address { link: LinkId(1), mac: MacAddr([2, 0, 0, 0, 0, 1]), udp: None };
const ELSEWHERE: Address = Address { link: LinkId(2), mac: MacAddr([2, 0, 0, 0, 0, 2]), udp: None };

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static KEYS: LazyLock<Arc<KeyFile>> = LazyLock::new(|| {
    let line = format!("ada {}\n", &*Key::from_bytes([1; 32]).to_hex());
    Arc::new(KeyFile::parse("keys", &line).expect("a good line"))
});

/// What was said once: to whom, and what.
type Remembered = (Aim, Vec<u8>);

/// What both ends have told those above them.
#[derive(Default)]
struct Heard {
    /// By the message, whether it was handed up.
    asked: HashMap<Vec<u8>, bool>,
    /// Requests in flight at the client, and their messages.
    messages: HashMap<RequestId, Vec<u8>>,
    responses: HashMap<RequestId, Vec<u8>>,
    /// Requests that wait for an answer at the server.
    waiting: VecDeque<(RequestToken, Vec<u8>)>,
    /// Something was forged that cannot be told from the truth.
    is_forged: bool,
}

struct World {
    aim: Aim,
    is_sealed: bool,
    now: Instant,
    client: Client,
    server: Server,
    to_server: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
    remembered: Vec<Remembered>,
    heard: Heard,
    incarnation: u128,
    session: u64,
    last_id: u64,
    serial: u32,
}

/// The answer to a request: as long as its first bytes say, and dependent on all of it.
fn answer(message: &[u8]) -> Vec<u8> {
    let length = message.first().map_or(0, |units| usize::from(units & 127) * 64);
    let sum = message.iter().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    (0..length).map(|at| (sum >> (at % 24)) as u8).collect()
}

impl World {
    fn new(aim: Aim, is_sealed: bool) -> Self {
        let now = *START;
        let incarnation = 7;
        let config = ClientConfig {
            incarnation: Incarnation(incarnation),
            channel: 0,
            mtu: MTU,
            slots: 8,
            max_request_bytes: MAX_MESSAGE_BYTES,
        };
        let key = ClientKey { name: "ada".to_owned(), key: Key::from_bytes([1; 32]), quota_bytes: None };
        let server = ServerConfig {
            incarnation: Incarnation(99),
            mtu: MTU,
            session_timeout: Duration::from_secs(10),
            max_sessions: MAX_SESSIONS,
        };
        Self {
            aim,
            is_sealed,
            now,
            client: Client::new(config, is_sealed.then_some(key), now),
            server: Server::new(server, is_sealed.then(|| KEYS.clone()), [7; 32], now),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            remembered: Vec::new(),
            heard: Heard::default(),
            incarnation,
            session: 0,
            last_id: 0,
            serial: 0,
        }
    }

    fn run(mut self, mut input: Cutter<'_>) {
        // Most of what can go wrong needs a session.
        if input.byte() & 1 == 0 {
            for _ in 0..3 {
                self.poll_client();
                self.deliver(Aim::Server, usize::MAX);
                self.poll_server();
                self.deliver(Aim::Client, usize::MAX);
            }
            assert!(self.client.is_open() && self.client.is_sealed() == self.is_sealed);
        }
        for _ in 0..MAX_OPERATIONS {
            if input.is_empty() {
                break;
            }
            let operation = Operation::ALL[usize::from(input.byte() & 15)];
            let argument = input.byte();
            self.step(operation, argument, &mut input);
            assert!(self.server.session_count() <= MAX_SESSIONS);
        }
    }

    fn step(&mut self, operation: Operation, argument: u8, input: &mut Cutter<'_>) {
        match operation {
            Operation::PollClient => self.poll_client(),
            Operation::PollServer => self.poll_server(),
            Operation::DeliverToServer => self.deliver(Aim::Server, usize::from(argument.max(1))),
            Operation::DeliverToClient => self.deliver(Aim::Client, usize::from(argument.max(1))),
            Operation::Lose => {
                drop(if argument & 1 == 1 { &mut self.to_server } else { &mut self.to_client }.pop_front())
            }
            Operation::Replay => self.replay(usize::from(argument), usize::from(input.word()), input.word() as u8),
            Operation::Ask => self.ask(argument, usize::from(input.word())),
            Operation::Answer => {
                if let Some((token, message)) = self.heard.waiting.pop_front() {
                    self.server.respond(token, &answer(&message));
                }
            }
            Operation::Wait => self.now += Duration::from_nanos(1 << (argument % 36)),
            Operation::Inject => self.inject(input.bytes().to_vec(), HOME),
            Operation::InjectRepaired => {
                let mut packet = input.bytes().to_vec();
                repair(&mut packet);
                self.inject(packet, HOME);
            }
            Operation::InjectInSession => {
                let mut packet = input.bytes().to_vec();
                if packet.len() >= HEADER_BYTES {
                    packet[8..16].copy_from_slice(&self.session.to_le_bytes());
                    let request = self.last_id.wrapping_add(4).wrapping_sub(u64::from(argument & 15));
                    packet[16..24].copy_from_slice(&request.to_le_bytes());
                    repair(&mut packet);
                }
                self.inject(packet, if argument & 16 == 0 { HOME } else { ELSEWHERE });
            }
            Operation::InjectHello => self.inject_hello(argument, input.bytes()),
            Operation::NotSent => {
                if argument & 1 == 1 {
                    if self.client.poll_transmit(self.now).is_some() {
                        self.client.not_sent();
                    }
                } else if self.server.poll_transmit(self.now).is_some() {
                    self.server.not_sent();
                }
            }
            Operation::Change => self.change(argument),
            Operation::Close => {
                if argument & 1 == 1 {
                    self.server.link_closed(if argument & 2 == 0 { HOME.link } else { ELSEWHERE.link });
                } else {
                    self.server.expire(self.now, &mut |_| ());
                }
            }
        }
    }

    fn poll_client(&mut self) {
        while let Some(packet) = self.client.poll_transmit(self.now) {
            let packet = packet.to_vec();
            if let Ok(parsed) = Header::decode(&packet) {
                self.last_id =
                    self.last_id.max(if parsed.header.kind == Kind::Hello { 0 } else { parsed.header.request });
            }
            remember(&mut self.remembered, Aim::Server, &packet);
            hold(&mut self.to_server, packet);
        }
    }

    fn poll_server(&mut self) {
        while let Some((_, packet)) = self.server.poll_transmit(self.now) {
            let packet = packet.to_vec();
            if packet.get(7) == Some(&(Kind::HelloAck as u8))
                && let Ok(parsed) = Header::decode(&packet)
            {
                self.session = parsed.header.session;
            }
            remember(&mut self.remembered, Aim::Client, &packet);
            hold(&mut self.to_client, packet);
        }
    }

    fn deliver(&mut self, aim: Aim, count: usize) {
        for _ in 0..count {
            let queue = if aim == Aim::Server { &mut self.to_server } else { &mut self.to_client };
            let Some(packet) = queue.pop_front() else { return };
            self.give(aim, &packet, HOME);
        }
    }

    fn give(&mut self, aim: Aim, packet: &[u8], from: Address) {
        let Self { now, heard, is_sealed, .. } = self;
        let is_checked = *is_sealed || !heard.is_forged;
        match aim {
            Aim::Server => self.server.handle(*now, from, packet, &mut |responder, event| {
                heard.at_server(responder, &event, is_checked);
            }),
            Aim::Client => self.client.handle(*now, packet, &mut |event| heard.at_client(&event, is_checked)),
        }
    }

    fn replay(&mut self, which: usize, at: usize, change: u8) {
        let count = self.remembered.len();
        if count == 0 {
            return;
        }
        // The latest first.
        let (aim, mut packet) = self.remembered[count - 1 - which % count].clone();
        if change != 0 && !packet.is_empty() {
            let at = at % packet.len();
            packet[at] ^= change;
            // A changed packet without a seal would be noticed by its checksum, so it gets a right one.
            if packet.len() >= HEADER_BYTES && packet[42] & 8 == 0 && at >= 4 {
                repair(&mut packet);
            }
            self.heard.is_forged = true;
        }
        self.give(aim, &packet, if which < 128 { HOME } else { ELSEWHERE });
    }

    fn inject(&mut self, packet: Vec<u8>, from: Address) {
        self.heard.is_forged = true;
        self.give(self.aim, &packet, from);
    }

    fn ask(&mut self, argument: u8, length: usize) {
        if self.client.free_slots() == 0 {
            return;
        }
        self.serial += 1;
        let length = (length * 3).clamp(8, MAX_MESSAGE_BYTES);
        let mut message = vec![argument; length];
        message[1..5].copy_from_slice(&self.serial.to_le_bytes());
        if let Ok(request) = self.client.request(self.now, &message[..5], &message[5..]) {
            // What is asked is kept until it is answered; after a reset nobody waits for it.
            if self.heard.messages.len() > 32 {
                self.heard.messages.clear();
            }
            self.heard.asked.insert(digest(&message), false);
            self.heard.messages.insert(request, message);
        }
    }

    fn inject_hello(&mut self, argument: u8, bytes: &[u8]) {
        let from = if argument & 4 == 0 { HOME } else { ELSEWHERE };
        let Some(hello) = Hello::decode(bytes) else { return };
        let mut hello = Hello { mtu: 1252 + hello.mtu % 249, ..hello };
        let mut attempt = u64::from(argument >> 3);
        if argument & 1 == 1 {
            hello.client = self.incarnation;
        }
        if argument & 2 == 2 {
            attempt = 1 + attempt % 2;
        }
        self.heard.is_forged = true;
        for _ in 0..2 {
            let mut packet = vec![0; HEADER_BYTES + MTU];
            let payload_bytes = hello.encode(&mut packet[HEADER_BYTES..]);
            packet.truncate(MTU);
            let mut header = Header::new(Kind::Hello, 0, attempt);
            header.message_bytes = 0;
            header.encode(&mut packet[..HEADER_BYTES + payload_bytes], &[], &mut Default::default());
            self.give(Aim::Server, &packet, from);
            // The answer with the cookie, unless answers to strangers are used up for now.
            let Some((to, packet)) = self.server.poll_transmit(self.now) else { return };
            let packet = packet.to_vec();
            let Ok(parsed) = Header::decode(&packet) else { return };
            match HelloRetry::decode(parsed.payload) {
                Some(retry) if to == from && parsed.header.kind == Kind::HelloRetry => hello.cookie = retry.cookie,
                _ => return hold(&mut self.to_client, packet),
            }
        }
    }

    fn change(&mut self, argument: u8) {
        match argument % 8 {
            0..=3 => self.client.keep_alive(self.now),
            4 => self.client.close(self.now),
            5 | 6 => {
                self.client.reopen(self.now);
                self.heard.forget();
            }
            _ => {
                self.incarnation += 1;
                self.client.reopen_as(Incarnation(self.incarnation), self.now);
                self.heard.forget();
            }
        }
        self.client.prepare();
    }
}

fn remember(remembered: &mut Vec<Remembered>, aim: Aim, packet: &[u8]) {
    if remembered.len() == MAX_HELD {
        remembered.drain(..MAX_HELD / 2);
    }
    remembered.push((aim, packet.to_vec()));
}

fn hold(queue: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
    if queue.len() < MAX_HELD {
        queue.push_back(packet);
    }
}

/// What a message is recognised by: its beginning has a number of its own.
fn digest(message: &[u8]) -> Vec<u8> {
    message.get(..5).unwrap_or(message).to_vec()
}

impl Heard {
    fn forget(&mut self) {
        self.messages.clear();
        self.responses.clear();
    }

    fn at_server(&mut self, responder: &mut Responder<'_>, event: &ServerEvent<'_>, is_checked: bool) {
        let ServerEvent::Request { token, message, .. } = event else { return };
        assert!(message.len() <= MAX_MESSAGE_BYTES);
        if is_checked {
            let has_run = self.asked.get_mut(&digest(message)).expect("a request that nobody made");
            assert!(!std::mem::replace(has_run, true), "a request ran twice");
            assert!(message[5..].iter().all(|byte| *byte == message[0]), "a request that is not whole");
        }
        if message.first().is_some_and(|first| *first > 127) {
            if self.waiting.len() < 32 {
                self.waiting.push_back((*token, message[..message.len().min(64)].to_vec()));
            }
        } else {
            responder.response().head.extend_from_slice(&answer(&message[..message.len().min(64)]));
        }
    }

    fn at_client(&mut self, event: &ClientEvent<'_>, is_checked: bool) {
        match event {
            ClientEvent::Fragment { request, offset, bytes } => {
                assert!(offset + bytes.len() <= MAX_MESSAGE_BYTES);
                if self.messages.contains_key(request) {
                    let response = self.responses.entry(*request).or_default();
                    response.resize(response.len().max(offset + bytes.len()), 0);
                    response[*offset..offset + bytes.len()].copy_from_slice(bytes);
                }
            }
            ClientEvent::Complete { request, len } => {
                let response = self.responses.remove(request).unwrap_or_default();
                let Some(message) = self.messages.remove(request) else { return };
                if is_checked {
                    assert_eq!(response.len(), *len);
                    assert!(response == answer(&message[..message.len().min(64)]), "a wrong answer");
                }
            }
            ClientEvent::Reset => self.forget(),
            ClientEvent::Opened { .. } => {}
        }
    }
}
