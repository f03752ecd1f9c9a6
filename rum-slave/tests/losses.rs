//! One packet is lost, and no other: of each kind in turn, and of each message's first packet, asked and answered, by clients and by slaves
//! among each other. Everything that is asked gets the answer that it would have had.
//!
//! (What members of a group say is lost message by message in `group_simulation/losses.rs`.)

#[path = "support/members.rs"]
mod members;
#[path = "support/network.rs"]
mod network;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use members::{MemberClient, Members, status};
use network::{Fate, Host, Seen};
use rum_net::{
    PAGE_BYTES,
    fabric::PeerIndex,
    wire::{
        header::Kind,
        message::{
            ExtentRef, FREE_NAME_REQUEST_BYTES, NAME_EXTENTS_REQUEST_BYTES, NAMES_REQUEST_BYTES,
            OPEN_NAME_REQUEST_BYTES, Opcode, OpenName, OpenedName, PageContent, PageKind, READ_REQUEST_MAX_BYTES,
            RESERVE_REQUEST_BYTES, ReadResponse, Stat, Status, WRITE_HEAD_MAX_BYTES, decode_describe_response,
            decode_empty_response, decode_name_extents_response, decode_names_response, decode_reserve_response,
            encode_bye, encode_describe, encode_free_name, encode_name_extents, encode_names, encode_read,
            encode_release, encode_renew, encode_reserve, encode_stat, encode_write_head, release_request_bytes,
        },
    },
};
use support::{DEADLINE, page, pattern, wait_for};

const SLAVES: Host = 3;
const PAGES: u32 = 32;

/// A client of the first slave's group asks for everything that there is to ask, and leaves.
fn ask_everything(client: &mut MemberClient, number: u8) {
    let slave = PeerIndex(client.leader);
    let stat = Stat::decode_response(&client.settle(encode_stat(&mut [0; 4]))).expect("stat");
    assert_eq!(stat.reserved_extents, 0, "others have left");
    let answer = client.settle(encode_reserve(2, &mut [0; RESERVE_REQUEST_BYTES]));
    let extents: Vec<ExtentRef> = decode_reserve_response(&answer, 2).expect("room").iter().collect();

    let seed = |at: u32| u64::from(number) << 32 | u64::from(at);
    let pages: Vec<_> = (0..PAGES).map(|at| page(extents[at as usize % 2], at)).collect();
    let kinds: Vec<_> = pages.iter().map(|&page| (page, PageKind::Data)).collect();
    let mut write = encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
    (0..PAGES).for_each(|at| write.extend_from_slice(&pattern(seed(at))));
    decode_empty_response(&client.settle(&write)).expect("written");
    let answer = client.settle(encode_read(&pages, &mut [0; READ_REQUEST_MAX_BYTES]));
    let read = ReadResponse::decode(&answer, pages.len()).expect("read");
    for (at, content) in (0..).zip(read.iter()) {
        assert!(matches!(content, PageContent::Data(bytes) if *bytes == pattern(seed(at))), "page {at}");
    }

    let hash = [number; 32];
    let open = OpenName { hash, create_bytes: Some(PAGE_BYTES as u64) };
    let answer = client.settle(open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]));
    let opened = OpenedName::decode_response(&answer).expect("room");
    assert!(!opened.existed && opened.extents.iter().count() == 1, "it was created, once");
    let answer = client.settle(encode_name_extents(&hash, 0, &mut [0; NAME_EXTENTS_REQUEST_BYTES]));
    let named = decode_name_extents_response(&answer).expect("it is there");
    assert!(named.iter().eq(opened.extents.iter()));
    let answer = client.settle(encode_names(None, &mut [0; NAMES_REQUEST_BYTES]));
    assert_eq!(decode_names_response(&answer).expect("names"), [(hash, PAGE_BYTES as u64)]);
    let free = |client: &mut MemberClient| client.settle(encode_free_name(&hash, &mut [0; FREE_NAME_REQUEST_BYTES]));
    assert_eq!(status(&free(client)), Status::Ok);
    assert_eq!(status(&free(client)), Status::NoSuchName, "it is free");

    let answer = client.settle(encode_release(&extents[..1], &mut [0; release_request_bytes(1)]));
    decode_empty_response(&answer).expect("released");
    decode_empty_response(&client.settle(encode_renew(&mut [0; 4]))).expect("it lives");
    let answer = client.settle(encode_describe(&mut [0; 4]));
    assert!(decode_describe_response(&answer).expect("it says so").starts_with(b"{"));
    keep_alive(client, slave);
    decode_empty_response(&client.settle(encode_bye(&mut [0; 4]))).expect("it leaves");
    leave(client);
}

/// Says that it lives until it is heard.
fn keep_alive(client: &mut MemberClient, slave: PeerIndex) {
    let before = Instant::now();
    wait_for("the answer to a sign of life", || {
        client.fabric.session_mut(slave).keep_alive(Instant::now());
        client.poll();
        client.fabric.session(slave).last_heard() > Some(before)
    });
}

