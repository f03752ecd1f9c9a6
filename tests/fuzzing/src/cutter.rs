//! Cuts a byte string into decisions and packets.

/// Takes pieces off the front of the input.
#[derive(Clone, Copy, Debug)]
pub struct Cutter<'a>(pub &'a [u8]);

impl<'a> Cutter<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes as a number; 0 at the end.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// As many bytes as the next two say; fewer at the end.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.word());
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
