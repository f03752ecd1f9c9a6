//! Hosts on one Ethernet: network namespaces, each with one interface, and bridges in another between them. Slaves are
//! real `rum-slave` processes on hosts of their own. Needs root.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rum_net::seal::Key;
use rum_slave::{description::SlaveDescription, replication::PEER_KEY};

use super::{
    DEADLINE,
    namespaces::{ip, run},
    player::Player,
};

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
            let peer = ["peer", INTERFACE, "address", &mac_of(host), "netns", name];
            link(&[&["add", &port, "mtu", &mtu, "type", "veth"][..], &peer].concat());
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

    /// From now on the host receives nothing, and is heard nevertheless; or all is well again.
    pub fn set_deaf(&self, host: usize, is_deaf: bool) {
        let port = port_of(host);
        // A bucket that no packet fits into.
        let bucket = ["rate", "8bit", "burst", "1", "latency", "1ms"];
        match is_deaf {
            true => self.on_switch("tc", &[&["qdisc", "add", "dev", &port, "root", "tbf"][..], &bucket].concat()),
            false => self.on_switch("tc", &["qdisc", "del", "dev", &port, "root"]),
        }
    }

    /// From now on nobody hears the host, and it receives nevertheless; or all is well again.
    pub fn set_mute(&self, host: usize, is_mute: bool) {
        let port = port_of(host);
        // A locked port takes packets of senders only that were entered for it, which nobody is.
        let (locked, learning) = if is_mute { ("on", "off") } else { ("off", "on") };
        self.on_switch("bridge", &["link", "set", "dev", &port, "locked", locked, "learning", learning]);
        if is_mute {
            self.on_switch("bridge", &["fdb", "del", &mac_of(host), "dev", &port, "master"]);
        }
    }

    fn on_switch(&self, program: &str, arguments: &[&str]) {
        run(Command::new("ip").args(["netns", "exec", &self.switch, program]).args(arguments));
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

fn mac_of(host: usize) -> String {
    format!("02:52:55:4d:01:{host:02x}")
}

pub fn ip_of(host: usize) -> String {
    format!("10.0.0.{}", host + 1)
}

/// A program of RUM's, which lies where cargo put it for the whole workspace.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let program = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join(name);
    assert!(program.exists(), "there is no {}: run `cargo build --workspace` first", program.display());
    program
}

