//! The IPv4 header (RFC 791, section 3.1). All integers are in network byte order.
//!
//! ```text
//!      0   1   2       4       6       8   9   10      12
//!      +---+---+-------+-------+-------+---+---+-------+
//!    0 |v/l|tos| length|  id   |fl/off |ttl|pro|cksum  |
//!      +---+---+-------+-------+-------+---+---+-------+
//!   12 | source        | destination   | options, payload …
//!      +---------------+---------------+----------------
//! ```
//! | at | bytes | field | sent | received |
//! |---|---|---|---|---|
//! | 0 | 1 | version, header length in 4-byte words | 4, 5 | 4, 5 to 15: options are skipped |
//! | 1 | 1 | type of service | 0 | any |
//! | 2 | 2 | length of header and payload | | what follows it is padding of the link |
//! | 4 | 2 | identification | 0: only fragments need it (RFC 6864) | any |
//! | 6 | 2 | flags and fragment offset | don't fragment | a fragment is an error |
//! | 8 | 1 | time to live | 64 | any: a host forwards nothing |
//! | 9 | 1 | protocol | | any |
//! | 10 | 2 | checksum of the header (RFC 1071) | | verified |
//! | 12 | 4 | source | | any |
//! | 16 | 4 | destination | | any |

use std::net::Ipv4Addr;

use super::array;

/// Bytes of a header without options, as it is sent.
pub const HEADER_BYTES: usize = 20;
/// The longest payload that the length field can tell.
pub const MAX_PAYLOAD_BYTES: usize = u16::MAX as usize - HEADER_BYTES;
/// Of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const VERSION: u8 = 4;
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments follow, or this is not the first.
const FRAGMENT: u16 = 0x3FFF;

mod field {
    pub const VERSION_AND_WORDS: usize = 0;
    pub const LENGTH: usize = 2;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SOURCE: usize = 12;
    pub const DESTINATION: usize = 16;
}

/// A validated header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// Who sent the packet.
    pub source: Ipv4Addr,
    /// Who is to receive it.
    pub destination: Ipv4Addr,
    /// What the payload is.
    pub protocol: u8,
    /// Bytes after the header, at most [`MAX_PAYLOAD_BYTES`].
    pub payload_bytes: u16,
}

/// Why an IPv4 packet was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ipv4Error {
    /// Shorter than a header, or than its header says.
    #[error("IPv4 packet is cut short")]
    Truncated,
    /// Another version, or a header shorter than a header.
    #[error("not an IPv4 header")]
    Malformed,
    /// Damaged on the way.
    #[error("wrong IPv4 header checksum")]
    Checksum,
    /// A part of a packet: nobody here sends packets that have to be cut.
    #[error("IPv4 fragment")]
    Fragment,
}

impl Ipv4Header {
    /// Splits a packet into header and payload. Options and the link's padding are left out.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), Ipv4Error> {
        if packet.len() < HEADER_BYTES {
            return Err(Ipv4Error::Truncated);
        }
        let version_and_words = packet[field::VERSION_AND_WORDS];
        let header_bytes = usize::from(version_and_words & 0xF) * 4;
        let total_bytes = usize::from(u16::from_be_bytes(array(packet, field::LENGTH)));
        if version_and_words >> 4 != VERSION || header_bytes < HEADER_BYTES || total_bytes < header_bytes {
            return Err(Ipv4Error::Malformed);
        }
        let packet = packet.get(..total_bytes).ok_or(Ipv4Error::Truncated)?;
        let (header, payload) = packet.split_at(header_bytes);
        // The sum over a right header, its checksum included, is all ones.
        if internet_checksum(sum(header)) != 0 {
            return Err(Ipv4Error::Checksum);
        }
        if u16::from_be_bytes(array(header, field::FRAGMENT)) & FRAGMENT != 0 {
            return Err(Ipv4Error::Fragment);
        }
        let decoded = Self {
            source: Ipv4Addr::from(array::<4>(header, field::SOURCE)),
            destination: Ipv4Addr::from(array::<4>(header, field::DESTINATION)),
            protocol: header[field::PROTOCOL],
            payload_bytes: payload.len() as u16,
        };
        Ok((decoded, payload))
    }

    /// The header's bytes, which forbid routers to cut the packet.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        debug_assert!(usize::from(self.payload_bytes) <= MAX_PAYLOAD_BYTES, "the length has 16 bits");
        let total_bytes = self.payload_bytes.saturating_add(HEADER_BYTES as u16);
        let mut bytes = [0; HEADER_BYTES];
        bytes[field::VERSION_AND_WORDS] = VERSION << 4 | (HEADER_BYTES / 4) as u8;
        bytes[field::LENGTH..][..2].copy_from_slice(&total_bytes.to_be_bytes());
        bytes[field::FRAGMENT..][..2].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
        bytes[field::TTL] = TTL;
        bytes[field::PROTOCOL] = self.protocol;
        bytes[field::SOURCE..][..4].copy_from_slice(&self.source.octets());
        bytes[field::DESTINATION..][..4].copy_from_slice(&self.destination.octets());
        let checksum = internet_checksum(sum(&bytes));
        bytes[field::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// The sum of all 16-bit words, an odd byte at the end being the high one of a word.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>() + odd
}

