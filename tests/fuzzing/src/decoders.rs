//! One body a decoder: what decodes is encoded, and decodes again to the same.

use std::fmt::Write;

use rum_core::config::parse_machines;
use rum_net::{
    port::page::Page,
    port::{inject::Faults, spec::PortSpec},
    rpc::Response,
    seal::{KeyFile, is_name},
    station::spec::LinkSpec,
    wire::{
        arp::ArpPacket,
        checksum::{Checksummer, crc32c},
        ethernet::EthernetHeader,
        header::{HEADER_BYTES, Header, MAGIC, VERSION},
        hello::{Grant, Hello, HelloAck, HelloRetry},
        ipv4::{self, Ipv4Header},
        message::{
            Command, ExtentRef, FREE_NAME_REQUEST_BYTES, MAX_BATCH_EXTENTS, MAX_BATCH_PAGES,
            NAME_EXTENTS_REQUEST_BYTES, NAMES_REQUEST_BYTES, OPEN_NAME_REQUEST_BYTES, OpenNameRefusal, OpenedName,
            PageContent, PageKind, PageRef, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, ReadResponse,
            ReadResponseHead, ReadResponseWriter, Request, Stat, Status, WRITE_HEAD_MAX_BYTES, ask_any_head, ask_head,
            command_head, decode_empty_response, decode_name_extents_response, decode_names_response,
            decode_not_leader, decode_peer_response, decode_reserve_response, encode_bye, encode_describe,
            encode_extents_response, encode_free_name, encode_name_extents, encode_names, encode_names_response,
            encode_not_leader, encode_open_name_response, encode_read, encode_release, encode_renew, encode_reserve,
            encode_size_differs, encode_stat, encode_status, encode_write_head, peer_head, release_request_bytes,
        },
        udp::UdpHeader,
    },
};

pub fn ethernet(bytes: &[u8]) {
    let Some((header, ethertype, payload)) = EthernetHeader::decode_any(bytes) else { return };
    assert_eq!([&header.encode_as(ethertype), payload].concat(), bytes);
    let ours = EthernetHeader::decode(bytes);
    assert_eq!(ours.is_some(), header.encode()[12..] == bytes[12..14]);
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    let fold = |sum: u32| (sum & 0xFFFF) + (sum >> 16);
    !(fold(fold(sum)) as u16)
}

pub fn ipv4_udp(bytes: &[u8]) {
    datagram(bytes);
    // Most of what is behind a checksum is never seen without a right one.
    let mut repaired = bytes.to_vec();
    let header_bytes = repaired.first().map_or(0, |first| usize::from(first & 15) * 4);
    if header_bytes >= 12 && repaired.len() >= header_bytes {
        let total = u16::try_from(repaired.len()).unwrap_or(u16::MAX);
        if repaired[1] & 1 == 0 {
            repaired[2..4].copy_from_slice(&total.to_be_bytes());
        }
        repaired[10..12].fill(0);
        let checksum = internet_checksum(&repaired[..header_bytes]);
        repaired[10..12].copy_from_slice(&checksum.to_be_bytes());
        datagram(&repaired);
    }
}

fn datagram(bytes: &[u8]) {
    let Ok((ip, payload)) = Ipv4Header::decode(bytes) else { return };
    assert_eq!(usize::from(ip.payload_bytes), payload.len());
    if payload.len() <= ipv4::MAX_PAYLOAD_BYTES {
        let again = [&ip.encode(), payload].concat();
        assert_eq!(Ipv4Header::decode(&again), Ok((ip, payload)));
    }
    let Ok((udp, payload)) = UdpHeader::decode(payload, ip.source, ip.destination) else { return };
    let again = [&udp.encode(), payload].concat();
    assert_eq!(UdpHeader::decode(&again, ip.source, ip.destination), Ok((udp, payload)));
}

pub fn arp(bytes: &[u8]) {
    let Some(packet) = ArpPacket::decode(bytes) else { return };
    assert_eq!(packet.encode(), bytes[..28]);
}

/// Makes a header plausible, so that what is behind the checks is reached. Lengths above the packet are left.
pub fn repair(packet: &mut [u8]) {
    if packet.len() < HEADER_BYTES {
        return;
    }
    packet[4..6].copy_from_slice(&MAGIC.to_le_bytes());
    packet[6] = VERSION;
    let payload = usize::from(u16::from_le_bytes([packet[40], packet[41]])).min(packet.len() - HEADER_BYTES);
    packet[40..42].copy_from_slice(&(payload as u16).to_le_bytes());
    packet[42] &= !8;
    let checksum = crc32c(&packet[4..HEADER_BYTES + payload]);
    packet[..4].copy_from_slice(&checksum.to_le_bytes());
}

