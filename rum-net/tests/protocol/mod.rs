//! What the document's tables are held against.

pub mod document;
pub mod enumerations;
pub mod layouts;
pub mod source;
