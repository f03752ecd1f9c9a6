//! A real `rum-slave` process on a kernel interface through DPDK's af_packet, its client on another host behind a
//! switch (network namespaces and a bridge), with raw and with UDP framing. Needs root; says so and passes without.

mod support;

use std::{
    env, fs,
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::geteuid};
use rum_net::{
    PAGE_BYTES,
    fabric::{Fabric, PeerIndex},
    port::MacAddr,
    rpc::{Incarnation, MAX_MESSAGE_BYTES, client::ClientEvent},
    wire::message::{
        PageContent, PageKind, READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, ReadResponse, WRITE_HEAD_MAX_BYTES,
        decode_empty_response, decode_reserve_response, encode_bye, encode_read, encode_reserve, encode_write_head,
    },
};
use support::{DEADLINE, page, pattern, process::SlaveProcess};

const INTERFACE: &str = "rum0";
const SLAVE_IP: &str = "10.0.0.1";
const CLIENT_IP: &str = "10.0.0.2";
/// The client's link and the slave's hardware address, which is empty if it is to be asked for.
const LINK: &str = "RUM_SLAVE_TEST_ETHERNET_LINK";
const MAC: &str = "RUM_SLAVE_TEST_ETHERNET_MAC";

/// Two hosts on a switch, each in a network namespace with one interface; removed when dropped.
struct Network {
    slave: String,
    client: String,
    switch: String,
}

impl Network {
    fn new(what: &str, mtu: &str, kernel_has_addresses: bool) -> Self {
        let unique = format!("rumslave-{}-{what}", std::process::id());
        let name = |host: &str| format!("{unique}-{host}");
        let network = Self { slave: name("s"), client: name("c"), switch: name("w") };
        let switch = &network.switch;
        for namespace in [&network.slave, &network.client, switch] {
            ip(&["netns", "add", namespace]);
        }
        ip(&["-n", switch, "link", "add", "bridge", "mtu", mtu, "type", "bridge", "mcast_snooping", "0"]);
        ip(&["-n", switch, "link", "set", "bridge", "up"]);
        for (host, port, address) in [(&network.slave, "p1", SLAVE_IP), (&network.client, "p2", CLIENT_IP)] {
            ip(&["-n", switch, "link", "add", port, "mtu", mtu, "type", "veth", "peer", INTERFACE, "netns", host]);
            ip(&["-n", switch, "link", "set", port, "master", "bridge", "up"]);
            if kernel_has_addresses {
                ip(&["-n", host, "address", "add", &format!("{address}/24"), "dev", INTERFACE]);
            }
            ip(&["-n", host, "link", "set", INTERFACE, "mtu", mtu, "up"]);
        }
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.slave, &self.client, &self.switch] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// ICMP messages sent in a namespace, as /proc/net/snmp tells.
fn icmp_sent(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|name| name == "OutMsgs").expect("the counter");
    values.split(' ').nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

/// One way for the two to talk.
struct Talk<'a> {
    mtu: &'a str,
    slave_link: &'a str,
    client_link: &'a str,
    /// The client knows the slave's hardware address.
    is_static: bool,
    kernel_has_addresses: bool,
}

fn talks(what: &str, talk: &Talk) {
    if !geteuid().is_root() {
        println!("skipped: needs root, for network namespaces and packet sockets");
        return;
    }
    let network = Network::new(what, talk.mtu, talk.kernel_has_addresses);
    let slave = SlaveProcess::start_in(&network.slave, talk.slave_link, &["-m", "64M"]);
    let ready = format!("rum-slave: ready, port {}, mac ", talk.slave_link);
    let rest = slave.ready_line.strip_prefix(&ready).unwrap_or_else(|| panic!("{}", slave.ready_line));
    let (mac, rest) = rest.split_once(", ").expect("more");
    let is_udp = talk.slave_link.starts_with("udp");
    assert_eq!(rest.starts_with(&format!("ip {SLAVE_IP}, ")), is_udp, "{}", slave.ready_line);
    // The client is this test program again: a process has one EAL, and a port sees its own namespace.
    let client = Command::new("ip")
        .args(["netns", "exec", &network.client])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "client", "--nocapture"])
        .env(LINK, talk.client_link)
        .env(MAC, if talk.is_static { mac } else { "" })
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&client.stdout).into_owned() + &String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success() && said.contains("all pages came back"), "{said}");
    let snmp = ip(&["netns", "exec", &network.slave, "cat", "/proc/net/snmp"]);
    assert_eq!(icmp_sent(&snmp), 0, "the slave's kernel complains");

    if !is_udp {
        let (before, start) = (slave.cpu_time(), Instant::now());
        thread::sleep(Duration::from_secs(1));
        let share = (slave.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(share < 0.03, "idle: {:.1} % of a CPU", share * 100.0);
    }
    slave.signal(Signal::SIGTERM);
    let (status, rest) = slave.wait();
    assert_eq!(status.code(), Some(0));
    assert!(rest.starts_with("rum-slave: stopped, 1 clients, "), "{rest:?}");
}

fn talks_raw(what: &str, mtu: &str) {
    let link = "af_packet:rum0";
    talks(what, &Talk { mtu, slave_link: link, client_link: link, is_static: true, kernel_has_addresses: true });
}

fn talks_udp(what: &str, mtu: &str, is_static: bool) {
    let link = "udp:af_packet:rum0";
    talks(what, &Talk { mtu, slave_link: link, client_link: link, is_static, kernel_has_addresses: true });
}

