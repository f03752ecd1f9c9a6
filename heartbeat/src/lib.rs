//! Who is alive: leases of clients, and a failure detector that adapts to how regularly somebody is heard. State machines without I/O,
//! clock and threads: the time goes in as a duration since any moment, by a clock that only goes forwards.
//!
//! - [`LeaseTable`], at the leader of the shard that keeps the clients: when each lease runs out. That a client is dead is only
//!   proposed here; it is so when the group has decided it, and from then on the client is fenced.
//! - [`HeldLease`], at a client: when to renew, and until when it may act on its lease, by its own clock.
//! - [`Detector`]: how suspicious a silence is, and when it will be too long.
#![forbid(unsafe_code)]

mod detector;
mod held;
mod lease;

pub use detector::{Detector, DetectorSettings};
pub use held::HeldLease;
pub use lease::{FENCED_REMEMBERED, LeaseError, LeaseSettings, LeaseState, LeaseTable};

/// How far any clock may run fast or slow, in parts of a thousand.
pub const MAX_CLOCK_DRIFT_PERMILLE: u32 = 10;
