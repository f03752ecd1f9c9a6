//! What joining a grid needs of the way to its slaves, whether their pages are replicated or not.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use rum_net::{
    fabric::{Fabric, PeerIndex},
    wire::hello::Verdict,
};

use crate::pager::remote::{Remote, RemoteEvent, SlaveIndex, Tag};

/// An idle session is kept alive this often, or more often where leases are short.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A lease is renewed so often before it could end.
const RENEWALS: u32 = 4;

/// When sessions are kept alive.
pub struct KeepAlive {
    last: Instant,
    period: Duration,
}

impl KeepAlive {
    /// As often as is usual.
    pub fn new() -> Self {
        Self { last: Instant::now(), period: KEEP_ALIVE }
    }

    /// Keeps sessions alive often enough for a lease.
    pub fn renew_within(&mut self, lease: Duration) {
        self.period = self.period.min(lease / RENEWALS);
    }

    /// How often `tend` has to be called at least.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Keeps all sessions alive if it is time.
    pub fn tend(&mut self, fabric: &mut Fabric) {
        if self.last.elapsed() >= self.period {
            self.last = Instant::now();
            for index in 0..fabric.peers() {
                fabric.session_mut(PeerIndex(index)).keep_alive(self.last);
            }
        }
    }
}

/// See the module's documentation.
pub trait Reach: Remote {
    /// The sessions.
    fn fabric(&self) -> &Fabric;

    /// When they are kept alive.
    fn keep_alive(&mut self) -> &mut KeepAlive;

    /// Why a slave does not open a session.
    fn refusal(&self, slave: SlaveIndex) -> Option<Verdict> {
        self.fabric().session(PeerIndex(slave as usize)).refusal()
    }

    /// The IP address of a slave that is asked for and that nobody has said to be his.
    fn sought_address(&self, slave: SlaveIndex) -> Option<Ipv4Addr> {
        self.fabric().sought_address(PeerIndex(slave as usize))
    }

    /// Sends a message and waits for the answer while nothing else is in flight.
    fn call_alone(&mut self, slave: SlaveIndex, message: &[u8], longest: Duration) -> Option<Vec<u8>> {
        let (mut answer, mut done, deadline) = (vec![], None, Instant::now() + longest);
        if !self.start_call(Tag(0), slave, message) {
            return None;
        }
        while done.is_none() && Instant::now() < deadline {
            self.poll(&mut |_, event| match event {
                RemoteEvent::Bytes { offset, bytes } => {
                    answer.resize(answer.len().max(offset + bytes.len()), 0);
                    answer[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                RemoteEvent::Done { len } => done = Some(Some(len)),
                RemoteEvent::Failed(_) | RemoteEvent::ReadDone { .. } => done = Some(None),
            });
            if done.is_none() {
                self.idle();
            }
        }
        answer.truncate(done??);
        Some(answer)
    }
}
