//! The way to the other slaves: a session with each, over ports of this slave's own. Messages to one of them travel together; the answer to
//! a request brings what that slave has to say at that moment. What cannot be sent is dropped: replicas say it again.

use std::{
    collections::VecDeque,
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rum_net::{
    fabric::{Fabric, PeerIndex},
    machines::Machine,
    placement::SlaveIndex,
    port::{Port, open_client, spec::PortSpec},
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES,
        client::{ClientEvent, RequestId},
    },
    seal::ClientKey,
    shared::SharedBytes,
    station::{LinkError, Station, spec::LinkSpec},
    wire::message::{PEER_HEAD_BYTES, decode_peer_response, peer_head},
};

use super::message::PeerMessage;

/// Messages that wait for one slave, at most.
const MAX_WAITING: usize = 4096;
/// Messages of one request together, unless one alone has more.
const REQUEST_BYTES: usize = 64 << 10;
/// A message so long is a request of its own, which is not copied on its way to each slave.
const LONG_BYTES: usize = 1 << 10;
/// Requests to one slave that pieces of state may take up.
const TRANSFER_REQUESTS: usize = 6;
/// How often sessions are kept alive, and ports looked after.
const CARE: Duration = Duration::from_secs(1);
/// How often ports whose other end is gone are looked after.
const CONNECT: Duration = Duration::from_millis(20);

/// A slave's port on a network, by which it asks others.
pub type OwnPort = (LinkSpec, Box<dyn Port>);

/// Why the other slaves cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// A port towards them.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A slave that is not on a socket, and no port by which it could be reached.
    #[error("{0} cannot be reached: this slave has no port on a network")]
    NoPort(String),
    /// The thread that opens ports.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

struct Peer {
    index: PeerIndex,
    waiting: VecDeque<SharedBytes>,
    /// Responses under way, as far as they have come.
    responses: Vec<(RequestId, Vec<u8>)>,
}

/// Opens ports in a thread of its own: the other end may be a slave that is opening one to this slave at the same time.
struct Connector {
    wanted: mpsc::Sender<(usize, PortSpec)>,
    opened: mpsc::Receiver<(usize, Option<Box<dyn Port>>)>,
    asked: Vec<usize>,
}

