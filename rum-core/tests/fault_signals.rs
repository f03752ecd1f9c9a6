//! What becomes of signals: wild pointers, the program's own handlers, forked children. Each case dies (or not) in a
//! process of its own.

mod fault_common;

use std::{
    io::Write,
    mem,
    os::unix::process::ExitStatusExt,
    process::Output,
    ptr,
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

use fault_common::{PAGE, Rig, State, Variant, case, run_case, text};

/// Runs `body` in a process for each engine, and `judge` on what became of it.
fn each_in_a_process(test: &str, body: impl Fn(Variant), judge: impl Fn(Variant, Output)) {
    match case() {
        Some(name) => body(Variant::from_name(&name)),
        None => {
            for variant in Variant::allowed() {
                judge(variant, run_case(test, &variant.name()));
            }
        }
    }
}

fn survived(variant: Variant, output: Output) {
    assert!(output.status.success(), "{}: {}\n{}", variant.name(), output.status, text(&output));
}

fn without_pages(variant: Variant) -> Rig {
    let rig = Rig::new(variant, 16);
    rig.lock().state[8..].fill(State::Unallocated);
    rig
}

/// Gives a signal its default action, as in a C program (Rust programs have handlers of their own).
fn forget_handler(signal: i32) {
    // SAFETY: the default action is always valid.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn no_core_dumps() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a local.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
}

#[test]
fn a_wild_pointer_into_the_region_is_a_segmentation_fault() {
    each_in_a_process(
        "a_wild_pointer_into_the_region_is_a_segmentation_fault",
        |variant| {
            no_core_dumps();
            forget_handler(libc::SIGSEGV);
            let rig = without_pages(variant);
            rig.write(7, 0, 1);
            println!("still here");
            std::io::stdout().flush().unwrap();
            rig.write(9, 0, 1);
            println!("not here");
        },
        |variant, output| {
            let said = text(&output);
            assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}: {said}", variant.name());
            assert!(said.contains("still here") && !said.contains("not here"), "{said}");
        },
    );
}

#[test]
fn a_wild_pointer_dies_under_rusts_own_handler_too() {
    each_in_a_process(
        "a_wild_pointer_dies_under_rusts_own_handler_too",
        |variant| {
            no_core_dumps();
            let rig = without_pages(variant);
            rig.read(12, 0);
        },
        |variant, output| {
            assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}: {}", variant.name(), text(&output));
        },
    );
}

static SEEN_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static SEEN_SIGNAL: AtomicI32 = AtomicI32::new(0);
static SEEN_MASK: AtomicI32 = AtomicI32::new(0);
static GO_ON: AtomicUsize = AtomicUsize::new(0);

/// The program's own handler: remembers what it saw, and goes on as `GO_ON` says.
extern "C" fn own_handler(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: a valid siginfo with an address; the mask is read into a local; the page is the test's own.
    unsafe {
        SEEN_ADDRESS.store((*info).si_addr() as usize, Ordering::SeqCst);
        SEEN_SIGNAL.store(signal, Ordering::SeqCst);
        let mut mask: libc::sigset_t = mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut mask);
        SEEN_MASK.store(libc::sigismember(&mask, libc::SIGUSR1), Ordering::SeqCst);
        match GO_ON.load(Ordering::SeqCst) {
            0 => libc::_exit(42),
            page => {
                libc::mprotect(page as *mut libc::c_void, PAGE, libc::PROT_READ | libc::PROT_WRITE);
            }
        }
    }
}

fn install_own(signal: i32) {
    // SAFETY: the handler has the signature of SA_SIGINFO.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = own_handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

/// A page of the test's own without access.
fn closed_page() -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page.cast()
}

#[test]
fn faults_elsewhere_reach_the_programs_own_handler() {
    each_in_a_process(
        "faults_elsewhere_reach_the_programs_own_handler",
        |variant| {
            install_own(libc::SIGSEGV);
            let rig = Rig::new(variant, 16);
            let page = closed_page();
            GO_ON.store(page as usize, Ordering::SeqCst);
            // SAFETY: closed at first; the handler opens it.
            unsafe { page.add(24).write_volatile(5) };
            assert_eq!(SEEN_ADDRESS.load(Ordering::SeqCst), page as usize + 24);
            assert_eq!(SEEN_SIGNAL.load(Ordering::SeqCst), libc::SIGSEGV);
            assert_eq!(SEEN_MASK.load(Ordering::SeqCst), 0, "only the handler's own mask is blocked");
            rig.write(3, 0, 4);
            assert_eq!(rig.read(3, 0), 4);
        },
        survived,
    );
}

#[test]
fn a_wild_pointer_reaches_the_programs_own_handler_with_its_address() {
    const TEST: &str = "a_wild_pointer_reaches_the_programs_own_handler_with_its_address";
    each_in_a_process(
        TEST,
        |variant| {
            extern "C" fn check(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
                // SAFETY: a valid siginfo with an address.
                let address = unsafe { (*info).si_addr() } as usize;
                // SAFETY: ends the process.
                unsafe { libc::_exit(if address & !(PAGE - 1) == GO_ON.load(Ordering::SeqCst) { 42 } else { 43 }) };
            }
            // SAFETY: the handler has the signature of SA_SIGINFO.
            unsafe {
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = check as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
            }
            let rig = without_pages(variant);
            GO_ON.store(rig.at(9, 0) as usize, Ordering::SeqCst);
            rig.read(9, 5);
        },
        |variant, output| assert_eq!(output.status.code(), Some(42), "{}: {}", variant.name(), text(&output)),
    );
}

