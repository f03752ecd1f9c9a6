//! Batches read ahead: pages that a stream will want next, fetched before the program touches them. They are mapped at the first
//! touch of one of them and not when they arrive: that touch says that the stream goes on, and the next batch is sent for while
//! this one is used.

use super::{remote::Tag, staging::FrameRun};
use crate::fault::PageNumber;

/// Batches at once: as many streams are read ahead.
const MAX_BATCHES: usize = 8;
/// A batch that was not touched within so many faults belongs to a stream that has ended.
const STALE_FAULTS: u64 = 256;

/// Pages from `first` on, which come into `frames`, as many.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub tag: Tag,
    pub first: PageNumber,
    pub frames: FrameRun,
    /// Its contents are there and checked; its operation has ended.
    pub ready: bool,
    /// The number of the fault for which it was sent.
    pub fault: u64,
}

impl Batch {
    /// The page behind its last one.
    pub fn end(&self) -> PageNumber {
        PageNumber(self.first.0 + self.frames.count as u32)
    }

    fn overlaps(&self, first: PageNumber, count: usize) -> bool {
        self.first.0 < first.0 + count as u32 && first.0 < self.end().0
    }
}

/// The batches that no touch has reached yet, in no order.
#[derive(Default)]
pub struct Ahead {
    batches: [Option<Batch>; MAX_BATCHES],
}

impl Ahead {
    fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().flatten()
    }

    /// Pages in all batches.
    pub fn pages(&self) -> usize {
        self.iter().map(|batch| batch.frames.count).sum()
    }

    pub fn is_full(&self) -> bool {
        self.iter().count() == MAX_BATCHES
    }

    /// There is room.
    pub fn insert(&mut self, batch: Batch) {
        let slot = self.batches.iter_mut().find(|slot| slot.is_none());
        *slot.expect("somebody looked whether it is full") = Some(batch);
    }

    /// Marks the batch of an operation as ready; false if it is none.
    pub fn arrived(&mut self, tag: Tag) -> bool {
        let found = self.batches.iter_mut().flatten().find(|batch| !batch.ready && batch.tag == tag);
        found.is_some_and(|batch| {
            batch.ready = true;
            true
        })
    }

    fn take(&mut self, which: impl Fn(&Batch) -> bool) -> Option<Batch> {
        self.batches.iter_mut().find(|slot| slot.as_ref().is_some_and(&which))?.take()
    }

    /// Removes the batch with `page`.
    pub fn take_at(&mut self, page: PageNumber) -> Option<Batch> {
        self.take(|batch| batch.overlaps(page, 1))
    }

    /// Removes a ready batch with any of these pages.
    pub fn take_ready_among(&mut self, first: PageNumber, count: usize) -> Option<Batch> {
        self.take(|batch| batch.ready && batch.overlaps(first, count))
    }

    /// Removes the ready batch that was sent for first.
    pub fn take_oldest_ready(&mut self) -> Option<Batch> {
        let oldest = self.iter().filter(|batch| batch.ready).map(|batch| batch.fault).min()?;
        self.take(|batch| batch.ready && batch.fault == oldest)
    }

    /// Removes a ready batch that has been left alone for long; `fault` is the number of this fault.
    pub fn take_stale(&mut self, fault: u64) -> Option<Batch> {
        self.take(|batch| batch.ready && fault.saturating_sub(batch.fault) > STALE_FAULTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FrameNumber;

    fn batch(tag: u16, first: u32, count: usize, fault: u64) -> Batch {
        let frames = FrameRun { first: FrameNumber(0), count };
        Batch { tag: Tag(tag), first: PageNumber(first), frames, ready: false, fault }
    }

    #[test]
    fn batches_are_found_by_their_pages_and_leave_once() {
        let mut ahead = Ahead::default();
        ahead.insert(batch(1, 100, 32, 5));
        ahead.insert(batch(2, 200, 8, 6));
        assert_eq!(ahead.pages(), 40);
        assert!(ahead.take_at(PageNumber(99)).is_none() && ahead.take_at(PageNumber(132)).is_none());
        assert!(ahead.take_ready_among(PageNumber(0), 1000).is_none(), "none has arrived");
        assert!(ahead.arrived(Tag(2)) && !ahead.arrived(Tag(2)) && !ahead.arrived(Tag(3)));
        assert!(ahead.take_ready_among(PageNumber(190), 10).is_none());
        assert_eq!(ahead.take_ready_among(PageNumber(190), 11).unwrap().tag, Tag(2));
        assert_eq!(ahead.take_at(PageNumber(131)).unwrap().end(), PageNumber(132));
        assert_eq!(ahead.pages(), 0);
    }

    #[test]
    fn what_nobody_touches_leaves_first() {
        let mut ahead = Ahead::default();
        for (tag, fault) in [(1, 30), (2, 10), (3, 20)] {
            ahead.insert(batch(tag, u32::from(tag) * 100, 4, fault));
        }
        assert!(ahead.take_oldest_ready().is_none(), "frames of a read in flight are not free");
        assert!(ahead.arrived(Tag(1)) && ahead.arrived(Tag(3)));
        assert!(ahead.take_stale(20 + STALE_FAULTS).is_none());
        assert_eq!(ahead.take_stale(21 + STALE_FAULTS).unwrap().tag, Tag(3));
        assert_eq!(ahead.take_oldest_ready().unwrap().tag, Tag(1));
    }
}
