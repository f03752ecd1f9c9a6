//! Describe: all that a slave says of itself, for people.
//!
//! ```text
//! request:   0 opcode 14
//! response:  8 JSON in UTF-8
//! ```

use super::{
    Opcode, REQUEST_HEAD_BYTES,
    codec::Writer,
    status::{ResponseError, expect_ok},
};

/// Encodes the request.
pub fn encode_describe(buffer: &mut [u8; REQUEST_HEAD_BYTES]) -> &[u8] {
    Writer::request(buffer, Opcode::Describe).finish()
}

/// The JSON of a response.
pub fn decode_describe_response(response: &[u8]) -> Result<&[u8], ResponseError> {
    Ok(expect_ok(response)?.rest())
}
