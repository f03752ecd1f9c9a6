//! Sleeping and waking: no wake-up is lost, whatever the other side does at that moment.

mod vhost_common;

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rum_net::port::{
    LinkId, Port, TransmitError,
    vhost_user::{ListenOptions, VhostClientPort, VhostListenPort},
};
use vhost_common::{Echo, frame, socket_dir};

/// A lost wake-up shows as a wait of this length.
const LONG: Duration = Duration::from_secs(20);
const TOO_LONG: Duration = Duration::from_secs(10);

/// A small generator for the lengths of spins before sleeping.
struct Spins(u64);

impl Spins {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

fn sleep_checked(port: &mut dyn Port, wake: Option<i32>) {
    let start = Instant::now();
    port.wait(LONG, wake).unwrap();
    assert!(start.elapsed() < TOO_LONG, "a wake-up was lost");
}

#[test]
fn ten_thousand_sleeps_lose_no_wake_up() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let stop = AtomicBool::new(false);
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut echo = Echo::default();
            let mut spins = Spins(1);
            let start = Instant::now();
            while !stop.load(Ordering::Acquire) {
                assert!(start.elapsed() < Duration::from_secs(200));
                for _ in 0..spins.next(60) {
                    echo.turn(&mut slave);
                }
                sleep_checked(&mut slave, Some(wake.as_fd().as_raw_fd()));
                echo.turn(&mut slave);
            }
        });
        let mut port = VhostClientPort::connect(&path).unwrap();
        let mut spins = Spins(2);
        for round in 0..10_000u64 {
            let packet = frame(64, round);
            port.transmit(LinkId(0), &[&packet]).unwrap();
            port.flush();
            let mut got = 0;
            for _ in 0..spins.next(60) {
                got += port.receive(1, &mut |_, bytes| assert_eq!(bytes, packet));
            }
            while got == 0 {
                sleep_checked(&mut port, None);
                got += port.receive(1, &mut |_, bytes| assert_eq!(bytes, packet));
            }
        }
        stop.store(true, Ordering::Release);
        wake.write(1).unwrap();
    });
}

#[test]
fn what_arrived_before_a_wait_ends_it_at_once() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let (echoed, sent) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = VhostClientPort::connect(&path).unwrap();
            port.transmit(LinkId(0), &[&frame(64, 1)]).unwrap();
            port.flush();
            sent.store(true, Ordering::Release);
            while !echoed.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            // The slave has not called: this side did not sleep then.
            sleep_checked(&mut port, None);
            assert_eq!(port.receive(1, &mut |_, _| {}), 1);
        });
        let start = Instant::now();
        while !sent.load(Ordering::Acquire) {
            assert!(start.elapsed() < TOO_LONG);
            slave.receive(0, &mut |_, _| {});
        }
        // Likewise: the client has not kicked a slave that polls.
        sleep_checked(&mut slave, None);
        let mut echo = Echo::default();
        while echo.turn(&mut slave) == 0 {
            assert!(start.elapsed() < TOO_LONG);
        }
        echoed.store(true, Ordering::Release);
    });
}

#[test]
fn the_wake_descriptor_ends_a_wait() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let wake = EventFd::from_value(0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::yield_now();
            wake.write(1).unwrap();
        });
        sleep_checked(&mut slave, Some(wake.as_fd().as_raw_fd()));
    });
    let start = Instant::now();
    slave.wait(Duration::from_millis(5), None).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(5), "a wait without reason to end");
}

#[test]
fn a_client_without_buffers_is_woken_when_there_are_some() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let (full, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = VhostClientPort::connect(&path).unwrap();
            for _ in 0..20 {
                while port.transmit(LinkId(0), &[&frame(1000, 3)]).is_ok() {}
                port.flush();
                full.store(true, Ordering::Release);
                sleep_checked(&mut port, None);
                assert_eq!(port.transmit(LinkId(0), &[&frame(1000, 3)]), Ok(()));
            }
            done.store(true, Ordering::Release);
        });
        let start = Instant::now();
        while !done.load(Ordering::Acquire) {
            assert!(start.elapsed() < TOO_LONG);
            // Handles the handshake, but takes packets only when the client cannot go on.
            slave.wait(Duration::from_micros(100), None).unwrap();
            if full.swap(false, Ordering::AcqRel) {
                while slave.receive(64, &mut |_, _| {}) > 0 {}
                slave.flush();
            }
        }
    });
}

#[test]
fn a_slave_without_buffers_is_woken_when_there_are_some() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = VhostClientPort::connect(&path).unwrap();
            let mut got = 0;
            while got < 20_000 {
                sleep_checked(&mut port, None);
                got += port.receive(200, &mut |_, bytes| assert_eq!(bytes.len(), 100));
            }
            done.store(true, Ordering::Release);
        });
        let mut link = None;
        let mut sent = 0;
        let start = Instant::now();
        while !done.load(Ordering::Acquire) && sent < 20_000 {
            assert!(start.elapsed() < 2 * TOO_LONG);
            if let Some(link) = link {
                match slave.transmit(link, &[&frame(100, 4)]) {
                    Ok(()) => {
                        sent += 1;
                        continue;
                    }
                    Err(error) => assert_eq!(error, TransmitError::Full),
                }
                slave.flush();
            }
            sleep_checked(&mut slave, None);
            slave.link_changes(&mut |changed, open| link = open.then_some(changed));
        }
        slave.flush();
    });
}

#[test]
fn an_idle_slave_sleeps() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let done = AtomicBool::new(false);
    let clients: Vec<VhostClientPort> = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let clients = (0..40).map(|_| VhostClientPort::connect(&path).unwrap()).collect();
            done.store(true, Ordering::Release);
            clients
        });
        let start = Instant::now();
        while !done.load(Ordering::Acquire) {
            assert!(start.elapsed() < TOO_LONG);
            slave.wait(Duration::from_millis(1), None).unwrap();
        }
        connecting.join().unwrap()
    });
    slave.link_changes(&mut |_, _| {});
    slave.wait(Duration::from_millis(1), None).unwrap();
    let start = Instant::now();
    slave.wait(Duration::from_millis(50), None).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
    drop(clients);
}