/// Sends this thread a signal that says it was a fault at `address`, as any process may claim.
fn forge(signal: i32, address: usize) {
    // SAFETY: all zeros is a valid siginfo; its address lies at offset 16 (asm-generic/siginfo.h); the thread sends
    // the signal to itself.
    unsafe {
        let mut info: libc::siginfo_t = mem::zeroed();
        info.si_signo = signal;
        info.si_code = libc::SI_QUEUE;
        ptr::from_mut(&mut info).cast::<u8>().add(16).cast::<usize>().write(address);
        assert_eq!(info.si_addr() as usize, address);
        let thread = libc::gettid();
        assert_eq!(libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), thread, signal, &info), 0);
    }
}

#[test]
fn signals_sent_by_processes_reach_the_programs_own_handler() {
    each_in_a_process(
        "signals_sent_by_processes_reach_the_programs_own_handler",
        |variant| {
            install_own(libc::SIGBUS);
            install_own(libc::SIGSEGV);
            let rig = Rig::new(variant, 16);
            GO_ON.store(1, Ordering::SeqCst);
            for signal in [libc::SIGBUS, libc::SIGSEGV] {
                // SAFETY: sends a signal to this thread.
                unsafe { libc::raise(signal) };
                assert_eq!(SEEN_SIGNAL.swap(0, Ordering::SeqCst), signal);
                forge(signal, rig.at(3, 0) as usize);
                assert_eq!(SEEN_SIGNAL.swap(0, Ordering::SeqCst), signal);
            }
            assert_eq!(rig.faults(), 0);
        },
        survived,
    );
}

#[test]
fn handlers_are_given_back_and_errno_is_kept() {
    each_in_a_process(
        "handlers_are_given_back_and_errno_is_kept",
        |variant| {
            let action = |signal| {
                // SAFETY: fills a local.
                unsafe {
                    let mut action: libc::sigaction = mem::zeroed();
                    libc::sigaction(signal, ptr::null(), &mut action);
                    (action.sa_sigaction, action.sa_flags)
                }
            };
            let before = (action(libc::SIGBUS), action(libc::SIGSEGV));
            let rig = Rig::new(variant, 16);
            // SAFETY: errno is this thread's own.
            unsafe { *libc::__errno_location() = 4321 };
            rig.write(1, 0, 1);
            // SAFETY: as above.
            assert_eq!(unsafe { *libc::__errno_location() }, 4321);
            let other = Rig::new(variant, 16);
            drop(rig);
            other.write(2, 0, 2);
            assert_ne!((action(libc::SIGBUS), action(libc::SIGSEGV)), before);
            drop(other);
            assert_eq!((action(libc::SIGBUS), action(libc::SIGSEGV)), before);
        },
        survived,
    );
}

/// A forked child that touches the region, resident or not, says so and aborts; the parent goes on.
#[test]
fn a_forked_child_says_that_it_has_no_far_memory() {
    each_in_a_process(
        "a_forked_child_says_that_it_has_no_far_memory",
        |variant| {
            no_core_dumps();
            let rig = Rig::new(variant, 16);
            rig.write(3, 0, 33);
            for page in [3, 4] {
                // SAFETY: the child only touches memory and exits.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let word = rig.read(page, 0);
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(word as i32) };
                }
                let mut status = 0;
                // SAFETY: waits for our own child.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "status {status:#x}");
            }
            assert_eq!((rig.read(3, 0), rig.read(4, 0)), (33, 0));
        },
        |variant, output| {
            let said = text(&output);
            assert_eq!(said.matches("forked from a RUM client").count(), 2, "{}: {said}", variant.name());
            survived(variant, output);
        },
    );
}

/// A child that drops its copy of the engine leaves the parent's alone, and ends.
#[test]
fn a_forked_child_may_drop_the_engine() {
    each_in_a_process(
        "a_forked_child_may_drop_the_engine",
        |variant| {
            let rig = Rig::new(variant, 16);
            rig.write(3, 0, 33);
            // SAFETY: the child frees memory and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                drop(rig);
                // SAFETY: ends the child.
                unsafe { libc::_exit(7) };
            }
            let mut status = 0;
            // SAFETY: waits for our own child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "status {status:#x}");
            assert_eq!((rig.read(3, 0), rig.read(4, 0)), (33, 0));
        },
        survived,
    );
}

/// An engine that has ended leaves no zeros behind.
#[test]
fn the_region_is_closed_when_its_engine_ends() {
    each_in_a_process(
        "the_region_is_closed_when_its_engine_ends",
        |variant| {
            no_core_dumps();
            forget_handler(libc::SIGSEGV);
            let Rig { engine, pager, pages: _ } = Rig::new(variant, 16);
            let base = pager.inner.lock().unwrap().memory.base();
            drop(engine);
            // SAFETY: closed: the process dies.
            let byte = unsafe { base.read_volatile() };
            println!("read {byte}");
        },
        |variant, output| {
            assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}: {}", variant.name(), text(&output));
        },
    );
}

/// A handler with a bug ends the process; nobody waits for ever.
#[test]
fn a_handler_that_panics_ends_the_process() {
    struct Buggy;
    impl rum_core::fault::FaultHandler for Buggy {
        fn fault(&self, page: rum_core::fault::PageNumber) -> rum_core::fault::FaultOutcome {
            panic!("bug at {page:?}");
        }
    }
    each_in_a_process(
        "a_handler_that_panics_ends_the_process",
        |variant| {
            no_core_dumps();
            let (memory, pending) = fault_common::start_sized(variant, 16, 16);
            let _engine = pending.run(std::sync::Arc::new(Buggy));
            // SAFETY: a byte of the region; the process dies.
            unsafe { memory.base().read_volatile() };
        },
        |variant, output| {
            let said = text(&output);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}: {said}", variant.name());
            assert!(said.contains("bug at PageNumber(0)"), "{said}");
        },
    );
}
