//! A real grid for C and C++ programs: slaves in this process, the programs compiled here and run as processes.
#![allow(dead_code)] // Each test file uses its part.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rum_core::fault::probe;
use rum_slave::{Options, Slave, SlaveHandle};

/// The engines of `RUM_FAULT_ENGINE` that this machine and user may have.
pub fn engines() -> Vec<&'static str> {
    let refused: Vec<_> = probe().into_iter().filter(|it| !it.allowed).map(|it| it.name).collect();
    ["uffd-thread", "uffd-inline", "sigsegv"].into_iter().filter(|engine| !refused.contains(engine)).collect()
}

const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// Slaves, their sockets and their machines.csv; all gone when dropped.
pub struct Grid {
    pub directory: tempfile::TempDir,
    slaves: Vec<SlaveHandle>,
}

impl Grid {
    /// Starts `slaves` slaves with `mebibytes` each, as 127.0.0.1 with the hardware addresses 02:00:00:00:00:01 and up.
    pub fn start(slaves: usize, mebibytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut machines = String::new();
        let slaves = (0..slaves)
            .map(|number| {
                let link = format!("vhost:{}", directory.path().join(format!("{number}.sock")).display());
                machines += &format!("127.0.0.1,02:00:00:00:00:{:02x},{link}\n", number + 1);
                let port = rum_slave::port::open(&link.parse().unwrap(), false).unwrap();
                Slave::start(vec![port], Options::new(mebibytes << 20)).unwrap()
            })
            .collect();
        fs::write(directory.path().join("machines.csv"), machines).unwrap();
        Self { directory, slaves }
    }

    /// Its machines.csv.
    pub fn machines(&self) -> PathBuf {
        self.directory.path().join("machines.csv")
    }

    /// A new folder in its directory.
    pub fn subdirectory(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A command that runs `program` in this grid's directory with a local budget.
    pub fn command(&self, program: &Path, budget: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env("RUM_MACHINES", self.machines())
            .env("RUM_LOCAL_BUDGET", budget)
            // Cargo's would find the library of another build first.
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("RUM_FAULT_ENGINE");
        command
    }
}

/// Where cargo puts librum.so for tests: beside them.
pub fn library_directory() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// This crate's folder.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles `source` (a path in this crate) with `-lrum` alone, warnings as errors, into `into`.
pub fn compile(source: &str, into: &Path, flags: &[&str]) -> PathBuf {
    let source = here().join(source);
    let program = into.join(source.file_stem().unwrap());
    let is_cpp = source.extension().is_some_and(|extension| extension == "cpp");
    let library = library_directory();
    let mut command = Command::new(if is_cpp { "c++" } else { "cc" });
    command
        .args(["-Wall", "-Wextra", "-Werror", "-O2", "-pthread", "-I"])
        .arg(here().join("include"))
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .arg("-L")
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .arg("-lrum");
    let output = command.output().unwrap_or_else(|error| panic!("cannot run the compiler: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// What a program did.
pub struct Ran {
    pub output: Output,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics unless the program ended with code 0 and printed nothing but `stdout`.
    pub fn expect(&self, stdout: &str) {
        assert!(self.output.status.success() && self.stdout == stdout, "{self}");
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nstdout: {}\nstderr: {}", self.output.status, self.stdout, self.stderr)
    }
}

/// Reads all of a pipe beside the rest.
fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Runs a command to its end; kills it and panics when it takes too long.
pub fn run(command: &mut Command) -> Ran {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let deadline = Instant::now() + RUN_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let stderr = err.join().unwrap();
            panic!("{command:?} did not end in {RUN_TIMEOUT:?}; stderr: {}", String::from_utf8_lossy(&stderr));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { stdout: text(&stdout), stderr: text(&stderr), output: Output { status, stdout, stderr } }
}
