//! Inputs to begin with: what real sessions say, and lists of operations that reach deep.

use std::time::{Duration, Instant};

use rum_net::{
    PAGE_BYTES,
    port::page::Page,
    port::{Address, MacAddr},
    rpc::{
        Incarnation, Response,
        client::{Client, ClientConfig},
        server::{Server, ServerConfig, ServerEvent},
    },
    seal::{ClientKey, Key, KeyFile},
    wire::{
        arp::{ArpOperation, ArpPacket},
        ethernet::{ETHERTYPE_IPV4, EthernetHeader},
        header::HEADER_BYTES,
        ipv4::{Ipv4Header, PROTOCOL_UDP},
        message::{
            ExtentRef, FREE_NAME_REQUEST_BYTES, NAME_EXTENTS_REQUEST_BYTES, NAMES_REQUEST_BYTES,
            OPEN_NAME_REQUEST_BYTES, OpenName, PageKind, PageRef, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES,
            ReadResponseWriter, Stat, Status, WRITE_HEAD_MAX_BYTES, encode_bye, encode_extents_response,
            encode_free_name, encode_name_extents, encode_names, encode_names_response, encode_open_name_response,
            encode_read, encode_release, encode_renew, encode_reserve, encode_size_differs, encode_stat, encode_status,
            encode_write_head, release_request_bytes,
        },
        udp::UdpHeader,
    },
};

use crate::Operation;

mod groups;

/// A target's name, and an input for it.
pub type Seed = (&'static str, Vec<u8>);

const MTU: usize = 1500;

/// All seeds.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    packets(&mut seeds);
    framing(&mut seeds);
    requests(&mut seeds);
    responses(&mut seeds);
    texts(&mut seeds);
    endpoints(&mut seeds);
    seeds.extend(groups::seeds());
    seeds
}

/// The packets of a session in the clear and of a sealed one.
fn packets(seeds: &mut Vec<Seed>) {
    for is_sealed in [false, true] {
        for packet in session(is_sealed) {
            let payload_bytes = usize::from(u16::from_le_bytes([packet[40], packet[41]]));
            let payload = packet[HEADER_BYTES..HEADER_BYTES + payload_bytes].to_vec();
            match packet[7] {
                1 => seeds.push(("hello", payload)),
                2 => seeds.push(("hello_ack", payload)),
                11 => seeds.push(("hello_retry", payload)),
                _ => {}
            }
            // Padding teaches nothing.
            let mut packet = packet;
            packet.truncate(HEADER_BYTES + payload_bytes.min(100) + if packet[42] & 8 == 0 { 0 } else { 24 });
            seeds.push(("header", packet));
        }
    }
}

/// What two ends say to each other: an opening, a request and an answer of several packets, and the end.
pub fn session(is_sealed: bool) -> Vec<Vec<u8>> {
    let mut now = Instant::now();
    let config =
        ClientConfig { incarnation: Incarnation(7), channel: 0, mtu: MTU, slots: 8, max_request_bytes: 20_000 };
    let key = ClientKey { name: "ada".to_owned(), key: Key::from_bytes([1; 32]), quota_bytes: None };
    let file = KeyFile::parse("keys", &format!("ada {}\n", &*key.key.to_hex())).expect("a good line");
    let server = ServerConfig {
        incarnation: Incarnation(99),
        mtu: MTU,
        session_timeout: Duration::from_secs(10),
        max_sessions: 4,
    };
    let mut client = Client::new(config, is_sealed.then_some(key), now);
    let mut server = Server::new(server, is_sealed.then(|| file.into()), [7; 32], now);
    let mut said = Vec::new();
    for round in 0..12 {
        match round {
            4 => drop(client.request(now, &[5; 4], &[6; 6000])),
            8 => client.keep_alive(now),
            10 => client.close(now),
            _ => {}
        }
        let mut lost = 0;
        while let Some(packet) = client.poll_transmit(now) {
            let packet = packet.to_vec();
            // One that is lost makes a status say so.
            lost += 1;
            if !(round == 4 && lost == 2) {
                server.handle(now, Address::default(), &packet, &mut |responder, event| {
                    if let ServerEvent::Request { .. } = event {
                        responder.response().head.extend_from_slice(&[9; 5000]);
                    }
                });
            }
            said.push(packet);
        }
        while let Some((_, packet)) = server.poll_transmit(now) {
            let packet = packet.to_vec();
            client.handle(now, &packet, &mut |_| ());
            said.push(packet);
        }
        now += Duration::from_millis(30);
    }
    said
}

