//! A slave: its part in the group, its clock, and the sessions of clients.

use std::{collections::HashMap, time::Duration};

use paxos::{Settings, Standing};
use rum_net::{
    placement::SlaveIndex,
    rpc::{
        Incarnation, Response,
        server::{RequestToken, SessionId},
    },
    wire::message::{Command, Request, Stat, Status, encode_not_leader, encode_status},
};
use rum_slave::{
    account::{AccountId, Accounts},
    disk::{Disk, DiskOptions, memory::Memory},
    group::{Caller, Group, Output, message::PeerMessage, scrub::ScrubOptions},
};

use crate::disk::{self, Shared, SimulatedLane};

/// Extents that each slave has room for.
pub const CAPACITY: u64 = 14;
/// So much is compared of what slaves keep, far more often than they do it.
const SCRUB: ScrubOptions = ScrubOptions { bytes_per_second: 32 << 20, round: Duration::from_millis(400) };
/// Extents that the second account may hold.
pub const QUOTA: u64 = 3;

/// What a process has to say.
pub enum Said {
    Peer { to: SlaveIndex, bytes: Vec<u8>, is_piece: bool },
    Answer { request: u64, bytes: Vec<u8> },
}

pub struct Process {
    pub group: Group,
    disk: Option<(Disk, Shared)>,
    started: Duration,
    drift_ppm: i64,
    pub paused_until: Duration,
    /// When each client that has a session was heard last.
    pub heard: HashMap<Incarnation, Duration>,
    led_since: Option<Duration>,
    /// It has had all that the group has.
    was_whole: bool,
}

pub struct Host {
    pub process: Option<Process>,
    pub disk: Option<Shared>,
    /// There is no process, but what it knew is on its disk.
    pub is_remembered: bool,
    /// Counts processes.
    pub life: u64,
    pub drift_ppm: i64,
    pub first_generation: u32,
}

impl Host {
    /// Whether its process remembers all that it promised and accepted, or will when there is one again.
    pub fn remembers(&mut self) -> bool {
        self.process.as_mut().map_or(self.is_remembered, Process::remembers)
    }
}

pub fn accounts() -> (Accounts, AccountId) {
    let mut accounts = Accounts::default();
    let small = accounts.add("small", QUOTA);
    (accounts, small)
}

impl Process {
    pub fn new(
        slaves: &[SlaveIndex],
        me: SlaveIndex,
        (lease, settings): (Duration, Settings),
        (now, drift_ppm): (Duration, i64),
        (disk, checkpoint_bytes): (Option<Shared>, u64),
        seed: u64,
    ) -> Self {
        let who = (slaves.to_vec(), me);
        let group =
            Group::new(0, who, accounts().0, CAPACITY, lease, Duration::ZERO, seed).expect("a slave of the group");
        let group = group.with_settings(settings, Duration::ZERO).expect("settings that make sense").with_scrub(SCRUB);
        let (mut found, mut was_whole) = (None, false);
        let disk = disk.map(|shared| {
            let (remembered, memory) = disk::read(&mut shared.lock().unwrap());
            let options = DiskOptions { salt: disk::SALT, checkpoint_bytes, segment_bytes: 64 << 10 };
            was_whole = matches!(&memory, Memory::Whole(whole) if whole.damaged.is_empty());
            found = Some(memory);
            (Disk::new(options, &remembered, SimulatedLane::both(&shared)), shared)
        });
        let group = match found {
            Some(memory) => group.with_memory(memory, Duration::ZERO),
            None => group,
        };
        Self {
            group,
            disk,
            started: now,
            drift_ppm,
            paused_until: now,
            heard: HashMap::new(),
            led_since: None,
            was_whole,
        }
    }

    pub fn clock(&self, now: Duration) -> Duration {
        let elapsed = (now - self.started).as_nanos() as i128;
        Duration::from_nanos((elapsed * (1_000_000 + i128::from(self.drift_ppm)) / 1_000_000) as u64)
    }

    /// Whether all that it promised and accepted is remembered.
    pub fn remembers(&mut self) -> bool {
        self.was_whole |= self.group.is_whole();
        self.was_whole && self.group.status().standing != Standing::Blank
    }

