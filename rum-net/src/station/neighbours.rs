//! The hardware addresses of neighbours, found by ARP (RFC 826) as RFC 1122, section 2.3.2, asks: without I/O and
//! without a clock.
//!
//! Only the answer to a pending request is believed, and only for the address that was asked for: who merely announces
//! itself changes nothing. An address is used until its owner has been silent for a while; then it is asked for again,
//! and used on until the answer says otherwise.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::port::MacAddr;

/// The first repetition of a request comes after this long, each later one after twice the time.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest time between two requests.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A neighbour that has been silent for this long while it was written to is asked for again.
const SILENCE: Duration = Duration::from_secs(3);

/// A request that has no answer yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    next: Instant,
    wait: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    ip: Ipv4Addr,
    mac: Option<MacAddr>,
    /// When something came from it last.
    heard: Option<Instant>,
    pending: Option<Pending>,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// Where packets for it go; `None` while it is not known.
    pub mac: Option<MacAddr>,
    /// Whether to send a request for it now.
    pub ask: bool,
}

/// All neighbours whose hardware addresses are asked for. Only `add` allocates.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// In the order of their addresses.
    entries: Vec<Neighbour>,
}

impl Neighbours {
    /// A neighbour to be found; it may be there already.
    pub fn add(&mut self, ip: Ipv4Addr) {
        if let Err(at) = self.position(ip) {
            self.entries.insert(at, Neighbour { ip, mac: None, heard: None, pending: None });
        }
    }

    fn position(&self, ip: Ipv4Addr) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&ip, |neighbour| neighbour.ip)
    }

    fn get_mut(&mut self, ip: Ipv4Addr) -> Option<&mut Neighbour> {
        let at = self.position(ip).ok()?;
        self.entries.get_mut(at)
    }

    /// Whether a packet for `ip` would have to wait for an answer.
    pub fn is_sought(&self, ip: Ipv4Addr) -> bool {
        self.position(ip).is_ok_and(|at| self.entries[at].mac.is_none())
    }

    /// Where a packet for `ip` goes, and whether to ask for it now.
    pub fn resolve(&mut self, now: Instant, ip: Ipv4Addr) -> Resolution {
        let Some(neighbour) = self.get_mut(ip) else { return Resolution { mac: None, ask: false } };
        let is_doubtful = match (neighbour.mac, neighbour.heard) {
            (Some(_), Some(heard)) => now.saturating_duration_since(heard) >= SILENCE,
            _ => true,
        };
        let ask = is_doubtful && neighbour.pending.is_none_or(|pending| pending.next <= now);
        if ask {
            let wait = neighbour.pending.map_or(FIRST_WAIT, |pending| (pending.wait * 2).min(LONGEST_WAIT));
            neighbour.pending = Some(Pending { next: now + wait, wait });
        }
        Resolution { mac: neighbour.mac, ask }
    }

    /// A packet came from `ip`: it is where it was.
    pub fn heard(&mut self, now: Instant, ip: Ipv4Addr) {
        if let Some(neighbour) = self.get_mut(ip)
            && neighbour.mac.is_some()
        {
            neighbour.heard = Some(now);
            neighbour.pending = None;
        }
    }

    /// A reply says that `ip` is at `mac`. Returns whether it was asked for and is believed.
    pub fn answered(&mut self, now: Instant, ip: Ipv4Addr, mac: MacAddr) -> bool {
        let Some(neighbour) = self.get_mut(ip).filter(|neighbour| neighbour.pending.is_some()) else { return false };
        neighbour.mac = Some(mac);
        neighbour.heard = Some(now);
        neighbour.pending = None;
        true
    }

    /// When a request for a neighbour that is not known is to be repeated.
    pub fn next_request(&self) -> Option<Instant> {
        let sought = self.entries.iter().filter(|neighbour| neighbour.mac.is_none());
        sought.filter_map(|neighbour| Some(neighbour.pending?.next)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OLD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const NEW: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn asked(mac: Option<MacAddr>, ask: bool) -> Resolution {
        Resolution { mac, ask }
    }

    #[test]
    fn requests_are_repeated_ever_less_often_until_they_are_answered() {
        let mut neighbours = Neighbours::default();
        let mut now = Instant::now();
        assert_eq!(neighbours.resolve(now, A), asked(None, false), "nobody added it");
        neighbours.add(B);
        neighbours.add(A);
        neighbours.add(A);
        assert_eq!(neighbours.next_request(), None);
        for wait in [20, 40, 80, 160, 320, 640, 1000, 1000] {
            assert_eq!(neighbours.resolve(now, A), asked(None, true));
            assert_eq!(neighbours.resolve(now, A), asked(None, false));
            now += Duration::from_millis(wait);
            assert_eq!(neighbours.next_request(), Some(now));
            assert_eq!(neighbours.resolve(now - Duration::from_nanos(1), A), asked(None, false));
        }
        assert!(neighbours.is_sought(A));
        assert!(neighbours.answered(now, A, OLD));
        assert!(!neighbours.is_sought(A) && neighbours.is_sought(B));
        assert_eq!(neighbours.next_request(), None);
        assert_eq!(neighbours.resolve(now, A), asked(Some(OLD), false));
    }

    #[test]
    fn answers_that_nobody_asked_for_are_not_believed() {
        let mut neighbours = Neighbours::default();
        let now = Instant::now();
        neighbours.add(A);
        assert!(!neighbours.answered(now, A, OLD), "not asked for yet");
        assert!(!neighbours.answered(now, B, OLD), "nobody wants it");
        assert!(neighbours.resolve(now, A).ask);
        assert!(!neighbours.answered(now, B, NEW), "another than was asked for");
        assert!(neighbours.answered(now, A, OLD));
        assert!(!neighbours.answered(now, A, NEW), "answered before");
        assert_eq!(neighbours.resolve(now, A), asked(Some(OLD), false));
    }

    #[test]
    fn a_silent_neighbour_is_asked_for_again_and_used_meanwhile() {
        let mut neighbours = Neighbours::default();
        let mut now = Instant::now();
        neighbours.add(A);
        neighbours.resolve(now, A);
        neighbours.answered(now, A, OLD);
        now += SILENCE;
        assert_eq!(neighbours.resolve(now - Duration::from_nanos(1), A), asked(Some(OLD), false));
        neighbours.heard(now - Duration::from_millis(1), A);
        assert_eq!(neighbours.resolve(now, A), asked(Some(OLD), false), "it spoke");
        now += SILENCE;
        assert_eq!(neighbours.resolve(now, A), asked(Some(OLD), true));
        assert_eq!(neighbours.resolve(now, A), asked(Some(OLD), false), "once at a time");
        assert_eq!(neighbours.next_request(), None, "nothing waits for the answer");
        assert!(neighbours.answered(now, A, NEW));
        assert_eq!(neighbours.resolve(now, A), asked(Some(NEW), false));
        now += SILENCE;
        assert!(neighbours.resolve(now, A).ask);
        neighbours.heard(now, A);
        assert!(!neighbours.answered(now, A, OLD), "it spoke first: the question is closed");
    }
}
