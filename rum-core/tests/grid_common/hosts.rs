//! Hosts on one Ethernet: network namespaces, each with one interface, and bridges in another between them. Slaves are
//! real `rum-slave` processes on hosts of their own. Needs root.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rum_net::seal::Key;

use super::{namespaces::ip, player::Player};

/// The interface of each host.
pub const INTERFACE: &str = "rum0";

/// Hosts and the switches between them; removed when dropped.
pub struct Hosts {
    switch: String,
    names: Vec<String>,
}

impl Hosts {
    pub fn new(count: usize, mtu: usize) -> Self {
        Self::behind(count, mtu, mtu)
    }

    /// The last host is behind a second switch, and the cable between the two passes `path_mtu` alone.
    pub fn behind(count: usize, mtu: usize, path_mtu: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("rumhosts-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = |host: usize| format!("{unique}-{host}");
        let hosts = Self { switch: format!("{unique}-w"), names: (0..count).map(name).collect() };
        for namespace in hosts.names.iter().chain([&hosts.switch]) {
            ip(&["netns", "add", namespace]);
            // No router solicitations or neighbour discovery among the test's packets.
            let off = "net.ipv6.conf.default.disable_ipv6=1";
            ip(&["netns", "exec", namespace, "sysctl", "-qw", off]);
        }
        let [mtu, path_mtu] = [mtu, path_mtu].map(|mtu| mtu.to_string());
        let on_switch = ["-n", &hosts.switch, "link"];
        let link = |arguments: &[&str]| ip(&[&on_switch[..], arguments].concat());
        for bridge in ["near", "far"] {
            link(&["add", bridge, "type", "bridge", "mcast_snooping", "0"]);
            link(&["set", bridge, "up"]);
        }
        link(&["add", "trunk0", "mtu", &path_mtu, "type", "veth", "peer", "trunk1", "mtu", &path_mtu]);
        link(&["set", "trunk0", "master", "near", "up"]);
        link(&["set", "trunk1", "master", "far", "up"]);
        for (host, name) in hosts.names.iter().enumerate() {
            let port = port_of(host);
            let bridge = if host + 1 == count { "far" } else { "near" };
            link(&["add", &port, "mtu", &mtu, "type", "veth", "peer", INTERFACE, "netns", name]);
            link(&["set", &port, "master", bridge, "up"]);
            ip(&["-n", name, "address", "add", &format!("{}/24", ip_of(host)), "dev", INTERFACE]);
            ip(&["-n", name, "link", "set", INTERFACE, "mtu", &mtu, "up"]);
        }
        hosts
    }

    pub fn name(&self, host: usize) -> &str {
        &self.names[host]
    }

    /// Pulls the cable of a host at the switch, or plugs it in.
    pub fn set_cable(&self, host: usize, state: &str) {
        ip(&["-n", &self.switch, "link", "set", &port_of(host), state]);
    }

    /// Takes the host's own interface down or up.
    pub fn set_interface(&self, host: usize, state: &str) {
        ip(&["-n", &self.names[host], "link", "set", INTERFACE, state]);
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in self.names.iter().chain([&self.switch]) {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn port_of(host: usize) -> String {
    format!("port{host}")
}

pub fn ip_of(host: usize) -> String {
    format!("10.0.0.{}", host + 1)
}

/// The program `rum-slave`, which lies where cargo put it for the whole workspace.
pub fn rum_slave() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let program = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("rum-slave");
    assert!(program.exists(), "there is no {}: run `cargo build -p rum-slave` first", program.display());
    program
}

/// A `rum-slave` process; killed when dropped.
pub struct RealSlave {
    child: Child,
    pub ready_line: String,
}

impl RealSlave {
    /// In a network namespace, or in this one.
    pub fn start(namespace: Option<&str>, arguments: &[&str]) -> Self {
        let program = rum_slave();
        let mut command = Command::new(if namespace.is_some() { Path::new("ip") } else { &program });
        if let Some(namespace) = namespace {
            command.args(["netns", "exec", namespace]).arg(&program);
        }
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut ready_line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut ready_line).expect("text");
        assert!(ready_line.contains(": ready, "), "rum-slave {arguments:?} said {ready_line:?}");
        Self { child, ready_line }
    }

    pub fn mac(&self) -> &str {
        let clause = self.ready_line.split(", ").find_map(|clause| clause.strip_prefix("mac "));
        clause.expect("the line names its address")
    }
}

impl Drop for RealSlave {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A key file of one client named `client`, readable by its owner alone.
pub fn key_file(folder: &Path) -> PathBuf {
    let path = folder.join("rum.keys");
    let key = Key::generate().expect("random numbers");
    fs::write(&path, format!("client {}\n", key.to_hex().as_str())).expect("a folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    path
}

/// How the packets between the hosts of a grid look, and what happens to them.
#[derive(Clone, Debug)]
pub struct Wire {
    pub mtu: usize,
    /// Of the way between them.
    pub path_mtu: usize,
    pub link: &'static str,
    pub is_sealed: bool,
    /// What happens to all packets that slaves and clients send.
    pub faults: Option<String>,
}

pub const RAW: &str = "af_packet:rum0";
pub const UDP: &str = "udp:af_packet:rum0";

impl Wire {
    pub fn new(link: &'static str, mtu: usize) -> Self {
        Self { mtu, path_mtu: mtu, link, is_sealed: false, faults: None }
    }

    pub fn sealed(self) -> Self {
        Self { is_sealed: true, ..self }
    }
}

/// Slaves on the first hosts, clients on the others.
pub struct HostGrid {
    slaves: Vec<Option<RealSlave>>,
    macs: Vec<String>,
    wire: Wire,
    memory: usize,
    keys: Option<PathBuf>,
    pub hosts: Hosts,
    _folder: tempfile::TempDir,
}

impl HostGrid {
    pub fn start(wire: Wire, slaves: usize, clients: usize, memory: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = wire.is_sealed.then(|| key_file(folder.path()));
        let hosts = Hosts::behind(slaves + clients, wire.mtu, wire.path_mtu);
        let macs = vec![String::new(); slaves];
        let slaves = (0..slaves).map(|_| None).collect();
        let mut grid = Self { slaves, macs, wire, memory, keys, hosts, _folder: folder };
        (0..grid.slaves.len()).for_each(|slave| grid.start_slave(slave));
        grid
    }

    pub fn start_slave(&mut self, slave: usize) {
        let memory = self.memory.to_string();
        let keys = self.keys.as_ref().map(|path| path.to_str().expect("a path of ours"));
        let mut arguments = vec!["--port", self.wire.link, "--memory", &memory, "--lease", "60s"];
        arguments.extend(keys.map_or(vec!["--insecure"], |path| vec!["--keys", path]));
        arguments.extend(self.wire.faults.iter().flat_map(|faults| ["--inject", faults.as_str()]));
        let started = RealSlave::start(Some(self.hosts.name(slave)), &arguments);
        self.macs[slave] = started.mac().to_owned();
        self.slaves[slave] = Some(started);
    }

    /// As `kill -9`.
    pub fn kill_slave(&mut self, slave: usize) {
        self.slaves[slave] = None;
    }

    /// The host of a client, from 0.
    pub fn client_host(&self, client: usize) -> usize {
        self.slaves.len() + client
    }

    /// A client that asks for its slaves' hardware addresses where the framing allows it.
    fn machines(&self) -> String {
        let line = |(slave, mac): (usize, &String)| {
            let mac = if self.wire.link == UDP { "" } else { mac };
            format!("{},{mac},{}", ip_of(slave), self.wire.link)
        };
        self.macs.iter().enumerate().map(line).collect::<Vec<_>>().join(";")
    }

    /// Starts a client on a host of its own.
    pub fn client(&self, client: usize, role: &str, budget_mib: usize, more: &[(&'static str, String)]) -> Player {
        let keys = self.keys.as_ref().map_or(String::new(), |path| path.display().to_string());
        let mut arguments = vec![
            ("machines", self.machines()),
            ("budget_mib", budget_mib.to_string()),
            ("engine", String::new()),
            ("keys", keys),
        ];
        arguments.extend_from_slice(more);
        let faults = self.wire.faults.iter().map(|faults| ("RUM_INJECT", faults.as_str())).collect::<Vec<_>>();
        Player::start_in_with(self.hosts.name(self.client_host(client)), role, &arguments, &faults)
    }
}
