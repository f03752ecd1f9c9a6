//! One request in flight.

use std::time::Instant;

use super::RequestId;
use crate::{
    rpc::fragment::{FragmentSet, Layout},
    wire::header::{Header, flag},
};

/// One request in flight. Which slots are in use is `Client::busy`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub request: RequestId,
    /// On the wire; drawn when the request is first sent.
    pub id: u64,
    /// Of the request.
    pub layout: Layout,
    /// Bytes of the request that are in the slot's buffer: all, or what is before a shared body.
    pub head_bytes: usize,
    /// Fragments of the request given out for sending and not known to be lost.
    pub sent: FragmentSet,
    /// Fragments of the request that the server has.
    pub acked: FragmentSet,
    /// Fragments of the request that were found lost by others that arrived, and sent again. A second time only a
    /// timeout finds them.
    pub resent: FragmentSet,
    /// Of the response, once a fragment of it is here.
    pub response: Option<Layout>,
    /// Fragments of the response that are here.
    pub received: FragmentSet,
    /// Fragments of the response that were asked for again since later ones came.
    pub asked_again: FragmentSet,
    /// Of those, the ones that the server was not told of yet.
    pub lost: FragmentSet,
    /// When the first packet of the request was given out, and the last.
    pub first_sent_at: Instant,
    pub sent_at: Instant,
    /// Times that a request of one packet was found lost.
    pub tries: u8,
    /// The number of that packet among all of the session.
    pub sequence: u64,
    /// The number of the request's first packet.
    pub first_sequence: u64,
    /// When the answer, or the next fragment of it, is late.
    pub deadline: Instant,
    /// Deadlines in a row that passed in vain.
    pub attempts: u32,
    /// How many requests will have been answered when it is this one's turn.
    pub turn: u64,
    /// Responses that came to requests sent after this one.
    pub overtaken: u8,
    /// A part of the request was sent again.
    pub repeated: bool,
    /// The server has said that it is executing the request: it is not lost, only slow.
    pub executing: bool,
}

impl Slot {
    pub fn new(request: RequestId, layout: Layout, now: Instant) -> Self {
        Self {
            request,
            id: 0,
            layout,
            head_bytes: layout.message_bytes() as usize,
            sent: FragmentSet::default(),
            acked: FragmentSet::default(),
            resent: FragmentSet::default(),
            response: None,
            received: FragmentSet::default(),
            asked_again: FragmentSet::default(),
            lost: FragmentSet::default(),
            first_sent_at: now,
            sent_at: now,
            tries: 0,
            sequence: 0,
            first_sequence: 0,
            deadline: now,
            attempts: 0,
            turn: 0,
            overtaken: 0,
            repeated: false,
            executing: false,
        }
    }

    /// Whether all of the request was given out and nothing of it is known to be lost.
    pub fn is_sent(&self) -> bool {
        self.sent == self.layout.all()
    }

    /// When the packet was sent that a response answers, if that can be told.
    pub fn answered(&self, header: &Header) -> Option<Instant> {
        let attempt = (header.flags >> flag::ATTEMPT_SHIFT) as u8;
        match attempt {
            _ if !self.layout.is_single() => (!self.repeated).then_some(self.sent_at),
            0 => Some(self.first_sent_at),
            _ if attempt == self.tries && attempt < flag::NO_ATTEMPT - 1 => Some(self.sent_at),
            _ => None,
        }
    }

    /// Fragments of the request sent and not known to have arrived.
    pub fn unacked(&self) -> u32 {
        self.sent.without(self.acked).len()
    }
}
