//! A whole slave in a thread of this process, over the in-process port.

mod support;

use std::time::{Duration, Instant};

use rum_net::{
    EXTENT_BYTES,
    port::memory::{MemoryHub, MemoryPort},
    rpc::Incarnation,
    station::Station,
    wire::message::{OpenNameRefusal, READ_REQUEST_MAX_BYTES, ResponseError, Status, encode_read},
};
use rum_slave::{Options, Slave, SlaveHandle};
use support::{Reset, TestClient, page, pattern, wait_for};

const MIB: u64 = 1 << 20;

fn start(options: Options) -> (MemoryHub, SlaveHandle) {
    let (hub, port) = MemoryHub::new(9000).unwrap();
    (hub, Slave::start(vec![Box::new(port)], options).unwrap())
}

fn connect(hub: &MemoryHub) -> TestClient {
    TestClient::connect(Box::new(hub.connect().unwrap()))
}

fn short_lease(memory_bytes: u64) -> Options {
    Options { lease: Duration::from_millis(1500), ..Options::new(memory_bytes) }
}

#[test]
fn pages_go_there_and_come_back() {
    let (hub, slave) = start(Options::new(64 * MIB));
    let mut client = connect(&hub);
    let extents = client.reserve(4).unwrap();
    let pages: Vec<_> = (0..32).map(|i| page(extents[i as usize % 4], i * 8)).collect();
    let contents: Vec<_> = (0..32).map(pattern).collect();
    let writes: Vec<_> = pages.iter().copied().zip(contents.iter()).collect();
    client.write(&writes).unwrap();
    assert_eq!(client.read(&pages).unwrap(), contents);
    assert_eq!(client.read(&[page(extents[0], 1)]).unwrap(), [[0; 4096]]);
    let stat = client.stat();
    assert_eq!((stat.capacity_extents, stat.reserved_extents, stat.used_pages, stat.sessions), (64, 4, 32, 1));
    assert_eq!(Some(stat.incarnation), client.slave);
    client.bye().unwrap();
    let totals = slave.stop().unwrap();
    assert_eq!((totals.clients, totals.pages_written, totals.pages_read, totals.refused()), (1, 32, 33, 0));
}

#[test]
fn clients_share_the_capacity_and_nothing_else() {
    let (hub, _slave) = start(Options::new(8 * MIB));
    let mut clients: Vec<_> = (0..4).map(|_| connect(&hub)).collect();
    let extents: Vec<_> = clients.iter_mut().map(|client| client.reserve(2).unwrap()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reserve(1), Err(ResponseError::Refused(Status::Full)));
        client.write(&[(page(extents[i][1], 9), &pattern(i as u64))]).unwrap();
        let foreign = page(extents[(i + 1) % 4][1], 9);
        assert_eq!(client.write(&[(foreign, &pattern(99))]), Err(ResponseError::Refused(Status::NotOwner)));
    }
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(&[page(extents[i][1], 9)]).unwrap(), [pattern(i as u64)]);
    }
}

#[test]
fn named_objects_are_found_by_later_clients() {
    let (hub, _slave) = start(short_lease(8 * MIB));
    let mut first = connect(&hub);
    let (extents, existed) = first.open_name([3; 32], Some(EXTENT_BYTES as u64 + 1)).unwrap();
    assert!(!existed && extents.len() == 2);
    first.write(&[(page(extents[1], 0), &pattern(5))]).unwrap();
    drop(first);
    let mut second = connect(&hub);
    wait_for("the first client's lease to end", || second.stat().sessions == 1);
    assert_eq!(second.open_name([3; 32], None), Ok((extents.clone(), true)));
    assert_eq!(second.read(&[page(extents[1], 0)]).unwrap(), [pattern(5)]);
    let differs = OpenNameRefusal::SizeDiffers { existing_bytes: EXTENT_BYTES as u64 + 1 };
    assert_eq!(second.open_name([3; 32], Some(5)), Err(differs));
}

/// Lesson 15, over the network: the lease of a silent client ends, its memory goes to another, and when it wakes up its
/// session is void, its incarnation fenced, and the other's memory untouched.
#[test]
fn a_client_that_was_silent_too_long_is_fenced() {
    let (hub, slave) = start(short_lease(4 * MIB));
    let mut sleeper = connect(&hub);
    let old = sleeper.reserve(4).unwrap();
    sleeper.write(&[(page(old[0], 0), &pattern(1))]).unwrap();

    let mut other = connect(&hub);
    let mut new = Vec::new();
    wait_for("the sleeper's extents", || {
        new = other.reserve(4).unwrap_or_default();
        !new.is_empty()
    });
    for &extent in &new {
        assert_eq!(other.read(&[page(extent, 0)]).unwrap(), [[0; 4096]]);
        other.write(&[(page(extent, 0), &pattern(2))]).unwrap();
    }

    let late = sleeper.ask(&[9, 0, 0, 0], &[]);
    assert_eq!(late, Err(Reset));
    sleeper.reopen();
    for extent in old.iter().chain(&new) {
        let fenced = Err(ResponseError::Refused(Status::Fenced));
        assert_eq!(sleeper.write(&[(page(*extent, 0), &pattern(3))]), fenced);
    }
    for &extent in &new {
        assert_eq!(other.read(&[page(extent, 0)]).unwrap(), [pattern(2)]);
    }
    let totals = slave.stop().unwrap();
    assert!(totals.leases_expired >= 1 && totals.extents_reclaimed >= 4);
}

