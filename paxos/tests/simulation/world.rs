//! Hosts, clients, and the network between them, from a seed, in virtual time.

use std::time::Duration;

use paxos::{Change, Command, Configuration, Effect, MemberId, MemberSet, ProposeError, Settings};

use crate::{
    broken::Broken,
    checker::Checker,
    host::{Host, Providing, Waiting},
    machine::PAGES,
    network::{Event, Network},
    weather::{Rng, Weather, draw_settings},
};

const MS: Duration = Duration::from_millis(1);
const SICK_FOR: Duration = Duration::from_millis(2500);
/// After everything has become well, it has to work within this time.
const HEALED_WITHIN: Duration = Duration::from_secs(12);
/// So many requests of each client have to be answered once everything is well.
const LAST_REQUESTS: u64 = 10;

#[derive(Clone, Copy, Debug)]
struct Client {
    /// The number of its present request.
    request: u64,
    answered: u64,
    /// Who led when it heard last.
    leader: MemberId,
}

impl Client {
    /// Its request is answered; the next comes at that time, if there is to be one.
    fn answer(&mut self, is_well: bool, next_at: Duration, net: &mut Network, client: usize) {
        self.answered += 1;
        self.request += 1;
        if !is_well || self.answered < LAST_REQUESTS {
            net.schedule(next_at, Event::Client { client });
        }
    }
}

/// When faults come next.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    crash: Option<Duration>,
    pause: Option<Duration>,
    partition: Option<Duration>,
    hand_over: Option<Duration>,
    change: Option<Duration>,
}

pub struct World {
    pub rng: Rng,
    pub net: Network,
    pub now: Duration,
    pub checker: Checker,
    pub settings: Settings,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    faults: Faults,
    /// Changes of members that may be decided, with the configurations that they are to change.
    proposed: Vec<(Configuration, Configuration)>,
    is_well: bool,
    broken: Option<Broken>,
    pub crashes: u64,
    pub amnesias: u64,
    pub leaders: u64,
    pub installs: u64,
    pub changes: u64,
    trace: bool,
}

fn member(place: usize) -> MemberId {
    MemberId::new(place as u8).expect("a small place")
}

