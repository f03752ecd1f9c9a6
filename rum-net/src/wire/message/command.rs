//! Requests to a group of slaves that replicate what they keep: another request in an envelope that names the group.
//!
//! ```text
//! ask:      0 opcode 12 | 1 of any u8 | 2 group u16 | 4 request
//! command:  0 opcode 11 | 1 reserved u8 | 2 group u16 | 4 sequence u64 | 12 settled u64 | 20 request
//! response: that of the request; NotLeader:  8 leader u16 (0xffff: unknown) | 10 reserved [u8; 6]
//! ```
//!
//! An `ask` changes nothing. Who leads answers it, or, `of any`, whoever is asked, as far as it knows: that may be old. A `command` is run by all slaves of the group, once, however often and by whichever leaders it is
//! asked for: a client counts its commands to a group by `sequence`, and says up to which it has all answers (`settled`):
//! those are forgotten, and such a command that comes late is not run any more.

use super::{
    Opcode,
    codec::{Malformed, Reader},
    status::{Status, encode_status, split},
};

/// Bytes of the envelope of a request that changes nothing.
pub const ASK_HEAD_BYTES: usize = 4;
/// Bytes of the envelope of a request that is run by all slaves of a group.
pub const COMMAND_HEAD_BYTES: usize = 20;

/// The slave does not know who leads.
const NOBODY: u16 = u16::MAX;

/// The envelope of a request that changes nothing, to be answered by who leads.
pub fn ask_head(group: u16) -> [u8; ASK_HEAD_BYTES] {
    let [low, high] = group.to_le_bytes();
    [Opcode::Ask as u8, 0, low, high]
}

/// The envelope of a read that any slave of the group answers: what it says may be old.
pub fn ask_any_head(group: u16) -> [u8; ASK_HEAD_BYTES] {
    let [opcode, _, low, high] = ask_head(group);
    [opcode, 1, low, high]
}

/// The envelope of a request that is run by all slaves of a group.
pub fn command_head(group: u16, sequence: u64, settled: u64) -> [u8; COMMAND_HEAD_BYTES] {
    let mut head = [0; COMMAND_HEAD_BYTES];
    head[0] = Opcode::Command as u8;
    head[2..4].copy_from_slice(&group.to_le_bytes());
    head[4..12].copy_from_slice(&sequence.to_le_bytes());
    head[12..].copy_from_slice(&settled.to_le_bytes());
    head
}

/// A request in its envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command<'a> {
    /// The group.
    pub group: u16,
    /// Counts the client's commands to this group, from 1.
    pub sequence: u64,
    /// The client has the answers of all commands up to this one.
    pub settled: u64,
    /// The request, not checked yet.
    pub request: &'a [u8],
}

impl<'a> Command<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (sequence, settled) = (reader.u64()?, reader.u64()?);
        if settled >= sequence {
            return Err(Malformed("a command that is answered already"));
        }
        Ok(Self { group: 0, sequence, settled, request: reader.rest() })
    }
}

/// Appends the answer of a slave that does not lead the group; `leader` is a slave's place in machines.csv.
pub fn encode_not_leader(leader: Option<u16>, response: &mut Vec<u8>) {
    encode_status(Status::NotLeader, response);
    response.extend_from_slice(&leader.unwrap_or(NOBODY).to_le_bytes());
    response.extend_from_slice(&[0; 6]);
}

/// What the answer of a slave that does not lead says of who does; `None` if it is another answer, or not as its table says.
pub fn decode_not_leader(response: &[u8]) -> Option<Option<u16>> {
    let (status, mut reader) = split(response).ok()?;
    if status != Status::NotLeader {
        return None;
    }
    let leader = reader.u16().ok()?;
    reader.reserved(6).ok()?;
    reader.end().ok()?;
    Some((leader != NOBODY).then_some(leader))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{REQUEST_HEAD_BYTES, Request, encode_stat},
        *,
    };

    #[test]
    fn envelopes() {
        let mut stat = [0; REQUEST_HEAD_BYTES];
        encode_stat(&mut stat);
        let ask = [&ask_head(0x102)[..], &stat].concat();
        assert_eq!(Request::decode(&ask), Ok(Request::Ask { group: 0x102, of_any: false, request: &stat }));
        let ask = [&ask_any_head(0x102)[..], &stat].concat();
        assert_eq!(Request::decode(&ask), Ok(Request::Ask { group: 0x102, of_any: true, request: &stat }));
        assert!(Request::decode(&[Opcode::Ask as u8, 2, 0, 0]).is_err());
        let command = [&command_head(3, 9, 8)[..], &stat].concat();
        let expected = Command { group: 3, sequence: 9, settled: 8, request: &stat };
        assert_eq!(Request::decode(&command), Ok(Request::Command(expected)));
        for length in 0..COMMAND_HEAD_BYTES {
            assert!(Request::decode(&command[..length]).is_err());
        }
        assert!(Request::decode(&command_head(3, 8, 8)).is_err());
    }

    #[test]
    fn who_leads() {
        for leader in [None, Some(0), Some(7)] {
            let mut response = Vec::new();
            encode_not_leader(leader, &mut response);
            assert_eq!((response.len(), decode_not_leader(&response)), (16, Some(leader)));
        }
        let mut other = Vec::new();
        encode_status(Status::Ok, &mut other);
        assert_eq!((decode_not_leader(&other), decode_not_leader(&[])), (None, None));
    }
}
