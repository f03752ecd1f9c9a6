use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    wire::message::{
        ExtentRef, OPEN_NAME_REQUEST_BYTES, OpenName, PageKind, RESERVE_REQUEST_BYTES, WRITE_HEAD_MAX_BYTES,
        decode_reserve_response, encode_reserve, encode_write_head,
    },
};

use super::*;
use crate::{account::AccountId, group::image::PlaceState};

const CLIENT: u128 = 7;

/// A state, and the slot of its last entry.
struct Fixture {
    state: State,
    slot: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { state: State::new(Accounts::default()), slot: 0 }
    }

    fn apply(&mut self, operation: &Operation) -> Option<Vec<u8>> {
        self.slot += 1;
        self.state.apply(self.slot, operation)
    }

    fn run(&mut self, client: u128, (sequence, settled): (u64, u64), request: &[u8]) -> Vec<u8> {
        self.apply(&Operation::Run(Box::new(command(client, (sequence, settled), request)))).unwrap()
    }

    fn reserve(&mut self, client: u128, sequence: u64) -> ExtentRef {
        let answer = self.run(client, (sequence, sequence - 1), &reserve(1));
        decode_reserve_response(&answer, 1).unwrap().iter().next().unwrap()
    }

    fn read(&self, client: u128, page: PageRef) -> Result<Option<Vec<u8>>, Status> {
        self.state.store().read(Incarnation(client), page).map(|page| page.map(|page| page.to_vec()))
    }

    /// All pages written after a slot.
    fn pages_since(&self, since: u64) -> Vec<PageImage> {
        let mut pages = Vec::new();
        self.state.store().pages_since(since, &mut (0, 0), usize::MAX, &mut |page| pages.push(page));
        pages
    }
}

fn command(client: u128, (sequence, settled): (u64, u64), request: &[u8]) -> Run {
    Run {
        client,
        account: AccountId::NOBODY,
        sequence,
        settled,
        capacity: 4,
        quota: 3,
        first_generation: 50,
        request: request.into(),
    }
}

fn reserve(count: usize) -> Vec<u8> {
    encode_reserve(count, &mut [0; RESERVE_REQUEST_BYTES]).to_vec()
}

fn write(page: PageRef, byte: u8) -> Vec<u8> {
    let mut buffer = [0; WRITE_HEAD_MAX_BYTES];
    let head = encode_write_head(&[(page, PageKind::Data)], &mut buffer);
    [head, &[byte; PAGE_BYTES]].concat()
}

fn status(answer: &[u8]) -> Status {
    Status::ALL.into_iter().find(|status| *status as u8 == answer[0]).unwrap()
}

fn page(extent: ExtentRef, page: u32) -> PageRef {
    PageRef { extent, page }
}

#[test]
fn a_command_is_run_once_and_answered_alike() {
    let mut fixture = Fixture::new();
    let first = fixture.run(CLIENT, (1, 0), &reserve(1));
    assert_eq!(fixture.run(CLIENT, (1, 0), &reserve(1)), first);
    assert_eq!(fixture.state.store().quota().reserved(), 1);
    // Another that was asked for later comes earlier; the first is in flight still, and may come again.
    let third = fixture.run(CLIENT, (3, 0), &reserve(1));
    assert_eq!(fixture.run(CLIENT, (1, 0), &reserve(1)), first);
    assert_eq!(fixture.run(CLIENT, (3, 0), &reserve(1)), third);
    assert_eq!(fixture.state.store().quota().reserved(), 2);
    // What the client has the answer of is not run when it comes late.
    fixture.run(CLIENT, (4, 3), &reserve(1));
    assert_eq!(status(&fixture.run(CLIENT, (1, 0), &reserve(1))), Status::Malformed);
    assert_eq!(status(&fixture.run(CLIENT, (2, 0), &reserve(1))), Status::Malformed);
    assert_eq!(fixture.state.store().quota().reserved(), 3);
}

