//! A client made by hand, message by message, that may break any rule.

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        eventfd::{EfdFlags, EventFd},
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
};

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;

pub const FEATURES: u64 = 1 << 32 | 1 << 15;
pub const ENTRIES: u64 = 64;
/// What the memory is called.
pub const START: u64 = 0x7000_0000;
pub const MEMORY_BYTES: u64 = 1 << 20;
/// Where the parts of ring 0 are in the memory; those of ring 1 are `RING_BYTES` further.
pub const DESCRIPTORS: u64 = 0;
pub const AVAILABLE: u64 = 2048;
pub const USED: u64 = 4096;
pub const RING_BYTES: u64 = 8192;
/// Where buffers may be.
pub const BUFFERS: u64 = 65536;

/// The ring the slave fills, and the one it empties.
pub const TO_CLIENT: u64 = 0;
pub const FROM_CLIENT: u64 = 1;

pub struct Hostile {
    pub socket: UnixStream,
    pub memory: File,
    pub kicks: [EventFd; 2],
    pub calls: [EventFd; 2],
}

impl Hostile {
    /// Connected, nothing said yet; the memory is sealed as an honest client's.
    pub fn connect(path: &Path) -> Self {
        let memory = File::from(sealed(MEMORY_BYTES, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW));
        let eventfd = || EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, memory, kicks: [eventfd(), eventfd()], calls: [eventfd(), eventfd()] }
    }

    /// An honest handshake, with the rings empty.
    pub fn join(path: &Path) -> Self {
        let hostile = Self::connect(path);
        hostile.shake_hands();
        hostile
    }

    pub fn shake_hands(&self) {
        self.send(SET_OWNER, &[], &[]);
        self.send(SET_FEATURES, &[FEATURES], &[]);
        self.share(&self.memory, MEMORY_BYTES);
        for ring in 0..2 {
            self.offer(ring);
        }
    }

    pub fn share(&self, memory: &File, bytes: u64) {
        self.send(SET_MEM_TABLE, &[1, START, bytes, START, 0], &[memory.as_raw_fd()]);
    }

    pub fn offer(&self, ring: u64) {
        let base = START + ring * RING_BYTES;
        self.send(SET_VRING_NUM, &[ring | ENTRIES << 32], &[]);
        self.send(SET_VRING_ADDR, &[ring, base + DESCRIPTORS, base + USED, base + AVAILABLE, 0], &[]);
        self.send(SET_VRING_CALL, &[ring], &[self.calls[ring as usize].as_raw_fd()]);
        self.send(SET_VRING_KICK, &[ring], &[self.kicks[ring as usize].as_raw_fd()]);
    }

    pub fn send(&self, number: u32, words: &[u64], fds: &[RawFd]) {
        self.try_send(number, words, fds).unwrap();
    }

    pub fn try_send(&self, number: u32, words: &[u64], fds: &[RawFd]) -> nix::Result<usize> {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let message = message(number, words);
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&message)], control, MsgFlags::MSG_NOSIGNAL, None)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Waits until the slave closes the connection.
    pub fn await_close(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the slave did not close: {error}"),
            }
        }
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    pub fn get_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    pub fn descriptor(&self, ring: u64, index: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = Vec::new();
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(ring * RING_BYTES + DESCRIPTORS + 16 * (index % ENTRIES), &bytes);
    }

    /// Writes an available entry and shows `index`.
    pub fn available(&self, ring: u64, position: u64, head: u16, index: u16) {
        let base = ring * RING_BYTES + AVAILABLE;
        self.put(base + 4 + 2 * (position % ENTRIES), &head.to_le_bytes());
        self.put(base + 2, &index.to_le_bytes());
        let _ = self.kicks[ring as usize].write(1);
    }

    pub fn used_index(&self, ring: u64) -> u16 {
        self.get_u16(ring * RING_BYTES + USED + 2)
    }
}

pub fn message(number: u32, words: &[u64]) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [number, 1, 8 * words.len() as u32] {
        message.extend(word.to_ne_bytes());
    }
    for word in words {
        message.extend(word.to_ne_bytes());
    }
    message
}

/// A memory file of `bytes`, with seals.
pub fn sealed(bytes: u64, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(c"hostile", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&fd, bytes as i64).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}
