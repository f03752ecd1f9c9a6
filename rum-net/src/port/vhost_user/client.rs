//! The client's port: a connection to one slave.

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    ETHERNET_HEADER_BYTES, MAX_PACKET_BYTES, MTU,
    driver_ring::{Buffers, ReceiveRing, TransmitRing},
    handshake::{self, HandshakeError, MemoryOffer, RingOffer},
    memory_map::{Mapping, MemoryMap},
    notify, random_mac,
    ring::{NET_HEADER_BYTES, PushError, Violation, part_bytes},
};
use crate::port::{LinkId, MacAddr, Port, TransmitError};

/// Entries, and so buffers, in each ring.
const RING_SIZE: u16 = 256;
/// Bytes of a buffer: a whole packet, and an odd number of cache lines, so that the buffers spread over all sets of
/// the cache.
const BUFFER_BYTES: usize = MAX_PACKET_BYTES.next_multiple_of(128) + 64;
/// What the shared memory is called towards the slave. It need not know where it really is.
const MEMORY_START: u64 = 1 << 32;
/// How long a slave may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Receives without a packet between two looks at whether the slave still lives.
const EMPTY_POLLS_BETWEEN_CHECKS: u32 = 4096;

/// Why a slave's socket could not be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// A socket file without a process behind it.
    #[error("nobody serves {0}: start its slave")]
    NotServed(PathBuf),
    /// No file there.
    #[error("no such socket: {0}: is its slave started?")]
    NoSuchPath(PathBuf),
    /// The socket belongs to somebody else.
    #[error("permission denied for the socket {0}")]
    PermissionDenied(PathBuf),
    /// A Unix socket's path is at most 107 bytes.
    #[error("the socket path {0} is empty or longer than 107 bytes")]
    PathTooLong(PathBuf),
    /// The process there does not answer in time.
    #[error("the process that serves {0} does not answer")]
    NoAnswer(PathBuf),
    /// The process there is no slave of ours, or it refuses this client.
    #[error("the process that serves {path} speaks no vhost-user that fits: {why}")]
    Protocol {
        /// The socket's path.
        path: PathBuf,
        /// What it did.
        why: String,
    },
    /// Anything else the system says.
    #[error("cannot connect to {0}: {1}")]
    Io(PathBuf, #[source] Errno),
}

/// The client's side of vhost-user: one link, number 0, to the slave that serves a socket.
#[derive(Debug)]
pub struct VhostClientPort {
    name: String,
    mac: MacAddr,
    socket: UnixStream,
    /// The slave signals it, for either ring, when this side sleeps.
    call: OwnedFd,
    /// This side signals them when the slave sleeps.
    kick_receive: OwnedFd,
    kick_transmit: OwnedFd,
    receive_ring: ReceiveRing,
    transmit_ring: TransmitRing,
    packet: Box<[u8]>,
    closed: bool,
    /// The last packet found no free buffer: be woken when there is one.
    starved: bool,
    empty_polls: u32,
}

impl VhostClientPort {
    /// Connects to the slave that serves `path`; at most 3 s if it does not answer.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let socket = handshake::connect(path, deadline).map_err(|error| connect_error(path, error))?;
        Self::set_up(path, socket, deadline).map_err(|error| match error {
            HandshakeError::Timeout => ConnectError::NoAnswer(path.to_owned()),
            HandshakeError::Io(error) => ConnectError::Io(path.to_owned(), errno(&error)),
            error => ConnectError::Protocol { path: path.to_owned(), why: error.to_string() },
        })
    }

    fn set_up(path: &Path, socket: UnixStream, deadline: Instant) -> Result<Self, HandshakeError> {
        let layout = Layout::new(RING_SIZE);
        let file = sealed_memory(layout.bytes)?;
        let mapping = Mapping::new(file.as_fd(), 0, layout.bytes)?;
        let memory = Arc::new(MemoryMap::own(mapping, MEMORY_START));
        let no_room = || HandshakeError::Io(io::Error::other("the rings do not fit their memory"));
        let receive_ring = ReceiveRing::new(memory.clone(), RING_SIZE, layout.rings[0], layout.buffers[0]);
        let transmit_ring = TransmitRing::new(memory.clone(), RING_SIZE, layout.rings[1], layout.buffers[1]);
        let port = Self {
            name: format!("vhost:{}", path.display()),
            mac: random_mac(),
            call: notify::eventfd()?,
            kick_receive: notify::eventfd()?,
            kick_transmit: notify::eventfd()?,
            receive_ring: receive_ring.ok_or_else(no_room)?,
            transmit_ring: transmit_ring.ok_or_else(no_room)?,
            packet: vec![0; MAX_PACKET_BYTES + BUFFER_BYTES].into_boxed_slice(),
            closed: false,
            starved: false,
            empty_polls: 0,
            socket,
        };
        let ring =
            |index: usize, kick| RingOffer { size: RING_SIZE, addresses: layout.rings[index], call: &port.call, kick };
        let rings = [ring(0, &port.kick_receive), ring(1, &port.kick_transmit)];
        let offer = MemoryOffer { file: &file, start: MEMORY_START, bytes: layout.bytes as u64 };
        handshake::offer(&port.socket, &offer, rings, deadline)?;
        Ok(port)
    }

    fn fail(&mut self, violation: Violation) {
        tracing::warn!("{}: the slave broke the protocol: {violation}", self.name);
        self.closed = true;
    }

    fn refill(&mut self) {
        if self.receive_ring.publish() {
            notify::ring(&self.kick_receive);
        }
    }

    /// Looks whether the slave is still there, at the cost of a system call.
    fn check_peer(&mut self) {
        let mut fds = [notify::poll_for(self.socket.as_raw_fd(), libc::POLLRDHUP)];
        if notify::poll(&mut fds, Duration::ZERO).is_ok() && fds[0].revents != 0 {
            self.closed = true;
        }
    }
}

