//! A response's first bytes, and responses that are nothing else.
//!
//! ```text
//! 0 status u8 | 1 reserved [u8; 7]
//! ```

use super::{
    RESPONSE_HEAD_BYTES,
    codec::{Malformed, Reader},
};

/// What came of a request. All but `Ok` mean that nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Status {
    /// Done.
    #[error("done")]
    Ok = 0,
    /// The slave has no room for all the extents asked for.
    #[error("the slave is full")]
    Full = 1,
    /// An extent was freed, or given to another, since the client learnt its name.
    #[error("the extent has been freed")]
    StaleExtent = 2,
    /// An extent belongs to another client, or, for `release`, to a named object.
    #[error("the extent belongs to another client")]
    NotOwner = 3,
    /// No object has this name.
    #[error("no object has this name")]
    NoSuchName = 4,
    /// The named object exists with another size; the size follows.
    #[error("the named object exists with another size")]
    SizeDiffers = 5,
    /// The message is not as its table says.
    #[error("the request is malformed")]
    Malformed = 6,
    /// The client's lease has run out, or it said bye: nothing of its incarnation is served any more.
    #[error("the lease of this client has run out")]
    Fenced = 7,
    /// The slave does not know this message.
    #[error("the slave does not know this request")]
    Unsupported = 8,
    /// An extent index or a page number lies outside.
    #[error("no such extent or page")]
    OutOfRange = 9,
    /// Another slave leads the group, or none does at the moment; who follows. Nothing is known of what became of a command.
    #[error("the slave does not lead the group")]
    NotLeader = 10,
}

impl Status {
    /// All of them, by number.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Full,
        Self::StaleExtent,
        Self::NotOwner,
        Self::NoSuchName,
        Self::SizeDiffers,
        Self::Malformed,
        Self::Fenced,
        Self::Unsupported,
        Self::OutOfRange,
        Self::NotLeader,
    ];

    fn from_wire(byte: u8) -> Result<Self, Malformed> {
        Self::ALL.get(usize::from(byte)).copied().ok_or(Malformed("unknown status"))
    }
}

/// A response that brings nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResponseError {
    /// The slave refused; nothing was changed there.
    #[error("refused: {0}")]
    Refused(Status),
    /// The response is not as its table says: the peer is no RUM slave of this version.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Appends a response head; for most messages the whole response.
pub fn encode_status(status: Status, response: &mut Vec<u8>) {
    response.extend_from_slice(&[status as u8, 0, 0, 0, 0, 0, 0, 0]);
    debug_assert_eq!(RESPONSE_HEAD_BYTES, 8);
}

/// Checks the response of a message that brings no fields (release, write, free name, renew, bye).
pub fn decode_empty_response(response: &[u8]) -> Result<(), ResponseError> {
    Ok(expect_ok(response)?.end()?)
}

/// Takes the head off; `Err` unless the status is `Ok`.
pub(super) fn expect_ok(response: &[u8]) -> Result<Reader<'_>, ResponseError> {
    let (status, reader) = split(response)?;
    if status == Status::Ok { Ok(reader) } else { Err(ResponseError::Refused(status)) }
}

/// Takes the head off.
pub(super) fn split(response: &[u8]) -> Result<(Status, Reader<'_>), Malformed> {
    let mut reader = Reader::new(response);
    let status = Status::from_wire(reader.u8()?)?;
    reader.reserved(7)?;
    Ok((status, reader))
}
