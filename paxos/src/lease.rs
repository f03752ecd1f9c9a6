//! Leases for local reads: a leader whose lease is good knows that nobody else leads. A voter that hears from the leader
//! grants it, by helping nobody else to lead for a while (Gray and Cheriton, "Leases", SOSP 1989; Chandra, Griesemer and
//! Redstone, "Paxos Made Live", PODC 2007, section 5.2).
//!
//! The holder counts from when it sent the message that was answered, the granter from when it received it, which is
//! later; and the holder uses a little less than was granted, so that clocks may drift. A lease granted by a quorum
//! excludes every other quorum, so whoever wins an election has waited out all leases of former leaders.

use std::time::Duration;

use crate::{
    ballot::Ballot,
    settings::{Settings, usable},
};

/// The word that a voter has given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Grant {
    /// To the leader of this ballot; nothing if the voter does not remember to whom.
    to: Option<Ballot>,
    /// By the voter's clock.
    until: Duration,
}

impl Grant {
    pub const NONE: Self = Self { to: None, until: Duration::ZERO };

    /// What a voter that restarts has to assume: it may have granted a lease just before.
    pub fn forgotten(now: Duration, settings: &Settings) -> Self {
        Self { to: None, until: now + settings.lease }
    }

    pub fn give(&mut self, to: Ballot, now: Duration, lease: Duration) {
        // What was granted to former leaders is not taken back.
        self.until = self.until.max(now + lease);
        self.to = Some(to);
    }

    /// Whether the voter may help this ballot. The holder itself may be helped, which no longer leads if it asks; and
    /// whoever it told to lead instead.
    pub fn allows(&self, ballot: Ballot, handed_over: Option<Ballot>, now: Duration) -> bool {
        let by_holder = self.to.is_some_and(|to| to.member == ballot.member || handed_over == Some(to));
        now >= self.until || by_holder
    }

    pub fn until(&self) -> Duration {
        self.until
    }
}

/// Until when a lease is good for its holder, if the message that was answered was sent then.
pub(crate) fn good_until(sent_at: Duration, settings: &Settings) -> Duration {
    sent_at + usable(settings.lease)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::MemberId;

    const MS: Duration = Duration::from_millis(1);

    fn ballot(round: u64, place: u8) -> Ballot {
        Ballot { round, member: MemberId::new(place).unwrap(), ..Ballot::ZERO }
    }

    #[test]
    fn a_grant_binds_until_it_runs_out() {
        let mut grant = Grant::NONE;
        assert!(grant.allows(ballot(2, 1), None, Duration::ZERO));
        grant.give(ballot(1, 0), 10 * MS, 200 * MS);
        assert!(!grant.allows(ballot(2, 1), None, 209 * MS));
        assert!(grant.allows(ballot(2, 1), None, 210 * MS));
    }

    #[test]
    fn the_holder_may_give_it_up() {
        let mut grant = Grant::NONE;
        grant.give(ballot(3, 0), Duration::ZERO, 200 * MS);
        assert!(grant.allows(ballot(4, 0), None, MS));
        assert!(grant.allows(ballot(4, 1), Some(ballot(3, 0)), MS));
        assert!(!grant.allows(ballot(4, 1), Some(ballot(2, 0)), MS));
        assert!(!Grant::forgotten(MS, &Settings::default()).allows(ballot(4, 0), None, 2 * MS));
    }

    #[test]
    fn a_holder_stops_before_its_granters_with_the_worst_clocks() {
        let settings = Settings::default();
        let used = good_until(Duration::ZERO, &settings);
        let drift = f64::from(crate::MAX_CLOCK_DRIFT_PERMILLE) / 1000.0;
        assert!(used.as_secs_f64() / (1.0 - drift) <= settings.lease.as_secs_f64() / (1.0 + drift) + 1e-9);
        assert!(used > settings.lease * 9 / 10);
    }
}
