//! Ports over DPDK: kernel interfaces by af_packet and af_xdp, PCI devices, and any virtual device.
#![allow(unsafe_code)]

mod device;
mod eal;
mod error;
mod netdev;
mod plan;

use std::{
    io,
    os::fd::RawFd,
    ptr, slice,
    time::{Duration, Instant},
};

use dpdk_sys as sys;

pub use self::error::DpdkError;
use self::{
    device::Device,
    plan::{Plan, Socket},
};
use super::{LinkId, MacAddr, Port, TransmitError, sleep, spec::PortSpec};

/// Packets asked of, or given to, the device at once.
const BURST: usize = 32;
/// The length of an Ethernet header.
const HEADER_BYTES: usize = 14;
/// The shortest Ethernet frame, its checksum not counted; shorter ones are filled up with zeros.
const MIN_FRAME_BYTES: usize = 60;
/// How long a port without a pollable descriptor sleeps before it looks again.
const SLEEP_STEP: Duration = Duration::from_micros(50);
/// How long a port sleeps at most while the device has not taken all that was queued.
const BACKLOG_STEP: Duration = Duration::from_millis(1);

/// How a DPDK port is opened.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DpdkOptions {
    /// Take an interface although the default route leaves by it.
    pub force: bool,
    /// The MTU in bytes of a PCI or virtual device; the driver's default when absent. A kernel interface has its own.
    pub mtu: Option<usize>,
}

/// Counters of a port since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DpdkStats {
    /// Packets that the device handed over.
    pub received: u64,
    /// Packets that the device took.
    pub transmitted: u64,
    /// Packets that the device lost for want of room.
    pub missed: u64,
    /// Broken packets received.
    pub receive_errors: u64,
    /// Packets that the device failed to send.
    pub transmit_errors: u64,
    /// Times that no packet buffer was free for receiving.
    pub receive_no_buffer: u64,
    /// Times that no packet buffer was free for sending.
    pub transmit_no_buffer: u64,
    /// Packets received that were not for this port: another's address, this host's own, or in several pieces.
    pub filtered: u64,
}

/// A DPDK ethdev with one queue in each direction.
///
/// Sending never waits for the peer; af_packet may wait for the kernel while that has a full ring (512 packets) to send.
/// A kernel interface's MTU is read when the port is opened. Open an interface once a process: the driver makes several
/// af_packet ports on it a fanout group, and each gets a part of the packets.
/// Sleeping polls the driver's socket (af_packet, af_xdp); a device without one is looked at every 50 µs, which costs
/// some per cent of a CPU. After a fork the child's copy is closed: it sends and receives nothing.
pub struct DpdkPort {
    name: String,
    device: Device,
    /// The driver's packet socket, if it has one.
    packet_socket: Option<RawFd>,
    /// Received and not yet handed over: `received[next..len]`.
    received: [*mut sys::rte_mbuf; BURST],
    received_next: usize,
    received_len: usize,
    /// To be sent: `queued[..len]`.
    queued: [*mut sys::rte_mbuf; BURST],
    queued_len: usize,
    is_gone: bool,
    filtered: u64,
    transmit_no_buffer: u64,
}

// SAFETY: the pointers are to mbufs that only this value owns; DPDK lets any thread use a queue and its buffers as
// long as only one does at a time, which `&mut self` ensures.
unsafe impl Send for DpdkPort {}

impl DpdkPort {
    /// Opens `spec`, which must name a DPDK transport. Starts EAL if this is the process's first such port (some
    /// 150 ms). A process can have 32 of them.
    pub fn open(spec: &PortSpec, options: &DpdkOptions) -> Result<Self, DpdkError> {
        let plan = Plan::new(spec, options)?;
        let device = Device::open(spec, &plan)?;
        let packet_socket = device.poll_fd().filter(|_| matches!(plan.socket, Socket::Packet(_)));
        Ok(Self {
            name: spec.to_string(),
            device,
            packet_socket,
            received: [ptr::null_mut(); BURST],
            received_next: 0,
            received_len: 0,
            queued: [ptr::null_mut(); BURST],
            queued_len: 0,
            is_gone: false,
            filtered: 0,
            transmit_no_buffer: 0,
        })
    }

