//! The accepted entries that may still be needed: a window of slots that moves on as entries are applied.

use std::collections::VecDeque;

use crate::{
    ballot::{Ballot, Slot},
    command::{Batch, Command, Entry},
    members::MemberSet,
};

/// What was accepted in a slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Item<E> {
    /// By which it was accepted last.
    pub ballot: Ballot,
    pub command: Command<E>,
    /// Who accepted it by that ballot, as far as its leader knows.
    pub acks: MemberSet,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Log<E> {
    /// Of the first of `items`.
    start: Slot,
    items: VecDeque<Option<Item<E>>>,
    bytes: usize,
}

impl<E: Entry> Log<E> {
    pub fn new(start: Slot) -> Self {
        Self { start, items: VecDeque::new(), bytes: 0 }
    }

    /// The first slot that the log may have; all before it are in the pages.
    pub fn start(&self) -> Slot {
        self.start
    }

    /// The last slot in which something was accepted, or the one before the first.
    pub fn end(&self) -> Slot {
        self.start.before().plus(self.items.len() as u64)
    }

    pub fn len(&self) -> u64 {
        self.items.len() as u64
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn index(&self, slot: Slot) -> Option<usize> {
        slot.0.checked_sub(self.start.0).map(|index| index as usize)
    }

    pub fn get(&self, slot: Slot) -> Option<&Item<E>> {
        self.items.get(self.index(slot)?)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Item<E>> {
        let index = self.index(slot)?;
        self.items.get_mut(index)?.as_mut()
    }

    /// Accepts a command. Slots before the first are left alone.
    pub fn put(&mut self, slot: Slot, ballot: Ballot, command: Command<E>) {
        let Some(index) = self.index(slot) else { return };
        if index >= self.items.len() {
            self.items.resize_with(index + 1, || None);
        }
        self.bytes += command.size_bytes();
        let item = Item { ballot, command, acks: MemberSet::EMPTY };
        if let Some(former) = self.items[index].replace(item) {
            self.bytes -= former.command.size_bytes();
        }
    }

    /// The commands of slots in a row from `first` on, up to `last` or the limits.
    pub fn batch(&self, first: Slot, last: Slot, max_entries: u64, max_bytes: usize) -> Batch<E> {
        let Some(begin) = self.index(first) else { return Batch::Empty };
        let count = last.next().since(first).min(max_entries) as usize;
        let mut bytes = 0;
        let items = self.items.iter().skip(begin).take(count).map_while(Option::as_ref);
        let fitting = items.enumerate().take_while(|(index, item)| {
            bytes += item.command.size_bytes();
            *index == 0 || bytes <= max_bytes
        });
        let command = |index: usize| self.items[index].as_ref().map_or(Command::Noop, |item| item.command.clone());
        match fitting.count() {
            0 => Batch::Empty,
            1 => Batch::One(command(begin)),
            // Of a length that is known, so that all of it is allocated at once.
            count => Batch::Many((begin..begin + count).map(command).collect()),
        }
    }

    /// Forgets slots up to `through`.
    pub fn truncate_through(&mut self, through: Slot) {
        while self.start <= through && !self.items.is_empty() {
            self.drop_first();
        }
        self.start = self.start.max(through.next());
    }

    /// Forgets the first slot.
    pub fn drop_first(&mut self) {
        if let Some(Some(item)) = self.items.pop_front() {
            self.bytes -= item.command.size_bytes();
        }
        self.start = self.start.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Entry for u16 {
        fn size_bytes(&self) -> usize {
            10
        }
    }

    fn log() -> Log<u16> {
        let mut log = Log::new(Slot(5));
        for number in [5, 6, 8] {
            log.put(Slot(number), Ballot::ZERO, Command::Entry(number as u16));
        }
        log
    }

    #[test]
    fn slots_may_be_missing() {
        let log = log();
        assert_eq!((log.start(), log.end(), log.len(), log.bytes()), (Slot(5), Slot(8), 4, 30));
        assert!(log.get(Slot(7)).is_none() && log.get(Slot(4)).is_none() && log.get(Slot(9)).is_none());
        assert_eq!(log.batch(Slot(5), Slot(8), 9, 99).len(), 2);
    }

    #[test]
    fn batches_are_limited() {
        let mut log = log();
        log.put(Slot(7), Ballot::ZERO, Command::Entry(7));
        assert_eq!(log.batch(Slot(5), Slot(8), 3, 99).len(), 3);
        assert_eq!(log.batch(Slot(5), Slot(8), 9, 25).len(), 2);
        assert_eq!(log.batch(Slot(5), Slot(8), 9, 1).len(), 1);
        assert_eq!(log.batch(Slot(6), Slot(7), 9, 99).as_slice(), [Command::Entry(6), Command::Entry(7)]);
        assert!(log.batch(Slot(4), Slot(8), 9, 99).is_empty());
    }

    #[test]
    fn replaced_and_forgotten_bytes_do_not_count() {
        let mut log = log();
        log.put(Slot(6), Ballot::ZERO, Command::Noop);
        assert_eq!(log.bytes(), 20);
        log.truncate_through(Slot(6));
        assert_eq!((log.start(), log.end(), log.bytes()), (Slot(7), Slot(8), 10));
        log.put(Slot(6), Ballot::ZERO, Command::Entry(6));
        assert_eq!(log.bytes(), 10);
        log.truncate_through(Slot(20));
        assert_eq!((log.start(), log.end(), log.bytes()), (Slot(21), Slot(20), 0));
    }
}