pub fn header(bytes: &[u8]) {
    packet(bytes);
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    packet(&repaired);
}

fn packet(bytes: &[u8]) {
    let Ok(parsed) = Header::decode(bytes) else { return };
    assert_eq!(parsed.head, &bytes[..HEADER_BYTES]);
    assert_eq!(parsed.payload, &bytes[HEADER_BYTES..][..parsed.payload.len()]);
    if parsed.trailer.is_some() {
        return;
    }
    let mut again = vec![0; HEADER_BYTES];
    parsed.header.encode(&mut again, parsed.payload, &mut Checksummer::new());
    assert_eq!(again, parsed.head);
}

pub fn hello(bytes: &[u8]) {
    let Some(hello) = Hello::decode(bytes) else { return };
    let mut again = [0; 46 + 255 + 255];
    let length = hello.encode(&mut again);
    assert_eq!(&again[..length], &bytes[..length]);
}

pub fn hello_retry(bytes: &[u8]) {
    let Some(retry) = HelloRetry::decode(bytes) else { return };
    assert_eq!(retry.encode(), bytes[..HelloRetry::BYTES]);
}

pub fn hello_ack(bytes: &[u8]) {
    if let Some(grant) = Grant::decode(bytes) {
        assert_eq!(grant.encode(), bytes[..Grant::BYTES]);
    }
    let Some(ack) = HelloAck::decode(bytes) else { return };
    let mut again = [0; 18 + 255 + Grant::BYTES];
    let length = ack.encode(&mut again);
    assert_eq!(&again[..length], &bytes[..length]);
}

/// A request is as strict as can be: what decodes is what would be encoded.
pub fn request(bytes: &[u8]) {
    let request = match Request::decode(bytes) {
        Ok(request) => request,
        Err(error) => return assert!(matches!(error.status(), Status::Malformed | Status::Unsupported)),
    };
    assert_eq!(request.opcode() as u8, bytes[0]);
    let mut short = [0; 4];
    let again = match request {
        Request::Stat => encode_stat(&mut short).to_vec(),
        Request::Renew => encode_renew(&mut short).to_vec(),
        Request::Bye => encode_bye(&mut short).to_vec(),
        Request::Reserve { count } => encode_reserve(count, &mut [0; RESERVE_REQUEST_BYTES]).to_vec(),
        Request::Release(list) => {
            let extents: Vec<_> = list.iter().collect();
            encode_release(&extents, &mut vec![0; release_request_bytes(extents.len())]).to_vec()
        }
        Request::Read(list) => {
            let pages: Vec<_> = list.iter().collect();
            encode_read(&pages, &mut [0; READ_REQUEST_MAX_BYTES]).to_vec()
        }
        Request::Write(write) => {
            let kinds: Vec<(PageRef, PageKind)> = write.iter().map(|(page, content)| (page, kind(&content))).collect();
            let mut again = encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
            for (_, content) in write.iter() {
                if let PageContent::Data(data) = content {
                    again.extend_from_slice(data);
                }
            }
            again
        }
        Request::OpenName(open) => open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]).to_vec(),
        Request::NameExtents { hash, from } => {
            encode_name_extents(&hash, from, &mut [0; NAME_EXTENTS_REQUEST_BYTES]).to_vec()
        }
        Request::Names { after } => encode_names(after.as_ref(), &mut [0; NAMES_REQUEST_BYTES]).to_vec(),
        Request::FreeName { hash } => encode_free_name(&hash, &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec(),
        Request::Command(Command { group, sequence, settled, request }) => {
            [&command_head(group, sequence, settled)[..], request].concat()
        }
        Request::Ask { group, of_any: false, request } => [&ask_head(group)[..], request].concat(),
        Request::Ask { group, of_any: true, request } => [&ask_any_head(group)[..], request].concat(),
        Request::Describe => encode_describe(&mut short).to_vec(),
        Request::Peer { sender, messages } => [&peer_head(sender)[..], messages].concat(),
    };
    assert_eq!(again, bytes);
}

fn kind(content: &PageContent<'_>) -> PageKind {
    match content {
        PageContent::Zeros => PageKind::Zeros,
        PageContent::Data(_) => PageKind::Data,
    }
}

