//! Sockets: send and receive in all their forms, and addresses.

use std::{
    ffi::{c_int, c_uint, c_void},
    mem, ptr,
};

use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, sockaddr_storage, socklen_t, ssize_t, timespec};

use super::{
    buffer::Buffer,
    files::{cut_of_read, cut_of_write, one, wrappers},
    memory::{any_far, is_far},
    real,
    transfer::{self, Cut, receive, total},
};
use crate::errors::set_errno;

/// A message larger than this cannot be sent in one piece by any protocol under its default limits.
const LARGEST_MESSAGE_BYTES: usize = 1 << 20;

/// What may be done to a receive of `bytes`.
fn cut_of_receive(fd: c_int, bytes: usize, flags: c_int) -> Cut {
    let cut = cut_of_read(fd, bytes);
    if flags & (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
        Cut::Never
    } else if cut == Cut::OnePiece && flags & libc::MSG_WAITALL != 0 {
        Cut::Repeat
    } else {
        cut
    }
}

/// What may be done to a send of `bytes`; `None` and EMSGSIZE when no socket takes such a message.
fn cut_of_send(fd: c_int, bytes: usize) -> Option<Cut> {
    let cut = cut_of_write(fd, bytes);
    if cut == Cut::Never && bytes > LARGEST_MESSAGE_BYTES.max(send_buffer_bytes(fd)) {
        set_errno(libc::EMSGSIZE);
        return None;
    }
    Some(cut)
}

fn send_buffer_bytes(fd: c_int) -> usize {
    let mut bytes: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: an int option into a local int.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw mut bytes).cast(), &mut length) };
    bytes.max(0) as usize
}

/// A local copy of a far address to send to.
fn near_address(address: *const sockaddr, length: socklen_t, local: &mut sockaddr_storage) -> *const sockaddr {
    let bytes = length as usize;
    if address.is_null() || bytes > size_of::<sockaddr_storage>() || !is_far(address, bytes) {
        return address;
    }
    // SAFETY: the program's address of this length, into a value that has room for it.
    unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), ptr::from_mut(local).cast(), bytes) };
    ptr::from_ref(local).cast()
}

/// # Safety
/// As recvmsg: all that the message points to is the program's.
unsafe fn receive_message(fd: c_int, message: &mut msghdr, vectors: &[iovec], flags: c_int) -> ssize_t {
    let cut = cut_of_receive(fd, total(vectors).unwrap_or(0), flags);
    // SAFETY: an address of zeros is a value.
    let mut name: sockaddr_storage = unsafe { mem::zeroed() };
    let control_room = message.msg_controllen;
    let Some(control) = Buffer::take(control_room) else { return -1 };
    let mut header = *message;
    let mut first = true;
    // SAFETY: the vectors are the program's; the header given to the system call points to local memory only.
    let got = unsafe {
        receive(vectors, cut, |to, wanted, _| {
            let mut into = one(to.cast(), wanted);
            let mut local: msghdr = mem::zeroed();
            local.msg_iov = into.as_mut_ptr();
            local.msg_iovlen = 1;
            if first {
                local.msg_name = if message.msg_name.is_null() { ptr::null_mut() } else { (&raw mut name).cast() };
                local.msg_namelen = (message.msg_namelen as usize).min(size_of::<sockaddr_storage>()) as socklen_t;
                local.msg_control = if control_room == 0 { ptr::null_mut() } else { control.base().cast() };
                local.msg_controllen = control_room;
            }
            let got = real::recvmsg(fd, &mut local, flags);
            if first && got >= 0 {
                header.msg_namelen = local.msg_namelen;
                header.msg_controllen = local.msg_controllen;
                header.msg_flags = local.msg_flags;
            }
            first = false;
            got
        })
    };
    if got >= 0 {
        let name_bytes = header.msg_namelen.min(message.msg_namelen) as usize;
        // SAFETY: the program gave room for these lengths, and the kernel filled no more.
        unsafe {
            if !message.msg_name.is_null() {
                ptr::copy_nonoverlapping((&raw const name).cast::<u8>(), message.msg_name.cast(), name_bytes);
            }
            if !message.msg_control.is_null() {
                let bytes = header.msg_controllen.min(control_room);
                ptr::copy_nonoverlapping(control.base(), message.msg_control.cast(), bytes);
            }
        }
        *message = header;
    }
    got
}

