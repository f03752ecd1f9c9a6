//! Where fields lie: two encodings that differ in one field differ in its bytes.

use std::{net::Ipv4Addr, sync::LazyLock, time::Duration};

use rum_net::{
    PAGE_BYTES,
    port::MacAddr,
    port::page::Page,
    rpc::{Incarnation, Response},
    seal::{FIRST_OVERHEAD_BYTES, Initiator, Key, SECOND_OVERHEAD_BYTES, TRAILER_BYTES},
    wire::{
        arp::{self, ArpOperation, ArpPacket},
        checksum::Checksummer,
        ethernet::{self, EthernetHeader},
        header::{HEADER_BYTES, Header, Kind, MAGIC, VERSION, flag},
        hello::{Claim, Grant, Hello, HelloAck, HelloRetry, Verdict},
        ipv4::{self, Ipv4Header},
        message::*,
        udp::{self, UdpHeader},
    },
};

use super::document::Document;

/// How a row of a layout is held.
enum Field {
    /// These two encodings differ in it alone.
    Varies(&'static str, Vec<u8>, Vec<u8>),
    /// This encoding has these bytes there.
    Is(&'static str, Vec<u8>, Vec<u8>),
    /// Nothing writes it: its place is held by its neighbours'.
    Reserved(&'static str),
    /// Where it is and how long depends on what comes before: as in these words.
    Rest(&'static str, String, String),
}

use Field::{Is, Reserved, Rest, Varies};

impl Field {
    fn name(&self) -> &'static str {
        match self {
            Varies(name, ..) | Is(name, ..) | Reserved(name) | Rest(name, ..) => name,
        }
    }

    /// What is wrong with the place `at` and the length `bytes`, if that is all it is.
    fn complaint(&self, at: usize, bytes: usize) -> Option<String> {
        match self {
            Varies(_, a, b) => {
                let differs: Vec<usize> = (0..a.len().min(b.len())).filter(|i| a[*i] != b[*i]).collect();
                let is_there = differs.first() == Some(&at) && differs.last() < Some(&(at + bytes));
                (!is_there).then(|| format!("it is in the bytes {differs:?}"))
            }
            Is(_, encoded, expected) => {
                let found = encoded.get(at..at + bytes);
                (found != Some(expected)).then(|| format!("the bytes there are {found:?}"))
            }
            Reserved(_) => None,
            Rest(..) => Some("its place depends on what comes before".to_owned()),
        }
    }
}

/// A table of a layout, its first byte, and its length if that is always the same.
struct Layout {
    name: &'static str,
    start: usize,
    fields: Vec<Field>,
    end: Option<usize>,
}

static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    [framing(), packets(), openings(), names(), requests(), responses(), groups()].into_iter().flatten().collect()
});

/// All places that the document does not have, or has otherwise.
pub fn check(document: &Document) -> Vec<String> {
    let mut complaints = Vec::new();
    for layout in LAYOUTS.iter() {
        match document.table(2, layout.name) {
            Some(table) if table.head[..2] == ["at", "bytes"] => check_layout(layout, &table.rows, &mut complaints),
            _ => complaints.push(format!("no layout of {}", layout.name)),
        }
    }
    let count = document.tables.iter().filter(|table| table.head[0] == "at").count();
    if count != LAYOUTS.len() {
        complaints.push(format!("{count} layouts, expected {}", LAYOUTS.len()));
    }
    complaints
}

fn check_layout(layout: &Layout, rows: &[Vec<String>], complaints: &mut Vec<String>) {
    let said: Vec<&str> = rows.iter().map(|row| row[2].as_str()).collect();
    let expected: Vec<&str> = layout.fields.iter().map(Field::name).collect();
    if said != expected {
        return complaints.push(format!("{}: {said:?}, but the code has {expected:?}", layout.name));
    }
    let mut end = layout.start;
    for (field, row) in layout.fields.iter().zip(rows) {
        let mut complain = |what: String| complaints.push(format!("{}, {}: {what}", layout.name, field.name()));
        if let Rest(_, at, bytes) = field {
            if (at, bytes) != (&row[0], &row[1]) {
                complain(format!("at {at}, {bytes} bytes"));
            }
            if at.parse::<usize>().is_ok_and(|at| at != end) {
                complain(format!("the field before ends at {end}"));
            }
            continue;
        }
        let (Ok(at), Ok(bytes)) = (row[0].parse::<usize>(), row[1].parse::<usize>()) else {
            complain("its place is no number".to_owned());
            continue;
        };
        if at != end {
            complain(format!("the field before ends at {end}"));
        }
        if let Some(what) = field.complaint(at, bytes) {
            complain(what);
        }
        end = at + bytes;
    }
    if layout.end.is_some_and(|expected| expected != end) {
        complaints.push(format!("{} ends at {end}, expected {:?}", layout.name, layout.end));
    }
}

const ONES: MacAddr = MacAddr([0xFF; 6]);
const ZEROS: MacAddr = MacAddr([0; 6]);

fn framing() -> Vec<Layout> {
    let ethernet = |destination, source| EthernetHeader { destination, source };
    let base = ethernet(ZEROS, ZEROS).encode().to_vec();
    let ip = |source: u32, destination: u32, protocol, payload_bytes| {
        let header = Ipv4Header { source: source.into(), destination: destination.into(), protocol, payload_bytes };
        let mut bytes = header.encode().to_vec();
        // The checksum covers all.
        bytes[10..12].fill(0);
        bytes
    };
    let whole =
        Ipv4Header { source: Ipv4Addr::LOCALHOST, destination: Ipv4Addr::LOCALHOST, protocol: 17, payload_bytes: 0 };
    let whole = whole.encode().to_vec();
    let mut unsummed = whole.clone();
    unsummed[10..12].fill(0);
    let datagram = |source_port, destination_port, payload_bytes| {
        UdpHeader { source_port, destination_port, payload_bytes }.encode().to_vec()
    };
    let arp = |operation, sender_mac, sender_ip: u32, target_mac, target_ip: u32| {
        let (sender_ip, target_ip) = (sender_ip.into(), target_ip.into());
        ArpPacket { operation, sender_mac, sender_ip, target_mac, target_ip }.encode().to_vec()
    };
    let ask = arp(ArpOperation::Request, ZEROS, 0, ZEROS, 0);
    let is = |name, bytes: &[u8]| Is(name, whole.clone(), bytes.to_vec());
    vec![
        Layout {
            name: "ethernet",
            start: 0,
            fields: vec![
                Varies("destination", base.clone(), ethernet(ONES, ZEROS).encode().to_vec()),
                Varies("source", base.clone(), ethernet(ZEROS, ONES).encode().to_vec()),
                Is("ethertype", base, vec![0x88, 0xB5]),
            ],
            end: Some(ethernet::HEADER_BYTES),
        },
        Layout {
            name: "ipv4",
            start: 0,
            fields: vec![
                is("version and words", &[0x45]),
                is("type of service", &[0]),
                Varies("length", ip(0, 0, 0, 0), ip(0, 0, 0, 0xFF00)),
                is("identification", &[0, 0]),
                is("fragment", &[0x40, 0]),
                is("time to live", &[64]),
                Varies("protocol", ip(0, 0, 0, 0), ip(0, 0, 17, 0)),
                Varies("checksum", unsummed, whole.clone()),
                Varies("source", ip(0, 0, 0, 0), ip(u32::MAX, 0, 0, 0)),
                Varies("destination", ip(0, 0, 0, 0), ip(0, u32::MAX, 0, 0)),
            ],
            end: Some(ipv4::HEADER_BYTES),
        },
        Layout {
            name: "udp",
            start: 0,
            fields: vec![
                Varies("source port", datagram(0, 0, 0), datagram(u16::MAX, 0, 0)),
                Varies("destination port", datagram(0, 0, 0), datagram(0, u16::MAX, 0)),
                Varies("length", datagram(0, 0, 0), datagram(0, 0, 0xFF00)),
                Is("checksum", datagram(1, 1, 1), vec![0, 0]),
            ],
            end: Some(udp::HEADER_BYTES),
        },
        Layout {
            name: "arp",
            start: 0,
            fields: vec![
                Is("kind", ask.clone(), vec![0, 1, 8, 0, 6, 4]),
                Is("operation", ask.clone(), vec![0, 1]),
                Varies("sender mac", ask.clone(), arp(ArpOperation::Request, ONES, 0, ZEROS, 0)),
                Varies("sender ip", ask.clone(), arp(ArpOperation::Request, ZEROS, u32::MAX, ZEROS, 0)),
                Varies("target mac", ask.clone(), arp(ArpOperation::Request, ZEROS, 0, ONES, 0)),
                Varies("target ip", ask, arp(ArpOperation::Request, ZEROS, 0, ZEROS, u32::MAX)),
            ],
            end: Some(arp::PACKET_BYTES),
        },
    ]
}

fn packets() -> Vec<Layout> {
    let base = Header::new(Kind::Bye, 0, 0);
    let summed = |header: Header, payload: &[u8]| {
        let mut head = vec![0; HEADER_BYTES];
        header.encode(&mut head, payload, &mut Checksummer::new());
        head
    };
    let encoded = |header: Header, payload: &[u8]| {
        let mut head = summed(header, payload);
        head[..4].fill(0);
        head
    };
    let varies = |name, header: Header| Varies(name, encoded(base, &[]), encoded(header, &[]));
    let (ours, theirs) = keys();
    let (mut sealer, mut other) = (ours, theirs);
    let mut first = [0; 4];
    let trailers = [sealer.seal(b"", &mut first), sealer.seal(b"", &mut first)];
    let counters = trailers.map(|mut trailer| {
        trailer[8..].fill(0);
        trailer.to_vec()
    });
    let mut tags = [trailers[0], other.seal(b"", &mut [0; 4])];
    assert_eq!(tags[0][..8], tags[1][..8], "both are the first of their direction");
    tags[1][8] = !tags[0][8];
    vec![
        Layout {
            name: "header",
            start: 0,
            fields: vec![
                Varies("checksum", encoded(base, &[]), summed(base, &[])),
                Is("magic", encoded(base, &[]), MAGIC.to_le_bytes().to_vec()),
                Is("version", encoded(base, &[]), vec![VERSION]),
                Is("kind", encoded(base, &[]), vec![Kind::Bye as u8]),
                varies("session", Header { session: u64::MAX, ..base }),
                varies("request", Header { request: u64::MAX, ..base }),
                varies("message", Header { message_bytes: u32::MAX, ..base }),
                varies("offset", Header { offset: u32::MAX, ..base }),
                varies("idle", Header { idle: u32::MAX, ..base }),
                varies("ahead", Header { ahead: u16::MAX, ..base }),
                varies("window", Header { window: u16::MAX, ..base }),
                Varies("length", encoded(base, &[]), encoded(base, &[0; 0xFFFF])),
                varies("flags", Header { flags: !flag::SEALED, ..base }),
            ],
            end: Some(HEADER_BYTES),
        },
        Layout {
            name: "trailer",
            start: 0,
            fields: vec![
                Varies("counter", counters[0].clone(), counters[1].clone()),
                Varies("tag", tags[0].to_vec(), tags[1].to_vec()),
            ],
            end: Some(TRAILER_BYTES),
        },
    ]
}

/// Of a session's two directions.
fn keys() -> (rum_net::seal::Sealer, rum_net::seal::Sealer) {
    let key = Key::from_bytes([1; 32]);
    let mut initiator = Initiator::new(&key, &[]).unwrap();
    let (mut first, mut second, mut out) = ([0; FIRST_OVERHEAD_BYTES], [0; SECOND_OVERHEAD_BYTES], [0; 16]);
    initiator.first_message(&[], &mut first).unwrap();
    let (_, theirs, _) = rum_net::seal::respond(&key, &[], &first, &mut out, &[], &mut second).unwrap();
    let (_, ours, _) = initiator.finish(&second, &mut out).unwrap();
    (ours, theirs)
}

fn openings() -> Vec<Layout> {
    let base = Hello { client: 0, mtu: 0, slots: 0, channel: 0, cookie: [0; 16], name: &[], handshake: &[] };
    let hello = |hello: Hello<'_>| {
        let mut bytes = vec![0; 600];
        hello.encode(&mut bytes);
        bytes.truncate(46);
        bytes
    };
    let hello_field = |name, other| Varies(name, hello(base), hello(other));
    let retry = |client, cookie| HelloRetry { client, cookie }.encode().to_vec();
    let ack_of = |client, verdict, handshake: &[u8]| {
        let mut bytes = vec![0; 300];
        HelloAck { client, verdict, grant: None, handshake }.encode(&mut bytes);
        bytes.truncate(18);
        bytes
    };
    let ack = || ack_of(0, Verdict::Granted, &[]);
    let grant = |server, session, mtu, slots| Grant { server, session, mtu, slots }.encode().to_vec();
    let claim = |client, attempt, slots, channel| Claim { client, attempt, slots, channel }.encode().to_vec();
    let words = |at: &str| at.to_owned();
    vec![
        Layout {
            name: "hello",
            start: 0,
            fields: vec![
                hello_field("client", Hello { client: u128::MAX, ..base }),
                hello_field("mtu", Hello { mtu: u32::MAX, ..base }),
                hello_field("slots", Hello { slots: u32::MAX, ..base }),
                hello_field("channel", Hello { channel: u32::MAX, ..base }),
                hello_field("cookie", Hello { cookie: [0xFF; 16], ..base }),
                hello_field("name length", Hello { name: &[0], ..base }),
                hello_field("handshake length", Hello { handshake: &[0], ..base }),
                Rest("name", (Hello::MAX_BYTES - 32 - 80).to_string(), words("n")),
                Rest("handshake", words("46 + n"), words("h")),
            ],
            end: None,
        },
        Layout {
            name: "hello-retry",
            start: 0,
            fields: vec![
                Varies("client", retry(0, [0; 16]), retry(u128::MAX, [0; 16])),
                Varies("cookie", retry(0, [0; 16]), retry(0, [0xFF; 16])),
            ],
            end: Some(HelloRetry::BYTES),
        },
        Layout {
            name: "hello-ack",
            start: 0,
            fields: vec![
                Varies("client", ack(), ack_of(u128::MAX, Verdict::Granted, &[])),
                Varies("verdict", ack(), ack_of(0, Verdict::Taken, &[])),
                Varies("handshake length", ack(), ack_of(0, Verdict::Granted, &[0; 80])),
                Rest("grant or handshake", (HelloAck::MAX_BYTES - 80).to_string(), format!("{} or h", Grant::BYTES)),
            ],
            end: None,
        },
        Layout {
            name: "grant",
            start: 0,
            fields: vec![
                Varies("server", grant(0, 0, 0, 0), grant(u128::MAX, 0, 0, 0)),
                Varies("session", grant(0, 0, 0, 0), grant(0, u64::MAX, 0, 0)),
                Varies("mtu", grant(0, 0, 0, 0), grant(0, 0, u32::MAX, 0)),
                Varies("slots", grant(0, 0, 0, 0), grant(0, 0, 0, u32::MAX)),
            ],
            end: Some(Grant::BYTES),
        },
        Layout {
            name: "claim",
            start: 0,
            fields: vec![
                Varies("client", claim(0, 0, 0, 0), claim(u128::MAX, 0, 0, 0)),
                Varies("attempt", claim(0, 0, 0, 0), claim(0, u64::MAX, 0, 0)),
                Varies("slots", claim(0, 0, 0, 0), claim(0, 0, u32::MAX, 0)),
                Varies("channel", claim(0, 0, 0, 0), claim(0, 0, 0, u32::MAX)),
            ],
            end: Some(Claim::BYTES),
        },
        Layout { name: "handshake", start: 0, fields: handshake(), end: Some(FIRST_OVERHEAD_BYTES + Claim::BYTES) },
    ]
}

