//! The table of leases and the detector against the simplest things that could do the same.

use std::{collections::BTreeMap, time::Duration};

use heartbeat::{Detector, DetectorSettings, HeldLease, LeaseError, LeaseSettings, LeaseState, LeaseTable};
use proptest::{collection::vec, prelude::*};

const MS: Duration = Duration::from_millis(1);
const SETTINGS: LeaseSettings = LeaseSettings { timeout: Duration::from_millis(100), beat: Duration::from_millis(50) };

#[derive(Clone, Copy, Debug)]
enum Call {
    Grant(u8),
    Renew(u8),
    Expire,
    Fence(u8),
    Spare(u8),
    Remove(u8),
    TakeOver,
}

fn call() -> impl Strategy<Value = Call> {
    let client = 0..6u8;
    prop_oneof![
        3 => client.clone().prop_map(Call::Grant),
        5 => client.clone().prop_map(Call::Renew),
        6 => Just(Call::Expire),
        1 => client.clone().prop_map(Call::Fence),
        1 => client.clone().prop_map(Call::Spare),
        1 => client.prop_map(Call::Remove),
        1 => Just(Call::TakeOver),
    ]
}

/// A map that is searched.
#[derive(Default)]
struct Naive {
    clients: BTreeMap<u8, LeaseState>,
    called_at: Duration,
    judges_from: Duration,
}

impl Naive {
    fn note(&mut self, now: Duration) {
        if now - self.called_at > SETTINGS.beat {
            self.judges_from = now + SETTINGS.beat;
        }
        self.called_at = now;
    }

    fn renew(&mut self, now: Duration, client: u8) -> Result<Duration, LeaseError> {
        match self.state(client) {
            LeaseState::Alive(_) => {
                self.clients.insert(client, LeaseState::Alive(now + SETTINGS.timeout));
                Ok(now + SETTINGS.timeout)
            }
            LeaseState::Expiring => Err(LeaseError::Expiring),
            LeaseState::Fenced => Err(LeaseError::Fenced),
            LeaseState::Unknown => Err(LeaseError::Unknown),
        }
    }

    fn state(&self, client: u8) -> LeaseState {
        self.clients.get(&client).copied().unwrap_or(LeaseState::Unknown)
    }

