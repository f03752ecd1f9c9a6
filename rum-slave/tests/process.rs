//! Real `rum-slave` processes over vhost-user.

mod support;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rum_net::{
    port::vhost_user::VhostClientPort,
    wire::message::{ExtentRef, ResponseError, Status},
};
use support::{
    Reset, TestClient, page, pattern,
    process::{SlaveProcess, run},
    wait_for,
};

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rum-slave").tempdir().unwrap()
}

#[test]
fn serves_and_stops_on_sigterm_and_sigint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = directory();
        let socket = directory.path().join("s");
        let slave = SlaveProcess::start(&socket, &["-m", "64M"]);
        let ready = format!("rum-slave: ready, port vhost:{}, mac ", socket.display());
        assert!(slave.ready_line.starts_with(&ready), "{}", slave.ready_line);
        assert!(slave.ready_line.ends_with(", 64 MiB, RF 1: nothing is replicated\n"), "{}", slave.ready_line);

        let mut client = slave.connect();
        let extent = client.reserve(1).unwrap()[0];
        client.write(&[(page(extent, 3), &pattern(3)), (page(extent, 200), &pattern(200))]).unwrap();
        let read = client.read(&[page(extent, 200), page(extent, 4), page(extent, 3)]).unwrap();
        assert_eq!(read, [pattern(200), [0; 4096], pattern(3)]);

        slave.signal(signal);
        let (status, rest) = slave.wait();
        assert_eq!(status.code(), Some(0));
        assert_eq!(rest.lines().count(), 1, "{rest:?}");
        assert!(rest.starts_with("rum-slave: stopped, 1 clients, "), "{rest:?}");
        assert!(!socket.exists(), "the socket is left");
    }
}

#[test]
fn a_restarted_slave_is_another_incarnation_and_has_forgotten() {
    let directory = directory();
    let socket = directory.path().join("s");
    let slave = SlaveProcess::start(&socket, &["-m", "64M"]);
    let mut client = slave.connect();
    let first = client.slave.unwrap();
    let extent = client.reserve(1).unwrap()[0];
    client.write(&[(page(extent, 0), &pattern(1))]).unwrap();
    slave.signal(Signal::SIGKILL);
    assert_eq!(slave.wait().0.signal(), Some(Signal::SIGKILL as i32));
    assert!(socket.exists(), "a killed slave leaves its socket, or the test shows nothing");

    let slave = SlaveProcess::start(&socket, &["-m", "64M"]);
    client.move_to(Box::new(VhostClientPort::connect(&socket).unwrap()));
    assert_eq!(client.ask(&[9, 0, 0, 0], &[]), Err(Reset));
    client.reopen();
    assert_ne!(client.slave.unwrap(), first);
    // Another client has the same places by now.
    let mut other = slave.connect();
    let (taken, _) = other.open_name([1; 32], Some(1 << 20)).unwrap();
    assert_eq!(taken[0].index, extent.index, "the place is reused, or the test shows nothing");
    assert_eq!(client.read(&[page(extent, 0)]), Err(ResponseError::Refused(Status::StaleExtent)));
    assert_eq!(client.write(&[(page(extent, 0), &pattern(2))]), Err(ResponseError::Refused(Status::StaleExtent)));
    assert_eq!(other.read(&[page(taken[0], 0)]).unwrap(), [[0; 4096]]);
}

#[test]
fn a_second_slave_on_the_socket_is_refused() {
    let directory = directory();
    let socket = directory.path().join("s");
    let slave = SlaveProcess::start(&socket, &["-m", "64M"]);
    let output = run(&["--port", &format!("vhost:{}", socket.display()), "-m", "64M"]);
    assert_one_line(&output, "another process serves");
    slave.connect().stat();
}

