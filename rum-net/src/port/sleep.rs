//! Sleeping on descriptors, for a time that is kept to the nanosecond: a millisecond, which epoll_wait and poll count
//! in, is twenty round trips of a fast network.
#![allow(unsafe_code)]

use std::{io, os::fd::RawFd, time::Duration};

/// An entry for [`poll`]; `None` stands for no descriptor, which the kernel passes over.
pub(crate) fn poll_for(fd: Option<RawFd>, events: i16) -> libc::pollfd {
    libc::pollfd { fd: fd.unwrap_or(-1), events, revents: 0 }
}

/// Sleeps until one of `fds` has an event or, then false, `timeout` has passed. A signal handler's return counts as an
/// event, for it may have left work for the caller; no entry has `revents` then. Ends later than `timeout` by the
/// thread's timer slack (50 µs unless it was set; prctl(2), PR_SET_TIMERSLACK) and what the scheduler adds.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<bool> {
    let timeout = libc::timespec {
        // Longer than any machine runs, and within what every kernel takes.
        tv_sec: timeout.as_secs().min(1 << 30) as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    };
    // SAFETY: the array and the time are live for the call; a null pointer stands for no signal mask.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &timeout, std::ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        fds.iter_mut().for_each(|fd| fd.revents = 0);
    }
    Ok(ready != 0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_short_time_is_neither_cut_nor_rounded_up_to_a_millisecond() {
        let timeout = Duration::from_micros(30);
        // Of many, so that a busy machine does not decide.
        let shortest = (0..1000).map(|_| {
            let start = Instant::now();
            assert!(!poll(&mut [poll_for(None, libc::POLLIN)], timeout).unwrap());
            start.elapsed()
        });
        let shortest = shortest.min().unwrap();
        assert!((timeout..Duration::from_micros(900)).contains(&shortest), "{shortest:?}");
    }
}
