//! The handlers of SIGBUS and SIGSEGV: what is ours goes to the region's fault handler, the rest to whoever had
//! the signal before.

use std::{
    io, mem, ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use super::{FaultOutcome, registry};

const FORKED: &[u8] = b"rum: this process was forked from a RUM client; far memory is not available in the child yet\n";
const SEGV_MAPERR: i32 = 1;

/// The action that a signal had before ours.
struct Previous {
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

impl Previous {
    const fn new() -> Self {
        Self { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0), mask: AtomicU64::new(0) }
    }
}

static PREVIOUS_SIGBUS: Previous = Previous::new();
static PREVIOUS_SIGSEGV: Previous = Previous::new();

/// Engines at work, and of them those that serve faults from the SIGSEGV handler.
static USERS: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// Keeps the handlers installed.
#[derive(Debug)]
pub(super) struct Handlers {
    serves_segv: bool,
}

impl Handlers {
    /// Installs the handlers, if no other engine has. `serves_segv` if faults of the region arrive as SIGSEGV.
    pub fn install(serves_segv: bool) -> Self {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.0 += 1;
        users.1 += usize::from(serves_segv);
        // Faults are served on the thread's own stack: an alternate one may be too small for the pager. Where SIGSEGV
        // carries no such faults it keeps the alternate stack, on which programs report their stack overflows.
        take_over(libc::SIGBUS, 0);
        take_over(libc::SIGSEGV, if users.1 > 0 { 0 } else { libc::SA_ONSTACK });
        Self { serves_segv }
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.0 -= 1;
        users.1 -= usize::from(self.serves_segv);
        if users.0 == 0 {
            give_back(libc::SIGBUS);
            give_back(libc::SIGSEGV);
        }
    }
}

fn previous(signal: i32) -> &'static Previous {
    if signal == libc::SIGBUS { &PREVIOUS_SIGBUS } else { &PREVIOUS_SIGSEGV }
}

fn action_of(signal: i32) -> libc::sigaction {
    // SAFETY: all zeros is a valid sigaction, which the call then fills; it reads nothing.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &mut action);
        action
    }
}

fn ours() -> usize {
    on_signal as *const () as usize
}

