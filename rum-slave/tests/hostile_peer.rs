//! Hostile peers against a whole slave with keys, beside an honest client, in virtual time and one thread: the slave is
//! stepped by the test, so that no figure depends on the machine's load.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    port::{
        LinkId, MacAddr, Port,
        memory::{MemoryHub, MemoryPort},
    },
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES, MIN_MTU,
        client::{Client, ClientConfig, ClientEvent, RequestId},
    },
    seal::{ClientKey, Key, KeyFile},
    wire::{
        checksum::Checksummer,
        ethernet::EthernetHeader,
        header::{HEADER_BYTES, Header, Kind, flag},
        hello::{Hello, HelloRetry, Verdict},
        message::{
            ExtentRef, PageContent, PageKind, PageRef, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, ReadResponse,
            ResponseError, Stat, Status, WRITE_HEAD_MAX_BYTES, decode_empty_response, decode_reserve_response,
            encode_read, encode_release, encode_reserve, encode_stat, encode_write_head, release_request_bytes,
        },
    },
};
use rum_slave::{Options, Slave};

const MTU: usize = 1500;
const MAX_SESSIONS: usize = 1024;
/// Between two looks of the slave at its port.
const ROUND: Duration = Duration::from_micros(20);
/// Hostile packets that arrive in each of them, and together with honest ones are no more than it takes at once.
const HOSTILE_PER_ROUND: usize = 32;
const HONEST_REQUESTS: u32 = 300;
/// How much longer an honest request may take.
const MAX_SLOWDOWN: f64 = 1.2;

fn keys() -> Arc<KeyFile> {
    let text = format!("honest {}\nmallory {} 2M\n", "1a".repeat(32), "2b".repeat(32));
    Arc::new(KeyFile::parse("keys", &text).unwrap())
}

fn key(name: &str) -> ClientKey {
    keys().find(name).unwrap().clone()
}

/// A client with a clock that the test turns, which remembers the packets that it sent.
struct Peer {
    port: MemoryPort,
    rpc: Client,
    responses: HashMap<RequestId, Vec<u8>>,
    complete: Vec<RequestId>,
    resets: u32,
    sent: Vec<Vec<u8>>,
}

impl Peer {
    fn new(hub: &MemoryHub, incarnation: u128, key: ClientKey, slots: usize, now: Instant) -> Self {
        let incarnation = Incarnation(incarnation);
        let max_request_bytes = if slots == 1 { 64 } else { MAX_MESSAGE_BYTES };
        let config = ClientConfig { incarnation, channel: 0, mtu: MTU, slots, max_request_bytes };
        Self {
            port: hub.connect().unwrap(),
            rpc: Client::new(config, Some(key), now),
            responses: HashMap::new(),
            complete: Vec::new(),
            resets: 0,
            sent: Vec::new(),
        }
    }

