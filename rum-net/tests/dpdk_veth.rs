//! DPDK ports between two network namespaces joined by a veth pair. Needs root; says so and passes without.
//!
//! EAL starts once a process and a port sees the namespace of its process, so each end is this test program again,
//! under `ip netns exec`, with its part named in the environment.

mod support;

use std::{
    env,
    io::{BufRead, BufReader, Read},
    os::fd::AsRawFd,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, Uid, fork, setresuid},
};
use rum_net::port::{
    LinkId, MacAddr, Port, TransmitError,
    dpdk::{DpdkError, DpdkOptions, DpdkPort},
};
use support::namespaces::{Namespaces, ip, is_root};

const ROLE: &str = "RUM_TEST_DPDK_ROLE";
const PORT: &str = "RUM_TEST_DPDK_PORT";
const PATIENCE: Duration = Duration::from_secs(20);
/// The ethertype for local experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = 0x88b5_u16.to_be_bytes();
const HEADER_BYTES: usize = 14;
const MIN_FRAME_BYTES: usize = 60;

/// What the echoing end is asked to do: the first byte after the Ethernet header.
const ECHO: u8 = 0;
const ECHO_LATER: u8 = 1;
const ECHO_AFTER_STRAYS: u8 = 2;
/// How long the echoing end polls before it sleeps.
const SPIN: Duration = Duration::from_micros(100);
/// How much later.
const LATER: Duration = Duration::from_millis(60);

// ---- the tests, which start two processes each ----

