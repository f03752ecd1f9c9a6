//! The header of every RUM packet, after the Ethernet header. All integers are little-endian.
//!
//! ```text
//!      0        4      6   7   8
//!      +--------+------+---+---+----------------+
//!    0 |checksum| magic|ver|knd| session        |
//!      +--------+------+---+---+--------+-------+
//!   16 | request                | message| offset|
//!      +--------+-----+-----+---+-+---+-+-------+
//!   32 | idle   |ahead|windw|lengt|flags| payload …
//!      +--------+-----+-----+-----+-----+--------
//! ```
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | checksum | CRC32C of everything that follows, payload included, unless it is unsummed; 0 in a sealed packet, whose tag covers it all |
//! | 4 | 2 | magic | 0x4D52, "RM" |
//! | 6 | 1 | version | 1 |
//! | 7 | 1 | kind | see [`Kind`] |
//! | 8 | 8 | session | drawn by the server, never 0, never used again; 0 in a hello |
//! | 16 | 8 | request | id of a request; in hello and hello-ack the client's attempt |
//! | 24 | 4 | message | bytes of the whole request or response that the payload is a fragment of; in a probe: nanoseconds after which the client takes a fragment for lost |
//! | 28 | 4 | offset | where in the message the payload belongs |
//! | 32 | 4 | idle | client to server: one bit for each slot whose last response has arrived, and may be forgotten; in a response: nanoseconds for which the server had the request when it sent this, 2³² - 1 if they were more |
//! | 36 | 2 | ahead | client to server: `idle` speaks of ids up to `request + ahead` |
//! | 38 | 2 | window | client to server: packets of long responses that may be under way in this session |
//! | 40 | 2 | length | bytes of payload; what follows it is padding of the link |
//! | 42 | 2 | flags | see [`flag`] |
//!
//! In a sealed packet the payload is encrypted, and a [`Trailer`] follows it.

use super::{
    array,
    checksum::{Checksummer, crc32c},
};
use crate::seal::{Sealer, TRAILER_BYTES, Trailer};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 44;
/// The first field after the checksum; tells RUM's packets from others with the same ethertype.
pub const MAGIC: u16 = 0x4D52;
/// Of this format.
pub const VERSION: u8 = 1;

mod field {
    pub const CHECKSUM: usize = 0;
    pub const MAGIC: usize = 4;
    pub const VERSION: usize = 6;
    pub const KIND: usize = 7;
    pub const SESSION: usize = 8;
    pub const REQUEST: usize = 16;
    pub const MESSAGE_BYTES: usize = 24;
    pub const OFFSET: usize = 28;
    pub const IDLE: usize = 32;
    pub const AHEAD: usize = 36;
    pub const WINDOW: usize = 38;
    pub const PAYLOAD_BYTES: usize = 40;
    pub const FLAGS: usize = 42;
}

/// Bits of the header's `flags`.
pub mod flag {
    /// In a status: it answers a probe, so what it does not list is lost and has to be sent again.
    pub const ANSWERS_PROBE: u16 = 1;
    /// In a status: the whole request has arrived and is being executed.
    pub const EXECUTING: u16 = 2;
    /// In a fragment of a request or response of several packets: its receiver is to say at once which it has.
    pub const WANTS_ACK: u16 = 4;
    /// The packet is sealed.
    pub const SEALED: u16 = 8;
    /// In a hello: its sender reaches the server through memory that both share, where nothing is damaged on the way; in a
    /// hello-ack: so does the server. In a request or a response of such a session: the checksum covers the header alone.
    pub const UNSUMMED: u16 = 16;
    /// In a request of one packet, from this bit on: how often it was sent before. Its response repeats that of the packet
    /// which it answers, so that the client knows which of them took how long.
    pub const ATTEMPT_SHIFT: u32 = 8;
    /// In a response: it answers none of them in particular.
    pub const NO_ATTEMPT: u8 = 255;
}

