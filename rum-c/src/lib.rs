//! librum.
