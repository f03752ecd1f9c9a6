//! Joining a grid: fast, without EAL, and with an answer within a bounded time if nobody serves.

mod grid_common;

use std::{
    alloc::Layout,
    fs,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, Turn,
    local_grid::{MemoryGrid, VhostGrid, client, config, machine, machines_argument, play_slave},
    player::{role, say},
};
use nix::sys::signal::Signal;
use rum_core::{
    config::Machine,
    grid::{Grid, JoinError, Location},
};
use rum_net::port::{MacAddr, middleware::Middlewares};
use rum_slave::{Options, Slave, SlaveHandle};

/// A slave is waited for this long, and a little more on a busy machine.
const BOUND: Duration = Duration::from_secs(8);

#[test]
fn joining_to_the_first_allocation_takes_under_20_ms_and_no_eal() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(3, 64 * MIB);
    let mut times: Vec<u128> = (0..7)
        .map(|_| {
            let mut client = client("quick", &slaves.machines(), 1, &[]);
            let micros = client.hear("microseconds").parse().expect("a number");
            client.succeed(BOUND);
            micros
        })
        .collect();
    times.sort();
    println!("from joining to the first allocation, us: {times:?}");
    // Other programs on the machine only add to it.
    assert!(times[0] < 20_000, "{times:?}");
}

fn refused(link: &str) -> JoinError {
    let started = Instant::now();
    let error = Grid::join(config(vec![machine(0, link)], MIB, None)).expect_err("nobody serves there");
    let waited = started.elapsed();
    println!("{error} (after {waited:.1?})");
    assert!(waited < BOUND, "{waited:?}");
    let text = error.to_string();
    assert!(text.contains(link) && text.lines().count() == 1, "{text}");
    error
}

#[test]
fn a_socket_that_nobody_serves_is_an_error_that_says_what_to_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let link = format!("vhost:{}/nobody", folder.path().display());
    let error = refused(&link);
    assert!(matches!(error, JoinError::Unreachable { .. }));
    assert!(error.to_string().contains("rum-slave --port"), "{error}");
    // A socket that was left behind.
    let path = folder.path().join("left");
    drop(UnixListener::bind(&path).expect("a socket"));
    refused(&format!("vhost:{}", path.display()));
}

#[test]
fn a_socket_of_something_else_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mute");
    let _mute = UnixListener::bind(&path).expect("a socket");
    refused(&format!("vhost:{}", path.display()));
    let file = folder.path().join("file");
    fs::write(&file, "no socket").expect("a file");
    refused(&format!("vhost:{}", file.display()));
}

#[test]
fn a_slave_that_hangs_is_an_error_after_a_bounded_wait() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(1, 16 * MIB);
    slaves.slaves[0].player().signal(Signal::SIGSTOP);
    refused(&slaves.slaves[0].machine.link.to_string());
    slaves.slaves[0].player().signal(Signal::SIGCONT);
    slaves.join(MIB);
}

/// A slave as a thread, which has 10.0.0.1 on a socket of its own.
fn udp_slave(folder: &tempfile::TempDir) -> (SlaveHandle, String) {
    let socket = format!("vhost:{}", folder.path().join("slave").display());
    let link = format!("udp@10.0.0.1/24:{socket}").parse().expect("a link");
    let station =
        rum_slave::port::open_link(&link, false, &Middlewares::default()).unwrap_or_else(|error| panic!("{error}"));
    (Slave::start(vec![station], Options::new(64 << 20)).expect("a slave"), format!("udp@10.0.0.2/24:{socket}"))
}

/// The line of a slave whose hardware address is not told.
fn asked_for(number: usize, link: &str) -> Machine {
    Machine { mac: MacAddr::default(), ..machine(number, link) }
}

