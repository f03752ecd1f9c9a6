//! What sealing costs: a page sealed, opened, a new key, and a handshake, each the best of several rounds.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    seal::{EPOCH_BITS, Initiator, Key, Opener, Responder, Sealer},
};
use zeroize::Zeroizing;

const ROUNDS: u32 = 40;
const REPEATS: u32 = 2000;
const AAD: [u8; 44] = [3; 44];

fn main() {
    let secret = || Zeroizing::new([7; 32]);
    let mut page = [1; PAGE_BYTES];
    let mut sealer = Sealer::new(secret(), EPOCH_BITS);
    let mut opener = Opener::new(secret(), EPOCH_BITS);
    let (mut seal, mut open) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..REPEATS {
            let start = Instant::now();
            let trailer = sealer.seal(&AAD, black_box(&mut page));
            let middle = Instant::now();
            opener.open(&AAD, black_box(&mut page), &trailer).expect("it was sealed here");
            sealing += middle - start;
            opening += middle.elapsed();
        }
        (seal, open) = (seal.min(sealing / REPEATS), open.min(opening / REPEATS));
    }
    // Every other packet begins an epoch.
    let mut changing = Sealer::new(secret(), 1);
    let change = best(REPEATS, || {
        for _ in 0..2 {
            black_box(changing.seal(&AAD, &mut []));
        }
    });
    let key = Key::from_bytes([5; 32]);
    let handshake = best(20, || {
        let (mut first, mut second, mut payload) = ([0; 128], [0; 128], [0; 64]);
        let mut initiator = Initiator::new(&key, b"").expect("a handshake");
        let length = initiator.first_message(&[1; 28], &mut first).expect("room");
        let (responder, _) = Responder::read(&key, b"", &first[..length], &mut payload).expect("by the initiator");
        let (length, ..) = responder.answer(&[2; 40], &mut second).expect("room");
        black_box(initiator.finish(&second[..length], &mut payload).expect("by the responder"));
    });
    let mut forged = [9; 76];
    let refusal = best(200, || {
        forged[0] ^= 1;
        assert!(Responder::read(&key, b"", &forged, &mut [0; 64]).is_err());
    });
    println!("seal a page {seal:?}, open it {open:?}, two empty packets with a new key {change:?}");
    println!("whole handshake, both sides {handshake:?}; a forged first message {refusal:?}");
}

fn best(repeats: u32, mut work: impl FnMut()) -> Duration {
    let round = |_| {
        let start = Instant::now();
        (0..repeats).for_each(|_| work());
        start.elapsed() / repeats
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}
