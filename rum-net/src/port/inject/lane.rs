//! One direction of a faulty port: decides for each packet what becomes of it.

use std::time::{Duration, Instant};

use super::{
    faults::LaneFaults,
    line::{Line, Refusal},
};
use crate::port::LinkId;

/// Packets that can wait for later ones at once; what would be the next goes by unhindered.
const MAX_HELD: usize = 64;
/// How long a packet waits for later ones: when no others come it is not to wait for ever.
const MAX_HELD_FOR: Duration = Duration::from_micros(200);

/// Takes a packet; false when it cannot.
pub type Out<'a> = dyn FnMut(LinkId, &[u8]) -> bool + 'a;

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

/// A packet kept back.
#[derive(Debug)]
struct Held {
    link: LinkId,
    bytes: Vec<u8>,
    /// Packets of the same direction that pass before it does.
    behind: usize,
    /// When it passes at the latest.
    until: Instant,
}

/// What became of packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Lost one by one.
    pub lost: u64,
    /// Lost in bursts.
    pub lost_in_burst: u64,
    /// Lost because the limited rate's queue was full.
    pub queue_full: u64,
    /// Lost because this middleware had no room to keep them.
    pub no_room: u64,
    /// Kept back or doubled, and then not taken by the port.
    pub refused: u64,
    /// Sent twice.
    pub doubled: u64,
    /// Put behind one to four later ones.
    pub reordered: u64,
    /// Put behind up to 32 later ones.
    pub delayed: u64,
    /// With flipped bits.
    pub corrupted: u64,
    /// Cut.
    pub truncated: u64,
}

/// One direction of a port.
#[derive(Debug)]
pub struct Lane {
    faults: LaneFaults,
    rng: Rng,
    /// Packets are being lost in a burst.
    is_bursting: bool,
    /// The first `held_count` are in use; the others wait with their buffers, so that nothing is allocated later.
    held: Vec<Held>,
    held_count: usize,
    scratch: Vec<u8>,
    line: Option<Line>,
    pub counts: Counts,
}

impl Lane {
    /// A direction with frames of up to `frame_bytes`.
    pub fn new(faults: LaneFaults, seed: u64, frame_bytes: usize) -> Self {
        let now = Instant::now();
        let held = || Held { link: LinkId(0), bytes: Vec::with_capacity(frame_bytes), behind: 0, until: now };
        Self {
            faults,
            rng: Rng(seed),
            is_bursting: false,
            held: std::iter::repeat_with(held).take(MAX_HELD).collect(),
            held_count: 0,
            scratch: Vec::with_capacity(frame_bytes),
            line: faults.takes_time().then(|| Line::new(&faults, frame_bytes)),
            counts: Counts::default(),
        }
    }

    /// Passes one packet on: none, one or two times, damaged or not, or keeps it for later; then lets those go that
    /// waited for it. Packets longer than `frame_bytes` are not allowed. False when the packet would go at once and `out`
    /// did not take it: then nothing has happened, and the caller may try again.
    #[must_use]
    pub fn pass(&mut self, now: Instant, link: LinkId, parts: &[&[u8]], out: &mut Out<'_>) -> bool {
        if !self.is_lost() {
            self.scratch.clear();
            for part in parts {
                self.scratch.extend_from_slice(part);
            }
            self.damage();
            let behind = self.places_behind();
            if behind > 0 && self.held_count < MAX_HELD {
                let held = &mut self.held[self.held_count];
                self.held_count += 1;
                held.link = link;
                held.behind = behind;
                held.until = now + MAX_HELD_FOR;
                held.bytes.clear();
                held.bytes.extend_from_slice(&self.scratch);
            } else if !forward(&mut self.line, &mut self.rng, &mut self.counts, now, link, &self.scratch, out) {
                return false;
            }
            if self.rng.chance(self.faults.dup) {
                self.counts.doubled += 1;
                let is_taken = forward(&mut self.line, &mut self.rng, &mut self.counts, now, link, &self.scratch, out);
                self.counts.refused += u64::from(!is_taken);
            }
        }
        self.let_go(now, true, out);
        true
    }

    /// Lets those packets go whose time has come; of those on a line that takes time `limit` at most.
    pub fn release(&mut self, now: Instant, limit: usize, out: &mut Out<'_>) {
        self.let_go(now, false, out);
        if let Some(line) = &mut self.line {
            line.release(now, limit, out);
        }
    }

    /// When `release` has something to do.
    pub fn next_release(&self) -> Option<Instant> {
        let held = self.held[..self.held_count].iter().map(|held| held.until).min();
        let due = self.line.as_ref().and_then(Line::next_due);
        [held, due].into_iter().flatten().min()
    }

    fn is_lost(&mut self) -> bool {
        if self.rng.chance(self.faults.loss) {
            self.counts.lost += 1;
            return true;
        }
        let Some(burst) = self.faults.burst else { return false };
        self.is_bursting = self.is_bursting || self.rng.chance(burst.enter);
        let is_lost = self.is_bursting;
        if is_lost {
            self.counts.lost_in_burst += 1;
            self.is_bursting = !self.rng.chance(burst.mean_packets.recip());
        }
        is_lost
    }

