//! How many packets of a session may be under way: a window that follows the delay of answers, after Swift (Kumar et al.,
//! "Swift: Delay is Simple and Effective for Congestion Control in the Datacenter", SIGCOMM 2020).
//!
//! Delay, not loss, because RUM shares a bottleneck with itself: many clients read from one slave, and what they wait
//! for is a queue in front of its processor or its link. The client alone keeps the window, since each packet of a session is either
//! its own or asked for by it; it tells the slave how many packets of a long answer may be under way. A fabric
//! that loses single packets (a bad cable) must not slow a session down, so a loss while delays are short costs little.
//!
//! Left out of Swift: separate end-host windows (the slave polls, its queue is part of the path), and windows below one packet:
//! a session may always have one request under way.

use std::time::{Duration, Instant};

/// Packets that may be under way before anything is known.
const FIRST_WINDOW: f32 = 4.0;
const MIN_WINDOW: f32 = 1.0;
/// The most packets of a session under way.
pub const MAX_WINDOW: u32 = 512;
/// Added to the window a round trip while delays are short.
const INCREASE: f32 = 1.0;
/// How much of the excess delay is taken off the window, and at most how much of the window.
const DECREASE: f32 = 0.8;
const MAX_DECREASE: f32 = 0.5;
/// At least so much: windows become equal only by what is taken from the larger ones.
const MIN_DECREASE: f32 = 0.1;
/// What is left of the window after a loss while delays are short.
const LOSS_LEAVES: f32 = 0.9;
/// So much more than the way's own delay is no congestion: bursts, and a peer that was doing something else. The time is the
/// same for all, so that all want the same queue.
const QUEUE_NS: f32 = 100_000.0;
/// Answers in a row that come late although one packet at a time is sent, after which the way itself is long: if their
/// delays differ by less than this part of the least. Those in a queue with others do.
const LATE_ANSWERS: u32 = 16;
const LATE_SPREAD: u64 = 8;
/// How much longer a small window may wait: many sessions share the bottleneck then (Swift, section 3.5).
const FLOW_SCALING_NS: f32 = 100_000.0;
const FLOW_SCALING_MAX_WINDOW: f32 = 256.0;
/// A delay may be known so badly and still count.
const UNCERTAINTY: Duration = Duration::from_micros(100);
/// The least delay is remembered for one to two of these: the way may change.
const LEAST_PERIOD: Duration = Duration::from_millis(500);

/// How long a packet and its answer were on their way. An answer that lay at the port while nobody looked was there at some
/// time between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    /// At least so long.
    pub least: Duration,
    /// At most so long.
    pub most: Duration,
}

impl Delay {
    /// Whether it is known well enough to be remembered.
    pub fn is_certain(&self) -> bool {
        self.most.saturating_sub(self.least) < UNCERTAINTY
    }
}

/// The window of one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Congestion {
    window: f32,
    /// No delay was too long yet: the window grows by one a packet.
    starting: bool,
    /// The least delay in this period and in the one before it.
    least_ns: [u64; 2],
    least_since: Option<Instant>,
    /// The delay of the way itself, as far as it is known. The least delay that was seen may be a queue's: who comes when
    /// there is one never saw the way without it, and would want more than the others. So it is learnt only from packets
    /// that are sent one at a time.
    own_ns: u64,
    /// Answers in a row that came late to such packets, and the least and the greatest of their delays.
    late: u32,
    late_ns: [u64; 2],
    decreased: Option<Instant>,
}

impl Congestion {
    /// Nothing known about the way.
    pub fn new() -> Self {
        Self {
            window: FIRST_WINDOW,
            starting: true,
            least_ns: [u64::MAX; 2],
            least_since: None,
            own_ns: 0,
            late: 0,
            late_ns: [0; 2],
            decreased: None,
        }
    }

    /// Packets that may be under way, from 1 to [`MAX_WINDOW`].
    pub fn window(&self) -> u32 {
        self.window as u32
    }

