//! Requests as clients send them, and what comes of bad ones.

use proptest::{collection::vec, prelude::*};
use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    wire::message::{
        ExtentRef, FREE_NAME_REQUEST_BYTES, NAME_EXTENTS_REQUEST_BYTES, OPEN_NAME_REQUEST_BYTES, OpenNameRefusal,
        OpenedName, PageContent, PageKind, PageRef, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, ReadResponse,
        ResponseError, WRITE_HEAD_MAX_BYTES, decode_empty_response, decode_name_extents_response,
        decode_reserve_response, encode_bye, encode_free_name, encode_name_extents, encode_read, encode_release,
        encode_renew, encode_reserve, encode_stat, encode_write_head, release_request_bytes,
    },
};

use super::*;
use crate::account::Accounts;

const A: Incarnation = Incarnation(1);
const B: Incarnation = Incarnation(2);
const LEASE: Duration = Duration::from_secs(10);

/// A service of `capacity` extents and two clients.
fn service(capacity: u64) -> Service {
    let mut service = Service::new(Incarnation(99), LEASE, Store::new(capacity, 1));
    assert!(service.session_opened(A, None));
    assert!(service.session_opened(B, None));
    service
}

fn ask(service: &mut Service, client: Incarnation, message: &[u8]) -> Vec<u8> {
    let mut response = Response::default();
    service.answer(client, message, &mut response);
    response.to_vec()
}

fn reserve(service: &mut Service, client: Incarnation, count: usize) -> Result<Vec<ExtentRef>, ResponseError> {
    let response = ask(service, client, encode_reserve(count, &mut [0; RESERVE_REQUEST_BYTES]));
    decode_reserve_response(&response, count).map(|extents| extents.iter().collect())
}

fn release(service: &mut Service, client: Incarnation, extents: &[ExtentRef]) -> Result<(), ResponseError> {
    let mut buffer = vec![0; release_request_bytes(extents.len())];
    decode_empty_response(&ask(service, client, encode_release(extents, &mut buffer)))
}

fn page(extent: ExtentRef, page: u32) -> PageRef {
    PageRef { extent, page }
}

/// Writes pages, `None` for zeros, else filled with the byte.
fn write(service: &mut Service, client: Incarnation, pages: &[(PageRef, Option<u8>)]) -> Result<(), ResponseError> {
    let kinds: Vec<_> = pages
        .iter()
        .map(|(page, fill)| (*page, if fill.is_some() { PageKind::Data } else { PageKind::Zeros }))
        .collect();
    let mut message = encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
    for fill in pages.iter().filter_map(|(_, fill)| *fill) {
        message.extend_from_slice(&[fill; PAGE_BYTES]);
    }
    decode_empty_response(&ask(service, client, &message))
}

fn read(service: &mut Service, client: Incarnation, pages: &[PageRef]) -> Result<Vec<Option<u8>>, ResponseError> {
    let response = ask(service, client, encode_read(pages, &mut [0; READ_REQUEST_MAX_BYTES]));
    let fill = |content| match content {
        PageContent::Zeros => None,
        PageContent::Data(bytes) => {
            assert!(bytes.iter().all(|&byte| byte == bytes[0]), "a page of two writes");
            Some(bytes[0])
        }
    };
    ReadResponse::decode(&response, pages.len()).map(|read| read.iter().map(fill).collect())
}

fn bye(service: &mut Service, client: Incarnation) -> Result<(), ResponseError> {
    decode_empty_response(&ask(service, client, encode_bye(&mut [0; 4])))
}

fn refused<T>(status: Status) -> Result<T, ResponseError> {
    Err(ResponseError::Refused(status))
}

#[test]
fn pages_are_read_as_they_were_written() {
    let mut service = service(4);
    let extents = reserve(&mut service, A, 2).unwrap();
    let pages = [page(extents[0], 0), page(extents[1], 255), page(extents[0], 7)];
    assert_eq!(read(&mut service, A, &pages), Ok(vec![None, None, None]));
    write(&mut service, A, &[(pages[0], Some(1)), (pages[1], None), (pages[2], Some(3))]).unwrap();
    assert_eq!(read(&mut service, A, &pages), Ok(vec![Some(1), None, Some(3)]));
    write(&mut service, A, &[(pages[1], Some(9)), (pages[0], None)]).unwrap();
    assert_eq!(read(&mut service, A, &pages), Ok(vec![None, Some(9), Some(3)]));
    assert_eq!(service.totals().refused(), 0);
    assert_eq!((service.totals().pages_read, service.totals().pages_written), (9, 5));
}

