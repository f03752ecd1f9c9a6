//! The store against a simple model, its memory, and who may free what.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};
use rum_net::{EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES};

use super::*;

const CAPACITY: u64 = 6;
const A: Incarnation = Incarnation(1);
const B: Incarnation = Incarnation(2);

fn store() -> Store {
    Store::new(CAPACITY, 1)
}

fn page(extent: ExtentRef, page: u32) -> PageRef {
    PageRef { extent, page }
}

fn data(fill: u8) -> [u8; PAGE_BYTES] {
    [fill; PAGE_BYTES]
}

/// The first byte of a page; `None` if it is absent.
fn first_byte(store: &Store, client: Incarnation, page: PageRef) -> Result<Option<u8>, Status> {
    store.read(client, page).map(|page| page.map(|page| page[0]))
}

fn reserve_one(store: &mut Store, client: Incarnation) -> ExtentRef {
    store.reserve(Owner::Client(client), AccountId::NOBODY, 1).unwrap()[0]
}

/// Resident bytes of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE_BYTES
}

#[test]
fn capacity_is_strict_to_the_extent() {
    let mut store = store();
    assert_eq!(store.reserve(Owner::Client(A), AccountId::NOBODY, CAPACITY + 1), Err(Status::Full));
    assert_eq!(store.quota().reserved(), 0, "none when not all");
    let extents = store.reserve(Owner::Client(A), AccountId::NOBODY, CAPACITY - 1).unwrap();
    assert_eq!(store.reserve(Owner::Client(B), AccountId::NOBODY, 2), Err(Status::Full));
    let two_extents = EXTENT_BYTES as u64 + 1;
    assert_eq!(
        store.open_name(AccountId::NOBODY, [1; 32], Some(two_extents)).err(),
        Some(OpenNameError::Refused(Status::Full))
    );
    assert_eq!(store.name(&[1; 32]), None, "a name without its extents would be found later");
    reserve_one(&mut store, B);
    assert_eq!(store.reserve(Owner::Client(B), AccountId::NOBODY, 1), Err(Status::Full));
    store.release(A, extents[..1].iter().copied()).unwrap();
    reserve_one(&mut store, B);
    assert_eq!(store.reserve(Owner::Client(B), AccountId::NOBODY, 1), Err(Status::Full));
}

#[test]
fn names_are_listed_in_order_and_to_whom_they_belong() {
    let mut accounts = Accounts::default();
    let [a, b, slaves] = ["a", "b", PEER_KEY].map(|name| accounts.add(name, CAPACITY));
    let mut store = Store::new(CAPACITY, 1).with_accounts(accounts);
    for (name, account) in [(5, a), (3, b), (9, a), (1, a)] {
        store.open_name(account, [name; 32], Some(100 + u64::from(name))).unwrap();
    }
    let list = |account, after: Option<u8>, most| {
        let names = store.names_after(account, after.map(|name| [name; 32]).as_ref(), most);
        names.into_iter().map(|(hash, size)| (hash[0], size)).collect::<Vec<_>>()
    };
    assert_eq!(list(a, None, 9), [(1, 101), (5, 105), (9, 109)]);
    assert_eq!(list(a, Some(1), 9), [(5, 105), (9, 109)]);
    assert_eq!(list(a, Some(4), 1), [(5, 105)]);
    assert_eq!(list(a, Some(9), 9), []);
    assert_eq!(list(b, None, 9), [(3, 103)]);
    let all = [(1, 101), (3, 103), (5, 105), (9, 109)];
    assert_eq!((list(slaves, None, 9), list(AccountId::NOBODY, None, 9)), (all.to_vec(), all.to_vec()));
}

