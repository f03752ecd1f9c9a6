//! Which packet counters have been seen: a sliding window as in RFC 6479, a ring of bitmap words in which moving on
//! clears whole words and never shifts.

/// How far behind the highest counter a packet may be and still be taken.
pub const WINDOW_PACKETS: u64 = 2048;

/// One more than the window needs: the word of the highest counter may be in use up to its last bit only.
const WORDS: u64 = WINDOW_PACKETS / 64 + 1;

/// Why a counter is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayError {
    /// So far behind the highest one that nobody knows whether it was seen.
    #[error("packet is too old")]
    TooOld,
    /// It was seen.
    #[error("packet was here before")]
    Replayed,
}

/// The counters seen so far.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One more than the highest counter seen; 0 when there is none.
    next: u64,
    words: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, words: [0; WORDS as usize] }
    }
}

impl ReplayWindow {
    /// Whether a packet with this counter may be opened. Changes nothing: the counter may be forged.
    pub fn check(&self, counter: u64) -> Result<(), ReplayError> {
        if counter >= self.next {
            return Ok(());
        }
        if counter < self.lowest() {
            return Err(ReplayError::TooOld);
        }
        if self.words[word(counter)] & bit(counter) != 0 { Err(ReplayError::Replayed) } else { Ok(()) }
    }

    /// Remembers a counter that `check` took and whose packet is proven to come from the peer.
    ///
    /// # Panics
    /// In debug builds, when `check` would refuse it.
    pub fn commit(&mut self, counter: u64) {
        debug_assert_eq!(self.check(counter), Ok(()));
        if counter >= self.next {
            // The words entered for the first time hold what is too old by now.
            let last = self.next.wrapping_sub(1) / 64;
            let entered = if self.next == 0 { WORDS } else { (counter / 64 - last).min(WORDS) };
            for step in 0..entered {
                self.words[((counter / 64).wrapping_sub(step) % WORDS) as usize] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        self.words[word(counter)] |= bit(counter);
    }

    /// The lowest counter that may still be taken.
    pub fn lowest(&self) -> u64 {
        self.next.saturating_sub(WINDOW_PACKETS)
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn the_window_is_exactly_as_wide_as_it_says() {
        for high in [WINDOW_PACKETS - 1, WINDOW_PACKETS, 5000, 1 << 40, u64::MAX - 1] {
            let mut window = ReplayWindow::default();
            window.commit(high);
            let lowest = high + 1 - WINDOW_PACKETS;
            assert_eq!(window.lowest(), lowest);
            assert_eq!(window.check(high), Err(ReplayError::Replayed));
            assert_eq!(window.check(lowest), Ok(()));
            if lowest > 0 {
                assert_eq!(window.check(lowest - 1), Err(ReplayError::TooOld));
            }
            window.commit(lowest);
            assert_eq!(window.check(lowest), Err(ReplayError::Replayed));
            assert_eq!(window.check(high + 1), Ok(()));
        }
    }

    #[test]
    fn checking_alone_remembers_nothing() {
        let window = ReplayWindow::default();
        assert_eq!(window.check(u64::MAX), Ok(()));
        assert_eq!(window.check(0), Ok(()));
    }

    /// What the window must do, with a set that forgets nothing.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn check(&self, counter: u64) -> Result<(), ReplayError> {
            let Some(&highest) = self.seen.last() else { return Ok(()) };
            if counter + WINDOW_PACKETS <= highest {
                return Err(ReplayError::TooOld);
            }
            if self.seen.contains(&counter) { Err(ReplayError::Replayed) } else { Ok(()) }
        }
    }

    #[test]
    fn a_hundred_thousand_random_operations_as_the_model_does() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut window, mut model, mut at) = (ReplayWindow::default(), Model::default(), 0u64);
        for _ in 0..100_000 {
            let reach = [3, 70, 2100, 10_000][random.random_range(0..4)];
            at = match random.random_range(0..10) {
                0..6 => at.saturating_sub(random.random_range(0..reach)),
                _ => at + random.random_range(0..reach),
            };
            let expected = model.check(at);
            assert_eq!(window.check(at), expected, "counter {at}");
            if expected.is_ok() && random.random_bool(0.8) {
                window.commit(at);
                model.seen.insert(at);
            }
        }
    }

    proptest! {
        #[test]
        fn each_counter_is_taken_at_most_once(counters in prop::collection::vec(0u64..6000, 0..400)) {
            let mut window = ReplayWindow::default();
            let mut taken = BTreeSet::new();
            for counter in counters {
                if window.check(counter).is_ok() {
                    prop_assert!(taken.insert(counter));
                    window.commit(counter);
                }
            }
        }
    }
}
