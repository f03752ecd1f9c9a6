//! Grids for tests: slaves as processes over vhost-user or Ethernet, or as threads over the in-process port.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rum_core::{
    config::{Config, Machine},
    fault::EngineKind,
    grid::Grid,
};
use rum_net::{
    machines::{Machines, parse_machines, parse_replication_factor},
    port::{
        MacAddr, Port,
        inject::{Faults, Inject},
        memory::MemoryHub,
        middleware::Middlewares,
    },
    seal::KeyFile,
};
use rum_slave::{Options, Slave, SlaveHandle, port::open_link, replication::ReplicationOptions, stop::stop};

use super::{
    MIB,
    namespaces::{Namespaces, ip},
    player::{Player, argument, number, option, say},
};

/// The part of a slave: serves until it is killed or the test has gone.
pub fn play_slave() {
    let link = argument("link").parse().expect("a link");
    let station = open_link(&link, false, &Middlewares::default()).unwrap_or_else(|error| panic!("{error}"));
    let lease = Duration::from_millis(number("lease_ms"));
    let replication = option("grid").map(|path| {
        let machines = Machines::read(Path::new(&path), None).unwrap_or_else(|error| panic!("{error}"));
        let links = [argument("link").parse().expect("a link")];
        let options = ReplicationOptions::find(machines, &path, None, &links).unwrap_or_else(|error| panic!("{error}"));
        let data_dir = option("data_dir").map(PathBuf::from);
        let checkpoint_bytes =
            option("checkpoint_bytes").map_or(options.checkpoint_bytes, |_| number("checkpoint_bytes"));
        ReplicationOptions { data_dir, checkpoint_bytes, ..options }
    });
    let options = Options { lease, replication, ..Options::new(number("memory")) };
    say(&format!("ready {}", station.mac()));
    let mut slave = Slave::new(vec![station], options).expect("a slave");
    let (_stopper, stop) = stop().expect("descriptors");
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    slave.run_and_say(&stop, &mut |news| {
        if news.contains("has what its grid has") {
            say("recovered");
        }
    });
}

/// A process that plays a slave.
pub struct SlaveProcess {
    player: Option<Player>,
    pub machine: Machine,
    memory: usize,
    lease: Duration,
    /// The machines.csv of a grid that replicates.
    grid: Option<PathBuf>,
    /// Where it keeps what it has, and after how many bytes of its journal it makes a checkpoint.
    pub disk: Option<(PathBuf, u64)>,
}

fn mac_of(text: &str) -> MacAddr {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    MacAddr(std::array::from_fn(|_| bytes.next().expect("six bytes")))
}

impl SlaveProcess {
    fn arguments(link: &str, memory: usize, lease: Duration) -> [(&'static str, String); 3] {
        [("link", link.to_owned()), ("memory", memory.to_string()), ("lease_ms", lease.as_millis().to_string())]
    }

    fn new(number: usize, link: &str, memory: usize, lease: Duration) -> Self {
        Self { player: None, machine: machine(number, link), memory, lease, grid: None, disk: None }
    }

    pub fn start(&mut self) {
        let link = self.machine.link.to_string();
        let mut arguments = Self::arguments(&link, self.memory, self.lease).to_vec();
        arguments.extend(self.grid.iter().map(|grid| ("grid", grid.display().to_string())));
        if let Some((path, checkpoint_bytes)) = &self.disk {
            arguments.push(("data_dir", path.display().to_string()));
            arguments.push(("checkpoint_bytes", checkpoint_bytes.to_string()));
        }
        let mut player = Player::start("slave", &arguments);
        player.hear("ready");
        self.player = Some(player);
    }

    /// Waits until it has again what its grid has.
    pub fn recover(&mut self) {
        self.player.as_mut().expect("it runs").hear("recovered");
    }

    pub fn player(&self) -> &Player {
        self.player.as_ref().expect("it runs")
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        self.player.take().expect("it runs").kill();
    }

    pub fn resident_bytes(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.player().pid())).expect("it lives");
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("statm's form") * super::PAGE
    }
}

