//! The allocator. All its metadata lies outside the region: no call here reads or writes a far page.

/// Where the allocator gets pieces of the region from, and gives them back to: the grid.
pub trait ExtentSource: Send + Sync {
    /// Reserves `extents` (1 MiB each) that lie side by side in the region, on the grid and in it. All their
    /// pages are absent: they read as zeros. Returns the offset in the region, in bytes.
    fn reserve(&self, extents: usize) -> Result<usize, ReserveError>;
    /// Gives extents back to the grid; `offset` and `extents` name extents reserved before, not
    /// necessarily by one call. Their contents are gone.
    fn release(&self, offset: usize, extents: usize);
    /// Makes whole pages absent again (they read as zeros and cost nothing), and keeps them reserved.
    fn discard(&self, offset: usize, bytes: usize);
}

/// Why the grid gave no extents.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReserveError {
    /// Neither the grid nor the client's quota has room.
    #[error("the grid has no room for {extents} more MiB")]
    GridFull {
        /// Extents asked for.
        extents: usize,
    },
    /// The client's own address range is used up.
    #[error("the region has no room for {extents} more MiB side by side")]
    RegionFull {
        /// Extents asked for.
        extents: usize,
    },
}
