//! Which clients live. A client is its incarnation: two processes of one host are two clients, and a restarted one
//! is a new one.
//!
//! ```text
//!            opened                       last session closed, or bye
//! (unknown) ────────► Alive { sessions } ────────────────────────────► Fenced
//! ```
//! Nothing leads out of `Fenced`: what the client had may be another's by now.
//!
//! A client belongs to the account that it first opened a session with, fenced or not: an incarnation can be overheard, and must
//! not open what is another's.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use rum_net::rpc::Incarnation;

use crate::account::AccountId;

/// Fenced incarnations that are remembered, at most. A forgotten one owns no extent, either; only named objects are
/// open to it again.
const FENCED_MAX: usize = 65_536;

/// What came of a client's wish for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// It is new, and alive.
    New,
    /// It was alive.
    Known,
    /// It is fenced: it gets a session, and is told so.
    Fenced,
    /// The incarnation belongs to another account: it gets no session.
    Foreign,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lease {
    Alive { sessions: usize },
    Fenced,
}

/// All clients of a slave, and those it had.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: HashMap<Incarnation, (AccountId, Lease)>,
    /// Clients whose last session has closed since `take_ended`: a session that opens before takes them off again.
    without_session: Vec<Incarnation>,
    fenced: VecDeque<Incarnation>,
}

impl LeaseTable {
    /// A client of `account` opens a session.
    pub fn opened(&mut self, client: Incarnation, account: AccountId) -> Opening {
        match self.leases.entry(client) {
            Entry::Vacant(vacant) => {
                vacant.insert((account, Lease::Alive { sessions: 1 }));
                Opening::New
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                (owner, _) if *owner != account => Opening::Foreign,
                (_, Lease::Alive { sessions }) => {
                    *sessions += 1;
                    Opening::Known
                }
                (_, Lease::Fenced) => Opening::Fenced,
            },
        }
    }

    /// A session of a client ended.
    pub fn closed(&mut self, client: Incarnation) {
        if let Some((_, Lease::Alive { sessions })) = self.leases.get_mut(&client) {
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
        self.fence(client);
        ended
    }

    /// Whether the client may ask for anything.
    pub fn is_alive(&self, client: Incarnation) -> bool {
        self.account(client).is_some()
    }

    /// Whose quota a client's memory counts against; `None` unless it lives.
    pub fn account(&self, client: Incarnation) -> Option<AccountId> {
        match self.leases.get(&client) {
            Some(&(account, Lease::Alive { .. })) => Some(account),
            _ => None,
        }
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
            let without = matches!(self.leases.get(&client), Some((_, Lease::Alive { sessions: 0 })));
            if without {
                self.fence(client);
            }
            without
        });
        ended
    }

    fn fence(&mut self, client: Incarnation) {
        match self.leases.get_mut(&client) {
            Some((_, lease @ Lease::Alive { .. })) => *lease = Lease::Fenced,
            Some((_, Lease::Fenced)) | None => return,
        }
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
    use crate::account::Accounts;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    fn open(leases: &mut LeaseTable, client: Incarnation) -> bool {
        matches!(leases.opened(client, AccountId::NOBODY), Opening::New | Opening::Known)
    }

    #[test]
    fn a_lease_ends_with_the_last_session() {
        let mut leases = LeaseTable::default();
        assert!(open(&mut leases, A) && open(&mut leases, A) && open(&mut leases, B));
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
        open(&mut leases, A);
        assert!(leases.bye(A));
        assert!(!leases.bye(A));
        assert!(!open(&mut leases, A));
        leases.closed(A);
        assert_eq!(leases.take_ended(), []);
        assert!(!leases.is_alive(A));
    }

    #[test]
    fn a_session_that_replaces_another_keeps_the_lease() {
        let mut leases = LeaseTable::default();
        open(&mut leases, A);
        leases.closed(A);
        open(&mut leases, A);
        assert_eq!(leases.take_ended(), []);
        assert!(leases.is_alive(A));
        leases.closed(A);
        open(&mut leases, A);
        leases.closed(A);
        assert_eq!(leases.take_ended(), [A], "once, though it closed twice");
    }

    #[test]
    fn fenced_clients_take_bounded_memory() {
        let mut leases = LeaseTable::default();
        for i in 0..FENCED_MAX as u128 + 10 {
            open(&mut leases, Incarnation(i));
            leases.bye(Incarnation(i));
        }
        assert_eq!((leases.leases.len(), leases.fenced.len(), leases.alive()), (FENCED_MAX, FENCED_MAX, 0));
        assert!(open(&mut leases, Incarnation(0)), "the oldest are forgotten");
        assert!(!open(&mut leases, Incarnation(FENCED_MAX as u128)));
    }

    #[test]
    fn an_incarnation_stays_with_its_account() {
        let mut accounts = Accounts::default();
        let [a, b] = ["a", "b"].map(|name| accounts.add(name, 1));
        let mut leases = LeaseTable::default();
        assert_eq!(leases.opened(A, a), Opening::New);
        for other in [b, AccountId::NOBODY] {
            assert_eq!(leases.opened(A, other), Opening::Foreign);
        }
        assert_eq!(leases.opened(A, a), Opening::Known);
        assert_eq!(leases.account(A), Some(a));
        leases.closed(A);
        leases.closed(A);
        assert_eq!(leases.take_ended(), [A], "those that were refused have no session");
        assert_eq!(leases.opened(A, b), Opening::Foreign, "fenced, too");
        assert_eq!(leases.opened(A, a), Opening::Fenced);
        assert_eq!(leases.account(A), None);
    }

    #[test]
    fn unknown_clients_have_no_lease() {
        let mut leases = LeaseTable::default();
        leases.closed(A);
        assert!(!leases.is_alive(A) && !leases.bye(A));
        assert_eq!(leases.take_ended(), []);
    }
}
