//! What this machine allows, for `rum doctor`.

use std::fs;

use super::{
    engine::{ALLOW_FULL, ALLOW_USER_MODE},
    sigsegv::max_map_count,
    uffd::{self, Access},
};

/// Mappings that the sigsegv engine wants: 1 GiB of scattered pages.
const ENOUGH_MAPS: usize = 2 * (1 << 18) + 4_096;

/// Something that the fault engines need or profit from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capability {
    /// What it is.
    pub name: &'static str,
    /// Whether this process has it.
    pub allowed: bool,
    /// What it is good for; or why it is not there.
    pub detail: String,
    /// The command that would fix it, when it is not there.
    pub remedy: Option<String>,
}

impl Capability {
    fn new(name: &'static str, good_for: &str, refused: Option<String>, remedy: &str) -> Self {
        let allowed = refused.is_none();
        let detail = refused.unwrap_or_else(|| good_for.into());
        Self { name, allowed, detail, remedy: (!allowed).then(|| remedy.into()) }
    }
}

/// Looks at each, in the order of preference. Opens descriptors and closes them again; changes nothing.
pub fn probe() -> Vec<Capability> {
    let full = uffd::allowed(Access::Full).err().map(|error| error.to_string());
    let user = uffd::allowed(Access::UserMode).err().map(|error| error.to_string());
    let features = uffd::features();
    let lacks = |feature: u64, since: &str| match &features {
        Ok(features) if features & feature != 0 => None,
        Ok(_) => Some(format!("this kernel has it not: {} ({since} or newer has)", kernel())),
        Err(error) => Some(error.to_string()),
    };
    let newer = "install a newer kernel; until then pages are copied, which is slower";
    let maps = max_map_count();
    let few = (maps < ENOUGH_MAPS).then(|| {
        format!("vm.max_map_count is {maps}: about {} scattered pages can be resident", maps.saturating_sub(3_000) / 2)
    });
    vec![
        Capability::new(
            "uffd-thread",
            "userfaultfd for all faults: system calls on far buffers work",
            full,
            ALLOW_FULL,
        ),
        Capability::new(
            "uffd-inline",
            "userfaultfd for the program's own faults: the fastest",
            user.or_else(|| lacks(uffd::FEATURE_SIGBUS, "Linux 4.14")),
            ALLOW_USER_MODE,
        ),
        Capability::new(
            "UFFDIO_MOVE",
            "pages enter and leave without being copied",
            lacks(uffd::FEATURE_MOVE, "Linux 6.8"),
            newer,
        ),
        Capability::new("sigsegv", "works everywhere", None, ""),
        Capability::new(
            "mappings for sigsegv",
            "1 GiB of scattered pages can be resident",
            few,
            &format!("sysctl vm.max_map_count={ENOUGH_MAPS} (only the engine sigsegv needs it)"),
        ),
    ]
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_no_comes_with_a_remedy() {
        let found = probe();
        assert!(found.len() >= 4);
        for capability in found {
            assert_eq!(capability.allowed, capability.remedy.is_none(), "{capability:?}");
            assert!(!capability.detail.is_empty());
        }
    }
}
