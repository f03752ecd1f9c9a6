//! What members say to each other. The wiring encodes and decodes these; the core never trusts more of a message than
//! that its sender is who the wiring says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ballot::{Ballot, Life, Slot},
    command::{Batch, Command},
    members::{Configuration, Lives, MemberId},
};

/// A message from one member to another.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Message<E> {
    /// The sender's place; the wiring makes sure that it is the sender's.
    pub from: MemberId,
    /// The sender's life.
    pub life: Life,
    /// What it says.
    pub body: Body<E>,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Body<E> {
    /// Would you promise? Nothing is promised yet.
    PreVote(PreVote),
    /// I would.
    PreVoted {
        /// Of the pre-vote.
        ballot: Ballot,
    },
    /// Phase 1a, for all slots from `first` on; asked again for the rest of a long answer.
    Prepare(Prepare),
    /// Phase 1b.
    Promise(Promise<E>),
    /// No to a pre-vote, phase 1a or phase 2a.
    Refuse(Refuse),
    /// Phase 2a, and the leader's sign of life.
    Accept(Accept<E>),
    /// Phase 2b, and the answer to a sign of life.
    Accepted(Accepted),
    /// I have lost my memory, or never had one.
    Recover(Recover),
    /// What the one who lost it has to know.
    Recovered(Recovered),
    /// Lead in my place.
    HandOver {
        /// In which the sender led, and will not again.
        ballot: Ballot,
    },
    /// Send me pages: the log has no entry that I need.
    StateRequest(StateRequest),
    /// Pages are on their way.
    StateOffer(StateOffer),
}

/// Ongaro, "Consensus: Bridging Theory and Practice" (2014), section 9.6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PreVote {
    /// In which the sender would lead.
    pub ballot: Ballot,
    /// The last slot that the sender has applied, and all before it.
    pub commit: Slot,
    /// The last slot in which the sender has accepted something.
    pub last: Slot,
}

/// Lamport, "Paxos Made Simple", phase 1a.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// In which the sender wants to lead.
    pub ballot: Ballot,
    /// The first slot that it wants to hear of.
    pub first: Slot,
    /// The ballot whose leader told the sender to lead instead, and thereby gave up its lease.
    pub handed_over: Option<Ballot>,
}

/// Lamport, "Paxos Made Simple", phase 1b.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Promise<E> {
    /// Less than this the sender will not accept any more.
    pub ballot: Ballot,
    /// The first slot that the message tells of.
    pub first: Slot,
    /// The last slot that the message tells of.
    pub through: Slot,
    /// The last slot of which the sender has accepted something; there is more to be asked for if it is after `through`.
    pub end: Slot,
    /// What was accepted in those slots, by which ballot; in other slots of them, nothing.
    pub accepted: Vec<(Slot, Ballot, Command<E>)>,
    /// The lives that the sender knows: promises of earlier ones are void.
    pub lives: Lives,
}

/// Why somebody was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// A greater ballot was promised.
    Outbid,
    /// A leader may have a lease on the sender's word.
    Leased,
    /// The log no longer has the entries that the one who asks lacks: it has to catch up first.
    Behind,
    /// The one who asks was removed from the group.
    NotAMember,
}

/// An answer that says no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Refuse {
    /// Of what is refused.
    pub ballot: Ballot,
    /// What the sender has promised.
    pub promised: Ballot,
    /// Why.
    pub reason: Refusal,
}

/// Lamport, "Paxos Made Simple", phase 2a, for slots in a row.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Accept<E> {
    /// The leader's.
    pub ballot: Ballot,
    /// The slot of the first command.
    pub first: Slot,
    /// The commands; none in a sign of life.
    pub batch: Batch<E>,
    /// All slots up to this one are decided.
    pub commit: Slot,
    /// All members have applied all slots up to this one.
    pub settled: Slot,
    /// The first slot that the leader's log has; earlier ones come with the pages only.
    pub log_start: Slot,
    /// The leader's clock when it sent this; comes back in the answer, and means nothing to anybody else.
    pub sent_at: Duration,
    /// For how long by its own clock the receiver is asked not to help anybody else to lead.
    pub lease: Duration,
}

/// Lamport, "Paxos Made Simple", phase 2b, for slots in a row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Of the phase 2a.
    pub ballot: Ballot,
    /// The first slot that the sender accepted by that message.
    pub first: Slot,
    /// The last one; before `first` if there was none.
    pub last: Slot,
    /// The sender has all slots up to this one: applied, or accepted in this ballot.
    pub through: Slot,
    /// The last slot that the sender has applied, and all before it.
    pub applied: Slot,
    /// From the phase 2a.
    pub sent_at: Duration,
    /// The sender will help nobody else to lead, for as long as it was asked to.
    pub grants_lease: bool,
    /// False if the sender only reports, because it has lost its memory and is recovering.
    pub votes: bool,
}

/// Asks for what the sender forgot. Liskov and Cowling, "Viewstamped Replication Revisited", section 4.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Recover {
    /// Drawn for this question: answers to others do not count.
    pub nonce: u64,
    /// The sender's new life; nothing while it does not know its former one.
    pub life: Option<Life>,
    /// The members as the sender knows them from elsewhere.
    pub configuration: Configuration,
}

/// Tells a member that lost its memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// Of the question.
    pub nonce: u64,
    /// The lives that the sender knows, that of the one who asks included.
    pub lives: Lives,
    /// What the sender has promised.
    pub promised: Ballot,
    /// The last slot that the sender proposed, if it leads in the ballot that it promised.
    pub leads_through: Option<Slot>,
    /// The last slot that the sender has applied.
    pub commit: Slot,
    /// In force after that slot.
    pub configuration: Configuration,
    /// What the sender is.
    pub memory: Memory,
}

/// What a member knows of the group's past.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Memory {
    /// All that it ever promised and accepted.
    Whole,
    /// All, and that is nothing: it never promised or accepted anything.
    Untouched,
    /// None: it is asking, too.
    Lost,
    /// It is catching up after it lost its memory.
    Returning,
}

/// Asks for the pages that were written after `since`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StateRequest {
    /// The last slot that the sender has applied.
    pub since: Slot,
    /// Of an offer that was begun and is to be gone on with; zero for a new one.
    pub through: Slot,
    /// How far that came, in whatever the wiring counts.
    pub cursor: u64,
}

/// The answer to that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StateOffer {
    /// As asked for.
    pub since: Slot,
    /// The state that is sent has all slots up to this one, and perhaps some of later ones.
    pub through: Slot,
    /// As asked for.
    pub cursor: u64,
    /// In force after `through`.
    pub configuration: Configuration,
}
