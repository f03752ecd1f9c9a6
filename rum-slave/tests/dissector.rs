//! Wireshark's dissector, tools/rum.lua, against a real session: tshark reads a capture that has every message.

mod support;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process,
};

use paxos::{Body, Configuration, Life, MemberId, MemberSet, Message, Recover};
use rum_net::{
    machines::Machine,
    placement::Placement,
    port::{
        LinkId, MacAddr, Port,
        capture::Capture,
        inject::Inject,
        memory::{MemoryHub, MemoryPort},
    },
    rpc::Incarnation,
    seal::{ClientKey, Key, KeyFile},
    wire::{
        checksum::Checksummer,
        ethernet::EthernetHeader,
        header::{HEADER_BYTES, Header, Kind},
        hello::Verdict,
        message::{
            FREE_NAME_REQUEST_BYTES, NAME_EXTENTS_REQUEST_BYTES, NAMES_REQUEST_BYTES, Opcode, OpenNameRefusal,
            PageContent, PageKind, READ_REQUEST_MAX_BYTES, REQUEST_HEAD_BYTES, RESERVE_REQUEST_BYTES, ReadResponse,
            ResponseError, Status, WRITE_HEAD_MAX_BYTES, ask_any_head, ask_head, command_head,
            decode_describe_response, decode_empty_response, decode_name_extents_response, decode_names_response,
            decode_not_leader, decode_peer_response, decode_reserve_response, encode_describe, encode_free_name,
            encode_name_extents, encode_names, encode_not_leader, encode_read, encode_renew, encode_reserve,
            encode_stat, encode_write_head, peer_head,
        },
    },
};
use rum_slave::{
    Options, Slave, SlaveHandle,
    group::message::{Content, PeerMessage},
    replication::ReplicationOptions,
};
use support::{TestClient, page, pattern, wait_for};

fn dissector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/rum.lua")
}

/// Says so and returns true when there is no tshark.
fn is_skipped() -> bool {
    let is_there =
        process::Command::new("tshark").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("skipped: there is no tshark (scripts/setup.sh --tests installs it)");
    }
    !is_there
}

/// Fields that are looked at.
const FIELDS: [&str; 50] = [
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
    "rum.offset",
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
    "rum.window",
    "rum.hello.mtu",
    "rum.hello.name",
    "rum.hello.cookie",
    "rum.hello_retry.cookie",
    "rum.hello_ack.verdict",
    "rum.grant.mtu",
    "rum.handshake",
    "rum.flag.wants_ack",
    "rum.flag.sealed",
    "rum.counter",
    "rum.tag",
    "rum.encrypted",
    "rum.fragments",
    "rum.fragments_lost",
    "rum.hash",
    "rum.fragment",
    "rum.request_in",
    "rum.group",
    "rum.sequence",
    "rum.settled",
    "rum.sender",
    "rum.messages",
    "rum.leader",
    "rum.of_any",
    "rum.after",
    "rum.names",
];

/// What tshark finds in each packet, by field.
type Packets = Vec<HashMap<String, Vec<String>>>;

