//! A group of slaves that keep the same pages: one replica of it, with its state. No I/O: messages, requests and the time go in; messages and
//! answers come out.

mod bytes;
pub mod entry;
pub mod image;
pub mod message;
pub mod peers;
pub mod scrub;
pub mod state;
pub mod transfer;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use paxos::{
    Command, Configuration, Effect, MemberId, MemberSet, ProposeError, ReadError, Record, Replica, Settings,
    SettingsError, Slot, Standing, Start, Ticket,
};
use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    placement::SlaveIndex,
    rpc::{Incarnation, Response, server::RequestToken},
    shared::SharedBytes,
    wire::message::{MAX_BATCH_NAMES, Request, Stat, Status, encode_names_response, encode_not_leader, encode_status},
};

use self::{
    entry::{Entry, Operation, Run},
    message::{Content, PeerMessage, Piece},
    scrub::{Scrub, ScrubCounts, ScrubOptions},
    state::State,
    transfer::{Incoming, Outgoing, Progress},
};
use crate::{
    account::{AccountId, Accounts},
    description::PartDescription,
    disk::{
        checkpoint::GroupImage,
        memory::{Memory, Whole},
    },
};

/// A slave that leads in another's place gives the lead back when it has led for so long.
const LEAD_BACK: Duration = Duration::from_secs(2);
/// Who was heard so lately is there.
const LATELY: Duration = Duration::from_millis(100);
/// How often the others are asked for pages that are damaged here.
const REPAIR: Duration = Duration::from_millis(50);
/// Pages that are asked for at a time: they fit into a message.
const MAX_WANTED: usize = 30;
/// How often a leader looks whether leases have run out.
const LEASE_CHECK: Duration = Duration::from_millis(50);
/// How often it looks at all clients, of which there may be many, for those without a session: as a rule the ends of sessions have told.
const LEASE_WALK: Duration = Duration::from_millis(500);

/// Where an answer goes: to this request of the slave's port of this number.
pub type Asker = (usize, RequestToken);

/// Who asks for something.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its incarnation.
    pub client: Incarnation,
    /// Whose quota its memory counts against.
    pub account: AccountId,
    /// That quota in extents.
    pub quota: u64,
}

/// What a group wants done.
#[derive(Debug)]
pub enum Output {
    /// Give this message to these slaves.
    Send(Vec<SlaveIndex>, PeerMessage),
    /// Answer a request.
    Answer(Asker, Vec<u8>),
    /// Write a record, and say by `Group::persisted` when it is durable.
    Persist(Ticket, Record<Entry>),
    /// What was written so far is void: the group begins anew.
    Forget,
}

/// One slave's part in one group.
#[derive(Debug)]
pub struct Group {
    number: u16,
    seat: MemberId,
    /// The slave of each seat; the first leads while it can.
    slaves: Vec<SlaveIndex>,
    accounts: Accounts,
    seed: u64,
    settings: Settings,
    replica: Replica<Entry>,
    state: State,
    /// Who waits for a slot to be decided.
    waiting: HashMap<Slot, Asker>,
    outgoing: Vec<Outgoing>,
    incoming: Option<Incoming>,
    /// A transfer that has come, and waits for a checkpoint to make it durable; whether one is being made that has it.
    installed: Option<(MemberId, Slot)>,
    is_install_in_checkpoint: bool,
    next_repair: Duration,
    /// Extents that each slave has room for, as far as is known.
    capacities: Vec<u64>,
    /// When each slave was heard last.
    heard: Vec<Duration>,
    led_since: Option<Duration>,
    lease: Duration,
    /// Leases that another leader may have renewed have not run out before.
    leases_begin_anew: Duration,
    next_lease_check: Duration,
    next_lease_walk: Duration,
    /// Clients without a session here: when their lease runs out.
    silent: HashMap<Incarnation, Duration>,
    expiring: HashSet<Incarnation>,
    scrub: Scrub,
    outputs: Vec<Output>,
}

