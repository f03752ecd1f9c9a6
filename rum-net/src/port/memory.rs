//! The in-process port: packets between threads of one process, over bounded queues of buffers made in advance.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use crossbeam_queue::{ArrayQueue, SegQueue};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{LinkId, MacAddr, Port, TransmitError, sleep};
use crate::wire::ethernet;

/// Packets under way from one port to one other.
const LINK_PACKETS: usize = 256;
/// Packets waiting at one port.
const INBOX_PACKETS: usize = 4096;

type Buffer = Box<[u8]>;

/// A packet under way; its buffer goes back to `home`.
#[derive(Debug)]
struct Packet {
    link: LinkId,
    len: usize,
    buffer: Buffer,
    home: Arc<ArrayQueue<Buffer>>,
}

/// What a port receives, and how it is woken.
#[derive(Debug)]
struct Inbox {
    packets: ArrayQueue<Packet>,
    /// Links opened, and closed (`None`).
    changes: SegQueue<(LinkId, Option<Peer>)>,
    closed: AtomicBool,
    /// The port's owner sleeps, or is about to, and wants `bell` to be rung.
    sleeping: AtomicBool,
    bell: EventFd,
}

impl Inbox {
    fn new() -> io::Result<Self> {
        Ok(Self {
            packets: ArrayQueue::new(INBOX_PACKETS),
            changes: SegQueue::new(),
            closed: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            bell: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Wakes the owner if it sleeps. The fence pairs with the one in `Port::wait`: either the owner sees what was put
    /// into the inbox before, or it is seen to sleep here.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::SeqCst) {
            // The only error is a full counter, and then the owner is woken already.
            let _ = self.bell.write(1);
        }
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.changes.is_empty()
    }
}

/// The other end of a link.
#[derive(Debug)]
struct Peer {
    inbox: Arc<Inbox>,
    /// The link's number at the other end.
    link: LinkId,
    free: Arc<ArrayQueue<Buffer>>,
}

impl Peer {
    fn new(inbox: Arc<Inbox>, link: LinkId, mtu: usize) -> Self {
        let free = ArrayQueue::new(LINK_PACKETS);
        for _ in 0..LINK_PACKETS {
            let buffer = vec![0; ethernet::HEADER_BYTES + mtu].into_boxed_slice();
            free.push(buffer).expect("the queue has room for all buffers");
        }
        Self { inbox, link, free: Arc::new(free) }
    }
}

/// Where clients connect to a listening in-process port. Clones are the same hub.
#[derive(Clone, Debug)]
pub struct MemoryHub {
    listener: Arc<Inbox>,
    next_link: Arc<AtomicU64>,
    mtu: usize,
}

impl MemoryHub {
    /// A hub and its listening port, which sees each client as a link of its own.
    pub fn new(mtu: usize) -> io::Result<(Self, MemoryPort)> {
        let inbox = Arc::new(Inbox::new()?);
        let hub = Self { listener: inbox.clone(), next_link: Arc::new(AtomicU64::new(1)), mtu };
        Ok((hub, MemoryPort::new("memory-listen:".to_owned(), 0, mtu, inbox)))
    }

    /// A new client port, connected to the listener by its link 0.
    pub fn connect(&self) -> io::Result<MemoryPort> {
        if self.listener.closed.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the listening in-process port is gone"));
        }
        let number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(Inbox::new()?);
        let mut port = MemoryPort::new(format!("memory:{number}"), number, self.mtu, inbox.clone());
        let to_listener = Peer::new(self.listener.clone(), LinkId(number), self.mtu);
        port.links.insert(LinkId(0), to_listener);
        let to_client = Peer::new(inbox, LinkId(0), self.mtu);
        self.listener.changes.push((LinkId(number), Some(to_client)));
        self.listener.ring();
        Ok(port)
    }
}

/// One end of an in-process link, or the listening end of many.
#[derive(Debug)]
pub struct MemoryPort {
    name: String,
    mac: MacAddr,
    mtu: usize,
    inbox: Arc<Inbox>,
    links: BTreeMap<LinkId, Peer>,
    /// Told by the next `link_changes`.
    changes: Vec<(LinkId, bool)>,
    /// Whose peers have packets since the last flush.
    unflushed: Vec<LinkId>,
    is_listener: bool,
}

