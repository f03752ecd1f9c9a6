//! Elections: a voter that misses its leader asks whether it could win, and if so, asks for promises.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ballot::{Ballot, Slot},
    command::{Command, Entry},
    effect::Effect,
    flaws::Flaw,
    members::{Configuration, MemberId, MemberSet},
    message::{Body, PreVote, Prepare, Promise, Refusal, Refuse},
    replica::{Replica, Role},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Candidacy<E> {
    pub ballot: Ballot,
    /// Elections in a row that nobody won.
    pub attempts: u32,
    stage: Stage<E>,
    resend_at: Duration,
    give_up_at: Duration,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stage<E> {
    /// Would a quorum promise? If not, nobody is disturbed: a member that only thinks that the leader is gone leaves its
    /// ballot as it is (Ongaro, "Consensus: Bridging Theory and Practice", section 9.6).
    PreVote { granted: MemberSet },
    /// Phase 1, once for all slots that are not decided here (Lamport, "Paxos Made Simple", section 3).
    Prepare(Preparation<E>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Preparation<E> {
    handed_over: Option<Ballot>,
    /// Who promised and told all that it has accepted.
    promised: MemberSet,
    /// The first slot that each of the others has not told of.
    asked: Vec<(MemberId, Slot)>,
    /// For each slot, what was accepted by the greatest ballot.
    found: BTreeMap<Slot, (Ballot, Command<E>)>,
}

impl<E> Preparation<E> {
    fn next_of(&mut self, member: MemberId, first: Slot) -> &mut Slot {
        let index = self.asked.iter().position(|(asked, _)| *asked == member).unwrap_or_else(|| {
            self.asked.push((member, first));
            self.asked.len() - 1
        });
        &mut self.asked[index].1
    }

    /// Changes of members that may be decided. Entries behind them are decided by the new configuration.
    fn configurations(&self) -> impl Iterator<Item = Configuration> {
        self.found.values().filter_map(|(_, command)| match command {
            Command::Reconfigure(configuration) => Some(*configuration),
            Command::Noop | Command::Entry(_) => None,
        })
    }
}

impl<E> Candidacy<E> {
    pub fn next_timeout(&self) -> Duration {
        self.resend_at.min(self.give_up_at)
    }

    /// A member has lost its memory.
    pub fn forget(&mut self, member: MemberId) {
        match &mut self.stage {
            Stage::PreVote { granted } => granted.remove(member),
            Stage::Prepare(preparation) => {
                preparation.promised.remove(member);
                preparation.asked.retain(|(asked, _)| *asked != member);
            }
        }
    }
}

impl<E: Entry> Replica<E> {
    /// The leader is missed.
    pub(crate) fn stand_or_wait(&mut self) {
        if self.abstains {
            let wait = self.settings.lease;
            return self.follow_nobody(wait);
        }
        let ballot = self.next_ballot();
        if !self.is_voter() {
            // It has no vote to ask for, but is told if it is no member any more.
            self.send_all(self.configuration.voters, self.pre_vote(ballot));
            let wait = self.settings.max_election_timeout;
            return self.follow_nobody(wait);
        }
        if let Some(Refusal::Leased) = self.refusal(ballot, self.commit.next(), None) {
            // Its own word binds it, too.
            let wait = self.grant.until().saturating_sub(self.now).max(self.settings.heartbeat);
            return self.follow_nobody(wait);
        }
        self.begin_candidacy(ballot, Stage::PreVote { granted: MemberSet::only(self.id) });
        self.ask();
        self.stand_if_welcome();
    }

    fn pre_vote(&self, ballot: Ballot) -> Body<E> {
        Body::PreVote(PreVote { ballot, commit: self.commit, last: self.log.end() })
    }

    fn next_ballot(&self) -> Ballot {
        let seen = Ballot { round: self.seen_round.max(self.promised.round), ..Ballot::ZERO };
        seen.following(self.id, self.life())
    }

    fn begin_candidacy(&mut self, ballot: Ballot, stage: Stage<E>) {
        let attempts = match &self.role {
            Role::Follower(following) => following.attempts + 1,
            Role::Candidate(candidacy) => candidacy.attempts,
            Role::Blank(_) | Role::Leader(_) => 0,
        };
        let patience = self.settings.lease / 2 * (1 << attempts.min(3)) / 2;
        let give_up_at = self.now + patience + self.rng.within(self.settings.election_spread);
        let resend_at = self.now + self.settings.resend;
        self.leader = None;
        self.role = Role::Candidate(Candidacy { ballot, attempts, stage, resend_at, give_up_at });
    }

    pub(crate) fn tend_candidacy(&mut self) {
        let Role::Candidate(candidacy) = &mut self.role else { return };
        if self.now >= candidacy.give_up_at {
            return self.follow_nobody(Duration::ZERO);
        }
        if self.now >= candidacy.resend_at {
            candidacy.resend_at = self.now + self.settings.resend;
            self.ask();
        }
    }

    /// Asks all that have not answered.
    fn ask(&mut self) {
        let Role::Candidate(candidacy) = &mut self.role else { return };
        let (ballot, first) = (candidacy.ballot, self.commit.next());
        match &mut candidacy.stage {
            Stage::PreVote { granted } => {
                let others = self.configuration.voters.iter().filter(|voter| !granted.contains(*voter)).collect();
                let pre_vote = self.pre_vote(ballot);
                self.send_all(others, pre_vote);
            }
            Stage::Prepare(preparation) => {
                let configured = self.configuration.voters;
                let voters = preparation.configurations().fold(configured, |all, added| all.union(added.voters));
                let handed_over = preparation.handed_over;
                let mut missing = Vec::new();
                for voter in voters.without(self.id).iter() {
                    if !preparation.promised.contains(voter) {
                        missing.push((voter, *preparation.next_of(voter, first)));
                    }
                }
                for (voter, first) in missing {
                    self.send_durably(voter, Body::Prepare(Prepare { ballot, first, handed_over }));
                }
            }
        }
    }

    pub(crate) fn on_pre_voted(&mut self, from: MemberId, ballot: Ballot) {
        if let Role::Candidate(candidacy) = &mut self.role
            && let Stage::PreVote { granted } = &mut candidacy.stage
            && candidacy.ballot == ballot
        {
            granted.insert(from);
            self.stand_if_welcome();
        }
    }

    fn stand_if_welcome(&mut self) {
        if let Role::Candidate(candidacy) = &self.role
            && let Stage::PreVote { granted } = &candidacy.stage
            && self.configuration.is_quorum(*granted)
        {
            let ballot = self.next_ballot();
            self.stand(ballot, None);
        }
    }

    /// The leader wants this replica to lead: it need not ask first, and leases do not bind, since the leader has given
    /// its own up (Ongaro, section 3.10).
    pub(crate) fn on_hand_over(&mut self, from: MemberId, ballot: Ballot) {
        if ballot == self.promised && ballot.member == from && self.is_voter() && !self.abstains {
            let own = self.next_ballot();
            self.stand(own, Some(ballot));
        }
    }

    /// Phase 1a. The candidate is the first to promise.
    fn stand(&mut self, ballot: Ballot, handed_over: Option<Ballot>) {
        let attempts = match &self.role {
            Role::Candidate(candidacy) => candidacy.attempts,
            _ => 0,
        };
        self.promise(ballot);
        let own = (self.commit.next().0..=self.log.end().0).map(Slot);
        let own = own.filter_map(|slot| Some((slot, self.log.get(slot)?)));
        let found = own.map(|(slot, item)| (slot, (item.ballot, item.command.clone()))).collect();
        let promised = MemberSet::only(self.id);
        let preparation = Preparation { handed_over, promised, asked: Vec::new(), found };
        self.begin_candidacy(ballot, Stage::Prepare(preparation));
        if let Role::Candidate(candidacy) = &mut self.role {
            candidacy.attempts = attempts;
        }
        self.ask();
        self.lead_if_elected();
    }

    pub(crate) fn on_promise(&mut self, from: MemberId, promise: Promise<E>) {
        // Whoever made it may know of members that have forgotten theirs.
        for (index, life) in promise.lives.as_array().iter().enumerate() {
            if let Some(member) = MemberId::new(index as u8)
                && member != self.id
                && self.lives.learn(member, *life)
            {
                self.forget_former_life(member);
            }
        }
        let takes_any = self.is_flawed(Flaw::TakesAnyValue);
        let own_first = self.commit.next();
        let Role::Candidate(candidacy) = &mut self.role else { return };
        let Stage::Prepare(preparation) = &mut candidacy.stage else { return };
        let next = preparation.next_of(from, own_first);
        if promise.ballot != candidacy.ballot || promise.first != *next {
            return;
        }
        *next = promise.through.next();
        if promise.through >= promise.end {
            preparation.promised.insert(from);
        }
        let mut has_new_members = false;
        for (slot, ballot, command) in promise.accepted {
            // Lamport, "Paxos Made Simple", condition P2c: the value of the greatest ballot that any of a majority accepted.
            let is_greatest = preparation.found.get(&slot).is_none_or(|(known, _)| *known < ballot);
            if is_greatest || takes_any {
                has_new_members |= matches!(command, Command::Reconfigure(_));
                preparation.found.insert(slot, (ballot, command));
            }
        }
        if promise.through < promise.end || has_new_members {
            candidacy.resend_at = self.now + self.settings.resend;
            self.ask();
        }
        self.lead_if_elected();
    }

    pub(crate) fn on_refuse(&mut self, from: MemberId, refuse: Refuse) {
        let Refuse { ballot, promised, reason } = refuse;
        let is_own = match &self.role {
            Role::Candidate(candidacy) => candidacy.ballot == ballot,
            Role::Leader(leadership) => leadership.ballot == ballot,
            Role::Follower(_) => !self.is_voter() && ballot == self.next_ballot(),
            Role::Blank(_) => false,
        };
        if !is_own {
            return;
        }
        match (reason, &self.role) {
            // If it does not know that it was one, neither may the other have heard that it was added.
            (Refusal::NotAMember, _) if self.was_member => {
                self.step_down();
                self.is_removed = true;
                self.effects.push_back(Effect::Removed);
            }
            (Refusal::Outbid, Role::Candidate(_)) => {
                let wait = self.settings.heartbeat;
                self.follow_nobody(wait);
            }
            (Refusal::Outbid, Role::Leader(_)) => self.step_down(),
            // Whoever says so may be needed for a quorum, and be unable to lead itself: a learner by what it knows.
            (Refusal::Behind, Role::Candidate(_)) => self.need_state(from),
            // Others may still promise.
            _ => {}
        }
        self.seen_round = self.seen_round.max(promised.round);
    }

    /// Leads if a quorum has promised: of the configuration that is in force, and of each that may be.
    pub(crate) fn lead_if_elected(&mut self) {
        let is_durable = self.durability.covers(self.basis_ticket);
        let Role::Candidate(candidacy) = &mut self.role else { return };
        let Stage::Prepare(preparation) = &mut candidacy.stage else { return };
        let promised = preparation.promised;
        let elected =
            self.configuration.is_quorum(promised) && preparation.configurations().all(|may| may.is_quorum(promised));
        if elected && is_durable {
            let found = std::mem::take(&mut preparation.found);
            let ballot = candidacy.ballot;
            self.lead(ballot, found);
        }
    }
}
