//! The payloads that open a session. All integers are little-endian.
//!
//! ```text
//! hello      0            16       20      24       28
//!            +------------+--------+-------+--------+
//!            | client     | mtu    | slots | channel|
//!            +------------+--------+-------+--------+
//! hello-ack  0            16           32       36      40
//!            +------------+------------+--------+-------+
//!            | client     | server     | mtu    | slots |
//!            +------------+------------+--------+-------+
//! ```

use super::array;

/// A client asks for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The client's incarnation.
    pub client: u128,
    /// The client's MTU in bytes.
    pub mtu: u32,
    /// Requests that the client wants in flight at once.
    pub slots: u32,
    /// Tells apart the sessions that one client has with one slave.
    pub channel: u32,
}

impl Hello {
    /// Bytes of the payload.
    pub const BYTES: usize = 28;

    /// Reads the payload; `None` if it is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::BYTES).then(|| Self {
            client: u128::from_le_bytes(array(bytes, 0)),
            mtu: u32::from_le_bytes(array(bytes, 16)),
            slots: u32::from_le_bytes(array(bytes, 20)),
            channel: u32::from_le_bytes(array(bytes, 24)),
        })
    }

    /// The payload's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.client.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.slots.to_le_bytes());
        bytes[24..].copy_from_slice(&self.channel.to_le_bytes());
        bytes
    }
}

/// A server grants a session; its id is in the packet header, 0 when the server has no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloAck {
    /// The incarnation of the client that is meant.
    pub client: u128,
    /// The server's incarnation.
    pub server: u128,
    /// The MTU of the session: the smaller of both sides'.
    pub mtu: u32,
    /// Requests that may be in flight at once (power of two).
    pub slots: u32,
}

impl HelloAck {
    /// Bytes of the payload.
    pub const BYTES: usize = 40;

    /// Reads the payload; `None` if it is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::BYTES).then(|| Self {
            client: u128::from_le_bytes(array(bytes, 0)),
            server: u128::from_le_bytes(array(bytes, 16)),
            mtu: u32::from_le_bytes(array(bytes, 32)),
            slots: u32::from_le_bytes(array(bytes, 36)),
        })
    }

    /// The payload's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.client.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.server.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[36..].copy_from_slice(&self.slots.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn roundtrip(client: u128, server: u128, mtu: u32, slots: u32, channel: u32) {
            let hello = Hello { client, mtu, slots, channel };
            prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
            let ack = HelloAck { client, server, mtu, slots };
            prop_assert_eq!(HelloAck::decode(&ack.encode()), Some(ack));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(Hello::decode(&bytes).is_some(), bytes.len() >= Hello::BYTES);
            prop_assert_eq!(HelloAck::decode(&bytes).is_some(), bytes.len() >= HelloAck::BYTES);
        }
    }
}