impl World {
    pub fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut rng = Rng(seed);
        let weather = Weather::draw(&mut rng);
        let settings = draw_settings(&mut rng);
        let voters = rng.pick(&[3, 3, 3, 5, 1]);
        Self::of(rng, weather, settings, voters, broken)
    }

    /// Five voters, of whom two at a time may have lost their memory.
    pub fn forgetful(seed: u64, broken: Option<Broken>) -> Self {
        Self::of(Rng(seed), Weather::forgetful(), Settings { election_spread: MS, ..Settings::default() }, 5, broken)
    }

    /// A group of so many voters.
    pub fn of(mut rng: Rng, weather: Weather, settings: Settings, voters: usize, broken: Option<Broken>) -> Self {
        let places = voters + if weather.change.is_some() { 2 } else { 0 };
        let configuration = Configuration::of((0..voters).map(member).collect());
        let disks = weather.disks.unwrap_or_else(|| rng.pick(&[0.0, 0.5, 1.0]));
        let has_disk: Vec<bool> = (0..places).map(|_| rng.chance(disks)).collect();
        let hosts = has_disk.iter().enumerate();
        let hosts: Vec<Host> = hosts
            .map(|(place, &has_disk)| Host::new(member(place), Settings { has_disk, ..settings }, configuration))
            .collect();
        let mut world = Self {
            rng,
            net: Network::new(weather),
            now: Duration::ZERO,
            checker: Checker::new(configuration),
            settings,
            hosts,
            clients: vec![Client { request: 0, answered: 0, leader: member(0) }; 3],
            faults: Faults::default(),
            proposed: Vec::new(),
            is_well: false,
            broken,
            crashes: 0,
            amnesias: 0,
            leaders: 0,
            installs: 0,
            changes: 0,
            trace: std::env::var_os("RUM_SIM_TRACE").is_some(),
        };
        for place in 0..voters {
            world.start(place);
        }
        for client in 0..world.clients.len() {
            world.net.schedule(MS, Event::Client { client });
        }
        world.net.schedule(MS, Event::Probe);
        world.draw_faults();
        world
    }

    /// Until everything has been well for a while.
    pub fn run(&mut self) {
        self.run_until(SICK_FOR, |_| false);
        self.heal();
        let end = SICK_FOR + HEALED_WITHIN;
        self.run_until(end, Self::is_done);
        assert!(self.is_done(), "everything is well, but not all work is done: {}", self.describe());
        let latest = self.checker.configurations()[0];
        for host in &self.hosts {
            if let (Some(process), true) = (&host.process, latest.members().contains(host.id)) {
                self.checker.check_pages(host.id, &process.pages);
            }
        }
    }

    /// All members have everything, and clients got their answers.
    fn is_done(&mut self) -> bool {
        let latest = self.checker.configurations()[0];
        let decided = self.checker.decided();
        let has_all = |host: &Host| host.process.as_ref().is_some_and(|process| process.pages.applied == decided);
        let mut members = self.hosts.iter().filter(|host| latest.members().contains(host.id));
        self.clients.iter().all(|client| client.answered >= LAST_REQUESTS) && members.all(has_all)
    }

    pub fn describe(&self) -> String {
        let hosts = self.hosts.iter().map(|host| match &host.process {
            Some(process) => format!("\n  {}: {:?}", host.id.get(), process.replica.status()),
            None => format!("\n  {}: down", host.id.get()),
        });
        format!("decided {:?}, clients {:?}{}", self.checker.decided(), self.clients, hosts.collect::<String>())
    }

    fn run_until(&mut self, end: Duration, mut is_done: impl FnMut(&mut Self) -> bool) {
        let mut steps = 0u64;
        while self.now < end {
            self.step(end);
            steps += 1;
            if steps.is_multiple_of(64) && is_done(self) {
                return;
            }
        }
    }

    /// Does what is due next, but nothing after `end`.
    fn step(&mut self, end: Duration) {
        let timer = self.next_timer().unwrap_or(end).min(end);
        match self.net.next_at().filter(|at| *at <= timer) {
            Some(at) => {
                self.now = self.now.max(at);
                if let Some(event) = self.net.pop() {
                    self.on_event(event);
                }
            }
            None => {
                self.now = self.now.max(timer);
                self.on_timers();
            }
        }
    }

    fn next_timer(&self) -> Option<Duration> {
        let Faults { crash, pause, partition, hand_over, change } = self.faults;
        let replicas = self.hosts.iter().filter_map(|host| host.process.as_ref()?.due());
        let restarts = self.hosts.iter().filter_map(|host| host.restart_at);
        let faults = [crash, pause, partition, hand_over, change].into_iter().flatten();
        replicas.chain(restarts).chain(faults).min()
    }

    fn on_timers(&mut self) {
        let now = self.now;
        let Faults { crash, pause, partition, hand_over, change } = self.faults;
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_due(crash) {
            self.crash();
        }
        if is_due(pause) {
            self.pause();
        }
        if is_due(partition) {
            let members = self.hosts.iter().map(|host| host.id).collect();
            self.net.cut(&mut self.rng, members);
        }
        if is_due(hand_over) {
            self.hand_over();
        }
        if is_due(change) {
            self.change_members();
        }
        self.draw_due_faults();
        for place in 0..self.hosts.len() {
            if is_due(self.hosts[place].restart_at) {
                self.start(place);
            }
            if self.hosts[place].process.as_ref().is_some_and(|process| is_due(process.due())) {
                self.with(place, |process, clock| process.replica.tick(clock));
            }
        }
    }

    fn draw_faults(&mut self) {
        self.faults = Faults::default();
        self.draw_due_faults();
    }

    /// Those that are over, or never were, come again.
    fn draw_due_faults(&mut self) {
        let (now, weather) = (self.now, self.net.weather);
        let rng = &mut self.rng;
        let mut draw = |at: &mut Option<Duration>, mean: Option<Duration>| {
            if at.is_none_or(|at| at <= now) {
                *at = mean.map(|mean| now + rng.around(mean));
            }
        };
        draw(&mut self.faults.crash, weather.crash);
        draw(&mut self.faults.pause, weather.pause);
        draw(&mut self.faults.partition, weather.partition);
        draw(&mut self.faults.hand_over, weather.hand_over);
        draw(&mut self.faults.change, weather.change);
    }

    fn heal(&mut self) {
        self.is_well = true;
        self.net.weather = self.net.weather.well();
        self.net.cut = Default::default();
        self.faults = Faults::default();
        let latest = self.checker.configurations()[0];
        for place in 0..self.hosts.len() {
            let host = &mut self.hosts[place];
            if let Some(process) = &mut host.process {
                process.paused_until = Duration::ZERO;
            } else if latest.members().contains(host.id) {
                self.start(place);
            }
        }
        for client in &mut self.clients {
            client.answered = 0;
        }
    }

    fn start(&mut self, place: usize) {
        let configuration = self.checker.configurations()[0];
        let drift = self.net.weather.drift_permille;
        self.hosts[place].start(self.now, &mut self.rng, drift, configuration, self.broken);
        self.drain(place);
    }

    /// Calls a process that runs, and does what comes of it.
    fn with(&mut self, place: usize, call: impl FnOnce(&mut crate::host::Process, Duration)) {
        let now = self.now;
        if let Some(process) = self.hosts[place].running(now) {
            let clock = process.clock(now);
            call(process, clock);
            self.drain(place);
        }
    }

    /// Does what a replica wants done.
    fn drain(&mut self, place: usize) {
        let now = self.now;
        let Self { hosts, net, rng, checker, clients, is_well, .. } = self;
        let Host { id, disk, process, settings, .. } = &mut hosts[place];
        let Some(process) = process else { return };
        let id = *id;
        while let Some(effect) = process.replica.next_effect() {
            if self.trace && !matches!(effect, Effect::Send { .. }) {
                println!("{now:?} {}: {effect:?}", id.get());
            }
            match effect {
                Effect::Send { to, message } => {
                    for to in to.iter() {
                        net.send(rng, now, to, &message);
                    }
                }
                Effect::Persist { ticket, record } => {
                    let disk = disk.as_mut().expect("records are for disks");
                    if disk.append(ticket, record) {
                        let slow = rng.chance(net.weather.slow);
                        let mean = if slow { net.weather.slow_fsync } else { net.weather.fsync };
                        let at = now + rng.around(mean);
                        net.schedule(at, Event::Synced { host: id, process: process.number, ticket });
                    }
                }
                Effect::Apply { slot, command } => {
                    checker.on_apply(id, &mut process.pages, slot, &command);
                    let answered = process.waiting.iter().position(|waiting| waiting.slot == slot);
                    if let Some(waiting) = answered.map(|index| process.waiting.swap_remove(index)) {
                        assert_eq!(command, Command::Entry(waiting.write), "another entry in the slot that was told");
                        checker.on_write(now, slot, waiting.write, waiting.floor);
                        if clients[waiting.client].request == waiting.request {
                            let at = now + rng.around(net.weather.pause_of_clients);
                            clients[waiting.client].answer(*is_well, at, net, waiting.client);
                        }
                    }
                }
                Effect::BecameLeader { ballot } => {
                    self.leaders += 1;
                    checker.on_leader(ballot);
                }
                Effect::LostLeadership { .. } => process.waiting.clear(),
                Effect::ProvideState { to, since, through, cursor } => {
                    process.providing.retain(|providing| providing.to != to);
                    process.providing.push(Providing { to, since, through, cursor });
                    net.schedule(now + MS, Event::Provide { host: id, process: process.number });
                }
                Effect::InstallState { from, through, cursor, .. } => {
                    self.installs += 1;
                    process.installing = Some((from, through, cursor));
                }
                Effect::Truncated { .. } => {}
                Effect::Removed => process.is_removed = true,
            }
        }
        let status = process.replica.status();
        assert!(status.commit == process.pages.applied, "the state is another than the replica thinks");
        let kept = status.commit.next().since(status.log_start) as usize * 4096;
        let in_flight = 4096 * settings.max_log_entries as usize;
        let may_keep = settings.max_log_bytes.min(4096 * settings.max_log_entries as usize) + in_flight;
        assert!(status.log_bytes <= may_keep || kept == 0, "the log keeps more than it may");
    }

    fn on_event(&mut self, event: Event) {
        if self.trace {
            println!("{:?} {event:?}", self.now);
        }
        let now = self.now;
        match event {
            Event::Message { to, message } => {
                let place = to.get() as usize;
                match self.hosts[place].process.as_ref().map(|process| process.paused_until) {
                    Some(until) if until > now => self.net.schedule(until, Event::Message { to, message }),
                    _ => self.with(place, |process, clock| process.replica.handle(clock, message)),
                }
            }
            Event::Chunk { to, chunk } => {
                let place = to.get() as usize;
                let Host { disk, process, .. } = &mut self.hosts[place];
                if let Some(process) = process.as_mut().filter(|process| process.paused_until <= now) {
                    process.install(now, disk, &chunk);
                }
                self.drain(place);
            }
            Event::Synced { host, process, ticket } => self.on_synced(host, process, ticket),
            Event::Provide { host, process } => self.provide(host, process),
            Event::Client { client } => self.ask(client),
            Event::Timeout { client, request } => {
                if self.clients[client].request == request {
                    self.clients[client].request += 1;
                    self.clients[client].leader = self.hosts[self.rng.below(self.hosts.len() as u64) as usize].id;
                    self.ask(client);
                }
            }
            Event::Request { client, request, host } => self.on_request(client, request, host),
            Event::Probe => self.probe(),
        }
    }

    fn on_synced(&mut self, host: MemberId, number: u64, ticket: paxos::Ticket) {
        let now = self.now;
        let place = host.get() as usize;
        let Host { disk: Some(disk), process: Some(process), .. } = &mut self.hosts[place] else { return };
        if process.number != number {
            return;
        }
        if process.paused_until > now {
            return self.net.schedule(process.paused_until, Event::Synced { host, process: number, ticket });
        }
        disk.sync(ticket);
        if self.rng.chance(0.05) {
            disk.write_pages(&process.pages);
        }
        if let Some(ticket) = disk.last_unsynced() {
            let slow = self.rng.chance(self.net.weather.slow);
            let mean = if slow { self.net.weather.slow_fsync } else { self.net.weather.fsync };
            let at = now + self.rng.around(mean);
            self.net.schedule(at, Event::Synced { host, process: number, ticket });
        }
        self.with(place, |process, clock| process.replica.persisted(clock, ticket));
    }

    fn provide(&mut self, host: MemberId, number: u64) {
        let now = self.now;
        let Some(process) = self.hosts[host.get() as usize].running(now) else { return };
        if process.number != number {
            return;
        }
        for index in (0..process.providing.len()).rev() {
            let Providing { to, since, through, cursor } = process.providing[index];
            let chunk = process.pages.chunk(host, through, since, cursor);
            process.providing[index].cursor = chunk.next;
            if chunk.is_last {
                process.providing.swap_remove(index);
            }
            if let Some(at) = self.net.arrival(&mut self.rng, now, host, to) {
                self.net.schedule(at, Event::Chunk { to, chunk });
            }
        }
        if !process.providing.is_empty() {
            self.net.schedule(now + MS, Event::Provide { host, process: number });
        }
    }

    fn ask(&mut self, client: usize) {
        let Client { request, leader: host, .. } = self.clients[client];
        self.net.schedule(self.now + self.net.weather.patience, Event::Timeout { client, request });
        let at = self.now + self.rng.around(self.net.weather.latency);
        self.net.schedule(at, Event::Request { client, request, host });
    }

    fn on_request(&mut self, client: usize, request: u64, host: MemberId) {
        let now = self.now;
        if self.clients[client].request != request {
            return;
        }
        let place = host.get() as usize;
        let page = self.rng.below(PAGES as u64) as usize;
        let is_read = self.rng.chance(0.3);
        let Some(process) = self.hosts[place].running(now) else { return };
        let clock = process.clock(now);
        process.replica.tick(clock);
        self.drain(place);
        let Some(process) = self.hosts[place].running(now) else { return };
        if is_read {
            match process.replica.check_read(clock) {
                Ok(()) => {
                    self.checker.on_read(host, page, process.pages.pages[page]);
                    self.answer(client);
                }
                Err(_) => self.retry(client, request, host),
            }
            return;
        }
        let write = self.checker.new_write(page);
        match process.replica.propose(write) {
            Ok(slot) => {
                let floor = self.checker.floor(page);
                process.waiting.push(Waiting { slot, write, client, request, floor });
                self.drain(place);
            }
            Err(ProposeError::Busy | ProposeError::NotLeader { .. }) => self.retry(client, request, host),
            Err(other) => panic!("{other}"),
        }
    }

    fn answer(&mut self, client: usize) {
        let at = self.now + self.rng.around(self.net.weather.pause_of_clients);
        self.clients[client].answer(self.is_well, at, &mut self.net, client);
    }

    /// Asks whoever leads, soon.
    fn retry(&mut self, client: usize, request: u64, host: MemberId) {
        let leader = self.hosts[host.get() as usize].process.as_ref().and_then(|process| process.replica.leader());
        let random = self.hosts[self.rng.below(self.hosts.len() as u64) as usize].id;
        let host = leader.unwrap_or(random);
        self.clients[client].leader = host;
        let at = self.now + self.rng.around(3 * MS);
        self.net.schedule(at, Event::Request { client, request, host });
    }

    /// Whoever thinks that it may answer reads is asked for all pages.
    fn probe(&mut self) {
        let now = self.now;
        for place in 0..self.hosts.len() {
            let id = self.hosts[place].id;
            let Some(process) = self.hosts[place].running(now) else { continue };
            if process.replica.check_read(process.clock(now)).is_ok() {
                for (index, page) in process.pages.pages.iter().enumerate() {
                    self.checker.on_read(id, index, *page);
                }
            }
        }
        self.tend_members();
        let at = now + self.rng.around(if self.is_well { 20 * MS } else { MS });
        self.net.schedule(at, Event::Probe);
    }

    /// Whether the memory of this host can be lost: all groups that may decide can do without.
    fn may_forget(&self, lost: usize) -> bool {
        let whole = self.whole().without(member(lost));
        let [latest, former] = self.checker.configurations();
        let mut proposed = self.proposed.iter().filter(|(base, _)| *base == latest).map(|(_, proposed)| proposed);
        latest.is_quorum(whole) && former.is_quorum(whole) && proposed.all(|proposed| proposed.is_quorum(whole))
    }

    /// Whose memory is whole.
    fn whole(&self) -> MemberSet {
        let whole = self.hosts.iter().filter(|host| {
            let runs_whole = host.process.as_ref().is_some_and(|process| process.is_whole());
            (runs_whole || host.process.is_none() && host.remembers) && host.is_durable()
        });
        whole.map(|host| host.id).collect()
    }

    fn crash(&mut self) {
        let place = self.rng.below(self.hosts.len() as u64) as usize;
        if self.hosts[place].process.is_none() {
            return;
        }
        let host = &self.hosts[place];
        let loses_memory = host.disk.is_none() || !host.is_durable() || self.rng.chance(self.net.weather.loses_memory);
        if loses_memory && !self.may_forget(place) {
            return;
        }
        self.crashes += 1;
        self.amnesias += u64::from(loses_memory);
        if self.trace {
            println!("{:?} {place} crashes, loses memory: {loses_memory}", self.now);
        }
        let configuration = self.checker.configurations()[0];
        self.stop(place, loses_memory, configuration);
        let down = self.rng.around(self.net.weather.down);
        self.hosts[place].restart_at = Some(self.now + down);
    }

    fn stop(&mut self, place: usize, loses_memory: bool, configuration: Configuration) {
        let host = &mut self.hosts[place];
        if !loses_memory {
            host.remembers = host.process.as_ref().is_some_and(|process| process.is_whole());
        }
        host.crash(&mut self.rng, loses_memory, configuration);
    }

    fn pause(&mut self) {
        let place = self.rng.below(self.hosts.len() as u64) as usize;
        let until = self.now + self.rng.around(self.net.weather.paused);
        if let Some(process) = &mut self.hosts[place].process {
            process.paused_until = until;
        }
    }

    /// Until this time.
    pub fn pass(&mut self, end: Duration) {
        self.run_until(end, |_| false);
    }

    /// Ends the leader, or a follower, for good.
    pub fn kill(&mut self, leader: bool) {
        let leads = |host: &Host| host.process.as_ref().is_some_and(|process| process.replica.is_leader());
        let place = self.hosts.iter().position(|host| leads(host) == leader).expect("there are both");
        let configuration = self.checker.configurations()[0];
        self.stop(place, true, configuration);
        self.hosts[place].restart_at = Some(Duration::MAX);
    }

    /// Whoever leads gives that up.
    pub fn give_up(&mut self) {
        self.hand_over();
    }

    fn leader_place(&self) -> Option<usize> {
        self.hosts.iter().position(|host| host.process.as_ref().is_some_and(|process| process.replica.is_leader()))
    }

    fn hand_over(&mut self) {
        if let Some(place) = self.leader_place() {
            let heir = self.rng.chance(0.5).then(|| self.hosts[self.rng.below(self.hosts.len() as u64) as usize].id);
            self.with(place, |process, clock| process.replica.hand_over(clock, heir));
        }
    }

    /// Ends processes that were removed, and starts those of members again.
    fn tend_members(&mut self) {
        let latest = self.checker.configurations()[0];
        for place in 0..self.hosts.len() {
            let host = &self.hosts[place];
            let is_member = latest.members().contains(host.id);
            if host.process.as_ref().is_some_and(|process| process.is_removed) {
                self.stop(place, true, latest);
            }
            if is_member && self.hosts[place].process.is_none() && self.hosts[place].restart_at.is_none() {
                self.start(place);
            }
        }
    }

    /// Adds, promotes or removes somebody.
    fn change_members(&mut self) {
        let latest = self.checker.configurations()[0];
        let Some(leader) = self.leader_place() else { return };
        let place = self.rng.below(self.hosts.len() as u64) as usize;
        let id = self.hosts[place].id;
        let may_shrink = latest.voters.len() > 3 && self.may_forget(place);
        let change = if latest.learners.contains(id) {
            if self.rng.chance(0.8) { Change::Promote(id) } else { Change::Remove(id) }
        } else if latest.voters.contains(id) {
            if !may_shrink {
                return;
            }
            Change::Remove(id)
        } else {
            Change::AddLearner(id)
        };
        if let Change::AddLearner(_) = change {
            // Whoever takes the place of a former member begins with nothing.
            if self.hosts[place].process.is_some() && !self.may_forget(place) {
                return;
            }
            self.stop(place, true, latest);
            self.start(place);
        }
        let mut is_taken = false;
        if latest.after(change).is_ok_and(|after| !after.is_quorum(self.whole())) {
            return;
        }
        self.with(leader, |process, _| is_taken = process.replica.reconfigure(change).is_ok());
        if is_taken && let Ok(after) = latest.after(change) {
            self.proposed.retain(|(base, _)| *base == latest);
            self.proposed.push((latest, after));
            self.changes += 1;
        }
        if self.trace && is_taken {
            println!("{:?} {change:?}", self.now);
        }
    }
}
