//! Clients of one server behind one narrow link, in virtual time: how they share it, how full it is, and what losses and a
//! pulled cable cost. The figures are exact: no clock of the machine is in them.

use std::time::{Duration, Instant};

use rum_net::{
    port::{Address, LinkId},
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES,
        client::{Client, ClientConfig, ClientEvent},
        server::{Server, ServerConfig, ServerEvent},
    },
};

use crate::{
    network::{Delivery, Network},
    weather::{Rng, Weather},
};

/// 10 Gbit/s.
const BYTES_PER_US: u64 = 1250;
const LATENCY: Duration = Duration::from_micros(10);
/// What a switch of ten ports at this speed may hold for one of them.
const QUEUE_BYTES: u64 = 1 << 20;
/// A page with its head.
const PAGE_MESSAGE_BYTES: usize = 4136;
const REQUEST_BYTES: usize = 32;

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Read { pages: usize },
    Write { pages: usize },
}

impl Work {
    /// Of the request and of the response.
    fn bytes(self) -> (usize, usize) {
        match self {
            Self::Read { pages } => (REQUEST_BYTES, pages * PAGE_MESSAGE_BYTES),
            Self::Write { pages } => (pages * PAGE_MESSAGE_BYTES, 8),
        }
    }
}

struct Reader {
    client: Client,
    begins: Instant,
    completed: u64,
    last: Instant,
    longest_stall: Duration,
}

impl Reader {
    fn due(&self) -> Option<Instant> {
        self.client.poll_timeout().map(|at| at.max(self.begins))
    }
}

struct Bottleneck {
    net: Network,
    now: Instant,
    start: Instant,
    server: Server,
    readers: Vec<Reader>,
    work: Work,
    zeros: Vec<u8>,
}

impl Bottleneck {
    fn new(clients: usize, work: Work, mtu: usize, loss: f64, seed: u64) -> Self {
        let now = Instant::now();
        let weather = Weather {
            loss,
            latency: LATENCY,
            bytes_per_us: BYTES_PER_US,
            queue_bytes: QUEUE_BYTES,
            path_mtu: usize::MAX,
            ..Weather::draw(&mut Rng(0))
        };
        let weather = Weather { loss, queue_bytes: QUEUE_BYTES, ..weather.well() };
        let server = ServerConfig {
            incarnation: Incarnation(1),
            mtu,
            session_timeout: Duration::from_secs(10),
            max_sessions: clients,
        };
        let mut rng = Rng(seed);
        let readers = (0..clients)
            .map(|number| {
                let config = ClientConfig {
                    incarnation: Incarnation(2 + number as u128),
                    channel: 0,
                    mtu,
                    slots: 32,
                    max_request_bytes: work.bytes().0.max(1),
                };
                // One after the other, as processes start.
                let begins = now + Duration::from_micros(rng.below(2000));
                let client = Client::new(config, None, now);
                Reader { client, begins, completed: 0, last: now, longest_stall: Duration::ZERO }
            })
            .collect();
        Self {
            net: Network::new(rng, weather, 1, now),
            now,
            start: now,
            server: Server::new(server, None, [3; 32], now),
            readers,
            work,
            zeros: vec![0; MAX_MESSAGE_BYTES],
        }
    }

    fn poll_client(&mut self, index: usize) {
        let Self { net, now, readers, work, zeros, .. } = self;
        let Reader { client, .. } = &mut readers[index];
        while client.free_slots() > 0 {
            client.request(*now, &zeros[..work.bytes().0], &[]).expect("a free slot");
        }
        let from = Address { link: LinkId(index as u64), ..Address::default() };
        while let Some(packet) = client.poll_transmit(*now) {
            let packet = net.packet(&packet);
            net.send_to_host(*now, 0, from, packet, false);
        }
    }

