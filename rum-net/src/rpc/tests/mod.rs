//! A client and a server joined by hand, with a clock that the test steps.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    client::{Client, ClientConfig, ClientEvent, RequestId},
    server::{RequestToken, Server, ServerConfig, ServerEvent},
    *,
};
use crate::{
    port::{Address, LinkId},
    shared::SharedBytes,
    wire::{
        header::{Header, Kind},
        hello::Verdict,
    },
};

mod recovery;
mod sealed;
mod shared_bytes;
mod shared_memory;

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
    /// The same, as the server's user may keep them.
    kept: Vec<SharedBytes>,
    server_events: Vec<String>,
    client_events: Vec<String>,
    responses: HashMap<RequestId, Vec<u8>>,
    complete: Vec<(RequestId, Vec<u8>)>,
    to_server: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
    /// Bytes of the longest packet delivered.
    longest: usize,
    /// The server's user lets no client in.
    refuses: bool,
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

fn new_server(config: ServerConfig, now: Instant) -> Server {
    Server::new(config, None, [7; 32], now)
}

impl Pair {
    fn new(mtu: usize) -> Self {
        let now = Instant::now();
        Self {
            now,
            client: Client::new(client_config(mtu), None, now),
            server: new_server(server_config(mtu, 99), now),
            answering: Answering::AtOnce,
            executed: Vec::new(),
            kept: Vec::new(),
            server_events: Vec::new(),
            client_events: Vec::new(),
            responses: HashMap::new(),
            complete: Vec::new(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            longest: 0,
            refuses: false,
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
            self.to_server.push_back(packet.to_vec());
        }
    }

    fn poll_server(&mut self) {
        while let Some((_, packet)) = self.server.poll_transmit(self.now) {
            self.to_client.push_back(packet.to_vec());
        }
    }

    fn deliver_to_server(&mut self, packet: &[u8]) {
        self.longest = self.longest.max(packet.len());
        let Self { executed, kept, server_events, answering, refuses, .. } = self;
        self.server.handle(self.now, Address::default(), packet, &mut |responder, event| match event {
            ServerEvent::Request { token, message, .. } => {
                executed.push((token, message.to_vec()));
                kept.push(responder.keep(message));
                if *answering == Answering::AtOnce {
                    responder.response().head.extend_from_slice(&answer(message));
                }
            }
            ServerEvent::Opened { .. } if *refuses => responder.refuse(),
            ServerEvent::Opened { client, .. } => server_events.push(format!("opened {}", client.0)),
            ServerEvent::Closed { client, .. } => server_events.push(format!("closed {}", client.0)),
        });
    }

    fn deliver_to_client(&mut self, packet: &[u8]) {
        self.longest = self.longest.max(packet.len());
        let Self { client_events, responses, complete, .. } = self;
        self.client.handle(self.now, packet, &mut |event| match event {
            ClientEvent::Opened { incarnation } => client_events.push(format!("opened {}", incarnation.0)),
            ClientEvent::Fragment { request, offset, bytes } => {
                let response = responses.entry(request).or_default();
                response.resize(response.len().max(offset + bytes.len()), 0);
                response[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            ClientEvent::Complete { request, len } => {
                let response = responses.remove(&request).unwrap_or_default();
                assert_eq!(response.len(), len);
                complete.push((request, response));
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
        self.assert_answered(request, message);
    }

    fn assert_answered(&mut self, request: RequestId, message: &[u8]) {
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

/// Sums up what a pair has done, for one request in each direction of several packets.
fn assert_done_once(pair: &Pair, what: &str) {
    assert_eq!(pair.executed.len(), 2, "{what}: a request ran twice or not at all");
    assert_eq!(pair.complete.len(), 2, "{what}");
    for (token, message) in &pair.executed {
        let (_, response) = pair.complete.iter().find(|(id, _)| id.0 == token.request).expect("it was answered");
        assert!(*response == answer(message), "{what}: wrong bytes");
    }
}

/// Opens a session, makes a long request with a short answer and the reverse; `fault` sees each packet with its
/// number and says how often it is delivered. Timers are stepped until all is done.
fn run_with_fault(answering: Answering, fault: &dyn Fn(usize) -> usize) -> (Pair, usize) {
    let mut pair = Pair::new(1500);
    pair.answering = answering;
    let mut packets = 0;
    let mut asked = 0;
    let mut answered = 0;
    for _ in 0..10_000 {
        pair.poll_client();
        pair.poll_server();
        if let Some(packet) = pair.to_server.pop_front() {
            for _ in 0..fault(packets) {
                pair.deliver_to_server(&packet);
            }
            packets += 1;
        } else if let Some(packet) = pair.to_client.pop_front() {
            for _ in 0..fault(packets) {
                pair.deliver_to_client(&packet);
            }
            packets += 1;
        } else if pair.client.is_open() && asked < 2 {
            let (response_bytes, request_bytes) = [(12, 7000), (7000, 12)][asked];
            pair.request(&message(response_bytes, request_bytes, 1));
            asked += 1;
        } else if answering == Answering::Later && answered < pair.executed.len() {
            let (token, message) = pair.executed[answered].clone();
            pair.server.respond(token, &answer(&message));
            answered += 1;
        } else if pair.complete.len() == 2 {
            return (pair, packets);
        } else {
            pair.step_to_timeout();
        }
    }
    panic!("hangs");
}

#[test]
fn whichever_packet_is_lost_or_doubled_nothing_hangs_and_nothing_runs_twice() {
    for answering in [Answering::AtOnce, Answering::Later] {
        let (pair, packets) = run_with_fault(answering, &|_| 1);
        assert_done_once(&pair, "no fault");
        assert_eq!(pair.client.stats().timeouts, 0);
        assert!(packets >= 14, "hello, hello-ack, 5 + 1 and 1 + 5 fragments: {packets}");
        for first in 0..packets {
            let (pair, _) = run_with_fault(answering, &|packet| usize::from(packet != first));
            assert_done_once(&pair, &format!("packet {first} lost"));
            let (pair, _) = run_with_fault(answering, &|packet| if packet == first { 2 } else { 1 });
            assert_done_once(&pair, &format!("packet {first} doubled"));
            for second in first..packets + 6 {
                let (pair, _) = run_with_fault(answering, &|packet| usize::from(packet != first && packet != second));
                assert_done_once(&pair, &format!("packets {first} and {second} lost"));
            }
        }
    }
}

#[test]
fn windows_go_on_without_timers_when_many_long_messages_compete() {
    for mtu in [1500, 4352] {
        let mut pair = Pair::open(mtu);
        pair.answering = Answering::Later;
        for seed in 0..8 {
            pair.request(&message(MAX_MESSAGE_BYTES as u32, MAX_MESSAGE_BYTES, seed));
        }
        pair.poll_client();
        assert_eq!(pair.to_server.len() as u32, pair.client.window());
        pair.run();
        let tokens: Vec<_> = pair.executed.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens.len(), 8);
        let sent = pair.server.stats().packets_sent;
        for token in tokens {
            pair.server.respond(token, &[9; MAX_MESSAGE_BYTES]);
        }
        pair.poll_server();
        let at_once = pair.server.stats().packets_sent - sent;
        assert!((16..=u64::from(pair.client.window())).contains(&at_once), "{at_once} packets without an ack");
        assert!(!pair.server.wants_transmit());
        pair.run();
        assert_eq!(pair.complete.len(), 8, "the window never opened again");
        assert!(pair.complete.iter().all(|(_, response)| *response == [9; MAX_MESSAGE_BYTES]));
        assert_eq!(pair.client.stats().timeouts, 0);
    }
}

#[test]
fn responses_that_arrived_leave_the_window_without_another_request() {
    let mut pair = Pair::new(1500);
    pair.client = Client::new(ClientConfig { slots: 32, ..client_config(1500) }, None, pair.now);
    pair.run();
    while pair.client.window() < 32 {
        for seed in 0..32 {
            pair.request(&message(5000, 16, seed));
        }
        pair.run();
    }
    pair.answering = Answering::Later;
    pair.executed.clear();
    pair.complete.clear();
    for seed in 0..32 {
        pair.request(&message(5000, 16, seed));
    }
    pair.run();
    for (token, message) in pair.executed.clone() {
        pair.server.respond(token, &answer(&message));
        pair.run();
    }
    assert_eq!((pair.complete.len(), pair.client.stats().timeouts), (32, 0), "32 times 4 packets exceed the window");
}

#[test]
fn a_packet_that_the_port_does_not_take_is_sent_next_time() {
    let mut pair = Pair::new(1500);
    let refuse_once = |pair: &mut Pair| {
        for _ in 0..100 {
            if let Some(packet) = pair.client.poll_transmit(pair.now) {
                let refused = packet.to_vec();
                pair.client.not_sent();
                assert_eq!(pair.client.poll_timeout(), Some(pair.now), "it wants to be polled again");
                let packet = pair.client.poll_transmit(pair.now).expect("the packet was kept");
                assert_eq!(packet.to_vec(), refused);
                pair.to_server.push_back(refused);
            }
            if let Some((_, packet)) = pair.server.poll_transmit(pair.now) {
                let refused = packet.to_vec();
                pair.server.not_sent();
                assert!(pair.server.wants_transmit());
                // Slots take turns, so the same fragment comes again, but not at once.
                drop(refused);
                if let Some((_, packet)) = pair.server.poll_transmit(pair.now) {
                    let packet = packet.to_vec();
                    pair.to_client.push_back(packet);
                }
            }
            while let Some(packet) = pair.to_server.pop_front() {
                pair.deliver_to_server(&packet);
            }
            while let Some(packet) = pair.to_client.pop_front() {
                pair.deliver_to_client(&packet);
            }
        }
    };
    refuse_once(&mut pair);
    assert!(pair.client.is_open());
    pair.request(&message(7000, 7000, 1));
    refuse_once(&mut pair);
    pair.request(&message(40, 40, 1));
    refuse_once(&mut pair);
    assert_done_once(&pair, "refused packets");
    assert_eq!(pair.client.stats().timeouts, 0);
    assert_eq!(pair.client.stats().drops.total() + pair.server.stats().drops.total(), 0);
}

#[test]
fn a_restarted_server_resets_the_session_and_a_new_one_works() {
    let mut pair = Pair::open(1500);
    pair.assert_round_trip(&message(100, 100, 1));
    pair.request(&message(100, 100, 2));
    pair.server = new_server(server_config(1500, 100), pair.now);
    pair.run();
    assert_eq!(pair.client_events, ["opened 99", "reset"]);
    assert!(!pair.client.is_open() && pair.client.in_flight() == 0 && pair.client.poll_timeout().is_none());
    assert_eq!(pair.executed.len(), 1);
    pair.client.reopen(pair.now);
    pair.run();
    assert_eq!(pair.client_events.last().map(String::as_str), Some("opened 100"));
    pair.assert_round_trip(&message(100, 100, 3));
}

#[test]
fn packets_of_a_former_session_never_reach_the_next() {
    let mut pair = Pair::open(1500);
    pair.answering = Answering::Later;
    pair.request(&message(50, 50, 1));
    pair.poll_client();
    let old_request = pair.to_server.pop_front().unwrap();
    pair.deliver_to_server(&old_request);
    let (token, old_message) = pair.executed[0].clone();
    pair.server.respond(token, &answer(&old_message));
    pair.poll_server();
    let old_response = pair.to_client.pop_front().unwrap();
    let mut stranger = new_server(server_config(1500, 5), pair.now);
    stranger.handle(pair.now, Address::default(), &old_request, &mut |_, event| panic!("{event:?}"));
    let (_, packet) = stranger.poll_transmit(pair.now).expect("a reset");
    let old_reset = packet.to_vec();

    pair.client.reopen(pair.now);
    pair.deliver_to_client(&old_response);
    pair.deliver_to_client(&old_reset);
    pair.run();
    assert!(pair.client.is_open());
    assert_eq!(pair.server_events, ["opened 7", "opened 7", "closed 7"]);
    let request = pair.request(&message(60, 60, 2));
    assert!(request.0 > token.request, "ids go on growing");
    pair.run();
    pair.deliver_to_client(&old_response);
    pair.deliver_to_client(&old_reset);
    pair.deliver_to_server(&old_request);
    pair.server.respond(token, b"too late");
    pair.run();
    assert_eq!(pair.client_events, ["opened 99", "opened 99"]);
    assert!(pair.client.is_open() && pair.complete.is_empty());
    assert_eq!(pair.executed.len(), 2, "the old request did not run again");
    pair.server.respond(RequestToken { request: request.0 + 8, ..pair.executed[1].0 }, b"of another request");
    let (token, message) = pair.executed[1].clone();
    pair.server.respond(token, &answer(&message));
    pair.run();
    assert_eq!(pair.complete, [(request, answer(&message))]);
}

#[test]
fn hellos_that_come_twice_or_late_change_nothing() {
    let mut pair = Pair::new(1500);
    pair.poll_client();
    let without_cookie = pair.to_server.pop_front().unwrap();
    pair.deliver_to_server(&without_cookie);
    assert_eq!(pair.server.session_count(), 0, "nothing is kept about a client that may not be there");
    pair.poll_server();
    let retry = pair.to_client.pop_front().unwrap();
    assert!(retry.len() < without_cookie.len());
    pair.deliver_to_client(&retry);
    pair.poll_client();
    let first_hello = pair.to_server.pop_front().unwrap();
    pair.deliver_to_server(&first_hello);
    pair.run();
    assert_eq!(pair.server_events, ["opened 7"]);
    pair.poll_server();
    pair.deliver_to_server(&first_hello);
    pair.poll_server();
    let second_ack = pair.to_client.pop_front().expect("a hello is always answered");
    pair.client.reopen(pair.now);
    pair.deliver_to_client(&second_ack);
    assert!(!pair.client.is_open(), "the answer to an earlier hello opens nothing");
    pair.run();
    pair.assert_round_trip(&message(10, 10, 0));
    pair.deliver_to_server(&first_hello);
    pair.run();
    pair.assert_round_trip(&message(10, 10, 0));
    assert_eq!(pair.server_events, ["opened 7", "opened 7", "closed 7"]);
    assert_eq!((pair.server.session_count(), pair.server.stats().drops.stale), (1, 1));
}

#[test]
fn sessions_expire_when_silent_and_live_by_keep_alive() {
    let mut pair = Pair::open(1500);
    for _ in 0..5 {
        pair.now += Duration::from_secs(9);
        pair.client.keep_alive(pair.now);
        pair.run();
        assert_eq!(pair.client.last_heard(), Some(pair.now), "a keep-alive is answered");
        pair.server.expire(pair.now, &mut |event| panic!("{event:?}"));
    }
    pair.now += Duration::from_secs(10);
    let mut closed = 0;
    assert!(pair.server.poll_timeout().is_some_and(|at| at <= pair.now));
    pair.server.expire(pair.now, &mut |event| closed += usize::from(matches!(event, ServerEvent::Closed { .. })));
    assert_eq!((closed, pair.server.session_count(), pair.server.poll_timeout()), (1, 0, None));
    pair.client.keep_alive(pair.now);
    pair.run();
    assert_eq!(pair.client_events.last().map(String::as_str), Some("reset"));
}

#[test]
fn an_orderly_close_ends_both_sides_even_if_its_packets_are_lost() {
    let mut pair = Pair::open(1500);
    pair.request(&message(10, 10, 0));
    pair.client.close(pair.now);
    for _ in 0..3 {
        pair.lose_all();
        pair.step_to_timeout();
    }
    pair.poll_client();
    let bye = pair.to_server.pop_front().unwrap();
    pair.deliver_to_server(&bye);
    pair.lose_all();
    assert!(!pair.client.is_closed());
    pair.step_to_timeout();
    pair.run();
    assert!(pair.client.is_closed() && pair.client.poll_timeout().is_none());
    assert_eq!(pair.server_events, ["opened 7", "closed 7"]);
    assert!(pair.executed.is_empty() && pair.client.free_slots() == 0);
}

#[test]
fn strangers_are_answered_at_a_limited_rate() {
    let mut pair = Pair::open(1500);
    pair.request(&message(10, 10, 0));
    pair.poll_client();
    let packet = pair.to_server.pop_front().unwrap();
    let mut server = new_server(server_config(1500, 5), pair.now);
    let mut resets = |now: Instant, senders: std::ops::Range<u64>| {
        let mut resets = 0;
        for number in 0..5000 {
            let sender = senders.start + number % (senders.end - senders.start);
            let from = Address { link: LinkId(sender), ..Address::default() };
            server.handle(now, from, &packet, &mut |_, event| panic!("{event:?}"));
            while server.poll_transmit(now).is_some() {
                resets += 1;
            }
        }
        resets
    };
    assert_eq!(resets(pair.now, 0..1), 32, "one sender has its share");
    assert_eq!(resets(pair.now, 1..1000), 256 - 32, "and leaves the rest to others");
    assert_eq!(resets(pair.now, 0..1000), 0);
    pair.now += Duration::from_millis(10);
    assert_eq!(resets(pair.now, 0..1), 32);
    assert_eq!(server.stats().drops.session, 20_000);
}

#[test]
fn a_full_server_refuses_and_says_so() {
    let mut pair = Pair::new(1500);
    for number in 0..5 {
        let config = ClientConfig { incarnation: Incarnation(1000 + number), ..client_config(1500) };
        pair.client = Client::new(config, None, pair.now);
        pair.run();
        assert_eq!((pair.client.is_open(), pair.client.refusal().is_some()), (number < 4, number == 4));
    }
    assert_eq!((pair.server.session_count(), pair.server.stats().drops.refused), (4, 1));
    pair.now += Duration::from_secs(11);
    pair.server.expire(pair.now, &mut |_| ());
    pair.run();
    // Its cookie has become too old, and the next hello has another.
    pair.now += Duration::from_secs(1);
    pair.run();
    assert!(pair.client.is_open() && pair.client.refusal().is_none(), "it goes on asking");
}

#[test]
fn responses_are_forgotten_once_they_have_arrived() {
    let mut pair = Pair::open(1500);
    for seed in 0..8 {
        pair.request(&message(4096, 16, seed));
        pair.client.keep_alive(pair.now);
    }
    pair.answering = Answering::Later;
    pair.run();
    for (token, _) in pair.executed.clone() {
        pair.server.respond(token, &[1; 4096]);
        pair.run();
    }
    pair.client.keep_alive(pair.now);
    pair.run();
    assert_eq!(pair.server.kept_response_bytes(), 0);
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<server::session::Session>() <= 256, "{} bytes", size_of::<server::session::Session>());
    assert!(size_of::<server::session::Slot>() <= 144, "{} bytes", size_of::<server::session::Slot>());
}

#[test]
fn a_client_that_comes_by_another_link_is_answered_there() {
    let mut pair = Pair::open(1500);
    pair.request(&message(9000, 10, 0));
    pair.poll_client();
    let packet = pair.to_server.pop_front().unwrap();
    pair.deliver_to_server(&packet);
    pair.server.link_closed(Address::default().link);
    assert!(pair.server.poll_transmit(pair.now).is_none());
    pair.step_to_timeout();
    pair.poll_client();
    let packet = pair.to_server.pop_front().unwrap();
    let other = Address { link: crate::port::LinkId(9), ..Address::default() };
    pair.server.handle(pair.now, other, &packet, &mut |_, event| panic!("{event:?}"));
    let (to, _) = pair.server.poll_transmit(pair.now).expect("the response goes to the new link");
    assert_eq!(to, other);
    pair.server.not_sent();
    pair.run();
    assert_eq!(pair.complete.len(), 1);
}

mod hostile {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{checksum::Checksummer, header::HEADER_BYTES};

    const KINDS: [Kind; 10] = [
        Kind::Hello,
        Kind::HelloAck,
        Kind::Request,
        Kind::Response,
        Kind::Probe,
        Kind::Status,
        Kind::Ack,
        Kind::Reset,
        Kind::KeepAlive,
        Kind::Bye,
    ];

    prop_compose! {
        /// A packet with a right checksum and fields near the right ones.
        fn forged()(
            kind in prop::sample::select(&KINDS[..]),
            own_session in prop::bool::weighted(0.9),
            request in prop_oneof![0u64..40, any::<u64>()],
            sizes in prop_oneof![
                (0u32..3000, Just(0u32), 0usize..1500),
                (1457u32..9000, (0u32..6).prop_map(|i| i * 1456), Just(1456usize)),
                any::<(u32, u32)>().prop_map(|(message, offset)| (message, offset, 20)),
            ],
            words in any::<(u32, u16, u16, u16, u8)>(),
            short in prop::bool::weighted(0.3),
        ) -> (bool, Header, Vec<u8>) {
            let (message_bytes, offset, len) = sizes;
            let (idle, ahead, window, flags, byte) = words;
            let len = if short { 16 } else { len };
            let header = Header { message_bytes, offset, idle, ahead, window, flags, ..Header::new(kind, 0, request) };
            (own_session, header, vec![byte; len])
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn forged_packets_never_panic(packets in prop::collection::vec((any::<bool>(), forged()), 1..60)) {
            let mut pair = Pair::open(1500);
            pair.answering = Answering::Later;
            pair.request(&message(5000, 5000, 1));
            let session = pair.server.any_session().unwrap();
            let mut checksummer = Checksummer::new();
            for (to_server, (own_session, mut header, payload)) in packets {
                header.session = if own_session { session } else { header.request };
                let mut packet = vec![0; HEADER_BYTES];
                header.encode(&mut packet, &payload, &mut checksummer);
                packet.extend_from_slice(&payload);
                if to_server {
                    pair.server.handle(pair.now, Address::default(), &packet, &mut |responder, event| {
                        if let ServerEvent::Request { message, .. } = event && message.len() % 2 == 0 {
                            responder.response().head.resize(message.len() * 20, 1);
                        }
                    });
                } else {
                    pair.client.handle(pair.now, &packet, &mut |_| ());
                }
                pair.lose_all();
                pair.now += Duration::from_millis(3);
            }
        }
    }
}
