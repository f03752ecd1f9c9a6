//! The IPv4, UDP and ARP side of a station.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Instant,
};

use super::{
    drops::FramingDrops,
    neighbours::Neighbours,
    open::{LinkError, OwnEnd},
    spec::{LinkSpec, is_one_host},
};
use crate::{
    port::{Address, LinkId, MacAddr},
    wire::{
        arp::{self, ArpOperation, ArpPacket},
        ethernet::{self, EthernetHeader},
        ipv4::{self, Ipv4Error, Ipv4Header},
        udp::{self, UdpError, UdpHeader},
    },
};

/// Bytes of an ARP packet with its Ethernet header.
const ARP_FRAME_BYTES: usize = ethernet::HEADER_BYTES + arp::PACKET_BYTES;
/// Bytes of the headers before RUM's packet.
const HEADERS_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + udp::HEADER_BYTES;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// ARP requests answered of those that one `receive` takes.
const MAX_ANSWERS: usize = 8;

/// Who asked for our address, and by which link.
#[derive(Clone, Copy, Default, Debug)]
struct Asker {
    link: LinkId,
    mac: MacAddr,
    ip: Option<Ipv4Addr>,
}

/// The own end of a UDP link, and what is known of the others.
#[derive(Debug)]
pub struct UdpEnd {
    own: OwnEnd,
    pub neighbours: Neighbours,
    /// To be answered when the port is free to send: `askers[..waiting]`.
    askers: [Asker; MAX_ANSWERS],
    waiting: usize,
}

fn is_group(mac: MacAddr) -> bool {
    mac.0[0] & 1 != 0
}

fn is_one_station(mac: MacAddr) -> bool {
    !is_group(mac) && mac != MacAddr::default()
}

impl UdpEnd {
    pub fn new(own: OwnEnd) -> Self {
        Self { own, neighbours: Neighbours::default(), askers: [Asker::default(); MAX_ANSWERS], waiting: 0 }
    }

    pub fn own(&self) -> SocketAddrV4 {
        self.own.address()
    }

    pub fn check_peer(&self, ip: Ipv4Addr, needs_arp: bool, link: &LinkSpec) -> Result<(), LinkError> {
        self.own.check_peer(ip, needs_arp, link)
    }

    /// All headers of a packet.
    pub fn headers(&self, ethernet: EthernetHeader, peer: SocketAddrV4, payload_bytes: u16) -> [u8; HEADERS_BYTES] {
        const IP: usize = ethernet::HEADER_BYTES;
        const UDP: usize = IP + ipv4::HEADER_BYTES;
        let own = self.own.address();
        let ip = Ipv4Header {
            source: *own.ip(),
            destination: *peer.ip(),
            protocol: ipv4::PROTOCOL_UDP,
            payload_bytes: payload_bytes + udp::HEADER_BYTES as u16,
        };
        let udp = UdpHeader { source_port: own.port(), destination_port: peer.port(), payload_bytes };
        let mut headers = [0; HEADERS_BYTES];
        headers[..IP].copy_from_slice(&ethernet.encode_as(ethernet::ETHERTYPE_IPV4));
        headers[IP..UDP].copy_from_slice(&ip.encode());
        headers[UDP..].copy_from_slice(&udp.encode());
        headers
    }

    /// The request for the hardware address of `ip`.
    pub fn request(&self, mac: MacAddr, ip: Ipv4Addr) -> [u8; ARP_FRAME_BYTES] {
        let packet = ArpPacket {
            operation: ArpOperation::Request,
            sender_mac: mac,
            sender_ip: *self.own.address().ip(),
            target_mac: MacAddr::default(),
            target_ip: ip,
        };
        arp_frame(EthernetHeader { destination: BROADCAST, source: mac }, &packet)
    }

    /// The answers to those who asked, which are forgotten.
    pub fn answers(&mut self, mac: MacAddr) -> impl Iterator<Item = (LinkId, [u8; ARP_FRAME_BYTES])> {
        let own = *self.own.address().ip();
        let waiting = std::mem::take(&mut self.waiting);
        self.askers[..waiting].iter().map(move |asker| {
            let packet = ArpPacket {
                operation: ArpOperation::Reply,
                sender_mac: mac,
                sender_ip: own,
                target_mac: asker.mac,
                // Who probes whether an address is free has none yet (RFC 5227).
                target_ip: asker.ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            };
            (asker.link, arp_frame(EthernetHeader { destination: asker.mac, source: mac }, &packet))
        })
    }