/// Lesson 12: another size under the same name is an error that changes nothing, and a look-up that misses is an answer.
#[test]
fn a_named_object_keeps_its_size() {
    let mut store = store();
    assert_eq!(
        store.open_name(AccountId::NOBODY, [1; 32], None).err(),
        Some(OpenNameError::Refused(Status::NoSuchName))
    );
    let (object, existed) = store.open_name(AccountId::NOBODY, [1; 32], Some(5000)).unwrap();
    let (object, reserved) = (object.clone(), 1);
    assert!(!existed);
    for asked in [1, 4999, 5001, u64::MAX] {
        let refusal = store.open_name(AccountId::NOBODY, [1; 32], Some(asked)).err();
        assert_eq!(refusal, Some(OpenNameError::SizeDiffers { existing_bytes: 5000 }));
    }
    assert_eq!(store.quota().reserved(), reserved);
    assert_eq!(store.open_name(AccountId::NOBODY, [1; 32], Some(5000)), Ok((&object, true)));
    assert_eq!(store.open_name(AccountId::NOBODY, [1; 32], None), Ok((&object, true)));
    store.free_name(&[1; 32]).unwrap();
    assert_eq!(store.quota().reserved(), 0);
    assert_eq!(store.free_name(&[1; 32]), Err(Status::NoSuchName));
    assert_eq!(store.read(A, page(object.extents[0], 0)), Err(Status::StaleExtent));
    let (object, existed) = store.open_name(AccountId::NOBODY, [1; 32], Some(2 * EXTENT_BYTES as u64 + 1)).unwrap();
    assert_eq!((object.extents.len(), existed), (3, false));
}

#[test]
fn named_objects_are_open_to_all_and_outlive_their_client() {
    let mut store = store();
    let extent = store.open_name(AccountId::NOBODY, [1; 32], Some(1)).unwrap().0.extents[0];
    store.write(A, page(extent, 0), PageContent::Data(&data(1))).unwrap();
    store.reclaim(A);
    assert_eq!(first_byte(&store, B, page(extent, 0)), Ok(Some(1)));
    assert_eq!(store.release(A, [extent].into_iter()), Err(Status::NotOwner), "only free_name frees it");
}

/// Lesson 11: what a client sends is checked against the table and the owner, and a refusal changes nothing.
#[test]
fn foreign_stale_and_impossible_names_are_refused() {
    let mut store = store();
    let extent = reserve_one(&mut store, A);
    let old = reserve_one(&mut store, B);
    store.release(B, [old].into_iter()).unwrap();
    store.write(A, page(extent, 3), PageContent::Data(&data(1))).unwrap();
    let refused = [
        (B, page(extent, 3), Status::NotOwner),
        (B, page(old, 3), Status::StaleExtent),
        (A, page(extent, EXTENT_PAGES as u32), Status::OutOfRange),
        (A, page(extent, u32::MAX), Status::OutOfRange),
        (A, page(ExtentRef { index: 1000, ..extent }, 0), Status::OutOfRange),
        (A, page(ExtentRef { index: u32::MAX, ..extent }, 0), Status::OutOfRange),
        (A, page(ExtentRef { generation: extent.generation + 1, ..extent }, 0), Status::StaleExtent),
    ];
    for (client, page, status) in refused {
        assert_eq!(store.read(client, page), Err(status), "{page:?}");
        assert_eq!(store.write(client, page, PageContent::Data(&data(2))), Err(status), "{page:?}");
        assert_eq!(store.write(client, page, PageContent::Zeros), Err(status), "{page:?}");
    }
    assert_eq!(store.release(B, [extent].into_iter()), Err(Status::NotOwner));
    assert_eq!(first_byte(&store, A, page(extent, 3)), Ok(Some(1)));
    assert_eq!((store.used_pages(), store.quota().reserved()), (1, 1));
}

#[test]
fn release_frees_all_or_none() {
    let mut store = store();
    let mine = store.reserve(Owner::Client(A), AccountId::NOBODY, 2).unwrap();
    let foreign = reserve_one(&mut store, B);
    for extents in [[mine[0], foreign], [foreign, mine[0]]] {
        assert_eq!(store.release(A, extents.into_iter()), Err(Status::NotOwner));
    }
    assert_eq!(store.release(A, [mine[0], mine[1], mine[0]].into_iter()), Err(Status::StaleExtent));
    assert_eq!(store.quota().reserved(), 3);
    store.release(A, mine.iter().copied()).unwrap();
    assert_eq!(store.quota().reserved(), 1);
}

