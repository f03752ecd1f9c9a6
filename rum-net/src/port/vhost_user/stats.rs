//! Counters of a listening port.

use std::fmt;

/// Why a slave closed a client's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The client went away.
    Disconnected,
    /// It sent a message that is malformed, out of order, or not served here.
    BadMessage,
    /// It did not finish its handshake in time.
    HandshakeTimeout,
    /// It asks but does not read the answers.
    UnreadReplies,
    /// Its memory cannot be mapped safely.
    BadMemory,
    /// A ring's size, addresses or descriptors for kicks and calls are unusable.
    BadRingSetup,
    /// It put garbage into a ring.
    BadRing,
    /// It cannot be called.
    BadCall,
}

impl CloseReason {
    /// All reasons, in the order of `VhostStats::closed`.
    pub const ALL: [Self; 8] = [
        Self::Disconnected,
        Self::BadMessage,
        Self::HandshakeTimeout,
        Self::UnreadReplies,
        Self::BadMemory,
        Self::BadRingSetup,
        Self::BadRing,
        Self::BadCall,
    ];

    /// The name of the counter of connections closed for it.
    pub fn counter(self) -> &'static str {
        match self {
            Self::Disconnected => "closed_disconnected",
            Self::BadMessage => "closed_bad_message",
            Self::HandshakeTimeout => "closed_handshake_timeout",
            Self::UnreadReplies => "closed_unread_replies",
            Self::BadMemory => "closed_bad_memory",
            Self::BadRingSetup => "closed_bad_ring_setup",
            Self::BadRing => "closed_bad_ring",
            Self::BadCall => "closed_bad_call",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "disconnected",
            Self::BadMessage => "bad message",
            Self::HandshakeTimeout => "handshake timeout",
            Self::UnreadReplies => "unread replies",
            Self::BadMemory => "bad memory",
            Self::BadRingSetup => "bad ring setup",
            Self::BadRing => "bad ring",
            Self::BadCall => "bad call",
        })
    }
}

/// What a listening port has seen since it was bound.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VhostStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away: too many clients, or no descriptors left.
    pub refused: u64,
    /// Clients whose rings were started.
    pub opened: u64,
    /// Connections closed, by reason, in the order of `CloseReason::ALL`.
    pub closed: [u64; CloseReason::ALL.len()],
    /// Packets taken from clients.
    pub received: u64,
    /// Packets given to clients.
    pub transmitted: u64,
    /// Received packets that were shorter than an Ethernet header or longer than the MTU allows: dropped.
    pub bad_length: u64,
    /// Calls (wake-ups) of sleeping clients.
    pub calls: u64,
    /// Calls put off since calling that client takes too long.
    pub calls_put_off: u64,
}

impl VhostStats {
    /// Calls `sink` with the name and value of each counter.
    pub fn each(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        for (name, count) in [
            ("received", self.received),
            ("transmitted", self.transmitted),
            ("dropped_bad_length", self.bad_length),
            ("accepted", self.accepted),
            ("refused", self.refused),
            ("opened", self.opened),
            ("calls", self.calls),
            ("calls_put_off", self.calls_put_off),
        ] {
            sink(name, count);
        }
        for reason in CloseReason::ALL {
            sink(reason.counter(), self.closed_for(reason));
        }
    }

    /// Connections closed for this reason.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }
}
