//! Hosts of their own for slaves and clients, on one Ethernet: each in a network namespace with one interface, and this
//! process, in another, the switch between them.
//!
//! No namespace has a name: each lasts as long as its process, and takes its interfaces with it. So nothing is left
//! behind, whatever happens, and two demos at once do not meet.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::sched::{CloneFlags, unshare};

use crate::{
    signals::Signals,
    slaves::{Place, Replication, Slave, Slaves, SlavesError, size_argument},
    tied::{ARRIVED, INTERFACE},
};

/// Bytes in a packet after its Ethernet header: a page and its headers fit in one.
pub const MTU: u32 = 9000;
const BRIDGE: &str = "switch";

/// The switch. From its start on, this process is in its namespace.
#[derive(Debug)]
pub struct Switch {
    ports: u8,
}

impl Switch {
    /// Leaves for a namespace of its own, and sets a bridge up there.
    pub fn start() -> Result<Self, SlavesError> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
            SlavesError::Network(format!("cannot make a network namespace ({error}); run it as root"))
        })?;
        let mtu = MTU.to_string();
        ip(&["link", "add", "name", BRIDGE, "mtu", &mtu, "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["link", "set", "dev", BRIDGE, "up"])?;
        Ok(Self { ports: 0 })
    }

    /// Starts `count` slaves, each on its own host and with these keys, and writes the machines.csv of a client.
    pub fn start_slaves(
        &mut self,
        (count, factor): (usize, usize),
        memory_bytes: u64,
        directory: &Path,
        keys: &Path,
        signals: &Signals,
    ) -> Result<(Slaves, PathBuf), SlavesError> {
        let mut slaves = Slaves::new();
        let link = format!("af_packet:{INTERFACE}");
        let memory = size_argument(memory_bytes);
        let line = |number: usize| {
            let mac = mac(self.ports + 1 + number as u8);
            format!("10.0.0.{},{mac},{link},slave-{number},{memory}\n", number + 1)
        };
        let lines: String = (0..count).map(line).collect();
        let path = directory.join("machines.csv");
        fs::write(&path, format!("# rf={factor}\nip,mac,link,name,memory\n{lines}")).map_err(SlavesError::Directory)?;
        let replication = (factor > 1).then_some(Replication { machines: &path, data_dir: None });
        for number in 0..count {
            let place = Place::OwnHost { keys };
            let slave = slaves.add(Slave::spawn(number, directory, &link, &memory, replication.clone(), place)?);
            slave.wait_for(ARRIVED, signals)?;
            self.connect(slave.pid())?;
            slave.go()?;
        }
        slaves.wait_until_ready(signals)?;
        Ok((slaves, path))
    }

    /// Gives a client that was started on its own host its interface, and lets it go on.
    pub fn connect_client(&mut self, child: &mut Child) -> Result<(), SlavesError> {
        // A byte at a time: what follows this line in the pipe is the client's.
        let mut line = Vec::new();
        if let Some(stdout) = &mut child.stdout {
            let mut byte = [0u8; 1];
            while !line.ends_with(b"\n") && stdout.read(&mut byte)? == 1 {
                line.push(byte[0]);
            }
        }
        if line.trim_ascii() != ARRIVED.as_bytes() {
            return Err(SlavesError::Network("the client did not reach its own host".to_owned()));
        }
        self.connect(child.id())?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(b"\n"))?;
        Ok(())
    }

    /// Lays a cable from the host of process `pid` to the switch.
    fn connect(&mut self, pid: u32) -> Result<(), SlavesError> {
        self.ports += 1;
        let (port, mac) = (format!("port{}", self.ports), mac(self.ports));
        let (mtu, pid) = (MTU.to_string(), pid.to_string());
        ip(&[
            "link", "add", "name", &port, "mtu", &mtu, "type", "veth", //
            "peer", "name", INTERFACE, "mtu", &mtu, "address", &mac, "netns", &pid,
        ])?;
        ip(&["link", "set", "dev", &port, "master", BRIDGE, "up"])
    }
}

/// The hardware address of the host behind a port of the switch.
fn mac(port: u8) -> String {
    format!("02:52:55:4d:00:{port:02x}")
}

/// Runs iproute2's `ip`.
pub fn ip(arguments: &[&str]) -> Result<(), SlavesError> {
    let failed = |why: String| SlavesError::Network(format!("ip {}: {why}", arguments.join(" ")));
    let output = Command::new("ip").args(arguments).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
