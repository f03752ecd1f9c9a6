//! How a replica without memory gets it back. It may have promised, accepted and granted leases in a former life, and must not
//! act against what it has forgotten.
//!
//! It asks all voters. So many have to answer that each quorum that it ever was part of has one of them, and the leader of the
//! greatest ballot that any of them has promised has to be among them: what the replica accepted, that leader has. When the
//! replica has all of it, it is as good as before (Liskov and Cowling, "Viewstamped Replication Revisited", section 4.3).
//!
//! That alone is wrong: a promise that it gave before it lost its memory, and that is still on its way, would count. So it
//! first draws a new life, greater than any that it had, and whoever answers it remembers that; promises carry the
//! lives that their makers know, and those of former lives are void (Michael, Ports, Sharma and Szekeres, DISC 2017).

use std::time::Duration;

use crate::{
    ballot::{Ballot, Life, Slot},
    command::Entry,
    effect::Record,
    flaws::Flaw,
    members::{Configuration, MemberId},
    message::{Body, Memory, Recover, Recovered},
    replica::{Replica, Role},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Recovery {
    /// Of the present question.
    nonce: u64,
    /// The new life; nothing while the former one is asked for.
    life: Option<Life>,
    /// The latest of each member.
    answers: Vec<(MemberId, Recovered)>,
    /// From whom everything is being copied.
    copying: Option<Copying>,
    pub retry_at: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Copying {
    /// Of the leader.
    ballot: Ballot,
    /// The last slot that the leader had when it was asked.
    through: Slot,
    /// The last slot of which anybody said that it is decided.
    commit: Slot,
}

impl Recovery {
    /// Answers of members that remember.
    fn whole(&self) -> impl Iterator<Item = &(MemberId, Recovered)> {
        self.answers.iter().filter(|(_, answer)| matches!(answer.memory, Memory::Whole | Memory::Untouched))
    }

    /// Answers of those of them that have a vote. What former voters have promised since is of no interest.
    fn voters(&self, start: Configuration) -> impl Iterator<Item = &(MemberId, Recovered)> {
        let configuration = self.configuration(start);
        self.whole().filter(move |(member, _)| configuration.voters.contains(*member))
    }

    /// The latest configuration that those know.
    fn configuration(&self, start: Configuration) -> Configuration {
        let latest = self.whole().max_by_key(|(_, answer)| answer.commit);
        latest.map_or(start, |(_, answer)| answer.configuration)
    }

    /// Whether enough have answered.
    fn has_quorum(&self, id: MemberId, start: Configuration) -> bool {
        self.voters(start).count() >= self.configuration(start).recovery_quorum(id)
    }

    /// Whether nobody has ever promised anything, so that there was nothing to forget.
    fn is_group_new(&self, id: MemberId, start: Configuration) -> bool {
        let is_new = |answer: &Recovered| {
            matches!(answer.memory, Memory::Lost | Memory::Untouched) && answer.configuration == start
        };
        let mut others = start.voters.without(id).iter();
        others.all(|other| self.answers.iter().any(|(member, answer)| *member == other && is_new(answer)))
    }
}

impl<E: Entry> Replica<E> {
    pub(crate) fn begin_recovery(&mut self) {
        let voters = self.configuration.voters;
        if voters.contains(self.id) && voters.len() == 1 && !self.had_memory {
            return self.begin_group();
        }
        self.ask_again(None);
    }

    /// Asks anew; answers to former questions do not count.
    fn ask_again(&mut self, life: Option<Life>) {
        let nonce = self.rng.next();
        let retry_at = self.now + self.settings.resend;
        self.role = Role::Blank(Recovery { nonce, life, answers: Vec::new(), copying: None, retry_at });
        self.ask_members();
    }

    fn ask_members(&mut self) {
        let Role::Blank(recovery) = &self.role else { return };
        let (nonce, life) = (recovery.nonce, recovery.life);
        let known = recovery.configuration(self.configuration).voters.union(self.configuration.voters);
        let configuration = self.configuration;
        self.send_all(known, Body::Recover(Recover { nonce, life, configuration }));
    }

    pub(crate) fn tend_recovery(&mut self) {
        let Role::Blank(recovery) = &mut self.role else { return };
        if self.now < recovery.retry_at {
            return;
        }
        recovery.retry_at = self.now + self.settings.resend;
        match (recovery.copying, recovery.life) {
            // The leader has been silent.
            (Some(_), life) => self.ask_again(life),
            (None, _) => self.ask_members(),
        }
    }

    /// Whether this is the leader whose entries are being copied. If there is a later one, it is asked.
    pub(crate) fn is_copying_from(&mut self, ballot: Ballot) -> bool {
        let silence = self.settings.max_election_timeout;
        let Role::Blank(recovery) = &mut self.role else { return false };
        let (Some(copying), life) = (recovery.copying, recovery.life) else { return false };
        if copying.ballot == ballot {
            recovery.retry_at = self.now + silence;
            return true;
        }
        if ballot > copying.ballot {
            self.ask_again(life);
        }
        false
    }

    /// Answers a member that has lost its memory, after noting that whatever it said before is void.
    pub(crate) fn on_recover(&mut self, from: MemberId, recover: Recover) {
        if let Some(life) = recover.life
            && self.lives.learn(from, life)
        {
            self.forget_former_life(from);
            self.persist(Record::Life { member: from, life });
        }
        let has_nothing = self.promised == Ballot::ZERO && self.commit == Slot::ZERO && self.log.len() == 0;
        let is_untouched = has_nothing && !self.had_memory;
        let memory = match &self.role {
            Role::Blank(recovery) if recovery.copying.is_some() => Memory::Returning,
            Role::Blank(_) if is_untouched => Memory::Lost,
            Role::Blank(_) => Memory::Returning,
            _ if is_untouched => Memory::Untouched,
            _ => Memory::Whole,
        };
        let leads_through = if let Role::Leader(leadership) = &self.role { Some(leadership.last()) } else { None };
        let answer = Recovered {
            nonce: recover.nonce,
            lives: self.lives,
            promised: self.promised,
            leads_through,
            commit: self.commit,
            configuration: self.configuration,
            memory,
        };
        self.send_durably(from, Body::Recovered(answer));
    }

    pub(crate) fn on_recovered(&mut self, from: MemberId, answer: Recovered) {
        let (id, start) = (self.id, self.configuration);
        let Role::Blank(recovery) = &mut self.role else { return };
        if answer.nonce != recovery.nonce || recovery.copying.is_some() {
            return;
        }
        recovery.answers.retain(|(member, _)| *member != from);
        recovery.answers.push((from, answer));
        let is_group_new = !self.had_memory && recovery.is_group_new(id, start);
        let has_quorum = recovery.has_quorum(id, start);
        match recovery.life {
            None if is_group_new || has_quorum => {
                let former = recovery.answers.iter().map(|(_, answer)| answer.lives.of(id)).max().unwrap_or_default();
                self.ask_again(Some(Life(former.0 + 1)));
            }
            Some(life) if is_group_new && start.voters.contains(id) => {
                self.take_lives(life);
                self.begin_group();
            }
            Some(life) if has_quorum => self.copy_from_leader(life),
            _ => {}
        }
    }

    fn take_lives(&mut self, life: Life) {
        let Role::Blank(recovery) = &self.role else { return };
        for (_, answer) in &recovery.answers {
            for (index, life) in answer.lives.as_array().iter().enumerate() {
                if let Some(member) = MemberId::new(index as u8) {
                    self.lives.learn(member, *life);
                }
            }
        }
        self.lives.learn(self.id, life);
    }

    /// Copies from the leader of the greatest ballot, if that has answered.
    fn copy_from_leader(&mut self, life: Life) {
        let returns_early = self.is_flawed(Flaw::ReturnsEarly);
        let start = self.configuration;
        let Role::Blank(recovery) = &mut self.role else { return };
        let greatest = recovery.voters(start).map(|(_, answer)| answer.promised).max().unwrap_or_default();
        let leader =
            recovery.voters(start).find(|(member, answer)| *member == greatest.member && answer.promised == greatest);
        let Some((leader, Some(through))) = leader.map(|(member, answer)| (*member, answer.leads_through)) else {
            return;
        };
        let commit = recovery.whole().map(|(_, answer)| answer.commit).max().unwrap_or_default();
        recovery.copying = Some(match returns_early {
            true => Copying { ballot: greatest, through: Slot::ZERO, commit: Slot::ZERO },
            false => Copying { ballot: greatest, through, commit },
        });
        recovery.retry_at = self.now + self.settings.max_election_timeout;
        self.take_lives(life);
        self.promised = greatest;
        self.seen_round = greatest.round;
        self.leader = Some(leader);
        (self.through, self.durable_through) = (self.commit, self.commit);
        self.extend_through();
        self.return_if_recovered();
    }

    /// A replica that has what it may have had is as good as before.
    pub(crate) fn return_if_recovered(&mut self) {
        let Role::Blank(recovery) = &self.role else { return };
        let Some(copying) = recovery.copying else { return };
        if self.through >= copying.through && self.commit >= copying.commit {
            let leader = self.leader;
            let wait = self.settings.max_election_timeout;
            self.follow_nobody(wait);
            self.leader = leader;
            self.was_member = self.configuration.members().contains(self.id);
            self.write_returned();
        }
    }
}
