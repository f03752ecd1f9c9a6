//! What must hold, seen by somebody who knows everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use paxos::{Ballot, Command, Configuration, MemberId, Slot};

use crate::machine::{PAGES, Page, Pages, Write};

/// All that was decided and answered. Decisions are ordered by slots, so that a history of page reads and writes is
/// linearizable if each page's slots never go back from one answer to a later request: a check that costs one comparison.
pub struct Checker {
    /// By slot, from 1 on, as the first replica that applied it had it.
    decided: Vec<Command<Write>>,
    /// Of each value that a client wrote, where it was decided.
    values: Vec<Option<Slot>>,
    /// For each page, the greatest slot that was answered: of a write, that it is done; of a read, that it is the last.
    floors: [Slot; PAGES],
    leaders: BTreeSet<Ballot>,
    /// By slot.
    configurations: BTreeMap<Slot, Configuration>,
    pub writes: u64,
    pub reads: u64,
    /// The last time at which a write was answered, and the longest between two.
    pub last_write_at: Duration,
    pub longest_stall: Duration,
}

impl Checker {
    pub fn new(configuration: Configuration) -> Self {
        Self {
            decided: Vec::new(),
            values: vec![None],
            floors: [Slot::ZERO; PAGES],
            leaders: BTreeSet::new(),
            configurations: BTreeMap::from([(Slot::ZERO, configuration)]),
            writes: 0,
            reads: 0,
            last_write_at: Duration::ZERO,
            longest_stall: Duration::ZERO,
        }
    }

    /// A client makes a write that nobody else makes.
    pub fn new_write(&mut self, page: usize) -> Write {
        self.values.push(None);
        Write { page, value: self.values.len() as u64 - 1 }
    }

    pub fn floor(&self, page: usize) -> Slot {
        self.floors[page]
    }

    /// The latest, and the one before.
    pub fn configurations(&self) -> [Configuration; 2] {
        let mut latest = self.configurations.values().rev().copied();
        let last = latest.next().unwrap_or_default();
        [last, latest.next().unwrap_or(last)]
    }

    pub fn on_leader(&mut self, ballot: Ballot) {
        assert!(self.leaders.insert(ballot), "two leaders in {ballot:?}");
    }

    /// A replica applies a slot to its pages.
    pub fn on_apply(&mut self, by: MemberId, pages: &mut Pages, slot: Slot, command: &Command<Write>) {
        assert_eq!(slot, pages.applied.next(), "member {} applies out of order", by.get());
        pages.applied = slot;
        let index = slot.0 as usize - 1;
        assert!(index <= self.decided.len(), "member {} applies what nobody has decided before it", by.get());
        match self.decided.get(index) {
            Some(first) => {
                assert_eq!(command, first, "two values in {slot:?}: the latter is what was applied first");
            }
            None => self.on_first(slot, command),
        }
        match command {
            Command::Entry(write) => pages.write(slot, *write),
            Command::Reconfigure(configuration) => pages.configuration = *configuration,
            Command::Noop => {}
        }
    }

    fn on_first(&mut self, slot: Slot, command: &Command<Write>) {
        self.decided.push(command.clone());
        match command {
            Command::Entry(write) => {
                let former = self.values.get_mut(write.value as usize).expect("decided what nobody proposed");
                assert_eq!(former.replace(slot), None, "value {} is decided twice", write.value);
            }
            Command::Reconfigure(configuration) => {
                self.configurations.insert(slot, *configuration);
            }
            Command::Noop => {}
        }
    }

    /// A write is answered.
    pub fn on_write(&mut self, now: Duration, slot: Slot, write: Write, floor_at_request: Slot) {
        self.writes += 1;
        self.longest_stall = self.longest_stall.max(now - self.last_write_at);
        self.last_write_at = now;
        assert!(slot > floor_at_request, "a write comes before what was answered before it was asked for");
        self.floors[write.page] = self.floors[write.page].max(slot);
    }

    /// A read is answered with this page; it was asked for at the same moment.
    pub fn on_read(&mut self, by: MemberId, index: usize, page: Page) {
        self.reads += 1;
        let floor = self.floors[index];
        assert!(page.slot >= floor, "member {} gives a stale page: {:?} after {floor:?}", by.get(), page.slot);
        if page.slot > Slot::ZERO {
            let command = &self.decided[page.slot.0 as usize - 1];
            let expected = Command::Entry(Write { page: index, value: page.value });
            assert_eq!(*command, expected, "member {} gives a page that was not written so", by.get());
        }
        self.floors[index] = page.slot;
    }

    pub fn decided(&self) -> Slot {
        Slot(self.decided.len() as u64)
    }

    /// At the end, every member has every page as it was written last.
    pub fn check_pages(&self, by: MemberId, pages: &Pages) {
        let mut expected = [Page::default(); PAGES];
        for (index, command) in self.decided.iter().enumerate() {
            if let Command::Entry(write) = command {
                expected[write.page] = Page { value: write.value, slot: Slot(index as u64 + 1) };
            }
        }
        assert_eq!(pages.pages, expected, "member {} has other pages than were written", by.get());
        for (page, floor) in expected.iter().zip(self.floors) {
            assert!(page.slot >= floor, "an acknowledged write is gone");
        }
    }
}
