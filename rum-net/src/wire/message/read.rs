//! Read: what 1 to 32 pages hold.
//!
//! ```text
//! request:   0 opcode 4 | 4 count u32 | 8 count × page
//! response:  8 kinds [u8; 32] | 40 4 KiB for each page of kind Data, in the order of the request
//! ```
//!
//! The kinds beyond `count` are 0.

use super::{
    MAX_BATCH_PAGES, Opcode, PageContent, PageKind, REQUEST_HEAD_BYTES, RESPONSE_HEAD_BYTES,
    codec::{Malformed, Reader, Writer},
    extent_ref::{PAGE_REF_BYTES, PageList, PageRef},
    status::{ResponseError, Status, encode_status, expect_ok},
};
use crate::{PAGE_BYTES, port::page::Page, rpc::Response};

/// Bytes of the longest request.
pub const READ_REQUEST_MAX_BYTES: usize = REQUEST_HEAD_BYTES + 4 + MAX_BATCH_PAGES * PAGE_REF_BYTES;
/// Bytes of the response before the first page.
pub const READ_RESPONSE_HEAD_BYTES: usize = RESPONSE_HEAD_BYTES + MAX_BATCH_PAGES;

/// Encodes the request. Panics unless there are 1 to `MAX_BATCH_PAGES` pages.
pub fn encode_read<'a>(pages: &[PageRef], buffer: &'a mut [u8; READ_REQUEST_MAX_BYTES]) -> &'a [u8] {
    let mut writer = Writer::request(buffer, Opcode::Read);
    PageList::write(pages.iter().copied(), &mut writer);
    writer.finish()
}

/// Kinds of the pages of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kinds {
    kinds: [u8; MAX_BATCH_PAGES],
}

impl Kinds {
    pub(super) fn decode(reader: &mut Reader<'_>, count: usize) -> Result<Self, Malformed> {
        let kinds: [u8; MAX_BATCH_PAGES] = reader.array()?;
        let (used, unused) = kinds.split_at_checked(count).ok_or(Malformed("count out of range"))?;
        for &kind in used {
            PageKind::from_wire(kind)?;
        }
        if unused.iter().any(|&kind| kind != 0) {
            return Err(Malformed("a kind beyond the count"));
        }
        Ok(Self { kinds })
    }

    pub(super) fn kind(&self, i: usize) -> PageKind {
        if self.kinds[i] == PageKind::Data as u8 { PageKind::Data } else { PageKind::Zeros }
    }

    /// Pages of kind Data before page `i`.
    pub(super) fn data_before(&self, i: usize) -> usize {
        self.kinds[..i].iter().map(|&kind| usize::from(kind)).sum()
    }

    pub(super) fn data_pages(&self) -> usize {
        self.data_before(MAX_BATCH_PAGES)
    }

    /// The content of page `i`, of the pages of data in `data`.
    pub(super) fn content<'a>(&self, i: usize, data: &'a [[u8; PAGE_BYTES]]) -> PageContent<'a> {
        match self.kind(i) {
            PageKind::Zeros => PageContent::Zeros,
            PageKind::Data => PageContent::Data(&data[self.data_before(i)]),
        }
    }
}

/// The first `READ_RESPONSE_HEAD_BYTES` of a response, which say where each page lies in it: for a client that
/// puts the fragments of a response where they belong as they come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadResponseHead {
    kinds: Kinds,
}

impl ReadResponseHead {
    /// Checks the head of the response to a request for `count` pages. `bytes` may be longer than the head; when the
    /// slave refused, `RESPONSE_HEAD_BYTES` suffice.
    pub fn decode(bytes: &[u8], count: usize) -> Result<Self, ResponseError> {
        Ok(Self { kinds: Kinds::decode(&mut expect_ok(bytes)?, count)? })
    }

    /// What page `i` of the request holds. Panics when `i` is `MAX_BATCH_PAGES` or more.
    pub fn kind(&self, i: usize) -> PageKind {
        self.kinds.kind(i)
    }

    /// Where page `i` begins in the response; `None` for zeros. Panics when `i` is `MAX_BATCH_PAGES` or more.
    pub fn offset(&self, i: usize) -> Option<usize> {
        let offset = READ_RESPONSE_HEAD_BYTES + self.kinds.data_before(i) * PAGE_BYTES;
        (self.kind(i) == PageKind::Data).then_some(offset)
    }

    /// Bytes of the whole response.
    pub fn response_bytes(&self) -> usize {
        READ_RESPONSE_HEAD_BYTES + self.kinds.data_pages() * PAGE_BYTES
    }
}

/// A whole response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadResponse<'a> {
    count: usize,
    kinds: Kinds,
    data: &'a [[u8; PAGE_BYTES]],
}

impl<'a> ReadResponse<'a> {
    /// Checks the response to a request for `count` pages.
    pub fn decode(response: &'a [u8], count: usize) -> Result<Self, ResponseError> {
        let mut reader = expect_ok(response)?;
        let kinds = Kinds::decode(&mut reader, count)?;
        let (data, _) = reader.bytes(kinds.data_pages() * PAGE_BYTES)?.as_chunks();
        reader.end()?;
        Ok(Self { count, kinds, data })
    }

    /// What the pages hold, in the order of the request.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = PageContent<'a>> + use<'a> {
        let Self { count, kinds, data } = *self;
        (0..count).map(move |i| kinds.content(i, data))
    }
}

/// Builds the response page by page.
#[derive(Debug)]
pub struct ReadResponseWriter<'a> {
    response: &'a mut Response,
    kinds_at: usize,
    count: usize,
}

impl<'a> ReadResponseWriter<'a> {
    /// Appends the head, of status `Ok`, to `response`.
    pub fn new(response: &'a mut Response) -> Self {
        let head = &mut response.head;
        encode_status(Status::Ok, head);
        let kinds_at = head.len();
        head.extend_from_slice(&[PageKind::Zeros as u8; MAX_BATCH_PAGES]);
        Self { response, kinds_at, count: 0 }
    }

    /// Appends the next page; `None` is one of zeros. Panics when it is the 33rd.
    pub fn push(&mut self, page: Option<Page>) {
        assert!(self.count < MAX_BATCH_PAGES, "too many pages for one message");
        if let Some(page) = page {
            self.response.head[self.kinds_at + self.count] = PageKind::Data as u8;
            self.response.pages.push(page);
        }
        self.count += 1;
    }
}
