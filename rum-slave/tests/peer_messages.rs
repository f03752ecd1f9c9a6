//! Holds the list of types in docs/PROTOCOL.md, of which messages between slaves are made, against the code: by what `postcard` makes of
//! zeros, and how that is printed.

use std::fmt::Debug;

use paxos::{
    Accept, Accepted, Ballot, Batch, Body, Command, Configuration, Memory, Message, PreVote, Prepare, Promise, Recover,
    Recovered, Refusal, Refuse, StateOffer, StateRequest,
};
use rum_slave::group::{
    entry::{Entry, Operation, Run},
    image::{ClientImage, DirectoryImage, PageImage, PageKey, PlaceImage, PlaceState},
    message::{Content, Part, PeerMessage, Piece},
    scrub::{PageHash, ScrubMessage},
};
use serde::de::DeserializeOwned;

/// Zeros make a value of every type here that is not chosen by number.
const ZEROS: usize = 200;

/// A value as it is printed, if these bytes and zeros are one.
fn printed<T: DeserializeOwned + Debug>(first: &[u8]) -> Option<String> {
    let bytes = [first, &[0; ZEROS]].concat();
    postcard::take_from_bytes::<T>(&bytes).ok().map(|(value, _)| format!("{value:?}"))
}

/// What comes before the first field.
fn name(printed: &str) -> &str {
    printed.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

/// The names of a value's own fields, not of those inside.
fn fields(printed: &str) -> Vec<String> {
    let mut depth = 0;
    let mut words = vec![String::new()];
    for c in printed.chars() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 1 => words.push(String::new()),
            _ if depth == 1 => words.last_mut().expect("there is one").push(c),
            _ => {}
        }
    }
    let fields = words.iter().filter_map(|word| word.split_once(": ")).map(|(name, _)| name.trim().to_owned());
    fields.collect()
}

/// A type's line: its name and its fields.
fn structure<T: DeserializeOwned + Debug>() -> String {
    let printed = printed::<T>(&[]).expect("zeros are a value");
    format!("{}: {}", name(&printed), fields(&printed).join(", "))
}

/// An enumeration's line: each kind with its number, and its fields if it has some of its own.
fn kinds<T: DeserializeOwned + Debug>(name_of_type: &str) -> String {
    let kind = |number: u8| {
        let printed = printed::<T>(&[number])?;
        let fields = if printed.starts_with(&format!("{} {{", name(&printed))) { fields(&printed) } else { vec![] };
        let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
        Some(format!("{number} {}{fields}", name(&printed)))
    };
    format!("{name_of_type}: {}", Vec::from_iter((0..).map_while(kind)).join(", "))
}

fn types() -> Vec<String> {
    vec![
        structure::<PeerMessage>(),
        kinds::<Content>("Content"),
        structure::<Message<Entry>>(),
        kinds::<Body<Entry>>("Body"),
        structure::<PreVote>(),
        structure::<Prepare>(),
        structure::<Promise<Entry>>(),
        structure::<Refuse>(),
        kinds::<Refusal>("Refusal"),
        structure::<Accept<Entry>>(),
        structure::<Accepted>(),
        structure::<Recover>(),
        structure::<Recovered>(),
        kinds::<Memory>("Memory"),
        structure::<StateRequest>(),
        structure::<StateOffer>(),
        structure::<Ballot>(),
        structure::<Configuration>(),
        kinds::<Batch<Entry>>("Batch"),
        kinds::<Command<Entry>>("Command"),
        kinds::<Operation>("Operation"),
        structure::<Run>(),
        structure::<Piece>(),
        kinds::<Part>("Part"),
        structure::<PageImage>(),
        structure::<DirectoryImage>(),
        structure::<PlaceImage>(),
        kinds::<PlaceState>("PlaceState"),
        structure::<ClientImage>(),
        kinds::<ScrubMessage>("ScrubMessage"),
        structure::<PageHash>(),
        structure::<PageKey>(),
    ]
}

#[test]
fn the_document_has_all_types() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap();
    let (_, list) = text.split_once("```types\n").unwrap();
    let (list, _) = list.split_once("```").unwrap();
    let said: Vec<&str> = list.lines().collect();
    assert_eq!(said, types(), "expected:\n{}", types().join("\n"));
}

#[test]
fn the_document_has_an_example() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap();
    let (_, lines) = text.split_once("```example\n").unwrap();
    let (lines, _) = lines.split_once("```").unwrap();
    let hexadecimal = lines.lines().map(|line| line.split_once("  ").unwrap().0).collect::<Vec<_>>().join(" ");
    let bytes: Vec<u8> = hexadecimal.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let pre_vote = PreVote {
        ballot: Ballot { round: 300, member: paxos::MemberId::new(1).unwrap(), life: paxos::Life(2) },
        commit: paxos::Slot(39),
        last: paxos::Slot(41),
    };
    let message = Message { from: pre_vote.ballot.member, life: pre_vote.ballot.life, body: Body::PreVote(pre_vote) };
    let message = PeerMessage { group: 2, content: Content::Paxos { capacity: 64, message } };
    assert_eq!(bytes, message.encode());
}
