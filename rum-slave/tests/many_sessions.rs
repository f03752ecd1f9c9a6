//! Ten thousand clients that do nothing but live, at the usual beat of one sign of life a second: what they cost a slave. Counted is the CPU
//! time of the thread that does the work, so that other things that the machine does do not matter.

mod support;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use rum_net::{
    port::{LinkId, MacAddr, Port, memory::MemoryHub},
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES, Response,
        client::{Client, ClientConfig, ClientEvent},
        server::{RequestToken, SessionId},
    },
    seal::{Key, KeyFile},
    wire::{
        ethernet::EthernetHeader,
        message::{OPEN_NAME_REQUEST_BYTES, OpenName, Stat, encode_stat},
    },
};
use rum_slave::{
    Options, Slave,
    account::{AccountId, Accounts},
    group::{Caller, Group, Output},
};

const CLIENTS: usize = 10_000;
const BEATS: u32 = 5;
const BEAT: Duration = Duration::from_secs(1);
/// Long enough for all of them to join, which a slave lets them do one after the other.
const LEASE: Duration = Duration::from_secs(600);
/// Of one core. The goal is a fiftieth; a machine may be slow.
const MOST: f64 = 0.06;
/// Packets that a look of the slave finds: those of a millisecond. Fewer would measure the clock more than the slave.
const AT_ONCE: usize = 10;

/// What this thread has worked.
fn worked() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has it"))
}

fn share(spent: Duration) -> f64 {
    spent.as_secs_f64() / (BEAT * BEATS).as_secs_f64()
}

/// Clients that share a port, as behind a switch.
struct Crowd {
    port: Box<dyn Port>,
    clients: Vec<Client>,
}

impl Crowd {
    fn send(&mut self, index: usize, now: Instant) {
        let Self { port, clients } = self;
        let header = EthernetHeader { destination: MacAddr([0xff; 6]), source: port.mac() }.encode();
        while let Some(packet) = clients[index].poll_transmit(now) {
            port.transmit(LinkId(0), &packet.behind(&header)).expect("room for a packet");
        }
        port.flush();
    }

    fn take(&mut self, index: usize, now: Instant, sink: &mut dyn FnMut(ClientEvent<'_>)) {
        let Self { port, clients } = self;
        port.receive(64, &mut |_, frame| {
            let (_, packet) = EthernetHeader::decode(frame).expect("a frame");
            clients[index].handle(now, packet, sink);
        });
    }
}

fn signs_of_life_are_cheap(is_sealed: bool) {
    let folder = tempfile::tempdir().unwrap();
    let keys = is_sealed.then(|| {
        let path = folder.path().join("keys");
        std::fs::write(&path, format!("client {}\n", Key::generate().unwrap().to_hex().as_str())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::sync::Arc::new(KeyFile::read(&path).unwrap())
    });
    let key = keys.as_ref().map(|keys| keys.choose(None).unwrap().clone());
    let (hub, port) = MemoryHub::new(1500).unwrap();
    let options = Options { max_sessions: CLIENTS, lease: LEASE, keys, ..Options::new(64 << 20) };
    let mut slave = Slave::new(vec![Box::new(port)], options).unwrap();
    let mut now = Instant::now();
    let client = |number: usize| {
        let config = ClientConfig {
            incarnation: Incarnation(number as u128),
            channel: 0,
            mtu: 1500,
            slots: 4,
            max_request_bytes: MAX_MESSAGE_BYTES,
        };
        Client::new(config, key.clone(), now)
    };
    let mut crowd = Crowd { port: Box::new(hub.connect().unwrap()), clients: (0..CLIENTS).map(client).collect() };
    for index in 0..CLIENTS {
        while !crowd.clients[index].is_open() {
            now += Duration::from_micros(20);
            crowd.send(index, now);
            slave.step(now);
            crowd.take(index, now, &mut |_| {});
        }
    }
    let mut spent = Duration::ZERO;
    for beat in 0..BEATS {
        for first in (0..CLIENTS).step_by(AT_ONCE) {
            now += BEAT / CLIENTS as u32 * AT_ONCE as u32;
            let those = first..first + AT_ONCE;
            for index in those.clone() {
                crowd.clients[index].keep_alive(now);
                crowd.send(index, now);
            }
            let before = worked();
            slave.step(now);
            spent += worked() - before;
            those.for_each(|index| crowd.take(index, now, &mut |_| {}));
        }
        assert_eq!(slave.totals().leases_expired, 0, "in beat {beat}");
    }
    println!("sealed {is_sealed}: {CLIENTS} clients cost {:.2} % of a core", 100.0 * share(spent));
    assert!(share(spent) < MOST, "{:.1} % of a core", 100.0 * share(spent));
}

#[test]
fn signs_of_life_of_many_clients_are_cheap() {
    signs_of_life_are_cheap(false);
}

#[test]
fn sealed_signs_of_life_of_many_clients_are_cheap() {
    signs_of_life_are_cheap(true);
}

/// A group that leads itself, all of whose clients have leases and sessions.
#[test]
fn leases_of_many_clients_are_cheap() {
    let lease = Duration::from_secs(10);
    let group = Group::new(0, (vec![0], 0), Accounts::default(), 64, lease, Duration::ZERO, 1);
    let mut group = group.expect("a slave of the group");
    let mut now = Duration::ZERO;
    while !group.is_leader() {
        now += Duration::from_millis(10);
        group.tick(now, &|_| true);
        group.run_effects(now);
    }
    let caller = |number: usize| Caller { client: Incarnation(number as u128), account: AccountId::NOBODY, quota: 64 };
    let asker = |request| (0, RequestToken { session: SessionId(0), request });
    let open = OpenName { hash: [1; 32], create_bytes: Some(1) };
    let open = open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]).to_vec();
    for number in 0..CLIENTS {
        group.command(asker(number as u64), caller(number), (1, 0), &open[..], 1);
        group.run_effects(now);
        let outputs = group.take_outputs();
        assert!(outputs.iter().any(|output| matches!(output, Output::Answer(..))), "client {number} has a lease");
    }
    assert_eq!(group.state().clients().count(), CLIENTS);
    let sessions: HashSet<Incarnation> = (0..CLIENTS).map(|number| Incarnation(number as u128)).collect();
    let before = worked();
    let end = now + BEAT * BEATS;
    while now < end {
        now += Duration::from_millis(1);
        group.tick(now, &|client| sessions.contains(&client));
        group.run_effects(now);
        group.take_outputs();
    }
    let spent = worked() - before;
    println!("leases of {CLIENTS} clients cost {:.2} % of a core", 100.0 * share(spent));
    assert!(share(spent) < MOST, "{:.1} % of a core", 100.0 * share(spent));
    let mut response = Response::default();
    let stat = Stat {
        incarnation: Incarnation(1),
        capacity_extents: 0,
        reserved_extents: 0,
        used_pages: 0,
        sessions: 0,
        lease,
    };
    group.ask(now, caller(0), encode_stat(&mut [0; 4]), stat, &mut response).expect("it leads");
    assert_eq!(group.state().clients().count(), CLIENTS, "none has ended");
}
