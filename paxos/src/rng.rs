//! Random numbers from the seed that a replica is given.

use std::time::Duration;

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = self.0;
        let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    /// Between nothing and `longest`.
    pub fn within(&mut self, longest: Duration) -> Duration {
        match longest.as_nanos() as u64 {
            0 => Duration::ZERO,
            nanos => Duration::from_nanos(self.next() % nanos),
        }
    }
}
