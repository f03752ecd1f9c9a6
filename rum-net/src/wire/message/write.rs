//! Write: what 1 to 32 pages are to hold, all or none.
//!
//! ```text
//! request:   0 opcode 5 | 4 count u32 | 8 count × page | kinds [u8; 32] | 4 KiB for each page of kind Data, in order
//! response:  (nothing more)
//! ```
//!
//! The kinds beyond `count` are 0.

use super::{
    MAX_BATCH_PAGES, Opcode, PageContent, PageKind, REQUEST_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    extent_ref::{PAGE_REF_BYTES, PageList, PageRef},
    read::Kinds,
};
use crate::PAGE_BYTES;

/// Bytes of the longest request before its first page of data.
pub const WRITE_HEAD_MAX_BYTES: usize = REQUEST_HEAD_BYTES + 4 + MAX_BATCH_PAGES * (PAGE_REF_BYTES + 1);

/// Encodes the request up to its data: the body is then the pages of kind Data, one after another. Panics unless
/// there are 1 to `MAX_BATCH_PAGES` pages.
pub fn encode_write_head<'a>(pages: &[(PageRef, PageKind)], buffer: &'a mut [u8; WRITE_HEAD_MAX_BYTES]) -> &'a [u8] {
    let mut writer = Writer::request(buffer, Opcode::Write);
    PageList::write(pages.iter().map(|&(page, _)| page), &mut writer);
    let mut kinds = [PageKind::Zeros as u8; MAX_BATCH_PAGES];
    for (slot, &(_, kind)) in kinds.iter_mut().zip(pages) {
        *slot = kind as u8;
    }
    writer.put(&kinds);
    writer.finish()
}

/// The request as the slave sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteRequest<'a> {
    pages: PageList<'a>,
    kinds: Kinds,
    data: &'a [[u8; PAGE_BYTES]],
}

impl<'a> WriteRequest<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let pages = PageList::decode(reader)?;
        let kinds = Kinds::decode(reader, pages.len())?;
        let (data, _) = reader.bytes(kinds.data_pages() * PAGE_BYTES)?.as_chunks();
        Ok(Self { pages, kinds, data })
    }

    /// The pages' names, in order.
    pub fn pages(&self) -> PageList<'a> {
        self.pages
    }

    /// The pages and what they are to hold, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (PageRef, PageContent<'a>)> + use<'a> {
        let Self { pages, kinds, data } = *self;
        pages.iter().enumerate().map(move |(i, page)| (page, kinds.content(i, data)))
    }
}
