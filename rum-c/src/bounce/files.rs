//! read and write and their kin, getrandom, poll and epoll.

use std::{
    ffi::{c_int, c_uint, c_void},
    mem::MaybeUninit,
    ptr, slice,
};

use libc::{epoll_event, iovec, nfds_t, off_t, pollfd, size_t, ssize_t};

use super::{
    buffer::{Buffer, PIECE_BYTES},
    memory::{any_far, is_far},
    real,
    transfer::{Cut, receive, send, total},
};

/// What may be done to a read of `bytes` from `fd`.
pub(super) fn cut_of_read(fd: c_int, bytes: usize) -> Cut {
    if bytes <= PIECE_BYTES {
        return Cut::OnePiece;
    }
    match kind(fd) {
        Kind::Storage => Cut::Repeat,
        Kind::Stream => Cut::OnePiece,
        Kind::Messages => Cut::Never,
    }
}

/// What may be done to a write of `bytes` to `fd`.
pub(super) fn cut_of_write(fd: c_int, bytes: usize) -> Cut {
    if bytes <= PIECE_BYTES {
        return Cut::OnePiece;
    }
    if kind(fd) == Kind::Messages { Cut::Never } else { Cut::Repeat }
}

#[derive(PartialEq, Eq)]
enum Kind {
    /// Never blocks for want of data: files, block devices, /dev/zero and its kin.
    Storage,
    /// Pipes, stream sockets, terminals.
    Stream,
    /// Sockets that keep messages apart.
    Messages,
}

/// The device number of /dev/null, zero, random and urandom.
const MEMORY_DEVICES: c_uint = 1;

fn kind(fd: c_int) -> Kind {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat fills the local value or leaves it zero.
    let status = unsafe {
        libc::syscall(libc::SYS_fstat, fd, status.as_mut_ptr());
        status.assume_init()
    };
    match status.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFBLK => Kind::Storage,
        libc::S_IFCHR if libc::major(status.st_rdev) == MEMORY_DEVICES => Kind::Storage,
        libc::S_IFSOCK if !is_stream_socket(fd) => Kind::Messages,
        _ => Kind::Stream,
    }
}

fn is_stream_socket(fd: c_int) -> bool {
    let mut kind: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: an int option into a local int.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &mut length) };
    result == 0 && kind == libc::SOCK_STREAM
}

pub(super) fn one(base: *const c_void, bytes: usize) -> [iovec; 1] {
    [iovec { iov_base: base.cast_mut(), iov_len: bytes }]
}

/// # Safety
/// `vectors` are `count` vectors of the program's, checked by `any_far`.
pub(super) unsafe fn vectors_of<'a>(vectors: *const iovec, count: c_int) -> &'a [iovec] {
    // SAFETY: as the caller promises.
    unsafe { slice::from_raw_parts(vectors, count as usize) }
}