/// Of a first message, two of which differ everywhere: each part begins where the next length of payload begins to matter.
fn handshake() -> Vec<Field> {
    let first = |bytes: usize| {
        let mut out = vec![0; FIRST_OVERHEAD_BYTES + bytes];
        let mut initiator = Initiator::new(&Key::from_bytes([1; 32]), &[]).unwrap();
        initiator.first_message(&vec![0; bytes], &mut out).unwrap();
        out.len()
    };
    let tag = rum_net::seal::TAG_BYTES;
    let part = |from: usize, to: usize| {
        let (a, mut b) = (vec![0; first(32)], vec![0; first(32)]);
        b[from..to].fill(1);
        (a, b)
    };
    let (ephemeral, payload) = (first(0) - tag, first(32) - tag);
    let varies = |name, (a, b)| Varies(name, a, b);
    vec![
        varies("ephemeral key", part(0, ephemeral)),
        varies("payload", part(ephemeral, payload)),
        varies("tag", part(payload, payload + tag)),
    ]
}

fn names() -> Vec<Layout> {
    let extent = |index, generation| ExtentRef { index, generation };
    let bytes = |index, generation| extent(index, generation).to_bytes().to_vec();
    let page = |index, generation, page| PageRef { extent: extent(index, generation), page }.to_bytes().to_vec();
    vec![
        Layout {
            name: "extent",
            start: 0,
            fields: vec![
                Varies("index", bytes(0, 0), bytes(u32::MAX, 0)),
                Varies("generation", bytes(0, 0), bytes(0, u32::MAX)),
            ],
            end: Some(EXTENT_REF_BYTES),
        },
        Layout {
            name: "page",
            start: 0,
            fields: vec![
                Varies("index", page(0, 0, 0), page(u32::MAX, 0, 0)),
                Varies("generation", page(0, 0, 0), page(0, u32::MAX, 0)),
                Varies("page", page(0, 0, 0), page(0, 0, u32::MAX)),
            ],
            end: Some(PAGE_REF_BYTES),
        },
    ]
}

