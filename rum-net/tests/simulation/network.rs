//! Packets on their way, and what happens to them there.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use rum_net::{
    port::{Address, LinkId},
    rpc::{Incarnation, server::RequestToken},
};

use crate::{
    payload::Question,
    weather::{Rng, Weather},
};

/// Shorter packets are padded, as on Ethernet.
const MIN_PACKET_BYTES: usize = 60;
/// Of the packets in a burst.
const BURST_LOSS: f64 = 0.9;
const BURST_ENDS: f64 = 0.05;

/// What a packet went through.
#[derive(Clone, Copy, Default, Debug)]
pub struct Journey {
    /// Bits were flipped, or its end was cut off.
    pub damaged: bool,
    /// It is not sent by its owner.
    pub forged: bool,
}

pub enum Delivery {
    ToHost {
        host: usize,
        from: Address,
        packet: Vec<u8>,
        journey: Journey,
    },
    ToAsker {
        host: usize,
        link: LinkId,
        packet: Vec<u8>,
        journey: Journey,
    },
    /// A server's answer to a request, given later.
    Answer {
        host: usize,
        server: Incarnation,
        token: RequestToken,
        question: Question,
    },
}

struct Event {
    at: Instant,
    number: u64,
    delivery: Delivery,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
/// The earliest is the greatest.
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// One direction of a server's link.
#[derive(Clone, Copy)]
struct Lane {
    /// When all that waits will have been sent.
    busy_until: Instant,
    in_burst: bool,
}

pub struct Network {
    pub rng: Rng,
    pub weather: Weather,
    /// From and to each server.
    lanes: Vec<[Lane; 2]>,
    events: BinaryHeap<Event>,
    number: u64,
    /// Buffers of packets that arrived.
    spare: Vec<Vec<u8>>,
    pub packets: u64,
    /// Packets that a full queue dropped.
    pub overflows: u64,
    /// What narrow lanes have carried, from and to servers.
    pub carried_bytes: [u64; 2],
    /// Loses everything.
    pub is_down: bool,
}

impl Network {
    pub fn new(rng: Rng, weather: Weather, hosts: usize, now: Instant) -> Self {
        let lane = Lane { busy_until: now, in_burst: false };
        Self {
            rng,
            weather,
            lanes: vec![[lane; 2]; hosts],
            events: BinaryHeap::new(),
            number: 0,
            spare: Vec::new(),
            packets: 0,
            overflows: 0,
            carried_bytes: [0; 2],
            is_down: false,
        }
    }

    /// A packet of these parts.
    pub fn packet(&mut self, parts: &[&[u8]]) -> Vec<u8> {
        let mut packet = self.spare.pop().unwrap_or_default();
        packet.clear();
        parts.iter().for_each(|part| packet.extend_from_slice(part));
        packet
    }

    pub fn take_back(&mut self, packet: Vec<u8>) {
        if self.spare.len() < 64 {
            self.spare.push(packet);
        }
    }

    pub fn schedule(&mut self, at: Instant, delivery: Delivery) {
        self.number += 1;
        self.events.push(Event { at, number: self.number, delivery });
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.events.peek().map(|event| event.at)
    }

    pub fn pop(&mut self) -> Option<Delivery> {
        self.events.pop().map(|event| event.delivery)
    }

    pub fn send_to_host(&mut self, now: Instant, host: usize, from: Address, packet: Vec<u8>, forged: bool) {
        self.send(now, (host, 0), packet, forged, |packet, journey| Delivery::ToHost { host, from, packet, journey });
    }

    pub fn send_to_asker(&mut self, now: Instant, host: usize, link: LinkId, packet: Vec<u8>, forged: bool) {
        self.send(now, (host, 1), packet, forged, |packet, journey| Delivery::ToAsker { host, link, packet, journey });
    }

    fn send(
        &mut self,
        now: Instant,
        lane: (usize, usize),
        packet: Vec<u8>,
        forged: bool,
        deliver: impl Fn(Vec<u8>, Journey) -> Delivery,
    ) {
        self.packets += 1;
        let copies = if self.rng.chance(self.weather.duplicate) { 2 } else { 1 };
        let mut packet = Some(packet);
        for copy in 1..=copies {
            let mut bytes = match copy == copies {
                true => packet.take().unwrap_or_default(),
                false => {
                    let original = packet.take().unwrap_or_default();
                    let bytes = self.packet(&[&original]);
                    packet = Some(original);
                    bytes
                }
            };
            match self.pass(now, lane, bytes.len()) {
                Some(at) => {
                    let damaged = self.damage(&mut bytes);
                    self.schedule(at, deliver(bytes, Journey { damaged, forged }));
                }
                None => self.take_back(bytes),
            }
        }
    }

    /// When a packet arrives, if it does.
    fn pass(&mut self, now: Instant, (host, direction): (usize, usize), bytes: usize) -> Option<Instant> {
        let Self { rng, weather, lanes, overflows, carried_bytes, is_down, .. } = self;
        let lane = &mut lanes[host][direction];
        lane.in_burst =
            weather.burst > 0.0 && if lane.in_burst { !rng.chance(BURST_ENDS) } else { rng.chance(weather.burst) };
        let is_lost = rng.chance(weather.loss) || lane.in_burst && rng.chance(BURST_LOSS);
        if is_lost || *is_down || bytes > weather.path_mtu {
            return None;
        }
        let mut departs = now;
        if weather.bytes_per_us > 0 {
            let waiting = lane.busy_until.saturating_duration_since(now);
            if waiting.as_nanos() as u64 * weather.bytes_per_us / 1000 > weather.queue_bytes {
                *overflows += 1;
                return None;
            }
            let takes = Duration::from_nanos(bytes as u64 * 1000 / weather.bytes_per_us);
            lane.busy_until = lane.busy_until.max(now) + takes;
            departs = lane.busy_until;
            carried_bytes[direction] += bytes as u64;
        }
        let late = rng.chance(weather.late);
        let lateness = if late { rng.below(weather.lateness.as_nanos() as u64) } else { 0 };
        Some(departs + weather.latency + Duration::from_nanos(lateness))
    }

    fn damage(&mut self, packet: &mut Vec<u8>) -> bool {
        let Self { rng, weather, .. } = self;
        let mut damaged = false;
        if !packet.is_empty() && rng.chance(weather.corrupt) {
            damaged = true;
            // The header is as likely as the rest, or hardly any damage to a long packet would hit it.
            let bytes = if rng.chance(0.5) { packet.len().min(44) } else { packet.len() };
            let first = rng.below(bytes as u64) as usize;
            for step in 0..=rng.below(4) as usize {
                packet[(first + 5 * step) % bytes] ^= 1 << rng.below(8);
            }
        }
        if !packet.is_empty() && rng.chance(weather.truncate) {
            damaged = true;
            packet.truncate(rng.below(packet.len() as u64) as usize);
        } else if packet.len() < MIN_PACKET_BYTES {
            packet.resize(MIN_PACKET_BYTES, 0);
        }
        damaged
    }
}
