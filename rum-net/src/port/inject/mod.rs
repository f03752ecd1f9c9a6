//! Fault injection: a middleware that loses, doubles, reorders, damages, cuts and delays packets of any port, in both
//! directions, and limits their rate, from a seed.
//!
//! What is decided for the n-th packet of a direction depends on the seed alone. When it comes out depends on the
//! clock as well: packets kept back are let go by time even if no other packet passes.

mod faults;
mod lane;
mod line;

use std::{
    cell::Cell,
    io,
    os::fd::RawFd,
    time::{Duration, Instant},
};

use self::lane::Lane;
pub use self::{
    faults::{Burst, Faults, FaultsError, LaneFaults, Rate},
    lane::Counts,
};
use super::{LinkId, MacAddr, Port, TransmitError};

/// How long `wait` sleeps at most while the port has not taken a packet that was due.
const BACKLOG_STEP: Duration = Duration::from_micros(100);
/// Times that `receive` goes back to the port for more because packets were lost.
const ROUNDS: usize = 4;

/// A port with faults.
#[derive(Debug)]
pub struct Inject<P> {
    inner: P,
    name: String,
    frame_bytes: usize,
    outgoing: Lane,
    incoming: Lane,
}

impl<P: Port> Inject<P> {
    /// Puts faults in front of a port. The name says which, and the seed.
    pub fn new(inner: P, faults: Faults) -> Self {
        let name = format!("{} with {faults}", inner.name());
        tracing::warn!("injecting faults: {name}");
        let frame_bytes = crate::wire::ethernet::HEADER_BYTES + inner.mtu();
        let outgoing = Lane::new(faults.outgoing, faults.seed, frame_bytes);
        let incoming = Lane::new(faults.incoming, !faults.seed, frame_bytes);
        Self { inner, name, frame_bytes, outgoing, incoming }
    }

    /// What became of packets so far: of those sent, and of those received.
    pub fn counts(&self) -> (Counts, Counts) {
        (self.outgoing.counts, self.incoming.counts)
    }

    /// Sends what was kept back until now.
    fn release_outgoing(&mut self, now: Instant) {
        let Self { inner, outgoing, .. } = self;
        // A full port may take it later; a closed one never.
        outgoing
            .release(now, usize::MAX, &mut |link, frame| inner.transmit(link, &[frame]) != Err(TransmitError::Full));
    }

    fn next_release(&self) -> Option<Instant> {
        [self.outgoing.next_release(), self.incoming.next_release()].into_iter().flatten().min()
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
        // What is kept back has to fit into its buffer.
        if parts.iter().map(|part| part.len()).sum::<usize>() > self.frame_bytes {
            return Err(TransmitError::TooLong);
        }
        let mut outcome = Ok(());
        let Self { inner, outgoing, .. } = self;
        let is_taken = outgoing.pass(Instant::now(), link, parts, &mut |link, frame| {
            outcome = inner.transmit(link, &[frame]);
            outcome.is_ok()
        });
        // Of copies and of packets that were kept back the caller does not hear.
        if is_taken { Ok(()) } else { outcome }
    }

    fn flush(&mut self) {
        self.release_outgoing(Instant::now());
        self.inner.flush();
    }

