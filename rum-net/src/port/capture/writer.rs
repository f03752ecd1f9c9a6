//! Writes captured packets to the file from a thread of its own.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    fcntl::Flock,
    sys::signal::{SigSet, SigmaskHow},
};

use super::{now_ns, pcapng};

/// Room for packets that are not in the file yet. There are two of it: one is filled while the other is written.
pub const BUFFER_BYTES: usize = 16 << 20;
/// How long the writer lets packets gather after it has written some: so often at most it has to be woken.
const GATHER: Duration = Duration::from_millis(1);
/// How often a packet tries for the buffer, which the writer holds for the exchange of two pointers.
const TRIES: u32 = 1000;

/// What port and writer share.
#[derive(Debug)]
struct Shared {
    /// Whole blocks, up to `BUFFER_BYTES`; its memory is all there from the start.
    buffer: Mutex<Vec<u8>>,
    /// Packets that went by.
    packets: AtomicU64,
    /// Of them those not captured.
    missed: AtomicU64,
    /// Bytes in the file.
    written_bytes: AtomicU64,
    /// The writer sleeps, or is about to, until it is woken.
    is_parked: AtomicBool,
    is_stopping: AtomicBool,
    /// The file cannot be written any more.
    is_broken: AtomicBool,
}

/// The port's end of the writer. Dropped, it waits until all is in the file.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Of the process with the thread: a forked child has none.
    pid: u32,
    /// Bytes given to the writer.
    captured_bytes: u64,
}

impl Writer {
    /// Starts a writer of `file`, which is empty, with `first` as its first bytes. They are written here, so that a file
    /// that cannot be written is said at once.
    pub fn start(mut file: Flock<File>, first: &[u8]) -> io::Result<Self> {
        file.write_all(first)?;
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Vec::with_capacity(BUFFER_BYTES)),
            packets: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            is_parked: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
        });
        let body = {
            let shared = shared.clone();
            let spare = Vec::with_capacity(BUFFER_BYTES);
            move || write_all(&shared, file, spare)
        };
        // The program's signals are not this thread's to handle.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let thread = thread::Builder::new().name("rum-capture".to_owned()).spawn(body);
        before.thread_set_mask()?;
        Ok(Self { shared, thread: Some(thread?), pid: std::process::id(), captured_bytes: 0 })
    }

    /// Has `put` append a packet's block of up to `bytes` bytes. Never waits: a packet for which there is no room is
    /// counted instead.
    pub fn add(&mut self, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        let Shared { buffer, packets, missed, is_broken, .. } = &*self.shared;
        packets.fetch_add(1, Ordering::Relaxed);
        for _ in 0..TRIES {
            let Ok(mut buffer) = buffer.try_lock() else {
                std::hint::spin_loop();
                continue;
            };
            if is_broken.load(Ordering::Relaxed) || buffer.capacity() - buffer.len() < bytes {
                break;
            }
            let before = buffer.len();
            put(&mut buffer);
            self.captured_bytes += (buffer.len() - before) as u64;
            return;
        }
        missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes the writer if it sleeps: a system call once in `GATHER` at most.
    pub fn kick(&self) {
        let is_parked = &self.shared.is_parked;
        if is_parked.load(Ordering::Relaxed) && is_parked.swap(false, Ordering::Relaxed) {
            self.thread.iter().for_each(|thread| thread.thread().unpark());
        }
    }

    /// Whether all that was captured is in the file.
    pub fn is_written(&self) -> bool {
        self.shared.written_bytes.load(Ordering::Acquire) == self.captured_bytes
    }

    /// Packets that went by, and those of them that are not captured.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.packets.load(Ordering::Relaxed), self.shared.missed.load(Ordering::Relaxed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if std::process::id() != self.pid {
            // The thread is the parent's.
            std::mem::forget(thread);
            return;
        }
        self.shared.is_stopping.store(true, Ordering::Release);
        thread.thread().unpark();
        // It panicked if this fails; there is nothing more to be done.
        let _ = thread.join();
    }
}

/// The writer's life. Only whole blocks are written, with nothing kept in between: what the file has is complete
/// whenever the process ends.
fn write_all(shared: &Shared, mut file: Flock<File>, mut full: Vec<u8>) {
    loop {
        let is_stopping = shared.is_stopping.load(Ordering::Acquire);
        take(shared, &mut full);
        if is_stopping {
            let (packets, missed) = (shared.packets.load(Ordering::Relaxed), shared.missed.load(Ordering::Relaxed));
            write(shared, &mut file, &full);
            full.clear();
            pcapng::statistics(&mut full, now_ns(), packets, missed);
            write(shared, &mut file, &full);
            return;
        }
        if !full.is_empty() {
            write(shared, &mut file, &full);
            thread::park_timeout(GATHER);
            continue;
        }
        shared.is_parked.store(true, Ordering::Relaxed);
        // The buffer's lock orders this: either what came since is seen here, or who put it there sees the flag.
        let is_empty = shared.buffer.lock().is_ok_and(|buffer| buffer.is_empty());
        if is_empty && !shared.is_stopping.load(Ordering::Acquire) {
            thread::park();
        }
        shared.is_parked.store(false, Ordering::Relaxed);
    }
}

/// Exchanges what was captured for the empty buffer.
fn take(shared: &Shared, full: &mut Vec<u8>) {
    full.clear();
    if let Ok(mut buffer) = shared.buffer.lock() {
        std::mem::swap(&mut *buffer, full);
    }
}

fn write(shared: &Shared, file: &mut File, blocks: &[u8]) {
    if shared.is_broken.load(Ordering::Relaxed) {
        return;
    }
    match file.write_all(blocks) {
        Ok(()) => _ = shared.written_bytes.fetch_add(blocks.len() as u64, Ordering::Release),
        Err(error) => {
            shared.is_broken.store(true, Ordering::Relaxed);
            tracing::error!("the capture ends here, its file cannot be written: {error}");
        }
    }
}
