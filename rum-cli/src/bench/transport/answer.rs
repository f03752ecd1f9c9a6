//! What answers on the other CPU: a bare echo, small requests, pages of a slave.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    port::{LinkId, Port, spec::PortSpec},
    rpc::{
        Incarnation,
        server::{Server, ServerConfig, ServerEvent},
    },
    seal::{ClientKey, KeyFile},
    station::{Station, spec::LinkSpec},
};
use rum_slave::{Options, Slave, port};

use super::{
    super::{
        data,
        stage::{Measured, worker_ready},
        worker::WorkerError,
    },
    hosts,
    rig::{ANSWER_AT, FRAME_HEAD_BYTES, open_virtual},
};

/// Empty time until an answerer sleeps: it must not take its CPU from the one that is measured. As a slave does.
const IDLE: Duration = Duration::from_micros(200);
/// Packets that the bare echo takes before it sends, which is its best.
const ECHO_BUDGET: usize = 64;
/// Packets taken before answers are sent, as a slave does.
const BUDGET: usize = 16;
/// Packets after which they are handed over, as a slave does.
const FLUSH_EVERY: u32 = 8;
const SLAVE_BYTES: u64 = 512 << 20;
/// What the bare port streams: so many different pages, as many as a slave is asked for.
pub const STREAMED_PAGES: usize = 1024;

/// The keys of a slave whose sessions are sealed: nobody else reaches it.
pub fn keys() -> Result<KeyFile, WorkerError> {
    let line = format!("bench {}", "52".repeat(32));
    KeyFile::parse("the bench's keys", &line).map_err(|error| WorkerError::Wrong(error.to_string()))
}

/// The key of who measures.
pub fn key() -> Result<ClientKey, WorkerError> {
    keys()?.clients().first().cloned().ok_or(WorkerError::Usage)
}

/// Answers on a link as `role` says, until it is killed.
pub fn answer(host: &str, role: &str, link: &str) -> Result<Measured, WorkerError> {
    hosts::enter(host)?;
    let link: LinkSpec = link.parse().map_err(|_| WorkerError::Usage)?;
    match role {
        "echo" => echo(open(&link.port)?),
        "small" => small(Station::raw(open(&link.port)?)),
        "pages" | "sealed" => pages(Station::raw(open(&link.port)?), role == "sealed"),
        _ => Err(WorkerError::Usage),
    }
}

fn open(port: &PortSpec) -> Result<Box<dyn Port>, WorkerError> {
    if let PortSpec::Vdev(_) = port {
        return open_virtual(port);
    }
    port::open(port, false).map_err(|error| WorkerError::Wrong(error.to_string()))
}

/// Sleeps when there was nothing to do for a while.
struct Rest {
    since: Option<Instant>,
}

impl Rest {
    /// Whether it is time to sleep.
    fn is_due(&mut self, worked: bool) -> bool {
        if worked {
            self.since = None;
            return false;
        }
        let is_due = self.since.get_or_insert_with(Instant::now).elapsed() > IDLE;
        self.since = self.since.filter(|_| !is_due);
        is_due
    }
}

/// Sends each packet back where it came from, or as many bytes of a page as it asks for.
fn echo(mut port: Box<dyn Port>) -> Result<Measured, WorkerError> {
    println!("{}", worker_ready());
    let pages: Vec<u8> = (0..STREAMED_PAGES * data::PAGE_WORDS).flat_map(|i| data::word(i).to_le_bytes()).collect();
    let own = port.mac().0;
    let mut next = 0;
    let mut packets: Vec<(LinkId, [u8; 64], usize)> = Vec::with_capacity(ECHO_BUDGET);
    let mut rest = Rest { since: None };
    loop {
        packets.clear();
        let received = port.receive(ECHO_BUDGET, &mut |link, packet| {
            if let Some(bytes) = packet.first_chunk() {
                let answer = u16::from_be_bytes([bytes[ANSWER_AT], bytes[ANSWER_AT + 1]]);
                packets.push((link, *bytes, usize::from(answer)));
            }
        });
        for (link, bytes, answer) in &packets {
            // A refused answer is lost; who asked counts what came.
            let _ = match answer {
                0 => port.transmit(*link, &[&bytes[6..12], &own, &bytes[12..]]),
                answer => {
                    let page = next * PAGE_BYTES;
                    next = (next + 1) % STREAMED_PAGES;
                    port.transmit(
                        *link,
                        &[&bytes[6..12], &own, &bytes[12..FRAME_HEAD_BYTES], &pages[page..page + answer]],
                    )
                }
            };
        }
        port.flush();
        if rest.is_due(received > 0) {
            // It does not sleep while somebody has not been told of these.
            port.link_changes(&mut |_, _| {});
            port.wait(Duration::from_secs(1), None)?;
        }
    }
}

/// Answers requests with themselves, by the RPC layer alone.
fn small(mut station: Station) -> Result<Measured, WorkerError> {
    let config = ServerConfig {
        incarnation: Incarnation(rand::random()),
        mtu: station.mtu(),
        session_timeout: Duration::from_secs(10),
        max_sessions: 64,
    };
    let server = Server::new(config, None, rand::random(), Instant::now());
    let mut server = server.over_shared_memory(station.shares_memory());
    println!("{}", worker_ready());
    let mut rest = Rest { since: None };
    loop {
        let now = Instant::now();
        let received = station.receive(now, BUDGET, &mut |from, packet| {
            server.handle(now, from, packet, &mut |responder, event| {
                if let ServerEvent::Request { message, .. } = event {
                    responder.response().head.extend_from_slice(message);
                }
            });
        });
        let mut sent = 0;
        while let Some((to, packet)) = server.poll_transmit(now) {
            if station.transmit(now, &to, &packet).is_err() {
                server.not_sent();
                break;
            }
            sent += 1;
            if sent % FLUSH_EVERY == 0 {
                station.flush();
            }
        }
        station.flush();
        station.link_changes(&mut |link, is_open| {
            if !is_open {
                server.link_closed(link);
            }
        });
        server.expire(now, &mut |_| {});
        if rest.is_due(received > 0) {
            station.wait(Duration::from_secs(1), None)?;
        }
    }
}

/// A slave.
fn pages(station: Station, is_sealed: bool) -> Result<Measured, WorkerError> {
    let keys = if is_sealed { Some(Arc::new(keys()?)) } else { None };
    let options = Options { keys, ..Options::new(SLAVE_BYTES) };
    let _slave = Slave::start(vec![station], options).map_err(|error| WorkerError::Wrong(error.to_string()))?;
    println!("{}", worker_ready());
    loop {
        thread::park();
    }
}
