//! Sessions with keys.

use std::sync::Arc;

use super::*;
use crate::seal::{ClientKey, KeyFile};

const KEY_FILE: &str = "\
    alice 0101010101010101010101010101010101010101010101010101010101010101\n\
    bob 0202020202020202020202020202020202020202020202020202020202020202\n";

fn keys() -> Arc<KeyFile> {
    Arc::new(KeyFile::parse("keys", KEY_FILE).unwrap())
}

fn key(name: &str) -> ClientKey {
    keys().find(name).unwrap().clone()
}

fn sealed_server(incarnation: u128, now: Instant) -> Server {
    Server::new(server_config(1500, incarnation), Some(keys()), [incarnation as u8; 32], now)
}

fn sealed_pair(name: &str) -> Pair {
    let mut pair = Pair::new(1500);
    pair.server = sealed_server(99, pair.now);
    pair.client = Client::new(client_config(1500), Some(key(name)), pair.now);
    pair
}

pub(super) fn open_sealed() -> Pair {
    let mut pair = sealed_pair("alice");
    pair.run();
    assert!(pair.client.is_open() && pair.client.is_sealed());
    pair
}

#[test]
fn messages_of_every_size_make_the_round_trip_and_nothing_of_them_is_seen() {
    let mut pair = open_sealed();
    for bytes in [4, 1431, 1432, 1433, 4136, MAX_MESSAGE_BYTES] {
        pair.assert_round_trip(&message(16, bytes, 3));
        pair.assert_round_trip(&message(bytes as u32, 16, 5));
    }
    assert_eq!(pair.client.stats().timeouts, 0);
    assert_eq!(pair.client.stats().drops.total() + pair.server.stats().drops.total(), 0);
    let secret = [0xA7; 64];
    pair.client.request(pair.now, &4u32.to_le_bytes(), &secret).unwrap();
    pair.poll_client();
    assert!(pair.to_server.iter().all(|packet| !packet.windows(16).any(|window| window == &secret[..16])));
}

#[test]
fn who_has_not_the_key_is_refused_and_told_why() {
    let own = |byte: u8| ClientKey { key: crate::seal::Key::from_bytes([byte; 32]), ..key("alice") };
    let stranger = ClientKey { name: "mallory".into(), ..key("alice") };
    for (server_has_keys, client_key, verdict) in [
        (true, None, Verdict::KeyNeeded),
        (true, Some(own(9)), Verdict::KeyRefused),
        (true, Some(own(2)), Verdict::KeyRefused),
        (true, Some(stranger), Verdict::KeyRefused),
        (false, Some(key("alice")), Verdict::NoKeys),
    ] {
        let mut pair = sealed_pair("alice");
        pair.client = Client::new(client_config(1500), client_key, pair.now);
        if !server_has_keys {
            pair.server = new_server(server_config(1500, 99), pair.now);
        }
        pair.run();
        assert_eq!((pair.client.is_open(), pair.client.refusal()), (false, Some(verdict)));
        assert_eq!((pair.server.session_count(), pair.server.stats().drops.key), (0, 1));
        assert!(pair.server_events.is_empty());
    }
}

/// Every packet that went by, given again to either side, changes nothing.
#[test]
fn replayed_packets_are_dropped_and_counted() {
    let mut pair = sealed_pair("alice");
    let mut seen = Vec::new();
    let mut asked = 0;
    loop {
        pair.poll_client();
        pair.poll_server();
        if let Some(packet) = pair.to_server.pop_front() {
            pair.deliver_to_server(&packet);
            seen.push(packet);
        } else if let Some(packet) = pair.to_client.pop_front() {
            pair.deliver_to_client(&packet);
            seen.push(packet);
        } else if asked < 20 {
            pair.request(&message(5000, 3000, asked));
            asked += 1;
        } else {
            break;
        }
    }
    let (executed, complete, events) = (pair.executed.len(), pair.complete.len(), pair.client_events.clone());
    for packet in &seen {
        pair.deliver_to_server(packet);
        pair.deliver_to_client(packet);
    }
    pair.run();
    assert_eq!((pair.executed.len(), pair.complete.len(), &pair.client_events), (executed, complete, &events));
    assert!(pair.server.stats().drops.replayed >= 20 && pair.client.stats().drops.replayed >= 20);
    pair.assert_round_trip(&message(10, 10, 0));
}

