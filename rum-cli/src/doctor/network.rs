//! Checks on links: sockets, network interfaces, and what DPDK may own.

use std::{fs, path::Path};

use rum_core::config::{Config, ConfigError};
use rum_net::seal::ClientKey;

use super::{
    Check, Verdict,
    privilege::{Capability, has},
    read,
};
use crate::folder::PrivateFolder;

pub fn checks() -> Vec<Check> {
    let mut checks = vec![sockets(), packet_sockets(), namespaces(), vfio(), key(Config::key_from_env())];
    let routes = default_routes(&read("/proc/net/route"), &read("/proc/net/ipv6_route"));
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.retain(|name| name != "lo");
    names.sort();
    if names.is_empty() {
        checks.push(Check::no(
            "network interfaces",
            "none: slaves on other machines cannot be reached; vhost: links work",
            "add one, or try the Ethernet links in network namespaces: rum demo --ethernet",
        ));
    }
    checks.extend(names.iter().map(|name| interface(name, routes.contains(name))));
    checks
}

fn sockets() -> Check {
    const WHAT: &str = "vhost: sockets";
    match PrivateFolder::new() {
        Ok(directory) => {
            let place = directory.path().parent().unwrap_or(Path::new("/")).display().to_string();
            Check::yes(WHAT, format!("a private folder in {place} holds them"))
        }
        Err(error) => Check::no(WHAT, error.to_string(), "export TMPDIR=/dev/shm"),
    }
}

fn packet_sockets() -> Check {
    const WHAT: &str = "af_packet:, af_xdp:";
    if has(Capability::NetRaw) {
        Check::yes(WHAT, "packet sockets are allowed (CAP_NET_RAW)")
    } else {
        Check::no(
            WHAT,
            "no CAP_NET_RAW: packet sockets are not allowed",
            "run slave and client as root, or: setcap cap_net_raw+ep PROGRAM",
        )
    }
}

fn namespaces() -> Check {
    const WHAT: &str = "rum demo --ethernet";
    if has(Capability::SysAdmin) {
        Check::yes(WHAT, "network namespaces can be made (CAP_SYS_ADMIN)")
    } else {
        Check::no(WHAT, "no CAP_SYS_ADMIN: network namespaces cannot be made", "sudo rum demo --ethernet")
    }
}

fn vfio() -> Check {
    const WHAT: &str = "pci: (VFIO)";
    if !Path::new("/dev/vfio/vfio").exists() {
        return Check::no(WHAT, "the driver vfio-pci is not loaded", "modprobe vfio-pci");
    }
    let groups = fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
    if groups == 0 {
        let fix = "boot with intel_iommu=on or amd_iommu=on";
        return Check::no(WHAT, "vfio is loaded, but there is no IOMMU", fix);
    }
    Check::yes(WHAT, format!("vfio is loaded, {groups} IOMMU groups"))
}

/// What a client here would prove itself with.
fn key(key: Result<Option<ClientKey>, ConfigError>) -> Check {
    const WHAT: &str = "key (RUM_KEY)";
    match key {
        Ok(Some(key)) => Check::yes(WHAT, format!("that of the client {:?}: sessions are sealed", key.name)),
        Ok(None) => Check::no(WHAT, "none: slaves with --keys let no client of this environment in", "rum keygen"),
        Err(error) => Check::no(WHAT, error.to_string(), "unset RUM_KEY RUM_KEY_NAME, or set them right"),
    }
}

fn interface(name: &str, carries_default_route: bool) -> Check {
    let class = format!("/sys/class/net/{name}");
    let driver = fs::read_link(format!("{class}/device/driver"))
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "no device: virtual".to_owned());
    let bus = fs::read_link(format!("{class}/device"))
        .ok()
        .and_then(|path| Some(format!(" at {}", path.file_name()?.to_string_lossy())))
        .unwrap_or_default();
    let found = format!(
        "{name}: {driver}{bus}, {}, MTU {}, {}",
        read(&format!("{class}/address")),
        read(&format!("{class}/mtu")),
        read(&format!("{class}/operstate")),
    );
    if !carries_default_route {
        return Check::yes("network interface", found);
    }
    Check {
        what: "network interface",
        verdict: Verdict::No,
        found: format!("{found}; carries the default route, so RUM does not take it"),
        fix: Some(format!(
            "use another one, or a macvlan on it: ip link add rum0 link {name} type macvlan mode bridge"
        )),
    }
}

/// The interfaces that carry a default route, from the texts of /proc/net/route and /proc/net/ipv6_route.
fn default_routes(ipv4: &str, ipv6: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in ipv4.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
            names.push(name.to_owned());
        }
    }
    for line in ipv6.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00", .., name] = fields[..]
            && destination.bytes().all(|byte| byte == b'0')
            && name != "lo"
        {
            names.push(name.to_owned());
        }
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use rum_net::seal::Key;

    use super::*;

    #[test]
    fn a_key_is_named_and_never_shown() {
        let client = ClientKey { name: "me".into(), key: Key::from_bytes([0x5a; 32]), quota_bytes: None };
        let check = key(Ok(Some(client)));
        assert_eq!((check.verdict, check.fix), (Verdict::Yes, None));
        assert!(check.found.contains("\"me\"") && !check.found.contains("5a5a"), "{}", check.found);
        assert_eq!(key(Ok(None)).verdict, Verdict::No);
        let wrong = key(Err(ConfigError::KeyNameAlone("me".into())));
        assert_eq!(wrong.verdict, Verdict::No);
        assert!(wrong.found.starts_with("RUM_KEY_NAME"), "{}", wrong.found);
    }

    #[test]
    fn default_routes_of_both_families() {
        let ipv4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zeros = "0".repeat(32);
        let ipv6 = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2\n\
             fe80{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth3\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n",
            "0".repeat(28)
        );
        assert_eq!(default_routes(ipv4, &ipv6), ["eth0", "eth2"]);
        assert!(default_routes("", "").is_empty());
    }
}
