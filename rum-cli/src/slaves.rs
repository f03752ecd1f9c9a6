//! Slaves as child processes: started together, waited for, written into a machines.csv, ended together.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::{keygen::KeygenError, signals::Signals, tied};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// On whose machine a process of the grid runs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// This one. Who may use a slave's socket is told by the permissions of its folder.
    Here,
    /// A host of its own on an Ethernet, where all sessions are sealed by this key file.
    OwnHost {
        /// Slaves' and clients': the client's is `CLIENT_KEY`.
        keys: &'a Path,
    },
}

impl Place<'_> {
    fn is_own_host(&self) -> bool {
        matches!(self, Self::OwnHost { .. })
    }
}

/// The name of the client's key on an Ethernet.
pub const CLIENT_KEY: &str = "demo";
/// So long may a slave take until it is ready: opening a DPDK port takes a fraction of a second.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How the first clause of the line ends that a slave prints when it serves.
const READY: &str = "ready";
/// And that of the line that says that it has again what the grid has.
const RECOVERED: &str = "has what its grid has";
/// So long may a slave take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Why slaves did not start.
#[derive(Debug, thiserror::Error)]
pub enum SlavesError {
    /// A private directory could not be made.
    #[error("cannot make a private directory for the sockets: {0}; set TMPDIR to a folder with a short path")]
    Directory(io::Error),
    /// A program that belongs to RUM is not there.
    #[error("there is no {}; build it with `cargo build --release --workspace`, or set {variable} to its path", path.display())]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
        /// What may name another place.
        variable: &'static str,
    },
    /// A process could not be started or watched.
    #[error("cannot run a slave: {0}")]
    Process(#[from] io::Error),
    /// A slave ended before it was ready.
    #[error("slave {number} ended before it was ready ({status}): {said}")]
    Ended {
        /// From 0.
        number: usize,
        /// How.
        status: ExitStatus,
        /// The end of what it printed.
        said: String,
    },
    /// A slave did not become ready.
    #[error("slave {number} was not ready after {READY_TIMEOUT:?}: {said}")]
    Late {
        /// From 0.
        number: usize,
        /// The end of what it printed.
        said: String,
    },
    /// Fewer slaves than are to keep each page.
    #[error("{slaves} slaves cannot keep each page {factor} times: expected --slaves {factor} or more")]
    TooFew {
        /// Those there are to be.
        slaves: u8,
        /// Those that are to keep each page.
        factor: u8,
    },
    /// Keys could not be made.
    #[error("cannot make keys: {0}")]
    Keys(#[from] KeygenError),
    /// The network for the slaves could not be set up.
    #[error("cannot set up the network: {0}")]
    Network(String),
    /// A signal came while the slaves started.
    #[error("interrupted by {0}")]
    Interrupted(Signal),
}

/// A program of RUM: named by an environment variable, or beside this one.
pub fn program(name: &str, variable: &'static str) -> Result<PathBuf, SlavesError> {
    let path = match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(path) => path.into(),
        None => std::env::current_exe()?.with_file_name(name),
    };
    if path.is_file() { Ok(path) } else { Err(SlavesError::NoProgram { path, variable }) }
}

/// The hardware address of a slave on a socket, in machines.csv.
fn local_mac(number: usize) -> String {
    format!("02:52:55:4d:00:{:02x}", number + 1)
}

/// How many slaves are to keep each page, for clap.
pub fn replication_factor(text: &str) -> Result<u8, String> {
    let factors = rum_net::machines::REPLICATION_FACTORS;
    let factor = text.parse().ok().filter(|&factor: &u8| factors.contains(&usize::from(factor)));
    factor.ok_or_else(|| "expected 1, 3 or 5".to_owned())
}

/// The slaves of a grid, and how many of them keep each page.
pub fn count_and_factor(slaves: u8, factor: u8) -> Result<(usize, usize), SlavesError> {
    if factor > slaves { Err(SlavesError::TooFew { slaves, factor }) } else { Ok((slaves.into(), factor.into())) }
}

/// A size as rum-slave takes it.
pub fn size_argument(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}M", bytes >> 20) } else { bytes.to_string() }
}

/// What a slave that replicates is told besides.
#[derive(Clone, Debug)]
pub struct Replication<'a> {
    /// The machines.csv of its grid.
    pub machines: &'a Path,
    /// Where it keeps all on disk, if it is to.
    pub data_dir: Option<PathBuf>,
}

