//! The table of extents: which are in use, by whom, and under which generation.
//!
//! A client names an extent by its place in the table and its generation. The place is only ever used as an index
//! that is checked against the table's length. The generation rises whenever the place is used anew, so that a name
//! from before never reaches what is there now.

use std::{collections::HashMap, io};

use rum_net::{
    EXTENT_PAGES,
    rpc::Incarnation,
    wire::message::{ExtentRef, Status},
};

use crate::{
    account::AccountId,
    frames::{Frames, PageNumber},
    group::image::{PlaceImage, PlaceState},
};

/// Who may read and write an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// One client; freed when its lease ends.
    Client(Incarnation),
    /// A named object: every client that knows its name.
    Named,
}

impl Owner {
    /// Whether `client` may read and write.
    pub fn admits(self, client: Incarnation) -> bool {
        match self {
            Self::Client(owner) => owner == client,
            Self::Named => true,
        }
    }
}

/// An extent in use.
#[derive(Debug)]
pub struct Extent {
    /// Who may use it.
    pub owner: Owner,
    /// Whose quota it counts against until it is freed.
    pub account: AccountId,
    /// Its pages.
    pub frames: Frames,
    /// Where pages are replicated: which slot of the group's log wrote each of them last; 0 for none.
    pub written: Option<Box<[u64; EXTENT_PAGES]>>,
}

impl Extent {
    /// The slot that wrote a page last.
    pub fn written(&self, page: PageNumber) -> u64 {
        self.written.as_ref().map_or(0, |written| written[usize::from(page)])
    }
}

#[derive(Debug)]
enum Use {
    /// Holds no extent; the next one here gets this generation.
    Free,
    /// Holds an extent.
    Used(Extent),
    /// Its generations are used up: it never holds an extent again.
    Retired,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    state: Use,
}

/// All extents of a slave.
#[derive(Debug)]
pub struct ExtentTable {
    places: Vec<Place>,
    free: Vec<u32>,
    first_generation: u32,
}

impl ExtentTable {
    /// An empty table. Generations count from `first_generation`, which a slave draws at random when it starts: a name
    /// that an earlier slave gave out is then stale here, too.
    pub fn new(first_generation: u32) -> Self {
        Self { places: Vec::new(), free: Vec::new(), first_generation }
    }

    /// As for `new`, from now on.
    pub fn set_first_generation(&mut self, first_generation: u32) {
        self.first_generation = first_generation;
    }

