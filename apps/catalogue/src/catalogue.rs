//! The catalogue itself: ordinary collections, all of whose memory comes from one allocator.

use std::hash::{BuildHasherDefault, DefaultHasher};

use allocator_api2::{alloc::Allocator, boxed::Box, vec::Vec};
use hashbrown::HashMap;

use crate::records::Record;

/// A hasher without random keys, so that every run lays the map out in the same way.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// Memory could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Packages in the order they were read, and where to find each by its name.
pub struct Catalogue<A: Allocator + Copy> {
    allocator: A,
    texts: Vec<Box<[u8], A>, A>,
    by_name: HashMap<Box<[u8], A>, usize, Hasher, A>,
    payload_bytes: usize,
}

impl<A: Allocator + Copy> Catalogue<A> {
    /// An empty one, in the allocator's memory.
    pub fn new_in(allocator: A) -> Self {
        Self {
            allocator,
            texts: Vec::new_in(allocator),
            by_name: HashMap::with_hasher_in(Hasher::default(), allocator),
            payload_bytes: 0,
        }
    }

    /// Takes a package in. Of two with the same name the first is found by it.
    pub fn insert(&mut self, record: &Record<'_>) -> Result<(), Full> {
        self.texts.try_reserve(1).map_err(|_| Full)?;
        self.by_name.try_reserve(1).map_err(|_| Full)?;
        let text = copy_in(record.text, self.allocator)?;
        let name = copy_in(record.name, self.allocator)?;
        self.payload_bytes += text.len() + name.len();
        self.by_name.entry(name).or_insert(self.texts.len());
        self.texts.push(text);
        Ok(())
    }

    /// The first package of this name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.by_name.get(name).map(|index| &*self.texts[*index])
    }

    /// All packages in the order they were read.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.iter().map(|text| &**text)
    }

    /// Packages in it.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Bytes of names and texts.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }
}

fn copy_in<A: Allocator>(bytes: &[u8], allocator: A) -> Result<Box<[u8], A>, Full> {
    let mut copy = Vec::new_in(allocator);
    copy.try_reserve_exact(bytes.len()).map_err(|_| Full)?;
    copy.extend_from_slice(bytes);
    Ok(copy.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use allocator_api2::alloc::Global;

    use super::*;

    #[test]
    fn finds_the_first_of_a_name_and_keeps_all() {
        let mut catalogue = Catalogue::new_in(Global);
        for (name, text) in [("a", "one"), ("b", "two"), ("a", "three")] {
            catalogue.insert(&Record { name: name.as_bytes(), text: text.as_bytes() }).unwrap();
        }
        assert_eq!(catalogue.get(b"a"), Some(&b"one"[..]));
        assert_eq!(catalogue.get(b"c"), None);
        assert_eq!(catalogue.texts().collect::<std::vec::Vec<_>>(), [&b"one"[..], b"two", b"three"]);
        assert_eq!((catalogue.len(), catalogue.payload_bytes()), (3, 14));
    }
}
