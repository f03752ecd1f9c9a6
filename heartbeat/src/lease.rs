//! The leases of clients at the one who grants them (Gray and Cheriton, "Leases", SOSP 1989). All leases are equally long, so
//! that the order in which they were renewed is that in which they run out: a list, to whose end a renewed lease
//! moves. Renewing, expiring and the next deadline cost the same however many clients there are.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

/// So many fenced clients are remembered as such; those before them are unknown again. Neither can renew.
pub const FENCED_REMEMBERED: usize = 65_536;

/// No node: an end of the list.
const NONE: u32 = u32::MAX;

/// Times of leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseSettings {
    /// A client that is not heard for so long is dead.
    pub timeout: Duration,
    /// Clients renew so often. Whoever grants leases and was not running for so long lets clients have as long to be
    /// heard before it judges them.
    pub beat: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), beat: Duration::from_secs(5) }
    }
}

/// What a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseState {
    /// Its lease is good until then, unless it is renewed.
    Alive(Duration),
    /// Its lease has run out, and the group is to decide that.
    Expiring,
    /// The group has decided that it is dead: it must never be believed again.
    Fenced,
    /// Nobody has heard of it, or it has said good-bye, or was fenced long ago.
    Unknown,
}

/// Why a lease is not granted or renewed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeaseError {
    /// The client has to register first.
    #[error("no such client is registered")]
    Unknown,
    /// The client was silent for too long: whether it is dead is being decided. It has to ask again, and to do nothing meanwhile.
    #[error("the client was silent for longer than its lease; whether it is fenced is being decided")]
    Expiring,
    /// The client is dead, whatever it says.
    #[error("the client was silent for longer than its lease and has been fenced")]
    Fenced,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Alive(u32),
    Expiring,
    Fenced,
}

#[derive(Clone, Copy, Debug)]
struct Node<C> {
    client: C,
    until: Duration,
    before: u32,
    after: u32,
}

/// All clients and their leases. `C` names a client in one life: its incarnation.
#[derive(Clone, Debug)]
pub struct LeaseTable<C> {
    settings: LeaseSettings,
    clients: HashMap<C, Entry>,
    nodes: Vec<Node<C>>,
    free: Vec<u32>,
    /// Runs out first.
    first: u32,
    /// Renewed last.
    last: u32,
    alive: usize,
    /// The earliest first.
    fenced: VecDeque<C>,
    called_at: Duration,
    /// Nobody is judged before.
    judges_from: Duration,
}

impl<C: Copy + Eq + Hash> LeaseTable<C> {
    /// A table without clients.
    pub fn new(settings: LeaseSettings, now: Duration) -> Self {
        Self {
            settings,
            clients: HashMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            first: NONE,
            last: NONE,
            alive: 0,
            fenced: VecDeque::new(),
            called_at: now,
            judges_from: now,
        }
    }

    /// Clients whose leases are good.
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// What a client is.
    pub fn state(&self, client: &C) -> LeaseState {
        match self.clients.get(client) {
            Some(Entry::Alive(index)) => LeaseState::Alive(self.nodes[*index as usize].until),
            Some(Entry::Expiring) => LeaseState::Expiring,
            Some(Entry::Fenced) => LeaseState::Fenced,
            None => LeaseState::Unknown,
        }
    }

