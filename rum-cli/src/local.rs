//! `rum local`: a private grid on this host for the time of one command.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use nix::sys::signal::{Signal, kill};
use rum_core::config::{MIN_LOCAL_BUDGET_BYTES, parse_bytes};

use crate::{
    folder::PrivateFolder,
    signals::Signals,
    slaves::{self, Place, Slaves, SlavesError},
};

/// Reads a size for clap.
pub fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "expected a size such as 64M or 1.5G".to_owned())
}

fn budget(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| match bytes {
        MIN_LOCAL_BUDGET_BYTES.. => Ok(bytes),
        _ => Err(format!("expected at least {}K", MIN_LOCAL_BUDGET_BYTES >> 10)),
    })
}

fn memory(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| if bytes >= 1 << 20 { Ok(bytes) } else { Err("expected at least 1M".to_owned()) })
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Slaves to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    slaves: u8,
    /// Memory that each slave gives
    #[arg(long, default_value = "512M", value_parser = memory)]
    memory: u64,
    /// How many slaves keep each page: 1, 3 or 5. With 3, any one may die
    #[arg(long, default_value = "1", value_parser = slaves::replication_factor)]
    rf: u8,
    /// Keep all that the slaves have on disk, each in a folder of its own in this one: named objects are there again in the next grid that is
    /// started with it. Needs --rf 3 or 5
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Far memory that may be in the command's own memory at once
    #[arg(long, default_value = "64M", value_parser = budget)]
    budget: u64,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.data_dir.is_some() && arguments.rf == 1 {
        eprintln!("rum local: --data-dir needs replication: say --rf 3, too");
        return ExitCode::from(2);
    }
    match run_in_grid(arguments) {
        Ok(status) => ExitCode::from(exit_code(status)),
        Err(SlavesError::Interrupted(signal)) => ExitCode::from(128 + signal as u8),
        Err(error) => {
            eprintln!("rum local: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As a shell gives it: 128 and the signal's number for a command that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn run_in_grid(arguments: &Arguments) -> Result<ExitStatus, SlavesError> {
    let signals = Signals::take_over().map_err(io::Error::from)?;
    let directory = PrivateFolder::new().map_err(SlavesError::Directory)?;
    let grid = slaves::count_and_factor(arguments.slaves, arguments.rf)?;
    let (mut slaves, machines) =
        Slaves::start_durable(grid, arguments.memory, directory.path(), arguments.data_dir.as_deref(), &signals)?;
    let mut child = slaves::client_command(&arguments.command[0], &machines, arguments.budget, Place::Here)?
        .args(&arguments.command[1..])
        .spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        for line in slaves.newly_ended() {
            eprintln!("rum local: {line}");
        }
        signals.wait(None, None).map_err(io::Error::from)?;
        while let Some(arrived) = signals.next() {
            if arrived.signal != Signal::SIGCHLD && !arrived.from_terminal {
                let _ = kill(slaves::process_id(&child), arrived.signal);
            }
        }
    }
}
