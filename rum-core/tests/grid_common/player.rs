//! The test program again, as a process that plays a part: a slave or a client that may be stopped or killed.
//!
//! A part says things by lines that start with `::`, and is told things by lines on its standard input.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::DEADLINE;

const ROLE: &str = "RUM_GRID_ROLE";
const ARGUMENT: &str = "RUM_GRID_ARGUMENT_";

/// A process that plays a part; killed when dropped.
pub struct Player {
    child: Child,
    role: String,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    unread: VecDeque<String>,
    stderr: Arc<Mutex<String>>,
}

/// How a process ended, and what it wrote to stderr.
pub struct End {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Player {
    pub fn start(role: &str, arguments: &[(&str, String)]) -> Self {
        Self::spawn(Command::new(env::current_exe().expect("own path")), role, arguments)
    }

    /// In another network namespace.
    pub fn start_in(namespace: &str, role: &str, arguments: &[(&str, String)]) -> Self {
        Self::start_in_with(namespace, role, arguments, &[])
    }

    /// With more in its environment.
    pub fn start_in_with(
        namespace: &str,
        role: &str,
        arguments: &[(&str, String)],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(env::current_exe().expect("own path"));
        command.envs(environment.iter().copied());
        Self::spawn(command, role, arguments)
    }

    fn spawn(mut command: Command, role: &str, arguments: &[(&str, String)]) -> Self {
        command.args(["--exact", "play", "--nocapture", "--test-threads=1"]).env(ROLE, role);
        for (name, value) in arguments {
            command.env(format!("{ARGUMENT}{name}"), value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (stdout, mut errors) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix("::")
                    && send.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let collected = stderr.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = errors.read(&mut bytes) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        let stdin = child.stdin.take();
        Self { child, role: role.to_owned(), stdin, lines, unread: VecDeque::new(), stderr }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child");
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits for the line that starts with `word`, and gives the rest of it.
    #[track_caller]
    pub fn hear(&mut self, word: &str) -> String {
        self.hear_within(word, DEADLINE)
    }

    #[track_caller]
    pub fn hear_within(&mut self, word: &str, longest: Duration) -> String {
        let deadline = Instant::now() + longest;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} did not say {word:?} in {longest:?}:\n{}", self.role, self.stderr())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait();
                    thread::sleep(Duration::from_millis(20));
                    panic!("{} ended ({status:?}) before it said {word:?}:\n{}", self.role, self.stderr())
                }
            };
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            println!("{line}");
        }
    }

    /// Sends it a line.
    pub fn tell(&mut self, line: &str) {
        let written = writeln!(self.stdin.as_mut().expect("open"), "{line}");
        written.unwrap_or_else(|error| panic!("{} does not read: {error}:\n{}", self.role, self.stderr()));
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self, longest: Duration) -> End {
        let deadline = Instant::now() + longest;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} does not end in {longest:?}:\n{}", self.role, self.stderr());
            thread::sleep(Duration::from_millis(2));
        };
        // Its pipe ends with it: what it said is all here.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            println!("{line}");
        }
        super::wait_for("the end of stderr", DEADLINE, || Arc::strong_count(&self.stderr) == 1);
        End { status, stderr: self.stderr() }
    }

    /// Waits for its end, which must be a good one.
    #[track_caller]
    pub fn succeed(self, longest: Duration) -> End {
        let role = self.role.clone();
        let end = self.end(longest);
        assert!(end.status.success(), "{role}: {}:\n{}", end.status, end.stderr);
        end
    }

    /// Waits for its end, which must be an abort with a message that holds `words`.
    #[track_caller]
    pub fn aborted(self, words: &str, longest: Duration) {
        let role = self.role.clone();
        let end = self.end(longest);
        let signal = end.status.signal();
        assert_eq!(signal, Some(Signal::SIGABRT as i32), "{role}: {}:\n{}", end.status, end.stderr);
        assert!(end.stderr.contains(words), "{role} said nothing of {words:?}:\n{}", end.stderr);
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The part that this process plays, if any.
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// What this process was started with.
pub fn argument(name: &str) -> String {
    env::var(format!("{ARGUMENT}{name}")).unwrap_or_else(|_| panic!("no argument {name}"))
}

/// As `argument`; none that is empty.
pub fn option(name: &str) -> Option<String> {
    env::var(format!("{ARGUMENT}{name}")).ok().filter(|value| !value.is_empty())
}

/// A number that this process was started with.
pub fn number(name: &str) -> u64 {
    argument(name).parse().expect("a number")
}

/// Says something to the test.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // The test harness may have left an unfinished line.
    writeln!(stdout, "\n::{line}").and_then(|()| stdout.flush()).expect("the test reads");
}

/// Waits for a line of the test's.
pub fn told() -> String {
    let mut line = String::new();
    let len = std::io::stdin().lock().read_line(&mut line).expect("text");
    assert!(len > 0, "the test has gone");
    line.trim().to_owned()
}
