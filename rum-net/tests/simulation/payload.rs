//! What the messages hold: a head that says whose it is, and bytes of a table that begin at a place which depends on the
//! whole head, so that a wrong, moved or mixed byte is seen by one comparison.

use std::sync::OnceLock;

use rum_net::rpc::{Incarnation, MAX_MESSAGE_BYTES};

use crate::weather::{Rng, mix};

/// Bytes of a request before its body.
pub const HEAD_BYTES: usize = 40;
/// The longest body of a request.
pub const MAX_BODY_BYTES: usize = MAX_MESSAGE_BYTES - HEAD_BYTES;
/// Places to begin at; a prime, so that it shares no factor with a fragment's length.
const PLACES: usize = 65_521;

/// `len` bytes that depend on `key`.
pub fn bytes(key: u64, len: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut rng = Rng(1);
        (0..PLACES + MAX_MESSAGE_BYTES).map(|_| rng.next() as u8).collect()
    });
    &table[(mix(key) % PLACES as u64) as usize..][..len]
}

/// What a client asks. `asker u32, life u32, number u32, response bytes u32, server u128, digest u64`, then the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Which session of the simulation.
    pub asker: u32,
    /// How often its process had crashed.
    pub life: u32,
    pub number: u32,
    pub response_bytes: u32,
    /// With which the session is.
    pub server: Incarnation,
}

impl Question {
    fn digest(&self) -> u64 {
        let words = [
            u64::from(self.asker) << 32 | u64::from(self.life),
            u64::from(self.number) << 32 | u64::from(self.response_bytes),
            self.server.0 as u64,
            (self.server.0 >> 64) as u64,
        ];
        words.iter().fold(7, |digest, word| mix(digest ^ word))
    }

    pub fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&self.asker.to_le_bytes());
        head[4..8].copy_from_slice(&self.life.to_le_bytes());
        head[8..12].copy_from_slice(&self.number.to_le_bytes());
        head[12..16].copy_from_slice(&self.response_bytes.to_le_bytes());
        head[16..32].copy_from_slice(&self.server.0.to_le_bytes());
        head[32..].copy_from_slice(&self.digest().to_le_bytes());
        head
    }

    pub fn body(&self, len: usize) -> &'static [u8] {
        bytes(self.digest() ^ 1, len)
    }

    pub fn answer(&self) -> &'static [u8] {
        bytes(self.digest() ^ 2, self.response_bytes as usize)
    }

    /// Reads a request; `None` unless all of it is as a client made it.
    pub fn read(message: &[u8]) -> Option<Self> {
        let (head, body) = message.split_at_checked(HEAD_BYTES)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let server = Incarnation(u128::from_le_bytes(head[16..32].try_into().unwrap()));
        let question = Self { asker: word(0), life: word(4), number: word(8), response_bytes: word(12), server };
        (question.head() == head && question.body(body.len()) == body).then_some(question)
    }
}
