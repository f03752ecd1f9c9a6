//! What waits until records are durable. Nothing that a replica says may rest on what it could forget: a promise or an
//! acceptance is on stable storage before it is told (Lamport, "Paxos Made Simple", section 2.4).

use std::collections::VecDeque;

use crate::{
    ballot::{Ballot, Slot},
    effect::Ticket,
    members::MemberId,
    message::Body,
};

/// Held back until a ticket is durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Held<E> {
    Send {
        to: MemberId,
        body: Body<E>,
    },
    /// A leader's own acceptance.
    Own {
        ballot: Ballot,
        first: Slot,
        last: Slot,
    },
}

/// So many messages are held at most; more are dropped, as if the network had lost them. A leader's own acceptances
/// are as few as its entries in flight.
const MAX_HELD: usize = 4096;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Durability<E> {
    issued: Ticket,
    durable: Ticket,
    held: VecDeque<(Ticket, Held<E>)>,
}

impl<E> Durability<E> {
    pub fn new() -> Self {
        Self { issued: Ticket(0), durable: Ticket(0), held: VecDeque::new() }
    }

    /// The number of the next record.
    pub fn issue(&mut self) -> Ticket {
        self.issued.0 += 1;
        self.issued
    }

    /// Whether something is not durable yet.
    pub fn is_behind(&self) -> bool {
        self.durable < self.issued
    }

    /// Holds back until all records so far are durable.
    pub fn hold(&mut self, held: Held<E>) {
        if self.held.len() < MAX_HELD || matches!(held, Held::Own { .. }) {
            self.held.push_back((self.issued, held));
        }
    }

    /// Whether this record is durable.
    pub fn covers(&self, ticket: Ticket) -> bool {
        ticket <= self.durable
    }

    /// The number of the last record.
    pub fn issued(&self) -> Ticket {
        self.issued
    }

    pub fn persisted(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(ticket.min(self.issued));
    }

    /// Something that need not be held back any more.
    pub fn release(&mut self) -> Option<Held<E>> {
        let (ticket, _) = self.held.front()?;
        if *ticket > self.durable {
            return None;
        }
        self.held.pop_front().map(|(_, held)| held)
    }
}
