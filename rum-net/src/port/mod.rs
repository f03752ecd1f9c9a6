//! Packet interfaces behind one trait. A port moves whole Ethernet frames and knows nothing of what is in them.

pub mod absent;
pub mod capture;
pub mod dpdk;
pub mod inject;
pub mod memory;
pub mod middleware;
pub mod open;
pub mod page;
mod sleep;
pub mod spec;
pub mod split;
pub mod vhost_user;

pub use open::open_client;

use std::{fmt, io, net::SocketAddrV4, os::fd::RawFd, time::Duration};

/// An Ethernet hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which connection of a port a packet came by or goes to. An Ethernet port has one link, number 0; a
/// listening vhost-user port has one for each connected client, and never uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LinkId(pub u64);

/// Where a packet came from or goes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Address {
    /// The connection of the port.
    pub link: LinkId,
    /// The peer's hardware address; zero if it is not known.
    pub mac: MacAddr,
    /// The peer's IP address and UDP port, on a link with that framing.
    pub udp: Option<SocketAddrV4>,
}

impl Address {
    /// All of it as bytes.
    pub fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.link.0.to_le_bytes());
        bytes[8..14].copy_from_slice(&self.mac.0);
        if let Some(udp) = self.udp {
            bytes[14..18].copy_from_slice(&udp.ip().octets());
            bytes[18..].copy_from_slice(&udp.port().to_le_bytes());
        }
        bytes
    }
}

/// Why a packet was not taken for sending. Nothing is lost to the caller: the RPC layer sends it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransmitError {
    /// The transmit queue is full; flush, receive, and try again.
    #[error("the transmit queue is full")]
    Full,
    /// The link is closed: its peer has gone.
    #[error("the link is closed")]
    Closed,
    /// The frame is longer than the port's MTU and Ethernet header allow.
    #[error("the packet is too long for the port")]
    TooLong,
}

/// A packet interface: a DPDK ethdev, a vhost-user socket, or the in-process one. Used by one thread at a
/// time. Nothing but `wait` ever blocks, and after `start`-up no call allocates from the program's heap.
pub trait Port: Send {
    /// How the port is printed: the text it was opened with, such as `vhost:/run/rum/0`.
    fn name(&self) -> &str;
    /// The port's own hardware address.
    fn mac(&self) -> MacAddr;
    /// The most bytes a frame may carry after its 14-byte Ethernet header.
    fn mtu(&self) -> usize;
    /// Queues one Ethernet frame, the concatenation of `parts` (Ethernet header included), on `link`.
    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError>;
    /// Hands what was queued to the peer or the device.
    fn flush(&mut self);
    /// Calls `sink` with each received Ethernet frame, at most `budget` of them, and returns how many.
    /// The bytes are valid during the call only.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize;
    /// Sleeps until a packet may be waiting, `wake` becomes readable, or `timeout` has passed. Never loses a
    /// wake-up: a packet that arrived before the call ends it at once.
    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()>;
    /// Calls `sink` for each link that was opened (`true`) or closed (`false`) since the last call.
    fn link_changes(&mut self, _sink: &mut dyn FnMut(LinkId, bool)) {}
    /// Whether packets reach the peer through memory that both share, where nothing damages them on the way.
    fn shares_memory(&self) -> bool {
        false
    }
    /// Whether the port's peer is gone for good, so that the port has to be opened anew.
    fn is_closed(&self) -> bool {
        false
    }
    /// Calls `sink` with the name and value of each counter of the port and of what it is stacked on, since it was
    /// opened. Packets that were dropped are counted by reason, in counters whose names begin with `dropped_`.
    fn counters(&self, _sink: &mut dyn FnMut(&'static str, u64)) {}
}

/// So that middlewares stack on a port of whatever kind.
impl<P: Port + ?Sized> Port for Box<P> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn mac(&self) -> MacAddr {
        (**self).mac()
    }
    fn mtu(&self) -> usize {
        (**self).mtu()
    }
    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        (**self).transmit(link, parts)
    }
    fn flush(&mut self) {
        (**self).flush();
    }
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        (**self).receive(budget, sink)
    }
    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        (**self).wait(timeout, wake)
    }
    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        (**self).link_changes(sink);
    }
    fn is_closed(&self) -> bool {
        (**self).is_closed()
    }
    fn shares_memory(&self) -> bool {
        (**self).shares_memory()
    }
    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        (**self).counters(sink);
    }
}
