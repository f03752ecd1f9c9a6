//! A set of small numbers, one bit each.

/// Bits `0..len`, all clear at first. Large ones cost memory only where they are touched.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    pub fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// How many bits there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Panics if `index` is out of range.
    pub fn get(&self, index: usize) -> bool {
        assert!(index < self.len, "bit {index} of {}", self.len);
        self.words[index / 64] >> (index % 64) & 1 == 1
    }

    /// Sets or clears `count` bits. Panics if one is out of range.
    pub fn fill(&mut self, first: usize, count: usize, value: bool) {
        assert!(self.contains(first, count), "bits {first}+{count} of {}", self.len);
        for (word, mask) in spans(first, count) {
            if value {
                self.words[word] |= mask;
            } else {
                self.words[word] &= !mask;
            }
        }
    }

    /// Whether `count` bits from `first` exist and all have this value.
    pub fn all(&self, first: usize, count: usize, value: bool) -> bool {
        self.contains(first, count)
            && spans(first, count).all(|(word, mask)| self.words[word] & mask == if value { mask } else { 0 })
    }

    fn contains(&self, first: usize, count: usize) -> bool {
        first.checked_add(count).is_some_and(|end| end <= self.len)
    }
}

/// The words that `count` bits from `first` lie in, each with the mask of those bits.
fn spans(first: usize, count: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    (first / 64..end.div_ceil(64)).filter(move |_| count > 0).map(move |word| {
        let low = first.max(word * 64) - word * 64;
        let high = end.min(word * 64 + 64) - word * 64;
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_agree_with_single_bits() {
        for (first, count) in [(0, 0), (0, 1), (63, 2), (5, 59), (0, 64), (64, 64), (1, 199), (199, 1), (200, 0)] {
            let mut bits = Bitmap::new(200);
            bits.fill(first, count, true);
            for index in 0..200 {
                assert_eq!(bits.get(index), (first..first + count).contains(&index), "{first}+{count} at {index}");
            }
            assert!(bits.all(first, count, true));
            assert!(bits.all(0, first, false));
            if count > 0 {
                assert!(!bits.all(0, 200, false));
                bits.fill(first + count - 1, 1, false);
                assert!(!bits.all(first, count, true));
            }
        }
    }

    #[test]
    fn runs_past_the_end_are_never_all() {
        let bits = Bitmap::new(100);
        assert!(!bits.all(99, 2, false));
        assert!(!bits.all(usize::MAX, 2, false));
        assert_eq!(bits.len(), 100);
    }
}
