//! Leading: phase 2 for many slots at a time, and what goes with it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    ballot::{Ballot, Slot},
    command::{Batch, Command, Entry},
    durability::Held,
    effect::{Effect, Record},
    flaws::Flaw,
    lease,
    members::{Change, ChangeError, Configuration, MemberId, MemberSet},
    message::{Accept, Accepted, Body},
    replica::{Replica, Role},
    settings::Settings,
};

/// Why an entry was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads, if anybody does.
    #[error("this replica does not lead; {} does", .leader.map_or("nobody known".to_owned(), |leader| format!("member {}", leader.get())))]
    NotLeader {
        /// Who may.
        leader: Option<MemberId>,
    },
    /// As much is in flight as may be, or something has to be decided first: try again after the next `Apply`.
    #[error("too much is in flight: try again when something has been decided")]
    Busy,
    /// The change of members makes no sense.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Why the pages must not be read now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// Somebody else leads, if anybody does.
    #[error("this replica does not lead")]
    NotLeader {
        /// Who may.
        leader: Option<MemberId>,
    },
    /// Somebody else may lead.
    #[error("the lease has run out")]
    NoLease,
    /// Something that is decided has not been applied here.
    #[error("not everything that is decided is applied yet")]
    NotApplied,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Leadership<E> {
    pub ballot: Ballot,
    /// The last slot proposed.
    last: Slot,
    /// The last slot that was sent.
    flushed: Slot,
    /// The entry that shows that this ballot decides: all that former ones decided come before it.
    barrier: Slot,
    /// To be proposed before anything new: what former leaders may have decided, and the barrier.
    waiting: VecDeque<Command<E>>,
    /// A change of members that is not decided. The configuration in force for slots after it is not known.
    change: Option<Slot>,
    /// Bytes in flight.
    bytes: usize,
    peers: Vec<Peer>,
    next_beat: Duration,
    /// When the lease runs out, by the leader's clock.
    lease_until: Duration,
    /// When it stops leading if it has not had a lease again by then.
    patience_until: Duration,
    /// To whom to hand over, and by when it has to have everything.
    heir: Option<(MemberId, Duration)>,
}

/// What a leader knows of another member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Peer {
    member: MemberId,
    /// It has all slots up to this one.
    through: Slot,
    /// Its votes are counted up to this one.
    counted: Slot,
    /// Everything up to this one was sent to it, if it has what was sent before.
    sent: Slot,
    applied: Slot,
    /// When the message was sent that it answered last.
    answered: Option<Duration>,
    /// When the message was sent by whose answer it granted its lease.
    granted: Option<Duration>,
    resend_at: Duration,
    votes: bool,
}

impl Peer {
    fn new(member: MemberId, decided: Slot) -> Self {
        Self {
            member,
            through: decided,
            counted: decided,
            sent: decided,
            applied: Slot::ZERO,
            answered: None,
            granted: None,
            resend_at: Duration::ZERO,
            votes: false,
        }
    }
}

impl<E> Leadership<E> {
    pub fn next_timeout(&self) -> Duration {
        let resend = self.peers.iter().filter(|peer| peer.sent > peer.through).map(|peer| peer.resend_at);
        resend.chain(self.heir.map(|(_, until)| until)).chain([self.next_beat]).min().unwrap_or(self.next_beat)
    }

    /// The last slot that it has proposed, or has to propose before anything new.
    pub fn last(&self) -> Slot {
        self.last.plus(self.waiting.len() as u64)
    }

    pub fn lease_is_good(&self, now: Duration) -> bool {
        now < self.lease_until
    }

    pub fn lease_until(&self) -> Duration {
        self.lease_until
    }

    /// Decided entries that each peer has not applied, as far as is known.
    pub fn lags(&self, decided: Slot) -> impl Iterator<Item = (MemberId, u64)> {
        self.peers.iter().map(move |peer| (peer.member, decided.since(peer.applied)))
    }

