//! The place of a port whose other end is not there yet.

use std::{io, os::fd::RawFd, thread, time::Duration};

use super::{LinkId, MacAddr, Port, TransmitError};

/// A port that is closed, until the right one takes its place.
#[derive(Debug)]
pub struct AbsentPort {
    name: String,
    mtu: usize,
    shares_memory: bool,
}

impl AbsentPort {
    /// In the place of a port that would be called `name`, with this MTU in bytes.
    pub fn new(name: String, mtu: usize, shares_memory: bool) -> Self {
        Self { name, mtu, shares_memory }
    }
}

impl Port for AbsentPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        MacAddr::default()
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn transmit(&mut self, _link: LinkId, _parts: &[&[u8]]) -> Result<(), TransmitError> {
        Err(TransmitError::Closed)
    }

    fn flush(&mut self) {}

    fn receive(&mut self, _budget: usize, _sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        0
    }

    fn wait(&mut self, timeout: Duration, _wake: Option<RawFd>) -> io::Result<()> {
        thread::sleep(timeout);
        Ok(())
    }

    fn shares_memory(&self) -> bool {
        self.shares_memory
    }

    fn is_closed(&self) -> bool {
        true
    }
}
