//! What the grid handle takes and returns.

use std::{net::Ipv4Addr, ptr::NonNull, time::Duration};

/// The name of an object that outlives its client: 32 bytes, as a rule the hexadecimal digits of a hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectHash(pub [u8; 32]);

/// The slave an allocation is pinned to, as machines.csv names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Location {
    /// The address column.
    pub ip: String,
    /// The hardware address column.
    pub mac: rum_net::port::MacAddr,
}

/// Why a program could not join the grid. Printed as one line.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A slave did not answer in time.
    #[error("no slave answers at {link} after {waited:?}: start one with `rum-slave --port {link} -m 512M`")]
    Unreachable {
        /// The link as in machines.csv.
        link: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Nobody says that a slave's IP address is his.
    #[error(
        "nobody at {link} answers ARP requests for {ip} after {waited:?}: start the slave there with `rum-slave --port \
         udp:…`, or correct its ip column in machines.csv; behind a router name the router's hardware address in the mac column"
    )]
    NoNeighbour {
        /// The link as in machines.csv.
        link: String,
        /// The slave's address.
        ip: Ipv4Addr,
        /// How long was waited.
        waited: Duration,
    },
    /// A transport could not be opened.
    #[error("cannot open {link}: {why}")]
    Link {
        /// The link as in machines.csv.
        link: String,
        /// What happened and what to do.
        why: String,
    },
    /// The fault engine asked for is not to be had here, or the region cannot be mapped.
    #[error(transparent)]
    Engine(#[from] crate::fault::EngineError),
    /// A slave answered, but not as expected.
    #[error("{link}: {why}")]
    Protocol {
        /// The link as in machines.csv.
        link: String,
        /// What happened and what to do.
        why: String,
    },
    /// The system gave no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// The thread that keeps the leases alive could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A slave does not let this client in.
    #[error("{link}: {why}")]
    Refused {
        /// The link as in machines.csv.
        link: String,
        /// Why, and what to do.
        why: String,
    },
    /// machines.csv or the environment is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
}

/// Why an allocation failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AllocError {
    /// The grid, the client's quota or the region is full.
    #[error("out of far memory: {0}")]
    OutOfMemory(String),
    /// The size or the alignment is not possible.
    #[error("impossible size or alignment")]
    BadLayout,
    /// No slave has this location.
    #[error("no slave at this location in machines.csv")]
    UnknownLocation,
    /// The named object exists with another size.
    #[error("the named object exists with {existing} bytes")]
    SizeDiffers {
        /// Its size in bytes.
        existing: usize,
    },
}

/// Why a pointer could not be freed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FreeError {
    /// It was freed before, or never allocated, inside the region.
    #[error("{0:#x} is not an allocation: freed twice, or not the start of one")]
    NotAllocated(usize),
    /// It lies outside the region.
    #[error("{0:#x} is not far memory")]
    Foreign(usize),
}

/// An object found or created by its hash.
#[derive(Clone, Copy, Debug)]
pub struct NamedObject {
    /// Where it is.
    pub pointer: NonNull<u8>,
    /// Bytes in it.
    pub size: usize,
    /// Whether it existed before the call.
    pub existed: bool,
}

/// Counters since the start, and gauges.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Faults served.
    pub faults: u64,
    /// Faults that fetched from a slave.
    pub fetch_faults: u64,
    /// Pages fetched, those read ahead included.
    pub pages_fetched: u64,
    /// Pages written back, without zero pages.
    pub pages_written: u64,
    /// Pages evicted.
    pub pages_evicted: u64,
    /// Evicted pages that needed no write, clean or zero.
    pub pages_clean: u64,
    /// Pages that came from a slave with contents other than those stored; they were never shown.
    pub pages_wrong: u64,
    /// Of those, pages that another replica had right, and that were written back to all.
    pub pages_repaired: u64,
    /// Bytes resident now: in the region and in loaded frames.
    pub resident_bytes: u64,
    /// The most bytes ever resident.
    pub resident_peak_bytes: u64,
    /// The local budget in bytes.
    pub budget_bytes: u64,
    /// Bytes reserved on the grid.
    pub reserved_bytes: u64,
    /// Bytes the program has allocated and not freed, as it asked for them.
    pub allocated_bytes: u64,
    /// Bytes of the client's own metadata (page table, extent table, allocator) that are in use.
    pub metadata_bytes: u64,
    /// Median time of a fault that fetched, in nanoseconds, over a recent sample.
    pub fault_p50_ns: u64,
    /// 99th percentile of the same.
    pub fault_p99_ns: u64,
    /// The longest fault since the start, in nanoseconds.
    pub fault_longest_ns: u64,
    /// Mean of all faults, eviction included, in nanoseconds.
    pub fault_mean_ns: u64,
}

/// Why a reallocation failed; the old allocation is untouched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReallocError {
    /// No room.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// A wrong pointer.
    #[error(transparent)]
    Free(#[from] FreeError),
}
