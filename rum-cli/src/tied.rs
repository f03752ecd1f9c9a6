//! `rum tied`: the first moments of a child process, before it becomes the program that it shall run.
//!
//! It asks the kernel to end it with its parent, so that nothing outlives even a killed `rum`. With `--own-host` it
//! also leaves for a network namespace of its own, says so, and waits until its parent has put an interface there;
//! the namespace goes with the process, so there is nothing to tidy up.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid},
};

use crate::signals;

/// What a child on a host of its own prints when it is there.
pub const ARRIVED: &str = "arrived";

/// The interface that its parent gives it.
pub const INTERFACE: &str = "eth0";

#[derive(clap::Args)]
pub struct Arguments {
    /// The process to be tied to: it may have ended already
    #[arg(long)]
    parent: i32,
    /// Leave for a network namespace of its own, and wait for a line on stdin
    #[arg(long)]
    own_host: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    program: Vec<OsString>,
}

/// The command line that runs `program` tied to this process. Call `spawn` on the main thread: the kernel watches the
/// thread that started a child, not the process.
pub fn command(program: &std::ffi::OsStr, own_host: bool) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("tied").arg("--parent").arg(std::process::id().to_string());
    if own_host {
        command.arg("--own-host");
    }
    command.arg("--").arg(program);
    Ok(command)
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let program = &arguments.program[0];
    if let Err(error) = prepare(arguments) {
        eprintln!("rum: cannot prepare to run {}: {error}", program.display());
        return ExitCode::FAILURE;
    }
    let error = Command::new(program).args(&arguments.program[1..]).exec();
    eprintln!("rum: cannot run {}: {error}", program.display());
    // As a shell does.
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

fn prepare(arguments: &Arguments) -> io::Result<()> {
    signals::unblock()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != Pid::from_raw(arguments.parent) {
        return Err(io::Error::other("the process that asked for it has ended"));
    }
    if arguments.own_host { leave_for_own_host() } else { Ok(()) }
}

fn leave_for_own_host() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // /sys shows the interfaces of the namespace it was mounted in.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    mount(Some("rum"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
    println!("{ARRIVED}");
    io::stdout().flush()?;
    let mut line = [0u8; 1];
    io::stdin().read_exact(&mut line).map_err(|_| io::Error::other("the process that asked for it has given up"))?;
    let output = Command::new("ip").args(["link", "set", "dev", INTERFACE, "up"]).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
