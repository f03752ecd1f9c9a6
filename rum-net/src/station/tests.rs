use std::{net::Ipv4Addr, time::Duration};

use proptest::prelude::*;

use super::{spec::OwnAddress, *};
use crate::packet::Packet;
use crate::{
    port::memory::{MemoryHub, MemoryPort},
    wire::arp::{ArpOperation, ArpPacket},
};

const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const SLAVE_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT_PORT: u16 = 50_000;
const MTU: usize = 1500;

fn own(ip: Ipv4Addr, port: u16) -> Option<OwnEnd> {
    Some(OwnEnd::unheld(OwnAddress { ip, prefix: Some(24) }, port))
}

fn slave(port: MemoryPort) -> Station {
    Station::new("udp:slave".into(), Box::new(port), own(SLAVE_IP, SLAVE_UDP_PORT))
}

fn client(port: MemoryPort) -> Station {
    Station::new("udp:client".into(), Box::new(port), own(CLIENT_IP, CLIENT_PORT))
}

fn link() -> LinkSpec {
    "udp@10.0.0.9/24:vdev:memory".parse().unwrap()
}

fn received(station: &mut Station, now: Instant) -> Vec<(Address, Vec<u8>)> {
    let mut packets = Vec::new();
    station.receive(now, usize::MAX, &mut |from, packet| packets.push((from, packet.to_vec())));
    packets
}

fn frames(port: &mut MemoryPort) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    port.receive(usize::MAX, &mut |_, frame| frames.push(frame.to_vec()));
    frames
}

/// A client's station and, bare, the port of a slave with this hardware address.
fn with_bare_slave() -> (Station, MemoryPort, MacAddr) {
    let (port, mut bare) = MemoryPort::pair(MTU).unwrap();
    bare.receive(0, &mut |_, _| ());
    (client(port), bare, MacAddr([2, 0, 0, 0, 0, 0x51]))
}

fn arp_reply(mac: MacAddr, ip: Ipv4Addr, to: MacAddr, to_ip: Ipv4Addr) -> Vec<u8> {
    let operation = ArpOperation::Reply;
    let packet = ArpPacket { operation, sender_mac: mac, sender_ip: ip, target_mac: to, target_ip: to_ip };
    let header = EthernetHeader { destination: to, source: mac }.encode_as(ethernet::ETHERTYPE_ARP);
    [&header[..], &packet.encode()].concat()
}

/// A right datagram of a slave for the client; the tests break it.
fn datagram(source: MacAddr, destination: MacAddr, payload: &[u8]) -> Vec<u8> {
    let slave = UdpEnd::new(own(SLAVE_IP, SLAVE_UDP_PORT).unwrap());
    let to = SocketAddrV4::new(CLIENT_IP, CLIENT_PORT);
    let headers = slave.headers(EthernetHeader { destination, source }, to, payload.len() as u16);
    [&headers[..], payload].concat()
}

fn fix_ip_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn a_client_finds_its_slave_and_is_answered_where_it_asked_from() {
    let (port, bare) = MemoryPort::pair(MTU).unwrap();
    let (mut client, mut slave) = (client(port), slave(bare));
    let now = Instant::now();
    let to = client.peer(&link(), MacAddr::default(), Some(SLAVE_IP)).unwrap();
    assert!(client.is_sought(&to) && received(&mut slave, now).is_empty());
    assert_eq!(client.transmit(now, &to, &Packet::new(b"he", [&b"llo"[..]])), Err(SendError::Unresolved));
    assert_eq!(client.transmit(now, &to, &Packet::new(b"he", [&b"llo"[..]])), Err(SendError::Unresolved));
    assert_eq!(client.next_request(), Some(now + Duration::from_millis(20)));
    // The slave answers the one request that was sent, and the client believes it.
    assert!(received(&mut slave, now).is_empty() && received(&mut client, now).is_empty());
    assert!(!client.is_sought(&to) && client.next_request().is_none());
    client.transmit(now, &to, &Packet::new(b"he", [&b"llo"[..]])).unwrap();
    let [(from, packet)] = &received(&mut slave, now)[..] else { panic!("one packet") };
    assert_eq!(packet, b"hello");
    let client_address = SocketAddrV4::new(CLIENT_IP, CLIENT_PORT);
    assert_eq!((from.mac, from.udp), (client.mac(), Some(client_address)));
    slave.transmit(now, from, &Packet::whole(b"world")).unwrap();
    let [(from, packet)] = &received(&mut client, now)[..] else { panic!("one packet") };
    assert_eq!((&packet[..], from.udp, from.mac), (&b"world"[..], to.udp, slave.mac()));
    assert_eq!((client.drops(), slave.drops()), (FramingDrops::default(), FramingDrops::default()));
}