    /// Puts an extent into a free place and gives its name.
    pub fn insert(&mut self, extent: Extent) -> ExtentRef {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: self.first_generation, state: Use::Free });
            u32::try_from(self.places.len() - 1).expect("memory for 4 billion extents")
        });
        let place = &mut self.places[index as usize];
        place.state = Use::Used(extent);
        ExtentRef { index, generation: place.generation }
    }

    /// Takes an extent out of the table; its name is stale from now on.
    pub fn remove(&mut self, extent: ExtentRef) -> Result<Extent, Status> {
        self.get(extent)?;
        let place = &mut self.places[extent.index as usize];
        let next = place.generation.checked_add(1);
        let state = if next.is_some() { Use::Free } else { Use::Retired };
        match std::mem::replace(&mut place.state, state) {
            Use::Used(removed) => {
                if let Some(generation) = next {
                    place.generation = generation;
                    self.free.push(extent.index);
                }
                Ok(removed)
            }
            Use::Free | Use::Retired => Err(Status::StaleExtent),
        }
    }

    /// The extent of this name; `OutOfRange` when the table never had such a place, `StaleExtent` when it was freed.
    pub fn get(&self, extent: ExtentRef) -> Result<&Extent, Status> {
        match self.places.get(extent.index as usize) {
            None => Err(Status::OutOfRange),
            Some(Place { generation, state: Use::Used(found) }) if *generation == extent.generation => Ok(found),
            Some(_) => Err(Status::StaleExtent),
        }
    }

    /// As `get`, to change it.
    pub fn get_mut(&mut self, extent: ExtentRef) -> Result<&mut Extent, Status> {
        match self.places.get_mut(extent.index as usize) {
            None => Err(Status::OutOfRange),
            Some(Place { generation, state: Use::Used(found) }) if *generation == extent.generation => Ok(found),
            Some(_) => Err(Status::StaleExtent),
        }
    }

    /// What is in each place, and the free places.
    pub fn image(&self) -> (Vec<PlaceImage>, Vec<u32>) {
        let image = |place: &Place| PlaceImage {
            generation: place.generation,
            state: match &place.state {
                Use::Free => PlaceState::Free,
                Use::Retired => PlaceState::Retired,
                Use::Used(Extent { owner, account, .. }) => {
                    let client = if let Owner::Client(client) = owner { Some(client.0) } else { None };
                    PlaceState::Used { client, account: *account }
                }
            },
        };
        (self.places.iter().map(image).collect(), self.free.clone())
    }

    /// The table of an image. Extents that this one has, too, keep their pages.
    ///
    /// # Errors
    /// When there is no address space left for others; this table is empty then.
    pub fn become_image(&mut self, places: Vec<PlaceImage>, free: Vec<u32>) -> io::Result<()> {
        let had = std::mem::take(&mut self.places).into_iter().zip(0..);
        let mut had: HashMap<(u32, u32), Extent> = had
            .filter_map(|(place, index)| match place.state {
                Use::Used(extent) => Some(((index, place.generation), extent)),
                Use::Free | Use::Retired => None,
            })
            .collect();
        self.free = free;
        for (place, index) in places.into_iter().zip(0..) {
            let state = match place.state {
                PlaceState::Free => Use::Free,
                PlaceState::Retired => Use::Retired,
                PlaceState::Used { client, account } => {
                    let owner = client.map_or(Owner::Named, |client| Owner::Client(Incarnation(client)));
                    let (frames, written) = match had.remove(&(index, place.generation)) {
                        Some(extent) => (extent.frames, extent.written),
                        None => (Frames::map()?, Some(Box::new([0; EXTENT_PAGES]))),
                    };
                    Use::Used(Extent { owner, account, frames, written })
                }
            };
            self.places.push(Place { generation: place.generation, state });
        }
        Ok(())
    }

    /// How many places there are.
    pub fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// The extent in a place, if there is one.
    pub fn at(&self, index: u32) -> Option<(ExtentRef, &Extent)> {
        let place = self.places.get(index as usize)?;
        let Use::Used(extent) = &place.state else { return None };
        Some((ExtentRef { index, generation: place.generation }, extent))
    }

    /// All extents in use, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Extent> {
        self.places.iter_mut().filter_map(|place| match &mut place.state {
            Use::Used(extent) => Some(extent),
            Use::Free | Use::Retired => None,
        })
    }

    /// All extents in use, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (ExtentRef, &Extent)> {
        self.places.iter().zip(0..).filter_map(|(place, index)| match &place.state {
            Use::Used(extent) => Some((ExtentRef { index, generation: place.generation }, extent)),
            Use::Free | Use::Retired => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Owner = Owner::Client(Incarnation(1));

    fn insert(table: &mut ExtentTable) -> ExtentRef {
        let frames = Frames::map().unwrap();
        table.insert(Extent { owner: CLIENT, account: AccountId::NOBODY, frames, written: None })
    }

    #[test]
    fn a_reused_place_has_a_new_generation() {
        let mut table = ExtentTable::new(5);
        let old = insert(&mut table);
        assert_eq!(old, ExtentRef { index: 0, generation: 5 });
        table.remove(old).unwrap();
        let new = insert(&mut table);
        assert_eq!(new, ExtentRef { index: 0, generation: 6 });
        assert_eq!(table.get(old).err(), Some(Status::StaleExtent));
        assert_eq!(table.get_mut(old).err(), Some(Status::StaleExtent));
        assert_eq!(table.remove(old).err(), Some(Status::StaleExtent));
        assert!(table.get(new).is_ok());
    }

    #[test]
    fn names_that_were_never_given_are_refused() {
        let mut table = ExtentTable::new(5);
        let extent = insert(&mut table);
        for generation in [0, 4, 6, u32::MAX] {
            let wrong = ExtentRef { generation, ..extent };
            assert_eq!(table.get(wrong).err(), Some(Status::StaleExtent));
        }
        for index in [1, 1000, u32::MAX] {
            let wrong = ExtentRef { index, ..extent };
            assert_eq!(table.get(wrong).err(), Some(Status::OutOfRange));
            assert_eq!(table.remove(wrong).err(), Some(Status::OutOfRange));
        }
        assert_eq!(table.iter().count(), 1);
    }

    #[test]
    fn a_free_place_is_not_reached_by_its_next_generation() {
        let mut table = ExtentTable::new(5);
        let extent = insert(&mut table);
        table.remove(extent).unwrap();
        let next = ExtentRef { generation: extent.generation + 1, ..extent };
        assert_eq!(table.get(next).err(), Some(Status::StaleExtent));
        assert_eq!(table.remove(next).err(), Some(Status::StaleExtent));
    }

    #[test]
    fn a_place_is_retired_before_its_generation_wraps() {
        let mut table = ExtentTable::new(u32::MAX);
        let last = insert(&mut table);
        table.remove(last).unwrap();
        assert_eq!(table.get(last).err(), Some(Status::StaleExtent));
        assert_eq!(insert(&mut table).index, 1, "place 0 has no generation left");
    }

    #[test]
    fn owners() {
        assert!(CLIENT.admits(Incarnation(1)));
        assert!(!CLIENT.admits(Incarnation(2)));
        assert!(Owner::Named.admits(Incarnation(2)));
    }
}