impl Port for VhostClientPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn mtu(&self) -> usize {
        MTU
    }

    #[inline]
    fn transmit(&mut self, _link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        if self.closed {
            return Err(TransmitError::Closed);
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > ETHERNET_HEADER_BYTES + MTU {
            return Err(TransmitError::TooLong);
        }
        match self.transmit_ring.push(parts) {
            Ok(()) => Ok(()),
            Err(PushError::Full) => {
                self.starved = true;
                Err(TransmitError::Full)
            }
            Err(PushError::TooLong) => Err(TransmitError::TooLong),
            Err(PushError::Violation(violation)) => {
                self.fail(violation);
                Err(TransmitError::Closed)
            }
        }
    }

    #[inline]
    fn flush(&mut self) {
        if self.transmit_ring.publish() {
            notify::ring(&self.kick_transmit);
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let mut count = 0;
        while count < budget {
            match self.receive_ring.pop(&mut self.packet) {
                Ok(Some(len)) => {
                    count += 1;
                    if (NET_HEADER_BYTES + ETHERNET_HEADER_BYTES..=MAX_PACKET_BYTES).contains(&len) {
                        sink(LinkId(0), &self.packet[NET_HEADER_BYTES..len]);
                    }
                }
                Ok(None) => break,
                Err(violation) => {
                    self.fail(violation);
                    break;
                }
            }
        }
        if count > 0 {
            self.empty_polls = 0;
            if self.receive_ring.refill_due() {
                self.refill();
            }
        } else {
            // Off the way of a packet: nothing is there to do now.
            self.refill();
            self.empty_polls += 1;
            if self.empty_polls >= EMPTY_POLLS_BETWEEN_CHECKS {
                self.empty_polls = 0;
                self.check_peer();
            }
        }
        count
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        self.flush();
        self.refill();
        self.receive_ring.want_calls(true);
        let mut ready = self.receive_ring.has_used();
        if self.starved {
            self.transmit_ring.want_calls(true);
            ready |= self.transmit_ring.has_used();
        }
        let result = if ready || self.closed {
            Ok(())
        } else {
            let mut fds = [
                notify::poll_for(self.call.as_raw_fd(), libc::POLLIN),
                notify::poll_for(self.socket.as_raw_fd(), libc::POLLRDHUP),
                notify::poll_for(wake.unwrap_or(-1), libc::POLLIN),
            ];
            let result = notify::poll(&mut fds, timeout);
            if fds[0].revents != 0 {
                notify::drain(&self.call);
            }
            if fds[1].revents != 0 {
                self.closed = true;
            }
            result
        };
        self.receive_ring.want_calls(false);
        if std::mem::take(&mut self.starved) {
            self.transmit_ring.want_calls(false);
        }
        result
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

fn connect_error(path: &Path, error: io::Error) -> ConnectError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => ConnectError::NotServed(path),
        Some(libc::ENOENT | libc::ENOTDIR) => ConnectError::NoSuchPath(path),
        Some(libc::EACCES | libc::EPERM) => ConnectError::PermissionDenied(path),
        Some(libc::ENAMETOOLONG) => ConnectError::PathTooLong(path),
        Some(libc::EAGAIN) => ConnectError::NoAnswer(path),
        Some(libc::EPROTOTYPE) => ConnectError::Protocol { path, why: "not a stream socket".to_owned() },
        _ => ConnectError::Io(path, errno(&error)),
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Where rings and buffers lie in the shared memory, as addresses from `MEMORY_START`.
struct Layout {
    rings: [[u64; 3]; 2],
    buffers: [Buffers; 2],
    bytes: usize,
}

impl Layout {
    /// Rings first, each part on cache lines of its own (the two sides write different parts), then the buffers.
    fn new(size: u16) -> Self {
        let mut end = 0usize;
        let mut take = |bytes: usize, align: usize| {
            let start = end.next_multiple_of(align);
            end = start + bytes;
            MEMORY_START + start as u64
        };
        let rings = [(); 2].map(|()| part_bytes(size).map(|bytes| take(bytes, 128)));
        let stride = BUFFER_BYTES as u32;
        let buffers = [(); 2].map(|()| Buffers { start: take(BUFFER_BYTES * usize::from(size), 4096), stride });
        Self { rings, buffers, bytes: end.next_multiple_of(4096) }
    }
}

/// A memory file that can neither shrink nor grow any more.
fn sealed_memory(bytes: usize) -> io::Result<OwnedFd> {
    const NAME: &CStr = c"rum-vhost";
    // SAFETY: the name is a live C string; a non-negative result is a new descriptor that nobody else owns. The two
    // calls after it take no pointers.
    unsafe {
        let fd = libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let file = OwnedFd::from_raw_fd(fd);
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        if libc::ftruncate(fd, bytes as libc::off_t) != 0 || libc::fcntl(fd, libc::F_ADD_SEALS, seals) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }
}
