//! The catalogue program of the demo.
fn main() {}