/// The first `bytes` of a message that may be of several lengths.
fn front(message: &[u8], bytes: usize) -> Vec<u8> {
    message[..bytes.min(message.len())].to_vec()
}

fn requests() -> Vec<Layout> {
    let page = PageRef::default();
    let reserve = |count| encode_reserve(count, &mut [0; RESERVE_REQUEST_BYTES]).to_vec();
    let release = |count| {
        front(encode_release(&vec![ExtentRef::default(); count], &mut vec![0; release_request_bytes(count)]), 8)
    };
    let read = |count| front(encode_read(&vec![page; count], &mut [0; READ_REQUEST_MAX_BYTES]), 8);
    let write =
        |count| front(encode_write_head(&vec![(page, PageKind::Zeros); count], &mut [0; WRITE_HEAD_MAX_BYTES]), 8);
    let open = |create_bytes, hash| OpenName { hash, create_bytes }.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]).to_vec();
    // Create comes with a size.
    let mut create = open(Some(1), [0; 32]);
    create[8..16].fill(0);
    let name = |hash, from| encode_name_extents(&hash, from, &mut [0; NAME_EXTENTS_REQUEST_BYTES]).to_vec();
    let free = |hash| encode_free_name(&hash, &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec();
    let names = |after: Option<NameHash>| encode_names(after.as_ref(), &mut [0; NAMES_REQUEST_BYTES]).to_vec();
    let kinds_at = REQUEST_HEAD_BYTES + 4;
    let kinds_bytes = WRITE_HEAD_MAX_BYTES - kinds_at - MAX_BATCH_PAGES * PAGE_REF_BYTES;
    let pages = || Rest("pages", "8".to_owned(), format!("{PAGE_REF_BYTES}n"));
    let extents = Rest("extents", "8".to_owned(), format!("{EXTENT_REF_BYTES}n"));
    let layout = |name, fields, end| Layout { name, start: REQUEST_HEAD_BYTES, fields, end };
    vec![
        Layout {
            name: "request",
            start: 0,
            fields: vec![Is("opcode", reserve(1), vec![Opcode::Reserve as u8]), Reserved("reserved")],
            end: Some(REQUEST_HEAD_BYTES),
        },
        layout("reserve request", vec![Varies("count", reserve(1), reserve(2))], Some(RESERVE_REQUEST_BYTES)),
        layout(
            "release request",
            vec![Varies("count", release(1), release(2)), extents],
            Some(release_request_bytes(0)),
        ),
        layout("read request", vec![Varies("count", read(1), read(2)), pages()], Some(kinds_at)),
        layout(
            "write request",
            vec![
                Varies("count", write(1), write(2)),
                pages(),
                Rest("kinds", format!("{kinds_at} + {PAGE_REF_BYTES}n"), kinds_bytes.to_string()),
                Rest("data", format!("{} + {PAGE_REF_BYTES}n", kinds_at + kinds_bytes), format!("{PAGE_BYTES}d")),
            ],
            Some(kinds_at),
        ),
        layout(
            "open name request",
            vec![
                Varies("create", open(None, [0; 32]), create),
                Reserved("reserved"),
                Varies("size", open(Some(1 << 8), [0; 32]), open(Some(u64::MAX), [0; 32])),
                Varies("hash", open(None, [0; 32]), open(None, [0xFF; 32])),
            ],
            Some(OPEN_NAME_REQUEST_BYTES),
        ),
        layout(
            "name extents request",
            vec![
                Varies("from", name([0; 32], 0), name([0; 32], u32::MAX)),
                Varies("hash", name([0; 32], 0), name([0xFF; 32], 0)),
            ],
            Some(NAME_EXTENTS_REQUEST_BYTES),
        ),
        layout(
            "free name request",
            vec![Varies("hash", free([0; 32]), free([0xFF; 32]))],
            Some(FREE_NAME_REQUEST_BYTES),
        ),
        layout(
            "names request",
            vec![
                Varies("is after", names(None), names(Some([0; 32]))),
                Reserved("reserved"),
                Varies("after", names(Some([0; 32])), names(Some([0xFF; 32]))),
            ],
            Some(NAMES_REQUEST_BYTES),
        ),
    ]
}