    fn earliest(&self) -> Option<Duration> {
        let until = self.clients.values().filter_map(|state| match state {
            LeaseState::Alive(until) => Some(*until),
            _ => None,
        });
        until.min()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_table_is_a_map_that_is_searched(calls in vec((call(), 0..60u64), 1..200)) {
        let (mut table, mut naive, mut now) = (LeaseTable::new(SETTINGS, Duration::ZERO), Naive::default(), Duration::ZERO);
        for (call, later) in calls {
            now += Duration::from_millis(later);
            match call {
                Call::Grant(client) => {
                    naive.note(now);
                    let expected = match naive.renew(now, client) {
                        Err(LeaseError::Unknown) => {
                            naive.clients.insert(client, LeaseState::Alive(now + SETTINGS.timeout));
                            Ok(now + SETTINGS.timeout)
                        }
                        other => other,
                    };
                    prop_assert_eq!(table.grant(now, client), expected);
                }
                Call::Renew(client) => {
                    naive.note(now);
                    prop_assert_eq!(table.renew(now, &client), naive.renew(now, client));
                }
                Call::Expire => {
                    naive.note(now);
                    let due = |naive: &Naive| naive.earliest().filter(|at| *at <= now && naive.judges_from <= now);
                    while let Some(until) = due(&naive) {
                        let client = table.next_expired(now);
                        prop_assert!(client.is_some_and(|client| naive.state(client) == LeaseState::Alive(until)));
                        naive.clients.insert(client.unwrap_or_default(), LeaseState::Expiring);
                    }
                    prop_assert_eq!(table.next_expired(now), None);
                }
                Call::Fence(client) => {
                    table.fence(client);
                    naive.clients.insert(client, LeaseState::Fenced);
                }
                Call::Spare(client) => {
                    table.spare(now, client);
                    if naive.state(client) == LeaseState::Expiring {
                        naive.note(now);
                        naive.clients.insert(client, LeaseState::Alive(now + SETTINGS.timeout));
                    }
                }
                Call::Remove(client) => {
                    table.remove(&client);
                    if naive.state(client) != LeaseState::Fenced {
                        naive.clients.remove(&client);
                    }
                }
                Call::TakeOver => {
                    table.take_over(now);
                    naive.note(now);
                    for state in naive.clients.values_mut().filter(|state| **state != LeaseState::Fenced) {
                        *state = LeaseState::Alive(now + SETTINGS.timeout);
                    }
                }
            }
            for client in 0..6 {
                prop_assert_eq!(table.state(&client), naive.state(client));
            }
            prop_assert_eq!(table.next_deadline(), naive.earliest().map(|at| at.max(naive.judges_from)));
            let alive = naive.clients.values().filter(|state| matches!(state, LeaseState::Alive(_)));
            prop_assert_eq!(table.alive(), alive.count());
        }
    }

    /// Whatever the clocks do within their bound, and however long messages take, no lease ends at the slave that its holder
    /// still uses.
    #[test]
    fn a_lease_is_not_used_longer_than_it_is_granted(
        beats in vec((1..80u64, 0..30u64, any::<bool>()), 1..40), holder in 990..=1010u32, granter in 990..=1010u32
    ) {
        let by = |clock: u32, real: Duration| real * clock / 1000;
        let mut table = LeaseTable::new(SETTINGS, Duration::ZERO);
        table.grant(Duration::ZERO, 1).unwrap();
        let mut held = HeldLease::new(SETTINGS, Duration::ZERO);
        let mut real = Duration::ZERO;
        for (pause, travel, answered) in beats {
            let sent_at = real + Duration::from_millis(pause);
            let arrives_at = sent_at + Duration::from_millis(travel);
            let mut at = real;
            while at < arrives_at {
                at += MS;
                if table.next_expired(by(granter, at)).is_some() {
                    prop_assert!(!held.is_good(by(holder, at)));
                    return Ok(());
                }
            }
            real = arrives_at;
            if table.renew(by(granter, real), &1).is_ok() && answered {
                held.renewed(by(holder, sent_at));
            }
        }
    }

    #[test]
    fn the_detector_knows_mean_and_deviation_of_its_window(gaps in vec(1..5000u64, 1..300), window in 2..60usize) {
        let settings = DetectorSettings { window, min_deviation: MS, ..DetectorSettings::default() };
        let mut now = Duration::from_secs(3);
        let mut detector = Detector::new(settings, now);
        let first = settings.first_interval.as_secs_f64();
        let mut all = vec![first * 0.75, first * 1.25];
        for gap in gaps {
            now += Duration::from_millis(gap);
            detector.heard(now);
            all.push(gap as f64 / 1000.0);
        }
        let last = &all[all.len().saturating_sub(window)..];
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        let variance = last.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / last.len() as f64;
        let deviation = variance.sqrt().max(0.001);
        let silence = Duration::from_secs_f64(mean + deviation);
        // One deviation too late: the tail is 0.1587.
        prop_assert!((detector.phi(now + silence) + 0.1587f64.log10()).abs() < 0.01);
    }

    #[test]
    fn suspicion_grows_with_silence_and_reaches_what_was_foretold(
        gaps in vec(1..5000u64, 1..50), phi in 0.5..12.0f64, silences in vec(0..20_000u64, 2..10)
    ) {
        let mut now = Duration::ZERO;
        let mut detector = Detector::new(DetectorSettings::default(), now);
        for gap in gaps {
            now += Duration::from_millis(gap);
            detector.heard(now);
        }
        let mut silences = silences;
        silences.sort_unstable();
        let phis: Vec<f64> = silences.iter().map(|silence| detector.phi(now + Duration::from_millis(*silence))).collect();
        prop_assert!(phis.is_sorted());
        let at = detector.suspect_at(phi);
        prop_assert!(at == now || (detector.phi(at) - phi).abs() < 0.01);
    }
}
