//! The Ethernet II header (IEEE 802.3, clause 3.2.6).
//!
//! ```text
//!  0        6        12      14
//!  +--------+--------+-------+----------
//!  | to     | from   | type  | payload …
//!  +--------+--------+-------+----------
//! ```
//! The type is in network byte order, as on every Ethernet.

use crate::port::MacAddr;

use super::array;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 14;
/// IEEE 802 "local experimental" ethertype: never given to another protocol.
pub const ETHERTYPE: u16 = 0x88B5;

mod field {
    pub const DESTINATION: usize = 0;
    pub const SOURCE: usize = 6;
    pub const ETHERTYPE: usize = 12;
}

/// A validated Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EthernetHeader {
    /// Who is to receive the packet.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
}

impl EthernetHeader {
    /// Splits a packet of our ethertype into header and payload; `None` if it is too short or not ours.
    pub fn decode(frame: &[u8]) -> Option<(Self, &[u8])> {
        if frame.len() < HEADER_BYTES || u16::from_be_bytes(array(frame, field::ETHERTYPE)) != ETHERTYPE {
            return None;
        }
        let header = Self {
            destination: MacAddr(array(frame, field::DESTINATION)),
            source: MacAddr(array(frame, field::SOURCE)),
        };
        Some((header, &frame[HEADER_BYTES..]))
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[field::DESTINATION..field::SOURCE].copy_from_slice(&self.destination.0);
        bytes[field::SOURCE..field::ETHERTYPE].copy_from_slice(&self.source.0);
        bytes[field::ETHERTYPE..].copy_from_slice(&ETHERTYPE.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ethertype_is_in_network_byte_order() {
        let header = EthernetHeader { destination: MacAddr([1; 6]), source: MacAddr([2; 6]) };
        assert_eq!(header.encode(), [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x88, 0xB5]);
    }

    #[test]
    fn roundtrip_and_foreign_packets() {
        let header = EthernetHeader { destination: MacAddr([1, 2, 3, 4, 5, 6]), source: MacAddr([7; 6]) };
        let mut frame = header.encode().to_vec();
        frame.extend_from_slice(b"payload");
        assert_eq!(EthernetHeader::decode(&frame), Some((header, &b"payload"[..])));
        frame[12] = 0x08;
        assert_eq!(EthernetHeader::decode(&frame), None);
        for len in 0..HEADER_BYTES {
            assert_eq!(EthernetHeader::decode(&frame[..len]), None);
        }
    }
}