    fn turn(&mut self, now: Instant) {
        let Self { port, rpc, responses, complete, resets, sent } = self;
        port.receive(256, &mut |_, frame| {
            let Some((_, packet)) = EthernetHeader::decode(frame) else { return };
            rpc.handle(now, packet, &mut |event| match event {
                ClientEvent::Fragment { request, offset, bytes } => {
                    let response = responses.entry(request).or_default();
                    response.resize(response.len().max(offset + bytes.len()), 0);
                    response[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                ClientEvent::Complete { request, .. } => complete.push(request),
                ClientEvent::Reset => *resets += 1,
                ClientEvent::Opened { .. } => {}
            });
        });
        let header = EthernetHeader { destination: MacAddr([0xff; 6]), source: port.mac() }.encode();
        while let Some(packet) = rpc.poll_transmit(now) {
            if port.transmit(LinkId(0), &packet.behind(&header)).is_err() {
                rpc.not_sent();
                break;
            }
            if sent.len() < 2000 {
                sent.push(packet.to_vec());
            }
        }
        port.flush();
    }
}

/// Somebody without a session, who sends what bytes there are.
struct Stranger {
    port: MemoryPort,
    sent_bytes: u64,
    received_bytes: u64,
    /// For the incarnation and attempt that it was made for.
    cookie: Option<(u128, u64, [u8; 16])>,
    received: BTreeMap<u8, u64>,
}

impl Stranger {
    fn new(hub: &MemoryHub) -> Self {
        let port = hub.connect().unwrap();
        Self { port, sent_bytes: 0, received_bytes: 0, cookie: None, received: BTreeMap::new() }
    }

    fn send(&mut self, packet: &[u8]) {
        let header = EthernetHeader { destination: MacAddr([0xff; 6]), source: self.port.mac() }.encode();
        self.port.transmit(LinkId(0), &[&header, packet]).expect("the slave takes what comes");
        self.sent_bytes += packet.len() as u64;
    }

    fn turn(&mut self) {
        self.port.flush();
        let Self { port, received_bytes, cookie, received, .. } = self;
        port.receive(256, &mut |_, frame| {
            let Some((_, packet)) = EthernetHeader::decode(frame) else { return };
            *received_bytes += packet.len() as u64;
            let parsed = Header::decode(packet).expect("a slave's packet");
            *received.entry(parsed.header.kind as u8).or_default() += 1;
            if parsed.header.kind == Kind::HelloRetry
                && let Some(retry) = HelloRetry::decode(parsed.payload)
            {
                *cookie = Some((retry.client, parsed.header.request, retry.cookie));
            }
        });
        assert!(self.received_bytes <= self.sent_bytes, "a stranger got more bytes than it sent");
    }
}

fn forge(header: &Header, payload: &[u8], len: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES];
    packet.extend_from_slice(payload);
    header.encode(&mut packet, &[], &mut Checksummer::new());
    packet.resize(len.max(packet.len()), 0);
    packet
}

fn hello(client: u128, attempt: u64, cookie: [u8; 16], name: &[u8], handshake: &[u8]) -> Vec<u8> {
    let hello = Hello { client, mtu: MIN_MTU as u32, slots: 4, channel: 0, cookie, name, handshake };
    let mut payload = [0; 300];
    let length = hello.encode(&mut payload);
    forge(&Header::new(Kind::Hello, 0, attempt), &payload[..length], MIN_MTU)
}

/// Incarnations from here on are nobody's who has a session.
const OTHERS: u128 = 1 << 64;

struct World {
    slave: Slave,
    hub: MemoryHub,
    now: Instant,
    honest: Peer,
    extent: ExtentRef,
    /// Rounds that an honest request takes when nobody else is there.
    rounds_alone: f64,
}

fn pattern(page: u32) -> [u8; PAGE_BYTES] {
    std::array::from_fn(|at| (at as u32).wrapping_mul(page.wrapping_mul(0x9E37_79B1) | 1).to_le_bytes()[2])
}

impl World {
    fn new() -> Self {
        let (hub, port) = MemoryHub::new(MTU).unwrap();
        let options = Options { keys: Some(keys()), max_sessions: MAX_SESSIONS, ..Options::new(64 << 20) };
        let now = Instant::now();
        let slave = Slave::new(vec![Box::new(port) as Box<dyn Port>], options).unwrap();
        let honest = Peer::new(&hub, 7, key("honest"), 16, now);
        let extent = ExtentRef { index: 0, generation: 0 };
        let mut world = Self { slave, hub, now, honest, extent, rounds_alone: 0.0 };
        world.extent = world.reserve_by_honest();
        for page in 0..64 {
            world.write(page);
        }
        world.rounds_alone = world.rounds_per_request(&mut |_, _| {});
        world
    }

    fn round(&mut self) {
        self.now += ROUND;
        self.slave.step(self.now);
        self.honest.turn(self.now);
    }

    /// Asks as a client does, while something else goes on in each round.
    fn ask_while(&mut self, head: &[u8], body: &[u8], meanwhile: &mut dyn FnMut(&mut Self)) -> (Vec<u8>, u32) {
        while !self.honest.rpc.is_open() {
            self.round();
        }
        let request = self.honest.rpc.request(self.now, head, body).expect("a free slot");
        self.honest.turn(self.now);
        for rounds in 1..100_000 {
            meanwhile(self);
            self.round();
            assert_eq!(self.honest.resets, 0, "the honest client lost its session");
            if let Some(at) = self.honest.complete.iter().position(|&complete| complete == request) {
                self.honest.complete.swap_remove(at);
                return (self.honest.responses.remove(&request).unwrap_or_default(), rounds);
            }
        }
        panic!("the honest client gets no answer");
    }

