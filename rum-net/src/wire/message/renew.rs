//! Renew: the client is alive; its lease runs anew. Any other request does the same.
//!
//! ```text
//! request:   0 opcode 9
//! response:  (nothing more)
//! ```

use super::{Opcode, REQUEST_HEAD_BYTES, codec::Writer};

/// Encodes the request.
pub fn encode_renew(buffer: &mut [u8; REQUEST_HEAD_BYTES]) -> &[u8] {
    Writer::request(buffer, Opcode::Renew).finish()
}
