//! What a replica shows of itself.

use std::time::Duration;

use crate::{
    ballot::{Ballot, Life, Slot},
    command::Entry,
    effect::Persisted,
    members::{Configuration, MemberId},
    replica::{Replica, Role},
};

/// What a replica does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// It has no memory, and gets it back from the others.
    Blank,
    /// It follows, or waits for somebody to follow.
    Follower,
    /// It wants to lead.
    Candidate,
    /// It leads.
    Leader,
    /// It was removed from the group.
    Removed,
}

/// A view of a replica, for `rum status` and for tests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// What it does.
    pub standing: Standing,
    /// Its present life.
    pub life: Life,
    /// What it has promised.
    pub promised: Ballot,
    /// Who leads, as far as it knows.
    pub leader: Option<MemberId>,
    /// The last slot applied.
    pub commit: Slot,
    /// The last slot accepted.
    pub last: Slot,
    /// The first slot that the log has.
    pub log_start: Slot,
    /// The bytes of the log's entries.
    pub log_bytes: usize,
    /// In force after `commit`.
    pub configuration: Configuration,
    /// Whether pages are being received from another member.
    pub is_installing: bool,
}

impl<E: Entry> Replica<E> {
    /// Its place in the group.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// What it would restart from, if its pages were durable as they are now; to be asked for when all effects have been taken. Makes all records so far
    /// superfluous, once it is durable.
    pub fn persisted_state(&self) -> Persisted<E> {
        let after = self.commit.next().0..=self.log.end().0;
        let accepted = after.filter_map(|slot| {
            let item = self.log.get(Slot(slot))?;
            Some((Slot(slot), item.ballot, item.command.clone()))
        });
        Persisted {
            promised: self.promised,
            lives: self.lives,
            applied: self.commit,
            configuration: self.configuration,
            decided: self.commit,
            accepted: accepted.collect(),
        }
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Who leads, as far as it knows; itself, if it leads.
    pub fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    /// A view of it.
    pub fn status(&self) -> Status {
        let standing = match &self.role {
            _ if self.is_removed => Standing::Removed,
            Role::Blank(_) => Standing::Blank,
            Role::Follower(_) => Standing::Follower,
            Role::Candidate(_) => Standing::Candidate,
            Role::Leader(_) => Standing::Leader,
        };
        Status {
            standing,
            life: self.life(),
            promised: self.promised,
            leader: self.leader,
            commit: self.commit,
            last: self.log.end(),
            log_start: self.log.start(),
            log_bytes: self.log.bytes(),
            configuration: self.configuration,
            is_installing: self.transfer.is_some(),
        }
    }

    /// Decided entries that each other member has not applied, as far as the leader knows; nobody if it does not lead.
    pub fn lags(&self) -> impl Iterator<Item = (MemberId, u64)> {
        let leadership = if let Role::Leader(leadership) = &self.role { Some(leadership) } else { None };
        leadership.into_iter().flat_map(|leadership| leadership.lags(self.commit))
    }

    /// Until when a leader's lease is good, by its own clock; nothing if it does not lead.
    pub fn lease_until(&self) -> Option<Duration> {
        if let Role::Leader(leadership) = &self.role { Some(leadership.lease_until()) } else { None }
    }
}
