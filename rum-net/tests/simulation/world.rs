//! Clients, servers, the network between them and the attacker, from a seed, in virtual time.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use rum_net::rpc::{Incarnation, MAX_MESSAGE_BYTES, client::ClientConfig};
use rum_net::seal::{ClientKey, Key};

use crate::{
    asker::Asker,
    attacker::Attacker,
    broken::Broken,
    host::{self, Host, SESSION_TIMEOUT},
    network::{Delivery, Network},
    packet,
    weather::{Rng, Weather},
};

const SICK_FOR: Duration = Duration::from_secs(2);
/// After the network has become well, everything has to be done within this time.
const HEALED_WITHIN: Duration = Duration::from_secs(10);
/// Longer than the latest packet of a sick network is late, and shorter than a session lives.
const SETTLED_AFTER: Duration = Duration::from_millis(300);

pub struct World {
    pub net: Network,
    pub start: Instant,
    pub now: Instant,
    pub is_well: bool,
    /// Whether the servers ask for keys.
    pub sealed: bool,
    pub askers: Vec<Asker>,
    pub hosts: Vec<Host>,
    pub attacker: Attacker,
    /// Sessions that their clients have ended.
    pub byes: HashSet<u64>,
    pub next_link: u64,
    broken: Option<Broken>,
    next_server_crash: Option<Instant>,
    next_client_crash: Option<Instant>,
    next_attack: Option<Instant>,
    pub crashes: u64,
    /// Prints each packet that arrives.
    trace: bool,
}

/// Whose key an asker has, and whether it is the one to have.
fn credentials(rng: &mut Rng, sealed: bool) -> (Option<ClientKey>, bool) {
    let own = &host::keys().clients()[rng.below(host::KEYS as u64) as usize];
    let is_stranger = rng.chance(0.08);
    match (sealed, is_stranger) {
        (false, false) => (None, true),
        (true, false) => (Some(own.clone()), true),
        (false, true) => (Some(own.clone()), false),
        (true, true) => {
            let wrong = ClientKey { key: Key::from_bytes([0xEE; 32]), ..own.clone() };
            let unknown = ClientKey { name: "nobody".to_owned(), ..own.clone() };
            (rng.pick(&[None, Some(0), Some(1)]).map(|which| if which == 0 { wrong } else { unknown }), false)
        }
    }
}