#[test]
fn a_full_slave_says_so() {
    let mut service = service(4);
    assert_eq!(reserve(&mut service, A, 5), refused(Status::Full));
    let extents = reserve(&mut service, A, 4).unwrap();
    assert_eq!(reserve(&mut service, B, 1), refused(Status::Full));
    release(&mut service, A, &extents[..1]).unwrap();
    reserve(&mut service, B, 1).unwrap();
    assert_eq!(service.totals().answered[Status::Full as usize], 2);
}

#[test]
fn stat_counts() {
    let mut service = service(4);
    let extent = reserve(&mut service, A, 3).unwrap()[0];
    write(&mut service, A, &[(page(extent, 0), Some(1)), (page(extent, 1), None)]).unwrap();
    let stat = Stat::decode_response(&ask(&mut service, B, encode_stat(&mut [0; 4]))).unwrap();
    let expected = Stat {
        incarnation: Incarnation(99),
        capacity_extents: 4,
        reserved_extents: 3,
        used_pages: 1,
        sessions: 2,
        lease: LEASE,
    };
    assert_eq!(stat, expected);
}

/// Lesson 11: a batch with one bad page is refused as a whole and changes nothing.
#[test]
fn one_bad_page_refuses_the_batch() {
    let mut service = service(4);
    let mine = reserve(&mut service, A, 2).unwrap();
    let foreign = reserve(&mut service, B, 1).unwrap()[0];
    release(&mut service, A, &mine[1..]).unwrap();
    let good = page(mine[0], 0);
    write(&mut service, A, &[(good, Some(1))]).unwrap();
    let bad = [
        (page(foreign, 0), Status::NotOwner),
        (page(mine[1], 0), Status::StaleExtent),
        (page(mine[0], 256), Status::OutOfRange),
        (page(ExtentRef { index: 1 << 31, generation: 1 }, 0), Status::OutOfRange),
    ];
    for (i, (bad, status)) in bad.into_iter().enumerate() {
        assert_eq!(write(&mut service, A, &[(good, Some(2)), (bad, Some(2))]), refused(status));
        assert_eq!(write(&mut service, A, &[(bad, Some(2)), (good, None)]), refused(status));
        assert_eq!(read(&mut service, A, &[good, bad]), refused(status));
        assert_eq!(read(&mut service, A, &[good]), Ok(vec![Some(1)]));
        assert_eq!(service.totals().refused(), 3 * (i as u64 + 1), "counted");
    }
    assert_eq!(read(&mut service, B, &[page(foreign, 0)]), Ok(vec![None]));
}

#[test]
fn malformed_messages_are_refused_and_counted() {
    let mut service = service(4);
    let bad: [&[u8]; 6] = [&[], &[1], &[1, 0, 0, 1], &[2, 0, 0, 0, 0, 0, 0, 0], &[9, 0, 0, 0, 0], &[5; 500]];
    for (i, message) in bad.into_iter().enumerate() {
        let response = ask(&mut service, A, message);
        assert_eq!(decode_empty_response(&response), refused(Status::Malformed), "{message:?}");
        assert_eq!(service.totals().answered[Status::Malformed as usize], i as u64 + 1);
    }
    assert_eq!(decode_empty_response(&ask(&mut service, A, &[77, 0, 0, 0])), refused(Status::Unsupported));
    assert_eq!(service.store().quota().reserved(), 0);
}