/// All decoders of responses, each as for the request that it would answer.
pub fn response(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Ok(stat) = Stat::decode_response(bytes) {
        stat.encode_response(&mut again);
        assert_eq!(again, bytes);
    }
    if decode_empty_response(bytes).is_ok() {
        again.clear();
        encode_status(Status::Ok, &mut again);
        assert_eq!(again, bytes);
    }
    for list in
        [decode_name_extents_response(bytes), decode_reserve_response(bytes, bytes.len().saturating_sub(12) / 8)]
    {
        let Ok(list) = list else { continue };
        let extents: Vec<ExtentRef> = list.iter().collect();
        again.clear();
        encode_extents_response(&extents, &mut again);
        assert_eq!(again, bytes);
    }
    if let Ok(names) = decode_names_response(bytes) {
        again.clear();
        encode_names_response(&names, &mut again);
        assert_eq!(again, bytes);
    }
    match OpenedName::decode_response(bytes) {
        Ok(opened) => {
            let mut extents: Vec<ExtentRef> = opened.extents.iter().collect();
            assert!(extents.len() <= MAX_BATCH_EXTENTS);
            // Of an object with more extents than travel only the count is known.
            if opened.total_extents < 1 << 16 {
                extents.resize(opened.total_extents as usize, ExtentRef::default());
                again.clear();
                encode_open_name_response(opened.size_bytes, opened.existed, &extents, &mut again);
                assert_eq!(again, bytes);
            }
        }
        Err(OpenNameRefusal::SizeDiffers { existing_bytes }) => {
            again.clear();
            encode_size_differs(existing_bytes, &mut again);
            assert_eq!(again, bytes);
        }
        Err(OpenNameRefusal::Response(_)) => {}
    }
    if let Some(leader) = decode_not_leader(bytes) {
        again.clear();
        encode_not_leader(leader, &mut again);
        assert_eq!(again, bytes);
    }
    if let Ok(messages) = decode_peer_response(bytes) {
        again.clear();
        encode_status(Status::Ok, &mut again);
        again.extend_from_slice(messages);
        assert_eq!(again, bytes);
    }
    for count in [0, 1, 2, 5, MAX_BATCH_PAGES, MAX_BATCH_PAGES + 1, usize::MAX] {
        read_response(bytes, count);
    }
}

fn read_response(bytes: &[u8], count: usize) {
    if let Ok(head) = ReadResponseHead::decode(bytes, count) {
        for page in 0..MAX_BATCH_PAGES {
            assert!(head.offset(page).is_none_or(|at| at < head.response_bytes()));
        }
    }
    let Ok(read) = ReadResponse::decode(bytes, count) else { return };
    let mut again = Response::default();
    let mut writer = ReadResponseWriter::new(&mut again);
    for content in read.iter() {
        match content {
            PageContent::Zeros => writer.push(None),
            PageContent::Data(bytes) => writer.push(Some(Page::copy_of(bytes))),
        }
    }
    assert_eq!(again.to_vec(), bytes);
}

/// A file that is read says the same when it is written as `rum keygen` would.
pub fn key_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let file = match KeyFile::parse("keys", &text) {
        Ok(file) => file,
        Err(error) => return assert!(error.to_string().lines().count() == 1, "{error}"),
    };
    let mut again = String::new();
    for client in file.clients() {
        assert!(is_name(&client.name));
        let _ = write!(again, "{} {}", client.name, &*client.key.to_hex());
        if let Some(bytes) = client.quota_bytes {
            let _ = write!(again, " {bytes}");
        }
        again.push('\n');
        assert_eq!(file.find(&client.name), Some(client));
    }
    assert_eq!(KeyFile::parse("keys", &again).as_ref().map(KeyFile::clients), Ok(file.clients()));
}

/// A machine's link is printed as it would be written.
pub fn machines(bytes: &[u8]) {
    let default = LinkSpec::from(PortSpec::Vhost("/run/rum/0".into()));
    for default in [None, Some(&default)] {
        match parse_machines("machines.csv", bytes, default) {
            Ok(machines) => {
                assert!(!machines.is_empty());
                for machine in machines {
                    assert_eq!(machine.link.to_string().parse(), Ok(machine.link));
                }
            }
            Err(error) => assert!(error.to_string().lines().count() == 1, "{error}"),
        }
    }
}

pub fn faults(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Faults>() {
        Ok(faults) => assert_eq!(faults.to_string().parse(), Ok(faults), "{faults}"),
        Err(error) => assert!(error.to_string().lines().count() == 1, "{error}"),
    }
}