impl World {
    pub fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut rng = Rng(seed);
        let now = Instant::now();
        let weather = Weather::draw(&mut rng);
        let sealed = rng.chance(0.5);
        let (host_count, process_count) = (1 + rng.below(2), 1 + rng.below(3));
        let hosts: Vec<Host> = (0..host_count)
            .map(|_| {
                let incarnation = Incarnation(rng.wide());
                let mut host = Host::new(incarnation, rng.pick(&[1500, 2000, 9000, 65_535]), sealed, now);
                Broken::apply_to_server(broken, &mut host.server);
                host
            })
            .collect();
        let mut askers: Vec<Asker> = Vec::new();
        for process in 0..process_count as usize {
            let incarnation = Incarnation(rng.wide());
            let (key, welcome) = credentials(&mut rng, sealed);
            for channel in 0..rng.pick(&[1, 1, 2]) {
                let config = ClientConfig {
                    incarnation,
                    channel,
                    mtu: rng.pick(&[1500, 4352, 9000]),
                    slots: rng.pick(&[1, 4, 4, 8, 32]),
                    max_request_bytes: rng.pick(&[10_000, 40_000, MAX_MESSAGE_BYTES]),
                };
                let place = (askers.len() as u32, process, rng.below(host_count) as usize);
                let mut asker = Asker::new(place, config, key.clone(), welcome, now);
                Broken::apply_to_client(broken, &mut asker.client);
                askers.push(asker);
            }
        }
        let next = |every: Option<Duration>| every.map(|every| now + every);
        Self {
            next_server_crash: next(weather.server_crash),
            next_client_crash: next(weather.client_crash),
            next_attack: next(weather.attack),
            next_link: askers.len() as u64,
            net: Network::new(rng, weather, hosts.len(), now),
            start: now,
            now,
            is_well: false,
            sealed,
            askers,
            hosts,
            attacker: Attacker::default(),
            byes: HashSet::new(),
            broken,
            crashes: 0,
            trace: std::env::var_os("RUM_SIM_TRACE").is_some(),
        }
    }

    /// Until all is asked, answered and closed.
    pub fn run(&mut self) {
        let well_from = self.start + SICK_FOR;
        while !self.askers.iter().all(Asker::is_done) {
            if !self.is_well && self.now >= well_from {
                self.heal();
            }
            let askers = || self.askers.iter().map(Asker::state).collect::<Vec<_>>().join("\n  ");
            assert!(self.now < well_from + HEALED_WITHIN, "the network is well, but requests hang:\n  {}", askers());
            self.step(well_from + HEALED_WITHIN);
        }
        self.heal();
        self.settle();
        self.close();
    }

    fn heal(&mut self) {
        self.is_well = true;
        self.net.weather = self.net.weather.well();
        (self.next_server_crash, self.next_client_crash, self.next_attack) = (None, None, None);
    }

    fn run_until(&mut self, end: Instant) {
        while self.now < end {
            self.step(end);
        }
    }

    /// All answers are here: no server may keep one, once its clients have said so.
    fn settle(&mut self) {
        self.run_until(self.now + SETTLED_AFTER / 2);
        for index in 0..self.askers.len() {
            self.askers[index].client.keep_alive(self.now);
            self.tend(index);
        }
        self.run_until(self.now + SETTLED_AFTER / 2);
        for (index, host) in self.hosts.iter().enumerate() {
            let open = self.askers.iter().filter(|asker| asker.host == index && asker.client.is_open()).count();
            // Other sessions are of processes that crashed, which say nothing.
            let kept = host.server.kept_response_bytes();
            assert!(
                kept == 0 || host.server.session_count() > open,
                "{kept} bytes of answers that have arrived are kept"
            );
        }
    }

    fn close(&mut self) {
        let now = self.now;
        for index in 0..self.askers.len() {
            self.askers[index].client.close(now);
            self.tend(index);
        }
        self.run_until(now + SESSION_TIMEOUT * 3);
        for asker in &self.askers {
            assert!(asker.client.is_closed(), "the network is well, but a session does not close");
        }
        for host in &mut self.hosts {
            host.expire(self.now);
            assert_eq!(host.server.session_count(), 0, "sessions of nobody");
            assert_eq!(host.server.kept_response_bytes(), 0, "answers for nobody");
        }
    }

    /// Does what is due next, but nothing after `end`.
    fn step(&mut self, end: Instant) {
        let timer = self.next_timer().unwrap_or(end).min(end);
        match self.net.next_at().filter(|at| *at <= timer) {
            Some(at) => {
                self.now = self.now.max(at);
                if let Some(delivery) = self.net.pop() {
                    self.deliver(delivery);
                }
            }
            None => {
                self.now = self.now.max(timer);
                self.on_timers();
            }
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let askers = self.askers.iter().filter_map(Asker::due);
        let expiry = self.hosts.iter().filter_map(|host| host.server.poll_timeout());
        let retries = self.hosts.iter().filter_map(|host| host.retry_at);
        let others = [self.next_server_crash, self.next_client_crash, self.next_attack].into_iter().flatten();
        askers.chain(expiry).chain(retries).chain(others).min()
    }

    fn on_timers(&mut self) {
        let (now, weather) = (self.now, self.net.weather);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.next_server_crash) {
            self.next_server_crash = weather.server_crash.map(|every| now + every);
            self.crash_server();
        }
        if is_due(self.next_client_crash) {
            self.next_client_crash = weather.client_crash.map(|every| now + every);
            self.crash_client();
        }
        if is_due(self.next_attack) {
            self.next_attack =
                weather.attack.map(|every| now + every / 2 + every.mul_f64(self.net.rng.below(100) as f64 / 100.0));
            self.attack();
        }
        for index in 0..self.hosts.len() {
            self.hosts[index].expire(now);
            if is_due(self.hosts[index].retry_at) {
                self.host_transmit(index);
            }
        }
        for index in 0..self.askers.len() {
            if is_due(self.askers[index].due()) {
                self.tend(index);
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        if self.trace {
            self.print(&delivery);
        }
        match delivery {
            Delivery::ToHost { host, from, mut packet, journey } => {
                if !journey.damaged && self.next_attack.is_some() {
                    self.attacker.see(&mut self.net.rng, true, host, from.link, &packet);
                }
                if journey.damaged && self.broken == Some(Broken::IgnoresChecksums) {
                    packet::mend(&mut packet);
                }
                self.host_handle(host, from, &packet, journey);
                self.net.take_back(packet);
            }
            Delivery::ToAsker { host, link, mut packet, journey } => {
                if !journey.damaged && self.next_attack.is_some() {
                    self.attacker.see(&mut self.net.rng, false, host, link, &packet);
                }
                if journey.damaged && self.broken == Some(Broken::IgnoresChecksums) {
                    packet::mend(&mut packet);
                }
                self.asker_handle(link, &packet, journey);
                self.net.take_back(packet);
            }
            Delivery::Answer { host: index, server, token, question } => {
                let host = &mut self.hosts[index];
                if server == host.incarnation {
                    host.server.respond(token, question.answer());
                    self.host_transmit(index);
                }
            }
        }
    }

    fn print(&self, delivery: &Delivery) {
        let at = self.now - self.start;
        match delivery {
            Delivery::ToHost { host, from, packet, journey } => {
                println!("{at:?} {} > server {host}: {} {journey:?}", from.link.0, packet::describe(packet));
            }
            Delivery::ToAsker { host, link, packet, journey } => {
                println!("{at:?} server {host} > {}: {} {journey:?}", link.0, packet::describe(packet));
            }
            Delivery::Answer { host, question, .. } => println!("{at:?} server {host} answers {question:?}"),
        }
    }

    fn crash_server(&mut self) {
        self.crashes += 1;
        let index = self.net.rng.below(self.hosts.len() as u64) as usize;
        self.hosts[index].crash(Incarnation(self.net.rng.wide()), self.now);
        Broken::apply_to_server(self.broken, &mut self.hosts[index].server);
    }

    /// A process with all its sessions.
    fn crash_client(&mut self) {
        self.crashes += 1;
        let last = self.askers.last().map_or(0, |asker| asker.process as u64);
        let process = self.net.rng.below(last + 1) as usize;
        let incarnation = Incarnation(self.net.rng.wide());
        for asker in self.askers.iter_mut().filter(|asker| asker.process == process) {
            asker.crash(incarnation, self.now);
            Broken::apply_to_client(self.broken, &mut asker.client);
        }
    }
}