/// Lesson 15: a block that was freed and given to another client meanwhile is not reclaimed with its former owner.
#[test]
fn reclaim_spares_what_another_client_was_given_since() {
    let mut store = Store::new(2, 1);
    let a = store.reserve(Owner::Client(A), AccountId::NOBODY, 2).unwrap();
    store.release(A, [a[0]].into_iter()).unwrap();
    let b = reserve_one(&mut store, B);
    assert_eq!(b.index, a[0].index, "the place is reused, or the test shows nothing");
    store.write(B, page(b, 0), PageContent::Data(&data(7))).unwrap();
    assert_eq!(store.reclaim(A), 1);
    assert_eq!(store.reclaim(A), 0);
    assert_eq!(first_byte(&store, B, page(b, 0)), Ok(Some(7)));
    assert_eq!(store.quota().reserved(), 1);
    // The dead client's late write names a place that is B's now.
    assert_eq!(store.write(A, page(a[0], 0), PageContent::Zeros), Err(Status::StaleExtent));
    assert_eq!(store.write(A, page(b, 0), PageContent::Zeros), Err(Status::NotOwner));
    assert_eq!(first_byte(&store, B, page(b, 0)), Ok(Some(7)));
}

#[test]
fn a_new_owner_reads_zeros() {
    let mut store = Store::new(1, 1);
    let extent = reserve_one(&mut store, A);
    for i in 0..EXTENT_PAGES as u32 {
        store.write(A, page(extent, i), PageContent::Data(&data(1))).unwrap();
    }
    store.release(A, [extent].into_iter()).unwrap();
    let extent = reserve_one(&mut store, B);
    for i in 0..EXTENT_PAGES as u32 {
        assert_eq!(first_byte(&store, B, page(extent, i)), Ok(None));
    }
}

/// Other tests run in this process: the extents are so many that those make no difference.
#[test]
fn memory_is_taken_by_data_alone_and_returns_to_the_kernel() {
    const EXTENTS: u64 = 192;
    const BYTES: usize = EXTENTS as usize * EXTENT_BYTES;
    let mut store = Store::new(EXTENTS, 1);
    let before = resident_bytes();
    let extents = store.reserve(Owner::Client(A), AccountId::NOBODY, EXTENTS).unwrap();
    for &extent in &extents {
        store.write(A, page(extent, 9), PageContent::Zeros).unwrap();
        assert_eq!(first_byte(&store, A, page(extent, 8)), Ok(None));
    }
    let reserved = resident_bytes();
    assert!(reserved < before + BYTES / 4, "absent pages took {} bytes", reserved.abs_diff(before));
    let fill = |store: &mut Store, extents: &[ExtentRef]| {
        for &extent in extents {
            for i in 0..EXTENT_PAGES as u32 {
                store.write(A, page(extent, i), PageContent::Data(&data(1))).unwrap();
            }
        }
    };
    fill(&mut store, &extents);
    let full = resident_bytes();
    assert!(full > before + BYTES * 3 / 4 && full < before + BYTES * 5 / 4, "{} bytes stored", full - before);
    for &extent in &extents[..EXTENTS as usize / 2] {
        for i in 0..EXTENT_PAGES as u32 {
            store.write(A, page(extent, i), PageContent::Zeros).unwrap();
        }
    }
    let half = resident_bytes();
    assert!(half < before + BYTES * 3 / 4, "zeros gave {} bytes back", full - half);
    store.release(A, extents.iter().copied()).unwrap();
    while store.tidy(1) {}
    let empty = resident_bytes();
    assert!(empty < before + BYTES / 4, "{} bytes remain", empty.abs_diff(before));

    // Freed extents that were not tidied up count against the capacity.
    let extents = store.reserve(Owner::Client(A), AccountId::NOBODY, EXTENTS).unwrap();
    fill(&mut store, &extents);
    store.release(A, extents.iter().copied()).unwrap();
    let extents = store.reserve(Owner::Client(A), AccountId::NOBODY, EXTENTS).unwrap();
    fill(&mut store, &extents);
    assert!(resident_bytes() < before + BYTES * 5 / 4, "more than the capacity is in use");
}

