//! Captures: what is in the file, when the writer cannot keep up, and when the process is killed.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};
use rum_net::port::{
    LinkId, Port,
    capture::Capture,
    memory::{MemoryHub, MemoryPort},
};

/// Of the child that is killed: where it captures.
const CHILD_VARIABLE: &str = "RUM_TEST_CAPTURE_FILE";
const CHILD_PACKETS: u32 = 5000;
const DEADLINE: Duration = Duration::from_secs(60);

/// A packet of a capture.
#[derive(PartialEq, Eq, Debug)]
struct Captured {
    time_ns: u64,
    flags: u32,
    queue: Option<u32>,
    bytes: Vec<u8>,
}

/// A capture file, read strictly.
#[derive(Default, Debug)]
struct CaptureFile {
    interface: String,
    packets: Vec<Captured>,
    /// Packets that went by, and that are not in the file.
    statistics: Option<(u64, u64)>,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn options(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = vec![];
    while !rest.is_empty() {
        let (code, len) = (number(rest, 0) as u16, (number(rest, 0) >> 16) as usize);
        found.push((code, &rest[4..4 + len]));
        rest = &rest[(4 + len).next_multiple_of(4)..];
    }
    assert_eq!(found.pop(), Some((0, &[][..])), "options without an end");
    found
}

fn parse(mut rest: &[u8]) -> CaptureFile {
    let mut file = CaptureFile::default();
    let mut kinds = vec![];
    while !rest.is_empty() {
        let len = number(rest, 4) as usize;
        let block = &rest[8..len - 4];
        assert_eq!(number(rest, len - 4) as usize, len);
        kinds.push(number(rest, 0));
        match number(rest, 0) {
            0x0A0D_0D0A => assert_eq!(number(block, 0), 0x1A2B_3C4D),
            1 => {
                assert_eq!(number(block, 0), 1, "not Ethernet");
                let options = options(&block[8..]);
                let name = options.iter().find(|(code, _)| *code == 2).unwrap().1;
                file.interface = String::from_utf8(name.to_vec()).unwrap();
                assert!(options.contains(&(9, &[9])), "not in nanoseconds");
            }
            6 => {
                let bytes = number(block, 12) as usize;
                let options = options(&block[(20 + bytes).next_multiple_of(4)..]);
                let option = |code| options.iter().find(|(has, _)| *has == code).map(|(_, value)| number(value, 0));
                file.packets.push(Captured {
                    time_ns: u64::from(number(block, 4)) << 32 | u64::from(number(block, 8)),
                    flags: option(2).unwrap(),
                    queue: option(6),
                    bytes: block[20..20 + bytes].to_vec(),
                });
            }
            5 => {
                let options = options(&block[12..]);
                let count = |code| {
                    let value = options.iter().find(|(has, _)| *has == code).unwrap().1;
                    u64::from_le_bytes(value.try_into().unwrap())
                };
                file.statistics = Some((count(4), count(5)));
            }
            kind => panic!("block {kind:#x}"),
        }
        rest = &rest[len..];
    }
    assert_eq!(kinds[..2], [0x0A0D_0D0A, 1], "a file begins with its section and its interface");
    file
}

fn counter(port: &dyn Port, name: &str) -> u64 {
    let mut found = None;
    port.counters(&mut |has, count| found = if has == name { Some(count) } else { found });
    found.unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn both_directions_are_in_the_file_with_their_times_and_links() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    let (hub, listener) = MemoryHub::new(1500).unwrap();
    let mut client = hub.connect().unwrap();
    let mut listener = Capture::new(listener, &path).unwrap();
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    client.transmit(LinkId(0), &[b"question"]).unwrap();
    assert_eq!(listener.receive(9, &mut |link, frame| assert_eq!((link, frame), (LinkId(1), &b"question"[..]))), 1);
    listener.transmit(LinkId(1), &[b"an", b"", b"swer"]).unwrap();
    assert!(listener.transmit(LinkId(7), &[b"to nobody"]).is_err());
    assert_eq!((counter(&listener, "captured"), counter(&listener, "dropped_from_capture")), (2, 0));
    drop(listener);

    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let file = parse(&fs::read(&path).unwrap());
    assert_eq!((file.interface.as_str(), file.statistics), ("memory-listen:", Some((2, 0))));
    let seen: Vec<_> = file.packets.iter().map(|p| (p.flags, p.queue, &p.bytes[..])).collect();
    assert_eq!(seen, [(1, Some(1), &b"question"[..]), (2, Some(1), &b"answer"[..])]);
    let times: Vec<u64> = file.packets.iter().map(|packet| packet.time_ns).collect();
    assert!(times.is_sorted() && times[0] >= start && times[1] < start + 60_000_000_000, "{times:?} after {start}");
}

#[test]
fn no_two_captures_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    let (one, other) = MemoryPort::pair(1500).unwrap();
    let (one, other) = (Capture::new(one, &path).unwrap(), Capture::new(other, &path).unwrap());
    assert_eq!(one.path(), path);
    assert_eq!(other.path(), directory.path().join(format!("a.{}.1.pcapng", std::process::id())));
    drop((one, other));
    // The file of a capture that has ended is free.
    let again = Capture::new(MemoryPort::pair(1500).unwrap().0, &path).unwrap();
    assert_eq!(again.path(), path);
    drop(again);
    assert_eq!(parse(&fs::read(&path).unwrap()).statistics, Some((0, 0)));
}