/// Lesson 9: pages are cut to whatever the interface carries.
#[test]
fn serves_over_plain_ethernet() {
    talks_raw("raw1500", "1500");
}

#[test]
fn serves_over_jumbo_frames() {
    talks_raw("raw9000", "9000");
}

#[test]
fn serves_over_udp_to_a_client_that_asks_for_its_address() {
    talks_udp("arp1500", "1500", false);
}

#[test]
fn serves_over_udp_in_jumbo_frames_to_a_client_that_asks_for_its_address() {
    talks_udp("arp9000", "9000", false);
}

#[test]
fn serves_over_udp_to_a_client_that_knows_its_address() {
    talks_udp("static1500", "1500", true);
}

#[test]
fn serves_over_udp_in_jumbo_frames_to_a_client_that_knows_its_address() {
    talks_udp("static9000", "9000", true);
}

/// Addresses of which the kernel knows nothing: both ends answer for themselves.
#[test]
fn serves_over_udp_on_interfaces_without_addresses() {
    let slave_link = &format!("udp@{SLAVE_IP}/24:af_packet:rum0");
    let client_link = &format!("udp@{CLIENT_IP}/24:af_packet:rum0");
    talks("own", &Talk { mtu: "1500", slave_link, client_link, is_static: false, kernel_has_addresses: false });
}

#[test]
fn a_udp_link_on_an_interface_without_an_address_is_refused() {
    if !geteuid().is_root() {
        println!("skipped: needs root, for network namespaces");
        return;
    }
    let network = Network::new("none", "1500", false);
    let refusal = |ports: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &network.slave, env!("CARGO_BIN_EXE_rum-slave"), "-m", "64M", "--insecure"]);
        command.args(ports.iter().flat_map(|port| ["--port", port]));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refusal(&["udp:af_packet:rum0"]);
    let expected = "rum-slave: cannot serve udp:af_packet:rum0: rum0 has no IPv4 address: give it one (ip address add ";
    assert!(text.starts_with(expected), "{text}");
    let text = refusal(&["af_packet:rum0", "udp@10.0.0.1:af_packet:rum0"]);
    assert!(text.contains("af_packet:rum0 and udp@10.0.0.1:af_packet:rum0 at once: they are one port"), "{text}");
}

/// Sends a request and waits for its answer.
fn ask(fabric: &mut Fabric, slave: PeerIndex, head: &[u8], body: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + DEADLINE;
    let mut request = None;
    let mut answer = Vec::new();
    let mut done = None;
    while done.is_none() {
        if request.is_none() {
            request = fabric.request(slave, head, body).ok();
        }
        fabric.poll(&mut |_, event| match event {
            ClientEvent::Fragment { offset, bytes, .. } => {
                answer.resize(answer.len().max(offset + bytes.len()), 0);
                answer[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            ClientEvent::Complete { len, .. } => done = Some(len),
            ClientEvent::Opened { .. } => {}
            event => panic!("{event:?}"),
        });
        if done.is_none() {
            fabric.idle(Duration::from_millis(1));
        }
        assert!(Instant::now() < deadline, "no answer; sought: {:?}", fabric.sought_address(slave));
    }
    answer
}

/// Does nothing unless started by `talks`.
#[test]
fn client() {
    let Ok(link) = env::var(LINK) else { return };
    let mac = env::var(MAC).unwrap();
    let mut bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    let mac = if mac.is_empty() { MacAddr::default() } else { MacAddr([(); 6].map(|()| bytes.next().unwrap())) };
    let mut fabric = Fabric::new(Incarnation(rand::random()), None);
    let ip: Ipv4Addr = SLAVE_IP.parse().unwrap();
    let slave = fabric.add_peer(&link.parse().unwrap(), mac, Some(ip), MAX_MESSAGE_BYTES).unwrap();
    let response = ask(&mut fabric, slave, encode_reserve(4, &mut [0; RESERVE_REQUEST_BYTES]), &[]);
    let extents: Vec<_> = decode_reserve_response(&response, 4).unwrap().iter().collect();
    let contents: Vec<_> = (0..512).map(pattern).collect();
    let place = |i: usize| page(extents[i % 4], (i / 4) as u32);
    for batch in (0..512).step_by(32) {
        let kinds: Vec<_> = (batch..batch + 32).map(|i| (place(i), PageKind::Data)).collect();
        let mut buffer = [0; WRITE_HEAD_MAX_BYTES];
        let body = contents[batch..batch + 32].concat();
        let response = ask(&mut fabric, slave, encode_write_head(&kinds, &mut buffer), &body);
        decode_empty_response(&response).unwrap();
    }
    for batch in (0..512).step_by(32) {
        let pages: Vec<_> = (batch..batch + 32).map(place).collect();
        let mut buffer = [0; READ_REQUEST_MAX_BYTES];
        let response = ask(&mut fabric, slave, encode_read(&pages, &mut buffer), &[]);
        let read = ReadResponse::decode(&response, 32).unwrap();
        for (content, expected) in read.iter().zip(&contents[batch..]) {
            assert!(matches!(content, PageContent::Data(bytes) if bytes == expected), "another page");
        }
    }
    assert_eq!(contents[0].len(), PAGE_BYTES);
    decode_empty_response(&ask(&mut fabric, slave, encode_bye(&mut [0; 4]), &[])).unwrap();
    assert_eq!(icmp_sent(&fs::read_to_string("/proc/net/snmp").unwrap()), 0, "the client's kernel complains");
    println!("all pages came back");
}
