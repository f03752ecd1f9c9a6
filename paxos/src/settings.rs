//! Times and limits of a replica.

use std::time::Duration;

/// How far any member's clock may run fast or slow, in parts of a thousand. Leases are safe for clocks whose rate is
/// within 1 ± this of real time; what they show does not matter. Quartz clocks are a hundred times better.
pub const MAX_CLOCK_DRIFT_PERMILLE: u32 = 10;

/// The part of a lease that its holder uses: what is left if the holder's clock is as slow and the granter's as fast as
/// allowed (Gray and Cheriton, "Leases", SOSP 1989, section 5).
pub(crate) fn usable(lease: Duration) -> Duration {
    lease * (1000 - MAX_CLOCK_DRIFT_PERMILLE) / (1000 + MAX_CLOCK_DRIFT_PERMILLE)
}

/// Times and limits. The same for all members, except for `has_disk`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Settings {
    /// An idle leader gives a sign of life so often.
    pub heartbeat: Duration,
    /// A voter that hears a leader helps nobody else to lead for so long; also the shortest time after which a leader is
    /// missed.
    pub lease: Duration,
    /// Voters miss their leader at times that differ by up to this, so that one is first.
    pub election_spread: Duration,
    /// The longest time after which a leader is missed, however irregular its signs of life are.
    pub max_election_timeout: Duration,
    /// What has not been answered for so long is sent again.
    pub resend: Duration,
    /// A transfer of state that does not go on for so long is begun elsewhere.
    pub transfer_timeout: Duration,
    /// The most entries that a leader has proposed and not seen decided.
    pub max_in_flight_entries: u64,
    /// The most bytes of them.
    pub max_in_flight_bytes: usize,
    /// The most entries that the log keeps for members that lag; also how far ahead of what it has applied a replica accepts.
    pub max_log_entries: u64,
    /// The most bytes of applied entries that the log keeps for members that lag.
    pub max_log_bytes: usize,
    /// The most entries of one message.
    pub max_batch_entries: u64,
    /// The most bytes of entries of one message, unless one entry alone has more.
    pub max_batch_bytes: usize,
    /// A learner can become a voter when it lacks no more entries than this.
    pub max_promotion_lag: u64,
    /// Whether what is promised and accepted is persisted before it is said.
    pub has_disk: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(25),
            lease: Duration::from_millis(200),
            election_spread: Duration::from_millis(60),
            max_election_timeout: Duration::from_secs(2),
            resend: Duration::from_millis(50),
            transfer_timeout: Duration::from_millis(500),
            max_in_flight_entries: 1024,
            max_in_flight_bytes: 8 << 20,
            max_log_entries: 4096,
            max_log_bytes: 16 << 20,
            max_batch_entries: 32,
            max_batch_bytes: 128 << 10,
            max_promotion_lag: 256,
            has_disk: false,
        }
    }
}

/// Why settings cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SettingsError {
    /// A leader would lose its lease between two signs of life.
    #[error("the heartbeat of {heartbeat:?} has to be at most a quarter of the lease of {lease:?}")]
    SlowHeartbeat {
        /// As set.
        heartbeat: Duration,
        /// As set.
        lease: Duration,
    },
    /// A leader would be missed while its lease is good, in vain.
    #[error("the longest election timeout of {longest:?} has to be at least the lease of {lease:?}")]
    ShortTimeout {
        /// As set.
        longest: Duration,
        /// As set.
        lease: Duration,
    },
    /// What is in flight has to fit into the log, and a message into what is in flight.
    #[error(
        "entries of a message ({batch}), in flight ({in_flight}) and in the log ({log}) have to grow in this order, from 1"
    )]
    Limits {
        /// As set.
        batch: u64,
        /// As set.
        in_flight: u64,
        /// As set.
        log: u64,
    },
}

impl Settings {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// Says which do not.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (heartbeat, lease, longest) = (self.heartbeat, self.lease, self.max_election_timeout);
        let (batch, in_flight, log) = (self.max_batch_entries, self.max_in_flight_entries, self.max_log_entries);
        if heartbeat * 4 > lease || heartbeat.is_zero() {
            Err(SettingsError::SlowHeartbeat { heartbeat, lease })
        } else if longest < lease {
            Err(SettingsError::ShortTimeout { longest, lease })
        } else if batch == 0 || in_flight < batch || log < in_flight {
            Err(SettingsError::Limits { batch, in_flight, log })
        } else {
            Ok(())
        }
    }
}
