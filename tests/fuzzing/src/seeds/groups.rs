//! What clients say to a group of slaves, and its slaves to each other: each kind of message once.

use std::{sync::Arc, time::Duration};

use paxos::{
    Accept, Accepted, Ballot, Batch, Body, Command, Configuration, Life, Lives, MemberId, MemberSet, Memory, Message,
    PreVote, Prepare, Promise, Recover, Recovered, Refusal, Refuse, Slot, StateOffer, StateRequest,
};
use rum_net::wire::message::{
    READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, ask_any_head, ask_head, command_head, encode_not_leader,
    encode_read, encode_reserve, peer_head,
};
use rum_slave::{
    account::AccountId,
    group::{
        entry::{Entry, Operation, Run},
        image::{ClientImage, DirectoryImage, PageBytes, PageImage, PlaceImage, PlaceState},
        message::{Content, Part, PeerMessage, Piece},
        scrub::{PageHash, ScrubMessage},
    },
};
use serde_bytes::ByteBuf;

use super::{HASH, PAGES, Seed};

const BALLOT: Ballot = Ballot { round: 300, member: MemberId::FIRST, life: Life(2) };

fn commands() -> [Command<Entry>; 4] {
    let run = Run {
        client: 7,
        account: AccountId::NOBODY,
        sequence: 9,
        settled: 8,
        capacity: 64,
        quota: u64::MAX,
        first_generation: 77,
        request: encode_reserve(3, &mut [0; RESERVE_REQUEST_BYTES]).into(),
    };
    let entry = |operation| Command::Entry(Entry(Arc::new(operation)));
    let configuration = Configuration::of(MemberSet::from_bits(0b111));
    let expire = Operation::Expire { client: 7 };
    [entry(Operation::Run(Box::new(run))), entry(expire), Command::Noop, Command::Reconfigure(configuration)]
}

fn accept(commands: &[Command<Entry>]) -> Body<Entry> {
    Body::Accept(Accept {
        ballot: BALLOT,
        first: Slot(40),
        batch: commands.iter().cloned().collect::<Batch<Entry>>(),
        commit: Slot(39),
        settled: Slot(30),
        log_start: Slot(1),
        sent_at: Duration::from_micros(5_000_001),
        lease: Duration::from_millis(300),
    })
}

fn elections() -> Vec<Body<Entry>> {
    let (commit, last) = (Slot(39), Slot(41));
    let accepted = commands().into_iter().zip(1..).map(|(command, slot)| (Slot(slot), BALLOT, command)).collect();
    let (first, through, end) = (Slot(1), Slot(4), Slot(4));
    let lives = Lives::default();
    vec![
        Body::PreVote(PreVote { ballot: BALLOT, commit, last }),
        Body::PreVoted { ballot: BALLOT },
        Body::Prepare(Prepare { ballot: BALLOT, first: last, handed_over: Some(Ballot::ZERO) }),
        Body::Promise(Promise { ballot: BALLOT, first, through, end, accepted, lives }),
        Body::Refuse(Refuse { ballot: Ballot::ZERO, promised: BALLOT, reason: Refusal::Leased }),
        Body::HandOver { ballot: BALLOT },
    ]
}

fn recoveries() -> Vec<Body<Entry>> {
    let configuration = Configuration::of(MemberSet::from_bits(0b111));
    let (nonce, cursor) = (1 << 50, 5);
    let (since, through, commit) = (Slot(3), Slot(39), Slot(39));
    let recovered = Recovered {
        nonce,
        lives: Lives::default(),
        promised: BALLOT,
        leads_through: Some(Slot(40)),
        commit,
        configuration,
        memory: Memory::Whole,
    };
    vec![
        Body::Recover(Recover { nonce, life: Some(Life(3)), configuration }),
        Body::Recovered(recovered),
        Body::StateRequest(StateRequest { since, through, cursor }),
        Body::StateOffer(StateOffer { since, through, cursor, configuration }),
    ]
}