#[derive(Clone, Debug)]
enum Operation {
    Reserve { client: u8, count: u64 },
    Release { client: u8, extent: usize },
    Write { client: u8, extent: usize, page: u32, fill: Option<u8> },
    Read { client: u8, extent: usize, page: u32 },
    Open { name: u8, extents: u64, create: bool },
    FreeName { name: u8 },
    Reclaim { client: u8 },
    Tidy,
}

fn operation() -> impl Strategy<Value = Operation> {
    let client = 0..3u8;
    let extent = 0..24usize;
    // Few pages, so that reads meet writes, and one outside.
    let page = prop_oneof![0..3u32, Just(255), Just(256)];
    prop_oneof![
        2 => (client.clone(), 0..4u64).prop_map(|(client, count)| Operation::Reserve { client, count }),
        2 => (client.clone(), extent.clone()).prop_map(|(client, extent)| Operation::Release { client, extent }),
        8 => (client.clone(), extent.clone(), page.clone(), any::<Option<u8>>())
            .prop_map(|(client, extent, page, fill)| Operation::Write { client, extent, page, fill }),
        8 => (client.clone(), extent, page).prop_map(|(client, extent, page)| Operation::Read { client, extent, page }),
        2 => (0..3u8, 1..4u64, any::<bool>())
            .prop_map(|(name, extents, create)| Operation::Open { name, extents, create }),
        1 => (0..3u8).prop_map(|name| Operation::FreeName { name }),
        1 => client.prop_map(|client| Operation::Reclaim { client }),
        1 => Just(Operation::Tidy),
    ]
}

/// What the store should be: which extents there are with their owners and pages, and the names.
#[derive(Default)]
struct Model {
    extents: HashMap<ExtentRef, (Owner, HashMap<u32, u8>)>,
    names: HashMap<NameHash, (u64, Vec<ExtentRef>)>,
}

impl Model {
    fn access(&self, client: Incarnation, page: PageRef) -> Result<(), ()> {
        match self.extents.get(&page.extent) {
            Some((owner, _)) if owner.admits(client) && page.page < 256 => Ok(()),
            _ => Err(()),
        }
    }

    fn fits(&self, count: u64) -> bool {
        self.extents.len() as u64 + count <= CAPACITY
    }

    fn insert(&mut self, owner: Owner, extents: &[ExtentRef]) {
        for &extent in extents {
            let old = self.extents.insert(extent, (owner, HashMap::new()));
            assert!(old.is_none(), "{extent:?} was given out twice");
        }
    }

    fn used_pages(&self) -> u64 {
        self.extents.values().map(|(_, pages)| pages.len() as u64).sum()
    }
}

