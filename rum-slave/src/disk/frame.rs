//! Frames of the journal: what one group commit writes.
//!
//! ```text
//!  0      4      8          16         24
//!  ├──────┼──────┼──────────┼──────────┼─────────────── ─ ─
//!  │ RUMJ │ len  │ number   │ checksum │ payload, padded to 8 bytes
//! ```
//! Little-endian. `len` is that of the payload; frames are numbered without gaps, over all segments; the checksum is XXH3 (64 bits) of the payload, whose
//! seed is the number and the folder's salt: nobody can make a page that looks like a frame. The payload is a sequence of `Note`s, coded by postcard.

use paxos::Record;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::group::entry::Entry;

const MAGIC: [u8; 4] = *b"RUMJ";
const HEAD: usize = 24;
/// Frames begin at multiples of it.
const ALIGN: usize = 8;

/// Something to remember about one group.
#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    /// The group.
    pub group: u16,
    /// What it is.
    pub what: What,
}

/// See `Note`.
#[derive(Debug, Serialize, Deserialize)]
pub enum What {
    /// A record of its replica.
    Record(Record<Entry>),
    /// All slots up to this one are decided, as they were accepted last: they can be applied at once at the next start. Nobody waits for it.
    Decided(u64),
    /// The slave had to forget all that it has of the group: it begins as one without memory, and records before this one are void.
    Forgotten,
}

impl Note {
    /// Puts the note behind others.
    pub fn encode_into(group: u16, what: &What, payload: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            group: u16,
            what: &'a What,
        }
        // Only types that postcard does not know fail, and there are none here.
        if let Ok(bytes) = postcard::to_stdvec(&Borrowed { group, what }) {
            payload.extend_from_slice(&bytes);
        }
    }

    /// All notes of a payload; nothing if there is something else in it.
    pub fn decode_all(mut payload: &[u8]) -> Option<Vec<Self>> {
        let mut notes = Vec::new();
        while !payload.is_empty() {
            let (note, rest) = postcard::take_from_bytes(payload).ok()?;
            notes.push(note);
            payload = rest;
        }
        Some(notes)
    }
}

fn checksum(salt: u64, number: u64, payload: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(salt ^ number, payload)
}

/// The frame of this number.
pub fn encode(salt: u64, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity((HEAD + payload.len()).next_multiple_of(ALIGN));
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&checksum(salt, number, payload).to_le_bytes());
    frame.extend_from_slice(payload);
    frame.resize(frame.len().next_multiple_of(ALIGN), 0);
    frame
}

/// A frame as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its number.
    pub number: u64,
    /// Its payload.
    pub payload: &'a [u8],
    /// Bytes that it takes.
    pub length: usize,
}

/// The frame at the beginning of `bytes`, if there is a whole one.
pub fn decode(salt: u64, bytes: &[u8]) -> Option<Frame<'_>> {
    let head = bytes.first_chunk::<HEAD>()?;
    let word = |at: usize| head[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    if head[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
    let (number, sum) = (word(8)?, word(16)?);
    let payload = bytes.get(HEAD..HEAD.checked_add(length)?)?;
    (checksum(salt, number, payload) == sum).then_some(Frame {
        number,
        payload,
        length: (HEAD + length).next_multiple_of(ALIGN),
    })
}

/// Whether there is a frame of number `least` or a later one anywhere in `bytes`.
pub fn is_any_from(salt: u64, least: u64, bytes: &[u8]) -> bool {
    let mut places = (0..bytes.len()).step_by(ALIGN);
    places.any(|at| {
        bytes[at..].starts_with(&MAGIC) && decode(salt, &bytes[at..]).is_some_and(|frame| frame.number >= least)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: u64 = 5;

    #[test]
    fn frames_follow_each_other() {
        let bytes = [encode(SALT, 7, b"abc"), encode(SALT, 8, b"")].concat();
        let first = decode(SALT, &bytes).unwrap();
        assert_eq!((first.number, first.payload, first.length), (7, &b"abc"[..], 32));
        assert_eq!(decode(SALT, &bytes[first.length..]).map(|frame| frame.number), Some(8));
        assert!(is_any_from(SALT, 8, &bytes) && !is_any_from(SALT, 9, &bytes));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unnoticed(payload in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = encode(SALT, 3, &payload);
            let covered = HEAD + payload.len();
            bytes[at.index(covered)] ^= 1 << bit;
            prop_assert!(decode(SALT, &bytes).is_none_or(|frame| frame.number != 3 || frame.payload != payload));
        }

        #[test]
        fn a_torn_frame_is_none(payload in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>()) {
            let bytes = encode(SALT, 3, &payload);
            prop_assert_eq!(decode(SALT, &bytes[..at.index(HEAD + payload.len())]), None);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            decode(SALT, &bytes);
            Note::decode_all(&bytes);
        }
    }
}
