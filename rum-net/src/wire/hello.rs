//! The payloads that open a session. All integers are little-endian.
//!
//! ```text
//! hello        0            16       20      24       28         44     45        46
//!              +------------+--------+-------+--------+----------+------+---------+------+----------+
//!              | client     | mtu    | slots | channel| cookie   |name n|handsh. h| name | handshake|
//!              +------------+--------+-------+--------+----------+------+---------+------+----------+
//! hello-retry  0            16       32
//!              +------------+--------+
//!              | client     | cookie |
//!              +------------+--------+
//! hello-ack    0            16        17        18
//!              +------------+---------+---------+--------------------+
//!              | client     | verdict |handsh. h| grant or handshake |
//!              +------------+---------+---------+--------------------+
//! grant        0            16        24     28     32
//!              +------------+---------+------+------+
//!              | server     | session | mtu  | slots|
//!              +------------+---------+------+------+
//! claim        0            16        24     28       32
//!              +------------+---------+------+--------+
//!              | client     | attempt | slots| channel|
//!              +------------+---------+------+--------+
//! ```
//! A hello is padded to the MTU that it asks for, and the hello-ack that grants one as well: what does not get through is not
//! granted. In a sealed session the grant is in the handshake's second message, and the first one repeats what the hello
//! claims.

use std::fmt;

use super::array;
use crate::seal::{COOKIE_BYTES, FIRST_OVERHEAD_BYTES, MAX_NAME_BYTES, SECOND_OVERHEAD_BYTES};

/// What is in every [`Hello`].
const HELLO_HEAD_BYTES: usize = 46;

/// A client asks for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello<'a> {
    /// The client's incarnation.
    pub client: u128,
    /// The MTU in bytes that the client wants; the hello is as long.
    pub mtu: u32,
    /// Requests that the client wants in flight at once.
    pub slots: u32,
    /// Tells apart the sessions that one client has with one slave.
    pub channel: u32,
    /// As the server gave it for this attempt, or zeros.
    pub cookie: [u8; COOKIE_BYTES],
    /// The client's name in the key file; empty without keys.
    pub name: &'a [u8],
    /// The first message of the handshake, around a [`Claim`]; empty without keys.
    pub handshake: &'a [u8],
}

/// The longest handshake message in a hello.
pub const MAX_FIRST_BYTES: usize = FIRST_OVERHEAD_BYTES + Claim::BYTES;
/// The longest handshake message in a hello-ack.
pub const MAX_SECOND_BYTES: usize = SECOND_OVERHEAD_BYTES + Grant::BYTES;

impl<'a> Hello<'a> {
    /// Bytes of the longest payload, its padding not counted.
    pub const MAX_BYTES: usize = HELLO_HEAD_BYTES + MAX_NAME_BYTES + MAX_FIRST_BYTES;

    /// Reads the payload; `None` if it is too short.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HELLO_HEAD_BYTES)?;
        let (name, rest) = rest.split_at_checked(usize::from(head[44]))?;
        let (handshake, _) = rest.split_at_checked(usize::from(head[45]))?;
        Some(Self {
            client: u128::from_le_bytes(array(head, 0)),
            mtu: u32::from_le_bytes(array(head, 16)),
            slots: u32::from_le_bytes(array(head, 20)),
            channel: u32::from_le_bytes(array(head, 24)),
            cookie: array(head, 28),
            name,
            handshake,
        })
    }

    /// Writes the payload to the front of `out` and gives its length.
    ///
    /// # Panics
    /// If the name or the handshake is longer than 255 bytes, or `out` too short.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let length = |part: &[u8]| u8::try_from(part.len()).expect("a short name and handshake");
        out[..16].copy_from_slice(&self.client.to_le_bytes());
        out[16..20].copy_from_slice(&self.mtu.to_le_bytes());
        out[20..24].copy_from_slice(&self.slots.to_le_bytes());
        out[24..28].copy_from_slice(&self.channel.to_le_bytes());
        out[28..44].copy_from_slice(&self.cookie);
        out[44] = length(self.name);
        out[45] = length(self.handshake);
        let name_end = HELLO_HEAD_BYTES + self.name.len();
        out[HELLO_HEAD_BYTES..name_end].copy_from_slice(self.name);
        let end = name_end + self.handshake.len();
        out[name_end..end].copy_from_slice(self.handshake);
        end
    }
}

