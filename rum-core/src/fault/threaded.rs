//! `uffd-thread`: a handler thread reads the faults from the descriptor and serves them; the kernel's own touches,
//! too. It keeps to the CPU of the thread that faults, where the hand-over costs a switch and not a wake-up of
//! another CPU (7.7 µs against 61).

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rum_net::PAGE_BYTES;

use super::{
    FaultHandler, FaultOutcome, PageNumber, cpu,
    region::protect,
    registry::Region,
    signals::say,
    uffd::{self, Message, own},
    uffd_memory::UffdRegion,
};

/// An access that the page's protection forbids.
const SEGV_ACCERR: i32 = 2;
/// How long a trap stays: the thread it is for tries again within microseconds.
const TRAP_TIME: Duration = Duration::from_millis(10);
/// Faults between two looks at where the faulting thread runs.
const FAULTS_A_LOOK: u32 = 64;

/// A region whose faults a thread reads.
pub(super) struct Threaded {
    region: Arc<UffdRegion>,
    traps: Mutex<Traps>,
    /// An eventfd: readable when the thread shall end.
    stop: OwnedFd,
}

impl Threaded {
    pub fn new(region: Arc<UffdRegion>) -> io::Result<Self> {
        // SAFETY: makes a new descriptor.
        let stop = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self { region, traps: Mutex::default(), stop })
    }

    fn with_traps<T>(&self, change: impl FnOnce(&mut Traps) -> T) -> T {
        change(&mut self.traps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads and serves faults until told to stop.
    fn serve(&self, handler: &dyn FaultHandler) {
        let mut messages = [Message::default(); 16];
        let mut faults: u32 = 0;
        while self.wait() {
            for message in self.read(&mut messages) {
                if message.event != uffd::EVENT_PAGEFAULT {
                    continue;
                }
                if faults.is_multiple_of(FAULTS_A_LOOK) {
                    cpu::follow(message.thread);
                }
                faults = faults.wrapping_add(1);
                self.resolve(handler, message.address as usize);
            }
        }
    }

    /// Waits for a fault; `false` is the end.
    fn wait(&self) -> bool {
        let interest = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        loop {
            let mut descriptors = [interest(self.region.uffd.as_raw_fd()), interest(self.stop.as_raw_fd())];
            let timeout = if self.with_traps(|traps| traps.lift_old(Instant::now())) { 10 } else { -1 };
            // SAFETY: two valid entries.
            let ready = unsafe { libc::poll(descriptors.as_mut_ptr(), 2, timeout) };
            if ready > 0 {
                return descriptors[1].revents == 0;
            }
        }
    }

    fn read<'m>(&self, messages: &'m mut [Message]) -> &'m [Message] {
        let bytes = mem::size_of_val(messages);
        // SAFETY: writes at most `bytes` into plain numbers.
        let read = unsafe { libc::read(self.region.uffd.as_raw_fd(), messages.as_mut_ptr().cast(), bytes) };
        // Nothing to read: another thread's install woke the faulting one first.
        &messages[..usize::try_from(read).unwrap_or(0) / size_of::<Message>()]
    }

    fn resolve(&self, handler: &dyn FaultHandler, address: usize) {
        let layout = &self.region.layout;
        let offset = address.wrapping_sub(layout.base() as usize);
        let outcome = match offset / PAGE_BYTES {
            page if page < layout.pages() => handler.fault(PageNumber(page as u32)),
            // A wild pointer into the staging area.
            _ => FaultOutcome::Unallocated,
        };
        match outcome {
            FaultOutcome::Resolved => {}
            FaultOutcome::Unallocated => self.refuse(address & !(PAGE_BYTES - 1)),
            // SAFETY: ends the process.
            FaultOutcome::Lost => unsafe { libc::abort() },
        }
    }

    /// Lets the waiting thread die where it stands: a thread gets SIGSEGV with its address and a system call gives
    /// EFAULT, as the page forbids any access for a moment.
    fn refuse(&self, page: usize) {
        if let Err(_error) = self.with_traps(|traps| traps.set(page)) {
            say(b"rum: a thread touched far memory that is not allocated, and the kernel refused to let it know\n");
            // SAFETY: ends the process.
            unsafe { libc::abort() };
        }
        // Fails only if the region is closed, and then nobody waits.
        let _ = self.region.uffd.wake(page, PAGE_BYTES);
    }
}