/// This program again in `namespace`, playing `role` on `port`.
struct Player {
    child: Child,
    role: &'static str,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Player {
    fn start(namespace: &str, role: &'static str, port: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(env::current_exe().expect("own path"))
            .args(["--exact", "play", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PORT, port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { stdin: child.stdin.take(), child, role, stdout }
    }

    /// Reads its output up to the line that says that its port is open.
    fn await_ready(&mut self) {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).expect("text") > 0 {
            if line.contains("ready") {
                return;
            }
            line.clear();
        }
        panic!("{} ended before it was ready", self.role);
    }

    /// Closes its input, waits for it to end, shows what it printed, and fails if it did.
    fn finish(mut self) {
        self.stdin = None;
        let mut output = String::new();
        self.stdout.read_to_string(&mut output).expect("text");
        for line in output.lines().filter(|line| line.contains("::")) {
            println!("{}", line.trim_start_matches("::"));
        }
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "{} failed:\n{output}", self.role);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Plays `role` in the left namespace against an echo in the right.
fn play_against_echo(mtu: usize, role: &'static str, port: &str) {
    if !is_root() {
        return;
    }
    let namespaces = Namespaces::new(mtu);
    let mut echo = Player::start(&namespaces.right, "echo", port);
    echo.await_ready();
    Player::start(&namespaces.left, role, port).finish();
    echo.finish();
}

fn play_alone(role: &'static str, port: &str) {
    if !is_root() {
        return;
    }
    let namespaces = Namespaces::new(1500);
    Player::start(&namespaces.left, role, port).finish();
}

#[test]
fn af_packet_exchanges_frames_of_all_sizes_at_mtu_1500() {
    play_against_echo(1500, "exchange", "af_packet:rum0");
}

#[test]
fn af_packet_exchanges_frames_of_all_sizes_at_mtu_9000() {
    play_against_echo(9000, "exchange", "af_packet:rum0");
}

#[test]
fn af_xdp_exchanges_frames_of_all_sizes_at_mtu_1500() {
    play_against_echo(1500, "exchange", "af_xdp:rum0");
}

#[test]
fn af_xdp_exchanges_frames_of_all_sizes_at_mtu_3400() {
    play_against_echo(3400, "exchange", "af_xdp:rum0");
}

#[test]
fn af_packet_sleeps_until_a_packet_or_the_wake_descriptor() {
    play_against_echo(1500, "sleep", "af_packet:rum0");
}

#[test]
fn af_xdp_sleeps_until_a_packet_or_the_wake_descriptor() {
    play_against_echo(1500, "sleep", "af_xdp:rum0");
}

#[test]
fn strangers_packets_are_filtered() {
    play_against_echo(1500, "filter", "af_packet:rum0");
}

#[test]
fn a_forked_child_is_refused() {
    play_alone("fork", "af_packet:rum0");
}

#[test]
fn ports_come_and_go_up_to_the_limit() {
    play_alone("many", "af_packet:rum0");
}

#[test]
fn a_removed_interface_closes_its_port() {
    play_alone("removed", "af_packet:rum0");
}

#[test]
fn the_interface_of_the_default_route_is_refused_unless_forced() {
    play_alone("default-route", "af_packet:rum0");
}

#[test]
fn af_packet_outlives_its_interface_being_down() {
    play_against_echo(1500, "link-flap", "af_packet:rum0");
}

#[test]
fn af_xdp_outlives_its_interface_being_down() {
    play_against_echo(1500, "link-flap", "af_xdp:rum0");
}

#[test]
fn an_interface_that_is_down_is_refused() {
    play_alone("down", "af_packet:rum0");
}

#[test]
fn af_xdp_refuses_a_jumbo_interface() {
    if is_root() {
        let namespaces = Namespaces::new(9000);
        Player::start(&namespaces.left, "too-large", "af_xdp:rum0").finish();
    }
}

#[test]
fn without_privilege_af_packet_says_what_is_missing_and_a_virtual_device_works() {
    play_alone("unprivileged", "af_packet:rum0");
}

#[test]
fn a_virtual_device_sleeps_and_wakes() {
    play_alone("vdev", "vdev:net_ring0");
}

#[test]
fn an_unknown_driver_is_named() {
    play_alone("no-driver", "vdev:net_no_such_driver0");
}

// ---- the parts, in their own processes ----

/// Not a test of its own: the entry of the processes that the tests above start.
#[test]
fn play() {
    let Ok(role) = env::var(ROLE) else { return };
    match role.as_str() {
        "echo" => play_echo(),
        "exchange" => play_exchange(),
        "sleep" => play_sleep(),
        "filter" => play_filter(),
        "fork" => play_fork(),
        "many" => play_many(),
        "removed" => play_removed(),
        "default-route" => play_default_route(),
        "down" => play_down(),
        "link-flap" => play_link_flap(),
        "too-large" => assert!(matches!(try_open(), Err(DpdkError::MtuTooLarge { mtu: 9000, limit: 3400, .. }))),
        "unprivileged" => play_unprivileged(),
        "vdev" => play_vdev(),
        "no-driver" => play_no_driver(),
        other => panic!("no role {other:?}"),
    }
}

fn try_open_as(port: &str, options: &DpdkOptions) -> Result<DpdkPort, DpdkError> {
    DpdkPort::open(&port.parse().expect("a link"), options)
}

fn try_open() -> Result<DpdkPort, DpdkError> {
    try_open_as(&env::var(PORT).expect("set by the test"), &DpdkOptions::default())
}

fn open() -> DpdkPort {
    try_open().unwrap_or_else(|error| panic!("{error}"))
}

/// The destination, our address, the ethertype, the command and a pattern that depends on `seed`; `len` in all.
fn frame(port: &DpdkPort, to: MacAddr, command: u8, len: usize, seed: usize) -> Vec<u8> {
    let mut bytes = [&to.0[..], &port.mac().0, &ETHERTYPE, &[command]].concat();
    bytes.extend((bytes.len()..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(7)) as u8));
    bytes
}

/// Sends in two parts, so that gathering is tried, too, and hands over to the device.
fn send(port: &mut DpdkPort, bytes: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    let (head, body) = bytes.split_at(HEADER_BYTES);
    while let Err(error) = port.transmit(LinkId(0), &[head, body]) {
        assert_eq!(error, TransmitError::Full);
        assert!(Instant::now() < deadline, "the device takes nothing");
        port.flush();
    }
    port.flush();
}

/// The next frame of our ethertype, by polling.
fn next_frame(port: &mut DpdkPort, into: &mut Vec<u8>) {
    let deadline = Instant::now() + PATIENCE;
    into.clear();
    loop {
        port.receive(1, &mut |link, bytes| {
            assert_eq!(link, LinkId(0));
            if bytes[12..14] == ETHERTYPE {
                into.extend_from_slice(bytes);
            }
        });
        if !into.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "no packet: {:?}", port.stats());
        thread::yield_now();
    }
}

/// Learns the peer's address by a broadcast.
fn find_peer(port: &mut DpdkPort) -> MacAddr {
    let hello = frame(port, MacAddr([0xff; 6]), ECHO, MIN_FRAME_BYTES, 0);
    send(port, &hello);
    let mut answer = Vec::new();
    next_frame(port, &mut answer);
    MacAddr(answer[6..12].try_into().expect("six bytes"))
}

