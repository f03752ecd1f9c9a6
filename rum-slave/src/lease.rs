//! Which clients live. A client is its incarnation: two processes of one host are two clients, and a restarted one
//! is a new one.
//!
//! ```text
//!            opened                       last session closed, or bye
//! (unknown) ────────► Alive { sessions } ────────────────────────────► Fenced
//! ```
//! Nothing leads out of `Fenced`: what the client had may be another's by now.

use std::collections::{HashMap, VecDeque};

use rum_net::rpc::Incarnation;

/// Fenced incarnations that are remembered, at most. A forgotten one owns no extent, either; only named objects are
/// open to it again.
const FENCED_MAX: usize = 65_536;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lease {
    Alive { sessions: usize },
    Fenced,
}

/// All clients of a slave, and those it had.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: HashMap<Incarnation, Lease>,
    /// Clients whose last session has closed since `take_ended`: a session that opens before takes them off again.
    without_session: Vec<Incarnation>,
    fenced: VecDeque<Incarnation>,
}

impl LeaseTable {
    /// A client opened a session. False when it is fenced.
    pub fn opened(&mut self, client: Incarnation) -> bool {
        match self.leases.entry(client).or_insert(Lease::Alive { sessions: 0 }) {
            Lease::Alive { sessions } => {
                *sessions += 1;
                true
            }
            Lease::Fenced => false,
        }
    }

    /// A session of a client ended.
    pub fn closed(&mut self, client: Incarnation) {
        if let Some(Lease::Alive { sessions }) = self.leases.get_mut(&client) {
            *sessions = sessions.saturating_sub(1);
            if *sessions == 0 {
                self.without_session.push(client);
            }
        }
    }

    /// The client leaves: it is fenced from now on, and what it owned is the caller's to free. False when it was
    /// fenced before.
    pub fn bye(&mut self, client: Incarnation) -> bool {
        let ended = self.is_alive(client);
        if ended {
            self.fence(client);
        }
        ended
    }

    /// Whether the client may ask for anything.
    pub fn is_alive(&self, client: Incarnation) -> bool {
        matches!(self.leases.get(&client), Some(Lease::Alive { .. }))
    }

    /// How many clients live.
    pub fn alive(&self) -> usize {
        self.leases.len() - self.fenced.len()
    }

    /// Fences the clients that have no session left, and gives them: what they owned is the caller's to free.
    pub fn take_ended(&mut self) -> Vec<Incarnation> {
        let mut ended = std::mem::take(&mut self.without_session);
        ended.retain(|&client| {
            // A client may stand in the list twice, and the first time fences it.
            let without = self.leases.get(&client) == Some(&Lease::Alive { sessions: 0 });
            if without {
                self.fence(client);
            }
            without
        });
        ended
    }

    fn fence(&mut self, client: Incarnation) {
        self.leases.insert(client, Lease::Fenced);
        self.fenced.push_back(client);
        if self.fenced.len() > FENCED_MAX
            && let Some(oldest) = self.fenced.pop_front()
        {
            self.leases.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    #[test]
    fn a_lease_ends_with_the_last_session() {
        let mut leases = LeaseTable::default();
        assert!(leases.opened(A) && leases.opened(A) && leases.opened(B));
        leases.closed(A);
        assert_eq!(leases.take_ended(), []);
        assert!(leases.is_alive(A));
        leases.closed(A);
        assert_eq!(leases.take_ended(), [A]);
        assert_eq!(leases.take_ended(), []);
        assert!(!leases.is_alive(A) && leases.is_alive(B));
        assert_eq!(leases.alive(), 1);
    }

    #[test]
    fn a_fenced_client_stays_fenced() {
        let mut leases = LeaseTable::default();
        leases.opened(A);
        assert!(leases.bye(A));
        assert!(!leases.bye(A));
        assert!(!leases.opened(A));
        leases.closed(A);
        assert_eq!(leases.take_ended(), []);
        assert!(!leases.is_alive(A));
    }

    #[test]
    fn a_session_that_replaces_another_keeps_the_lease() {
        let mut leases = LeaseTable::default();
        leases.opened(A);
        leases.closed(A);
        leases.opened(A);
        assert_eq!(leases.take_ended(), []);
        assert!(leases.is_alive(A));
        leases.closed(A);
        leases.opened(A);
        leases.closed(A);
        assert_eq!(leases.take_ended(), [A], "once, though it closed twice");
    }

    #[test]
    fn fenced_clients_take_bounded_memory() {
        let mut leases = LeaseTable::default();
        for i in 0..FENCED_MAX as u128 + 10 {
            leases.opened(Incarnation(i));
            leases.bye(Incarnation(i));
        }
        assert_eq!((leases.leases.len(), leases.fenced.len(), leases.alive()), (FENCED_MAX, FENCED_MAX, 0));
        assert!(leases.opened(Incarnation(0)), "the oldest are forgotten");
        assert!(!leases.opened(Incarnation(FENCED_MAX as u128)));
    }

    #[test]
    fn unknown_clients_have_no_lease() {
        let mut leases = LeaseTable::default();
        leases.closed(A);
        assert!(!leases.is_alive(A) && !leases.bye(A));
        assert_eq!(leases.take_ended(), []);
    }
}
