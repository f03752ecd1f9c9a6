//! What clients ask of slaves, and what slaves answer: one file a message. All integers are little-endian.
//!
//! A request is `opcode u8, reserved [u8; 3]`, then the message's own fields. A response is `status u8,
//! reserved [u8; 7]`, then, when the status is `Ok`, the message's own fields.
//!
//! | opcode | request fields | response fields |
//! |---|---|---|
//! | 1 stat | | incarnation u128, capacity, reserved, used (extents, extents, pages), sessions, lease_ms: u64 each |
//! | 2 reserve | count u32 (1 to 4096) | extents, `count` of them (all or none: `Full`) |
//! | 3 release | extents | |
//! | 4 read | count u32 (1 to 32), count × page | kinds [u8; 32] (0 zeros, 1 data), then 4 KiB for each page of data, in order |
//! | 5 write | count u32 (1 to 32), count × page, kinds [u8; 32], then 4 KiB for each page of data | |
//! | 6 open name | create u8, reserved [u8; 3], size u64, hash [u8; 32] | size u64, total u32, existed u8, reserved [u8; 3], the first extents; with `SizeDiffers` the existing size u64 |
//! | 7 name extents | from u32, hash [u8; 32] | extents (fewer than 4096 of them: the last) |
//! | 8 free name | hash [u8; 32] | |
//! | 9 renew | | |
//! | 10 bye | | |
//! | 11 command | group u16 in the place of reserved bytes, sequence u64, settled u64, then a request | those of the request |
//! | 12 ask | of any u8 and group u16 in the place of reserved bytes, then a request | those of the request |
//! | 13 peer | sender u16 in the place of reserved bytes, then messages of slaves to each other | the same |
//! | 14 describe | | JSON |
//! | 15 names | is after u8, reserved [u8; 3], after [u8; 32] | count u32 (fewer than 2048: the last), reserved [u8; 4], count × (size u64, hash [u8; 32]) |
//!
//! An extent is `index u32, generation u32`; a page is `index u32, generation u32, page u32`; "extents" is `count
//! u32 (at most 4096), count × extent`. A request names extents by index and generation and is checked against their
//! owner: an address never travels.
//!
//! Decoders are total and strict: a length that does not fit, a reserved byte that is not zero, a count out of
//! range are `Malformed`. What the client encodes on its fault path (read, write, reserve) goes into a fixed array
//! and allocates nothing; `rpc::client::Client::request` takes it as the head, and the pages of a write as the body.

mod bye;
mod codec;
mod command;
mod describe;
mod extent_ref;
mod free_name;
mod name_extents;
mod names;
mod open_name;
mod peer;
mod read;
mod release;
mod renew;
mod reserve;
mod stat;
mod status;
mod write;

pub use bye::encode_bye;
pub use codec::Malformed;
pub use command::{
    ASK_HEAD_BYTES, COMMAND_HEAD_BYTES, Command, ask_any_head, ask_head, command_head, decode_not_leader,
    encode_not_leader,
};
pub use describe::{decode_describe_response, encode_describe};
pub use extent_ref::{EXTENT_REF_BYTES, ExtentList, ExtentRef, PAGE_REF_BYTES, PageList, PageRef};
pub use free_name::{FREE_NAME_REQUEST_BYTES, encode_free_name};
pub use name_extents::{NAME_EXTENTS_REQUEST_BYTES, decode_name_extents_response, encode_name_extents};
pub use names::{
    MAX_BATCH_NAMES, NAME_BYTES, NAMES_REQUEST_BYTES, decode_names_response, encode_names, encode_names_response,
};
pub use open_name::{
    OPEN_NAME_REQUEST_BYTES, OpenName, OpenNameRefusal, OpenedName, encode_open_name_response, encode_size_differs,
};
pub use peer::{PEER_HEAD_BYTES, decode_peer_response, peer_head};
pub use read::{
    READ_REQUEST_MAX_BYTES, READ_RESPONSE_HEAD_BYTES, ReadResponse, ReadResponseHead, ReadResponseWriter, encode_read,
};
pub use release::{encode_release, release_request_bytes};
pub use renew::encode_renew;
pub use reserve::{RESERVE_REQUEST_BYTES, decode_reserve_response, encode_extents_response, encode_reserve};
pub use stat::{STAT_RESPONSE_BYTES, Stat, encode_stat};
pub use status::{ResponseError, Status, decode_empty_response, encode_status};
pub use write::{WRITE_HEAD_MAX_BYTES, WriteRequest, encode_write_head};

use crate::PAGE_BYTES;
use codec::Reader;

/// Pages in one read or write, at most.
pub const MAX_BATCH_PAGES: usize = 32;
/// Extents in one message, at most.
pub const MAX_BATCH_EXTENTS: usize = 4096;
/// Bytes of a request before its own fields.
pub const REQUEST_HEAD_BYTES: usize = 4;
/// Bytes of a response before its own fields; the whole response unless its status is `Ok` (or `SizeDiffers`, or `NotLeader`).
pub const RESPONSE_HEAD_BYTES: usize = 8;

/// The name of an object that outlives its client.
pub type NameHash = [u8; 32];

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Zeros only, or never written: no bytes travel.
    Zeros = 0,
    /// 4 KiB of data.
    Data = 1,
}

impl PageKind {
    pub(crate) fn from_wire(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Self::Zeros),
            1 => Ok(Self::Data),
            _ => Err(Malformed("unknown page kind")),
        }
    }
}

/// A page's content as a message carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageContent<'a> {
    /// Zeros only.
    Zeros,
    /// The bytes.
    Data(&'a [u8; PAGE_BYTES]),
}

