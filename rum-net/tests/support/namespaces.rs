//! A veth pair between two network namespaces. Needs root.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::unistd::geteuid;

/// Two namespaces, `left` and `right`, each with one end of a veth pair, `rum0`; removed when dropped.
pub struct Namespaces {
    pub left: String,
    pub right: String,
}

impl Namespaces {
    pub fn new(mtu: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("rumtest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let names = Self { left: format!("{unique}-l"), right: format!("{unique}-r") };
        for namespace in [&names.left, &names.right] {
            ip(&["netns", "add", namespace]);
            // No router solicitations or neighbour discovery among the test's packets.
            let off = "net.ipv6.conf.default.disable_ipv6=1";
            run(Command::new("ip").args(["netns", "exec", namespace, "sysctl", "-qw", off]));
        }
        let mtu = mtu.to_string();
        ip(&[
            "-n",
            &names.left,
            "link",
            "add",
            "rum0",
            "mtu",
            &mtu,
            "type",
            "veth",
            "peer",
            "name",
            "rum0",
            "mtu",
            &mtu,
            "netns",
            &names.right,
        ]);
        for namespace in [&names.left, &names.right] {
            ip(&["-n", namespace, "link", "set", "rum0", "up"]);
        }
        names
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.left, &self.right] {
            // The veth pair goes with them.
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Runs iproute2's `ip`, which must succeed.
pub fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

/// Runs a program of iproute2's, which must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().expect("iproute2 is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether to go on; otherwise says why the test is skipped.
pub fn is_root() -> bool {
    if !geteuid().is_root() {
        println!("skipped: needs root, for network namespaces and packet sockets");
    }
    geteuid().is_root()
}