fn leave(client: &mut MemberClient) {
    for slave in 0..usize::from(SLAVES) {
        client.fabric.session_mut(PeerIndex(slave)).close(Instant::now());
    }
    wait_for("the ends of all sessions", || {
        client.poll();
        (0..usize::from(SLAVES)).all(|slave| client.fabric.session(PeerIndex(slave)).is_closed())
    });
}

/// From now on the packet of this number that `is_it` is lost. Returns how many such packets were seen.
fn lose(members: &Members, number: u32, is_it: impl Fn(&Seen) -> bool + Send + 'static) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let seen_count = count.clone();
    members.network.judge(move |seen| {
        let is_victim = is_it(seen) && seen_count.fetch_add(1, Ordering::Relaxed) + 1 == number;
        if is_victim { Fate::Lost } else { Fate::Delivered }
    });
    count
}

/// Whether a client of the group says this, or slaves.
fn is_said(opcode: Opcode, is_replicated: bool) -> bool {
    match opcode {
        Opcode::Stat | Opcode::Reserve | Opcode::Release | Opcode::Read | Opcode::Write => true,
        Opcode::OpenName | Opcode::NameExtents | Opcode::FreeName | Opcode::Renew | Opcode::Bye => true,
        Opcode::Describe | Opcode::Names => true,
        Opcode::Command | Opcode::Ask | Opcode::Peer => is_replicated,
    }
}

fn the_loss_of_any_message_is_mended(factor: usize) {
    let members = Members::start(factor, 96 << 20, Duration::from_secs(60));
    let mut host = SLAVES;
    for opcode in Opcode::ALL.into_iter().filter(|&opcode| is_said(opcode, factor > 1)) {
        for kind in [Kind::Request, Kind::Response] {
            println!("RF {factor}: a {kind:?} of {opcode:?} is lost");
            host += 1;
            let seen = lose(&members, 1, move |seen| seen.kind == kind && seen.opcodes.contains(&opcode));
            ask_everything(&mut members.client(host), host);
            // Slaves say something to each other all the time, but not at any moment.
            wait_for("such a message", || seen.load(Ordering::Relaxed) > 0);
        }
    }
}

#[test]
fn the_loss_of_any_message_is_mended_by_those_who_sent_it() {
    the_loss_of_any_message_is_mended(1);
}

#[test]
fn the_loss_of_any_message_is_mended_with_replicas() {
    the_loss_of_any_message_is_mended(3);
}

/// Whether a packet of this kind is sent because another was lost: the end of a request.
fn needs_a_loss(kind: Kind) -> bool {
    match kind {
        Kind::Hello | Kind::HelloAck | Kind::HelloRetry | Kind::Request | Kind::Response => false,
        Kind::Ack | Kind::KeepAlive | Kind::Bye | Kind::Reset => false,
        Kind::Probe | Kind::Status => true,
    }
}

/// All but resets, which have a test of their own.
const KINDS: [Kind; 10] = [
    Kind::Hello,
    Kind::HelloAck,
    Kind::Request,
    Kind::Response,
    Kind::Probe,
    Kind::Status,
    Kind::Ack,
    Kind::KeepAlive,
    Kind::Bye,
    Kind::HelloRetry,
];

#[test]
fn the_loss_of_any_kind_of_packet_is_mended() {
    let members = Members::start(1, 96 << 20, Duration::from_secs(60));
    let mut host = SLAVES;
    for kind in KINDS {
        // Of those that both sides send, the second is the answer to the first.
        for number in [1, 2] {
            println!("{kind:?} number {number} is lost");
            host += 1;
            let (seen, mut is_caused) = (Arc::new(AtomicU32::new(0)), !needs_a_loss(kind));
            let count = seen.clone();
            members.network.judge(move |seen| {
                if seen.from != host && seen.to != host {
                    return Fate::Delivered;
                }
                let is_cause = !is_caused && seen.kind == Kind::Request && seen.is_last_of_several;
                is_caused |= is_cause;
                let is_victim = seen.kind == kind && count.fetch_add(1, Ordering::Relaxed) + 1 == number;
                if is_cause || is_victim { Fate::Lost } else { Fate::Delivered }
            });
            ask_everything(&mut members.client(host), host);
            let seen = seen.load(Ordering::Relaxed);
            assert!(seen >= number || number > 1, "{kind:?} was sent {seen} times");
        }
    }
}

/// A slave says that it does not know a session any more: if that is lost, it says so again.
#[test]
fn the_loss_of_a_reset_is_mended() {
    let lease = Duration::from_millis(500);
    let members = Members::start(1, 96 << 20, lease);
    let mut client = members.client(SLAVES + 1);
    decode_empty_response(&client.settle(encode_renew(&mut [0; 4]))).expect("it lives");
    let mut other = members.client(SLAVES + 2);
    wait_for("its lease to end", || {
        let stat = Stat::decode_response(&other.settle(encode_stat(&mut [0; 4]))).expect("stat");
        stat.sessions == 1
    });
    let resets = lose(&members, 1, |seen| seen.kind == Kind::Reset);
    assert_eq!(status(&client.settle(encode_renew(&mut [0; 4]))), Status::Fenced);
    assert!(resets.load(Ordering::Relaxed) >= 2, "one was lost");
}
