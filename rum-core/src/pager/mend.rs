//! A page that came with contents other than those stored: it is asked for again, of each of the slaves that keep it in turn, until one has the
//! right contents. These are written back, so that all have them, before anybody can change the page. That is an ordinary write, and the page stays on
//! its way until it is done.

use rum_net::PAGE_BYTES;

use super::{
    local::Local,
    operations::Operation,
    remote::{RemoteFailure, Tag},
    say::say,
    staging::FrameRun,
};
use crate::fault::{FrameNumber, PageNumber};

/// A page whose contents are wrong everywhere is given up after so many rounds, the first read among them.
pub const MAX_ROUNDS: u32 = 4;

/// So many repairs are said one by one.
const FIRST_SAID: u64 = 8;

/// What is done about a wrong page of a read.
#[derive(Clone, Copy, Debug)]
pub struct Mending {
    /// Which page of the read.
    pub index: usize,
    /// Counts the attempts from 1: all copies in turn, again and again.
    pub attempt: u32,
    /// Some slave of this round gave no answer: it may have the right contents.
    is_unsure: bool,
    /// The contents are right now, and on their way to all slaves.
    pub is_right: bool,
}

impl Mending {
    /// Begins with a page of a read.
    pub fn new(index: usize) -> Self {
        Self { index, attempt: 1, is_unsure: false, is_right: false }
    }

    /// The next attempt; `None` if all of `copies` are wrong.
    fn next(self, copies: u32) -> Option<Self> {
        let is_round_over = self.attempt.is_multiple_of(copies);
        if is_round_over && !self.is_unsure && self.attempt >= (MAX_ROUNDS - 1) * copies {
            return None;
        }
        Some(Self { attempt: self.attempt + 1, is_unsure: self.is_unsure && !is_round_over, ..self })
    }

    /// The frame of the page, of the read's.
    pub fn frame(&self, frames: FrameRun) -> FrameRun {
        FrameRun { first: FrameNumber(frames.first.0 + self.index as u32), count: 1 }
    }
}

impl Local {
    /// Goes on with a read of which a page is mended: by `core`, which sends.
    pub fn mend(&mut self, tag: Tag, mending: Mending) {
        let Some(Operation::Read { first, frames, started, .. }) = self.operations.get(tag) else { return };
        self.operations.set(tag, Operation::Read { first, frames, started, mending: Some(mending) });
        self.unsent.push(tag);
    }

    fn try_next(&mut self, tag: Tag, page: PageNumber, mending: Mending) {
        match mending.next(self.copies) {
            Some(next) => self.mend(tag, next),
            None => {
                let slave = self.slave_number(page);
                self.lose(format_args!(
                    "page {} came from slave {slave} {MAX_ROUNDS} times with wrong contents",
                    page.0
                ));
            }
        }
    }

    /// A copy of a wrong page has come.
    pub fn copy_done(&mut self, tag: Tag, first: PageNumber, frames: FrameRun, mending: Mending, data: u64) {
        let frame = mending.frame(frames);
        self.spread(frame, data);
        let page = PageNumber(first.0 + mending.index as u32);
        if self.table.hash(page) != Some(super::local::hash_page(self.memory.frame(frame.first))) {
            self.counters.hash_mismatches += 1;
            return self.try_next(tag, page, mending);
        }
        self.table.set_stored(page, data & 1 != 0);
        if self.copies == 1 {
            // It was damaged on the way.
            return self.verify(tag, mending.index + 1);
        }
        self.mend(tag, Mending { is_right: true, ..mending });
    }

    /// A slave did not say what its copy of a wrong page is.
    pub fn copy_failed(&mut self, tag: Tag, first: PageNumber, mending: Mending, failure: RemoteFailure) {
        let page = PageNumber(first.0 + mending.index as u32);
        if mending.is_right || failure == RemoteFailure::Fenced || self.copies == 1 {
            self.operations.remove(tag);
            let slave = self.slave_number(page);
            return self.lose(format_args!("far memory on slave {slave} is lost: {failure}"));
        }
        self.try_next(tag, page, Mending { is_unsure: true, ..mending });
    }

    /// All slaves have the right contents of a page.
    pub fn mended(&mut self, tag: Tag, first: PageNumber, mending: Mending) {
        self.counters.pages_repaired += 1;
        let page = first.0 + mending.index as u32;
        let (slave, repaired) = (self.slave_number(PageNumber(page)), self.counters.pages_repaired);
        // Of many not each.
        if repaired <= FIRST_SAID || repaired.is_power_of_two() {
            say(format_args!(
                "page {page} of group {slave} came with wrong contents: repaired from another replica, {repaired} pages so far"
            ));
        }
        self.verify(tag, mending.index + 1);
    }

    /// The contents of a page that is being mended; nothing for zeros.
    pub fn right_contents(&self, first: PageNumber, frames: FrameRun, mending: Mending) -> &[u8] {
        let page = PageNumber(first.0 + mending.index as u32);
        if self.table.hash(page) == Some(self.zero_hash) {
            return &[];
        }
        let bytes = self.memory.frame_run(mending.frame(frames).first, 1);
        debug_assert_eq!(bytes.len(), PAGE_BYTES);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(copies: u32, unsure: impl Fn(u32) -> bool) -> u32 {
        let mut mending = Some(Mending::new(0));
        let mut count = 0;
        while let Some(now) = mending
            && count < 1000
        {
            count += 1;
            mending = Mending { is_unsure: now.is_unsure || unsure(now.attempt), ..now }.next(copies);
        }
        count
    }

    #[test]
    fn all_copies_are_asked_in_each_round() {
        assert_eq!([1, 3, 5].map(|copies| attempts(copies, |_| false)), [3, 9, 15]);
    }

    #[test]
    fn a_page_is_not_given_up_while_somebody_has_not_answered() {
        assert_eq!(attempts(3, |attempt| attempt % 3 == 1), 1000);
        // One that was silent in the last round only is asked once more.
        assert_eq!(attempts(3, |attempt| attempt == 9), 12);
        assert_eq!(attempts(3, |attempt| attempt == 2), 9);
    }
}
