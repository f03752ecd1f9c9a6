//! No wake-up is lost in millions of sleeps, on every port that sleeps. `RUM_SOAK=10000000` says how many sleeps each side of
//! each pair of ports is to do; the usual number takes seconds.

mod vhost_common;

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rum_net::port::{
    LinkId, Port,
    memory::MemoryPort,
    vhost_user::{ListenOptions, SwitchPortOptions, VhostClientPort, VhostListenPort, VhostSwitchPort},
};
use vhost_common::socket_dir;

/// A wait of this length ends by nothing but a lost wake-up.
const LONG: Duration = Duration::from_secs(60);
const TOO_LONG: Duration = Duration::from_secs(30);
/// Wake-ups that tell of something other than packets: links that come and go.
const CHANGES: u64 = 8;
const BYTES: usize = 60;
/// Polls before a sleep, at most: so that packets come before, while and after a side goes to sleep.
const MOST_POLLS: u64 = 24;

fn sleeps_wanted() -> u64 {
    std::env::var("RUM_SOAK").ok().map_or(20_000, |text| text.parse().expect("RUM_SOAK is a number of sleeps"))
}

/// Lengths of spins before sleeping; a generator of Marsaglia's (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What one side did.
#[derive(Default, Debug)]
struct Side {
    /// Waits that a packet ended.
    sleeps: u64,
    /// Waits that ended with nothing to receive.
    vain: u64,
    /// Packets received, during sleeps or not.
    packets: u64,
    /// Times that the kernel took the CPU from the thread because it blocked.
    blocked: i64,
}

/// Of this thread.
fn blocked_so_far() -> i64 {
    // SAFETY: a plain C structure, for which zeros are a value, is filled while it lives.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_nvcsw
    }
}

impl Side {
    /// Polls some times, then sleeps, until `receive` has had a packet or `is_over`.
    fn await_packet(
        &mut self,
        name: &str,
        port: &mut dyn Port,
        dice: &mut Dice,
        wake: Option<i32>,
        is_over: &AtomicBool,
        sink: &mut dyn FnMut(LinkId, &[u8]),
    ) -> bool {
        for _ in 0..dice.below(MOST_POLLS) {
            if port.receive(1, sink) > 0 {
                self.packets += 1;
                return true;
            }
        }
        loop {
            let start = Instant::now();
            port.wait(LONG, wake).expect("a wait");
            let took = start.elapsed();
            let got = port.receive(1, sink) > 0;
            // A port does not sleep until its changes are taken; the peer may be long in coming.
            port.link_changes(&mut |_, _| {});
            let over = is_over.load(Ordering::Acquire);
            assert!(took < TOO_LONG, "{name}: a wait of {took:?} after {self:?}, packet {got}");
            if got || over {
                self.sleeps += u64::from(got);
                self.packets += u64::from(got);
                return got;
            }
            self.vain += 1;
        }
    }
}

/// `open` gives the port that asks, while the one that answers is served already.
fn soak<A: Port, B: Port>(name: &str, mut answering: A, open: impl FnOnce() -> B + Send) {
    let wanted = sleeps_wanted();
    let seed = 0x52_554d;
    let (over, wake) = (AtomicBool::new(false), EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap());
    let over = &over;
    let wake_fd = wake.as_fd().as_raw_fd();
    let start = Instant::now();
    let (asked, answered) = std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        scope.spawn(move || {
            let (mut side, mut dice) = (Side::default(), Dice(seed));
            let before = blocked_so_far();
            let mut packet = [0; BYTES];
            let mut from = LinkId(0);
            while side.await_packet(name, &mut answering, &mut dice, Some(wake_fd), over, &mut |link, bytes| {
                packet.copy_from_slice(bytes);
                from = link;
            }) {
                answering.transmit(from, &[&packet]).expect("room for an answer");
                answering.flush();
            }
            side.blocked = blocked_so_far() - before;
            tell.send(side).expect("it is waited for");
        });
        let mut asking = open();
        // The other side sleeps meanwhile: a link that has just opened keeps nobody awake.
        std::thread::sleep(Duration::from_millis(50));
        let (mut side, mut dice) = (Side::default(), Dice(seed + 1));
        let before = blocked_so_far();
        let mut round = 0u64;
        while side.sleeps < wanted {
            round += 1;
            // To a group, which every port takes.
            let mut packet = [0xff; BYTES];
            packet[20..28].copy_from_slice(&round.to_le_bytes());
            while asking.transmit(LinkId(0), &[&packet]).is_err() {
                // No switch yet.
                asking.wait(Duration::from_millis(1), None).expect("a wait");
            }
            asking.flush();
            side.await_packet(name, &mut asking, &mut dice, None, over, &mut |_, bytes| assert_eq!(bytes, packet));
        }
        side.blocked = blocked_so_far() - before;
        over.store(true, Ordering::Release);
        wake.write(1).expect("room in a counter");
        (side, told.recv().expect("the other side"))
    });
    println!("{name}: asking {asked:?}, answering {answered:?}, in {:.1?}, seed {seed:#x}", start.elapsed());
    // A wake-up may come when its packet was taken already, and then ends the next wait; there is one a packet at most. How
    // often that happens is the machine's matter; waits that end of themselves are many a packet.
    for side in [asked, answered] {
        assert!(side.vain <= side.packets + CHANGES, "waits that nothing ended: {side:?}");
    }
}

#[test]
fn vhost_client_and_slave() {
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let slave = VhostListenPort::bind(&path, ListenOptions::default()).unwrap();
    soak("vhost", slave, || VhostClientPort::connect(&path).unwrap());
}

#[test]
fn switch_port_and_its_switch() {
    let dir = socket_dir();
    let path = dir.path().join("client");
    let port = VhostSwitchPort::bind(&path, &SwitchPortOptions::default()).unwrap();
    let mut switch = VhostListenPort::bind(dir.path().join("unused"), ListenOptions::default()).unwrap();
    switch.connect(&path).unwrap();
    soak("vhost-listen", switch, || port);
}

#[test]
fn memory() {
    let (asking, answering) = MemoryPort::pair(1500).unwrap();
    soak("memory", answering, || asking);
}