#[test]
fn udp_framing_needs_no_network_of_the_kernel_and_finds_its_slave() {
    let _turn = Turn::wait();
    let folder = tempfile::tempdir().expect("a folder");
    let (slave, link) = udp_slave(&folder);
    let grid = Grid::join(config(vec![asked_for(0, &link)], MIB, None)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(grid.transports(), [format!("{link}, ip 10.0.0.2")]);
    let layout = Layout::from_size_align(4 * MIB, 8).expect("a layout");
    let far = grid_common::far::Far::of(grid.alloc_zeroed(layout).expect("far memory"), layout.size());
    for at in (0..4 * MIB).step_by(4096) {
        far.set_byte(at, (at >> 12) as u8);
    }
    for at in (0..4 * MIB).step_by(4096) {
        assert_eq!(far.byte(at), (at >> 12) as u8);
    }
    let by_address = Location { ip: "10.0.0.1".into(), mac: MacAddr([2; 6]) };
    grid.alloc_at(Layout::new::<u64>(), &by_address).expect("the address is the slave's name");
    drop(grid);
    assert_eq!(slave.stop().expect("no panic").clients, 1);
}

#[test]
fn an_address_that_nobody_answers_for_is_an_error_after_a_bounded_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_slave, link) = udp_slave(&folder);
    let started = Instant::now();
    let error = Grid::join(config(vec![asked_for(6, &link)], MIB, None)).expect_err("nobody has 10.0.0.7");
    assert!(started.elapsed() < BOUND);
    assert!(matches!(error, JoinError::NoNeighbour { .. }));
    let text = error.to_string();
    assert!(text.starts_with(&format!("nobody at {link} answers ARP requests for 10.0.0.7 after 3s: ")), "{text}");
    assert_eq!(text.lines().count(), 1);
    let unreachable = [
        ("10.0.0.2", "10.0.0.2 is this machine's own address"),
        ("10.0.1.2", "10.0.1.2 is not a neighbour of 10.0.0.2/24"),
    ];
    for (ip, why) in unreachable {
        let machine = Machine { ip: ip.into(), ..asked_for(0, &link) };
        let text = Grid::join(config(vec![machine], MIB, None)).expect_err("not reached").to_string();
        assert!(text.contains(why), "{text}");
    }
}

/// A slave that starts at the same time is waited for.
#[test]
fn a_slave_that_is_just_starting_is_waited_for() {
    let _turn = Turn::wait();
    let mut slaves = VhostGrid::start(1, 16 * MIB);
    slaves.slaves[0].kill();
    let machines = slaves.machine_list();
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| Grid::join(config(machines, MIB, None)).map(drop));
        slaves.slaves[0].start();
        joined.join().expect("no panic").unwrap_or_else(|error| panic!("{error}"));
    });
}

/// Grids of one process do not disturb each other, and one that was left can be joined again.
#[test]
fn a_process_may_join_several_grids_and_join_again() {
    let _turn = Turn::wait();
    let (first, second) = (MemoryGrid::start(1, 16 * MIB), MemoryGrid::start(2, 16 * MIB));
    for engine in grid_common::engines() {
        for round in 0..3u8 {
            let grids = [first.join(MIB, Some(engine), None), second.join(MIB, Some(engine), None)];
            let layout = Layout::from_size_align(4 * MIB, 8).expect("a layout");
            let fars = grids
                .each_ref()
                .map(|grid| grid_common::far::Far::of(grid.alloc_zeroed(layout).expect("far memory"), layout.size()));
            for at in (0..4 * MIB).step_by(4096) {
                fars[0].set_byte(at, round + 1);
                fars[1].set_byte(at, round + 101);
            }
            for at in (0..4 * MIB).step_by(4096) {
                assert_eq!((fars[0].byte(at), fars[1].byte(at)), (round + 1, round + 101));
            }
        }
    }
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("quick") => play_quick(),
        Some(other) => panic!("no role {other:?}"),
    }
}

fn play_quick() {
    let config = config(machines_argument().0, MIB, None);
    let started = Instant::now();
    let grid = Grid::join(config).unwrap_or_else(|error| panic!("{error}"));
    let number = grid.alloc(Layout::new::<u64>()).expect("far memory");
    let took = started.elapsed();
    assert!(grid.is_far(number.as_ptr(), 8));
    for task in fs::read_dir("/proc/self/task").expect("this is Linux").flatten() {
        let name = fs::read_to_string(task.path().join("comm")).expect("a name");
        assert!(!name.starts_with("eal-") && !name.starts_with("rte_"), "{name}");
    }
    let maps = fs::read_to_string("/proc/self/maps").expect("this is Linux");
    for trace in ["fbarray", "rtemap", "hugepages"] {
        assert!(!maps.contains(trace), "{trace}");
    }
    say(&format!("microseconds {}", took.as_micros()));
}
