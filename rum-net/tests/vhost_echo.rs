//! Clients and a slave in one process: contents, sizes, many clients, connecting and binding.

mod vhost_common;

use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rum_net::port::{
    LinkId, Port, TransmitError,
    vhost_user::{BindError, ConnectError, ListenOptions, MTU, VhostClientPort, VhostListenPort},
};
use vhost_common::{EchoSlave, echo_once, frame, socket_dir};

#[test]
fn every_length_comes_back_unchanged() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let slave = EchoSlave::start(&path);
    let mut port = VhostClientPort::connect(&path).unwrap();
    for len in 14..=14 + MTU {
        echo_once(&mut port, &frame(len, len as u64));
    }
    assert_eq!(port.transmit(LinkId(0), &[&vec![0; 15 + MTU]]), Err(TransmitError::TooLong));
    drop(port);
    let stats = slave.stop();
    assert_eq!(stats.received, MTU as u64 + 1);
    assert_eq!(stats.bad_length, 0);
}

#[test]
fn parts_are_joined() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let _slave = EchoSlave::start(&path);
    let mut port = VhostClientPort::connect(&path).unwrap();
    let whole = frame(200, 1);
    port.transmit(LinkId(0), &[&whole[..14], &[], &whole[14..15], &whole[15..]]).unwrap();
    port.flush();
    let mut got = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while got.is_empty() && Instant::now() < deadline {
        port.receive(1, &mut |_, bytes| got = bytes.to_vec());
    }
    assert_eq!(got, whole);
}

#[test]
fn sixty_four_clients_at_once() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let slave = EchoSlave::start(&path);
    std::thread::scope(|scope| {
        for client in 0..64u64 {
            let path = &path;
            scope.spawn(move || {
                let mut port = VhostClientPort::connect(path).unwrap();
                for round in 0..50 {
                    let len = 14 + ((client * 131 + round * 977) as usize % MTU);
                    echo_once(&mut port, &frame(len, client << 32 | round));
                }
            });
        }
    });
    let stats = slave.stop();
    assert_eq!((stats.opened, stats.received), (64, 64 * 50));
}

#[test]
fn links_open_and_close_and_are_never_reused() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let mut port = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let done = AtomicBool::new(false);
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                drop(VhostClientPort::connect(&path).unwrap());
            }
            done.store(true, Ordering::Release);
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while !(done.load(Ordering::Acquire) && closed.len() == 20) {
            assert!(Instant::now() < deadline, "{opened:?} {closed:?}");
            port.wait(Duration::from_millis(10), None).unwrap();
            port.link_changes(&mut |link, open| if open { opened.push(link) } else { closed.push(link) });
        }
    });
    assert_eq!(opened, closed);
    opened.sort();
    opened.dedup();
    assert_eq!(opened.len(), 20);
    for link in opened {
        assert_eq!(port.transmit(link, &[&frame(60, 0)]), Err(TransmitError::Closed));
    }
}

#[test]
fn connecting_fails_with_a_reason() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    assert!(matches!(VhostClientPort::connect(&path), Err(ConnectError::NoSuchPath(_))));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(VhostClientPort::connect(&path), Err(ConnectError::NotServed(_))));
    assert!(matches!(VhostClientPort::connect("/".repeat(200)), Err(ConnectError::PathTooLong(_))));
    std::fs::remove_file(&path).unwrap();
    // A process that accepts and closes.
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(listener.accept().unwrap()));
        let error = VhostClientPort::connect(&path).unwrap_err();
        assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    });
    // A process that never answers.
    let start = Instant::now();
    assert!(matches!(VhostClientPort::connect(&path), Err(ConnectError::NoAnswer(_))));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let port = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let error = VhostListenPort::bind(&path, ListenOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), format!("another process serves {}", path.display()));
    drop(port);
    assert!(!path.exists());
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(VhostListenPort::bind(&path, ListenOptions::default()), Err(BindError::NotASocket(_))));
    let missing = dir.path().join("none/slave");
    assert!(matches!(VhostListenPort::bind(missing, ListenOptions::default()), Err(BindError::NoSuchDirectory(_))));
    let options = ListenOptions { mode: 0o666, ..ListenOptions::default() };
    let path = dir.path().join("open");
    let _port = VhostListenPort::bind(&path, options).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn more_clients_than_allowed_are_turned_away() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let slave = EchoSlave::start_with(&path, ListenOptions { max_clients: 2, ..ListenOptions::default() });
    let mut first = VhostClientPort::connect(&path).unwrap();
    let _second = VhostClientPort::connect(&path).unwrap();
    assert!(matches!(VhostClientPort::connect(&path), Err(ConnectError::Protocol { .. })));
    echo_once(&mut first, &frame(64, 1));
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    while VhostClientPort::connect(&path).is_err() {
        assert!(Instant::now() < deadline);
    }
    assert!(slave.stop().refused >= 1);
}

#[test]
fn a_client_notices_that_its_slave_has_gone() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let slave = EchoSlave::start(&path);
    let mut waiting = VhostClientPort::connect(&path).unwrap();
    let mut polling = VhostClientPort::connect(&path).unwrap();
    assert!(!waiting.is_closed());
    slave.stop();
    waiting.wait(Duration::from_secs(10), None).unwrap();
    assert!(waiting.is_closed());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !polling.is_closed() {
        assert!(Instant::now() < deadline);
        polling.receive(1, &mut |_, _| {});
    }
    assert_eq!(polling.transmit(LinkId(0), &[&frame(60, 0)]), Err(TransmitError::Closed));
}
