//! Requests whose bytes are kept by who asks, and by who answers, without a copy.

use super::*;

#[test]
fn a_body_that_is_not_copied_arrives_wherever_it_is_cut() {
    for mut pair in [Pair::open(1500), Pair::open(4608), sealed::open_sealed()] {
        for bytes in [4, 100, 300, 1457, 4200, 40_000, MAX_MESSAGE_BYTES] {
            for cut in [0, 4, 130, 1455, 2000].into_iter().filter(|&cut| cut <= bytes) {
                let message = message(16, bytes, cut as u8);
                let body = SharedBytes::from(&message[cut..]);
                let request = pair.client.request_shared(pair.now, &message[..cut], body).unwrap();
                pair.assert_answered(request, &message);
            }
            pair.assert_round_trip(&message(16, bytes, 1));
        }
        assert_eq!(pair.client.stats().timeouts, 0);
    }
}

#[test]
fn a_request_that_is_sent_again_has_its_body_still() {
    let mut pair = Pair::open(1500);
    let message = message(16, 5000, 9);
    let request = pair.client.request_shared(pair.now, &message[..4], message[4..].into()).unwrap();
    pair.lose_all();
    pair.step_to_timeout();
    pair.assert_answered(request, &message);
}

#[test]
fn what_is_kept_of_requests_stays_as_it_came() {
    let mut pair = Pair::open(1500);
    for seed in 0..200 {
        let bytes = [4, 1000, 5000, 100_000][usize::from(seed) % 4];
        pair.assert_round_trip(&message(8, bytes, seed));
        if seed % 3 == 0 {
            pair.kept.remove(0);
            pair.executed.remove(0);
        }
    }
    assert!(pair.executed.iter().zip(&pair.kept).all(|((_, message), kept)| message[..] == kept[..]));
}
