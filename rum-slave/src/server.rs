//! Runs the service over ports, to completion: the one thread that receives a request answers it.

use std::{
    collections::HashMap,
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    port::{LinkId, TransmitError},
    rpc::{
        Incarnation, MIN_MTU,
        server::{Responder, Server, ServerConfig, ServerEvent},
    },
    station::{SendError, Station},
};

use crate::{
    account::Accounts,
    disk::{files::FileError, folder::DataDirError},
    group::peers::{OwnPort, PeersError},
    idle::{Idle, Pause},
    options::{Options, PollOptions},
    replication::{PEER_KEY, Replication},
    service::{Service, Totals},
    stop::{Stop, Stopper, stop},
    store::Store,
};

/// Packets taken from a port before answers are sent: their receivers work on them while the next are taken.
const RECEIVE_BURST: usize = 16;
/// Packets taken from a port before it is another's turn.
const RECEIVE_BUDGET: usize = 4 * RECEIVE_BURST;
/// Packets after which those that were queued are handed over: their receiver works on them while more are made.
const FLUSH_EVERY: u32 = 8;
/// Steps in a row that may leave packets waiting before leases end nevertheless: a flood must not keep them for ever.
const MAX_BEHIND: u32 = 1024;
/// Times that full links may refuse packets before the slave turns to receiving again.
const MAX_REFUSALS: usize = 8;
/// How long a link's full queue is waited for. After that what goes there is dropped, until something gets through: a
/// client that does not take its answers must not hold up the others, and it can ask again.
const FULL_PATIENCE: Duration = Duration::from_millis(1);
/// How long a slave sleeps at most before it looks at its clock.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Why a slave could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Less memory than one extent.
    #[error("{0} bytes of memory are less than one extent ({EXTENT_BYTES} bytes)")]
    TooSmall(u64),
    /// More memory than extents can be numbered.
    #[error("{0} bytes of memory are more than a slave can number")]
    TooLarge(u64),
    /// No port to serve.
    #[error("no port to serve")]
    NoPorts,
    /// A port that carries too little.
    #[error("{port} has an MTU of {mtu} bytes: at least {MIN_MTU} are needed")]
    SmallMtu {
        /// The port.
        port: String,
        /// Its MTU in bytes.
        mtu: usize,
    },
    /// The other slaves cannot be reached.
    #[error("cannot reach the other slaves: {0}")]
    Peers(#[from] PeersError),
    /// Its folder on disk cannot be used.
    #[error("data folder: {0}")]
    DataDir(#[from] DataDirError),
    /// Slaves know each other by a key of its own.
    #[error("the key file has no key {PEER_KEY:?}, with which slaves replicate: add one by `rum keygen`")]
    NoPeerKey,
    /// The operating system has no thread or descriptor left.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Why a slave came to its end.
#[derive(Debug)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Its ports are gone for good.
    PortsGone,
    /// Its disk does not do what it should: it cannot keep its word any more.
    DiskFailed(FileError),
}

/// A port and the sessions that came by it.
struct Channel {
    /// Its number; never used twice.
    number: usize,
    station: Station,
    server: Server,
    /// Since when each link's queue has been full.
    full_since: HashMap<LinkId, Instant>,
    /// Steps in a row that left packets waiting.
    behind: u32,
}

/// What a slave serves: a store of its own, or its parts in groups of slaves.
enum Served {
    Alone(Box<Service>),
    Replicated(Box<Replication>),
}

impl Served {
    fn session_opened(&mut self, client: Incarnation, name: Option<&str>) -> bool {
        match self {
            Self::Alone(service) => service.session_opened(client, name),
            Self::Replicated(replication) => replication.session_opened(client, name),
        }
    }

    fn session_closed(&mut self, client: Incarnation) {
        match self {
            Self::Alone(service) => service.session_closed(client),
            Self::Replicated(replication) => replication.session_closed(client),
        }
    }
}

/// A slave: an empty store served over ports.
pub struct Slave {
    options: Options,
    served: Served,
    channels: Vec<Channel>,
    /// The channel to sleep on next.
    sleep_on: usize,
}

impl Slave {
    /// A slave that serves `ports`, each with its framing, as soon as it is stepped or run.
    pub fn new<P: Into<Station>>(ports: Vec<P>, options: Options) -> Result<Self, StartError> {
        Self::with_own_port(ports, options, None)
    }

    /// As `new`; a slave that replicates reaches others on a network by `own`.
    pub fn with_own_port<P: Into<Station>>(
        ports: Vec<P>,
        options: Options,
        own: Option<OwnPort>,
    ) -> Result<Self, StartError> {
        let capacity = options.capacity_extents();
        if capacity == 0 {
            return Err(StartError::TooSmall(options.memory_bytes));
        }
        if capacity > u64::from(u32::MAX) {
            return Err(StartError::TooLarge(options.memory_bytes));
        }
        if ports.is_empty() {
            return Err(StartError::NoPorts);
        }
        let incarnation = Incarnation(rand::random());
        let channels: Result<Vec<Channel>, StartError> = ports
            .into_iter()
            .zip(0..)
            .map(|(port, number)| Channel::new(number, port.into(), incarnation, &options))
            .collect();
        // Half of the numbers are left to count up through.
        let first_generation = rand::random_range(1..u32::MAX / 2);
        let accounts = options.keys.as_deref().map(Accounts::new).unwrap_or_default();
        let served = match &options.replication {
            None => {
                let store = Store::new(capacity, first_generation).with_accounts(accounts);
                Served::Alone(Box::new(Service::new(incarnation, options.lease, store).named(options.name.clone())))
            }
            Some(replication) => {
                let key = match &options.keys {
                    None => None,
                    Some(keys) => Some(keys.choose(Some(PEER_KEY)).map_err(|_| StartError::NoPeerKey)?.clone()),
                };
                let who = (incarnation, options.lease);
                let replication = Replication::new(replication, accounts, (key, own), capacity, who)?;
                Served::Replicated(Box::new(replication.named(options.name.clone())))
            }
        };
        Ok(Self { served, channels: channels?, sleep_on: 0, options })
    }

    /// Runs a slave in a thread of its own, until its handle is stopped or dropped.
    pub fn start<P: Into<Station>>(ports: Vec<P>, options: Options) -> Result<SlaveHandle, StartError> {
        let mut slave = Self::new(ports, options)?;
        let (stopper, stop) = stop()?;
        let thread = thread::Builder::new().name("rum-slave".to_owned()).spawn(move || {
            slave.run(&stop);
            slave.totals()
        })?;
        Ok(SlaveHandle { stopper, thread: Some(thread) })
    }

    /// Serves until told to stop. Polls while there is work, and sleeps when there is none.
    pub fn run(&mut self, stop: &Stop) -> End {
        self.run_and_say(stop, &mut |_| {})
    }

    /// As `run`; gives `say` a line when there is news.
    pub fn run_and_say(&mut self, stop: &Stop, say: &mut dyn FnMut(&str)) -> End {
        let mut idle = Idle::new(self.options.poll);
        while !stop.is_set() {
            let now = Instant::now();
            let worked = self.step(now);
            if let Some(line) = self.news() {
                say(&line);
            }
            if let Served::Replicated(replication) = &mut self.served
                && let Some(error) = replication.take_failure()
            {
                return End::DiskFailed(error);
            }
            if worked {
                idle.worked();
                continue;
            }
            match idle.pause(now) {
                Pause::Spin => std::hint::spin_loop(),
                Pause::Yield => {
                    thread::yield_now();
                    let after = Instant::now();
                    idle.yielded(after - now, after);
                }
                Pause::Sleep => {
                    self.drop_gone_ports();
                    if self.channels.is_empty() {
                        return End::PortsGone;
                    }
                    self.sleep(now, stop);
                }
            }
        }
        self.hand_over();
        End::Stopped
    }

    /// Lets other slaves lead what this one leads.
    fn hand_over(&mut self) {
        let Served::Replicated(replication) = &self.served else { return };
        let deadline = Instant::now() + replication.hand_over_patience();
        while let Served::Replicated(replication) = &mut self.served
            && !replication.hand_over()
            && Instant::now() < deadline
        {
            self.step(Instant::now());
        }
        self.step(Instant::now());
    }

    /// Takes some packets, answers them, and ends the leases whose time has come. Never blocks. Returns whether there
    /// was anything to do. For who hosts several slaves in one thread; `run` otherwise.
    pub fn step(&mut self, now: Instant) -> bool {
        let Self { served, channels, .. } = self;
        let mut worked = false;
        for channel in channels.iter_mut() {
            worked |= channel.step(now, served);
        }
        match served {
            Served::Alone(service) => {
                service.settle();
                worked | service.tidy()
            }
            Served::Replicated(replication) => {
                worked = replication.step(now);
                for ((number, token), answer) in replication.take_answers() {
                    worked = true;
                    if let Some(channel) = channels.iter_mut().find(|channel| channel.number == number) {
                        channel.server.respond(token, &answer);
                    }
                }
                for channel in channels.iter_mut().filter(|channel| channel.server.wants_transmit()) {
                    channel.transmit(now);
                }
                worked
            }
        }
    }

    /// See `Store::tamper`.
    pub fn tamper(&mut self, change: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        match &mut self.served {
            Served::Alone(service) => service.tamper(change),
            Served::Replicated(replication) => replication.tamper(change),
        }
    }

    /// What was done since the start.
    pub fn totals(&self) -> Totals {
        match &self.served {
            Served::Alone(service) => service.totals(),
            Served::Replicated(replication) => replication.totals(),
        }
    }

    /// Calls `sink` with the name and value of each counter of each port (see `Port::counters`) and of the sessions on it.
    pub fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        for channel in &self.channels {
            channel.station.counters(sink);
            for (name, count) in channel.server.stats().drops.by_reason() {
                sink(name, count);
            }
        }
    }

    /// The line that says that the slave is ready, where, and what it is not.
    pub fn ready_line(&self) -> String {
        let name = self.options.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let mut line = format!("rum-slave{name}: ready");
        for channel in &self.channels {
            line += &format!(", port {}", channel.station.describe());
        }
        let mib = self.options.capacity_extents() * (EXTENT_BYTES as u64 >> 20);
        line += &format!(", {mib} MiB");
        if let Some(keys) = &self.options.keys {
            line += &match keys.clients().len() {
                1 => ", sealed for 1 client".to_owned(),
                count => format!(", sealed for {count} clients"),
            };
        }
        line + &match &self.served {
            Served::Alone(_) => ", RF 1: nothing is replicated".to_owned(),
            Served::Replicated(replication) => format!(", RF {}", replication.factor()),
        }
    }

    /// What has happened that its owner may want to know.
    fn news(&mut self) -> Option<String> {
        let Served::Replicated(replication) = &mut self.served else { return None };
        let (bytes, took) = replication.recovered()?;
        let name = self.options.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
        Some(format!("rum-slave{name}: has what its grid has, {megabytes:.1} MB after {seconds:.3} s"))
    }

    /// Sleeps until a packet comes, a lease may end, or the slave is told to stop.
    fn sleep(&mut self, now: Instant, stop: &Stop) {
        let PollOptions { sleep_among_ports, .. } = self.options.poll;
        let next_expiry = self.channels.iter().filter_map(|channel| channel.server.poll_timeout()).min();
        let mut timeout = next_expiry.map_or(MAX_SLEEP, |at| at.saturating_duration_since(now).min(MAX_SLEEP));
        if let Served::Replicated(replication) = &self.served {
            timeout = timeout.min(replication.patience());
        }
        if self.channels.len() > 1 {
            timeout = timeout.min(sleep_among_ports);
        }
        self.sleep_on = (self.sleep_on + 1) % self.channels.len();
        let station = &mut self.channels[self.sleep_on].station;
        if let Err(error) = station.wait(timeout, Some(stop.wake())) {
            tracing::warn!("{}: cannot wait for packets: {error}", station.name());
            thread::sleep(sleep_among_ports);
        }
    }

    fn drop_gone_ports(&mut self) {
        self.channels.retain(|channel| {
            let is_gone = channel.station.is_closed();
            if is_gone {
                tracing::error!("{} is gone", channel.station.name());
            }
            !is_gone
        });
    }
}

