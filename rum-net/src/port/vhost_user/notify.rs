//! Waking the other side, and being woken: eventfds, poll, and a signal that can never block.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use crate::port::sleep;

/// A new eventfd, non-blocking.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; a non-negative result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Signals an eventfd of our own making. (On one that a hostile side may saturate, this would block or fail.)
pub(super) fn ring(fd: &OwnedFd) {
    let one = 1u64;
    // SAFETY: writes 8 bytes from a live u64. A full counter is as good as a signal.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Takes the signals out of an eventfd of our own.
pub(super) fn drain(fd: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: reads 8 bytes into a live u64; the descriptor is non-blocking.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// Whether a descriptor that somebody sent us is an eventfd.
pub(super) fn is_eventfd(fd: &OwnedFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}

/// Sleeps until one of `fds` has an event or the time is over. A signal handler's return counts as an event.
pub(super) fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    sleep::poll(fds, timeout).map(drop)
}

pub(super) fn poll_for(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Signals in one context before their completions are taken out again.
const BATCH: i64 = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CompletionEvent {
    _data: u64,
    _object: u64,
    _result: i64,
    _result2: i64,
}

const OP_READ: u16 = 0;
const FLAG_RESULT_FD: u32 = 1;

/// Signals eventfds that belong to somebody else and never blocks, whatever their owner does with them.
///
/// A write to an eventfd whose owner has saturated its counter and made it blocking sleeps for ever. Linux AIO
/// signals an eventfd from inside the kernel when a request completes, and that never waits: so a request is made
/// that completes at once (a read from /dev/zero) with the eventfd as its result descriptor.
#[derive(Debug)]
pub(super) struct Signaller {
    context: Option<libc::c_ulong>,
    zero: std::fs::File,
    unreaped: i64,
}

impl Signaller {
    pub(super) fn new() -> io::Result<Self> {
        let zero = std::fs::File::open("/dev/zero")?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one word.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, BATCH, &raw mut context) } == 0;
        if !made {
            tracing::warn!(
                "io_setup: {}: a hostile client may delay a signal (raise fs.aio-max-nr)",
                io::Error::last_os_error()
            );
        }
        Ok(Self { context: made.then_some(context), zero, unreaped: 0 })
    }

    /// Signals `fd`. `false`: it cannot be signalled, and its owner is to be dropped.
    pub(super) fn signal(&mut self, fd: &OwnedFd) -> bool {
        let Some(context) = self.context else { return write_nonblocking(fd) };
        if self.unreaped >= BATCH {
            self.reap(context);
        }
        let mut byte = 0u8;
        let mut block = ControlBlock {
            opcode: OP_READ,
            fd: self.zero.as_raw_fd() as u32,
            buffer: (&raw mut byte) as u64,
            bytes: 1,
            flags: FLAG_RESULT_FD,
            result_fd: fd.as_raw_fd() as u32,
            ..ControlBlock::default()
        };
        let mut blocks = [&raw mut block];
        // SAFETY: one live control block; the read of /dev/zero completes within the call, so neither the block nor
        // the byte is used afterwards.
        let submitted = unsafe { libc::syscall(libc::SYS_io_submit, context, 1i64, blocks.as_mut_ptr()) };
        self.unreaped += 1;
        if submitted == 1 {
            return true;
        }
        // The completion ring is full (cannot be) or memory is short: a plain write, never a blocking one.
        io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) && write_nonblocking(fd)
    }

    fn reap(&mut self, context: libc::c_ulong) {
        let mut events = [const { MaybeUninit::<CompletionEvent>::uninit() }; BATCH as usize];
        // SAFETY: room for BATCH events; asks for none at least, so it does not wait.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                context,
                0i64,
                BATCH,
                events.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            )
        };
        self.unreaped = 0;
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        if let Some(context) = self.context {
            // SAFETY: made by io_setup, destroyed only here.
            unsafe { libc::syscall(libc::SYS_io_destroy, context) };
        }
    }
}

/// Second best where AIO is missing: sets O_NONBLOCK first. The owner could take it away in between.
fn write_nonblocking(fd: &OwnedFd) -> bool {
    // SAFETY: fcntl without pointers on an open descriptor.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return false;
        }
    }
    ring(fd);
    true
}
