//! Wire formats: zero-copy packet views and validated representations. Every decoder is total: it never panics and
//! never reads past the end, whatever the bytes.
pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod header;
pub mod hello;
pub mod ipv4;
pub mod message;
pub mod udp;

/// The `N` bytes at `at`, which the caller has checked to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
