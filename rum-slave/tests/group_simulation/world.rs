//! Everything at once, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use paxos::Settings;
use rum_net::{
    placement::SlaveIndex,
    rpc::Incarnation,
    wire::message::{ExtentRef, Opcode},
};
use rum_slave::{
    account::AccountId,
    group::{Caller, message::PeerMessage},
};

use crate::{
    checker::Checker,
    client::Client,
    disk::Disk,
    end::pages,
    faults::Fault,
    host::{Host, Process, QUOTA, Said, accounts},
    losses::{Losses, asked},
    weather::{MS, Rng, Weather, draw_settings},
};

/// How long clients go on when all is well, until their pages are looked at.
const WELL_FOR: Duration = Duration::from_millis(300);
/// How long it may take until all is done, once everything is well.
const DONE_WITHIN: Duration = Duration::from_secs(8);
pub const CLIENTS: usize = 4;

#[derive(Debug)]
pub enum Event {
    Peer {
        from: SlaveIndex,
        to: usize,
        life: u64,
        bytes: Vec<u8>,
    },
    Request {
        to: usize,
        life: u64,
        slot: usize,
        client: u128,
        request: u64,
        message: Vec<u8>,
    },
    /// A copy of a command that lay somewhere.
    Ghost {
        to: usize,
        caller: (u128, AccountId, u64),
        message: Vec<u8>,
    },
    Answer {
        slot: usize,
        client: u128,
        from: usize,
        request: u64,
        bytes: Vec<u8>,
    },
    Sign {
        to: usize,
        client: u128,
    },
    Turn {
        host: usize,
        life: u64,
    },
    Client {
        slot: usize,
        client: u128,
    },
    Restart {
        host: usize,
    },
    Fault(Fault),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Sick,
    Well,
    Verify,
}

