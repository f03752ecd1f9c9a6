//! C's streams. glibc copies small requests through the stream's buffer, in user mode, where far memory just works; a large
//! one it hands to the kernel by an internal call. So these come in pieces through a local buffer.
//!
//! fgets, getline, fgetc, scanf and their kin never hand the program's buffer to the kernel and need no wrapper.

use std::{
    ffi::{c_char, c_int, c_void},
    ptr,
};

use libc::{FILE, size_t};

use super::{
    buffer::{Buffer, PIECE_BYTES},
    files::wrappers,
    memory::is_far,
    real,
};

type Fread = unsafe fn(*mut c_void, size_t, size_t, *mut FILE) -> size_t;
type Fwrite = unsafe fn(*const c_void, size_t, size_t, *mut FILE) -> size_t;

unsafe extern "C" {
    fn flockfile(stream: *mut FILE);
    fn funlockfile(stream: *mut FILE);
    static stdout: *mut FILE;
}

/// The stream's own lock, so that the pieces stay together. The thread may hold it already.
struct Locked(*mut FILE);

impl Locked {
    fn new(stream: *mut FILE) -> Self {
        // SAFETY: the program's stream.
        unsafe { flockfile(stream) };
        Self(stream)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: locked in `new`.
        unsafe { funlockfile(self.0) };
    }
}

/// Bytes read of `bytes`.
///
/// # Safety
/// `to` has room for `bytes`; `stream` is a stream.
unsafe fn read_pieces(next: Fread, to: *mut c_void, bytes: usize, stream: *mut FILE) -> usize {
    let Some(buffer) = Buffer::take(bytes.min(PIECE_BYTES)) else { return 0 };
    let mut done = 0;
    while done < bytes {
        let wanted = PIECE_BYTES.min(bytes - done);
        // SAFETY: at most the buffer's size in, and the same bytes on to the program's buffer.
        let got = unsafe {
            let got = next(buffer.base().cast(), 1, wanted, stream);
            ptr::copy_nonoverlapping(buffer.base(), to.cast::<u8>().add(done), got);
            got
        };
        done += got;
        if got < wanted {
            break;
        }
    }
    done
}

/// Bytes written of `bytes`.
///
/// # Safety
/// `from` has `bytes` bytes; `stream` is a stream.
unsafe fn write_pieces(next: Fwrite, from: *const c_void, bytes: usize, stream: *mut FILE) -> usize {
    let Some(buffer) = Buffer::take(bytes.min(PIECE_BYTES)) else { return 0 };
    let mut done = 0;
    while done < bytes {
        let wanted = PIECE_BYTES.min(bytes - done);
        // SAFETY: at most the buffer's size, from the program's buffer.
        let written = unsafe {
            ptr::copy_nonoverlapping(from.cast::<u8>().add(done), buffer.base(), wanted);
            next(buffer.base().cast(), 1, wanted, stream)
        };
        done += written;
        if written < wanted {
            break;
        }
    }
    done
}

/// Bytes of a request that has a far buffer; `None` when it is to go on as it is.
fn far_bytes(address: *const c_void, size: size_t, count: size_t) -> Option<usize> {
    size.checked_mul(count).filter(|bytes| is_far(address, *bytes))
}

/// # Safety
/// As `fputs`.
unsafe fn put(next: Fwrite, text: *const c_char, stream: *mut FILE) -> c_int {
    // SAFETY: the program's string and stream.
    let done = unsafe {
        let bytes = libc::strlen(text);
        write_pieces(next, text.cast(), bytes, stream) == bytes
    };
    if done { 1 } else { libc::EOF }
}

wrappers! {
    fn fread(to: *mut c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t {
        let Some(bytes) = far_bytes(to, size, count) else {
            // SAFETY: the program's own call.
            return unsafe { real::fread(to, size, count, stream) };
        };
        let _locked = Locked::new(stream);
        // SAFETY: the program's buffer of this many bytes, and its stream.
        unsafe { read_pieces(real::fread, to, bytes, stream) / size }
    }

    fn fread_unlocked(to: *mut c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t {
        let Some(bytes) = far_bytes(to, size, count) else {
            // SAFETY: the program's own call.
            return unsafe { real::fread_unlocked(to, size, count, stream) };
        };
        // SAFETY: as above.
        unsafe { read_pieces(real::fread_unlocked, to, bytes, stream) / size }
    }

    fn __fread_chk(to: *mut c_void, room: size_t, size: size_t, count: size_t, stream: *mut FILE) -> size_t {
        match far_bytes(to, size, count) {
            // SAFETY: the program's own call, whose buffer is large enough.
            Some(bytes) if bytes <= room => unsafe { fread(to, size, count, stream) },
            // SAFETY: the program's own call.
            _ => unsafe { real::__fread_chk(to, room, size, count, stream) },
        }
    }

    fn fwrite(from: *const c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t {
        let Some(bytes) = far_bytes(from, size, count) else {
            // SAFETY: the program's own call.
            return unsafe { real::fwrite(from, size, count, stream) };
        };
        let _locked = Locked::new(stream);
        // SAFETY: the program's buffer of this many bytes, and its stream.
        unsafe { write_pieces(real::fwrite, from, bytes, stream) / size }
    }

    fn fwrite_unlocked(from: *const c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t {
        let Some(bytes) = far_bytes(from, size, count) else {
            // SAFETY: the program's own call.
            return unsafe { real::fwrite_unlocked(from, size, count, stream) };
        };
        // SAFETY: as above.
        unsafe { write_pieces(real::fwrite_unlocked, from, bytes, stream) / size }
    }

    fn fputs(text: *const c_char, stream: *mut FILE) -> c_int {
        if !is_far(text, 1) {
            // SAFETY: the program's own call.
            return unsafe { real::fputs(text, stream) };
        }
        let _locked = Locked::new(stream);
        // SAFETY: the program's own call.
        unsafe { put(real::fwrite, text, stream) }
    }

    fn fputs_unlocked(text: *const c_char, stream: *mut FILE) -> c_int {
        if !is_far(text, 1) {
            // SAFETY: the program's own call.
            return unsafe { real::fputs_unlocked(text, stream) };
        }
        // SAFETY: the program's own call.
        unsafe { put(real::fwrite_unlocked, text, stream) }
    }

    fn puts(text: *const c_char) -> c_int {
        if !is_far(text, 1) {
            // SAFETY: the program's own call.
            return unsafe { real::puts(text) };
        }
        // SAFETY: C's own stream; the text is the program's, the newline ours.
        unsafe {
            let _locked = Locked::new(stdout);
            let ended = put(real::fwrite, text, stdout) >= 0 && real::fwrite(c"\n".as_ptr().cast(), 1, 1, stdout) == 1;
            if ended { 1 } else { libc::EOF }
        }
    }
}
