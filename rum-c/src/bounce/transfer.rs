//! Moving bytes between the kernel and far memory through a local buffer, with the meaning of the one system call that
//! the program made.

use libc::iovec;

use super::buffer::{Buffer, PIECE_BYTES};
use crate::errors::set_errno;

/// How a call may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Not at all: a message arrives and leaves whole, and a look does not take it away.
    Never,
    /// One piece, which may be shorter than what was asked for: the next would perhaps block.
    OnePiece,
    /// Piece after piece until one comes short.
    Repeat,
}

/// A position in the program's buffers.
struct Position<'a> {
    vectors: &'a [iovec],
    offset: usize,
}

impl Position<'_> {
    /// Calls `copy` with the runs that make up the next `count` bytes: where, offset from the start of this call, length.
    fn advance(&mut self, mut count: usize, mut copy: impl FnMut(*mut u8, usize, usize)) -> usize {
        let mut passed = 0;
        while let (Some(vector), true) = (self.vectors.first(), count > 0) {
            let length = count.min(vector.iov_len - self.offset);
            if length > 0 {
                copy(vector.iov_base.cast::<u8>().wrapping_add(self.offset), passed, length);
            }
            self.offset += length;
            passed += length;
            count -= length;
            if self.offset == vector.iov_len {
                self.vectors = &self.vectors[1..];
                self.offset = 0;
            }
        }
        passed
    }
}

/// Bytes in all vectors; `None` when the kernel would refuse their sum.
pub(super) fn total(vectors: &[iovec]) -> Option<usize> {
    let mut total = 0usize;
    for vector in vectors {
        total = total.checked_add(vector.iov_len).filter(|sum| isize::try_from(*sum).is_ok())?;
    }
    Some(total)
}

/// Bytes of one piece of a call for `total` bytes.
fn piece_bytes(total: usize, cut: Cut) -> usize {
    if cut == Cut::Never { total } else { total.min(PIECE_BYTES) }
}

/// Receives into `vectors`. `operation(buffer, wanted, done)` makes the system call and returns what it returns.
///
/// # Safety
/// The vectors are the program's and may be written.
pub(super) unsafe fn receive(
    vectors: &[iovec],
    cut: Cut,
    mut operation: impl FnMut(*mut u8, usize, usize) -> isize,
) -> isize {
    let Some(total) = total(vectors) else {
        set_errno(libc::EINVAL);
        return -1;
    };
    let piece = piece_bytes(total, cut);
    let Some(buffer) = Buffer::take(piece) else { return -1 };
    let mut position = Position { vectors, offset: 0 };
    let mut done = 0;
    loop {
        let wanted = piece.min(total - done);
        let got = operation(buffer.base(), wanted, done);
        if got <= 0 {
            return if done > 0 { done as isize } else { got };
        }
        // With MSG_TRUNC the call tells the message's length, which may exceed what it delivered.
        let delivered = wanted.min(got as usize);
        position.advance(delivered, |to, from, length| {
            // SAFETY: `to` is a run of the program's buffer, the source `length` bytes of ours that the call filled.
            unsafe { std::ptr::copy_nonoverlapping(buffer.base().add(from), to, length) };
        });
        if cut != Cut::Repeat || got as usize != wanted || done + wanted == total {
            return done as isize + got;
        }
        done += wanted;
    }
}

