//! A real software switch: Debian's Open vSwitch with DPDK, with a database, sockets and a network namespace of its own, and
//! no huge pages. Its processes end with the test, however that ends.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    DEADLINE,
    namespaces::{ip, is_root},
    wait_for,
};

const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const BRIDGE: &str = "br0";

/// Whether to go on; otherwise says why the test is skipped.
pub fn is_installed() -> bool {
    if !is_root() {
        return false;
    }
    let there = Path::new(VSWITCHD).exists();
    if !there {
        println!("skipped: needs Debian's package openvswitch-switch-dpdk");
    }
    there
}

/// A switch, with slaves' namespaces on it by veth pairs; all removed when dropped.
pub struct Switch {
    folder: tempfile::TempDir,
    namespace: String,
    /// Of the slaves, each with an interface `rum0`.
    machines: Vec<String>,
    database: Child,
    switch: Option<Child>,
}

impl Switch {
    pub fn start(machines: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("rum-ovs-").tempdir().expect("a folder");
        let unique = format!("rumovs-{}", std::process::id());
        let path = |name: &str| folder.path().join(name);
        let mut create = Command::new("ovsdb-tool");
        run(create.arg("create").arg(path("conf.db")).arg(SCHEMA), folder.path());
        let mut serve = ending_with_us("ovsdb-server");
        serve.arg(path("conf.db")).arg(format!("--remote=punix:{}", path("db.sock").display()));
        serve.arg(format!("--unixctl={}", path("db.ctl").display())).arg("--no-chdir");
        let database = spawn(&mut serve, folder.path(), "db.log");
        let mut switch = Self { namespace: unique.clone(), machines: vec![], database, switch: None, folder };
        wait_for("the switch's database", DEADLINE, || switch.path("db.sock").exists());
        ip(&["netns", "add", &unique]);
        for number in 0..machines {
            let name = format!("{unique}-{number}");
            ip(&["netns", "add", &name]);
            switch.machines.push(name.clone());
            let here = format!("slave{number}");
            ip(&["-n", &unique, "link", "add", &here, "type", "veth", "peer", "name", "rum0", "netns", &name]);
            ip(&["-n", &unique, "link", "set", &here, "up"]);
            ip(&["-n", &name, "link", "set", "rum0", "up"]);
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        switch.vsctl(&["--no-wait", "init"]);
        switch.vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            // Without --legacy-mem this version adds --in-memory, which does not go with --no-huge.
            "other_config:dpdk-extra=--no-huge --legacy-mem --no-shconf --no-pci --no-telemetry -m 1024",
            // A pool of packets shared by all ports takes most of the memory, and then there is none for the second one that it
            // makes when it learns its ports' NUMA node: these ports would go without for good.
            "other_config:per-port-memory=true",
            "other_config:dpdk-lcore-mask=0x1",
            &format!("other_config:pmd-cpu-mask={:#x}", 1 << (cpus - 1)),
            // Its poller sleeps when there is nothing to do, so that the slaves and clients have a CPU.
            "other_config:pmd-maxsleep=100",
        ]);
        switch.run();
        let set = ["set", "bridge", BRIDGE, "datapath_type=netdev"];
        switch.vsctl(&[&["add-br", BRIDGE, "--"], &set[..]].concat());
        for number in 0..machines {
            switch.vsctl(&["add-port", BRIDGE, &format!("slave{number}")]);
        }
        switch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vsctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.path("db.sock").display()));
        command.arg(format!("--timeout={}", DEADLINE.as_secs())).args(arguments);
        run(&mut command, self.folder.path())
    }

    /// Starts the switching process, again after `kill`. Its ports are those it had.
    pub fn run(&mut self) {
        let mut command = ending_with_us("ip");
        command.args(["netns", "exec", &self.namespace, VSWITCHD]);
        command.arg(format!("unix:{}", self.path("db.sock").display())).arg("--no-chdir");
        command.arg(format!("--unixctl={}", self.path("switch.ctl").display()));
        self.switch = Some(spawn(&mut command, self.folder.path(), "switch.log"));
        let ready = || self.vsctl(&["--no-wait", "get", "Open_vSwitch", ".", "dpdk_initialized"]).trim() == "true";
        wait_for("DPDK in the switch", DEADLINE, ready);
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut switch) = self.switch.take() {
            switch.kill().expect("our own child");
            switch.wait().expect("our own child");
        }
    }

    /// A port towards a vhost-user socket that a client serves, or will.
    pub fn add_client(&self, name: &str) -> PathBuf {
        let socket = self.path(&format!("{name}.sock"));
        let server = format!("options:vhost-server-path={}", socket.display());
        let set = ["set", "Interface", name, "type=dpdkvhostuserclient", &server];
        self.vsctl(&[&["add-port", BRIDGE, name, "--"], &set[..]].concat());
        socket
    }

    /// The namespaces of the slaves.
    pub fn machines(&self) -> &[String] {
        &self.machines
    }

    /// Packets that the switch has taken from a port since it was started. It counts every few seconds.
    pub fn packets_from(&self, name: &str) -> u64 {
        self.vsctl(&["--if-exists", "get", "Interface", name, "statistics:rx_packets"]).trim().parse().unwrap_or(0)
    }

    /// What the switch says of itself.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("switch.log")).unwrap_or_default()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("the switch:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        for child in self.switch.iter_mut().chain([&mut self.database]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for namespace in self.machines.iter().chain([&self.namespace]) {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A program that the kernel kills when this process ends.
fn ending_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Keeps the system's own switch, if there is one, out of it.
fn private<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, folder);
    }
    command.stdin(Stdio::null())
}

fn spawn(command: &mut Command, folder: &Path, log: &str) -> Child {
    let log = File::options().create(true).append(true).open(folder.join(log)).expect("a log");
    let errors = log.try_clone().expect("a descriptor");
    private(command, folder).stdout(log).stderr(errors).spawn().expect("the program is installed")
}

fn run(command: &mut Command, folder: &Path) -> String {
    let output = private(command, folder).output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