/// Lesson 12: the sizes of a named object cannot disagree, and a look-up that misses is an answer.
#[test]
fn named_objects() {
    let mut service = service(8);
    let open = |service: &mut Service, client, hash: u8, create_bytes| {
        let hash = [hash; 32];
        let response = ask(service, client, OpenName { hash, create_bytes }.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]));
        OpenedName::decode_response(&response)
            .map(|opened| (opened.size_bytes, opened.existed, opened.extents.iter().collect::<Vec<_>>()))
    };
    let missing = OpenNameRefusal::Response(ResponseError::Refused(Status::NoSuchName));
    assert_eq!(open(&mut service, A, 1, None), Err(missing));
    let size = 2 * EXTENT_BYTES as u64 + 1;
    let (_, existed, extents) = open(&mut service, A, 1, Some(size)).unwrap();
    assert_eq!((existed, extents.len()), (false, 3));
    write(&mut service, A, &[(page(extents[2], 0), Some(5))]).unwrap();
    assert_eq!(open(&mut service, B, 1, None), Ok((size, true, extents.clone())));
    assert_eq!(open(&mut service, B, 1, Some(size)), Ok((size, true, extents.clone())));
    let differs = OpenNameRefusal::SizeDiffers { existing_bytes: size };
    assert_eq!(open(&mut service, B, 1, Some(size + 1)), Err(differs));
    assert_eq!(service.totals().answered[Status::SizeDiffers as usize], 1);
    for from in [0, 2, 3, u32::MAX] {
        let request = encode_name_extents(&[1; 32], from, &mut [0; NAME_EXTENTS_REQUEST_BYTES]).to_vec();
        let response = ask(&mut service, B, &request);
        let rest: Vec<_> = decode_name_extents_response(&response).unwrap().iter().collect();
        assert_eq!(rest, extents[extents.len().min(from as usize)..]);
    }
    bye(&mut service, A).unwrap();
    assert_eq!(read(&mut service, B, &[page(extents[2], 0)]), Ok(vec![Some(5)]), "it outlives its client");
    assert_eq!(release(&mut service, B, &extents), refused(Status::NotOwner));
    let free = encode_free_name(&[1; 32], &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec();
    assert_eq!(decode_empty_response(&ask(&mut service, B, &free)), Ok(()));
    assert_eq!(decode_empty_response(&ask(&mut service, B, &free)), refused(Status::NoSuchName));
    assert_eq!(read(&mut service, B, &[page(extents[2], 0)]), refused(Status::StaleExtent));
    assert_eq!(service.store().quota().reserved(), 0);
}

/// Lessons 14 and 15: a client is its incarnation. Its end frees what it owns then, and nothing it does later counts.
#[test]
fn a_dead_client_is_fenced_and_harms_nobody() {
    let mut service = service(2);
    let a = reserve(&mut service, A, 2).unwrap();
    release(&mut service, A, &a[..1]).unwrap();
    let b = reserve(&mut service, B, 1).unwrap()[0];
    assert_eq!(b.index, a[0].index, "the place is reused, or the test shows nothing");
    write(&mut service, B, &[(page(b, 0), Some(7))]).unwrap();

    service.session_closed(A);
    service.settle();
    assert_eq!((service.totals().leases_expired, service.totals().extents_reclaimed), (1, 1));
    assert_eq!(read(&mut service, B, &[page(b, 0)]), Ok(vec![Some(7)]));
    let b2 = reserve(&mut service, B, 1).unwrap()[0];
    assert_eq!(b2.index, a[1].index, "the place is reused, or the test shows nothing");

    // The dead client comes back by a new session of the old incarnation.
    assert!(service.session_opened(A, None));
    for late in [page(a[0], 0), page(a[1], 0), page(b, 0), page(b2, 0)] {
        assert_eq!(write(&mut service, A, &[(late, Some(1))]), refused(Status::Fenced));
        assert_eq!(read(&mut service, A, &[late]), refused(Status::Fenced));
    }
    assert_eq!(reserve(&mut service, A, 1), refused(Status::Fenced));
    assert_eq!(decode_empty_response(&ask(&mut service, A, encode_renew(&mut [0; 4]))), refused(Status::Fenced));
    assert_eq!(read(&mut service, B, &[page(b, 0), page(b2, 0)]), Ok(vec![Some(7), None]));
    service.session_closed(A);
    service.settle();
    assert_eq!(service.store().quota().reserved(), 2);
}

#[test]
fn bye_frees_at_once_and_its_session_may_end_later() {
    let mut service = service(2);
    reserve(&mut service, A, 2).unwrap();
    bye(&mut service, A).unwrap();
    let b = reserve(&mut service, B, 2).unwrap();
    service.session_closed(A);
    service.settle();
    write(&mut service, B, &[(page(b[0], 0), Some(1)), (page(b[1], 0), Some(2))]).unwrap();
    assert_eq!(bye(&mut service, A), refused(Status::Fenced));
    assert_eq!(service.totals().leases_expired, 0, "it said bye");
}

#[test]
fn two_sessions_of_a_client_are_one_lease() {
    let mut service = service(2);
    let extent = reserve(&mut service, A, 1).unwrap()[0];
    assert!(service.session_opened(A, None));
    service.session_closed(A);
    service.settle();
    write(&mut service, A, &[(page(extent, 0), Some(1))]).unwrap();
    service.session_closed(A);
    assert!(service.session_opened(A, None));
    service.settle();
    assert_eq!(read(&mut service, A, &[page(extent, 0)]), Ok(vec![Some(1)]));
    assert_eq!(service.totals().clients, 2);
}

#[test]
fn who_never_opened_a_session_is_not_served() {
    let mut service = service(2);
    assert_eq!(reserve(&mut service, Incarnation(3), 1), refused(Status::Fenced));
}