fn take_over(signal: i32, flags: i32) {
    let before = action_of(signal);
    if before.sa_sigaction != ours() {
        let previous = previous(signal);
        previous.flags.store(before.sa_flags, SeqCst);
        previous.mask.store(mask_bits(&before.sa_mask), SeqCst);
        previous.handler.store(before.sa_sigaction, SeqCst);
    }
    // SAFETY: all zeros is a valid sigaction; the handler has the signature that SA_SIGINFO asks for and keeps to
    // what is allowed in a signal handler.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = ours();
        action.sa_flags = libc::SA_SIGINFO | flags;
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

/// Puts the previous action back, unless the program has replaced ours since: its handler may call ours.
fn give_back(signal: i32) {
    if action_of(signal).sa_sigaction != ours() {
        return;
    }
    let previous = previous(signal);
    // SAFETY: the values are those that the kernel gave us for this signal.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = previous.handler.load(SeqCst);
        action.sa_flags = previous.flags.load(SeqCst);
        action.sa_mask = mask_from(previous.mask.load(SeqCst));
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

/// What to do with a signal.
enum Verdict {
    /// The page is mapped: try the instruction again.
    Retry,
    /// A page of the region that is not allocated.
    Unallocated,
    /// Nothing of ours.
    Foreign,
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is the calling thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo, and no other reference to it exists.
    let seen = unsafe { &*info };
    match judge(signal, seen) {
        Verdict::Retry => {}
        Verdict::Unallocated => {
            let mut wild = *seen;
            wild.si_signo = libc::SIGSEGV;
            wild.si_code = SEGV_MAPERR;
            pass_on(libc::SIGSEGV, &mut wild, context.cast());
            // A handler that gave the signal its default action and returned expects to die of its next touch,
            // which for us would only be another SIGBUS.
            if action_of(libc::SIGSEGV).sa_sigaction == libc::SIG_DFL {
                die_on_return(libc::SIGSEGV, &mut wild, context.cast());
            }
        }
        Verdict::Foreign => {
            let mut foreign = *seen;
            pass_on(signal, &mut foreign, context.cast());
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn judge(signal: i32, info: &libc::siginfo_t) -> Verdict {
    // Only the kernel says where a fault was; kill(2) and sigqueue(3) may say anything.
    if info.si_code <= 0 {
        return Verdict::Foreign;
    }
    // SAFETY: SIGBUS and SIGSEGV from the kernel carry an address.
    let address = unsafe { info.si_addr() } as usize;
    let Some(entry) = registry::find(address) else { return Verdict::Foreign };
    if entry.region.is_forked() {
        say(FORKED);
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
    let page = entry.page(address);
    if !entry.region.claims(signal, info.si_code, page) {
        return Verdict::Foreign;
    }
    match entry.fault(page) {
        FaultOutcome::Resolved => Verdict::Retry,
        FaultOutcome::Unallocated => Verdict::Unallocated,
        // SAFETY: ends the process.
        FaultOutcome::Lost => unsafe { libc::abort() },
    }
}

/// Hands a signal to whoever had it before us, as the kernel would have.
fn pass_on(signal: i32, info: &mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let previous = previous(signal);
    let handler = previous.handler.load(SeqCst);
    let flags = previous.flags.load(SeqCst);
    match handler {
        libc::SIG_IGN if info.si_code <= 0 => {}
        // The kernel gives a fault its default action even where the signal is ignored.
        libc::SIG_IGN | libc::SIG_DFL => die_on_return(signal, info, context),
        _ => {
            if flags & libc::SA_RESETHAND != 0 {
                previous.handler.store(libc::SIG_DFL, SeqCst);
            }
            let mut mask = interrupted_mask(context) | previous.mask.load(SeqCst);
            if flags & libc::SA_NODEFER == 0 {
                mask |= 1 << (signal - 1);
            }
            // SAFETY: sets the calling thread's mask; the kernel restores the interrupted one when our handler returns.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask_from(mask), ptr::null_mut()) };
            call(handler, flags, signal, info, context);
        }
    }
}

fn call(handler: usize, flags: i32, signal: i32, info: &mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the program registered this function with SA_SIGINFO, so it has this signature.
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) =
            unsafe { mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: the program registered this function without SA_SIGINFO, so it has this signature.
        let handler: extern "C" fn(i32) = unsafe { mem::transmute(handler) };
        handler(signal);
    }
}

/// Gives the signal its default action and sends it again, so that it is delivered where the instruction was
/// interrupted, with the same address.
fn die_on_return(signal: i32, info: &mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: all zeros is the default action; the thread sends itself a signal; `context` is the one that the
    // kernel passed to our handler and will restore from.
    unsafe {
        let action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, &action, ptr::null_mut());
        let thread = libc::syscall(libc::SYS_gettid);
        if libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), thread, signal, info as *mut libc::siginfo_t) != 0
        {
            libc::abort();
        }
        libc::sigdelset(&mut (*context).uc_sigmask, signal);
    }
}

/// Writes to stderr as a signal handler may.
pub(super) fn say(text: &[u8]) {
    // SAFETY: reads `text` only.
    let _ = io::Result::Ok(unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) });
}

fn interrupted_mask(context: *mut libc::ucontext_t) -> u64 {
    // SAFETY: the kernel passed it to our handler.
    mask_bits(unsafe { &(*context).uc_sigmask })
}

/// The 64 signals that the kernel knows.
fn mask_bits(set: &libc::sigset_t) -> u64 {
    // SAFETY: glibc's and musl's sigset_t is at least the kernel's 64 bits, in its first word.
    unsafe { ptr::from_ref(set).cast::<u64>().read_unaligned() }
}

fn mask_from(bits: u64) -> libc::sigset_t {
    // SAFETY: an empty set whose first word, the kernel's 64 bits, is then filled.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        ptr::from_mut(&mut set).cast::<u64>().write_unaligned(bits);
        set
    }
}
