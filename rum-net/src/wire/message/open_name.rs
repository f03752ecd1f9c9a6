//! Open name: find a named object, or create it. Its pages read as zeros when it is new.
//!
//! ```text
//! request:      4 create u8 | 5 reserved [u8; 3] | 8 size u64 | 16 hash [u8; 32]
//! Ok:           8 size u64 | 16 total u32 | 20 existed u8 | 21 reserved [u8; 3] | 24 count u32 | 28 count × extent
//! SizeDiffers:  8 size u64
//! ```
//!
//! `total` is how many extents the object has; the response brings the first of them, `name extents` the others.

use super::{
    MAX_BATCH_EXTENTS, NameHash, Opcode, REQUEST_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    extent_ref::{ExtentList, ExtentRef},
    status::{ResponseError, Status, encode_status, split},
};

/// Bytes of the request.
pub const OPEN_NAME_REQUEST_BYTES: usize = REQUEST_HEAD_BYTES + 4 + 8 + 32;

/// The request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenName {
    /// The object's name.
    pub hash: NameHash,
    /// Create it with this many bytes when there is none (at least 1, and an existing one must have the same);
    /// `None` only finds it, whatever its size.
    pub create_bytes: Option<u64>,
}

/// The response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedName<'a> {
    /// The object's size in bytes.
    pub size_bytes: u64,
    /// Whether it existed before.
    pub existed: bool,
    /// How many extents it has.
    pub total_extents: u32,
    /// The first of them, up to `MAX_BATCH_EXTENTS`.
    pub extents: ExtentList<'a>,
}

/// Why no object was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenNameRefusal {
    /// It exists with another size.
    #[error("the named object exists with {existing_bytes} bytes")]
    SizeDiffers {
        /// Its size in bytes.
        existing_bytes: u64,
    },
    /// Any other reason.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

impl From<Malformed> for OpenNameRefusal {
    fn from(malformed: Malformed) -> Self {
        Self::Response(malformed.into())
    }
}

impl OpenName {
    /// Encodes the request.
    pub fn encode<'a>(&self, buffer: &'a mut [u8; OPEN_NAME_REQUEST_BYTES]) -> &'a [u8] {
        let mut writer = Writer::request(buffer, Opcode::OpenName);
        writer.put(&[u8::from(self.create_bytes.is_some()), 0, 0, 0]);
        writer.u64(self.create_bytes.unwrap_or(0));
        writer.put(&self.hash);
        writer.finish()
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let create = reader.bool()?;
        reader.reserved(3)?;
        let size = reader.u64()?;
        if create == (size == 0) {
            return Err(Malformed("a size without create, or create without a size"));
        }
        Ok(Self { hash: reader.array()?, create_bytes: create.then_some(size) })
    }
}

impl<'a> OpenedName<'a> {
    /// Checks the response.
    pub fn decode_response(response: &'a [u8]) -> Result<Self, OpenNameRefusal> {
        let (status, mut reader) = split(response)?;
        match status {
            Status::Ok => {}
            Status::SizeDiffers => {
                let existing_bytes = reader.u64()?;
                reader.end()?;
                return Err(OpenNameRefusal::SizeDiffers { existing_bytes });
            }
            other => return Err(ResponseError::Refused(other).into()),
        }
        let size_bytes = reader.u64()?;
        let total_extents = reader.u32()?;
        let existed = reader.bool()?;
        reader.reserved(3)?;
        let extents = ExtentList::decode(&mut reader)?;
        reader.end()?;
        if extents.len() != MAX_BATCH_EXTENTS.min(total_extents as usize) {
            return Err(Malformed("not the first extents").into());
        }
        Ok(Self { size_bytes, existed, total_extents, extents })
    }
}

/// Appends the response; `extents` are all of the object's, of which the first travel.
pub fn encode_open_name_response(size_bytes: u64, existed: bool, extents: &[ExtentRef], response: &mut Vec<u8>) {
    encode_status(Status::Ok, response);
    response.extend_from_slice(&size_bytes.to_le_bytes());
    response.extend_from_slice(&(extents.len() as u32).to_le_bytes());
    response.extend_from_slice(&[u8::from(existed), 0, 0, 0]);
    ExtentList::push(&extents[..extents.len().min(MAX_BATCH_EXTENTS)], response);
}

/// Appends the response of status `SizeDiffers`.
pub fn encode_size_differs(existing_bytes: u64, response: &mut Vec<u8>) {
    encode_status(Status::SizeDiffers, response);
    response.extend_from_slice(&existing_bytes.to_le_bytes());
}
