//! One client's connection, as the slave sees it.

use std::{
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use vhost::vhost_user::{BackendReqHandler, Error};

use super::{
    CloseReason,
    calls::Calls,
    device_ring::DeviceRing,
    negotiation::{FROM_CLIENT, Negotiation, SharedNegotiation, TO_CLIENT},
    notify::Signaller,
    ring::{PushError, Violation},
};
use crate::port::LinkId;

/// Bytes of a vhost-user message's header: request u32, flags u32, size u32.
pub(super) const MESSAGE_HEADER_BYTES: usize = 12;
/// The longest body of a message that is served: a memory table.
const MAX_BODY_BYTES: usize = 8 + 32 * super::memory_map::MAX_REGIONS;
/// More than this in the socket's send queue: the client does not read its replies.
const MAX_UNREAD_BYTES: i32 = 16 << 10;
/// Messages handled in one go, so that a flood of them delays nobody else.
const MESSAGES_A_TURN: usize = 32;

/// Numbers of the messages that are served; any other closes the connection before the crate sees it.
pub(super) mod request {
    pub(in super::super) const GET_FEATURES: u32 = 1;
    pub(in super::super) const SET_FEATURES: u32 = 2;
    pub(in super::super) const SET_OWNER: u32 = 3;
    pub(in super::super) const SET_MEM_TABLE: u32 = 5;
    pub(in super::super) const SET_VRING_NUM: u32 = 8;
    pub(in super::super) const SET_VRING_ADDR: u32 = 9;
    pub(in super::super) const SET_VRING_BASE: u32 = 10;
    pub(in super::super) const SET_VRING_KICK: u32 = 12;
    pub(in super::super) const SET_VRING_CALL: u32 = 13;
    pub(in super::super) const SET_VRING_ERR: u32 = 14;

    pub(super) fn is_served(request: u32) -> bool {
        matches!(request, GET_FEATURES | SET_FEATURES | SET_OWNER | SET_MEM_TABLE | SET_VRING_NUM..=SET_VRING_ERR)
    }
}

/// The rings of a client that finished its handshake.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) to_client: DeviceRing,
    pub(super) from_client: DeviceRing,
    /// In the order of the rings' numbers.
    pub(super) kicks: [OwnedFd; 2],
    calls: [Option<OwnedFd>; 2],
    called: Calls,
    /// A call is owed for the ring: the client sleeps, and its calls are too dear for now.
    owed: [bool; 2],
    mergeable: bool,
    /// The last packet for the client found no buffer: the slave wants to know when there are some.
    starved: bool,
}

/// Whether a client was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// It polls, or there is nothing for it.
    None,
    /// It was called.
    Made,
    /// It is to be called then.
    PutOff(Instant),
}

/// What a turn of messages has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Nothing that matters here.
    None,
    /// As `None`, but more messages may be waiting.
    More,
    /// The rings have started.
    Started,
    /// The rings have stopped.
    Stopped,
}

/// One client's connection.
pub(super) struct Connection {
    pub(super) link: LinkId,
    handler: BackendReqHandler<Mutex<Negotiation>>,
    negotiation: SharedNegotiation,
    pub(super) device: Option<Device>,
    pub(super) since: Instant,
    /// Its place in the list of polled connections; idle ones have none and wait for a kick.
    pub(super) polled_at: Option<usize>,
    /// Polls without a packet.
    pub(super) empty_polls: u32,
    /// Is in the list of connections to publish.
    pub(super) dirty: bool,
}

impl Connection {
    pub(super) fn new(link: LinkId, socket: UnixStream, max_memory_bytes: u64) -> Self {
        let negotiation = Arc::new(Mutex::new(Negotiation::new(max_memory_bytes)));
        Self {
            link,
            handler: BackendReqHandler::from_stream(socket, negotiation.clone()),
            negotiation,
            device: None,
            since: Instant::now(),
            polled_at: None,
            empty_polls: 0,
            dirty: false,
        }
    }

    pub(super) fn socket(&self) -> RawFd {
        self.handler.as_raw_fd()
    }