/// The line of machines.csv for a slave.
pub fn machine(number: usize, link: &str) -> Machine {
    Machine {
        ip: format!("10.0.0.{}", number + 1),
        mac: MacAddr([2, 0, 0, 0, 0, number as u8 + 1]),
        link: link.parse().expect("a link"),
        name: None,
        memory_bytes: None,
    }
}

/// Slaves of one grid, each a process with a socket.
pub struct VhostGrid {
    pub slaves: Vec<SlaveProcess>,
    factor: usize,
    _folder: tempfile::TempDir,
}

pub const LONG_LEASE: Duration = Duration::from_secs(60);

impl VhostGrid {
    pub fn start(count: usize, memory_each: usize) -> Self {
        Self::with_lease(count, memory_each, LONG_LEASE)
    }

    pub fn with_lease(count: usize, memory_each: usize, lease: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = |number: usize| -> PathBuf { folder.path().join(format!("s{number}")) };
        let slave = |n| SlaveProcess::new(n, &format!("vhost:{}", socket(n).display()), memory_each, lease);
        let mut slaves: Vec<_> = (0..count).map(slave).collect();
        slaves.iter_mut().for_each(SlaveProcess::start);
        Self { slaves, factor: 1, _folder: folder }
    }

    /// Each page on `factor` slaves.
    pub fn replicated(slaves: (usize, usize), memory_each: usize, lease: Duration) -> Self {
        Self::with_disks(slaves, memory_each, lease, None)
    }

    /// Each page on `factor` slaves; with `checkpoint_bytes`, each slave has a data folder.
    pub fn with_disks(
        (count, factor): (usize, usize),
        memory_each: usize,
        lease: Duration,
        checkpoint_bytes: Option<u64>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let link = |number: usize| format!("vhost:{}", folder.path().join(format!("s{number}")).display());
        let slaves: Vec<_> = (0..count).map(|n| SlaveProcess::new(n, &link(n), memory_each, lease)).collect();
        let mut grid = Self { slaves, factor, _folder: folder };
        let path = grid._folder.path().join("machines.csv");
        std::fs::write(&path, grid.machines().replace(';', "\n")).expect("a file");
        for (slave, number) in grid.slaves.iter_mut().zip(0..) {
            slave.grid = Some(path.clone());
            slave.disk = checkpoint_bytes.map(|bytes| (path.with_file_name(format!("data-{number}")), bytes));
        }
        grid.slaves.iter_mut().for_each(SlaveProcess::start);
        // Until all have a vote, none may go.
        grid.slaves.iter_mut().for_each(SlaveProcess::recover);
        grid
    }

    /// What a client process has to be told.
    pub fn machines(&self) -> String {
        format!("# rf={};{}", self.factor, machines_text(&self.machine_list()))
    }

    pub fn machine_list(&self) -> Vec<Machine> {
        self.slaves.iter().map(|slave| slave.machine.clone()).collect()
    }

