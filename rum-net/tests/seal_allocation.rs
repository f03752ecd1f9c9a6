//! Sealing runs in fault handlers: after a handshake is made nothing of it may allocate, whatever happens.

mod counting;

use std::time::{Duration, Instant};

use counting::allocations;
use rum_net::seal::{
    CookieInput, Cookies, FIRST_OVERHEAD_BYTES, Initiator, Key, OpenError, Opener, Responder, SECOND_OVERHEAD_BYTES,
    Sealer, TRAILER_BYTES,
};
use zeroize::Zeroizing;

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(5)))).1, 2);
}

#[test]
fn messages_of_a_handshake_do_not_allocate() {
    let key = Key::from_bytes([3; 32]);
    let (mut first, mut second) = ([0; FIRST_OVERHEAD_BYTES + 28], [0; SECOND_OVERHEAD_BYTES + 40]);
    let (made, number) = allocations(|| Initiator::new(&key, b"prologue"));
    assert!(number > 0, "then it needs no preparation");
    let mut initiator = made.unwrap();
    let (length, number) = allocations(|| initiator.first_message(&[7; 28], &mut first));
    assert_eq!((length, number), (Ok(first.len()), 0));
    let mut payload = [0; 28];
    let (responder, _) = Responder::read(&key, b"prologue", &first, &mut payload).unwrap();
    assert_eq!(payload, [7; 28]);
    let (answered, number) = allocations(|| responder.answer(&[8; 40], &mut second));
    // The handshake that is over was freed.
    assert!(answered.is_ok() && number > 0);
    let mut wrong = second;
    wrong[40] ^= 1;
    let mut payload = [0; 40];
    let (refused, number) = allocations(|| initiator.finish(&wrong, &mut payload).is_err());
    assert_eq!((refused, number), (true, 0));
    let (length, number) = allocations(|| {
        let (length, mut sealer, mut opener) = initiator.finish(&second, &mut payload).unwrap();
        let trailer = sealer.seal(b"", &mut []);
        assert_eq!(opener.open(b"", &mut [], &trailer), Err(OpenError::Forged));
        length
    });
    assert_eq!((length, number, payload), (40, 0, [8; 40]));
}

#[test]
fn packets_and_new_keys_do_not_allocate() {
    let (mut replayed, mut forged) = (0, 0);
    let mut page = [5; 4096];
    let ((), number) = allocations(|| {
        let secret = || Zeroizing::new([9; 32]);
        let (mut sealer, mut opener) = (Sealer::new(secret(), 4), Opener::new(secret(), 4));
        for round in 0..1000u64 {
            let trailer = sealer.seal(&[1; 44], &mut page);
            let sealed = page;
            opener.open(&[1; 44], &mut page, &trailer).unwrap();
            assert_eq!(page, [5; 4096]);
            let mut again = sealed;
            replayed += u32::from(opener.open(&[1; 44], &mut again, &trailer) == Err(OpenError::Replayed));
            let mut trailer = [0; TRAILER_BYTES];
            trailer[..8].copy_from_slice(&(round + 16).to_le_bytes());
            forged += u32::from(opener.open(&[1; 44], &mut again, &trailer) == Err(OpenError::Forged));
        }
        assert_eq!(sealer.sealed() >> 4, 62, "keys did change");
    });
    assert_eq!((number, replayed, forged), (0, 1000, 1000));
}

#[test]
fn cookies_do_not_allocate() {
    let now = Instant::now();
    let ((), number) = allocations(|| {
        let cookies = Cookies::new(&Key::from_bytes([4; 32]), Duration::from_secs(4), now);
        let input = CookieInput { address: &[1; 14], client: 2, attempt: 3 };
        let cookie = cookies.make(now, &input);
        assert!(cookies.check(now, &input, &cookie));
    });
    assert_eq!(number, 0);
}