impl Region for Threaded {
    fn is_forked(&self) -> bool {
        self.region.layout.is_forked()
    }

    /// Only traps arrive as signals. The page may have been allocated since: asking the handler again decides.
    fn claims(&self, signal: i32, code: i32, page: PageNumber) -> bool {
        let address = self.region.layout.page(page.0 as usize) as usize;
        signal == libc::SIGSEGV && code == SEGV_ACCERR && self.with_traps(|traps| traps.spring(address))
    }

    fn close(&self) {
        self.region.close();
    }
}

/// Pages that forbid access for a moment, and those that did so last.
#[derive(Default)]
struct Traps {
    ring: [Trap; 32],
    next: usize,
}

#[derive(Clone, Copy, Default)]
struct Trap {
    page: usize,
    /// When it was set, while it is.
    since: Option<Instant>,
}

impl Trap {
    fn lift(&mut self) {
        if self.since.take().is_some() {
            // SAFETY: a page of our region or staging area gets back the protection that both have. If the kernel
            // refuses, later touches die, which is safe.
            let _ = unsafe { protect(self.page as *mut u8, PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE) };
        }
    }
}

impl Traps {
    fn set(&mut self, page: usize) -> io::Result<()> {
        let trap = &mut self.ring[self.next];
        trap.lift();
        // SAFETY: the page is not mapped, so that no reference into it exists.
        unsafe { protect(page as *mut u8, PAGE_BYTES, libc::PROT_NONE)? };
        *trap = Trap { page, since: Some(Instant::now()) };
        self.next = (self.next + 1) % self.ring.len();
        Ok(())
    }

    /// Whether a page is or was a trap; it is none any more.
    fn spring(&mut self, page: usize) -> bool {
        let mut found = false;
        for trap in self.ring.iter_mut().filter(|trap| trap.page == page) {
            trap.lift();
            found = true;
        }
        found
    }

    /// Lifts traps whose time is over; returns whether some remain.
    fn lift_old(&mut self, now: Instant) -> bool {
        let mut some = false;
        for trap in &mut self.ring {
            match trap.since {
                Some(since) if now.duration_since(since) >= TRAP_TIME => trap.lift(),
                Some(_) => some = true,
                None => {}
            }
        }
        some
    }
}

/// The handler thread; ends at drop.
pub(super) struct HandlerThread {
    served: Arc<Threaded>,
    handler: Option<mpsc::SyncSender<Arc<dyn FaultHandler>>>,
    thread: Option<JoinHandle<()>>,
}

impl HandlerThread {
    /// Starts the thread, which waits for its handler.
    pub fn spawn(served: Arc<Threaded>) -> io::Result<Self> {
        let (handler, handlers) = mpsc::sync_channel::<Arc<dyn FaultHandler>>(1);
        let region = Arc::clone(&served);
        let body = move || {
            if let Ok(handler) = handlers.recv() {
                let guard = AbortOnUnwind;
                region.serve(&*handler);
                mem::forget(guard);
            }
        };
        let thread = with_signals_blocked(|| thread::Builder::new().name("rum-fault".into()).spawn(body))?;
        Ok(Self { served, handler: Some(handler), thread: Some(thread) })
    }

    /// Lets the thread begin.
    pub fn run(&mut self, handler: Arc<dyn FaultHandler>) {
        let sender = self.handler.take().expect("run once");
        sender.send(handler).expect("the thread waits for its handler");
    }
}

impl Drop for HandlerThread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.served.is_forked() {
            // There is no such thread in this process.
            mem::forget(thread);
            return;
        }
        self.handler = None;
        let one = 1u64;
        // SAFETY: reads 8 bytes of a local.
        unsafe { libc::write(self.served.stop.as_raw_fd(), ptr::from_ref(&one).cast(), 8) };
        let _ = thread.join();
    }
}

/// A handler thread that panics must not leave the program waiting for ever.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        say(b"rum: the fault handler panicked\n");
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
}

/// Runs `body` with all signals blocked, as a new thread inherits it.
fn with_signals_blocked<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: sets of the calling thread's own mask, which is restored.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = body();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        result
    }
}
