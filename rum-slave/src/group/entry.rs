//! What a group agrees on: the entries of its log.

use std::sync::Arc;

use rum_net::{rpc::Incarnation, shared::SharedBytes};
use serde::{Deserialize, Serialize};

use crate::account::AccountId;

/// An entry, shared by the log and the messages that carry it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry(pub Arc<Operation>);

/// What all slaves of a group do, in the same order, with the same outcome. What they may know differently, as how much room there is,
/// the leader has put into it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Operation {
    /// A client's command.
    Run(Box<Run>),
    /// A client's lease has run out.
    Expire {
        /// Whose.
        client: u128,
    },
}

/// A client's command, and the limits within which it is run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// Whose.
    pub client: u128,
    /// At whose cost.
    pub account: AccountId,
    /// Counts the client's commands to the group.
    pub sequence: u64,
    /// The client has the answers of all commands up to this one.
    pub settled: u64,
    /// Extents that the group may give out.
    pub capacity: u64,
    /// Extents that the account may hold in this group.
    pub quota: u64,
    /// Of extents in places that were never used.
    pub first_generation: u32,
    /// The request.
    #[serde(with = "super::bytes")]
    pub request: SharedBytes,
}

impl Run {
    /// Whose command it is.
    pub fn client(&self) -> Incarnation {
        Incarnation(self.client)
    }
}

impl paxos::Entry for Entry {
    fn size_bytes(&self) -> usize {
        const OVERHEAD: usize = size_of::<Operation>() + size_of::<Run>();
        match &*self.0 {
            Operation::Run(run) => OVERHEAD + run.request.len(),
            Operation::Expire { .. } => OVERHEAD,
        }
    }
}
