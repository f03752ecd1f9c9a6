//! What has to be so when all is quiet.

use std::collections::HashMap;

use rum_slave::{
    account::AccountId,
    group::{
        image::{PageImage, PlaceState},
        state::State,
    },
};

use crate::{
    client::NAMES,
    host::{CAPACITY, QUOTA, accounts},
    world::World,
};

/// All pages of a slave.
pub fn pages(state: &State) -> Vec<PageImage> {
    let mut pages = Vec::new();
    state.store().pages_since(0, &mut (0, 0), usize::MAX, &mut |page| pages.push(page));
    pages
}

impl World {
    /// All slaves have the same directory and pages, and as much is reserved as is owned.
    pub fn check_equal(&self) {
        let mut first: Option<(Vec<u8>, Vec<PageImage>)> = None;
        for (host, place) in self.hosts.iter().zip(0..) {
            let Some(process) = &host.process else { panic!("{place} is down") };
            let state = process.group.state();
            let mut directory = state.directory();
            directory.names.sort();
            let used = |place: &&rum_slave::group::image::PlaceImage| matches!(place.state, PlaceState::Used { .. });
            let used = directory.places.iter().filter(used).count() as u64;
            assert_eq!(state.store().quota().reserved(), used, "{place} counts wrongly what is reserved");
            let pages = pages(state);
            let present = pages.iter().filter(|page| page.data.is_some()).count() as u64;
            assert_eq!(state.store().used_pages(), present, "{place} counts wrongly what is used");
            let directory_bytes = postcard::to_stdvec(&directory).expect("an image");
            match &first {
                None => first = Some((directory_bytes, pages)),
                Some((bytes, others)) => {
                    assert!(*bytes == directory_bytes, "slave {place} has another directory: {directory:?}");
                    let name = |page: &PageImage| (page.index, page.generation, page.page, page.slot);
                    let (mine, theirs): (Vec<_>, Vec<_>) =
                        (pages.iter().map(name).collect(), others.iter().map(name).collect());
                    assert_eq!(mine, theirs, "slave {place} has other pages than slave 0");
                    let differs = pages.iter().zip(others).find(|(mine, theirs)| mine.data != theirs.data);
                    assert!(
                        differs.is_none(),
                        "slave {place} has other bytes: {:?}",
                        differs.map(|(page, _)| name(page))
                    );
                }
            }
        }
    }

    /// Clients own what they think they own, and nothing else.
    pub fn check_owners(&self) {
        let Some(process) = &self.hosts[0].process else { return };
        let directory = process.group.state().directory();
        let mut by_account: HashMap<AccountId, u64> = HashMap::new();
        for client in self.clients.iter().filter(|client| !client.is_gone && !client.is_fenced) {
            let mut expected: Vec<(u32, u32)> =
                client.extents().map(|extent| (extent.index, extent.generation)).collect();
            let owned = directory.places.iter().zip(0..).filter_map(|(place, index)| match &place.state {
                PlaceState::Used { client: Some(owner), .. } if *owner == client.incarnation.0 => {
                    Some((index, place.generation))
                }
                _ => None,
            });
            expected.sort_unstable();
            let is_fenced = process.group.state().is_fenced(client.incarnation);
            let owned: Vec<_> = owned.collect();
            assert!(
                owned == expected || is_fenced && owned.is_empty(),
                "{}: {owned:?}, {expected:?}",
                client.describe()
            );
        }
        for place in &directory.places {
            if let PlaceState::Used { account, .. } = place.state {
                *by_account.entry(account).or_default() += 1;
            }
        }
        assert!(by_account.values().sum::<u64>() <= CAPACITY, "{by_account:?}");
        assert!(by_account.get(&accounts().1).is_none_or(|held| *held <= QUOTA), "{by_account:?}");
        assert!(directory.names.len() <= NAMES);
    }

    /// Nothing is reserved but for named objects.
    pub fn check_unowned(&self) {
        let Some(process) = &self.hosts[0].process else { return };
        let directory = process.group.state().directory();
        let named: usize = directory.names.iter().map(|(_, _, extents)| extents.len()).sum();
        let reserved = process.group.state().store().quota().reserved();
        assert_eq!(reserved, named as u64, "what clients had that are gone is not free: {directory:?}");
    }
}
