//! vhost-user with both sides in Rust and without EAL: the local default transport.
//!
//! The slave serves one Unix socket for all clients (`VhostListenPort`); each client that connects
//! (`VhostClientPort`) shares one sealed memfd with it, in which lie a virtio-net device's two rings and their
//! buffers. Packets travel through that memory; a side that sleeps is woken by an eventfd.
//!
//! `VhostSwitchPort` has the client's role, too, on a socket of its own: a software switch connects to it and is the device
//! that carries its packets to all the slaves behind the switch.
//!
//! | file | job |
//! |---|---|
//! | `shared` | single accesses to memory that the other side may change |
//! | `memory_map` | map a client's memory if that is safe, translate its addresses |
//! | `ring` | the shared parts of a split virtqueue |
//! | `device_ring`, `driver_ring` | the slave's side of it, and the client's |
//! | `notify` | eventfds, poll, a signal that never blocks |
//! | `negotiation` | the slave's handler of vhost-user messages |
//! | `connection` | one client, as the slave sees it |
//! | `socket_file` | the file of the slave's socket |
//! | `listener` | the slave's port |
//! | `handshake` | the driver's messages |
//! | `driver` | the driver's memory, rings and sleep |
//! | `client` | the client's port towards one slave |
//! | `switch_port` | the port of a software switch |
//!
//! A slave trusts no client: see `connection` for messages, `memory_map` for memory, `ring` for rings, `notify` for
//! calls. Whatever a client does wrong closes that client only, and is counted in `VhostStats`.
#![allow(unsafe_code)]

mod calls;
mod client;
mod connection;
mod device_ring;
mod driver;
mod driver_ring;
mod handshake;
mod listener;
mod memory_map;
mod negotiation;
mod notify;
mod ring;
mod shared;
mod socket_file;
mod stats;
mod switch_port;

pub use client::{ConnectError, VhostClientPort};
pub use listener::{ListenOptions, VhostListenPort};
pub use socket_file::BindError;
pub use stats::{CloseReason, VhostStats};
pub use switch_port::{SwitchPortOptions, VhostSwitchPort};

use super::MacAddr;

/// Bytes of the Ethernet header of each packet.
const ETHERNET_HEADER_BYTES: usize = 14;
/// The most bytes after the Ethernet header: a page, and half a kilobyte for headers.
pub const MTU: usize = 4608;
/// The longest packet with its virtio-net and Ethernet headers.
const MAX_PACKET_BYTES: usize = ring::NET_HEADER_BYTES + ETHERNET_HEADER_BYTES + MTU;

/// virtio 1.0 or newer.
const F_VERSION_1: u64 = 1 << 32;
/// A packet for the client may lie in several buffers.
const F_MRG_RXBUF: u64 = 1 << 15;
/// Not virtio's but vhost-user's own: the protocol has features, and rings are enabled one by one.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// A random, locally administered unicast address. From the kernel's generator, so that a forked child's differs.
fn random_mac() -> MacAddr {
    let mut bytes = [0u8; 6];
    // SAFETY: fills a live array of 6 bytes; for so few the call neither fails nor is interrupted once seeded.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes[0] = bytes[0] & !1 | 2;
    MacAddr(bytes)
}
