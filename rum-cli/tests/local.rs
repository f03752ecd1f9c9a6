//! `rum local` as a parent of processes: exit codes, signals, and that nothing outlives it. The slave is a stand-in
//! that only becomes ready, so that these tests are about processes alone.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A folder with a stand-in for rum-slave, in which `rum local` also makes its private folder.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(slave: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slave");
        fs::write(&path, format!("#!/bin/sh\n{slave}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        Self { folder }
    }

    fn working() -> Self {
        Self::new(
            "echo $$ >> \"$(dirname \"$0\")/pids\"; echo 'rum-slave: ready, port x, mac 02:00:00:00:00:01, RF 1'; exec sleep 1000",
        )
    }

    fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn rum(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rum"));
        command.args(arguments).env("RUM_SLAVE_BIN", self.folder.path().join("slave")).env("TMPDIR", self.tmp());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.rum(arguments).output().unwrap()
    }

    fn slaves(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn assert_all_gone(&self) {
        for pid in self.slaves() {
            until("a slave has ended", || !is_running(pid));
        }
        let left: Vec<_> = fs::read_dir(self.tmp()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts a command in the grid and returns when it has printed its first line.
fn start(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

#[test]
fn the_command_sees_its_grid_and_gives_its_exit_code() {
    let bench = Bench::working();
    let script =
        "echo \"$RUM_LOCAL_BUDGET\"; cat \"$RUM_MACHINES\"; stat -c %a \"$(dirname \"$RUM_MACHINES\")\"; exit 7";
    let output =
        bench.output(&["local", "--slaves", "2", "--memory", "64M", "--budget", "1.5M", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1572864");
    assert_eq!(lines[1..3], ["# rf=1", "ip,mac,link,name,memory"]);
    assert!(lines[3].starts_with("127.0.0.1,02:52:55:4d:00:01,\"vhost:") && lines[3].ends_with(",slave-0,64M"));
    assert!(lines[4].starts_with("127.0.0.1,02:52:55:4d:00:02,\"vhost:") && lines[4].ends_with(",slave-1,64M"));
    assert_eq!(lines[5..], ["700"]);
    let machines = rum_core::config::parse_machines("m", lines[1..5].join("\n").as_bytes(), None).unwrap();
    assert_eq!(machines.len(), 2);
    assert_eq!(bench.slaves().len(), 2);
    bench.assert_all_gone();
}

#[test]
fn exit_codes_are_a_shells() {
    let bench = Bench::working();
    for (command, code) in
        [(&["true"][..], 0), (&["sh", "-c", "kill -SEGV $$"], 139), (&["/does/not/exist"], 127), (&["/etc"], 126)]
    {
        let output = bench.output(&[&["local", "--slaves", "1", "--"], command].concat());
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output.stderr));
    }
    bench.assert_all_gone();
}

#[test]
fn wrong_command_lines_end_with_2() {
    let bench = Bench::working();
    for arguments in [
        &["local"][..],
        &["local", "--slaves", "0", "--", "true"],
        &["local", "--memory", "lots", "--", "true"],
        &["local", "--budget", "1K", "--", "true"],
        &["nonsense"],
        &["bench", "R999"],
    ] {
        let output = bench.output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    assert!(bench.slaves().is_empty());
}

#[test]
fn a_signal_reaches_the_command() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bench = Bench::working();
        let script = "trap 'echo caught; exit 5' INT TERM; echo started; while :; do sleep 0.01; done";
        let (mut child, line) = start(&mut bench.rum(&["local", "--", "sh", "-c", script]));
        assert_eq!(line, "started");
        kill(pid(&child), signal).unwrap();
        let mut rest = String::new();
        child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest.trim(), "caught", "{signal}: once");
        assert_eq!(child.wait().unwrap().code(), Some(5));
        bench.assert_all_gone();
    }
}

#[test]
fn slaves_outlive_a_signal_to_the_foreground_group() {
    let bench = Bench::working();
    let stop = bench.folder.path().join("stop");
    let script = "trap 'echo caught' INT; echo started; while [ ! -e \"$0\" ]; do sleep 0.01; done";
    let mut command = bench.rum(&["local", "--slaves", "1", "--", "sh", "-c", script, stop.to_str().unwrap()]);
    let (mut child, _) = start(command.process_group(0));
    killpg(pid(&child), Signal::SIGINT).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "caught");
    assert!(bench.slaves().iter().all(|pid| is_running(*pid)));
    fs::write(&stop, "").unwrap();
    child.wait().unwrap();
    bench.assert_all_gone();
}

#[test]
fn nothing_outlives_a_killed_rum() {
    let bench = Bench::working();
    let (mut child, command) = start(&mut bench.rum(&["local", "--", "sh", "-c", "echo $$; exec sleep 1000"]));
    let command: i32 = command.parse().unwrap();
    assert_eq!(bench.slaves().len(), 3);
    assert!(is_running(command));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    for pid in bench.slaves().into_iter().chain([command]) {
        until("all children have ended", || !is_running(pid));
    }
}

#[test]
fn a_slave_that_does_not_start_is_reported() {
    let bench = Bench::new("echo 'no memory left' >&2; exit 3");
    let output = bench.output(&["local", "--", "touch", "ran"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("ended before it was ready (exit status: 3): no memory left"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!Path::new("ran").exists());
    bench.assert_all_gone();
}

#[test]
fn a_slave_that_is_missing_is_reported_with_what_to_do() {
    let bench = Bench::working();
    let output = bench.rum(&["local", "--", "true"]).env("RUM_SLAVE_BIN", "/does/not/exist").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("/does/not/exist") && said.contains("cargo build") && said.contains("RUM_SLAVE_BIN"),
        "{said}"
    );
}

#[test]
fn a_slave_that_ends_meanwhile_is_reported() {
    let bench = Bench::working();
    let mut command = bench.rum(&["local", "--slaves", "2", "--", "sh", "-c", "echo started; read line; exit 4"]);
    let (mut child, _) = start(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
    kill(Pid::from_raw(bench.slaves()[0]), Signal::SIGKILL).unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("rum local: slave ") && line.contains("signal: 9"), "{line}");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    bench.assert_all_gone();
}
