//! Capture: a middleware that writes every packet that any port sends or receives into a pcapng file, which Wireshark
//! and tshark read (with `tools/rum.lua` down to the last field).
//!
//! The port's thread copies a packet into memory taken at start, and a thread of its own writes from there: a write to
//! a file takes as long as the disk likes, and a port that waited for it would make its peers send again what is not
//! lost. So a disk that is too slow costs packets in the capture, never the program its time; they are counted, and
//! the count is in the file's last block. The writer passes on what it finds within a millisecond, in whole blocks:
//! a process that is killed loses from its capture at most what it did in that last millisecond.
//!
//! The file has the contents of pages, sealed sessions aside: it is created for its owner's eyes only.

mod file;
mod pcapng;
mod writer;

use std::{
    io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::{
    pcapng::{Direction, PACKET_OVERHEAD_BYTES},
    writer::Writer,
};
use super::{LinkId, MacAddr, Port, TransmitError};

/// A capture file that cannot be written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot capture packets in {path}: {why}")]
pub struct CaptureError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub why: String,
}

/// A port whose packets are captured.
#[derive(Debug)]
pub struct Capture<P> {
    inner: P,
    name: String,
    path: PathBuf,
    writer: Writer,
}

impl<P: Port> Capture<P> {
    /// Captures the packets of a port in the file `path`, which is created or emptied. While another port of this or
    /// another process writes that file, a name of this process and a number takes its place: see [`Capture::path`].
    pub fn new(inner: P, path: &Path) -> Result<Self, CaptureError> {
        let fail = |why: io::Error| CaptureError { path: path.to_owned(), why: why.to_string() };
        let (file, path) = file::create(path).map_err(fail)?;
        let mut first = Vec::new();
        pcapng::begin(&mut first, inner.name(), inner.mac());
        let writer = Writer::start(file, &first).map_err(fail)?;
        let name = format!("{} captured in {}", inner.name(), path.display());
        tracing::info!("{name}");
        Ok(Self { inner, name, path, writer })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether all that was captured so far is in the file.
    pub fn is_written(&self) -> bool {
        self.writer.is_written()
    }
}

impl<P: Port> Port for Capture<P> {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.inner.mac()
    }

    fn mtu(&self) -> usize {
        self.inner.mtu()
    }

    /// What the port refuses is not captured.
    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        self.inner.transmit(link, parts)?;
        capture(&mut self.writer, Direction::Outbound, link, parts);
        Ok(())
    }

    fn flush(&mut self) {
        self.inner.flush();
        self.writer.kick();
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let Self { inner, writer, .. } = self;
        let received = inner.receive(budget, &mut |link, frame| {
            capture(writer, Direction::Inbound, link, &[frame]);
            sink(link, frame);
        });
        if received > 0 {
            writer.kick();
        }
        received
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        self.writer.kick();
        self.inner.wait(timeout, wake)
    }

    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        self.inner.link_changes(sink);
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn shares_memory(&self) -> bool {
        self.inner.shares_memory()
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        let (packets, missed) = self.writer.counts();
        sink("captured", packets - missed);
        sink("dropped_from_capture", missed);
        self.inner.counters(sink);
    }
}

fn capture(writer: &mut Writer, direction: Direction, link: LinkId, parts: &[&[u8]]) {
    let bytes = parts.iter().map(|part| part.len()).sum::<usize>() + PACKET_OVERHEAD_BYTES;
    writer.add(bytes, |out| pcapng::packet(out, now_ns(), direction, link, parts));
}

/// Nanoseconds since 1970, the time base of a capture.
fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
