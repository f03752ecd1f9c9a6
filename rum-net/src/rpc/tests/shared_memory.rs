//! Sessions over memory that client and server share: payloads carry no checksum, if both say so.

use super::*;
use crate::wire::{
    checksum::Checksummer,
    header::{HEADER_BYTES, flag},
};

fn open(client_shares: bool, server_shares: bool) -> Pair {
    let mut pair = Pair::new(1500);
    pair.client = Client::new(client_config(1500), None, pair.now).over_shared_memory(client_shares);
    pair.server = new_server(server_config(1500, 99), pair.now).over_shared_memory(server_shares);
    pair.run();
    assert!(pair.client.is_open());
    pair
}

fn all_unsummed(packets: &VecDeque<Vec<u8>>) -> bool {
    assert!(!packets.is_empty());
    packets.iter().all(|packet| Header::decode(packet).unwrap().is_unsummed())
}

/// The packet with the flag set, and the checksum that goes with it.
fn unsummed(packet: &[u8]) -> Vec<u8> {
    let parsed = Header::decode(packet).unwrap();
    let header = Header { flags: parsed.header.flags | flag::UNSUMMED, ..parsed.header };
    let mut forged = packet.to_vec();
    header.encode(&mut forged[..HEADER_BYTES], parsed.payload, &mut Checksummer::new());
    forged
}

#[test]
fn payloads_go_without_a_checksum_only_if_both_sides_share_memory() {
    for (client, server) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut pair = open(client, server);
        let request = message(4000, 4000, 1);
        pair.request(&request);
        pair.poll_client();
        assert_eq!(all_unsummed(&pair.to_server), client && server);
        while let Some(packet) = pair.to_server.pop_front() {
            pair.deliver_to_server(&packet);
        }
        pair.poll_server();
        pair.to_client.retain(|packet| Header::decode(packet).unwrap().header.kind == Kind::Response);
        assert_eq!(all_unsummed(&pair.to_client), client && server);
        pair.run();
        assert_eq!(pair.complete.len(), 1);
        assert!(pair.complete[0].1 == answer(&request));
    }
}

#[test]
fn a_damaged_header_is_noticed_nevertheless() {
    let mut pair = open(true, true);
    pair.request(&message(40, 40, 1));
    pair.poll_client();
    let packet = pair.to_server.pop_front().unwrap();
    for bit in 0..HEADER_BYTES * 8 {
        let mut damaged = packet.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        pair.deliver_to_server(&damaged);
    }
    assert!(pair.executed.is_empty());
    pair.deliver_to_server(&packet);
    assert_eq!(pair.executed.len(), 1);
}

#[test]
fn who_was_not_granted_it_cannot_leave_the_checksum_out() {
    let mut pair = Pair::open(1500);
    pair.request(&message(40, 40, 1));
    pair.poll_client();
    let request = pair.to_server.pop_front().unwrap();
    pair.deliver_to_server(&unsummed(&request));
    assert_eq!((pair.server.stats().drops.checksum, pair.executed.len()), (1, 0));
    pair.deliver_to_server(&request);
    pair.poll_server();
    let response = pair.to_client.pop_front().unwrap();
    pair.deliver_to_client(&unsummed(&response));
    assert_eq!((pair.client.stats().drops.checksum, pair.complete.len()), (1, 0));
    pair.deliver_to_client(&response);
    assert_eq!(pair.complete.len(), 1);
}