/// # Safety
/// As sendmsg: all that the message points to is the program's.
unsafe fn send_message(fd: c_int, message: &msghdr, vectors: &[iovec], flags: c_int) -> ssize_t {
    let Some(cut) = cut_of_send(fd, total(vectors).unwrap_or(0)) else { return -1 };
    // SAFETY: an address of zeros is a value.
    let mut name: sockaddr_storage = unsafe { mem::zeroed() };
    let name = near_address(message.msg_name.cast(), message.msg_namelen, &mut name);
    let Some(control) = Buffer::take(message.msg_controllen) else { return -1 };
    // SAFETY: the program's control data, into a buffer of its size; the header given to the system call points to
    // local memory only.
    unsafe {
        if !message.msg_control.is_null() {
            ptr::copy_nonoverlapping(message.msg_control.cast(), control.base(), message.msg_controllen);
        }
        transfer::send(vectors, cut, |from, wanted, done| {
            let mut out = one(from.cast(), wanted);
            let mut local = *message;
            local.msg_iov = out.as_mut_ptr();
            local.msg_iovlen = 1;
            local.msg_name = name.cast_mut().cast();
            local.msg_control = control.base().cast();
            // Descriptors and credentials travel with the first byte, once.
            local.msg_controllen = if done == 0 { message.msg_controllen } else { 0 };
            real::sendmsg(fd, &local, flags)
        })
    }
}

/// Whether anything of a message is far; its vectors if so.
///
/// # Safety
/// `message` is NULL or a message.
unsafe fn far_vectors<'a>(message: *const msghdr) -> Option<&'a [iovec]> {
    if message.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    unsafe {
        let m = &*message;
        let far = any_far(m.msg_iov, m.msg_iovlen)
            || is_far(message, size_of::<msghdr>())
            || is_far(m.msg_name, m.msg_namelen as usize)
            || is_far(m.msg_control, m.msg_controllen);
        if !far || m.msg_iovlen > libc::UIO_MAXIOV as usize {
            return None;
        }
        Some(if m.msg_iov.is_null() { &[] } else { std::slice::from_raw_parts(m.msg_iov, m.msg_iovlen) })
    }
}

