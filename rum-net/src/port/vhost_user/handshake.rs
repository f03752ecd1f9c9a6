//! The client's side of the vhost-user protocol: connect, and hand over memory and rings.
//!
//! Messages are `{ request u32, flags u32, body bytes u32 }` and the body, in the machine's byte order; descriptors
//! travel beside the first byte. The slave answers GET_FEATURES only. It is asked at the start, and again at the
//! end: its second answer says that it has taken all that was sent in between.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{
    F_MRG_RXBUF, F_VERSION_1,
    connection::{MESSAGE_HEADER_BYTES, request},
    notify,
};

/// Protocol version 1.
const VERSION: u32 = 1;
const REPLY: u32 = 4;

/// Why a handshake ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("it does not answer")]
    Timeout,
    #[error("it closed the connection")]
    Refused,
    #[error("it lacks the virtio features that are needed (it offers {0:#x})")]
    Features(u64),
    #[error("its answer makes no sense")]
    Answer,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the slave is told of a ring.
pub(super) struct RingOffer<'a> {
    pub(super) size: u16,
    /// User addresses of descriptors, available and used ring.
    pub(super) addresses: [u64; 3],
    pub(super) call: &'a OwnedFd,
    pub(super) kick: &'a OwnedFd,
}

/// What the slave is told of the memory.
pub(super) struct MemoryOffer<'a> {
    pub(super) file: &'a OwnedFd,
    /// What the memory is called, in guest and user addresses alike.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Runs the whole handshake on a connected socket.
pub(super) fn offer(
    socket: &UnixStream,
    memory: &MemoryOffer<'_>,
    rings: [RingOffer<'_>; 2],
    deadline: Instant,
) -> Result<(), HandshakeError> {
    let needed = F_VERSION_1 | F_MRG_RXBUF;
    let features = ask_features(socket, deadline)?;
    if features & needed != needed {
        return Err(HandshakeError::Features(features));
    }
    send(socket, request::SET_OWNER, &[], &[], deadline)?;
    send(socket, request::SET_FEATURES, &[needed], &[], deadline)?;
    let table = [1, memory.start, memory.bytes, memory.start, 0];
    send(socket, request::SET_MEM_TABLE, &table, &[memory.file.as_raw_fd()], deadline)?;
    for (index, ring) in rings.iter().enumerate() {
        let index = index as u64;
        // A vring state is two u32s: the ring's number and a value.
        let state = |value: u64| [index | value << 32];
        send(socket, request::SET_VRING_NUM, &state(ring.size.into()), &[], deadline)?;
        send(socket, request::SET_VRING_BASE, &state(0), &[], deadline)?;
        let [descriptors, available, used] = ring.addresses;
        send(socket, request::SET_VRING_ADDR, &[index, descriptors, used, available, 0], &[], deadline)?;
        send(socket, request::SET_VRING_CALL, &[index], &[ring.call.as_raw_fd()], deadline)?;
        send(socket, request::SET_VRING_KICK, &[index], &[ring.kick.as_raw_fd()], deadline)?;
    }
    ask_features(socket, deadline)?;
    Ok(())
}

fn ask_features(socket: &UnixStream, deadline: Instant) -> Result<u64, HandshakeError> {
    send(socket, request::GET_FEATURES, &[], &[], deadline)?;
    let mut answer = [0u8; MESSAGE_HEADER_BYTES + 8];
    let mut filled = 0;
    while filled < answer.len() {
        await_event(socket, libc::POLLIN, deadline)?;
        // SAFETY: receives at most what is left of a live array.
        let got = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                answer[filled..].as_mut_ptr().cast(),
                answer.len() - filled,
                libc::MSG_DONTWAIT,
            )
        };
        match got {
            0 => return Err(HandshakeError::Refused),
            1.. => filled += got as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => {}
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.kind() == io::ErrorKind::ConnectionReset => return Err(HandshakeError::Refused),
                error => return Err(error.into()),
            },
        }
    }
    let word = |at: usize| u32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
    if [word(0), word(4), word(8)] != [request::GET_FEATURES, VERSION | REPLY, 8] {
        return Err(HandshakeError::Answer);
    }
    Ok(u64::from(word(12)) | u64::from(word(16)) << 32)
}

/// Sends one message whose body is `words`.
fn send(
    socket: &UnixStream,
    number: u32,
    words: &[u64],
    fds: &[RawFd],
    deadline: Instant,
) -> Result<(), HandshakeError> {
    let mut message = [0u8; MESSAGE_HEADER_BYTES + 5 * 8];
    let body_bytes = 8 * words.len() as u32;
    for (at, word) in [number, VERSION, body_bytes].into_iter().enumerate() {
        message[4 * at..][..4].copy_from_slice(&word.to_ne_bytes());
    }
    for (at, word) in words.iter().enumerate() {
        message[MESSAGE_HEADER_BYTES + 8 * at..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    let message = &message[..MESSAGE_HEADER_BYTES + 8 * words.len()];
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(message)], control, flags, None) {
            // A stream socket takes so short a message whole or not at all.
            Ok(sent) if sent == message.len() => return Ok(()),
            Ok(_) => return Err(HandshakeError::Answer),
            Err(nix::Error::EAGAIN) => await_event(socket, libc::POLLOUT, deadline)?,
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => return Err(HandshakeError::Refused),
            Err(error) => return Err(HandshakeError::Io(error.into())),
        }
    }
}

fn await_event(socket: &UnixStream, event: i16, deadline: Instant) -> Result<(), HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left == Duration::ZERO {
        return Err(HandshakeError::Timeout);
    }
    Ok(notify::poll(&mut [notify::poll_for(socket.as_raw_fd(), event)], left)?)
}

/// A Unix stream socket without an address.
pub(super) fn new_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A path as a socket address; `None` if it is too long for one.
pub(super) fn socket_address(path: &Path) -> Option<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    if bytes.len() >= address.sun_path.len() || bytes.is_empty() {
        return None;
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Some((address, length as libc::socklen_t))
}

/// Connects to `path`, waiting no longer than until `deadline` for a place in the slave's queue.
pub(super) fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let (address, length) = socket_address(path).ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
    let socket = UnixStream::from(new_socket()?);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // connect honours the send timeout; a zero one would mean for ever.
        socket.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        // SAFETY: `address` is a filled sockaddr_un of `length` bytes.
        if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } == 0 {
            return Ok(socket);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
