//! The driver's side of the vhost-user protocol: hand over memory and rings.
//!
//! Messages are `{ request u32, flags u32, body bytes u32 }` and the body, in the machine's byte order; descriptors
//! travel beside the first byte. The device answers what asks for something only. It is asked for its features at the start,
//! and again at the end: its second answer says that it has taken all that was sent in between.

use std::{
    io,
    mem::{offset_of, size_of},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use super::{
    F_MRG_RXBUF, F_PROTOCOL_FEATURES, F_VERSION_1,
    connection::{MESSAGE_HEADER_BYTES, request},
    notify,
};

/// Protocol version 1.
const VERSION: u32 = 1;
const REPLY: u32 = 4;
/// Most words in a message's body.
const MAX_WORDS: usize = 5;
/// Asked of a device that has protocol features (a switch); slaves of ours have none.
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

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

/// What the device is told of a ring.
pub(super) struct RingOffer<'a> {
    pub(super) size: u16,
    /// User addresses of descriptors, available and used ring.
    pub(super) addresses: [u64; 3],
    pub(super) call: &'a OwnedFd,
    pub(super) kick: &'a OwnedFd,
}

/// What the device is told.
pub(super) struct Offer<'a> {
    pub(super) file: &'a OwnedFd,
    /// What the memory is called, in guest and user addresses alike.
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) rings: [RingOffer<'a>; 2],
}

/// One message with what it carries.
struct Message {
    number: u32,
    words: [u64; MAX_WORDS],
    length: usize,
    fd: Option<RawFd>,
    /// The device answers with one word.
    asks: bool,
}

enum Next {
    Send(Message),
    /// This device need not be told.
    Skip,
    Done,
}

fn tell(number: u32, body: &[u64], fd: Option<&OwnedFd>) -> Next {
    let mut words = [0; MAX_WORDS];
    words[..body.len()].copy_from_slice(body);
    Next::Send(Message { number, words, length: body.len(), fd: fd.map(AsRawFd::as_raw_fd), asks: false })
}

fn ask(number: u32) -> Next {
    Next::Send(Message { number, words: [0; MAX_WORDS], length: 0, fd: None, asks: true })
}

/// How far a handshake has come. Never blocks, and does not allocate.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    step: usize,
    /// What this step says was sent; its answer is awaited.
    sent: bool,
    /// virtio features that the device offers, once it has said so.
    offered: Option<u64>,
    answer: [u8; MESSAGE_HEADER_BYTES + 8],
    filled: usize,
}

impl Handshake {
    /// Goes on as far as it can. `true`: it is done.
    pub(super) fn advance(&mut self, socket: &UnixStream, offer: &Offer<'_>) -> Result<bool, HandshakeError> {
        loop {
            match self.next(offer) {
                Next::Done => return Ok(true),
                Next::Skip => self.step += 1,
                Next::Send(message) => {
                    if !self.sent {
                        self.sent = send(socket, &message)?;
                    }
                    if !self.sent || message.asks && !self.answered(socket, message.number)? {
                        return Ok(false);
                    }
                    self.sent = false;
                    self.step += 1;
                }
            }
        }
    }

    /// The event of the socket that lets it go on.
    pub(super) fn awaits(&self) -> i16 {
        if self.sent { libc::POLLIN } else { libc::POLLOUT }
    }

    /// What is to be said in this step.
    fn next(&self, offer: &Offer<'_>) -> Next {
        const RING_STEPS: usize = 5;
        const RINGS: usize = 6;
        const ENABLE: usize = RINGS + 2 * RING_STEPS;
        const LAST: usize = ENABLE + 2;
        let offered = self.offered.unwrap_or(0);
        let has_protocol_features = offered & F_PROTOCOL_FEATURES != 0;
        let taken = (F_VERSION_1 | F_MRG_RXBUF | F_PROTOCOL_FEATURES) & offered;
        match self.step {
            0 | LAST => ask(request::GET_FEATURES),
            1 => tell(request::SET_OWNER, &[], None),
            2 | 3 | ENABLE.. if self.step < LAST && !has_protocol_features => Next::Skip,
            2 => ask(GET_PROTOCOL_FEATURES),
            // None of them is needed.
            3 => tell(SET_PROTOCOL_FEATURES, &[0], None),
            4 => tell(request::SET_FEATURES, &[taken], None),
            5 => tell(request::SET_MEM_TABLE, &[1, offer.start, offer.bytes, offer.start, 0], Some(offer.file)),
            RINGS..ENABLE => {
                let index = (self.step - RINGS) / RING_STEPS;
                ring_message((self.step - RINGS) % RING_STEPS, index as u64, &offer.rings[index])
            }
            // A vring state: the ring's number, and 1 for on.
            ENABLE..LAST => tell(SET_VRING_ENABLE, &[(self.step - ENABLE) as u64 | 1 << 32], None),
            _ => Next::Done,
        }
    }