#[test]
fn idle_it_uses_no_cpu() {
    const SPAN: Duration = Duration::from_secs(2);
    let directory = directory();
    let socket = |name: &str| directory.path().join(name);
    let more = ["b", "c"].map(|name| format!("vhost:{}", socket(name).display()));
    let slaves = [
        ("alone", SlaveProcess::start(&socket("alone"), &["-m", "64M"])),
        ("with a client", SlaveProcess::start(&socket("client"), &["-m", "64M"])),
        ("on three ports", SlaveProcess::start(&socket("a"), &["-m", "64M", "--port", &more[0], "--port", &more[1]])),
    ];
    let mut client = slaves[1].1.connect();
    assert_eq!(client.stat().sessions, 1);
    let (before, start) = (slaves.each_ref().map(|(_, slave)| slave.cpu_time()), Instant::now());
    // Time itself is measured here: there is nothing else to wait for.
    thread::sleep(SPAN);
    for ((what, slave), before) in slaves.iter().zip(before) {
        let share = (slave.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(share < 0.03, "{what}: {:.1} % of a CPU", share * 100.0);
    }
}

/// Memory is taken as pages are stored, hardly more than they are (goal R6: 1.03), and given back when they are freed.
#[test]
fn memory_used_is_what_is_stored() {
    const EXTENTS: usize = 128;
    const WARM_UP: usize = 8;
    const BYTES: f64 = (EXTENTS << 20) as f64;
    let directory = directory();
    let slave = SlaveProcess::start(&directory.path().join("s"), &["-m", "256M"]);
    let mut client = slave.connect();
    let extents = client.reserve(EXTENTS).unwrap();
    let contents = pattern(1);
    let mut fill = |extents: &[ExtentRef]| {
        for &extent in extents {
            for first in (0..256).step_by(32) {
                let writes: Vec<_> = (first..first + 32).map(|i| (page(extent, i), &contents)).collect();
                client.write(&writes).unwrap();
            }
        }
    };
    // All buffers of packets are in use after some pages.
    fill(&extents[..WARM_UP]);
    let before = slave.resident_bytes() - (WARM_UP << 20);
    let grown = |slave: &SlaveProcess| slave.resident_bytes().saturating_sub(before) as f64 / BYTES;
    fill(&extents);
    assert!((0.99..1.03).contains(&grown(&slave)), "{} of what is stored", grown(&slave));
    client.release(&extents).unwrap();
    wait_for("the memory to return to the kernel", || grown(&slave) < 0.01);
}

/// What a killed client leaves behind: its memory goes back when its lease ends, its descriptors at once, and its
/// named objects stay. Three flood at once; nobody else notices.
#[test]
fn clients_killed_in_full_flood_leave_nothing_behind() {
    const ROUNDS: usize = 67;
    let directory = directory();
    let socket = directory.path().join("s");
    let slave = SlaveProcess::start(&socket, &["-m", "1G", "--lease", "5s"]);
    let mut witness = slave.connect();
    let extent = witness.reserve(1).unwrap()[0];
    witness.write(&[(page(extent, 0), &pattern(7))]).unwrap();
    let before = (slave.descriptors(), slave.resident_bytes());
    for _ in 0..ROUNDS {
        let mut look = || assert_eq!(witness.read(&[page(extent, 0)]).unwrap(), [pattern(7)]);
        let flooders = [(); 3].map(|()| {
            let flooder = Flooder::start(&socket);
            look();
            flooder
        });
        for flooder in flooders {
            assert_eq!(flooder.kill().signal(), Some(Signal::SIGKILL as i32), "it was in full flood");
            look();
        }
    }
    wait_for("the leases to end", || witness.stat().reserved_extents == 1);
    wait_for("the descriptors to close", || slave.descriptors() <= before.0);
    let grown = slave.resident_bytes().saturating_sub(before.1);
    assert!(grown < 16 << 20, "{grown} bytes more than before");
    let mut last = slave.connect();
    assert_eq!(last.reserve(1023).unwrap().len(), 1023, "all that was reclaimed can be had");
    slave.signal(Signal::SIGTERM);
    let (status, rest) = slave.wait();
    assert_eq!(status.code(), Some(0));
    assert!(rest.contains(&format!("{} leases expired", 3 * ROUNDS)), "{rest}");
}

const FLOOD: &str = "RUM_SLAVE_TEST_FLOOD";

/// This test program again, as a client that floods the slave until it is killed.
struct Flooder(Child);

impl Flooder {
    /// Starts one and waits until it floods.
    fn start(socket: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "flood", "--nocapture"])
            .env(FLOOD, socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let flooder = Self(child);
        assert!(lines.any(|line| line.unwrap().contains("flooding")), "the flooder ended");
        flooder
    }

    fn kill(mut self) -> ExitStatus {
        self.0.kill().unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does nothing unless started by `Flooder`.
#[test]
fn flood() {
    let Some(socket) = env::var_os(FLOOD) else { return };
    let mut client = TestClient::connect(Box::new(VhostClientPort::connect(socket).unwrap()));
    let mut extents = Vec::new();
    // Until the leases of those that were killed before have ended.
    wait_for("memory", || {
        extents = client.reserve(4).unwrap_or_default();
        !extents.is_empty()
    });
    println!("flooding");
    let contents = pattern(1);
    for i in 0.. {
        let pages: Vec<_> = (0..8).map(|k| (page(extents[k % 4], (i * 8 + k as u32) % 256), &contents)).collect();
        client.write(&pages).unwrap();
        let pages: Vec<_> = pages.iter().map(|(page, _)| *page).collect();
        assert_eq!(client.read(&pages).unwrap(), [contents; 8]);
    }
}

/// Lesson 8: packets that are lost, doubled, reordered and damaged cost time, nothing else; each write runs once.
#[test]
fn a_bad_network_is_only_slower() {
    let directory = directory();
    let faults = "loss=0.05,dup=0.05,reorder=0.05,corrupt=0.02,truncate=0.02,delay=0.02,seed=7";
    let slave = SlaveProcess::start(&directory.path().join("s"), &["-m", "64M", "--inject", faults]);
    assert!(slave.ready_line.contains("seed=7"), "faults are never silent: {}", slave.ready_line);
    let mut client = slave.connect();
    let extents = client.reserve(4).unwrap();
    let contents: Vec<_> = (0..1024).map(pattern).collect();
    let place = |i: usize| page(extents[i % 4], (i / 4) as u32);
    for batch in (0..1024).step_by(16) {
        let writes: Vec<_> = (batch..batch + 16).map(|i| (place(i), &contents[i])).collect();
        client.write(&writes).unwrap();
    }
    for batch in (0..1024).step_by(16) {
        let pages: Vec<_> = (batch..batch + 16).map(place).collect();
        assert_eq!(client.read(&pages).unwrap(), contents[batch..batch + 16]);
    }
    client.release(&extents[..2]).unwrap();
    assert_eq!(client.stat().reserved_extents, 2, "releases ran once each");
    client.bye().unwrap();
    slave.signal(Signal::SIGTERM);
    let (_, rest) = slave.wait();
    assert!(rest.contains("1 clients, 132 requests (0 refused), 1024 pages read, 1024 written"), "{rest}");
}

#[test]
fn bad_arguments_are_one_clear_line_and_exit_code_2() {
    let directory = directory();
    let socket = format!("vhost:{}", directory.path().join("s").display());
    let missing = format!("vhost:{}", directory.path().join("no/s").display());
    let file = directory.path().join("file");
    fs::write(&file, "kept").unwrap();
    let file = format!("vhost:{}", file.display());
    let cases: [(&[&str], &str); 11] = [
        (&[], "--port <LINK>"),
        (&["--port", &socket], "--memory <SIZE>"),
        (&["--port", "tcp:1", "-m", "64M"], "expected vhost:PATH"),
        (&["--port", &socket, "-m", "lots"], "expected a size such as 512M"),
        (&["--port", &socket, "-m", "4K"], "less than one extent"),
        (&["--port", &socket, "-m", "64M", "--lease", "soon"], "such as 10s"),
        (&["--port", &socket, "-m", "64M", "--lease", "0s"], "100ms or more"),
        (&["--port", &socket, "-m", "64M", "--bogus"], "--bogus"),
        (&["--port", &socket, "-m", "64M", "--inject", "loss=2"], "expected loss=P"),
        (&["--port", &missing, "-m", "64M"], "no such directory"),
        (&["--port", &file, "-m", "64M"], "not a socket"),
    ];
    for (arguments, expected) in cases {
        assert_one_line(&run(arguments), expected);
    }
    assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "kept");
    assert!(!directory.path().join("s").exists(), "the socket is left");
    assert_one_line(&run(&["--port", "af_packet:nosuch0", "--insecure", "-m", "64M"]), "nosuch0");
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_data_folder_of_somebody_else_is_left_alone() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let link = |grid: &str, number: u8| format!("vhost:{grid}-{number}");
    let grid = |name: &str, slaves: u8, factor: u8| {
        let lines = (0..slaves).map(|n| format!("127.0.0.1,02:00:00:00:00:{n:02x},{}\n", link(&path(name), n)));
        fs::write(path(name), format!("# rf={factor}\n{}", lines.collect::<String>())).unwrap();
        path(name)
    };
    let (three, again, four, alone) = (grid("3", 3, 3), grid("again", 3, 3), grid("4", 4, 3), grid("alone", 3, 1));
    let (data, other, empty) = (path("data"), path("other"), path("empty"));
    fs::create_dir(&other).unwrap();
    fs::write(format!("{other}/kept"), "kept").unwrap();
    let arguments = |number: u8, grid: &str, data: &str| {
        ["--port", &link(grid, number), "-m", "64M", "--machines", grid, "--data-dir", data].map(str::to_owned)
    };
    let refuse = |arguments: [String; 8], expected: &str| {
        assert_one_line(&run(&arguments.each_ref().map(String::as_str)), expected);
    };
    refuse(arguments(0, &alone, &empty), "--data-dir needs replication: put `# rf=3` into");
    refuse(arguments(0, &three, &other), "is no data folder of a slave");
    refuse(arguments(0, &three, &format!("{other}/kept")), "File exists");
    let socket = format!("{three}-0");
    let started = SlaveProcess::start(Path::new(&socket), &["-m", "64M", "--machines", &three, "--data-dir", &data]);
    refuse(arguments(0, &again, &data), "used by another slave");
    drop(started);
    refuse(arguments(1, &three, &data), "belongs to slave 0 of 3");
    refuse(arguments(0, &four, &data), "belongs to slave 0 of 3");
    fs::write(format!("{data}/slave"), "{").unwrap();
    refuse(arguments(0, &three, &data), "is not what a slave wrote");
    assert_eq!(fs::read_to_string(format!("{other}/kept")).unwrap(), "kept");
}

/// Trust: on a network nobody is served by oversight.
#[test]
fn a_network_is_not_served_without_keys() {
    let directory = directory();
    let keys = directory.path().join("keys");
    fs::write(&keys, format!("a {}\n", "ab".repeat(32))).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let keys = keys.to_str().unwrap();
    for link in ["af_packet:nosuch0", "af_xdp:nosuch0", "pci:0000:00:00.0", "vdev:net_null0"] {
        assert_one_line(&run(&["--port", link, "-m", "64M"]), "make keys with `rum keygen` and name them by --keys");
        assert_one_line(&run(&["--port", link, "-m", "64M", "--keys", keys]), &format!("chmod 600 {keys}"));
    }
    let both = ["--port", "af_packet:nosuch0", "-m", "64M", "--keys", keys, "--insecure"];
    assert_one_line(&run(&both), "cannot be used with");
}

#[test]
fn more_memory_than_there_is_gives_a_warning_only() {
    let directory = directory();
    let socket = directory.path().join("s");
    let slave = SlaveProcess::start(&socket, &["-m", "1000T"]);
    assert!(slave.ready_line.contains("1048576000 MiB"), "{}", slave.ready_line);
    slave.connect().reserve(1).unwrap();
}

#[track_caller]
fn assert_one_line(output: &std::process::Output, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("rum-slave: ") && stderr.contains(expected), "{stderr}");
    assert!(output.stdout.is_empty());
}
