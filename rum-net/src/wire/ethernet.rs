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
/// IEEE 802 "local experimental" ethertype, of RUM's packets in raw framing: never given to another protocol.
pub const ETHERTYPE: u16 = 0x88B5;
/// Of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;

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
        Self::decode_any(frame).filter(|(_, ethertype, _)| *ethertype == ETHERTYPE).map(|(h, _, payload)| (h, payload))
    }

    /// Splits a packet into header, ethertype and payload; `None` if it is too short.
    pub fn decode_any(frame: &[u8]) -> Option<(Self, u16, &[u8])> {
        if frame.len() < HEADER_BYTES {
            return None;
        }
        let header = Self {
            destination: MacAddr(array(frame, field::DESTINATION)),
            source: MacAddr(array(frame, field::SOURCE)),
        };
        Some((header, u16::from_be_bytes(array(frame, field::ETHERTYPE)), &frame[HEADER_BYTES..]))
    }

    /// The header's bytes with our ethertype.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        self.encode_as(ETHERTYPE)
    }

    /// The header's bytes with another ethertype.
    pub fn encode_as(&self, ethertype: u16) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[field::DESTINATION..field::SOURCE].copy_from_slice(&self.destination.0);
        bytes[field::SOURCE..field::ETHERTYPE].copy_from_slice(&self.source.0);
        bytes[field::ETHERTYPE..].copy_from_slice(&ethertype.to_be_bytes());
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
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(EthernetHeader::decode(&frame), None);
        assert_eq!(EthernetHeader::decode_any(&frame), Some((header, ETHERTYPE_ARP, &b"payload"[..])));
        for len in 0..HEADER_BYTES {
            assert_eq!(EthernetHeader::decode(&frame[..len]), None);
            assert_eq!(EthernetHeader::decode_any(&frame[..len]), None);
        }
    }
}
