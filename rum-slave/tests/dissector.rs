//! Wireshark's dissector, tools/rum.lua, against a real session: tshark reads a capture that has every message.

mod support;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rum_net::{
    port::{
        LinkId, Port,
        capture::Capture,
        inject::Inject,
        memory::{MemoryHub, MemoryPort},
    },
    wire::message::{
        FREE_NAME_REQUEST_BYTES, NAME_EXTENTS_REQUEST_BYTES, Opcode, OpenNameRefusal, ResponseError, Status,
        decode_empty_response, decode_name_extents_response, encode_free_name, encode_name_extents, encode_renew,
    },
};
use rum_slave::{Options, Slave};
use support::{TestClient, page, pattern};

fn dissector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/rum.lua")
}

/// Says so and returns true when there is no tshark.
fn is_skipped() -> bool {
    let is_there = Command::new("tshark").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("skipped: there is no tshark (scripts/setup.sh --tests installs it)");
    }
    !is_there
}

/// Fields that are looked at.
const FIELDS: [&str; 27] = [
    "frame.number",
    "rum",
    "rum.malformed",
    "rum.bad_checksum",
    "_ws.malformed",
    "_ws.lua.error",
    "rum.checksum_status",
    "rum.opcode",
    "rum.answer_to",
    "rum.kind",
    "rum.status",
    "rum.count",
    "rum.extent.index",
    "rum.page.number",
    "rum.page_kind",
    "rum.stat.capacity",
    "rum.stat.lease_ms",
    "rum.list_count",
    "rum.size",
    "rum.create",
    "rum.total",
    "rum.from",
    "rum.hello.mtu",
    "rum.hello_ack.mtu",
    "rum.hash",
    "rum.fragment",
    "rum.request_in",
];

/// What tshark finds in each packet, by field.
type Packets = Vec<HashMap<String, Vec<String>>>;

