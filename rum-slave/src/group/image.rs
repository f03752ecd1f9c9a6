//! A group's state as it travels to a slave that lacks it: the directory (who has what) at one instant, and the pages.

use std::ops::Deref;

use rum_net::{
    port::page::Page,
    shared::SharedBytes,
    wire::message::{ExtentRef, NameHash, PageContent, PageRef},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

use super::bytes;
use crate::account::AccountId;

/// All of a state but its pages.
#[derive(Default, Debug, Serialize, Deserialize)]
pub struct DirectoryImage {
    /// The last slot that was applied to it.
    pub as_of: u64,
    /// Extents by their place.
    pub places: Vec<PlaceImage>,
    /// Places without an extent, in the order in which they were freed.
    pub free: Vec<u32>,
    /// Named objects: size in bytes, and extents by place.
    pub names: Vec<(NameHash, u64, Vec<u32>)>,
    /// Clients with a lease.
    pub clients: Vec<ClientImage>,
    /// Clients whose lease has run out, the first of them first.
    pub fenced: Vec<u128>,
}

/// A place in the table of extents.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlaceImage {
    /// Of the extent that is there, or of the next.
    pub generation: u32,
    /// What is there.
    pub state: PlaceState,
}

/// What is in a place.
#[derive(Debug, Serialize, Deserialize)]
pub enum PlaceState {
    /// Nothing.
    Free,
    /// Nothing, for ever.
    Retired,
    /// An extent.
    Used {
        /// Its client; none for a named object's.
        client: Option<u128>,
        /// At whose cost.
        account: AccountId,
    },
}

/// A client with a lease.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientImage {
    /// Its incarnation.
    pub client: u128,
    /// It has the answers of all commands up to this one.
    pub settled: u64,
    /// The answers of later ones.
    pub answers: Vec<(u64, ByteBuf)>,
}

/// Which page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PageKey {
    /// Its extent's place.
    pub index: u32,
    /// Its extent's generation.
    pub generation: u32,
    /// Its number in the extent.
    pub page: u8,
}

/// A page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageImage {
    /// Its extent's place.
    pub index: u32,
    /// Its extent's generation.
    pub generation: u32,
    /// Its number in the extent.
    pub page: u8,
    /// The slot that wrote it last.
    pub slot: u64,
    /// What it holds; none for zeros.
    pub data: Option<PageBytes>,
}

/// What a page holds, where it lies: lent by the store, or in the message that brought it.
#[derive(Clone, Debug)]
pub enum PageBytes {
    /// To be sent.
    Stored(Page),
    /// Come. The length is whatever was sent.
    Come(SharedBytes),
}

impl Deref for PageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Stored(page) => &page[..],
            Self::Come(bytes) => bytes,
        }
    }
}

impl PartialEq for PageBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for PageBytes {}

impl Serialize for PageBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for PageBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A page is not kept for long: it does not matter how much memory it keeps.
        bytes::deserialize_by(deserializer, SharedBytes::part).map(Self::Come)
    }
}

impl PageImage {
    /// Which page it is.
    pub fn key(&self) -> PageKey {
        let Self { index, generation, page, .. } = *self;
        PageKey { index, generation, page }
    }

    /// The page's name and what it holds; `None` if that is no page's length.
    pub fn parts(&self) -> Option<(PageRef, PageContent<'_>)> {
        let extent = ExtentRef { index: self.index, generation: self.generation };
        let content = match &self.data {
            None => PageContent::Zeros,
            Some(data) => PageContent::Data((&data[..]).try_into().ok()?),
        };
        Some((PageRef { extent, page: self.page.into() }, content))
    }
}
