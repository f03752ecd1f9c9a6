//! A port with the framing of packets on it: raw Ethernet, or IPv4 and UDP. What is above a station sees the RPC layer's
//! packets and the addresses they came from; what is below sees Ethernet frames.
//!
//! In UDP framing a slave has the port [`SLAVE_UDP_PORT`], a client any. A slave answers to the hardware address, the IP
//! address and the port that a packet came from, and asks for nobody. A client knows its slaves' hardware addresses from
//! machines.csv (the router's, where there is one between them), or asks for them by ARP. Both answer requests for
//! their own address.

mod drops;
mod kernel;
mod neighbours;
mod open;
pub mod spec;
#[cfg(test)]
mod tests;
mod udp;

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::RawFd,
    time::{Duration, Instant},
};

pub use self::{
    drops::FramingDrops,
    open::{LinkError, OwnEnd, Side},
};
use self::{spec::LinkSpec, udp::UdpEnd};
use crate::{
    packet::Packet,
    port::{Address, LinkId, MacAddr, Port, TransmitError},
    wire::{
        ethernet::{self, EthernetHeader},
        ipv4, udp as udp_wire,
    },
};

/// The UDP port of every slave.
pub const SLAVE_UDP_PORT: u16 = 21069;
/// Bytes of the IPv4 and UDP headers, by which the MTU in UDP framing is less.
pub const UDP_OVERHEAD_BYTES: usize = ipv4::HEADER_BYTES + udp_wire::HEADER_BYTES;

/// Why a packet was not sent. Nothing is lost to the caller: the RPC layer sends it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The port did not take it.
    #[error(transparent)]
    Port(#[from] TransmitError),
    /// The receiver's hardware address is being asked for.
    #[error("the receiver's hardware address is not known yet")]
    Unresolved,
}

/// A port and the framing of packets on it.
pub struct Station {
    name: String,
    port: Box<dyn Port>,
    /// The framing is UDP; else raw.
    udp: Option<UdpEnd>,
    drops: FramingDrops,
}

impl<P: Port + 'static> From<Box<P>> for Station {
    /// Raw framing.
    fn from(port: Box<P>) -> Self {
        Self::raw(port)
    }
}

impl From<Box<dyn Port>> for Station {
    /// Raw framing.
    fn from(port: Box<dyn Port>) -> Self {
        Self::raw(port)
    }
}

impl Station {
    /// Raw framing on a port.
    pub fn raw(port: Box<dyn Port>) -> Self {
        Self { name: port.name().to_owned(), port, udp: None, drops: FramingDrops::default() }
    }

    /// A port with the own end of a link; `name` is how the link is printed.
    pub fn new(name: String, port: Box<dyn Port>, own: Option<OwnEnd>) -> Self {
        Self { name, port, udp: own.map(UdpEnd::new), drops: FramingDrops::default() }
    }

    /// How the link is printed: the text it was opened with, such as `udp:af_packet:eth1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port's own hardware address.
    pub fn mac(&self) -> MacAddr {
        self.port.mac()
    }

    /// The own address in UDP framing.
    pub fn udp(&self) -> Option<SocketAddrV4> {
        self.udp.as_ref().map(UdpEnd::own)
    }

    /// The link and who has it here, in words: `udp:af_packet:eth1, mac 02:00:00:00:00:01, ip 10.0.0.1`.
    pub fn describe(&self) -> String {
        let ip = self.udp().map(|own| format!(", ip {}", own.ip())).unwrap_or_default();
        format!("{}, mac {}{ip}", self.name, self.mac())
    }

    /// The most bytes that a packet of the RPC layer may have, its head and body together.
    pub fn mtu(&self) -> usize {
        match self.udp {
            None => self.port.mtu(),
            Some(_) => self.port.mtu().min(usize::from(u16::MAX)).saturating_sub(UDP_OVERHEAD_BYTES),
        }
    }

    /// As [`Port::shares_memory`].
    pub fn shares_memory(&self) -> bool {
        self.port.shares_memory()
    }

    /// Counters of packets that came and were not taken.
    pub fn drops(&self) -> FramingDrops {
        self.drops
    }