/// A slave process.
#[derive(Debug)]
pub struct Slave {
    number: usize,
    child: Child,
    stdout: ChildStdout,
    said: Vec<u8>,
    log: PathBuf,
    ended: bool,
}

impl Slave {
    /// Starts `rum-slave` on the port `link`. What it prints to stderr goes to a file in `directory`.
    pub fn spawn(
        number: usize,
        directory: &Path,
        link: &str,
        memory: &str,
        replication: Option<Replication<'_>>,
        place: Place<'_>,
    ) -> Result<Self, SlavesError> {
        let binary = program("rum-slave", "RUM_SLAVE_BIN")?;
        let log = directory.join(format!("slave-{number}.log"));
        let mut command = tied::command(binary.as_os_str(), place.is_own_host())?;
        if let Place::OwnHost { keys } = place {
            command.arg("--keys").arg(keys);
        }
        if let Some(Replication { machines, data_dir }) = replication {
            command.arg("--machines").arg(machines);
            if let Some(path) = data_dir {
                command.arg("--data-dir").arg(path);
            }
        }
        let mut child = command
            .args(["--port", link, "--memory", memory, "--name", &format!("slave-{number}")])
            .stdin(if place.is_own_host() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?)
            // Control-C at the terminal is for the program in the grid: its slaves outlive it.
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        fcntl(stdout.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        Ok(Self { number, child, stdout, said: Vec::new(), log, ended: false })
    }

    /// The process's number, which it keeps when it becomes `rum-slave`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipe that a process on its own host waits at.
    pub fn go(&mut self) -> io::Result<()> {
        use std::io::Write;
        self.child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(b"\n"))
    }

    /// Waits until the process has printed a line whose first clause ends with `word`, and returns that line.
    pub fn wait_for(&mut self, word: &str, signals: &Signals) -> Result<String, SlavesError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(line) = self.line_with(word)? {
                return Ok(line);
            }
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Err(SlavesError::Ended { number: self.number, status, said: self.last_words() });
            }
            if Instant::now() >= deadline {
                return Err(SlavesError::Late { number: self.number, said: self.last_words() });
            }
            signals.wait(Some(self.stdout.as_fd()), Some(deadline)).map_err(io::Error::from)?;
            while let Some(arrived) = signals.next() {
                if arrived.signal != Signal::SIGCHLD {
                    return Err(SlavesError::Interrupted(arrived.signal));
                }
            }
        }
    }

    fn line_with(&mut self, word: &str) -> io::Result<Option<String>> {
        let mut buffer = [0u8; 1024];
        loop {
            match self.stdout.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.said.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let whole_lines = self.said.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(&self.said[..whole_lines]);
        let line = text.lines().find(|line| line.split(',').next().is_some_and(|clause| clause.ends_with(word)));
        Ok(line.map(str::to_owned))
    }

    /// The end of what the slave has printed to stderr, as one line.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match &lines[lines.len().saturating_sub(3)..] {
            [] => "it said nothing".to_owned(),
            last => last.join(" | "),
        }
    }

    /// As `kill -9`.
    fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.ended = true;
        Ok(())
    }

    fn newly_ended(&mut self) -> Option<ExitStatus> {
        let status = if self.ended { None } else { self.child.try_wait().ok().flatten() };
        self.ended |= status.is_some();
        status
    }
}

/// Slaves that live as long as this value.
#[derive(Debug)]
pub struct Slaves {
    slaves: Vec<Slave>,
}

impl Slaves {
    /// None yet. Those added later end with this value, also when a later one does not start.
    pub fn new() -> Self {
        Self { slaves: Vec::new() }
    }

    /// Takes a slave in.
    pub fn add(&mut self, slave: Slave) -> &mut Slave {
        self.slaves.push(slave);
        let last = self.slaves.len() - 1;
        &mut self.slaves[last]
    }

    /// Starts `count` slaves of `memory_bytes` each on vhost-user sockets in `directory`, and writes machines.csv there. `factor` of them
    /// keep each page.
    pub fn start_local(
        (count, factor): (usize, usize),
        memory_bytes: u64,
        directory: &Path,
        signals: &Signals,
    ) -> Result<(Self, PathBuf), SlavesError> {
        Self::start_durable((count, factor), memory_bytes, directory, None, signals)
    }

