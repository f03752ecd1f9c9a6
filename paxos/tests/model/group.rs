//! Three replicas as a state of the model: what they know, what is under way, and what was decided.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use paxos::{
    Ballot, Body, Command, Configuration, Effect, Entry, Lives, MemberId, Message, Persisted, Record, Replica,
    Settings, Slot, Start,
};

pub const REPLICAS: usize = 3;

/// A write of the only page: its value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Write(pub u8);

impl Entry for Write {
    fn size_bytes(&self) -> usize {
        1
    }
}

/// A message under way. In the order of keys, so that equal states look equal.
#[derive(Clone, Debug)]
pub struct Flying {
    key: u64,
    pub to: MemberId,
    pub message: Arc<Message<Write>>,
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl Eq for Flying {}
impl Hash for Flying {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// What may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    pub timeouts: u8,
    pub proposals: u8,
    pub duplicates: u8,
    /// Of replicas that lose their memory.
    pub crashes: u8,
    /// Of replicas that keep it.
    pub restarts: u8,
    /// Steps of the common clock.
    pub steps: u8,
}

/// Something that must never be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wrong {
    TwoValues,
    NotProposed,
    Twice,
    OutOfOrder,
    TwoLeaders,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Group {
    pub replicas: [Arc<Replica<Write>>; REPLICAS],
    /// Every record is durable at once; no pages are written.
    pub disks: [Arc<Persisted<Write>>; REPLICAS],
    pub clocks: [Duration; REPLICAS],
    pub flying: Vec<Flying>,
    /// By slot, from 1 on.
    pub decided: Vec<Command<Write>>,
    /// The last slot that each has applied.
    pub applied: [u64; REPLICAS],
    /// The last write that a leader has answered.
    pub answered: u64,
    /// Values proposed so far are less than this.
    pub next_value: u8,
    /// Ballots that had a leader, and who that was.
    pub leaders: Vec<Ballot>,
    pub budget: Budget,
    pub wrong: Option<Wrong>,
}

pub fn member(index: usize) -> MemberId {
    MemberId::new(index as u8).expect("a small place")
}

pub fn configuration() -> Configuration {
    Configuration::of((0..REPLICAS).map(member).collect())
}

fn empty_disk() -> Persisted<Write> {
    Persisted {
        promised: Ballot::ZERO,
        lives: Lives::default(),
        applied: Slot::ZERO,
        configuration: configuration(),
        decided: Slot::ZERO,
        accepted: Vec::new(),
    }
}

fn write(disk: &mut Persisted<Write>, record: Record<Write>) {
    match record {
        Record::Promise(ballot) => disk.promised = disk.promised.max(ballot),
        Record::Accept { ballot, first, batch } => {
            disk.promised = disk.promised.max(ballot);
            for (index, command) in batch.as_slice().iter().enumerate() {
                let slot = first.plus(index as u64);
                disk.accepted.retain(|(accepted, ..)| *accepted != slot);
                disk.accepted.push((slot, ballot, command.clone()));
            }
            disk.accepted.sort_by_key(|(slot, ..)| *slot);
        }
        Record::Decided(slot) => disk.decided = disk.decided.max(slot),
        Record::Returned { promised, lives, .. } => (disk.promised, disk.lives) = (promised, lives),
        Record::Life { .. } | Record::Installed { .. } => {}
    }
}

pub type Break = fn(&mut Replica<Write>);

impl Group {
    /// Replicas that never did anything.
    pub fn new(settings: Settings, budget: Budget, break_by: Break) -> Self {
        let replicas = [0, 1, 2].map(|index| {
            let start = Start::New(configuration());
            let mut replica = Replica::new(member(index), settings, start, Duration::ZERO, 0).expect("good settings");
            break_by(&mut replica);
            Arc::new(replica)
        });
        Self {
            replicas,
            disks: [0, 1, 2].map(|_| Arc::new(empty_disk())),
            clocks: [Duration::ZERO; REPLICAS],
            flying: Vec::new(),
            decided: Vec::new(),
            applied: [0; REPLICAS],
            answered: 0,
            next_value: 0,
            leaders: Vec::new(),
            budget,
            wrong: None,
        }
    }

    pub fn call(&mut self, index: usize, call: impl FnOnce(&mut Replica<Write>, Duration)) {
        let clock = self.clocks[index];
        call(Arc::make_mut(&mut self.replicas[index]), clock);
        self.drain(index);
    }

    pub fn drain(&mut self, index: usize) {
        while let Some(effect) = Arc::make_mut(&mut self.replicas[index]).next_effect() {
            match effect {
                Effect::Send { to, message } => {
                    let message = Arc::new(message);
                    for to in to.iter() {
                        self.fly(to, &message);
                    }
                }
                Effect::Apply { slot, command } => self.apply(index, slot, command),
                Effect::BecameLeader { ballot } => {
                    if self.leaders.contains(&ballot) {
                        self.wrong.get_or_insert(Wrong::TwoLeaders);
                    }
                    self.leaders.push(ballot);
                }
                Effect::Persist { ticket, record } => {
                    write(Arc::make_mut(&mut self.disks[index]), record);
                    let clock = self.clocks[index];
                    Arc::make_mut(&mut self.replicas[index]).persisted(clock, ticket);
                }
                Effect::LostLeadership { .. } | Effect::Truncated { .. } | Effect::Removed => {}
                // The page is at hand.
                Effect::ProvideState { .. } | Effect::InstallState { .. } => {}
            }
        }
    }

