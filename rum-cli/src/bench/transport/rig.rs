//! The measuring side: sessions with a slave over one port, and the bare port.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    packet::Packet,
    port::{
        Address, LinkId, Port,
        dpdk::{DpdkOptions, DpdkPort},
        inject::{Faults, Inject},
        open_client,
        spec::PortSpec,
        vhost_user,
    },
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES, MAX_SLOTS,
        client::{Client, ClientConfig, ClientEvent, RequestId},
    },
    seal::ClientKey,
    station::Station,
    wire::message::{
        MAX_BATCH_PAGES, PageKind, PageRef, RESERVE_REQUEST_BYTES, WRITE_HEAD_MAX_BYTES, decode_empty_response,
        decode_reserve_response, encode_reserve, encode_write_head,
    },
};

use super::{
    super::{data, worker::WorkerError},
    hosts::ANSWERING_MAC,
};

/// Bytes of a bare packet before its content, of an Ethernet header's length.
pub const FRAME_HEAD_BYTES: usize = 14;
/// Where a bare packet says how many bytes of a page are to come back, behind where a header has its ethertype; 0 means the
/// packet itself.
pub const ANSWER_AT: usize = FRAME_HEAD_BYTES;
/// Packets received in one go, as a client does.
const BURST: usize = 8;
/// A bare packet whose answer takes longer was lost: its port sends none again.
const LOST: Duration = Duration::from_millis(200);
const TRIES: u32 = 20;
/// What takes longer does not come.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the port that `link` names.
pub fn open(link: &str) -> Result<Box<dyn Port>, WorkerError> {
    let port: PortSpec = link.parse().map_err(|_| WorkerError::Usage)?;
    if let PortSpec::Vdev(_) = port {
        return open_virtual(&port);
    }
    open_client(&port).map_err(|error| WorkerError::Wrong(error.to_string()))
}

/// Opens a virtual device of DPDK's, for packets as long as our own port takes.
pub fn open_virtual(port: &PortSpec) -> Result<Box<dyn Port>, WorkerError> {
    let options = DpdkOptions { mtu: Some(vhost_user::MTU), ..DpdkOptions::default() };
    let port = DpdkPort::open(port, &options).map_err(|error| WorkerError::Wrong(error.to_string()))?;
    Ok(Box::new(port))
}

/// A packet of 64 bytes, to be sent by `port`, that asks the bare echo for `answer_bytes`.
fn bare_packet(port: &dyn Port, answer_bytes: u16) -> [u8; 64] {
    let mut packet = [0x55; 64];
    // To whoever is at the other end: DPDK's device has an address of its own.
    let is_virtual = port.name().starts_with("vdev:");
    packet[..6].copy_from_slice(if is_virtual { &[0xff; 6] } else { &ANSWERING_MAC.0 });
    packet[6..12].copy_from_slice(&port.mac().0);
    packet[ANSWER_AT..ANSWER_AT + 2].copy_from_slice(&answer_bytes.to_be_bytes());
    packet
}

/// A bare port with packets under way.
pub struct Bare {
    port: Box<dyn Port>,
    packet: [u8; 64],
    sent: u64,
    got: u64,
}

impl Bare {
    /// The answers have `answer_bytes` of a page, or are the packets themselves if it is 0.
    pub fn open(link: &str, answer_bytes: u16) -> Result<Self, WorkerError> {
        let port = open(link)?;
        Ok(Self { packet: bare_packet(&*port, answer_bytes), port, sent: 0, got: 0 })
    }