    fn ask(&mut self, head: &[u8], body: &[u8]) -> Vec<u8> {
        self.ask_while(head, body, &mut |_| {}).0
    }

    fn reserve_by_honest(&mut self) -> ExtentRef {
        let response = self.ask(encode_reserve(1, &mut [0; RESERVE_REQUEST_BYTES]), &[]);
        decode_reserve_response(&response, 1).unwrap().iter().next().unwrap()
    }

    fn write(&mut self, page: u32) {
        let mut buffer = [0; WRITE_HEAD_MAX_BYTES];
        let page_ref = PageRef { extent: self.extent, page };
        let head = encode_write_head(&[(page_ref, PageKind::Data)], &mut buffer).to_vec();
        decode_empty_response(&self.ask(&head, &pattern(page))).unwrap();
    }

    fn stat(&mut self) -> Stat {
        Stat::decode_response(&self.ask(encode_stat(&mut [0; 4]), &[])).unwrap()
    }

    /// Reads pages one after the other, checks them, and gives the mean of rounds that it took.
    fn rounds_per_request(&mut self, hostile: &mut dyn FnMut(&mut Self, usize)) -> f64 {
        let (mut sum, mut number) = (0, 0);
        for request in 0..HONEST_REQUESTS {
            let page = PageRef { extent: self.extent, page: request % 64 };
            let mut buffer = [0; READ_REQUEST_MAX_BYTES];
            let read = encode_read(&[page], &mut buffer).to_vec();
            let (response, rounds) = self.ask_while(&read, &[], &mut |world| {
                hostile(world, number);
                number += 1;
            });
            let read = ReadResponse::decode(&response, 1).unwrap();
            assert_eq!(read.iter().next(), Some(PageContent::Data(&pattern(request % 64))), "a page was lost");
            sum += rounds;
        }
        f64::from(sum) / f64::from(HONEST_REQUESTS)
    }

    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut counters = BTreeMap::new();
        self.slave.counters(&mut |name, count| {
            *counters.entry(name.trim_start_matches("dropped_rpc_")).or_default() += count;
        });
        counters
    }

    /// Lets a stranger send packets while the honest client works: nobody is slowed, nothing is kept of the stranger, and
    /// what was dropped is counted. Gives what each counter grew by.
    fn attack(
        &mut self,
        what: &str,
        packet: &mut dyn FnMut(usize, &Stranger) -> Vec<u8>,
    ) -> BTreeMap<&'static str, u64> {
        let mut stranger = Stranger::new(&self.hub);
        let (before, sessions) = (self.counters(), self.stat().sessions);
        let mut sent = 0;
        let cpu = thread_cpu();
        let rounds = self.rounds_per_request(&mut |_, _| {
            for _ in 0..HOSTILE_PER_ROUND {
                let packet = packet(sent, &stranger);
                stranger.send(&packet);
                sent += 1;
            }
            stranger.turn();
        });
        let cpu = (thread_cpu() - cpu) / sent as u32;
        self.round();
        let after = self.counters();
        let grown = after.iter().map(|(name, count)| (*name, count - before.get(name).copied().unwrap_or(0)));
        let grown: BTreeMap<_, _> = grown.filter(|(_, count)| *count > 0).collect();
        let slowdown = rounds / self.rounds_alone;
        println!(
            "{what}: {sent} packets, honest requests take {slowdown:.2} of the time alone, {cpu:?} a packet all told; {} \
             bytes answered to {} sent; {grown:?}",
            stranger.received_bytes, stranger.sent_bytes
        );
        assert!(slowdown <= MAX_SLOWDOWN, "{what}: an honest request takes {slowdown:.2} of its time alone");
        assert_eq!(self.stat().sessions, sessions, "{what}: a stranger has a session");
        grown
    }
}

/// CPU time of this thread so far: for printing only.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