    /// Counters since the port was opened; zeros in a forked child.
    pub fn stats(&self) -> DpdkStats {
        let mut stats = sys::rte_eth_stats::default();
        if !eal::in_forked_child() {
            // SAFETY: the port is open; a place for the counters. A driver without counters leaves zeros.
            unsafe { sys::rte_eth_stats_get(self.device.id(), &mut stats) };
        }
        DpdkStats {
            received: stats.ipackets,
            transmitted: stats.opackets,
            missed: stats.imissed,
            receive_errors: stats.ierrors,
            transmit_errors: stats.oerrors,
            receive_no_buffer: stats.rx_nombuf,
            transmit_no_buffer: self.transmit_no_buffer,
            filtered: self.filtered,
        }
    }

    /// A descriptor that is readable while packets wait in the device, if the driver has one: for a caller that
    /// sleeps on several ports. Call `wait` first with a timeout of zero: packets may also wait in the port.
    pub fn poll_fd(&self) -> Option<RawFd> {
        self.device.poll_fd()
    }

    /// Takes a burst from the device if none is left from the last; returns whether there is a packet.
    fn refill(&mut self) -> bool {
        if self.received_next < self.received_len {
            return true;
        }
        // SAFETY: the port is started, the array has room for BURST pointers, and this thread alone uses the queue.
        let len = unsafe { sys::rum_dpdk_rx_burst(self.device.id(), 0, self.received.as_mut_ptr(), BURST as u16) };
        self.received_next = 0;
        self.received_len = usize::from(len);
        len > 0
    }

    /// Whether a frame is for this port. A packet socket also hears what this host sends, and a switch that has not
    /// learned an address yet floods packets for others.
    fn accepts(&self, frame: &[u8]) -> bool {
        let Some((destination, rest)) = frame.split_first_chunk::<6>() else { return false };
        let Some(source) = rest.first_chunk::<6>() else { return false };
        let mac = self.device.mac().0;
        let is_group = destination[0] & 1 != 0;
        frame.len() >= HEADER_BYTES
            && (is_group || *destination == mac)
            && !(self.packet_socket.is_some() && *source == mac)
    }

    /// Looks whether the kernel has removed the interface, and clears the socket's error so that polling can sleep.
    fn check_gone(&mut self) {
        if let Some(fd) = self.device.poll_fd() {
            netdev::socket_option(fd, libc::SO_ERROR);
        }
        if let Some(fd) = self.packet_socket {
            self.is_gone |= netdev::bound_interface(fd).is_none();
        }
    }

    /// Sleeps until the driver's socket or `wake` is readable (or a signal came), or, then false, `timeout` has passed.
    fn poll(&mut self, socket: Option<RawFd>, wake: Option<RawFd>, timeout: Duration) -> io::Result<bool> {
        let mut fds = [sleep::poll_for(socket, libc::POLLIN), sleep::poll_for(wake, libc::POLLIN)];
        let is_ready = sleep::poll(&mut fds, timeout)?;
        if fds[0].revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
            self.check_gone();
        }
        Ok(is_ready)
    }
}