    /// A client has registered: that has been decided. One that has a lease keeps it, renewed. Returns until when it is good.
    ///
    /// # Errors
    /// When the client is fenced, or about to be.
    pub fn grant(&mut self, now: Duration, client: C) -> Result<Duration, LeaseError> {
        match self.renew(now, &client) {
            Err(LeaseError::Unknown) => {}
            other => return other,
        }
        let until = now + self.settings.timeout;
        let node = Node { client, until, before: NONE, after: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        self.clients.insert(client, Entry::Alive(index));
        self.alive += 1;
        self.link_last(index);
        Ok(until)
    }

    /// A client was heard. Returns until when its lease is good.
    ///
    /// # Errors
    /// When it has no lease to renew. A lease that has run out, but of which nobody was told, is renewed.
    pub fn renew(&mut self, now: Duration, client: &C) -> Result<Duration, LeaseError> {
        self.note(now);
        match self.clients.get(client) {
            Some(Entry::Alive(index)) => {
                let index = *index;
                self.unlink(index);
                let until = &mut self.nodes[index as usize].until;
                // Calls of one thread go forwards in time; so the list stays in order.
                *until = (*until).max(now + self.settings.timeout);
                let until = *until;
                self.link_last(index);
                Ok(until)
            }
            Some(Entry::Expiring) => Err(LeaseError::Expiring),
            Some(Entry::Fenced) => Err(LeaseError::Fenced),
            None => Err(LeaseError::Unknown),
        }
    }

    /// The next client whose lease has run out, the earliest first: to be proposed to the group as dead. Each is named once. Has to be
    /// called after messages that have arrived were handed in.
    pub fn next_expired(&mut self, now: Duration) -> Option<C> {
        self.note(now);
        let node = *self.nodes.get(self.first as usize)?;
        if now < node.until || now < self.judges_from {
            return None;
        }
        self.release(self.first);
        self.clients.insert(node.client, Entry::Expiring);
        Some(node.client)
    }

    /// When `next_expired` is to be called next; nothing if no client is alive.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.nodes.get(self.first as usize).map(|node| node.until.max(self.judges_from))
    }

    /// The group has decided that a client is dead: it is fenced, whatever it was. Every replica does this.
    pub fn fence(&mut self, client: C) {
        if let Some(Entry::Alive(index)) = self.clients.get(&client) {
            self.release(*index);
        }
        if self.clients.insert(client, Entry::Fenced) == Some(Entry::Fenced) {
            return;
        }
        self.fenced.push_back(client);
        if self.fenced.len() > FENCED_REMEMBERED
            && let Some(forgotten) = self.fenced.pop_front()
        {
            self.clients.remove(&forgotten);
        }
    }

    /// What was proposed about a client was not decided, and will not be: its lease begins anew. Nothing happens to others.
    pub fn spare(&mut self, now: Duration, client: C) {
        if self.clients.get(&client) == Some(&Entry::Expiring) {
            self.clients.remove(&client);
            // It is unknown, so nothing stands against it.
            let _ = self.grant(now, client);
        }
    }

    /// A client has said good-bye: that has been decided. What is fenced stays so.
    pub fn remove(&mut self, client: &C) {
        match self.clients.get(client) {
            Some(Entry::Alive(index)) => self.release(*index),
            Some(Entry::Expiring) => {}
            Some(Entry::Fenced) | None => return,
        }
        self.clients.remove(client);
    }

    /// From here on this replica grants leases. It does not know what was renewed last, nor what was proposed: all
    /// leases begin anew, in the order in which they would have run out.
    pub fn take_over(&mut self, now: Duration) {
        self.note(now);
        let until = now + self.settings.timeout;
        let mut index = self.first;
        while let Some(node) = self.nodes.get_mut(index as usize) {
            node.until = node.until.max(until);
            index = node.after;
        }
        let expiring = self.clients.iter().filter(|(_, entry)| **entry == Entry::Expiring);
        for client in expiring.map(|(client, _)| *client).collect::<Vec<C>>() {
            self.spare(now, client);
        }
    }

    /// Whoever was not running cannot know who was silent.
    fn note(&mut self, now: Duration) {
        if now.saturating_sub(self.called_at) > self.settings.beat {
            self.judges_from = now + self.settings.beat;
        }
        self.called_at = self.called_at.max(now);
    }

    fn release(&mut self, index: u32) {
        self.unlink(index);
        self.free.push(index);
        self.alive -= 1;
    }

    fn link_last(&mut self, index: u32) {
        let last = self.last;
        let node = &mut self.nodes[index as usize];
        (node.before, node.after) = (last, NONE);
        match self.nodes.get_mut(last as usize) {
            Some(node) => node.after = index,
            None => self.first = index,
        }
        self.last = index;
    }

