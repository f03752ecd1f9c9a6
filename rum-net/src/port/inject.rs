//! Fault injection: a middleware that loses, doubles, reorders, damages, cuts and delays packets of any port, in both
//! directions, from a seed.

use std::{fmt, io, os::fd::RawFd, str::FromStr, time::Duration};

use super::{LinkId, MacAddr, Port, TransmitError};

/// Probabilities of faults, each per packet, and the seed that decides which packets they hit.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    /// The packet vanishes.
    pub loss: f64,
    /// The packet comes twice.
    pub dup: f64,
    /// The packet comes after one to four later ones.
    pub reorder: f64,
    /// One to four bits are flipped.
    pub corrupt: f64,
    /// The packet loses a part of its end.
    pub truncate: f64,
    /// The packet comes after up to 32 later ones.
    pub delay: f64,
    /// Where the pseudo-random numbers start.
    pub seed: u64,
}

/// A text that is no list of faults.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no fault: expected loss=P, dup=P, reorder=P, corrupt=P, truncate=P, delay=P (each 0 to 1) or seed=N, \
     separated by commas"
)]
pub struct FaultsError(pub String);

impl FromStr for Faults {
    type Err = FaultsError;

    /// Reads `loss=0.01,dup=0.01,seed=7`; without a seed one is drawn.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut faults = Self { seed: rand::random(), ..Self::default() };
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let wrong = || FaultsError(item.to_owned());
            let (name, value) = item.split_once('=').ok_or_else(wrong)?;
            if name == "seed" {
                faults.seed = value.parse().map_err(|_| wrong())?;
                continue;
            }
            let probability: f64 = value.parse().map_err(|_| wrong())?;
            if !(0.0..=1.0).contains(&probability) {
                return Err(wrong());
            }
            *match name {
                "loss" => &mut faults.loss,
                "dup" => &mut faults.dup,
                "reorder" => &mut faults.reorder,
                "corrupt" => &mut faults.corrupt,
                "truncate" => &mut faults.truncate,
                "delay" => &mut faults.delay,
                _ => return Err(wrong()),
            } = probability;
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, dup, reorder, corrupt, truncate, delay, seed } = self;
        let named = [
            ("loss", loss),
            ("dup", dup),
            ("reorder", reorder),
            ("corrupt", corrupt),
            ("truncate", truncate),
            ("delay", delay),
        ];
        for (name, probability) in named.into_iter().filter(|(_, probability)| **probability > 0.0) {
            write!(f, "{name}={probability},")?;
        }
        write!(f, "seed={seed}")
    }
}

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
}

/// One direction of a port.
#[derive(Debug)]
struct Lane {
    rng: Rng,
    /// The first `held_count` are in use; the others wait with their buffers, so that nothing is allocated later.
    held: Vec<Held>,
    held_count: usize,
    scratch: Vec<u8>,
}

impl Lane {
    const MAX_HELD: usize = 64;

    fn new(seed: u64, frame_bytes: usize) -> Self {
        let held = || Held { link: LinkId(0), bytes: Vec::with_capacity(frame_bytes), behind: 0 };
        let held = std::iter::repeat_with(held).take(Self::MAX_HELD).collect();
        Self { rng: Rng(seed), held, held_count: 0, scratch: Vec::with_capacity(frame_bytes) }
    }