/// Has tshark read a capture with the dissector: once, for it takes a second to start.
fn dissect(capture: &Path) -> Packets {
    let fields: Vec<&str> = FIELDS.into_iter().chain(["rum.time"]).collect();
    let output = process::Command::new("tshark")
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

/// A slave that has all that goes through its port captured in a file.
fn start(capture: &Path, options: Options) -> (MemoryHub, SlaveHandle) {
    let (hub, port) = MemoryHub::new(1500).unwrap();
    let port: Box<dyn Port> = Box::new(Capture::new(port, capture).unwrap());
    (hub, Slave::start(vec![port], options).unwrap())
}

/// A session with every message and every status. Long messages take several packets.
fn every_message(hub: &MemoryHub) {
    let mut client = TestClient::connect(Box::new(hub.connect().unwrap()));
    client.stat();
    let extents = client.reserve(3).unwrap();
    client.write(&[(page(extents[0], 7), &pattern(1)), (page(extents[1], 9), &pattern(2))]).unwrap();
    assert_eq!(client.read(&[page(extents[0], 7), page(extents[0], 8)]).unwrap(), [pattern(1), [0; 4096]]);
    client.release(&extents[..2]).unwrap();
    const REFUSED: fn(Status) -> ResponseError = ResponseError::Refused;
    assert_eq!(client.read(&[page(extents[0], 7)]), Err(REFUSED(Status::StaleExtent)));
    assert_eq!(client.read(&[page(extents[2], 4096)]), Err(REFUSED(Status::OutOfRange)));
    assert_eq!(client.reserve(4096), Err(REFUSED(Status::Full)));
    let mut other = TestClient::connect(Box::new(hub.connect().unwrap()));
    assert_eq!(other.read(&[page(extents[2], 1)]), Err(REFUSED(Status::NotOwner)));
    let hash = [0xAB; 32];
    client.open_name(hash, Some(5 << 20)).unwrap();
    let refusal = client.open_name(hash, Some(6 << 20)).unwrap_err();
    assert_eq!(refusal, OpenNameRefusal::SizeDiffers { existing_bytes: 5 << 20 });
    let mut buffer = [0; NAME_EXTENTS_REQUEST_BYTES];
    let named = client.ask(encode_name_extents(&hash, 2, &mut buffer), &[]).unwrap();
    assert_eq!(decode_name_extents_response(&named).unwrap().len(), 3);
    let names = client.ask(encode_names(Some(&[1; 32]), &mut [0; NAMES_REQUEST_BYTES]), &[]).unwrap();
    assert_eq!(decode_names_response(&names).unwrap(), [(hash, 5 << 20)]);
    let mut buffer = [0; FREE_NAME_REQUEST_BYTES];
    let mut free_name = || decode_empty_response(&client.ask(encode_free_name(&hash, &mut buffer), &[]).unwrap());
    free_name().unwrap();
    assert_eq!(free_name(), Err(REFUSED(Status::NoSuchName)));
    decode_empty_response(&client.ask(encode_renew(&mut [0; 4]), &[]).unwrap()).unwrap();
    let described = client.ask(encode_describe(&mut [0; REQUEST_HEAD_BYTES]), &[]).unwrap();
    assert!(decode_describe_response(&described).unwrap().starts_with(b"{"));
    // Too short for its opcode; an opcode that nobody knows.
    assert_eq!(decode_empty_response(&client.ask(&[2, 0, 0, 0], &[]).unwrap()), Err(REFUSED(Status::Malformed)));
    assert_eq!(decode_empty_response(&client.ask(&[99, 0, 0, 0], &[]).unwrap()), Err(REFUSED(Status::Unsupported)));
    // Only slaves that replicate pages take these.
    let mut stat = [0; REQUEST_HEAD_BYTES];
    let stat = encode_stat(&mut stat);
    for head in [&ask_head(3)[..], &command_head(3, 1, 0), &peer_head(3)] {
        assert_eq!(decode_empty_response(&client.ask(head, stat).unwrap()), Err(REFUSED(Status::Unsupported)));
    }
    client.bye().unwrap();
    let fenced = client.ask(encode_renew(&mut [0; 4]), &[]).unwrap();
    assert_eq!(decode_empty_response(&fenced), Err(REFUSED(Status::Fenced)));
}

/// A slave at no place that exists.
fn machine(number: u8) -> Machine {
    let link = format!("vhost:/nonexistent/{number}").parse().unwrap();
    Machine {
        ip: format!("10.0.0.{number}"),
        mac: MacAddr([2, 0, 0, 0, 0, number]),
        link,
        name: None,
        memory_bytes: None,
    }
}

/// Options of slave 0 of so many that replicate pages.
fn replicated(slaves: u8) -> Options {
    let machines = (0..slaves).map(machine).collect();
    let replication = ReplicationOptions::new(machines, slaves.into(), 0);
    Options { replication: Some(replication), ..Options::new(64 << 20) }
}

/// Requests in envelopes, to a group of one slave, which agrees with itself.
fn group_of_one(hub: &MemoryHub) {
    let mut client = TestClient::connect(Box::new(hub.connect().unwrap()));
    let mut stat = [0; REQUEST_HEAD_BYTES];
    let stat = encode_stat(&mut stat);
    wait_for("a leader", || decode_not_leader(&client.ask(&ask_head(0), stat).unwrap()).is_none());
    let reserved = client.ask(&command_head(0, 1, 0), encode_reserve(2, &mut [0; RESERVE_REQUEST_BYTES])).unwrap();
    let extent = decode_reserve_response(&reserved, 2).unwrap().iter().next().unwrap();
    let mut buffer = [0; WRITE_HEAD_MAX_BYTES];
    let head = encode_write_head(&[(page(extent, 7), PageKind::Data)], &mut buffer);
    let written = client.ask(&command_head(0, 2, 1), &[head, &pattern(1)].concat()).unwrap();
    decode_empty_response(&written).unwrap();
    let mut buffer = [0; READ_REQUEST_MAX_BYTES];
    let read = encode_read(&[page(extent, 7), page(extent, 8)], &mut buffer);
    let read = client.ask(&ask_head(0), read).unwrap();
    let read: Vec<_> = ReadResponse::decode(&read, 2).unwrap().iter().collect();
    assert_eq!(read, [PageContent::Data(&pattern(1)), PageContent::Zeros]);
    let same = client.ask(&ask_any_head(0), encode_read(&[page(extent, 7)], &mut buffer)).unwrap();
    assert_eq!(ReadResponse::decode(&same, 1).unwrap().iter().next(), Some(PageContent::Data(&pattern(1))));
    // Such a group is not here; an envelope around nothing, and one around another.
    assert_eq!(decode_not_leader(&client.ask(&ask_head(5), stat).unwrap()), Some(None));
    let refused = |response: &[u8]| decode_empty_response(response).unwrap_err();
    assert_eq!(refused(&client.ask(&ask_head(0), &[]).unwrap()), ResponseError::Refused(Status::Malformed));
    let twice = client.ask(&ask_head(0), &[&ask_head(0), stat].concat()).unwrap();
    assert_eq!(refused(&twice), ResponseError::Refused(Status::Unsupported));
    // Any slave says what pages hold, and nothing else.
    let any = client.ask(&ask_any_head(0), stat).unwrap();
    assert_eq!(refused(&any), ResponseError::Refused(Status::Unsupported));
}

/// What slave 1 of three says to slave 0, which has just begun.
fn slave_of_three(hub: &MemoryHub) {
    let mut peer = TestClient::connect(Box::new(hub.connect().unwrap()));
    let configuration = Configuration::of(MemberSet::from_bits(0b111));
    let recover = Body::Recover(Recover { nonce: 5, life: None, configuration });
    // Of three slaves, each has a place in all groups; which, only the placement knows.
    let slaves = Placement::new(&replicated(3).replication.unwrap().machines).group(0, 3);
    let from = MemberId::new(slaves.iter().position(|&slave| slave == 1).unwrap() as u8).unwrap();
    let content = Content::Paxos { capacity: 64, message: Message { from, life: Life(0), body: recover } };
    let said = peer.ask(&peer_head(1), &PeerMessage { group: 0, content }.encode()).unwrap();
    let mut answers = 0;
    let is_whole = PeerMessage::decode_all(decode_peer_response(&said).unwrap(), &mut |answer| {
        let Content::Paxos { message: Message { body: Body::Recovered(answer), .. }, .. } = answer.content else {
            return;
        };
        answers += u8::from(answer.nonce == 5);
    });
    assert!(is_whole && answers == 1, "{said:?}");
    let mut stat = [0; REQUEST_HEAD_BYTES];
    assert_eq!(decode_not_leader(&peer.ask(&ask_head(0), encode_stat(&mut stat)).unwrap()), Some(None));
}

/// Packets of the transport that an undisturbed session does not have.
fn losses_and_ends(hub: &MemoryHub) {
    let lossy = Inject::new(hub.connect().unwrap(), "loss=0.05,seed=11".parse().unwrap());
    let mut client = TestClient::connect(Box::new(lossy));
    let extent = client.reserve(1).unwrap()[0];
    let bytes = pattern(1);
    let pages: Vec<_> = (0..32).map(|number| (page(extent, number), &bytes)).collect();
    let names: Vec<_> = pages.iter().map(|(page, _)| *page).collect();
    for _ in 0..10 {
        client.write(&pages).unwrap();
        assert!(client.read(&names).unwrap().iter().all(|page| *page == bytes));
    }
    // An answer that is not taken is late, and the slave is asked for it.
    let timeouts = client.stats().timeouts;
    let kinds: Vec<_> = names[..5].iter().map(|page| (*page, PageKind::Data)).collect();
    assert!(client.begin(encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]), &[5; 5 * 4096]));
    wait_for("a timeout", || {
        client.send_only();
        client.stats().timeouts > timeouts
    });
    client.stat();
    client.keep_alive();
    client.close();
    wait_for("the slave's bye", || {
        client.turn();
        client.is_closed()
    });
    let mut port = hub.connect().unwrap();
    let ethernet = EthernetHeader { destination: port.mac(), source: port.mac() }.encode();
    let mut stranger = [0; HEADER_BYTES];
    Header::new(Kind::KeepAlive, 77, 0).encode(&mut stranger, &[], &mut Checksummer::new());
    port.transmit(LinkId(0), &[&ethernet, &stranger]).unwrap();
    port.flush();
    wait_for("the reset", || port.receive(1, &mut |_, _| ()) > 0);
}

