//! Numbers and their names: kinds, flags, verdicts, opcodes, statuses, kinds of pages, and reasons of drops.

use rum_net::{
    rpc::Drops,
    station::FramingDrops,
    wire::{
        checksum::Checksummer,
        header::{HEADER_BYTES, Header, Kind, flag},
        hello::{HelloAck, Verdict},
        message::{Opcode, PageKind, Status},
    },
};

use super::document::Document;

/// Kinds that a header may have: those of any number that decode.
fn kinds() -> Vec<(u16, String)> {
    let kind = |number: u8| {
        let mut packet = [0; HEADER_BYTES];
        Header::new(Kind::Bye, 1, 1).encode(&mut packet, &[], &mut Checksummer::new());
        packet[7] = number;
        let checksum = rum_net::wire::checksum::crc32c(&packet[4..]);
        packet[..4].copy_from_slice(&checksum.to_le_bytes());
        Some((u16::from(number), format!("{:?}", Header::decode(&packet).ok()?.header.kind)))
    };
    (0..=u8::MAX).filter_map(kind).collect()
}

fn verdicts() -> Vec<(u16, String)> {
    let verdict = |number: u8| {
        let mut ack = [0; 18 + 32];
        HelloAck { client: 1, verdict: Verdict::Granted, grant: None, handshake: &[] }.encode(&mut ack);
        ack[16] = number;
        Some((u16::from(number), format!("{:?}", HelloAck::decode(&ack)?.verdict)))
    };
    (0..=u8::MAX).filter_map(verdict).collect()
}

fn flags() -> Vec<(u16, String)> {
    let names = ["answers probe", "executing", "wants ack", "sealed", "unsummed"].map(str::to_owned);
    let flags = [flag::ANSWERS_PROBE, flag::EXECUTING, flag::WANTS_ACK, flag::SEALED, flag::UNSUMMED];
    flags.into_iter().zip(names).collect()
}

/// All that the document's enumerations do not say, or say otherwise.
pub fn check(document: &Document) -> Vec<String> {
    let mut complaints = Vec::new();
    let opcodes = Opcode::ALL.map(|opcode| (opcode as u16, format!("{opcode:?}"))).to_vec();
    let statuses = Status::ALL.map(|status| (status as u16, format!("{status:?}"))).to_vec();
    let page_kinds = [PageKind::Zeros, PageKind::Data].map(|kind| (kind as u16, format!("{kind:?}"))).to_vec();
    for (name, expected) in [
        ("kind", kinds()),
        ("flag", flags()),
        ("verdict", verdicts()),
        ("opcode", opcodes),
        ("status", statuses),
        ("page kind", page_kinds),
    ] {
        let Some(table) = document.table(1, name) else {
            complaints.push(format!("no table of each {name}"));
            continue;
        };
        let said: Vec<(u16, String)> =
            table.rows.iter().map(|row| (row[0].parse().unwrap_or(u16::MAX), row[1].clone())).collect();
        if said != expected {
            complaints.push(format!("{name}: {said:?}, but the code has {expected:?}"));
        }
    }
    let drops: Vec<&str> = Drops::default().by_reason().map(|(reason, _)| reason).to_vec();
    let mut framing_drops = Vec::new();
    FramingDrops::default().counters(&mut |reason, _| framing_drops.push(reason));
    for (name, expected) in [("drop", drops), ("framing drop", framing_drops)] {
        let rows = document.table(0, name).map(|table| table.rows.iter().map(|row| row[0].as_str()).collect());
        if rows.as_ref() != Some(&expected) {
            complaints.push(format!("{name}: {rows:?}, but the code has {expected:?}"));
        }
    }
    complaints
}
