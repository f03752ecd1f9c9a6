//! The page server of RUM: serves extents out of its memory to clients that name them by index and generation.
//!
//! `frames` holds the pages of one extent, `extent` the table of extents, `account` whose they are, `name` the named objects, `quota` the
//! capacity, and `store` joins them: it knows pages and owners, but no messages. `lease` knows which clients live.
//! `service` answers one request over the store, without I/O. Where pages are replicated, `group` does the same in agreement with other slaves,
//! and `replication` joins a slave's groups with the way to those. `server` runs either over ports.
#![forbid(unsafe_code)]

pub mod access;
pub mod account;
pub mod description;
pub mod disk;
pub mod extent;
pub mod frames;
pub mod group;
mod idle;
pub mod lease;
pub mod name;
pub mod options;
pub mod port;
pub mod quota;
pub mod replication;
pub mod server;
pub mod service;
pub mod stop;
pub mod store;
pub mod units;

pub use options::{Options, PollOptions};
pub use server::{Slave, SlaveHandle, StartError};
