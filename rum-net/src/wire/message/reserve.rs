//! Reserve: extents for the asking client, all or none. Their pages read as zeros.
//!
//! ```text
//! request:   0 opcode 2 | 4 count u32
//! response:  8 count u32 | 12 count × extent
//! ```

use super::{
    MAX_BATCH_EXTENTS, Opcode, REQUEST_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    extent_ref::{ExtentList, ExtentRef},
    status::{ResponseError, Status, encode_status, expect_ok},
};

/// Bytes of the request.
pub const RESERVE_REQUEST_BYTES: usize = REQUEST_HEAD_BYTES + 4;

/// Encodes the request for `count` extents. Panics unless `count` is 1 to `MAX_BATCH_EXTENTS`.
pub fn encode_reserve(count: usize, buffer: &mut [u8; RESERVE_REQUEST_BYTES]) -> &[u8] {
    assert!((1..=MAX_BATCH_EXTENTS).contains(&count), "{count} extents in one message");
    let mut writer = Writer::request(buffer, Opcode::Reserve);
    writer.u32(count as u32);
    writer.finish()
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    reader.count(1..=MAX_BATCH_EXTENTS)
}

/// Checks the response to a request for `count` extents: exactly as many, or `Refused(Full)`.
pub fn decode_reserve_response(response: &[u8], count: usize) -> Result<ExtentList<'_>, ResponseError> {
    let mut reader = expect_ok(response)?;
    let extents = ExtentList::decode(&mut reader)?;
    reader.end()?;
    if extents.len() == count { Ok(extents) } else { Err(Malformed("not as many extents as asked for").into()) }
}

/// Appends a response that is a list of extents, at most `MAX_BATCH_EXTENTS`: to `reserve` and to `name extents`.
pub fn encode_extents_response(extents: &[ExtentRef], response: &mut Vec<u8>) {
    encode_status(Status::Ok, response);
    ExtentList::push(extents, response);
}
