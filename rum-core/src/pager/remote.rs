//! The pager's only view of the grid.

pub use rum_net::placement::SlaveIndex;
use rum_net::wire::message::ExtentRef;

/// Where an extent of the region lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentHome {
    /// The slave that serves it.
    pub slave: SlaveIndex,
    /// Its name there.
    pub extent: ExtentRef,
}

/// Names an operation in flight; chosen by the pager, below `MAX_OPERATIONS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(pub u16);

/// Operations in flight at once.
pub const MAX_OPERATIONS: usize = 128;

/// Why an operation failed for good. What can be tried again is tried again beneath this interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RemoteFailure {
    /// The slave restarted without its pages.
    #[error("the slave restarted: what this client had stored there is gone (RF 1: nothing is replicated)")]
    SlaveRestarted,
    /// The slave has given this client's extents away: it was silent longer than its lease.
    #[error("this client was silent longer than its lease, and the slave has reclaimed its memory")]
    Fenced,
    /// The slave refused; a mistake in one of the two.
    #[error("the slave refused the request ({0})")]
    Refused(&'static str),
}

/// What became of an operation.
#[derive(Debug)]
pub enum RemoteEvent<'a> {
    /// Bytes of a read's data pages (those that are not zeros, one after the other), or of a call's answer, in any
    /// order, each byte once.
    Bytes {
        /// Where they belong.
        offset: usize,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A read is complete; bit n is set when its n-th page has data, and clear when it is zeros.
    ReadDone {
        /// The pages with data.
        data_pages: u64,
    },
    /// A write or a call is complete; a call's answer has `len` bytes.
    Done {
        /// Bytes of the answer.
        len: usize,
    },
    /// It failed, and the contents are lost.
    Failed(RemoteFailure),
}

/// What a session with a slave is like.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionInfo {
    /// The most bytes that a packet has after its framing: what was found to come through both ways.
    pub mtu_bytes: usize,
    /// Its packets are encrypted and authenticated.
    pub is_sealed: bool,
}

/// Operations on pages and slaves: started by one call, finished by an event of `poll`. Never blocks, never
/// allocates from the program's heap except in `start_call`, and tries lost packets again by itself.
pub trait Remote: Send + 'static {
    /// How many operations on a slave may be started now.
    fn room(&self, slave: SlaveIndex) -> usize;
    /// Starts to read `count` pages of an extent. False when no more can be in flight: poll, then try again.
    fn start_read(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize) -> bool;
    /// How many slaves keep each page.
    fn copies(&self) -> u32 {
        1
    }
    /// Starts to read a page of which wrong contents have come: of the slaves that keep it, one after the other is asked with each `attempt`, counted
    /// from 1. What it has may be old. Fails if it does not answer.
    fn start_read_copy(&mut self, tag: Tag, home: &ExtentHome, page: u32, _attempt: u32) -> bool {
        self.start_read(tag, home, page, 1)
    }
    /// Starts to write `count` pages of an extent; empty `data` makes them zeros. False as `start_read`.
    fn start_write(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize, data: &[u8]) -> bool;
    /// Starts any other request.
    fn start_call(&mut self, tag: Tag, slave: SlaveIndex, message: &[u8]) -> bool;
    /// Receives and sends what there is.
    fn poll(&mut self, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>));
    /// Sleeps for a moment, or until a packet may have arrived.
    fn idle(&mut self);
    /// Called several times a second: keeps sessions alive, and comes back to slaves that have gone. May allocate.
    fn tick(&mut self) {}
    /// Starts to say good-bye to all slaves; no operation may follow.
    fn close(&mut self) {}
    /// Whether all have answered the good-bye.
    fn is_closed(&self) -> bool {
        true
    }
    /// The first slave with which no session is open.
    fn unreached(&self) -> Option<SlaveIndex> {
        None
    }
    /// The session with a slave as it is now.
    fn session(&self, _slave: SlaveIndex) -> SessionInfo {
        SessionInfo::default()
    }
    /// Goes on with a slave that has fenced this client off, as another client that has nothing there yet.
    fn start_anew(&mut self, _slave: SlaveIndex) {}
    /// A slave that has forgotten this client since the last call.
    fn take_loss(&mut self) -> Option<(SlaveIndex, RemoteFailure)> {
        None
    }
}