    /// A member has lost its memory.
    pub fn forget(&mut self, member: MemberId) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.member == member) {
            *peer = Peer::new(member, Slot::ZERO);
        }
    }

    /// Members that have not applied this slot, as far as is known.
    fn settled(&self, own: Slot) -> Slot {
        self.peers.iter().map(|peer| peer.applied).fold(own, Slot::min)
    }

    /// Until when a quorum has granted a lease: as long as the one of its grants that ends first, of the quorum for which
    /// that is latest.
    fn renew_lease(&mut self, configuration: &Configuration, id: MemberId, now: Duration, settings: &Settings) {
        let mut granted = [Duration::ZERO; crate::MAX_MEMBERS];
        let mut count = 0;
        for peer in &self.peers {
            if configuration.voters.contains(peer.member)
                && let Some(at) = peer.granted
            {
                granted[count] = at;
                count += 1;
            }
        }
        if configuration.voters.contains(id) {
            // It can break its own word only by not leading any more.
            granted[count] = now;
            count += 1;
        }
        granted[..count].sort_unstable_by(|a, b| b.cmp(a));
        if let Some(at) = granted[..count].get(configuration.quorum() - 1) {
            self.lease_until = self.lease_until.max(lease::good_until(*at, settings));
            self.patience_until = self.patience_until.max(self.lease_until + settings.lease);
        }
    }
}

impl<E: Entry> Replica<E> {
    /// Proposes an entry. It is decided when it comes as `Apply` with the slot that is returned, while this replica leads
    /// without a break. Sent when effects are taken next.
    ///
    /// # Errors
    /// When this replica does not lead, or has too much in flight.
    pub fn propose(&mut self, entry: E) -> Result<Slot, ProposeError> {
        self.propose_command(Command::Entry(entry))
    }

    /// Proposes a change of members. Slots after it are proposed when it is decided; another change, when a quorum has
    /// applied it, or those who do not know of it might have to ask members that have left long since.
    ///
    /// # Errors
    /// When this replica does not lead, has too much in flight, or the change makes no sense.
    pub fn reconfigure(&mut self, change: Change) -> Result<Slot, ProposeError> {
        let after = self.check_change(change)?;
        self.propose_command(Command::Reconfigure(after))
    }

    /// The configuration after a change, if the group can go on with it.
    fn check_change(&self, change: Change) -> Result<Configuration, ProposeError> {
        let Role::Leader(leadership) = &self.role else { return Err(ProposeError::NotLeader { leader: self.leader }) };
        let after = self.configuration.after(change)?;
        let voting = |member| leadership.peers.iter().find(|peer| peer.member == member && peer.votes);
        match change {
            Change::Remove(member) if member == self.id => return Err(ChangeError::Leads(member).into()),
            Change::Promote(member) => {
                let learner = voting(member);
                let missing = self.commit.since(learner.map_or(Slot::ZERO, |learner| learner.applied));
                if learner.is_none() || missing > self.settings.max_promotion_lag {
                    return Err(ChangeError::Behind { member, missing }.into());
                }
            }
            Change::AddLearner(_) | Change::Remove(_) => {}
        }
        let who = |is: &dyn Fn(&Peer) -> bool| -> MemberSet {
            let peers = leadership.peers.iter().filter(|peer| is(peer)).map(|peer| peer.member);
            peers.chain([self.id]).collect()
        };
        let knows = who(&|peer| peer.applied >= self.configured_at);
        if !self.configuration.is_quorum(knows) || !self.durability.covers(self.basis_ticket) {
            return Err(ProposeError::Busy);
        }
        let lately = self.now.saturating_sub(self.settings.lease);
        let alive = who(&|peer| peer.votes && peer.answered >= Some(lately));
        if !after.is_quorum(alive) {
            let (alive, voters) = (alive.intersection(after.voters).len(), after.voters.len());
            return Err(ChangeError::TooFewAlive { alive, voters }.into());
        }
        Ok(after)
    }

    fn propose_command(&mut self, command: Command<E>) -> Result<Slot, ProposeError> {
        let leader = self.leader;
        let Role::Leader(leadership) = &mut self.role else { return Err(ProposeError::NotLeader { leader }) };
        let Settings { max_in_flight_entries, max_in_flight_bytes, max_log_entries, .. } = self.settings;
        let is_waiting = !leadership.waiting.is_empty() || leadership.change.is_some() || leadership.heir.is_some();
        let in_flight = leadership.last.since(self.commit);
        let is_full = in_flight >= max_in_flight_entries.min(max_log_entries)
            || in_flight > 0 && leadership.bytes + command.size_bytes() > max_in_flight_bytes;
        if is_waiting || is_full {
            return Err(ProposeError::Busy);
        }
        Ok(self.append(command))
    }

    /// Accepts a command as the next.
    fn append(&mut self, command: Command<E>) -> Slot {
        let Role::Leader(leadership) = &mut self.role else { return Slot::ZERO };
        let slot = leadership.last.next();
        leadership.last = slot;
        leadership.bytes += command.size_bytes();
        if matches!(command, Command::Reconfigure(_)) {
            leadership.change = Some(slot);
        }
        self.log.put(slot, leadership.ballot, command);
        slot
    }

