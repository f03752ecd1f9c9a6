//! 256 clients at once on one slave's vhost-user socket, each a session of its own with data of its own: 16 processes of
//! 16 clients each, of which a third is killed while all are at work.

mod support;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use rum_net::{
    port::vhost_user::VhostClientPort,
    wire::message::{ExtentRef, PageRef},
};
use support::{DEADLINE, TestClient, page, pattern, process::SlaveProcess, wait_for};

const PROCESSES: usize = 16;
const CLIENTS_EACH: usize = 16;
const CLIENTS: u64 = (PROCESSES * CLIENTS_EACH) as u64;
const KILLED: usize = PROCESSES / 3;
/// Pages that each client has, and of these in one request.
const PAGES: u32 = 96;
const BATCH: u32 = 32;
/// Not more than this of the slave's memory may be left when all have gone, of 96 MiB that they had: its allocator keeps room
/// for an answer to each session, as long as other pieces behind it are in use.
const KEPT_BYTES: usize = 64 << 20;

const SOCKET: &str = "RUM_SLAVE_TEST_MANY_SOCKET";
const NUMBER: &str = "RUM_SLAVE_TEST_MANY_NUMBER";

/// A process with clients; killed when dropped.
struct Clients {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Clients {
    fn start(socket: &Path, number: usize) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "play", "--nocapture"])
            .env(SOCKET, socket)
            .env(NUMBER, number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
    }

    /// Waits for a word. A process that fails ends, and then there is no more to read.
    #[track_caller]
    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).unwrap() > 0 {
            if line.trim_end().ends_with(word) {
                return;
            }
            line.clear();
        }
        panic!("a process of clients ended ({:?}) before it said {word:?}", self.child.wait());
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All of them verify and change all of their data.
fn round(what: &str, processes: &mut [Clients]) {
    let start = Instant::now();
    processes.iter_mut().for_each(|clients| clients.tell("go"));
    processes.iter_mut().for_each(|clients| clients.hear("verified"));
    println!("{what}: {} clients verified their data in {:.1?}", processes.len() * CLIENTS_EACH, start.elapsed());
}

/// A number that has not changed for a while.
fn settled(mut read: impl FnMut() -> usize) -> usize {
    let (mut last, mut since) = (read(), Instant::now());
    while since.elapsed() < Duration::from_millis(200) {
        let now = read();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    last
}

#[test]
fn clients_on_one_socket_live_and_die_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("slave");
    let slave = SlaveProcess::start(&socket, &["-m", "300M", "--lease", "10s"]);
    // A client of its own each time: one that only looked now and then would lose its lease.
    let reserved = || slave.connect().stat().reserved_extents;
    assert_eq!(reserved(), 0);
    let descriptors = settled(|| slave.descriptors());
    let resident = slave.resident_bytes();

    let mut processes: Vec<_> = (0..PROCESSES).map(|number| Clients::start(&socket, number)).collect();
    processes.iter_mut().for_each(|clients| clients.hear("joined"));
    assert_eq!(reserved(), CLIENTS);
    round("all", &mut processes);
    round("again", &mut processes);
    println!("{} descriptors, {} KiB resident", slave.descriptors(), slave.resident_bytes() >> 10);
    assert!(slave.descriptors() - descriptors >= CLIENTS as usize, "each has a connection of its own");

    // While all are at work.
    processes.iter_mut().for_each(|clients| clients.tell("go"));
    processes.drain(..KILLED).for_each(|mut clients| clients.child.kill().unwrap());
    processes.iter_mut().for_each(|clients| clients.hear("verified"));
    round("a third was killed", &mut processes);
    let alive = CLIENTS - (KILLED * CLIENTS_EACH) as u64;
    wait_for("the memory of the killed", || reserved() == alive);

    processes.extend((0..KILLED).map(|number| Clients::start(&socket, PROCESSES + number)));
    processes[PROCESSES - KILLED..].iter_mut().for_each(|clients| clients.hear("joined"));
    assert_eq!(reserved(), CLIENTS);
    round("others came in their place", &mut processes);

    processes.iter_mut().for_each(|clients| clients.tell("end"));
    for mut clients in processes {
        assert!(clients.child.wait().unwrap().success());
    }
    wait_for("the end of all leases", || reserved() == 0);
    wait_for("the descriptors to be closed", || slave.descriptors() == descriptors);
    println!("{} KiB resident at first, {} KiB at last", resident >> 10, slave.resident_bytes() >> 10);
    wait_for("the memory to be given back", || slave.resident_bytes() <= resident + KEPT_BYTES);
}

/// The pages of a client, as it asks for them.
fn batches(extent: ExtentRef) -> impl Iterator<Item = Vec<PageRef>> {
    (0..PAGES / BATCH).map(move |batch| (0..BATCH).map(|at| page(extent, (batch * BATCH + at) * 2)).collect())
}

/// What a process is told. Its clients keep their leases meanwhile.
fn next(told: &Receiver<String>, clients: &mut [(TestClient, ExtentRef)]) -> String {
    loop {
        match told.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => return line,
            Err(RecvTimeoutError::Timeout) => clients.iter_mut().for_each(|(client, _)| {
                client.keep_alive();
                client.turn();
            }),
            Err(RecvTimeoutError::Disconnected) => panic!("the test has gone"),
        }
    }
}

/// Not a test of its own: the entry of the processes that the test starts.
#[test]
fn play() {
    let Some(socket) = env::var_os(SOCKET) else { return };
    let number: u64 = env::var(NUMBER).unwrap().parse().unwrap();
    let mut clients: Vec<(TestClient, ExtentRef)> = (0..CLIENTS_EACH)
        .map(|_| {
            let deadline = Instant::now() + DEADLINE;
            // Many connect at once, and a socket's queue of them is short.
            let port = loop {
                match VhostClientPort::connect(Path::new(&socket)) {
                    Ok(port) => break port,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
            };
            let mut client = TestClient::connect(Box::new(port));
            let extent = client.reserve(1).unwrap()[0];
            (client, extent)
        })
        .collect();
    println!("joined");
    let value = |client: usize, round: u64, at: u32| {
        if round == 0 { [0; 4096] } else { pattern(number << 48 | (client as u64) << 40 | round << 16 | u64::from(at)) }
    };
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| tell.send(line.unwrap())));
    for round in 0.. {
        if next(&told, &mut clients) != "go" {
            break;
        }
        for (index, (client, extent)) in clients.iter_mut().enumerate() {
            let who = format!("client {index} of process {number} in round {round}");
            for batch in batches(*extent) {
                let contents = |round: u64| batch.iter().map(|page| value(index, round, page.page)).collect::<Vec<_>>();
                assert!(client.read(&batch).unwrap() == contents(round), "{who}");
                let next = contents(round + 1);
                client.write(&batch.iter().copied().zip(&next).collect::<Vec<_>>()).unwrap();
            }
        }
        // Each sees its own contents alone, whoever came after it.
        for (index, (client, extent)) in clients.iter_mut().enumerate() {
            for batch in batches(*extent) {
                let expected: Vec<_> = batch.iter().map(|page| value(index, round + 1, page.page)).collect();
                let who = format!("client {index} of process {number} after round {round}");
                assert!(client.read(&batch).unwrap() == expected, "{who}");
            }
        }
        println!("verified");
    }
    clients.iter_mut().for_each(|(client, _)| client.bye().unwrap());
}