/// A server asks a client to ask again with a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloRetry {
    /// The incarnation of the client that is meant.
    pub client: u128,
    /// To be shown in the next hello of this attempt.
    pub cookie: [u8; COOKIE_BYTES],
}

impl HelloRetry {
    /// Bytes of the payload.
    pub const BYTES: usize = 32;

    /// Reads the payload; `None` if it is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::BYTES)
            .then(|| Self { client: u128::from_le_bytes(array(bytes, 0)), cookie: array(bytes, 16) })
    }

    /// The payload's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.client.to_le_bytes());
        bytes[16..].copy_from_slice(&self.cookie);
        bytes
    }
}

/// What a server says to a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// The session is open.
    Granted = 0,
    /// No room for another session.
    Full = 1,
    /// The server lets in clients with a key only.
    KeyNeeded = 2,
    /// No client of this name has this key.
    KeyRefused = 3,
    /// The server has no keys.
    NoKeys = 4,
    /// The incarnation is another client's.
    Taken = 5,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granted => "the session is open",
            Self::Full => "the slave has no room for another client",
            Self::KeyNeeded => "the slave lets in clients with a key only: name your key file in RUM_KEY",
            Self::KeyRefused => {
                "the slave does not know this client's name and key (RUM_KEY): ask for a line in its --keys file"
            }
            Self::NoKeys => {
                "the slave has no keys, and would not seal the session: unset RUM_KEY, or start it with --keys"
            }
            Self::Taken => "another client has this incarnation",
        })
    }
}

impl Verdict {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Granted, Self::Full, Self::KeyNeeded, Self::KeyRefused, Self::NoKeys, Self::Taken]
            .into_iter()
            .find(|verdict| *verdict as u8 == byte)
    }
}

/// A server's answer to a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloAck<'a> {
    /// The incarnation of the client that is meant.
    pub client: u128,
    /// Whether there is a session.
    pub verdict: Verdict,
    /// Of an unsealed session.
    pub grant: Option<Grant>,
    /// The second message of the handshake, around a [`Grant`]; empty in an unsealed session and in a refusal.
    pub handshake: &'a [u8],
}

const ACK_HEAD_BYTES: usize = 18;

impl<'a> HelloAck<'a> {
    /// Bytes of the longest payload, its padding not counted.
    pub const MAX_BYTES: usize = ACK_HEAD_BYTES + MAX_SECOND_BYTES;

    /// Reads the payload; `None` if it is too short or of an unknown verdict.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(ACK_HEAD_BYTES)?;
        let verdict = Verdict::from_byte(head[16])?;
        let handshake = rest.get(..usize::from(head[17]))?;
        let is_clear = verdict == Verdict::Granted && handshake.is_empty();
        let grant = if is_clear { Some(Grant::decode(rest)?) } else { None };
        Some(Self { client: u128::from_le_bytes(array(head, 0)), verdict, grant, handshake })
    }

    /// Writes the payload to the front of `out` and gives its length.
    ///
    /// # Panics
    /// If the handshake is longer than 255 bytes, or `out` too short.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        out[..16].copy_from_slice(&self.client.to_le_bytes());
        out[16] = self.verdict as u8;
        out[17] = u8::try_from(self.handshake.len()).expect("a short handshake");
        let rest = &mut out[ACK_HEAD_BYTES..];
        let rest_bytes = match self.grant {
            Some(grant) => {
                rest[..Grant::BYTES].copy_from_slice(&grant.encode());
                Grant::BYTES
            }
            None => {
                rest[..self.handshake.len()].copy_from_slice(self.handshake);
                self.handshake.len()
            }
        };
        ACK_HEAD_BYTES + rest_bytes
    }
}

