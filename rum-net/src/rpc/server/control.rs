//! The server's packets that carry no part of a response.

use crate::{
    port::Address,
    rpc::{Incarnation, fragment::FragmentSet},
    seal::COOKIE_BYTES,
    wire::hello::Verdict,
};

/// A small packet that waits to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    HelloRetry { to: Address, attempt: u64, client: Incarnation, cookie: [u8; COOKIE_BYTES] },
    HelloAck { to: Address, attempt: u64, client: Incarnation, session: u64, verdict: Verdict },
    Reset { to: Address, session: u64 },
    KeepAlive { to: Address, session: u64 },
    Bye { to: Address, session: u64 },
    Status { to: Address, session: u64, request: u64, received: FragmentSet, flags: u16 },
}

impl Control {
    /// Where the packet goes.
    pub fn to(&self) -> Address {
        match *self {
            Self::HelloRetry { to, .. }
            | Self::HelloAck { to, .. }
            | Self::Reset { to, .. }
            | Self::KeepAlive { to, .. }
            | Self::Bye { to, .. }
            | Self::Status { to, .. } => to,
        }
    }
}
