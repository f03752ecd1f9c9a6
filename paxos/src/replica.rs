//! A member of a group: what it knows, and how calls are handed to the part of it that handles them.

use std::{collections::VecDeque, time::Duration};

use crate::{
    ballot::{Ballot, Life, Slot},
    candidate::Candidacy,
    catch_up::Transfer,
    command::{Batch, Command, Entry},
    durability::{Durability, Held},
    effect::{Effect, Persisted, Record, Ticket},
    flaws::Flaws,
    leader::Leadership,
    lease::Grant,
    log::Log,
    members::{Configuration, Lives, MemberId, MemberSet},
    message::{Body, Message},
    pace::Pace,
    recovery::Recovery,
    rng::Rng,
    settings::{Settings, SettingsError},
};

/// How a replica begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start<E> {
    /// The group is new: none of its members ever took part in it. Whoever says so vouches for it.
    New(Configuration),
    /// The replica has no memory: the process is new, or its disk is gone. It asks the members, and becomes a voter when it
    /// has what it may have had. If none of them ever promised anything, the group is new. The configuration has to name
    /// all that may hold the group's state; with no other voter in it, the group begins anew.
    Blank(Configuration),
    /// As `Blank`, but the replica had a memory and knows it: what was on its disk is damaged. Whatever the others say, the group is not new; if all
    /// voters begin so, none of them ever gets a vote.
    Damaged(Configuration),
    /// From disk, where everything is that was persisted.
    Disk(Persisted<E>),
}

/// What a replica does at the time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role<E> {
    /// It has no memory and is getting it back; it has no vote.
    Blank(Recovery),
    Follower(Following),
    Candidate(Candidacy<E>),
    Leader(Leadership<E>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Following {
    /// When the leader is missed.
    pub deadline: Duration,
    /// Elections in a row that this replica has stood in and nobody won.
    pub attempts: u32,
}

/// One member of one group. See the crate's documentation for how it is driven.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica<E> {
    pub(crate) id: MemberId,
    pub(crate) settings: Settings,
    pub(crate) rng: Rng,
    /// The latest time that it was told.
    pub(crate) now: Duration,
    pub(crate) lives: Lives,
    /// Ballots less than this are refused.
    pub(crate) promised: Ballot,
    /// The last record on which all answers rest: of a promise, or that a change of members is decided.
    pub(crate) basis_ticket: Ticket,
    /// The greatest round that it has heard of.
    pub(crate) seen_round: u64,
    pub(crate) log: Log<E>,
    /// The last slot decided and handed out as `Apply`, and all before it.
    pub(crate) commit: Slot,
    /// The last slot whose `Apply` the wiring has taken.
    pub(crate) delivered: Slot,
    /// It has all slots up to this one: decided, or accepted in the promised ballot.
    pub(crate) through: Slot,
    /// As far as that is durable.
    pub(crate) durable_through: Slot,
    /// All members have applied all slots up to this one.
    pub(crate) settled: Slot,
    /// In force after `commit`.
    pub(crate) configuration: Configuration,
    /// The slot that has put it in force, or the state that came with it.
    pub(crate) configured_at: Slot,
    pub(crate) role: Role<E>,
    /// Who leads in the promised ballot, if it has said so.
    pub(crate) leader: Option<MemberId>,
    pub(crate) grant: Grant,
    pub(crate) pace: Pace,
    pub(crate) durability: Durability<E>,
    pub(crate) transfer: Option<Transfer>,
    /// It has seen itself in a configuration.
    pub(crate) was_member: bool,
    pub(crate) is_removed: bool,
    /// It knows that it has forgotten something.
    pub(crate) had_memory: bool,
    /// It does not want to lead.
    pub(crate) abstains: bool,
    pub(crate) effects: VecDeque<Effect<E>>,
    pub(crate) flaws: Flaws,
}