    /// Whether the pages may be read here and now: all that any leader has had decided before this call is in them.
    ///
    /// # Errors
    /// When they may not, and why.
    pub fn check_read(&self, now: Duration) -> Result<(), ReadError> {
        let now = self.now.max(now);
        let Role::Leader(leadership) = &self.role else { return Err(ReadError::NotLeader { leader: self.leader }) };
        let is_barred = self.commit < leadership.barrier && !self.is_flawed(Flaw::ReadsEarly);
        if !leadership.lease_is_good(now) && !self.is_alone() {
            Err(ReadError::NoLease)
        } else if is_barred || self.delivered < self.commit {
            Err(ReadError::NotApplied)
        } else {
            Ok(())
        }
    }

    /// Phase 1 is over: all that may have been decided is proposed again, slots without anything are filled, and an entry of
    /// this ballot follows (Lamport, "Paxos Made Simple", section 3).
    pub(crate) fn lead(&mut self, ballot: Ballot, mut found: BTreeMap<Slot, (Ballot, Command<E>)>) {
        let decided = self.commit;
        let end = found.keys().next_back().copied().unwrap_or(decided).max(decided);
        let mut waiting = VecDeque::new();
        for slot in decided.next().0..=end.0 {
            let command = found.remove(&Slot(slot)).map_or(Command::Noop, |(_, command)| command);
            if self.is_flawed(Flaw::KeepsOldBallots) {
                self.log.put(Slot(slot), Ballot::ZERO, command.clone());
                self.decide(command);
            } else {
                waiting.push_back(command);
            }
        }
        let decided = self.commit;
        waiting.push_back(Command::Noop);
        self.transfer = None;
        self.leader = Some(self.id);
        self.role = Role::Leader(Leadership {
            ballot,
            last: decided,
            flushed: decided,
            barrier: end.next(),
            waiting,
            change: None,
            bytes: 0,
            peers: Vec::new(),
            next_beat: self.now,
            lease_until: Duration::ZERO,
            patience_until: self.now + self.settings.lease,
            heir: None,
        });
        self.effects.push_back(Effect::BecameLeader { ballot });
        self.meet_members();
        self.propose_waiting();
        self.flush();
        self.beat();
    }

    /// Peers are the members other than this replica.
    fn meet_members(&mut self) {
        let Role::Leader(leadership) = &mut self.role else { return };
        let others = self.configuration.members().without(self.id);
        leadership.peers.retain(|peer| others.contains(peer.member));
        for member in others.iter() {
            if leadership.peers.iter().all(|peer| peer.member != member) {
                let mut peer = Peer::new(member, self.commit);
                peer.sent = leadership.flushed;
                peer.resend_at = self.now + self.settings.resend;
                leadership.peers.push(peer);
            }
        }
    }

    /// Proposes what has to come first, up to a change of members.
    fn propose_waiting(&mut self) {
        while let Role::Leader(leadership) = &mut self.role
            && leadership.change.is_none()
            && let Some(command) = leadership.waiting.pop_front()
        {
            self.append(command);
        }
        self.trim_settled();
    }

    /// Sends what was proposed since the last time.
    pub(crate) fn flush(&mut self) {
        while let Role::Leader(leadership) = &self.role
            && leadership.flushed < leadership.last
        {
            let (ballot, first) = (leadership.ballot, leadership.flushed.next());
            let batch = self.batch(first, leadership.last);
            let last = first.plus(batch.len() as u64).before();
            if last < first {
                return;
            }
            let Role::Leader(leadership) = &mut self.role else { return };
            leadership.flushed = last;
            // Those who have got everything so far get it at once; the others in their turn.
            let mut receivers = MemberSet::EMPTY;
            for peer in &mut leadership.peers {
                let lag = peer.sent.since(peer.through);
                if peer.sent == first.before() && lag < self.settings.max_in_flight_entries {
                    if peer.sent == peer.through {
                        peer.resend_at = self.now + self.settings.resend;
                    }
                    peer.sent = last;
                    receivers.insert(peer.member);
                }
            }
            let is_to_all = receivers.len() == leadership.peers.len();
            if is_to_all {
                leadership.next_beat = self.now + self.settings.heartbeat;
            }
            self.send_accept(receivers, first, batch.clone());
            if self.settings.has_disk {
                self.persist(Record::Accept { ballot, first, batch });
                self.durability.hold(Held::Own { ballot, first, last });
            } else {
                self.count_own(ballot, first, last);
            }
        }
    }