#[test]
fn an_old_write_that_comes_late_changes_nothing() {
    let mut fixture = Fixture::new();
    let place = page(fixture.reserve(CLIENT, 1), 9);
    fixture.run(CLIENT, (2, 1), &write(place, 1));
    fixture.run(CLIENT, (3, 2), &write(place, 2));
    fixture.run(CLIENT, (2, 1), &write(place, 1));
    assert_eq!(fixture.read(CLIENT, place), Ok(Some(vec![2; PAGE_BYTES])));
}

#[test]
fn answers_that_the_client_has_are_forgotten() {
    let mut fixture = Fixture::new();
    let extent = fixture.reserve(CLIENT, 1);
    for sequence in 2..100 {
        fixture.run(CLIENT, (sequence, sequence - 1), &write(page(extent, 0), 1));
    }
    let image = fixture.state.directory();
    assert_eq!((image.clients[0].settled, image.clients[0].answers.len()), (98, 1));
}

#[test]
fn who_is_fenced_is_refused_for_ever_and_owns_nothing() {
    let mut fixture = Fixture::new();
    let place = page(fixture.reserve(CLIENT, 1), 0);
    let other = fixture.reserve(CLIENT + 1, 1);
    assert_eq!(fixture.apply(&Operation::Expire { client: CLIENT }), None);
    assert!(fixture.state.is_fenced(Incarnation(CLIENT)));
    assert_eq!((fixture.state.expired(), fixture.state.store().quota().reserved()), (1, 1));
    for (sequence, request) in [(1, reserve(1)), (2, write(place, 1)), (3, reserve(1))] {
        assert_eq!(status(&fixture.run(CLIENT, (sequence, sequence - 1), &request)), Status::Fenced);
    }
    let mut response = Response::default();
    let mut buffer = [0; rum_net::wire::message::READ_REQUEST_MAX_BYTES];
    let request = rum_net::wire::message::encode_read(&[place], &mut buffer);
    let Ok(Request::Read(pages)) = Request::decode(request) else { panic!("not a read") };
    assert_eq!(fixture.state.read(Incarnation(CLIENT), pages, &mut response), Err(Status::Fenced));
    // It is no client any more: that its lease runs out again means nothing.
    fixture.apply(&Operation::Expire { client: CLIENT });
    assert_eq!(fixture.state.expired(), 1);
    assert_eq!(fixture.read(CLIENT + 1, page(other, 0)), Ok(None));
}

#[test]
fn limits_are_those_of_the_entry() {
    let mut fixture = Fixture::new();
    // Three are in the account's quota, four in the group.
    assert_eq!(status(&fixture.run(CLIENT, (1, 0), &reserve(4))), Status::Full);
    assert_eq!(status(&fixture.run(CLIENT, (2, 1), &reserve(3))), Status::Ok);
    assert_eq!(status(&fixture.run(CLIENT, (3, 2), &reserve(1))), Status::Full);
    let more = |sequence, capacity| {
        Operation::Run(Box::new(Run { capacity, quota: 9, ..command(CLIENT, (sequence, sequence - 1), &reserve(2)) }))
    };
    assert_eq!(status(&fixture.apply(&more(4, 4)).unwrap()), Status::Full);
    assert_eq!(status(&fixture.apply(&more(5, 5)).unwrap()), Status::Ok);
    assert_eq!(fixture.state.store().quota().reserved(), 5);
}

/// A state with a client, a named object, a fenced client, and pages.
fn furnished() -> (Fixture, PageRef) {
    let mut fixture = Fixture::new();
    let place = page(fixture.reserve(CLIENT, 1), 3);
    fixture.reserve(CLIENT + 1, 1);
    let open = OpenName { hash: [1; 32], create_bytes: Some(EXTENT_BYTES as u64) };
    let opened = fixture.run(CLIENT, (2, 1), open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]));
    assert_eq!(status(&opened), Status::Ok);
    fixture.apply(&Operation::Expire { client: CLIENT + 1 });
    fixture.run(CLIENT, (3, 2), &write(place, 5));
    (fixture, place)
}

