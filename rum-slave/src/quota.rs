//! How many extents a slave has, and how many are given out. Strict: what was granted is there, what is not there is
//! not granted.

/// The slave has not as many extents left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{asked} extents asked for, {left} left")]
pub struct Full {
    /// Extents asked for.
    pub asked: u64,
    /// Extents left.
    pub left: u64,
}

/// A number of extents, some of them reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    capacity: u64,
    reserved: u64,
}

impl Quota {
    /// Nothing reserved yet.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, reserved: 0 }
    }

    /// Reserves `count` extents, all or none.
    pub fn take(&mut self, count: u64) -> Result<(), Full> {
        let left = self.capacity.saturating_sub(self.reserved);
        if count > left {
            return Err(Full { asked: count, left });
        }
        self.reserved += count;
        Ok(())
    }

    /// Gives `count` reserved extents back.
    pub fn give_back(&mut self, count: u64) {
        assert!(count <= self.reserved, "more extents given back than taken");
        self.reserved -= count;
    }

    /// Changes how many there are in all; what is reserved stays reserved.
    pub fn limit(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// Extents in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Extents given out.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_to_the_extent() {
        let mut quota = Quota::new(3);
        assert_eq!(quota.take(4), Err(Full { asked: 4, left: 3 }));
        assert_eq!(quota.take(u64::MAX), Err(Full { asked: u64::MAX, left: 3 }));
        assert_eq!(quota.reserved(), 0, "none when not all");
        quota.take(2).unwrap();
        assert_eq!(quota.take(2), Err(Full { asked: 2, left: 1 }));
        quota.take(1).unwrap();
        assert_eq!(quota.take(1), Err(Full { asked: 1, left: 0 }));
        quota.give_back(1);
        quota.take(1).unwrap();
    }
}