    /// Sends packets with at most `window` under way, for so long, and until something came back. Returns the answers a second.
    pub fn stream(&mut self, window: u64, time: Duration, sink: &mut dyn FnMut(&[u8])) -> f64 {
        let (started, before) = (Instant::now(), self.got);
        while started.elapsed() < time || self.got == before && started.elapsed() < PATIENCE {
            for _ in 0..16 {
                let mut burst = 0;
                while burst < BURST && self.sent - self.got < window {
                    if self.port.transmit(LinkId(0), &[&self.packet]).is_err() {
                        break;
                    }
                    (self.sent, burst) = (self.sent + 1, burst + 1);
                }
                self.port.flush();
                self.got += self.port.receive(64, &mut |_, answer| sink(answer)) as u64;
            }
        }
        let rate = (self.got - before) as f64 / started.elapsed().as_secs_f64();
        self.settle();
        rate
    }

    /// Waits for what is under way; what does not come was dropped.
    fn settle(&mut self) {
        let mut heard = Instant::now();
        while self.got < self.sent && heard.elapsed() < Duration::from_millis(5) {
            match self.port.receive(64, &mut |_, _| {}) as u64 {
                0 => {}
                count => (self.got, heard) = (self.got + count, Instant::now()),
            }
        }
        self.got = self.sent;
    }

    /// One packet there and its answer back; the nanoseconds it took. One that is lost is sent again, and counts from then on.
    pub fn round_trip(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<u64, WorkerError> {
        for _ in 0..TRIES {
            let begin = Instant::now();
            if self.port.transmit(LinkId(0), &[&self.packet]).is_err() {
                break;
            }
            self.port.flush();
            while begin.elapsed() < LOST {
                if self.port.receive(1, &mut |_, answer| sink(answer)) > 0 {
                    return Ok(begin.elapsed().as_nanos() as u64);
                }
                std::hint::spin_loop();
            }
        }
        Err(WorkerError::Wrong("the bare port loses its packets".into()))
    }
}

/// Sessions over one port.
pub struct Rig {
    station: Station,
    to: Address,
    sessions: Vec<Client>,
    /// Which session it is, by its id on the wire.
    by_id: HashMap<u64, usize>,
}

impl Rig {
    /// Opens a port, with faults such as `loss=0.001,seed=1` if there are any, without a session.
    pub fn open(link: &str, faults: Option<&str>) -> Result<Self, WorkerError> {
        let mut port = open(link)?;
        if let Some(faults) = faults {
            let faults: Faults = faults.parse().map_err(|_| WorkerError::Usage)?;
            port = Box::new(Inject::new(port, faults));
        }
        let to = Address { mac: ANSWERING_MAC, ..Address::default() };
        Ok(Self { station: Station::raw(port), to, sessions: Vec::new(), by_id: HashMap::new() })
    }

    /// Opens a session of a client of its own; returns its number.
    pub fn join(&mut self, key: Option<ClientKey>) -> Result<usize, WorkerError> {
        let config = ClientConfig {
            incarnation: Incarnation(rand::random()),
            channel: 0,
            mtu: self.station.mtu(),
            slots: MAX_SLOTS,
            max_request_bytes: MAX_MESSAGE_BYTES,
        };
        let client = Client::new(config, key, Instant::now()).over_shared_memory(self.station.shares_memory());
        self.sessions.push(client);
        let number = self.sessions.len() - 1;
        let begin = Instant::now();
        while !self.sessions[number].is_open() {
            self.poll(&mut |_, _, _| {});
            if begin.elapsed() > PATIENCE {
                return Err(WorkerError::Wrong("the slave does not open a session".into()));
            }
        }
        Ok(number)
    }

    /// Starts a request and sends it at once, as a client does. `None` when too many are under way.
    pub fn request(&mut self, number: usize, head: &[u8], body: &[u8]) -> Option<RequestId> {
        let now = Instant::now();
        let request = self.sessions[number].request(now, head, body).ok()?;
        self.send(now, number);
        self.station.flush();
        Some(request)
    }

    /// Starts a request that the next `poll` sends.
    pub fn enqueue(&mut self, now: Instant, number: usize, message: &[u8]) -> Option<RequestId> {
        self.sessions[number].request(now, message, &[]).ok()
    }