impl<E: Entry> Replica<E> {
    /// A replica that takes this place in its group. `now` is of a clock that only goes forwards, from wherever it began;
    /// `seed` is different for each replica and each process.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn new(
        id: MemberId,
        settings: Settings,
        start: Start<E>,
        now: Duration,
        seed: u64,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        let following = Role::Follower(Following { deadline: now, attempts: 0 });
        let mut replica = Self {
            id,
            rng: Rng(seed),
            now,
            lives: Lives::default(),
            promised: Ballot::ZERO,
            basis_ticket: Ticket(0),
            seen_round: 0,
            log: Log::new(Slot(1)),
            commit: Slot::ZERO,
            delivered: Slot::ZERO,
            through: Slot::ZERO,
            durable_through: Slot::ZERO,
            settled: Slot::ZERO,
            configuration: Configuration::default(),
            configured_at: Slot::ZERO,
            role: following,
            leader: None,
            grant: Grant::forgotten(now, &settings),
            pace: Pace::new(&settings),
            durability: Durability::new(),
            transfer: None,
            was_member: false,
            is_removed: false,
            had_memory: false,
            abstains: false,
            effects: VecDeque::new(),
            flaws: Flaws::default(),
            settings,
        };
        match start {
            Start::New(configuration) => {
                replica.configure(configuration, Slot::ZERO);
                replica.begin_group();
            }
            Start::Blank(configuration) | Start::Damaged(configuration) => {
                replica.had_memory = matches!(start, Start::Damaged(_));
                replica.configuration = configuration;
                replica.begin_recovery();
            }
            Start::Disk(persisted) => replica.load(persisted),
        }
        Ok(replica)
    }

    /// Nobody has led yet, so that no lease can be broken.
    pub(crate) fn begin_group(&mut self) {
        self.grant = Grant::NONE;
        self.was_member = self.configuration.members().contains(self.id);
        self.write_returned();
        self.follow_nobody(Duration::ZERO);
    }

    /// From here on a restart from disk needs no recovery.
    pub(crate) fn write_returned(&mut self) {
        let (promised, lives, configuration) = (self.promised, self.lives, self.configuration);
        self.basis_ticket = self.persist(Record::Returned { promised, lives, configuration });
    }

    fn load(&mut self, persisted: Persisted<E>) {
        self.promised = persisted.promised;
        self.seen_round = persisted.promised.round;
        self.lives = persisted.lives;
        self.configure(persisted.configuration, persisted.applied);
        (self.commit, self.delivered) = (persisted.applied, persisted.applied);
        self.log = Log::new(self.commit.next());
        for (slot, ballot, command) in persisted.accepted {
            // None may be left out, however many there are: they were told to others.
            self.log.put(slot, ballot, command);
        }
        while self.commit < persisted.decided
            && let Some(item) = self.log.get(self.commit.next())
        {
            let command = item.command.clone();
            self.decide(command);
        }
        self.trim(Slot::ZERO);
        self.through = self.commit;
        self.extend_through();
        self.durable_through = self.through;
        if self.is_flawed(crate::flaws::Flaw::RestartsUnbound) {
            self.grant = Grant::NONE;
        }
        self.follow_nobody(self.settings.lease);
    }

    /// Takes a message from another member.
    pub fn handle(&mut self, now: Duration, message: Message<E>) {
        self.set_clock(now);
        let Message { from, life, body } = message;
        if from == self.id || self.is_removed || !self.is_current(from, life, &body) {
            return;
        }
        let is_blank = matches!(self.role, Role::Blank(_));
        match body {
            Body::Accept(accept) => self.on_accept(from, accept),
            Body::Recover(recover) => self.on_recover(from, recover),
            Body::Recovered(recovered) => self.on_recovered(from, recovered),
            Body::StateOffer(offer) => self.on_state_offer(from, offer),
            // The rest asks for a vote, or for what a blank replica does not have, or answers somebody else's question.
            _ if is_blank => {}
            Body::Accepted(accepted) => self.on_accepted(from, accepted),
            Body::PreVote(pre_vote) => self.on_pre_vote(from, pre_vote),
            Body::PreVoted { ballot } => self.on_pre_voted(from, ballot),
            Body::Prepare(prepare) => self.on_prepare(from, prepare),
            Body::Promise(promise) => self.on_promise(from, promise),
            Body::Refuse(refuse) => self.on_refuse(from, refuse),
            Body::HandOver { ballot } => self.on_hand_over(from, ballot),
            Body::StateRequest(request) => self.on_state_request(from, request),
        }
    }

    /// Messages of an earlier life are void. A blank replica does not know its life yet when it asks.
    fn is_current(&mut self, from: MemberId, life: Life, body: &Body<E>) -> bool {
        if matches!(body, Body::Recover(_) | Body::Recovered(_)) {
            return true;
        }
        if self.lives.learn(from, life) {
            self.forget_former_life(from);
        }
        life == self.lives.of(from) || self.is_flawed(crate::flaws::Flaw::CountsFormerLives)
    }

    /// What a member said in an earlier life does not count any more, since it has forgotten it.
    pub(crate) fn forget_former_life(&mut self, member: MemberId) {
        if self.is_flawed(crate::flaws::Flaw::CountsFormerLives) {
            return;
        }
        match &mut self.role {
            Role::Candidate(candidacy) => candidacy.forget(member),
            Role::Leader(leadership) => {
                leadership.forget(member);
                for slot in self.commit.next().0..=self.log.end().0 {
                    if let Some(item) = self.log.get_mut(Slot(slot)) {
                        item.acks.remove(member);
                    }
                }
            }
            Role::Blank(_) | Role::Follower(_) => {}
        }
    }

    /// Whether to leave it to others to lead: of a member that lacks some of its pages, and can neither read them to anybody nor give them to who lags.
    /// It votes all the same. A leader goes on.
    pub fn abstain(&mut self, abstains: bool) {
        self.abstains = abstains;
    }

    /// Does what is due. Has to be called when `next_timeout` has come; may be called at any time.
    pub fn tick(&mut self, now: Duration) {
        let stalled = now.saturating_sub(self.now);
        self.set_clock(now);
        if self.is_removed {
            return;
        }
        self.tend_transfer();
        match &mut self.role {
            Role::Blank(_) => self.tend_recovery(),
            Role::Candidate(_) => self.tend_candidacy(),
            Role::Leader(_) => self.tend_leadership(),
            Role::Follower(following) if now < following.deadline => {}
            // If nobody called this replica for long, the leader's messages may be waiting to be handed in.
            Role::Follower(following) if stalled > self.settings.lease / 2 => {
                following.deadline = now + self.settings.heartbeat * 2;
                self.pace.interrupt();
            }
            Role::Follower(_) => self.stand_or_wait(),
        }
    }

    /// When `tick` has to be called next; nothing if only a message can change anything.
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.is_removed {
            return None;
        }
        let role = match &self.role {
            Role::Blank(recovery) => Some(recovery.retry_at),
            Role::Follower(following) => Some(following.deadline),
            Role::Candidate(candidacy) => Some(candidacy.next_timeout()),
            Role::Leader(leadership) => Some(leadership.next_timeout()),
        };
        let transfer = self.transfer.as_ref().map(|transfer| transfer.deadline);
        role.into_iter().chain(transfer).min()
    }

    /// The next thing to be done. To be taken until there is none, after whatever else was called; proposals made since
    /// the last time travel together.
    pub fn next_effect(&mut self) -> Option<Effect<E>> {
        if self.effects.is_empty() {
            self.flush();
        }
        let effect = self.effects.pop_front();
        if let Some(Effect::Apply { slot, .. }) = effect {
            self.delivered = slot;
        }
        effect
    }

    /// All records up to this one are durable.
    pub fn persisted(&mut self, now: Duration, ticket: Ticket) {
        self.set_clock(now);
        self.durability.persisted(ticket);
        while let Some(held) = self.durability.release() {
            match held {
                Held::Own { ballot, first, last } => self.count_own(ballot, first, last),
                Held::Send { to, body } => {
                    match &body {
                        Body::Accepted(accepted) if accepted.ballot == self.promised => {
                            self.durable_through = self.durable_through.max(accepted.through);
                        }
                        _ => {}
                    }
                    self.send(to, body);
                }
            }
        }
        self.lead_if_elected();
    }

    fn set_clock(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.configuration.voters.contains(self.id)
    }

    pub(crate) fn life(&self) -> Life {
        self.lives.of(self.id)
    }

    #[inline(always)]
    pub(crate) fn is_flawed(&self, flaw: crate::flaws::Flaw) -> bool {
        self.flaws.has(flaw)
    }

    /// Makes the replica wrong.
    #[cfg(feature = "broken")]
    pub fn break_by(&mut self, flaw: crate::flaws::Flaw) {
        self.flaws = Flaws::of(flaw);
        if matches!(self.role, Role::Blank(_)) && flaw == crate::flaws::Flaw::VotesBlank {
            self.effects.clear();
            self.begin_group();
        }
        if flaw == crate::flaws::Flaw::RestartsUnbound {
            self.grant = Grant::NONE;
        }
    }

    pub(crate) fn send(&mut self, to: MemberId, body: Body<E>) {
        self.send_all(MemberSet::only(to), body);
    }

    pub(crate) fn send_all(&mut self, to: MemberSet, body: Body<E>) {
        let to = to.without(self.id);
        if !to.is_empty() {
            let message = Message { from: self.id, life: self.life(), body };
            self.effects.push_back(Effect::Send { to, message });
        }
    }

    /// Sends when everything is durable that was persisted before.
    pub(crate) fn send_durably(&mut self, to: MemberId, body: Body<E>) {
        if self.durability.is_behind() && !self.is_flawed(crate::flaws::Flaw::AcksBeforeDurable) {
            self.durability.hold(Held::Send { to, body });
        } else {
            self.send(to, body);
        }
    }

    /// Persists a record, if there is a disk.
    pub(crate) fn persist(&mut self, record: Record<E>) -> Ticket {
        if !self.settings.has_disk {
            return self.durability.issued();
        }
        let ticket = self.durability.issue();
        self.effects.push_back(Effect::Persist { ticket, record });
        ticket
    }

    /// Promises a greater ballot, and leaves whatever was done in a lesser one.
    pub(crate) fn adopt(&mut self, ballot: Ballot) {
        self.step_down();
        self.promised = ballot;
        self.seen_round = self.seen_round.max(ballot.round);
        self.leader = None;
        (self.through, self.durable_through) = (self.commit, self.commit);
        self.pace.interrupt();
    }

    /// Adopts a ballot and persists that.
    pub(crate) fn promise(&mut self, ballot: Ballot) {
        self.adopt(ballot);
        self.basis_ticket = self.persist(Record::Promise(ballot));
    }

    /// A leader or candidate becomes a follower that waits for somebody else.
    pub(crate) fn step_down(&mut self) {
        match &self.role {
            Role::Blank(_) | Role::Follower(_) => return,
            Role::Candidate(_) => {}
            Role::Leader(leadership) => {
                let ballot = leadership.ballot;
                self.effects.push_back(Effect::LostLeadership { ballot });
            }
        }
        self.follow_nobody(self.settings.lease);
    }

    /// Becomes a follower without a leader, who waits for one for a while.
    pub(crate) fn follow_nobody(&mut self, wait: Duration) {
        let attempts = if let Role::Candidate(candidacy) = &self.role { candidacy.attempts } else { 0 };
        let spread = self.settings.election_spread * (1 << attempts.min(3));
        let deadline = self.now + wait + self.rng.within(spread);
        self.leader = None;
        self.role = Role::Follower(Following { deadline, attempts });
    }

    /// Extends `through` over what was accepted in the promised ballot.
    pub(crate) fn extend_through(&mut self) {
        self.through = self.through.max(self.commit);
        while self.log.get(self.through.next()).is_some_and(|item| item.ballot == self.promised) {
            self.through = self.through.next();
        }
    }

    /// Slot `commit + 1` is decided.
    pub(crate) fn decide(&mut self, command: Command<E>) {
        self.commit = self.commit.next();
        if let Command::Reconfigure(configuration) = &command {
            self.configure(*configuration, self.commit);
            // Whoever leads next must be able to rely on a quorum that knows this, though members that left are gone.
            self.basis_ticket = self.persist(Record::Decided(self.commit));
        }
        self.effects.push_back(Effect::Apply { slot: self.commit, command });
    }

    /// A configuration is in force for all slots after this one.
    pub(crate) fn configure(&mut self, configuration: Configuration, at: Slot) {
        self.configuration = configuration;
        self.configured_at = at;
        // A blank replica reads of former members in its place.
        let is_blank = matches!(self.role, Role::Blank(_));
        self.was_member |= !is_blank && configuration.members().contains(self.id);
    }

    /// Forgets what nobody needs any more, and of what was applied whatever is more than the log may keep.
    pub(crate) fn trim(&mut self, settled: Slot) {
        let before = self.log.start();
        self.settled = self.settled.max(settled);
        self.log.truncate_through(settled.min(self.commit));
        let Settings { max_log_entries, max_log_bytes, .. } = self.settings;
        let is_full = |log: &Log<E>| log.len() > max_log_entries || log.bytes() > max_log_bytes;
        while is_full(&self.log) && self.log.start() <= self.commit {
            self.log.drop_first();
        }
        if self.log.start() > before && self.settings.has_disk {
            self.effects.push_back(Effect::Truncated { through: self.log.start().before() });
        }
    }

    /// Commands from `first` on, for one message.
    pub(crate) fn batch(&self, first: Slot, last: Slot) -> Batch<E> {
        self.log.batch(first, last, self.settings.max_batch_entries, self.settings.max_batch_bytes)
    }
}