#[test]
fn a_file_that_cannot_be_written_is_said_in_a_line() {
    let (port, _) = MemoryPort::pair(1500).unwrap();
    let error = Capture::new(port, Path::new("/nonexistent/a.pcapng")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/a.pcapng") && !error.contains('\n'), "{error}");
}

/// A pipe that nobody reads is a disk that does not write. The port goes on at its pace, and what found no room is counted.
#[test]
fn a_writer_that_hangs_costs_the_capture_packets_and_the_port_nothing() {
    const PACKETS: u64 = 12_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    // Neither end waits for the other to be opened.
    let reader = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    let (sender, mut receiver) = MemoryPort::pair(4096).unwrap();
    let mut sender = Capture::new(sender, &path).unwrap();
    let deadline = Instant::now() + DEADLINE;
    for number in 0..PACKETS {
        assert!(Instant::now() < deadline, "packet {number} was held up");
        sender.transmit(LinkId(0), &[&number.to_le_bytes(), &[5; 4000]]).unwrap();
        sender.flush();
        receiver.receive(9, &mut |_, _| ());
    }
    let missed = counter(&sender, "dropped_from_capture");
    assert!((1..PACKETS).contains(&missed), "{missed} missed");
    assert_eq!(counter(&sender, "captured"), PACKETS - missed);
    assert!(!sender.is_written());

    // Another reader, which waits for bytes and sees the end when the capture is closed.
    let mut waiting = fs::File::open(&path).unwrap();
    drop(reader);
    let close = thread::spawn(move || drop(sender));
    let mut file = vec![];
    waiting.read_to_end(&mut file).unwrap();
    close.join().unwrap();
    let file = parse(&file);
    assert_eq!(file.statistics, Some((PACKETS, missed)));
    assert_eq!(file.packets.len() as u64, PACKETS - missed);
}

/// Not a test by itself: the process that the next one kills.
#[test]
fn the_child_that_captures() {
    let Ok(path) = env::var(CHILD_VARIABLE) else { return };
    let (sender, mut receiver) = MemoryPort::pair(1500).unwrap();
    let mut sender = Capture::new(sender, Path::new(&path)).unwrap();
    for number in 0..CHILD_PACKETS {
        sender.transmit(LinkId(0), &[&number.to_le_bytes(), &[9; 100]]).unwrap();
        sender.flush();
        receiver.receive(9, &mut |_, _| ());
    }
    let deadline = Instant::now() + DEADLINE;
    while !sender.is_written() && Instant::now() < deadline {
        sender.wait(Duration::from_millis(1), None).unwrap();
    }
    println!("\ncaptured");
    loop {
        thread::park();
    }
}

#[test]
fn the_capture_of_a_killed_process_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_child_that_captures", "--nocapture"])
        .env(CHILD_VARIABLE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "captured"), "the child ended");
    child.kill().unwrap();
    child.wait().unwrap();
    let file = parse(&fs::read(&path).unwrap());
    assert_eq!(file.statistics, None);
    let numbers: Vec<u32> = file.packets.iter().map(|packet| number(&packet.bytes, 0)).collect();
    assert_eq!(numbers, (0..CHILD_PACKETS).collect::<Vec<_>>());
}