    fn damage(&mut self) {
        if self.rng.chance(self.faults.truncate) && !self.scratch.is_empty() {
            self.counts.truncated += 1;
            let len = self.rng.below(self.scratch.len());
            self.scratch.truncate(len);
        }
        if self.rng.chance(self.faults.corrupt) && !self.scratch.is_empty() {
            self.counts.corrupted += 1;
            for _ in 0..=self.rng.below(4) {
                let bit = self.rng.below(self.scratch.len() * 8);
                self.scratch[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    fn places_behind(&mut self) -> usize {
        if self.rng.chance(self.faults.delay) {
            self.counts.delayed += 1;
            1 + self.rng.below(32)
        } else if self.rng.chance(self.faults.reorder) {
            self.counts.reordered += 1;
            1 + self.rng.below(4)
        } else {
            0
        }
    }

    /// Lets those go that have waited long enough, in time or, when another packet has passed, in packets.
    fn let_go(&mut self, now: Instant, has_passed: bool, out: &mut Out<'_>) {
        let mut index = 0;
        while index < self.held_count {
            let held = &mut self.held[index];
            held.behind -= usize::from(has_passed);
            if held.behind == 0 || held.until <= now {
                let is_taken =
                    forward(&mut self.line, &mut self.rng, &mut self.counts, now, held.link, &held.bytes, out);
                self.counts.refused += u64::from(!is_taken);
                self.held_count -= 1;
                self.held.swap(index, self.held_count);
            } else {
                index += 1;
            }
        }
    }
}

/// Onto the line, if there is one, or out at once. False when `out` did not take it; what the line drops is lost.
fn forward(
    line: &mut Option<Line>,
    rng: &mut Rng,
    counts: &mut Counts,
    now: Instant,
    link: LinkId,
    bytes: &[u8],
    out: &mut Out<'_>,
) -> bool {
    let Some(line) = line else { return out(link, bytes) };
    match line.push(now, rng.next(), link, bytes) {
        Ok(()) => {}
        Err(Refusal::QueueFull) => counts.queue_full += 1,
        Err(Refusal::NoRoom) => counts.no_room += 1,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of `count` packets come through, in order. Each is 10 µs after the one before.
    fn passed(faults: &str, count: u32) -> (Vec<u32>, Lane) {
        let faults: super::super::Faults = faults.parse().unwrap();
        let mut lane = Lane::new(faults.outgoing, faults.seed, 1514);
        let mut order = vec![];
        let mut out = |_, bytes: &[u8]| {
            order.push(u32::from_le_bytes(bytes.try_into().unwrap()));
            true
        };
        let start = Instant::now();
        for number in 0..count {
            let now = start + number * Duration::from_micros(10);
            lane.release(now, usize::MAX, &mut out);
            assert!(lane.pass(now, LinkId(0), &[&number.to_le_bytes()], &mut out));
        }
        while let Some(due) = lane.next_release() {
            lane.release(due, usize::MAX, &mut out);
        }
        (order, lane)
    }

    #[test]
    fn bursts_have_the_rate_and_the_length_asked_for() {
        let (order, lane) = passed("burst=0.01:8,seed=5", 200_000);
        let lost = 200_000 - order.len() as u64;
        assert_eq!(lost, lane.counts.lost_in_burst);
        let bursts = order.windows(2).filter(|pair| pair[1] - pair[0] > 1).count() as f64;
        let mean = lost as f64 / bursts;
        assert!((7.0..9.0).contains(&mean), "{bursts} bursts of {mean} in the mean");
        let share = lost as f64 / 200_000.0;
        let expected = 0.01 * 8.0 / (1.0 - 0.01 + 0.01 * 8.0);
        assert!((share / expected - 1.0).abs() < 0.1, "{share} lost, {expected} expected");
    }

    #[test]
    fn a_packet_that_no_other_pushes_out_goes_by_time() {
        let faults: super::super::Faults = "delay=1,seed=1".parse().unwrap();
        let mut lane = Lane::new(faults.outgoing, faults.seed, 1514);
        let start = Instant::now();
        assert!(lane.pass(start, LinkId(0), &[b"x"], &mut |_, _| panic!("it has to wait")));
        assert_eq!(lane.next_release(), Some(start + MAX_HELD_FOR));
        lane.release(start + MAX_HELD_FOR / 2, 1, &mut |_, _| panic!("too early"));
        let mut count = 0;
        lane.release(start + MAX_HELD_FOR, 1, &mut |_, _| {
            count += 1;
            true
        });
        assert_eq!((count, lane.next_release()), (1, None));
    }

    #[test]
    fn one_direction_alone_can_be_faulty() {
        let faults: super::super::Faults = "in.loss=1,seed=1".parse().unwrap();
        let count = |faults| {
            let mut count = 0;
            let mut lane = Lane::new(faults, 1, 1514);
            assert!(lane.pass(Instant::now(), LinkId(0), &[b"x"], &mut |_, _| {
                count += 1;
                true
            }));
            count
        };
        assert_eq!((count(faults.outgoing), count(faults.incoming)), (1, 0));
    }

    #[test]
    fn a_seed_repeats_its_faults() {
        let faults =
            "loss=0.1,burst=0.01:4,dup=0.1,reorder=0.2,delay=0.1,latency=30us,jitter=20us,rate=10Mbit,queue=64";
        let run = |seed: u32| passed(&format!("{faults},seed={seed}"), 3000);
        let ((first, lane), (again, _), (other, _)) = (run(7), run(7), run(8));
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert!(first.len() > 1000 && !first.is_sorted(), "{} packets", first.len());
        let Counts { lost, lost_in_burst, doubled, reordered, delayed, .. } = lane.counts;
        assert!(
            [lost, lost_in_burst, doubled, reordered, delayed].iter().all(|count| *count > 50),
            "{:?}",
            lane.counts
        );
    }
}