/// A slave that was stopped for longer than a lease takes the packets that came meanwhile before it calls their senders
/// silent; and a flood does not keep leases for ever.
#[test]
fn a_slave_that_was_held_up_ends_no_lease_of_a_client_that_asked() {
    let options = Options::new(4 * MIB);
    let (hub, port) = MemoryHub::new(9000).unwrap();
    let mut slave = Slave::new(vec![Box::new(port)], options.clone()).unwrap();
    let mut clients: Vec<_> =
        (0..3u128).map(|i| TestClient::opening(Box::new(hub.connect().unwrap()), Incarnation(i))).collect();
    wait_for("the sessions", || {
        slave.step(Instant::now());
        for client in &mut clients {
            client.turn();
        }
        clients.iter().all(TestClient::is_open)
    });
    while slave.step(Instant::now()) {}
    let [flooder, asker, _silent] = &mut clients[..] else { unreachable!() };
    (0..200).for_each(|_| flooder.keep_alive());
    asker.keep_alive();
    let later = Instant::now() + options.lease + Duration::from_secs(1);
    slave.step(later);
    assert_eq!(slave.totals().leases_expired, 0, "there were packets to take first");
    while slave.step(later) {}
    assert_eq!(slave.totals().leases_expired, 1, "of the silent one");

    let much_later = later + options.lease;
    for _ in 0..2000 {
        (0..100).for_each(|_| flooder.keep_alive());
        slave.step(much_later);
    }
    assert_eq!(slave.totals().leases_expired, 2, "of the asker, for all the flood");
}

/// Lesson 14: clients of one host, even of one address, are told apart by their incarnations; and a client that comes by
/// another link is still the same.
#[test]
fn a_client_is_its_incarnation() {
    let (hub, _slave) = start(Options::new(4 * MIB));
    let mut client = connect(&hub);
    let extent = client.reserve(1).unwrap()[0];
    client.write(&[(page(extent, 0), &pattern(1))]).unwrap();
    let mut twin = connect(&hub);
    assert_eq!(twin.read(&[page(extent, 0)]), Err(ResponseError::Refused(Status::NotOwner)));

    client.move_to(Box::new(hub.connect().unwrap()));
    assert_eq!(client.read(&[page(extent, 0)]).unwrap(), [pattern(1)]);
}

/// An answer that its client does not take must not keep the others waiting.
#[test]
fn a_client_that_takes_no_answers_harms_nobody() {
    let (hub, _slave) = start(Options::new(4 * MIB));
    let mut deaf = connect(&hub);
    let extent = deaf.reserve(1).unwrap()[0];
    for i in 0..32 {
        deaf.write(&[(page(extent, i), &pattern(1))]).unwrap();
    }
    let pages: Vec<_> = (0..32).map(|i| page(extent, i)).collect();
    let mut buffer = [0; READ_REQUEST_MAX_BYTES];
    let read = encode_read(&pages, &mut buffer);
    while deaf.begin(read, &[]) {}
    // More than any queue to a client holds.
    (0..10_000).for_each(|_| deaf.keep_alive());
    let mut client = connect(&hub);
    let mine = client.reserve(1).unwrap()[0];
    for i in 0..200 {
        client.write(&[(page(mine, i), &pattern(u64::from(i)))]).unwrap();
        deaf.keep_alive();
    }
    for i in 0..200 {
        assert_eq!(client.read(&[page(mine, i)]).unwrap(), [pattern(u64::from(i))]);
    }
}

#[test]
fn serves_several_ports_at_once() {
    let (hub_a, port_a) = MemoryHub::new(9000).unwrap();
    let (hub_b, port_b) = MemoryHub::new(1500).unwrap();
    let slave = Slave::start(vec![Box::new(port_a), Box::new(port_b)], Options::new(4 * MIB)).unwrap();
    let (mut a, mut b) = (connect(&hub_a), connect(&hub_b));
    assert_eq!(a.slave, b.slave);
    let (extent, other) = (a.reserve(1).unwrap()[0], b.reserve(1).unwrap()[0]);
    a.write(&[(page(extent, 0), &pattern(1))]).unwrap();
    b.write(&[(page(other, 0), &pattern(2))]).unwrap();
    assert_eq!(a.read(&[page(extent, 0)]).unwrap(), [pattern(1)]);
    assert_eq!(b.read(&[page(other, 0)]).unwrap(), [pattern(2)]);
    assert_eq!(b.read(&[page(extent, 0)]), Err(ResponseError::Refused(Status::NotOwner)));
    assert_eq!(slave.stop().unwrap().clients, 2);
}

#[test]
fn the_line_at_start_says_what_is_served() {
    let port = MemoryPort::pair(9000).unwrap().1;
    let options = Options { name: Some("s1".to_owned()), ..Options::new(5 * MIB + 5) };
    let line = Slave::new(vec![Box::new(port)], options).unwrap().ready_line();
    assert_eq!(
        line,
        "rum-slave s1: ready, port memory-listen:, mac 02:52:00:00:00:00, 5 MiB, RF 1: nothing is replicated"
    );
}

#[test]
fn refuses_to_start_without_memory_or_ports() {
    let port = || vec![Box::new(MemoryPort::pair(9000).unwrap().1) as Box<dyn rum_net::port::Port>];
    assert!(Slave::start(port(), Options::new(MIB - 1)).is_err());
    assert!(Slave::start(port(), Options::new(u64::MAX)).is_err());
    assert!(Slave::start(Vec::<Station>::new(), Options::new(MIB)).is_err());
    assert!(Slave::start(port(), Options::new(MIB)).is_ok());
}