    /// Receives what has come, sends what is due, and gives `sink` the events and the time.
    pub fn poll(&mut self, sink: &mut dyn FnMut(usize, Instant, ClientEvent<'_>)) {
        let now = Instant::now();
        let Self { station, sessions, by_id, .. } = self;
        station.receive(now, BURST, &mut |_, packet| {
            let id = packet.get(8..16).and_then(|id| id.try_into().ok()).map_or(0, u64::from_le_bytes);
            let newest = sessions.len().saturating_sub(1);
            let number = if newest == 0 { 0 } else { by_id.get(&id).copied().unwrap_or(newest) };
            let Some(session) = sessions.get_mut(number) else { return };
            session.handle(now, packet, &mut |event| {
                if let ClientEvent::Opened { .. } = event {
                    by_id.insert(id, number);
                }
                sink(number, now, event);
            });
        });
        let mut sent = false;
        for number in 0..self.sessions.len() {
            sent |= self.send(now, number);
        }
        if sent {
            self.station.flush();
        }
    }

    fn send(&mut self, now: Instant, number: usize) -> bool {
        let mut sent = false;
        while let Some(packet) = self.sessions[number].poll_transmit(now) {
            if self.station.transmit(now, &self.to, &packet).is_err() {
                self.sessions[number].not_sent();
                break;
            }
            sent = true;
        }
        sent
    }

    /// Sends packets that belong to no session, until the port is full; returns how many.
    pub fn send_raw<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> usize {
        let now = Instant::now();
        let Self { station, to, .. } = self;
        let taken = packets.take_while(|packet| station.transmit(now, to, &Packet::whole(packet)).is_ok()).count();
        self.station.flush();
        taken
    }

    /// A request and its whole response.
    fn ask(&mut self, number: usize, head: &[u8], body: &[u8]) -> Result<Vec<u8>, WorkerError> {
        let begin = Instant::now();
        let request = self.request(number, head, body).ok_or(WorkerError::Usage)?;
        let (mut response, mut is_whole) = (Vec::new(), false);
        while !is_whole {
            self.poll(&mut |_, _, event| match event {
                ClientEvent::Fragment { offset, bytes, request: of } if of == request => {
                    response.resize(response.len().max(offset + bytes.len()), 0);
                    response[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                ClientEvent::Complete { request: of, .. } => is_whole |= of == request,
                _ => {}
            });
            if begin.elapsed() > PATIENCE {
                return Err(WorkerError::Wrong("the slave does not answer".into()));
            }
        }
        Ok(response)
    }

    /// Reserves extents for a session and fills them with data; returns all their pages.
    pub fn fill(&mut self, number: usize, extents: usize) -> Result<Vec<PageRef>, WorkerError> {
        let refused = |error: &dyn std::fmt::Display| WorkerError::Full(error.to_string());
        let response = self.ask(number, encode_reserve(extents, &mut [0; RESERVE_REQUEST_BYTES]), &[])?;
        let reserved = decode_reserve_response(&response, extents).map_err(|error| refused(&error))?;
        let pages: Vec<PageRef> = reserved
            .iter()
            .flat_map(|extent| (0..rum_net::EXTENT_PAGES as u32).map(move |page| PageRef { extent, page }))
            .collect();
        let content: Vec<u8> =
            (0..MAX_BATCH_PAGES * data::PAGE_WORDS).flat_map(|index| data::word(index).to_le_bytes()).collect();
        for batch in pages.chunks(MAX_BATCH_PAGES) {
            let kinds: Vec<_> = batch.iter().map(|page| (*page, PageKind::Data)).collect();
            let mut head = [0; WRITE_HEAD_MAX_BYTES];
            let response =
                self.ask(number, encode_write_head(&kinds, &mut head), &content[..batch.len() * PAGE_BYTES])?;
            decode_empty_response(&response).map_err(|error| refused(&error))?;
        }
        Ok(pages)
    }
}