fn pieces() -> Vec<Part> {
    let page = |data| PageImage { index: 1, generation: 2, page: 255, slot: 39, data };
    let data = PageBytes::Come(vec![3; 64].into());
    let directory = postcard::to_stdvec(&directory()).expect("postcard knows all of its types");
    vec![Part::Directory { bytes: directory, is_whole: true }, Part::Pages(vec![page(None), page(Some(data))])]
}

fn directory() -> DirectoryImage {
    let account = AccountId::NOBODY;
    let used = |client| PlaceState::Used { client, account };
    let place = |state| PlaceImage { generation: 77, state };
    DirectoryImage {
        as_of: 39,
        places: [PlaceState::Free, PlaceState::Retired, used(Some(7)), used(None)].map(place).into(),
        free: vec![0],
        names: vec![(HASH, 5 << 20, vec![3])],
        clients: vec![ClientImage { client: 7, settled: 8, answers: vec![(9, ByteBuf::from(vec![0; 8]))] }],
        fenced: vec![1 << 100],
    }
}

/// One of each kind.
fn messages() -> Vec<PeerMessage> {
    let accepted = Accepted {
        ballot: BALLOT,
        first: Slot(40),
        last: Slot(43),
        through: Slot(43),
        applied: Slot(39),
        sent_at: Duration::from_micros(5_000_001),
        grants_lease: true,
        votes: true,
    };
    let mut bodies = vec![Body::Accepted(accepted), accept(&[]), accept(&commands()[..1]), accept(&commands())];
    bodies.extend(elections());
    bodies.extend(recoveries());
    let paxos = |body| Content::Paxos { capacity: 64, message: Message { from: MemberId::FIRST, life: Life(2), body } };
    let piece = |(part, number)| Content::Piece(Piece { transfer: 9, through: 39, number, is_last: number == 1, part });
    let contents = bodies.into_iter().map(paxos).chain(pieces().into_iter().zip(0..).map(piece));
    let contents = contents.chain(scrubs().into_iter().map(Content::Scrub));
    contents.map(|content| PeerMessage { group: 2, content }).collect()
}

fn scrubs() -> [ScrubMessage; 4] {
    let hash = PageHash { index: 2, generation: 77, page: 9, slot: 39, hash: u128::MAX / 3 };
    let page =
        PageImage { index: 2, generation: 77, page: 9, slot: 39, data: Some(PageBytes::Come(vec![7; 4096].into())) };
    [
        ScrubMessage::Compare { number: 5, pages: vec![hash; 3] },
        ScrubMessage::Compared { number: 5, hashes: vec![Some(7), None, Some(u128::MAX)] },
        ScrubMessage::Want { pages: vec![hash] },
        ScrubMessage::Replace { page, hash: 9 },
    ]
}

/// Requests in envelopes, and answers of slaves that do not lead.
fn envelopes() -> Vec<Seed> {
    let mut buffer = [0; READ_REQUEST_MAX_BYTES];
    let ask = [&ask_head(2)[..], encode_read(&PAGES, &mut buffer)].concat();
    let any = [&ask_any_head(2)[..], encode_read(&PAGES, &mut buffer)].concat();
    let command = [&command_head(2, 9, 8)[..], encode_reserve(7, &mut [0; RESERVE_REQUEST_BYTES])].concat();
    let peer = [&peer_head(1)[..], &messages()[0].encode()].concat();
    let not_leader = |leader| {
        let mut response = Vec::new();
        encode_not_leader(leader, &mut response);
        response
    };
    let requests = [ask, any, command, peer].map(|bytes| ("request", bytes));
    let responses = [Some(2), None].map(|leader| ("response", not_leader(leader)));
    requests.into_iter().chain(responses).collect()
}

/// All of these, and the messages of slaves each alone and all in a row.
pub fn seeds() -> Vec<Seed> {
    let each: Vec<Vec<u8>> = messages().iter().map(PeerMessage::encode).collect();
    let all = each.concat();
    let directory = postcard::to_stdvec(&directory()).expect("postcard knows all of its types");
    let mut seeds = envelopes();
    seeds.extend(each.into_iter().chain([all]).map(|bytes| ("peer_message", bytes)));
    seeds.push(("directory_image", directory));
    seeds
}
