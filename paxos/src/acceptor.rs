//! What a voter does for others: it promises, accepts, and follows.

use crate::{
    ballot::{Ballot, Slot},
    command::Entry,
    effect::Record,
    flaws::Flaw,
    members::MemberId,
    message::{Accept, Accepted, Body, PreVote, Prepare, Promise, Refusal, Refuse},
    replica::{Following, Replica, Role},
};

impl<E: Entry> Replica<E> {
    pub(crate) fn on_pre_vote(&mut self, from: MemberId, pre_vote: PreVote) {
        let PreVote { ballot, commit, last } = pre_vote;
        // Whoever was removed may stop when all others know that it was: until then it may be needed to tell. It may also have
        // been added again by an entry that has not come here.
        let is_known = self.settled >= self.configured_at && self.commit >= commit.max(last);
        let is_former = !self.configuration.members().contains(from) && is_known;
        let refusal = match is_former {
            true => Some(Refusal::NotAMember),
            false => self.refusal(ballot, commit.next(), None),
        };
        match refusal {
            _ if ballot.member != from => {}
            Some(reason) => self.refuse(from, ballot, reason),
            None => self.send(from, Body::PreVoted { ballot }),
        }
    }

    /// Why a ballot that asks for slots from `first` on is not to be promised, if it is not.
    pub(crate) fn refusal(&self, ballot: Ballot, first: Slot, handed_over: Option<Ballot>) -> Option<Refusal> {
        // A leader whose lease is good has the word of a quorum, its own included.
        let leads = matches!(&self.role, Role::Leader(leadership) if leadership.lease_is_good(self.now));
        let is_bound = leads || !self.grant.allows(ballot, handed_over, self.now);
        if ballot < self.promised {
            Some(Refusal::Outbid)
        } else if is_bound && !self.is_flawed(Flaw::IgnoresLease) {
            Some(Refusal::Leased)
        } else if self.has_forgotten(first) {
            Some(Refusal::Behind)
        } else {
            None
        }
    }

    /// Whether the log does not tell any more what was accepted from this slot on.
    fn has_forgotten(&self, first: Slot) -> bool {
        first < self.log.start() && !self.is_flawed(Flaw::TruncatesEarly)
    }

    fn refuse(&mut self, to: MemberId, ballot: Ballot, reason: Refusal) {
        let promised = self.promised;
        self.send(to, Body::Refuse(Refuse { ballot, promised, reason }));
    }

    pub(crate) fn on_prepare(&mut self, from: MemberId, prepare: Prepare) {
        let Prepare { ballot, first, handed_over } = prepare;
        if ballot.member != from {
            return;
        }
        self.seen_round = self.seen_round.max(ballot.round);
        if ballot == self.promised && self.leader.is_some() {
            // It has been elected since it asked.
            return;
        }
        let refusal = match ballot == self.promised {
            // It asks for the rest, or the answer was lost. It may have become less than it was, at a restart.
            true => self.has_forgotten(first).then_some(Refusal::Behind),
            false => self.refusal(ballot, first, handed_over),
        };
        if let Some(reason) = refusal {
            return self.refuse(from, ballot, reason);
        }
        if ballot > self.promised {
            self.promise(ballot);
        }
        // Whoever has promised waits for the one it promised to.
        let wait = self.settings.lease;
        self.follow_nobody(wait);
        let promise = self.report(ballot, first);
        self.send_durably(from, Body::Promise(promise));
    }

    /// What was accepted from `first` on, as much as fits into a message.
    fn report(&self, ballot: Ballot, first: Slot) -> Promise<E> {
        let (mut accepted, mut bytes, mut through) = (Vec::new(), 0, first.before());
        while through < self.log.end() && (accepted.len() as u64) < self.settings.max_batch_entries {
            let slot = through.next();
            if let Some(item) = self.log.get(slot) {
                bytes += item.command.size_bytes();
                if bytes > self.settings.max_batch_bytes && !accepted.is_empty() {
                    break;
                }
                accepted.push((slot, item.ballot, item.command.clone()));
            }
            through = slot;
        }
        Promise { ballot, first, through, end: self.log.end(), accepted, lives: self.lives }
    }

