use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{super::replay::WINDOW_PACKETS, *};

const AAD: &[u8; 44] = &[9; 44];

fn secret(byte: u8) -> Zeroizing<[u8; SECRET_BYTES]> {
    Zeroizing::new([byte; SECRET_BYTES])
}

fn pair(epoch_bits: u32) -> (Sealer, Opener) {
    (Sealer::new(secret(1), epoch_bits), Opener::new(secret(1), epoch_bits))
}

/// What is sealed as packet `number`.
fn text(number: u64) -> [u8; 24] {
    let mut text = [0x55; 24];
    text[..8].copy_from_slice(&number.to_le_bytes());
    text
}

/// The next packet.
fn seal(sealer: &mut Sealer) -> ([u8; 24], Trailer) {
    let mut sealed = text(sealer.sealed());
    let trailer = sealer.seal(AAD, &mut sealed);
    (sealed, trailer)
}

fn open(opener: &mut Opener, (mut sealed, trailer): ([u8; 24], Trailer)) -> Result<[u8; 24], OpenError> {
    opener.open(AAD, &mut sealed, &trailer).map(|()| sealed)
}

/// A packet that says it is number `counter` and is by somebody else.
fn forged(counter: u64) -> ([u8; 24], Trailer) {
    let mut trailer = [0xAB; TRAILER_BYTES];
    trailer[..8].copy_from_slice(&counter.to_le_bytes());
    ([1; 24], trailer)
}

#[test]
fn packets_open_once_and_in_any_order() {
    let (mut sealer, mut opener) = pair(EPOCH_BITS);
    let packets: Vec<_> = (0..100).map(|_| seal(&mut sealer)).collect();
    for i in (0..100).rev() {
        assert_ne!(packets[i].0, text(i as u64), "it is encrypted");
        assert_eq!(open(&mut opener, packets[i]), Ok(text(i as u64)));
        assert_eq!(open(&mut opener, packets[i]), Err(OpenError::Replayed));
    }
}

#[test]
fn another_secret_opens_nothing() {
    let (mut sealer, _) = pair(EPOCH_BITS);
    let mut other = Opener::new(secret(2), EPOCH_BITS);
    assert_eq!(open(&mut other, seal(&mut sealer)), Err(OpenError::Forged));
}

#[test]
fn every_changed_bit_is_noticed() {
    let (mut sealer, mut opener) = pair(EPOCH_BITS);
    let (sealed, trailer) = seal(&mut sealer);
    for bit in 0..(44 + 24 + TRAILER_BYTES) * 8 {
        let (mut aad, mut sealed, mut trailer) = (*AAD, sealed, trailer);
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        match byte {
            0..44 => aad[byte] ^= mask,
            44..68 => sealed[byte - 44] ^= mask,
            _ => trailer[byte - 68] ^= mask,
        }
        let refused = opener.open(&aad, &mut sealed, &trailer);
        assert!(matches!(refused, Err(OpenError::Forged | OpenError::TooFarAhead)), "bit {bit}: {refused:?}");
    }
    assert_eq!(open(&mut opener, (sealed, trailer)), Ok(text(0)), "forgeries leave no trace");
}

#[test]
fn a_cut_packet_has_no_trailer_or_a_wrong_one() {
    let (mut sealer, mut opener) = pair(EPOCH_BITS);
    let (sealed, trailer) = seal(&mut sealer);
    let packet = [&sealed[..], &trailer].concat();
    for length in 0..packet.len() {
        let mut cut = packet[..length].to_vec();
        match split_trailer(&mut cut) {
            None => assert!(length < TRAILER_BYTES),
            Some((text, trailer)) => {
                let trailer = *trailer;
                assert!(opener.open(AAD, text, &trailer).is_err(), "{length} bytes");
            }
        }
    }
    let mut packet = packet;
    let (text_bytes, trailer) = split_trailer(&mut packet).unwrap();
    let trailer = *trailer;
    assert_eq!(opener.open(AAD, text_bytes, &trailer), Ok(()));
    assert_eq!(text_bytes, text(0));
}

#[test]
fn an_epoch_later_packets_of_the_last_one_still_open() {
    let (mut sealer, mut opener) = pair(4);
    let packets: Vec<_> = (0..64).map(|_| seal(&mut sealer)).collect();
    assert_eq!(open(&mut opener, packets[3]), Ok(text(3)));
    assert_eq!(open(&mut opener, packets[17]), Ok(text(17)));
    assert_eq!(open(&mut opener, packets[15]), Ok(text(15)), "of the previous epoch");
    assert_eq!(open(&mut opener, packets[48]), Err(OpenError::TooFarAhead));
    assert_eq!(open(&mut opener, packets[47]), Ok(text(47)));
    assert_eq!(open(&mut opener, packets[4]), Err(OpenError::TooOld), "its key is gone");
    assert_eq!(open(&mut opener, packets[16]), Ok(text(16)));
    assert_eq!(open(&mut opener, packets[48]), Ok(text(48)));
}

