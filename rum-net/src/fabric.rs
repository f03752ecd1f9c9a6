//! A client's sessions with all slaves of a grid, over one port or several: joins the sans-IO sessions of `rpc` with
//! the ports, in the thread that calls.

use std::time::{Duration, Instant};

use crate::{
    port::{
        Address, MacAddr, Port, TransmitError,
        open::{OpenError, open_client},
        spec::PortSpec,
    },
    rpc::{
        Incarnation,
        client::{Busy, Client, ClientConfig, ClientEvent, RequestId},
    },
    wire::ethernet::{self, EthernetHeader},
};

/// A slave, by the order of `Fabric::add_peer`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIndex(pub usize);

/// Packets received from one port in one go.
const RECEIVE_BURST: usize = 32;

struct Attachment {
    port: Box<dyn Port>,
    spec: PortSpec,
    /// Only one slave is behind this port, whatever its hardware address.
    point_to_point: bool,
}

struct Peer {
    attachment: usize,
    address: Address,
    header: [u8; ethernet::HEADER_BYTES],
    client: Client,
}

/// Ports and sessions. After the last `add_peer`, only `reopen_closed_ports` allocates.
pub struct Fabric {
    attachments: Vec<Attachment>,
    peers: Vec<Peer>,
    incarnation: Incarnation,
}

/// Requests of one session in flight.
pub const SLOTS: usize = 32;

impl Fabric {
    /// No ports and no peers yet. `incarnation` is drawn once a process.
    pub fn new(incarnation: Incarnation) -> Self {
        Self { attachments: vec![], peers: vec![], incarnation }
    }

    /// Adds the slave with the address `mac` behind `spec`, and starts to open a session with it. A port is opened once,
    /// however many slaves are behind it. Requests to the slave may have `max_request_bytes`.
    pub fn add_peer(
        &mut self,
        spec: &PortSpec,
        mac: MacAddr,
        max_request_bytes: usize,
    ) -> Result<PeerIndex, OpenError> {
        let point_to_point = matches!(spec, PortSpec::Vhost(_));
        let attachment = match self.attachments.iter().position(|a| a.spec == *spec && !point_to_point) {
            Some(attachment) => attachment,
            None => self.attach(open_client(spec)?, spec.clone(), point_to_point),
        };
        Ok(self.add_session(attachment, mac, max_request_bytes))
    }

    /// As `add_peer`, for a port that is open already and has this slave alone behind it.
    pub fn add_peer_on(&mut self, port: Box<dyn Port>, mac: MacAddr, max_request_bytes: usize) -> PeerIndex {
        let spec = PortSpec::Vdev(port.name().to_owned());
        let attachment = self.attach(port, spec, true);
        self.add_session(attachment, mac, max_request_bytes)
    }

    fn attach(&mut self, port: Box<dyn Port>, spec: PortSpec, point_to_point: bool) -> usize {
        self.attachments.push(Attachment { port, spec, point_to_point });
        self.attachments.len() - 1
    }

    fn add_session(&mut self, attachment: usize, mac: MacAddr, max_request_bytes: usize) -> PeerIndex {
        let port = &self.attachments[attachment].port;
        let config = ClientConfig {
            incarnation: self.incarnation,
            channel: 0,
            mtu: port.mtu(),
            slots: SLOTS,
            max_request_bytes,
        };
        let header = EthernetHeader { destination: mac, source: port.mac() }.encode();
        let client = Client::new(config, Instant::now());
        self.peers.push(Peer { attachment, address: Address { mac, ..Address::default() }, header, client });
        PeerIndex(self.peers.len() - 1)
    }

    /// Of this client.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Slaves added.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// The session with a slave.
    pub fn session(&self, peer: PeerIndex) -> &Client {
        &self.peers[peer.0].client
    }

    /// The session with a slave, to be reopened, closed or kept alive.
    pub fn session_mut(&mut self, peer: PeerIndex) -> &mut Client {
        &mut self.peers[peer.0].client
    }

    /// Starts a request and sends it at once if the port takes it.
    pub fn request(&mut self, peer: PeerIndex, head: &[u8], body: &[u8]) -> Result<RequestId, Busy> {
        let now = Instant::now();
        let Self { attachments, peers, .. } = self;
        let peer = &mut peers[peer.0];
        let request = peer.client.request(now, head, body)?;
        peer.send(now, &mut *attachments[peer.attachment].port);
        Ok(request)
    }

    /// Receives what has come, sends what is due, and gives `sink` the events.
    pub fn poll(&mut self, sink: &mut dyn FnMut(PeerIndex, ClientEvent<'_>)) {
        let now = Instant::now();
        let Self { attachments, peers, .. } = self;
        for (index, attachment) in attachments.iter_mut().enumerate() {
            let (port, point_to_point) = (&mut attachment.port, attachment.point_to_point);
            port.receive(RECEIVE_BURST, &mut |_link, frame| {
                let Some((header, packet)) = EthernetHeader::decode(frame) else { return };
                let sender = peers
                    .iter_mut()
                    .position(|p| p.attachment == index && (point_to_point || p.address.mac == header.source));
                if let Some(sender) = sender {
                    peers[sender].client.handle(now, packet, &mut |event| sink(PeerIndex(sender), event));
                }
            });
        }
        for peer in peers {
            peer.send(now, &mut *attachments[peer.attachment].port);
        }
    }

    /// Sleeps until a packet may have come for a request in flight, at most `longest`.
    pub fn idle(&mut self, longest: Duration) {
        let waiting = self.peers.iter().find(|p| p.client.in_flight() > 0 || !p.client.is_open());
        let attachment = waiting.map_or(0, |peer| peer.attachment);
        match self.attachments.get_mut(attachment) {
            // A failed wait is a short one: the caller polls again.
            Some(attachment) if !attachment.port.is_closed() => drop(attachment.port.wait(longest, None)),
            _ => std::thread::sleep(longest),
        }
    }

    /// Opens ports anew whose other end has gone, if it is back. To be called now and then, outside fault handlers.
    pub fn reopen_closed_ports(&mut self) {
        for attachment in &mut self.attachments {
            // A port that is hardly polled would not notice for long that its other end has gone; a wait looks.
            let _ = attachment.port.wait(Duration::ZERO, None);
        }
        for (index, attachment) in self.attachments.iter_mut().enumerate().filter(|(_, a)| a.port.is_closed()) {
            let Ok(port) = open_client(&attachment.spec) else { continue };
            attachment.port = port;
            for peer in self.peers.iter_mut().filter(|peer| peer.attachment == index) {
                peer.header = EthernetHeader { destination: peer.address.mac, source: attachment.port.mac() }.encode();
                peer.client.keep_alive(Instant::now());
            }
        }
    }
}

impl Peer {
    fn send(&mut self, now: Instant, port: &mut dyn Port) {
        let mut sent = false;
        while let Some(packet) = self.client.poll_transmit(now) {
            match port.transmit(self.address.link, &[&self.header, packet.head, packet.body]) {
                Ok(()) => sent = true,
                Err(TransmitError::Full | TransmitError::Closed) => {
                    self.client.not_sent();
                    break;
                }
                // The port's MTU bounds every packet: one too long is a mistake, and lost like any other.
                Err(TransmitError::TooLong) => debug_assert!(false, "a packet longer than the port's MTU"),
            }
        }
        if sent {
            port.flush();
        }
    }
}
