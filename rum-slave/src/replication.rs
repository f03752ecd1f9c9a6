//! A slave that replicates what it keeps on others: its parts in groups, the way to the other slaves, and the sessions of clients.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    machines::{Machine, Machines},
    placement::{Placement, SlaveIndex},
    rpc::{Incarnation, MAX_MESSAGE_BYTES, Response, server::Responder},
    seal::ClientKey,
    station::spec::LinkSpec,
    wire::message::{Command, RESPONSE_HEAD_BYTES, Request, Stat, Status, encode_not_leader, encode_status},
};

use crate::{
    account::{AccountId, Accounts},
    description::SlaveDescription,
    disk::{
        CHECKPOINT_BYTES, Disk,
        files::FileError,
        folder::{DataDir, DataDirError},
    },
    group::{
        Asker, Caller, Group, Output,
        message::{Content, PeerMessage},
        peers::{OwnPort, Peers},
        scrub::ScrubOptions,
    },
    server::StartError,
    service::Totals,
};

/// The name of the key with which slaves open sessions with each other.
pub const PEER_KEY: &str = "grid";
/// Slaves that are idle say no more to each other at a time: no reason to stay awake.
const SIGN_OF_LIFE_BYTES: usize = 512;
/// How long a slave that ends waits for others to lead in its place.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Who replicates what with whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicationOptions {
    /// All slaves of the grid.
    pub machines: Vec<Machine>,
    /// How many of them keep each page.
    pub factor: usize,
    /// Which of them this is.
    pub me: SlaveIndex,
    /// Where it keeps what it has on disk, if it does.
    pub data_dir: Option<PathBuf>,
    /// Bytes of the journal on disk after which a checkpoint is made.
    pub checkpoint_bytes: u64,
    /// How much of what replicas have is compared in the background.
    pub scrub: ScrubOptions,
}

/// Why a slave is not one of a grid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no line of {path} is this slave: expected one with its link ({links}) or its --name")]
pub struct NotInGrid {
    /// machines.csv.
    pub path: String,
    /// The links that it serves.
    pub links: String,
}

impl ReplicationOptions {
    /// Slave `me` of `machines`, `factor` of which keep each page, in memory alone.
    pub fn new(machines: Vec<Machine>, factor: usize, me: SlaveIndex) -> Self {
        Self {
            machines,
            factor,
            me,
            data_dir: None,
            checkpoint_bytes: CHECKPOINT_BYTES,
            scrub: ScrubOptions::default(),
        }
    }

    /// The slave of `machines` that has this name, or serves one of these links alone.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(machines: Machines, path: &str, name: Option<&str>, links: &[LinkSpec]) -> Result<Self, NotInGrid> {
        let is_named = |machine: &Machine| name.is_some() && machine.name.as_deref() == name;
        let is_link = |machine: &Machine| links.iter().any(|link| link.is_point_to_point() && *link == machine.link);
        let slaves = &machines.slaves;
        let me = slaves.iter().position(is_link).or_else(|| slaves.iter().position(is_named));
        let me = me.ok_or_else(|| {
            let links: Vec<String> = links.iter().map(ToString::to_string).collect();
            NotInGrid { path: path.to_owned(), links: links.join(", ") }
        })?;
        Ok(Self::new(machines.slaves, machines.replication_factor, me as SlaveIndex))
    }
}

#[derive(Clone, Debug)]
struct Session {
    open: usize,
    account: AccountId,
    quota: u64,
    is_peer: bool,
    /// As which slave it has spoken.
    sender: Option<SlaveIndex>,
}

