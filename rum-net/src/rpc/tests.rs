//! A client and a server joined by hand, with a clock that the test steps.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    client::{Client, ClientConfig, ClientEvent, RequestId},
    server::{RequestToken, Server, ServerConfig, ServerEvent},
    *,
};
use crate::port::Address;

/// What the test's server does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answering {
    AtOnce,
    Later,
}

struct Pair {
    now: Instant,
    client: Client,
    server: Server,
    answering: Answering,
    /// Requests handed up, in order.
    executed: Vec<(RequestToken, Vec<u8>)>,
    server_events: Vec<String>,
    client_events: Vec<String>,
    response: Vec<u8>,
    complete: Vec<(RequestId, Vec<u8>)>,
    to_server: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
}

/// The answer to a request: as long as its first four bytes say, and dependent on all of it.
fn answer(request: &[u8]) -> Vec<u8> {
    let len = u32::from_le_bytes(request[..4].try_into().unwrap());
    let sum = request.iter().fold(7u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (0..len).map(|i| (sum.wrapping_add(i.wrapping_mul(2_654_435_761)) >> 16) as u8).collect()
}

fn message(answer_bytes: u32, request_bytes: usize, seed: u8) -> Vec<u8> {
    let mut message = answer_bytes.to_le_bytes().to_vec();
    message.extend((4..request_bytes).map(|i| (i as u8).wrapping_mul(17) ^ seed ^ (i >> 8) as u8));
    message
}

fn client_config(mtu: usize) -> ClientConfig {
    ClientConfig { incarnation: Incarnation(7), channel: 0, mtu, slots: 8, max_request_bytes: MAX_MESSAGE_BYTES }
}

fn server_config(mtu: usize, incarnation: u128) -> ServerConfig {
    ServerConfig {
        incarnation: Incarnation(incarnation),
        mtu,
        session_timeout: Duration::from_secs(10),
        max_sessions: 4,
    }
}

impl Pair {
    fn new(mtu: usize) -> Self {
        let now = Instant::now();
        Self {
            now,
            client: Client::new(client_config(mtu), now),
            server: Server::new(server_config(mtu, 99)),
            answering: Answering::AtOnce,
            executed: Vec::new(),
            server_events: Vec::new(),
            client_events: Vec::new(),
            response: Vec::new(),
            complete: Vec::new(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    fn open(mtu: usize) -> Self {
        let mut pair = Self::new(mtu);
        pair.run();
        assert!(pair.client.is_open());
        pair
    }

    fn poll_client(&mut self) {
        while let Some(packet) = self.client.poll_transmit(self.now) {
            self.to_server.push_back([packet.head, packet.body].concat());
        }
    }

    fn poll_server(&mut self) {
        while let Some((_, packet)) = self.server.poll_transmit(self.now) {
            self.to_client.push_back([packet.head, packet.body].concat());
        }
    }

    fn deliver_to_server(&mut self, packet: &[u8]) {
        let Self { executed, server_events, answering, .. } = self;
        self.server.handle(self.now, Address::default(), packet, &mut |responder, event| match event {
            ServerEvent::Request { token, message, .. } => {
                executed.push((token, message.to_vec()));
                if *answering == Answering::AtOnce {
                    responder.response().extend_from_slice(&answer(message));
                }
            }
            ServerEvent::Opened { client, .. } => server_events.push(format!("opened {}", client.0)),
            ServerEvent::Closed { client, .. } => server_events.push(format!("closed {}", client.0)),
        });
    }

    fn deliver_to_client(&mut self, packet: &[u8]) {
        let Self { client_events, response, complete, .. } = self;
        self.client.handle(self.now, packet, &mut |event| match event {
            ClientEvent::Opened { incarnation } => client_events.push(format!("opened {}", incarnation.0)),
            ClientEvent::Fragment { offset, bytes, .. } => {
                response.resize(response.len().max(offset + bytes.len()), 0);
                response[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            ClientEvent::Complete { request, len } => {
                assert_eq!(response.len(), len);
                complete.push((request, std::mem::take(response)));
            }
            ClientEvent::Reset => client_events.push("reset".to_owned()),
        });
    }

    /// Delivers everything until nothing moves.
    fn run(&mut self) {
        loop {
            self.poll_client();
            self.poll_server();
            if let Some(packet) = self.to_server.pop_front() {
                self.deliver_to_server(&packet);
            } else if let Some(packet) = self.to_client.pop_front() {
                self.deliver_to_client(&packet);
            } else {
                return;
            }
        }
    }

    fn lose_all(&mut self) {
        self.poll_client();
        self.poll_server();
        self.to_server.clear();
        self.to_client.clear();
    }

    fn step_to_timeout(&mut self) {
        self.now = self.client.poll_timeout().expect("a timer runs").max(self.now);
    }

    fn request(&mut self, message: &[u8]) -> RequestId {
        self.client.request(self.now, message, &[]).unwrap()
    }

    fn assert_round_trip(&mut self, message: &[u8]) {
        let request = self.request(message);
        let executed = self.executed.len();
        self.run();
        assert_eq!(self.executed.len(), executed + 1);
        assert!(self.executed[executed].1 == message, "the server got other bytes");
        assert_eq!(self.complete.last().map(|(id, _)| *id), Some(request));
        assert!(self.complete.last().unwrap().1 == answer(message), "the client got other bytes");
    }
}

#[test]
fn messages_of_every_size_make_the_round_trip_over_every_mtu() {
    for mtu in [1500, 2048, 4352, 9000, 65_535] {
        let mut pair = Pair::open(mtu);
        for bytes in [4, 5, 1455, 1456, 1457, 2912, 4136, 4140, 40_000, MAX_MESSAGE_BYTES] {
            pair.assert_round_trip(&message(16, bytes, 3));
            pair.assert_round_trip(&message(bytes as u32, 16, 5));
        }
        pair.assert_round_trip(&message(0, 4, 0));
        assert_eq!(pair.client.stats().timeouts, 0, "MTU {mtu}: nothing may wait for a timer");
        assert_eq!(pair.client.stats().drops.total() + pair.server.stats().drops.total(), 0);
    }
}

#[test]
fn a_page_fits_one_packet_of_4352_bytes() {
    let mut pair = Pair::open(4352);
    let before = pair.server.stats().packets_sent;
    pair.assert_round_trip(&message(8 + 32 + 4096, 24, 1));
    assert_eq!(pair.server.stats().packets_sent - before, 1);
}

#[test]
fn a_request_of_the_greatest_length_is_answered_later() {
    let mut pair = Pair::open(1500);
    pair.answering = Answering::Later;
    for seed in 0..8 {
        pair.request(&message(MAX_MESSAGE_BYTES as u32, MAX_MESSAGE_BYTES, seed));
    }
    assert!(pair.client.request(pair.now, b"abcd", &[]).is_err());
    pair.run();
    assert_eq!(pair.executed.len(), 8, "no answer is needed for the window to go on");
    for (token, message) in pair.executed.clone() {
        pair.server.respond(token, &answer(&message));
        pair.server.respond(token, b"a second answer is ignored");
        pair.run();
    }
    assert_eq!(pair.complete.len(), 8);
    for ((_, request), (_, response)) in pair.executed.iter().zip(&pair.complete) {
        assert!(*response == answer(request));
    }
    assert_eq!(pair.client.stats().timeouts, 0);
}
