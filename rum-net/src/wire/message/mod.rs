//! What clients ask of slaves, and what slaves answer: one file a message. All integers are little-endian.
//!
//! A request is `opcode u8, reserved [u8; 3]`, then the message's own fields. A response is `status u8,
//! reserved [u8; 7]`, then, when the status is `Ok`, the message's own fields.
//!
//! | opcode | request fields | response fields |
//! |---|---|---|
//! | 1 stat | | incarnation u128, capacity, reserved, used (extents, extents, pages: u64 each), sessions u64 |
//! | 2 reserve | count u32 | count × extent (all or none: `Full`) |
//! | 3 release | count u32, count × extent | |
//! | 4 read | count u32 (1 to 32), count × page | kinds [u8; 32] (0 zeros, 1 data), then 4 KiB for each page of data, in order |
//! | 5 write | count u32 (1 to 32), count × page, kinds [u8; 32], then 4 KiB for each page of data | |
//! | 6 open name | hash [u8; 32], size u64, create u8 | size u64, existed u8, extents u32, first extents (see name extents) |
//! | 7 name extents | hash [u8; 32], from u32 | count u32, count × extent |
//! | 8 free name | hash [u8; 32] | |
//! | 9 renew | | |
//! | 10 bye | | |
//!
//! An extent is `index u32, generation u32`; a page is `index u32, generation u32, page u32`. A request names extents
//! by index and generation and is checked against their owner: an address never travels.
