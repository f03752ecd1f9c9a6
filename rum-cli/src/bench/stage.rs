//! What a bench runs on: one slave, and the workers that measure, one at a time.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, ExitCode, Stdio},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};

use crate::{
    folder::PrivateFolder,
    signals::Signals,
    slaves::{self, Place, Slaves, SlavesError},
};

/// What the slave may hold: enough for the largest bench.
const SLAVE_BYTES: u64 = 1 << 30;

/// This thread, for the scheduler.
const THIS: Pid = Pid::from_raw(0);

/// Why a figure could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A slave or a worker could not be run.
    #[error(transparent)]
    Slaves(#[from] SlavesError),
    /// The system refused something.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A worker ended without its figures.
    #[error("the worker {name} failed ({how}); what it said is above")]
    Worker {
        /// Which.
        name: String,
        /// Its status, or what is wrong with what it printed.
        how: String,
    },
    /// This machine does not allow it.
    #[error("not measured: {0}")]
    Impossible(String),
    /// A signal came.
    #[error("interrupted by {0}")]
    Interrupted(Signal),
}

impl BenchError {
    /// As a shell gives it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Interrupted(signal) => ExitCode::from(128 + *signal as u8),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What a worker measured, by name.
pub type Measured = BTreeMap<String, f64>;

/// A value that a worker has to have measured.
pub fn value(measured: &Measured, name: &str) -> Result<f64, BenchError> {
    let missing = || BenchError::Worker { name: name.into(), how: "it did not measure this".into() };
    measured.get(name).copied().ok_or_else(missing)
}

/// The CPU for the slave and everything else that answers, and the one for who measures.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    pub measuring: usize,
    pub answering: usize,
}

impl Cpus {
    fn find() -> io::Result<Self> {
        let allowed = sched_getaffinity(THIS)?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let measuring = cpus.next().unwrap_or(0);
        Ok(Self { measuring, answering: cpus.next_back().unwrap_or(measuring) })
    }
}

/// Pins a process's main thread, and what it starts from now on.
fn pin(pid: Pid, cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(pid, &set)?)
}

/// One slave, and the means to run workers.
pub struct Stage {
    /// How often to repeat.
    pub runs: u32,
    /// Measure shortly: only whether it can be measured matters.
    pub smoke: bool,
    cpus: Cpus,
    slaves: Slaves,
    machines: PathBuf,
    folder: PrivateFolder,
    signals: Signals,
}

impl Stage {
    /// Starts the slave and pins it.
    pub fn set_up(runs: u32, smoke: bool) -> Result<Self, BenchError> {
        let signals = Signals::take_over().map_err(io::Error::from)?;
        let folder = PrivateFolder::new().map_err(SlavesError::Directory)?;
        let cpus = Cpus::find()?;
        let (slaves, machines) = Slaves::start_local((1, 1), SLAVE_BYTES, folder.path(), &signals)?;
        for pid in slaves.pids() {
            pin(pid, cpus.answering)?;
        }
        Ok(Self { runs, smoke, cpus, slaves, machines, folder, signals })
    }

    /// What runs where, for people.
    pub fn describe(&self) -> String {
        let Cpus { measuring, answering } = self.cpus;
        let shared = if measuring == answering { "; they share it: the figures are poor" } else { "" };
        format!(
            "one slave over vhost-user, pinned to CPU {answering}; the measuring process on CPU {measuring}{shared}; \
             median of {} runs",
            self.runs
        )
    }

    /// The slave's process.
    pub fn slave_pid(&self) -> i32 {
        self.slaves.pids().first().map_or(0, |pid| pid.as_raw())
    }

    /// Signals that end the bench.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// A directory for sockets, removed at the end.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn spawn(&self, name: &str, arguments: &[&str], budget_bytes: u64, cpu: usize) -> Result<Child, BenchError> {
        let program = std::env::current_exe()?;
        let mut command = slaves::client_command(program.as_os_str(), &self.machines, budget_bytes, Place::Here)?;
        command.args(["bench", "--worker", name, "--"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // Inherited, so that it holds before the worker starts its first thread.
        let own = sched_getaffinity(THIS).map_err(io::Error::from)?;
        pin(THIS, cpu)?;
        let child = command.spawn();
        sched_setaffinity(THIS, &own).map_err(io::Error::from)?;
        Ok(child?)
    }

    /// Runs a worker on the measuring CPU, with the grid in its environment, and returns what it measured.
    pub fn worker(&mut self, name: &str, arguments: &[&str], budget_bytes: u64) -> Result<Measured, BenchError> {
        let mut child = Ended(self.spawn(name, arguments, budget_bytes, self.cpus.measuring)?);
        let said = match child.0.stdout.take() {
            Some(stdout) => self.read_to_end(stdout)?,
            None => String::new(),
        };
        let status = child.0.wait()?;
        let failed = |how: String| BenchError::Worker { name: name.into(), how };
        if !status.success() {
            return Err(failed(status.to_string()));
        }
        serde_json::from_str(said.trim()).map_err(|error| failed(format!("it printed {said:?}: {error}")))
    }

    /// Starts a worker that answers on the other CPU until it is dropped, and waits for its first line.
    pub fn answerer(&mut self, name: &str, arguments: &[&str]) -> Result<Ended, BenchError> {
        let mut child = Ended(self.spawn(name, arguments, 1 << 20, self.cpus.answering)?);
        let mut line = String::new();
        if let Some(stdout) = &mut child.0.stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() != worker_ready() {
            return Err(BenchError::Worker { name: name.into(), how: format!("it said {line:?}") });
        }
        Ok(child)
    }

    /// All that a worker prints. Returns early on a signal; the worker is killed by whoever owns it.
    fn read_to_end(&mut self, mut stdout: ChildStdout) -> Result<String, BenchError> {
        fcntl(stdout.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        let mut said = Vec::new();
        loop {
            match stdout.read_to_end(&mut said) {
                Ok(_) => return Ok(String::from_utf8_lossy(&said).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            self.signals.wait(Some(stdout.as_fd()), None).map_err(io::Error::from)?;
            while let Some(arrived) = self.signals.next() {
                if arrived.signal != Signal::SIGCHLD {
                    return Err(BenchError::Interrupted(arrived.signal));
                }
            }
            if let Some(line) = self.slaves.newly_ended().pop() {
                return Err(BenchError::Impossible(line));
            }
        }
    }
}

/// What an answering worker prints when it answers.
pub fn worker_ready() -> &'static str {
    "ready"
}

/// A child process that ends with this value.
#[derive(Debug)]
pub struct Ended(Child);

impl Ended {
    /// Its number, which it keeps when it becomes another program.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
