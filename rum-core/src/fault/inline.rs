//! `uffd-inline`: a missing page raises SIGBUS in the thread that touched it, and that thread serves itself.

use std::sync::Arc;

use super::{PageNumber, registry::Region, uffd_memory::UffdRegion};

/// A page that is missing or write-protected: `BUS_ADRERR`.
const BUS_ADRERR: i32 = 2;

/// A region whose faults arrive as SIGBUS.
pub(super) struct Inline(pub Arc<UffdRegion>);

impl Region for Inline {
    fn is_forked(&self) -> bool {
        self.0.layout.is_forked()
    }

    fn claims(&self, signal: i32, code: i32, _page: PageNumber) -> bool {
        signal == libc::SIGBUS && code == BUS_ADRERR
    }

    fn close(&self) {
        self.0.close();
    }
}
