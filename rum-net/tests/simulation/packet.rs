//! What can be seen of a packet from outside, and packets made by somebody else.

use rum_net::wire::{
    checksum::Checksummer,
    header::{HEADER_BYTES, Header, flag},
};

pub const HELLO: u8 = 1;
pub const HELLO_ACK: u8 = 2;
pub const RESET: u8 = 8;
pub const KEEP_ALIVE: u8 = 9;
pub const BYE: u8 = 10;
pub const HELLO_RETRY: u8 = 11;

/// 0 of what is no packet.
pub fn kind(packet: &[u8]) -> u8 {
    if packet.len() < HEADER_BYTES { 0 } else { packet[7] }
}

pub fn session(packet: &[u8]) -> u64 {
    packet.get(8..16).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

/// Where the cookie is in a hello.
pub const COOKIE: std::ops::Range<usize> = HEADER_BYTES + 28..HEADER_BYTES + 44;

/// The client of a hello, of its answer, or of a hello-retry.
pub fn client(packet: &[u8]) -> u128 {
    let bytes = packet.get(HEADER_BYTES..HEADER_BYTES + 16);
    bytes.map_or(0, |bytes| u128::from_le_bytes(bytes.try_into().unwrap()))
}

/// Of a sealed packet.
pub fn counter(packet: &[u8]) -> Option<u64> {
    let parsed = Header::decode(packet).ok()?;
    Some(u64::from_le_bytes(parsed.trailer?[..8].try_into().unwrap()))
}

/// A packet of any header and payload in the clear, padded to `len`.
pub fn forge(header: &Header, payload: &[u8], len: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES];
    packet.extend_from_slice(payload);
    header.encode(&mut packet, &[], &mut Checksummer::new());
    packet.resize(len.max(packet.len()), 0);
    packet
}

/// Gives a packet that was changed the checksum that it should have.
pub fn mend(packet: &mut [u8]) {
    let Some(bytes) = packet.get(40..44) else { return };
    let end = HEADER_BYTES + usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let is_sealed = u16::from_le_bytes([bytes[2], bytes[3]]) & flag::SEALED != 0;
    if let Some(covered) = packet.get(4..end)
        && !is_sealed
    {
        let checksum = rum_net::wire::checksum::crc32c(covered);
        packet[..4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// For whoever follows a run.
pub fn describe(packet: &[u8]) -> String {
    match Header::decode(packet) {
        Ok(parsed) => format!("{:x?} with {} of {} bytes", parsed.header, parsed.payload.len(), packet.len()),
        Err(error) => format!("{} bytes: {error}", packet.len()),
    }
}