impl Channel {
    fn new(number: usize, station: Station, incarnation: Incarnation, options: &Options) -> Result<Self, StartError> {
        let mtu = station.mtu();
        if mtu < MIN_MTU {
            return Err(StartError::SmallMtu { port: station.name().to_owned(), mtu });
        }
        let config =
            ServerConfig { incarnation, mtu, session_timeout: options.lease, max_sessions: options.max_sessions };
        let server = Server::new(config, options.keys.clone(), rand::random(), Instant::now());
        let server = server.over_shared_memory(station.shares_memory());
        Ok(Self { number, station, server, full_since: HashMap::new(), behind: 0 })
    }

    fn step(&mut self, now: Instant, served: &mut Served) -> bool {
        let (mut received, mut worked) = (0, false);
        while received < RECEIVE_BUDGET {
            let taken = self.receive(now, served);
            let wants_transmit = self.server.wants_transmit();
            if wants_transmit {
                self.transmit(now);
            }
            worked |= taken > 0 || wants_transmit;
            received += taken;
            if taken < RECEIVE_BURST {
                break;
            }
        }
        let Self { station, server, full_since, behind, .. } = self;
        station.link_changes(&mut |link, is_open| {
            if !is_open {
                server.link_closed(link);
                full_since.remove(&link);
            }
        });
        // A slave that was held up itself finds clients silent whose packets it has not taken yet.
        *behind = if received < RECEIVE_BUDGET { 0 } else { *behind + 1 };
        if *behind == 0 || *behind > MAX_BEHIND {
            server.expire(now, &mut |event| {
                if let ServerEvent::Closed { client, .. } = event {
                    served.session_closed(client);
                }
            });
        }
        worked
    }

