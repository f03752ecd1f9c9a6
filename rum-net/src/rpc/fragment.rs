//! How a message is cut into packets.

use super::MAX_MESSAGE_BYTES;

/// A set of fragments of one message, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FragmentSet(pub u128);

impl FragmentSet {
    /// The fragments 0 to `count`, `count` excluded.
    pub fn first(count: u32) -> Self {
        Self(if count >= u128::BITS { u128::MAX } else { (1 << count) - 1 })
    }
    /// As many fragments as a message can have.
    pub fn all() -> Self {
        Self(u128::MAX)
    }
    /// One more than the highest number in the set.
    pub fn end(self) -> u32 {
        u128::BITS - self.0.leading_zeros()
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }
    pub fn contains(self, index: u32) -> bool {
        self.0 >> index & 1 == 1
    }
    /// Whether the fragment was not in the set before.
    pub fn insert(&mut self, index: u32) -> bool {
        let is_new = !self.contains(index);
        self.0 |= 1 << index;
        is_new
    }
    pub fn remove(&mut self, index: u32) {
        self.0 &= !(1 << index);
    }
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// The lowest number that is not in the set.
    pub fn lowest_missing(self) -> u32 {
        self.0.trailing_ones()
    }
}

/// A message of known length over packets of known size: every fragment but the last is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    message_bytes: u32,
    fragment_bytes: u32,
}

impl Layout {
    /// `None` when the message is longer than allowed.
    pub fn new(message_bytes: u32, fragment_bytes: u32) -> Option<Self> {
        (message_bytes as usize <= MAX_MESSAGE_BYTES).then_some(Self { message_bytes, fragment_bytes })
    }
    pub fn message_bytes(self) -> u32 {
        self.message_bytes
    }
    pub fn is_single(self) -> bool {
        self.message_bytes <= self.fragment_bytes
    }
    /// At least 1: an empty message is one empty fragment.
    pub fn count(self) -> u32 {
        if self.is_single() { 1 } else { self.message_bytes.div_ceil(self.fragment_bytes) }
    }
    pub fn all(self) -> FragmentSet {
        FragmentSet::first(self.count())
    }
    /// Where in the message a fragment lies.
    pub fn range(self, index: u32) -> std::ops::Range<usize> {
        let start = index * self.fragment_bytes;
        start as usize..self.message_bytes.min(start + self.fragment_bytes) as usize
    }
    /// Which fragment lies at `offset` with `len` bytes; `None` if none does.
    pub fn index(self, offset: u32, len: usize) -> Option<u32> {
        let index = if offset == 0 { 0 } else { offset / self.fragment_bytes };
        let exists = index < self.count();
        (exists && self.range(index) == (offset as usize..offset as usize + len)).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fragments_tile_the_message(message in 0..=MAX_MESSAGE_BYTES as u32, fragment in 1208u32..65_000) {
            let layout = Layout::new(message, fragment).unwrap();
            prop_assert!(layout.count() <= u128::BITS);
            let mut end = 0;
            for index in 0..layout.count() {
                let range = layout.range(index);
                prop_assert_eq!(range.start, end);
                prop_assert_eq!(layout.index(range.start as u32, range.len()), Some(index));
                end = range.end;
            }
            prop_assert_eq!(end, message as usize);
            prop_assert_eq!(layout.all().lowest_missing(), layout.count());
        }

        #[test]
        fn nothing_else_is_a_fragment(message: u32, offset: u32, len in 0usize..70_000, fragment in 1208u32..65_000) {
            if let Some(layout) = Layout::new(message % (2 * MAX_MESSAGE_BYTES as u32), fragment)
                && let Some(index) = layout.index(offset, len)
            {
                prop_assert_eq!(layout.range(index), offset as usize..offset as usize + len);
            }
        }
    }
}
