//! Each fuzz target over its committed corpus, and over some mutations of it.

use std::{fs, path::Path};

use fuzzing::{TARGETS, Target};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rum_net::rpc::MAX_MESSAGE_BYTES;

const MUTATIONS: usize = 1500;
/// An endpoint does a hundred times as much with its input.
const ENDPOINT_MUTATIONS: usize = 300;
const CORPUS_BYTES: u64 = 300 << 10;

fn corpus_folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = corpus_folder().join(target.name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Changes, removes, repeats or inserts some bytes, or puts the end of another input behind the beginning of this one.
fn mutate(random: &mut SmallRng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.random_range(0..5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.random()),
            4 => {
                let end = random.random_range(at..=bytes.len().min(at + 64));
                bytes.extend_from_within(at..end);
            }
            _ => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
        }
    }
}

#[test]
fn every_target_holds_over_its_corpus_and_mutations_of_it() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for target in TARGETS {
        let corpus = corpus(&target);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        corpus.iter().for_each(|input| target.run(input));
        let is_endpoint = ["server", "client"].iter().any(|name| target.name.starts_with(name));
        for number in 0..if is_endpoint { ENDPOINT_MUTATIONS } else { MUTATIONS } {
            let mut input = corpus[random.random_range(0..corpus.len())].clone();
            mutate(&mut random, &mut input, &corpus[number % corpus.len()]);
            if let Err(panic) = std::panic::catch_unwind(|| target.run(&input)) {
                println!("target {}, seed {seed}, mutation {number}: {input:?}", target.name);
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn the_fuzzer_has_the_same_targets_and_a_small_corpus() {
    let manifest = fs::read_to_string(corpus_folder().join("../Cargo.toml")).unwrap();
    let mut bytes = 0;
    for folder in fs::read_dir(corpus_folder()).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "a corpus of no target: {name}");
        bytes += fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    }
    assert!(bytes < CORPUS_BYTES, "the corpora have {bytes} bytes");
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "no binary {}", target.name);
        let source = corpus_folder().join(format!("../fuzz_targets/{}.rs", target.name));
        let source = fs::read_to_string(&source).unwrap();
        assert!(source.contains(&format!("fuzzing::Target::named(\"{}\")", target.name)), "{source}");
    }
}

/// A number as postcard has it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn a_list_gets_no_more_room_than_what_is_there_justifies() {
    // Up to a list's length: the commands of an accept, what a promise has accepted, pages, and the places of a directory.
    let accept = ("peer_message", &[2, 0, 64, 0, 2, 5, 1, 0, 0, 1, 2][..]);
    let promise = ("peer_message", &[2, 0, 64, 0, 2, 3, 1, 0, 0, 1, 4, 4][..]);
    let pages = ("peer_message", &[2, 1, 9, 39, 0, 0, 1][..]);
    let places = ("directory_image", &[39][..]);
    // Entries that are all zeros are the shortest.
    for ((target, front), entry_bytes) in [(accept, 1), (promise, 5), (pages, 5), (places, 2)] {
        for room in [0, 1, 100, 20_000, MAX_MESSAGE_BYTES - 100] {
            for count in [room / entry_bytes, room, 1 << 20, usize::MAX / 2] {
                let input = [front, &varint(count as u64), &vec![0; room]].concat();
                Target::named(target).run(&input);
            }
        }
    }
}
