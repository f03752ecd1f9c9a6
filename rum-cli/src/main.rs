//! The command `rum`.
fn main() {}
