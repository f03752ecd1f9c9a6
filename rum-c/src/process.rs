//! Joining and leaving: once a process, at exit, and what a forked child may do.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use rum_core::{
    config::Config,
    grid::{Grid, JoinError},
};

use crate::{
    current,
    errors::{die, say, set_errno},
};

/// Where this process stands, for the message of a call that finds no grid.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    Never,
    Joined,
    Ended,
    Forked,
}

static STANDING: AtomicU8 = AtomicU8::new(Standing::Never as u8);
static SAID: AtomicU8 = AtomicU8::new(u8::MAX);
static MACHINES: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Where this process stands.
pub(crate) fn standing() -> Standing {
    match STANDING.load(Relaxed) {
        0 => Standing::Never,
        1 => Standing::Joined,
        2 => Standing::Ended,
        _ => Standing::Forked,
    }
}

/// Joins the grid of `machines`, or says why not and exits.
pub(crate) fn init(machines: Option<&Path>) {
    // The lock is free again when exit runs the program's handlers, which may call rum_end.
    if let Err(why) = try_init(machines) {
        say(format_args!("rum_init: {why}"));
        std::process::exit(2)
    }
}

fn try_init(machines: Option<&Path>) -> Result<(), String> {
    let mut joined = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = identity(machines);
    if standing() == Standing::Joined {
        if joined.as_deref() == Some(asked.as_path()) {
            say(format_args!("rum_init: the grid of {} is joined already; nothing to do", asked.display()));
            return Ok(());
        }
        let first = joined.as_deref().unwrap_or(Path::new("")).display();
        return Err(format!(
            "this program uses the grid of {first}; call rum_end before joining that of {}",
            asked.display()
        ));
    }
    let grid = join(machines).map_err(|error| error.to_string())?;
    say(start_line(&grid));
    current::attach(Arc::new(grid)).map_err(|_| "this program has attached a grid already".to_owned())?;
    *joined = Some(asked);
    STANDING.store(Standing::Joined as u8, Relaxed);
    static HOOKS: Once = Once::new();
    HOOKS.call_once(|| {
        // SAFETY: the handler is a function of this library, and glibc forgets it when the library is closed.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    Ok(())
}

fn join(machines: Option<&Path>) -> Result<Grid, JoinError> {
    Grid::join(Config::from_env(machines)?)
}

/// The file that `machines` means, however it is written.
fn identity(machines: Option<&Path>) -> PathBuf {
    let path = machines
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("RUM_MACHINES").map(PathBuf::from))
        .unwrap_or_default();
    fs::canonicalize(&path).unwrap_or(path)
}

/// What a user wants to know of a grid that was joined.
fn start_line(grid: &Grid) -> String {
    let engine = grid.engine().to_string();
    describe(grid.links().len(), grid.transports(), grid.is_sealed(), &engine, grid.stats().budget_bytes)
}

fn describe(slaves: usize, transports: &[String], is_sealed: bool, engine: &str, budget_bytes: u64) -> String {
    let slaves = if slaves == 1 { "1 slave".to_owned() } else { format!("{slaves} slaves") };
    let budget_mib = budget_bytes as f64 / f64::from(1 << 20);
    format!(
        "joined {slaves} over {}, {}, nothing replicated; fault engine {engine}; local budget {budget_mib:.1} MiB",
        transports.join(" and "),
        if is_sealed { "sealed" } else { "not sealed" }
    )
}

/// Flushes and leaves.
pub(crate) fn end() {
    let _one_at_a_time = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    if standing() != Standing::Joined {
        return;
    }
    if let Some(grid) = current::enter() {
        grid.flush();
    }
    STANDING.store(Standing::Ended as u8, Relaxed);
    drop(current::detach());
}

/// Runs when the process ends by exit, after the program's own handlers and destructors (they may touch far memory), or
/// when this library is closed.
extern "C" fn at_exit() {
    if standing() != Standing::Joined {
        return;
    }
    let Some(grid) = current::enter() else { return };
    if is_alone() {
        grid.leave();
    } else {
        // Other threads run until the very end, and may touch far memory: the slaves learn of the end by themselves.
        grid.flush();
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

/// Threads that do not touch far memory on the program's behalf.
const OUR_THREADS: [&str; 3] = ["rum-keeper", "rum-fault", "eal-intr-thread"];

/// Whether no thread but this one and those of RUM and DPDK runs.
fn is_alone() -> bool {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return false };
    // SAFETY: gettid has no preconditions.
    let own = unsafe { libc::gettid() }.to_string();
    tasks.flatten().all(|task| {
        let name = || fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        task.file_name() == own.as_str() || OUR_THREADS.contains(&name().trim_end())
    })
}

extern "C" fn in_child() {
    if standing() == Standing::Joined {
        current::forget_in_child();
        STANDING.store(Standing::Forked as u8, Relaxed);
    }
}

/// The grid for a call named `call`; without one, a line on stderr (once a process and reason) and EINVAL.
pub(crate) fn grid_for(call: &str) -> Option<current::Entered> {
    if let Some(grid) = current::enter() {
        return Some(grid);
    }
    if SAID.swap(standing() as u8, Relaxed) != standing() as u8 {
        say(format_args!("{call}: {}", why_none()));
    }
    set_errno(libc::EINVAL);
    None
}

/// What a program that has no grid did wrong.
pub(crate) fn why_none() -> &'static str {
    match standing() {
        Standing::Never | Standing::Joined => "no grid is joined; call rum_init first",
        Standing::Ended => "the program has left its grid by rum_end; call rum_init to join again",
        Standing::Forked => "a forked child does not have its parent's grid; call rum_init in the child to join",
    }
}

/// Frees that find no grid: nothing to do after `rum_end`, which freed all; else the pointer cannot be RUM's.
pub(crate) fn free_without_grid(pointer: usize) {
    match standing() {
        Standing::Ended => {}
        // The child's copy of a parent's pointer: the parent's memory stays.
        Standing::Forked => {}
        Standing::Never | Standing::Joined => {
            die(format_args!("rum_free: {pointer:#x} is not far memory: {}", why_none()))
        }
    }
}

unsafe extern "C" {
    static stdout: *mut libc::FILE;
}

/// Prints to C's stdout, so that the text keeps its place among what the program prints.
pub(crate) fn print(text: &str) {
    // SAFETY: the bytes are the text's; stdout is C's stream, open unless the program closed it, which fwrite notices.
    unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_line_names_the_transports_once() {
        let transports = ["udp:af_packet:eth1, ip 10.0.0.1", "vhost"].map(String::from);
        assert_eq!(
            describe(3, &transports, true, "sigsegv", 3 << 19),
            "joined 3 slaves over udp:af_packet:eth1, ip 10.0.0.1 and vhost, sealed, nothing replicated; fault engine sigsegv; local budget 1.5 MiB"
        );
        let one = describe(1, &transports[1..], false, "sigsegv", 0);
        assert!(one.starts_with("joined 1 slave over vhost, not sealed,"), "{one}");
    }

    #[test]
    fn a_thread_of_the_program_keeps_it_from_being_alone() {
        let (end, until) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || until.recv());
        assert!(!is_alone());
        drop(end);
        assert!(thread.join().unwrap().is_err());
    }
}
