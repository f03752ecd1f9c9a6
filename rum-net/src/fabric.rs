//! A client's sessions with all slaves of a grid, over one port or several: joins the sans-IO sessions of `rpc` with
//! the ports, in the thread that calls.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::{
    port::{Address, MacAddr, Port, TransmitError, absent::AbsentPort, open_client, spec::PortSpec, vhost_user},
    rpc::{
        Incarnation,
        client::{Busy, Client, ClientConfig, ClientEvent, RequestId},
    },
    seal::ClientKey,
    shared::SharedBytes,
    station::{LinkError, SendError, Station, spec::LinkSpec},
};

/// A slave, by the order of `Fabric::add_peer`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIndex(pub usize);

/// Packets received from one port in one go.
const RECEIVE_BURST: usize = 8;

/// A port that gave so many full bursts in a row is held to be empty now and then: somebody may never let it be.
const ENDLESS_BURSTS: u32 = 16;

/// After a port took no more, it is tried again after this long.
const FULL_PAUSE: Duration = Duration::from_micros(50);

struct Attachment {
    station: Station,
    link: LinkSpec,
    /// Only one slave is behind this port, whatever its hardware address.
    point_to_point: bool,
    /// Full bursts received in a row.
    bursts: u32,
}

struct Peer {
    attachment: usize,
    address: Address,
    client: Client,
    /// The last packet was not taken for sending; why not.
    refused: Option<SendError>,
}

/// Ports and sessions. After the last `add_peer`, only `reopen_closed_ports` allocates.
pub struct Fabric {
    attachments: Vec<Attachment>,
    peers: Vec<Peer>,
    incarnation: Incarnation,
    key: Option<ClientKey>,
}

/// Requests of one session in flight.
pub const SLOTS: usize = 32;

impl Fabric {
    /// No ports and no peers yet. `incarnation` is drawn once a process. With a key all sessions are sealed.
    pub fn new(incarnation: Incarnation, key: Option<ClientKey>) -> Self {
        Self { attachments: vec![], peers: vec![], incarnation, key }
    }

    /// Adds the slave with the address `mac` behind `link`, and starts to open a session with it. In UDP framing it has
    /// the address `ip`, and `mac` may be zero: then it is asked for by ARP. A port is opened once, however many slaves
    /// are behind it. Requests to the slave may have `max_request_bytes`.
    pub fn add_peer(
        &mut self,
        link: &LinkSpec,
        mac: MacAddr,
        ip: Option<Ipv4Addr>,
        max_request_bytes: usize,
    ) -> Result<PeerIndex, LinkError> {
        let same_port = self.attachments.iter().position(|a| a.link.port == link.port && !a.point_to_point);
        let attachment = match same_port {
            Some(attachment) if self.attachments[attachment].link == *link => attachment,
            Some(other) => return Err(LinkError::TwoFramings(self.attachments[other].link.clone(), link.clone())),
            None => self.attach(Station::open_client(link)?, link.clone()),
        };
        let address = self.attachments[attachment].station.peer(link, mac, ip)?;
        Ok(self.add_session(attachment, address, max_request_bytes))
    }

    /// Takes a station that is open already; `add_peer_at` adds slaves behind it by the number that this returns.
    pub fn add_station(&mut self, link: LinkSpec, station: Station) -> usize {
        self.attach(station, link)
    }

    /// As `add_peer`, behind a station of `add_station`.
    pub fn add_peer_at(
        &mut self,
        station: usize,
        mac: MacAddr,
        ip: Option<Ipv4Addr>,
        max_request_bytes: usize,
    ) -> Result<PeerIndex, LinkError> {
        let Attachment { station: at, link, .. } = &mut self.attachments[station];
        let address = at.peer(link, mac, ip)?;
        Ok(self.add_session(station, address, max_request_bytes))
    }

    /// As `add_peer`, for a slave on a vhost-user socket that may not be there yet: `reopen_closed_ports` looks for it.
    pub fn add_absent_peer(&mut self, link: &LinkSpec, mac: MacAddr, max_request_bytes: usize) -> PeerIndex {
        let port = AbsentPort::new(link.to_string(), vhost_user::MTU, true);
        let attachment = self.attach(Station::raw(Box::new(port)), link.clone());
        self.add_session(attachment, Address { mac, ..Address::default() }, max_request_bytes)
    }

