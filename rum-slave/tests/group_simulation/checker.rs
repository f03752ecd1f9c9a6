//! What clients saw, and whether that could be.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rum_net::wire::message::ExtentRef;

/// What a page holds: 0 is zeros, all other values are written once.
pub type Value = u64;

/// All operations with one value of one page.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    written_from: Duration,
    first_end: Duration,
    last_start: Duration,
    is_read: bool,
}

/// A page that several clients use.
#[derive(Default)]
struct Shared {
    values: HashMap<Value, Cluster>,
}

#[derive(Default)]
pub struct Checker {
    shared: HashMap<(ExtentRef, u8), Shared>,
    /// Extents that were given out, for ever.
    given: HashMap<ExtentRef, u128>,
    /// Of clients that knew that they were fenced when they wrote them.
    forbidden: HashSet<Value>,
    pub reads: u64,
    pub writes: u64,
}

impl Checker {
    /// An extent was given to a client: no other may ever have had it by this name.
    pub fn on_given(&mut self, extent: ExtentRef, client: u128) {
        let former = self.given.insert(extent, client);
        assert!(former.is_none_or(|former| former == client), "{extent:?} was given to {former:x?} and {client:x}");
    }

    pub fn forbid(&mut self, value: Value) {
        self.forbidden.insert(value);
    }

    fn cluster(&mut self, page: (ExtentRef, u8), value: Value) -> &mut Cluster {
        let zeros = Cluster {
            written_from: Duration::ZERO,
            first_end: Duration::ZERO,
            last_start: Duration::ZERO,
            is_read: true,
        };
        let values = &mut self.shared.entry(page).or_default().values;
        values.entry(0).or_insert(zeros);
        let unwritten = Cluster { written_from: Duration::MAX, first_end: Duration::MAX, ..zeros };
        values.entry(value).or_insert(Cluster { is_read: false, ..unwritten })
    }

    /// A client begins to write a value to a shared page.
    pub fn on_write_begun(&mut self, page: (ExtentRef, u8), value: Value, now: Duration) {
        let cluster = self.cluster(page, value);
        (cluster.written_from, cluster.last_start) = (now, now);
    }

    pub fn on_written(&mut self, page: (ExtentRef, u8), value: Value, now: Duration) {
        let cluster = self.cluster(page, value);
        cluster.first_end = cluster.first_end.min(now);
        // From here on it counts as if it had been read.
        cluster.is_read = true;
    }

    pub fn on_shared_read(&mut self, page: (ExtentRef, u8), value: Value, (from, now): (Duration, Duration)) {
        assert!(!self.forbidden.contains(&value), "{page:?} holds what a fenced client wrote");
        let cluster = self.cluster(page, value);
        assert!(cluster.written_from <= now, "{page:?} held {value:x} before it was written, or it is another page's");
        cluster.first_end = cluster.first_end.min(now);
        cluster.last_start = cluster.last_start.max(from);
        cluster.is_read = true;
    }

    /// Whether each shared page was linearizable: for values that are written once, the zones of values must not overlap
    /// (Gibbons and Korach, "Testing shared memories", SIAM J. Comput. 26(4), 1997).
    pub fn check_shared(&self) {
        for (page, shared) in &self.shared {
            let seen = shared.values.values().filter(|cluster| cluster.is_read);
            let mut forward = Vec::new();
            let mut backward = Vec::new();
            for &Cluster { first_end, last_start, .. } in seen {
                if first_end < last_start {
                    forward.push((first_end, last_start));
                } else {
                    backward.push((last_start, first_end));
                }
            }
            forward.sort_unstable();
            for pair in forward.windows(2) {
                assert!(pair[0].1 <= pair[1].0, "{page:?} was not linearizable: {pair:?}");
            }
            for (from, to) in backward {
                let around = forward.iter().find(|zone| zone.0 < from && to < zone.1);
                assert!(around.is_none(), "{page:?} was not linearizable: {around:?} around {:?}", (from, to));
            }
        }
    }
}
