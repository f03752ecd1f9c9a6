//! The functions behind the wrappers: the next definition after ours in the search order, as a rule glibc's.
//!
//! A constructor resolves them all, so that no wrapper needs the dynamic loader later (in a signal handler or a forked
//! child). A call before that, from another library's constructor, resolves its function then. Where there is no next definition
//! (a static program), the bare system call serves.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use libc::{
    DIR, FILE, dev_t, epoll_event, gid_t, iovec, mmsghdr, mode_t, msghdr, nfds_t, off_t, pollfd, size_t, sockaddr,
};
use libc::{sigset_t, socklen_t, ssize_t, stat as Stat, statx as Statx, timespec, uid_t};

fn resolve(address: &AtomicPtr<c_void>, name: &CStr) -> Option<*mut c_void> {
    let known = address.load(Relaxed);
    if !known.is_null() {
        return Some(known);
    }
    // SAFETY: the name is a string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    address.store(found, Relaxed);
    (!found.is_null()).then_some(found)
}

macro_rules! name_of {
    ($name:ident) => {
        match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        }
    };
}

/// Declares functions that call the next definition of the same name, or else evaluate an expression.
macro_rules! next_definitions {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty { $otherwise:expr })*) => {
        #[allow(non_upper_case_globals)]
        mod address {
            use super::{AtomicPtr, c_void, ptr};
            $(pub(super) static $name: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());)*
        }

        /// Resolves every function, so that none has to be later.
        fn resolve_all() {
            $(resolve(&address::$name, name_of!($name));)*
        }

        $(
            #[allow(clippy::too_many_arguments)]
            pub(super) unsafe fn $name($($arg: $type),*) -> $result {
                match resolve(&address::$name, name_of!($name)) {
                    Some(next) => {
                        // SAFETY: the symbol has this signature in every libc of this platform.
                        let next: unsafe extern "C-unwind" fn($($type),*) -> $result = unsafe { std::mem::transmute(next) };
                        // SAFETY: the caller keeps the function's own contract.
                        unsafe { next($($arg),*) }
                    }
                    // SAFETY: as above.
                    #[allow(unused_unsafe)]
                    None => unsafe { $otherwise },
                }
            }
        )*
    };
}

/// A bare system call that returns a number or sets errno.
macro_rules! bare {
    ($number:ident $(, $arg:expr)*) => { libc::syscall(libc::$number $(, $arg)*) as _ };
}

fn missing<T>(value: T) -> T {
    crate::errors::set_errno(libc::ENOSYS);
    value
}

