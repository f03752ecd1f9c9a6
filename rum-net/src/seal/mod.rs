//! Sealed sessions: who has a key may open one, and its packets are secret and cannot be changed, forged or replayed.
//! Without I/O and without a clock.
//!
//! `keys` reads the files that name clients and hold their keys. `handshake` turns such a key into secrets that only this
//! session has. `packet` seals and opens packets with them, changing keys long before one is worn out (`ratchet`) and
//! taking each packet once (`replay`). `cookie` lets a server find out that a peer receives at its address before it keeps
//! anything about it.
//!
//! A sealed packet is its header in the clear, the payload encrypted in place, and a trailer:
//!
//! ```text
//!      0              44                    44 + n      +8            +16
//!      +--------------+---------------------+-----------+-------------+
//!      | header (aad) | payload, encrypted  | counter   | tag         |
//!      +--------------+---------------------+-----------+-------------+
//! ```

mod cookie;
mod handshake;
mod keys;
mod packet;
mod ratchet;
mod replay;

pub use cookie::{COOKIE_BYTES, CookieInput, Cookies};
pub use handshake::{
    FIRST_OVERHEAD_BYTES, HandshakeError, Initiator, MAX_HANDSHAKE_PAYLOAD_BYTES, Responder, SECOND_OVERHEAD_BYTES,
    respond,
};
pub use keys::{ClientKey, KEY_BYTES, Key, KeyFile, KeyFileError, MAX_NAME_BYTES, is_name};
pub use packet::{EPOCH_BITS, OpenError, Opener, Sealer, TAG_BYTES, TRAILER_BYTES, Trailer, split_trailer};
pub use replay::{ReplayError, ReplayWindow, WINDOW_PACKETS};
