//! Wire formats: zero-copy packet views and validated representations.
pub mod message;