#[test]
fn changed_bits_are_dropped_and_counted() {
    let mut pair = open_sealed();
    pair.request(&message(40, 40, 1));
    pair.poll_client();
    let packet = pair.to_server.pop_front().unwrap();
    for bit in (8 * 4)..packet.len() * 8 {
        let mut wrong = packet.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        pair.deliver_to_server(&wrong);
    }
    assert!(pair.executed.is_empty());
    let drops = pair.server.stats().drops;
    assert!(drops.forged > 500 && drops.total() >= packet.len() as u64 * 8 - 32, "{drops:?}");
    pair.to_client.clear();
    pair.deliver_to_server(&packet);
    pair.run();
    assert_eq!(pair.complete.len(), 1);
}

fn in_the_clear(kind: Kind, session: u64, request: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; crate::wire::header::HEADER_BYTES];
    Header::new(kind, session, request).encode(&mut packet, payload, &mut crate::wire::checksum::Checksummer::new());
    packet.extend_from_slice(payload);
    packet
}

#[test]
fn words_in_the_clear_neither_end_a_sealed_session_nor_speak_in_it() {
    let mut pair = open_sealed();
    let session = pair.server.any_session().unwrap();
    for _ in 0..100 {
        pair.now += Duration::from_millis(1);
        for kind in [Kind::Reset, Kind::Bye, Kind::Response, Kind::Status, Kind::KeepAlive] {
            pair.deliver_to_client(&in_the_clear(kind, session, 8, b"0123456789abcdef"));
        }
        for kind in [Kind::Request, Kind::Probe, Kind::Ack, Kind::KeepAlive, Kind::Bye] {
            pair.deliver_to_server(&in_the_clear(kind, session, 8, b"0123456789abcdef"));
        }
        pair.run();
    }
    assert!(pair.client.is_open() && pair.executed.is_empty());
    assert_eq!((pair.client_events.len(), pair.server_events.len()), (1, 1));
    assert_eq!((pair.client.stats().drops.unsealed, pair.server.stats().drops.unsealed), (400, 500));
    pair.assert_round_trip(&message(10, 10, 0));
}

#[test]
fn a_server_that_restarted_is_believed_after_a_moment() {
    let mut pair = open_sealed();
    pair.request(&message(10, 10, 0));
    pair.server = sealed_server(100, pair.now);
    let start = pair.now;
    for _ in 0..100 {
        pair.run();
        if pair.client_events.len() == 2 {
            break;
        }
        pair.step_to_timeout();
    }
    assert_eq!(pair.client_events, ["opened 99", "reset"]);
    assert!(pair.now - start < Duration::from_millis(50), "{:?}", pair.now - start);
    pair.client.reopen(pair.now);
    pair.run();
    assert!(
        !pair.client.is_open() && pair.client.wants_prepare(),
        "a handshake is not made where memory cannot be had"
    );
    pair.client.prepare();
    pair.run();
    assert_eq!(pair.client_events.last().map(String::as_str), Some("opened 100"));
    pair.assert_round_trip(&message(10, 10, 0));
}

#[test]
fn an_incarnation_belongs_to_whoever_opened_it() {
    let mut pair = open_sealed();
    let session = pair.server.any_session();
    let mut thief = Client::new(client_config(1500), Some(key("bob")), pair.now);
    std::mem::swap(&mut pair.client, &mut thief);
    pair.refuses = true;
    pair.client.reopen(pair.now);
    pair.client.prepare();
    pair.run();
    assert_eq!((pair.client.is_open(), pair.client.refusal()), (false, Some(Verdict::Taken)));
    assert_eq!((pair.server.session_count(), pair.server.any_session()), (1, session));
    std::mem::swap(&mut pair.client, &mut thief);
    pair.refuses = false;
    pair.assert_round_trip(&message(10, 10, 0));
}

#[test]
fn a_sealed_session_closes_in_order() {
    let mut pair = open_sealed();
    pair.client.close(pair.now);
    pair.run();
    assert!(pair.client.is_closed());
    assert_eq!(pair.server_events, ["opened 7", "closed 7"]);
}
