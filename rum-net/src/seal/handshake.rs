//! Noise_NNpsk0_25519_AESGCM_SHA256 (The Noise Protocol Framework, revision 34), from the crate `snow`: two messages, in which
//! both sides prove that they hold the client's key and agree on secrets that only this session has. Who learns the key later
//! can open nothing of it.
//!
//! ```text
//! first    0              32                           32 + n
//!          +--------------+----------------------------+--------+
//!          | ephemeral key| payload, encrypted         | tag    |
//!          +--------------+----------------------------+--------+
//! second   the same
//! ```
//! The first message can be replayed: whoever holds one can show it again, and the responder answers. It proves nothing about the
//! present until a packet of the session opens, which only a holder of the key can seal. Until then the responder must not
//! let the new session take the place of another one.
//!
//! **Allocation.** `Initiator::new` and `Responder::read` allocate: snow boxes its ciphers, hash and keys. Dropping an
//! `Initiator` frees them, as `Responder::answer` does. In between nothing allocates, neither the messages nor what comes of them:
//! snow decrypts in place if the room for the payload has 16 bytes to spare, and these functions give it such room.

use snow::{Builder, HandshakeState, params::NoiseParams};
use zeroize::{Zeroize, Zeroizing};

use super::{EPOCH_BITS, Key, Opener, Sealer, TAG_BYTES};

/// Bytes of a payload in a handshake, at most.
pub const MAX_HANDSHAKE_PAYLOAD_BYTES: usize = 512;
/// Bytes that the first message has beyond its payload.
pub const FIRST_OVERHEAD_BYTES: usize = EPHEMERAL_BYTES + TAG_BYTES;
/// Bytes that the second message has beyond its payload.
pub const SECOND_OVERHEAD_BYTES: usize = EPHEMERAL_BYTES + TAG_BYTES;

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
const EPHEMERAL_BYTES: usize = 32;

/// Why a message of a handshake was not made or not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other side has not this key, or does not agree on the prologue, or the message is damaged.
    #[error("the handshake's message is not by a holder of the key, or damaged")]
    Refused,
    /// Too long, too short, or no room for what comes of it.
    #[error("a message of the handshake has the wrong length")]
    Length,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// This handshake expects another message, or none.
    #[error("the handshake expects another message")]
    Order,
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Decrypt | snow::Error::Dh => Self::Refused,
            snow::Error::Rng => Self::Random,
            snow::Error::State(_) => Self::Order,
            _ => Self::Length,
        }
    }
}

/// The side that opens the session: the client.
#[derive(Debug)]
pub struct Initiator {
    state: HandshakeState,
}

impl Initiator {
    /// Begins a handshake. Both sides must have the same `prologue`: all that was said in the clear before. Allocates.
    pub fn new(key: &Key, prologue: &[u8]) -> Result<Self, HandshakeError> {
        Ok(Self { state: builder(key, prologue)?.build_initiator()? })
    }

    /// Writes the first message into `out`, once; gives its length, which is the payload's and `FIRST_OVERHEAD_BYTES`. To send
    /// it again, send the same bytes again. Does not allocate.
    pub fn first_message(&mut self, payload: &[u8], out: &mut [u8]) -> Result<usize, HandshakeError> {
        write(&mut self.state, payload, out)
    }

    /// Reads the second message. Gives the length of its payload, and how to seal and open packets. Does not allocate.
    ///
    /// # Errors
    /// The message is to be dropped; the right one may still come. After the right one no other is taken.
    pub fn finish(&mut self, second: &[u8], payload_out: &mut [u8]) -> Result<(usize, Sealer, Opener), HandshakeError> {
        let length = read(&mut self.state, second, payload_out)?;
        let (ours, theirs) = split(&mut self.state);
        Ok((length, Sealer::new(ours, EPOCH_BITS), Opener::new(theirs, EPOCH_BITS)))
    }
}