impl Group {
    /// The part of slave `me` in the group of `slaves`; it has room for `capacity` extents. `lease` is how long a client may be silent.
    pub fn new(
        number: u16,
        (slaves, me): (Vec<SlaveIndex>, SlaveIndex),
        accounts: Accounts,
        capacity: u64,
        lease: Duration,
        now: Duration,
        seed: u64,
    ) -> Option<Self> {
        let seat = slaves.iter().position(|&slave| slave == me)?;
        let seat = MemberId::new(seat as u8)?;
        // Until the others have said otherwise.
        let capacities = vec![capacity; slaves.len()];
        Some(Self {
            number,
            seat,
            replica: replica(seat, Settings::default(), Start::Blank(configuration(slaves.len())), now, seed),
            settings: Settings::default(),
            state: State::new(accounts.clone()),
            accounts,
            seed,
            waiting: HashMap::new(),
            outgoing: Vec::new(),
            incoming: None,
            installed: None,
            is_install_in_checkpoint: false,
            next_repair: now,
            capacities,
            heard: vec![Duration::ZERO; slaves.len()],
            led_since: None,
            slaves,
            lease,
            leases_begin_anew: now,
            next_lease_check: now,
            next_lease_walk: now,
            silent: HashMap::new(),
            expiring: HashSet::new(),
            scrub: Scrub::new(ScrubOptions::default(), seed),
            outputs: Vec::new(),
        })
    }

