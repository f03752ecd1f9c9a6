//! The slave's port: one socket for all clients.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use super::{
    CloseReason, ETHERNET_HEADER_BYTES, MAX_PACKET_BYTES, MTU, VhostStats,
    connection::{Call, Connection, Progress},
    handshake,
    negotiation::{FROM_CLIENT, TO_CLIENT},
    notify::{self, Signaller},
    random_mac,
    ring::{NET_HEADER_BYTES, PushError},
    socket_file::{self, BindError, SocketFile},
};
use crate::port::{LinkId, MacAddr, Port, TransmitError};

/// Packets taken from one client before the next one's turn.
const BURST: usize = 32;
/// So many connections are polled even if they are idle; of more, only those that are not.
const ALWAYS_POLLED: usize = 16;
/// Polls without a packet until a connection counts as idle.
const IDLE_POLLS: u32 = 1024;
/// The descriptors are looked after once in so many polls, a packet counting as four.
const POLLS_BETWEEN_EVENTS: usize = 1024;
/// Bytes of the buffer a packet is copied to; an honest one is far shorter, a longer one is an attack.
const PACKET_BUFFER_BYTES: usize = 64 << 10;
const EVENTS_A_TURN: usize = 64;
const SLOT_BITS: u32 = 16;

/// Settings of a listening port.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Permissions of the socket file.
    pub mode: u32,
    /// Clients at once; further ones are turned away.
    pub max_clients: usize,
    /// The most memory a client may share, in bytes.
    pub max_client_memory_bytes: u64,
    /// A client that has not finished its handshake by then is dropped.
    pub handshake_timeout: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            mode: 0o600,
            max_clients: 4096,
            max_client_memory_bytes: 1 << 30,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// The slave's side of vhost-user. One socket serves all clients; each is a link of its own.
pub struct VhostListenPort {
    name: String,
    mac: MacAddr,
    options: ListenOptions,
    socket: UnixListener,
    file: SocketFile,
    events: OwnedFd,
    /// Kept so that a connection can be accepted, and closed, when there is no other descriptor left.
    spare: Option<OwnedFd>,
    signaller: Signaller,
    slots: Vec<Option<Box<Connection>>>,
    free_slots: Vec<u16>,
    next_serial: u64,
    /// Slots of the connections whose rings are polled.
    polled: Vec<u16>,
    /// Where the next round begins in `polled`.
    cursor: usize,
    /// Slots of the connections with something to publish.
    dirty: Vec<u16>,
    /// Links whose calls were put off, and the earliest time for one of them.
    owed: Vec<LinkId>,
    next_call: Option<Instant>,
    /// Connections still in their handshake.
    negotiating: usize,
    next_sweep: Instant,
    polls_to_events: usize,
    /// Links opened and closed that `link_changes` has not told yet, the latest ones if nobody asks.
    changes: VecDeque<(LinkId, bool)>,
    /// There are some that have not ended a `wait`.
    has_new_changes: bool,
    packet: Box<[u8]>,
    stats: VhostStats,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Socket(LinkId),
    Kick(LinkId),
}

impl Source {
    const LISTENER: u64 = u64::MAX;

    fn to_token(self) -> u64 {
        match self {
            Self::Listener => Self::LISTENER,
            Self::Socket(link) => link.0 << 1,
            Self::Kick(link) => link.0 << 1 | 1,
        }
    }

    fn from_token(token: u64) -> Self {
        match token {
            Self::LISTENER => Self::Listener,
            token if token & 1 == 0 => Self::Socket(LinkId(token >> 1)),
            token => Self::Kick(LinkId(token >> 1)),
        }
    }
}

