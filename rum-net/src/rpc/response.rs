//! What a request is answered with.

use std::ops::Range;

use super::MAX_MESSAGE_BYTES;
use crate::{PAGE_BYTES, port::page::Page};

/// An answer: some bytes, and then pages. The pages are shared with who stores them, and sent from where they lie.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// What comes first.
    pub head: Vec<u8>,
    /// What follows it.
    pub pages: Vec<Page>,
}

impl Response {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.pages.is_empty()
    }

    /// Bytes of all of it.
    pub fn len(&self) -> usize {
        self.head.len() + self.pages.len() * PAGE_BYTES
    }

    /// A copy in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts(0..self.len()).collect::<Vec<_>>().concat()
    }

    /// Gives back the pages; the memory that they were listed in stays.
    pub fn clear(&mut self) {
        self.head.clear();
        self.pages.clear();
    }

    /// Leaves no more than may be sent.
    pub(super) fn cut(&mut self) {
        self.head.truncate(MAX_MESSAGE_BYTES);
        self.pages.truncate((MAX_MESSAGE_BYTES - self.head.len()) / PAGE_BYTES);
    }

    /// The places of the bytes in a range of it.
    pub(super) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> + Clone {
        let head_bytes = self.head.len();
        let head = &self.head[range.start.min(head_bytes)..range.end.min(head_bytes)];
        let (start, end) = (range.start.saturating_sub(head_bytes), range.end.saturating_sub(head_bytes));
        let pages = start / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        let pieces = self.pages[pages.clone()].iter().zip(pages).map(move |(page, number)| {
            let at = number * PAGE_BYTES;
            &page[start.saturating_sub(at)..(end - at).min(PAGE_BYTES)]
        });
        std::iter::once(head).chain(pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_parts_of_any_range_are_its_bytes(head in 0usize..200, pages in 0u8..4, cut in any::<(u16, u16)>()) {
            let mut response = Response { head: (0..head).map(|at| at as u8).collect(), pages: Vec::new() };
            for page in 0..pages {
                let bytes: [u8; PAGE_BYTES] = std::array::from_fn(|at| (at / 7) as u8 ^ page);
                response.pages.push(Page::copy_of(&bytes));
            }
            let whole = response.to_vec();
            prop_assert_eq!(whole.len(), response.len());
            let (a, b) = (usize::from(cut.0) % (whole.len() + 1), usize::from(cut.1) % (whole.len() + 1));
            let range = a.min(b)..a.max(b);
            let part: Vec<u8> = response.parts(range.clone()).flatten().copied().collect();
            prop_assert_eq!(&part, &whole[range]);
        }

        #[test]
        fn what_is_cut_may_be_sent(head in 0usize..MAX_MESSAGE_BYTES + 10, pages in 0usize..40) {
            let page = Page::copy_of(&[0; PAGE_BYTES]);
            let mut response = Response { head: vec![0; head], pages: vec![page; pages] };
            let before = response.len();
            response.cut();
            prop_assert!(response.len() <= MAX_MESSAGE_BYTES);
            prop_assert!(before > MAX_MESSAGE_BYTES || response.len() == before);
        }
    }
}