next_definitions! {
    fn read(fd: c_int, to: *mut c_void, count: size_t) -> ssize_t { bare!(SYS_read, fd, to, count) }
    fn write(fd: c_int, from: *const c_void, count: size_t) -> ssize_t { bare!(SYS_write, fd, from, count) }
    fn pread(fd: c_int, to: *mut c_void, count: size_t, at: off_t) -> ssize_t { bare!(SYS_pread64, fd, to, count, at) }
    fn pwrite(fd: c_int, from: *const c_void, count: size_t, at: off_t) -> ssize_t { bare!(SYS_pwrite64, fd, from, count, at) }
    fn readv(fd: c_int, to: *const iovec, count: c_int) -> ssize_t { bare!(SYS_readv, fd, to, count) }
    fn writev(fd: c_int, from: *const iovec, count: c_int) -> ssize_t { bare!(SYS_writev, fd, from, count) }
    fn preadv(fd: c_int, to: *const iovec, count: c_int, at: off_t) -> ssize_t { bare!(SYS_preadv, fd, to, count, at, 0) }
    fn pwritev(fd: c_int, from: *const iovec, count: c_int, at: off_t) -> ssize_t { bare!(SYS_pwritev, fd, from, count, at, 0) }
    fn preadv2(fd: c_int, to: *const iovec, count: c_int, at: off_t, flags: c_int) -> ssize_t { bare!(SYS_preadv2, fd, to, count, at, 0, flags) }
    fn pwritev2(fd: c_int, from: *const iovec, count: c_int, at: off_t, flags: c_int) -> ssize_t { bare!(SYS_pwritev2, fd, from, count, at, 0, flags) }

    fn recv(fd: c_int, to: *mut c_void, count: size_t, flags: c_int) -> ssize_t { bare!(SYS_recvfrom, fd, to, count, flags, 0, 0) }
    fn send(fd: c_int, from: *const c_void, count: size_t, flags: c_int) -> ssize_t { bare!(SYS_sendto, fd, from, count, flags, 0, 0) }
    fn recvfrom(fd: c_int, to: *mut c_void, count: size_t, flags: c_int, peer: *mut sockaddr, length: *mut socklen_t) -> ssize_t { bare!(SYS_recvfrom, fd, to, count, flags, peer, length) }
    fn sendto(fd: c_int, from: *const c_void, count: size_t, flags: c_int, peer: *const sockaddr, length: socklen_t) -> ssize_t { bare!(SYS_sendto, fd, from, count, flags, peer, length) }
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t { bare!(SYS_recvmsg, fd, message, flags) }
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t { bare!(SYS_sendmsg, fd, message, flags) }
    fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int { bare!(SYS_recvmmsg, fd, messages, count, flags, timeout) }
    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int { bare!(SYS_sendmmsg, fd, messages, count, flags) }
    fn connect(fd: c_int, peer: *const sockaddr, length: socklen_t) -> c_int { bare!(SYS_connect, fd, peer, length) }
    fn bind(fd: c_int, own: *const sockaddr, length: socklen_t) -> c_int { bare!(SYS_bind, fd, own, length) }

    fn getrandom(to: *mut c_void, count: size_t, flags: c_uint) -> ssize_t { bare!(SYS_getrandom, to, count, flags) }
    fn getcwd(to: *mut c_char, size: size_t) -> *mut c_char { missing(ptr::null_mut()) }
    fn poll(fds: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int { bare!(SYS_poll, fds, count, timeout_ms) }
    fn epoll_wait(fd: c_int, events: *mut epoll_event, most: c_int, timeout_ms: c_int) -> c_int { bare!(SYS_epoll_wait, fd, events, most, timeout_ms) }
    fn epoll_ctl(fd: c_int, what: c_int, of: c_int, event: *mut epoll_event) -> c_int { bare!(SYS_epoll_ctl, fd, what, of, event) }

    fn pthread_sigmask(how: c_int, set: *const sigset_t, previous: *mut sigset_t) -> c_int { missing(libc::ENOSYS) }
    fn sigprocmask(how: c_int, set: *const sigset_t, previous: *mut sigset_t) -> c_int { missing(-1) }

    fn fread(to: *mut c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t { missing(0) }
    fn fread_unlocked(to: *mut c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t { missing(0) }
    fn fwrite(from: *const c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t { missing(0) }
    fn fwrite_unlocked(from: *const c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t { missing(0) }
    fn fputs(text: *const c_char, stream: *mut FILE) -> c_int { missing(libc::EOF) }
    fn fputs_unlocked(text: *const c_char, stream: *mut FILE) -> c_int { missing(libc::EOF) }
    fn puts(text: *const c_char) -> c_int { missing(libc::EOF) }
    fn __read_chk(fd: c_int, to: *mut c_void, count: size_t, room: size_t) -> ssize_t { missing(-1) }
    fn __pread_chk(fd: c_int, to: *mut c_void, count: size_t, at: off_t, room: size_t) -> ssize_t { missing(-1) }
    fn __recv_chk(fd: c_int, to: *mut c_void, count: size_t, room: size_t, flags: c_int) -> ssize_t { missing(-1) }
    fn __recvfrom_chk(fd: c_int, to: *mut c_void, count: size_t, room: size_t, flags: c_int, peer: *mut sockaddr, length: *mut socklen_t) -> ssize_t { missing(-1) }
    fn __fread_chk(to: *mut c_void, room: size_t, size: size_t, count: size_t, stream: *mut FILE) -> size_t { missing(0) }

    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int { bare!(SYS_open, path, flags, mode) }
    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int { bare!(SYS_openat, dir, path, flags, mode) }
    fn creat(path: *const c_char, mode: mode_t) -> c_int { bare!(SYS_creat, path, mode) }
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE { missing(ptr::null_mut()) }
    fn freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE { missing(ptr::null_mut()) }
    fn opendir(path: *const c_char) -> *mut DIR { missing(ptr::null_mut()) }
    fn access(path: *const c_char, mode: c_int) -> c_int { bare!(SYS_access, path, mode) }
    fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int { bare!(SYS_faccessat2, dir, path, mode, flags) }
    fn chdir(path: *const c_char) -> c_int { bare!(SYS_chdir, path) }
    fn chmod(path: *const c_char, mode: mode_t) -> c_int { bare!(SYS_chmod, path, mode) }
    fn chown(path: *const c_char, owner: uid_t, group: gid_t) -> c_int { bare!(SYS_chown, path, owner, group) }
    fn mkdir(path: *const c_char, mode: mode_t) -> c_int { bare!(SYS_mkdir, path, mode) }
    fn mkdirat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int { bare!(SYS_mkdirat, dir, path, mode) }
    fn mknod(path: *const c_char, mode: mode_t, device: dev_t) -> c_int { bare!(SYS_mknod, path, mode, device) }
    fn rmdir(path: *const c_char) -> c_int { bare!(SYS_rmdir, path) }
    fn unlink(path: *const c_char) -> c_int { bare!(SYS_unlink, path) }
    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int { bare!(SYS_unlinkat, dir, path, flags) }
    fn remove(path: *const c_char) -> c_int { missing(-1) }
    fn truncate(path: *const c_char, length: off_t) -> c_int { bare!(SYS_truncate, path, length) }
    fn rename(from: *const c_char, to: *const c_char) -> c_int { bare!(SYS_rename, from, to) }
    fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int { bare!(SYS_renameat, from_dir, from, to_dir, to) }
    fn link(from: *const c_char, to: *const c_char) -> c_int { bare!(SYS_link, from, to) }
    fn symlink(target: *const c_char, path: *const c_char) -> c_int { bare!(SYS_symlink, target, path) }
    fn readlink(path: *const c_char, to: *mut c_char, size: size_t) -> ssize_t { bare!(SYS_readlink, path, to, size) }
    fn stat(path: *const c_char, to: *mut Stat) -> c_int { bare!(SYS_stat, path, to) }
    fn lstat(path: *const c_char, to: *mut Stat) -> c_int { bare!(SYS_lstat, path, to) }
    fn fstat(fd: c_int, to: *mut Stat) -> c_int { bare!(SYS_fstat, fd, to) }
    fn fstatat(dir: c_int, path: *const c_char, to: *mut Stat, flags: c_int) -> c_int { bare!(SYS_newfstatat, dir, path, to, flags) }
    fn statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut Statx) -> c_int { bare!(SYS_statx, dir, path, flags, mask, to) }
}

extern "C" fn at_start() {
    resolve_all();
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;
