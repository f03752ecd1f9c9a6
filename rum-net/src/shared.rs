//! Bytes that several parts of a program keep without a copy for each.

use std::{fmt, ops::Deref, sync::Arc};

/// A part of a buffer that lives as long as any of its parts.
#[derive(Clone, Default)]
pub struct SharedBytes {
    buffer: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl SharedBytes {
    /// Of these `len` first bytes of a buffer.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn front(buffer: Arc<Vec<u8>>, len: usize) -> Self {
        assert!(len <= buffer.len(), "{len} bytes of {}", buffer.len());
        Self { buffer, start: 0, end: len }
    }

    /// The buffer in which the bytes are.
    pub fn into_buffer(self) -> Arc<Vec<u8>> {
        self.buffer
    }

    /// The bytes of `part` to be kept: without a copy if they lie in here, unless they would keep much more memory than they fill.
    pub fn keep(&self, part: &[u8]) -> Self {
        if part.len() >= self.buffer.capacity() / 2 { self.part(part) } else { part.into() }
    }

    /// As `keep`, however much memory they keep.
    pub fn part(&self, part: &[u8]) -> Self {
        let offset = (part.as_ptr() as usize).checked_sub(self.as_ptr() as usize);
        match offset.filter(|offset| offset + part.len() <= self.len()) {
            Some(offset) => {
                let start = self.start + offset;
                Self { buffer: self.buffer.clone(), start, end: start + part.len() }
            }
            None => part.into(),
        }
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { buffer: Arc::new(bytes), start: 0, end }
    }
}

impl From<&[u8]> for SharedBytes {
    /// A copy.
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SharedBytes {}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_shared_if_it_is_most_of_its_buffer_and_copied_else() {
        let whole = SharedBytes::from(vec![7; 1000]);
        let most = whole.keep(&whole[100..]);
        assert_eq!((most.len(), most.as_ptr()), (900, whole[100..].as_ptr()));
        let last = most.keep(&most[400..]);
        assert_eq!((last.len(), last.as_ptr()), (500, whole[500..].as_ptr()));
        let little = whole.keep(&whole[..99]);
        assert_eq!((little.len(), little.as_ptr() == whole.as_ptr()), (99, false));
        let elsewhere = vec![8; 600];
        assert_eq!(whole.keep(&elsewhere)[..], elsewhere);
        drop(whole);
        assert_eq!(last[..], [7; 500]);
    }
}
