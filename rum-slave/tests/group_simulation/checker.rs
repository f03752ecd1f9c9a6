//! What clients saw, and whether that could be.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rum_net::wire::message::ExtentRef;

use crate::registers::Registers;
pub use crate::registers::Value;

#[derive(Default)]
pub struct Checker {
    /// Pages that several clients use.
    shared: Registers<(ExtentRef, u8)>,
    /// Extents that were given out, for ever.
    given: HashMap<ExtentRef, u128>,
    /// Of clients that knew that they were fenced when they wrote them.
    forbidden: HashSet<Value>,
    pub reads: u64,
    pub writes: u64,
}

impl Checker {
    /// An extent was given to a client: no other may ever have had it by this name.
    pub fn on_given(&mut self, extent: ExtentRef, client: u128) {
        let former = self.given.insert(extent, client);
        assert!(former.is_none_or(|former| former == client), "{extent:?} was given to {former:x?} and {client:x}");
    }

    pub fn forbid(&mut self, value: Value) {
        self.forbidden.insert(value);
    }

    /// A client begins to write a value to a shared page.
    pub fn on_write_begun(&mut self, page: (ExtentRef, u8), value: Value, now: Duration) {
        self.shared.begin_write(page, value, now);
    }

    pub fn on_written(&mut self, page: (ExtentRef, u8), value: Value, now: Duration) {
        self.shared.written(page, value, now);
    }

    pub fn on_shared_read(&mut self, page: (ExtentRef, u8), value: Value, time: (Duration, Duration)) {
        assert!(!self.forbidden.contains(&value), "{page:?} holds what a fenced client wrote");
        self.shared.read(page, value, time);
    }

    /// Whether each shared page was linearizable.
    pub fn check_shared(&self) {
        self.shared.check().unwrap_or_else(|problem| panic!("{problem}"));
    }
}