/// A client whom the slave does not let in.
fn refused(hub: &MemoryHub, incarnation: u128, key: Option<ClientKey>, verdict: Verdict) {
    let mut client = TestClient::opening_with(Box::new(hub.connect().unwrap()), Incarnation(incarnation), key);
    wait_for("a refusal", || {
        client.turn();
        client.refusal() == Some(verdict)
    });
}

fn key(name: &str, byte: u8) -> ClientKey {
    ClientKey { name: name.to_owned(), key: Key::from_bytes([byte; 32]), quota_bytes: None }
}

/// Sealed sessions, and clients who are not let in.
fn sealed(hub: &MemoryHub) {
    let mut client = TestClient::opening_with(Box::new(hub.connect().unwrap()), Incarnation(1), Some(key("ada", 1)));
    wait_for("the session", || {
        client.turn();
        client.is_open()
    });
    let extent = client.reserve(1).unwrap()[0];
    let bytes = pattern(3);
    let pages: Vec<_> = (0..32).map(|number| (page(extent, number), &bytes)).collect();
    client.write(&pages).unwrap();
    assert_eq!(client.read(&[page(extent, 5)]).unwrap(), [bytes]);
    refused(hub, 2, None, Verdict::KeyNeeded);
    refused(hub, 3, Some(key("ada", 9)), Verdict::KeyRefused);
    refused(hub, 1, Some(key("bob", 2)), Verdict::Taken);
    client.close();
    wait_for("the slave's bye", || {
        client.turn();
        client.is_closed()
    });
}

