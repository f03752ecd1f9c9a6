//! What tests share.

pub mod namespaces;