    fn send_accept(&mut self, to: MemberSet, first: Slot, batch: Batch<E>) {
        let Role::Leader(leadership) = &self.role else { return };
        let body = Body::Accept(Accept {
            ballot: leadership.ballot,
            first,
            batch,
            commit: self.commit,
            settled: leadership.settled(self.commit),
            log_start: self.log.start(),
            sent_at: self.now,
            lease: self.settings.lease,
        });
        self.send_all(to, body);
    }

    /// A sign of life to all.
    fn beat(&mut self) {
        let Role::Leader(leadership) = &mut self.role else { return };
        leadership.next_beat = self.now + self.settings.heartbeat;
        let peers = leadership.peers.iter().map(|peer| peer.member).collect();
        let first = leadership.flushed.next();
        self.send_accept(peers, first, Batch::Empty);
    }

    /// Sends to a peer what it lacks and was not sent, as far as the log has it.
    fn feed(&mut self, index: usize) {
        while let Role::Leader(leadership) = &self.role
            && let Some(peer) = leadership.peers.get(index)
            && peer.sent < leadership.flushed
            && peer.sent >= self.log.start().before()
            && peer.sent.since(peer.through) < self.settings.max_in_flight_entries
        {
            let (member, first) = (peer.member, peer.sent.next());
            let batch = self.batch(first, leadership.flushed);
            if batch.is_empty() {
                return;
            }
            if let Role::Leader(leadership) = &mut self.role {
                let peer = &mut leadership.peers[index];
                if peer.sent == peer.through {
                    peer.resend_at = self.now + self.settings.resend;
                }
                peer.sent = first.plus(batch.len() as u64).before();
            }
            self.send_accept(MemberSet::only(member), first, batch);
        }
    }

    pub(crate) fn tend_leadership(&mut self) {
        let is_alone = self.is_alone();
        let Role::Leader(leadership) = &mut self.role else { return };
        // Nobody may hear it, or it hears nobody: others can try, and clients go to them (Ongaro, section 6.2).
        if self.now >= leadership.patience_until && !is_alone {
            return self.step_down();
        }
        if leadership.heir.is_some_and(|(_, until)| self.now >= until) {
            leadership.heir = None;
        }
        let is_due = self.now >= leadership.next_beat;
        for index in 0..leadership.peers.len() {
            self.resend(index);
        }
        if is_due {
            self.beat();
        }
    }

    /// Begins again after the last slot that a peer has, if it has been silent about what it was sent. One that is silent
    /// altogether only gets signs of life until it answers one.
    fn resend(&mut self, index: usize) {
        let Role::Leader(leadership) = &mut self.role else { return };
        let peer = &mut leadership.peers[index];
        if peer.sent == peer.through || self.now < peer.resend_at {
            return;
        }
        peer.sent = peer.through;
        let silent_since = peer.answered.unwrap_or_default();
        if silent_since + self.settings.resend + self.settings.heartbeat * 2 > self.now {
            self.feed(index);
        }
    }

    /// Whether there is no other voter.
    fn is_alone(&self) -> bool {
        self.configuration.voters == MemberSet::only(self.id)
    }

    /// The leader has itself accepted, durably.
    pub(crate) fn count_own(&mut self, ballot: Ballot, first: Slot, last: Slot) {
        if matches!(&self.role, Role::Leader(leadership) if leadership.ballot == ballot) {
            self.count(self.id, first, last);
            self.decide_accepted();
        }
    }

    /// A member accepted these slots.
    fn count(&mut self, member: MemberId, first: Slot, last: Slot) {
        let counts_duplicates = self.is_flawed(Flaw::CountsDuplicates);
        for slot in first.max(self.commit.next()).0..=last.0 {
            let Some(item) = self.log.get_mut(Slot(slot)) else { break };
            if !item.acks.insert(member) && counts_duplicates {
                // Counts it as whoever has not answered yet.
                let absent = (0..16)
                    .filter_map(MemberId::new)
                    .find(|other| !item.acks.contains(*other) && self.configuration.voters.contains(*other));
                absent.map(|other| item.acks.insert(other));
            }
        }
    }