fn play_echo() {
    let mut port = open();
    println!("ready");
    let stdin = std::io::stdin();
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut last_packet = Instant::now();
    loop {
        port.receive(32, &mut |_, bytes| {
            if bytes[12..14] == ETHERTYPE {
                batch.push(bytes.to_vec());
            }
        });
        if !batch.is_empty() {
            last_packet = Instant::now();
        } else if last_packet.elapsed() < SPIN {
            thread::yield_now();
        } else {
            // The test closes our input when it is done.
            port.wait(PATIENCE, Some(stdin.as_raw_fd())).expect("waits");
            if is_readable(stdin.as_raw_fd()) {
                return;
            }
        }
        for mut bytes in batch.drain(..) {
            let from: [u8; 6] = bytes[6..12].try_into().expect("six bytes");
            bytes[..6].copy_from_slice(&from);
            bytes[6..12].copy_from_slice(&port.mac().0);
            match bytes[HEADER_BYTES] {
                ECHO_LATER => thread::sleep(LATER),
                ECHO_AFTER_STRAYS => {
                    let mut stray = bytes.clone();
                    stray[..6].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
                    (0..10).for_each(|_| send(&mut port, &stray));
                }
                _ => {}
            }
            send(&mut port, &bytes);
        }
    }
}

fn is_readable(fd: i32) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // SAFETY: the descriptor of this process's standard input or of a socket that the caller keeps open.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).expect("polls") > 0
}

/// All sizes one by one, then many in flight; prints the median round trips.
fn play_exchange() {
    let start = Instant::now();
    let mut port = open();
    let opened = start.elapsed();
    let expected: usize = match env::var(PORT).expect("set").as_str() {
        _ if port.mtu() == 1500 => 1500,
        "af_xdp:rum0" => 3400,
        _ => 9000,
    };
    assert_eq!(port.mtu(), expected);
    let peer = find_peer(&mut port);
    let most = port.mtu() + HEADER_BYTES;
    let mut answer = Vec::new();
    let sizes = (MIN_FRAME_BYTES..most).step_by(most / 400).chain([MIN_FRAME_BYTES, most - 1, most]);
    for (seed, len) in sizes.enumerate() {
        let bytes = frame(&port, peer, ECHO, len, seed);
        send(&mut port, &bytes);
        next_frame(&mut port, &mut answer);
        assert_eq!(answer[..6], port.mac().0);
        assert_eq!(answer[6..12], peer.0);
        assert!(answer[12..] == bytes[12..], "{len} bytes came back changed");
    }
    let short = frame(&port, peer, ECHO, 20, 5);
    send(&mut port, &short);
    next_frame(&mut port, &mut answer);
    assert_eq!(answer.len(), MIN_FRAME_BYTES, "a short frame is filled up");
    assert_eq!(answer[12..20], short[12..]);
    assert!(answer[20..].iter().all(|&byte| byte == 0));
    let long = frame(&port, peer, ECHO, most + 1, 0);
    assert_eq!(port.transmit(LinkId(0), &[&long]), Err(TransmitError::TooLong));
    assert_eq!(port.transmit(LinkId(1), &[&short]), Err(TransmitError::Closed));
    exchange_many(&mut port, peer);
    let (small, large) = (median_round_trip(&mut port, peer, 64), median_round_trip(&mut port, peer, most));
    let name = port.name();
    println!("::{name} MTU {}: opened in {opened:.1?}, median echo 64 B {small:.1?}, {most} B {large:.1?}", most - 14);
}

/// Keeps 64 frames of changing size in flight, far fewer than any ring on the way holds: all come back whole.
fn exchange_many(port: &mut DpdkPort, peer: MacAddr) {
    const COUNT: usize = 20_000;
    const WINDOW: usize = 64;
    let most = port.mtu() + HEADER_BYTES - 2 * MIN_FRAME_BYTES;
    let numbered = |port: &DpdkPort, number: usize| {
        let mut bytes = frame(port, peer, ECHO, MIN_FRAME_BYTES + number * 37 % most, number);
        bytes.extend(number.to_le_bytes());
        bytes
    };
    let mut next = 0;
    let mut in_flight: Vec<usize> = Vec::with_capacity(WINDOW);
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while next < COUNT || !in_flight.is_empty() {
        assert!(Instant::now() < deadline, "stuck: {:?}", port.stats());
        while next < COUNT && in_flight.len() < WINDOW {
            let bytes = numbered(port, next);
            if let Err(error) = port.transmit(LinkId(0), &[&bytes]) {
                assert_eq!(error, TransmitError::Full);
                break;
            }
            in_flight.push(next);
            next += 1;
        }
        port.flush();
        port.receive(32, &mut |_, bytes| answers.push(bytes.to_vec()));
        if answers.is_empty() {
            thread::yield_now();
        }
        for answer in answers.drain(..) {
            let number = usize::from_le_bytes(*answer.last_chunk().expect("a number"));
            assert!(answer[12..] == numbered(port, number)[12..], "packet {number} came back changed");
            in_flight.retain(|&other| other != number);
        }
    }
    let stats = port.stats();
    assert!(stats.received >= COUNT as u64 && stats.transmitted >= COUNT as u64, "{stats:?}");
    assert_eq!((stats.receive_errors, stats.transmit_errors, stats.transmit_no_buffer), (0, 0, 0), "{stats:?}");
}

