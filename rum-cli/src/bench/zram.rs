//! A swap device of its own in compressed memory, and a memory cgroup of its own, for the time of a bench.
//!
//! Both are held by a keeper process that takes them down when its standard input closes: also when `rum` is killed.
//! Never a loop device over tmpfs: that deadlocks the machine.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::unistd::geteuid;

use super::{
    stage::{BenchError, Measured},
    worker::{WorkerError, measured},
};
use crate::signals::Signals;

const CONTROL: &str = "/sys/class/zram-control";
/// Before any other swap.
const PRIORITY: &str = "32767";
const TIDY_UP: Duration = Duration::from_secs(5);

/// A swap device and a cgroup that live as long as this value.
pub struct Swap {
    keeper: Child,
    /// The cgroup's directory.
    pub cgroup: String,
}

impl Swap {
    /// Sets up a device for `disk_bytes` and a cgroup that may use `limit_bytes` of memory.
    pub fn set_up(disk_bytes: u64, limit_bytes: u64) -> Result<Self, BenchError> {
        if !geteuid().is_root() {
            return Err(BenchError::Impossible("zram swap and a memory cgroup need root".into()));
        }
        let mut keeper = Command::new(std::env::current_exe()?)
            .args(["bench", "--worker", "zram", "--", &disk_bytes.to_string(), &limit_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Control-C at the terminal is not for it.
            .process_group(0)
            .spawn()?;
        let mut cgroup = String::new();
        if let Some(stdout) = &mut keeper.stdout {
            BufReader::new(stdout).read_line(&mut cgroup)?;
        }
        let swap = Self { keeper, cgroup: cgroup.trim().to_owned() };
        if swap.cgroup.is_empty() {
            return Err(BenchError::Impossible("zram swap could not be set up; why is said above".into()));
        }
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The keeper: sets up, prints the cgroup's directory, waits until its input closes, takes down.
pub fn keeper(disk_bytes: &str, limit_bytes: &str) -> Result<Measured, WorkerError> {
    let _signals = Signals::take_over().map_err(io::Error::from)?;
    let _device = Device::set_up(disk_bytes)?;
    let cgroup = Cgroup::set_up(limit_bytes)?;
    println!("{}", cgroup.0.display());
    let _ = io::stdin().read_to_end(&mut Vec::new());
    Ok(measured([]))
}

/// Runs a program to its end.
fn command(program: &str, arguments: &[&str]) -> Result<(), WorkerError> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| WorkerError::Wrong(format!("cannot run {program}: {error}")))?;
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(WorkerError::Wrong(format!("{program} failed: {}", why.trim()))) }
}

fn write(path: &Path, text: &str) -> Result<(), WorkerError> {
    fs::write(path, text).map_err(|error| WorkerError::Wrong(format!("cannot write {}: {error}", path.display())))
}

struct Device {
    number: String,
    swaps: bool,
}

impl Device {
    fn set_up(disk_bytes: &str) -> Result<Self, WorkerError> {
        if !Path::new(CONTROL).exists() {
            // Where it is not built into the kernel.
            let _ = command("modprobe", &["zram"]);
        }
        let number = fs::read_to_string(format!("{CONTROL}/hot_add"))
            .map_err(|error| WorkerError::Wrong(format!("this kernel gives no zram device: {error}")))?;
        let mut device = Self { number: number.trim().to_owned(), swaps: false };
        write(&device.setting("disksize"), disk_bytes)?;
        command("mkswap", &[&device.path()])?;
        command("swapon", &["--priority", PRIORITY, &device.path()])?;
        device.swaps = true;
        Ok(device)
    }

    fn path(&self) -> String {
        format!("/dev/zram{}", self.number)
    }

    fn setting(&self, name: &str) -> PathBuf {
        format!("/sys/block/zram{}/{name}", self.number).into()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let deadline = Instant::now() + TIDY_UP;
        while self.swaps {
            match command("swapoff", &[&self.path()]) {
                Ok(()) => self.swaps = false,
                Err(error) if Instant::now() > deadline => {
                    eprintln!("rum bench: {error}; run `swapoff {}`", self.path());
                    return;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let reset = write(&self.setting("reset"), "1");
        if let Err(error) = reset.and_then(|()| write(&Path::new(CONTROL).join("hot_remove"), &self.number)) {
            eprintln!("rum bench: {error}");
        }
    }
}

struct Cgroup(PathBuf);

impl Cgroup {
    fn set_up(limit_bytes: &str) -> Result<Self, WorkerError> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let (root, limit) =
            memory_hierarchy(&mounts, |root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default())
                .ok_or_else(|| WorkerError::Wrong("no memory cgroups are mounted".into()))?;
        if limit == "memory.max" {
            write(&root.join("cgroup.subtree_control"), "+memory")?;
        }
        let cgroup = Self(root.join(format!("rum-bench-{}", std::process::id())));
        fs::create_dir(&cgroup.0)
            .map_err(|error| WorkerError::Wrong(format!("cannot make {}: {error}", cgroup.0.display())))?;
        write(&cgroup.0.join(limit), limit_bytes)?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + TIDY_UP;
        while let Err(error) = fs::remove_dir(&self.0) {
            if error.kind() == io::ErrorKind::NotFound {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("rum bench: cannot remove {}: {error}", self.0.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where memory cgroups are made, of version 1 or 2, and the file that limits one.
fn memory_hierarchy(mounts: &str, controllers: impl Fn(&Path) -> String) -> Option<(PathBuf, &'static str)> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let path = PathBuf::from(path);
        match kind {
            "cgroup" if options.split(',').any(|option| option == "memory") => Some((path, "memory.limit_in_bytes")),
            "cgroup2" if controllers(&path).split_whitespace().any(|name| name == "memory") => {
                Some((path, "memory.max"))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_version_of_memory_cgroups_is_found() {
        let first = "cgroup /cg/cpu cgroup rw,cpu 0 0\ncgroup /cg/memory cgroup rw,relatime,memory 0 0\ncgroup2 /cg/u cgroup2 rw 0 0\n";
        assert_eq!(memory_hierarchy(first, |_| "".into()), Some(("/cg/memory".into(), "memory.limit_in_bytes")));
        let second = "proc /proc proc rw 0 0\ncgroup2 /cg cgroup2 rw,nosuid 0 0\n";
        assert_eq!(memory_hierarchy(second, |_| "cpu memory\n".into()), Some(("/cg".into(), "memory.max")));
        assert_eq!(memory_hierarchy(second, |_| "cpu\n".into()), None);
    }
}
