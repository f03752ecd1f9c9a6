//! Counters of both sides.

use crate::{seal::OpenError, wire::header::HeaderError};

/// Packets that were dropped, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drops {
    /// Cut short.
    pub truncated: u64,
    /// Another protocol.
    pub magic: u64,
    /// Another version of the protocol.
    pub version: u64,
    /// Damaged on the way.
    pub checksum: u64,
    /// Unknown kind, or one that only the other side may send.
    pub kind: u64,
    /// Fields that contradict each other or the session.
    pub malformed: u64,
    /// Of a session that is not there.
    pub session: u64,
    /// Of a request that was finished before.
    pub stale: u64,
    /// A fragment that is there already.
    pub duplicate: u64,
    /// Not sealed, where only sealed packets are taken, or sealed where there are no keys.
    pub unsealed: u64,
    /// Sealed by somebody without the session's key, or damaged.
    pub forged: u64,
    /// A sealed packet that was here before, or is too old to tell.
    pub replayed: u64,
    /// A hello without the cookie that was made for it.
    pub cookie: u64,
    /// A hello of a client that is not known or has another key, or claims what is another's.
    pub key: u64,
    /// No room: too many sessions, or too many answers waiting to be sent.
    pub refused: u64,
}

impl Drops {
    pub(crate) fn count(&mut self, error: HeaderError) {
        *match error {
            HeaderError::Truncated => &mut self.truncated,
            HeaderError::Magic => &mut self.magic,
            HeaderError::Version(_) => &mut self.version,
            HeaderError::Checksum => &mut self.checksum,
            HeaderError::Kind(_) => &mut self.kind,
        } += 1;
    }

    pub(crate) fn count_unopened(&mut self, error: OpenError) {
        *match error {
            OpenError::TooOld | OpenError::Replayed => &mut self.replayed,
            OpenError::TooFarAhead | OpenError::Forged => &mut self.forged,
        } += 1;
    }

    /// Each reason, as ports name their counters, with its number.
    pub fn by_reason(&self) -> [(&'static str, u64); 15] {
        [
            ("dropped_rpc_truncated", self.truncated),
            ("dropped_rpc_magic", self.magic),
            ("dropped_rpc_version", self.version),
            ("dropped_rpc_checksum", self.checksum),
            ("dropped_rpc_kind", self.kind),
            ("dropped_rpc_malformed", self.malformed),
            ("dropped_rpc_session", self.session),
            ("dropped_rpc_stale", self.stale),
            ("dropped_rpc_duplicate", self.duplicate),
            ("dropped_rpc_unsealed", self.unsealed),
            ("dropped_rpc_forged", self.forged),
            ("dropped_rpc_replayed", self.replayed),
            ("dropped_rpc_cookie", self.cookie),
            ("dropped_rpc_key", self.key),
            ("dropped_rpc_refused", self.refused),
        ]
    }

    /// All dropped packets.
    pub fn total(&self) -> u64 {
        self.by_reason().iter().map(|(_, number)| number).sum()
    }
}

/// Counters of a client's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientStats {
    /// Packets taken.
    pub packets_received: u64,
    /// Packets given out for sending.
    pub packets_sent: u64,
    /// Times that an answer was waited for in vain.
    pub timeouts: u64,
    /// Times that later packets showed that something was lost.
    pub losses: u64,
    /// Fragments of requests sent again.
    pub sent_again: u64,
    /// Sessions that the server did not know any more.
    pub resets: u64,
    /// Packets dropped.
    pub drops: Drops,
}

/// Counters of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServerStats {
    /// Packets taken.
    pub packets_received: u64,
    /// Packets given out for sending.
    pub packets_sent: u64,
    /// Requests handed up.
    pub requests: u64,
    /// Requests that came again after they had run, and were answered from memory.
    pub repeated: u64,
    /// Resets sent to clients whose session is not there.
    pub resets: u64,
    /// Packets dropped.
    pub drops: Drops,
}
