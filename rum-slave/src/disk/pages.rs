//! The file of a group's pages: each has its place there, and an entry that says what is in it.
//!
//! ```text
//!  per place of an extent (8 KiB + 1 MiB):    an entry (32 bytes):
//!  ├─ 256 entries ─┼─ page 0 ─┼─ page 1 ─ ─    0            4       8      16    24      32
//!                                              │ generation │ kind  │ slot │ sum │ check │
//! ```
//! Little-endian. `kind`: 0 nothing was ever written, 1 zeros, 2 data. `slot` wrote the page last. `sum` is XXH3 (64 bits) of the page with the slot as its seed, `check`
//! that of the first 24 bytes. An entry of another generation than the extent's is from an extent that was there before.
//!
//! Pages are overwritten in place. That is safe because the journal has every page that was written since the last checkpoint: one that is torn is written
//! anew from there.

use rum_net::{EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES};
use twox_hash::XxHash3_64;

use super::files::{FileError, Files};
use crate::group::image::{PageBytes, PageImage, PageKey};

const ENTRY: usize = 32;
const TABLE: usize = ENTRY * EXTENT_PAGES;
const STRIDE: u64 = (TABLE + EXTENT_BYTES) as u64;

/// The name of a group's file.
pub fn name(group: u16) -> String {
    format!("pages-{group}")
}

fn entry(page: &PageImage) -> [u8; ENTRY] {
    let (kind, sum) = match &page.data {
        None => (1u32, 0),
        Some(data) => (2, XxHash3_64::oneshot_with_seed(page.slot, data)),
    };
    let mut entry = [0; ENTRY];
    entry[..4].copy_from_slice(&page.generation.to_le_bytes());
    entry[4..8].copy_from_slice(&kind.to_le_bytes());
    entry[8..16].copy_from_slice(&page.slot.to_le_bytes());
    entry[16..24].copy_from_slice(&sum.to_le_bytes());
    let check = XxHash3_64::oneshot(&entry[..24]);
    entry[24..].copy_from_slice(&check.to_le_bytes());
    entry
}

/// Writes pages, those of an extent one behind the other.
pub fn write(files: &mut dyn Files, group: u16, pages: &[PageImage]) -> Result<(), FileError> {
    let name = name(group);
    for of_extent in pages.chunk_by(|one, other| one.index == other.index) {
        let place = STRIDE * u64::from(of_extent[0].index);
        let mut table = [0; TABLE];
        files.read_at(&name, place, &mut table)?;
        for page in of_extent {
            let at = usize::from(page.page);
            table[ENTRY * at..][..ENTRY].copy_from_slice(&entry(page));
            if let Some(data) = &page.data {
                files.write_at(&name, place + (TABLE + PAGE_BYTES * at) as u64, data)?;
            }
        }
        files.write_at(&name, place, &table)?;
    }
    Ok(())
}

/// What an entry says.
enum Entry {
    Nothing,
    Damaged,
    Written { generation: u32, slot: u64, sum: Option<u64> },
}

fn decode(entry: &[u8]) -> Entry {
    let half = |at: usize| entry[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let word = |at: usize| entry[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    if entry.iter().all(|byte| *byte == 0) {
        return Entry::Nothing;
    }
    if XxHash3_64::oneshot(&entry[..24]) != word(24) {
        return Entry::Damaged;
    }
    let sum = match half(4) {
        1 => None,
        2 => Some(word(16)),
        _ => return Entry::Damaged,
    };
    Entry::Written { generation: half(0), slot: word(8), sum }
}

/// Reads the pages of an extent of which `written` were written at least. Calls `sink` with each that is whole, and `damaged` with the numbers of those that are not.
pub fn read(
    files: &mut dyn Files,
    group: u16,
    (index, generation): (u32, u32),
    written: u16,
    sink: &mut dyn FnMut(PageImage),
    damaged: &mut dyn FnMut(PageKey),
) -> Result<(), FileError> {
    let mut bytes = vec![0; STRIDE as usize];
    files.read_at(&name(group), STRIDE * u64::from(index), &mut bytes)?;
    let (table, data) = bytes.split_at(TABLE);
    let entries = || table.chunks_exact(ENTRY).map(decode).zip(0..=u8::MAX);
    let is_written = |entry: &Entry| matches!(entry, Entry::Written { generation: of, .. } if *of == generation);
    let found = entries().filter(|(entry, _)| is_written(entry) || matches!(entry, Entry::Damaged)).count();
    // Entries that are gone altogether, as in a file that was cut short: it is not known which.
    let are_missing = found < usize::from(written);
    for (entry, page) in entries() {
        let key = PageKey { index, generation, page };
        match entry {
            Entry::Written { generation: of, slot, sum } if of == generation => {
                let bytes = &data[PAGE_BYTES * usize::from(page)..][..PAGE_BYTES];
                match sum {
                    Some(sum) if XxHash3_64::oneshot_with_seed(slot, bytes) != sum => damaged(key),
                    Some(_) => {
                        let data = Some(PageBytes::Come(bytes[..].into()));
                        sink(PageImage { index, generation, page, slot, data });
                    }
                    None => sink(PageImage { index, generation, page, slot, data: None }),
                }
            }
            Entry::Damaged => damaged(key),
            Entry::Nothing | Entry::Written { .. } if are_missing => damaged(key),
            Entry::Nothing | Entry::Written { .. } => {}
        }
    }
    Ok(())
}