/// A command in a network namespace, or in this one.
pub fn command_in(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// A `rum-slave` process; killed when dropped.
pub struct RealSlave {
    child: Child,
    pub ready_line: String,
    /// What it says after it.
    lines: Receiver<String>,
}

impl RealSlave {
    /// In a network namespace, or in this one.
    pub fn start(namespace: Option<&str>, arguments: &[&str]) -> Self {
        let mut command = command_in(namespace, &program("rum-slave"));
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut ready_line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut ready_line).expect("text");
        assert!(ready_line.contains(": ready, "), "rum-slave {arguments:?} said {ready_line:?}");
        let (said, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { child, ready_line, lines }
    }

    pub fn mac(&self) -> &str {
        let clause = self.ready_line.split(", ").find_map(|clause| clause.strip_prefix("mac "));
        clause.expect("the line names its address")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        kill(pid, signal).expect("our own child");
    }

    /// Waits until it says that it has what its grid has.
    pub fn recover(&self) {
        while !self.lines.recv_timeout(DEADLINE).expect("it says so").contains("has what its grid has") {}
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
    let key = Key::generate().expect("random numbers");
    write_keys(folder.join("rum.keys"), &format!("client {}\n", key.to_hex().as_str()))
}

/// A key file with the same client, and the key by which slaves know each other.
pub fn slaves_key_file(clients: &Path) -> PathBuf {
    let key = Key::generate().expect("random numbers");
    let clients_key = fs::read_to_string(clients).expect("the clients' file");
    write_keys(clients.with_extension("slaves"), &format!("{clients_key}{PEER_KEY} {}\n", key.to_hex().as_str()))
}

fn write_keys(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).expect("a folder");
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
    wire: Wire,
    memory: usize,
    factor: usize,
    /// Of the clients, and of the slaves.
    keys: Option<(PathBuf, PathBuf)>,
    machines_file: PathBuf,
    pub hosts: Hosts,
    _folder: tempfile::TempDir,
}

impl HostGrid {
    pub fn start(wire: Wire, slaves: usize, clients: usize, memory: usize) -> Self {
        Self::replicated(wire, (slaves, 1), clients, memory)
    }

    /// Each page on `factor` slaves.
    pub fn replicated(wire: Wire, (slaves, factor): (usize, usize), clients: usize, memory: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = wire.is_sealed.then(|| key_file(folder.path())).map(|clients| {
            let slaves = slaves_key_file(&clients);
            (clients, slaves)
        });
        let hosts = Hosts::behind(slaves + clients, wire.mtu, wire.path_mtu);
        let machines_file = folder.path().join("machines.csv");
        let slaves = (0..slaves).map(|_| None).collect();
        let mut grid = Self { slaves, wire, memory, factor, keys, machines_file, hosts, _folder: folder };
        fs::write(&grid.machines_file, grid.machines().replace(';', "\n")).expect("our own folder");
        (0..grid.slaves.len()).for_each(|slave| grid.start_slave(slave));
        if factor > 1 {
            (0..grid.slaves.len()).for_each(|slave| grid.slave(slave).recover());
        }
        grid
    }

    pub fn start_slave(&mut self, slave: usize) {
        let (memory, name) = (self.memory.to_string(), name_of(slave));
        let mut arguments = vec!["--port", self.wire.link, "--memory", &memory, "--lease", "60s", "--name", &name];
        if self.factor > 1 {
            arguments.extend(["--machines", self.machines_file.to_str().expect("a path of ours")]);
        }
        let keys = self.keys.as_ref().map(|(_, path)| path.to_str().expect("a path of ours"));
        arguments.extend(keys.map_or(vec!["--insecure"], |path| vec!["--keys", path]));
        arguments.extend(self.wire.faults.iter().flat_map(|faults| ["--inject", faults.as_str()]));
        let started = RealSlave::start(Some(self.hosts.name(slave)), &arguments);
        assert_eq!(started.mac(), mac_of(slave));
        self.slaves[slave] = Some(started);
    }

    pub fn slave(&self, slave: usize) -> &RealSlave {
        self.slaves[slave].as_ref().expect("it runs")
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
        let line = |slave: usize| {
            let mac = if self.wire.link == UDP { String::new() } else { mac_of(slave) };
            format!(";{},{mac},{},{}", ip_of(slave), self.wire.link, name_of(slave))
        };
        format!("# rf={}", self.factor) + &(0..self.slaves.len()).map(line).collect::<String>()
    }

    /// Starts a client on a host of its own.
    pub fn client(&self, client: usize, role: &str, budget_mib: usize, more: &[(&'static str, String)]) -> Player {
        let keys = self.keys.as_ref().map_or(String::new(), |(path, _)| path.display().to_string());
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

    /// What the slaves say of themselves to a client on a host of its own; nothing of one that is silent.
    pub fn status(&self, client: usize) -> Vec<Option<SlaveDescription>> {
        let namespace = self.hosts.name(self.client_host(client));
        status(Some(namespace), &self.machines_file, self.keys.as_ref().map(|(clients, _)| clients.as_path()))
    }
}

fn name_of(slave: usize) -> String {
    format!("slave-{slave}")
}

/// What `rum status` says of each slave.
pub fn status(namespace: Option<&str>, machines: &Path, keys: Option<&Path>) -> Vec<Option<SlaveDescription>> {
    let mut command = command_in(namespace, &program("rum"));
    command.args(["status", "--json"]).arg(machines).envs(keys.map(|path| ("RUM_KEY", path)));
    let said = command.output().expect("the program starts");
    let json: serde_json::Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|error| panic!("rum status: {error}: {}", String::from_utf8_lossy(&said.stderr)));
    let slaves = json["slaves"].as_array().expect("a list").clone();
    slaves.into_iter().map(|slave| serde_json::from_value(slave["says"].clone()).expect("its form")).collect()
}
