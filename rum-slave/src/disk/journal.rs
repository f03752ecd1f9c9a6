//! The journal: frames in segments of one size, which are made of zeros or taken from an earlier use, since writing over what is there is synced twice as fast as appending.
//!
//! After a crash it ends with the last whole frame. Whatever comes behind is torn, and was never acknowledged, unless there is a later frame, or the file
//! `mark` says that later ones were durable: then it is damaged.

use twox_hash::XxHash3_64;

use super::{
    files::{FileError, Files},
    frame::{self, Note},
};

const MARK: &str = "mark";
/// Two marks are written in turns, so that one is whole.
const MARK_STRIDE: u64 = 512;
/// Segments that are kept for later use.
const MAX_SPARE: usize = 4;

/// The name of a segment.
pub fn segment_name(segment: u64) -> String {
    format!("log-{segment:012}")
}

fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}

fn spare_name(segment: u64) -> String {
    format!("spare-{segment:012}")
}

/// Makes a segment of this size ready to be written.
pub fn begin_segment(files: &mut dyn Files, segment: u64, segment_bytes: u64) -> Result<(), FileError> {
    let name = segment_name(segment);
    for spare in files.names()?.iter().filter(|name| name.starts_with("spare-")) {
        if files.rename(spare, &name)? {
            return Ok(());
        }
    }
    const PIECE: u64 = 1 << 20;
    for at in (0..segment_bytes).step_by(PIECE as usize) {
        files.write_at(&name, at, &vec![0; PIECE.min(segment_bytes - at) as usize])?;
    }
    files.sync(&name)
}

/// Writes a frame and returns when it is durable.
pub fn append(
    files: &mut dyn Files,
    (segment, offset): (u64, u64),
    number: u64,
    frame: &[u8],
) -> Result<(), FileError> {
    let name = segment_name(segment);
    files.write_at(&name, offset, frame)?;
    files.sync(&name)?;
    // It need not be durable at once: it tells damage from a torn end as well as it can.
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&number.to_le_bytes());
    let check = XxHash3_64::oneshot(&mark[..8]);
    mark[8..].copy_from_slice(&check.to_le_bytes());
    files.write_at(MARK, number % 2 * MARK_STRIDE, &mark)
}

/// Makes the mark durable: nothing is written any more.
pub fn close(files: &mut dyn Files) -> Result<(), FileError> {
    files.sync(MARK)
}

fn read_mark(files: &mut dyn Files) -> Result<u64, FileError> {
    let mut greatest = 0;
    for slot in 0..2 {
        let mut mark = [0; 16];
        files.read_at(MARK, slot * MARK_STRIDE, &mut mark)?;
        let word = |at: usize| mark[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if XxHash3_64::oneshot(&mark[..8]) == word(8) {
            greatest = greatest.max(word(0));
        }
    }
    Ok(greatest)
}

/// Removes segments before `first`, or keeps them for later use.
pub fn drop_before(files: &mut dyn Files, first: u64) -> Result<(), FileError> {
    let names = files.names()?;
    let mut spares = names.iter().filter(|name| name.starts_with("spare-")).count();
    for name in &names {
        let Some(segment) = segment_number(name).filter(|segment| *segment < first) else { continue };
        if spares < MAX_SPARE {
            files.rename(name, &spare_name(segment))?;
            spares += 1;
        } else {
            files.remove(name)?;
        }
    }
    Ok(())
}

/// What a journal holds.
#[derive(Debug)]
pub struct Journal {
    /// All notes, in order.
    pub notes: Vec<Note>,
    /// The last segment.
    pub segment: u64,
    /// The number of the next frame.
    pub next: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    /// Something is missing that was durable.
    pub is_damaged: bool,
}

/// Reads all frames from number `next` on, which are in segment `first` and later ones.
pub fn read(files: &mut dyn Files, salt: u64, first: u64, next: u64) -> Result<Journal, FileError> {
    let mut segments: Vec<u64> = files.names()?.iter().filter_map(|name| segment_number(name)).collect();
    segments.retain(|segment| *segment >= first);
    segments.sort_unstable();
    let mut journal = Journal { notes: Vec::new(), segment: first, next, bytes: 0, is_damaged: false };
    for segment in segments {
        journal.segment = segment;
        let bytes = files.read(&segment_name(segment))?;
        let mut rest = &bytes[..];
        while let Some(frame) = frame::decode(salt, rest).filter(|frame| frame.number == journal.next)
            && let Some(notes) = Note::decode_all(frame.payload)
        {
            journal.notes.extend(notes);
            journal.next += 1;
            journal.bytes += frame.length as u64;
            rest = rest.get(frame.length..).unwrap_or_default();
        }
        journal.is_damaged |= frame::is_any_from(salt, journal.next + 1, rest);
    }
    journal.is_damaged |= read_mark(files)? >= journal.next;
    Ok(journal)
}
