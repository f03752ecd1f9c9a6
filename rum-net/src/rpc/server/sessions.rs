//! All sessions of a server by id. A packet is looked up many times on its way through the server, and the session that was
//! looked up last is found without hashing.

use std::{
    cell::Cell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::session::Session;

/// Sessions by id.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Where in `places` each is.
    by_id: HashMap<u64, usize, BuildHasherDefault<SessionHasher>>,
    places: Vec<Option<Session>>,
    free: Vec<usize>,
    /// Where the last one was that was looked up.
    last: Cell<usize>,
}

impl Sessions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    fn place(&self, id: u64) -> Option<usize> {
        let last = self.last.get();
        if let Some(Some(session)) = self.places.get(last)
            && session.grant.session == id
        {
            return Some(last);
        }
        let place = *self.by_id.get(&id)?;
        self.last.set(place);
        Some(place)
    }

    /// The session of this id.
    #[inline]
    pub fn get(&self, id: u64) -> Option<&Session> {
        self.places[self.place(id)?].as_ref()
    }

    /// As `get`, to change it.
    #[inline]
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Session> {
        let place = self.place(id)?;
        self.places[place].as_mut()
    }

    /// Adds a session, of which there is none with its id yet.
    pub fn insert(&mut self, session: Session) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.by_id.insert(session.grant.session, place);
        self.places[place] = Some(session);
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: u64) -> Option<Session> {
        let place = self.by_id.remove(&id)?;
        self.free.push(place);
        self.places[place].take()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.places.iter().flatten()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.places.iter_mut().flatten()
    }
}

/// Hashes session ids, which the server draws itself, by one multiplication (Knuth, The Art of Computer Programming,
/// volume 3, section 6.4): nobody can choose them to collide.
#[derive(Debug, Default)]
struct SessionHasher(u64);

impl Hasher for SessionHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{rpc::Incarnation, wire::hello::Grant};

    fn session(id: u64, channel: u32) -> Session {
        let grant = Grant { server: 1, session: id, mtu: 1500, slots: 8 };
        Session::new(Incarnation(1), channel, grant, None, Instant::now())
    }

    #[test]
    fn a_session_is_found_until_it_is_removed_and_never_in_the_place_of_another() {
        let mut sessions = Sessions::default();
        (1..=5).for_each(|id| sessions.insert(session(id, id as u32 * 10)));
        for id in [3, 3, 1, 5, 5, 2, 4] {
            assert_eq!(sessions.get(id).unwrap().channel, id as u32 * 10);
        }
        assert_eq!(sessions.get_mut(2).unwrap().channel, 20);
        assert_eq!(sessions.remove(2).unwrap().channel, 20);
        assert!(sessions.get(2).is_none() && sessions.remove(2).is_none());
        sessions.insert(session(9, 90));
        assert!(sessions.get(2).is_none(), "9 has its place now");
        assert_eq!(sessions.get_mut(9).unwrap().channel, 90);
        assert_eq!(sessions.len(), 5);
        let mut ids: Vec<u64> = sessions.iter().map(|session| session.grant.session).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 3, 4, 5, 9]);
    }
}