impl VhostListenPort {
    /// Serves `path`. A socket file that a killed process left is replaced.
    pub fn bind(path: impl AsRef<Path>, options: ListenOptions) -> Result<Self, BindError> {
        let path = path.as_ref().to_owned();
        let (socket, file) = socket_file::serve(&path, options.mode)?;
        let io_error = |error: io::Error| BindError::io(&path, &error);
        let events = new_epoll().map_err(io_error)?;
        watch(&events, socket.as_raw_fd(), libc::EPOLLIN, Source::Listener).map_err(io_error)?;
        let max_clients = options.max_clients.min(1 << SLOT_BITS);
        Ok(Self {
            name: format!("vhost:{}", path.display()),
            mac: random_mac(),
            socket,
            file,
            events,
            spare: spare_descriptor(),
            signaller: Signaller::new().map_err(io_error)?,
            slots: Vec::new(),
            free_slots: Vec::new(),
            next_serial: 1,
            polled: Vec::with_capacity(max_clients),
            cursor: 0,
            dirty: Vec::with_capacity(max_clients),
            owed: Vec::with_capacity(max_clients),
            next_call: None,
            negotiating: 0,
            next_sweep: Instant::now(),
            polls_to_events: 0,
            changes: VecDeque::with_capacity(64),
            has_new_changes: false,
            packet: vec![0; PACKET_BUFFER_BYTES].into_boxed_slice(),
            stats: VhostStats::default(),
            options: ListenOptions { max_clients, ..options },
        })
    }

    /// Connects to a socket that somebody else serves for a device such as this one (`VhostSwitchPort`): one more link. What
    /// a software switch does, and tests do in its place.
    pub fn connect(&mut self, path: impl AsRef<Path>) -> io::Result<()> {
        self.admit(handshake::connect(path.as_ref(), Instant::now() + self.options.handshake_timeout)?);
        Ok(())
    }

    /// What happened so far.
    pub fn stats(&self) -> VhostStats {
        self.stats
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Connections whose handshake is done.
    pub fn clients(&self) -> usize {
        self.slots.iter().flatten().filter(|connection| connection.device.is_some()).count()
    }

    /// Connections, those in their handshake included.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }

    fn slot_of(link: LinkId) -> u16 {
        link.0 as u16
    }

    fn connection(&mut self, link: LinkId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(usize::from(Self::slot_of(link)))?.as_deref_mut()?;
        (connection.link == link).then_some(connection)
    }

    /// Accepts, handles messages and notices kicks: whatever is there now, without waiting.
    fn handle_events(&mut self) {
        self.polls_to_events = POLLS_BETWEEN_EVENTS;
        let mut ready = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_A_TURN];
        // SAFETY: room for EVENTS_A_TURN events.
        let count = unsafe { libc::epoll_wait(self.events.as_raw_fd(), ready.as_mut_ptr(), EVENTS_A_TURN as i32, 0) };
        for event in ready.iter().take(count.max(0) as usize) {
            match Source::from_token(event.u64) {
                Source::Listener => self.accept(),
                Source::Socket(link) => self.handle_socket(link, event.events),
                Source::Kick(link) => self.start_polling(link),
            }
        }
        if self.negotiating > 0 {
            self.sweep();
        }
    }

