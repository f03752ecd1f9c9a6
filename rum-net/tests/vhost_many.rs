//! Many connections: idle ones cost a polling slave next to nothing, and are still heard.

mod vhost_common;

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use rum_net::port::{
    Port,
    vhost_user::{ListenOptions, VhostClientPort, VhostListenPort},
};
use vhost_common::{Echo, frame, socket_dir, try_echo};

const CLIENTS: usize = 1000;
const POLLS: usize = 20_000;
/// Descriptors of a client and its connection, both in this process, and those of the rest.
const DESCRIPTORS: [u64; 2] = [10, 200];

/// Raises the limit of descriptors (usually 1,024) and says for how many clients it will do.
fn clients_within_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let [each, rest] = DESCRIPTORS;
    // SAFETY: both calls get a live rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.min(CLIENTS as u64 * each + rest);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    ((limit.rlim_cur - rest) / each) as usize
}

/// CPU time of this thread, which other processes do not disturb.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn poll_cost(port: &mut VhostListenPort) -> Duration {
    let start = cpu_time();
    for _ in 0..POLLS {
        port.receive(64, &mut |_, _| {});
    }
    (cpu_time() - start) / POLLS as u32
}

#[test]
fn a_thousand_idle_connections() {
    let count = clients_within_limit();
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut port = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let (ask, asked) = mpsc::channel::<usize>();
    let (tell, told) = mpsc::channel();
    let socket = path.clone();
    let clients = std::thread::spawn(move || {
        let mut clients: Vec<_> = (0..count).map(|_| VhostClientPort::connect(&socket).unwrap()).collect();
        tell.send(()).unwrap();
        while let Ok(number) = asked.recv() {
            try_echo(&mut clients[number], &frame(500, number as u64), Duration::from_secs(30)).unwrap();
            tell.send(()).unwrap();
        }
    });
    let mut echo = Echo::default();
    let deadline = Instant::now() + Duration::from_secs(100);
    while told.try_recv().is_err() {
        assert!(Instant::now() < deadline);
        echo.turn(&mut port);
    }
    // Long enough for all to count as idle.
    poll_cost(&mut port);
    let cost = poll_cost(&mut port);
    println!("a poll with {count} idle connections: {cost:?}");
    assert!(cost < Duration::from_micros(4), "{cost:?}");
    // Any of them is heard at once by a slave that polls, and then by one that sleeps.
    for sleeps in [false, true] {
        for number in (0..count).step_by(37) {
            ask.send(number).unwrap();
            while told.try_recv().is_err() {
                assert!(Instant::now() < deadline);
                if echo.turn(&mut port) == 0 && sleeps {
                    port.wait(Duration::from_millis(5), None).unwrap();
                }
            }
        }
    }
    drop(ask);
    clients.join().unwrap();
}