fn response(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut response = Vec::new();
    encode(&mut response);
    response
}

fn responses() -> Vec<Layout> {
    let stat = |incarnation, [capacity_extents, reserved_extents, used_pages, sessions, lease_ms]: [u64; 5]| {
        let (incarnation, lease) = (Incarnation(incarnation), Duration::from_millis(lease_ms));
        let stat = Stat { incarnation, capacity_extents, reserved_extents, used_pages, sessions, lease };
        response(|response| stat.encode_response(response))
    };
    let number = |which: usize| {
        let mut numbers = [0; 5];
        numbers[which] = u64::MAX;
        (stat(0, [0; 5]), stat(0, numbers))
    };
    let varies = |name, (a, b)| Varies(name, a, b);
    let extents =
        |count| front(&response(|response| encode_extents_response(&vec![ExtentRef::default(); count], response)), 12);
    let opened = |size, existed, count: usize| {
        response(|response| encode_open_name_response(size, existed, &vec![ExtentRef::default(); count], response))
    };
    let counted = |count, at: usize| {
        let mut response = front(&opened(0, false, count), 28);
        response[at..at + 4].fill(0);
        response
    };
    let status = |status| response(|response| encode_status(status, response));
    let differs = |size| response(|response| encode_size_differs(size, response));
    let names = |count| front(&response(|response| encode_names_response(&vec![([0; 32], 0); count], response)), 16);
    let list = |at: &str| Rest("extents", at.to_owned(), format!("{EXTENT_REF_BYTES}n"));
    let read = |page: Option<Page>| {
        let mut response = Response::default();
        ReadResponseWriter::new(&mut response).push(page);
        response.to_vec()
    };
    let (zeros, data) = (read(None), read(Some(Page::copy_of(&[1; PAGE_BYTES]))));
    let layout = |name, fields, end| Layout { name, start: RESPONSE_HEAD_BYTES, fields, end };
    vec![
        Layout {
            name: "response",
            start: 0,
            fields: vec![Varies("status", status(Status::Ok), status(Status::Full)), Reserved("reserved")],
            end: Some(RESPONSE_HEAD_BYTES),
        },
        layout(
            "stat response",
            vec![
                Varies("incarnation", stat(0, [0; 5]), stat(u128::MAX, [0; 5])),
                varies("capacity", number(0)),
                varies("reserved extents", number(1)),
                varies("used pages", number(2)),
                varies("sessions", number(3)),
                varies("lease", number(4)),
            ],
            Some(STAT_RESPONSE_BYTES),
        ),
        layout("reserve response", vec![Varies("count", extents(0), extents(1)), list("12")], Some(12)),
        layout(
            "read response",
            vec![
                Varies("kinds", zeros.clone(), front(&data, zeros.len())),
                Rest("data", READ_RESPONSE_HEAD_BYTES.to_string(), format!("{PAGE_BYTES}d")),
            ],
            Some(zeros.len()),
        ),
        layout(
            "open name response",
            vec![
                Varies("size", opened(0, false, 0), opened(u64::MAX, false, 0)),
                Varies("total", counted(0, 24), counted(1, 24)),
                Varies("existed", opened(0, false, 0), opened(0, true, 0)),
                Reserved("reserved"),
                Varies("count", counted(0, 16), counted(1, 16)),
                list("28"),
            ],
            Some(opened(0, false, 0).len()),
        ),
        layout("size differs response", vec![Varies("size", differs(0), differs(u64::MAX))], Some(differs(0).len())),
        layout("name extents response", vec![Varies("count", extents(0), extents(1)), list("12")], Some(12)),
        layout(
            "names response",
            vec![
                Varies("count", names(0), names(1)),
                Reserved("reserved"),
                Rest("names", "16".to_owned(), format!("{NAME_BYTES}n")),
            ],
            Some(16),
        ),
    ]
}

