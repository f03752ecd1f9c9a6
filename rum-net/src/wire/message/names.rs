//! Names: the named objects of a slave or a group, in the order of their names. A client is told of those that count against its account; of all where
//! there are no keys, and to who has the slaves' own key.
//!
//! ```text
//! request:   4 is after u8 | 5 reserved [u8; 3] | 8 after [u8; 32]
//! response:  8 count u32 | 12 reserved [u8; 4] | 16 count × name
//! name:      0 size u64 | 8 hash [u8; 32]
//! ```
//!
//! The response has those behind `after`, or from the first on; fewer than 2048 are the last.

use super::{
    NameHash, Opcode, REQUEST_HEAD_BYTES, RESPONSE_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    status::{ResponseError, Status, encode_status, expect_ok},
};

/// Bytes of the request.
pub const NAMES_REQUEST_BYTES: usize = REQUEST_HEAD_BYTES + 4 + 32;
/// Bytes of a name in the response.
pub const NAME_BYTES: usize = 8 + 32;
/// Names in one response, at most.
pub const MAX_BATCH_NAMES: usize = 2048;

/// Encodes the request.
pub fn encode_names<'a>(after: Option<&NameHash>, buffer: &'a mut [u8; NAMES_REQUEST_BYTES]) -> &'a [u8] {
    let mut writer = Writer::request(buffer, Opcode::Names);
    writer.put(&[u8::from(after.is_some()), 0, 0, 0]);
    writer.put(after.unwrap_or(&[0; 32]));
    writer.finish()
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Option<NameHash>, Malformed> {
    let is_after = reader.bool()?;
    reader.reserved(3)?;
    let hash = reader.array()?;
    if !is_after && hash != [0; 32] {
        return Err(Malformed("a name, but not to begin after"));
    }
    Ok(is_after.then_some(hash))
}

/// Appends the response: names and their sizes in bytes. Panics with more than `MAX_BATCH_NAMES`.
pub fn encode_names_response(names: &[(NameHash, u64)], response: &mut Vec<u8>) {
    assert!(names.len() <= MAX_BATCH_NAMES, "too many names for one message");
    encode_status(Status::Ok, response);
    response.reserve(RESPONSE_HEAD_BYTES + names.len() * NAME_BYTES);
    response.extend_from_slice(&(names.len() as u32).to_le_bytes());
    response.extend_from_slice(&[0; 4]);
    for (hash, size_bytes) in names {
        response.extend_from_slice(&size_bytes.to_le_bytes());
        response.extend_from_slice(hash);
    }
}

/// Checks the response.
pub fn decode_names_response(response: &[u8]) -> Result<Vec<(NameHash, u64)>, ResponseError> {
    let mut reader = expect_ok(response)?;
    let count = reader.count(0..=MAX_BATCH_NAMES)?;
    reader.reserved(4)?;
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        let size_bytes = reader.u64()?;
        names.push((reader.array()?, size_bytes));
    }
    reader.end()?;
    if names.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(Malformed("names out of order").into());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::{super::Request, *};

    #[test]
    fn the_request() {
        for after in [None, Some([0; 32]), Some([7; 32])] {
            let mut buffer = [0; NAMES_REQUEST_BYTES];
            let request = encode_names(after.as_ref(), &mut buffer);
            assert_eq!(Request::decode(request), Ok(Request::Names { after }));
        }
        let mut buffer = [0; NAMES_REQUEST_BYTES];
        encode_names(Some(&[7; 32]), &mut buffer);
        buffer[4] = 0;
        assert!(Request::decode(&buffer).is_err());
    }

    #[test]
    fn the_response() {
        let names: Vec<(NameHash, u64)> = (0..MAX_BATCH_NAMES as u64)
            .map(|number| {
                let mut hash = [0; 32];
                hash[..8].copy_from_slice(&number.to_be_bytes());
                (hash, number)
            })
            .collect();
        for count in [0, 1, 2, MAX_BATCH_NAMES] {
            let mut response = Vec::new();
            encode_names_response(&names[..count], &mut response);
            assert_eq!(decode_names_response(&response).unwrap(), names[..count]);
            for length in 0..response.len().min(200) {
                assert!(decode_names_response(&response[..length]).is_err());
            }
            response.push(0);
            assert!(decode_names_response(&response).is_err());
        }
        let mut response = Vec::new();
        encode_names_response(&[names[1], names[0]], &mut response);
        assert!(decode_names_response(&response).is_err(), "out of order");
    }
}