    /// The part as it begins, with other settings than the default ones.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn with_settings(self, settings: Settings, now: Duration) -> Result<Self, SettingsError> {
        settings.check()?;
        let start = Start::Blank(configuration(self.slaves.len()));
        let replica = replica(self.seat, settings, start, now, self.seed);
        Ok(Self { settings, replica, ..self })
    }

    /// The part of a slave that has a disk, on which it found this.
    pub fn with_memory(self, memory: Memory, now: Duration) -> Self {
        let settings = Settings { has_disk: true, ..self.settings };
        let configuration = configuration(self.slaves.len());
        let (start, state) = match memory {
            Memory::None => (Start::Blank(configuration), self.state),
            Memory::Lost => (Start::Damaged(configuration), self.state),
            Memory::Whole(whole) => {
                let Whole { replica, state, damaged } = *whole;
                if !damaged.is_empty() {
                    tracing::warn!("group {}: {} pages on disk are damaged", self.number, damaged.len());
                }
                (Start::Disk(replica), state.with_damaged(damaged))
            }
        };
        let replica = replica(self.seat, settings, start, now, self.seed);
        Self { settings, replica, state, ..self }
    }

    /// The configuration that the group began with.
    pub fn first_configuration(&self) -> Configuration {
        configuration(self.slaves.len())
    }

    /// Its number: that of the slave that leads it while it can.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// What it keeps, to look at.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// See `Store::tamper`.
    pub fn tamper(&mut self, change: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.state.tamper(change);
    }

    /// What the replica does.
    pub fn status(&self) -> paxos::Status {
        self.replica.status()
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<SlaveIndex> {
        self.replica.leader().map(|seat| self.slaves[usize::from(seat.get())])
    }

    /// Pages compared with others', and repaired.
    pub fn scrubbed(&self) -> ScrubCounts {
        self.scrub.counts()
    }

    /// Extents that all slaves of the group have room for.
    pub fn capacity(&self) -> u64 {
        self.capacities.iter().copied().min().unwrap_or(0)
    }

    /// When `tick` has to be called next.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.replica.next_timeout()
    }

    /// Until when there is nothing to do unless something comes: neither by `tick`, nor `provide`.
    pub fn next_turn(&self) -> Duration {
        if self.is_providing() {
            return Duration::ZERO;
        }
        let repair = self.state.has_damaged().then_some(self.next_repair);
        let scrub = self.is_leader().then(|| self.scrub.next());
        let others = [self.replica.next_timeout(), repair, scrub];
        others.into_iter().flatten().fold(self.next_lease_check, Duration::min)
    }

    /// Takes a message of another slave.
    pub fn handle(&mut self, now: Duration, from: SlaveIndex, content: Content) {
        let Some(seat) = self.slaves.iter().position(|&slave| slave == from) else { return };
        let Some(member) = MemberId::new(seat as u8) else { return };
        match content {
            Content::Paxos { capacity, message } => {
                if message.from == member {
                    self.heard[seat] = now;
                    self.capacities[seat] = capacity;
                    self.replica.handle(now, message);
                }
            }
            Content::Piece(piece) => self.take_piece(now, member, piece),
            Content::Scrub(message) => self.take_scrub(member, message),
            Content::Wanted(keys) => {
                let pages: Vec<_> = keys.iter().take(MAX_WANTED).filter_map(|key| self.state.copy(*key)).collect();
                if !pages.is_empty() {
                    self.send(vec![from], Content::Copies { as_of: self.state.as_of(), pages });
                }
            }
            Content::Copies { as_of, pages } => {
                let had_damaged = self.state.has_damaged();
                pages.iter().for_each(|page| self.state.repair(as_of, page));
                if had_damaged && !self.state.has_damaged() {
                    tracing::warn!("group {}: all damaged pages are repaired", self.number);
                }
            }
        }
    }

    fn send(&mut self, to: Vec<SlaveIndex>, content: Content) {
        self.outputs.push(Output::Send(to, PeerMessage { group: self.number, content }));
    }

    /// Asks the others for pages that are damaged here.
    fn repair(&mut self, now: Duration) {
        if !self.state.has_damaged() || now < self.next_repair {
            return;
        }
        self.next_repair = now + REPAIR;
        let wanted: Vec<_> = self.state.damaged().iter().copied().take(MAX_WANTED).collect();
        let me = usize::from(self.seat.get());
        let others = self.slaves.iter().enumerate().filter(|(seat, _)| *seat != me).map(|(_, slave)| *slave).collect();
        if !wanted.is_empty() {
            self.send(others, Content::Wanted(wanted));
        }
    }

    /// All records up to this one are durable. Effects are to be run then.
    pub fn persisted(&mut self, now: Duration, ticket: Ticket) {
        self.replica.persisted(now, ticket);
    }

    /// Whether directory and pages fit together, so that a checkpoint can be made.
    pub fn is_settled(&self) -> bool {
        !self.state.is_torn() && !self.state.has_damaged()
    }

    /// Whether something waits for a checkpoint.
    pub fn wants_checkpoint(&self) -> bool {
        self.installed.is_some()
    }

    /// Whether all pages have to be written with the next checkpoint: not only those of late slots have changed.
    pub fn take_was_replaced(&mut self) -> bool {
        self.state.take_was_replaced()
    }

    /// All but the pages, to be made durable; `None` if that cannot be done now. Effects have to have been run.
    pub fn begin_checkpoint(&mut self) -> Option<GroupImage> {
        if !self.is_settled() {
            return None;
        }
        self.is_install_in_checkpoint = self.installed.is_some();
        Some(GroupImage {
            group: self.number,
            has_vote: self.replica.status().standing != Standing::Blank,
            replica: self.replica.persisted_state(),
            directory: self.state.directory(),
            written: self.state.store().written(),
        })
    }

    /// The checkpoint that was begun, and all pages as of its beginning, are durable.
    pub fn checkpoint_is_durable(&mut self, now: Duration) {
        if std::mem::take(&mut self.is_install_in_checkpoint)
            && let Some((from, through)) = self.installed.take()
        {
            self.replica.state_installed(now, from, through);
        }
    }

    fn take_piece(&mut self, now: Duration, from: MemberId, piece: Piece) {
        if !self.replica.status().is_installing {
            // The log was faster.
            self.incoming = None;
        }
        let Some(incoming) = &mut self.incoming else { return };
        let through = incoming.through;
        match incoming.take(from, piece, &mut self.state) {
            Ok(Progress::None) => {}
            Ok(Progress::Some) => self.replica.state_progress(now, from, through, 0),
            Ok(Progress::Whole) => {
                self.incoming = None;
                self.state.has_all_pages();
                tracing::info!("group {}: has all up to slot {}", self.number, through.0);
                if self.settings.has_disk {
                    (self.installed, self.is_install_in_checkpoint) = (Some((from, through)), false);
                } else {
                    self.replica.state_installed(now, from, through);
                }
            }
            Err(error) => {
                tracing::error!("group {}: cannot take over what slave {from:?} has: {error}", self.number);
                let _ = self.roll_back(now);
            }
        }
    }

    /// Gives up a transfer that has brought the directory and not all pages. It is not enough to be a process without memory then: this slave is
    /// a voter, and more than a minority could forget at a time. False if it has to be all the same.
    fn roll_back(&mut self, now: Duration) -> bool {
        self.incoming = None;
        let result = self.state.roll_back();
        if let Err(error) = &result {
            tracing::error!("group {}: cannot keep what it had, beginning anew: {error}", self.number);
            self.forget(now);
        }
        result.is_ok()
    }

    /// Serves a request that changes nothing. `now` has to be read after the request has come.
    /// `stat` is what the slave says of itself, in which the group's part is filled in.
    pub fn ask(
        &mut self,
        now: Duration,
        caller: Caller,
        request: &[u8],
        stat: Stat,
        response: &mut Response,
    ) -> Result<(), Status> {
        if let Err(error) = self.replica.check_read(now) {
            let leader = match error {
                ReadError::NotLeader { .. } => self.leader(),
                ReadError::NoLease | ReadError::NotApplied => Some(self.slaves[usize::from(self.seat.get())]),
            };
            encode_not_leader(leader, &mut response.head);
            return Ok(());
        }
        match Request::decode(request).map_err(|error| error.status())? {
            // Until it is repaired.
            Request::Read(pages) if self.state.is_any_damaged(pages) => {
                encode_not_leader(Some(self.slaves[usize::from(self.seat.get())]), &mut response.head);
            }
            Request::Read(pages) => return self.state.read(caller.client, pages, response),
            Request::NameExtents { hash, from } => return self.state.name_extents(&hash, from, &mut response.head),
            Request::Names { after } => {
                let names = self.state.store().names_after(caller.account, after.as_ref(), MAX_BATCH_NAMES);
                encode_names_response(&names, &mut response.head);
            }
            Request::Stat => {
                let store = self.state.store();
                let (reserved_extents, used_pages) = (store.quota().reserved(), store.used_pages());
                let stat = Stat { capacity_extents: self.capacity(), reserved_extents, used_pages, ..stat };
                stat.encode_response(&mut response.head);
            }
            Request::Renew if self.state.is_fenced(caller.client) => return Err(Status::Fenced),
            Request::Renew => encode_status(Status::Ok, &mut response.head),
            _ => return Err(Status::Unsupported),
        }
        Ok(())
    }

    /// Serves a read that is not only the leader's to answer, for a client that knows what its pages hold: from what this slave has applied, which may be
    /// old.
    pub fn ask_of_any(&self, caller: Caller, request: &[u8], response: &mut Response) -> Result<(), Status> {
        match Request::decode(request).map_err(|error| error.status())? {
            Request::Read(pages) => self.state.read(caller.client, pages, response),
            _ => Err(Status::Unsupported),
        }
    }

    /// Begins to run a command; the answer comes as an output.
    pub fn command(
        &mut self,
        asker: Asker,
        caller: Caller,
        (sequence, settled): (u64, u64),
        request: impl Into<SharedBytes>,
        first_generation: u32,
    ) {
        let run = Run {
            client: caller.client.0,
            account: caller.account,
            sequence,
            settled,
            capacity: self.capacity(),
            quota: caller.quota,
            first_generation,
            request: request.into(),
        };
        match self.replica.propose(Entry(Arc::new(Operation::Run(Box::new(run))))) {
            Ok(slot) => drop(self.waiting.insert(slot, asker)),
            Err(error) => {
                let leader = match error {
                    ProposeError::NotLeader { .. } => self.leader(),
                    ProposeError::Busy | ProposeError::Change(_) => Some(self.slaves[usize::from(self.seat.get())]),
                };
                self.refuse(asker, leader);
            }
        }
    }

    fn refuse(&mut self, asker: Asker, leader: Option<SlaveIndex>) {
        let mut answer = Vec::new();
        encode_not_leader(leader, &mut answer);
        self.outputs.push(Output::Answer(asker, answer));
    }

    /// Does what is due. `has_session` says whether a client has a session with this slave.
    pub fn tick(&mut self, now: Duration, has_session: &dyn Fn(Incarnation) -> bool) {
        // Others may be older than the pages that are damaged here: one of them has to lead until it is not.
        self.replica.abstain(self.state.has_damaged());
        if self.replica.next_timeout().is_some_and(|at| at <= now) {
            self.replica.tick(now);
        }
        if now >= self.next_lease_check {
            self.next_lease_check = now + LEASE_CHECK;
            self.check_leases(now, has_session);
            self.lead_back(now);
            if let Some((from, through)) = self.installed {
                self.replica.state_progress(now, from, through, 0);
            }
        }
        self.repair(now);
        self.scrub(now);
    }

    /// A session of a client has ended, by its own wish or because it was silent for the length of a lease.
    pub fn session_ended(&mut self, client: Incarnation, now: Duration) {
        // A new leader lets all leases begin anew.
        if self.is_leader() && self.state.has_lease(client) {
            self.silent.insert(client, now);
        }
    }

    fn check_leases(&mut self, now: Duration, has_session: &dyn Fn(Incarnation) -> bool) {
        if self.replica.check_read(now).is_err() {
            return;
        }
        let Self { state, silent, expiring, .. } = self;
        silent.retain(|&client, _| state.has_lease(client) && !has_session(client));
        expiring.retain(|&client| state.has_lease(client) && !has_session(client));
        if now >= self.next_lease_walk {
            self.next_lease_walk = now + LEASE_WALK;
            for client in state.clients().filter(|&client| !has_session(client)) {
                silent.entry(client).or_insert(now + self.lease);
            }
        }
        let is_over = |end: Duration| now >= end.max(self.leases_begin_anew);
        let over = silent.iter().filter(|(client, end)| is_over(**end) && !expiring.contains(client));
        let mut over: Vec<Incarnation> = over.map(|(client, _)| *client).collect();
        // Runs of the simulation can be repeated.
        over.sort_unstable();
        for client in over {
            let expire = Operation::Expire { client: client.0 };
            if self.replica.propose(Entry(Arc::new(expire))).is_ok() {
                self.expiring.insert(client);
            }
        }
    }

    /// Gives the lead back to the slave that is to have it.
    fn lead_back(&mut self, now: Duration) {
        let first = MemberId::FIRST;
        let is_due = self.led_since.is_some_and(|since| now.saturating_sub(since) >= LEAD_BACK);
        if is_due
            && self.seat != first
            && now.saturating_sub(self.heard[0]) < LATELY
            && self.replica.lags().any(|(member, lag)| member == first && lag < 16)
        {
            self.led_since = Some(now);
            self.replica.hand_over(now, Some(first));
        }
    }

    /// Gives the lead to whoever has most: this slave is about to end.
    pub fn hand_over(&mut self, now: Duration) {
        self.replica.hand_over(now, None);
    }

    /// Whether this slave leads the group.
    pub fn is_leader(&self) -> bool {
        self.replica.is_leader()
    }

    /// Does what the replica wants. Outputs are to be taken afterwards.
    pub fn run_effects(&mut self, now: Duration) {
        while let Some(effect) = self.replica.next_effect() {
            match effect {
                Effect::Send { to, message } => {
                    let to = to.iter().map(|seat| self.slaves[usize::from(seat.get())]).collect();
                    let capacity = self.capacities[usize::from(self.seat.get())];
                    self.send(to, Content::Paxos { capacity, message });
                }
                Effect::Apply { slot, command } => {
                    if self.state.is_torn() && self.state.has(slot.0) {
                        // Entries have come that a broken transfer should have brought: what they did is here in part.
                        tracing::warn!(
                            "group {}: a transfer broke off: going back to what was here before",
                            self.number
                        );
                        if !self.roll_back(now) {
                            return;
                        }
                    }
                    self.apply(slot, &command);
                }
                Effect::BecameLeader { .. } => {
                    self.led_since = Some(now);
                    self.leases_begin_anew = now + self.lease;
                    self.next_lease_walk = now;
                    self.silent.clear();
                    self.expiring.clear();
                    tracing::info!("group {}: this slave leads", self.number);
                }
                Effect::LostLeadership { .. } => {
                    self.led_since = None;
                    let waiting = std::mem::take(&mut self.waiting);
                    for asker in waiting.into_values() {
                        self.refuse(asker, None);
                    }
                }
                // Whoever lacks pages itself does not answer: the other asks elsewhere.
                Effect::ProvideState { .. } if !self.is_settled() => {}
                Effect::ProvideState { to, since, through, .. } => {
                    tracing::info!(
                        "group {}: member {} gets what was written after slot {}",
                        self.number,
                        to.get(),
                        since.0
                    );
                    self.seed = self.seed.wrapping_add(1);
                    self.outgoing.retain(|outgoing| outgoing.to != to);
                    self.outgoing.push(Outgoing::new(to, since, through, self.seed, &self.state));
                }
                Effect::InstallState { from, through, .. } => {
                    tracing::info!("group {}: member {} sends all up to slot {}", self.number, from.get(), through.0);
                    if !self.roll_back(now) {
                        return;
                    }
                    self.incoming = Some(Incoming::new(from, through));
                    self.installed = None;
                }
                Effect::Persist { ticket, record } => self.outputs.push(Output::Persist(ticket, record)),
                // A checkpoint is made when the journal has grown; nobody is removed.
                Effect::Truncated { .. } | Effect::Removed => {}
            }
        }
    }

    fn apply(&mut self, slot: Slot, command: &Command<Entry>) {
        let asker = self.waiting.remove(&slot);
        let answer = match command {
            Command::Entry(entry) => self.state.apply(slot.0, &entry.0),
            Command::Noop | Command::Reconfigure(_) => None,
        };
        match (asker, answer) {
            (Some(asker), Some(answer)) => self.outputs.push(Output::Answer(asker, answer)),
            (Some(asker), None) => self.refuse(asker, None),
            (None, _) => {}
        }
    }

    /// Begins anew, as a process without memory.
    fn forget(&mut self, now: Duration) {
        self.seed = self.seed.wrapping_add(1);
        let configuration = configuration(self.slaves.len());
        let start = if self.settings.has_disk { Start::Damaged(configuration) } else { Start::Blank(configuration) };
        self.replica = replica(self.seat, self.settings, start, now, self.seed);
        self.state = State::new(self.accounts.clone());
        (self.incoming, self.installed, self.led_since) = (None, None, None);
        if self.settings.has_disk {
            self.outputs.retain(|output| !matches!(output, Output::Persist(..)));
            self.outputs.push(Output::Forget);
        }
        self.outgoing.clear();
        for asker in std::mem::take(&mut self.waiting).into_values() {
            self.refuse(asker, None);
        }
    }

    /// Whether a slave is being sent state that it lacks.
    pub fn is_providing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Pieces of state for slaves that lack it; `room` says how many messages may go to a slave now.
    pub fn provide(&mut self, room: &dyn Fn(SlaveIndex) -> usize) {
        let Self { outgoing, state, slaves, outputs, number, .. } = self;
        outgoing.retain_mut(|outgoing| {
            let to = slaves[usize::from(outgoing.to.get())];
            for _ in 0..room(to) {
                let Some(piece) = outgoing.next_piece(state) else { return false };
                outputs.push(Output::Send(vec![to], PeerMessage { group: *number, content: Content::Piece(piece) }));
            }
            true
        });
    }

    /// What this slave says of its part in the group.
    pub fn describe(&self) -> PartDescription {
        let status = self.replica.status();
        let standing = match status.standing {
            Standing::Blank => "blank",
            Standing::Follower => "follower",
            Standing::Candidate => "candidate",
            Standing::Leader => "leader",
            Standing::Removed => "removed",
        };
        let slave = |seat: MemberId| self.slaves[usize::from(seat.get())];
        PartDescription {
            group: self.number,
            standing: standing.to_owned(),
            leader: self.leader(),
            slaves: self.slaves.clone(),
            applied: status.commit.0,
            log_bytes: status.log_bytes as u64,
            lags: self.replica.lags().map(|(seat, lag)| (slave(seat), lag)).collect(),
            capacity_bytes: self.capacity().saturating_mul(EXTENT_BYTES as u64),
            leases: self.state.clients().count() as u64,
            compared_pages: self.scrub.counts().compared,
            repaired_pages: self.scrub.counts().repaired,
            undecided_pages: self.scrub.counts().undecided,
            ..self.state.store().describe()
        }
    }

    /// Gives freed memory back to the kernel, bit by bit. Returns whether there is more.
    pub fn tidy(&mut self) -> bool {
        self.state.tidy()
    }

    /// What is to be done since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Whether this slave has what the group has, as far as it knows: nothing is missing, and somebody leads.
    pub fn is_whole(&self) -> bool {
        let status = self.replica.status();
        status.standing != Standing::Blank && status.leader.is_some() && !status.is_installing && self.is_settled()
    }
}

fn configuration(members: usize) -> Configuration {
    let voters: MemberSet = (0..members as u8).filter_map(MemberId::new).collect();
    Configuration::of(voters)
}

/// Panics if the settings make no sense.
fn replica(seat: MemberId, settings: Settings, start: Start<Entry>, now: Duration, seed: u64) -> Replica<Entry> {
    Replica::new(seat, settings, start, now, seed).expect("settings that make sense")
}
