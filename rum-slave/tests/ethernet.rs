//! A real `rum-slave` process on a kernel interface through DPDK's af_packet, its client in another network namespace.
//! Needs root; says so and passes without.

mod support;

use std::{
    env,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::geteuid};
use rum_net::port::{
    dpdk::{DpdkOptions, DpdkPort},
    spec::PortSpec,
};
use support::{TestClient, page, pattern, process::SlaveProcess};

const INTERFACE: &str = "rum0";
const CLIENT: &str = "RUM_SLAVE_TEST_ETHERNET_CLIENT";

/// Two network namespaces, each with one end of a veth pair; removed when dropped.
struct Namespaces {
    slave: String,
    client: String,
}

impl Namespaces {
    fn new(mtu: &str) -> Self {
        let unique = format!("rumslave-{}-{mtu}", std::process::id());
        let names = Self { slave: format!("{unique}-s"), client: format!("{unique}-c") };
        let (slave, client) = (&names.slave, &names.client);
        for namespace in [slave, client] {
            ip(&["netns", "add", namespace]);
        }
        ip(&["-n", slave, "link", "add", INTERFACE, "mtu", mtu, "type", "veth", "peer", INTERFACE, "netns", client]);
        ip(&["-n", client, "link", "set", INTERFACE, "mtu", mtu]);
        for namespace in [slave, client] {
            ip(&["-n", namespace, "link", "set", INTERFACE, "up"]);
        }
        names
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.slave, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn serves_over_ethernet(mtu: &str) {
    if !geteuid().is_root() {
        println!("skipped: needs root, for network namespaces and packet sockets");
        return;
    }
    let namespaces = Namespaces::new(mtu);
    let slave = SlaveProcess::start_in(&namespaces.slave, INTERFACE, &["-m", "64M"]);
    let ready = format!("rum-slave: ready, port af_packet:{INTERFACE}, mac ");
    assert!(slave.ready_line.starts_with(&ready), "{}", slave.ready_line);
    // The client is this test program again: a process has one EAL, and a port sees its own namespace.
    let client = Command::new("ip")
        .args(["netns", "exec", &namespaces.client])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "client", "--nocapture"])
        .env(CLIENT, "")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&client.stdout).into_owned() + &String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success() && said.contains("all pages came back"), "{said}");

    let (before, start) = (slave.cpu_time(), Instant::now());
    thread::sleep(Duration::from_secs(1));
    let share = (slave.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.03, "idle: {:.1} % of a CPU", share * 100.0);
    slave.signal(Signal::SIGTERM);
    let (status, rest) = slave.wait();
    assert_eq!(status.code(), Some(0));
    assert!(rest.starts_with("rum-slave: stopped, 1 clients, "), "{rest:?}");
}

/// Lesson 9: pages are cut to whatever the interface carries.
#[test]
fn serves_over_plain_ethernet() {
    serves_over_ethernet("1500");
}

#[test]
fn serves_over_jumbo_frames() {
    serves_over_ethernet("4500");
}

/// Does nothing unless started by `serves_over_ethernet`.
#[test]
fn client() {
    if env::var_os(CLIENT).is_none() {
        return;
    }
    let spec = PortSpec::AfPacket(INTERFACE.to_owned());
    let mut client = TestClient::connect(Box::new(DpdkPort::open(&spec, &DpdkOptions::default()).unwrap()));
    let extents = client.reserve(4).unwrap();
    let contents: Vec<_> = (0..512).map(pattern).collect();
    let place = |i: usize| page(extents[i % 4], (i / 4) as u32);
    for batch in (0..512).step_by(32) {
        let writes: Vec<_> = (batch..batch + 32).map(|i| (place(i), &contents[i])).collect();
        client.write(&writes).unwrap();
    }
    for batch in (0..512).step_by(32) {
        let pages: Vec<_> = (batch..batch + 32).map(place).collect();
        assert_eq!(client.read(&pages).unwrap(), contents[batch..batch + 32]);
    }
    client.bye().unwrap();
    println!("all pages came back");
}
