//! Free name: a named object's extents go back, whoever created it; its name is free again.
//!
//! ```text
//! request:   0 opcode 8 | 4 hash [u8; 32]
//! response:  (nothing more)
//! ```

use super::{NameHash, Opcode, REQUEST_HEAD_BYTES, codec::Writer};

/// Bytes of the request.
pub const FREE_NAME_REQUEST_BYTES: usize = REQUEST_HEAD_BYTES + 32;

/// Encodes the request.
pub fn encode_free_name<'a>(hash: &NameHash, buffer: &'a mut [u8; FREE_NAME_REQUEST_BYTES]) -> &'a [u8] {
    let mut writer = Writer::request(buffer, Opcode::FreeName);
    writer.put(hash);
    writer.finish()
}
