//! Calls that name files, or fill a small value of the program's: a far path is copied, a far value filled by way of a local one.

use std::{
    ffi::{c_char, c_int, c_uint},
    ptr,
};

use libc::{DIR, FILE, dev_t, gid_t, mode_t, off_t, size_t, ssize_t, stat as Stat, statx as Statx, uid_t};

use super::{
    buffer::Buffer,
    files::wrappers,
    memory::{Text, filled, is_far},
    real,
};

/// Wrappers whose only far arguments can be paths: `path` arguments are handed on as local copies.
macro_rules! path_wrappers {
    ($(fn $name:ident $args:tt -> $result:ty $(as $alias:ident)*, path $path:tt else $failed:expr;)*) => {$(
        path_wrapper!($name $args -> $result, path $path else $failed);
        $(crate::bounce::files::alias!($alias = $name $args -> $result);)*
    )*};
}

macro_rules! path_wrapper {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty, path [$($path:ident),+] else $failed:expr) => {
        crate::bounce::files::wrapper!($name($($arg: $type),*) -> $result {
            $(
                // SAFETY: the program's string.
                let Some(local) = (unsafe { Text::of($path) }) else { return $failed };
                let $path = local.pointer();
                // The copy lives until this function returns: the next one does not replace it, it hides its name.
            )+
            // SAFETY: the program's own call.
            unsafe { real::$name($($arg),*) }
        });
    };
}

path_wrappers! {
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int as open64, path [path] else -1;
    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int as openat64, path [path] else -1;
    fn creat(path: *const c_char, mode: mode_t) -> c_int as creat64, path [path] else -1;
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE as fopen64, path [path] else ptr::null_mut();
    fn freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE as freopen64, path [path] else ptr::null_mut();
    fn opendir(path: *const c_char) -> *mut DIR, path [path] else ptr::null_mut();
    fn access(path: *const c_char, mode: c_int) -> c_int, path [path] else -1;
    fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int, path [path] else -1;
    fn chdir(path: *const c_char) -> c_int, path [path] else -1;
    fn chmod(path: *const c_char, mode: mode_t) -> c_int, path [path] else -1;
    fn chown(path: *const c_char, owner: uid_t, group: gid_t) -> c_int, path [path] else -1;
    fn mkdir(path: *const c_char, mode: mode_t) -> c_int, path [path] else -1;
    fn mkdirat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int, path [path] else -1;
    fn mknod(path: *const c_char, mode: mode_t, device: dev_t) -> c_int, path [path] else -1;
    fn rmdir(path: *const c_char) -> c_int, path [path] else -1;
    fn unlink(path: *const c_char) -> c_int, path [path] else -1;
    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int, path [path] else -1;
    fn remove(path: *const c_char) -> c_int, path [path] else -1;
    fn truncate(path: *const c_char, length: off_t) -> c_int as truncate64, path [path] else -1;
    fn rename(from: *const c_char, to: *const c_char) -> c_int, path [from, to] else -1;
    fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int, path [from, to] else -1;
    fn link(from: *const c_char, to: *const c_char) -> c_int, path [from, to] else -1;
    fn symlink(target: *const c_char, path: *const c_char) -> c_int, path [target, path] else -1;
}

wrappers! {
    fn stat(path: *const c_char, to: *mut Stat) -> c_int as stat64 {
        // SAFETY: the program's string and value, and its own call.
        unsafe {
            let Some(path) = Text::of(path) else { return -1 };
            filled(to, |to| real::stat(path.pointer(), to))
        }
    }

    fn lstat(path: *const c_char, to: *mut Stat) -> c_int as lstat64 {
        // SAFETY: as above.
        unsafe {
            let Some(path) = Text::of(path) else { return -1 };
            filled(to, |to| real::lstat(path.pointer(), to))
        }
    }

    fn fstat(fd: c_int, to: *mut Stat) -> c_int as fstat64 {
        // SAFETY: the program's value, and its own call.
        unsafe { filled(to, |to| real::fstat(fd, to)) }
    }

    fn fstatat(dir: c_int, path: *const c_char, to: *mut Stat, flags: c_int) -> c_int as fstatat64 {
        // SAFETY: as above.
        unsafe {
            let Some(path) = Text::of(path) else { return -1 };
            filled(to, |to| real::fstatat(dir, path.pointer(), to, flags))
        }
    }

    fn statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut Statx) -> c_int {
        // SAFETY: as above.
        unsafe {
            let Some(path) = Text::of(path) else { return -1 };
            filled(to, |to| real::statx(dir, path.pointer(), flags, mask, to))
        }
    }

    fn readlink(path: *const c_char, to: *mut c_char, size: size_t) -> ssize_t {
        // SAFETY: the program's string.
        let Some(path) = (unsafe { Text::of(path) }) else { return -1 };
        if !is_far(to, size) {
            // SAFETY: the program's own call.
            return unsafe { real::readlink(path.pointer(), to, size) };
        }
        // No link is longer than a path.
        let size = size.min(libc::PATH_MAX as usize);
        let Some(local) = Buffer::take(size) else { return -1 };
        // SAFETY: the call fills at most `size` bytes of ours, which the program's buffer has room for.
        unsafe {
            let got = real::readlink(path.pointer(), local.base().cast(), size);
            ptr::copy_nonoverlapping(local.base(), to.cast(), got.max(0) as usize);
            got
        }
    }

    fn getcwd(to: *mut c_char, size: size_t) -> *mut c_char {
        if to.is_null() || !is_far(to, size) {
            // SAFETY: the program's own call.
            return unsafe { real::getcwd(to, size) };
        }
        let size = size.min(libc::PATH_MAX as usize);
        let Some(local) = Buffer::take(size) else { return ptr::null_mut() };
        // SAFETY: the call fills at most `size` bytes of ours with a string, which the program's buffer has room for.
        unsafe {
            if real::getcwd(local.base().cast(), size).is_null() {
                return ptr::null_mut();
            }
            ptr::copy_nonoverlapping(local.base(), to.cast(), libc::strlen(local.base().cast()) + 1);
        }
        to
    }
}