#[test]
fn the_mtu_leaves_room_for_the_headers_and_no_more() {
    let (port, bare) = MemoryPort::pair(MTU).unwrap();
    let (mut client, mut slave) = (client(port), slave(bare));
    assert_eq!((client.mtu(), client.mtu()), (1472, slave.mtu()));
    let to = client.peer(&link(), slave.mac(), Some(SLAVE_IP)).unwrap();
    let now = Instant::now();
    let page = vec![7; client.mtu()];
    client.transmit(now, &to, &Packet::new(&page[..44], [&page[44..]])).unwrap();
    assert_eq!(received(&mut slave, now)[0].1, page);
    let too_long = SendError::Port(TransmitError::TooLong);
    assert_eq!(client.transmit(now, &to, &Packet::new(&[7], [&page[..]])), Err(too_long));
    assert_eq!(client.transmit(now, &to, &Packet::new(&vec![7; 66_000], [&page[..]])), Err(too_long));
    let (raw, _bare) = MemoryPort::pair(MTU).unwrap();
    assert_eq!(Station::raw(Box::new(raw)).mtu(), MTU);
}

#[test]
fn replies_that_nobody_asked_for_change_nothing() {
    let (mut client, mut bare, mac) = with_bare_slave();
    let now = Instant::now();
    let to = client.peer(&link(), MacAddr::default(), Some(SLAVE_IP)).unwrap();
    let (mine, evil) = (client.mac(), MacAddr([2, 0, 0, 0, 0, 0x66]));
    let other = Ipv4Addr::new(10, 0, 0, 77);
    let mut say = |client: &mut Station, frame: &[u8]| {
        bare.transmit(LinkId(1), &[frame]).unwrap();
        received(client, now);
        frames(&mut bare)
    };
    say(&mut client, &arp_reply(evil, SLAVE_IP, mine, CLIENT_IP));
    assert!(client.is_sought(&to), "before it was asked");
    assert_eq!(client.transmit(now, &to, &Packet::whole(b"x")), Err(SendError::Unresolved));
    say(&mut client, &arp_reply(evil, other, mine, CLIENT_IP));
    say(&mut client, &arp_reply(evil, SLAVE_IP, mine, other));
    say(&mut client, &arp_reply(MacAddr([0xff; 6]), SLAVE_IP, mine, CLIENT_IP));
    let mut forged = arp_reply(evil, SLAVE_IP, mine, CLIENT_IP);
    forged[6..12].copy_from_slice(&mac.0);
    say(&mut client, &forged);
    assert!(client.is_sought(&to));
    say(&mut client, &arp_reply(mac, SLAVE_IP, mine, CLIENT_IP));
    say(&mut client, &arp_reply(evil, SLAVE_IP, mine, CLIENT_IP));
    client.transmit(now, &to, &Packet::whole(b"x")).unwrap();
    client.flush();
    let sent = say(&mut client, &arp_reply(evil, SLAVE_IP, mine, CLIENT_IP));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][..6], mac.0, "the first answer to the question counts");
    let drops = client.drops();
    assert_eq!((drops.unasked_arp, drops.wrong_destination, drops.bad_source), (4, 1, 2));
    assert_eq!(drops.total(), 7);
}

#[test]
fn each_wrong_packet_is_counted_for_what_it_is() {
    type Break = fn(&mut Vec<u8>);
    type Count = fn(&FramingDrops) -> u64;
    let cases: [(&str, Break, Count); 18] = [
        ("empty", |f| f.clear(), |d| d.short),
        ("cut in Ethernet", |f| f.truncate(13), |d| d.short),
        ("cut in IP", |f| f.truncate(33), |d| d.short),
        ("cut in the payload", |f| f.truncate(45), |d| d.short),
        ("raw RUM", |f| f[12..14].copy_from_slice(&[0x88, 0xB5]), |d| d.not_ours),
        ("IPv6", |f| f[12..14].copy_from_slice(&[0x86, 0xDD]), |d| d.not_ours),
        ("a bit of the header", |f| f[22] ^= 1, |d| d.ip_checksum),
        ("version 6", |f| f[14] = 0x65, |d| d.malformed),
        ("TCP", |f| f[23] = 6, |d| d.not_ours),
        ("a fragment", |f| f[20] = 0x20, |d| d.fragment),
        ("another host's", |f| f[33] ^= 1, |d| d.wrong_destination),
        ("broadcast to us", |f| f[..6].fill(0xff), |d| d.wrong_destination),
        ("another port", |f| f[37] ^= 1, |d| d.not_ours),
        ("a UDP checksum", |f| f[41] = 1, |d| d.udp_checksum),
        ("a UDP length below its header", |f| f[39] = 7, |d| d.malformed),
        ("from a broadcast address", |f| f[26..30].copy_from_slice(&[10, 0, 0, 255]), |d| d.bad_source),
        ("from us", |f| f[26..30].copy_from_slice(&CLIENT_IP.octets()), |d| d.bad_source),
        ("from a group's hardware address", |f| f[6] |= 1, |d| d.bad_source),
    ];
    let now = Instant::now();
    for (what, damage, count) in cases {
        let (mut client, mut bare, mac) = with_bare_slave();
        let good = datagram(mac, client.mac(), b"good");
        let mut bad = good.clone();
        damage(&mut bad);
        if !matches!(what, "a bit of the header" | "empty" | "cut in Ethernet" | "cut in IP") {
            fix_ip_checksum(&mut bad);
        }
        for frame in [&bad, &good] {
            bare.transmit(LinkId(1), &[frame]).unwrap();
        }
        let packets = received(&mut client, now);
        assert_eq!(packets.len(), 1, "{what}");
        assert_eq!(packets[0].1, b"good");
        let drops = client.drops();
        assert_eq!((count(&drops), drops.total()), (1, 1), "{what}: {drops:?}");
    }
}