proptest! {
    /// No message makes the service panic, answer nothing, or give out more than it has.
    #[test]
    fn garbage_is_answered(messages in vec(vec(0..12u8, 0..120), 1..40), raw in vec(any::<u8>(), 0..200)) {
        let mut service = service(4);
        for message in messages.into_iter().chain([raw]) {
            prop_assert!(ask(&mut service, A, &message).len() >= 8);
            prop_assert!(service.store().quota().reserved() <= 4);
        }
    }
}

/// A service of `capacity` extents, with the client `small`, which may have 3, and `large`, which may have all.
fn service_with_names(capacity: u64) -> Service {
    let mut accounts = Accounts::default();
    accounts.add("small", 3);
    accounts.add("large", u64::MAX);
    Service::new(Incarnation(99), LEASE, Store::new(capacity, 1).with_accounts(accounts))
}

/// Creates or opens a named object.
fn open_name(service: &mut Service, client: Incarnation, name: u8, extents: u64) -> Result<(), ResponseError> {
    let open = OpenName { hash: [name; 32], create_bytes: Some(extents * EXTENT_BYTES as u64) };
    let response = ask(service, client, open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]));
    OpenedName::decode_response(&response).map(drop).map_err(|refusal| match refusal {
        OpenNameRefusal::Response(error) => error,
        OpenNameRefusal::SizeDiffers { .. } => panic!("{refusal}"),
    })
}

fn held(service: &Service, name: &str) -> u64 {
    let accounts = service.store().accounts();
    accounts.quota(accounts.find(Some(name)).unwrap()).reserved()
}

#[test]
fn a_quota_counts_all_processes_of_a_name_and_what_they_left() {
    let mut service = service_with_names(8);
    assert!(service.session_opened(A, Some("small")) && service.session_opened(B, Some("small")));
    let other = Incarnation(3);
    assert!(service.session_opened(other, Some("large")));
    let extents = reserve(&mut service, A, 1).unwrap();
    open_name(&mut service, B, 1, 1).unwrap();
    assert_eq!(reserve(&mut service, B, 2), refused(Status::Full));
    assert_eq!(open_name(&mut service, A, 2, 2), refused(Status::Full));
    assert_eq!((held(&service, "small"), service.totals().over_quota), (2, 2));
    reserve(&mut service, B, 1).unwrap();
    assert_eq!(reserve(&mut service, A, 1), refused(Status::Full));

    // What is there already costs nothing, and others have their own.
    open_name(&mut service, A, 1, 1).unwrap();
    reserve(&mut service, other, 4).unwrap();
    open_name(&mut service, other, 3, 1).unwrap();
    assert_eq!(service.store().quota().reserved(), 8);
    assert_eq!(reserve(&mut service, other, 1), refused(Status::Full), "the slave is full");
    assert_eq!((held(&service, "large"), service.totals().over_quota), (5, 3), "and no quota stood against it");

    // Freed by the client, by the end of its lease, and by anybody.
    release(&mut service, A, &extents).unwrap();
    assert_eq!(held(&service, "small"), 2);
    service.session_closed(B);
    service.settle();
    assert_eq!(held(&service, "small"), 1, "the named object outlives its client");
    let free = encode_free_name(&[1; 32], &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec();
    decode_empty_response(&ask(&mut service, other, &free)).unwrap();
    assert_eq!((held(&service, "small"), held(&service, "large")), (0, 5));
    reserve(&mut service, A, 3).unwrap();
}

#[test]
fn an_incarnation_is_of_one_name_only() {
    let mut service = service_with_names(8);
    assert!(service.session_opened(A, Some("small")));
    let extent = reserve(&mut service, A, 1).unwrap()[0];
    write(&mut service, A, &[(page(extent, 0), Some(5))]).unwrap();
    for name in [Some("large"), Some("nobody"), None] {
        assert!(!service.session_opened(A, name), "{name:?}");
    }
    assert_eq!((service.stat().sessions, service.totals().sessions_refused), (1, 3));
    assert!(!service.session_opened(B, Some("nobody")), "a name without an account");
    assert_eq!(read(&mut service, A, &[page(extent, 0)]), Ok(vec![Some(5)]));
    bye(&mut service, A).unwrap();
    assert!(!service.session_opened(A, Some("large")), "fenced, too");
    assert!(service.session_opened(A, Some("small")), "so that it is told that it is fenced");
    assert_eq!(reserve(&mut service, A, 1), refused(Status::Fenced));
    assert!(service.totals().to_string().ends_with(", 0 over quota, 5 sessions refused"), "{}", service.totals());
}