fn framing(seeds: &mut Vec<Seed>) {
    let (a, b) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let ethernet = EthernetHeader { destination: a, source: b };
    seeds.push(("ethernet", [&ethernet.encode(), &b"RUM"[..]].concat()));
    seeds.push(("ethernet", [&ethernet.encode_as(ETHERTYPE_IPV4), &b"IP"[..]].concat()));
    let ip = Ipv4Header {
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        protocol: PROTOCOL_UDP,
        payload_bytes: 12,
    };
    let udp = UdpHeader { source_port: 50_000, destination_port: 21_069, payload_bytes: 4 };
    seeds.push(("ipv4_udp", [&ip.encode()[..], &udp.encode(), b"RUM!"].concat()));
    for operation in [ArpOperation::Request, ArpOperation::Reply] {
        let packet =
            ArpPacket { operation, sender_mac: a, sender_ip: ip.source, target_mac: b, target_ip: ip.destination };
        seeds.push(("arp", packet.encode().to_vec()));
    }
}

const EXTENTS: [ExtentRef; 2] = [ExtentRef { index: 1, generation: 2 }, ExtentRef { index: 3, generation: 4 }];
const PAGES: [PageRef; 2] = [PageRef { extent: EXTENTS[0], page: 5 }, PageRef { extent: EXTENTS[1], page: 6 }];
const HASH: [u8; 32] = [0xAB; 32];

fn requests(seeds: &mut Vec<Seed>) {
    let mut push = |message: &[u8]| seeds.push(("request", message.to_vec()));
    push(encode_stat(&mut [0; 4]));
    push(encode_renew(&mut [0; 4]));
    push(encode_bye(&mut [0; 4]));
    push(encode_reserve(7, &mut [0; RESERVE_REQUEST_BYTES]));
    push(encode_release(&EXTENTS, &mut vec![0; release_request_bytes(2)]));
    push(encode_read(&PAGES, &mut [0; READ_REQUEST_MAX_BYTES]));
    let kinds = [(PAGES[0], PageKind::Data), (PAGES[1], PageKind::Zeros)];
    push(&[encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]), &[3; 4096]].concat());
    for create_bytes in [None, Some(5 << 20)] {
        push(OpenName { hash: HASH, create_bytes }.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]));
    }
    push(encode_name_extents(&HASH, 2, &mut [0; NAME_EXTENTS_REQUEST_BYTES]));
    push(encode_names(Some(&HASH), &mut [0; NAMES_REQUEST_BYTES]));
    push(encode_free_name(&HASH, &mut [0; FREE_NAME_REQUEST_BYTES]));
}

fn responses(seeds: &mut Vec<Seed>) {
    let mut push = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut response = Vec::new();
        encode(&mut response);
        seeds.push(("response", response));
    };
    for status in Status::ALL {
        push(&|response| encode_status(status, response));
    }
    push(&|response| encode_size_differs(5 << 20, response));
    push(&|response| encode_extents_response(&EXTENTS, response));
    push(&|response| encode_names_response(&[([1; 32], 5), (HASH, u64::MAX)], response));
    push(&|response| encode_open_name_response(5 << 20, true, &EXTENTS, response));
    push(&|bytes| {
        let mut response = Response::default();
        let mut writer = ReadResponseWriter::new(&mut response);
        writer.push(None);
        writer.push(Some(Page::copy_of(&[3; PAGE_BYTES])));
        bytes.extend_from_slice(&response.to_vec());
    });
    let stat = Stat {
        incarnation: Incarnation(9),
        capacity_extents: 64,
        reserved_extents: 3,
        used_pages: 5,
        sessions: 2,
        lease: Duration::from_secs(10),
    };
    push(&|response| stat.encode_response(response));
}