#[test]
fn who_replays_forges_and_truncates_is_counted_and_changes_nothing() {
    let mut world = World::new();
    let seen = world.honest.sent.clone();
    let session = |packet: &[u8]| u64::from_le_bytes(packet[8..16].try_into().unwrap());
    let sealed: Vec<_> = seen.iter().filter(|packet| packet[7] != Kind::Hello as u8).cloned().collect();
    let victim = session(&sealed[0]);

    let grown = world.attack("replayed packets", &mut |number, _| sealed[number % sealed.len()].clone());
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"replayed"]);

    let kinds = [Kind::Bye, Kind::Request, Kind::Probe, Kind::Ack, Kind::KeepAlive];
    let grown = world.attack("forged packets in the clear", &mut |number, _| {
        forge(&Header::new(kinds[number % kinds.len()], victim, 5), &[7; 16], 60)
    });
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"unsealed"]);

    let grown = world.attack("sealed packets with a changed byte", &mut |number, _| {
        let mut packet = sealed[number % sealed.len()].clone();
        // A counter that was not used, so that it is no replay.
        let counter = packet.len() - 24;
        packet[counter..counter + 8].copy_from_slice(&(1_000_000 + number as u64).to_le_bytes());
        packet
    });
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"forged"]);

    let grown = world.attack("truncated packets", &mut |number, _| {
        let packet = &sealed[number % sealed.len()];
        packet[..number % packet.len()].to_vec()
    });
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"truncated"]);

    let grown = world.attack("other protocols, versions, kinds and sums", &mut |number, _| {
        let mut packet = forge(&Header::new(Kind::Probe, victim, 5), &[7; 16], 60);
        match number % 4 {
            0 => packet[4] ^= 1,
            1 => packet[6] = 9,
            2 => packet[0] ^= 1,
            _ => {
                packet = forge(&Header::new(Kind::Response, victim, 5), &[7; 16], 60);
            }
        }
        packet
    });
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"checksum", &"kind", &"magic", &"version"]);

    let grown = world.attack("sessions that are not there", &mut |number, _| {
        forge(&Header::new(kinds[number % kinds.len()], 1 + number as u64, 5), &[], 60)
    });
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"session"]);
    assert!(flag::SEALED != 0 && world.honest.resets == 0);
}

#[test]
fn who_floods_with_hellos_gets_little_and_leaves_nothing() {
    let mut world = World::new();
    let grown = world.attack("hellos without cookies", &mut |number, _| {
        hello(OTHERS + number as u128, 1, [0; 16], b"honest", &[1; 80])
    });
    assert!(grown.is_empty() || grown.keys().all(|reason| *reason == "refused"), "{grown:?}");

    let grown = world.attack("hellos with cookies made up", &mut |number, _| {
        hello(OTHERS + number as u128, 1, [9; 16], b"honest", &[1; 80])
    });
    assert_eq!(grown.keys().collect::<Vec<_>>(), [&"cookie"]);

    let grown = world.attack("hellos with cookies and wrong keys", &mut |number, stranger| {
        let (client, attempt, cookie) = stranger.cookie.unwrap_or((OTHERS + number as u128, 1, [0; 16]));
        let name: &[u8] = if number % 2 == 0 { b"honest" } else { b"nobody" };
        hello(client, attempt, cookie, name, &[number as u8; 80])
    });
    assert!(grown.contains_key("key"), "{grown:?}");
    assert!(grown.keys().all(|reason| ["key", "refused"].contains(reason)), "{grown:?}");

    // The honest client's own hello, from elsewhere, with a cookie of one's own.
    let own = world.honest.sent.iter().rfind(|packet| packet[7] == Kind::Hello as u8).cloned().unwrap();
    let attempt = u64::from_le_bytes(own[16..24].try_into().unwrap());
    let grown = world.attack("the honest client's hello with a cookie of one's own", &mut |_, stranger| {
        let cookie = match stranger.cookie {
            Some((7, of, cookie)) if of == attempt => cookie,
            _ => [0; 16],
        };
        let mut packet = own.clone();
        packet[HEADER_BYTES + 28..HEADER_BYTES + 44].copy_from_slice(&cookie);
        let end = HEADER_BYTES + usize::from(u16::from_le_bytes([packet[40], packet[41]]));
        let checksum = rum_net::wire::checksum::crc32c(&packet[4..end]);
        packet[..4].copy_from_slice(&checksum.to_le_bytes());
        packet
    });
    assert!(grown.is_empty(), "{grown:?}");
}

