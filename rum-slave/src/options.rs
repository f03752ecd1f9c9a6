//! Settings of a slave.

use std::{sync::Arc, time::Duration};

use rum_net::{EXTENT_BYTES, seal::KeyFile};

use crate::replication::ReplicationOptions;

/// Settings of a slave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Memory to serve; whole extents of it are used.
    pub memory_bytes: u64,
    /// How the slave is called in messages.
    pub name: Option<String>,
    /// How long a client may be silent before its unnamed extents are freed.
    pub lease: Duration,
    /// When to poll and when to sleep.
    pub poll: PollOptions,
    /// Sessions on a port at once; further clients are refused.
    pub max_sessions: usize,
    /// The clients that may join, each with its quota; none: whoever reaches a port may.
    pub keys: Option<Arc<KeyFile>>,
    /// The slaves with which this one replicates what it keeps.
    pub replication: Option<ReplicationOptions>,
}

impl Options {
    /// The usual settings for a slave of `memory_bytes`.
    pub fn new(memory_bytes: u64) -> Self {
        Self {
            memory_bytes,
            name: None,
            lease: Duration::from_secs(10),
            poll: PollOptions::default(),
            max_sessions: 4096,
            keys: None,
            replication: None,
        }
    }

    /// Extents that the memory makes.
    pub fn capacity_extents(&self) -> u64 {
        self.memory_bytes / EXTENT_BYTES as u64
    }
}

/// When to poll and when to sleep. A busy slave polls. One without packets yields its CPU now and then, since a client
/// may need it to ask, and after a short while sleeps until a packet comes: more pollers than CPUs would make every
/// round trip last a scheduler's slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PollOptions {
    /// Empty polls between two yields.
    pub polls_per_yield: u32,
    /// How long to poll without a packet before sleeping.
    pub idle_before_sleep: Duration,
    /// A yield that takes this long has cost a scheduler's slice: others want the CPU.
    pub crowded_yield: Duration,
    /// How long after such a yield to sleep in the place of yielding.
    pub crowded_for: Duration,
    /// With several ports, of which only one can be slept on at a time: how long to sleep on each in turn. It is the
    /// longest that a packet on another port waits.
    pub sleep_among_ports: Duration,
}

impl Default for PollOptions {
    fn default() -> Self {
        Self {
            polls_per_yield: 64,
            idle_before_sleep: Duration::from_micros(200),
            crowded_yield: Duration::from_micros(500),
            crowded_for: Duration::from_millis(20),
            sleep_among_ports: Duration::from_millis(2),
        }
    }
}
