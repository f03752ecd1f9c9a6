//! What a replica can be told to do wrong, so that the simulation and the model can show that they would notice. Without
//! the feature `broken` nothing can be told, and nothing of this is left in the code.

#[cfg_attr(not(feature = "broken"), allow(dead_code, reason = "some are made in code that only the feature has"))]
/// A mistake that a replica of this kind could have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flaw {
    /// A leader counts answers, not who answered.
    CountsDuplicates,
    /// A voter accepts whatever ballot comes.
    ForgetsPromise,
    /// A new leader takes any value that was reported for a slot, not that of the greatest ballot.
    TakesAnyValue,
    /// A new leader leaves slots that it does not know decided as they are, and proposes new entries after its own.
    KeepsOldBallots,
    /// A follower takes the leader's word on decided slots for what it accepted in other ballots.
    TrustsOldBallots,
    /// A replica without memory votes at once.
    VotesBlank,
    /// A replica that recovers does not wait until it has what the leader had.
    ReturnsEarly,
    /// Promises that were made in an earlier life count.
    CountsFormerLives,
    /// A voter helps whoever asks, whatever lease it has granted.
    IgnoresLease,
    /// A leader's lease begins when the answer arrives.
    LeaseFromAnswer,
    /// A leader uses the whole lease, as if clocks did not drift.
    IgnoresDrift,
    /// A voter that restarts does not wait out what it may have granted.
    RestartsUnbound,
    /// A leader that hands over keeps its lease.
    KeepsLease,
    /// A new leader answers reads before its ballot has decided anything.
    ReadsEarly,
    /// Entries that others have not applied are forgotten without a transfer of state.
    TruncatesEarly,
    /// A replica applies what is decided before what comes earlier.
    AppliesOutOfOrder,
    /// Learners count.
    CountsLearners,
    /// What is accepted is said before it is durable.
    AcksBeforeDurable,
}

/// The flaw of a replica, if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Flaws {
    #[cfg(feature = "broken")]
    flaw: Option<Flaw>,
}

impl Flaws {
    #[cfg(feature = "broken")]
    pub fn of(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw) }
    }

    #[cfg(feature = "broken")]
    pub fn has(self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    #[cfg(not(feature = "broken"))]
    #[inline(always)]
    pub fn has(self, _flaw: Flaw) -> bool {
        false
    }
}
