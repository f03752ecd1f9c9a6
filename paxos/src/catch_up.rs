//! Transfer of state to a replica that lacks entries which no log has any more. The state is pages, each with the slot that
//! wrote it last; so only pages written after what the receiver has applied need to travel. New entries go on
//! meanwhile: pages that are sent late may be newer than the state that was promised, and the entries that wrote them are
//! applied again, without effect. A transfer that breaks off is gone on with, by the same or another provider.

use std::time::Duration;

use crate::{
    ballot::Slot,
    command::Entry,
    effect::{Effect, Record},
    members::{Configuration, MemberId},
    message::{Body, StateOffer, StateRequest},
    replica::{Replica, Role},
};

/// A transfer that cannot be gone on with is begun anew.
const MAX_FAILURES: u32 = 3;

/// A transfer to this replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Transfer {
    provider: MemberId,
    since: Slot,
    /// With the configuration in force after it, once there is an offer.
    through: Option<(Slot, Configuration)>,
    cursor: u64,
    /// Times in a row that it was asked for in vain.
    failures: u32,
    /// When it is begun again elsewhere.
    pub deadline: Duration,
}

impl<E: Entry> Replica<E> {
    /// The provider's log begins after what this replica has.
    pub(crate) fn need_state(&mut self, provider: MemberId) {
        if self.transfer.is_none() {
            let deadline = self.now + self.settings.transfer_timeout;
            let since = self.commit;
            self.transfer = Some(Transfer { provider, since, through: None, cursor: 0, failures: 0, deadline });
            self.ask_for_state();
        }
    }

    fn ask_for_state(&mut self) {
        let Some(Transfer { provider, since, through, cursor, .. }) = self.transfer else { return };
        let through = through.map_or(Slot::ZERO, |(through, _)| through);
        self.send(provider, Body::StateRequest(StateRequest { since, through, cursor }));
    }

    pub(crate) fn tend_transfer(&mut self) {
        let others = self.configuration.members().without(self.id);
        let leader = self.leader;
        let Some(transfer) = &mut self.transfer else { return };
        if self.now < transfer.deadline {
            return;
        }
        if transfer.through.is_some_and(|(through, _)| through <= self.commit) {
            self.transfer = None;
            return;
        }
        transfer.deadline = self.now + self.settings.transfer_timeout;
        let following = others.iter().find(|other| *other > transfer.provider).or_else(|| others.iter().next());
        let next = leader.filter(|leader| *leader != transfer.provider).or(following);
        transfer.provider = next.unwrap_or(transfer.provider);
        transfer.failures += 1;
        if transfer.through.is_none() && transfer.failures > MAX_FAILURES {
            // Nobody has anything to give: the log was faster. Whoever lacks something still is told so again.
            self.transfer = None;
            return;
        }
        if transfer.through.is_none() || transfer.failures > MAX_FAILURES {
            // Nobody who answers may have come so far. What was installed remains.
            (transfer.since, transfer.through, transfer.cursor) = (self.commit, None, 0);
        }
        self.ask_for_state();
    }

    pub(crate) fn on_state_request(&mut self, from: MemberId, request: StateRequest) {
        let StateRequest { since, through, cursor } = request;
        if self.commit < since.max(through) || self.commit == since {
            return;
        }
        let through = if through == Slot::ZERO { self.commit } else { through };
        let configuration = self.configuration;
        self.send(from, Body::StateOffer(StateOffer { since, through, cursor, configuration }));
        self.effects.push_back(Effect::ProvideState { to: from, since, through, cursor });
    }

    pub(crate) fn on_state_offer(&mut self, from: MemberId, offer: StateOffer) {
        let StateOffer { since, through, cursor, configuration } = offer;
        let Some(transfer) = &mut self.transfer else { return };
        let is_asked_for = (transfer.provider, transfer.since, transfer.cursor) == (from, since, cursor);
        if !is_asked_for || transfer.through.is_some_and(|(known, _)| known != through) {
            return;
        }
        transfer.through.get_or_insert((through, configuration));
        transfer.failures = 0;
        transfer.deadline = self.now + self.settings.transfer_timeout;
        self.effects.push_back(Effect::InstallState { from, since, through, cursor });
    }

    /// Pages of a transfer were installed, up to this cursor; with a disk, durably.
    pub fn state_progress(&mut self, now: Duration, from: MemberId, through: Slot, cursor: u64) {
        self.now = self.now.max(now);
        if let Some(transfer) = &mut self.transfer
            && transfer.provider == from
            && transfer.through.is_some_and(|(known, _)| known == through)
        {
            transfer.cursor = cursor;
            transfer.failures = 0;
            transfer.deadline = self.now + self.settings.transfer_timeout;
        }
    }

    /// All pages of a transfer were installed; with a disk, durably.
    pub fn state_installed(&mut self, now: Duration, from: MemberId, through: Slot) {
        self.now = self.now.max(now);
        let Some(transfer) = &self.transfer else { return };
        let Some((offered, configuration)) = transfer.through else { return };
        if (transfer.provider, offered) != (from, through) {
            return;
        }
        self.transfer = None;
        if through <= self.commit {
            return;
        }
        if matches!(self.role, Role::Candidate(_)) {
            // It asked for slots that it has by now.
            let wait = self.settings.heartbeat;
            self.follow_nobody(wait);
        }
        (self.commit, self.delivered) = (through, through);
        self.configure(configuration, through);
        self.log.truncate_through(through);
        self.extend_through();
        self.persist(Record::Installed { through, configuration });
        self.return_if_recovered();
    }
}
