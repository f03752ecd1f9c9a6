//! A checkpoint: all that is known of the groups at one instant, but for the pages, which have their own files. What the journal has from before it is not needed any more.
//!
//! ```text
//!  0      4         8     16         24
//!  ├──────┼─────────┼─────┼──────────┼───────── ─ ─
//!  │ RUMC │ version │ len │ checksum │ `Checkpoint`, coded by postcard
//! ```
//! Little-endian; the checksum is XXH3 (64 bits). It is written under another name, and takes its place when it is durable.

use paxos::Persisted;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::files::{FileError, Files};
use crate::group::{entry::Entry, image::DirectoryImage};

const NAME: &str = "checkpoint";
const NEW: &str = "checkpoint.new";
const MAGIC: [u8; 4] = *b"RUMC";
const VERSION: u32 = 1;
const HEAD: usize = 24;

/// See the module's documentation.
#[derive(Default, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The first segment of the journal that is needed.
    pub segment: u64,
    /// The number of its first frame.
    pub frame: u64,
    /// Each group.
    pub groups: Vec<GroupImage>,
}

/// One group.
#[derive(Debug, Serialize, Deserialize)]
pub struct GroupImage {
    /// Its number.
    pub group: u16,
    /// Its replica has a vote.
    pub has_vote: bool,
    /// What it restarts from.
    pub replica: Persisted<Entry>,
    /// Its state, but for the pages.
    pub directory: DirectoryImage,
    /// Of each place how many of its pages were written.
    pub written: Vec<u16>,
}

/// What there is.
#[derive(Debug)]
pub enum Found {
    /// No checkpoint was ever made.
    None,
    /// It is not what was written.
    Damaged,
    /// Here it is.
    Whole(Box<Checkpoint>),
    /// It was written by a later version of RUM.
    Later(u32),
}

/// The bytes of the file.
pub fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    // Only types that postcard does not know fail, and there are none here.
    let payload = postcard::to_stdvec(checkpoint).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&XxHash3_64::oneshot(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

/// Lets the file be these bytes, durably, or remain what it was.
pub fn write(files: &mut dyn Files, bytes: &[u8]) -> Result<(), FileError> {
    files.remove(NEW)?;
    files.write_at(NEW, 0, bytes)?;
    files.sync(NEW)?;
    files.rename(NEW, NAME).map(drop)
}

/// Reads the file.
pub fn read(files: &mut dyn Files) -> Result<Found, FileError> {
    let bytes = files.read(NAME)?;
    Ok(match bytes.is_empty() {
        true => Found::None,
        false => decode(&bytes),
    })
}

fn decode(bytes: &[u8]) -> Found {
    let Some(head) = bytes.first_chunk::<HEAD>() else { return Found::Damaged };
    let word = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let (version, length, checksum) = (word(4) as u32, word(8), word(16));
    let payload = &bytes[HEAD..];
    if head[..4] != MAGIC {
        return Found::Damaged;
    }
    if version > VERSION {
        return Found::Later(version);
    }
    if length != payload.len() as u64 || XxHash3_64::oneshot(payload) != checksum {
        return Found::Damaged;
    }
    postcard::from_bytes(payload).map_or(Found::Damaged, |checkpoint| Found::Whole(Box::new(checkpoint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_found() {
        let bytes = encode(&Checkpoint { segment: 3, frame: 4, groups: Vec::new() });
        assert!(matches!(decode(&bytes), Found::Whole(found) if (found.segment, found.frame) == (3, 4)));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(matches!(decode(&bad), Found::Damaged | Found::Later(_)), "byte {at}");
            assert!(matches!(decode(&bytes[..at]), Found::Damaged), "cut at {at}");
        }
    }
}
