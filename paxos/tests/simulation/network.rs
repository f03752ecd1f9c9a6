//! Messages on their way, and what else comes at its time.

use std::{cmp::Ordering, collections::BinaryHeap, time::Duration};

use paxos::{MAX_MEMBERS, MemberId, MemberSet, Message, Ticket};

use crate::{
    machine::{Chunk, Write},
    weather::{Rng, Weather},
};

#[derive(Debug)]
pub enum Event {
    Message {
        to: MemberId,
        message: Message<Write>,
    },
    Chunk {
        to: MemberId,
        chunk: Chunk,
    },
    /// The disk of this process has written everything up to the ticket.
    Synced {
        host: MemberId,
        process: u64,
        ticket: Ticket,
    },
    /// The next part of a transfer is due.
    Provide {
        host: MemberId,
        process: u64,
    },
    /// A client makes its next request.
    Client {
        client: usize,
    },
    /// A client's request has taken too long.
    Timeout {
        client: usize,
        request: u64,
    },
    /// A client's request arrives.
    Request {
        client: usize,
        request: u64,
        host: MemberId,
    },
    /// All leaders that may are read.
    Probe,
}

struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
/// The earliest is the greatest.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What is cut, and how it goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// By sender, who is not reached.
    pub unreached: [MemberSet; MAX_MEMBERS],
}

pub struct Network {
    pub weather: Weather,
    pub cut: Cut,
    events: BinaryHeap<Entry>,
    number: u64,
    pub messages: u64,
}

impl Network {
    pub fn new(weather: Weather) -> Self {
        Self { weather, cut: Cut::default(), events: BinaryHeap::new(), number: 0, messages: 0 }
    }

    pub fn schedule(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Entry { at, number: self.number, event });
    }

    pub fn next_at(&self) -> Option<Duration> {
        self.events.peek().map(|entry| entry.at)
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop().map(|entry| entry.event)
    }

    /// When a message from one to the other arrives, if it does.
    pub fn arrival(&mut self, rng: &mut Rng, now: Duration, from: MemberId, to: MemberId) -> Option<Duration> {
        self.messages += 1;
        let Weather { latency, loss, late, lateness, .. } = self.weather;
        if self.cut.unreached[from.get() as usize].contains(to) || rng.chance(loss) {
            return None;
        }
        let late = if rng.chance(late) { rng.around(lateness / 2) } else { Duration::ZERO };
        Some(now + latency / 2 + rng.around(latency / 4) + late)
    }

    pub fn send(&mut self, rng: &mut Rng, now: Duration, to: MemberId, message: &Message<Write>) {
        let copies = if rng.chance(self.weather.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if let Some(at) = self.arrival(rng, now, message.from, to) {
                self.schedule(at, Event::Message { to, message: message.clone() });
            }
        }
    }

    /// Draws another partition of these members, or none.
    pub fn cut(&mut self, rng: &mut Rng, members: MemberSet) {
        self.cut = Cut::default();
        let side: MemberSet = members.iter().filter(|_| rng.chance(0.5)).collect();
        let others: MemberSet = members.iter().filter(|member| !side.contains(*member)).collect();
        let kind = rng.below(6);
        for member in members.iter() {
            let is_on_side = side.contains(member);
            self.cut.unreached[member.get() as usize] = match kind {
                // In two.
                0 | 1 => {
                    if is_on_side {
                        others
                    } else {
                        side
                    }
                }
                // One way.
                2 if is_on_side => others,
                // One alone.
                3 => {
                    let alone = MemberSet::only(members.iter().next().unwrap_or_default());
                    if alone.contains(member) { members } else { alone }
                }
                // Whatever.
                4 => members.iter().filter(|_| rng.chance(0.3)).collect(),
                _ => MemberSet::EMPTY,
            };
        }
    }
}
