//! Members, sets of them, and which sets are quorums. Sets are bits: a member counts once, however often it answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ballot::Life;

/// The most members that a group can have at a time, learners included.
pub const MAX_MEMBERS: usize = 16;

/// A member's place in its group, less than [`MAX_MEMBERS`]. The wiring knows which slave has which place. A slave that
/// takes the place of a former member starts blank, like one that lost its memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct MemberId(u8);

impl TryFrom<u8> for MemberId {
    type Error = &'static str;

    fn try_from(place: u8) -> Result<Self, Self::Error> {
        Self::new(place).ok_or("a group has no such place")
    }
}

impl From<MemberId> for u8 {
    fn from(member: MemberId) -> Self {
        member.0
    }
}

impl MemberId {
    /// The first place.
    pub const FIRST: Self = Self(0);

    /// The place of this number; nothing if a group has no such place.
    pub const fn new(place: u8) -> Option<Self> {
        if (place as usize) < MAX_MEMBERS { Some(Self(place)) } else { None }
    }

    /// The place's number.
    pub const fn get(self) -> u8 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of distinct members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MemberSet(u16);

impl MemberSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// The set with these bits: bit n is the member of place n.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Bit n is the member of place n.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Only this member.
    pub const fn only(member: MemberId) -> Self {
        Self(1 << member.0)
    }

    /// Adds a member; false if it was there already.
    pub const fn insert(&mut self, member: MemberId) -> bool {
        let is_new = !self.contains(member);
        self.0 |= 1 << member.0;
        is_new
    }

    /// Takes a member out.
    pub const fn remove(&mut self, member: MemberId) {
        self.0 &= !(1 << member.0);
    }

    /// Whether the member is in the set.
    pub const fn contains(self, member: MemberId) -> bool {
        self.0 & 1 << member.0 != 0
    }

    /// Members of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set without this member.
    #[must_use]
    pub const fn without(mut self, member: MemberId) -> Self {
        self.remove(member);
        self
    }

    /// How many members there are.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is nobody.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, lowest place first.
    pub fn iter(self) -> impl Iterator<Item = MemberId> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let place = bits.trailing_zeros() as u8;
            bits &= bits.wrapping_sub(1);
            MemberId::new(place)
        })
    }
}

impl FromIterator<MemberId> for MemberSet {
    fn from_iter<I: IntoIterator<Item = MemberId>>(members: I) -> Self {
        members.into_iter().fold(Self::EMPTY, |set, member| set.union(Self::only(member)))
    }
}

impl fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(MemberId::get)).finish()
    }
}

/// Who takes part in deciding an entry. It changes by entries of the log itself, one member at a time; an entry is
/// decided by the configuration in force for its slot, which is that of the last change before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// Those who promise, accept and can lead.
    pub voters: MemberSet,
    /// Those who only receive entries and pages, until they have all.
    pub learners: MemberSet,
}

impl Configuration {
    /// These voters, and no learners.
    pub const fn of(voters: MemberSet) -> Self {
        Self { voters, learners: MemberSet::EMPTY }
    }

    /// Voters and learners.
    pub const fn members(&self) -> MemberSet {
        self.voters.union(self.learners)
    }

    /// How many voters are a majority: any two majorities share a voter.
    pub const fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether the set has a majority of the voters in it. Others in it count for nothing.
    pub const fn is_quorum(&self, set: MemberSet) -> bool {
        set.intersection(self.voters).len() >= self.quorum()
    }

    /// How many voters other than `member` have to answer until it has recovered what it may have promised and accepted
    /// before it lost its memory: so many that every quorum it was in has another voter among them (Liskov and
    /// Cowling, "Viewstamped Replication Revisited", 2012, section 4.3: f + 1 of the 2f others).
    pub const fn recovery_quorum(&self, member: MemberId) -> usize {
        if self.voters.contains(member) { self.voters.len() - self.quorum() + 1 } else { self.quorum() }
    }

    /// The configuration after a change.
    ///
    /// # Errors
    /// When the change makes no sense of this configuration.
    pub fn after(&self, change: Change) -> Result<Self, ChangeError> {
        let mut after = *self;
        match change {
            Change::AddLearner(member) if self.members().contains(member) => {
                return Err(ChangeError::AlreadyMember(member));
            }
            Change::AddLearner(member) => {
                after.learners.insert(member);
            }
            Change::Promote(member) if !self.learners.contains(member) => return Err(ChangeError::NoLearner(member)),
            Change::Promote(member) => {
                after.learners.remove(member);
                after.voters.insert(member);
            }
            Change::Remove(member) if !self.members().contains(member) => return Err(ChangeError::NoMember(member)),
            Change::Remove(member) => {
                after.learners.remove(member);
                after.voters.remove(member);
                if after.voters.is_empty() {
                    return Err(ChangeError::LastVoter(member));
                }
            }
        }
        Ok(after)
    }
}

/// A change of one member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A new member receives what the group has.
    AddLearner(MemberId),
    /// A learner that has all becomes a voter.
    Promote(MemberId),
    /// A voter or learner leaves.
    Remove(MemberId),
}

/// Why a configuration cannot be changed so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is a voter or a learner.
    #[error("member {} is in the group already", .0.get())]
    AlreadyMember(MemberId),
    /// Only a learner can be promoted.
    #[error("member {} is no learner: add it as one first", .0.get())]
    NoLearner(MemberId),
    /// It is neither a voter nor a learner.
    #[error("member {} is not in the group", .0.get())]
    NoMember(MemberId),
    /// A group without voters could decide nothing.
    #[error("member {} is the last voter", .0.get())]
    LastVoter(MemberId),
    /// A leader cannot remove itself.
    #[error("member {} leads: hand over first", .0.get())]
    Leads(MemberId),
    /// The learner has to have nearly all entries, or the group would wait for it.
    #[error("learner {} has not caught up: {missing} entries to go", .member.get())]
    Behind {
        /// The learner.
        member: MemberId,
        /// Decided entries that it has not applied, as far as is known.
        missing: u64,
    },
    /// So few of the voters that there would be have answered lately that nothing more could be decided.
    #[error("only {alive} of the {voters} voters that there would be have answered lately")]
    TooFewAlive {
        /// Those.
        alive: usize,
        /// Voters after the change.
        voters: usize,
    },
}

/// The latest life of each member that is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Lives([Life; MAX_MEMBERS]);

impl Lives {
    /// Of one member.
    pub const fn of(&self, member: MemberId) -> Life {
        self.0[member.index()]
    }

    /// Remembers a life; true if it is later than the one known.
    pub(crate) fn learn(&mut self, member: MemberId, life: Life) -> bool {
        let known = &mut self.0[member.index()];
        let is_later = life > *known;
        *known = life.max(*known);
        is_later
    }

    /// By place of the members.
    pub const fn as_array(&self) -> &[Life; MAX_MEMBERS] {
        &self.0
    }

    /// From lives by place of the members.
    pub const fn from_array(lives: [Life; MAX_MEMBERS]) -> Self {
        Self(lives)
    }
}
