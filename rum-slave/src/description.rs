//! What a slave says of itself in full, for `rum status`: JSON in its answer.

use serde::{Deserialize, Serialize};

/// A slave.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SlaveDescription {
    /// As it was started with.
    pub name: Option<String>,
    /// How many slaves keep each page.
    pub replication_factor: usize,
    /// Memory that it gives, in bytes.
    pub capacity_bytes: u64,
    /// Sessions of clients and of other slaves.
    pub sessions: u64,
    /// How long a client may be silent, in milliseconds.
    pub lease_ms: u64,
    /// Since its start, in seconds.
    pub up_s: u64,
    /// What it keeps: of a slave that does not replicate, one part.
    pub parts: Vec<PartDescription>,
}

/// A slave's part in a group; all of a slave that does not replicate.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PartDescription {
    /// The group: the slave that leads it while it can.
    pub group: u16,
    /// What the slave does in it: `leader`, `follower`, `candidate`, `blank`; `alone` if nothing is replicated.
    pub standing: String,
    /// Who leads, as far as the slave knows.
    pub leader: Option<u16>,
    /// The slaves of the group.
    pub slaves: Vec<u16>,
    /// The last entry of the log that it has applied.
    pub applied: u64,
    /// Entries of its log, in bytes.
    pub log_bytes: u64,
    /// Of a leader: the other slaves, and how many entries each has not applied.
    pub lags: Vec<(u16, u64)>,
    /// Memory that may be given out, in bytes.
    pub capacity_bytes: u64,
    /// Memory that is given out, in bytes.
    pub reserved_bytes: u64,
    /// Pages that hold data, in bytes.
    pub used_bytes: u64,
    /// Named objects.
    pub names: u64,
    /// Clients with a lease.
    pub leases: u64,
    /// Of a leader: pages whose copies were compared, each as often as it was.
    #[serde(default)]
    pub compared_pages: u64,
    /// Pages here that were other than a majority's, and were replaced.
    #[serde(default)]
    pub repaired_pages: u64,
    /// Pages that differed while no majority had the same.
    #[serde(default)]
    pub undecided_pages: u64,
    /// Who holds how much, in bytes: each client by its incarnation, and `named objects`.
    pub owners: Vec<(String, u64)>,
    /// Accounts that hold anything or have a quota: whose, bytes held, and quota in bytes.
    pub accounts: Vec<(String, u64, Option<u64>)>,
}

impl SlaveDescription {
    /// As it travels.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
