//! The port of a software switch (`vhost-listen:`): open before the switch is there, and after it has gone.

mod vhost_common;

use std::{
    os::unix::fs::PermissionsExt,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use rum_net::port::{
    LinkId, MacAddr, Port, TransmitError, open_client,
    vhost_user::{BindError, ListenOptions, SwitchPortOptions, VhostListenPort, VhostSwitchPort},
};
use vhost_common::{Echo, await_that, socket_dir};

/// As in `vhost_common`, for everybody.
fn frame(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vhost_common::frame(len, seed);
    bytes[0] |= 1;
    bytes
}

const PATIENCE: Duration = Duration::from_secs(20);

fn bind(path: &Path) -> VhostSwitchPort {
    VhostSwitchPort::bind(path, &SwitchPortOptions::default()).unwrap()
}

/// A switch with the given port, which sends back what it gets.
fn switch(dir: &Path, port: &Path) -> VhostListenPort {
    let mut switch = VhostListenPort::bind(dir.join("unused"), ListenOptions::default()).unwrap();
    switch.connect(port).unwrap();
    switch
}

/// Both in one thread, so that each step is seen.
fn join(port: &mut VhostSwitchPort, switch: &mut VhostListenPort) {
    let joined = port.joined();
    await_that("the switch joins", || {
        port.wait(Duration::from_millis(1), None).unwrap();
        switch.wait(Duration::ZERO, None).unwrap();
        port.joined() > joined
    });
}

fn echo(port: &mut VhostSwitchPort, switch: &mut VhostListenPort, packet: &[u8]) {
    port.transmit(LinkId(0), &[packet]).unwrap();
    port.flush();
    let mut turn = Echo::default();
    let mut same = None;
    await_that("the packet comes back", || {
        turn.turn(switch);
        port.receive(1, &mut |_, bytes| same = Some(bytes == packet));
        same.is_some()
    });
    assert_eq!(same, Some(true));
}

#[test]
fn open_before_its_switch_and_after_it() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    assert!(!port.has_switch() && !port.is_closed());
    assert_eq!(port.transmit(LinkId(0), &[&frame(60, 1)]), Err(TransmitError::Closed));
    assert_eq!(port.receive(1, &mut |_, _| panic!("from nobody")), 0);
    for round in 0..20 {
        let mut switch = switch(dir.path(), &path);
        join(&mut port, &mut switch);
        for len in [60, 700, 1514] {
            echo(&mut port, &mut switch, &frame(len, round));
        }
        assert_eq!(port.transmit(LinkId(0), &[&frame(1515, 1)]), Err(TransmitError::TooLong));
        // Packets on their way, in both directions, when the switch ends.
        for _ in 0..50 {
            let _ = port.transmit(LinkId(0), &[&frame(1514, 1000 + round)]);
        }
        port.flush();
        Echo::default().turn(&mut switch);
        drop(switch);
        // It notices by itself, and what the old switch had sent is gone with it.
        let start = Instant::now();
        port.wait(PATIENCE, None).unwrap();
        port.wait(Duration::ZERO, None).unwrap();
        assert!(start.elapsed() < PATIENCE, "it did not notice");
        if port.has_switch() {
            // The first wait was ended by a packet that is here already.
            await_that("the end is noticed", || {
                port.receive(64, &mut |_, _| {});
                !port.has_switch()
            });
        }
        assert_eq!(port.transmit(LinkId(0), &[&frame(60, 1)]), Err(TransmitError::Closed));
        assert!(!port.is_closed());
    }
    assert_eq!((port.joined(), port.failed()), (20, 0));
}

#[test]
fn a_polling_owner_notices_too() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    for _ in 0..2 {
        let mut switch = switch(dir.path(), &path);
        await_that("the switch joins", || {
            port.receive(1, &mut |_, _| {});
            switch.receive(1, &mut |_, _| {});
            port.has_switch()
        });
        drop(switch);
        await_that("the switch has gone", || {
            port.receive(1, &mut |_, _| {});
            !port.has_switch()
        });
    }
}

#[test]
fn a_second_switch_waits_for_the_end_of_the_first() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    let mut first = switch(dir.path(), &path);
    join(&mut port, &mut first);
    let other = tempfile::tempdir_in(dir.path()).unwrap();
    let mut second = switch(other.path(), &path);
    for number in 0..100 {
        port.wait(Duration::ZERO, None).unwrap();
        echo(&mut port, &mut first, &frame(100, number));
    }
    assert_eq!((port.joined(), second.clients()), (1, 0));
    drop(first);
    join(&mut port, &mut second);
    echo(&mut port, &mut second, &frame(100, 7));
}

