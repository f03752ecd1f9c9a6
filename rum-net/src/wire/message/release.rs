//! Release: the client's unnamed extents go back, all or none.
//!
//! ```text
//! request:   0 opcode 3 | 4 count u32 (1 to 4096) | 8 count × extent
//! response:  (nothing more)
//! ```

use super::{
    MAX_BATCH_EXTENTS, Opcode, REQUEST_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    extent_ref::{EXTENT_REF_BYTES, ExtentList, ExtentRef},
};

/// Bytes of the request for `count` extents.
pub const fn release_request_bytes(count: usize) -> usize {
    REQUEST_HEAD_BYTES + 4 + count * EXTENT_REF_BYTES
}

/// Encodes the request into `buffer`, which has `release_request_bytes(extents.len())` bytes or more. Panics
/// otherwise, and unless there are 1 to `MAX_BATCH_EXTENTS` extents.
pub fn encode_release<'a>(extents: &[ExtentRef], buffer: &'a mut [u8]) -> &'a [u8] {
    let count = extents.len();
    assert!((1..=MAX_BATCH_EXTENTS).contains(&count), "{count} extents in one message");
    let mut writer = Writer::request(buffer, Opcode::Release);
    writer.u32(count as u32);
    for extent in extents {
        writer.put(&extent.to_bytes());
    }
    writer.finish()
}

pub(super) fn decode<'a>(reader: &mut Reader<'a>) -> Result<ExtentList<'a>, Malformed> {
    let extents = ExtentList::decode(reader)?;
    if extents.is_empty() { Err(Malformed("count out of range")) } else { Ok(extents) }
}