    pub(crate) fn on_accepted(&mut self, from: MemberId, accepted: Accepted) {
        let Role::Leader(leadership) = &mut self.role else { return };
        let Some(index) = leadership.peers.iter().position(|peer| peer.member == from) else { return };
        if accepted.ballot != leadership.ballot {
            return;
        }
        let flushed = leadership.flushed;
        let peer = &mut leadership.peers[index];
        // A member that restarted may have less than it said before; messages may overtake each other.
        let is_latest = peer.answered.is_none_or(|answered| accepted.sent_at > answered);
        let through = accepted.through.min(flushed);
        if through > peer.through {
            peer.resend_at = self.now + self.settings.resend;
        }
        if peer.answered.is_none() && through < peer.through {
            // A new leader supposes that others have what it has.
            peer.sent = through;
        }
        peer.through = if is_latest { through } else { peer.through.max(through) };
        peer.sent = peer.sent.max(peer.through);
        peer.applied = peer.applied.max(accepted.applied);
        peer.answered = peer.answered.max(Some(accepted.sent_at));
        peer.votes = if is_latest { accepted.votes } else { peer.votes };
        if accepted.votes {
            let counted = peer.counted;
            peer.counted = counted.max(through);
            self.count(from, counted.next(), through);
            self.count(from, accepted.first.max(through.next()), accepted.last.min(flushed));
        }
        if accepted.votes && accepted.grants_lease {
            self.renew_lease(from, accepted.sent_at);
        }
        self.decide_accepted();
        self.feed(index);
        self.hand_over_if_ready();
    }

    fn renew_lease(&mut self, from: MemberId, sent_at: Duration) {
        let at = if self.is_flawed(Flaw::LeaseFromAnswer) { self.now } else { sent_at };
        let mut settings = self.settings;
        if self.is_flawed(Flaw::IgnoresDrift) {
            // So that what is usable of it is all of it.
            settings.lease = settings.lease * 1010 / 990;
        }
        let Role::Leader(leadership) = &mut self.role else { return };
        if let Some(peer) = leadership.peers.iter_mut().find(|peer| peer.member == from) {
            peer.granted = peer.granted.max(Some(at));
        }
        leadership.renew_lease(&self.configuration, self.id, self.now, &settings);
    }

    fn trim_settled(&mut self) {
        let Role::Leader(leadership) = &self.role else { return };
        let settled = leadership.settled(self.commit);
        self.trim(settled);
    }

    /// Decides slots in order, each when a quorum of the configuration in force for it has accepted it in this ballot.
    fn decide_accepted(&mut self) {
        let counts_learners = self.is_flawed(Flaw::CountsLearners);
        loop {
            let Role::Leader(leadership) = &mut self.role else { return };
            let slot = self.commit.next();
            let item = match self.log.get(slot) {
                Some(item) if slot <= leadership.flushed => item,
                _ => break,
            };
            let is_decided = self.configuration.is_quorum(item.acks)
                || counts_learners && item.acks.len() >= self.configuration.quorum();
            if !is_decided {
                break;
            }
            let command = item.command.clone();
            leadership.bytes -= command.size_bytes().min(leadership.bytes);
            let is_change = leadership.change == Some(slot);
            if is_change {
                leadership.change = None;
            }
            self.decide(command);
            if is_change {
                self.after_change();
            }
        }
        self.trim_settled();
    }

    /// A change of members is decided.
    fn after_change(&mut self) {
        self.meet_members();
        if !self.is_voter() {
            // A former leader wanted it so. The others are to know that it is decided.
            self.beat();
            return self.step_down();
        }
        self.propose_waiting();
        self.beat();
        self.flush();
    }

    /// Gives the leadership up: to that voter, or to the one that has most. The replica proposes nothing from here on, and
    /// tells the heir as soon as that has everything; if it does not come to that in the time of a lease, this
    /// replica goes on leading. Nothing happens if it does not lead.
    pub fn hand_over(&mut self, now: Duration, to: Option<MemberId>) {
        self.now = self.now.max(now);
        let voters = self.configuration.voters;
        let until = self.now + self.settings.lease;
        let Role::Leader(leadership) = &mut self.role else { return };
        let heirs = leadership.peers.iter().filter(|peer| voters.contains(peer.member) && peer.votes);
        let heir =
            heirs.filter(|peer| to.is_none_or(|to| peer.member == to)).max_by_key(|peer| (peer.granted, peer.through));
        leadership.heir = heir.map(|peer| (peer.member, until));
        self.hand_over_if_ready();
    }

    fn hand_over_if_ready(&mut self) {
        let Role::Leader(leadership) = &self.role else { return };
        let Some((heir, _)) = leadership.heir else { return };
        let has_all = leadership.peers.iter().any(|peer| peer.member == heir && peer.through == leadership.last);
        if !has_all || self.commit < leadership.last {
            return;
        }
        // From here on there is no lease: it must not be used any more before anybody can hear of it.
        let ballot = leadership.ballot;
        if self.is_flawed(Flaw::KeepsLease) {
            return self.send(heir, Body::HandOver { ballot });
        }
        self.step_down();
        self.send(heir, Body::HandOver { ballot });
    }
}
