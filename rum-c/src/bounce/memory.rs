//! Which buffers are far, and copies of small ones.

use std::{ffi::c_char, mem::MaybeUninit, ptr, slice};

use libc::iovec;

use super::buffer::Buffer;
use crate::current;

/// Whether the kernel must not be given `bytes` bytes at `address`.
pub(super) fn is_far<T>(address: *const T, bytes: usize) -> bool {
    #[cfg(test)]
    if tests::is_pretended(address.cast(), bytes) {
        return true;
    }
    bytes > 0 && current::enter().is_some_and(|grid| !grid.serves_system_calls() && grid.is_far(address.cast(), bytes))
}

/// Whether any of the vectors, or their array, is far.
///
/// # Safety
/// `vectors` are `count` vectors, or NULL.
pub(super) unsafe fn any_far(vectors: *const iovec, count: usize) -> bool {
    if vectors.is_null() || count > libc::UIO_MAXIOV as usize || current_is_near() {
        return false;
    }
    // SAFETY: as the caller promises; a far array is read as the program reads it.
    let each = unsafe { slice::from_raw_parts(vectors, count) };
    is_far(vectors, count * size_of::<iovec>()) || each.iter().any(|vector| is_far(vector.iov_base, vector.iov_len))
}

/// Whether no grid is joined, so that nothing can be far.
fn current_is_near() -> bool {
    !cfg!(test) && current::enter().is_none()
}

/// A string argument: the program's own, or a local copy of a far one.
pub(super) enum Text {
    Near(*const c_char),
    Copy(Buffer),
}

impl Text {
    /// The string to hand to the kernel. `None` (and ENAMETOOLONG) when a far string is longer than any path.
    ///
    /// # Safety
    /// `text` is NULL or a string.
    pub(super) unsafe fn of(text: *const c_char) -> Option<Self> {
        if text.is_null() || !is_far(text, 1) {
            return Some(Self::Near(text));
        }
        // SAFETY: as the caller promises.
        let length = unsafe { libc::strnlen(text, libc::PATH_MAX as usize) };
        if length == libc::PATH_MAX as usize {
            crate::errors::set_errno(libc::ENAMETOOLONG);
            return None;
        }
        let copy = Buffer::take(length + 1)?;
        // SAFETY: the string and its NUL, into a buffer of that size.
        unsafe { ptr::copy_nonoverlapping(text.cast(), copy.base(), length + 1) };
        Some(Self::Copy(copy))
    }

    pub(super) fn pointer(&self) -> *const c_char {
        match self {
            Self::Near(text) => *text,
            Self::Copy(copy) => copy.base().cast(),
        }
    }
}

/// Calls `fill` with a place for a value of the kernel's, and copies it to `to` when that is far and the call succeeded (0).
///
/// # Safety
/// `to` is NULL or may be written.
pub(super) unsafe fn filled<T>(to: *mut T, fill: impl FnOnce(*mut T) -> i32) -> i32 {
    if to.is_null() || !is_far(to, size_of::<T>()) {
        return fill(to);
    }
    let mut local = MaybeUninit::<T>::zeroed();
    let result = fill(local.as_mut_ptr());
    if result == 0 {
        // SAFETY: the call filled the value; the program may write to `to`.
        unsafe { ptr::copy_nonoverlapping(local.as_ptr(), to, 1) };
    }
    result
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    static PRETENDED: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

    pub(super) fn is_pretended(address: *const u8, bytes: usize) -> bool {
        let (start, end) = (address as usize, (address as usize).saturating_add(bytes));
        PRETENDED.lock().unwrap().iter().any(|(from, to)| start < *to && *from < end)
    }

    /// Memory that the wrappers take for far while this lives.
    pub(crate) struct Pretended(pub(crate) Vec<u8>);

    impl Pretended {
        pub(crate) fn new(contents: Vec<u8>) -> Self {
            let start = contents.as_ptr() as usize;
            let range = (start, start + contents.len());
            PRETENDED.lock().unwrap().push(range);
            Self(contents)
        }
    }

    impl Drop for Pretended {
        fn drop(&mut self) {
            let start = self.0.as_ptr() as usize;
            PRETENDED.lock().unwrap().retain(|(from, _)| *from != start);
        }
    }
}