fn median_round_trip(port: &mut DpdkPort, peer: MacAddr, len: usize) -> Duration {
    let bytes = frame(port, peer, ECHO, len, 1);
    let mut answer = Vec::with_capacity(len);
    let mut times: Vec<Duration> = (0..2_000)
        .map(|_| {
            let start = Instant::now();
            send(port, &bytes);
            next_frame(port, &mut answer);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn play_sleep() {
    let mut port = open();
    let peer = find_peer(&mut port);
    let mut answer = Vec::new();

    // Nothing comes: the whole timeout, and hardly any CPU.
    let (start, cpu) = (Instant::now(), cpu_time());
    port.wait(Duration::from_millis(100), None).expect("waits");
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(cpu_time() - cpu < Duration::from_millis(20), "sleeping must not spin");

    // A packet comes while we sleep.
    let later = frame(&port, peer, ECHO_LATER, 200, 3);
    for _ in 0..5 {
        let start = Instant::now();
        send(&mut port, &later);
        port.wait(PATIENCE, None).expect("waits");
        let slept = start.elapsed();
        next_frame(&mut port, &mut answer);
        assert_eq!(answer[12..], later[12..]);
        assert!(slept >= LATER / 2 && slept < PATIENCE / 2, "slept {slept:?}");
    }

    // A packet came before we sleep: in the device, then in the port's own batch.
    let now = frame(&port, peer, ECHO, 200, 4);
    send(&mut port, &now);
    send(&mut port, &now);
    let fd = port.poll_fd().expect("has a socket");
    let deadline = Instant::now() + PATIENCE;
    while !is_readable(fd) {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    for _ in 0..2 {
        let start = Instant::now();
        port.wait(PATIENCE, None).expect("waits");
        assert!(start.elapsed() < PATIENCE / 2, "a packet was waiting");
        next_frame(&mut port, &mut answer);
    }

    // The wake descriptor.
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let start = Instant::now();
    let waker = thread::spawn(move || {
        thread::sleep(LATER);
        nix::unistd::write(&writer, &[1]).expect("writes");
    });
    port.wait(PATIENCE, Some(reader.as_raw_fd())).expect("waits");
    assert!(start.elapsed() >= LATER / 2 && start.elapsed() < PATIENCE / 2);
    waker.join().expect("ends");

    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let start = Instant::now();
            send(&mut port, &now);
            port.wait(PATIENCE, None).expect("waits");
            next_frame(&mut port, &mut answer);
            let time = start.elapsed();
            // Long enough for the other end to fall asleep again.
            port.wait(2 * SPIN, None).expect("waits");
            time
        })
        .collect();
    times.sort_unstable();
    println!("::{}: median echo with both ends asleep {:.1?}", port.name(), times[times.len() / 2]);
}

/// The processor time of this thread.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("proc");
    Duration::from_nanos(stat.split_whitespace().next().and_then(|text| text.parse().ok()).expect("nanoseconds"))
}

fn play_filter() {
    let mut port = open();
    let peer = find_peer(&mut port);
    // As the host's own network stack would send by this interface: with its address, to everybody.
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).expect("root");
    let own = frame(&port, MacAddr([0xff; 6]), 77, 100, 9);
    send_raw(raw.as_raw_fd(), &own);
    let request = frame(&port, peer, ECHO_AFTER_STRAYS, 100, 2);
    send(&mut port, &request);
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !answers.iter().any(|answer| answer[12..] == request[12..]) {
        assert!(Instant::now() < deadline, "no answer");
        port.receive(32, &mut |_, bytes| answers.push(bytes.to_vec()));
        thread::yield_now();
    }
    assert!(port.stats().filtered >= 10, "{:?}", port.stats());
    for answer in answers {
        assert_eq!(answer[..6], port.mac().0, "a packet for another address was handed over");
        assert_ne!(answer[6..12], port.mac().0, "the port heard its own host");
    }
}

