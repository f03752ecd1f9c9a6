//! What the tests of whole grids share: slaves and clients as processes of their own, far memory with a shadow, and what
//! of this process is really resident.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod dice;
pub mod far;
pub mod holder;
pub mod hosts;
pub mod local_grid;
#[path = "../../../rum-net/tests/support/namespaces.rs"]
pub mod namespaces;
pub mod open_vswitch;
pub mod player;
#[path = "../../../rum-slave/tests/support/registers.rs"]
pub mod registers;
pub mod resident;
pub mod shadow;
pub mod sharer;
pub mod suite;
pub mod thread_grid;

use std::{
    fs::File,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use rum_core::fault::{EngineKind, Options, start_with};

pub const PAGE: usize = 4096;
pub const MIB: usize = 1 << 20;

/// How long any condition is waited for: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One test of grids at a time, over all test programs: more pollers than CPUs would make each wait for a scheduler's
/// slice at every page.
pub struct Turn(#[allow(dead_code, reason = "held")] Flock<File>);

impl Turn {
    pub fn wait() -> Self {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/grid.lock");
        let file = File::create(path).expect("cargo made the folder");
        Self(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("a lock"))
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_for(what: &str, longest: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + longest;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether this machine allows an engine; says so if not.
pub fn allows(kind: EngineKind) -> bool {
    let ask = Options { kind: Some(kind), region_bytes: MIB, frames: 1, moves: true };
    match start_with(&ask) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {kind} does not start here: {error}");
            false
        }
    }
}

/// The engines that this machine allows.
pub fn engines() -> Vec<EngineKind> {
    let all = [EngineKind::UffdInline, EngineKind::UffdThread, EngineKind::Sigsegv];
    let engines: Vec<_> = all.into_iter().filter(|&kind| allows(kind)).collect();
    assert!(!engines.is_empty(), "no engine starts here");
    engines
}
