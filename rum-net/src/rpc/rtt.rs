//! Round-trip estimation and retransmission timeout after RFC 6298, in microseconds: a peer that loses its processor for a
//! moment is asked once too often, which costs a packet, rather than every lost packet waited for a millisecond.

use std::time::Duration;

const INITIAL_TIMEOUT: Duration = Duration::from_millis(20);
const MIN_TIMEOUT: Duration = Duration::from_micros(50);
const MAX_TIMEOUT: Duration = Duration::from_millis(500);

/// Estimates how long an answer takes. In nanoseconds, since `Duration` divides slowly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RttEstimator {
    smoothed_ns: Option<u64>,
    variation_ns: u64,
}

impl RttEstimator {
    /// Takes the time from a packet to its answer; never when it is not known which packet was answered (Karn's rule).
    pub fn sample(&mut self, rtt: Duration) {
        let rtt_ns = rtt.as_secs() * 1_000_000_000 + u64::from(rtt.subsec_nanos());
        match self.smoothed_ns {
            None => {
                self.smoothed_ns = Some(rtt_ns);
                self.variation_ns = rtt_ns / 2;
            }
            Some(smoothed_ns) => {
                self.variation_ns = (self.variation_ns * 3 + smoothed_ns.abs_diff(rtt_ns)) / 4;
                self.smoothed_ns = Some((smoothed_ns * 7 + rtt_ns) / 8);
            }
        }
    }

    /// How long to wait for an answer that was already waited for `attempts` times.
    pub fn timeout(&self, attempts: u32) -> Duration {
        let base = self.smoothed_ns.map_or(INITIAL_TIMEOUT, |smoothed_ns| {
            Duration::from_nanos(smoothed_ns + self.variation_ns * 4).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
        });
        if attempts == 0 { base } else { base.saturating_mul(1 << attempts.min(10)).min(MAX_TIMEOUT) }
    }

    /// The smoothed round-trip time, once there is one.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed_ns.map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_20_ms_and_doubles_to_500() {
        let rtt = RttEstimator::default();
        let waits: Vec<_> = (0..7).map(|attempts| rtt.timeout(attempts).as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(rtt.timeout(u32::MAX).as_millis(), 500);
    }

    #[test]
    fn follows_the_round_trip_down_to_the_floor_and_up_again() {
        let mut rtt = RttEstimator::default();
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(5));
        }
        assert_eq!(rtt.timeout(0), MIN_TIMEOUT);
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(30));
        }
        assert!(rtt.timeout(0) >= Duration::from_millis(30) && rtt.timeout(0) < Duration::from_millis(60));
    }
}