    fn unlink(&mut self, index: u32) {
        let Node { before, after, .. } = self.nodes[index as usize];
        match self.nodes.get_mut(before as usize) {
            Some(node) => node.after = after,
            None => self.first = after,
        }
        match self.nodes.get_mut(after as usize) {
            Some(node) => node.before = before,
            None => self.last = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn table() -> LeaseTable<u32> {
        LeaseTable::new(LeaseSettings::default(), Duration::ZERO)
    }

    /// Calls often enough not to be taken for somebody who was not running.
    fn expired(table: &mut LeaseTable<u32>, seconds: std::ops::Range<u32>) -> Vec<(u32, u32)> {
        seconds
            .flat_map(|at| std::iter::from_fn(|| table.next_expired(at * S).map(|who| (at, who))).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn leases_run_out_in_the_order_of_renewal() {
        let mut table = table();
        for client in 1..=3 {
            assert_eq!(table.grant(client * S, client), Ok((client + 10) * S));
        }
        assert_eq!(table.renew(4 * S, &1), Ok(14 * S));
        assert_eq!(table.next_deadline(), Some(12 * S));
        assert_eq!(expired(&mut table, 4..30), [(12, 2), (13, 3), (14, 1)]);
        assert_eq!((table.next_deadline(), table.alive()), (None, 0));
    }

    #[test]
    fn what_is_proposed_is_neither_renewed_nor_forgotten() {
        let mut table = table();
        table.grant(Duration::ZERO, 1).unwrap();
        assert_eq!(expired(&mut table, 0..11), [(10, 1)]);
        assert_eq!(table.renew(11 * S, &1), Err(LeaseError::Expiring));
        assert_eq!(table.grant(11 * S, 1), Err(LeaseError::Expiring));
        table.fence(1);
        assert_eq!(table.renew(11 * S, &1), Err(LeaseError::Fenced));
        assert_eq!(table.grant(11 * S, 1), Err(LeaseError::Fenced));
        table.remove(&1);
        assert_eq!(table.state(&1), LeaseState::Fenced);
    }

    #[test]
    fn what_was_not_decided_is_spared() {
        let mut table = table();
        table.grant(Duration::ZERO, 1).unwrap();
        assert_eq!(expired(&mut table, 0..11), [(10, 1)]);
        table.spare(12 * S, 1);
        assert_eq!(table.state(&1), LeaseState::Alive(22 * S));
        table.spare(13 * S, 2);
        assert_eq!(table.state(&2), LeaseState::Unknown);
    }

    #[test]
    fn a_new_leader_gives_everybody_time() {
        let mut table = table();
        for client in 0..4 {
            table.grant(Duration::ZERO, client).unwrap();
        }
        assert_eq!(table.next_expired(5 * S), None);
        assert_eq!(expired(&mut table, 10..11).len(), 4);
        table.fence(3);
        table.take_over(11 * S);
        assert_eq!(table.alive(), 3);
        assert_eq!(table.next_deadline(), Some(21 * S));
        assert_eq!(table.state(&3), LeaseState::Fenced);
    }

    #[test]
    fn whoever_was_not_running_judges_nobody_at_once() {
        let mut table = table();
        table.grant(Duration::ZERO, 1).unwrap();
        assert_eq!(table.next_expired(100 * S), None);
        assert_eq!(table.next_deadline(), Some(105 * S));
        assert_eq!(table.renew(101 * S, &1), Ok(111 * S));
        assert_eq!(expired(&mut table, 102..112), [(111, 1)]);
    }

    #[test]
    fn fenced_clients_are_remembered_up_to_a_limit() {
        let mut table = table();
        for client in 0..=FENCED_REMEMBERED as u32 {
            table.fence(client);
            table.fence(client);
        }
        assert_eq!(table.state(&0), LeaseState::Unknown);
        assert_eq!(table.state(&1), LeaseState::Fenced);
        assert_eq!(table.renew(S, &0), Err(LeaseError::Unknown));
    }
}
