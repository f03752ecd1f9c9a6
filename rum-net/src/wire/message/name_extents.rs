//! Name extents: a named object's extents from the `from`th on, up to 4096 of them.
//!
//! ```text
//! request:   0 opcode 7 | 4 from u32 | 8 hash [u8; 32]
//! response:  8 count u32 | 12 count × extent
//! ```

use super::{
    NameHash, Opcode, REQUEST_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    extent_ref::ExtentList,
    status::{ResponseError, expect_ok},
};

/// Bytes of the request.
pub const NAME_EXTENTS_REQUEST_BYTES: usize = REQUEST_HEAD_BYTES + 4 + 32;

/// Encodes the request.
pub fn encode_name_extents<'a>(
    hash: &NameHash,
    from: u32,
    buffer: &'a mut [u8; NAME_EXTENTS_REQUEST_BYTES],
) -> &'a [u8] {
    let mut writer = Writer::request(buffer, Opcode::NameExtents);
    writer.u32(from);
    writer.put(hash);
    writer.finish()
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<(u32, NameHash), Malformed> {
    Ok((reader.u32()?, reader.array()?))
}

/// Checks the response.
pub fn decode_name_extents_response(response: &[u8]) -> Result<ExtentList<'_>, ResponseError> {
    let mut reader = expect_ok(response)?;
    let extents = ExtentList::decode(&mut reader)?;
    reader.end()?;
    Ok(extents)
}
