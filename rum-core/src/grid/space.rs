//! Which extents of the region are in use, and by whom.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU8, Ordering},
};

/// Who uses an extent of the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody.
    Free,
    /// The heap with this number.
    Heap(u8),
    /// A named object.
    Named,
}

const NAMED: u8 = u8::MAX;

/// The owner of each extent; read without a lock by every `free`.
pub struct Owners(Vec<AtomicU8>);

impl Owners {
    /// `extents` free ones.
    pub fn new(extents: usize) -> Self {
        Self((0..extents).map(|_| AtomicU8::new(0)).collect())
    }

    /// Who uses an extent.
    pub fn get(&self, extent: usize) -> Owner {
        match self.0.get(extent).map_or(0, |owner| owner.load(Ordering::Acquire)) {
            0 => Owner::Free,
            NAMED => Owner::Named,
            heap => Owner::Heap(heap - 1),
        }
    }

    /// Sets the owner of extents.
    pub fn set(&self, first: usize, count: usize, owner: Owner) {
        let byte = match owner {
            Owner::Free => 0,
            Owner::Named => NAMED,
            Owner::Heap(heap) => heap + 1,
        };
        self.0[first..first + count].iter().for_each(|owner| owner.store(byte, Ordering::Release));
    }
}

/// Free runs of extents, by where they start.
pub struct Space {
    free: BTreeMap<usize, usize>,
}

impl Space {
    /// A region of `extents`, all free.
    pub fn new(extents: usize) -> Self {
        Self { free: BTreeMap::from([(0, extents)]) }
    }

    /// Takes the first run that is long enough.
    pub fn take(&mut self, extents: usize) -> Option<usize> {
        let (&first, &count) = self.free.iter().find(|&(_, &count)| count >= extents)?;
        self.free.remove(&first);
        if count > extents {
            self.free.insert(first + extents, count - extents);
        }
        Some(first)
    }

    /// Gives a run back.
    pub fn give(&mut self, mut first: usize, mut count: usize) {
        if let Some((&before, &len)) = self.free.range(..first).next_back()
            && before + len == first
        {
            self.free.remove(&before);
            (first, count) = (before, count + len);
        }
        if let Some(len) = self.free.remove(&(first + count)) {
            count += len;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_together_again() {
        let mut space = Space::new(10);
        let runs = [3, 2, 5].map(|count| space.take(count).unwrap());
        assert_eq!((runs, space.take(1)), ([0, 3, 5], None));
        space.give(0, 3);
        space.give(5, 5);
        assert_eq!(space.take(6), None);
        space.give(3, 2);
        assert_eq!(space.take(10), Some(0));
    }

    #[test]
    fn owners_are_told_apart() {
        let owners = Owners::new(4);
        owners.set(1, 2, Owner::Heap(0));
        owners.set(3, 1, Owner::Named);
        let seen: Vec<_> = (0..5).map(|extent| owners.get(extent)).collect();
        assert_eq!(seen, [Owner::Free, Owner::Heap(0), Owner::Heap(0), Owner::Named, Owner::Free]);
    }
}
