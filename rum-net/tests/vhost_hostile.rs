//! Clients that break the rules, while an honest one beside them goes on unhindered.

mod vhost_common;

use std::{
    cell::RefCell,
    fs::File,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    fcntl::{FallocateFlags, SealFlag, fallocate},
    poll::{PollFd, PollFlags, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
        eventfd::{EfdFlags, EventFd},
        resource::{Resource, getrlimit, setrlimit},
    },
};
use rum_net::port::vhost_user::{CloseReason, ListenOptions, VhostClientPort};
use vhost_common::{EchoSlave, await_that, frame, hostile::*, socket_dir, try_echo};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A slave, and an honest client that never stops talking to it.
struct Scene {
    _dir: tempfile::TempDir,
    path: PathBuf,
    slave: Option<EchoSlave>,
    stop: Arc<AtomicBool>,
    echoes: Arc<AtomicU64>,
    honest: Option<JoinHandle<Result<(), String>>>,
    /// What `drops` has seen.
    dropped: RefCell<Vec<CloseReason>>,
}

impl Scene {
    fn new() -> Self {
        let dir = socket_dir();
        let path = dir.path().join("slave");
        let options = ListenOptions { handshake_timeout: Duration::from_millis(300), ..ListenOptions::default() };
        let slave = EchoSlave::start_with(&path, options);
        let (stop, echoes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), echoes.clone());
        let mut port = VhostClientPort::connect(&path).unwrap();
        let honest = std::thread::spawn(move || {
            let mut round = 0;
            while !told.load(Ordering::Acquire) {
                round += 1;
                try_echo(&mut port, &frame(14 + round % 4600, round as u64), Duration::from_secs(30))?;
                count.fetch_add(1, Ordering::AcqRel);
            }
            Ok(())
        });
        Self { _dir: dir, path, slave: Some(slave), stop, echoes, honest: Some(honest), dropped: RefCell::default() }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn closed_for(&self, reason: CloseReason) -> u64 {
        self.slave.as_ref().unwrap().stats().closed_for(reason)
    }

    /// The honest client goes on: it gets answers from here on, too.
    fn goes_on(&self) {
        let before = self.echoes.load(Ordering::Acquire);
        await_that("the honest client goes on", || self.echoes.load(Ordering::Acquire) > before + 20);
    }

    /// The slave closes the hostile client, counts why, and goes on with the honest one.
    fn drops(&self, hostile: &mut Hostile, reason: CloseReason) {
        hostile.await_close();
        self.dropped.borrow_mut().push(reason);
        let expected = self.dropped.borrow().iter().filter(|other| **other == reason).count() as u64;
        await_that(&format!("{reason} is counted"), || self.closed_for(reason) >= expected);
        self.goes_on();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let honest = self.honest.take().unwrap().join();
        drop(self.slave.take());
        if !std::thread::panicking() {
            honest.unwrap().unwrap();
        }
    }
}

#[test]
fn memory_that_may_shrink_is_refused() {
    let scene = Scene::new();
    let mut hostile = Hostile::connect(scene.path());
    hostile.memory = File::from(sealed(MEMORY_BYTES, SealFlag::F_SEAL_GROW));
    hostile.send(SET_OWNER, &[], &[]);
    hostile.share(&hostile.memory, MEMORY_BYTES);
    scene.drops(&mut hostile, CloseReason::BadMemory);
    // Nor a plain file, nor a memfd that is shorter than it claims to be.
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(MEMORY_BYTES).unwrap();
    let short = File::from(sealed(MEMORY_BYTES - 4096, SealFlag::F_SEAL_SHRINK));
    for file in [plain, short] {
        let mut hostile = Hostile::connect(scene.path());
        hostile.share(&file, MEMORY_BYTES);
        scene.drops(&mut hostile, CloseReason::BadMemory);
    }
    assert_eq!(scene.closed_for(CloseReason::BadMemory), 3);
}

