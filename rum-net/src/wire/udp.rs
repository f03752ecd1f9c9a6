//! The UDP header (RFC 768). All integers are in network byte order.
//!
//! ```text
//!      0        2        4        6        8
//!      +--------+--------+--------+--------+----------
//!    0 | source | destin.| length | cksum  | payload …
//!      +--------+--------+--------+--------+----------
//! ```
//! The length is that of header and payload. The checksum is sent as 0, which says that there is none: RUM's packets
//! carry a CRC32C or a seal of their own over all they say, either of which is stronger than 16 bits of sum, the
//! addresses stand under the IPv4 header's checksum, and a sum over a page costs as much as sending it. A checksum that
//! another sender did compute is verified (RFC 1122, section 4.1.3.4).

use std::net::Ipv4Addr;

use super::{
    array,
    ipv4::{PROTOCOL_UDP, internet_checksum, sum},
};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 8;

mod field {
    pub const SOURCE: usize = 0;
    pub const DESTINATION: usize = 2;
    pub const LENGTH: usize = 4;
    pub const CHECKSUM: usize = 6;
}

/// A validated header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpHeader {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// Bytes after the header.
    pub payload_bytes: u16,
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UdpError {
    /// Shorter than a header, or than its header says.
    #[error("UDP datagram is cut short")]
    Truncated,
    /// Its header says that it is shorter than a header.
    #[error("not a UDP header")]
    Malformed,
    /// Damaged on the way.
    #[error("wrong UDP checksum")]
    Checksum,
}

impl UdpHeader {
    /// Splits the payload of an IPv4 packet between `source` and `destination` into header and payload.
    pub fn decode(datagram: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Result<(Self, &[u8]), UdpError> {
        if datagram.len() < HEADER_BYTES {
            return Err(UdpError::Truncated);
        }
        let length = u16::from_be_bytes(array(datagram, field::LENGTH));
        if usize::from(length) < HEADER_BYTES {
            return Err(UdpError::Malformed);
        }
        let datagram = datagram.get(..usize::from(length)).ok_or(UdpError::Truncated)?;
        let has_checksum = datagram[field::CHECKSUM..HEADER_BYTES] != [0, 0];
        // The sum over a right datagram, its checksum included, is all ones.
        if has_checksum && internet_checksum(pseudo_sum(source, destination, length) + sum(datagram)) != 0 {
            return Err(UdpError::Checksum);
        }
        let header = Self {
            source_port: u16::from_be_bytes(array(datagram, field::SOURCE)),
            destination_port: u16::from_be_bytes(array(datagram, field::DESTINATION)),
            payload_bytes: length - HEADER_BYTES as u16,
        };
        Ok((header, &datagram[HEADER_BYTES..]))
    }

    /// The header's bytes, without a checksum.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.payload_bytes <= u16::MAX - HEADER_BYTES as u16, "the length has 16 bits");
        let length = self.payload_bytes.saturating_add(HEADER_BYTES as u16);
        let mut bytes = [0; HEADER_BYTES];
        bytes[field::SOURCE..field::DESTINATION].copy_from_slice(&self.source_port.to_be_bytes());
        bytes[field::DESTINATION..field::LENGTH].copy_from_slice(&self.destination_port.to_be_bytes());
        bytes[field::LENGTH..field::CHECKSUM].copy_from_slice(&length.to_be_bytes());
        bytes
    }
}

/// The sum of the pseudo header, which the checksum covers, too: addresses, protocol and length.
fn pseudo_sum(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> u64 {
    sum(&source.octets()) + sum(&destination.octets()) + u64::from(PROTOCOL_UDP) + u64::from(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn with_checksum(header: &UdpHeader, payload: &[u8]) -> Vec<u8> {
        let mut datagram = [&header.encode()[..], payload].concat();
        let length = datagram.len() as u16;
        // A sum of zero is sent as its other representation.
        let checksum = match internet_checksum(pseudo_sum(A, B, length) + sum(&datagram)) {
            0 => 0xFFFF,
            checksum => checksum,
        };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        datagram
    }

    proptest! {
        #[test]
        fn roundtrip_with_and_without_checksum(
            (source_port, destination_port) in any::<(u16, u16)>(),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            padding in 0usize..20,
        ) {
            let header = UdpHeader { source_port, destination_port, payload_bytes: payload.len() as u16 };
            for mut datagram in [[&header.encode()[..], &payload[..]].concat(), with_checksum(&header, &payload)] {
                datagram.resize(datagram.len() + padding, 0xEE);
                prop_assert_eq!(UdpHeader::decode(&datagram, A, B), Ok((header, &payload[..])));
            }
        }

        #[test]
        fn a_flipped_bit_under_a_checksum_and_every_cut_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let header = UdpHeader { source_port: 1, destination_port: 2, payload_bytes: payload.len() as u16 };
            let datagram = with_checksum(&header, &payload);
            let cut = &datagram[..cut.index(datagram.len())];
            prop_assert_eq!(UdpHeader::decode(cut, A, B), Err(UdpError::Truncated));
            prop_assert_eq!(UdpHeader::decode(&datagram, A, Ipv4Addr::new(10, 0, 0, 3)), Err(UdpError::Checksum));
            let mut flipped = datagram.clone();
            let bit = bit.index(datagram.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A checksum that became zero is none.
            prop_assert!(UdpHeader::decode(&flipped, A, B).is_err() || flipped[6..8] == [0, 0]);
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), source: u32, destination: u32) {
            let _ = UdpHeader::decode(&bytes, source.into(), destination.into());
        }
    }

    #[test]
    fn a_header_shorter_than_a_header() {
        let mut datagram = UdpHeader { source_port: 1, destination_port: 2, payload_bytes: 4 }.encode().to_vec();
        datagram.extend_from_slice(&[0; 4]);
        datagram[5] = 7;
        assert_eq!(UdpHeader::decode(&datagram, A, B), Err(UdpError::Malformed));
        assert_eq!(datagram[..4], [0, 1, 0, 2], "network byte order");
    }
}
