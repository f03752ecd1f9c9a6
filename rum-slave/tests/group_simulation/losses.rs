//! One message is lost, and no other: of each kind in turn. Whatever it was, work goes on, and the run ends as it has to.

use std::{collections::BTreeMap, time::Instant};

use paxos::{Body, Settings};
use rum_net::wire::message::{ASK_HEAD_BYTES, COMMAND_HEAD_BYTES, Opcode, Request};
use rum_slave::group::{
    message::{Content, Part, PeerMessage},
    scrub::ScrubMessage,
};

use crate::{
    weather::{MS, Rng, Weather},
    world::World,
};

/// What slaves say to each other. A new kind of message has its place here, because `peer_kind` has to name it.
const PEER_KINDS: [&str; 20] = [
    "PreVote",
    "PreVoted",
    "Prepare",
    "Promise",
    "Refuse",
    "Accept",
    "Accepted",
    "Recover",
    "Recovered",
    "HandOver",
    "StateRequest",
    "StateOffer",
    "Directory",
    "Pages",
    "Wanted",
    "Copies",
    "Compare",
    "Compared",
    "Want",
    "Replace",
];

fn peer_kind(message: &PeerMessage) -> &'static str {
    let place = match &message.content {
        Content::Paxos { message, .. } => match message.body {
            Body::PreVote(_) => 0,
            Body::PreVoted { .. } => 1,
            Body::Prepare(_) => 2,
            Body::Promise(_) => 3,
            Body::Refuse(_) => 4,
            Body::Accept(_) => 5,
            Body::Accepted(_) => 6,
            Body::Recover(_) => 7,
            Body::Recovered(_) => 8,
            Body::HandOver { .. } => 9,
            Body::StateRequest(_) => 10,
            Body::StateOffer(_) => 11,
        },
        Content::Piece(piece) => match piece.part {
            Part::Directory { .. } => 12,
            Part::Pages(_) => 13,
        },
        Content::Wanted(_) => 14,
        Content::Copies { .. } => 15,
        Content::Scrub(message) => match message {
            ScrubMessage::Compare { .. } => 16,
            ScrubMessage::Compared { .. } => 17,
            ScrubMessage::Want { .. } => 18,
            ScrubMessage::Replace { .. } => 19,
        },
    };
    PEER_KINDS[place]
}

/// A message of a client, or the answer to it.
pub type ClientKind = (Opcode, bool);

/// Whether the simulation's clients ask for this, in an envelope for a group.
fn is_asked(opcode: Opcode) -> bool {
    match opcode {
        Opcode::Reserve | Opcode::Release | Opcode::Read | Opcode::Write | Opcode::OpenName => true,
        Opcode::FreeName | Opcode::Renew | Opcode::Bye => true,
        // These are said with real packets alone (`rum-slave/tests/losses.rs`).
        Opcode::Stat
        | Opcode::NameExtents
        | Opcode::Command
        | Opcode::Ask
        | Opcode::Peer
        | Opcode::Describe
        | Opcode::Names => false,
    }
}

/// What a request in its envelope asks for.
pub fn asked(message: &[u8]) -> Option<Opcode> {
    let head = if message.first() == Some(&(Opcode::Command as u8)) { COMMAND_HEAD_BYTES } else { ASK_HEAD_BYTES };
    Request::decode(message.get(head..)?).ok().map(|request| request.opcode())
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Peer(&'static str),
    /// The opcode's place, and whether it is the answer.
    Client(usize, bool),
}

/// Counts messages by kind, and says which is lost.
#[derive(Default)]
pub struct Losses {
    said: BTreeMap<Kind, u64>,
    /// The one of its kind of this number, from 1.
    victim: Option<(Kind, u64)>,
    pub lost: u64,
}

impl Losses {
    fn loses(&mut self, kind: Kind) -> bool {
        let count = self.said.entry(kind).or_default();
        *count += 1;
        let is_lost = self.victim == Some((kind, *count));
        self.lost += u64::from(is_lost);
        is_lost
    }

    pub fn loses_of_client(&mut self, (opcode, is_answer): ClientKind) -> bool {
        let place = Opcode::ALL.iter().position(|&other| other == opcode).expect("all are there");
        self.loses(Kind::Client(place, is_answer))
    }

    /// Takes what is lost out of messages that travel together.
    pub fn thin(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut left = Vec::new();
        let is_right = PeerMessage::decode_all(bytes, &mut |message| {
            if !self.loses(Kind::Peer(peer_kind(&message))) {
                left.extend_from_slice(&message.encode());
            }
        });
        assert!(is_right, "what was encoded cannot be decoded");
        left
    }
}

/// All that happens is that slaves crash, some with a damaged disk, and hand over, and clients die. Logs are short, so that pages have to be sent.
fn world(seed: u64, victim: (Kind, u64)) -> World {
    let mut rng = Rng(seed);
    let (crash, hand_over, death) = (Some(250 * MS), Some(300 * MS), Some(400 * MS));
    let disks = if seed.is_multiple_of(2) { 0.0 } else { 1.0 };
    let (damage, checkpoint_bytes) = (0.7, 10_000);
    let drawn = Weather::draw(&mut rng).well();
    let weather = Weather { crash, hand_over, death, down: 40 * MS, disks, damage, checkpoint_bytes, ..drawn };
    let weather = Weather { sick_for: 2500 * MS, ..weather };
    let settings =
        Settings { max_in_flight_entries: 16, max_batch_entries: 4, max_log_entries: 16, ..Settings::default() };
    let mut world = World::under(weather, settings, rng);
    world.losses = Some(Losses { victim: Some(victim), ..Losses::default() });
    world
}

#[test]
fn the_loss_of_any_one_message_repairs_itself() {
    /// Of runs in which too few messages of a kind are sent, this many others are tried.
    const SEEDS: u64 = 8;
    /// The first of a kind is often at the start of everything. Others need not come.
    const WHICH: [u64; 2] = [1, 4];
    let began = Instant::now();
    let client_kinds = (0..Opcode::ALL.len()).filter(|&place| is_asked(Opcode::ALL[place]));
    let client_kinds = client_kinds.flat_map(|place| [Kind::Client(place, false), Kind::Client(place, true)]);
    for kind in PEER_KINDS.into_iter().map(Kind::Peer).chain(client_kinds) {
        for which in WHICH {
            let is_lost = (0..if which == 1 { SEEDS } else { 2 }).any(|seed| {
                println!("seed {seed}: {kind:?} number {which} is lost");
                let mut world = world(seed, (kind, which));
                world.run();
                world.losses.is_some_and(|losses| losses.lost > 0)
            });
            assert!(is_lost || which > 1, "{kind:?} is never said, and so never lost");
        }
    }
    println!("in {:.1?}", began.elapsed());
}