#[test]
fn options_and_padding_are_no_reason_to_drop() {
    let (mut client, mut bare, mac) = with_bare_slave();
    let mut frame = datagram(mac, client.mac(), b"payload");
    frame.extend_from_slice(&[0xEE; 11]);
    bare.transmit(LinkId(1), &[&frame]).unwrap();
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[17] += 4;
    let length = frame[17];
    frame[24..26].fill(0);
    let sum: u32 = frame[14..38].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    bare.transmit(LinkId(1), &[&frame]).unwrap();
    let packets = received(&mut client, Instant::now());
    assert_eq!(packets.iter().map(|(_, packet)| &packet[..]).collect::<Vec<_>>(), [b"payload"; 2], "{length}");
}

#[test]
fn a_flood_of_arp_requests_is_answered_in_part_and_counted() {
    let (hub, listener) = MemoryHub::new(MTU).unwrap();
    let mut slave = slave(listener);
    let mut asker = hub.connect().unwrap();
    let end = UdpEnd::new(own(CLIENT_IP, CLIENT_PORT).unwrap());
    let now = Instant::now();
    for _ in 0..20 {
        asker.transmit(LinkId(0), &[&end.request(asker.mac(), SLAVE_IP)]).unwrap();
    }
    asker.transmit(LinkId(0), &[&end.request(asker.mac(), Ipv4Addr::new(10, 0, 0, 2))]).unwrap();
    assert!(received(&mut slave, now).is_empty());
    let answers = frames(&mut asker);
    assert_eq!(answers.len(), 8);
    assert_eq!(answers[0], arp_reply(slave.mac(), SLAVE_IP, asker.mac(), CLIENT_IP));
    assert_eq!((slave.drops().crowded_arp, slave.drops().wrong_destination), (12, 1));
    asker.transmit(LinkId(0), &[&end.request(asker.mac(), SLAVE_IP)]).unwrap();
    received(&mut slave, now);
    assert_eq!(frames(&mut asker).len(), 1, "the next ones are answered again");
}

#[test]
fn peers_that_cannot_be_reached_are_refused() {
    let (mut client, _bare, mac) = with_bare_slave();
    let peer = |client: &mut Station, mac, ip: Option<&str>| {
        client.peer(&link(), mac, ip.map(|ip| ip.parse().unwrap())).map(drop).map_err(|error| error.to_string())
    };
    let nobody = MacAddr::default();
    assert_eq!(
        peer(&mut client, mac, None).unwrap_err(),
        format!("no IPv4 address of the slave is given for {}", link())
    );
    assert!(
        peer(&mut client, mac, Some("10.0.0.9")).unwrap_err().starts_with("10.0.0.9 is this machine's own address")
    );
    let routed = "10.0.1.1 is not a neighbour of 10.0.0.9/24: name the router's hardware address in its mac column";
    assert_eq!(peer(&mut client, nobody, Some("10.0.1.1")).unwrap_err(), routed);
    peer(&mut client, mac, Some("10.0.1.1")).unwrap();
    peer(&mut client, nobody, Some("10.0.0.2")).unwrap();
}

proptest! {
    #[test]
    fn any_frame_is_taken_or_counted_and_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        from_good: bool,
        at in any::<prop::sample::Index>(),
        ethertype in 0usize..3,
        fix: bool,
    ) {
        let (mut client, mut bare, mac) = with_bare_slave();
        if from_good {
            let mut frame = datagram(mac, client.mac(), b"good");
            let at = at.index(frame.len());
            let len = bytes.len().min(3).min(frame.len() - at);
            frame[at..at + len].copy_from_slice(&bytes[..len]);
            bytes = frame;
        } else if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x88, 0xB5]][ethertype]);
        }
        if fix && bytes.len() >= 34 {
            fix_ip_checksum(&mut bytes);
        }
        bare.transmit(LinkId(1), &[&bytes]).unwrap();
        let now = Instant::now();
        let packets = received(&mut client, now).len() as u64;
        // An ARP request for us is neither.
        prop_assert!(packets + client.drops().total() <= 1);
        let to = client.peer(&link(), mac, Some(SLAVE_IP)).unwrap();
        client.transmit(now, &to, &Packet::whole(&bytes)).unwrap();
    }
}
