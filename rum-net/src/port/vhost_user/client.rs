//! The client's port: a connection to one slave.

use std::{
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    MTU,
    driver::Driver,
    handshake::{self, HandshakeError},
    notify, random_mac,
    ring::{PushError, Violation},
};
use crate::port::{LinkId, MacAddr, Port, TransmitError};

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
    driver: Driver,
    closed: bool,
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
        let mut driver = Driver::new(MTU)?;
        if let Some(offer) = driver.offer() {
            handshake::offer(&socket, &offer, deadline)?;
        }
        driver.offered();
        let name = format!("vhost:{}", path.display());
        Ok(Self { name, mac: random_mac(), socket, driver, closed: false, empty_polls: 0 })
    }

    fn fail(&mut self, violation: Violation) {
        tracing::warn!("{}: the slave broke the protocol: {violation}", self.name);
        self.closed = true;
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
        self.driver.transmit(parts).map_err(|error| match error {
            PushError::Full => TransmitError::Full,
            PushError::TooLong => TransmitError::TooLong,
            PushError::Violation(violation) => {
                self.fail(violation);
                TransmitError::Closed
            }
        })
    }

    #[inline]
    fn flush(&mut self) {
        self.driver.flush();
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let (count, violation) = self.driver.receive(budget, sink);
        if let Some(violation) = violation {
            self.fail(violation);
        }
        self.empty_polls = if count > 0 { 0 } else { self.empty_polls + 1 };
        if self.empty_polls >= EMPTY_POLLS_BETWEEN_CHECKS {
            self.empty_polls = 0;
            self.check_peer();
        }
        count
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        let ready = self.driver.ask_for_calls();
        let result = if ready || self.closed {
            Ok(())
        } else {
            let mut fds = [
                notify::poll_for(self.driver.call.as_raw_fd(), libc::POLLIN),
                notify::poll_for(self.socket.as_raw_fd(), libc::POLLRDHUP),
                notify::poll_for(wake.unwrap_or(-1), libc::POLLIN),
            ];
            let result = notify::poll(&mut fds, timeout);
            if fds[0].revents != 0 {
                notify::drain(&self.driver.call);
            }
            if fds[1].revents != 0 {
                self.closed = true;
            }
            result
        };
        self.driver.decline_calls();
        result
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn shares_memory(&self) -> bool {
        true
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        self.driver.counters(sink);
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
