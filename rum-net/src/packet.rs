//! A packet to be sent, in the places where its bytes lie.

use std::ops::Deref;

use crate::{PAGE_BYTES, rpc::MAX_PACKET_BYTES};

/// The most parts of a packet: the link's header, the packet's own, what is before the pages, and pages, the first and the
/// last of them perhaps cut.
const MAX_PARTS: usize = 4 + MAX_PACKET_BYTES.div_ceil(PAGE_BYTES);

/// A packet to be sent: the concatenation of its parts.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The first one is left free for the link's header.
    parts: [&'a [u8]; MAX_PARTS],
    begin: usize,
    end: usize,
}

impl<'a> Packet<'a> {
    /// A packet of one part.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self::new(bytes, [])
    }

    /// A header and what follows it.
    ///
    /// # Panics
    /// If there are more parts than a packet of `MAX_PACKET_BYTES` can have.
    pub fn new(head: &'a [u8], body: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut packet = Self { parts: [&[]; MAX_PARTS], begin: 1, end: 2 };
        packet.parts[1] = head;
        for part in body {
            packet.parts[packet.end] = part;
            packet.end += usize::from(!part.is_empty());
        }
        packet
    }

    /// The packet behind its link's header.
    #[must_use]
    pub fn behind(mut self, header: &'a [u8]) -> Self {
        (self.parts[0], self.begin) = (header, 0);
        self
    }

    /// Bytes of all parts together.
    pub fn bytes(&self) -> usize {
        self.iter().map(|part| part.len()).sum()
    }

    /// A copy in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.concat()
    }
}

impl<'a> Deref for Packet<'a> {
    type Target = [&'a [u8]];

    fn deref(&self) -> &Self::Target {
        &self.parts[self.begin..self.end]
    }
}
