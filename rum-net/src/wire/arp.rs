//! ARP between Ethernet and IPv4 (RFC 826). All integers are in network byte order.
//!
//! ```text
//!      0       2       4   5   6       8
//!      +-------+-------+---+---+-------+-------------+
//!    0 | 1     |0x0800 | 6 | 4 | op    | sender mac  |
//!      +-------+-------+---+---+-------+-----+-------+
//!   14 | sender ip     | target mac  | target ip     |
//!      +---------------+-------------+---------------+
//!                      18            24              28
//! ```
//! | at | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 2 | hardware | 1: Ethernet |
//! | 2 | 2 | protocol | 0x0800: IPv4 |
//! | 4 | 1 | bytes of a hardware address | 6 |
//! | 5 | 1 | bytes of a protocol address | 4 |
//! | 6 | 2 | operation | 1: request, 2: reply |
//! | 8 | 6 | sender's hardware address | |
//! | 14 | 4 | sender's address | |
//! | 18 | 6 | target's hardware address | not looked at in a request |
//! | 24 | 4 | target's address | |
//!
//! What follows is padding of the link.

use std::net::Ipv4Addr;

use super::array;
use crate::port::MacAddr;

/// Bytes of the packet.
pub const PACKET_BYTES: usize = 28;

/// Hardware Ethernet, protocol IPv4, addresses of 6 and 4 bytes.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

mod field {
    pub const OPERATION: usize = 6;
    pub const SENDER_MAC: usize = 8;
    pub const SENDER_IP: usize = 14;
    pub const TARGET_MAC: usize = 18;
    pub const TARGET_IP: usize = 24;
}

/// What an ARP packet is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum ArpOperation {
    /// Who has the target's address?
    Request = 1,
    /// The sender has the sender's address.
    Reply = 2,
}

/// A validated packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpPacket {
    /// What it is for.
    pub operation: ArpOperation,
    /// Who speaks.
    pub sender_mac: MacAddr,
    /// Who speaks.
    pub sender_ip: Ipv4Addr,
    /// Who is spoken to; in a request not known.
    pub target_mac: MacAddr,
    /// Who is spoken to, or sought.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Reads the payload of an Ethernet frame; `None` if it is too short, or not about Ethernet and IPv4.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        if packet.len() < PACKET_BYTES || packet[..field::OPERATION] != KIND {
            return None;
        }
        let operation = match u16::from_be_bytes(array(packet, field::OPERATION)) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return None,
        };
        Some(Self {
            operation,
            sender_mac: MacAddr(array(packet, field::SENDER_MAC)),
            sender_ip: Ipv4Addr::from(array::<4>(packet, field::SENDER_IP)),
            target_mac: MacAddr(array(packet, field::TARGET_MAC)),
            target_ip: Ipv4Addr::from(array::<4>(packet, field::TARGET_IP)),
        })
    }

    /// The packet's bytes.
    pub fn encode(&self) -> [u8; PACKET_BYTES] {
        let mut bytes = [0; PACKET_BYTES];
        bytes[..field::OPERATION].copy_from_slice(&KIND);
        bytes[field::OPERATION..field::SENDER_MAC].copy_from_slice(&(self.operation as u16).to_be_bytes());
        bytes[field::SENDER_MAC..field::SENDER_IP].copy_from_slice(&self.sender_mac.0);
        bytes[field::SENDER_IP..field::TARGET_MAC].copy_from_slice(&self.sender_ip.octets());
        bytes[field::TARGET_MAC..field::TARGET_IP].copy_from_slice(&self.target_mac.0);
        bytes[field::TARGET_IP..].copy_from_slice(&self.target_ip.octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_packet()(
            is_request: bool,
            (sender_mac, target_mac) in any::<([u8; 6], [u8; 6])>(),
            (sender_ip, target_ip) in any::<(u32, u32)>(),
        ) -> ArpPacket {
            ArpPacket {
                operation: if is_request { ArpOperation::Request } else { ArpOperation::Reply },
                sender_mac: MacAddr(sender_mac),
                sender_ip: sender_ip.into(),
                target_mac: MacAddr(target_mac),
                target_ip: target_ip.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn roundtrip_ignores_padding_and_every_cut_is_noticed(packet in any_packet(), padding in 0usize..40) {
            let mut bytes = packet.encode().to_vec();
            for cut in 0..PACKET_BYTES {
                prop_assert_eq!(ArpPacket::decode(&bytes[..cut]), None);
            }
            bytes.resize(PACKET_BYTES + padding, 0xEE);
            prop_assert_eq!(ArpPacket::decode(&bytes), Some(packet));
        }

        #[test]
        fn other_kinds_and_any_bytes_are_refused(
            packet in any_packet(),
            at in 0..field::SENDER_MAC,
            difference in 4u8..,
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut encoded = packet.encode();
            encoded[at] ^= difference;
            prop_assert_eq!(ArpPacket::decode(&encoded), None);
            prop_assert_eq!(ArpPacket::decode(&bytes), None);
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_rfc() {
        let packet = ArpPacket {
            operation: ArpOperation::Reply,
            sender_mac: MacAddr([1; 6]),
            sender_ip: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: MacAddr([2; 6]),
            target_ip: Ipv4Addr::new(10, 0, 0, 2),
        };
        let expected = [0, 1, 8, 0, 6, 4, 0, 2, 1, 1, 1, 1, 1, 1, 10, 0, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 2];
        assert_eq!(packet.encode(), expected);
    }
}
