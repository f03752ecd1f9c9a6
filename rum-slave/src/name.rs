//! Named objects: found by hash, by every client; they outlive the client that created them.

use std::collections::{HashMap, hash_map::Entry};

use rum_net::{
    EXTENT_BYTES,
    wire::message::{ExtentRef, NameHash},
};

/// A named object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedObject {
    /// As it was created; it never changes.
    pub size_bytes: u64,
    /// Where its bytes are, in order.
    pub extents: Vec<ExtentRef>,
}

/// All named objects of a slave.
#[derive(Debug, Default)]
pub struct NameTable {
    objects: HashMap<NameHash, NamedObject>,
}

impl NameTable {
    /// The object of this name.
    pub fn get(&self, hash: &NameHash) -> Option<&NamedObject> {
        self.objects.get(hash)
    }

    /// Adds an object. Panics when the name is taken: the caller has looked.
    pub fn insert(&mut self, hash: NameHash, object: NamedObject) -> &NamedObject {
        match self.objects.entry(hash) {
            Entry::Vacant(vacant) => vacant.insert(object),
            Entry::Occupied(_) => panic!("a named object would be overwritten"),
        }
    }

    /// Takes an object out; its extents are the caller's to free.
    pub fn remove(&mut self, hash: &NameHash) -> Option<NamedObject> {
        self.objects.remove(hash)
    }

    /// All objects with their names, in any order.
    pub fn iter(&self) -> impl Iterator<Item = (&NameHash, &NamedObject)> {
        self.objects.iter()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// How many extents `size_bytes` take.
pub fn extents_for(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(EXTENT_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_until_it_is_removed() {
        let mut names = NameTable::default();
        let object = NamedObject { size_bytes: 5, extents: vec![ExtentRef { index: 1, generation: 2 }] };
        assert_eq!(names.insert([1; 32], object.clone()), &object);
        assert_eq!(names.get(&[1; 32]), Some(&object));
        assert_eq!(names.get(&[2; 32]), None);
        assert_eq!(names.remove(&[1; 32]), Some(object));
        assert_eq!(names.remove(&[1; 32]), None);
        assert!(names.is_empty());
    }

    #[test]
    fn sizes_round_up_to_extents() {
        let extent = EXTENT_BYTES as u64;
        for (size, extents) in [(1, 1), (extent - 1, 1), (extent, 1), (extent + 1, 2), (u64::MAX, 1 << 44)] {
            assert_eq!(extents_for(size), extents, "{size}");
        }
    }
}
