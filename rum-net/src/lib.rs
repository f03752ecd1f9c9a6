//! The network of RUM, in layers: `wire` (packet views), `seal` (lets in who has a key, and hides and guards what they
//! say), `rpc` (a reliable request/response endpoint without I/O and without a clock), `port` (packet interfaces) and
//! `station` (a port with the framing on it: raw Ethernet, or IPv4 and UDP). `fabric` joins them for a client: one session
//! with every slave, over one port or several. `machines` reads who the slaves are, `placement` says which of them keeps what.
#![deny(unsafe_code)]

pub mod fabric;
pub mod machines;
pub mod packet;
pub mod placement;
pub mod port;
pub mod rpc;
pub mod seal;
pub mod shared;
pub mod station;
pub mod units;
pub mod wire;

/// Bytes in a page: the unit of transfer and of checksums.
pub const PAGE_BYTES: usize = 4096;
/// Pages in an extent: the unit of reservation, ownership and reclaim (1 MiB).
pub const EXTENT_PAGES: usize = 256;
/// Bytes in an extent.
pub const EXTENT_BYTES: usize = EXTENT_PAGES * PAGE_BYTES;
