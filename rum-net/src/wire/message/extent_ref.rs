//! How messages name extents and pages.
//!
//! ```text
//! extent:  0 index u32 | 4 generation u32
//! page:    0 index u32 | 4 generation u32 | 8 page u32
//! ```

use super::{
    MAX_BATCH_EXTENTS, MAX_BATCH_PAGES,
    codec::{Malformed, Reader, Writer},
};

/// Bytes of an `ExtentRef` on the wire.
pub const EXTENT_REF_BYTES: usize = 8;
/// Bytes of a `PageRef` on the wire.
pub const PAGE_REF_BYTES: usize = 12;

/// Names an extent of a slave: its place in the slave's table, and which of its uses is meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ExtentRef {
    /// Its place in the slave's table.
    pub index: u32,
    /// Rises each time the place is used anew, so that an old name never reaches a new owner's pages.
    pub generation: u32,
}

impl ExtentRef {
    /// As on the wire.
    pub fn to_bytes(self) -> [u8; EXTENT_REF_BYTES] {
        let mut bytes = [0; EXTENT_REF_BYTES];
        bytes[..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; EXTENT_REF_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = *bytes;
        Self { index: u32::from_le_bytes([a, b, c, d]), generation: u32::from_le_bytes([e, f, g, h]) }
    }
}

/// Names a page of an extent. Not checked against `EXTENT_PAGES`: that is the slave's part.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PageRef {
    /// Its extent.
    pub extent: ExtentRef,
    /// Its number in the extent, from 0.
    pub page: u32,
}

impl PageRef {
    /// As on the wire.
    pub fn to_bytes(self) -> [u8; PAGE_REF_BYTES] {
        let mut bytes = [0; PAGE_REF_BYTES];
        bytes[..8].copy_from_slice(&self.extent.to_bytes());
        bytes[8..].copy_from_slice(&self.page.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; PAGE_REF_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        let extent = ExtentRef::from_bytes(&[a, b, c, d, e, f, g, h]);
        Self { extent, page: u32::from_le_bytes([i, j, k, l]) }
    }
}

/// Extents as a message carries them: `count u32, count × extent`, at most `MAX_BATCH_EXTENTS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentList<'a> {
    extents: &'a [[u8; EXTENT_REF_BYTES]],
}

impl<'a> ExtentList<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.count(0..=MAX_BATCH_EXTENTS)?;
        let (extents, _) = reader.bytes(count * EXTENT_REF_BYTES)?.as_chunks();
        Ok(Self { extents })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The extents, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ExtentRef> + use<'a> {
        self.extents.iter().map(ExtentRef::from_bytes)
    }

    /// Appends a list to a response. Panics with more than `MAX_BATCH_EXTENTS`.
    pub(super) fn push(extents: &[ExtentRef], response: &mut Vec<u8>) {
        assert!(extents.len() <= MAX_BATCH_EXTENTS, "too many extents for one message");
        response.extend_from_slice(&(extents.len() as u32).to_le_bytes());
        for extent in extents {
            response.extend_from_slice(&extent.to_bytes());
        }
    }
}

/// Pages as a message names them: `count u32 (1 to MAX_BATCH_PAGES), count × page`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageList<'a> {
    pages: &'a [[u8; PAGE_REF_BYTES]],
}

impl<'a> PageList<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.count(1..=MAX_BATCH_PAGES)?;
        let (pages, _) = reader.bytes(count * PAGE_REF_BYTES)?.as_chunks();
        Ok(Self { pages })
    }

    /// How many: 1 to `MAX_BATCH_PAGES`.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// The pages, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = PageRef> + use<'a> {
        self.pages.iter().map(PageRef::from_bytes)
    }

    pub(super) fn write(pages: impl ExactSizeIterator<Item = PageRef>, writer: &mut Writer<'_>) {
        let count = pages.len();
        assert!((1..=MAX_BATCH_PAGES).contains(&count), "{count} pages in one message");
        writer.u32(count as u32);
        for page in pages {
            writer.put(&page.to_bytes());
        }
    }
}