    /// An answer of so many packets, or to so many, came `delay` after what it answers was sent. `is_limiting` says that
    /// the window was used up: one that is not used does not grow.
    pub fn on_answer(&mut self, now: Instant, delay: Delay, packets: u32, is_limiting: bool) {
        let nanoseconds = |time: Duration| time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos());
        let (delay_ns, most_ns) = (nanoseconds(delay.least), nanoseconds(delay.most));
        self.own_ns = self.own_ns.min(self.least(now, most_ns));
        let is_alone = self.window() == MIN_WINDOW as u32;
        let late_ns = delay_ns as f32;
        // No target is below the least, and one costs two roots.
        let target_ns = if most_ns as f32 > QUEUE_NS { self.target() } else { QUEUE_NS };
        if most_ns as f32 <= target_ns {
            self.late = 0;
            if is_limiting {
                self.window += packets as f32 * if self.starting { 1.0 } else { INCREASE / self.window };
                self.window = self.window.min(MAX_WINDOW as f32);
            }
        } else if late_ns <= target_ns {
            // It may have come in time.
        } else if is_alone {
            self.learn_way(delay_ns);
        } else {
            self.starting = false;
            let excess = DECREASE * (late_ns - target_ns) / late_ns;
            self.decrease(now, Duration::from_nanos(delay_ns), 1.0 - excess.clamp(MIN_DECREASE, MAX_DECREASE));
        }
    }

    /// A packet was lost.
    pub fn on_loss(&mut self, now: Instant, round_trip: Duration) {
        self.starting = false;
        self.late = 0;
        self.decrease(now, round_trip, LOSS_LEAVES);
    }

    /// Nothing has come for several timeouts in a row.
    pub fn on_silence(&mut self) {
        self.starting = false;
        self.window = MIN_WINDOW;
    }

    /// The answer to a packet that was sent alone is late.
    fn learn_way(&mut self, delay_ns: u64) {
        self.window = MIN_WINDOW;
        let [least, greatest] = if self.late == 0 { [delay_ns; 2] } else { self.late_ns };
        self.late_ns = [least.min(delay_ns), greatest.max(delay_ns)];
        self.late += 1;
        if self.late < LATE_ANSWERS {
            return;
        }
        self.late = 0;
        let [least, greatest] = self.late_ns;
        if greatest - least < least / LATE_SPREAD {
            self.own_ns = least;
            self.least_ns = [least; 2];
        }
    }

    fn target(&self) -> f32 {
        let full = 1.0 / FLOW_SCALING_MAX_WINDOW.sqrt();
        let scaling = (1.0 / self.window.sqrt() - full) / (1.0 - full);
        self.own_ns as f32 + QUEUE_NS + FLOW_SCALING_NS * scaling.clamp(0.0, 1.0)
    }

    /// Once a round trip at most: what is under way now was sent with the larger window.
    fn decrease(&mut self, now: Instant, round_trip: Duration, leaves: f32) {
        if self.decreased.is_some_and(|at| now.saturating_duration_since(at) < round_trip) {
            return;
        }
        self.decreased = Some(now);
        self.window = (self.window * leaves).max(MIN_WINDOW);
    }

    fn least(&mut self, now: Instant, delay_ns: u64) -> u64 {
        let since = *self.least_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= LEAST_PERIOD {
            self.least_since = Some(now);
            self.least_ns = [u64::MAX, self.least_ns[0]];
        }
        self.least_ns[0] = self.least_ns[0].min(delay_ns);
        self.least_ns[0].min(self.least_ns[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_millis(5);

    fn exactly(delay: Duration) -> Delay {
        Delay { least: delay, most: delay }
    }

    #[test]
    fn an_answer_that_may_have_come_in_time_changes_nothing() {
        let (mut congestion, mut now) = (Congestion::new(), Instant::now());
        answers(&mut congestion, &mut now, SHORT, 100);
        let before = congestion.window();
        congestion.on_answer(now, Delay { least: SHORT, most: LONG }, 1, true);
        assert_eq!(congestion.window(), before);
        congestion.on_answer(now, Delay { least: LONG, most: 2 * LONG }, 1, true);
        assert!(congestion.window() < before, "this one was late in any case");
    }

    /// `packets` answers, one each 10 µs, with a window that is used up.
    fn answers(congestion: &mut Congestion, now: &mut Instant, delay: Duration, packets: u32) {
        for _ in 0..packets {
            *now += SHORT;
            congestion.on_answer(*now, exactly(delay), 1, true);
        }
    }

    #[test]
    fn short_delays_open_the_window_and_long_ones_close_it_down_to_one() {
        let (mut congestion, mut now) = (Congestion::new(), Instant::now());
        answers(&mut congestion, &mut now, SHORT, 2000);
        assert_eq!(congestion.window(), MAX_WINDOW);
        answers(&mut congestion, &mut now, LONG, 1);
        assert_eq!(congestion.window(), MAX_WINDOW / 2);
        answers(&mut congestion, &mut now, LONG, 1);
        assert_eq!(congestion.window(), MAX_WINDOW / 2, "once a round trip");
        // No further: what comes late although it is sent alone says that the way is long.
        let mut late = 0;
        while congestion.window() > 1 && late < 20_000 {
            answers(&mut congestion, &mut now, LONG, 1);
            late += 1;
        }
        assert_eq!(congestion.window(), 1);
        answers(&mut congestion, &mut now, SHORT, 100);
        assert!((10..20).contains(&congestion.window()), "it grows by one a round trip: {}", congestion.window());
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let (mut congestion, now) = (Congestion::new(), Instant::now());
        congestion.on_answer(now, exactly(SHORT), 1, false);
        assert_eq!(congestion.window(), FIRST_WINDOW as u32);
    }

    #[test]
    fn single_losses_with_short_delays_cost_little() {
        let (mut congestion, mut now) = (Congestion::new(), Instant::now());
        congestion.on_loss(now, SHORT);
        let mut least = u32::MAX;
        for _ in 0..20 {
            answers(&mut congestion, &mut now, SHORT, 1000);
            congestion.on_loss(now, SHORT);
            congestion.on_loss(now, SHORT);
            least = least.min(congestion.window());
        }
        assert!(least >= 25, "one loss in 1,000 packets: {least}");
        congestion.on_silence();
        assert_eq!(congestion.window(), 1);
    }

    #[test]
    fn a_way_that_became_longer_is_learnt() {
        let (mut congestion, mut now) = (Congestion::new(), Instant::now());
        answers(&mut congestion, &mut now, SHORT, 100);
        answers(&mut congestion, &mut now, LONG, 20_000);
        assert!(congestion.window() > 100, "5 ms is the way's own delay: {}", congestion.window());
    }
}