/// What a client gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The server's incarnation.
    pub server: u128,
    /// The session's id.
    pub session: u64,
    /// The MTU of the session: the smaller of both sides'.
    pub mtu: u32,
    /// Requests that may be in flight at once (power of two).
    pub slots: u32,
}

impl Grant {
    /// Bytes of the payload.
    pub const BYTES: usize = 32;

    /// Reads it; `None` if it is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::BYTES).then(|| Self {
            server: u128::from_le_bytes(array(bytes, 0)),
            session: u64::from_le_bytes(array(bytes, 16)),
            mtu: u32::from_le_bytes(array(bytes, 24)),
            slots: u32::from_le_bytes(array(bytes, 28)),
        })
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.server.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.session.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[28..].copy_from_slice(&self.slots.to_le_bytes());
        bytes
    }
}

/// What a client claims in the clear, said again under its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The client's incarnation.
    pub client: u128,
    /// The client's attempt.
    pub attempt: u64,
    /// As in the hello.
    pub slots: u32,
    /// As in the hello.
    pub channel: u32,
}

impl Claim {
    /// Bytes of the payload.
    pub const BYTES: usize = 32;

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.client.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.slots.to_le_bytes());
        bytes[28..].copy_from_slice(&self.channel.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_grant()(words in any::<(u128, u64, u32, u32)>()) -> Grant {
            let (server, session, mtu, slots) = words;
            Grant { server, session, mtu, slots }
        }
    }

    proptest! {
        #[test]
        fn roundtrip(
            words in any::<(u128, u32, u32, u32, [u8; COOKIE_BYTES])>(),
            name in prop::collection::vec(any::<u8>(), 0..=MAX_NAME_BYTES),
            handshake in prop::collection::vec(any::<u8>(), 0..=MAX_FIRST_BYTES),
            padding in 0usize..40,
            refused in 1u8..=5,
            grant in any_grant(),
        ) {
            let (client, mtu, slots, channel, cookie) = words;
            let hello = Hello { client, mtu, slots, channel, cookie, name: &name, handshake: &handshake };
            let mut out = [0xEE; 400];
            let length = hello.encode(&mut out);
            prop_assert!(length <= Hello::MAX_BYTES);
            prop_assert_eq!(Hello::decode(&out[..length + padding]), Some(hello));
            prop_assert_eq!(Hello::decode(&out[..length - 1]), None);
            let retry = HelloRetry { client, cookie };
            prop_assert_eq!(HelloRetry::decode(&retry.encode()), Some(retry));
            prop_assert_eq!(Grant::decode(&grant.encode()), Some(grant));
            for short in 0..HelloRetry::BYTES {
                prop_assert_eq!(HelloRetry::decode(&retry.encode()[..short]), None);
                prop_assert_eq!(Grant::decode(&grant.encode()[..short]), None);
            }
            let clear = HelloAck { client, verdict: Verdict::Granted, grant: Some(grant), handshake: &[] };
            let second = &handshake[..];
            let sealed = HelloAck { client, verdict: Verdict::Granted, grant: None, handshake: second };
            let verdict = Verdict::from_byte(refused).unwrap();
            let refusal = HelloAck { client, verdict, grant: None, handshake: &[] };
            for ack in [clear, sealed, refusal] {
                if ack.verdict == Verdict::Granted && ack.grant.is_none() && second.is_empty() {
                    continue;
                }
                let length = ack.encode(&mut out);
                prop_assert!(length <= HelloAck::MAX_BYTES);
                prop_assert_eq!(HelloAck::decode(&out[..length + padding]), Some(ack));
                prop_assert_eq!(HelloAck::decode(&out[..length - 1]), None);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Hello::decode(&bytes), HelloRetry::decode(&bytes), HelloAck::decode(&bytes), Grant::decode(&bytes));
        }
    }
}
