//! What orders a group's decisions: ballots order leaders, slots order entries.

use serde::{Deserialize, Serialize};

use crate::members::MemberId;

/// A place in the log. The first entry has slot 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Slot(pub u64);

impl Slot {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The slot after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The slot before this one; that of zero is zero.
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// So many slots later.
    pub const fn plus(self, slots: u64) -> Self {
        Self(self.0.saturating_add(slots))
    }

    /// How many slots there are after `earlier` up to this one; 0 if it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Counts how often a member came back without its memory. Messages of an earlier life are void: what it promised then is
/// forgotten (the crash vectors of Michael, Ports, Sharma and Szekeres, "Recovering Shared Objects Without Stable
/// Storage", DISC 2017). A restart with disk goes on in the same life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Life(pub u32);

/// Names one attempt of one member to lead. Of two, the greater wins: the numbers of Lamport, "Paxos Made Simple" (2001),
/// section 2.2, which different members draw from disjoint sets. The life is part of it, so that a member that
/// lost its memory can never repeat a ballot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Ballot {
    /// Greater than that of any ballot that the member had heard of.
    pub round: u64,
    /// Who wants to lead.
    pub member: MemberId,
    /// Of that member.
    pub life: Life,
}

impl Ballot {
    /// Less than every ballot that a member draws.
    pub const ZERO: Self = Self { round: 0, member: MemberId::FIRST, life: Life(0) };

    /// The least ballot of this member that is greater than this one and of a later round.
    pub const fn following(self, member: MemberId, life: Life) -> Self {
        Self { round: self.round.saturating_add(1), member, life }
    }
}
