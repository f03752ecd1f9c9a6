//! What a replica wants done.

use serde::{Deserialize, Serialize};

use crate::{
    ballot::{Ballot, Life, Slot},
    command::{Batch, Command},
    members::{Configuration, Lives, MemberId, MemberSet},
    message::Message,
};

/// Something for the wiring to do. Effects are taken and done in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect<E> {
    /// Send a message, once to each; it may be lost, doubled, late.
    Send {
        /// Never the replica itself.
        to: MemberSet,
        /// The message.
        message: Message<E>,
    },
    /// Write a record behind those before it. Once it and they are durable, say so by `Replica::persisted`.
    Persist {
        /// Grows by one with each record.
        ticket: Ticket,
        /// What to write.
        record: Record<E>,
    },
    /// The slot is decided. Comes in order, each slot once in a process's life. A page that was written by this slot
    /// or a later one, because it came in a transfer of state, is left as it is.
    Apply {
        /// One more than that of the last `Apply`, or the first after an installed state.
        slot: Slot,
        /// What was decided.
        command: Command<E>,
    },
    /// This replica leads from here on and takes proposals; reads once `Replica::check_read` says so.
    BecameLeader {
        /// In which it leads.
        ballot: Ballot,
    },
    /// This replica does not lead any more. What was proposed and not applied may be decided, or may not.
    LostLeadership {
        /// In which it led.
        ballot: Ballot,
    },
    /// Send the pages whose last writing slot is after `since`, from `cursor` on, and tell the receiver's
    /// `Replica::state_progress` and, after the last, `state_installed`. Replaces what was being provided to that member.
    ProvideState {
        /// The receiver.
        to: MemberId,
        /// Pages that were last written by this slot or an earlier one are there.
        since: Slot,
        /// The state that the receiver will have, at least.
        through: Slot,
        /// Where to begin, in whatever the wiring counts; 0 is the beginning.
        cursor: u64,
    },
    /// Take pages from `from`, as of `through`. Replaces what was being installed, whose late pages are to be dropped.
    InstallState {
        /// Who sends them.
        from: MemberId,
        /// As in `ProvideState`.
        since: Slot,
        /// As in `ProvideState`.
        through: Slot,
        /// As in `ProvideState`.
        cursor: u64,
    },
    /// The log no longer has slots up to this one. Records of them are not needed once the pages that they wrote are durable.
    Truncated {
        /// The last slot that is gone.
        through: Slot,
    },
    /// This replica has been removed from the group: it can be ended, and its pages dropped.
    Removed,
}

/// Numbers records; durability of one means that of all before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

/// What has to be durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Record<E> {
    /// A promise.
    Promise(Ballot),
    /// Accepted commands; a promise of their ballot, too.
    Accept {
        /// By which they were accepted.
        ballot: Ballot,
        /// The slot of the first command.
        first: Slot,
        /// The commands.
        batch: Batch<E>,
    },
    /// All slots up to this one are decided, as they were accepted last. Comes after a change of members only.
    Decided(Slot),
    /// A member came back in this life.
    Life {
        /// Which member; may be the replica itself.
        member: MemberId,
        /// Its life.
        life: Life,
    },
    /// Pages of another member were installed: they are durable, and hold all slots up to this one.
    Installed {
        /// That slot.
        through: Slot,
        /// In force after it.
        configuration: Configuration,
    },
    /// A replica without memory has got it back, and votes from here on. Until this is written, a restart begins blank.
    Returned {
        /// Its promise.
        promised: Ballot,
        /// Its life and the others'.
        lives: Lives,
        /// In force after the last slot applied.
        configuration: Configuration,
    },
}

/// What a replica with disk restarts from: the sum of its records, and the pages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Persisted<E> {
    /// The greatest ballot of all records.
    pub promised: Ballot,
    /// The latest life of each member, of the replica itself, too.
    pub lives: Lives,
    /// The last slot whose effects, and those of all before it, the durable pages have.
    pub applied: Slot,
    /// In force after that slot.
    pub configuration: Configuration,
    /// The greatest of the slots that are recorded as decided; entries up to it are applied at once. May be earlier than `applied`.
    pub decided: Slot,
    /// For each slot after `applied`, what was accepted last. In the order of slots; slots may be missing. The log's limits
    /// do not hold for these: pages have to be made durable before they are too many.
    pub accepted: Vec<(Slot, Ballot, Command<E>)>,
}
