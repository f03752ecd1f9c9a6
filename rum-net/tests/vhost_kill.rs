//! Clients that are killed in mid-traffic, as processes of their own: the slave leaks nothing and goes on. (Counts
//! the process's descriptors, so no other test runs in this file.)

mod vhost_common;

use std::{
    collections::HashMap,
    process::Child,
    sync::mpsc,
    time::{Duration, Instant},
};

use rum_net::port::{
    LinkId, Port,
    vhost_user::{CloseReason, ListenOptions, VhostClientPort, VhostListenPort},
};
use vhost_common::{Echo, child_socket, frame, socket_dir, spawn_child, try_echo};

const KILLS: usize = 200;
const AT_ONCE: usize = 3;

/// Not a test by itself: what a child process of the other tests runs.
#[test]
fn child() {
    if let Some(path) = child_socket() {
        flood(&mut VhostClientPort::connect(path).unwrap());
    }
}

fn flood(port: &mut VhostClientPort) {
    let packets: Vec<_> = (0..64).map(|i| frame(60 + 70 * i, i as u64)).collect();
    loop {
        for packet in &packets {
            let _ = port.transmit(LinkId(0), &[packet]);
        }
        port.flush();
        port.receive(64, &mut |_, _| {});
        if port.is_closed() {
            return;
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// The slave of the kill test, with what it knows of each link.
struct Slave {
    port: VhostListenPort,
    echo: Echo,
    opened: Vec<LinkId>,
    received: HashMap<LinkId, u64>,
}

impl Slave {
    fn turn(&mut self) {
        let before = self.port.stats().received;
        self.echo.turn(&mut self.port);
        for (link, _) in self.echo.packets() {
            *self.received.entry(*link).or_default() += 1;
        }
        let (opened, received) = (&mut self.opened, &mut self.received);
        self.port.link_changes(&mut |link, open| {
            if open {
                opened.push(link);
            } else {
                opened.retain(|other| *other != link);
                received.remove(&link);
            }
        });
        if self.port.stats().received == before {
            self.port.wait(Duration::from_millis(1), None).unwrap();
        }
    }

    fn turn_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}; {:?}", self.port.stats());
            self.turn();
        }
    }
}

#[test]
fn two_hundred_killed_floods_leave_nothing_behind() {
    if child_socket().is_some() {
        return;
    }
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let port = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    let mut slave = Slave { port, echo: Echo::default(), opened: Vec::new(), received: HashMap::new() };
    // One thread joins anew whenever it is asked.
    let (ask, asked) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let socket = path.clone();
    let joiner = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            let joined = VhostClientPort::connect(&socket)
                .map_err(|error| error.to_string())
                .and_then(|mut port| try_echo(&mut port, &frame(4110, 9), Duration::from_secs(60)));
            tell.send(joined).unwrap();
        }
    });
    let mut seed = 0x5eed_u64;
    let mut children: Vec<Child> = Vec::new();
    let mut start = (0, 0);
    for kill in 0..KILLS {
        if kill == 6 {
            // Everything that is made once is made by now.
            end_all(&mut slave, &mut children);
            start = (descriptors(), maps());
        }
        while children.len() < AT_ONCE {
            children.push(spawn_child(&path));
        }
        let enough = 1 + seed % 5000;
        slave.turn_until("three clients flood", |slave| {
            slave.opened.len() == AT_ONCE
                && slave.opened.iter().all(|l| slave.received.get(l).is_some_and(|n| *n > enough))
        });
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
        let mut victim = children.swap_remove((seed >> 33) as usize % AT_ONCE);
        victim.kill().unwrap();
        victim.wait().unwrap();
        ask.send(()).unwrap();
        let mut joined = None;
        slave.turn_until("a new client joins", |_| {
            joined = joined.take().or_else(|| told.try_recv().ok());
            joined.is_some()
        });
        joined.unwrap().unwrap();
        slave.turn_until("the killed one and the new one are gone", |slave| slave.opened.len() == AT_ONCE - 1);
    }
    end_all(&mut slave, &mut children);
    let end = (descriptors(), maps());
    assert_eq!(end.0, start.0, "descriptors");
    assert!(end.1 <= start.1 + 2, "maps: {} at the start, {} at the end", start.1, end.1);
    assert!(!std::fs::read_to_string("/proc/self/maps").unwrap().contains("rum-vhost"));
    let stats = slave.port.stats();
    assert_eq!(stats.closed_for(CloseReason::Disconnected), stats.accepted);
    drop(ask);
    joiner.join().unwrap();
}

fn end_all(slave: &mut Slave, children: &mut Vec<Child>) {
    for mut child in children.drain(..) {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    slave.turn_until("all clients are gone", |slave| slave.opened.is_empty() && slave.port.connections() == 0);
}
