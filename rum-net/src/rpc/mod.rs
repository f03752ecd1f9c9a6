//! A reliable request/response protocol without I/O and without a clock: packets and the time go in, packets and
//! events come out. `client` is the asking side of one session with one slave, `server` the answering side of
//! many. A request runs at most once; its answer is delivered exactly once, or the session is reset.
//!
//! What holds it together:
//! - A session has up to 32 slots; request `id` uses slot `id % slots`, ids only grow. The server keeps the last id of
//!   each slot and its response, so a packet that comes twice never runs a request twice.
//! - Only the client has timers. When a request has no whole answer in time it sends a probe with the set of response
//!   fragments it has; the server sends the others, or says which request fragments it lacks, or that it is executing.
//!   So whatever packet is lost, the next probe finds out what to send. Most losses are found sooner, by later packets
//!   that arrive (`client/recovery.rs`).
//! - The client keeps a window (`congestion.rs`): so many packets are under way in each direction of a session. Who
//!   sends fragments marks some of them, four in a window, and their receiver says at once which it has.
//! - Each packet of a client says which of its slots are idle: their responses are forgotten.

pub mod client;
mod congestion;
mod flaws;
mod fragment;
mod response;
mod rtt;
pub mod server;
pub mod stats;

#[cfg(feature = "broken")]
pub use flaws::Flaw;
pub use response::Response;
pub use stats::{ClientStats, Drops, ServerStats};

/// The most bytes of one request or one response, head and body together.
pub const MAX_MESSAGE_BYTES: usize = 36 * crate::PAGE_BYTES;
/// The most requests of a session in flight at once.
pub const MAX_SLOTS: usize = 32;
/// The smallest MTU that the protocol works over: what IPv4 and UDP leave of a link of 1,280 bytes, below which no IP
/// network in use is (RFC 8200, section 5).
pub const MIN_MTU: usize = 1252;
/// A message is cut into 128 fragments at most.
const _: () = assert!(
    (MIN_MTU - crate::wire::header::HEADER_BYTES - crate::seal::TRAILER_BYTES) * u128::BITS as usize
        >= MAX_MESSAGE_BYTES
);
/// The largest packet: longer MTUs are not made use of.
pub const MAX_PACKET_BYTES: usize = 16_384;
/// What packets are padded with.
static ZEROS: [u8; MAX_PACKET_BYTES] = [0; MAX_PACKET_BYTES];

/// Packets that may be late by so many others before they count as lost (RFC 9002, section 6.1.1).
const PACKET_THRESHOLD: u32 = 3;

/// Fragments after which their receiver says which it has.
fn ack_every(window: u32) -> u32 {
    (window / 4).clamp(1, 16)
}

/// Drawn at random when a process starts; tells a restarted process from the old one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation(pub u128);

#[cfg(test)]
mod tests;