#[test]
fn a_state_travels_as_directory_and_pages() {
    let (from, place) = furnished();
    let mut to = Fixture::new();
    let bytes = postcard::to_stdvec(&from.state.directory()).unwrap();
    to.state.install_directory(postcard::from_bytes(&bytes).unwrap()).unwrap();
    assert!(to.state.is_torn());
    assert_eq!(to.read(CLIENT, place), Ok(None));
    from.pages_since(0).iter().for_each(|page| to.state.install_page(page));
    to.state.has_all_pages();
    to.slot = from.slot;
    assert!(!to.state.is_torn() && to.state.has(from.slot));
    assert_eq!(postcard::to_stdvec(&to.state.directory()).unwrap(), bytes);
    assert_eq!(to.read(CLIENT, place), Ok(Some(vec![5; PAGE_BYTES])));
    assert_eq!(to.state.store().used_pages(), 1);
    assert_eq!(to.state.store().quota().reserved(), 2);
    // It goes on as the other would: what was run is not run again, who is fenced is.
    assert_eq!(status(&to.run(CLIENT, (3, 2), &write(place, 6))), Status::Ok);
    assert_eq!(to.read(CLIENT, place), Ok(Some(vec![5; PAGE_BYTES])));
    assert_eq!(status(&to.run(CLIENT + 1, (2, 1), &reserve(1))), Status::Fenced);
}

#[test]
fn pages_that_are_here_already_are_not_replaced_by_older_ones() {
    let (mut fixture, place) = furnished();
    let old = fixture.pages_since(0);
    fixture.run(CLIENT, (4, 3), &write(place, 8));
    old.iter().for_each(|page| fixture.state.install_page(page));
    assert_eq!(fixture.read(CLIENT, place), Ok(Some(vec![8; PAGE_BYTES])));
    // Nor is a directory by an older one.
    let late = fixture.state.directory().as_of;
    fixture.state.install_directory(furnished().0.state.directory()).unwrap();
    assert_eq!((fixture.state.directory().as_of, fixture.state.is_torn()), (late, false));
}

#[test]
fn a_transfer_that_broke_off_is_undone_and_entries_are_applied_again() {
    let (mut leader, place) = furnished();
    let (mut follower, _) = furnished();
    let since = follower.slot;
    let mut entries = Vec::new();
    let mut both = |sequence, request: Vec<u8>| {
        let entry = || Operation::Run(Box::new(command(CLIENT, (sequence, sequence - 1), &request)));
        leader.apply(&entry());
        entries.push(entry());
    };
    both(4, write(place, 6));
    both(5, reserve(1));
    both(6, write(page(place.extent, 4), 7));
    // Of the pages one comes; then entries, by a log that has them.
    follower.state.install_directory(leader.state.directory()).unwrap();
    follower.state.install_page(&leader.pages_since(since)[0]);
    assert!(follower.state.is_torn() && follower.state.has(since + 1));
    follower.state.roll_back().unwrap();
    assert!(!follower.state.is_torn() && !follower.state.has(since + 1));
    let owned = |state: &State| {
        let places = state.directory().places;
        places.iter().filter(|place| matches!(place.state, PlaceState::Used { client: Some(_), .. })).count()
    };
    assert_eq!(owned(&follower.state), 1);
    for entry in &entries {
        follower.apply(entry);
    }
    assert_eq!(owned(&follower.state), 2);
    assert_eq!(follower.read(CLIENT, place), Ok(Some(vec![6; PAGE_BYTES])));
    assert_eq!(follower.read(CLIENT, page(place.extent, 4)), Ok(Some(vec![7; PAGE_BYTES])));
    let image = |state: &State| postcard::to_stdvec(&state.directory()).unwrap();
    assert_eq!(image(&follower.state), image(&leader.state));
}