    /// Drops clients that do not finish their handshake.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + Duration::from_millis(100).min(self.options.handshake_timeout);
        for slot in 0..self.slots.len() {
            let late = self.slots[slot]
                .as_deref()
                .filter(|c| c.device.is_none() && now.duration_since(c.since) > self.options.handshake_timeout);
            if let Some(link) = late.map(|connection| connection.link) {
                self.close(link, CloseReason::HandshakeTimeout);
            }
        }
    }

    fn accept(&mut self) {
        loop {
            match self.socket.accept() {
                Ok((socket, _)) => self.admit(socket),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    // Turn it away rather than let it wait, which would also make every wait return at once.
                    let had_spare = self.spare.take().is_some();
                    let refused = self.socket.accept().is_ok();
                    self.spare = spare_descriptor();
                    if !had_spare || !refused {
                        return;
                    }
                    self.stats.refused += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, socket: UnixStream) {
        if self.connections() >= self.options.max_clients || socket.set_nonblocking(true).is_err() {
            self.stats.refused += 1;
            return;
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u16
        });
        let link = LinkId(self.next_serial << SLOT_BITS | u64::from(slot));
        self.next_serial += 1;
        let interest = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        if watch(&self.events, socket.as_raw_fd(), interest, Source::Socket(link)).is_err() {
            self.free_slots.push(slot);
            self.stats.refused += 1;
            return;
        }
        let connection = Connection::new(link, socket, self.options.max_client_memory_bytes);
        self.slots[usize::from(slot)] = Some(Box::new(connection));
        self.negotiating += 1;
        self.stats.accepted += 1;
        // Messages that came before the watch are an event of their own: nothing is lost.
    }

    fn handle_socket(&mut self, link: LinkId, events: u32) {
        let Some(connection) = self.connection(link) else { return };
        match connection.handle_messages() {
            Ok(Progress::Started) => self.open(link),
            Ok(Progress::Stopped) => {
                self.stop(link);
                self.watch_again(link);
            }
            Ok(Progress::More) => self.watch_again(link),
            Ok(Progress::None) if events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 => {
                self.close(link, CloseReason::Disconnected);
            }
            Ok(Progress::None) => {}
            Err(reason) => self.close(link, reason),
        }
    }

    /// Makes the socket's state an event again, for messages that are still in it.
    fn watch_again(&mut self, link: LinkId) {
        let events = self.events.as_raw_fd();
        let Some(connection) = self.connection(link) else { return };
        let socket = connection.socket();
        let interest = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest as u32, u64: Source::Socket(link).to_token() };
        // SAFETY: two open descriptors and a live event.
        if unsafe { libc::epoll_ctl(events, libc::EPOLL_CTL_MOD, socket, &raw mut event) } != 0 {
            self.close(link, CloseReason::Disconnected);
        }
    }

    /// A client's rings have started.
    fn open(&mut self, link: LinkId) {
        let events = self.events.as_raw_fd();
        let Some(connection) = self.connection(link) else { return };
        let Some(device) = &connection.device else { return };
        let kicks = [device.kicks[TO_CLIENT].as_raw_fd(), device.kicks[FROM_CLIENT].as_raw_fd()];
        let interest = libc::EPOLLIN | libc::EPOLLET;
        let watched = kicks.iter().all(|kick| watch_raw(events, *kick, interest, Source::Kick(link)).is_ok());
        self.negotiating -= 1;
        self.stats.opened += 1;
        self.tell(link, true);
        if watched {
            self.start_polling(link);
            self.watch_again(link);
        } else {
            self.close(link, CloseReason::BadRingSetup);
        }
    }

    /// A client's rings have stopped; its connection stays.
    fn stop(&mut self, link: LinkId) {
        self.stop_polling(link);
        let events = self.events.as_raw_fd();
        let Some(connection) = self.connection(link) else { return };
        if let Some(device) = connection.device.take() {
            for kick in &device.kicks {
                // The client holds the same eventfd, so closing ours does not end the watch by itself.
                // SAFETY: two open descriptors; the event is not used.
                unsafe { libc::epoll_ctl(events, libc::EPOLL_CTL_DEL, kick.as_raw_fd(), std::ptr::null_mut()) };
            }
            connection.since = Instant::now();
            self.negotiating += 1;
            self.tell(link, false);
        }
    }

    /// Notes a change for `link_changes`. An owner that asks never has more to be told than there may be connections, twice.
    fn tell(&mut self, link: LinkId, is_open: bool) {
        if self.changes.len() >= 2 * self.options.max_clients.max(EVENTS_A_TURN) {
            self.changes.pop_front();
        }
        self.changes.push_back((link, is_open));
        self.has_new_changes = true;
    }

    fn close(&mut self, link: LinkId, reason: CloseReason) {
        self.stop(link);
        let slot = Self::slot_of(link);
        if self.connection(link).is_none() {
            return;
        }
        self.slots[usize::from(slot)] = None;
        self.free_slots.push(slot);
        self.negotiating -= 1;
        self.stats.closed[reason as usize] += 1;
        if reason != CloseReason::Disconnected {
            tracing::warn!("{}: closed client {}: {reason}", self.name, link.0 >> SLOT_BITS);
        }
    }

    fn start_polling(&mut self, link: LinkId) {
        let place = self.polled.len();
        let Some(connection) = self.connection(link) else { return };
        if connection.polled_at.is_some() {
            return;
        }
        let Some(device) = &mut connection.device else { return };
        device.decline_kicks();
        connection.empty_polls = 0;
        connection.polled_at = Some(place);
        self.polled.push(Self::slot_of(link));
    }

    fn stop_polling(&mut self, link: LinkId) {
        let Some(place) = self.connection(link).and_then(|connection| connection.polled_at.take()) else { return };
        self.polled.swap_remove(place);
        if let Some(moved) = self.polled.get(place).copied()
            && let Some(connection) = &mut self.slots[usize::from(moved)]
        {
            connection.polled_at = Some(place);
        }
    }

    /// Leaves a connection to its kicks, unless something has arrived. Says whether something has.
    fn rest(&mut self, slot: u16) -> bool {
        let Some(connection) = self.slots[usize::from(slot)].as_deref_mut() else { return false };
        let Some(device) = &mut connection.device else { return false };
        if device.ask_for_kicks() {
            device.decline_kicks();
            connection.empty_polls = 0;
            return true;
        }
        let link = connection.link;
        self.stop_polling(link);
        false
    }

    /// Takes up to `budget` packets from one client. An error closes it.
    #[inline]
    fn receive_from(
        &mut self,
        slot: u16,
        budget: usize,
        sink: &mut dyn FnMut(LinkId, &[u8]),
    ) -> (usize, Option<CloseReason>) {
        let Some(connection) = self.slots[usize::from(slot)].as_deref_mut() else { return (0, None) };
        let Some(device) = &mut connection.device else { return (0, None) };
        let mut count = 0;
        let mut fault = None;
        while count < budget {
            match device.take(&mut self.packet) {
                Ok(Some(len)) => {
                    count += 1;
                    if (NET_HEADER_BYTES + ETHERNET_HEADER_BYTES..=MAX_PACKET_BYTES).contains(&len) {
                        sink(connection.link, &self.packet[NET_HEADER_BYTES..len]);
                    } else {
                        self.stats.bad_length += 1;
                    }
                }
                Ok(None) => break,
                Err(violation) => {
                    tracing::debug!("{}: {violation}", self.name);
                    fault = Some(CloseReason::BadRing);
                    break;
                }
            }
        }
        if count > 0 {
            connection.empty_polls = 0;
            self.stats.received += count as u64;
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(slot);
            }
        } else {
            connection.empty_polls += 1;
        }
        (count, fault)
    }

    fn publish(&mut self, slot: u16) {
        let Some(connection) = self.slots[usize::from(slot)].as_deref_mut() else { return };
        connection.dirty = false;
        let Some(device) = &mut connection.device else { return };
        let call = device.publish(&mut self.signaller);
        let link = connection.link;
        self.note_call(link, call);
    }

    fn note_call(&mut self, link: LinkId, call: Result<Call, CloseReason>) {
        match call {
            Ok(Call::None) => {}
            Ok(Call::Made) => self.stats.calls += 1,
            Ok(Call::PutOff(until)) => {
                self.stats.calls_put_off += 1;
                self.next_call = Some(self.next_call.map_or(until, |next| next.min(until)));
                if !self.owed.contains(&link) {
                    self.owed.push(link);
                }
            }
            Err(reason) => self.close(link, reason),
        }
    }

    /// Makes the calls that were put off and whose time has come.
    fn call_owed(&mut self) {
        if self.next_call.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.next_call = None;
        for index in (0..self.owed.len()).rev() {
            let link = self.owed.swap_remove(index);
            let Self { slots, signaller, .. } = self;
            let connection = slots[usize::from(Self::slot_of(link))].as_deref_mut();
            let device = connection.filter(|c| c.link == link).and_then(|connection| connection.device.as_mut());
            if let Some(device) = device {
                let call = device.call(signaller);
                self.note_call(link, call);
            }
        }
    }
}

