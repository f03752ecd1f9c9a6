//! The port of a software switch: the client's role in vhost-user, on a socket that this process serves.

use std::{
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use super::{
    driver::Driver,
    handshake::Handshake,
    notify, random_mac,
    ring::PushError,
    socket_file::{self, BindError, SocketFile},
};
use crate::port::{LinkId, MacAddr, Port, TransmitError};

/// How long a switch that has connected may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Receives without a packet between two looks at the sockets: whether the switch still lives, and whether one waits.
const EMPTY_POLLS_BETWEEN_CHECKS: u32 = 4096;
const POLLS_BETWEEN_CHECKS_WITHOUT_SWITCH: u32 = 64;
/// Connections looked at in one go that come to nothing.
const FAILURES_A_TURN: usize = 8;

/// Settings of a switch's port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SwitchPortOptions {
    /// The port's hardware address; without one a random, locally administered one is drawn.
    pub mac: Option<MacAddr>,
    /// The most bytes behind the Ethernet header. The switch has to carry as many.
    pub mtu: usize,
    /// Permissions of the socket file: the switch may run as another user.
    pub mode: u32,
}

impl SwitchPortOptions {
    /// The longest packets that a switch's port is made for.
    pub const MAX_MTU: usize = 9702;
}

impl Default for SwitchPortOptions {
    fn default() -> Self {
        Self { mac: None, mtu: 1500, mode: 0o600 }
    }
}

/// The other end of the port.
#[derive(Debug)]
enum Switch {
    /// Not there.
    Absent,
    /// Connected, and not ready yet.
    Joining { socket: UnixStream, handshake: Handshake, deadline: Instant },
    /// Its rings run.
    Ready { socket: UnixStream },
}

/// A port of a software switch, which connects to its socket: an Ethernet port, link 0, with all machines behind the switch.
///
/// The port is open from the start. Without a switch nothing is received and nothing can be sent (`TransmitError::Closed`). It
/// accepts a switch whenever one comes, also after another one: each gets memory and rings of its own, so that nothing of an
/// earlier one's remains. One that connects while another is there waits until that one has gone. Nothing here allocates from
/// the heap after `bind`.
#[derive(Debug)]
pub struct VhostSwitchPort {
    name: String,
    mac: MacAddr,
    mtu: usize,
    listener: UnixListener,
    /// Removed at drop.
    _file: SocketFile,
    driver: Driver,
    /// The rings have not been shown to any switch.
    is_fresh: bool,
    switch: Switch,
    polls: u32,
    /// Packets for somebody else: a switch sends what it has not learned the place of to all its ports.
    for_others: u64,
    /// Switches whose handshake was finished.
    joined: u64,
    /// Connections that came to nothing, or were ended because the switch broke the protocol.
    failed: u64,
}

impl VhostSwitchPort {
    /// Serves `path` at once. A socket file that a killed process left is replaced.
    pub fn bind(path: impl AsRef<Path>, options: &SwitchPortOptions) -> Result<Self, BindError> {
        let path = path.as_ref();
        let driver = Driver::new(options.mtu.min(SwitchPortOptions::MAX_MTU));
        let driver = driver.map_err(|error| BindError::io(path, &error))?;
        let (listener, file) = socket_file::serve(path, options.mode)?;
        Ok(Self {
            name: format!("vhost-listen:{}", path.display()),
            mac: options.mac.unwrap_or_else(random_mac),
            mtu: options.mtu.min(SwitchPortOptions::MAX_MTU),
            listener,
            _file: file,
            driver,
            is_fresh: true,
            switch: Switch::Absent,
            polls: 0,
            for_others: 0,
            joined: 0,
            failed: 0,
        })
    }

    /// Whether a switch is there now, as far as was noticed.
    pub fn has_switch(&self) -> bool {
        matches!(self.switch, Switch::Ready { .. })
    }

    /// Switches that have joined so far; one that restarts joins again.
    pub fn joined(&self) -> u64 {
        self.joined
    }

    /// Connections that came to nothing, or ended because the switch broke the protocol.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Notices what the sockets have: a switch that goes, one that comes, one that answers. Never blocks.
    fn look(&mut self) {
        self.polls = 0;
        for _ in 0..FAILURES_A_TURN {
            match &mut self.switch {
                Switch::Ready { socket } => {
                    let mut fds = [notify::poll_for(socket.as_raw_fd(), libc::POLLRDHUP)];
                    if notify::poll(&mut fds, Duration::ZERO).is_err() || fds[0].revents == 0 {
                        return;
                    }
                    self.part();
                }
                Switch::Joining { .. } => {
                    if !self.join() {
                        return;
                    }
                }
                Switch::Absent => {
                    if !self.accept() {
                        return;
                    }
                }
            }
        }
    }

