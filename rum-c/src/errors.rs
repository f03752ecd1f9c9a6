//! errno, its meaning in RUM, and the one line on stderr.

use std::{ffi::CStr, fmt::Display};

use rum_core::grid::AllocError;

/// Sets the calling thread's errno.
pub(crate) fn set_errno(error: i32) {
    // SAFETY: glibc's pointer to the calling thread's errno is valid for as long as the thread runs.
    unsafe { *libc::__errno_location() = error }
}

/// Writes one line to stderr, in one piece.
pub(crate) fn say(what: impl Display) {
    let line = format!("rum: {what}\n");
    // SAFETY: the bytes are the line's.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}

/// Says what is wrong and ends the program with SIGABRT.
pub(crate) fn die(what: impl Display) -> ! {
    say(what);
    std::process::abort()
}

/// The errno that tells a C program about a failed allocation.
pub(crate) fn errno_of(error: &AllocError) -> i32 {
    match error {
        AllocError::OutOfMemory(_) | AllocError::BadLayout => libc::ENOMEM,
        AllocError::UnknownLocation => libc::ENXIO,
        AllocError::SizeDiffers { .. } => libc::EEXIST,
    }
}

/// The sentence for an errno.
pub(crate) fn meaning(error: i32) -> &'static CStr {
    match error {
        0 => c"no error",
        libc::ENOMEM => c"the grid, this client's quota or its address range is full, or the size is impossible",
        libc::EINVAL => c"rum_init was not called yet, rum_end was, or an argument is not possible",
        libc::EEXIST => c"an object of this name exists with another size",
        libc::ENXIO => c"no line of machines.csv has this location",
        libc::ENOENT => c"no object has this name",
        _ => c"not an error of RUM",
    }
}