impl Port for VhostListenPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn mtu(&self) -> usize {
        MTU
    }

    fn transmit(&mut self, link: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > ETHERNET_HEADER_BYTES + MTU {
            return Err(TransmitError::TooLong);
        }
        let slot = Self::slot_of(link);
        let connection = self.slots.get_mut(usize::from(slot)).and_then(|slot| slot.as_deref_mut());
        let Some(connection) = connection.filter(|connection| connection.link == link) else {
            return Err(TransmitError::Closed);
        };
        let Some(device) = &mut connection.device else { return Err(TransmitError::Closed) };
        match device.give(parts) {
            Ok(()) => {
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(slot);
                }
                self.stats.transmitted += 1;
                Ok(())
            }
            Err(PushError::Full) => {
                // Among the polled ones, so that `wait` asks for a kick when the client has room again.
                self.start_polling(link);
                if let Some(device) = self.connection(link).and_then(|connection| connection.device.as_mut()) {
                    device.set_starved();
                }
                Err(TransmitError::Full)
            }
            Err(PushError::TooLong) => Err(TransmitError::TooLong),
            Err(PushError::Violation(violation)) => {
                tracing::debug!("{}: {violation}", self.name);
                self.close(link, CloseReason::BadRing);
                Err(TransmitError::Closed)
            }
        }
    }

    fn flush(&mut self) {
        while let Some(slot) = self.dirty.pop() {
            self.publish(slot);
        }
        self.call_owed();
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        if self.polls_to_events == 0 {
            self.handle_events();
        }
        let mut received = 0;
        let mut turns = self.polled.len();
        while turns > 0 && received < budget && !self.polled.is_empty() {
            turns -= 1;
            if self.cursor >= self.polled.len() {
                self.cursor = 0;
            }
            let slot = self.polled[self.cursor];
            let (count, fault) = self.receive_from(slot, BURST.min(budget - received), sink);
            received += count;
            let idle = self.slots[usize::from(slot)].as_deref().map(|c| (c.link, c.empty_polls));
            match (fault, idle) {
                (Some(reason), Some((link, _))) => self.close(link, reason),
                (None, Some((_, polls))) if polls > IDLE_POLLS && self.polled.len() > ALWAYS_POLLED => {
                    if self.rest(slot) {
                        self.cursor += 1;
                    }
                }
                _ => self.cursor += 1,
            }
        }
        self.polls_to_events = self.polls_to_events.saturating_sub(1 + 4 * received);
        received
    }

    fn wait(&mut self, timeout: Duration, wake: Option<RawFd>) -> io::Result<()> {
        self.flush();
        self.handle_events();
        // Kicks from here on are seen by the next `receive`, however this ends.
        self.polls_to_events = 0;
        // A change ends one wait, even if its owner never asks for it.
        let mut busy = std::mem::take(&mut self.has_new_changes);
        for position in (0..self.polled.len()).rev() {
            busy |= self.rest(self.polled[position]);
        }
        if busy {
            return Ok(());
        }
        let mut fds = [notify::poll_for(self.events.as_raw_fd(), libc::POLLIN), notify::poll_for(-1, libc::POLLIN)];
        if let Some(wake) = wake {
            fds[1].fd = wake;
        }
        let mut timeout = if self.negotiating > 0 { timeout.min(self.options.handshake_timeout) } else { timeout };
        if let Some(at) = self.next_call {
            timeout = timeout.min(at.saturating_duration_since(Instant::now()));
        }
        notify::poll(&mut fds, timeout)
    }

    fn link_changes(&mut self, sink: &mut dyn FnMut(LinkId, bool)) {
        self.has_new_changes = false;
        while let Some((link, opened)) = self.changes.pop_front() {
            sink(link, opened);
        }
    }

    fn shares_memory(&self) -> bool {
        true
    }

    fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        self.stats.each(sink);
    }
}

impl std::fmt::Debug for VhostListenPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostListenPort").field("name", &self.name).field("stats", &self.stats).finish_non_exhaustive()
    }
}

fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

fn new_epoll() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn watch(events: &OwnedFd, fd: RawFd, interest: i32, source: Source) -> io::Result<()> {
    watch_raw(events.as_raw_fd(), fd, interest, source)
}

fn watch_raw(events: RawFd, fd: RawFd, interest: i32, source: Source) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest as u32, u64: source.to_token() };
    // SAFETY: the event is live for the call; bad descriptors are an error.
    if unsafe { libc::epoll_ctl(events, libc::EPOLL_CTL_ADD, fd, &raw mut event) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