wrappers! {
    fn recv(fd: c_int, to: *mut c_void, count: size_t, flags: c_int) -> ssize_t {
        if !is_far(to, count) {
            // SAFETY: the program's own call.
            return unsafe { real::recv(fd, to, count, flags) };
        }
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe {
            receive(&one(to, count), cut_of_receive(fd, count, flags), |to, wanted, _| real::recv(fd, to.cast(), wanted, flags))
        }
    }

    fn send(fd: c_int, from: *const c_void, count: size_t, flags: c_int) -> ssize_t {
        // A zero-copy send goes on reading after it returned: the kernel pins the pages, or refuses.
        if !is_far(from, count) || flags & libc::MSG_ZEROCOPY != 0 {
            // SAFETY: the program's own call.
            return unsafe { real::send(fd, from, count, flags) };
        }
        let Some(cut) = cut_of_send(fd, count) else { return -1 };
        // SAFETY: the program's buffer, and ours for the system call.
        unsafe { transfer::send(&one(from, count), cut, |from, wanted, _| real::send(fd, from.cast(), wanted, flags)) }
    }

    fn recvfrom(fd: c_int, to: *mut c_void, count: size_t, flags: c_int, peer: *mut sockaddr, length: *mut socklen_t) -> ssize_t {
        // SAFETY: the program's length, when it gave one.
        let room = if length.is_null() { 0 } else { unsafe { *length } };
        if !is_far(to, count) && !is_far(peer, room as usize) && !is_far(length, 4) {
            // SAFETY: the program's own call.
            return unsafe { real::recvfrom(fd, to, count, flags, peer, length) };
        }
        let vectors = one(to, count);
        // SAFETY: a message of zeros is a value; its address is the program's, and so are the buffers.
        unsafe {
            let mut message: msghdr = mem::zeroed();
            if !length.is_null() {
                message.msg_name = peer.cast();
                message.msg_namelen = room;
            }
            let got = receive_message(fd, &mut message, &vectors, flags);
            if got >= 0 && !length.is_null() && !peer.is_null() {
                *length = message.msg_namelen;
            }
            got
        }
    }

    fn sendto(fd: c_int, from: *const c_void, count: size_t, flags: c_int, peer: *const sockaddr, length: socklen_t) -> ssize_t {
        if (!is_far(from, count) && !is_far(peer, length as usize)) || flags & libc::MSG_ZEROCOPY != 0 {
            // SAFETY: the program's own call.
            return unsafe { real::sendto(fd, from, count, flags, peer, length) };
        }
        let vectors = one(from, count);
        // SAFETY: a message of zeros is a value; its address is the program's, and so are the buffers.
        unsafe {
            let mut message: msghdr = mem::zeroed();
            message.msg_name = peer.cast_mut().cast();
            message.msg_namelen = if peer.is_null() { 0 } else { length };
            send_message(fd, &message, &vectors, flags)
        }
    }

    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        // SAFETY: the program's message.
        match unsafe { far_vectors(message) } {
            // SAFETY: as above.
            Some(vectors) => unsafe { receive_message(fd, &mut *message, vectors, flags) },
            // SAFETY: the program's own call.
            None => unsafe { real::recvmsg(fd, message, flags) },
        }
    }

    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        // SAFETY: the program's message.
        match unsafe { far_vectors(message) } {
            // SAFETY: as above.
            Some(vectors) if flags & libc::MSG_ZEROCOPY == 0 => unsafe { send_message(fd, &*message, vectors, flags) },
            // SAFETY: the program's own call.
            _ => unsafe { real::sendmsg(fd, message, flags) },
        }
    }

    fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int {
        // SAFETY: the program's messages.
        if !unsafe { any_message_far(messages, count) } {
            // SAFETY: the program's own call.
            return unsafe { real::recvmmsg(fd, messages, count, flags, timeout) };
        }
        let mut flags = flags;
        for index in 0..count as usize {
            // SAFETY: one of the program's messages.
            let message = unsafe { &mut *messages.add(index) };
            // SAFETY: as above.
            let got = unsafe { recvmsg(fd, &mut message.msg_hdr, flags & !libc::MSG_WAITFORONE) };
            if got < 0 {
                return if index > 0 { index as c_int } else { -1 };
            }
            message.msg_len = got as c_uint;
            // With a timeout only what has come already is taken after the first: earlier than asked for, never later.
            if flags & libc::MSG_WAITFORONE != 0 || !timeout.is_null() {
                flags |= libc::MSG_DONTWAIT;
            }
        }
        count as c_int
    }

    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        // SAFETY: the program's messages.
        if !unsafe { any_message_far(messages, count) } {
            // SAFETY: the program's own call.
            return unsafe { real::sendmmsg(fd, messages, count, flags) };
        }
        for index in 0..count as usize {
            // SAFETY: one of the program's messages.
            let message = unsafe { &mut *messages.add(index) };
            // SAFETY: as above.
            let sent = unsafe { sendmsg(fd, &message.msg_hdr, flags) };
            if sent < 0 {
                return if index > 0 { index as c_int } else { -1 };
            }
            message.msg_len = sent as c_uint;
        }
        count as c_int
    }

    fn __recv_chk(fd: c_int, to: *mut c_void, count: size_t, room: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the program's own call; libc's version ends the program when the buffer is too small.
        if count > room { unsafe { real::__recv_chk(fd, to, count, room, flags) } } else { unsafe { recv(fd, to, count, flags) } }
    }

    fn __recvfrom_chk(fd: c_int, to: *mut c_void, count: size_t, room: size_t, flags: c_int, peer: *mut sockaddr, length: *mut socklen_t) -> ssize_t {
        if count > room {
            // SAFETY: as above.
            return unsafe { real::__recvfrom_chk(fd, to, count, room, flags, peer, length) };
        }
        // SAFETY: the program's own call.
        unsafe { recvfrom(fd, to, count, flags, peer, length) }
    }

    fn connect(fd: c_int, peer: *const sockaddr, length: socklen_t) -> c_int {
        // SAFETY: an address of zeros is a value; the call is the program's own.
        unsafe { real::connect(fd, near_address(peer, length, &mut mem::zeroed()), length) }
    }

    fn bind(fd: c_int, own: *const sockaddr, length: socklen_t) -> c_int {
        // SAFETY: as above.
        unsafe { real::bind(fd, near_address(own, length, &mut mem::zeroed()), length) }
    }
}

/// # Safety
/// `messages` are `count` messages, or NULL.
unsafe fn any_message_far(messages: *const mmsghdr, count: c_uint) -> bool {
    if messages.is_null() || count > libc::UIO_MAXIOV as c_uint {
        return false;
    }
    is_far(messages, count as usize * size_of::<mmsghdr>())
        // SAFETY: as the caller promises.
        || (0..count as usize).any(|index| unsafe { far_vectors(&(*messages.add(index)).msg_hdr).is_some() })
}