/// Has tshark read a capture with the dissector: once, for it takes a second to start.
fn dissect(capture: &Path) -> Packets {
    let fields: Vec<&str> = FIELDS.into_iter().chain(["rum.time"]).collect();
    let output = Command::new("tshark")
        .arg("-X")
        .arg(format!("lua_script:{}", dissector().display()))
        .arg("-r")
        .arg(capture)
        .args(["-T", "fields", "-E", "occurrence=a", "-E", "separator=;"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("Lua"), "{errors}");
    let packet = |line: &str| {
        let cells = line.split(';').map(|cell| cell.split(',').filter(|v| !v.is_empty()).map(str::to_owned).collect());
        fields.iter().map(|field| (*field).to_owned()).zip(cells).collect()
    };
    String::from_utf8(output.stdout).unwrap().lines().map(packet).collect()
}

/// The values of `field` in those packets in which each of `filter` is found; `*` stands for any value.
fn values(packets: &Packets, filter: &[(&str, &str)], field: &str) -> Vec<String> {
    let is_meant = |packet: &&HashMap<String, Vec<String>>| {
        filter.iter().all(|(field, wanted)| packet[*field].iter().any(|value| *wanted == "*" || value == wanted))
    };
    packets.iter().filter(is_meant).flat_map(|packet| packet[field].clone()).collect()
}

fn distinct(packets: &Packets, field: &str) -> BTreeSet<String> {
    values(packets, &[], field).into_iter().collect()
}

/// How many packets have one of these fields.
fn count(packets: &Packets, fields: &[&str]) -> usize {
    packets.iter().filter(|packet| fields.iter().any(|field| !packet[*field].is_empty())).count()
}

/// A session with every message and the commonest refusals, in the file `capture`. Long messages take several packets.
fn session(capture: &Path) {
    let (hub, port) = MemoryHub::new(1500).unwrap();
    let slave = Slave::start(vec![Box::new(port)], Options::new(64 << 20)).unwrap();
    let mut client = TestClient::connect(Box::new(Capture::new(hub.connect().unwrap(), capture).unwrap()));
    client.stat();
    let extents = client.reserve(3).unwrap();
    client.write(&[(page(extents[0], 7), &pattern(1)), (page(extents[1], 9), &pattern(2))]).unwrap();
    assert_eq!(client.read(&[page(extents[0], 7), page(extents[0], 8)]).unwrap(), [pattern(1), [0; 4096]]);
    client.release(&extents[..2]).unwrap();
    assert_eq!(client.read(&[page(extents[0], 7)]), Err(ResponseError::Refused(Status::StaleExtent)));
    assert_eq!(client.reserve(4096), Err(ResponseError::Refused(Status::Full)));
    let hash = [0xAB; 32];
    client.open_name(hash, Some(5 << 20)).unwrap();
    let refusal = client.open_name(hash, Some(6 << 20)).unwrap_err();
    assert_eq!(refusal, OpenNameRefusal::SizeDiffers { existing_bytes: 5 << 20 });
    let mut buffer = [0; NAME_EXTENTS_REQUEST_BYTES];
    let named = client.ask(encode_name_extents(&hash, 2, &mut buffer), &[]).unwrap();
    assert_eq!(decode_name_extents_response(&named).unwrap().len(), 3);
    let mut buffer = [0; FREE_NAME_REQUEST_BYTES];
    decode_empty_response(&client.ask(encode_free_name(&hash, &mut buffer), &[]).unwrap()).unwrap();
    decode_empty_response(&client.ask(encode_renew(&mut [0; 4]), &[]).unwrap()).unwrap();
    client.keep_alive();
    client.bye().unwrap();
    drop(client);
    drop(slave);
}

#[test]
fn every_message_is_decoded_to_its_last_field() {
    if is_skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("a.pcapng");
    session(&capture);

    let capture = dissect(&capture);
    assert!(capture.len() > 30, "{} packets", capture.len());
    assert_eq!(count(&capture, &["rum"]), capture.len(), "packets that are not RUM's");
    let wrong = ["rum.malformed", "rum.bad_checksum", "_ws.malformed", "_ws.lua.error"];
    assert_eq!(count(&capture, &wrong), 0, "{capture:?}");
    assert_eq!(distinct(&capture, "rum.checksum_status"), BTreeSet::from(["1".to_owned()]));
    let opcodes: BTreeSet<String> = Opcode::ALL.iter().map(|opcode| (*opcode as u8).to_string()).collect();
    assert_eq!(distinct(&capture, "rum.opcode"), opcodes);
    assert_eq!(distinct(&capture, "rum.answer_to"), opcodes);
    let kinds = distinct(&capture, "rum.kind");
    assert!(["1", "2", "3", "4", "9"].iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
    let statuses = [Status::Ok, Status::Full, Status::StaleExtent, Status::SizeDiffers];
    let statuses: BTreeSet<String> = statuses.iter().map(|status| (*status as u8).to_string()).collect();
    assert_eq!(distinct(&capture, "rum.status"), statuses);

    for (filter, field, expected) in [
        (&[("rum.opcode", "2")][..], "rum.count", &["3", "4096"][..]),
        (&[("rum.opcode", "3")][..], "rum.extent.index", &["0", "1"]),
        (&[("rum.opcode", "4")][..], "rum.page.number", &["7", "8", "7"]),
        (&[("rum.opcode", "5")][..], "rum.page_kind", &["1", "1"]),
        (&[("rum.answer_to", "1")][..], "rum.stat.capacity", &["64"]),
        (&[("rum.answer_to", "1")][..], "rum.stat.lease_ms", &["10000"]),
        (&[("rum.answer_to", "2")][..], "rum.list_count", &["3"]),
        (&[("rum.answer_to", "4"), ("rum.status", "0")][..], "rum.page_kind", &["1", "0"]),
        (&[("rum.opcode", "6")][..], "rum.size", &["5242880", "6291456"]),
        (&[("rum.opcode", "6")][..], "rum.create", &["1", "1"]),
        (&[("rum.answer_to", "6")][..], "rum.total", &["5"]),
        (&[("rum.status", "5")][..], "rum.size", &["5242880"]),
        (&[("rum.opcode", "7")][..], "rum.from", &["2"]),
        (&[("rum.answer_to", "7")][..], "rum.list_count", &["3"]),
        (&[("rum.hello.mtu", "*")][..], "rum.hello.mtu", &["1500"]),
        (&[("rum.hello_ack.mtu", "*")][..], "rum.hello_ack.mtu", &["1500"]),
    ] {
        let mut found = values(&capture, filter, field);
        if field.starts_with("rum.extent.") {
            found.sort();
        }
        assert_eq!(found, expected, "{field} where {filter:?}");
    }
    assert_eq!(values(&capture, &[("rum.opcode", "8")], "rum.hash"), ["ab".repeat(32)]);
    // A page does not fit into a packet of 1,500 bytes: what follows the first is a part of it.
    assert!(!values(&capture, &[("rum.kind", "3")], "rum.fragment").is_empty());
    assert!(!values(&capture, &[("rum.kind", "4")], "rum.fragment").is_empty());
    // A response knows its request, by number and in time.
    let requests = values(&capture, &[("rum.opcode", "1")], "frame.number");
    assert_eq!(values(&capture, &[("rum.answer_to", "1")], "rum.request_in"), requests);
    let times = values(&capture, &[("rum.answer_to", "*")], "rum.time");
    assert!(times.iter().all(|time| (0.0..60.0).contains(&time.parse::<f64>().unwrap())), "{times:?}");
}

#[test]
fn damage_is_flagged() {
    if is_skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // One bit or more of each packet, anywhere; sometimes outside of what is RUM's, in the Ethernet header.
    for faults in ["corrupt=1,seed=5", "truncate=1,seed=5"] {
        let capture = directory.path().join("a.pcapng");
        let sent = send_all(&capture, faults);
        let packets = dissect(&capture);
        assert_eq!(packets.len(), sent);
        for packet in &packets {
            let is_flagged = ["rum.malformed", "rum.bad_checksum"].iter().any(|flag| !packet[*flag].is_empty());
            let is_foreign = packet["rum"].is_empty();
            // Only its addresses can change without RUM's part being another.
            let is_whole = packet["rum.checksum_status"] == ["1"];
            assert!(is_flagged || is_foreign || is_whole, "{faults}: {packet:?}");
        }
        assert!(count(&packets, &["rum.malformed", "rum.bad_checksum"]) > sent / 2, "{faults}");
    }
}

#[test]
fn packets_over_udp_are_decoded_too() {
    use rum_net::wire::{
        checksum::Checksummer,
        header::{HEADER_BYTES, Header, Kind},
    };
    if is_skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("a.pcapng");
    let (port, _peer) = MemoryPort::pair(1500).unwrap();
    let mut port = Capture::new(port, &capture).unwrap();
    let mut head = [0; HEADER_BYTES];
    let body = [9, 0, 0, 0];
    let header = Header { message_bytes: 4, ..Header::new(Kind::Request, 77, 1) };
    header.encode(&mut head, &body, &mut Checksummer::new());
    // RFC 791 and RFC 768: from 10.0.0.1 and port 40000 to 10.0.0.2 and port 21069, without checksums.
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    let udp_bytes = 8 + HEADER_BYTES as u8 + 4;
    let ip = [0x45, 0, 0, 20 + udp_bytes, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let [high, low] = 21069u16.to_be_bytes();
    let udp = [0x9C, 0x40, high, low, 0, udp_bytes, 0, 0];
    port.transmit(LinkId(0), &[&ethernet, &ip, &udp, &head, &body]).unwrap();
    drop(port);
    let packets = dissect(&capture);
    assert_eq!(values(&packets, &[("rum.checksum_status", "1")], "rum.opcode"), ["9"]);
}

/// Captures requests that suffer `faults` on their way; returns how many packets there are.
fn send_all(capture: &Path, faults: &str) -> usize {
    use rum_net::wire::{
        checksum::Checksummer,
        ethernet::EthernetHeader,
        header::{HEADER_BYTES, Header, Kind},
    };
    const PACKETS: u64 = 40;
    let (port, mut peer) = MemoryPort::pair(1500).unwrap();
    let mut port = Inject::new(Capture::new(port, capture).unwrap(), faults.parse().unwrap());
    let ethernet = EthernetHeader { destination: port.mac(), source: port.mac() }.encode();
    let mut checksummer = Checksummer::new();
    for request in 0..PACKETS {
        let mut header = Header::new(Kind::Request, 77, request);
        let body = [1, 0, 0, 0];
        header.message_bytes = body.len() as u32;
        let mut head = [0; HEADER_BYTES];
        header.encode(&mut head, &body, &mut checksummer);
        port.transmit(LinkId(0), &[&ethernet, &head, &body]).unwrap();
        port.flush();
        peer.receive(9, &mut |_, _| ());
    }
    drop(port);
    assert!(fs::metadata(capture).unwrap().len() > 0);
    PACKETS as usize
}