#[test]
fn who_connects_and_does_not_speak_vhost_user_does_not_stay() {
    use std::io::Write;
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    // Gone at once; an answer that makes none; a device that offers nothing; half an answer and an end.
    let answer = |features: u64| {
        let mut bytes = [1u32, 5, 8].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        bytes.extend(features.to_ne_bytes());
        bytes
    };
    for words in [vec![], vec![7; 20], answer(0), answer(1 << 32)[..10].to_vec()] {
        let failed = port.failed();
        let mut peer = UnixStream::connect(&path).unwrap();
        peer.write_all(&words).unwrap();
        if words.len() < 20 {
            drop(peer);
        }
        await_that("it is turned away", || {
            port.wait(Duration::from_millis(1), None).unwrap();
            port.failed() > failed
        });
    }
    // One that says nothing at all has its time, and then the next.
    let silent = UnixStream::connect(&path).unwrap();
    let mut switch = switch(dir.path(), &path);
    let start = Instant::now();
    join(&mut port, &mut switch);
    assert!(start.elapsed() >= Duration::from_secs(2), "patience with a slow switch");
    echo(&mut port, &mut switch, &frame(100, 7));
    drop(silent);
}

#[test]
fn the_socket_is_private_and_goes_with_the_port() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let port = bind(&path);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(
        VhostSwitchPort::bind(&path, &SwitchPortOptions::default()).unwrap_err(),
        BindError::InUse(path.clone())
    );
    let said = open_client(&format!("vhost-listen:{}", path.display()).parse().unwrap()).err().unwrap().to_string();
    assert_eq!(said, format!("another process serves {}", path.display()));
    drop(port);
    assert!(!path.exists());
    let missing = dir.path().join("no/port");
    let said = open_client(&format!("vhost-listen:{}", missing.display()).parse().unwrap()).err().unwrap().to_string();
    assert_eq!(said, format!("no such directory for the socket {}", missing.display()));
    // What a killed client left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let options = SwitchPortOptions { mac: Some(MacAddr([2, 0, 0, 0, 0, 9])), mtu: 9000, mode: 0o660 };
    let port = VhostSwitchPort::bind(&path, &options).unwrap();
    assert_eq!((mode(&path), port.mac(), port.mtu()), (0o660, MacAddr([2, 0, 0, 0, 0, 9]), 9000));
    let [one, other] = ["a", "b"].map(|name| bind(&dir.path().join(name)).mac());
    assert!(one != other && one.0[0] & 3 == 2, "{one} {other}");
}

/// A jumbo frame crosses; on a port for shorter ones it is dropped, and nothing else with it.
#[test]
fn packets_longer_than_the_mtu_are_dropped() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    let mut switch = switch(dir.path(), &path);
    join(&mut port, &mut switch);
    let mut links = vec![];
    switch.link_changes(&mut |link, _| links.push(link));
    for len in [1515, 4622, 60] {
        switch.transmit(links[0], &[&frame(len, 5)]).unwrap();
    }
    switch.flush();
    let mut got = vec![];
    await_that("three packets", || {
        port.receive(4, &mut |_, bytes| got.push(bytes.len()));
        !got.is_empty()
    });
    assert_eq!(got, [60]);
    let mut dropped = 0;
    port.counters(&mut |name, count| dropped += if name == "dropped_bad_length" { count } else { 0 });
    assert_eq!((dropped, port.failed()), (2, 0));
}

#[test]
fn an_idle_owner_sleeps_even_if_it_never_asks_for_changes() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    let asleep = |port: &mut dyn Port| {
        let start = Instant::now();
        port.wait(Duration::from_millis(20), None).unwrap();
        start.elapsed() >= Duration::from_millis(20)
    };
    assert!(asleep(&mut port), "without a switch");
    let mut switch = switch(dir.path(), &path);
    join(&mut port, &mut switch);
    await_that("the switch rests", || asleep(&mut switch));
    await_that("the port rests", || asleep(&mut port));
}

#[test]
fn a_port_takes_what_is_for_it_and_for_everybody() {
    let dir = socket_dir();
    let path = dir.path().join("port");
    let mut port = bind(&path);
    let mut switch = switch(dir.path(), &path);
    join(&mut port, &mut switch);
    let mut links = vec![];
    switch.link_changes(&mut |link, _| links.push(link));
    let mut other = port.mac().0;
    other[5] ^= 1;
    for to in [other, port.mac().0, [0xff; 6]] {
        switch.transmit(links[0], &[&to, &[7; 60]]).unwrap();
    }
    switch.flush();
    let mut got = vec![];
    await_that("two packets", || {
        port.receive(4, &mut |_, bytes| got.push(bytes[..6].to_vec()));
        got.len() == 2
    });
    assert_eq!(got, [port.mac().0.to_vec(), vec![0xff; 6]]);
}