    /// Says whether a connection was there.
    fn accept(&mut self) -> bool {
        let Ok((socket, _)) = self.listener.accept() else { return false };
        if !self.is_fresh && self.driver.renew().is_err() {
            // Short of descriptors or memory. The switch will try again.
            self.failed += 1;
            return false;
        }
        self.is_fresh = true;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        self.switch = Switch::Joining { socket, handshake: Handshake::default(), deadline };
        true
    }

    /// Goes on with the handshake; whether it has ended, well or badly.
    fn join(&mut self) -> bool {
        let Switch::Joining { socket, handshake, deadline } = &mut self.switch else { return true };
        let offer = self.driver.offer();
        match offer.map(|offer| handshake.advance(socket, &offer)) {
            Some(Ok(false)) if Instant::now() < *deadline => false,
            Some(Ok(true)) => {
                self.driver.offered();
                self.is_fresh = false;
                self.joined += 1;
                if let Switch::Joining { socket, .. } = std::mem::replace(&mut self.switch, Switch::Absent) {
                    self.switch = Switch::Ready { socket };
                }
                true
            }
            _ => {
                self.failed += 1;
                self.part();
                true
            }
        }
    }

    /// Ends the connection. The rings are renewed before the next one.
    fn part(&mut self) {
        self.is_fresh = false;
        self.switch = Switch::Absent;
    }

    fn break_off(&mut self) {
        self.failed += 1;
        self.part();
    }
}

impl Port for VhostSwitchPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    #[inline]
    fn transmit(&mut self, _link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        if !self.has_switch() {
            return Err(TransmitError::Closed);
        }
        self.driver.transmit(parts).map_err(|error| match error {
            PushError::Full => TransmitError::Full,
            PushError::TooLong => TransmitError::TooLong,
            PushError::Violation(_) => {
                self.break_off();
                TransmitError::Closed
            }
        })
    }

    #[inline]
    fn flush(&mut self) {
        if self.has_switch() {
            self.driver.flush();
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        if !self.has_switch() {
            self.polls += 1;
            if self.polls >= POLLS_BETWEEN_CHECKS_WITHOUT_SWITCH {
                self.look();
            }
            return 0;
        }
        let (mac, others) = (self.mac.0, &mut self.for_others);
        let (count, violation) = self.driver.receive(budget, &mut |link, frame| match frame.first_chunk::<6>() {
            Some(to) if *to == mac || to[0] & 1 != 0 => sink(link, frame),
            _ => *others += 1,
        });
        if violation.is_some() {
            self.break_off();
        }
        self.polls = if count > 0 { 0 } else { self.polls + 1 };
        if self.polls >= EMPTY_POLLS_BETWEEN_CHECKS {
            self.look();
        }
        count
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        if !self.has_switch() {
            // So that what waits on the sockets is not slept over, nor a handshake that ends here.
            self.look();
        }
        let is_ready = self.has_switch();
        let (socket, event, longest) = match &self.switch {
            Switch::Absent => (self.listener.as_raw_fd(), libc::POLLIN, timeout),
            Switch::Joining { socket, handshake, deadline } => {
                let left = deadline.saturating_duration_since(Instant::now());
                (socket.as_raw_fd(), handshake.awaits(), timeout.min(left))
            }
            Switch::Ready { socket } => (socket.as_raw_fd(), libc::POLLRDHUP, timeout),
        };
        if is_ready && self.driver.ask_for_calls() {
            self.driver.decline_calls();
            return Ok(());
        }
        let call = if is_ready { self.driver.call.as_raw_fd() } else { -1 };
        let mut fds = [
            notify::poll_for(call, libc::POLLIN),
            notify::poll_for(socket, event),
            notify::poll_for(wake.unwrap_or(-1), libc::POLLIN),
        ];
        let result = notify::poll(&mut fds, longest);
        if is_ready {
            if fds[0].revents != 0 {
                notify::drain(&self.driver.call);
            }
            self.driver.decline_calls();
        }
        if fds[1].revents != 0 {
            self.look();
        }
        result
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        self.driver.counters(sink);
        sink("dropped_filtered", self.for_others);
        sink("switches_joined", self.joined);
        sink("switches_failed", self.failed);
    }
}
