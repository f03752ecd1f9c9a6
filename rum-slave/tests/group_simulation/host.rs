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
    group::{Caller, Group, Output, message::PeerMessage},
};

/// Extents that each slave has room for.
pub const CAPACITY: u64 = 14;
/// Extents that the second account may hold.
pub const QUOTA: u64 = 3;

/// What a process has to say.
pub enum Said {
    Peer { to: SlaveIndex, bytes: Vec<u8>, is_piece: bool },
    Answer { request: u64, bytes: Vec<u8> },
}

pub struct Process {
    pub group: Group,
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
    /// Counts processes.
    pub life: u64,
    pub drift_ppm: i64,
    pub first_generation: u32,
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
        seed: u64,
    ) -> Self {
        let who = (slaves.to_vec(), me);
        let group =
            Group::new(0, who, accounts().0, CAPACITY, lease, Duration::ZERO, seed).expect("a slave of the group");
        let group = group.with_settings(settings, Duration::ZERO).expect("settings that make sense");
        Self {
            group,
            started: now,
            drift_ppm,
            paused_until: now,
            heard: HashMap::new(),
            led_since: None,
            was_whole: false,
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
        self.group.run_effects(self.clock(now));
        self.led_since = if self.group.is_leader() { self.led_since.or(Some(now)) } else { None };
        let mut said: Vec<Said> = Vec::new();
        for output in self.group.take_outputs() {
            match output {
                Output::Answer((_, token), bytes) => said.push(Said::Answer { request: token.request, bytes }),
                Output::Send(receivers, message) => {
                    let (is_piece, new) = (is_piece(&message), message.encode());
                    for to in receivers {
                        let found = said.iter_mut().find_map(|said| match said {
                            Said::Peer { to: other, bytes, is_piece: false } if *other == to && !is_piece => {
                                Some(bytes)
                            }
                            _ => None,
                        });
                        match found {
                            Some(bytes) => bytes.extend_from_slice(&new),
                            None => said.push(Said::Peer { to, bytes: new.clone(), is_piece }),
                        }
                    }
                }
            }
        }
        said
    }
}

fn is_piece(message: &PeerMessage) -> bool {
    matches!(message.content, rum_slave::group::message::Content::Piece(_))
}