    /// As `add_peer`, for a port that is open already, with raw framing, and has this slave alone behind it.
    pub fn add_peer_on(&mut self, port: Box<dyn Port>, mac: MacAddr, max_request_bytes: usize) -> PeerIndex {
        let link = PortSpec::Vdev(port.name().to_owned()).into();
        let attachment = self.attach(Station::raw(port), link);
        self.attachments[attachment].point_to_point = true;
        self.add_session(attachment, Address { mac, ..Address::default() }, max_request_bytes)
    }

    fn attach(&mut self, station: Station, link: LinkSpec) -> usize {
        self.attachments.push(Attachment { station, point_to_point: link.is_point_to_point(), link, bursts: 0 });
        self.attachments.len() - 1
    }

    fn add_session(&mut self, attachment: usize, address: Address, max_request_bytes: usize) -> PeerIndex {
        let config = ClientConfig {
            incarnation: self.incarnation,
            channel: 0,
            mtu: self.attachments[attachment].station.mtu(),
            slots: SLOTS,
            max_request_bytes,
        };
        let shares_memory = self.attachments[attachment].station.shares_memory();
        let client = Client::new(config, self.key.clone(), Instant::now()).over_shared_memory(shares_memory);
        self.peers.push(Peer { attachment, address, client, refused: None });
        PeerIndex(self.peers.len() - 1)
    }

    /// Why nothing reaches a slave: nobody has said so far that its IP address is his.
    pub fn sought_address(&self, peer: PeerIndex) -> Option<Ipv4Addr> {
        let peer = &self.peers[peer.0];
        let is_sought = self.attachments[peer.attachment].station.is_sought(&peer.address);
        peer.address.udp.filter(|_| is_sought).map(|address| *address.ip())
    }

    /// The kinds of transport in use; with UDP framing the link and the own address, as in
    /// `udp:af_packet:eth1, ip 10.0.0.1`.
    pub fn transports(&self) -> Vec<String> {
        let name = |attachment: &Attachment| match attachment.station.udp() {
            Some(own) => format!("{}, ip {}", attachment.link, own.ip()),
            None => attachment.link.to_string().split(':').next().unwrap_or_default().to_owned(),
        };
        let mut transports: Vec<_> = self.attachments.iter().map(name).collect();
        transports.sort_unstable();
        transports.dedup();
        transports
    }

    /// Whether the port towards a slave is open.
    pub fn is_port_open(&self, peer: PeerIndex) -> bool {
        !self.attachments[self.peers[peer.0].attachment].station.is_closed()
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
        peer.send(now, &mut attachments[peer.attachment].station);
        Ok(request)
    }

    /// As `request`, with a body that is not copied (see `Client::request_shared`).
    pub fn request_shared(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        head: &[u8],
        body: SharedBytes,
    ) -> Result<RequestId, Busy> {
        let Self { attachments, peers, .. } = self;
        let peer = &mut peers[peer.0];
        let request = peer.client.request_shared(now, head, body)?;
        peer.send(now, &mut attachments[peer.attachment].station);
        Ok(request)
    }

