//! Multi-Paxos as a state machine without I/O, clock, threads and randomness of its own: a [`Replica`] takes messages, the time,
//! proposals and what its caller has done, and gives [`Effect`]s. A group of replicas agrees on the order of entries
//! (page writes, as a rule) and loses none that was decided while a minority of it is gone.
//!
//! How to drive one:
//! - Read the clock, call [`Replica::handle`] with a message that has arrived, [`Replica::propose`] with an entry, [`Replica::tick`]
//!   when [`Replica::next_timeout`] has come; then take effects by [`Replica::next_effect`] until there is none, and do them in order.
//! - The clock has to be read after the message, or the request to read, was taken from the network: leases rest on it. It may drift
//!   by [`MAX_CLOCK_DRIFT_PERMILLE`] and show anything, but never go backwards while the process lives.
//! - An entry is decided when it comes as [`Effect::Apply`]; the leader then answers its client. Pages are read at the leader, when
//!   [`Replica::check_read`] allows it, without an entry.
//! - With a disk, each [`Effect::Persist`] is written and [`Replica::persisted`] called once it is durable. What depends on it is held
//!   back until then; nothing else is.
//! - Messages may be lost, doubled, late and out of order. Who sent them has to be known for sure.
//!
//! ```
//! # use std::time::Duration;
//! # use paxos::{Command, Configuration, Effect, Entry, MemberId, MemberSet, Replica, Settings, Slot, Start};
//! #[derive(Clone)]
//! struct Write(std::sync::Arc<[u8]>);
//! impl Entry for Write {
//!     fn size_bytes(&self) -> usize {
//!         self.0.len()
//!     }
//! }
//!
//! // A group of one, to keep it short: others would get messages by `Effect::Send`, and theirs go to `handle`.
//! let group = Configuration::of(MemberSet::only(MemberId::FIRST));
//! let mut replica = Replica::new(MemberId::FIRST, Settings::default(), Start::Blank(group), Duration::ZERO, 42)?;
//! let now = replica.next_timeout().expect("it waits for a leader");
//! replica.tick(now);
//! while replica.next_effect().is_some() {}
//!
//! let slot = replica.propose(Write([7; 4096].into()))?;
//! let mut written = Slot::ZERO;
//! while let Some(effect) = replica.next_effect() {
//!     if let Effect::Apply { slot, command: Command::Entry(_write) } = effect {
//!         written = slot; // Store the pages with their slot, and answer the client.
//!     }
//! }
//! assert_eq!(written, slot);
//! replica.check_read(now)?; // From here on pages may be read.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The parts: `acceptor` promises, accepts and follows; `candidate` gets elected; `leader` proposes and counts; `recovery` brings back
//! a replica that lost its memory; `catch_up` moves pages to one that lags; `log`, `lease`, `pace` and `durability` are what they use.
//! docs/REPLICATION.md says what holds, and why.
#![forbid(unsafe_code)]

mod acceptor;
mod ballot;
mod candidate;
mod catch_up;
mod command;
mod durability;
mod effect;
mod flaws;
mod leader;
mod lease;
mod log;
mod members;
mod message;
mod pace;
mod recovery;
mod replica;
mod rng;
mod settings;
mod status;

pub use ballot::{Ballot, Life, Slot};
pub use command::{Batch, Command, Entry};
pub use effect::{Effect, Persisted, Record, Ticket};
#[cfg(feature = "broken")]
pub use flaws::Flaw;
pub use leader::{ProposeError, ReadError};
pub use members::{Change, ChangeError, Configuration, Lives, MAX_MEMBERS, MemberId, MemberSet};
pub use message::{
    Accept, Accepted, Body, Memory, Message, PreVote, Prepare, Promise, Recover, Recovered, Refusal, Refuse,
    StateOffer, StateRequest,
};
pub use replica::{Replica, Start};
pub use settings::{MAX_CLOCK_DRIFT_PERMILLE, Settings, SettingsError};
pub use status::{Standing, Status};
