//! A line that takes time: a bottleneck with a queue that drops what does not fit, then a latency with jitter.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::faults::LaneFaults;
use crate::port::LinkId;

/// Room for packets under way when no rate says how many there can be.
const DEFAULT_ROOM_BYTES: u64 = 8 << 20;
/// The most room for packets under way.
const MAX_ROOM_BYTES: u64 = 64 << 20;
/// Packets of the usual shortest size fill the room: more of them than it has bytes for are never under way.
const MIN_PACKET_BYTES: usize = 64;

/// Why a packet did not get onto the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The bottleneck's queue is full.
    QueueFull,
    /// More packets are under way than this middleware has room for.
    NoRoom,
}

/// Packets under way in one direction, in order.
#[derive(Debug)]
pub struct Line {
    latency: Duration,
    jitter: Duration,
    /// Bits a second, and bytes that may wait.
    rate: Option<(u64, u64)>,
    /// When the bottleneck has passed on all that it took.
    busy_until: Option<Instant>,
    last_due: Option<Instant>,
    frames: FrameQueue,
}

impl Line {
    /// A line with the latency and rate of `faults`; all its memory is taken here, and costs nothing until used.
    pub fn new(faults: &LaneFaults, frame_bytes: usize) -> Self {
        let rate = faults.rate.map(|rate| (rate.bits_per_second, rate.queue_bytes));
        let room = rate.map_or(DEFAULT_ROOM_BYTES, |(bits_per_second, queue_bytes)| {
            let nanoseconds = (faults.latency + faults.jitter).as_nanos();
            let under_way = nanoseconds * u128::from(bits_per_second) / 8_000_000_000;
            u64::try_from(under_way).unwrap_or(u64::MAX).saturating_add(queue_bytes).saturating_mul(2)
        });
        // What wraps around the end leaves a gap of up to a packet.
        let room = room.min(MAX_ROOM_BYTES) as usize + 4 * frame_bytes;
        Self {
            latency: faults.latency,
            jitter: faults.jitter,
            rate,
            busy_until: None,
            last_due: None,
            frames: FrameQueue::new(room),
        }
    }

    /// Puts a packet on the line. `random` decides its jitter.
    pub fn push(&mut self, now: Instant, random: u64, link: LinkId, bytes: &[u8]) -> Result<(), Refusal> {
        let mut due = now;
        if let Some((bits_per_second, queue_bytes)) = self.rate {
            let start = self.busy_until.map_or(now, |busy_until| busy_until.max(now));
            let backlog_bytes = (start - now).as_nanos() * u128::from(bits_per_second) / 8_000_000_000;
            if backlog_bytes > 0 && backlog_bytes + bytes.len() as u128 > u128::from(queue_bytes) {
                return Err(Refusal::QueueFull);
            }
            due = start + Duration::from_nanos(bytes.len() as u64 * 8_000_000_000 / bits_per_second);
        }
        let done = due;
        let span = 2 * self.jitter.as_nanos() as u64 + 1;
        // Latency and jitter are limited so that their sum fits.
        due = due + self.latency + Duration::from_nanos(random % span);
        due = due.checked_sub(self.jitter).map_or(done, |due| due.max(done));
        due = self.last_due.map_or(due, |last_due| due.max(last_due));
        if !self.frames.push(due, link, bytes) {
            return Err(Refusal::NoRoom);
        }
        self.busy_until = Some(done);
        self.last_due = Some(due);
        Ok(())
    }

    /// When the next packet is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.frames.packets.front().map(|packet| packet.due)
    }

    /// Passes on the packets that are due, `limit` at most, until `out` does not take one (it stays the next).
    pub fn release(&mut self, now: Instant, limit: usize, out: &mut dyn FnMut(LinkId, &[u8]) -> bool) {
        for _ in 0..limit {
            match self.frames.front() {
                Some((due, link, bytes)) if due <= now && out(link, bytes) => self.frames.packets.pop_front(),
                _ => break,
            };
        }
    }
}

/// A packet in the queue's bytes.
#[derive(Debug)]
struct Queued {
    due: Instant,
    link: LinkId,
    at: usize,
    len: usize,
}

/// Packets one after another in a piece of memory that is used around and around.
#[derive(Debug)]
struct FrameQueue {
    bytes: Box<[u8]>,
    packets: VecDeque<Queued>,
    /// Where the last packet ends.
    end: usize,
}

impl FrameQueue {
    fn new(room: usize) -> Self {
        let packets = VecDeque::with_capacity(room / MIN_PACKET_BYTES);
        Self { bytes: vec![0; room].into_boxed_slice(), packets, end: 0 }
    }