/// What a packet is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Client: open a session. Payload: [`super::hello::Hello`].
    Hello = 1,
    /// Server: the session is open. Payload: [`super::hello::HelloAck`].
    HelloAck = 2,
    /// Client: a fragment of a request.
    Request = 3,
    /// Server: a fragment of a response.
    Response = 4,
    /// Client: a request has had no (whole) answer for too long. Payload: set of the response's fragments it has.
    Probe = 5,
    /// Server: how far a request is. Payload: set of the request's fragments it has.
    Status = 6,
    /// Client: set of the response's fragments it has so far, and perhaps the set of those that are lost; or no payload
    /// when only `idle` matters.
    Ack = 7,
    /// Server: there is no such session.
    Reset = 8,
    /// Client: the session is still wanted; the server sends one back.
    KeepAlive = 9,
    /// Client: the session is not wanted any more; the server sends one back.
    Bye = 10,
    /// Server: ask again, and show that you receive at this address. Payload: [`super::hello::HelloRetry`].
    HelloRetry = 11,
}

impl Kind {
    /// What a packet says it is, before anything of it was checked.
    pub fn of(packet: &[u8]) -> Option<Self> {
        Self::from_byte(*packet.get(field::KIND)?)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::HelloAck,
            3 => Self::Request,
            4 => Self::Response,
            5 => Self::Probe,
            6 => Self::Status,
            7 => Self::Ack,
            8 => Self::Reset,
            9 => Self::KeepAlive,
            10 => Self::Bye,
            11 => Self::HelloRetry,
            _ => return None,
        })
    }
}

/// A validated packet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the packet is for.
    pub kind: Kind,
    /// The session, 0 if none.
    pub session: u64,
    /// The request, or the client's attempt in hello and hello-ack.
    pub request: u64,
    /// Bytes of the whole message.
    pub message_bytes: u32,
    /// Where in the message the payload belongs.
    pub offset: u32,
    /// A bit for each slot of the client whose last response has arrived. In a response: for how many nanoseconds the
    /// server had the request.
    pub idle: u32,
    /// `request + ahead` is the id that `idle` speaks of at most.
    pub ahead: u16,
    /// Packets of long responses that the client wants under way at once.
    pub window: u16,
    /// Bits of [`flag`].
    pub flags: u16,
}

/// Why a packet was dropped before anything in it was believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than a header, or than its header says.
    #[error("packet is cut short")]
    Truncated,
    /// Another protocol.
    #[error("not a RUM packet")]
    Magic,
    /// Another version of this protocol.
    #[error("RUM protocol version {0}, expected {VERSION}")]
    Version(u8),
    /// Damaged on the way.
    #[error("wrong checksum")]
    Checksum,
    /// A kind that this version does not know.
    #[error("unknown packet kind {0}")]
    Kind(u8),
}

/// A packet taken apart. An unsealed one is whole; of a sealed one nothing is to be believed before it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// What the header says.
    pub header: Header,
    /// The header's bytes, which the tag of a sealed packet covers, too.
    pub head: &'a [u8],
    /// The payload, encrypted in a sealed packet.
    pub payload: &'a [u8],
    /// Of a sealed packet.
    pub trailer: Option<&'a Trailer>,
}

/// Whether the checksum of a packet covers its header alone.
fn is_unsummed(kind: Kind, flags: u16) -> bool {
    flags & flag::UNSUMMED != 0 && matches!(kind, Kind::Request | Kind::Response)
}

impl Parsed<'_> {
    /// Whether the checksum covers the header alone.
    pub fn is_unsummed(&self) -> bool {
        is_unsummed(self.header.kind, self.header.flags)
    }
}

impl Header {
    /// A header of `kind` with all else zero.
    pub fn new(kind: Kind, session: u64, request: u64) -> Self {
        Self { kind, session, request, message_bytes: 0, offset: 0, idle: 0, ahead: 0, window: 0, flags: 0 }
    }