/// What each group's slave finds on disk.
fn remember(
    groups: Vec<Group>,
    path: &Path,
    options: &ReplicationOptions,
    accounts: &Accounts,
) -> Result<(Vec<Group>, Option<Disk>), DataDirError> {
    let folder = DataDir::open(path, &options.machines, options.factor, options.me)?;
    let asked: Vec<_> = groups.iter().map(|group| (group.number(), group.first_configuration())).collect();
    let (disk, memories) = folder.start(&asked, accounts, options.checkpoint_bytes)?;
    let groups = groups.into_iter().zip(memories).map(|(group, memory)| group.with_memory(memory, Duration::ZERO));
    Ok((groups.collect(), Some(disk)))
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Replication {
    me: SlaveIndex,
    factor: usize,
    /// As messages call the slave.
    name: Option<String>,
    capacity_bytes: u64,
    start: Instant,
    incarnation: Incarnation,
    lease: Duration,
    accounts: Accounts,
    has_keys: bool,
    groups: Vec<Group>,
    peers: Peers,
    sessions: HashMap<Incarnation, Session>,
    answers: Vec<(Asker, Vec<u8>)>,
    disk: Option<Disk>,
    /// Why it cannot go on.
    failure: Option<FileError>,
    totals: Totals,
    /// Some group's state may be missing still.
    is_recovering: bool,
    /// Since the last step a client has asked for something.
    was_asked: bool,
    /// Until then groups have nothing to do unless a message comes: most steps of a slave that polls find none.
    next_turn: Duration,
}

impl Replication {
    /// A slave with room for `capacity` extents. With `key` it opens sealed sessions with the others; by `own` it reaches those on a network.
    ///
    /// # Errors
    /// When a port towards the others cannot be opened, or the data folder not be used.
    pub fn new(
        options: &ReplicationOptions,
        accounts: Accounts,
        (key, own): (Option<ClientKey>, Option<OwnPort>),
        capacity: u64,
        (incarnation, lease): (Incarnation, Duration),
    ) -> Result<Self, StartError> {
        let placement = Placement::new(&options.machines);
        let all = (0..options.machines.len() as SlaveIndex).map(|first| placement.group(first, options.factor));
        let mine: Vec<Vec<SlaveIndex>> = all.filter(|slaves| slaves.contains(&options.me)).collect();
        let share = capacity / mine.len().max(1) as u64;
        let scrub = options.scrub;
        let groups = mine.into_iter().filter_map(|slaves| {
            let (number, who) = (slaves[0], (slaves, options.me));
            let group = Group::new(number, who, accounts.clone(), share, lease, Duration::ZERO, rand::random())?;
            Some(group.with_scrub(scrub))
        });
        let (groups, disk) = match &options.data_dir {
            None => (groups.collect(), None),
            Some(path) => remember(groups.collect(), path, options, &accounts)?,
        };
        Ok(Self {
            me: options.me,
            factor: options.factor,
            name: None,
            capacity_bytes: capacity * EXTENT_BYTES as u64,
            start: Instant::now(),
            incarnation,
            lease,
            groups,
            disk,
            failure: None,
            has_keys: key.is_some(),
            accounts,
            peers: Peers::new(&options.machines, options.me, incarnation, key, own)?,
            sessions: HashMap::new(),
            answers: Vec::new(),
            totals: Totals::default(),
            is_recovering: true,
            was_asked: false,
            next_turn: Duration::ZERO,
        })
    }

    /// How many slaves keep each page.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// The clock of replicas.
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A client, or another slave, wants a session; `name` is what its key has proven. Returns whether it may have one.
    #[must_use]
    pub fn session_opened(&mut self, client: Incarnation, name: Option<&str>) -> bool {
        let Some(account) = self.accounts.find(name) else {
            self.totals.sessions_refused += 1;
            return false;
        };
        let is_peer = if self.has_keys { name == Some(PEER_KEY) } else { true };
        let quota = self.accounts.quota(account).capacity();
        let new = Session { open: 0, account, quota, is_peer, sender: None };
        let session = self.sessions.entry(client).or_insert(new);
        if session.account != account {
            self.totals.sessions_refused += 1;
            return false;
        }
        self.totals.clients += u64::from(session.open == 0);
        session.open += 1;
        true
    }

    /// A session ended, by its client's wish or because that was silent.
    pub fn session_closed(&mut self, client: Incarnation) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        session.open -= 1;
        if session.open == 0 {
            self.sessions.remove(&client);
            let now = self.now();
            for group in &mut self.groups {
                group.session_ended(client, now);
            }
            self.next_turn = now;
        }
    }

    /// Serves a request: answers it, or keeps `asker` to answer it later.
    pub fn request(&mut self, asker: Asker, client: Incarnation, message: &[u8], responder: &mut Responder<'_>) {
        match Request::decode(message) {
            Ok(Request::Command(command)) => self.command(asker, client, command, responder),
            Ok(Request::Ask { group, of_any, request }) => {
                self.ask(client, (group, of_any), request, responder.response())
            }
            Ok(Request::Peer { sender, messages }) => self.peer(client, sender, messages, responder),
            Ok(Request::Describe) => {
                let json = self.describe().to_json();
                let response = &mut responder.response().head;
                encode_status(Status::Ok, response);
                response.extend_from_slice(&json);
            }
            Ok(Request::Renew) => self.status(Status::Ok, responder.response()),
            Ok(_) => self.status(Status::Unsupported, responder.response()),
            Err(error) => self.status(error.status(), responder.response()),
        }
    }

    fn status(&mut self, status: Status, response: &mut Response) {
        response.clear();
        encode_status(status, &mut response.head);
        self.count(status);
    }

    fn count(&mut self, status: Status) {
        self.totals.requests += 1;
        self.totals.answered[status as usize] += 1;
    }

    fn caller(&self, client: Incarnation) -> Option<Caller> {
        let session = self.sessions.get(&client)?;
        Some(Caller { client, account: session.account, quota: session.quota })
    }

    fn command(&mut self, asker: Asker, client: Incarnation, command: Command<'_>, responder: &mut Responder<'_>) {
        self.was_asked = true;
        let Command { group, sequence, settled, request } = command;
        let caller = self.caller(client);
        let Some((group, caller)) = self.groups.iter_mut().find(|g| g.number() == group).zip(caller) else {
            return encode_not_leader(None, &mut responder.response().head);
        };
        let first_generation = rand::random_range(1..u32::MAX / 2);
        group.command(asker, caller, (sequence, settled), responder.keep(request), first_generation);
        self.next_turn = Duration::ZERO;
    }

    fn ask(&mut self, client: Incarnation, (group, of_any): (u16, bool), request: &[u8], response: &mut Response) {
        self.was_asked = true;
        let (now, caller, stat) = (self.now(), self.caller(client), self.about());
        let Some((group, caller)) = self.groups.iter_mut().find(|g| g.number() == group).zip(caller) else {
            return encode_not_leader(None, &mut response.head);
        };
        let asked = if of_any {
            group.ask_of_any(caller, request, response)
        } else {
            group.ask(now, caller, request, stat, response)
        };
        if let Err(status) = asked {
            return self.status(status, response);
        }
        self.totals.pages_read += response.pages.len() as u64;
        let is_ok = response.head.first() == Some(&(Status::Ok as u8));
        self.count(if is_ok { Status::Ok } else { Status::NotLeader });
    }

    /// Takes what another slave says, and answers with what there is to be said to it.
    fn peer(&mut self, client: Incarnation, sender: SlaveIndex, messages: &[u8], responder: &mut Responder<'_>) {
        let whole = responder.long_request();
        let response = responder.response();
        let session = self.sessions.get_mut(&client).filter(|session| session.is_peer && sender != self.me);
        if session.is_none_or(|session| *session.sender.get_or_insert(sender) != sender) {
            return self.status(Status::NotOwner, response);
        }
        let mut all = Vec::new();
        let mut sink = |message| all.push(message);
        let is_right = match whole {
            Some(whole) => PeerMessage::decode_shared(whole, messages, &mut sink),
            None => PeerMessage::decode_all(messages, &mut sink),
        };
        if !is_right {
            return self.status(Status::Malformed, response);
        }
        encode_status(Status::Ok, &mut response.head);
        let is_work = all.iter().any(|message| !matches!(message.content, Content::Scrub(_)));
        self.was_asked |= messages.len() > SIGN_OF_LIFE_BYTES && is_work;
        let now = self.now();
        for message in all {
            self.handle(now, sender, message);
        }
        self.run_effects(now);
        self.peers.take_waiting(sender, MAX_MESSAGE_BYTES - RESPONSE_HEAD_BYTES, &mut response.head);
    }

    /// `now` has to be read after the message has come.
    fn handle(&mut self, now: Duration, sender: SlaveIndex, message: PeerMessage) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.number() == message.group) {
            group.handle(now, sender, message.content);
        }
    }

    fn run_effects(&mut self, now: Duration) {
        let Self { groups, peers, answers, disk, next_turn, .. } = self;
        *next_turn = Duration::MAX;
        for group in groups {
            group.run_effects(now);
            for output in group.take_outputs() {
                match (output, &mut *disk) {
                    (Output::Send(to, message), _) => peers.push(&to, &message),
                    (Output::Answer(asker, answer), _) => answers.push((asker, answer)),
                    (Output::Persist(ticket, record), Some(disk)) => disk.record(group.number(), ticket, record),
                    (Output::Forget, Some(disk)) => disk.forget(group.number()),
                    // Groups know whether there is a disk.
                    (Output::Persist(..) | Output::Forget, None) => {}
                }
            }
            *next_turn = (*next_turn).min(group.next_turn());
        }
    }

    /// Does what is due by a clock that was read just before, and takes and sends messages. Returns whether there was anything that a client
    /// may wait for.
    pub fn step(&mut self, now: Instant) -> bool {
        let mut come = Vec::new();
        let has_come = self.peers.poll(now, &mut |slave, message| come.push((slave, message)));
        // Whoever sleeps while it sends all that it has is slow, and takes its own sleep for that of the way.
        let mut worked = std::mem::take(&mut self.was_asked) || has_come && self.groups.iter().any(Group::is_providing);
        let mut clock = now.saturating_duration_since(self.start);
        if !come.is_empty() {
            clock = self.now();
            self.next_turn = clock;
        }
        for (slave, message) in come {
            self.handle(clock, slave, message);
        }
        if clock >= self.next_turn || self.peers.has_messages() || self.disk.is_some() {
            worked |= self.take_turn(clock);
            self.peers.send(now);
        }
        worked
    }

    /// Does what is due. Returns whether there is more to be done at once.
    fn take_turn(&mut self, clock: Duration) -> bool {
        let mut has_more = false;
        let Self { groups, peers, sessions, .. } = self;
        for group in groups {
            group.tick(clock, &|client| sessions.contains_key(&client));
            group.provide(&|slave| peers.room(slave));
            has_more |= group.tidy();
        }
        self.run_effects(clock);
        if let Err(error) = self.write() {
            self.failure.get_or_insert(error);
        }
        if has_more {
            self.next_turn = clock;
        }
        has_more
    }

    /// Hands to the disk what is to be durable, and does what waits for it.
    fn write(&mut self) -> Result<(), FileError> {
        if self.disk.is_none() {
            return Ok(());
        }
        let now = self.now();
        let Self { disk: Some(disk), groups, .. } = self else { return Ok(()) };
        disk.acknowledge(now, groups)?;
        self.run_effects(now);
        let Self { disk: Some(disk), groups, .. } = self else { return Ok(()) };
        disk.step(now, groups)
    }

    /// Why the slave cannot go on, if so: its disk does not do what it should.
    pub fn take_failure(&mut self) -> Option<FileError> {
        self.failure.take()
    }

    /// Says once that the slave has what its groups have: how many bytes, and how long after its start.
    pub fn recovered(&mut self) -> Option<(u64, Duration)> {
        if !self.is_recovering || !self.groups.iter().all(Group::is_whole) {
            return None;
        }
        self.is_recovering = false;
        let pages: u64 = self.groups.iter().map(|group| group.state().store().used_pages()).sum();
        Some((pages * PAGE_BYTES as u64, self.now()))
    }

    /// Answers for requests that were kept.
    pub fn take_answers(&mut self) -> Vec<(Asker, Vec<u8>)> {
        for (_, answer) in &self.answers {
            self.totals.requests += 1;
            self.totals.answered[usize::from(answer[0])] += 1;
        }
        std::mem::take(&mut self.answers)
    }

    /// How long the slave may sleep.
    pub fn patience(&self) -> Duration {
        /// Another slave's answer comes by a port that is not slept on.
        const SHORT: Duration = Duration::from_micros(100);
        if self.peers.is_waiting() || self.disk.as_ref().is_some_and(Disk::is_waiting) {
            return SHORT;
        }
        let now = self.now();
        let next = self.groups.iter().filter_map(Group::next_timeout).min();
        next.map_or(HAND_OVER, |next| next.saturating_sub(now).min(HAND_OVER))
    }

    /// Gives up all leads, and says whether this slave leads nothing any more; to be called until it does, or patience ends.
    pub fn hand_over(&mut self) -> bool {
        let now = self.now();
        let mut leads = false;
        self.next_turn = now;
        for group in self.groups.iter_mut().filter(|group| group.is_leader()) {
            leads = true;
            group.hand_over(now);
        }
        !leads
    }

    /// How long `hand_over` is worth repeating.
    pub fn hand_over_patience(&self) -> Duration {
        HAND_OVER
    }

    /// What was done since the start.
    pub fn totals(&self) -> Totals {
        let states = || self.groups.iter().map(Group::state);
        Totals {
            pages_written: states().map(|state| state.pages_written()).sum(),
            leases_expired: states().map(|state| state.expired()).sum(),
            pages_compared: self.groups.iter().map(|group| group.scrubbed().compared).sum(),
            pages_repaired: self.groups.iter().map(|group| group.scrubbed().repaired).sum(),
            ..self.totals
        }
    }

    /// See `Store::tamper`: the pages of all groups.
    pub fn tamper(&mut self, change: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.groups.iter_mut().for_each(|group| group.tamper(change));
    }

    /// What a group says of itself is said of this slave, too.
    fn about(&self) -> Stat {
        Stat {
            incarnation: self.incarnation,
            capacity_extents: 0,
            reserved_extents: 0,
            used_pages: 0,
            sessions: self.sessions.len() as u64,
            lease: self.lease,
        }
    }

    /// What this slave says of itself in full.
    pub fn describe(&self) -> SlaveDescription {
        SlaveDescription {
            name: self.name.clone(),
            replication_factor: self.factor,
            capacity_bytes: self.capacity_bytes,
            sessions: self.sessions.values().map(|session| session.open as u64).sum(),
            lease_ms: self.lease.as_millis() as u64,
            up_s: self.start.elapsed().as_secs(),
            parts: self.groups.iter().map(Group::describe).collect(),
        }
    }

    /// The replication of a slave that is called so.
    pub fn named(self, name: Option<String>) -> Self {
        Self { name, ..self }
    }
}