/// A message's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the table above says it")]
pub enum Opcode {
    Stat = 1,
    Reserve = 2,
    Release = 3,
    Read = 4,
    Write = 5,
    OpenName = 6,
    NameExtents = 7,
    FreeName = 8,
    Renew = 9,
    Bye = 10,
    Command = 11,
    Ask = 12,
    Peer = 13,
    Describe = 14,
    Names = 15,
}

impl Opcode {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 15] = [
        Self::Stat,
        Self::Reserve,
        Self::Release,
        Self::Read,
        Self::Write,
        Self::OpenName,
        Self::NameExtents,
        Self::FreeName,
        Self::Renew,
        Self::Bye,
        Self::Command,
        Self::Ask,
        Self::Peer,
        Self::Describe,
        Self::Names,
    ];

    fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&opcode| opcode as u8 == byte)
    }
}

/// A request as the slave sees it: a checked view of the message's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// How full is the slave, and who is it.
    Stat,
    /// Give me this many extents, all or none.
    Reserve {
        /// 1 to `MAX_BATCH_EXTENTS`.
        count: usize,
    },
    /// Take these extents back.
    Release(ExtentList<'a>),
    /// What do these pages hold.
    Read(PageList<'a>),
    /// Let these pages hold this.
    Write(WriteRequest<'a>),
    /// Find a named object, or create it.
    OpenName(OpenName),
    /// The extents of a named object.
    NameExtents {
        /// Its name.
        hash: NameHash,
        /// How many of its extents to skip.
        from: u32,
    },
    /// Free a named object, for everyone.
    FreeName {
        /// Its name.
        hash: NameHash,
    },
    /// I am alive.
    Renew,
    /// I am leaving: free my unnamed extents.
    Bye,
    /// A request that all slaves of a group run.
    Command(Command<'a>),
    /// A request to a group that changes nothing.
    Ask {
        /// The group.
        group: u16,
        /// Any of its slaves may answer, and not only who leads.
        of_any: bool,
        /// The request, not checked yet.
        request: &'a [u8],
    },
    /// Messages of another slave.
    Peer {
        /// Its place in machines.csv.
        sender: u16,
        /// The messages, not checked yet.
        messages: &'a [u8],
    },
    /// Say all of yourself.
    Describe,
    /// Which named objects are there.
    Names {
        /// Those behind this one; from the first on without.
        after: Option<NameHash>,
    },
}

/// Why a request could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The message is not as its opcode says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The opcode is unknown: the peer is newer, or no RUM.
    #[error("unknown opcode {0}")]
    Unsupported(u8),
}

impl RequestError {
    /// What to answer.
    pub fn status(self) -> Status {
        match self {
            Self::Malformed(_) => Status::Malformed,
            Self::Unsupported(_) => Status::Unsupported,
        }
    }
}

impl<'a> Request<'a> {
    /// Checks a whole message. Never panics, whatever the bytes.
    pub fn decode(message: &'a [u8]) -> Result<Self, RequestError> {
        let mut reader = Reader::new(message);
        let byte = reader.u8()?;
        let opcode = Opcode::from_wire(byte).ok_or(RequestError::Unsupported(byte))?;
        let (of_any, group) = match opcode {
            Opcode::Ask => (reader.bool()?, reader.u16()?),
            Opcode::Command | Opcode::Peer => {
                reader.reserved(1)?;
                (false, reader.u16()?)
            }
            _ => {
                reader.reserved(3)?;
                (false, 0)
            }
        };
        let request = match opcode {
            Opcode::Stat => Self::Stat,
            Opcode::Reserve => Self::Reserve { count: reserve::decode(&mut reader)? },
            Opcode::Release => Self::Release(release::decode(&mut reader)?),
            Opcode::Read => Self::Read(PageList::decode(&mut reader)?),
            Opcode::Write => Self::Write(WriteRequest::decode(&mut reader)?),
            Opcode::OpenName => Self::OpenName(OpenName::decode(&mut reader)?),
            Opcode::NameExtents => {
                let (from, hash) = name_extents::decode(&mut reader)?;
                Self::NameExtents { hash, from }
            }
            Opcode::FreeName => Self::FreeName { hash: reader.array()? },
            Opcode::Renew => Self::Renew,
            Opcode::Bye => Self::Bye,
            Opcode::Command => Self::Command(Command { group, ..Command::decode(&mut reader)? }),
            Opcode::Ask => Self::Ask { group, of_any, request: reader.rest() },
            Opcode::Peer => Self::Peer { sender: group, messages: reader.rest() },
            Opcode::Describe => Self::Describe,
            Opcode::Names => Self::Names { after: names::decode(&mut reader)? },
        };
        reader.end()?;
        Ok(request)
    }

    /// Which message this is.
    pub fn opcode(&self) -> Opcode {
        match self {
            Self::Stat => Opcode::Stat,
            Self::Reserve { .. } => Opcode::Reserve,
            Self::Release(_) => Opcode::Release,
            Self::Read(_) => Opcode::Read,
            Self::Write(_) => Opcode::Write,
            Self::OpenName(_) => Opcode::OpenName,
            Self::NameExtents { .. } => Opcode::NameExtents,
            Self::FreeName { .. } => Opcode::FreeName,
            Self::Renew => Opcode::Renew,
            Self::Bye => Opcode::Bye,
            Self::Command(_) => Opcode::Command,
            Self::Ask { .. } => Opcode::Ask,
            Self::Peer { .. } => Opcode::Peer,
            Self::Describe => Opcode::Describe,
            Self::Names { .. } => Opcode::Names,
        }
    }
}

#[cfg(test)]
mod tests;