/// The side that lets clients in, after it has read a first message.
#[derive(Debug)]
pub struct Responder {
    state: HandshakeState,
}

impl Responder {
    /// Reads a first message; gives the length of its payload. Costs some hashes if it is forged. Allocates.
    pub fn read(
        key: &Key,
        prologue: &[u8],
        first: &[u8],
        payload_out: &mut [u8],
    ) -> Result<(Self, usize), HandshakeError> {
        let mut state = builder(key, prologue)?.build_responder()?;
        let length = read(&mut state, first, payload_out)?;
        Ok((Self { state }, length))
    }

    /// Writes the second message into `out`. Gives its length, which is the payload's and `SECOND_OVERHEAD_BYTES`, and how to
    /// seal and open packets. Does not allocate.
    pub fn answer(mut self, payload: &[u8], out: &mut [u8]) -> Result<(usize, Sealer, Opener), HandshakeError> {
        let length = write(&mut self.state, payload, out)?;
        let (theirs, ours) = split(&mut self.state);
        Ok((length, Sealer::new(ours, EPOCH_BITS), Opener::new(theirs, EPOCH_BITS)))
    }
}

/// `Responder::read` and `answer` in one, for an answer that does not depend on what the first message says.
pub fn respond(
    key: &Key,
    prologue: &[u8],
    first: &[u8],
    first_payload_out: &mut [u8],
    second_payload: &[u8],
    out: &mut [u8],
) -> Result<(usize, Sealer, Opener), HandshakeError> {
    let (responder, _) = Responder::read(key, prologue, first, first_payload_out)?;
    responder.answer(second_payload, out)
}

fn builder<'a>(key: &'a Key, prologue: &'a [u8]) -> Result<Builder<'a>, HandshakeError> {
    let pattern: NoiseParams = PATTERN.parse()?;
    Ok(Builder::new(pattern).psk(0, key.bytes())?.prologue(prologue)?)
}

fn write(state: &mut HandshakeState, payload: &[u8], out: &mut [u8]) -> Result<usize, HandshakeError> {
    if payload.len() > MAX_HANDSHAKE_PAYLOAD_BYTES || out.len() < payload.len() + EPHEMERAL_BYTES + TAG_BYTES {
        return Err(HandshakeError::Length);
    }
    Ok(state.write_message(payload, out)?)
}

fn read(state: &mut HandshakeState, message: &[u8], payload_out: &mut [u8]) -> Result<usize, HandshakeError> {
    let length = message.len().checked_sub(EPHEMERAL_BYTES + TAG_BYTES).ok_or(HandshakeError::Length)?;
    if length > MAX_HANDSHAKE_PAYLOAD_BYTES || length > payload_out.len() {
        return Err(HandshakeError::Length);
    }
    let mut room = Zeroizing::new([0; MAX_HANDSHAKE_PAYLOAD_BYTES + TAG_BYTES]);
    let length = state.read_message(message, &mut room[..])?;
    payload_out[..length].copy_from_slice(&room[..length]);
    Ok(length)
}

