//! Bye: the client leaves; its unnamed extents go back at once. Its incarnation is used up: what it asks afterwards
//! is `Fenced`, and a process that joins again draws a new one.
//!
//! ```text
//! request:   0 opcode 10
//! response:  (nothing more)
//! ```

use super::{Opcode, REQUEST_HEAD_BYTES, codec::Writer};

/// Encodes the request.
pub fn encode_bye(buffer: &mut [u8; REQUEST_HEAD_BYTES]) -> &[u8] {
    Writer::request(buffer, Opcode::Bye).finish()
}
