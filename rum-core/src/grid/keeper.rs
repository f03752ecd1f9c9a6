//! The thread that keeps the client's sessions alive while the program does not fault.

use std::{
    io, process,
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::SigSet;

use super::lock;
use crate::pager::Pager;

/// The longest between two ticks.
const PERIOD: Duration = Duration::from_millis(250);

/// Ends its thread at drop.
pub struct Keeper {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

impl Keeper {
    /// Starts to call `Pager::tick`, at least as often as sessions are kept alive.
    pub fn start(pager: Arc<Pager>, keep_alive: Duration) -> io::Result<Self> {
        let period = PERIOD.min(keep_alive);
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let signal = stop.clone();
        // The program's signals are for its own threads.
        let previous = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
        let thread = thread::Builder::new().name("rum-keeper".into()).spawn(move || keep(&pager, period, &signal));
        previous.thread_set_mask()?;
        Ok(Self { stop, thread: Some(thread?), process: process::id() })
    }
}

fn keep(pager: &Pager, period: Duration, (stop, changed): &(Mutex<bool>, Condvar)) {
    let mut stopped = lock(stop);
    while !*stopped {
        drop(stopped);
        pager.tick();
        let waited = changed.wait_timeout_while(lock(stop), period, |stopped| !*stopped);
        stopped = match waited {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A forked child has the handle but not the thread, and perhaps a lock that nobody will ever release.
        if process::id() != self.process {
            std::mem::forget(self.thread.take());
            return;
        }
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the keeper has aborted the process already.
            let _ = thread.join();
        }
    }
}
