//! The φ accrual failure detector (Hayashibara, Défago, Yared and Katayama, "The φ Accrual Failure Detector", SRDS 2004): instead of a
//! verdict it gives how suspicious a silence is, by how regularly somebody was heard before. φ = 1 means that one silence in ten
//! would be as long, φ = 8 one in 10⁸.

use std::{collections::VecDeque, time::Duration};

/// How a detector judges.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DetectorSettings {
    /// What is expected before anything was heard.
    pub first_interval: Duration,
    /// So many intervals are remembered.
    pub window: usize,
    /// Somebody who is very regular is not suspected for being late by a fraction of this.
    pub min_deviation: Duration,
    /// Added to what is expected: pauses that are known to happen.
    pub tolerated_pause: Duration,
}

impl Default for DetectorSettings {
    fn default() -> Self {
        Self {
            first_interval: Duration::from_secs(5),
            window: 100,
            min_deviation: Duration::from_millis(200),
            tolerated_pause: Duration::ZERO,
        }
    }
}

/// Watches one process.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: DetectorSettings,
    /// In seconds, the earliest first.
    intervals: VecDeque<f64>,
    sum: f64,
    sum_of_squares: f64,
    heard_at: Duration,
}

impl Detector {
    /// Of a process that has just been heard for the first time.
    pub fn new(settings: DetectorSettings, now: Duration) -> Self {
        let mut detector = Self {
            settings: DetectorSettings { window: settings.window.max(2), ..settings },
            intervals: VecDeque::with_capacity(settings.window.max(2)),
            sum: 0.0,
            sum_of_squares: 0.0,
            heard_at: now,
        };
        // A guess with a deviation of a quarter, until there is experience.
        let first = settings.first_interval.as_secs_f64();
        detector.learn(first * 0.75);
        detector.learn(first * 1.25);
        detector
    }

    /// The process was heard.
    pub fn heard(&mut self, now: Duration) {
        let interval = now.saturating_sub(self.heard_at);
        self.heard_at = self.heard_at.max(now);
        self.learn(interval.as_secs_f64());
    }

    /// The next interval says nothing: the watcher itself was not running.
    pub fn interrupt(&mut self, now: Duration) {
        self.heard_at = self.heard_at.max(now);
    }

    fn learn(&mut self, interval: f64) {
        if self.intervals.len() == self.settings.window
            && let Some(oldest) = self.intervals.pop_front()
        {
            self.sum -= oldest;
            self.sum_of_squares -= oldest * oldest;
        }
        self.intervals.push_back(interval);
        self.sum += interval;
        self.sum_of_squares += interval * interval;
    }

    /// What is expected of the next interval, and how far it may be off, in seconds.
    fn expectation(&self) -> (f64, f64) {
        let count = self.intervals.len() as f64;
        let mean = self.sum / count;
        // Rounding may bring the difference below zero.
        let variance = (self.sum_of_squares / count - mean * mean).max(0.0);
        let deviation = variance.sqrt().max(self.settings.min_deviation.as_secs_f64()).max(1e-9);
        (mean + self.settings.tolerated_pause.as_secs_f64(), deviation)
    }

    /// How suspicious the silence is by now.
    pub fn phi(&self, now: Duration) -> f64 {
        let (mean, deviation) = self.expectation();
        let silence = now.saturating_sub(self.heard_at).as_secs_f64();
        phi_of((silence - mean) / deviation)
    }

    /// When φ will have reached this, if nothing is heard.
    pub fn suspect_at(&self, phi: f64) -> Duration {
        let (mean, deviation) = self.expectation();
        let silence = (mean + deviation * deviations_of(phi)).max(0.0);
        // A day is for ever.
        self.heard_at + Duration::from_secs_f64(silence.min(86_400.0))
    }
}

/// Of an interval that is longer than expected by so many deviations: the tail of a normal distribution, by the logistic
/// approximation of Bowling, Khasawneh, Kaewkuekool and Cho (2009), which is off by less than 0.00014.
fn phi_of(deviations: f64) -> f64 {
    let x = exponent(deviations);
    // -log10(1 / (1 + e^x)), without overflow for long silences.
    let natural = if x > 30.0 { x } else { x.exp().ln_1p() };
    natural / std::f64::consts::LN_10
}

fn exponent(deviations: f64) -> f64 {
    deviations * (1.5976 + 0.070_566 * deviations * deviations)
}

/// The inverse of `phi_of`, by halving.
fn deviations_of(phi: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if phi_of(middle) < phi { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SETTINGS: DetectorSettings = DetectorSettings {
        first_interval: Duration::from_millis(100),
        window: 50,
        min_deviation: Duration::from_millis(5),
        tolerated_pause: Duration::ZERO,
    };

    fn heard(gaps: impl Iterator<Item = u32>) -> (Detector, Duration) {
        let mut now = Duration::from_secs(7);
        let mut detector = Detector::new(SETTINGS, now);
        for gap in gaps {
            now += gap * MS;
            detector.heard(now);
        }
        (detector, now)
    }

    #[test]
    fn phi_is_what_the_paper_says_of_a_normal_distribution() {
        // Tails of the standard normal distribution.
        for (deviations, tail) in [(0.0, 0.5f64), (1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_350)] {
            assert!((phi_of(deviations) + tail.log10()).abs() < 0.04, "{deviations}");
        }
        assert!(phi_of(-30.0) < 1e-6);
        assert!(phi_of(1e6).is_finite());
    }

    #[test]
    fn a_regular_process_is_suspected_soon_and_an_irregular_one_late() {
        let (regular, now) = heard((0..100).map(|_| 100));
        let (irregular, then) = heard((0..100).map(|beat| if beat % 5 == 0 { 400 } else { 100 }));
        assert!(regular.phi(now + 100 * MS) < 0.5);
        assert!(regular.phi(now + 140 * MS) > 8.0);
        assert!(irregular.phi(then + 400 * MS) < 3.0);
        assert!(irregular.phi(then + 1500 * MS) > 8.0);
    }

    #[test]
    fn it_forgets_how_things_were() {
        let (detector, now) = heard((0..200).map(|beat| if beat < 100 { 2000 } else { 100 }));
        assert!(detector.suspect_at(8.0) < now + 150 * MS);
    }

    #[test]
    fn the_watchers_own_pause_is_not_held_against_anybody() {
        let (mut detector, now) = heard((0..100).map(|_| 100));
        detector.interrupt(now + 5000 * MS);
        assert!(detector.phi(now + 5100 * MS) < 0.5);
    }
}
