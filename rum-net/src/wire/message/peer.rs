//! Peer: what slaves that replicate each other's pages say among themselves.
//!
//! ```text
//! request:   0 opcode 13 | 1 reserved u8 | 2 sender u16 (its place in machines.csv) | 4 messages
//! response:  8 messages
//! ```
//!
//! The messages are a replication matter, and coded there.

use super::{
    Opcode,
    status::{ResponseError, expect_ok},
};

/// Bytes of the request before its messages.
pub const PEER_HEAD_BYTES: usize = 4;

/// The request up to its messages.
pub fn peer_head(sender: u16) -> [u8; PEER_HEAD_BYTES] {
    let [low, high] = sender.to_le_bytes();
    [Opcode::Peer as u8, 0, low, high]
}

/// The messages of a response.
pub fn decode_peer_response(response: &[u8]) -> Result<&[u8], ResponseError> {
    Ok(expect_ok(response)?.rest())
}
