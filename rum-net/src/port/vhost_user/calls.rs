//! How often a client is called (woken). A call costs half a microsecond, but a client can make it cost as much as it likes,
//! by thousands of epolls on its call descriptor: that time is taken from all the others. So a client whose calls are
//! slow, time and again, is called rarely; its own packets wait, nobody else's.

use std::time::{Duration, Instant};

/// A call that takes longer is slow: far beyond an honest one, also one that was interrupted by a wake-up.
const SLOW: Duration = Duration::from_micros(20);
/// Slow calls beyond the quick ones until it counts: a machine that pauses now and then makes some.
const MAX_SLOW: u32 = 16;
/// After a slow call a client is left alone for so many times what it took.
const REST: u32 = 50;
const MAX_REST: Duration = Duration::from_millis(100);

/// What calling one client has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    /// Slow calls, less the quick ones, from 0 to `MAX_SLOW`.
    slow: u32,
    /// No call before.
    rests_until: Option<Instant>,
}

impl Calls {
    /// When the client may be called, if not now.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rests_until.filter(|until| *until > now)
    }

    /// A call took from `start` to `end`.
    pub fn on_call(&mut self, start: Instant, end: Instant) {
        let took = end.saturating_duration_since(start);
        if took <= SLOW {
            self.slow = self.slow.saturating_sub(1);
            self.rests_until = None;
            return;
        }
        self.slow = (self.slow + 1).min(MAX_SLOW);
        self.rests_until = (self.slow == MAX_SLOW).then_some(end + took.saturating_mul(REST).min(MAX_REST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_are_slow_time_and_again_are_put_off() {
        let (mut calls, start) = (Calls::default(), Instant::now());
        let mut call = |took_us: u64| {
            calls.on_call(start, start + Duration::from_micros(took_us));
            calls.rests_until(start)
        };
        for _ in 0..100 {
            assert_eq!([call(1), call(1), call(5000)], [None; 3], "a pause of the machine now and then");
        }
        let puts_off = (0..MAX_SLOW).filter_map(|_| call(100)).last();
        assert_eq!(puts_off, Some(start + Duration::from_micros(100 + 5000)), "a fiftieth of the time is the client's");
        assert_eq!(call(1_000_000), Some(start + Duration::from_secs(1) + MAX_REST));
        assert_eq!(call(1), None, "and it is forgiven at once");
    }
}