    /// Takes what has come of an answer; whether it is whole.
    fn answered(&mut self, socket: &UnixStream, number: u32) -> Result<bool, HandshakeError> {
        while self.filled < self.answer.len() {
            let rest = &mut self.answer[self.filled..];
            // SAFETY: receives at most what is left of a live array.
            let got =
                unsafe { libc::recv(socket.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), libc::MSG_DONTWAIT) };
            match got {
                0 => return Err(HandshakeError::Refused),
                1.. => self.filled += got as usize,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::ConnectionReset => return Err(HandshakeError::Refused),
                    error => return Err(error.into()),
                },
            }
        }
        self.filled = 0;
        let answer = &self.answer;
        let word = |at: usize| u32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
        if [word(0), word(4), word(8)] != [number, VERSION | REPLY, 8] {
            return Err(HandshakeError::Answer);
        }
        if number == request::GET_FEATURES && self.offered.is_none() {
            let features = u64::from(word(12)) | u64::from(word(16)) << 32;
            let needed = F_VERSION_1 | F_MRG_RXBUF;
            if features & needed != needed {
                return Err(HandshakeError::Features(features));
            }
            self.offered = Some(features);
        }
        Ok(true)
    }
}

fn ring_message(step: usize, index: u64, ring: &RingOffer<'_>) -> Next {
    // A vring state is two u32s: the ring's number and a value.
    let state = |value: u64| [index | value << 32];
    let [descriptors, available, used] = ring.addresses;
    match step {
        0 => tell(request::SET_VRING_NUM, &state(ring.size.into()), None),
        1 => tell(request::SET_VRING_BASE, &state(0), None),
        2 => tell(request::SET_VRING_ADDR, &[index, descriptors, used, available, 0], None),
        3 => tell(request::SET_VRING_CALL, &[index], Some(ring.call)),
        _ => tell(request::SET_VRING_KICK, &[index], Some(ring.kick)),
    }
}

/// Runs the whole handshake on a connected socket.
pub(super) fn offer(socket: &UnixStream, offer: &Offer<'_>, deadline: Instant) -> Result<(), HandshakeError> {
    let mut handshake = Handshake::default();
    while !handshake.advance(socket, offer)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(HandshakeError::Timeout);
        }
        notify::poll(&mut [notify::poll_for(socket.as_raw_fd(), handshake.awaits())], left)?;
    }
    Ok(())
}

/// A control message that carries one descriptor.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: [libc::c_int; 2],
}

/// Sends one message, if there is room for it: a stream socket takes so short a one whole or not at all.
fn send(socket: &UnixStream, message: &Message) -> Result<bool, HandshakeError> {
    let mut bytes = [0u8; MESSAGE_HEADER_BYTES + 8 * MAX_WORDS];
    for (at, word) in [message.number, VERSION, 8 * message.length as u32].into_iter().enumerate() {
        bytes[4 * at..][..4].copy_from_slice(&word.to_ne_bytes());
    }
    for (at, word) in message.words.iter().enumerate() {
        bytes[MESSAGE_HEADER_BYTES + 8 * at..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    let length = MESSAGE_HEADER_BYTES + 8 * message.length;
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let fd_bytes = size_of::<libc::c_int>() as u32;
    // SAFETY: a computation without pointers.
    let rights_bytes = unsafe { libc::CMSG_LEN(fd_bytes) };
    // SAFETY: plain C structures, for which zeros are a value.
    let (mut rights, mut header): (Rights, libc::msghdr) = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    if let Some(fd) = message.fd {
        rights.header.cmsg_len = rights_bytes as _;
        rights.header.cmsg_level = libc::SOL_SOCKET;
        rights.header.cmsg_type = libc::SCM_RIGHTS;
        rights.fd[0] = fd;
        header.msg_control = (&raw mut rights).cast();
        header.msg_controllen = size_of::<Rights>() as _;
    }
    const { assert!(offset_of!(Rights, fd) == size_of::<libc::cmsghdr>()) };
    loop {
        // SAFETY: the header leads to one live part and, if it carries a descriptor, one well-formed control message.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        if usize::try_from(sent).is_ok() {
            return if sent as usize == length { Ok(true) } else { Err(HandshakeError::Answer) };
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Ok(false),
            Some(libc::EINTR) => {}
            Some(libc::EPIPE | libc::ECONNRESET) => return Err(HandshakeError::Refused),
            _ => return Err(error.into()),
        }
    }
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