impl MemoryPort {
    /// Two ports that are each other's peer; the second is a listener with one link.
    pub fn pair(mtu: usize) -> io::Result<(Self, Self)> {
        let (hub, listener) = MemoryHub::new(mtu)?;
        Ok((hub.connect()?, listener))
    }

    fn new(name: String, number: u64, mtu: usize, inbox: Arc<Inbox>) -> Self {
        let [.., a, b, c, d] = number.to_be_bytes();
        Self {
            name,
            // Locally administered (IEEE 802, clause 8.4).
            mac: MacAddr([0x02, 0x52, a, b, c, d]),
            mtu,
            inbox,
            links: BTreeMap::new(),
            changes: Vec::new(),
            unflushed: Vec::with_capacity(64),
            is_listener: number == 0,
        }
    }

    fn take_changes(&mut self) {
        while let Some((link, peer)) = self.inbox.changes.pop() {
            self.changes.push((link, peer.is_some()));
            match peer {
                Some(peer) => drop(self.links.insert(link, peer)),
                None => drop(self.links.remove(&link)),
            }
        }
    }
}

impl Port for MemoryPort {
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
        let peer = self.links.get(&link).ok_or(TransmitError::Closed)?;
        if peer.inbox.closed.load(Ordering::Relaxed) {
            return Err(TransmitError::Closed);
        }
        let len = parts.iter().map(|part| part.len()).sum();
        if len > ethernet::HEADER_BYTES + self.mtu {
            return Err(TransmitError::TooLong);
        }
        let mut buffer = peer.free.pop().ok_or(TransmitError::Full)?;
        let mut at = 0;
        for part in parts {
            buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let packet = Packet { link: peer.link, len, buffer, home: peer.free.clone() };
        if let Err(packet) = peer.inbox.packets.push(packet) {
            let _ = packet.home.push(packet.buffer);
            return Err(TransmitError::Full);
        }
        if self.unflushed.last() != Some(&link) {
            if self.unflushed.len() == self.unflushed.capacity() {
                self.flush();
            }
            self.unflushed.push(link);
        }
        Ok(())
    }

    fn flush(&mut self) {
        for link in self.unflushed.drain(..) {
            if let Some(peer) = self.links.get(&link) {
                peer.inbox.ring();
            }
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        self.take_changes();
        for received in 0..budget {
            let Some(packet) = self.inbox.packets.pop() else { return received };
            sink(packet.link, &packet.buffer[..packet.len]);
            let _ = packet.home.push(packet.buffer);
        }
        budget
    }

    fn shares_memory(&self) -> bool {
        true
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        self.flush();
        self.inbox.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.inbox.is_empty() || !self.changes.is_empty() {
            self.inbox.sleeping.store(false, Ordering::SeqCst);
            return Ok(());
        }
        let bell = self.inbox.bell.as_raw_fd();
        let mut fds = [sleep::poll_for(Some(bell), libc::POLLIN), sleep::poll_for(wake, libc::POLLIN)];
        let result = sleep::poll(&mut fds, timeout);
        self.inbox.sleeping.store(false, Ordering::SeqCst);
        // Empty when something else ended the sleep.
        let _ = self.inbox.bell.read();
        result.map(drop)
    }

    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        self.take_changes();
        for (link, is_open) in self.changes.drain(..) {
            sink(link, is_open);
        }
    }

    fn is_closed(&self) -> bool {
        let peer = self.links.get(&LinkId(0));
        !self.is_listener && peer.is_none_or(|peer| peer.inbox.closed.load(Ordering::Acquire))
    }
}

