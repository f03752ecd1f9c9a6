//! Signals as something to wait for, so that a parent of processes is one loop without threads.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// A signal that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Which.
    pub signal: Signal,
    /// It came from the terminal: the kernel sent it to every process of the foreground group.
    pub from_terminal: bool,
}

/// The signals that end or notify a parent of processes: INT, TERM, HUP, QUIT and CHLD.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

fn taken() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD].into_iter().collect()
}

/// Undoes in a child what it has inherited of `Signals::take_over`: the mask survives fork and exec.
pub fn unblock() -> nix::Result<()> {
    taken().thread_unblock()
}

impl Signals {
    /// From now on these signals wait to be taken.
    pub fn take_over() -> nix::Result<Self> {
        let set = taken();
        set.thread_block()?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { descriptor })
    }

    /// The next signal that has arrived, without waiting.
    pub fn next(&self) -> Option<Arrived> {
        loop {
            match self.descriptor.read_signal() {
                Ok(Some(info)) => {
                    let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok())?;
                    return Some(Arrived { signal, from_terminal: info.ssi_code == libc::SI_KERNEL });
                }
                Err(Errno::EINTR) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Waits until a signal has arrived, `other` is readable or closed, or `deadline` has passed.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, deadline: Option<Instant>) -> nix::Result<()> {
        let mut descriptors = vec![PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        descriptors.extend(other.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)));
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let rest = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