/// Captures slaves: an open one, one with room for a single client, one with keys, a group of one, and one of a group of three.
fn captures(directory: &Path) -> [PathBuf; 5] {
    let captures =
        ["open", "small", "sealed", "one", "three"].map(|name| directory.join(name).with_extension("pcapng"));
    let (hub, slave) = start(&captures[0], Options::new(64 << 20));
    every_message(&hub);
    losses_and_ends(&hub);
    refused(&hub, 4, Some(key("ada", 1)), Verdict::NoKeys);
    drop(slave);
    let (hub, slave) = start(&captures[1], Options { max_sessions: 1, ..Options::new(64 << 20) });
    let _first = TestClient::connect(Box::new(hub.connect().unwrap()));
    refused(&hub, 5, None, Verdict::Full);
    drop(slave);
    let lines = [key("ada", 1), key("bob", 2)].map(|key| format!("{} {}\n", key.name, &*key.key.to_hex()));
    let keys = Some(KeyFile::parse("keys", &lines.concat()).unwrap().into());
    let (hub, slave) = start(&captures[2], Options { keys, ..Options::new(64 << 20) });
    sealed(&hub);
    drop(slave);
    let (hub, slave) = start(&captures[3], replicated(1));
    group_of_one(&hub);
    drop(slave);
    let (hub, slave) = start(&captures[4], replicated(3));
    slave_of_three(&hub);
    drop(slave);
    captures
}