#[test]
fn keys_change_with_the_epoch_and_old_ones_go() {
    let (mut sealer, mut opener) = pair(12);
    let per_epoch = 1 << 12;
    for number in 0..3 * per_epoch {
        let packet = seal(&mut sealer);
        assert_eq!(open(&mut opener, packet), Ok(text(number)));
        let into_epoch = number % per_epoch;
        let is_kept = number >= per_epoch && into_epoch + 1 < WINDOW_PACKETS;
        assert_eq!(opener.previous.is_some(), is_kept, "after packet {number}");
    }
    assert_eq!(opener.epoch, 2);
}

/// A key of the wrong epoch must not do: else nothing would have changed.
#[test]
fn the_epochs_keys_differ() {
    let (mut sealer, _) = pair(4);
    let mut never_moves = Opener::new(secret(1), 20);
    for number in 0..16 {
        assert_eq!(open(&mut never_moves, seal(&mut sealer)), Ok(text(number)));
    }
    assert_eq!(open(&mut never_moves, seal(&mut sealer)), Err(OpenError::Forged));
}

#[test]
fn forged_counters_move_nothing_and_cost_one_derivation() {
    let (mut sealer, mut opener) = pair(4);
    let packets: Vec<_> = (0..40).map(|_| seal(&mut sealer)).collect();
    assert_eq!(open(&mut opener, packets[0]), Ok(text(0)));
    for counter in 16..32 {
        assert_eq!(open(&mut opener, forged(counter)), Err(OpenError::Forged));
        assert_eq!((opener.epoch, opener.window.lowest()), (0, 0));
    }
    for counter in [32, 48, 1 << 40, u64::MAX] {
        assert_eq!(open(&mut opener, forged(counter)), Err(OpenError::TooFarAhead));
    }
    // Two derivations would have left the second epoch's key for the third's.
    for (number, packet) in packets.iter().enumerate().skip(1) {
        assert_eq!(open(&mut opener, *packet), Ok(text(number as u64)));
    }
}

/// A network that loses, doubles, reorders and damages, and a forger; a model says what each packet must come to.
#[test]
fn a_hundred_thousand_random_packets_as_the_model_does() {
    const BITS: u32 = 7;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut sealer, mut opener) = pair(BITS);
    let mut flying: VecDeque<(u64, ([u8; 24], Trailer))> = VecDeque::new();
    let (mut opened, mut highest, mut epoch) = (BTreeSet::new(), 0u64, 0u64);
    let mut outcomes = [0u32; 5];
    for _ in 0..100_000 {
        while flying.len() < 600 {
            let number = sealer.sealed();
            let packet = seal(&mut sealer);
            if random.random_bool(0.9) {
                flying.push_back((number, packet));
            }
        }
        let reach = if random.random_bool(0.98) { 50 } else { flying.len() };
        let at = random.random_range(0..reach);
        let (number, mut packet) = flying[at];
        // Most leave the network; the others come again.
        if random.random_bool(0.9) {
            flying.remove(at);
        }
        let is_damaged = random.random_bool(0.1);
        if is_damaged {
            packet.0[random.random_range(0..24)] ^= 1 << random.random_range(0..8);
        }
        let expected = if opened.contains(&number) && number + WINDOW_PACKETS > highest {
            Err(OpenError::Replayed)
        } else if number + WINDOW_PACKETS <= highest || (number >> BITS) + 1 < epoch {
            Err(OpenError::TooOld)
        } else if number >> BITS > epoch + 1 {
            Err(OpenError::TooFarAhead)
        } else if is_damaged {
            Err(OpenError::Forged)
        } else {
            Ok(text(number))
        };
        assert_eq!(open(&mut opener, packet), expected, "packet {number}, highest {highest}");
        outcomes[match expected {
            Ok(_) => 0,
            Err(OpenError::Replayed) => 1,
            Err(OpenError::TooOld) => 2,
            Err(OpenError::TooFarAhead) => 3,
            Err(OpenError::Forged) => 4,
        }] += 1;
        if expected.is_ok() {
            opened.insert(number);
            highest = highest.max(number);
            epoch = epoch.max(number >> BITS);
        }
    }
    assert!(outcomes.iter().all(|&count| count > 100), "{outcomes:?} show too little");
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        aad in prop::collection::vec(any::<u8>(), 0..60),
        content in prop::collection::vec(any::<u8>(), 0..5000),
        before in 0u32..100,
    ) {
        let (mut sealer, mut opener) = pair(3);
        let mut sealed = content.clone();
        for _ in 0..before {
            let packet = seal(&mut sealer);
            prop_assert!(open(&mut opener, packet).is_ok());
        }
        let trailer = sealer.seal(&aad, &mut sealed);
        prop_assert_eq!(opener.open(&aad, &mut sealed, &trailer), Ok(()));
        prop_assert_eq!(sealed, content);
    }

    #[test]
    fn any_bytes_are_refused(
        content in prop::collection::vec(any::<u8>(), 0..200),
        trailer: [u8; TRAILER_BYTES],
    ) {
        let (_, mut opener) = pair(3);
        let mut sealed = content;
        prop_assert!(opener.open(AAD, &mut sealed, &trailer).is_err());
    }
}
