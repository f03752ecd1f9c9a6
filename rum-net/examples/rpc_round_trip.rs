//! Measures the RPC protocol without a wire: client, server and in-process port in one thread.
//! `cargo run --release -p rum-net --example rpc_round_trip`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use rum_net::{
    port::{Address, LinkId, Port, memory::MemoryPort},
    rpc::{
        Incarnation,
        client::{Client, ClientConfig, ClientEvent},
        server::{Server, ServerConfig, ServerEvent},
    },
    wire::{
        checksum::crc32c,
        ethernet::{self, EthernetHeader},
    },
};

const MTU: usize = 9000;
const ROUNDS: usize = 1000;

struct Rig {
    client: Client,
    server: Server,
    client_port: MemoryPort,
    server_port: MemoryPort,
    response: Vec<u8>,
    page: Vec<u8>,
    completed: usize,
}

impl Rig {
    fn new(slots: usize, response_bytes: usize) -> Self {
        let (client_port, server_port) = MemoryPort::pair(MTU).expect("eventfds can be made");
        let now = Instant::now();
        let incarnation = Incarnation(1);
        let client = ClientConfig { incarnation, channel: 0, mtu: MTU, slots, max_request_bytes: 4608 };
        let server = ServerConfig { incarnation, mtu: MTU, session_timeout: Duration::from_secs(10), max_sessions: 10 };
        Self {
            client: Client::new(client, None, now),
            server: Server::new(server, None, [7; 32], now),
            client_port,
            server_port,
            response: vec![7; response_bytes],
            page: vec![0; response_bytes],
            completed: 0,
        }
    }

    fn step(&mut self, now: Instant) {
        let head = EthernetHeader { destination: self.server_port.mac(), source: self.client_port.mac() }.encode();
        while let Some(packet) = self.client.poll_transmit(now) {
            if self.client_port.transmit(LinkId(0), &packet.behind(&head)).is_err() {
                self.client.not_sent();
                break;
            }
        }
        self.client_port.flush();
        let Self { server, server_port, response, client, client_port, page, completed, .. } = self;
        server_port.receive(64, &mut |link, frame| {
            let address = Address { link, ..Address::default() };
            server.handle(now, address, &frame[ethernet::HEADER_BYTES..], &mut |responder, event| {
                if let ServerEvent::Request { .. } = event {
                    responder.response().head.extend_from_slice(response);
                }
            });
        });
        while let Some((to, packet)) = server.poll_transmit(now) {
            if server_port.transmit(to.link, &packet.behind(&head)).is_err() {
                server.not_sent();
                break;
            }
        }
        server_port.flush();
        client_port.receive(64, &mut |_, frame| {
            client.handle(now, &frame[ethernet::HEADER_BYTES..], &mut |event| match event {
                ClientEvent::Fragment { offset, bytes, .. } => {
                    page[offset..offset + bytes.len()].copy_from_slice(bytes)
                }
                ClientEvent::Complete { .. } => *completed += 1,
                ClientEvent::Opened { .. } | ClientEvent::Reset => {}
            });
        });
    }

    /// Nanoseconds a request with `depth` in flight: the median and the tenth percentile of many short runs, of which
    /// the second tells more on a busy machine.
    fn measure(&mut self, depth: usize) -> (f64, f64) {
        while !self.client.is_open() {
            self.step(Instant::now());
        }
        percentiles(|| {
            let mut asked = 0;
            self.completed = 0;
            while self.completed < ROUNDS {
                let now = Instant::now();
                while asked < ROUNDS && self.client.in_flight() < depth {
                    self.client.request(now, &[1; 64], &[]).expect("a slot is free");
                    asked += 1;
                }
                self.step(now);
            }
        })
    }
}

/// Median and tenth percentile of the nanoseconds that each of `ROUNDS` rounds in `run` takes.
fn percentiles(mut run: impl FnMut()) -> (f64, f64) {
    let mut runs: Vec<f64> = (0..500)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64 / ROUNDS as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    (runs[runs.len() / 2], runs[runs.len() / 10])
}

fn print(what: &str, (median, tenth): (f64, f64)) {
    println!("{what}: {median:.0} ns, tenth percentile {tenth:.0} ns");
}

fn main() {
    let page = black_box(vec![3u8; 4096]);
    for bytes in [40, 104, 4096] {
        let run = || (0..ROUNDS).for_each(|_| _ = black_box(crc32c(black_box(&page[..bytes]))));
        print(&format!("crc32c of {bytes} bytes"), percentiles(run));
    }
    let mut copy = vec![0u8; 4096];
    let run = || (0..ROUNDS).for_each(|_| black_box(&mut copy).copy_from_slice(black_box(&page)));
    print("memcpy of 4096 bytes", percentiles(run));
    for (slots, depth, response) in [(8, 1, 64), (8, 1, 4096), (32, 32, 64), (32, 32, 4096)] {
        let what = format!("64 B request, {response} B response, {depth} in flight");
        print(&what, Rig::new(slots, response).measure(depth));
    }
}