    /// A client of the grid in this process.
    pub fn join(&self, budget: usize) -> Grid {
        let config = Config { replication_factor: self.factor, ..config(self.machine_list(), budget, None) };
        Grid::join(config).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// One slave on a veth pair, in a namespace of its own.
pub struct EthernetGrid {
    pub slave: SlaveProcess,
    pub namespaces: Namespaces,
}

impl EthernetGrid {
    pub fn start(mtu: usize, memory: usize) -> Self {
        Self::with(mtu, memory, "af_packet:rum0")
    }

    /// With UDP framing: the client asks for the slave's hardware address.
    pub fn with_udp(mtu: usize, memory: usize) -> Self {
        let mut grid = Self::with(mtu, memory, "udp:af_packet:rum0");
        grid.slave.machine.mac = MacAddr::default();
        grid
    }

    fn with(mtu: usize, memory: usize, link: &str) -> Self {
        let namespaces = Namespaces::new(mtu);
        for (namespace, address) in [(&namespaces.right, "10.0.0.1/24"), (&namespaces.left, "10.0.0.9/24")] {
            ip(&["-n", namespace, "address", "add", address, "dev", "rum0"]);
        }
        let mut slave = SlaveProcess::new(0, link, memory, LONG_LEASE);
        let arguments = SlaveProcess::arguments(link, memory, LONG_LEASE);
        let mut player = Player::start_in(&namespaces.right, "slave", &arguments);
        slave.machine.mac = mac_of(&player.hear("ready"));
        slave.player = Some(player);
        Self { slave, namespaces }
    }
}

/// Slaves as threads of this process.
pub struct MemoryGrid {
    hubs: Vec<MemoryHub>,
    _slaves: Vec<SlaveHandle>,
}

/// As jumbo Ethernet frames that hold a page.
pub const MEMORY_MTU: usize = 9000;

impl MemoryGrid {
    pub fn start(count: usize, memory_each: usize) -> Self {
        Self::with(count, memory_each, MEMORY_MTU)
    }

    pub fn with(count: usize, memory_each: usize, mtu: usize) -> Self {
        let start = |_| {
            let (hub, port) = MemoryHub::new(mtu).expect("a hub");
            let options = Options { lease: LONG_LEASE, ..Options::new(memory_each as u64) };
            (hub, Slave::start(vec![Box::new(port)], options).expect("a slave"))
        };
        let (hubs, slaves) = (0..count).map(start).unzip();
        Self { hubs, _slaves: slaves }
    }

    pub fn join(&self, budget: usize, engine: Option<EngineKind>, faults: Option<Faults>) -> Grid {
        let machines = (0..self.hubs.len()).map(|number| machine(number, "vdev:memory")).collect();
        let ports = self.hubs.iter().enumerate().map(|(number, hub)| -> Box<dyn Port> {
            let port = hub.connect().expect("a port");
            match faults {
                Some(faults) => Box::new(Inject::new(port, Faults { seed: faults.seed + number as u64, ..faults })),
                None => Box::new(port),
            }
        });
        Grid::join_over(config(machines, budget, engine), ports.collect()).unwrap_or_else(|error| panic!("{error}"))
    }
}

pub fn config(machines: Vec<Machine>, budget: usize, engine: Option<EngineKind>) -> Config {
    Config { machines, replication_factor: 1, local_budget_bytes: budget as u64, engine, key: None }
}

/// Machines as one line of text.
pub fn machines_text(machines: &[Machine]) -> String {
    let line = |m: &Machine| format!("{},{},{}", m.ip, m.mac, m.link);
    machines.iter().map(line).collect::<Vec<_>>().join(";")
}

/// The machines that this process was started with, and how many of them keep each page.
pub fn machines_argument() -> (Vec<Machine>, usize) {
    let text = argument("machines").replace(';', "\n");
    let machines = parse_machines("machines", text.as_bytes(), None).unwrap_or_else(|error| panic!("{error}"));
    let factor = parse_replication_factor("machines", text.as_bytes(), machines.len());
    (machines, factor.unwrap_or_else(|error| panic!("{error}")))
}

/// Joins the grid that this process was told of, with the budget it was told in MiB and the engine and key file, if any.
pub fn join_as_told() -> Grid {
    let engine = option("engine").map(|engine| engine.parse().unwrap_or_else(|error| panic!("{error}")));
    let key = option("keys").map(|path| {
        let file = KeyFile::read(Path::new(&path)).unwrap_or_else(|error| panic!("{error}"));
        file.choose(None).expect("one key").clone()
    });
    let started = Instant::now();
    let (machines, replication_factor) = machines_argument();
    let config = config(machines, number("budget_mib") as usize * MIB, engine);
    let grid = Grid::join(Config { key, replication_factor, ..config });
    let grid = grid.unwrap_or_else(|error| panic!("{error}"));
    say(&format!("joined in {:.1?}, engine {}", started.elapsed(), grid.engine()));
    grid
}

/// Starts a client process of a grid.
pub fn client(role: &str, machines: &str, budget_mib: usize, more: &[(&str, String)]) -> Player {
    let mut arguments =
        vec![("machines", machines.to_owned()), ("budget_mib", budget_mib.to_string()), ("engine", String::new())];
    arguments.extend(more.iter().map(|(name, value)| (*name, value.clone())));
    Player::start(role, &arguments)
}