    pub(crate) fn on_accept(&mut self, from: MemberId, accept: Accept<E>) {
        let ballot = accept.ballot;
        if ballot.member != from {
            return;
        }
        if ballot < self.promised && !self.is_flawed(Flaw::ForgetsPromise) {
            return match self.role {
                Role::Blank(_) => {}
                _ => self.refuse(from, ballot, Refusal::Outbid),
            };
        }
        let votes = !matches!(self.role, Role::Blank(_));
        if votes {
            self.follow(from, ballot, accept.batch.is_empty());
        } else if !self.is_copying_from(ballot) {
            return;
        }
        let grants_lease = votes && accept.lease <= self.settings.lease;
        if grants_lease {
            self.grant.give(ballot, self.now, accept.lease);
        }
        let last = self.store(&accept);
        self.learn_commit(ballot, accept.commit);
        self.trim(if self.is_flawed(Flaw::TruncatesEarly) { self.commit } else { accept.settled });
        self.extend_through();
        if accept.log_start > self.through.next() {
            self.need_state(from);
        }
        self.answer(from, &accept, last, grants_lease, votes);
        self.return_if_recovered();
    }

    /// There is a leader: whatever this replica was, it follows.
    fn follow(&mut self, from: MemberId, ballot: Ballot, is_persisted_here: bool) {
        if ballot > self.promised {
            if is_persisted_here {
                self.promise(ballot);
            } else {
                // The record of the entries says it.
                self.adopt(ballot);
            }
        }
        if self.leader != Some(from) {
            self.step_down();
            self.leader = Some(from);
        }
        self.pace.heard(self.now, &self.settings);
        let timeout = self.pace.timeout(&self.settings) + self.rng.within(self.settings.election_spread);
        self.role = Role::Follower(Following { deadline: self.now + timeout, attempts: 0 });
    }

    /// Accepts the commands of slots that are not decided here. Returns the last slot that is accepted by now.
    fn store(&mut self, accept: &Accept<E>) -> Slot {
        let Accept { ballot, first, batch, .. } = accept;
        let last = first.plus(batch.len() as u64).before();
        if batch.is_empty() || last > self.commit.plus(self.settings.max_log_entries) {
            return first.before();
        }
        let mut is_new = false;
        for (index, command) in batch.as_slice().iter().enumerate() {
            let slot = first.plus(index as u64);
            let is_known = self.log.get(slot).is_some_and(|item| item.ballot == *ballot);
            if slot > self.commit && !is_known {
                self.log.put(slot, *ballot, command.clone());
                is_new = true;
            }
        }
        if is_new || !self.durability.covers(self.basis_ticket) {
            self.basis_ticket = self.persist(Record::Accept { ballot: *ballot, first: *first, batch: batch.clone() });
        }
        last
    }

    /// The leader of this ballot says what is decided. That is what it proposed: a slot that holds what another ballot
    /// proposed is not, until the leader has sent its own.
    fn learn_commit(&mut self, ballot: Ballot, commit: Slot) {
        while self.commit < commit {
            let item = self.log.get(self.commit.next());
            let item = item.filter(|item| item.ballot == ballot || self.is_flawed(Flaw::TrustsOldBallots));
            let Some(item) = item else {
                if self.is_flawed(Flaw::AppliesOutOfOrder) && self.log.end() > self.commit.next() {
                    self.commit = self.commit.next();
                    continue;
                }
                break;
            };
            let command = item.command.clone();
            self.decide(command);
        }
    }

    fn answer(&mut self, to: MemberId, accept: &Accept<E>, last: Slot, grants_lease: bool, votes: bool) {
        let Accept { ballot, first, sent_at, .. } = *accept;
        let is_sign_of_life = last < first && self.durability.covers(self.basis_ticket);
        let through = if is_sign_of_life { self.durable_through.max(self.commit) } else { self.through };
        let applied = self.commit;
        let body = Body::Accepted(Accepted { ballot, first, last, through, applied, sent_at, grants_lease, votes });
        if is_sign_of_life {
            // Says nothing that could be forgotten, so it need not wait for entries that are being written.
            self.send(to, body);
        } else {
            if !self.durability.is_behind() {
                self.durable_through = self.through;
            }
            self.send_durably(to, body);
        }
    }
}