    fn fly(&mut self, to: MemberId, message: &Arc<Message<Write>>) {
        let mut hasher = DefaultHasher::new();
        (to, message).hash(&mut hasher);
        let key = hasher.finish();
        // The same once more brings nothing new: duplicates are deliveries that leave the message under way.
        if let Err(at) = self.flying.binary_search_by_key(&key, |flying| flying.key) {
            self.flying.insert(at, Flying { key, to, message: message.clone() });
        }
    }

    fn apply(&mut self, index: usize, slot: Slot, command: Command<Write>) {
        if slot.0 != self.applied[index] + 1 || slot.0 > self.decided.len() as u64 + 1 {
            self.wrong.get_or_insert(Wrong::OutOfOrder);
            return;
        }
        self.applied[index] = slot.0;
        match self.decided.get(slot.0 as usize - 1) {
            Some(first) if *first != command => {
                self.wrong.get_or_insert(Wrong::TwoValues);
            }
            Some(_) => {}
            None => {
                if let Command::Entry(write) = &command {
                    if write.0 >= self.next_value {
                        self.wrong.get_or_insert(Wrong::NotProposed);
                    }
                    if self.decided.contains(&command) {
                        self.wrong.get_or_insert(Wrong::Twice);
                    }
                }
                self.decided.push(command.clone());
            }
        }
        if matches!(command, Command::Entry(_)) && self.replicas[index].is_leader() {
            self.answered = self.answered.max(slot.0);
        }
    }

    pub fn deliver(&mut self, at: usize, keep: bool) {
        let flying = if keep { self.flying[at].clone() } else { self.flying.remove(at) };
        let message = Message::clone(&flying.message);
        self.call(flying.to.get() as usize, |replica, clock| replica.handle(clock, message));
    }

    /// Restarts a replica, with what it knew or with nothing.
    pub fn restart(&mut self, index: usize, forgets: bool, settings: Settings, break_by: Break) {
        let start = match forgets {
            true => {
                self.disks[index] = Arc::new(empty_disk());
                Start::Blank(configuration())
            }
            false => Start::Disk(Persisted::clone(&self.disks[index])),
        };
        let seed = u64::from(self.budget.crashes) + 1;
        let replica = Replica::new(member(index), settings, start, self.clocks[index], seed);
        let mut replica = replica.expect("good settings");
        break_by(&mut replica);
        self.replicas[index] = Arc::new(replica);
        self.applied[index] = 0;
        self.drain(index);
    }

    /// Whatever it waits for does not come.
    pub fn time_out(&mut self, index: usize) {
        // Twice: the first time a replica that was not called for long waits a little.
        for _ in 0..2 {
            let Some(due) = self.replicas[index].next_timeout() else { return };
            self.clocks[index] = self.clocks[index].max(due);
            let before = self.flying.len();
            self.call(index, |replica, clock| replica.tick(clock));
            if self.flying.len() != before {
                return;
            }
        }
    }

    /// Delivers a candidate's pre-votes and the answers, to whom no lease binds any more.
    pub fn deliver_pre_votes(&mut self, candidate: usize, later: Duration) {
        let is_pre_vote = |flying: &Flying| match flying.message.body {
            Body::PreVote(_) => flying.message.from == member(candidate),
            Body::PreVoted { .. } => flying.to == member(candidate),
            _ => false,
        };
        while let Some(at) = self.flying.iter().position(is_pre_vote) {
            self.clocks[self.flying[at].to.get() as usize] += later;
            self.deliver(at, false);
        }
    }

    /// Delivers what is on its way now.
    pub fn deliver_between(&mut self, from: usize, to: usize) {
        let (passing, others) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|flying| flying.to == member(to) && flying.message.from == member(from));
        self.flying = others;
        let passing: Vec<Flying> = passing;
        for flying in passing {
            if matches!(flying.message.body, Body::Prepare(_)) {
                self.clocks[to] += Duration::from_nanos(10);
            }
            self.call(to, |replica, clock| replica.handle(clock, Message::clone(&flying.message)));
        }
    }

    /// Delivers everything until nothing is under way.
    pub fn settle(&mut self) {
        while !self.flying.is_empty() {
            self.deliver(0, false);
        }
    }

    /// Whether some replica would answer a read without what was answered before.
    pub fn reads_stale(&self) -> bool {
        (0..REPLICAS).any(|index| {
            self.applied[index] < self.answered && self.replicas[index].check_read(self.clocks[index]).is_ok()
        })
    }

    pub fn asks_for_vote(&self, at: usize) -> bool {
        matches!(self.flying[at].message.body, Body::PreVote(_) | Body::Prepare(_))
    }
}