impl Drop for MemoryPort {
    fn drop(&mut self) {
        self.inbox.closed.store(true, Ordering::Release);
        self.take_changes();
        for peer in self.links.values() {
            peer.inbox.changes.push((peer.link, None));
            peer.inbox.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn receive_all(port: &mut MemoryPort) -> Vec<(LinkId, Vec<u8>)> {
        let mut packets = Vec::new();
        port.receive(usize::MAX, &mut |link, frame| packets.push((link, frame.to_vec())));
        packets
    }

    #[test]
    fn packets_go_both_ways_and_no_further_than_the_limits() {
        let (mut client, mut listener) = MemoryPort::pair(1500).unwrap();
        client.transmit(LinkId(0), &[b"head", b"", b"body"]).unwrap();
        assert_eq!(receive_all(&mut listener), [(LinkId(1), b"headbody".to_vec())]);
        listener.transmit(LinkId(1), &[&[5; 1514]]).unwrap();
        assert_eq!(receive_all(&mut client), [(LinkId(0), vec![5; 1514])]);
        assert_eq!(client.transmit(LinkId(0), &[&[5; 1515]]), Err(TransmitError::TooLong));
        assert_eq!(listener.transmit(LinkId(9), &[b"x"]), Err(TransmitError::Closed));
        for _ in 0..LINK_PACKETS {
            client.transmit(LinkId(0), &[b"x"]).unwrap();
        }
        assert_eq!(client.transmit(LinkId(0), &[b"x"]), Err(TransmitError::Full));
        assert_eq!(receive_all(&mut listener).len(), LINK_PACKETS);
        client.transmit(LinkId(0), &[b"x"]).unwrap();
    }

    #[test]
    fn links_open_and_close_and_are_never_numbered_twice() {
        let (hub, mut listener) = MemoryHub::new(1500).unwrap();
        let mut changes = Vec::new();
        for number in 1..=3 {
            let client = hub.connect().unwrap();
            listener.link_changes(&mut |link, is_open| changes.push((link.0, is_open)));
            assert!(!client.is_closed());
            drop(client);
            listener.link_changes(&mut |link, is_open| changes.push((link.0, is_open)));
            assert_eq!(listener.transmit(LinkId(number), &[b"x"]), Err(TransmitError::Closed));
        }
        assert_eq!(changes, [(1, true), (1, false), (2, true), (2, false), (3, true), (3, false)]);
        let mut client = hub.connect().unwrap();
        drop(listener);
        assert!(client.is_closed());
        assert_eq!(client.transmit(LinkId(0), &[b"x"]), Err(TransmitError::Closed));
        assert!(hub.connect().is_err());
    }

    #[test]
    fn a_peer_that_closed_stays_closed_after_its_end_was_told() {
        let (mut client, listener) = MemoryPort::pair(1500).unwrap();
        drop(listener);
        let mut changes = Vec::new();
        client.link_changes(&mut |link, is_open| changes.push((link, is_open)));
        assert_eq!(changes, [(LinkId(0), false)]);
        assert!(client.is_closed());
    }

    #[test]
    fn waiting_ends_by_time_by_packet_and_by_wake_descriptor() {
        let (mut client, mut listener) = MemoryPort::pair(1500).unwrap();
        receive_all(&mut listener);
        listener.link_changes(&mut |_, _| ());
        let start = Instant::now();
        listener.wait(Duration::from_millis(20), None).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19));
        client.transmit(LinkId(0), &[b"x"]).unwrap();
        listener.wait(LONG, None).unwrap();
        receive_all(&mut listener);
        let wake = EventFd::new(EFD_NONBLOCK).unwrap();
        wake.write(1).unwrap();
        listener.wait(LONG, Some(wake.as_raw_fd())).unwrap();
        listener.wait(LONG, Some(wake.as_raw_fd())).unwrap();
        assert!(start.elapsed() < LONG / 2);
    }

    #[test]
    fn no_wake_up_is_lost_in_200_000_sleeps() {
        const ROUNDS: u32 = 100_000;
        let (mut client, mut listener) = MemoryPort::pair(1500).unwrap();
        let echo = thread::spawn(move || {
            let mut echoed = 0;
            while echoed < ROUNDS {
                let start = Instant::now();
                listener.wait(LONG, None).unwrap();
                assert!(start.elapsed() < LONG / 2, "slept through packet {echoed}");
                for (link, packet) in receive_all(&mut listener) {
                    listener.transmit(link, &[&packet]).unwrap();
                    echoed += 1;
                }
                listener.link_changes(&mut |_, _| ());
                listener.flush();
            }
        });
        for round in 0..ROUNDS {
            client.transmit(LinkId(0), &[&round.to_le_bytes()]).unwrap();
            client.flush();
            let start = Instant::now();
            loop {
                let packets = receive_all(&mut client);
                if let Some((_, packet)) = packets.first() {
                    assert_eq!(*packet, round.to_le_bytes());
                    break;
                }
                client.wait(LONG, None).unwrap();
                assert!(start.elapsed() < LONG / 2, "slept through packet {round}");
            }
        }
        echo.join().unwrap();
    }
}