/// The Internet checksum (RFC 1071) of what a sum is of: the complement of the sum in ones' complement arithmetic.
pub(super) fn internet_checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_header()(
            (source, destination) in any::<(u32, u32)>(),
            protocol in any::<u8>(),
            payload_bytes in 0u16..300,
        ) -> Ipv4Header {
            Ipv4Header { source: source.into(), destination: destination.into(), protocol, payload_bytes }
        }
    }

    /// The header with options put in and everything else as a router or another sender may set it.
    fn foreign(header: &Ipv4Header, options: &[u8], tos: u8, id: u16, ttl: u8) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes[0] = 0x45 + (options.len() / 4) as u8;
        bytes[1] = tos;
        let total = header.payload_bytes + (HEADER_BYTES + options.len()) as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        bytes[8] = ttl;
        bytes.extend_from_slice(options);
        rechecksum(&mut bytes);
        bytes
    }

    fn rechecksum(header: &mut [u8]) {
        header[10..12].fill(0);
        let checksum = internet_checksum(sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    proptest! {
        #[test]
        fn roundtrip_ignores_padding(header in any_header(), padding in 0usize..50) {
            let payload: Vec<u8> = (0..header.payload_bytes).map(|i| i as u8).collect();
            let mut packet = header.encode().to_vec();
            packet.extend_from_slice(&payload);
            packet.resize(packet.len() + padding, 0xEE);
            prop_assert_eq!(Ipv4Header::decode(&packet), Ok((header, &payload[..])));
        }

        #[test]
        fn options_are_skipped(
            header in any_header(),
            words in 0usize..=10,
            (tos, id, ttl) in any::<(u8, u16, u8)>(),
        ) {
            let mut packet = foreign(&header, &vec![1; words * 4], tos, id, ttl);
            packet.resize(packet.len() + usize::from(header.payload_bytes), 7);
            let (decoded, payload) = Ipv4Header::decode(&packet).unwrap();
            prop_assert_eq!(decoded, header);
            prop_assert_eq!(payload, &vec![7; usize::from(header.payload_bytes)][..]);
        }

        #[test]
        fn any_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100), plausible: bool) {
            if plausible && !bytes.is_empty() {
                bytes[0] = 0x40 | bytes[0] & 0xF;
            }
            let _ = Ipv4Header::decode(&bytes);
        }

        #[test]
        fn every_cut_and_every_flipped_header_bit_is_noticed(
            header in any_header(),
            bit in 0..HEADER_BYTES * 8,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut packet = header.encode().to_vec();
            packet.resize(HEADER_BYTES + usize::from(header.payload_bytes), 1);
            let cut = &packet[..cut.index(packet.len())];
            prop_assert_eq!(Ipv4Header::decode(cut), Err(Ipv4Error::Truncated));
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Ipv4Header::decode(&packet).is_err());
        }
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        // Worked out by hand from RFC 1071: 4500 + 0030 + 4000 + 4011 + 0a00 + 0001 + 0a00 + 0002 = d944.
        let header = Ipv4Header {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
            protocol: PROTOCOL_UDP,
            payload_bytes: 28,
        };
        assert_eq!(
            header.encode(),
            [0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 17, 0x26, 0xbb, 10, 0, 0, 1, 10, 0, 0, 2],
            "{:x?}",
            header.encode()
        );
    }

    #[test]
    fn fragments_and_other_versions_are_named() {
        let header = Ipv4Header {
            source: Ipv4Addr::LOCALHOST,
            destination: Ipv4Addr::LOCALHOST,
            protocol: PROTOCOL_UDP,
            payload_bytes: 0,
        };
        for (flags, expected) in [
            (0x0000_u16, None),
            (0x4000, None),
            (0x8000, None),
            (0x2000, Some(Ipv4Error::Fragment)),
            (0x0001, Some(Ipv4Error::Fragment)),
            (0x1FFF, Some(Ipv4Error::Fragment)),
        ] {
            let mut bytes = header.encode();
            bytes[6..8].copy_from_slice(&flags.to_be_bytes());
            rechecksum(&mut bytes);
            assert_eq!(Ipv4Header::decode(&bytes).err(), expected, "{flags:#06x}");
        }
        for first in [0x65, 0x44, 0x40, 0x35] {
            let mut bytes = header.encode();
            bytes[0] = first;
            rechecksum(&mut bytes);
            assert_eq!(Ipv4Header::decode(&bytes), Err(Ipv4Error::Malformed), "{first:#04x}");
        }
        let mut bytes = header.encode();
        bytes[2..4].copy_from_slice(&19_u16.to_be_bytes());
        rechecksum(&mut bytes);
        assert_eq!(Ipv4Header::decode(&bytes), Err(Ipv4Error::Malformed), "shorter than its header");
    }
}
