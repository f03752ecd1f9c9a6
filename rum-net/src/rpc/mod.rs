//! A reliable request/response protocol without I/O and without a clock: packets and the time go in, packets and
//! events come out. `client` is the asking side of one session with one slave, `server` the answering side of
//! many. A request runs at most once; its answer is delivered exactly once, or the session is reset.

pub mod client;
pub mod server;

/// The most bytes of one request or one response, head and body together.
pub const MAX_MESSAGE_BYTES: usize = 36 * crate::PAGE_BYTES;

/// Drawn at random when a process starts; tells a restarted process from the old one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Incarnation(pub u128);

/// A packet to be sent: the bytes after the Ethernet header are `head` followed by `body`.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The packet's header.
    pub head: &'a [u8],
    /// A fragment of a message; may be empty.
    pub body: &'a [u8],
}
