//! A client's view of its own lease.

use std::time::Duration;

use crate::{MAX_CLOCK_DRIFT_PERMILLE, lease::LeaseSettings};

/// A lease that this process holds. What counts is when the request was sent that the slave answered: the slave granted
/// the lease later than that. A little is left unused, so that clocks may drift.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldLease {
    settings: LeaseSettings,
    /// When the request was sent that was answered last.
    renewed_at: Duration,
    /// When the last request was sent.
    asked_at: Duration,
}

impl HeldLease {
    /// A lease that was granted by the answer to a request that was sent then.
    pub fn new(settings: LeaseSettings, sent_at: Duration) -> Self {
        Self { settings, renewed_at: sent_at, asked_at: sent_at }
    }

    /// A request that renews was sent: a beat, or any other.
    pub fn asked(&mut self, now: Duration) {
        self.asked_at = self.asked_at.max(now);
    }

    /// A request that was sent then was answered, and renewed the lease.
    pub fn renewed(&mut self, sent_at: Duration) {
        self.renewed_at = self.renewed_at.max(sent_at);
        self.asked_at = self.asked_at.max(sent_at);
    }

    /// When to send a beat, if nothing else is sent before.
    pub fn next_beat(&self) -> Duration {
        self.asked_at + self.settings.beat
    }

    /// From then on somebody else may own what this lease protects: whoever holds it must not act on it.
    pub fn good_until(&self) -> Duration {
        self.renewed_at + self.settings.timeout * (1000 - MAX_CLOCK_DRIFT_PERMILLE) / (1000 + MAX_CLOCK_DRIFT_PERMILLE)
    }

    /// Whether the lease is good.
    pub fn is_good(&self, now: Duration) -> bool {
        now < self.good_until()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn any_request_is_a_beat() {
        let mut held = HeldLease::new(LeaseSettings::default(), S);
        assert_eq!(held.next_beat(), 6 * S);
        held.asked(4 * S);
        held.asked(3 * S);
        assert_eq!(held.next_beat(), 9 * S);
    }

    #[test]
    fn only_answers_renew_from_when_they_were_asked_for() {
        let mut held = HeldLease::new(LeaseSettings::default(), Duration::ZERO);
        held.asked(8 * S);
        assert!(held.is_good(9 * S) && !held.is_good(10 * S));
        held.asked(9 * S);
        held.renewed(8 * S);
        held.renewed(5 * S);
        assert!(held.is_good(17 * S) && !held.is_good(18 * S));
    }

    #[test]
    fn it_ends_before_the_slave_thinks_so_with_the_worst_clocks() {
        let held = HeldLease::new(LeaseSettings::default(), Duration::ZERO);
        let drift = f64::from(MAX_CLOCK_DRIFT_PERMILLE) / 1000.0;
        let real_end = held.good_until().as_secs_f64() / (1.0 - drift);
        assert!(real_end <= 10.0 / (1.0 + drift) + 1e-6);
    }
}