/// Sends from `vectors`; the counterpart of `receive`.
///
/// # Safety
/// The vectors are the program's and may be read.
pub(super) unsafe fn send(
    vectors: &[iovec],
    cut: Cut,
    mut operation: impl FnMut(*const u8, usize, usize) -> isize,
) -> isize {
    let Some(total) = total(vectors) else {
        set_errno(libc::EINVAL);
        return -1;
    };
    let piece = piece_bytes(total, cut);
    let Some(buffer) = Buffer::take(piece) else { return -1 };
    let mut position = Position { vectors, offset: 0 };
    let mut done = 0;
    loop {
        let wanted = piece.min(total - done);
        position.advance(wanted, |from, to, length| {
            // SAFETY: `from` is a run of the program's buffer, the target `length` bytes inside ours.
            unsafe { std::ptr::copy_nonoverlapping(from, buffer.base().add(to), length) };
        });
        let sent = operation(buffer.base(), wanted, done);
        if sent <= 0 {
            return if done > 0 { done as isize } else { sent };
        }
        done += sent as usize;
        if cut != Cut::Repeat || sent as usize != wanted || done >= total {
            return done as isize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(parts: &mut [Vec<u8>]) -> Vec<iovec> {
        parts.iter_mut().map(|part| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() }).collect()
    }

    /// A source of the bytes 0, 1, 2 … that gives at most `most` a call and ends after `end`.
    fn source(most: usize, end: usize) -> impl FnMut(*mut u8, usize, usize) -> isize {
        move |to, wanted, done| {
            let count = wanted.min(most).min(end - done);
            for index in 0..count {
                // SAFETY: the caller gives room for `wanted` bytes.
                unsafe { to.add(index).write((done + index) as u8) };
            }
            count as isize
        }
    }

    #[test]
    fn a_long_read_is_made_of_pieces_and_ends_with_the_first_short_one() {
        for (most, end, expected) in [
            (usize::MAX, 400_000, 400_000),
            (usize::MAX, 300_001, 300_001),
            (PIECE_BYTES - 1, 400_000, PIECE_BYTES - 1),
        ] {
            let mut parts = [vec![0; 5], vec![], vec![0; 199_995], vec![0; 200_000]];
            // SAFETY: the vectors are this test's.
            let got = unsafe { receive(&vectors(&mut parts), Cut::Repeat, source(most, end)) };
            assert_eq!(got, expected as isize);
            let all: Vec<u8> = parts.concat();
            assert!(
                all.iter().enumerate().all(|(index, byte)| *byte == if index < expected { index as u8 } else { 0 })
            );
        }
    }

    #[test]
    fn one_piece_is_one_call_and_a_message_is_whole() {
        for (cut, expected) in [(Cut::OnePiece, PIECE_BYTES), (Cut::Never, 300_000)] {
            let mut parts = [vec![0; 300_000]];
            let mut calls = 0;
            let mut from = source(usize::MAX, 300_000);
            // SAFETY: the vectors are this test's.
            let got = unsafe {
                receive(&vectors(&mut parts), cut, |to, wanted, done| {
                    calls += 1;
                    from(to, wanted, done)
                })
            };
            assert_eq!((got, calls), (expected as isize, 1));
        }
    }

    #[test]
    fn an_error_counts_only_when_nothing_was_moved() {
        let mut parts = [vec![0; 300_000]];
        let fails_after = |calls: usize| {
            let mut left = calls;
            move |_: *mut u8, wanted: usize, _: usize| {
                if left == 0 {
                    -1
                } else {
                    left -= 1;
                    wanted as isize
                }
            }
        };
        // SAFETY: the vectors are this test's.
        assert_eq!(unsafe { receive(&vectors(&mut parts), Cut::Repeat, fails_after(0)) }, -1);
        // SAFETY: as above.
        assert_eq!(unsafe { receive(&vectors(&mut parts), Cut::Repeat, fails_after(1)) }, PIECE_BYTES as isize);
    }

    #[test]
    fn a_message_longer_than_the_buffer_tells_its_length() {
        let mut parts = [vec![1; 4], vec![1; 4]];
        // SAFETY: the vectors are this test's.
        let got = unsafe {
            receive(&vectors(&mut parts), Cut::Never, |to, wanted, _| {
                to.write_bytes(9, wanted);
                100
            })
        };
        assert_eq!((got, parts.concat()), (100, vec![9; 8]));
    }

    #[test]
    fn a_long_write_gathers_every_byte_in_order() {
        let mut parts: Vec<Vec<u8>> =
            (0..7).map(|part| (0..part * 33_333).map(|n| (n * 7 + part) as u8).collect()).collect();
        let expected = parts.concat();
        let mut sent = Vec::new();
        // SAFETY: the vectors are this test's.
        let count = unsafe {
            send(&vectors(&mut parts), Cut::Repeat, |from, wanted, done| {
                assert_eq!(done, sent.len());
                sent.extend_from_slice(std::slice::from_raw_parts(from, wanted));
                wanted as isize
            })
        };
        assert_eq!(count, expected.len() as isize);
        assert!(sent == expected);
    }

    #[test]
    fn a_short_write_ends_the_call() {
        let mut parts = [vec![1; 400_000]];
        // SAFETY: the vectors are this test's.
        let count = unsafe {
            send(&vectors(&mut parts), Cut::Repeat, |_, wanted, done| if done > 0 { 10 } else { wanted as isize })
        };
        assert_eq!(count, PIECE_BYTES as isize + 10);
    }

    #[test]
    fn an_impossible_sum_is_refused() {
        let vectors = [iovec { iov_base: std::ptr::null_mut(), iov_len: isize::MAX as usize }; 2];
        // SAFETY: no operation runs.
        assert_eq!(unsafe { receive(&vectors, Cut::Repeat, |_, _, _| unreachable!()) }, -1);
    }
}
