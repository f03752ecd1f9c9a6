//! One port for a process that both serves and asks: a slave that serves its clients by the port by which it reaches other slaves. What
//! comes is told apart by what it is; both halves are used by one thread.

use std::{
    collections::VecDeque,
    io,
    os::fd::RawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{LinkId, MacAddr, Port, TransmitError};
use crate::{
    station::SLAVE_UDP_PORT,
    wire::{
        ethernet::{ETHERTYPE, ETHERTYPE_IPV4, EthernetHeader},
        header::Kind,
    },
};

/// Packets that wait for the half that does not receive, at most; further ones are dropped, and sent again by their senders.
const MAX_WAITING: usize = 1024;
/// Bytes of an IPv4 header without options, and where the UDP header has the receiver's port.
const IPV4_BYTES: usize = 20;
const DESTINATION_PORT: usize = IPV4_BYTES + 2;

/// Which half serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Half {
    Serving,
    Asking,
}

struct Shared {
    port: Box<dyn Port>,
    /// What the other half has received for the serving one, and for the asking one.
    waiting: [VecDeque<(LinkId, Vec<u8>)>; 2],
    /// Buffers to be used again.
    free: Vec<Vec<u8>>,
    dropped: u64,
}

/// One half of a port.
pub struct SplitPort {
    half: Half,
    name: String,
    mac: MacAddr,
    mtu: usize,
    shared: Arc<Mutex<Shared>>,
}

/// The half that serves, and the half that asks.
pub fn split(port: Box<dyn Port>) -> (SplitPort, SplitPort) {
    let (name, mac, mtu) = (port.name().to_owned(), port.mac(), port.mtu());
    let shared = Shared { port, waiting: [VecDeque::new(), VecDeque::new()], free: Vec::new(), dropped: 0 };
    let shared = Arc::new(Mutex::new(shared));
    let half = |half| SplitPort { half, name: name.clone(), mac, mtu, shared: shared.clone() };
    (half(Half::Serving), half(Half::Asking))
}

/// Whose a packet is; nobody's in particular if it may be for either.
fn whose(frame: &[u8]) -> Option<Half> {
    let (_, ethertype, payload) = EthernetHeader::decode_any(frame)?;
    match ethertype {
        ETHERTYPE => match Kind::of(payload)? {
            Kind::Hello | Kind::Request | Kind::Probe | Kind::Ack => Some(Half::Serving),
            Kind::HelloAck | Kind::HelloRetry | Kind::Response | Kind::Status | Kind::Reset => Some(Half::Asking),
            // These go both ways; the half that does not know the session does nothing that matters to who does.
            Kind::KeepAlive | Kind::Bye => None,
        },
        ETHERTYPE_IPV4 => {
            let port = payload.get(DESTINATION_PORT..DESTINATION_PORT + 2)?;
            let is_slave = u16::from_be_bytes([port[0], port[1]]) == SLAVE_UDP_PORT;
            Some(if is_slave { Half::Serving } else { Half::Asking })
        }
        _ => None,
    }
}

impl SplitPort {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port for SplitPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        self.lock().port.transmit(link, parts)
    }

    fn flush(&mut self) {
        self.lock().port.flush();
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let half = self.half;
        let mut received = 0;
        while received < budget {
            let Some((link, buffer)) = self.lock().waiting[half as usize].pop_front() else { break };
            sink(link, &buffer);
            self.lock().free.push(buffer);
            received += 1;
        }
        if received == budget {
            return received;
        }
        let other = if half == Half::Serving { Half::Asking } else { Half::Serving };
        let mut shared = self.lock();
        let shared = &mut *shared;
        let Shared { port, waiting, free, dropped } = shared;
        let waiting = &mut waiting[other as usize];
        port.receive(budget - received, &mut |link, frame| {
            let whose = whose(frame);
            if whose.is_none_or(|whose| whose == half) {
                received += 1;
                sink(link, frame);
            }
            if whose.is_some_and(|whose| whose != other) {
                return;
            }
            if waiting.len() < MAX_WAITING {
                let mut buffer = free.pop().unwrap_or_default();
                buffer.clear();
                buffer.extend_from_slice(frame);
                waiting.push_back((link, buffer));
            } else {
                *dropped += 1;
            }
        });
        received
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        let mut shared = self.lock();
        if shared.waiting.iter().all(VecDeque::is_empty) { shared.port.wait(timeout, wake) } else { Ok(()) }
    }

    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        if self.half == Half::Serving {
            self.lock().port.link_changes(sink);
        }
    }

    fn shares_memory(&self) -> bool {
        self.lock().port.shares_memory()
    }

    fn is_closed(&self) -> bool {
        self.lock().port.is_closed()
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        if self.half == Half::Serving {
            let shared = self.lock();
            shared.port.counters(sink);
            sink("dropped_between_halves", shared.dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        port::memory::MemoryPort,
        wire::{
            checksum::Checksummer,
            header::{HEADER_BYTES, Header},
        },
    };

    fn packet(kind: Kind) -> Vec<u8> {
        let addresses = EthernetHeader { destination: MacAddr([2; 6]), source: MacAddr([4; 6]) };
        let mut head = [0; HEADER_BYTES];
        Header::new(kind, 7, 9).encode(&mut head, &[], &mut Checksummer::new());
        [&addresses.encode()[..], &head].concat()
    }

    fn kinds(half: &mut SplitPort) -> Vec<Kind> {
        let mut kinds = Vec::new();
        half.receive(64, &mut |_, frame| kinds.push(Kind::of(&frame[14..]).unwrap()));
        kinds
    }

    #[test]
    fn each_half_gets_what_is_its_own() {
        let (mut peer, port) = MemoryPort::pair(1500).unwrap();
        let (mut serving, mut asking) = split(Box::new(port));
        let all = [
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
            Kind::HelloRetry,
        ];
        for kind in all {
            peer.transmit(LinkId(0), &[&packet(kind)]).unwrap();
        }
        peer.flush();
        let served = [Kind::Hello, Kind::Request, Kind::Probe, Kind::Ack, Kind::KeepAlive, Kind::Bye];
        assert_eq!(kinds(&mut serving), served);
        let asked =
            [Kind::HelloAck, Kind::Response, Kind::Status, Kind::Reset, Kind::KeepAlive, Kind::Bye, Kind::HelloRetry];
        assert_eq!(kinds(&mut asking), asked);
        // A half does not sleep while something waits for the other.
        peer.transmit(LinkId(0), &[&packet(Kind::Hello)]).unwrap();
        assert_eq!(kinds(&mut asking), []);
        asking.wait(Duration::from_secs(60), None).unwrap();
        assert_eq!(kinds(&mut serving), [Kind::Hello]);
    }
}
