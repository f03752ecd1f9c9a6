//! The asking side of one session with one slave.

use std::time::Instant;

use super::{Incarnation, Packet};

/// Names a request in flight; used once in a session's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub u64);

/// What came of a packet or of the time.
#[derive(Debug)]
pub enum ClientEvent<'a> {
    /// The slave accepted the session.
    Opened {
        /// Of the slave.
        incarnation: Incarnation,
    },
    /// Bytes of a response, in any order, each byte once.
    Fragment {
        /// Of which request.
        request: RequestId,
        /// Where in the response the bytes belong.
        offset: usize,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// All bytes of a response were delivered by `Fragment`.
    Complete {
        /// Of which request.
        request: RequestId,
        /// The response's length in bytes.
        len: usize,
    },
    /// The slave does not know this session: it restarted, or the session expired there. All requests in flight are
    /// void (each ran at most once); `Client::reopen` starts a new session.
    Reset,
}

/// No slot is free for another request: wait for a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("all request slots are in use")]
pub struct Busy;

/// Settings of a session.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// Of this process.
    pub incarnation: Incarnation,
    /// The port's MTU in bytes; a packet's head and body together never exceed it.
    pub mtu: usize,
    /// Requests in flight at once (power of two).
    pub slots: usize,
}

/// The asking side of a session. After `new` nothing here allocates: it is called from fault handlers.
#[derive(Debug)]
pub struct Client {}

impl Client {
    /// A session that is about to open.
    pub fn new(_config: ClientConfig, _now: Instant) -> Self {
        todo!()
    }
    /// Whether requests may be made.
    pub fn is_open(&self) -> bool {
        todo!()
    }
    /// After `Reset` (or at any time): drop all requests and open a new session.
    pub fn reopen(&mut self, _now: Instant) {
        todo!()
    }
    /// Starts a request whose message is `head` followed by `body`; both are copied.
    pub fn request(&mut self, _now: Instant, _head: &[u8], _body: &[u8]) -> Result<RequestId, Busy> {
        todo!()
    }
    /// Requests that may be started now.
    pub fn free_slots(&self) -> usize {
        todo!()
    }
    /// Requests without an answer yet.
    pub fn in_flight(&self) -> usize {
        todo!()
    }
    /// Takes a packet (the bytes after the Ethernet header) from the slave. A bad one is counted and dropped.
    pub fn handle(&mut self, _now: Instant, _packet: &[u8], _sink: &mut dyn FnMut(ClientEvent<'_>)) {
        todo!()
    }
    /// The next packet to send, if any: call until `None`.
    pub fn poll_transmit(&mut self, _now: Instant) -> Option<Packet<'_>> {
        todo!()
    }
    /// The packet that `poll_transmit` gave last could not be sent: keep it.
    pub fn not_sent(&mut self) {
        todo!()
    }
    /// When `poll_transmit` has to be called even if no packet arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
}