    /// As `start_local`; each slave keeps all it has in a folder of its own in `data_dir`.
    pub fn start_durable(
        (count, factor): (usize, usize),
        memory_bytes: u64,
        directory: &Path,
        data_dir: Option<&Path>,
        signals: &Signals,
    ) -> Result<(Self, PathBuf), SlavesError> {
        let mut slaves = Self::new();
        let memory = size_argument(memory_bytes);
        let links: Vec<String> =
            (0..count).map(|number| format!("vhost:{}", directory.join(format!("slave-{number}")).display())).collect();
        // Slaves on sockets are told apart by these: what hardware addresses they draw matters to nobody.
        let line = |(number, link): (usize, &String)| {
            format!("127.0.0.1,{},\"{link}\",slave-{number},{memory}\n", local_mac(number))
        };
        let lines: String = links.iter().enumerate().map(line).collect();
        let path = directory.join("machines.csv");
        fs::write(&path, format!("# rf={factor}\nip,mac,link,name,memory\n{lines}")).map_err(SlavesError::Directory)?;
        for (number, link) in links.iter().enumerate() {
            let data_dir = data_dir.map(|path| path.join(format!("slave-{number}")));
            let replication = (factor > 1).then_some(Replication { machines: &path, data_dir });
            slaves.add(Slave::spawn(number, directory, link, &memory, replication, Place::Here)?);
        }
        slaves.wait_until_ready(signals)?;
        if factor > 1 {
            // Until all have a vote, none may go.
            slaves.slaves.iter_mut().try_for_each(|slave| slave.wait_for(RECOVERED, signals).map(drop))?;
        }
        Ok((slaves, path))
    }

    /// Kills a slave, as `kill -9`.
    pub fn kill(&mut self, number: usize) -> Result<(), SlavesError> {
        Ok(self.slaves[number].kill()?)
    }

    /// Starts a slave again that was killed, on its socket.
    pub fn restart(&mut self, number: usize, memory_bytes: u64, machines: &Path) -> Result<(), SlavesError> {
        let directory = machines.parent().unwrap_or(machines);
        let link = format!("vhost:{}", directory.join(format!("slave-{number}")).display());
        let memory = size_argument(memory_bytes);
        let replication = Some(Replication { machines, data_dir: None });
        self.slaves[number] = Slave::spawn(number, directory, &link, &memory, replication, Place::Here)?;
        Ok(())
    }

    /// Waits until a slave that was started again has what the grid has, and returns what it says of it.
    pub fn wait_until_recovered(&mut self, number: usize, signals: &Signals) -> Result<String, SlavesError> {
        let line = self.slaves[number].wait_for(RECOVERED, signals)?;
        Ok(line.split_once(", ").map_or(line.clone(), |(_, what)| what.to_owned()))
    }

    /// The processes' numbers, which they keep when they become `rum-slave`.
    pub fn pids(&self) -> Vec<Pid> {
        self.slaves.iter().map(|slave| process_id(&slave.child)).collect()
    }

    /// Waits until each has said that it is ready.
    pub fn wait_until_ready(&mut self, signals: &Signals) -> Result<(), SlavesError> {
        self.slaves.iter_mut().try_for_each(|slave| slave.wait_for(READY, signals).map(drop))
    }

    /// One line about each slave that has ended since the last call: none should.
    pub fn newly_ended(&mut self) -> Vec<String> {
        let lines = self.slaves.iter_mut().filter_map(|slave| {
            let status = slave.newly_ended()?;
            Some(format!("slave {} has ended ({status}): {}", slave.number, slave.last_words()))
        });
        lines.collect()
    }
}

impl Drop for Slaves {
    fn drop(&mut self) {
        for slave in self.slaves.iter().filter(|slave| !slave.ended) {
            let _ = kill(process_id(&slave.child), Signal::SIGTERM);
        }
        let deadline = Instant::now() + END_TIMEOUT;
        for slave in self.slaves.iter_mut().filter(|slave| !slave.ended) {
            while matches!(slave.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = slave.child.kill();
            let _ = slave.child.wait();
        }
    }
}

/// A child's number as nix takes it.
pub fn process_id(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The command that runs a client `program` tied to this process, with its grid in the environment.
pub fn client_command(
    program: &OsStr,
    machines: &Path,
    budget_bytes: u64,
    place: Place<'_>,
) -> io::Result<std::process::Command> {
    let mut command = tied::command(program, place.is_own_host())?;
    command.env("RUM_MACHINES", machines).env("RUM_LOCAL_BUDGET", budget_bytes.to_string());
    // A key of the user's own is for another grid.
    command.env_remove("RUM_KEY").env_remove("RUM_KEY_NAME");
    if let Place::OwnHost { keys } = place {
        command.env("RUM_KEY", keys).env("RUM_KEY_NAME", CLIENT_KEY);
    }
    Ok(command)
}