    fn poll_server(&mut self) {
        let Self { net, now, server, .. } = self;
        while let Some((to, packet)) = server.poll_transmit(*now) {
            let packet = net.packet(&packet);
            net.send_to_asker(*now, 0, to.link, packet, false);
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let timers = self.readers.iter().filter_map(Reader::due);
            let timer = timers.min().unwrap_or(end).max(self.now);
            let packet = self.net.next_at().unwrap_or(end);
            if timer.min(packet) >= end {
                self.now = end;
                return;
            }
            if timer < packet {
                self.now = timer + Duration::from_nanos(100);
                for index in 0..self.readers.len() {
                    if self.readers[index].due().is_some_and(|at| at <= self.now) {
                        self.poll_client(index);
                    }
                }
                continue;
            }
            self.now = self.now.max(packet);
            if let Some(delivery) = self.net.pop() {
                self.deliver(delivery);
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let now = self.now;
        match delivery {
            Delivery::ToHost { from, packet, .. } => {
                let Self { server, zeros, work, .. } = self;
                server.handle(now, from, &packet, &mut |responder, event| {
                    if let ServerEvent::Request { .. } = event {
                        responder.response().head.extend_from_slice(&zeros[..work.bytes().1]);
                    }
                });
                self.net.take_back(packet);
                self.poll_server();
            }
            Delivery::ToAsker { link, packet, .. } => {
                let index = link.0 as usize;
                let Reader { client, completed, last, longest_stall, .. } = &mut self.readers[index];
                client.handle(now, &packet, &mut |event| match event {
                    ClientEvent::Complete { .. } => {
                        *completed += 1;
                        *longest_stall = (*longest_stall).max(now - *last);
                        *last = now;
                    }
                    ClientEvent::Reset => panic!("a session was reset"),
                    ClientEvent::Opened { .. } | ClientEvent::Fragment { .. } => {}
                });
                self.net.take_back(packet);
                self.poll_client(index);
            }
            Delivery::Answer { .. } => {}
        }
    }

    /// What happens in `length`, after `warm_up`.
    fn measure(&mut self, warm_up: Duration, length: Duration) -> Figures {
        self.run_until(self.start + warm_up);
        let before: Vec<u64> = self.readers.iter().map(|reader| reader.completed).collect();
        for reader in &mut self.readers {
            (reader.longest_stall, reader.last) = (Duration::ZERO, self.now);
        }
        let (carried, overflows, packets) = (self.net.carried_bytes, self.net.overflows, self.net.packets);
        self.run_until(self.now + length);
        let done: Vec<f64> =
            self.readers.iter().zip(before).map(|(reader, before)| (reader.completed - before) as f64).collect();
        let direction = usize::from(matches!(self.work, Work::Read { .. }));
        let could = length.as_micros() as u64 * BYTES_PER_US;
        Figures {
            jain: jain(&done),
            used: (self.net.carried_bytes[direction] - carried[direction]) as f64 / could as f64,
            dropped: (self.net.overflows - overflows) as f64 / (self.net.packets - packets) as f64,
            messages: done.iter().sum(),
            longest_stall: self.readers.iter().map(|reader| reader.longest_stall).max().unwrap_or_default(),
        }
    }
}

#[derive(Debug)]
struct Figures {
    jain: f64,
    /// Of what the narrow link could have carried.
    used: f64,
    /// Of all packets.
    dropped: f64,
    messages: f64,
    longest_stall: Duration,
}

/// Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination", 1984.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn clients_share_a_narrow_link_fairly_and_fill_it() {
    let works =
        [Work::Read { pages: 1 }, Work::Read { pages: 16 }, Work::Write { pages: 1 }, Work::Write { pages: 16 }];
    let mut bad = Vec::new();
    for work in works {
        for clients in [2, 8, 64] {
            for mtu in [1500, 9000] {
                let mut bottleneck = Bottleneck::new(clients, work, mtu, 0.0, clients as u64);
                // Long enough for 64 clients to have some dozens of messages each.
                let length = if work.bytes().0.max(work.bytes().1) > PAGE_MESSAGE_BYTES { 200 } else { 50 };
                let length = Duration::from_millis(length);
                let figures = bottleneck.measure(length, length);
                let said = format!("{clients} clients, MTU {mtu}, {work:?}: {figures:.3?}");
                println!("{said}");
                // One jumbo packet of each of 64 clients is a longer queue than wanted already, and fewer a session cannot
                // have under way; of short ones some have one, and some two.
                let is_even = match (clients, mtu) {
                    (64, 9000) => true,
                    (64, _) => figures.jain >= 0.9,
                    _ => figures.jain >= 0.95,
                };
                if !is_even || figures.used < 0.9 || figures.dropped > 0.005 {
                    bad.push(said);
                }
            }
        }
    }
    assert!(bad.is_empty(), "unfair, idle or overflowing:\n{}", bad.join("\n"));
}

#[test]
fn one_packet_in_a_thousand_lost_costs_little() {
    // A page's way there and back, when nobody else is there.
    let round_trip = 2 * LATENCY + Duration::from_nanos(1000 * PAGE_MESSAGE_BYTES as u64 / BYTES_PER_US);
    let mut bad = Vec::new();
    for work in [Work::Read { pages: 1 }, Work::Read { pages: 16 }, Work::Write { pages: 1 }, Work::Write { pages: 16 }]
    {
        for mtu in [1500, 9000] {
            let measure = |loss, seed| {
                let mut bottleneck = Bottleneck::new(1, work, mtu, loss, seed);
                bottleneck.measure(Duration::from_millis(20), Duration::from_millis(200))
            };
            let clean = measure(0.0, 1);
            for seed in 1..4 {
                let lossy = measure(0.001, seed);
                let share = lossy.messages / clean.messages;
                let stalls = lossy.longest_stall.as_secs_f64() / round_trip.as_secs_f64();
                let said =
                    format!("MTU {mtu}, {work:?}: {share:.3} of {clean:.3?}; longest stall {stalls:.1} round trips");
                println!("{said}");
                if share < 0.9 || stalls > 10.0 {
                    bad.push(said);
                }
            }
        }
    }
    assert!(bad.is_empty(), "losses cost too much:\n{}", bad.join("\n"));
}

#[test]
fn a_link_that_was_down_for_three_seconds_goes_on_without_error() {
    for clients in [1, 8] {
        let mut bottleneck = Bottleneck::new(clients, Work::Read { pages: 1 }, 1500, 0.0, 7);
        bottleneck.run_until(bottleneck.start + Duration::from_millis(20));
        bottleneck.net.is_down = true;
        bottleneck.run_until(bottleneck.now + Duration::from_secs(3));
        bottleneck.net.is_down = false;
        let up = bottleneck.now;
        let before: Vec<u64> = bottleneck.readers.iter().map(|reader| reader.completed).collect();
        bottleneck.run_until(up + Duration::from_secs(1));
        for (reader, before) in bottleneck.readers.iter().zip(before) {
            assert!(
                reader.completed > before + 1000,
                "{} pages in the second after the link came up",
                reader.completed - before
            );
        }
    }
}