    fn push(&mut self, due: Instant, link: LinkId, packet: &[u8]) -> bool {
        // An empty packet takes a byte, so that a full queue differs from an empty one.
        let space = packet.len().max(1);
        let at = match self.packets.front() {
            None => 0,
            Some(first) if self.end <= first.at => self.end,
            Some(_) if self.end + space <= self.bytes.len() => self.end,
            Some(_) => 0,
        };
        let limit = match self.packets.front() {
            Some(first) if at <= first.at => first.at,
            _ => self.bytes.len(),
        };
        if at + space > limit || self.packets.len() == self.packets.capacity() {
            return false;
        }
        self.bytes[at..at + packet.len()].copy_from_slice(packet);
        self.packets.push_back(Queued { due, link, at, len: packet.len() });
        self.end = at + space;
        true
    }

    fn front(&self) -> Option<(Instant, LinkId, &[u8])> {
        let &Queued { due, link, at, len } = self.packets.front()?;
        Some((due, link, &self.bytes[at..at + len]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    fn line(faults: &str) -> Line {
        let faults: super::super::Faults = faults.parse().unwrap();
        Line::new(&faults.outgoing, 1514)
    }

    /// When, in microseconds after `start`, each of the packets on the line comes out.
    fn arrivals(line: &mut Line, start: Instant) -> Vec<u128> {
        let mut arrived = Vec::new();
        while let Some(due) = line.next_due() {
            line.release(due - Duration::from_nanos(1), 1, &mut |_, _| panic!("too early"));
            line.release(due, 1, &mut |_, _| {
                arrived.push((due - start).as_micros());
                true
            });
        }
        arrived
    }

    #[test]
    fn latency_puts_off_and_jitter_varies_it_without_reordering() {
        let start = Instant::now();
        let mut plain = line("latency=50us");
        for number in 0..3 {
            plain.push(start + number * MICROSECOND, 0, LinkId(0), &[1; 60]).unwrap();
        }
        assert_eq!(arrivals(&mut plain, start), [50, 51, 52]);
        let mut varied = line("latency=50us,jitter=10us");
        for number in 0..1000 {
            let random = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            varied.push(start + 100 * number * MICROSECOND, random, LinkId(0), &[1; 60]).unwrap();
        }
        let took: Vec<u128> =
            arrivals(&mut varied, start).iter().zip(0..).map(|(at, number)| at - 100 * number).collect();
        assert!(took.iter().all(|took| (40..=60).contains(took)), "{took:?}");
        assert!(took.contains(&41) && took.contains(&59), "{took:?}");
        let mut crowded = line("latency=1us,jitter=10us");
        for random in [20_000, 0, 5_000] {
            crowded.push(start, random, LinkId(0), &[1; 60]).unwrap();
        }
        assert_eq!(arrivals(&mut crowded, start), [11, 11, 11]);
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_drops_what_does_not_fit() {
        let start = Instant::now();
        // 1,000 bytes take 8 µs. One is being sent, and its rest and three others fit.
        let mut line = line("rate=1Gbit,queue=4000");
        let outcomes: Vec<_> = (0..6).map(|_| line.push(start, 0, LinkId(0), &[1; 1000])).collect();
        assert_eq!(outcomes[..4], [Ok(()); 4]);
        assert_eq!(outcomes[4..], [Err(Refusal::QueueFull); 2]);
        assert_eq!(arrivals(&mut line, start), [8, 16, 24, 32]);
        // An idle line owes nothing for the time that it was idle.
        let later = start + Duration::from_millis(5);
        line.push(later, 0, LinkId(0), &[1; 1000]).unwrap();
        assert_eq!(arrivals(&mut line, later), [8]);
    }

    #[test]
    fn what_is_not_taken_stays_the_next() {
        let start = Instant::now();
        let mut line = line("latency=1us");
        line.push(start, 0, LinkId(3), b"first").unwrap();
        line.push(start, 0, LinkId(4), b"second").unwrap();
        let late = start + MICROSECOND;
        line.release(late, 9, &mut |link, bytes| {
            assert_eq!((link, bytes), (LinkId(3), &b"first"[..]));
            false
        });
        let mut order = vec![];
        line.release(late, 9, &mut |link, _| {
            order.push(link.0);
            true
        });
        assert_eq!(order, [3, 4]);
        assert_eq!(line.next_due(), None);
    }

    proptest! {
        #[test]
        fn the_queue_keeps_what_it_takes(steps in prop::collection::vec((0usize..300, 0usize..4), 1..300)) {
            let mut queue = FrameQueue::new(1000);
            let now = Instant::now();
            let mut expected = VecDeque::new();
            for (number, (len, taken)) in steps.into_iter().enumerate() {
                let packet = vec![number as u8; len];
                if queue.push(now, LinkId(number as u64), &packet) {
                    expected.push_back((number as u64, packet));
                } else {
                    prop_assert!(!expected.is_empty(), "an empty queue has room");
                }
                for _ in 0..taken {
                    let front = queue.front().map(|(_, link, bytes)| (link.0, bytes.to_vec()));
                    prop_assert_eq!(front, expected.pop_front());
                    queue.packets.pop_front();
                }
            }
        }
    }
}
