//! The keys of a direction, one after the other. Each epoch's secret gives that epoch's key and the next epoch's secret,
//! and is wiped: who learns a secret can open nothing from before.

use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk},
};
use zeroize::Zeroizing;

/// Bytes of a secret, and of the key that comes of it.
pub(super) const SECRET_BYTES: usize = 32;

/// What stands apart the two outputs of an epoch's secret; with HKDF's own counter they can never be the same.
const KEY_LABEL: &[u8] = b"rum seal key";
const NEXT_LABEL: &[u8] = b"rum seal next";

/// Gives the keys of epoch 0, 1, 2 … in turn.
pub(super) struct Ratchet {
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl Ratchet {
    pub fn new(secret: Zeroizing<[u8; SECRET_BYTES]>) -> Self {
        Self { secret }
    }

    /// The next epoch's key. Does not allocate. The secret is an HKDF pseudo-random key (RFC 5869): it comes from HKDF.
    pub fn next_key(&mut self) -> LessSafeKey {
        let mut key = Zeroizing::new([0; SECRET_BYTES]);
        let mut next = Zeroizing::new([0; SECRET_BYTES]);
        let secret = Prk::new_less_safe(HKDF_SHA256, &self.secret[..]);
        expand(&secret, KEY_LABEL, &mut key);
        expand(&secret, NEXT_LABEL, &mut next);
        // The old secret is overwritten here, and the copy in `next` wiped when it is dropped.
        self.secret.copy_from_slice(&next[..]);
        packet_key(&key)
    }
}

/// The expanded key for packets. It is ring's, which does not wipe it.
pub(super) fn packet_key(key: &[u8; SECRET_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the length is AES-256's"))
}

/// A length for HKDF.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        SECRET_BYTES
    }
}

fn expand(secret: &Prk, label: &[u8], out: &mut [u8; SECRET_BYTES]) {
    let info = [label];
    let expanded = secret.expand(&info, Length).and_then(|output| output.fill(out));
    expanded.expect("HKDF gives this many bytes");
}

#[cfg(test)]
mod tests {
    use ring::aead::{Aad, Nonce};

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Values from HMAC-SHA256 by another implementation: HMAC(secret, label || 0x01), as RFC 5869 defines HKDF-Expand.
    #[test]
    fn known_answers() {
        let mut ratchet = Ratchet::new(Zeroizing::new(std::array::from_fn(|i| i as u8)));
        let mut keys = Vec::new();
        for expected in [NEXT_1, NEXT_2] {
            let mut key = [0; SECRET_BYTES];
            expand(&Prk::new_less_safe(HKDF_SHA256, &ratchet.secret[..]), KEY_LABEL, &mut key);
            keys.push(hex(&key));
            ratchet.next_key();
            assert_eq!(hex(&ratchet.secret[..]), expected);
        }
        assert_eq!(keys, [KEY_0, KEY_1]);
    }

    /// Test case 14 of the specification of GCM (McGrew and Viega): AES-256, all zeros.
    #[test]
    fn packets_are_sealed_with_aes_256_gcm() {
        let mut text = [0; 16];
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = packet_key(&[0; 32]).seal_in_place_separate_tag(nonce, Aad::empty(), &mut text).unwrap();
        assert_eq!(hex(&text), "cea7403d4d606b6e074ec5d3baf39d18");
        assert_eq!(hex(tag.as_ref()), "d0d1c8a799996bf0265b98b5d48ab919");
    }

    const KEY_0: &str = "879eb5625477ae2247693df6f8165dde9edc74310286da7be2f5584a5282ce56";
    const KEY_1: &str = "a2df1d392065fa43116f84ca7031a7951b38780f9c7d2a4d263369114a2966d2";
    const NEXT_1: &str = "fb31d534bf0d678117d3ec997c1f86ad4324ca7269da9f0345a3649ff78d29f9";
    const NEXT_2: &str = "b147e809cfec11659d9cbffea2fa02a5f73dae36928f3580c792b4df5f784d95";
}
