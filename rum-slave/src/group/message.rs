//! What slaves of a group say to each other, several messages in one request or response: coded by `postcard`, whose decoder is total.

use paxos::{Body, Command, Message};
use postcard::ser_flavors::Flavor;
use rum_net::shared::SharedBytes;
use serde::{Deserialize, Serialize};

use super::{
    entry::Entry,
    image::{PageImage, PageKey},
    scrub::ScrubMessage,
};

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerMessage {
    /// The group that it belongs to.
    pub group: u16,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Content {
    /// A matter of agreement. With it goes how many extents of the group its sender has room for.
    Paxos {
        /// Extents.
        capacity: u64,
        /// The message.
        message: Message<Entry>,
    },
    /// A part of the state of a slave that has what the receiver lacks.
    Piece(Piece),
    /// Its sender's copies of these pages are damaged.
    Wanted(Vec<PageKey>),
    /// Pages that were wanted.
    Copies {
        /// The last slot that its sender had applied to them.
        as_of: u64,
        /// The pages.
        pages: Vec<PageImage>,
    },
    /// Of pages that should be the same everywhere.
    Scrub(ScrubMessage),
}

/// A part of a transfer of state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Drawn for this transfer.
    pub transfer: u64,
    /// The last slot that the state has, as it was offered.
    pub through: u64,
    /// Counts the pieces, from 0.
    pub number: u32,
    /// There is none after it.
    pub is_last: bool,
    /// What it brings.
    pub part: Part,
}

/// What a piece brings.
#[derive(Debug, Serialize, Deserialize)]
pub enum Part {
    /// Bytes of the directory's image, which come first and in order.
    Directory {
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// These are the last.
        is_whole: bool,
    },
    /// Pages.
    Pages(Vec<PageImage>),
}

/// As many as a message has beside what it carries, as a rule.
const HEAD_BYTES: usize = 256;

/// As many as a page has before its data, as a rule.
const PAGE_HEAD_BYTES: usize = 24;

impl Content {
    /// About how many bytes of entries or pages it carries.
    fn body_bytes(&self) -> usize {
        let of_page = |page: &PageImage| PAGE_HEAD_BYTES + page.data.as_ref().map_or(0, |data| data.len());
        let of_pages = |pages: &[PageImage]| pages.iter().map(of_page).sum();
        match self {
            Self::Paxos { message: Message { body: Body::Accept(accept), .. }, .. } => {
                accept.batch.as_slice().iter().map(Command::size_bytes).sum()
            }
            Self::Piece(Piece { part: Part::Directory { bytes, .. }, .. }) => bytes.len(),
            Self::Piece(Piece { part: Part::Pages(pages), .. }) | Self::Copies { pages, .. } => of_pages(pages),
            Self::Paxos { .. } | Self::Wanted(_) | Self::Scrub(_) => 0,
        }
    }
}

/// What is written to: postcard's own vectors take pages byte by byte.
struct Bytes(Vec<u8>);

impl Flavor for Bytes {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

impl PeerMessage {
    /// The message in bytes, to be put before or behind others.
    pub fn encode(&self) -> Vec<u8> {
        // Only types that postcard does not know fail, and there are none here.
        let bytes = Bytes(Vec::with_capacity(HEAD_BYTES + self.content.body_bytes()));
        postcard::serialize_with_flavor(self, bytes).unwrap_or_default()
    }

    /// As `decode_all`, of messages in `message`, whose bytes they keep where that is no waste.
    pub fn decode_shared(message: &SharedBytes, part: &[u8], sink: &mut dyn FnMut(Self)) -> bool {
        super::bytes::sharing(message.clone(), || Self::decode_all(part, sink))
    }

    /// Calls `sink` with each message of a request or response. False if there is something else in it: what comes before was given.
    pub fn decode_all(mut bytes: &[u8], sink: &mut dyn FnMut(Self)) -> bool {
        while !bytes.is_empty() {
            let Ok((message, rest)) = postcard::take_from_bytes(bytes) else { return false };
            sink(message);
            bytes = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(number: u32) -> PeerMessage {
        let part = Part::Directory { bytes: vec![7; 5], is_whole: true };
        PeerMessage {
            group: 3,
            content: Content::Piece(Piece { transfer: 9, through: 4, number, is_last: false, part }),
        }
    }

    #[test]
    fn messages_come_one_behind_the_other() {
        let bytes = [piece(1).encode(), piece(2).encode()].concat();
        let mut numbers = vec![];
        let mut take = |message: PeerMessage| {
            if let Content::Piece(piece) = message.content {
                numbers.push(piece.number);
            }
        };
        assert!(PeerMessage::decode_all(&bytes, &mut take));
        assert!(!PeerMessage::decode_all(&bytes[..bytes.len() - 1], &mut take));
        assert_eq!(numbers, [1, 2, 1]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            PeerMessage::decode_all(&bytes, &mut |_| {});
        }
    }
}
