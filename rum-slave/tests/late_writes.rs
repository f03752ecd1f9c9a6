//! Lesson 15: a write that was held up on its way until what it is for had gone to another client does no harm, however its client came to
//! its end, and whether pages are replicated or not.

#[path = "support/members.rs"]
mod members;
#[path = "support/network.rs"]
mod network;
mod support;

use std::time::{Duration, Instant};

use members::{MemberClient, Members, status};
use network::Fate;
use rum_net::{
    PAGE_BYTES,
    wire::{
        header::Kind,
        message::{
            ExtentRef, Opcode, PageContent, PageKind, PageRef, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES,
            ReadResponse, Status, WRITE_HEAD_MAX_BYTES, decode_reserve_response, encode_bye, encode_read,
            encode_release, encode_reserve, encode_write_head, release_request_bytes,
        },
    },
};
use support::{DEADLINE, page, pattern};

const DEAD: u8 = 10;
const HEIR: u8 = 11;
/// All the room there is.
const EXTENTS: usize = 4;

/// How the owner loses what it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Nothing is heard of it for the length of its lease.
    Silence,
    /// It says good-bye.
    Bye,
    /// It frees its memory, and lives.
    Release,
}

fn write_of(pages: &[PageRef], bytes: &[u8; PAGE_BYTES]) -> Vec<u8> {
    let kinds: Vec<_> = pages.iter().map(|&page| (page, PageKind::Data)).collect();
    let mut message = encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
    pages.iter().for_each(|_| message.extend_from_slice(bytes));
    message
}

fn read(client: &mut MemberClient, page: PageRef) -> [u8; PAGE_BYTES] {
    let answer = client.settle(encode_read(&[page], &mut [0; READ_REQUEST_MAX_BYTES]));
    let read = ReadResponse::decode(&answer, 1).expect("it is the client's own");
    let content = read.iter().next().expect("one page");
    if let PageContent::Data(bytes) = content { *bytes } else { [0; PAGE_BYTES] }
}

/// Asks for all there is until it is given.
fn reserve(client: &mut MemberClient) -> Vec<ExtentRef> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = client.settle(encode_reserve(EXTENTS, &mut [0; RESERVE_REQUEST_BYTES]));
        match decode_reserve_response(&answer, EXTENTS) {
            Ok(extents) => return extents.iter().collect(),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// The write of a dead or living client arrives when its extents are another's.
fn a_late_write_does_no_harm(factor: usize, end: End) {
    println!("RF {factor}, {end:?}");
    let lease = Duration::from_secs(if end == End::Silence { 1 } else { 60 });
    // A slave that replicates divides its memory among three groups.
    let groups = if factor == 1 { 1 } else { 3 };
    let members = Members::start(factor, (EXTENTS * groups) as u64 * (1 << 20), lease);
    let (mut dead, mut heir) = (members.client(DEAD), members.client(HEIR));
    let extents = reserve(&mut dead);
    let pages: Vec<PageRef> = extents.iter().flat_map(|&extent| [page(extent, 0), page(extent, 1)]).collect();
    let late = write_of(&pages, &pattern(666));

    // All of the write's packets are held up the first time that they are sent, and lost when they are sent again.
    let mut others = 0;
    members.network.judge(move |seen| match (seen.from, seen.kind) {
        (DEAD, Kind::Request) if seen.opcodes.contains(&Opcode::Write) => {
            others = 1;
            Fate::Kept
        }
        // Fragments behind the first; and no other way is left to send it again.
        (DEAD, Kind::Request) if seen.opcodes.is_empty() && others < 4 => {
            others += 1;
            Fate::Kept
        }
        (DEAD, Kind::Request) if seen.opcodes.is_empty() => Fate::Lost,
        _ => Fate::Delivered,
    });
    let whole = dead.envelope(&late);
    let asked = dead.send(dead.leader, &whole);
    match end {
        End::Silence => {}
        End::Bye => assert_eq!(status(&dead.ask(encode_bye(&mut [0; 4]))), Status::Ok),
        End::Release => {
            let mut message = vec![0; release_request_bytes(extents.len())];
            assert_eq!(status(&dead.ask(encode_release(&extents, &mut message))), Status::Ok);
        }
    }
    let inherited = reserve(&mut heir);
    let places = |extents: &[ExtentRef]| {
        let mut places: Vec<u32> = extents.iter().map(|extent| extent.index).collect();
        places.sort_unstable();
        places
    };
    assert_eq!(places(&inherited), places(&extents), "they are the same places");
    for &extent in &inherited {
        assert_eq!(status(&heir.settle(&write_of(&[page(extent, 0)], &pattern(1)))), Status::Ok);
    }

    assert!(members.network.let_go() > 0, "nothing was held up");
    let harmless = [Status::Fenced, Status::StaleExtent, Status::NotOwner];
    let answer = match end {
        // Its session is over, so that nobody answers; it wakes up, and says it again.
        End::Silence => dead.ask(&late),
        End::Bye | End::Release => dead.answer(asked, Instant::now() + DEADLINE).expect("an answer"),
    };
    assert!(harmless.contains(&status(&answer)), "{:?}", status(&answer));
    for &extent in &inherited {
        assert!(read(&mut heir, page(extent, 0)) == pattern(1), "a late write came through");
        assert!(read(&mut heir, page(extent, 1)) == [0; PAGE_BYTES], "a late write came through");
    }
}

#[test]
fn a_late_write_does_no_harm_to_another_owner() {
    for end in [End::Silence, End::Bye, End::Release] {
        a_late_write_does_no_harm(1, end);
    }
}

#[test]
fn a_late_write_does_no_harm_to_another_owner_on_any_replica() {
    for end in [End::Silence, End::Bye, End::Release] {
        a_late_write_does_no_harm(3, end);
    }
}