    /// Whether it has led, and not heard this client, for the length of a lease.
    pub fn may_expire(&self, now: Duration, client: Incarnation, lease: Duration) -> bool {
        let since = self.heard.get(&client).copied().unwrap_or(self.started);
        let since = self.led_since.map(|led| led.max(since));
        since.is_some_and(|since| now - since >= lease.mul_f64(0.97))
    }

    /// A client's request, answered at once if it can be.
    pub fn serve(
        &mut self,
        now: Duration,
        caller: Caller,
        request: u64,
        message: &[u8],
        first: u32,
    ) -> Option<Vec<u8>> {
        let mut response = Response::default();
        match Request::decode(message) {
            Ok(Request::Command(Command { sequence, settled, request: inner, .. })) => {
                let asker = (0, RequestToken { session: SessionId(0), request });
                self.group.command(asker, caller, (sequence, settled), inner, first);
                return None;
            }
            Ok(Request::Ask { request, .. }) => {
                let stat = Stat {
                    incarnation: Incarnation(1),
                    capacity_extents: 0,
                    reserved_extents: 0,
                    used_pages: 0,
                    sessions: 0,
                    lease: Duration::ZERO,
                };
                if let Err(status) = self.group.ask(self.clock(now), caller, request, stat, &mut response) {
                    response.clear();
                    encode_status(status, &mut response.head);
                }
            }
            Ok(_) => encode_not_leader(None, &mut response.head),
            Err(_) => encode_status(Status::Malformed, &mut response.head),
        }
        let mut bytes = std::mem::take(&mut response.head);
        response.pages.iter().for_each(|page| bytes.extend_from_slice(&page[..]));
        Some(bytes)
    }

    /// Does what is due, as a slave's thread does.
    pub fn turn(&mut self, now: Duration, lease: Duration, room: usize) {
        let clock = self.clock(now);
        let Self { group, heard, .. } = self;
        heard.retain(|&client, at| {
            let is_alive = now - *at < lease;
            if !is_alive {
                group.session_ended(client, clock);
            }
            is_alive
        });
        group.tick(clock, &|client| heard.contains_key(&client));
        group.provide(&|_| room);
        group.tidy();
    }

    /// What the group wants, messages to one slave together.
    pub fn drain(&mut self, now: Duration) -> Vec<Said> {
        let clock = self.clock(now);
        let mut said: Vec<Said> = Vec::new();
        self.take(clock, &mut said);
        if let Some((disk, shared)) = &mut self.disk {
            shared.lock().unwrap().set_now(now);
            disk.acknowledge(clock, std::slice::from_mut(&mut self.group)).expect("a disk that works");
        }
        self.take(clock, &mut said);
        if let Some((disk, _)) = &mut self.disk {
            disk.step(clock, std::slice::from_mut(&mut self.group)).expect("a disk that works");
        }
        self.led_since = if self.group.is_leader() { self.led_since.or(Some(now)) } else { None };
        said
    }

    fn take(&mut self, clock: Duration, said: &mut Vec<Said>) {
        self.group.run_effects(clock);
        for output in self.group.take_outputs() {
            match (output, &mut self.disk) {
                (Output::Answer((_, token), bytes), _) => said.push(Said::Answer { request: token.request, bytes }),
                (Output::Send(receivers, message), _) => send(&receivers, &message, said),
                (Output::Persist(ticket, record), Some((disk, _))) => disk.record(0, ticket, record),
                (Output::Forget, Some((disk, _))) => disk.forget(0),
                (Output::Persist(..) | Output::Forget, None) => {}
            }
        }
    }
}

fn send(receivers: &[SlaveIndex], message: &PeerMessage, said: &mut Vec<Said>) {
    let (is_piece, new) = (is_piece(message), message.encode());
    for &to in receivers {
        let found = said.iter_mut().find_map(|said| match said {
            Said::Peer { to: other, bytes, is_piece: false } if *other == to && !is_piece => Some(bytes),
            _ => None,
        });
        match found {
            Some(bytes) => bytes.extend_from_slice(&new),
            None => said.push(Said::Peer { to, bytes: new.clone(), is_piece }),
        }
    }
}

fn is_piece(message: &PeerMessage) -> bool {
    matches!(message.content, rum_slave::group::message::Content::Piece(_))
}
