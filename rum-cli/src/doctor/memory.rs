//! Checks on the kernel and its memory management.

use rum_core::fault::{Capability, probe};

use super::{
    Check,
    privilege::{self, has},
    read,
};

pub fn checks() -> Vec<Check> {
    let mut checks = vec![Check::yes("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease"))), processors()];
    checks.extend(probe().into_iter().map(engine));
    checks.push(hugepages(&read("/proc/meminfo")));
    checks.push(locked_memory(&read("/proc/self/limits")));
    checks
}

fn processors() -> Check {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    if count >= 2 {
        Check::yes("processors", format!("{count}: a slave can poll beside a client"))
    } else {
        Check::no("processors", "1: a client and a slave on this host wait for each other", "use two or more CPUs")
    }
}

fn engine(capability: Capability) -> Check {
    match capability.remedy {
        None => Check::yes(capability.name, capability.detail),
        Some(remedy) => Check::no(capability.name, capability.detail, remedy),
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
    if soft == "unlimited" || has(privilege::Capability::IpcLock) {
        return Check::yes(WHAT, "unlimited");
    }
    let found = format!("at most {soft} bytes: enough for all but pci: links");
    Check::no(WHAT, found, "echo '* - memlock unlimited' > /etc/security/limits.d/rum.conf, then log in again")
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn each_no_says_what_would_change_it() {
        let check = hugepages("HugePages_Total: 0\nHugepagesize: 2048 kB");
        assert!(check.verdict == Verdict::No && check.fix.is_some());
        let capability =
            Capability { name: "x", allowed: false, detail: "because".into(), remedy: Some("do it".into()) };
        assert_eq!(engine(capability), Check::no("x", "because", "do it"));
    }

    #[test]
    fn values() {
        assert_eq!(hugepages("HugePages_Total:      64\nHugepagesize:       2048 kB\n").found, "64 of 2048 KiB");
        assert_eq!(meminfo_value("HugePages_Totals: 5\n", "HugePages_Total"), 0);
    }
}
