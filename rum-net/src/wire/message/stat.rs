//! Stat: who the slave is and how full.
//!
//! ```text
//! request:   0 opcode 1
//! response:  8 incarnation u128 | 24 capacity u64 | 32 reserved u64 | 40 used u64 | 48 sessions u64 | 56 lease_ms u64
//! ```

use std::time::Duration;

use super::{
    Opcode, REQUEST_HEAD_BYTES, RESPONSE_HEAD_BYTES,
    codec::Writer,
    status::{ResponseError, Status, encode_status, expect_ok},
};
use crate::rpc::Incarnation;

/// Bytes of the response.
pub const STAT_RESPONSE_BYTES: usize = RESPONSE_HEAD_BYTES + 56;

/// What a slave says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Of the slave.
    pub incarnation: Incarnation,
    /// Extents it has in all.
    pub capacity_extents: u64,
    /// Extents given out, to clients and to named objects.
    pub reserved_extents: u64,
    /// Pages that hold data.
    pub used_pages: u64,
    /// Open sessions.
    pub sessions: u64,
    /// How long a client may be silent before its extents are reclaimed: renew several times in it.
    pub lease: Duration,
}

/// Encodes the request.
pub fn encode_stat(buffer: &mut [u8; REQUEST_HEAD_BYTES]) -> &[u8] {
    Writer::request(buffer, Opcode::Stat).finish()
}

impl Stat {
    /// Appends the response.
    pub fn encode_response(&self, response: &mut Vec<u8>) {
        encode_status(Status::Ok, response);
        response.extend_from_slice(&self.incarnation.0.to_le_bytes());
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        for value in [self.capacity_extents, self.reserved_extents, self.used_pages, self.sessions, lease_ms] {
            response.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Checks the response.
    pub fn decode_response(response: &[u8]) -> Result<Self, ResponseError> {
        let mut reader = expect_ok(response)?;
        let stat = Self {
            incarnation: Incarnation(reader.u128()?),
            capacity_extents: reader.u64()?,
            reserved_extents: reader.u64()?,
            used_pages: reader.u64()?,
            sessions: reader.u64()?,
            lease: Duration::from_millis(reader.u64()?),
        };
        reader.end()?;
        Ok(stat)
    }
}
