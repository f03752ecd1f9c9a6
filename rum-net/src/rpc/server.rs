//! The answering side: all sessions of a slave.

use std::time::{Duration, Instant};

use super::{Incarnation, Packet};
use crate::port::{Address, LinkId};

/// Names a session of this server; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub u64);

/// What to answer: handed out with each request, given back with its response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestToken {
    /// The session that asked.
    pub session: SessionId,
    /// The request in it.
    pub request: u64,
}

/// What came of a packet or of the time.
#[derive(Debug)]
pub enum ServerEvent<'a> {
    /// A client opened a session.
    Opened {
        /// The session.
        session: SessionId,
        /// Of the client's process.
        client: Incarnation,
    },
    /// A whole request arrived, for the first and only time. To be answered now or later by `Server::respond`.
    Request {
        /// Goes back with the response.
        token: RequestToken,
        /// Of the client's process.
        client: Incarnation,
        /// The message.
        message: &'a [u8],
    },
    /// A session ended: closed by its client, or silent for longer than the configured time.
    Closed {
        /// The session.
        session: SessionId,
        /// Of the client's process.
        client: Incarnation,
    },
}

/// Settings of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Of this process.
    pub incarnation: Incarnation,
    /// The port's MTU in bytes.
    pub mtu: usize,
    /// A session is closed after this long without a packet from its client.
    pub session_timeout: Duration,
    /// Sessions at once; further ones are refused.
    pub max_sessions: usize,
}

/// All sessions of a slave.
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// A server without sessions.
    pub fn new(_config: ServerConfig) -> Self {
        todo!()
    }
    /// Takes a packet (the bytes after the Ethernet header). A bad one is counted and dropped.
    pub fn handle(
        &mut self,
        _now: Instant,
        _from: Address,
        _packet: &[u8],
        _sink: &mut dyn FnMut(&mut Responder<'_>, ServerEvent<'_>),
    ) {
        todo!()
    }
    /// Answers a request later than in `handle`. Ignored when its session has gone.
    pub fn respond(&mut self, _token: RequestToken, _response: &[u8]) {
        todo!()
    }
    /// The next packet to send and where to: call until `None`.
    pub fn poll_transmit(&mut self, _now: Instant) -> Option<(Address, Packet<'_>)> {
        todo!()
    }
    /// The packet that `poll_transmit` gave last could not be sent: keep it (or, its link closed, drop it).
    pub fn not_sent(&mut self) {
        todo!()
    }
    /// Closes sessions that were silent too long; their ends are told to `sink`.
    pub fn expire(&mut self, _now: Instant, _sink: &mut dyn FnMut(ServerEvent<'_>)) {
        todo!()
    }
    /// Nothing more can be sent on this link; its sessions live on until they expire or their clients come by another.
    pub fn link_closed(&mut self, _link: LinkId) {
        todo!()
    }
    /// Whether packets wait to be sent.
    pub fn wants_transmit(&self) -> bool {
        todo!()
    }
}

/// Lets the sink of `Server::handle` answer at once, without a copy on the way.
#[derive(Debug)]
pub struct Responder<'a> {
    _server: std::marker::PhantomData<&'a mut ()>,
}

impl Responder<'_> {
    /// The buffer to build the response in: empty, at most `MAX_MESSAGE_BYTES` are sent. Calling this answers the
    /// request when the sink returns; without it the answer comes later by `Server::respond`.
    pub fn response(&mut self) -> &mut Vec<u8> {
        todo!()
    }
}