fn numbers(from: impl IntoIterator<Item = u8>) -> BTreeSet<String> {
    from.into_iter().map(|number| number.to_string()).collect()
}

#[test]
fn every_message_is_decoded_to_its_last_field() {
    if is_skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let captures = captures(directory.path()).map(|capture| dissect(&capture));
    messages_are_decoded(&captures[0]);
    losses_are_decoded(&captures[0]);
    seals_are_decoded(&captures[2]);
    groups_are_decoded(&captures[3]);
    peers_are_decoded(&captures[4]);

    let all: Packets = captures.into_iter().flatten().collect();
    assert_eq!(count(&all, &["rum"]), all.len(), "packets that are not RUM's");
    let wrong = ["rum.bad_checksum", "_ws.lua.error"];
    let wrong: Packets =
        all.iter().filter(|packet| wrong.iter().any(|flag| !packet[*flag].is_empty())).cloned().collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    // The four requests that are, and nothing else; the last is an ask of an ask.
    assert_eq!(values(&all, &[("_ws.malformed", "*")], "rum.opcode"), ["2", "99", "12", "12", "12"]);
    assert_eq!(count(&all, &["_ws.malformed"]), count(&all, &["rum.malformed"]));
    assert_eq!(distinct(&all, "rum.checksum_status"), numbers([1]));
    assert_eq!(distinct(&all, "rum.kind"), numbers(1..=11));
    assert_eq!(distinct(&all, "rum.status"), numbers(Status::ALL.map(|status| status as u8)));
    assert_eq!(distinct(&all, "rum.hello_ack.verdict"), numbers(0..=5));
}

/// What `every_message` said.
fn messages_are_decoded(capture: &Packets) {
    assert_eq!(distinct(capture, "rum.answer_to"), numbers(Opcode::ALL.map(|opcode| opcode as u8)));
    for (filter, field, expected) in [
        (&[("rum.opcode", "2"), ("rum.count", "*")][..], "rum.count", &["3", "4096", "1"][..]),
        (&[("rum.opcode", "3")][..], "rum.extent.index", &["0", "1"]),
        (&[("rum.opcode", "4")][..], "rum.page.number", &["7", "8", "7", "4096", "1"]),
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
        (&[("rum.opcode", "15")][..], "rum.after", &["01".repeat(32).as_str()]),
        (&[("rum.answer_to", "15")][..], "rum.names", &["1"]),
        (&[("rum.answer_to", "15")][..], "rum.size", &["5242880"]),
        (&[("rum.opcode", "8")][..], "rum.hash", &["ab".repeat(32).as_str(), "ab".repeat(32).as_str()]),
        // A session has two hellos: a short one that fetches the cookie, and one that shows it and asks for the MTU.
        (&[("rum.hello.mtu", "*")][..], "rum.hello.mtu", &["1252", "1500"]),
        (&[("rum.grant.mtu", "*")][..], "rum.grant.mtu", &["1500"]),
    ] {
        // Later sessions say the same again, and a packet may have been sent twice.
        let mut found = values(capture, filter, field);
        assert!(found.len() >= expected.len(), "{field} where {filter:?}: {found:?}");
        found.truncate(expected.len());
        if field.starts_with("rum.extent.") {
            found.sort();
        }
        assert_eq!(found, expected, "{field} where {filter:?}");
    }
    // A page does not fit into a packet of 1,500 bytes: what follows the first is a part of it.
    assert!(!values(capture, &[("rum.kind", "3")], "rum.fragment").is_empty());
    assert!(!values(capture, &[("rum.kind", "4")], "rum.fragment").is_empty());
    // A response knows its request, by number and in time.
    let requests = values(capture, &[("rum.opcode", "1")], "frame.number");
    assert_eq!(values(capture, &[("rum.answer_to", "1")], "rum.request_in")[..1], requests[..1]);
    let times = values(capture, &[("rum.answer_to", "*")], "rum.time");
    assert!(times.iter().all(|time| (0.0..60.0).contains(&time.parse::<f64>().unwrap())), "{times:?}");
}

