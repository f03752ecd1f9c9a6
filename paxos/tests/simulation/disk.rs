//! A disk: records in order, of which those that were not synced may be lost at a crash; and pages, written now and then.

use std::collections::{BTreeMap, VecDeque};

use paxos::{Ballot, Configuration, Lives, Persisted, Record, Slot, Start, Ticket};

use crate::{
    machine::{Pages, Write},
    weather::Rng,
};

pub struct Disk {
    durable: Vec<Record<Write>>,
    unsynced: VecDeque<(Ticket, Record<Write>)>,
    pages: Pages,
}

impl Disk {
    pub fn new(configuration: Configuration) -> Self {
        Self { durable: Vec::new(), unsynced: VecDeque::new(), pages: Pages::new(configuration) }
    }

    /// Returns whether the disk was idle: it has to be synced then.
    pub fn append(&mut self, ticket: Ticket, record: Record<Write>) -> bool {
        self.unsynced.push_back((ticket, record));
        self.unsynced.len() == 1
    }

    /// What is to be synced now, if anything.
    pub fn last_unsynced(&self) -> Option<Ticket> {
        self.unsynced.back().map(|(ticket, _)| *ticket)
    }

    pub fn sync(&mut self, through: Ticket) {
        let synced = self.unsynced.iter().take_while(|(ticket, _)| *ticket <= through).count();
        self.durable.extend(self.unsynced.drain(..synced).map(|(_, record)| record));
    }

    /// Of what was not synced, a torn part remains.
    pub fn crash(&mut self, rng: &mut Rng) {
        let kept = rng.below(self.unsynced.len() as u64 + 1) as usize;
        self.durable.extend(self.unsynced.drain(..).take(kept).map(|(_, record)| record));
    }

    /// Writes all pages at once. Records of entries that are in them are not needed any more.
    pub fn write_pages(&mut self, pages: &Pages) {
        self.pages = pages.clone();
        let applied = self.pages.applied;
        self.durable.retain(|record| match record {
            Record::Accept { ballot: _, first, batch } => first.plus(batch.len() as u64) > applied.next(),
            _ => true,
        });
    }

    /// Pages of a transfer are written as they come.
    pub fn merge_pages(&mut self, pages: &Pages) {
        self.pages.pages = pages.pages;
    }

    /// Whether a process that starts from this disk has its memory.
    pub fn has_returned(&self) -> bool {
        self.durable.iter().any(|record| matches!(record, Record::Returned { .. }))
    }

    /// What a process that starts from this disk has; nothing if it never had its memory whole.
    pub fn load(&self) -> Option<(Start<Write>, Pages)> {
        let (mut promised, mut accepted) = (Ballot::ZERO, BTreeMap::new());
        let mut decided = Slot::ZERO;
        let mut known = [paxos::Life(0); paxos::MAX_MEMBERS];
        let mut has_returned = false;
        for record in &self.durable {
            match record {
                Record::Promise(ballot) => promised = promised.max(*ballot),
                Record::Accept { ballot, first, batch } => {
                    promised = promised.max(*ballot);
                    for (index, command) in batch.as_slice().iter().enumerate() {
                        accepted.insert(first.plus(index as u64), (*ballot, command.clone()));
                    }
                }
                Record::Life { member, life } => {
                    known[member.get() as usize] = known[member.get() as usize].max(*life);
                }
                Record::Returned { promised: ballot, lives, .. } => {
                    has_returned = true;
                    promised = promised.max(*ballot);
                    for (known, life) in known.iter_mut().zip(lives.as_array()) {
                        *known = (*known).max(*life);
                    }
                }
                Record::Decided(slot) => decided = decided.max(*slot),
                Record::Installed { .. } => {}
            }
        }
        let lives = Lives::from_array(known);
        let applied = self.pages.applied;
        let after = accepted.into_iter().filter(|(slot, _): &(Slot, _)| *slot > applied);
        let accepted = after.map(|(slot, (ballot, command))| (slot, ballot, command)).collect();
        let configuration = self.pages.configuration;
        let persisted = Persisted { promised, lives, applied, configuration, decided, accepted };
        has_returned.then(|| (Start::Disk(persisted), self.pages.clone()))
    }
}