pub struct World {
    pub rng: Rng,
    pub now: Duration,
    pub weather: Weather,
    pub losses: Option<Losses>,
    pub settings: Settings,
    pub checker: Checker,
    pub hosts: Vec<Host>,
    slaves: Vec<SlaveIndex>,
    pub clients: Vec<Client>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    content: HashMap<u64, Event>,
    number: u64,
    /// By sender and receiver.
    pub unreached: HashSet<(usize, usize)>,
    /// Clients and slaves that do not hear each other.
    pub cut: HashSet<(usize, usize)>,
    /// Requests that slaves have not answered: slave, its life, client, and what it asks for.
    asked: HashMap<u64, (usize, u64, usize, u128, Option<Opcode>)>,
    incarnations: u128,
    value: u64,
    requests: u64,
    /// Clients that some leader did not hear for the length of a lease, or that left.
    silent: HashSet<Incarnation>,
    fenced: HashSet<Incarnation>,
    phase: Phase,
    trace: bool,
    pub repaired: u64,
    pub crashes: u64,
    pub power_losses: u64,
    pub damaged: u64,
    pub messages: u64,
    pub pieces: u64,
    pub expired: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let weather = Weather::draw(&mut rng);
        let settings = draw_settings(&mut rng);
        Self::under(weather, settings, rng)
    }

    pub fn under(weather: Weather, settings: Settings, mut rng: Rng) -> Self {
        let count = rng.pick(&[3, 3, 3, 5]);
        let drift = 1000 * i64::from(weather.drift_permille);
        let hosts = (0..count).map(|_| Host {
            process: None,
            disk: rng.chance(weather.disks).then(|| {
                let disk = Disk::new(count as u8, weather.disk_latency, rng.next());
                Arc::new(Mutex::new(disk))
            }),
            is_remembered: false,
            life: 0,
            drift_ppm: rng.pick(&[-drift, 0, drift]),
            first_generation: 0,
        });
        let hosts: Vec<Host> = hosts.collect();
        let mut world = Self {
            now: Duration::ZERO,
            weather,
            losses: None,
            settings,
            checker: Checker::default(),
            hosts,
            slaves: (0..count as SlaveIndex).collect(),
            clients: Vec::new(),
            events: BinaryHeap::new(),
            content: HashMap::new(),
            number: 0,
            unreached: HashSet::new(),
            cut: HashSet::new(),
            asked: HashMap::new(),
            incarnations: 0,
            value: 0,
            requests: 0,
            silent: HashSet::new(),
            fenced: HashSet::new(),
            phase: Phase::Sick,
            trace: std::env::var_os("RUM_SIM_TRACE").is_some(),
            repaired: 0,
            crashes: 0,
            power_losses: 0,
            damaged: 0,
            messages: 0,
            pieces: 0,
            expired: 0,
            rng,
        };
        (0..count).for_each(|host| world.start(host));
        (0..CLIENTS).for_each(|slot| world.join(slot));
        let faults = [
            Fault::Crash,
            Fault::Pause,
            Fault::Partition,
            Fault::Cut,
            Fault::Death,
            Fault::Sleep,
            Fault::HandOver,
            Fault::Power,
        ];
        faults.into_iter().for_each(|fault| world.schedule_fault(fault));
        world
    }

    pub fn run(&mut self) {
        let sick_for = self.weather.sick_for;
        self.run_until(sick_for, |_| false);
        self.weather = self.weather.well();
        self.unreached.clear();
        self.cut.clear();
        self.phase = Phase::Well;
        self.run_until(sick_for + WELL_FOR, |_| false);
        self.phase = Phase::Verify;
        let end = self.now + DONE_WITHIN;
        self.run_until(end, Self::is_done);
        assert!(self.is_done(), "everything is well, but not all work is done: {}", self.describe());
        self.checker.check_shared();
        self.check_equal();
        self.check_owners();
        self.damage();
        let end = self.now + DONE_WITHIN;
        self.run_until(end, Self::is_repaired);
        assert!(self.is_repaired(), "a slave's memory was damaged, and not all of it is repaired: {}", self.describe());
        let processes = self.hosts.iter().filter_map(|host| host.process.as_ref());
        self.repaired = processes.map(|process| process.group.scrubbed().repaired).sum();
        for slot in 0..CLIENTS {
            self.clients[slot].is_gone = true;
        }
        let end = self.now + DONE_WITHIN;
        self.run_until(end, Self::is_empty);
        assert!(self.is_empty(), "all clients are gone, but not what they had: {}", self.describe());
        self.check_equal();
        self.check_owners();
        self.check_unowned();
    }

    /// Clients got their answers, and all slaves have everything.
    fn is_done(&mut self) -> bool {
        self.clients.iter().all(Client::is_verified) && self.is_level()
    }

    fn is_level(&self) -> bool {
        let mut applied = self.hosts.iter().map(|host| {
            let process = host.process.as_ref().filter(|process| process.group.is_whole())?;
            Some((process.group.state().directory().as_of, process.group.status().commit))
        });
        let first = applied.next().flatten();
        first.is_some() && applied.all(|other| other == first)
    }

    /// Some slave's memory is not what it was: in a few pages, or in many.
    fn damage(&mut self) {
        let host = self.rng.below(self.hosts.len());
        let share = self.rng.pick(&[1.0, 0.3, 0.05]);
        let rng = &mut self.rng;
        if let Some(process) = &mut self.hosts[host].process {
            process.group.tamper(&mut |page| {
                if rng.chance(share) {
                    page[rng.below(page.len())] ^= 1 << rng.below(8);
                }
            });
        }
    }

    /// All slaves' pages are the same.
    fn is_repaired(&mut self) -> bool {
        let mut all = self.hosts.iter().filter_map(|host| Some(pages(host.process.as_ref()?.group.state())));
        let first = all.next();
        first.is_some_and(|first| all.all(|other| other == first))
    }

    /// Nobody has anything any more.
    fn is_empty(&mut self) -> bool {
        let has_nothing = |host: &Host| {
            let state = host.process.as_ref().map(|process| process.group.state());
            state.is_some_and(|state| state.clients().next().is_none())
        };
        self.hosts.iter().all(has_nothing) && self.is_level()
    }

    pub fn describe(&self) -> String {
        let hosts = self.hosts.iter().zip(0..).map(|(host, place)| match &host.process {
            Some(process) => {
                let (status, state) = (process.group.status(), process.group.state());
                let directory = state.directory();
                format!(
                    "\n  {place}: whole {}, as of {}, {} clients, {status:?}",
                    process.group.is_whole(),
                    directory.as_of,
                    directory.clients.len()
                )
            }
            None => format!("\n  {place}: down"),
        });
        let hosts: String = hosts.collect();
        let clients: String = self.clients.iter().map(|client| format!("\n  {}", client.describe())).collect();
        hosts + &clients
    }

    pub fn schedule(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number)));
        self.content.insert(self.number, event);
    }

    fn run_until(&mut self, end: Duration, is_done: fn(&mut Self) -> bool) {
        let mut steps = 0u64;
        while let Some(Reverse((at, number))) = self.events.peek().copied()
            && at < end
        {
            self.events.pop();
            self.now = self.now.max(at);
            if let Some(event) = self.content.remove(&number) {
                self.on_event(event);
            }
            steps += 1;
            if steps.is_multiple_of(256) && is_done(self) {
                return;
            }
        }
        self.now = self.now.max(end);
    }

    fn start(&mut self, host: usize) {
        let (seed, first_generation) = (self.rng.next(), 1 + self.rng.below(1 << 30) as u32);
        let (lease, settings) = (self.weather.lease, self.settings);
        let checkpoint_bytes = self.weather.checkpoint_bytes;
        let Host { process, disk, life, drift_ppm, first_generation: first, .. } = &mut self.hosts[host];
        *life += 1;
        *first = first_generation;
        let life = *life;
        let me = self.slaves[host];
        let disk = (disk.clone(), checkpoint_bytes);
        *process = Some(Process::new(&self.slaves, me, (lease, settings), (self.now, *drift_ppm), disk, seed));
        self.schedule(self.now, Event::Turn { host, life });
    }

    fn join(&mut self, slot: usize) {
        self.incarnations += 1;
        let incarnation = self.incarnations << 32 | slot as u128;
        let (account, quota) = if slot == 0 { (accounts().1, QUOTA) } else { (AccountId::NOBODY, u64::MAX) };
        let client = Client::new(Incarnation(incarnation), account, quota, self.now);
        if slot < self.clients.len() {
            self.clients[slot] = client
        } else {
            self.clients.push(client)
        }
        self.schedule(self.now, Event::Client { slot, client: incarnation });
    }

    /// When a message arrives, if it does.
    fn arrival(&mut self, is_cut: bool, loss: f64) -> Option<Duration> {
        self.messages += 1;
        let Weather { latency, late, lateness, .. } = self.weather;
        if is_cut || self.rng.chance(loss) {
            return None;
        }
        let late = if self.rng.chance(late) { self.rng.around(lateness / 2) } else { Duration::ZERO };
        Some(self.now + latency / 2 + self.rng.around(latency / 4) + late)
    }

    /// Hands on what a slave has to say.
    fn drain(&mut self, host: usize) {
        let now = self.now;
        let Some(process) = &mut self.hosts[host].process else { return };
        for said in process.drain(now) {
            match said {
                Said::Peer { to, bytes, is_piece } => {
                    let bytes = match &mut self.losses {
                        Some(losses) => losses.thin(&bytes),
                        None => bytes,
                    };
                    let to = usize::from(to);
                    let loss =
                        if is_piece { self.weather.piece_loss.max(self.weather.loss) } else { self.weather.loss };
                    self.pieces += u64::from(is_piece);
                    let is_cut = self.unreached.contains(&(host, to));
                    if let Some(mut at) = self.arrival(is_cut, loss) {
                        if is_piece && self.rng.chance(self.weather.slow_pieces) {
                            at += self.rng.around(self.weather.lateness);
                        }
                        let life = self.hosts[to].life;
                        self.schedule(at, Event::Peer { from: self.slaves[host], to, life, bytes });
                    }
                }
                Said::Answer { request, bytes } => self.send_answer(host, request, bytes),
            }
        }
        self.look_for_fenced(host);
    }

    /// Whether a client's message, or the answer to it, is the one that is lost.
    fn loses(&mut self, opcode: Option<Opcode>, is_answer: bool) -> bool {
        let losses = self.losses.as_mut().zip(opcode);
        losses.is_some_and(|(losses, opcode)| losses.loses_of_client((opcode, is_answer)))
    }

    fn send_answer(&mut self, host: usize, request: u64, bytes: Vec<u8>) {
        let Some((_, _, slot, client, opcode)) = self.asked.remove(&request) else { return };
        let is_cut = self.cut.contains(&(slot, host)) || self.loses(opcode, true);
        if let Some(at) = self.arrival(is_cut, self.weather.loss) {
            self.schedule(at, Event::Answer { slot, client, from: host, request, bytes });
        }
    }

    /// No lease may have ended that nobody thought over.
    fn look_for_fenced(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        for client in &self.clients {
            if process.group.state().is_fenced(client.incarnation) && self.fenced.insert(client.incarnation) {
                self.expired += 1;
                let lease = self.weather.lease;
                let is_silent = |host: &Host| {
                    host.process.as_ref().is_some_and(|process| process.may_expire(self.now, client.incarnation, lease))
                };
                let may = client.is_leaving()
                    || self.silent.contains(&client.incarnation)
                    || self.hosts.iter().any(is_silent);
                assert!(may, "the lease of {:x} ended too early", client.incarnation.0);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        if self.trace {
            let text = format!("{event:?}");
            println!("{:?} {}", self.now, &text[..text.len().min(160)]);
        }
        let place = match &event {
            Event::Peer { to, .. } | Event::Request { to, .. } | Event::Ghost { to, .. } | Event::Sign { to, .. } => {
                Some(*to)
            }
            Event::Turn { host, .. } => Some(*host),
            _ => None,
        };
        if let Some(place) = place {
            let Some(process) = &self.hosts[place].process else { return };
            if process.paused_until > self.now {
                return self.schedule(process.paused_until, event);
            }
        }
        match event {
            Event::Peer { from, to, life, bytes } => self.on_peer(from, to, life, &bytes),
            Event::Request { to, life, slot, client, request, message } => {
                if self.hosts[to].life == life {
                    self.hear(to, Incarnation(client));
                    self.asked.insert(request, (to, life, slot, client, asked(&message)));
                    let Client { account, quota, .. } = self.clients[slot];
                    self.serve(to, (client, account, quota), request, &message);
                }
            }
            Event::Ghost { to, caller, message } => self.serve(to, caller, 0, &message),
            Event::Answer { slot, client, from, request, bytes } => self.on_answer(slot, client, from, request, bytes),
            Event::Sign { to, client } => self.hear(to, Incarnation(client)),
            Event::Turn { host, life } => {
                if self.hosts[host].life == life {
                    self.turn(host);
                    let at = self.now + self.rng.around(self.weather.turn);
                    self.schedule(at, Event::Turn { host, life });
                }
            }
            Event::Client { slot, client } => self.on_client(slot, client),
            Event::Restart { host } => self.start(host),
            Event::Fault(fault) => self.on_fault(fault),
        }
    }

    fn turn(&mut self, host: usize) {
        let Weather { lease, room, .. } = self.weather;
        let now = self.now;
        if let Some(process) = &mut self.hosts[host].process {
            let known = self.clients.iter().map(|client| client.incarnation);
            self.silent.extend(known.filter(|client| process.may_expire(now, *client, lease)));
            process.turn(now, lease, room);
        }
        self.drain(host);
    }

    /// A client has a session with a slave from here on, if it had none.
    fn hear(&mut self, host: usize, client: Incarnation) {
        let now = self.now;
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.may_expire(now, client, self.weather.lease) {
            self.silent.insert(client);
        }
        process.heard.insert(client, now);
    }

    fn on_peer(&mut self, from: SlaveIndex, to: usize, life: u64, bytes: &[u8]) {
        let now = self.now;
        if self.hosts[to].life != life {
            return;
        }
        let Some(process) = &mut self.hosts[to].process else { return };
        let clock = process.clock(now);
        let group = &mut process.group;
        let is_right = PeerMessage::decode_all(bytes, &mut |message| group.handle(clock, from, message.content));
        assert!(is_right, "what was encoded cannot be decoded");
        if self.weather.is_prompt {
            self.turn(to);
        }
    }

    fn serve(&mut self, to: usize, caller: (u128, AccountId, u64), request: u64, message: &[u8]) {
        let now = self.now;
        let Host { process: Some(process), first_generation, .. } = &mut self.hosts[to] else { return };
        *first_generation += 1;
        let (client, account, quota) = caller;
        let caller = Caller { client: Incarnation(client), account, quota };
        if let Some(bytes) = process.serve(now, caller, request, message, *first_generation) {
            self.send_answer(to, request, bytes);
        }
        if self.weather.is_prompt {
            self.turn(to);
        }
    }

    fn on_answer(&mut self, slot: usize, client: u128, from: usize, request: u64, bytes: Vec<u8>) {
        let (now, slaves) = (self.now, self.hosts.len());
        let known = &mut self.clients[slot];
        if known.incarnation.0 != client || known.is_gone {
            return;
        }
        if known.asleep_until > now {
            let at = known.asleep_until;
            return self.schedule(at, Event::Answer { slot, client, from, request, bytes });
        }
        known.answer(now, from, request, &bytes, slaves, &mut self.checker);
        self.check_disjoint(slot);
        if self.weather.is_prompt {
            self.send(slot);
        }
    }

    /// No two live clients have the same place.
    fn check_disjoint(&self, slot: usize) {
        let lives =
            |client: &Client| !client.is_gone && !client.is_fenced && !self.fenced.contains(&client.incarnation);
        let mine = &self.clients[slot];
        let is_taken = |extent: ExtentRef| {
            let mut others = self.clients.iter().zip(0..).filter(|(other, at)| *at != slot && lives(other));
            others.any(|(other, _)| other.extents().any(|other| other.index == extent.index))
        };
        assert!(!lives(mine) || !mine.extents().any(is_taken), "{} has what another has", mine.describe());
    }

    fn on_client(&mut self, slot: usize, incarnation: u128) {
        let now = self.now;
        let client = &mut self.clients[slot];
        if client.incarnation.0 != incarnation {
            return;
        }
        if client.is_gone {
            self.silent.insert(client.incarnation);
            if self.phase == Phase::Sick {
                self.join(slot);
            }
            return;
        }
        if client.asleep_until > now {
            let at = client.asleep_until;
            return self.schedule(at, Event::Client { slot, client: incarnation });
        }
        if client.next_sign <= now {
            client.next_sign = now + self.weather.lease / 4;
            for to in 0..self.hosts.len() {
                if let Some(at) = self.arrival(self.cut.contains(&(slot, to)), self.weather.loss) {
                    self.schedule(at, Event::Sign { to, client: incarnation });
                }
            }
        }
        let Self { clients, rng, value, checker, .. } = self;
        match self.phase {
            Phase::Sick | Phase::Well => clients[slot].draw(now, rng, value, checker),
            Phase::Verify => clients[slot].verify(now),
        }
        self.send(slot);
        let at = now + self.rng.around(self.weather.pause_of_clients);
        self.schedule(at, Event::Client { slot, client: incarnation });
    }

    fn send(&mut self, slot: usize) {
        let (now, slaves) = (self.now, self.hosts.len());
        let client = self.clients[slot].incarnation.0;
        for sent in self.clients[slot].send(now, slaves, &mut self.requests) {
            let (to, life) = (sent.to, self.hosts[sent.to].life);
            if sent.is_command && self.rng.chance(self.weather.ghosts) {
                let (to, at) = (self.rng.below(slaves), now + self.rng.around(300 * MS));
                let Client { account, quota, .. } = self.clients[slot];
                self.schedule(at, Event::Ghost { to, caller: (client, account, quota), message: sent.message.clone() });
            }
            let is_cut = self.cut.contains(&(slot, to)) || self.loses(asked(&sent.message), false);
            if let Some(at) = self.arrival(is_cut, self.weather.loss) {
                let (request, message) = (sent.request, sent.message);
                self.schedule(at, Event::Request { to, life, slot, client, request, message });
            }
        }
    }
}