    /// Calls `sink` with the name and value of each counter of the framing and of the port below.
    pub fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        self.drops.counters(sink);
        self.port.counters(sink);
    }

    /// Prepares for a peer at `ip`, whose hardware address is asked for if `mac` is zero; returns its address.
    ///
    /// # Errors
    /// On a UDP link if the peer has no IP address, or one that cannot be reached.
    pub fn peer(&mut self, link: &LinkSpec, mac: MacAddr, ip: Option<Ipv4Addr>) -> Result<Address, LinkError> {
        let Some(end) = &mut self.udp else { return Ok(Address { mac, ..Address::default() }) };
        let ip = ip.ok_or_else(|| LinkError::NoPeerAddress(link.clone()))?;
        let needs_arp = mac == MacAddr::default();
        end.check_peer(ip, needs_arp, link)?;
        if needs_arp {
            end.neighbours.add(ip);
        }
        Ok(Address { mac, udp: Some(SocketAddrV4::new(ip, SLAVE_UDP_PORT)), ..Address::default() })
    }

    /// Puts another port in the place of one that is closed. Neighbours and the own UDP port stay as they are.
    pub fn replace_port(&mut self, port: Box<dyn Port>) {
        self.port = port;
    }

    /// Whether packets to `peer` wait for an answer to who it is.
    pub fn is_sought(&self, peer: &Address) -> bool {
        match (&self.udp, peer.udp) {
            (Some(end), Some(to)) => peer.mac == MacAddr::default() && end.neighbours.is_sought(*to.ip()),
            _ => false,
        }
    }

    /// When a request for a neighbour is to be repeated, by sending to it again.
    pub fn next_request(&self) -> Option<Instant> {
        self.udp.as_ref()?.neighbours.next_request()
    }

    /// Queues one packet of the RPC layer. In UDP framing `to` must have an address and port, and its MAC
    /// address is zero if it is to be asked for.
    pub fn transmit(&mut self, now: Instant, to: &Address, packet: &Packet<'_>) -> Result<(), SendError> {
        let Self { port, udp, .. } = self;
        let source = port.mac();
        let Some(end) = udp else {
            let header = EthernetHeader { destination: to.mac, source }.encode();
            return Ok(port.transmit(to.link, &packet.behind(&header))?);
        };
        let Some(peer) = to.udp else {
            debug_assert!(false, "an address without IP on a UDP link");
            return Err(TransmitError::Closed.into());
        };
        let destination = match to.mac == MacAddr::default() {
            false => to.mac,
            true => {
                let resolution = end.neighbours.resolve(now, *peer.ip());
                if resolution.ask {
                    // One that the port refuses is repeated like one that is lost.
                    let _ = port.transmit(to.link, &[&end.request(source, *peer.ip())]);
                    port.flush();
                }
                resolution.mac.ok_or(SendError::Unresolved)?
            }
        };
        let payload_bytes = u16::try_from(packet.bytes())
            .ok()
            .filter(|bytes| usize::from(*bytes) <= ipv4::MAX_PAYLOAD_BYTES - udp_wire::HEADER_BYTES)
            .ok_or(TransmitError::TooLong)?;
        let headers = end.headers(EthernetHeader { destination, source }, peer, payload_bytes);
        Ok(port.transmit(to.link, &packet.behind(&headers))?)
    }

    /// Hands what was queued to the peer or the device.
    pub fn flush(&mut self) {
        self.port.flush();
    }

    /// Takes at most `budget` packets from the port, calls `sink` with each that is RUM's and the address it came from,
    /// and returns how many were taken. Other packets are answered (ARP), or counted and dropped.
    pub fn receive(&mut self, now: Instant, budget: usize, sink: &mut dyn FnMut(Address, &[u8])) -> usize {
        let Self { port, udp, drops, .. } = self;
        let Some(end) = udp else {
            return port.receive(budget, &mut |link, frame| match EthernetHeader::decode_any(frame) {
                Some((header, ethernet::ETHERTYPE, packet)) => {
                    sink(Address { link, mac: header.source, udp: None }, packet);
                }
                Some(_) => drops.not_ours += 1,
                None => drops.short += 1,
            });
        };
        let received = port.receive(budget, &mut |link, frame| end.take(now, link, frame, drops, sink));
        let mac = port.mac();
        let mut answered = false;
        for (link, answer) in end.answers(mac) {
            // A refused answer is as a lost one: the neighbour asks again.
            let _ = port.transmit(link, &[&answer]);
            answered = true;
        }
        if answered {
            port.flush();
        }
        received
    }

    /// As [`Port::wait`].
    pub fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        self.port.wait(timeout, wake)
    }

    /// As [`Port::link_changes`].
    pub fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        self.port.link_changes(sink);
    }

    /// As [`Port::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.port.is_closed()
    }
}