#[test]
fn memory_is_shared_once_and_within_bounds() {
    let scene = Scene::new();
    let mut hostile = Hostile::join(scene.path());
    hostile.share(&hostile.memory, MEMORY_BYTES);
    scene.drops(&mut hostile, CloseReason::BadMemory);
    let mut hostile = Hostile::connect(scene.path());
    let huge = File::from(sealed(1 << 40, SealFlag::F_SEAL_SHRINK));
    hostile.share(&huge, 1 << 40);
    scene.drops(&mut hostile, CloseReason::BadMemory);
    // Two regions that overlap.
    let mut hostile = Hostile::connect(scene.path());
    let fd = hostile.memory.as_raw_fd();
    hostile.send(SET_MEM_TABLE, &[2, START, 8192, START, 0, START + 4096, 8192, START + 4096, 0], &[fd, fd]);
    scene.drops(&mut hostile, CloseReason::BadMemory);
}

#[test]
fn holes_punched_into_the_memory_are_harmless() {
    let scene = Scene::new();
    let hostile = Hostile::join(scene.path());
    for round in 0..200u16 {
        hostile.descriptor(FROM_CLIENT, 0, START + BUFFERS, 100, 0, 0);
        hostile.available(FROM_CLIENT, round.into(), 0, round + 1);
        let holes = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&hostile.memory, holes, BUFFERS as i64, 1 << 19).unwrap();
    }
    assert!(nix::unistd::ftruncate(&hostile.memory, 0).is_err());
    scene.goes_on();
}

#[test]
fn half_a_message_holds_up_nobody() {
    let scene = Scene::new();
    let mut half_header = Hostile::connect(scene.path());
    half_header.send_bytes(&message(GET_FEATURES, &[])[..5]);
    let mut half_body = Hostile::connect(scene.path());
    half_body.send_bytes(&message(SET_FEATURES, &[FEATURES])[..16]);
    scene.goes_on();
    scene.drops(&mut half_header, CloseReason::HandshakeTimeout);
    scene.drops(&mut half_body, CloseReason::HandshakeTimeout);
    // One that arrives byte by byte is as good as whole.
    let mut slow = Hostile::connect(scene.path());
    for byte in message(GET_FEATURES, &[]) {
        slow.send_bytes(&[byte]);
    }
    let mut answer = [0; 20];
    std::io::Read::read_exact(&mut slow.socket, &mut answer).unwrap();
}

#[test]
fn a_client_that_reads_no_replies_is_dropped() {
    let scene = Scene::new();
    let mut hostile = Hostile::connect(scene.path());
    while hostile.try_send(GET_FEATURES, &[], &[]).is_ok() {}
    scene.drops(&mut hostile, CloseReason::UnreadReplies);
}