    /// Doubled packets, and those that waited for others, may come on top of `budget`.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let now = Instant::now();
        if self.outgoing.next_release().is_some_and(|at| at <= now) {
            self.release_outgoing(now);
            self.inner.flush();
        }
        let Self { inner, incoming, .. } = self;
        let delivered = Cell::new(0);
        let mut out = |link: LinkId, frame: &[u8]| {
            sink(link, frame);
            delivered.set(delivered.get() + 1);
            true
        };
        incoming.release(now, budget, &mut out);
        for _ in 0..ROUNDS {
            // What `out` takes always is never refused.
            let pass = &mut |link, frame: &[u8]| _ = incoming.pass(now, link, &[frame], &mut out);
            let left = budget.saturating_sub(delivered.get());
            if left == 0 || inner.receive(left, pass) == 0 {
                break;
            }
        }
        delivered.get()
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        let now = Instant::now();
        self.release_outgoing(now);
        let timeout = match self.next_release() {
            Some(at) if at > now => timeout.min(at - now),
            Some(_) if self.incoming.next_release().is_some_and(|at| at <= now) => Duration::ZERO,
            Some(_) => timeout.min(BACKLOG_STEP),
            None => timeout,
        };
        self.inner.wait(timeout, wake)?;
        self.release_outgoing(Instant::now());
        self.inner.flush();
        Ok(())
    }

    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        self.inner.link_changes(sink);
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        let (sent, received) = self.counts();
        for (name, count) in [
            ("dropped_injected_loss", sent.lost + received.lost),
            ("dropped_injected_burst", sent.lost_in_burst + received.lost_in_burst),
            ("dropped_injected_queue_full", sent.queue_full + received.queue_full),
            ("dropped_injected_no_room", sent.no_room + received.no_room),
            ("dropped_injected_refused", sent.refused + received.refused),
            ("injected_dup", sent.doubled + received.doubled),
            ("injected_reorder", sent.reordered + received.reordered),
            ("injected_delay", sent.delayed + received.delayed),
            ("injected_corrupt", sent.corrupted + received.corrupted),
            ("injected_truncate", sent.truncated + received.truncated),
        ] {
            sink(name, count);
        }
        self.inner.counters(sink);
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
        while sender.next_release().is_some() {
            sender.wait(Duration::from_secs(1), None).unwrap();
        }
        while receiver.receive(64, &mut |_, frame| arrived.push(frame.to_vec())) > 0 {}
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
    fn receiving_is_faulty_too() {
        let (mut sender, receiver) = MemoryPort::pair(1500).unwrap();
        let mut receiver = Inject::new(receiver, "loss=0.5,seed=3".parse().unwrap());
        for _ in 0..200 {
            sender.transmit(LinkId(0), &[&[1; 60]]).unwrap();
        }
        let mut arrived = 0;
        let told = receiver.receive(1000, &mut |_, _| arrived += 1);
        assert_eq!(told, arrived);
        assert!((60..140).contains(&arrived), "{arrived} of 200 arrived");
        let mut counters = std::collections::BTreeMap::new();
        receiver.counters(&mut |name, count| _ = counters.insert(name, count));
        assert_eq!(counters["dropped_injected_loss"], 200 - arrived as u64);
    }

    #[test]
    fn waiting_ends_when_a_packet_is_due_in_either_direction() {
        const LATENCY: Duration = Duration::from_millis(5);
        let (sender, receiver) = MemoryPort::pair(1500).unwrap();
        let mut sender = Inject::new(sender, "latency=5ms,seed=1".parse().unwrap());
        let mut receiver = Inject::new(receiver, "in.latency=5ms,seed=1".parse().unwrap());
        let start = Instant::now();
        sender.transmit(LinkId(0), &[&[1; 60]]).unwrap();
        sender.flush();
        let mut count_at_sender = 0;
        assert_eq!(sender.receive(1, &mut |_, _| count_at_sender += 1), 0);
        sender.wait(Duration::from_secs(60), None).unwrap();
        assert!(start.elapsed() >= LATENCY);
        let mut arrived = 0;
        while arrived == 0 {
            receiver.receive(1, &mut |_, _| arrived += 1);
            receiver.wait(Duration::from_secs(60), None).unwrap();
        }
        assert!((2 * LATENCY..Duration::from_secs(30)).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[test]
    fn a_packet_for_a_full_port_stays_until_there_is_room() {
        let (sender, mut receiver) = MemoryPort::pair(1500).unwrap();
        let mut sender = Inject::new(sender, "latency=1ns,seed=1".parse().unwrap());
        for number in 0..1000u32 {
            sender.transmit(LinkId(0), &[&[0; 14], &number.to_le_bytes()]).unwrap();
        }
        let mut arrived = vec![];
        let deadline = Instant::now() + Duration::from_secs(30);
        while arrived.len() < 1000 && Instant::now() < deadline {
            sender.flush();
            receiver.receive(64, &mut |_, frame| arrived.push(frame.to_vec()));
        }
        assert_eq!(numbers(&arrived), (0..1000).collect::<Vec<_>>());
    }
}