fn texts(seeds: &mut Vec<Seed>) {
    let key = Key::from_bytes([0x5A; 32]).to_hex();
    for (target, text) in [
        ("key_file", format!("# who may join\nanalytics  {}  64G\n\ncache 09{}\n", &*key, &key[2..])),
        ("machines", "ip,mac,link,name,memory\n10.0.0.1,02:00:00:00:00:01,udp:af_packet:eth1,a,4G\n".to_owned()),
        ("machines", "# a\n10.0.0.1,02:00:00:00:00:01\n10.0.0.2,02:00:00:00:00:02,\"vdev:net_ring0,x=1\"\n".to_owned()),
        ("faults", "loss=0.01,dup=0.01,reorder=0.02,corrupt=0.1,truncate=0.5,seed=7".to_owned()),
        ("faults", "latency=50us,jitter=10us,rate=1G".to_owned()),
    ] {
        seeds.push((target, text.into_bytes()));
    }
}

/// Exchanges operations for bytes.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn then(mut self, operation: Operation, argument: u8) -> Self {
        self.0.extend_from_slice(&[operation as u8, argument]);
        self
    }

    fn with(mut self, operation: Operation, argument: u8, bytes: &[u8]) -> Self {
        self = self.then(operation, argument);
        self.0.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn words(mut self, operation: Operation, argument: u8, words: &[u16]) -> Self {
        self = self.then(operation, argument);
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    /// Both ends send and receive what they have.
    fn exchange(self) -> Self {
        self.then(Operation::PollClient, 0)
            .then(Operation::DeliverToServer, 255)
            .then(Operation::PollServer, 0)
            .then(Operation::DeliverToClient, 255)
    }
}

fn endpoints(seeds: &mut Vec<Seed>) {
    let opened = || Script(vec![0]);
    let long = || opened().words(Operation::Ask, 100, &[3000]).exchange().exchange().exchange();
    let lossy = opened()
        .words(Operation::Ask, 90, &[4000])
        .then(Operation::PollClient, 0)
        .then(Operation::Lose, 1)
        .then(Operation::DeliverToServer, 3)
        .then(Operation::NotSent, 1)
        .exchange()
        .then(Operation::Lose, 0)
        .then(Operation::Wait, 26)
        .exchange()
        .exchange();
    let replayed = long().words(Operation::Replay, 0, &[0, 0]).words(Operation::Replay, 2, &[60, 1]).exchange();
    let late = opened()
        .words(Operation::Ask, 200, &[10])
        .exchange()
        .then(Operation::Wait, 27)
        .exchange()
        .then(Operation::Answer, 0)
        .exchange();
    let changing = long().then(Operation::Change, 5).exchange().exchange().then(Operation::Change, 4).exchange();
    let closing = long().then(Operation::Close, 1).then(Operation::Wait, 35).then(Operation::Close, 0).exchange();
    let scripts = [long().0, lossy.0, replayed.0, late.0, changing.0, closing.0];
    for target in ["server", "client", "server_sealed", "client_sealed"] {
        seeds.extend(scripts.iter().map(|script| (target, script.clone())));
        let said = session(target.ends_with("sealed"));
        let mut unopened = Script(vec![1]);
        for packet in &said {
            let end = HEADER_BYTES + usize::from(u16::from_le_bytes([packet[40], packet[41]])).min(200);
            let operation = if packet[7] == 1 { Operation::InjectRepaired } else { Operation::InjectInSession };
            unopened = unopened.with(operation, 4, &packet[..end.min(packet.len())]);
        }
        seeds.push((target, unopened.exchange().0));
        let hello = said.iter().find(|packet| packet[7] == 1).expect("a session begins with a hello");
        let hello = &hello[HEADER_BYTES..HEADER_BYTES + usize::from(hello[40])];
        let hellos = (0..8).fold(opened(), |script, argument| script.with(Operation::InjectHello, argument, hello));
        seeds.push((target, hellos.exchange().0));
    }
}
