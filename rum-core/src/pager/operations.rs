//! The operations in flight, in a table of fixed size.

use std::time::Instant;

use super::{
    mend::Mending,
    remote::{MAX_OPERATIONS, RemoteFailure, Tag},
    staging::FrameRun,
};
use crate::fault::PageNumber;

/// What an operation does.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Pages from `first` on come into `frames`, as many; one of them had wrong contents if something is being mended.
    Read { first: PageNumber, frames: FrameRun, started: Instant, mending: Option<Mending> },
    /// Pages go to a slave.
    Write { first: PageNumber, count: usize, zeros: bool },
    /// A message of the grid's; `answer` is there when it is complete.
    Call { answer: Option<Result<usize, RemoteFailure>> },
}

/// Operations by tag.
pub struct Operations {
    slots: Vec<Option<Operation>>,
    free: Vec<u16>,
}

impl Operations {
    pub fn new() -> Self {
        Self { slots: vec![None; MAX_OPERATIONS], free: (0..MAX_OPERATIONS as u16).rev().collect() }
    }

    /// Enters an operation; `None` when the table is full.
    pub fn insert(&mut self, operation: Operation) -> Option<Tag> {
        let tag = self.free.pop()?;
        self.slots[tag as usize] = Some(operation);
        Some(Tag(tag))
    }

    pub fn get(&self, tag: Tag) -> Option<Operation> {
        self.slots[tag.0 as usize]
    }

    pub fn set(&mut self, tag: Tag, operation: Operation) {
        assert!(self.slots[tag.0 as usize].is_some(), "operation {tag:?} is not in flight");
        self.slots[tag.0 as usize] = Some(operation);
    }

    pub fn remove(&mut self, tag: Tag) -> Option<Operation> {
        let operation = self.slots[tag.0 as usize].take()?;
        self.free.push(tag.0);
        Some(operation)
    }

    /// How many may be entered.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    pub fn in_flight(&self) -> usize {
        MAX_OPERATIONS - self.free.len()
    }
}