/// The initiator's and the responder's secret.
fn split(state: &mut HandshakeState) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
    let (mut first, mut second) = state.dangerously_get_raw_split();
    let secrets = (Zeroizing::new(first), Zeroizing::new(second));
    first.zeroize();
    second.zeroize();
    secrets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::aead::{Aad, NONCE_LEN, Nonce};

    use super::{super::ratchet::packet_key, *};

    const PROLOGUE: &[u8] = b"what was said before";

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    fn begin(payload: &[u8]) -> (Initiator, Vec<u8>) {
        let mut initiator = Initiator::new(&key(1), PROLOGUE).unwrap();
        let mut first = vec![0; payload.len() + FIRST_OVERHEAD_BYTES];
        assert_eq!(initiator.first_message(payload, &mut first), Ok(first.len()));
        (initiator, first)
    }

    fn answer(first: &[u8], payload: &[u8]) -> Result<(Vec<u8>, Vec<u8>, Sealer, Opener), HandshakeError> {
        let mut received = vec![0; first.len()];
        let (responder, length) = Responder::read(&key(1), PROLOGUE, first, &mut received)?;
        received.truncate(length);
        let mut second = vec![0; payload.len() + SECOND_OVERHEAD_BYTES];
        let (length, sealer, opener) = responder.answer(payload, &mut second)?;
        assert_eq!(length, second.len());
        Ok((received, second, sealer, opener))
    }

    /// A packet from one side opens on the other, and not on its own.
    fn talks(sealer: &mut Sealer, opener: &mut Opener) -> bool {
        let mut text = *b"some page";
        let trailer = sealer.seal(b"header", &mut text);
        opener.open(b"header", &mut text, &trailer).is_ok() && &text == b"some page"
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]
        #[test]
        fn both_sides_agree(
            first_payload in prop::collection::vec(any::<u8>(), 0..MAX_HANDSHAKE_PAYLOAD_BYTES),
            second_payload in prop::collection::vec(any::<u8>(), 0..MAX_HANDSHAKE_PAYLOAD_BYTES),
        ) {
            let (mut initiator, first) = begin(&first_payload);
            let (received, second, mut sealer, mut opener) = answer(&first, &second_payload).unwrap();
            prop_assert_eq!(received, first_payload);
            let mut received = [0; MAX_HANDSHAKE_PAYLOAD_BYTES];
            let (length, mut client_sealer, mut client_opener) = initiator.finish(&second, &mut received).unwrap();
            prop_assert_eq!(&received[..length], &second_payload[..]);
            prop_assert!(talks(&mut client_sealer, &mut opener));
            prop_assert!(talks(&mut sealer, &mut client_opener));
            prop_assert!(!talks(&mut sealer, &mut opener), "each direction has its own keys");
        }

        #[test]
        fn any_bytes_are_refused(message in prop::collection::vec(any::<u8>(), 0..700)) {
            let mut out = [0; 700];
            prop_assert!(Responder::read(&key(1), PROLOGUE, &message, &mut out).is_err());
            let (mut initiator, _) = begin(b"");
            prop_assert!(initiator.finish(&message, &mut out).is_err());
        }
    }

    #[test]
    fn another_key_or_prologue_is_refused() {
        let (_, first) = begin(b"hello");
        let mut out = [0; 64];
        for (key, prologue) in [(key(2), PROLOGUE), (key(1), &b"something else"[..])] {
            assert_eq!(Responder::read(&key, prologue, &first, &mut out).err(), Some(HandshakeError::Refused));
        }
        assert!(Responder::read(&key(1), PROLOGUE, &first, &mut out).is_ok());
    }

    #[test]
    fn a_changed_bit_or_a_cut_is_refused() {
        let (_, first) = begin(b"hello");
        for bit in 0..first.len() * 8 {
            let mut wrong = first.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(answer(&wrong, b"").err(), Some(HandshakeError::Refused), "bit {bit}");
        }
        for length in 0..first.len() {
            assert!(answer(&first[..length], b"").is_err(), "{length} bytes");
        }
        let mut longer = first;
        longer.push(0);
        assert_eq!(answer(&longer, b"").err(), Some(HandshakeError::Refused));
    }

    #[test]
    fn forged_answers_do_not_keep_the_right_one_out() {
        let (mut initiator, first) = begin(b"hello");
        let (_, second, mut sealer, _) = answer(&first, b"welcome").unwrap();
        let mut out = [0; 64];
        for bit in (0..second.len() * 8).step_by(7) {
            let mut wrong = second.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(initiator.finish(&wrong, &mut out).err(), Some(HandshakeError::Refused), "bit {bit}");
        }
        assert_eq!(initiator.finish(&second[..20], &mut out).err(), Some(HandshakeError::Length));
        let (length, _, mut opener) = initiator.finish(&second, &mut out).unwrap();
        assert_eq!(&out[..length], b"welcome");
        assert!(talks(&mut sealer, &mut opener));
        assert_eq!(initiator.finish(&second, &mut out).err(), Some(HandshakeError::Order));
    }

    #[test]
    fn an_answer_to_another_attempt_is_refused() {
        let (_, first) = begin(b"hello");
        let (mut other, _) = begin(b"hello");
        let (_, second, ..) = answer(&first, b"").unwrap();
        assert_eq!(other.finish(&second, &mut [0; 64]).err(), Some(HandshakeError::Refused));
    }

    #[test]
    fn too_little_room_is_an_error() {
        let mut initiator = Initiator::new(&key(1), PROLOGUE).unwrap();
        assert_eq!(initiator.first_message(b"abc", &mut [0; 50]), Err(HandshakeError::Length));
        let long = [0; MAX_HANDSHAKE_PAYLOAD_BYTES + 1];
        assert_eq!(initiator.first_message(&long, &mut [0; 1000]), Err(HandshakeError::Length));
        let mut first = [0; 100];
        assert_eq!(initiator.first_message(b"abc", &mut first), Ok(51));
        assert_eq!(initiator.first_message(b"abc", &mut first), Err(HandshakeError::Order));
        assert_eq!(Responder::read(&key(1), PROLOGUE, &first[..51], &mut [0; 2]).err(), Some(HandshakeError::Length));
        assert!(respond(&key(1), PROLOGUE, &first[..51], &mut [0; 3], b"", &mut [0; 48]).is_ok());
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// The vector of this pattern in Cacophony's published collection, packets included: the first of each direction has nonce
    /// 0 there and here.
    #[test]
    fn published_vector() {
        let psk = Key::from_bytes(bytes(PSK).try_into().unwrap());
        let (prologue, mut out, mut payload) = (bytes(VECTOR_PROLOGUE), [0; 200], [0; 64]);
        let (ours, theirs) = (bytes(OUR_EPHEMERAL), bytes(THEIR_EPHEMERAL));
        let fixed = |ephemeral| builder(&psk, &prologue).unwrap().fixed_ephemeral_key_for_testing_only(ephemeral);
        let mut initiator = Initiator { state: fixed(&ours).build_initiator().unwrap() };
        let mut responder = Responder { state: fixed(&theirs).build_responder().unwrap() };
        let [first, second, third, fourth] = MESSAGES.map(|(payload, message)| (bytes(payload), bytes(message)));
        let length = initiator.first_message(&first.0, &mut out).unwrap();
        assert_eq!(out[..length], first.1);
        let length = read(&mut responder.state, &first.1, &mut payload).unwrap();
        assert_eq!(payload[..length], first.0);
        let length = write(&mut responder.state, &second.0, &mut out).unwrap();
        assert_eq!(out[..length], second.1);
        initiator.finish(&second.1, &mut payload).unwrap();
        assert_eq!(payload[..second.0.len()], second.0);
        for state in [&mut initiator.state, &mut responder.state] {
            let (from_initiator, from_responder) = split(state);
            for (secret, (mut text, sealed)) in [(from_initiator, third.clone()), (from_responder, fourth.clone())] {
                let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
                let tag = packet_key(&secret).seal_in_place_separate_tag(nonce, Aad::empty(), &mut text).unwrap();
                text.extend_from_slice(tag.as_ref());
                assert_eq!(text, sealed);
            }
        }
    }

    const PSK: &str = "54686973206973206d7920417573747269616e20706572737065637469766521";
    const VECTOR_PROLOGUE: &str = "4a6f686e2047616c74";
    const OUR_EPHEMERAL: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
    const THEIR_EPHEMERAL: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
    const MESSAGES: [(&str, &str); 4] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79447c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088432f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461",
        ),
        ("462e20412e20486179656b", "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6"),
        ("4361726c204d656e676572", "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0"),
    ];
}