    /// Takes a packet apart after checking magic, version, length, kind, and the checksum of one that is not sealed.
    pub fn decode(packet: &[u8]) -> Result<Parsed<'_>, HeaderError> {
        let head: &[u8; HEADER_BYTES] = packet.first_chunk().ok_or(HeaderError::Truncated)?;
        if u16::from_le_bytes(array(head, field::MAGIC)) != MAGIC {
            return Err(HeaderError::Magic);
        }
        if head[field::VERSION] != VERSION {
            return Err(HeaderError::Version(head[field::VERSION]));
        }
        let flags = u16::from_le_bytes(array(head, field::FLAGS));
        let end = HEADER_BYTES + usize::from(u16::from_le_bytes(array(head, field::PAYLOAD_BYTES)));
        let mut trailer = None;
        if flags & flag::SEALED != 0 {
            let bytes = packet.get(end..end + TRAILER_BYTES).and_then(|bytes| bytes.try_into().ok());
            trailer = Some(bytes.ok_or(HeaderError::Truncated)?);
        }
        let packet = packet.get(..end).ok_or(HeaderError::Truncated)?;
        let kind = Kind::from_byte(head[field::KIND]);
        let summed = if kind.is_some_and(|kind| is_unsummed(kind, flags)) { HEADER_BYTES } else { end };
        let checksum = u32::from_le_bytes(array(head, field::CHECKSUM));
        let is_right = match trailer {
            Some(_) => checksum == 0,
            None => checksum == crc32c(&packet[field::MAGIC..summed]),
        };
        if !is_right {
            return Err(HeaderError::Checksum);
        }
        let kind = kind.ok_or(HeaderError::Kind(head[field::KIND]))?;
        let header = Self {
            kind,
            session: u64::from_le_bytes(array(head, field::SESSION)),
            request: u64::from_le_bytes(array(head, field::REQUEST)),
            message_bytes: u32::from_le_bytes(array(head, field::MESSAGE_BYTES)),
            offset: u32::from_le_bytes(array(head, field::OFFSET)),
            idle: u32::from_le_bytes(array(head, field::IDLE)),
            ahead: u16::from_le_bytes(array(head, field::AHEAD)),
            window: u16::from_le_bytes(array(head, field::WINDOW)),
            flags,
        };
        let (head, payload) = packet.split_at(HEADER_BYTES);
        Ok(Parsed { header, head, payload, trailer })
    }

    /// Writes the header to the front of `head`, whose rest is the payload's beginning and `body` its end, and the
    /// checksum of all of it.
    pub fn encode(&self, head: &mut [u8], body: &[u8], checksummer: &mut Checksummer) {
        self.encode_parts(head, std::iter::once(body), checksummer);
    }

    /// As `encode`, with a body that lies in several places.
    pub fn encode_parts<'a>(
        &self,
        head: &mut [u8],
        body: impl Iterator<Item = &'a [u8]> + Clone,
        checksummer: &mut Checksummer,
    ) {
        let body_bytes: usize = body.clone().map(<[u8]>::len).sum();
        self.encode_fields(head, head.len() - HEADER_BYTES + body_bytes);
        let checksum = if is_unsummed(self.kind, self.flags) {
            crc32c(&head[field::MAGIC..HEADER_BYTES])
        } else {
            checksummer.of_parts(&head[field::MAGIC..], body)
        };
        head[field::CHECKSUM..field::MAGIC].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Writes a packet whose payload of `payload_bytes` is in `packet` already, sealed; gives its length. The header goes in
    /// front of the payload, the trailer behind it.
    pub fn encode_sealed(mut self, packet: &mut [u8], payload_bytes: usize, sealer: &mut Sealer) -> usize {
        self.flags |= flag::SEALED;
        let (head, rest) = packet.split_at_mut(HEADER_BYTES);
        self.encode_fields(head, payload_bytes);
        head[field::CHECKSUM..field::MAGIC].fill(0);
        let (payload, rest) = rest.split_at_mut(payload_bytes);
        rest[..TRAILER_BYTES].copy_from_slice(&sealer.seal(head, payload));
        HEADER_BYTES + payload_bytes + TRAILER_BYTES
    }

    /// # Panics
    /// If `head` is shorter than a header.
    fn encode_fields(&self, head: &mut [u8], payload_bytes: usize) {
        let head: &mut [u8; HEADER_BYTES] = head.first_chunk_mut().expect("room for a header");
        head[field::MAGIC..field::VERSION].copy_from_slice(&MAGIC.to_le_bytes());
        head[field::VERSION] = VERSION;
        head[field::KIND] = self.kind as u8;
        head[field::SESSION..field::REQUEST].copy_from_slice(&self.session.to_le_bytes());
        head[field::REQUEST..field::MESSAGE_BYTES].copy_from_slice(&self.request.to_le_bytes());
        head[field::MESSAGE_BYTES..field::OFFSET].copy_from_slice(&self.message_bytes.to_le_bytes());
        head[field::OFFSET..field::IDLE].copy_from_slice(&self.offset.to_le_bytes());
        head[field::IDLE..field::AHEAD].copy_from_slice(&self.idle.to_le_bytes());
        head[field::AHEAD..field::WINDOW].copy_from_slice(&self.ahead.to_le_bytes());
        head[field::WINDOW..field::PAYLOAD_BYTES].copy_from_slice(&self.window.to_le_bytes());
        head[field::PAYLOAD_BYTES..field::FLAGS].copy_from_slice(&(payload_bytes as u16).to_le_bytes());
        head[field::FLAGS..HEADER_BYTES].copy_from_slice(&self.flags.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    fn encoded(header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        header.encode(&mut packet, payload, &mut Checksummer::new());
        packet.extend_from_slice(payload);
        packet
    }

    prop_compose! {
        fn any_header()(kind in 1u8..=11, words in any::<(u64, u64, u32, u32, u32, u16, u16, u16)>()) -> Header {
            let (session, request, message_bytes, offset, idle, ahead, window, flags) = words;
            let (kind, flags) = (Kind::from_byte(kind).unwrap(), flags & !flag::SEALED);
            Header { kind, session, request, message_bytes, offset, idle, ahead, window, flags }
        }
    }

    proptest! {
        #[test]
        fn roundtrip_ignores_padding(
            header in any_header(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
            padding in 0usize..50,
        ) {
            let mut packet = encoded(&header, &payload);
            packet.resize(packet.len() + padding, 0xEE);
            let parsed = Header::decode(&packet).unwrap();
            prop_assert_eq!((parsed.header, parsed.payload, parsed.trailer), (header, &payload[..], None));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn every_flipped_bit_and_every_cut_is_noticed(
            header in any_header(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let packet = encoded(&header, &payload);
            let mut flipped = packet.clone();
            let bit = bit.index(packet.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            let is_covered = bit / 8 < HEADER_BYTES || !is_unsummed(header.kind, header.flags);
            let decoded = Header::decode(&flipped);
            prop_assert!(decoded.is_err() || decoded.is_ok_and(|parsed| parsed.trailer.is_some() || !is_covered));
            prop_assert_eq!(Header::decode(&packet[..cut.index(packet.len())]), Err(HeaderError::Truncated));
        }
    }

    proptest! {
        #[test]
        fn a_sealed_packet_opens_to_what_was_sealed_and_every_change_or_cut_is_noticed(
            header in any_header(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let secret = || zeroize::Zeroizing::new([5; 32]);
            let opener = || crate::seal::Opener::new(secret(), 24);
            let mut packet = vec![0; HEADER_BYTES + payload.len() + TRAILER_BYTES];
            packet[HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
            let length = header.encode_sealed(&mut packet, payload.len(), &mut Sealer::new(secret(), 24));
            prop_assert_eq!(length, packet.len());
            let open = |packet: &[u8]| {
                let parsed = Header::decode(packet).ok()?;
                let mut text = parsed.payload.to_vec();
                opener().open(parsed.head, &mut text, parsed.trailer?).ok()?;
                Some((parsed.header, text))
            };
            let sealed = Header { flags: header.flags | flag::SEALED, ..header };
            prop_assert_eq!(open(&packet), Some((sealed, payload)));
            prop_assert_eq!(Header::decode(&packet[..cut.index(packet.len())]), Err(HeaderError::Truncated));
            let bit = bit.index(packet.len() * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&packet), None);
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_named() {
        let mut packet = encoded(&Header::new(Kind::Bye, 1, 2), &[]);
        packet[field::KIND] = 99;
        let checksum = crate::wire::checksum::crc32c(&packet[4..]);
        packet[..4].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Header::decode(&packet), Err(HeaderError::Kind(99)));
        packet[field::VERSION] = 2;
        assert_eq!(Header::decode(&packet), Err(HeaderError::Version(2)));
    }
}
