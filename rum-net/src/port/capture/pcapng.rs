//! Blocks of a pcapng file (draft-ietf-opsawg-pcapng), appended to a buffer. All integers are little-endian, and every
//! block is a multiple of four bytes:
//!
//! ```text
//! type u32 | bytes of the block u32 | fields … | options … | bytes of the block u32
//! ```
//! An option is `code u16, length u16, value`, filled up to four bytes; code 0 ends them.

use crate::port::{LinkId, MacAddr};

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Tells readers which byte order the file has.
const BYTE_ORDER_MAGIC: u32 = 0x1A2B_3C4D;
/// LINKTYPE_ETHERNET of the list of link types.
const ETHERNET: u16 = 1;

/// An interface's name is cut here; an option cannot be longer than 64 KiB.
const MAX_NAME_BYTES: usize = 1000;

mod option {
    pub const END: u16 = 0;
    pub const SECTION_APPLICATION: u16 = 4;
    pub const INTERFACE_NAME: u16 = 2;
    pub const INTERFACE_MAC: u16 = 6;
    pub const INTERFACE_TIME_RESOLUTION: u16 = 9;
    pub const PACKET_FLAGS: u16 = 2;
    pub const PACKET_QUEUE: u16 = 6;
    pub const STATISTICS_RECEIVED: u16 = 4;
    pub const STATISTICS_DROPPED: u16 = 5;
}

/// Which way a packet went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Direction {
    /// The port received it.
    Inbound = 1,
    /// The port was given it to send.
    Outbound = 2,
}

/// The most bytes that a packet's block has beyond the packet.
pub const PACKET_OVERHEAD_BYTES: usize = 28 + 3 + 8 + 8 + 4 + 4;

/// Appends the blocks that begin a file with packets of one interface.
pub fn begin(out: &mut Vec<u8>, interface: &str, mac: MacAddr) {
    let start = begin_block(out, SECTION_HEADER);
    out.extend_from_slice(&BYTE_ORDER_MAGIC.to_le_bytes());
    // Version 1.0; the section's length is not known.
    out.extend_from_slice(&[1, 0, 0, 0]);
    out.extend_from_slice(&u64::MAX.to_le_bytes());
    put_option(out, option::SECTION_APPLICATION, concat!("RUM ", env!("CARGO_PKG_VERSION")).as_bytes());
    put_option(out, option::END, &[]);
    end_block(out, start);

    let start = begin_block(out, INTERFACE_DESCRIPTION);
    out.extend_from_slice(&ETHERNET.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    // Packets are captured whole.
    out.extend_from_slice(&0u32.to_le_bytes());
    let name_bytes = (0..=interface.len().min(MAX_NAME_BYTES)).rev().find(|&end| interface.is_char_boundary(end));
    put_option(out, option::INTERFACE_NAME, &interface.as_bytes()[..name_bytes.unwrap_or(0)]);
    put_option(out, option::INTERFACE_MAC, &mac.0);
    // Units of 10⁻⁹ s.
    put_option(out, option::INTERFACE_TIME_RESOLUTION, &[9]);
    put_option(out, option::END, &[]);
    end_block(out, start);
}

/// Appends a packet, the concatenation of `parts`. A link other than 0 is given as the packet's queue.
pub fn packet(out: &mut Vec<u8>, time_ns: u64, direction: Direction, link: LinkId, parts: &[&[u8]]) {
    let start = begin_block(out, ENHANCED_PACKET);
    let len = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
    for field in [0, (time_ns >> 32) as u32, time_ns as u32, len, len] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    pad(out);
    put_option(out, option::PACKET_FLAGS, &(direction as u32).to_le_bytes());
    if link != LinkId(0) {
        put_option(out, option::PACKET_QUEUE, &(link.0 as u32).to_le_bytes());
    }
    put_option(out, option::END, &[]);
    end_block(out, start);
}

/// Appends how many packets went by, and how many of them are not in the file.
pub fn statistics(out: &mut Vec<u8>, time_ns: u64, packets: u64, missed: u64) {
    let start = begin_block(out, INTERFACE_STATISTICS);
    for field in [0, (time_ns >> 32) as u32, time_ns as u32] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    put_option(out, option::STATISTICS_RECEIVED, &packets.to_le_bytes());
    put_option(out, option::STATISTICS_DROPPED, &missed.to_le_bytes());
    put_option(out, option::END, &[]);
    end_block(out, start);
}

fn begin_block(out: &mut Vec<u8>, kind: u32) -> usize {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    start
}

fn end_block(out: &mut Vec<u8>, start: usize) {
    let bytes = ((out.len() - start + 4) as u32).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&bytes);
    out.extend_from_slice(&bytes);
}

fn put_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

/// Blocks begin at multiples of four, so that the buffer's length tells how much is missing.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_laid_out_as_the_draft_says() {
        let mut out = vec![];
        packet(&mut out, 0x1_0000_0002, Direction::Outbound, LinkId(5), &[b"abc", b"de"]);
        let expected: Vec<u8> = [
            &[6, 0, 0, 0, 60, 0, 0, 0][..],
            &[0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0],
            b"abcde\0\0\0",
            &[2, 0, 4, 0, 2, 0, 0, 0],
            &[6, 0, 4, 0, 5, 0, 0, 0],
            &[0, 0, 0, 0, 60, 0, 0, 0],
        ]
        .concat();
        assert_eq!(out, expected);
    }

    #[test]
    fn no_block_is_longer_than_reckoned() {
        for len in 0..20 {
            let mut out = vec![];
            packet(&mut out, 1, Direction::Inbound, LinkId(1), &[&[7; 20][..len]]);
            assert!(out.len() <= len + PACKET_OVERHEAD_BYTES && out.len() % 4 == 0);
        }
    }

    #[test]
    fn blocks_can_be_walked_from_either_end() {
        let mut out = vec![];
        begin(&mut out, &"é".repeat(2000), MacAddr([2; 6]));
        packet(&mut out, 1, Direction::Inbound, LinkId(0), &[b"x"]);
        statistics(&mut out, 2, 1, 0);
        let mut kinds = vec![];
        let mut rest = &out[..];
        while !rest.is_empty() {
            let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let bytes = number(4) as usize;
            assert_eq!(number(bytes - 4) as usize, bytes);
            kinds.push(number(0));
            rest = &rest[bytes..];
        }
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, INTERFACE_STATISTICS]);
    }
}
