//! DPDK's environment layer (EAL): started once a process, by the first port that needs it, never in a forked child.

use std::{
    ffi::{CStr, CString},
    io,
    os::raw::{c_char, c_int},
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// What EAL takes from the machine when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Ordinary memory and no PCI: needs no privilege.
    Plain,
    /// Hugepages and PCI devices through VFIO.
    Pci,
}

/// EAL's memory in megabytes, in plain mode: an upper limit for the packet buffers of all ports. It is virtual until
/// buffers touch it.
const PLAIN_MEMORY_MB: usize = 256;

enum State {
    NotStarted,
    Running(Mode),
    Failed(String),
}

static STATE: Mutex<State> = Mutex::new(State::NotStarted);
/// The process that started EAL; 0 before.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// Set in a forked child of that process.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Why EAL is not to be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EalError {
    /// This process is a forked child of the one that started EAL.
    Forked,
    /// EAL runs already, without PCI.
    StartedWithoutPci,
    /// EAL failed to start, with what it said.
    Failed(String),
}

/// The right to call DPDK's control functions, which are not to be called by two threads at once.
pub struct Control {
    _state: MutexGuard<'static, State>,
}

impl Control {
    /// Starts EAL unless it runs, and waits until no other thread uses its control functions.
    pub fn start(mode: Mode) -> Result<Self, EalError> {
        // First: in a forked child another thread of the parent may hold the lock for ever.
        if is_forked() {
            return Err(EalError::Forked);
        }
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::NotStarted = *state {
            *state = match init(mode) {
                Ok(()) => State::Running(mode),
                Err(detail) => State::Failed(detail),
            };
        }
        match &*state {
            State::Running(Mode::Plain) if mode == Mode::Pci => Err(EalError::StartedWithoutPci),
            State::Failed(detail) => Err(EalError::Failed(detail.clone())),
            _ => Ok(Self { _state: state }),
        }
    }

    /// For giving back what `start` allowed to make; `None` in a forked child, which must not touch it.
    pub fn again() -> Option<Self> {
        (!is_forked()).then(|| Self { _state: STATE.lock().unwrap_or_else(PoisonError::into_inner) })
    }

    /// What DPDK logged since the last call, in one line; when that is nothing, the reason that `code`, a negative
    /// errno, stands for.
    pub fn explain(&self, code: c_int) -> String {
        explain(code.wrapping_neg())
    }

    /// As `explain`, for a function that reports by rte_errno.
    pub fn explain_errno(&self) -> String {
        // SAFETY: reads a variable of this thread.
        explain(unsafe { dpdk_sys::rum_dpdk_errno() })
    }
}

/// Whether this process is a forked child of the one that started EAL. The check without a system call.
pub fn in_forked_child() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// As `in_forked_child`, also after a bare `clone`, which runs no atfork handlers.
fn is_forked() -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    in_forked_child() || (owner != 0 && owner != std::process::id())
}

extern "C" fn note_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

fn init(mode: Mode) -> Result<(), String> {
    let arguments = arguments(mode, &allowed_cpus().map_err(|error| format!("sched_getaffinity: {error}"))?);
    // The process named here is the owner from now on: a start that fails half way leaves EAL's traces, too.
    OWNER.store(std::process::id(), Ordering::Release);
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::pthread_atfork(None, None, Some(note_fork)) };
    // SAFETY: called once, before rte_eal_init.
    if unsafe { dpdk_sys::rum_dpdk_log_capture() } != 0 {
        return Err("no memory for its log".to_owned());
    }
    let owned: Vec<CString> = arguments.into_iter().map(|text| CString::new(text).expect("no NUL inside")).collect();
    let mut argv: Vec<*mut c_char> = owned.iter().map(|text| text.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());
    let argc = c_int::try_from(owned.len()).expect("a dozen");
    // SAFETY: argv holds argc NUL-terminated strings and a null pointer; EAL reorders the array and reads the
    // strings during the call only. It runs once in the process (STATE).
    let result = with_signals_blocked(|| unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) });
    if result < 0 {
        // SAFETY: reads a variable of this thread.
        return Err(explain(unsafe { dpdk_sys::rum_dpdk_errno() }));
    }
    tracing::debug!(?mode, log = take_log(), "EAL started");
    Ok(())
}

fn explain(errno: c_int) -> String {
    let log = take_log();
    if log.is_empty() { io::Error::from_raw_os_error(errno).to_string() } else { log }
}

fn arguments(mode: Mode, cpus: &[usize]) -> Vec<String> {
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    // One lcore on all CPUs this thread may use: so its affinity stays as it is.
    let lcores = format!("--lcores=0@({})", cpus.join(","));
    let memory = PLAIN_MEMORY_MB.to_string();
    let mut arguments = vec!["rum", &lcores, "--no-telemetry", "--log-level=*:error"];
    match mode {
        Mode::Plain => arguments.extend(["--no-huge", "--no-shconf", "--no-pci", "-m", &memory]),
        // An address that no device has: EAL takes no device at start, only those that are probed later.
        Mode::Pci => arguments.extend(["--in-memory", "-a", "ffff:ff:1f.7"]),
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// The CPUs this thread may use, among those that DPDK can count.
fn allowed_cpus() -> io::Result<Vec<usize>> {
    const MAX_CPUS: usize = 128;
    // SAFETY: all zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the size of `set` to it.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the indices are below CPU_SETSIZE.
    Ok((0..MAX_CPUS).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Runs `call` with all signals blocked, so that threads it starts never run the program's signal handlers.
pub fn with_signals_blocked<T>(call: impl FnOnce() -> T) -> T {
    // SAFETY: all zeros is a valid signal set.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: both sets live on this stack.
    unsafe {
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
    }
    let result = call();
    // SAFETY: restores what was there.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}

/// The last two lines that DPDK logged since the last call, as one.
fn take_log() -> String {
    let mut buffer = [0u8; 2048];
    // SAFETY: the buffer is as long as told, and the shim ends what it writes with a NUL.
    let text = unsafe {
        dpdk_sys::rum_dpdk_log_take(buffer.as_mut_ptr().cast(), buffer.len());
        CStr::from_ptr(buffer.as_ptr().cast())
    };
    let text = text.to_string_lossy();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(2)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_the_allowed_cpus() {
        let plain = arguments(Mode::Plain, &[0, 2, 5]);
        assert!(plain.contains(&"--lcores=0@(0,2,5)".to_owned()));
        assert!(plain.contains(&"--no-huge".to_owned()));
        assert!(!arguments(Mode::Pci, &[0]).contains(&"--no-huge".to_owned()));
    }

    #[test]
    fn this_thread_may_run_somewhere() {
        assert!(!allowed_cpus().expect("allowed").is_empty());
    }
}
