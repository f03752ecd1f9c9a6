//! What a slave does between polls that found nothing.

use std::time::{Duration, Instant};

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

/// Counts empty polls, and notices when others want the CPU.
#[derive(Debug)]
pub struct Idle {
    options: PollOptions,
    since: Option<Instant>,
    polls: u32,
    crowded_until: Option<Instant>,
}

impl Idle {
    /// As if there had just been work.
    pub fn new(options: PollOptions) -> Self {
        Self { options, since: None, polls: 0, crowded_until: None }
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
            return Pause::Sleep;
        }
        if self.polls < self.options.polls_per_yield {
            return Pause::Spin;
        }
        if self.crowded_until.is_some_and(|until| now < until) {
            return Pause::Sleep;
        }
        self.polls = 0;
        Pause::Yield
    }

    /// A yield took this long. One that took long cost a scheduler's slice, since others want the CPU: whoever sleeps
    /// is woken by the next packet within microseconds, whoever yields waits for its turn.
    pub fn yielded(&mut self, took: Duration, now: Instant) {
        if took >= self.options.crowded_yield {
            self.crowded_until = Some(now + self.options.crowded_for);
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn sleeps_instead_of_yielding_where_others_want_the_cpu() {
        let options = PollOptions { polls_per_yield: 2, ..PollOptions::default() };
        let mut idle = Idle::new(options);
        let start = Instant::now();
        idle.yielded(options.crowded_yield - Duration::from_nanos(1), start);
        assert_eq!([idle.pause(start), idle.pause(start)], [Pause::Spin, Pause::Yield]);
        idle.yielded(options.crowded_yield, start);
        assert_eq!(
            [idle.pause(start), idle.pause(start), idle.pause(start)],
            [Pause::Spin, Pause::Sleep, Pause::Sleep]
        );
        let later = start + options.crowded_for;
        idle.worked();
        assert_eq!([idle.pause(later), idle.pause(later)], [Pause::Spin, Pause::Yield]);
    }
}
