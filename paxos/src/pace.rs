//! How regularly a leader's signs of life come, and so after which silence it is missed.

use std::time::Duration;

use crate::settings::Settings;

/// Mean and mean deviation of the gaps between signs of life, estimated as round-trip times are (Jacobson, "Congestion
/// Avoidance and Control", SIGCOMM 1988; RFC 6298). On a loaded machine both grow, and leaders are given more time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pace {
    last: Option<Duration>,
    mean: Duration,
    deviation: Duration,
}

impl Pace {
    pub fn new(settings: &Settings) -> Self {
        Self { last: None, mean: settings.heartbeat, deviation: Duration::ZERO }
    }

    /// There was a sign of life.
    pub fn heard(&mut self, now: Duration, settings: &Settings) {
        let Some(last) = self.last.replace(now) else { return };
        let gap = now.saturating_sub(last);
        // Entries come faster than an idle leader's signs; they say nothing about how late those may be.
        if gap < settings.heartbeat / 2 {
            self.last = Some(last);
            return;
        }
        self.deviation = (self.deviation * 3 + gap.abs_diff(self.mean)) / 4;
        self.mean = (self.mean * 7 + gap) / 8;
    }

    /// The next gap says nothing: the leader has changed, or this replica itself was not running.
    pub fn interrupt(&mut self) {
        self.last = None;
    }

    /// A leader that is silent for so long is missed.
    pub fn timeout(&self, settings: &Settings) -> Duration {
        (self.mean + self.deviation * 6).clamp(settings.lease, settings.max_election_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn timeout_after(gaps: impl Iterator<Item = u32>) -> Duration {
        let settings = Settings::default();
        let (mut pace, mut now) = (Pace::new(&settings), Duration::ZERO);
        for gap in gaps {
            now += gap * MS;
            pace.heard(now, &settings);
        }
        pace.timeout(&settings)
    }

    #[test]
    fn a_regular_leader_is_missed_after_its_lease() {
        assert_eq!(timeout_after((0..100).map(|_| 25)), Settings::default().lease);
    }

    #[test]
    fn entries_between_signs_of_life_change_nothing() {
        assert_eq!(timeout_after((0..10_000).map(|_| 1)), Settings::default().lease);
    }

    #[test]
    fn an_irregular_leader_is_given_more_time_but_not_for_ever() {
        let irregular = timeout_after((0..100).map(|beat| if beat % 4 == 0 { 150 } else { 25 }));
        assert!(irregular > 300 * MS, "{irregular:?}");
        assert_eq!(timeout_after((0..100).map(|_| 5000)), Settings::default().max_election_timeout);
        let recovered = timeout_after((0..200).map(|beat| if beat < 50 { 500 } else { 25 }));
        assert_eq!(recovered, Settings::default().lease);
    }
}