    /// Receives what has come, sends what is due, and gives `sink` the events.
    pub fn poll(&mut self, sink: &mut dyn FnMut(PeerIndex, ClientEvent<'_>)) {
        self.poll_at(Instant::now(), sink);
    }

    /// As `poll`, by a clock that the caller has read. Returns whether packets have come.
    pub fn poll_at(&mut self, now: Instant, sink: &mut dyn FnMut(PeerIndex, ClientEvent<'_>)) -> bool {
        let mut has_come = false;
        let Self { attachments, peers, .. } = self;
        for (index, attachment) in attachments.iter_mut().enumerate() {
            let point_to_point = attachment.point_to_point;
            let received = attachment.station.receive(now, RECEIVE_BURST, &mut |from, packet| {
                let sender = peers.iter_mut().position(|p| p.attachment == index && p.is_at(&from, point_to_point));
                if let Some(sender) = sender {
                    peers[sender].client.handle(now, packet, &mut |event| sink(PeerIndex(sender), event));
                }
            });
            has_come |= received > 0;
            attachment.bursts = if received == RECEIVE_BURST { (attachment.bursts + 1) % ENDLESS_BURSTS } else { 0 };
            if attachment.bursts == 0 {
                looked(peers, index, now);
            }
        }
        for peer in peers {
            peer.send(now, &mut attachments[peer.attachment].station);
        }
        has_come
    }

    /// Sleeps until a packet may have come for a request in flight, or something is due to be sent, at most `longest`.
    pub fn idle(&mut self, longest: Duration) {
        let now = Instant::now();
        let longest = self.next_deadline(now).map_or(longest, |at| longest.min(at.saturating_duration_since(now)));
        let waiting = self.peers.iter().find(|p| p.client.in_flight() > 0 || !p.client.is_open());
        let attachment = waiting.map_or(0, |peer| peer.attachment);
        match self.attachments.get_mut(attachment) {
            // A failed wait is a short one: the caller polls again.
            Some(port) if !port.station.is_closed() => {
                drop(port.station.wait(longest, None));
                // What ended the wait has only just come.
                looked(&mut self.peers, attachment, Instant::now());
            }
            _ => std::thread::sleep(longest),
        }
    }

    /// When something is to be sent next. What is due but was refused has to wait for more than time.
    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadline = |peer: &Peer| match peer.refused {
            None => peer.client.poll_timeout(),
            Some(SendError::Port(TransmitError::Full)) => Some(now + FULL_PAUSE),
            Some(SendError::Unresolved) => self.attachments[peer.attachment].station.next_request(),
            Some(SendError::Port(TransmitError::Closed | TransmitError::TooLong)) => None,
        };
        self.peers.iter().filter_map(deadline).min()
    }

    /// Opens ports anew whose other end has gone, if it is back. To be called now and then, outside fault handlers.
    pub fn reopen_closed_ports(&mut self) {
        self.prepare();
        self.look_for_closed_ports();
        for index in 0..self.attachments.len() {
            if self.attachments[index].station.is_closed()
                && let Ok(port) = open_client(&self.attachments[index].link.port)
            {
                self.replace_port(index, port);
            }
        }
    }

    /// Makes what sessions that open anew will need. To be called now and then, outside fault handlers.
    pub fn prepare(&mut self) {
        for peer in &mut self.peers {
            peer.client.prepare();
        }
    }

    /// A port that is hardly polled would not notice for long that its other end has gone; this looks.
    pub fn look_for_closed_ports(&mut self) {
        for attachment in self.attachments.iter_mut().filter(|attachment| !attachment.station.is_closed()) {
            let _ = attachment.station.wait(Duration::ZERO, None);
        }
    }

    /// Ports whose other end has gone, with a number that `replace_port` takes.
    pub fn closed_ports(&self) -> impl Iterator<Item = (usize, &PortSpec)> {
        let closed = self.attachments.iter().enumerate().filter(|(_, attachment)| attachment.station.is_closed());
        closed.map(|(index, attachment)| (index, &attachment.link.port))
    }

    /// Puts another port in the place of one that is closed.
    pub fn replace_port(&mut self, index: usize, port: Box<dyn Port>) {
        self.attachments[index].station.replace_port(port);
        for peer in self.peers.iter_mut().filter(|peer| peer.attachment == index) {
            peer.client.keep_alive(Instant::now());
        }
    }
}

/// A port has been seen to be empty.
fn looked(peers: &mut [Peer], attachment: usize, now: Instant) {
    for peer in peers.iter_mut().filter(|peer| peer.attachment == attachment) {
        peer.client.looked(now);
    }
}

impl Peer {
    /// Whether a packet from `from`, on this peer's port, is this peer's. An IP address may come by any router; on a
    /// socket of its own there is nobody else.
    fn is_at(&self, from: &Address, point_to_point: bool) -> bool {
        match self.address.udp {
            Some(_) => self.address.udp == from.udp,
            None => point_to_point || self.address.mac == from.mac,
        }
    }

    fn send(&mut self, now: Instant, station: &mut Station) {
        let mut sent = false;
        self.refused = None;
        while let Some(packet) = self.client.poll_transmit(now) {
            match station.transmit(now, &self.address, &packet) {
                Ok(()) => sent = true,
                // The MTU bounds every packet: one too long is a mistake, and lost like any other.
                Err(SendError::Port(TransmitError::TooLong)) => {
                    debug_assert!(false, "a packet longer than the link's MTU");
                }
                Err(refusal) => {
                    self.client.not_sent();
                    self.refused = Some(refusal);
                    break;
                }
            }
        }
        if sent {
            station.flush();
        }
    }
}