#[test]
fn messages_that_are_not_served_close_the_connection() {
    let scene = Scene::new();
    let mut count = 0;
    for number in [0, 4, 6, 7, 15, 16, 17, 18, 20, 24, 31, 37, 40, 1000, u32::MAX] {
        let mut hostile = Hostile::connect(scene.path());
        hostile.send(number, &[], &[]);
        hostile.await_close();
        count += 1;
    }
    for (number, words) in [(GET_FEATURES, &[1u64][..]), (SET_FEATURES, &[]), (SET_FEATURES, &[1 << 40])] {
        let mut hostile = Hostile::connect(scene.path());
        hostile.send(number, words, &[]);
        hostile.await_close();
        count += 1;
    }
    let mut long = Hostile::connect(scene.path());
    long.send_bytes(&[3, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    long.await_close();
    await_that("each is counted", || scene.closed_for(CloseReason::BadMessage) == count + 1);
    scene.goes_on();
}

#[test]
fn unusable_rings_are_refused() {
    let scene = Scene::new();
    let not_an_eventfd = std::os::unix::net::UnixStream::pair().unwrap().0;
    let outside = START + MEMORY_BYTES - 8;
    let cases: [(u32, Vec<u64>, bool); 7] = [
        (SET_VRING_NUM, vec![3 << 32], false),
        (SET_VRING_NUM, vec![2048 << 32], false),
        (SET_VRING_NUM, vec![2 | 64 << 32], false),
        (SET_VRING_ADDR, vec![0, outside, START + USED, START + AVAILABLE, 0], false),
        (SET_VRING_ADDR, vec![0, START + 1, START + USED, START + AVAILABLE, 0], false),
        (SET_VRING_ADDR, vec![0, 0, u64::MAX - 1, u64::MAX - 63, 0], false),
        (SET_VRING_KICK, vec![0], true),
    ];
    let total = cases.len() as u64;
    for (number, words, with_fd) in cases {
        let mut hostile = Hostile::connect(scene.path());
        hostile.send(SET_OWNER, &[], &[]);
        hostile.send(SET_FEATURES, &[FEATURES], &[]);
        hostile.share(&hostile.memory, MEMORY_BYTES);
        hostile.offer(1);
        if number == SET_VRING_ADDR {
            hostile.send(SET_VRING_NUM, &[ENTRIES << 32], &[]);
        }
        let fds = [not_an_eventfd.as_raw_fd()];
        hostile.send(number, &words, if with_fd { &fds } else { &[] });
        let _ = hostile.try_send(SET_VRING_KICK, &[0], &[hostile.kicks[0].as_raw_fd()]);
        hostile.await_close();
    }
    // A misaligned address is a bad message already.
    let count = || scene.closed_for(CloseReason::BadRingSetup) + scene.closed_for(CloseReason::BadMessage);
    await_that("each is counted", || count() == total);
    assert!(scene.closed_for(CloseReason::BadRingSetup) >= 4);
    scene.goes_on();
}

#[test]
fn each_kind_of_bad_descriptor_closes_its_client() {
    let scene = Scene::new();
    let good = START + BUFFERS;
    // Address, length, flags, next of descriptor 0; then the head and index that are shown.
    let cases: [(u64, u32, u16, u16, u16, u16); 10] = [
        (good, 100, NEXT, 0, 0, 1),
        (good, 100, INDIRECT, 0, 0, 1),
        (good, 100, WRITE, 0, 0, 1),
        (good, u32::MAX, 0, 0, 0, 1),
        (good, 70_000, 0, 0, 0, 1),
        (START + MEMORY_BYTES - 50, 100, 0, 0, 0, 1),
        (u64::MAX - 10, 100, 0, 0, 0, 1),
        (0, 100, 0, 0, 0, 1),
        (good, 100, NEXT, 64, 0, 1),
        (good, 100, 0, 0, 64, 1),
    ];
    for (number, (address, len, flags, next, head, index)) in cases.into_iter().enumerate() {
        let mut hostile = Hostile::join(scene.path());
        hostile.descriptor(FROM_CLIENT, 0, address, len, flags, next);
        hostile.available(FROM_CLIENT, 0, head, index);
        hostile.await_close();
        let seen = number as u64 + 1;
        await_that("a bad ring is counted", || scene.closed_for(CloseReason::BadRing) == seen);
    }
    // An index that runs away, and a loop over two descriptors.
    let mut hostile = Hostile::join(scene.path());
    hostile.available(FROM_CLIENT, 0, 0, 500);
    hostile.await_close();
    let mut hostile = Hostile::join(scene.path());
    hostile.descriptor(FROM_CLIENT, 0, good, 1, NEXT, 1);
    hostile.descriptor(FROM_CLIENT, 1, good, 1, NEXT, 0);
    hostile.available(FROM_CLIENT, 0, 0, 1);
    hostile.await_close();
    await_that("each is counted", || scene.closed_for(CloseReason::BadRing) == 12);
    scene.goes_on();
}

#[test]
fn bad_receive_buffers_close_their_client() {
    let scene = Scene::new();
    let good = START + BUFFERS;
    let cases: [(u64, u32, u16, u16); 5] = [
        (good, 5000, 0, 0),
        (good, 5000, WRITE | INDIRECT, 0),
        (START + MEMORY_BYTES - 10, 5000, WRITE, 0),
        (good, 4, WRITE, 0),
        (good, 0, WRITE | NEXT, 0),
    ];
    for (number, (address, len, flags, next)) in cases.into_iter().enumerate() {
        let mut hostile = Hostile::join(scene.path());
        hostile.descriptor(TO_CLIENT, 0, address, len, flags, next);
        hostile.available(TO_CLIENT, 0, 0, 1);
        // An honest packet, whose echo the slave tries to put there.
        hostile.descriptor(FROM_CLIENT, 0, good, 100, 0, 0);
        hostile.available(FROM_CLIENT, 0, 0, 1);
        hostile.await_close();
        let seen = number as u64 + 1;
        await_that("a bad ring is counted", || scene.closed_for(CloseReason::BadRing) == seen);
    }
    scene.goes_on();
}

#[test]
fn a_packet_is_scattered_over_small_buffers() {
    let scene = Scene::new();
    let hostile = Hostile::join(scene.path());
    let packet: Vec<u8> = [0; 12].into_iter().chain(frame(300, 5)).collect();
    // Chains of two descriptors of 40 bytes each, far apart: 312 bytes take four of them.
    for chain in 0..8u64 {
        let (first, second) = (2 * chain, 2 * chain + 1);
        let at = |index: u64| START + BUFFERS + 4096 + 128 * index;
        hostile.descriptor(TO_CLIENT, first, at(first), 40, WRITE | NEXT, second as u16);
        hostile.descriptor(TO_CLIENT, second, at(second), 40, WRITE, 0);
        hostile.available(TO_CLIENT, chain, first as u16, chain as u16 + 1);
    }
    hostile.put(BUFFERS, &packet);
    hostile.descriptor(FROM_CLIENT, 0, START + BUFFERS, 12, NEXT, 1);
    hostile.descriptor(FROM_CLIENT, 1, START + BUFFERS + 12, 300, 0, 0);
    hostile.available(FROM_CLIENT, 0, 0, 1);
    await_that("the echo", || hostile.used_index(TO_CLIENT) == 4);
    let mut got = Vec::new();
    for index in 0..8u64 {
        let mut bytes = [0; 40];
        std::os::unix::fs::FileExt::read_exact_at(&hostile.memory, &mut bytes, BUFFERS + 4096 + 128 * index).unwrap();
        got.extend(bytes);
    }
    assert_eq!(got[..10], [0; 10]);
    assert_eq!(got[10..12], [4, 0], "the number of buffers");
    assert_eq!(got[12..312], packet[12..]);
}

#[test]
fn random_garbage_in_the_rings() {
    let scene = Scene::new();
    let seed = 0x0bad_5eed_u64;
    println!("seed {seed:#x}");
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    for round in 0..300 {
        let mut hostile = Hostile::join(scene.path());
        match round % 3 {
            // All of both rings is noise.
            0 => hostile.put(0, &frame(2 * RING_BYTES as usize, seed ^ round)),
            // Descriptors that are nearly right.
            1 => {
                for index in 0..ENTRIES {
                    for ring in 0..2 {
                        let address = START + next(MEMORY_BYTES + 4096);
                        let flags = next(4) as u16 | if next(40) == 0 { INDIRECT } else { 0 };
                        hostile.descriptor(ring, index, address, next(9000) as u32, flags, next(ENTRIES + 2) as u16);
                    }
                }
                for position in 0..ENTRIES {
                    let ring = next(2);
                    hostile.available(ring, position, next(ENTRIES) as u16, next(ENTRIES + 1) as u16);
                }
            }
            // Good ones that change all the time while the slave reads them.
            _ => {
                for position in 0..ENTRIES {
                    let (ring, index) = (next(2), next(ENTRIES));
                    let flags = if ring == TO_CLIENT { WRITE } else { 0 } | next(2) as u16;
                    let address = START + BUFFERS + next(MEMORY_BYTES - BUFFERS);
                    hostile.descriptor(ring, index, address, next(3000) as u32, flags, next(ENTRIES) as u16);
                    hostile.available(ring, position, index as u16, position as u16 + 1);
                }
            }
        }
        let _ = hostile.kicks[1].write(1);
        if round % 10 == 0 {
            // Unless the noise happened to be no offence, it is noticed.
            hostile.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = std::io::Read::read(&mut hostile.socket, &mut [0; 64]);
        }
    }
    scene.goes_on();
    await_that("most of it is noticed", || scene.closed_for(CloseReason::BadRing) > 20);
}

#[test]
fn a_saturated_blocking_call_descriptor_blocks_nobody() {
    let scene = Scene::new();
    let mut hostile = Hostile::connect(scene.path());
    // Full to the brim, and blocking: a write to it would sleep until somebody reads.
    let saturated = || {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::empty()).unwrap();
        fd.write(u64::MAX - 1).unwrap();
        fd
    };
    hostile.calls = [saturated(), saturated()];
    hostile.shake_hands();
    // Flags stay 0: the slave is asked to call for every packet it uses.
    for round in 0..2000u16 {
        hostile.descriptor(FROM_CLIENT, 0, START + BUFFERS, 100, 0, 0);
        hostile.available(FROM_CLIENT, round.into(), 0, round + 1);
        hostile.descriptor(TO_CLIENT, 0, START + BUFFERS + 8192, 200, WRITE, 0);
        hostile.available(TO_CLIENT, round.into(), 0, round + 1);
        if round % 50 == 0 {
            await_that("the packets are taken", || hostile.used_index(FROM_CLIENT) == round + 1);
        }
    }
    await_that("all packets are taken", || hostile.used_index(FROM_CLIENT) == 2000);
    assert!(scene.slave.as_ref().unwrap().stats().calls > 100);
    scene.goes_on();
}

/// Every signal to a descriptor wakes all epolls that watch it: thousands of them make a call take half a millisecond.
#[test]
fn a_call_descriptor_that_is_slow_to_signal_costs_the_others_little() {
    const ROUNDS: u16 = 3000;
    let (limit, hard_limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard_limit, hard_limit).unwrap();
    let epolls = (hard_limit.saturating_sub(200)).min(4000);
    let scene = Scene::new();
    let hostile = Hostile::connect(scene.path());
    hostile.shake_hands();
    let watchers: Vec<Epoll> = (0..epolls).map(|_| Epoll::new(EpollCreateFlags::empty()).unwrap()).collect();
    for watcher in &watchers {
        for call in &hostile.calls {
            watcher.add(call, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
        }
    }
    let mut send = |round: u16| {
        hostile.descriptor(FROM_CLIENT, 0, START + BUFFERS, 100, 0, 0);
        hostile.available(FROM_CLIENT, round.into(), 0, round + 1);
        await_that("the packet is taken", || hostile.used_index(FROM_CLIENT) == round + 1);
    };
    (0..ROUNDS).for_each(&mut send);
    let put_off = scene.slave.as_ref().unwrap().stats().calls_put_off;
    println!("{epolls} epolls on each descriptor: {put_off} of {ROUNDS} calls put off");
    assert!(put_off > u64::from(ROUNDS) / 2, "{put_off} calls put off");
    scene.goes_on();
    let called =
        || poll(&mut [PollFd::new(hostile.calls[FROM_CLIENT as usize].as_fd(), PollFlags::POLLIN)], 0u8) == Ok(1);
    if called() {
        hostile.calls[FROM_CLIENT as usize].read().unwrap();
    }
    send(ROUNDS);
    await_that("a call that was put off is made at last", called);
    drop((hostile, watchers));
    scene.goes_on();
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard_limit).unwrap();
}

#[test]
fn connecting_and_leaving_in_the_middle_leaves_nothing() {
    let scene = Scene::new();
    for round in 0..200 {
        let hostile = Hostile::connect(scene.path());
        let steps: [&dyn Fn(&Hostile); 5] = [
            &|h| h.send(SET_OWNER, &[], &[]),
            &|h| h.send(SET_FEATURES, &[FEATURES], &[]),
            &|h| h.share(&h.memory, MEMORY_BYTES),
            &|h| h.offer(0),
            &|h| h.offer(1),
        ];
        steps.iter().take(round % 6).for_each(|step| step(&hostile));
    }
    await_that("all are gone", || {
        let stats = scene.slave.as_ref().unwrap().stats();
        stats.closed_for(CloseReason::Disconnected) == 200
    });
    scene.goes_on();
}