/// What `group_of_one` said, and heard. How often it asked for a leader is not known.
fn groups_are_decoded(capture: &Packets) {
    for (filter, field, expected) in [
        (&[("rum.opcode", "11")][..], "rum.opcode", &["11", "2", "11", "5"][..]),
        (&[("rum.opcode", "11")][..], "rum.sequence", &["1", "2"]),
        (&[("rum.opcode", "11")][..], "rum.settled", &["0", "1"]),
        (&[("rum.opcode", "11"), ("rum.opcode", "2")][..], "rum.count", &["2"]),
        (&[("rum.answer_to", "11"), ("rum.answer_to", "2")][..], "rum.list_count", &["2"]),
        (&[("rum.answer_to", "11"), ("rum.answer_to", "5")][..], "rum.status", &["0"]),
        (&[("rum.opcode", "11"), ("rum.opcode", "5")][..], "rum.page.number", &["7"]),
        (&[("rum.opcode", "12"), ("rum.opcode", "4")][..], "rum.page.number", &["7", "8", "7"]),
        (&[("rum.answer_to", "12"), ("rum.answer_to", "4")][..], "rum.page_kind", &["1", "0", "1"]),
        (&[("rum.opcode", "12"), ("rum.opcode", "4")][..], "rum.of_any", &["0", "1"]),
        (&[("rum.opcode", "12"), ("rum.group", "5")][..], "rum.opcode", &["12", "1"]),
    ] {
        assert_eq!(values(capture, filter, field), expected, "{field} where {filter:?}");
    }
    let stats = values(capture, &[("rum.answer_to", "12"), ("rum.status", "0")], "rum.stat.capacity");
    assert_eq!(stats, ["64"]);
    assert_eq!(distinct(capture, "rum.leader"), BTreeSet::from(["65535".to_owned()]));
}

/// What `slave_of_three` said, and heard.
fn peers_are_decoded(capture: &Packets) {
    assert_eq!(values(capture, &[("rum.opcode", "13")], "rum.sender"), ["1"]);
    // Group, kind, capacity, sender, its life, and that it is a question of one without memory.
    let said = values(capture, &[("rum.opcode", "13")], "rum.messages");
    assert!(said.len() == 1 && said[0].starts_with("000040") && said[0][8..12] == *"0007", "{said:?}");
    let heard = values(capture, &[("rum.answer_to", "13"), ("rum.status", "0")], "rum.messages");
    assert_eq!(heard.len(), 1, "{heard:?}");
}

#[test]
fn who_leads_is_decoded() {
    if is_skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("a.pcapng");
    let (port, _peer) = MemoryPort::pair(1500).unwrap();
    let mut port = Capture::new(port, &capture).unwrap();
    let ethernet = EthernetHeader { destination: port.mac(), source: port.mac() }.encode();
    let mut checksummer = Checksummer::new();
    for (request, leader) in [(1, Some(2)), (2, None)] {
        let mut stat = [0; REQUEST_HEAD_BYTES];
        let asked = [&ask_head(7)[..], encode_stat(&mut stat)].concat();
        let mut answer = Vec::new();
        encode_not_leader(leader, &mut answer);
        for (kind, body) in [(Kind::Request, asked), (Kind::Response, answer)] {
            let header = Header { message_bytes: body.len() as u32, ..Header::new(kind, 77, request) };
            let mut head = [0; HEADER_BYTES];
            header.encode(&mut head, &body, &mut checksummer);
            port.transmit(LinkId(0), &[&ethernet, &head, &body]).unwrap();
        }
    }
    drop(port);
    let packets = dissect(&capture);
    assert_eq!(values(&packets, &[("rum.status", "10"), ("rum.answer_to", "1")], "rum.leader"), ["2", "65535"]);
    assert_eq!(values(&packets, &[("rum.opcode", "12")], "rum.group"), ["7", "7"]);
    assert_eq!(count(&packets, &["_ws.malformed", "_ws.lua.error"]), 0);
}