/// What clients say to a group of slaves, and its slaves to each other.
fn groups() -> Vec<Layout> {
    let command = |group, sequence, settled| command_head(group, sequence, settled).to_vec();
    let not_leader = |leader| response(|response| encode_not_leader(leader, response));
    let rest = |name, at: usize| Rest(name, at.to_string(), "rest".to_owned());
    // The opcode is in the table of all requests.
    let request = |name, fields, end| Layout { name, start: 1, fields, end: Some(end) };
    vec![
        request(
            "ask request",
            vec![
                Varies("of any", ask_head(0).to_vec(), ask_any_head(0).to_vec()),
                Varies("group", ask_head(0).to_vec(), ask_head(u16::MAX).to_vec()),
                rest("request", ASK_HEAD_BYTES),
            ],
            ASK_HEAD_BYTES,
        ),
        request(
            "command request",
            vec![
                Reserved("reserved"),
                Varies("group", command(0, 1, 0), command(u16::MAX, 1, 0)),
                Varies("sequence", command(0, 0, 0), command(0, u64::MAX, 0)),
                Varies("settled", command(0, 0, 0), command(0, 0, u64::MAX)),
                rest("request", COMMAND_HEAD_BYTES),
            ],
            COMMAND_HEAD_BYTES,
        ),
        request(
            "peer request",
            vec![
                Reserved("reserved"),
                Varies("sender", peer_head(0).to_vec(), peer_head(u16::MAX).to_vec()),
                rest("messages", PEER_HEAD_BYTES),
            ],
            PEER_HEAD_BYTES,
        ),
        Layout {
            name: "peer response",
            start: RESPONSE_HEAD_BYTES,
            fields: vec![rest("messages", RESPONSE_HEAD_BYTES)],
            end: None,
        },
        Layout {
            name: "describe response",
            start: RESPONSE_HEAD_BYTES,
            fields: vec![rest("JSON", RESPONSE_HEAD_BYTES)],
            end: None,
        },
        Layout {
            name: "not leader response",
            start: RESPONSE_HEAD_BYTES,
            fields: vec![Varies("leader", not_leader(Some(0)), not_leader(None)), Reserved("reserved")],
            end: Some(not_leader(None).len()),
        },
    ]
}
