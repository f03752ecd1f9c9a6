//! What a slave does between polls that found nothing.

use std::time::Instant;

use crate::options::PollOptions;

/// What to do after an empty poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// Poll again at once.
    Spin,
    /// Let others have the CPU first.
    Yield,
    /// Sleep until a packet comes.
    Sleep,
}

/// Counts empty polls.
#[derive(Debug)]
pub struct Idle {
    options: PollOptions,
    since: Option<Instant>,
    polls: u32,
}

impl Idle {
    /// As if there had just been work.
    pub fn new(options: PollOptions) -> Self {
        Self { options, since: None, polls: 0 }
    }

    /// A poll found work.
    pub fn worked(&mut self) {
        self.since = None;
        self.polls = 0;
    }

    /// A poll found nothing. Once it says sleep it goes on to until there is work.
    pub fn pause(&mut self, now: Instant) -> Pause {
        let since = *self.since.get_or_insert(now);
        self.polls += 1;
        if now.saturating_duration_since(since) >= self.options.idle_before_sleep {
            Pause::Sleep
        } else if self.polls >= self.options.polls_per_yield {
            self.polls = 0;
            Pause::Yield
        } else {
            Pause::Spin
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn spins_then_yields_then_sleeps_until_there_is_work() {
        let options = PollOptions { polls_per_yield: 3, ..PollOptions::default() };
        let mut idle = Idle::new(options);
        let start = Instant::now();
        let pauses = [(); 6].map(|()| idle.pause(start));
        assert_eq!(pauses, [Pause::Spin, Pause::Spin, Pause::Yield, Pause::Spin, Pause::Spin, Pause::Yield]);
        let later = start + options.idle_before_sleep;
        assert_eq!(idle.pause(later - Duration::from_nanos(1)), Pause::Spin);
        assert_eq!([idle.pause(later), idle.pause(later)], [Pause::Sleep; 2]);
        idle.worked();
        assert_eq!(idle.pause(later), Pause::Spin);
    }
}