impl Port for DpdkPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.device.mac()
    }

    fn mtu(&self) -> usize {
        self.device.mtu()
    }

    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        if link != LinkId(0) || self.is_closed() {
            return Err(TransmitError::Closed);
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.device.mtu() + HEADER_BYTES {
            return Err(TransmitError::TooLong);
        }
        if self.queued_len == BURST {
            self.flush();
            if self.queued_len == BURST {
                return Err(TransmitError::Full);
            }
        }
        // SAFETY: the pool lives as long as the device.
        let mbuf = unsafe { sys::rum_dpdk_mbuf_alloc(self.device.pool()) };
        if mbuf.is_null() {
            self.transmit_no_buffer += 1;
            return Err(TransmitError::Full);
        }
        let padded = len.max(MIN_FRAME_BYTES);
        // SAFETY: a fresh mbuf of our own. `padded` fits an u16, for the MTU of an open port does.
        let data = unsafe { sys::rum_dpdk_mbuf_append(mbuf, padded as u16) };
        if data.is_null() {
            // SAFETY: ours, and not used again.
            unsafe { sys::rum_dpdk_mbuf_free(mbuf) };
            return Err(TransmitError::TooLong);
        }
        // SAFETY: append returned `padded` bytes of the mbuf, into which the parts (`len` in sum) and the zeros go.
        unsafe {
            let mut at = data;
            for part in parts {
                ptr::copy_nonoverlapping(part.as_ptr(), at, part.len());
                at = at.add(part.len());
            }
            ptr::write_bytes(at, 0, padded - len);
        }
        self.queued[self.queued_len] = mbuf;
        self.queued_len += 1;
        Ok(())
    }

    fn flush(&mut self) {
        if self.queued_len == 0 || eal::in_forked_child() {
            return;
        }
        // SAFETY: the port is started, and the first `queued_len` entries are mbufs of our own, the first `sent` of
        // which the device takes over.
        let sent =
            unsafe { sys::rum_dpdk_tx_burst(self.device.id(), 0, self.queued.as_mut_ptr(), self.queued_len as u16) };
        let sent = usize::from(sent);
        self.queued.copy_within(sent..self.queued_len, 0);
        self.queued_len -= sent;
        if sent == 0 {
            self.check_gone();
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        if eal::in_forked_child() {
            return 0;
        }
        let mut delivered = 0;
        // What is filtered counts, too: a flood of others' packets must not keep the caller here.
        for _ in 0..budget {
            if !self.refill() {
                break;
            }
            let mbuf = Received(self.received[self.received_next]);
            self.received_next += 1;
            match mbuf.frame() {
                Some(frame) if self.accepts(frame) => {
                    sink(LinkId(0), frame);
                    delivered += 1;
                }
                _ => self.filtered += 1,
            }
        }
        delivered
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        if self.is_closed() {
            let message = if eal::in_forked_child() {
                "DPDK was started before this process was forked and cannot be used in a forked child"
            } else {
                "the network interface was removed"
            };
            return Err(io::Error::other(message));
        }
        self.flush();
        if self.received_next < self.received_len {
            return Ok(());
        }
        let timeout = if self.queued_len > 0 { timeout.min(BACKLOG_STEP) } else { timeout };
        if let Some(fd) = self.device.poll_fd() {
            self.poll(Some(fd), wake, timeout)?;
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if self.refill() || left.is_zero() || self.poll(None, wake, left.min(SLEEP_STEP))? {
                return Ok(());
            }
        }
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        let stats = self.stats();
        for (name, count) in [
            ("received", stats.received),
            ("transmitted", stats.transmitted),
            ("dropped_missed", stats.missed),
            ("dropped_receive_error", stats.receive_errors),
            ("dropped_transmit_error", stats.transmit_errors),
            ("dropped_receive_no_buffer", stats.receive_no_buffer),
            ("dropped_filtered", stats.filtered),
            ("transmit_no_buffer", stats.transmit_no_buffer),
        ] {
            sink(name, count);
        }
    }

    fn is_closed(&self) -> bool {
        self.is_gone || eal::in_forked_child()
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        if eal::in_forked_child() {
            return;
        }
        let (received, queued) =
            (&mut self.received[self.received_next..self.received_len], &mut self.queued[..self.queued_len]);
        for mbufs in [received, queued] {
            // SAFETY: mbufs of our own that nobody uses again; the device and its pool are dropped after this.
            unsafe { sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), mbufs.len() as u32) };
        }
    }
}

/// An mbuf on its way to the caller; freed when dropped, also if the caller's sink panics.
struct Received(*mut sys::rte_mbuf);

impl Received {
    /// The packet's bytes; `None` when it came in several pieces, for which no port here asks.
    fn frame(&self) -> Option<&[u8]> {
        // SAFETY: the mbuf is ours until it is freed by drop, and the first `data_len` bytes from its data pointer are
        // what the driver wrote.
        unsafe {
            (sys::rum_dpdk_mbuf_segments(self.0) == 1).then(|| {
                let len = usize::from(sys::rum_dpdk_mbuf_data_len(self.0));
                slice::from_raw_parts(sys::rum_dpdk_mbuf_data(self.0), len)
            })
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // SAFETY: ours, and not used again.
        unsafe { sys::rum_dpdk_mbuf_free(self.0) };
    }
}
