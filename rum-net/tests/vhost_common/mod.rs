//! What the tests of the vhost-user port share.
#![allow(dead_code)]

pub mod hostile;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rum_net::port::{
    LinkId, Port, TransmitError,
    vhost_user::{ListenOptions, VhostClientPort, VhostListenPort, VhostStats},
};

/// A fresh directory for sockets.
pub fn socket_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rum-vhost-").tempdir().unwrap()
}

const CHILD_SOCKET: &str = "RUM_TEST_VHOST_SOCKET";

/// In a child process of a test: the socket it is to connect to.
pub fn child_socket() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_SOCKET).map(Into::into)
}

/// Runs this test program's test `child` in a process of its own.
pub fn spawn_child(socket: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD_SOCKET, socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// An Ethernet frame of `len` bytes whose contents follow from `seed`.
pub fn frame(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends one packet and waits until the same comes back, polling a while and then sleeping.
pub fn echo_once(port: &mut VhostClientPort, packet: &[u8]) {
    try_echo(port, packet, Duration::from_secs(30)).unwrap()
}

/// As `echo_once`, with an error instead of a panic.
pub fn try_echo(port: &mut VhostClientPort, packet: &[u8], patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    while let Err(error) = port.transmit(LinkId(0), &[packet]) {
        if error != TransmitError::Full || Instant::now() > deadline {
            return Err(format!("transmit: {error}"));
        }
        port.flush();
    }
    port.flush();
    let mut same = None;
    let mut polls = 0;
    loop {
        port.receive(1, &mut |_, bytes| same = Some(bytes == packet));
        match same {
            Some(true) => return Ok(()),
            Some(false) => return Err("another packet came back".to_owned()),
            None if port.is_closed() => return Err("closed".to_owned()),
            None if Instant::now() > deadline => return Err("no answer".to_owned()),
            None => polls += 1,
        }
        if polls > 20 {
            port.wait(Duration::from_millis(500), None).unwrap();
        }
    }
}

/// Waits until something holds.
pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// One turn of a slave that sends back what it gets, on the link it came by.
pub struct Echo {
    packets: Vec<(LinkId, usize)>,
    bytes: Vec<u8>,
}

impl Default for Echo {
    fn default() -> Self {
        Self { packets: Vec::with_capacity(64), bytes: Vec::with_capacity(64 * 5000) }
    }
}

impl Echo {
    /// The packets of the last turn: their links and lengths.
    pub fn packets(&self) -> &[(LinkId, usize)] {
        &self.packets
    }

    /// Receives and answers; says how many.
    pub fn turn(&mut self, port: &mut VhostListenPort) -> usize {
        let (packets, bytes) = (&mut self.packets, &mut self.bytes);
        packets.clear();
        bytes.clear();
        let count = port.receive(64, &mut |link, packet| {
            packets.push((link, packet.len()));
            bytes.extend_from_slice(packet);
        });
        let mut rest = &bytes[..];
        for (link, len) in packets.iter() {
            let (packet, later) = rest.split_at(*len);
            rest = later;
            // A client that does not read loses its answers.
            let _ = port.transmit(*link, &[packet]);
        }
        port.flush();
        count
    }
}

/// A thread that runs an echoing slave: polls a while, then sleeps.
pub struct EchoSlave {
    stop: Arc<AtomicBool>,
    stats: Arc<Mutex<VhostStats>>,
    thread: Option<JoinHandle<VhostStats>>,
}

impl EchoSlave {
    pub fn start(path: &Path) -> Self {
        Self::start_with(path, ListenOptions::default())
    }

    pub fn start_with(path: &Path, options: ListenOptions) -> Self {
        let mut port = VhostListenPort::bind(path, options).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let stats = Arc::new(Mutex::new(VhostStats::default()));
        let shown = stats.clone();
        let thread = std::thread::spawn(move || {
            let mut echo = Echo::default();
            let mut idle = 0;
            while !told.load(Ordering::Acquire) {
                idle = if echo.turn(&mut port) > 0 { 0 } else { idle + 1 };
                port.link_changes(&mut |_, _| {});
                *shown.lock().unwrap() = port.stats();
                if idle > 20 {
                    port.wait(Duration::from_millis(20), None).unwrap();
                }
            }
            port.stats()
        });
        Self { stop, stats, thread: Some(thread) }
    }

    /// What the port counts, as of its last turn.
    pub fn stats(&self) -> VhostStats {
        *self.stats.lock().unwrap()
    }

    pub fn stop(mut self) -> VhostStats {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for EchoSlave {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