/// Runs one operation on both. `known` are all names of extents that were ever given out, stale ones included.
fn step(store: &mut Store, model: &mut Model, known: &mut Vec<ExtentRef>, operation: Operation) {
    let name_of = |known: &[ExtentRef], i: usize| known.get(i % known.len().max(1)).copied().unwrap_or_default();
    let incarnation = |client: u8| Incarnation(u128::from(client));
    match operation {
        Operation::Reserve { client, count } => {
            let owner = Owner::Client(incarnation(client));
            let fits = model.fits(count);
            let reserved = store.reserve(owner, AccountId::NOBODY, count);
            assert_eq!(reserved.is_ok(), fits);
            if let Ok(extents) = reserved {
                assert_eq!(extents.len() as u64, count);
                model.insert(owner, &extents);
                known.extend(extents);
            }
        }
        Operation::Release { client, extent } => {
            let (client, extent) = (incarnation(client), name_of(known, extent));
            let mine = model.extents.get(&extent).is_some_and(|(owner, _)| *owner == Owner::Client(client));
            assert_eq!(store.release(client, [extent].into_iter()).is_ok(), mine);
            if mine {
                model.extents.remove(&extent);
            }
        }
        Operation::Write { client, extent, page: number, fill } => {
            let (client, page) = (incarnation(client), page(name_of(known, extent), number));
            let bytes = fill.map(data);
            let content = bytes.as_ref().map_or(PageContent::Zeros, PageContent::Data);
            let written = store.write(client, page, content);
            assert_eq!(written.is_ok(), model.access(client, page).is_ok());
            if written.is_ok() {
                let pages = &mut model.extents.get_mut(&page.extent).unwrap().1;
                match fill {
                    Some(fill) => drop(pages.insert(number, fill)),
                    None => drop(pages.remove(&number)),
                }
            }
        }
        Operation::Read { client, extent, page: number } => {
            let (client, page) = (incarnation(client), page(name_of(known, extent), number));
            match store.read(client, page) {
                Err(_) => assert!(model.access(client, page).is_err()),
                Ok(content) => {
                    assert!(model.access(client, page).is_ok());
                    let bytes = model.extents[&page.extent].1.get(&number).map(|&fill| data(fill));
                    assert_eq!(content.map(|page| *page), bytes);
                }
            }
        }
        Operation::Open { name, extents, create } => {
            let (hash, size) = ([name; 32], extents * EXTENT_BYTES as u64 - 1);
            let fits = model.fits(extents);
            match (store.open_name(AccountId::NOBODY, hash, create.then_some(size)), model.names.get(&hash)) {
                (Ok((object, true)), Some((existing, extents))) => {
                    assert!(!create || *existing == size);
                    assert_eq!((object.size_bytes, &object.extents), (*existing, extents));
                }
                (Ok((object, false)), None) => {
                    assert!(create && fits);
                    let extents = object.extents.clone();
                    model.insert(Owner::Named, &extents);
                    known.extend(&extents);
                    model.names.insert(hash, (size, extents));
                }
                (Err(OpenNameError::SizeDiffers { existing_bytes }), Some((existing, _))) => {
                    assert!(create && existing_bytes == *existing && size != *existing);
                }
                (Err(OpenNameError::Refused(Status::NoSuchName)), None) => assert!(!create),
                (Err(OpenNameError::Refused(Status::Full)), None) => assert!(create && !fits),
                (answer, _) => panic!("{answer:?}"),
            }
        }
        Operation::FreeName { name } => {
            let existing = model.names.remove(&[name; 32]);
            assert_eq!(store.free_name(&[name; 32]).is_ok(), existing.is_some());
            for extent in existing.iter().flat_map(|(_, extents)| extents) {
                model.extents.remove(extent);
            }
        }
        Operation::Reclaim { client } => {
            let gone = Owner::Client(incarnation(client));
            let before = model.extents.len();
            model.extents.retain(|_, (owner, _)| *owner != gone);
            assert_eq!(store.reclaim(incarnation(client)), before - model.extents.len());
        }
        Operation::Tidy => drop(store.tidy(1)),
    }
}

proptest! {
    #[test]
    fn behaves_as_a_simple_model(operations in vec(operation(), 1..200), first_generation in 1..u32::MAX - 200) {
        let mut store = Store::new(CAPACITY, first_generation);
        let (mut model, mut known) = (Model::default(), Vec::new());
        for operation in operations {
            step(&mut store, &mut model, &mut known, operation);
            assert_eq!(store.quota().reserved(), model.extents.len() as u64);
            assert_eq!(store.accounts().quota(AccountId::NOBODY).reserved(), model.extents.len() as u64);
            assert_eq!(store.used_pages(), model.used_pages());
            assert!(store.freed.len() as u64 + store.quota().reserved() <= CAPACITY);
        }
    }
}
