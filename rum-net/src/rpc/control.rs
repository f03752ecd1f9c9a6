//! The server's packets that carry no part of a response.

use super::{Incarnation, fragment::FragmentSet};
use crate::{
    port::Address,
    wire::{
        checksum::Checksummer,
        header::{HEADER_BYTES, Header, Kind},
        hello::HelloAck,
    },
};

/// A small packet that waits to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    HelloAck { to: Address, attempt: u64, client: Incarnation, session: u64, mtu: u32, slots: u32 },
    Reset { to: Address, session: u64 },
    KeepAlive { to: Address, session: u64 },
    Bye { to: Address, session: u64 },
    Status { to: Address, session: u64, request: u64, received: FragmentSet, flags: u16 },
}

impl Control {
    /// Where the packet goes.
    pub fn to(&self) -> Address {
        match *self {
            Self::HelloAck { to, .. }
            | Self::Reset { to, .. }
            | Self::KeepAlive { to, .. }
            | Self::Bye { to, .. }
            | Self::Status { to, .. } => to,
        }
    }

    /// Bytes of the longest of them.
    pub const MAX_BYTES: usize = HEADER_BYTES + HelloAck::BYTES;

    /// Writes the packet to the front of `head`, and returns how long it is.
    pub fn encode(&self, server: Incarnation, head: &mut [u8], checksummer: &mut Checksummer) -> usize {
        let mut header = match *self {
            Self::HelloAck { session, attempt, .. } => Header::new(Kind::HelloAck, session, attempt),
            Self::Reset { session, .. } => Header::new(Kind::Reset, session, 0),
            Self::KeepAlive { session, .. } => Header::new(Kind::KeepAlive, session, 0),
            Self::Bye { session, .. } => Header::new(Kind::Bye, session, 0),
            Self::Status { session, request, .. } => Header::new(Kind::Status, session, request),
        };
        let mut head_bytes = HEADER_BYTES;
        match *self {
            Self::HelloAck { client, mtu, slots, .. } => {
                head_bytes += HelloAck::BYTES;
                let ack = HelloAck { client: client.0, server: server.0, mtu, slots };
                head[HEADER_BYTES..head_bytes].copy_from_slice(&ack.encode());
            }
            Self::Status { received, flags, .. } => {
                head_bytes += size_of::<u128>();
                header.flags = flags;
                head[HEADER_BYTES..head_bytes].copy_from_slice(&received.0.to_le_bytes());
            }
            Self::Reset { .. } | Self::KeepAlive { .. } | Self::Bye { .. } => {}
        }
        header.encode(&mut head[..head_bytes], &[], checksummer);
        head_bytes
    }
}