/// Defines libc functions, each with its further names.
macro_rules! wrappers {
    ($($(#[$doc:meta])* fn $name:ident $args:tt -> $result:ty $(as $alias:ident)* $body:block)*) => {$(
        crate::bounce::files::wrapper!($(#[$doc])* $name $args -> $result $body);
        $(crate::bounce::files::alias!($alias = $name $args -> $result);)*
    )*};
}

macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block) => {
        $(#[$doc])*
        /// # Safety
        /// As libc's function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($arg: $type),*) -> $result $body
    };
}

macro_rules! alias {
    ($alias:ident = $name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        /// # Safety
        /// As libc's function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $alias($($arg: $type),*) -> $result {
            // SAFETY: the caller keeps the same contract.
            unsafe { $name($($arg),*) }
        }
    };
}

pub(super) use {alias, wrapper, wrappers};

wrappers! {
    fn read(fd: c_int, to: *mut c_void, count: size_t) -> ssize_t {
        if !is_far(to, count) {
            // SAFETY: the program's own call.
            return unsafe { real::read(fd, to, count) };
        }
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe { receive(&one(to, count), cut_of_read(fd, count), |to, wanted, _| real::read(fd, to.cast(), wanted)) }
    }

    fn write(fd: c_int, from: *const c_void, count: size_t) -> ssize_t {
        if !is_far(from, count) {
            // SAFETY: the program's own call.
            return unsafe { real::write(fd, from, count) };
        }
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe { send(&one(from, count), cut_of_write(fd, count), |from, wanted, _| real::write(fd, from.cast(), wanted)) }
    }

    fn pread(fd: c_int, to: *mut c_void, count: size_t, at: off_t) -> ssize_t as pread64 {
        if !is_far(to, count) {
            // SAFETY: the program's own call.
            return unsafe { real::pread(fd, to, count, at) };
        }
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe { receive(&one(to, count), Cut::Repeat, |to, wanted, done| real::pread(fd, to.cast(), wanted, at + done as off_t)) }
    }

    fn pwrite(fd: c_int, from: *const c_void, count: size_t, at: off_t) -> ssize_t as pwrite64 {
        if !is_far(from, count) {
            // SAFETY: the program's own call.
            return unsafe { real::pwrite(fd, from, count, at) };
        }
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe { send(&one(from, count), Cut::Repeat, |from, wanted, done| real::pwrite(fd, from.cast(), wanted, at + done as off_t)) }
    }

    fn readv(fd: c_int, to: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: the program's vectors; a negative count becomes too large a one.
        if !unsafe { any_far(to, count as usize) } {
            // SAFETY: the program's own call.
            return unsafe { real::readv(fd, to, count) };
        }
        // SAFETY: the program's buffers, and ours for the system call.
        unsafe {
            let vectors = vectors_of(to, count);
            let cut = cut_of_read(fd, total(vectors).unwrap_or(0));
            receive(vectors, cut, |to, wanted, _| real::read(fd, to.cast(), wanted))
        }
    }

    fn writev(fd: c_int, from: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: the program's vectors.
        if !unsafe { any_far(from, count as usize) } {
            // SAFETY: the program's own call.
            return unsafe { real::writev(fd, from, count) };
        }
        // SAFETY: the program's buffers, and ours for the system call.
        unsafe {
            let vectors = vectors_of(from, count);
            let cut = cut_of_write(fd, total(vectors).unwrap_or(0));
            send(vectors, cut, |from, wanted, _| real::write(fd, from.cast(), wanted))
        }
    }

    fn preadv(fd: c_int, to: *const iovec, count: c_int, at: off_t) -> ssize_t as preadv64 {
        // SAFETY: the program's vectors.
        if !unsafe { any_far(to, count as usize) } {
            // SAFETY: the program's own call.
            return unsafe { real::preadv(fd, to, count, at) };
        }
        // SAFETY: the program's buffers, and ours for the system call.
        unsafe {
            receive(vectors_of(to, count), Cut::Repeat, |to, wanted, done| {
                real::pread(fd, to.cast(), wanted, at + done as off_t)
            })
        }
    }

    fn pwritev(fd: c_int, from: *const iovec, count: c_int, at: off_t) -> ssize_t as pwritev64 {
        // SAFETY: the program's vectors.
        if !unsafe { any_far(from, count as usize) } {
            // SAFETY: the program's own call.
            return unsafe { real::pwritev(fd, from, count, at) };
        }
        // SAFETY: the program's buffers, and ours for the system call.
        unsafe {
            send(vectors_of(from, count), Cut::Repeat, |from, wanted, done| {
                real::pwrite(fd, from.cast(), wanted, at + done as off_t)
            })
        }
    }

    fn preadv2 (fd: c_int, to: *const iovec, count: c_int, at: off_t, flags: c_int) -> ssize_t {
        // SAFETY: the program's vectors.
        if !unsafe { any_far(to, count as usize) } {
            // SAFETY: the program's own call.
            return unsafe { real::preadv2(fd, to, count, at, flags) };
        }
        // SAFETY: the program's buffers, and ours for the system call.
        unsafe {
            let vectors = vectors_of(to, count);
            let cut = if at == -1 { cut_of_read(fd, total(vectors).unwrap_or(0)) } else { Cut::Repeat };
            receive(vectors, cut, |to, wanted, done| {
                let at = if at == -1 { -1 } else { at + done as off_t };
                real::preadv2(fd, one(to.cast(), wanted).as_ptr(), 1, at, flags)
            })
        }
    }

    fn pwritev2 (fd: c_int, from: *const iovec, count: c_int, at: off_t, flags: c_int) -> ssize_t {
        // SAFETY: the program's vectors.
        if !unsafe { any_far(from, count as usize) } {
            // SAFETY: the program's own call.
            return unsafe { real::pwritev2(fd, from, count, at, flags) };
        }
        // SAFETY: the program's buffers, and ours for the system call.
        unsafe {
            let vectors = vectors_of(from, count);
            let cut = if at == -1 { cut_of_write(fd, total(vectors).unwrap_or(0)) } else { Cut::Repeat };
            send(vectors, cut, |from, wanted, done| {
                let at = if at == -1 { -1 } else { at + done as off_t };
                real::pwritev2(fd, one(from.cast(), wanted).as_ptr(), 1, at, flags)
            })
        }
    }

    /// The fortified form: `room` is what the compiler knows of the buffer.
    fn __read_chk(fd: c_int, to: *mut c_void, count: size_t, room: size_t) -> ssize_t {
        // SAFETY: the program's own call; libc's version ends the program when the buffer is too small.
        if count > room { unsafe { real::__read_chk(fd, to, count, room) } } else { unsafe { read(fd, to, count) } }
    }

    fn __pread_chk(fd: c_int, to: *mut c_void, count: size_t, at: off_t, room: size_t) -> ssize_t as __pread64_chk {
        // SAFETY: as above.
        if count > room { unsafe { real::__pread_chk(fd, to, count, at, room) } } else { unsafe { pread(fd, to, count, at) } }
    }

    fn getrandom(to: *mut c_void, count: size_t, flags: c_uint) -> ssize_t {
        if !is_far(to, count) {
            // SAFETY: the program's own call.
            return unsafe { real::getrandom(to, count, flags) };
        }
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe { receive(&one(to, count), Cut::Repeat, |to, wanted, _| real::getrandom(to.cast(), wanted, flags)) }
    }

    fn poll(fds: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int {
        let bytes = (count as usize).saturating_mul(size_of::<pollfd>());
        if !is_far(fds, bytes) {
            // SAFETY: the program's own call.
            return unsafe { real::poll(fds, count, timeout_ms) };
        }
        let Some(local) = Buffer::take(bytes) else { return -1 };
        // SAFETY: the program's array of this many bytes, to and from a buffer of that size.
        unsafe {
            ptr::copy_nonoverlapping(fds.cast(), local.base(), bytes);
            let result = real::poll(local.base().cast(), count, timeout_ms);
            if result >= 0 {
                ptr::copy_nonoverlapping(local.base(), fds.cast(), bytes);
            }
            result
        }
    }

    fn epoll_wait(fd: c_int, events: *mut epoll_event, most: c_int, timeout_ms: c_int) -> c_int {
        let bytes = (most.max(0) as usize).saturating_mul(size_of::<epoll_event>());
        if !is_far(events, bytes) {
            // SAFETY: the program's own call.
            return unsafe { real::epoll_wait(fd, events, most, timeout_ms) };
        }
        // Fewer events at a time are as good: the rest come with the next call.
        let most = most.min((PIECE_BYTES / size_of::<epoll_event>()) as c_int);
        let Some(local) = Buffer::take(PIECE_BYTES) else { return -1 };
        // SAFETY: the kernel fills at most `most` events of the buffer, which the program's array has room for.
        unsafe {
            let got = real::epoll_wait(fd, local.base().cast(), most, timeout_ms);
            if got > 0 {
                ptr::copy_nonoverlapping(local.base().cast(), events, got as usize);
            }
            got
        }
    }

    fn epoll_ctl(fd: c_int, what: c_int, of: c_int, event: *mut epoll_event) -> c_int {
        if event.is_null() || !is_far(event, size_of::<epoll_event>()) {
            // SAFETY: the program's own call.
            return unsafe { real::epoll_ctl(fd, what, of, event) };
        }
        // SAFETY: the program's value.
        let mut local = unsafe { event.read_unaligned() };
        // SAFETY: a local value for the system call.
        unsafe { real::epoll_ctl(fd, what, of, &mut local) }
    }
}
