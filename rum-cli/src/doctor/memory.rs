//! Checks on the kernel and its memory management.

use std::fs::File;

use super::{
    Check,
    privilege::{Capability, has},
    read,
};

/// UFFDIO_MOVE came with this version.
const MOVE_SINCE: (u32, u32) = (6, 8);
/// Batched MADV_DONTNEED and write-protect faults, which older ways of eviction need.
const OLDEST: (u32, u32) = (5, 7);
/// Where the sigsegv engine stops to be a choice for large regions.
const MAPPINGS_WANTED: u64 = 1 << 20;

pub fn checks() -> Vec<Check> {
    let meminfo = read("/proc/meminfo");
    vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        processors(),
        userfaultfd(),
        mappings(&read("/proc/sys/vm/max_map_count")),
        hugepages(&meminfo),
        locked_memory(&read("/proc/self/limits")),
    ]
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version >= MOVE_SINCE {
        Check::yes("kernel", format!("{found}: pages can be moved (UFFDIO_MOVE)"))
    } else if version >= OLDEST {
        Check::no("kernel", format!("{found}: no UFFDIO_MOVE, eviction is slower"), "boot Linux 6.8 or newer")
    } else {
        Check::never("kernel", format!("{found} is too old"), "boot Linux 6.8 or newer")
    }
}

fn processors() -> Check {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    if count >= 2 {
        Check::yes("processors", format!("{count}: slaves can poll beside a client"))
    } else {
        Check::no("processors", "1: a client and a slave on this host wait for each other", "use two or more CPUs")
    }
}

fn userfaultfd() -> Check {
    const WHAT: &str = "userfaultfd";
    const FIX: &str = "sysctl -w vm.unprivileged_userfaultfd=1 (or: setfacl -m u:$USER:rw /dev/userfaultfd)";
    let unprivileged = read("/proc/sys/vm/unprivileged_userfaultfd") == "1";
    let device = File::options().read(true).write(true).open("/dev/userfaultfd").is_ok();
    let why = if has(Capability::SysPtrace) {
        Some("this process has CAP_SYS_PTRACE")
    } else if unprivileged {
        Some("vm.unprivileged_userfaultfd is 1")
    } else if device {
        Some("/dev/userfaultfd may be opened")
    } else {
        None
    };
    match why {
        Some(why) => Check::yes(WHAT, format!("full ({why}): system calls work on far buffers")),
        None => Check::no(WHAT, "user mode only: system calls on far buffers need librum's wrappers", FIX),
    }
}

fn mappings(max_map_count: &str) -> Check {
    const WHAT: &str = "mappings";
    let count: u64 = max_map_count.parse().unwrap_or(0);
    let found = format!("vm.max_map_count is {count}");
    if count >= MAPPINGS_WANTED {
        Check::yes(WHAT, format!("{found}: enough for the engine sigsegv"))
    } else {
        let found = format!("{found}: limits the engine sigsegv alone, which needs two for each scattered page");
        Check::no(WHAT, found, format!("sysctl -w vm.max_map_count={MAPPINGS_WANTED}"))
    }
}

fn meminfo_value(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn hugepages(meminfo: &str) -> Check {
    const WHAT: &str = "hugepages";
    let total = meminfo_value(meminfo, "HugePages_Total");
    let kib = meminfo_value(meminfo, "Hugepagesize");
    if total > 0 {
        Check::yes(WHAT, format!("{total} of {kib} KiB"))
    } else {
        let found = "none: needed by pci: links alone";
        Check::no(WHAT, found, "sysctl -w vm.nr_hugepages=64")
    }
}

fn locked_memory(limits: &str) -> Check {
    const WHAT: &str = "locked memory";
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("unknown");
    if soft == "unlimited" || has(Capability::IpcLock) {
        return Check::yes(WHAT, "unlimited");
    }
    let found = format!("at most {soft} bytes: enough for all but pci: links");
    Check::no(WHAT, found, "echo '* - memlock unlimited' > /etc/security/limits.d/rum.conf, then log in again")
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn kernels() {
        assert_eq!(kernel("6.18.0-rc1").verdict, Verdict::Yes);
        assert_eq!(kernel("6.8.0").verdict, Verdict::Yes);
        assert_eq!(kernel("6.1.0-18-amd64").verdict, Verdict::No);
        assert_eq!(kernel("4.19.0").verdict, Verdict::Never);
        assert_eq!(kernel("").verdict, Verdict::Never);
    }

    #[test]
    fn each_no_says_what_would_change_it() {
        let nos = [
            mappings("65530"),
            hugepages("HugePages_Total: 0\nHugepagesize: 2048 kB"),
            kernel("5.10.0"),
            kernel("4.4.0"),
        ];
        for check in nos {
            assert_ne!(check.verdict, Verdict::Yes);
            assert!(check.fix.is_some_and(|fix| !fix.is_empty()), "{}", check.what);
        }
    }

    #[test]
    fn values() {
        assert_eq!(mappings("1048576").verdict, Verdict::Yes);
        assert_eq!(hugepages("HugePages_Total:      64\nHugepagesize:       2048 kB\n").found, "64 of 2048 KiB");
        assert_eq!(meminfo_value("HugePages_Totals: 5\n", "HugePages_Total"), 0);
    }
}