fn send_raw(fd: i32, bytes: &[u8]) {
    use nix::sys::socket::LinkAddr;
    let interface = nix::ifaddrs::getifaddrs()
        .expect("interfaces")
        .find(|entry| entry.interface_name == "rum0" && entry.address.is_some_and(|a| a.as_link_addr().is_some()))
        .expect("rum0");
    let address: LinkAddr = *interface.address.and_then(|a| a.as_link_addr().copied()).as_ref().expect("has one");
    let sent = sendto(fd, bytes, &address, MsgFlags::empty()).expect("sends");
    assert_eq!(sent, bytes.len());
}

fn play_fork() {
    let mut port = open();
    // SAFETY: the child calls only code of this test and of the port, and leaves by _exit; the other threads of the
    // test harness hold no lock that the child needs to do so.
    match unsafe { fork() }.expect("forks") {
        ForkResult::Child => {
            let refused = matches!(try_open(), Err(DpdkError::Forked { .. }));
            let dead = port.is_closed()
                && port.receive(32, &mut |_, _| {}) == 0
                && port.transmit(LinkId(0), &[&[0; 60]]) == Err(TransmitError::Closed)
                && port.wait(Duration::ZERO, None).is_err();
            drop(port);
            // SAFETY: ends the process without running handlers of the parent.
            unsafe { nix::libc::_exit(if refused && dead { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).expect("a child"), WaitStatus::Exited(child, 0));
            assert!(!port.is_closed(), "the parent's port lives on");
            send(&mut port, &[0xff; 60]);
            assert_eq!(port.stats().transmitted, 1);
        }
    }
}

fn play_many() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let first = open();
    assert!(is_closed_on_exec(first.poll_fd().expect("has a socket")), "programs must not inherit it");
    drop(first);
    let before = descriptors();
    for _ in 0..40 {
        drop(open());
    }
    assert_eq!(descriptors(), before, "a closed port keeps nothing open");
    let mut ports: Vec<DpdkPort> = (0..32).map(|_| open()).collect();
    assert!(matches!(try_open(), Err(DpdkError::TooManyPorts { limit: 32, .. })));
    for port in &mut ports {
        send(port, &[0xff; 60]);
        assert_eq!(port.stats().transmitted, 1);
    }
    ports.pop();
    ports.push(open());
}

fn is_closed_on_exec(fd: i32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("open");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("has flags");
    i32::from_str_radix(flags.trim(), 8).expect("octal") & nix::libc::O_CLOEXEC != 0
}

fn play_removed() {
    let mut port = open();
    ip(&["link", "del", "rum0"]);
    let deadline = Instant::now() + PATIENCE;
    while !port.is_closed() {
        assert!(Instant::now() < deadline, "the port has not noticed");
        let _ = port.wait(Duration::from_millis(10), None);
    }
    assert_eq!(port.transmit(LinkId(0), &[&[0; 60]]), Err(TransmitError::Closed));
    assert!(matches!(try_open(), Err(DpdkError::NoSuchInterface { .. })));
}

fn play_default_route() {
    ip(&["addr", "add", "192.0.2.1/24", "dev", "rum0"]);
    drop(open());
    ip(&["route", "add", "default", "via", "192.0.2.2"]);
    let error = try_open().err().expect("refused");
    assert!(matches!(error, DpdkError::DefaultRoute { .. }), "{error}");
    assert!(matches!(
        try_open_as("vdev:net_af_packet7,iface=rum0", &DpdkOptions::default()),
        Err(DpdkError::DefaultRoute { .. })
    ));
    let forced = DpdkOptions { force: true, ..DpdkOptions::default() };
    drop(try_open_as("af_packet:rum0", &forced).unwrap_or_else(|error| panic!("{error}")));
}

fn play_down() {
    ip(&["link", "set", "rum0", "down"]);
    let error = try_open().err().expect("refused");
    assert!(matches!(error, DpdkError::InterfaceDown { .. }), "{error}");
}

