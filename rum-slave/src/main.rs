//! Starts a slave.
#![forbid(unsafe_code)]
fn main() {}