    /// Takes some packets, and gives what they ask for to who serves.
    fn receive(&mut self, now: Instant, served: &mut Served) -> usize {
        let Self { number, station, server, .. } = self;
        let number = *number;
        let mut on_event = |responder: &mut Responder<'_>, event: ServerEvent<'_>| match event {
            ServerEvent::Request { token, client, message } => match served {
                Served::Alone(service) => service.answer(client, message, responder.response()),
                Served::Replicated(replication) => replication.request((number, token), client, message, responder),
            },
            ServerEvent::Opened { client, key, .. } => {
                if !served.session_opened(client, key.map(|key| key.name.as_str())) {
                    responder.refuse();
                }
            }
            ServerEvent::Closed { client, .. } => served.session_closed(client),
        };
        station.receive(now, RECEIVE_BURST, &mut |from, packet| {
            server.handle(now, from, packet, &mut on_event);
        })
    }

    fn transmit(&mut self, now: Instant) {
        let Self { station, server, full_since, .. } = self;
        let (mut refusals, mut sent) = (0, 0);
        while let Some((to, packet)) = server.poll_transmit(now) {
            let result = station.transmit(now, &to, &packet);
            sent += 1;
            if sent % FLUSH_EVERY == 0 {
                station.flush();
            }
            match result {
                Ok(()) if full_since.is_empty() => {}
                Ok(()) => drop(full_since.remove(&to.link)),
                Err(SendError::Port(TransmitError::Full)) => {
                    let since = *full_since.entry(to.link).or_insert(now);
                    if now.saturating_duration_since(since) < FULL_PATIENCE {
                        server.not_sent();
                        refusals += 1;
                        if refusals == MAX_REFUSALS {
                            break;
                        }
                    }
                }
                Err(SendError::Port(TransmitError::Closed)) => {
                    server.not_sent();
                    server.link_closed(to.link);
                }
                Err(SendError::Port(TransmitError::TooLong)) => {
                    tracing::error!("{}: a packet of {} bytes is too long", station.name(), packet.bytes());
                }
                // A slave answers to where a packet came from, and never asks for an address.
                Err(SendError::Unresolved) => {}
            }
        }
        station.flush();
    }
}

/// A slave that runs in a thread. Dropping the handle stops it.
#[derive(Debug)]
pub struct SlaveHandle {
    stopper: Stopper,
    thread: Option<JoinHandle<Totals>>,
}

impl SlaveHandle {
    /// Stops the slave, closes its ports, and says what it did. `None` if it panicked.
    pub fn stop(mut self) -> Option<Totals> {
        self.join()
    }

    fn join(&mut self) -> Option<Totals> {
        self.stopper.stop();
        self.thread.take()?.join().ok()
    }
}

impl Drop for SlaveHandle {
    fn drop(&mut self) {
        self.join();
    }
}