/// What `losses_and_ends` made the transport say.
fn losses_are_decoded(capture: &Packets) {
    let cookies = distinct(capture, "rum.hello_retry.cookie");
    assert!(!cookies.is_empty() && distinct(capture, "rum.hello.cookie").is_superset(&cookies), "{cookies:?}");
    assert!(distinct(capture, "rum.window").contains("4"), "the first window");
    assert!(!values(capture, &[("rum.kind", "3"), ("rum.flag.wants_ack", "1")], "rum.offset").is_empty());
    assert!(!values(capture, &[("rum.kind", "4"), ("rum.flag.wants_ack", "1")], "rum.offset").is_empty());
    for kind in ["5", "6", "7"] {
        let lists = values(capture, &[("rum.kind", kind)], "rum.fragments");
        assert!(!lists.is_empty() && lists.iter().all(|list| is_list(list)), "{lists:?}");
    }
    let lost = values(capture, &[("rum.kind", "7")], "rum.fragments_lost");
    assert!(!lost.is_empty() && lost.iter().all(|list| is_list(list) && list != "none"), "{lost:?}");
    // Whoever says that one is lost has a later one, and not that one.
    for packet in capture.iter().filter(|packet| !packet["rum.fragments_lost"].is_empty()) {
        let [has, lost] = ["rum.fragments", "rum.fragments_lost"].map(|field| listed(&packet[field][0]));
        assert!(has.is_disjoint(&lost) && has.last() > lost.last(), "{packet:?}");
    }
}

/// The numbers of a list such as `0-3 7`.
fn listed(list: &str) -> BTreeSet<u8> {
    let run = |run: &str| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        first.parse::<u8>().unwrap()..=last.parse().unwrap()
    };
    list.split(' ').filter(|list| *list != "none").flat_map(run).collect()
}

fn is_list(list: &str) -> bool {
    listed(list).iter().all(|fragment| *fragment < 128)
}

/// What can be seen of sealed sessions.
fn seals_are_decoded(capture: &Packets) {
    let is_sealed = |packet: &&HashMap<String, Vec<String>>| packet["rum.flag.sealed"] == ["1"];
    let sealed: Packets = capture.iter().filter(is_sealed).cloned().collect();
    assert!(sealed.len() > 90, "{} sealed packets", sealed.len());
    assert_eq!(count(&sealed, &["rum.opcode", "rum.status", "rum.checksum_status", "rum.fragments"]), 0);
    assert_eq!(count(&sealed, &["rum.counter"]), sealed.len());
    assert!(sealed.iter().all(|packet| packet["rum.tag"][0].len() == 32), "a tag has 16 bytes");
    let kinds = distinct(&sealed, "rum.kind");
    assert!(kinds.is_superset(&numbers([3, 4, 6, 10])) && kinds.is_disjoint(&numbers([1, 2, 11])), "{kinds:?}");
    // Each direction counts its packets from 0.
    for kinds in [&["3", "5", "7", "9"][..], &["4", "6"][..]] {
        let way = |packet: &&HashMap<String, Vec<String>>| kinds.contains(&packet["rum.kind"][0].as_str());
        let counters: Vec<u64> =
            sealed.iter().filter(way).map(|packet| packet["rum.counter"][0].parse().unwrap()).collect();
        assert_eq!(counters, Vec::from_iter(0..counters.len() as u64));
    }
    assert!(distinct(capture, "rum.hello.name").is_superset(&BTreeSet::from(["ada", "bob"].map(str::to_owned))));
    let handshake = |kind| values(capture, &[("rum.kind", kind), ("rum.handshake", "*")], "rum.handshake");
    assert!(handshake("1").iter().all(|message| message.len() == 2 * 80), "key, claim and tag");
    assert!(handshake("2").iter().all(|message| message.len() == 2 * 80), "key, grant and tag");
    assert!(!handshake("1").is_empty() && !handshake("2").is_empty());
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
