//! A real `rum-slave` process over vhost-user.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rum_net::port::vhost_user::VhostClientPort;

use super::{TestClient, wait_for};

pub fn rum_slave() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rum-slave"))
}

/// Runs `rum-slave` to its end.
pub fn run(arguments: &[&str]) -> Output {
    rum_slave().args(arguments).output().unwrap()
}

/// A running slave; killed when dropped.
pub struct SlaveProcess {
    child: Child,
    stdout: BufReader<ChildStdout>,
    socket: PathBuf,
    /// What it printed when it was ready.
    pub ready_line: String,
}

impl SlaveProcess {
    /// Starts a slave on a socket and waits until it is ready.
    pub fn start(socket: &Path, arguments: &[&str]) -> Self {
        let mut command = rum_slave();
        command.arg("--port").arg(format!("vhost:{}", socket.display())).args(arguments);
        Self::spawn(command, socket)
    }

    /// Starts a slave on a network interface of another network namespace.
    pub fn start_in(namespace: &str, link: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_rum-slave")]);
        command.args(["--port", link, "--insecure"]).args(arguments);
        Self::spawn(command, Path::new(""))
    }

    fn spawn(mut command: Command, socket: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready_line = String::new();
        stdout.read_line(&mut ready_line).unwrap();
        Self { child, stdout, socket: socket.to_owned(), ready_line }
    }

    pub fn connect(&self) -> TestClient {
        TestClient::connect(Box::new(VhostClientPort::connect(&self.socket).unwrap()))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for the end of a slave that was told to; gives the rest of what it printed.
    pub fn wait(mut self) -> (ExitStatus, String) {
        wait_for("the slave's end", || self.child.try_wait().unwrap().is_some());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }

    /// CPU time used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name, which stands in parentheses: state is the first field, utime and stime the 12th and 13th.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // A tick is 1/100 s on every Linux that runs here: `getconf CLK_TCK`.
        Duration::from_millis(ticks * 10)
    }

    pub fn resident_bytes(&self) -> usize {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for SlaveProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