/// While the interface is down sending goes nowhere, but does not hang; when it is up again, packets flow.
fn play_link_flap() {
    let mut port = open();
    let peer = find_peer(&mut port);
    let lost = frame(&port, peer, ECHO, 1000, 1);
    ip(&["link", "set", "rum0", "down"]);
    let start = Instant::now();
    let refused = (0..10_000).filter(|_| port.transmit(LinkId(0), &[&lost]).is_err()).count();
    assert!(refused > 5_000, "only {refused} refused");
    let cpu = cpu_time();
    for _ in 0..10 {
        port.wait(Duration::from_millis(10), None).expect("waits");
    }
    assert!(cpu_time() - cpu < Duration::from_millis(50), "sleeping must not spin");
    assert!(start.elapsed() < PATIENCE && !port.is_closed());
    ip(&["link", "set", "rum0", "up"]);
    // The receive ring may overflow with what was held back, so ask until an answer comes.
    let request = frame(&port, peer, ECHO, 300, 2);
    let (deadline, mut answered) = (Instant::now() + PATIENCE, false);
    while !answered {
        assert!(Instant::now() < deadline, "no answer: {:?}", port.stats());
        let _ = port.transmit(LinkId(0), &[&request]);
        port.wait(Duration::from_millis(10), None).expect("waits");
        port.receive(1024, &mut |_, bytes| answered |= bytes[12..] == request[12..]);
    }
}

fn play_unprivileged() {
    let nobody = Uid::from_raw(65534);
    setresuid(nobody, nobody, nobody).expect("root may");
    let error = try_open().err().expect("refused");
    assert!(matches!(error, DpdkError::Permission { capability: "CAP_NET_RAW", .. }), "{error}");
    let error = try_open_as("af_xdp:rum0", &DpdkOptions::default()).err().expect("refused");
    assert!(matches!(error, DpdkError::Permission { .. }), "{error}");
    // On one CPU only, as a program may be.
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).expect("allowed");
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).expect("in range")).expect("one");
    let mut one = CpuSet::new();
    one.set(last).expect("in range");
    sched_setaffinity(this_thread, &one).expect("allowed");
    let mut port = try_open_as("vdev:net_ring0", &DpdkOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(sched_getaffinity(this_thread).expect("allowed"), one);
    loop_back(&mut port);
}

/// The blocked signals of the thread that EAL started.
fn signals_blocked_by_eal() -> u64 {
    let is_eal =
        |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("eal-"));
    let mut tasks = std::fs::read_dir("/proc/self/task").expect("proc").map(|entry| entry.expect("a task").path());
    let task = tasks.find(|task| is_eal(task)).expect("EAL has a thread");
    let status = std::fs::read_to_string(task.join("status")).expect("alive");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("has a mask");
    u64::from_str_radix(mask.trim(), 16).expect("hexadecimal")
}

/// A device that gives back what it is sent.
fn loop_back(port: &mut DpdkPort) {
    let mut answer = Vec::new();
    for seed in 0..1_000 {
        let bytes = frame(port, port.mac(), ECHO, 60 + seed % 1400, seed);
        send(port, &bytes);
        next_frame(port, &mut answer);
        assert!(answer == bytes, "packet {seed}");
    }
}

fn play_vdev() {
    let affinity = || sched_getaffinity(Pid::from_raw(0)).expect("allowed");
    let before = affinity();
    let mut port = open();
    assert_eq!(affinity(), before);
    let term_and_int = 1 << (nix::libc::SIGTERM - 1) | 1 << (nix::libc::SIGINT - 1);
    assert_eq!(signals_blocked_by_eal() & term_and_int, term_and_int, "the program's handlers must not run there");
    loop_back(&mut port);
    assert_eq!(port.poll_fd(), None);
    let (start, cpu) = (Instant::now(), cpu_time());
    port.wait(Duration::from_millis(100), None).expect("waits");
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(cpu_time() - cpu < Duration::from_millis(60), "sleeping must not spin");
    let bytes = frame(&port, port.mac(), ECHO, 100, 1);
    send(&mut port, &bytes);
    let start = Instant::now();
    port.wait(PATIENCE, None).expect("waits");
    assert!(start.elapsed() < PATIENCE / 2, "a packet was waiting");
    let mut answer = Vec::new();
    next_frame(&mut port, &mut answer);
    assert_eq!(answer, bytes);
}

fn play_no_driver() {
    let error = try_open().err().expect("refused");
    assert!(matches!(&error, DpdkError::NoDriver { device, .. } if device == "net_no_such_driver0"), "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    println!("::{text}");
    // The failure leaves EAL usable.
    drop(try_open_as("af_packet:rum0", &DpdkOptions::default()).unwrap_or_else(|error| panic!("{error}")));
}