/// A client with a key of its own, which it may use, and does.
#[test]
fn who_has_a_key_gets_its_quota_and_nothing_of_others() {
    let mut world = World::new();
    let mut mallory = Peer::new(&world.hub, 66, key("mallory"), 16, world.now);
    let mut ask = |world: &mut World, head: &[u8], body: &[u8]| {
        while !mallory.rpc.is_open() {
            mallory.turn(world.now);
            world.round();
        }
        let request = mallory.rpc.request(world.now, head, body).expect("a free slot");
        for _ in 0..100_000 {
            mallory.turn(world.now);
            world.round();
            if let Some(at) = mallory.complete.iter().position(|&complete| complete == request) {
                mallory.complete.swap_remove(at);
                return mallory.responses.remove(&request).unwrap_or_default();
            }
        }
        panic!("no answer");
    };
    let victim = world.extent;
    let foreign = PageRef { extent: victim, page: 3 };
    let not_owner = Err(ResponseError::Refused(Status::NotOwner));
    for _ in 0..50 {
        let read = encode_read(&[foreign], &mut [0; READ_REQUEST_MAX_BYTES]).to_vec();
        assert_eq!(ReadResponse::decode(&ask(&mut world, &read, &[]), 1).map(|_| ()), not_owner);
        let write = encode_write_head(&[(foreign, PageKind::Data)], &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
        assert_eq!(decode_empty_response(&ask(&mut world, &write, &[0xEE; PAGE_BYTES])), not_owner);
        let mut buffer = vec![0; release_request_bytes(1)];
        let release = encode_release(&[victim], &mut buffer).to_vec();
        assert_eq!(decode_empty_response(&ask(&mut world, &release, &[])), not_owner);
    }
    let mut held = 0;
    for _ in 0..50 {
        let reserve = encode_reserve(1, &mut [0; RESERVE_REQUEST_BYTES]).to_vec();
        held += u64::from(decode_reserve_response(&ask(&mut world, &reserve, &[]), 1).is_ok());
    }
    assert_eq!(held, 2, "the quota is two extents");
    assert_eq!(world.slave.totals().over_quota, 48);
    assert_eq!(world.stat().reserved_extents, 3);
    world.rounds_per_request(&mut |_, _| {});
}

#[test]
fn who_opens_thousands_of_sessions_gets_no_more_than_there_are() {
    let mut world = World::new();
    let mut crowd = Vec::new();
    let mut opened = 0;
    // Between the honest client's requests, as fast as the slave shakes hands.
    let rounds = world.rounds_per_request(&mut |world, number| {
        if number % 2 == 0 && crowd.len() < 1200 {
            let incarnation = 1000 + crowd.len() as u128;
            crowd.push(Peer::new(&world.hub, incarnation, key("mallory"), 1, world.now));
        }
        let from = crowd.len().saturating_sub(24);
        crowd[from..].iter_mut().for_each(|peer| peer.turn(world.now));
    });
    let slowdown = rounds / world.rounds_alone;
    assert!(slowdown <= MAX_SLOWDOWN, "an honest request takes {slowdown:.2} of its time alone");
    while crowd.len() < 1200 {
        let incarnation = 1000 + crowd.len() as u128;
        crowd.push(Peer::new(&world.hub, incarnation, key("mallory"), 1, world.now));
    }
    for _ in 0..2000 {
        world.now += Duration::from_millis(2);
        for peer in &mut crowd {
            if !peer.rpc.is_open() {
                peer.turn(world.now);
            }
        }
        for _ in 0..40 {
            world.slave.step(world.now);
        }
        world.honest.rpc.keep_alive(world.now);
        world.honest.turn(world.now);
        opened = crowd.iter().filter(|peer| peer.rpc.is_open()).count();
        if opened == MAX_SESSIONS - 1 && crowd.iter().all(|peer| peer.rpc.is_open() || peer.rpc.refusal().is_some()) {
            break;
        }
    }
    let silent = crowd.iter().filter(|peer| !peer.rpc.is_open() && peer.rpc.refusal().is_none()).count();
    println!("{silent} without an answer");
    println!("{opened} of {} sessions opened, honest requests take {slowdown:.2} of the time alone", crowd.len());
    assert_eq!(opened, MAX_SESSIONS - 1, "all but the honest client's");
    assert!(crowd.iter().all(|peer| peer.rpc.is_open() || peer.rpc.refusal() == Some(Verdict::Full)));
    assert_eq!(world.stat().sessions as usize, MAX_SESSIONS);
    assert!(world.counters()["refused"] > 0);
    world.rounds_per_request(&mut |_, _| {});
    let _ = Key::from_bytes([0; 32]);
}
