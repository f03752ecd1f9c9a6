//! `rum doctor`: what this machine allows, and for each 'no' the command that would allow it.

mod memory;
mod network;
mod privilege;

use std::{fs, process::ExitCode};

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is there.
    Yes,
    /// It is not there. RUM works without, but something is slower or not possible.
    No,
}

/// What was found out about one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// The command, to be run as root, that would turn a no into a yes; or what to do.
    fix: Option<String>,
}

impl Check {
    fn yes(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Yes, found: found.into(), fix: None }
    }

    fn no(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::No, found: found.into(), fix: Some(fix.into()) }
    }
}

pub fn run() -> ExitCode {
    let mut checks = memory::checks();
    checks.extend(network::checks());
    for check in &checks {
        let verdict = if check.verdict == Verdict::Yes { "yes" } else { "no " };
        println!("{verdict}  {:<26} {}", check.what, check.found);
        if let Some(fix) = &check.fix {
            println!("     {:<26} → {fix}", "");
        }
    }
    println!();
    println!("RUM runs here: try `rum demo`. What stands behind an arrow is optional, and most of it needs root.");
    ExitCode::SUCCESS
}

/// The text of a file of /proc or /sys without the space around it; empty if there is none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