    /// Takes a frame: gives RUM's packet in it to `sink`, remembers what ARP says, and counts what is neither.
    pub fn take(
        &mut self,
        now: Instant,
        link: LinkId,
        frame: &[u8],
        drops: &mut FramingDrops,
        sink: &mut dyn FnMut(Address, &[u8]),
    ) {
        let Some((header, ethertype, packet)) = EthernetHeader::decode_any(frame) else {
            drops.short += 1;
            return;
        };
        match ethertype {
            ethernet::ETHERTYPE_IPV4 => match self.open_datagram(&header, packet) {
                Ok((source, payload)) => {
                    self.neighbours.heard(now, *source.ip());
                    sink(Address { link, mac: header.source, udp: Some(source) }, payload);
                }
                Err(reason) => *reason.counter(drops) += 1,
            },
            ethernet::ETHERTYPE_ARP => {
                if let Err(reason) = self.take_arp(now, link, &header, packet) {
                    *reason.counter(drops) += 1;
                }
            }
            _ => drops.not_ours += 1,
        }
    }

    /// Who sent a packet, and what of it is RUM's.
    fn open_datagram<'a>(
        &self,
        ethernet: &EthernetHeader,
        packet: &'a [u8],
    ) -> Result<(SocketAddrV4, &'a [u8]), Reason> {
        let own = self.own.address();
        let (ip, datagram) = Ipv4Header::decode(packet)?;
        if ip.destination != *own.ip() || is_group(ethernet.destination) {
            return Err(Reason::WrongDestination);
        }
        if ip.protocol != ipv4::PROTOCOL_UDP {
            return Err(Reason::NotOurs);
        }
        let (udp, payload) = UdpHeader::decode(datagram, ip.source, ip.destination)?;
        if udp.destination_port != own.port() {
            return Err(Reason::NotOurs);
        }
        let is_answerable = is_one_host(ip.source)
            && ip.source != *own.ip()
            && !self.own.is_broadcast(ip.source)
            && is_one_station(ethernet.source)
            && udp.source_port != 0;
        if !is_answerable {
            return Err(Reason::BadSource);
        }
        Ok((SocketAddrV4::new(ip.source, udp.source_port), payload))
    }

    fn take_arp(&mut self, now: Instant, link: LinkId, ethernet: &EthernetHeader, packet: &[u8]) -> Result<(), Reason> {
        let own = *self.own.address().ip();
        let packet = ArpPacket::decode(packet).ok_or(Reason::Malformed)?;
        if packet.target_ip != own {
            // Requests for others are broadcast to everybody.
            return Err(Reason::WrongDestination);
        }
        if packet.sender_mac != ethernet.source || !is_one_station(packet.sender_mac) || packet.sender_ip == own {
            return Err(Reason::BadSource);
        }
        match packet.operation {
            ArpOperation::Reply => {
                let is_believed = self.neighbours.answered(now, packet.sender_ip, packet.sender_mac);
                if is_believed { Ok(()) } else { Err(Reason::UnaskedArp) }
            }
            ArpOperation::Request => {
                let asker = self.askers.get_mut(self.waiting).ok_or(Reason::CrowdedArp)?;
                *asker = Asker { link, mac: packet.sender_mac, ip: Some(packet.sender_ip) };
                self.waiting += 1;
                Ok(())
            }
        }
    }
}

fn arp_frame(header: EthernetHeader, packet: &ArpPacket) -> [u8; ARP_FRAME_BYTES] {
    let mut frame = [0; ARP_FRAME_BYTES];
    frame[..ethernet::HEADER_BYTES].copy_from_slice(&header.encode_as(ethernet::ETHERTYPE_ARP));
    frame[ethernet::HEADER_BYTES..].copy_from_slice(&packet.encode());
    frame
}

/// Why a packet was dropped.
enum Reason {
    Short,
    NotOurs,
    Malformed,
    IpChecksum,
    UdpChecksum,
    Fragment,
    WrongDestination,
    BadSource,
    UnaskedArp,
    CrowdedArp,
}

impl Reason {
    fn counter<'a>(&self, drops: &'a mut FramingDrops) -> &'a mut u64 {
        match self {
            Self::Short => &mut drops.short,
            Self::NotOurs => &mut drops.not_ours,
            Self::Malformed => &mut drops.malformed,
            Self::IpChecksum => &mut drops.ip_checksum,
            Self::UdpChecksum => &mut drops.udp_checksum,
            Self::Fragment => &mut drops.fragment,
            Self::WrongDestination => &mut drops.wrong_destination,
            Self::BadSource => &mut drops.bad_source,
            Self::UnaskedArp => &mut drops.unasked_arp,
            Self::CrowdedArp => &mut drops.crowded_arp,
        }
    }
}

impl From<Ipv4Error> for Reason {
    fn from(error: Ipv4Error) -> Self {
        match error {
            Ipv4Error::Truncated => Self::Short,
            Ipv4Error::Malformed => Self::Malformed,
            Ipv4Error::Checksum => Self::IpChecksum,
            Ipv4Error::Fragment => Self::Fragment,
        }
    }
}

impl From<UdpError> for Reason {
    fn from(error: UdpError) -> Self {
        match error {
            UdpError::Truncated => Self::Short,
            UdpError::Malformed => Self::Malformed,
            UdpError::Checksum => Self::UdpChecksum,
        }
    }
}