    /// Passes one packet on: none, one or two times, damaged or not, or keeps it for later.
    fn pass(&mut self, faults: &Faults, link: LinkId, parts: &[&[u8]], out: &mut dyn FnMut(LinkId, &[u8])) {
        if self.rng.chance(faults.loss) {
            return;
        }
        self.scratch.clear();
        for part in parts {
            self.scratch.extend_from_slice(part);
        }
        if self.rng.chance(faults.truncate) && !self.scratch.is_empty() {
            let len = self.rng.below(self.scratch.len());
            self.scratch.truncate(len);
        }
        if self.rng.chance(faults.corrupt) && !self.scratch.is_empty() {
            for _ in 0..=self.rng.below(4) {
                let bit = self.rng.below(self.scratch.len() * 8);
                self.scratch[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let behind = if self.rng.chance(faults.delay) {
            1 + self.rng.below(32)
        } else if self.rng.chance(faults.reorder) {
            1 + self.rng.below(4)
        } else {
            0
        };
        if behind > 0 && self.held_count < Self::MAX_HELD {
            let held = &mut self.held[self.held_count];
            self.held_count += 1;
            held.link = link;
            held.behind = behind;
            held.bytes.clear();
            held.bytes.extend_from_slice(&self.scratch);
        } else {
            out(link, &self.scratch);
        }
        if self.rng.chance(faults.dup) {
            out(link, &self.scratch);
        }
    }

    /// Another packet has gone by, or time: lets those go whose turn has come.
    fn tick(&mut self, out: &mut dyn FnMut(LinkId, &[u8])) {
        let mut index = 0;
        while index < self.held_count {
            let held = &mut self.held[index];
            held.behind -= 1;
            if held.behind == 0 {
                out(held.link, &held.bytes);
                self.held_count -= 1;
                self.held.swap(index, self.held_count);
            } else {
                index += 1;
            }
        }
    }
}

/// A port with faults.
#[derive(Debug)]
pub struct Inject<P> {
    inner: P,
    name: String,
    faults: Faults,
    outgoing: Lane,
    incoming: Lane,
}

impl<P: Port> Inject<P> {
    /// Puts faults in front of a port. The name says which, and the seed.
    pub fn new(inner: P, faults: Faults) -> Self {
        let name = format!("{} with {faults}", inner.name());
        tracing::warn!("injecting faults: {name}");
        let frame_bytes = crate::wire::ethernet::HEADER_BYTES + inner.mtu();
        let outgoing = Lane::new(faults.seed, frame_bytes);
        let incoming = Lane::new(!faults.seed, frame_bytes);
        Self { inner, name, faults, outgoing, incoming }
    }

    fn tick_outgoing(&mut self) {
        // What the port does not take now is one more packet lost.
        self.outgoing.tick(&mut |link, frame| _ = self.inner.transmit(link, &[frame]));
    }
}

impl<P: Port> Port for Inject<P> {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.inner.mac()
    }

    fn mtu(&self) -> usize {
        self.inner.mtu()
    }

    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        let mut result = Ok(());
        let inner = &mut self.inner;
        self.outgoing.pass(&self.faults, link, parts, &mut |link, frame| {
            // The second copy of a packet may fail unheard.
            let outcome = inner.transmit(link, &[frame]);
            result = result.and(outcome);
        });
        self.tick_outgoing();
        result
    }

    fn flush(&mut self) {
        self.tick_outgoing();
        self.inner.flush();
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let Self { inner, faults, incoming, .. } = self;
        let received = inner.receive(budget, &mut |link, frame| {
            incoming.pass(faults, link, &[frame], sink);
            incoming.tick(sink);
        });
        incoming.tick(sink);
        received
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        let is_holding = self.outgoing.held_count + self.incoming.held_count > 0;
        let timeout = if is_holding { timeout.min(Duration::from_millis(1)) } else { timeout };
        self.inner.wait(timeout, wake)
    }

    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        self.inner.link_changes(sink);
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::memory::MemoryPort;

    /// Sends `count` numbered packets through one faulty direction, and returns what arrives.
    fn sent_through(faults: &str, count: u32) -> Vec<Vec<u8>> {
        let (sender, mut receiver) = MemoryPort::pair(1500).unwrap();
        let mut sender = Inject::new(sender, faults.parse().unwrap());
        let mut arrived = Vec::new();
        for number in 0..count {
            sender.transmit(LinkId(0), &[&[0xAA; 14], &number.to_le_bytes()]).unwrap();
            receiver.receive(64, &mut |_, frame| arrived.push(frame.to_vec()));
        }
        for _ in 0..40 {
            sender.flush();
        }
        receiver.receive(64, &mut |_, frame| arrived.push(frame.to_vec()));
        arrived
    }

    fn numbers(packets: &[Vec<u8>]) -> Vec<u32> {
        packets.iter().map(|packet| u32::from_le_bytes(packet[14..18].try_into().unwrap())).collect()
    }

    #[test]
    fn each_fault_does_what_it_says() {
        assert_eq!(numbers(&sent_through("seed=1", 100)), (0..100).collect::<Vec<_>>());
        let lost = sent_through("loss=0.3,seed=1", 1000);
        assert!((600..800).contains(&lost.len()), "{} of 1000 arrived", lost.len());
        let doubled = sent_through("dup=0.3,seed=1", 1000);
        assert!((1200..1400).contains(&doubled.len()), "{} of 1000 arrived", doubled.len());
        for fault in ["reorder=0.3,seed=1", "delay=0.3,seed=1"] {
            let mut order = numbers(&sent_through(fault, 1000));
            assert!(!order.is_sorted(), "{fault}");
            order.sort();
            assert_eq!(order, (0..1000).collect::<Vec<_>>(), "{fault}");
        }
        let damaged = sent_through("corrupt=0.3,seed=1", 1000);
        let is_whole = |(number, packet): &(usize, &Vec<u8>)| {
            packet[..14] == [0xAA; 14] && numbers(&[packet.to_vec()]) == [*number as u32]
        };
        let whole = damaged.iter().enumerate().filter(is_whole).count();
        assert!(damaged.len() == 1000 && (600..800).contains(&whole), "{whole} of 1000 undamaged");
        let cut = sent_through("truncate=0.3,seed=1", 1000).iter().filter(|packet| packet.len() < 18).count();
        assert!((200..400).contains(&cut), "{cut} of 1000 cut");
    }

    #[test]
    fn a_seed_repeats_its_faults() {
        let faults = "loss=0.1,dup=0.1,reorder=0.2,corrupt=0.1,truncate=0.1,delay=0.1";
        let run = |seed: u32| sent_through(&format!("{faults},seed={seed}"), 300);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn receiving_is_faulty_too() {
        let (mut sender, receiver) = MemoryPort::pair(1500).unwrap();
        let mut receiver = Inject::new(receiver, "loss=0.5,seed=3".parse().unwrap());
        for _ in 0..200 {
            sender.transmit(LinkId(0), &[&[1; 60]]).unwrap();
        }
        let mut arrived = 0;
        assert_eq!(receiver.receive(1000, &mut |_, _| arrived += 1), 200);
        assert!((60..140).contains(&arrived), "{arrived} of 200 arrived");
    }

    #[test]
    fn texts_are_read_and_printed() {
        let faults: Faults = "loss=0.01,dup=0.5,seed=7".parse().unwrap();
        assert_eq!((faults.loss, faults.dup, faults.seed), (0.01, 0.5, 7));
        assert_eq!(faults.to_string(), "loss=0.01,dup=0.5,seed=7");
        assert_eq!(faults.to_string().parse(), Ok(faults));
        for wrong in ["loss", "loss=2", "loss=-0.1", "loss=NaN", "lose=0.1", "seed=x"] {
            assert_eq!(wrong.parse::<Faults>(), Err(FaultsError(wrong.to_owned())));
        }
    }
}
