//! How fast the vhost-user port is: a slave process and a client process, each pinned to a CPU of its own.
//!
//! `cargo run --release -p rum-net --example vhost_bench [-- IDLE_CLIENTS]`

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use rum_net::port::{
    LinkId, Port,
    vhost_user::{ListenOptions, VhostClientPort, VhostListenPort},
};

const ROUND_TRIPS: usize = 100_000;
const STREAM_TIME: Duration = Duration::from_millis(200);
const RUNS: usize = 5;
const HEADER_BYTES: usize = 14;
/// Where a packet says how long the answer is to be: 0 means as long as itself.
const ANSWER_AT: usize = 12;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next() {
        Some(word) if word == "--slave" => serve(Path::new(&arguments.next().expect("a socket path"))),
        idle => measure(idle.map_or(0, |number| number.parse().expect("a number of idle clients"))),
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU number");
    if sched_setaffinity(Pid::from_raw(0), &set).is_err() {
        eprintln!("no CPU {cpu}: figures will be poor");
    }
}

fn serve(path: &Path) {
    // Ends with the client, however that ends.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("a signal at the parent's death");
    pin(1);
    let mut port = VhostListenPort::bind(path, ListenOptions::default()).expect("a socket");
    let page = vec![7u8; 8192];
    let mut packets: Vec<(LinkId, usize, usize)> = Vec::with_capacity(64);
    let mut bytes = vec![0u8; 64 * 8192];
    loop {
        packets.clear();
        let mut filled = 0;
        port.receive(64, &mut |link, packet| {
            let answer = usize::from(u16::from_be_bytes([packet[ANSWER_AT], packet[ANSWER_AT + 1]]));
            bytes[filled..filled + packet.len()].copy_from_slice(packet);
            filled += packet.len();
            packets.push((link, packet.len(), answer));
        });
        let mut at = 0;
        for (link, len, answer) in &packets {
            let packet = &bytes[at..at + len];
            at += len;
            let _ = match answer {
                0 => port.transmit(*link, &[packet]),
                answer => port.transmit(*link, &[&packet[..HEADER_BYTES], &page[..*answer]]),
            };
        }
        port.flush();
    }
}

fn measure(idle_clients: usize) {
    pin(0);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("slave");
    let mut slave = Command::new(std::env::current_exe().expect("this program's path"))
        .arg("--slave")
        .arg(&path)
        .stdin(Stdio::null())
        .spawn()
        .expect("a slave process");
    while !path.exists() {
        std::thread::yield_now();
    }
    let started = Instant::now();
    let mut port = VhostClientPort::connect(&path).expect("a connection");
    let connected = started.elapsed();
    round_trip(&mut port, &packet(64, 0));
    println!("first connect {:.2} ms, with the first echo {:.2} ms", ms(connected), ms(started.elapsed()));
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        let mut another = VhostClientPort::connect(&path).expect("a connection");
        round_trip(&mut another, &packet(64, 0));
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("connect and first echo, median of 21: {:.2} ms", ms(times[10]));
    let idle: Vec<_> = (0..idle_clients).map(|_| VhostClientPort::connect(&path).expect("a connection")).collect();
    for _ in 0..RUNS {
        let small = latencies(&mut port, &packet(64, 0));
        let page = latencies(&mut port, &packet(64, 4096));
        let packets = stream(&mut port, &packet(64, 0));
        let bytes = stream(&mut port, &packet(HEADER_BYTES + 4096, 0));
        println!(
            "64 B: p50 {:.2} p99 {:.2} us | 64 B -> 4 KiB: p50 {:.2} p99 {:.2} us | {:.1} Mpps | {:.1} GB/s each way",
            small.0,
            small.1,
            page.0,
            page.1,
            packets / 1e6,
            bytes * 4096.0 / 1e9
        );
    }
    drop(idle);
    slave.kill().expect("the slave ends");
    slave.wait().expect("the slave ends");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn packet(len: usize, answer: u16) -> Vec<u8> {
    let mut packet = vec![0x55; len];
    packet[ANSWER_AT..ANSWER_AT + 2].copy_from_slice(&answer.to_be_bytes());
    packet
}

fn round_trip(port: &mut VhostClientPort, packet: &[u8]) {
    port.transmit(LinkId(0), &[packet]).expect("room for a packet");
    port.flush();
    while port.receive(1, &mut |_, _| {}) == 0 {
        std::hint::spin_loop();
    }
}

/// p50 and p99 of a round trip in microseconds.
fn latencies(port: &mut VhostClientPort, packet: &[u8]) -> (f64, f64) {
    let mut times: Vec<u64> = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        round_trip(port, packet);
        times.push(start.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    (times[ROUND_TRIPS / 2] as f64 / 1e3, times[ROUND_TRIPS * 99 / 100] as f64 / 1e3)
}

/// Packets a second that go to the slave and come back.
fn stream(port: &mut VhostClientPort, packet: &[u8]) -> f64 {
    const WINDOW: u64 = 192;
    let (mut sent, mut got) = (0u64, 0u64);
    let start = Instant::now();
    while start.elapsed() < STREAM_TIME {
        for _ in 0..64 {
            for _ in 0..32 {
                if sent - got >= WINDOW || port.transmit(LinkId(0), &[packet]).is_err() {
                    break;
                }
                sent += 1;
            }
            port.flush();
            got += port.receive(64, &mut |_, _| {}) as u64;
        }
    }
    let rate = got as f64 / start.elapsed().as_secs_f64();
    let deadline = Instant::now() + Duration::from_secs(5);
    while got < sent && Instant::now() < deadline {
        got += port.receive(64, &mut |_, _| {}) as u64;
    }
    assert_eq!(got, sent, "packets were lost");
    rate
}
