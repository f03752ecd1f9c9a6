//! Seals packets, and opens them.
//!
//! The cipher is AES-256-GCM (NIST SP 800-38D) with the packet's counter as nonce: 4 zero bytes, then the counter, little-endian. A
//! counter is used once in a session's direction, and each direction has its own keys.
//!
//! A key serves one epoch, 2^24 packets. GCM gives an observer an advantage of about b²/2^129 after b blocks under one key; TLS
//! 1.3 (RFC 8446, 5.5) therefore stops at 2^24.5 records of 2^14 bytes, for a margin of 2^-57. Packets are shorter than that, so an epoch ends
//! below the same bound. A new epoch costs the sealer and the opener a few hashes, and no packet.
//!
//! Nothing here allocates after `new`, nor in it.

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, Tag};
use zeroize::Zeroizing;

use super::{
    ratchet::{Ratchet, SECRET_BYTES},
    replay::{ReplayError, ReplayWindow},
};

/// An epoch has 2^24 packets.
pub const EPOCH_BITS: u32 = 24;
/// Bytes of the tag that proves where a packet comes from.
pub const TAG_BYTES: usize = 16;
/// Bytes that sealing adds to a packet.
pub const TRAILER_BYTES: usize = COUNTER_BYTES + TAG_BYTES;

const COUNTER_BYTES: usize = 8;

/// What follows the encrypted payload: the counter, little-endian, and the tag.
pub type Trailer = [u8; TRAILER_BYTES];

/// Why a packet was not opened. All are to be counted, and none to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// So far behind that nobody knows whether it was here.
    #[error("packet is too old")]
    TooOld,
    /// It was here before.
    #[error("packet was here before")]
    Replayed,
    /// Its counter is more than an epoch ahead, where no honest one is.
    #[error("packet is too far ahead")]
    TooFarAhead,
    /// Its header, payload or trailer is not what the peer sealed for this session.
    #[error("packet is forged or damaged")]
    Forged,
}

impl From<ReplayError> for OpenError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::TooOld => Self::TooOld,
            ReplayError::Replayed => Self::Replayed,
        }
    }
}

/// Takes the trailer off a packet's payload; `None` if it is too short.
pub fn split_trailer(sealed: &mut [u8]) -> Option<(&mut [u8], &Trailer)> {
    let (text, trailer) = sealed.split_last_chunk_mut::<TRAILER_BYTES>()?;
    Some((text, trailer))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - COUNTER_BYTES..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals one direction's packets.
pub struct Sealer {
    ratchet: Ratchet,
    key: LessSafeKey,
    /// Of the next packet.
    counter: u64,
    epoch_bits: u32,
}

impl Sealer {
    /// Seals with keys that come of `secret`; an epoch has `1 << epoch_bits` packets. Both sides must have the same of both.
    ///
    /// # Panics
    /// Unless `epoch_bits` is between 1 and 63.
    pub fn new(secret: Zeroizing<[u8; SECRET_BYTES]>, epoch_bits: u32) -> Self {
        assert!((1..64).contains(&epoch_bits), "an epoch of 2^{epoch_bits} packets");
        let mut ratchet = Ratchet::new(secret);
        let key = ratchet.next_key();
        Self { ratchet, key, counter: 0, epoch_bits }
    }

    /// Encrypts `text` in place, and binds it to `aad`, which travels in the clear. Gives what has to follow the text.
    ///
    /// A packet that is sent again is sealed again: with another counter it is another packet.
    ///
    /// # Panics
    /// After 2^64 - 1 packets.
    pub fn seal(&mut self, aad: &[u8], text: &mut [u8]) -> Trailer {
        let counter = self.counter;
        if counter != 0 && counter.trailing_zeros() >= self.epoch_bits {
            self.key = self.ratchet.next_key();
        }
        self.counter = counter.checked_add(1).expect("fewer than 2^64 packets");
        let sealed = self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text);
        let tag = sealed.expect("a packet is shorter than GCM allows");
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..COUNTER_BYTES].copy_from_slice(&counter.to_le_bytes());
        trailer[COUNTER_BYTES..].copy_from_slice(tag.as_ref());
        trailer
    }

    /// Packets sealed so far.
    pub fn sealed(&self) -> u64 {
        self.counter
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("counter", &self.counter).finish_non_exhaustive()
    }
}

/// Opens one direction's packets.
///
/// ```text
///  counters   … too old │ previous epoch │ current epoch │ next epoch │ too far ahead …
///  key                    kept while the   in use          derived when first asked for,
///                         window reaches                   in use when a packet has opened with it
/// ```
pub struct Opener {
    ratchet: Ratchet,
    previous: Option<LessSafeKey>,
    current: LessSafeKey,
    /// Derived once, however many packets claim to be of the next epoch.
    next: Option<LessSafeKey>,
    /// The current epoch.
    epoch: u64,
    epoch_bits: u32,
    window: ReplayWindow,
}

impl Opener {
    /// Opens what `Sealer::new` of the same arguments seals.
    ///
    /// # Panics
    /// Unless `epoch_bits` is between 1 and 63.
    pub fn new(secret: Zeroizing<[u8; SECRET_BYTES]>, epoch_bits: u32) -> Self {
        assert!((1..64).contains(&epoch_bits), "an epoch of 2^{epoch_bits} packets");
        let mut ratchet = Ratchet::new(secret);
        let current = ratchet.next_key();
        Self { ratchet, previous: None, current, next: None, epoch: 0, epoch_bits, window: ReplayWindow::default() }
    }

    /// Takes again what was here before.
    #[cfg(feature = "broken")]
    pub(crate) fn forget_window(&mut self) {
        self.window = ReplayWindow::default();
    }

    /// Decrypts `text` in place, if it and `aad` are what the peer sealed and were not here before.
    ///
    /// # Errors
    /// The packet is to be dropped; `text` holds nothing useful then. The opener is as it was.
    pub fn open(&mut self, aad: &[u8], text: &mut [u8], trailer: &Trailer) -> Result<(), OpenError> {
        let (counter, tag) = trailer.split_first_chunk().expect("a trailer is longer than a counter");
        let counter = u64::from_le_bytes(*counter);
        self.window.check(counter)?;
        let epoch = counter >> self.epoch_bits;
        let Self { ratchet, previous, current, next, .. } = self;
        let is_next = epoch > self.epoch;
        let key = match epoch.checked_sub(self.epoch) {
            Some(0) => current,
            Some(1) => next.get_or_insert_with(|| ratchet.next_key()),
            Some(_) => return Err(OpenError::TooFarAhead),
            None if epoch + 1 == self.epoch => previous.as_mut().ok_or(OpenError::TooOld)?,
            None => return Err(OpenError::TooOld),
        };
        let tag = Tag::try_from(tag).map_err(|_| OpenError::Forged)?;
        key.open_in_place_separate_tag(nonce(counter), Aad::from(aad), tag, text, 0..)
            .map_err(|_| OpenError::Forged)?;
        self.window.commit(counter);
        if is_next && let Some(next) = self.next.take() {
            self.previous = Some(std::mem::replace(&mut self.current, next));
            self.epoch = epoch;
        }
        if self.previous.is_some() && self.window.lowest() >> self.epoch_bits == self.epoch {
            self.previous = None;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
