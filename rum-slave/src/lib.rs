//! The page server of RUM.
#![forbid(unsafe_code)]