    fn negotiation(&self) -> MutexGuard<'_, Negotiation> {
        self.negotiation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles the messages that have arrived whole. Never blocks: the crate's handler retries for ever in the
    /// middle of a message, so it is called only when it will find all it needs.
    pub(super) fn handle_messages(&mut self) -> Result<Progress, CloseReason> {
        for _ in 0..MESSAGES_A_TURN {
            if !self.whole_message_waits()? {
                return Ok(Progress::None);
            }
            if let Some(device) = &self.device {
                let bases = [device.to_client.base(), device.from_client.base()];
                self.negotiation().running = Some(bases);
            }
            let handled = self.handler.handle_request();
            let mut negotiation = self.negotiation();
            if let Err(error) = handled {
                tracing::debug!("vhost-user message: {error}");
                return Err(negotiation.reason.unwrap_or(match error {
                    Error::Disconnected | Error::SocketBroken(_) => CloseReason::Disconnected,
                    _ => CloseReason::BadMessage,
                }));
            }
            if std::mem::take(&mut negotiation.stop) {
                drop(negotiation);
                return Ok(Progress::Stopped);
            }
            let calls = [negotiation.new_call[0].take(), negotiation.new_call[1].take()];
            let started = negotiation.start()?;
            let mergeable = negotiation.mergeable();
            drop(negotiation);
            if let Some(device) = &mut self.device {
                for (call, new) in device.calls.iter_mut().zip(calls) {
                    if let Some(new) = new {
                        *call = new;
                    }
                }
            }
            if let Some([to_client, from_client]) = started {
                self.device = Some(Device {
                    to_client: to_client.ring,
                    from_client: from_client.ring,
                    kicks: [to_client.kick, from_client.kick],
                    calls: [to_client.call, from_client.call],
                    called: Calls::default(),
                    owed: [false; 2],
                    mergeable,
                    starved: false,
                });
                return Ok(Progress::Started);
            }
        }
        Ok(Progress::More)
    }

    fn whole_message_waits(&self) -> Result<bool, CloseReason> {
        let socket = self.socket();
        // Asked before the look at the header: what arrives in between is an event of its own.
        let (waiting, unread) = (queue_bytes(socket, libc::FIONREAD)?, queue_bytes(socket, libc::TIOCOUTQ)?);
        if unread > MAX_UNREAD_BYTES {
            return Err(CloseReason::UnreadReplies);
        }
        let mut header = [0u8; MESSAGE_HEADER_BYTES];
        // SAFETY: peeks at most 12 bytes into a live array.
        let got = unsafe {
            libc::recv(socket, header.as_mut_ptr().cast(), header.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT)
        };
        if got <= 0 {
            let error = std::io::Error::last_os_error();
            let none_yet = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted);
            return if got < 0 && none_yet { Ok(false) } else { Err(CloseReason::Disconnected) };
        }
        if (got as usize) < MESSAGE_HEADER_BYTES {
            // Half a header; or the rest of it came with descriptors of its own, which no honest client sends.
            let rest_waits = waiting as usize >= MESSAGE_HEADER_BYTES;
            return if rest_waits { Err(CloseReason::BadMessage) } else { Ok(false) };
        }
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (number, body) = (word(0), word(8) as usize);
        if !request::is_served(number) || body > MAX_BODY_BYTES {
            return Err(CloseReason::BadMessage);
        }
        Ok(waiting as usize >= MESSAGE_HEADER_BYTES + body)
    }
}

/// Bytes waiting in a socket: to be read (FIONREAD) or not yet read by the other side (TIOCOUTQ).
fn queue_bytes(socket: RawFd, which: libc::Ioctl) -> Result<i32, CloseReason> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int.
    if unsafe { libc::ioctl(socket, which, &raw mut bytes) } != 0 {
        return Err(CloseReason::Disconnected);
    }
    Ok(bytes)
}

impl Device {
    /// Takes the next packet, virtio-net header included.
    #[inline]
    pub(super) fn take(&mut self, packet: &mut [u8]) -> Result<Option<usize>, Violation> {
        self.from_client.pop(packet)
    }

    /// Queues a packet for the client.
    #[inline]
    pub(super) fn give(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        self.to_client.push(parts, self.mergeable)
    }

    /// A packet found no buffer: the next `ask_for_kicks` is to ask for one when there are some.
    pub(super) fn set_starved(&mut self) {
        self.starved = true;
    }

    /// Shows the client what was taken and given, and calls it if it sleeps.
    pub(super) fn publish(&mut self, signaller: &mut Signaller) -> Result<Call, CloseReason> {
        self.owed[TO_CLIENT] |= self.to_client.publish();
        self.owed[FROM_CLIENT] |= self.from_client.publish();
        self.call(signaller)
    }

    /// Makes the calls that are owed, if the client may be called now.
    pub(super) fn call(&mut self, signaller: &mut Signaller) -> Result<Call, CloseReason> {
        if self.owed == [false; 2] {
            return Ok(Call::None);
        }
        let start = Instant::now();
        if let Some(until) = self.called.rests_until(start) {
            return Ok(Call::PutOff(until));
        }
        for (owed, call) in self.owed.iter_mut().zip(&self.calls) {
            if let (true, Some(call)) = (std::mem::take(owed), call)
                && !signaller.signal(call)
            {
                return Err(CloseReason::BadCall);
            }
        }
        self.called.on_call(start, Instant::now());
        Ok(Call::Made)
    }

    /// Before this side stops polling: asks for kicks. `true`: there is something to do already.
    pub(super) fn ask_for_kicks(&mut self) -> bool {
        self.from_client.want_kicks(true);
        let mut more = self.from_client.has_more();
        if self.starved {
            self.to_client.want_kicks(true);
            more |= self.to_client.has_grown();
        }
        more
    }

    /// This side polls (again).
    pub(super) fn decline_kicks(&mut self) {
        self.starved = false;
        self.from_client.want_kicks(false);
        self.to_client.want_kicks(false);
    }
}