impl Connector {
    fn start() -> io::Result<Self> {
        let (wanted, to_open) = mpsc::channel::<(usize, PortSpec)>();
        let (done, opened) = mpsc::channel();
        thread::Builder::new().name("rum-connect".to_owned()).spawn(move || {
            for (index, spec) in to_open {
                // The slave has gone when nobody takes it.
                if done.send((index, open_client(&spec).ok())).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { wanted, opened, asked: Vec::new() })
    }
}

/// All other slaves.
pub struct Peers {
    fabric: Fabric,
    me: SlaveIndex,
    /// By the slaves' place in machines.csv; none for this one.
    peers: Vec<Option<Peer>>,
    connector: Connector,
    next_care: Instant,
    next_connect: Instant,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Peers {
    /// Sessions with all `machines` but `me`, which need not be there yet. `incarnation` is this process's. By `own` slaves are reached that are not
    /// on sockets.
    ///
    /// # Errors
    /// When a port cannot be opened that does not depend on the other end.
    pub fn new(
        machines: &[Machine],
        me: SlaveIndex,
        incarnation: Incarnation,
        key: Option<ClientKey>,
        own: Option<OwnPort>,
    ) -> Result<Self, PeersError> {
        let mut fabric = Fabric::new(incarnation, key);
        let own = match own {
            None => None,
            Some((link, port)) => {
                let station = Station::client_over(&link, port)?;
                Some(fabric.add_station(link, station))
            }
        };
        let mut peers = Vec::new();
        for (machine, slave) in machines.iter().zip(0..) {
            if slave == me {
                peers.push(None);
                continue;
            }
            let index = match (&machine.link.port, own) {
                (PortSpec::Vhost(_), _) => fabric.add_absent_peer(&machine.link, machine.mac, MAX_MESSAGE_BYTES),
                (_, Some(own)) => fabric.add_peer_at(own, machine.mac, machine.ip.parse().ok(), MAX_MESSAGE_BYTES)?,
                (_, None) => return Err(PeersError::NoPort(machine.link.to_string())),
            };
            peers.push(Some(Peer { index, waiting: VecDeque::new(), responses: Vec::new() }));
        }
        let now = Instant::now();
        Ok(Self { fabric, me, peers, connector: Connector::start()?, next_care: now, next_connect: now })
    }

    /// Puts a message into the line for some slaves.
    pub fn push(&mut self, to: &[SlaveIndex], message: &PeerMessage) {
        let bytes = SharedBytes::from(message.encode());
        if bytes.len() + PEER_HEAD_BYTES > MAX_MESSAGE_BYTES {
            tracing::error!("a message of {} bytes to other slaves is too long", bytes.len());
            return;
        }
        for &slave in to {
            let Some(Some(peer)) = self.peers.get_mut(usize::from(slave)) else { continue };
            if peer.waiting.len() == MAX_WAITING {
                peer.waiting.pop_front();
            }
            peer.waiting.push_back(bytes.clone());
        }
    }

    /// What waits for a slave, to be put into a response to it: up to `most` bytes.
    pub fn take_waiting(&mut self, slave: SlaveIndex, most: usize, response: &mut Vec<u8>) {
        let Some(Some(peer)) = self.peers.get_mut(usize::from(slave)) else { return };
        let mut room = most;
        while let Some(next) = peer.waiting.front()
            && next.len() <= room
        {
            room -= next.len();
            response.extend_from_slice(next);
            peer.waiting.pop_front();
        }
    }

    /// How many more requests with pieces of state may go to a slave now.
    pub fn room(&self, slave: SlaveIndex) -> usize {
        let Some(Some(peer)) = self.peers.get(usize::from(slave)) else { return 0 };
        let session = self.fabric.session(peer.index);
        if session.is_open() { TRANSFER_REQUESTS.saturating_sub(session.in_flight() + peer.waiting.len()) } else { 0 }
    }

    /// Whether a slave has something to answer.
    pub fn is_waiting(&self) -> bool {
        self.peers.iter().flatten().any(|peer| self.fabric.session(peer.index).in_flight() > 0)
    }

    /// Whether something waits to be sent.
    pub fn has_messages(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.waiting.is_empty())
    }

    /// Sends what waits.
    pub fn send(&mut self, now: Instant) {
        let head = peer_head(self.me);
        for peer in self.peers.iter_mut().flatten() {
            let session = self.fabric.session(peer.index);
            if !session.is_open() {
                peer.waiting.clear();
                continue;
            }
            let mut free = session.free_slots();
            while free > 0 && !peer.waiting.is_empty() {
                free -= 1;
                let mut body = SharedBytes::default();
                let mut short = Vec::new();
                while body.is_empty()
                    && let Some(next) = peer.waiting.front()
                    && short.len() + next.len() <= REQUEST_BYTES.max(next.len())
                    && (short.is_empty() || next.len() < LONG_BYTES)
                {
                    if next.len() < LONG_BYTES {
                        short.extend_from_slice(next);
                    } else {
                        body = next.clone();
                    }
                    peer.waiting.pop_front();
                }
                if !short.is_empty() {
                    body = short.into();
                }
                if let Ok(request) = self.fabric.request_shared(now, peer.index, &head, body) {
                    peer.responses.push((request, Vec::new()));
                }
            }
        }
    }

    /// Receives and sends; gives `sink` each message that has come. Returns whether packets have.
    pub fn poll(&mut self, now: Instant, sink: &mut dyn FnMut(SlaveIndex, PeerMessage)) -> bool {
        let Self { fabric, peers, .. } = self;
        let mut reset = Vec::new();
        let has_come = fabric.poll_at(now, &mut |index, event| {
            let mut all = peers.iter_mut().zip(0..);
            let found = all
                .find_map(|(peer, slave)| peer.as_mut().filter(|peer| peer.index == index).map(|peer| (peer, slave)));
            let Some((peer, slave)) = found else { return };
            match event {
                ClientEvent::Opened { .. } => {}
                ClientEvent::Fragment { request, offset, bytes } => {
                    let found = peer.responses.iter_mut().find(|(under_way, _)| *under_way == request);
                    let Some((_, response)) = found else { return };
                    response.resize(response.len().max(offset + bytes.len()), 0);
                    response[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                ClientEvent::Complete { request, .. } => {
                    let found = peer.responses.iter().position(|(under_way, _)| *under_way == request);
                    let response = found.map(|at| peer.responses.swap_remove(at).1).unwrap_or_default();
                    match decode_peer_response(&response) {
                        Ok(messages) => {
                            PeerMessage::decode_all(messages, &mut |message| sink(slave, message));
                        }
                        Err(error) => tracing::warn!("slave {slave} does not take part: {error}"),
                    }
                }
                ClientEvent::Reset => {
                    peer.responses.clear();
                    peer.waiting.clear();
                    reset.push(index);
                }
            }
        });
        for index in reset {
            fabric.session_mut(index).reopen(now);
        }
        self.care(now);
        has_come
    }

    fn care(&mut self, now: Instant) {
        if !self.connector.asked.is_empty() {
            while let Ok((index, port)) = self.connector.opened.try_recv() {
                self.connector.asked.retain(|&asked| asked != index);
                if let Some(port) = port {
                    self.fabric.replace_port(index, port);
                }
            }
        }
        if now >= self.next_connect {
            self.next_connect = now + CONNECT;
            self.fabric.look_for_closed_ports();
            for (index, spec) in self.fabric.closed_ports() {
                if !self.connector.asked.contains(&index) && self.connector.wanted.send((index, spec.clone())).is_ok() {
                    self.connector.asked.push(index);
                }
            }
        }
        if now >= self.next_care {
            self.next_care = now + CARE;
            self.fabric.prepare();
            for peer in self.peers.iter().flatten() {
                self.fabric.session_mut(peer.index).keep_alive(now);
            }
        }
    }
}
