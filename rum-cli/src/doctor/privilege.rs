//! What this process may do, without trying.

/// A capability, by its number in capabilities(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// Packet sockets.
    NetRaw = 13,
    /// Locked memory without a limit.
    IpcLock = 14,
    /// Namespaces, mounts.
    SysAdmin = 21,
}

/// Whether this process has it now.
pub fn has(capability: Capability) -> bool {
    has_in(&super::read("/proc/self/status"), capability)
}

fn has_in(status: &str, capability: Capability) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (capability as u32) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_effective_mask() {
        let status = "Name:\tx\nCapInh:\tffffffffffffffff\nCapEff:\t0000000000006000\n";
        assert!(has_in(status, Capability::NetRaw));
        assert!(has_in(status, Capability::IpcLock));
        assert!(!has_in(status, Capability::SysAdmin));
        assert!(!has_in("", Capability::NetRaw));
    }
}
