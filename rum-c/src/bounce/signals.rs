//! A thread that blocks all signals, as worker threads often do, still has to get those by which faults are served: the kernel kills
//! a process that faults while it blocks the signal. SIGBUS and SIGSEGV of a fault cannot be put off anyway.

use std::{ffi::c_int, mem::MaybeUninit, ptr};

use libc::sigset_t;

use super::real;

/// Hands `change` the set to be blocked, less the signals of faults.
fn without_faults(how: c_int, set: *const sigset_t, change: impl FnOnce(*const sigset_t) -> c_int) -> c_int {
    if set.is_null() || how == libc::SIG_UNBLOCK {
        return change(set);
    }
    let mut copy = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: `set` is the caller's signal set, and the copy has room for one.
    unsafe { ptr::copy_nonoverlapping(set, copy.as_mut_ptr(), 1) };
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: the copy is a whole signal set now.
        unsafe { libc::sigdelset(copy.as_mut_ptr(), signal) };
    }
    change(copy.as_ptr())
}

/// As libc's, but SIGBUS and SIGSEGV stay open.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_sigmask(how: c_int, set: *const sigset_t, previous: *mut sigset_t) -> c_int {
    // SAFETY: the caller's own arguments, or a copy of its set.
    without_faults(how, set, |set| unsafe { real::pthread_sigmask(how, set, previous) })
}

/// As libc's, but SIGBUS and SIGSEGV stay open.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sigprocmask(how: c_int, set: *const sigset_t, previous: *mut sigset_t) -> c_int {
    // SAFETY: the caller's own arguments, or a copy of its set.
    without_faults(how, set, |set| unsafe { real::sigprocmask(how, set, previous) })
}
