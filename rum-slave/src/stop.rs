//! How a running slave is told to stop, from another thread or by a signal, also while it sleeps.

use std::{
    io::{self, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::consts::{SIGINT, SIGTERM};

/// The slave's side.
#[derive(Debug)]
pub struct Stop {
    is_set: Arc<AtomicBool>,
    wake: UnixStream,
}

/// The other side; clones are the same.
#[derive(Debug)]
pub struct Stopper {
    is_set: Arc<AtomicBool>,
    wake: UnixStream,
}

/// Both sides.
pub fn stop() -> io::Result<(Stopper, Stop)> {
    let is_set = Arc::new(AtomicBool::new(false));
    let (ours, slaves) = UnixStream::pair()?;
    // Full means that the slave is being woken already.
    ours.set_nonblocking(true)?;
    Ok((Stopper { is_set: is_set.clone(), wake: ours }, Stop { is_set, wake: slaves }))
}

impl Stop {
    /// Whether the slave is to stop.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Becomes readable when the slave is to stop, and stays so.
    pub fn wake(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

impl Stopper {
    /// Tells the slave to stop.
    pub fn stop(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        let _ = (&self.wake).write(&[0]);
    }

    /// Lets SIGTERM and SIGINT stop the slave.
    pub fn on_signals(&self) -> io::Result<()> {
        for signal in [SIGTERM, SIGINT] {
            // In this order: the slave that is woken finds the flag set.
            signal_hook::flag::register(signal, self.is_set.clone())?;
            signal_hook::low_level::pipe::register(signal, self.wake.try_clone()?)?;
        }
        Ok(())
    }
}
