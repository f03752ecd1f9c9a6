//! CRC32C (Castagnoli; RFC 3720, appendix B.4) by the processor's CRC and carry-less multiplication instructions.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC32C of one run of bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Computes the CRC32C of bytes that lie in several places. Kept and used again, since setting one up costs as much as
/// summing a kilobyte.
#[derive(Debug)]
pub struct Checksummer(Digest);

impl Checksummer {
    /// Ready for use; also makes the library detect the processor's features, so that no later call allocates.
    pub fn new() -> Self {
        crc32c(&[0; 1024]);
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// The CRC32C of `first` followed by the others.
    pub fn of_parts<'a>(&mut self, first: &[u8], others: impl Iterator<Item = &'a [u8]>) -> u32 {
        let mut others = others.filter(|part| !part.is_empty()).peekable();
        if others.peek().is_none() {
            return crc32c(first);
        }
        self.0.reset();
        self.0.update(first);
        others.for_each(|part| self.0.update(part));
        self.0.finalize() as u32
    }
}

impl Default for Checksummer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let mut checksummer = Checksummer::new();
        for cut in 0..=9 {
            let (first, second) = b"123456789".split_at(cut);
            assert_eq!(checksummer.of_parts(first, [second].into_iter()), 0xe306_9283, "cut at {cut}");
        }
    }

    #[test]
    fn parts_equal_the_whole_at_page_size() {
        let bytes: Vec<u8> = (0..4300u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut checksummer = Checksummer::new();
        for cut in [0, 1, 40, 255, 256, 257, 4096, 4300] {
            assert_eq!(
                checksummer.of_parts(&bytes[..cut], [&bytes[cut..]].into_iter()),
                crc32c(&bytes),
                "cut at {cut}"
            );
        }
    }
}
