//! The pager's operations as requests to slaves.

use std::time::{Duration, Instant};

use rand::{TryRng, rngs::SysRng};
use rum_net::{
    PAGE_BYTES,
    fabric::{Fabric, PeerIndex, SLOTS},
    rpc::{
        Incarnation,
        client::{ClientEvent, RequestId},
    },
    wire::message::{
        COMMAND_HEAD_BYTES, MAX_BATCH_PAGES, PageKind, PageRef, READ_REQUEST_MAX_BYTES, READ_RESPONSE_HEAD_BYTES,
        RESPONSE_HEAD_BYTES, ReadResponseHead, ResponseError, Status, WRITE_HEAD_MAX_BYTES, decode_empty_response,
        encode_read, encode_write_head,
    },
};

use super::reach::{KeepAlive, Reach};
use crate::pager::remote::{ExtentHome, Remote, RemoteEvent, RemoteFailure, SessionInfo, SlaveIndex, Tag};

/// The longest request: a write of a batch of pages, or a call; in the envelope of one that is replicated.
pub const MAX_REQUEST_BYTES: usize = COMMAND_HEAD_BYTES + WRITE_HEAD_MAX_BYTES + MAX_BATCH_PAGES * PAGE_BYTES;
/// Sleep at most this long for a packet.
pub const IDLE: Duration = Duration::from_micros(500);

#[derive(Clone, Copy)]
enum Purpose {
    /// The head of the response is copied here as it comes.
    Read {
        count: usize,
        head: [u8; READ_RESPONSE_HEAD_BYTES],
    },
    Write {
        head: [u8; RESPONSE_HEAD_BYTES],
    },
    Call,
}

#[derive(Clone, Copy)]
struct Pending {
    request: RequestId,
    tag: Tag,
    purpose: Purpose,
}

/// What is in flight to one slave, and who it was when the session began.
struct Slave {
    pending: Vec<Pending>,
    incarnation: Option<Incarnation>,
    reset: bool,
    loss: Option<RemoteFailure>,
}

/// From the system, not from a generator of this process, which a forked child would share with its parent.
pub fn draw_incarnation() -> Result<Incarnation, String> {
    let mut bytes = [0; 16];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| error.to_string())?;
    Ok(Incarnation(u128::from_le_bytes(bytes)))
}

/// The slaves of a grid, for the pager.
pub struct Transport {
    fabric: Fabric,
    slaves: Vec<Slave>,
    keep_alive: KeepAlive,
    leaving: bool,
}

impl Transport {
    /// Over a fabric whose peers are the slaves in the order of machines.csv.
    pub fn new(fabric: Fabric) -> Self {
        let slaves = (0..fabric.peers())
            .map(|_| Slave { pending: Vec::with_capacity(SLOTS), incarnation: None, reset: false, loss: None })
            .collect();
        Self { fabric, slaves, keep_alive: KeepAlive::new(), leaving: false }
    }

    fn begin(&mut self, slave: SlaveIndex, tag: Tag, purpose: Purpose, head: &[u8], body: &[u8]) -> bool {
        let Ok(request) = self.fabric.request(PeerIndex(slave as usize), head, body) else { return false };
        self.slaves[slave as usize].pending.push(Pending { request, tag, purpose });
        true
    }
}

/// Pages of an extent from `page` on.
pub fn page_refs(home: &ExtentHome, page: u32) -> [PageRef; MAX_BATCH_PAGES] {
    std::array::from_fn(|index| PageRef { extent: home.extent, page: page.wrapping_add(index as u32) })
}

impl Reach for Transport {
    fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    fn keep_alive(&mut self) -> &mut KeepAlive {
        &mut self.keep_alive
    }
}

impl Remote for Transport {
    fn room(&self, slave: SlaveIndex) -> usize {
        self.fabric.session(PeerIndex(slave as usize)).free_slots()
    }

    fn start_read(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize) -> bool {
        let mut head = [0; READ_REQUEST_MAX_BYTES];
        let head = encode_read(&page_refs(home, page)[..count], &mut head);
        self.begin(home.slave, tag, Purpose::Read { count, head: [0; READ_RESPONSE_HEAD_BYTES] }, head, &[])
    }

    fn start_write(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize, data: &[u8]) -> bool {
        let mut head = [0; WRITE_HEAD_MAX_BYTES];
        let kind = if data.is_empty() { PageKind::Zeros } else { PageKind::Data };
        let pages: [_; MAX_BATCH_PAGES] = page_refs(home, page).map(|page| (page, kind));
        let head = encode_write_head(&pages[..count], &mut head);
        self.begin(home.slave, tag, Purpose::Write { head: [0; RESPONSE_HEAD_BYTES] }, head, data)
    }

    fn start_call(&mut self, tag: Tag, slave: SlaveIndex, message: &[u8]) -> bool {
        self.begin(slave, tag, Purpose::Call, message, &[])
    }

    fn poll(&mut self, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        let Self { fabric, slaves, .. } = self;
        fabric.poll(&mut |peer, event| slaves[peer.0].take(event, sink));
        for (index, slave) in slaves.iter_mut().enumerate().filter(|(_, slave)| slave.reset) {
            slave.reset = false;
            if !self.leaving {
                fabric.session_mut(PeerIndex(index)).reopen(Instant::now());
            }
        }
    }

    fn idle(&mut self) {
        self.fabric.idle(IDLE);
    }

    fn tick(&mut self) {
        self.fabric.reopen_closed_ports();
        self.keep_alive.tend(&mut self.fabric);
    }

    fn start_anew(&mut self, slave: SlaveIndex) {
        // Without random numbers the slave goes on refusing, and says why.
        if let Ok(incarnation) = draw_incarnation() {
            self.slaves[slave as usize].incarnation = None;
            self.fabric.session_mut(PeerIndex(slave as usize)).reopen_as(incarnation, Instant::now());
        }
    }

    fn take_loss(&mut self) -> Option<(SlaveIndex, RemoteFailure)> {
        let (index, slave) = self.slaves.iter_mut().enumerate().find(|(_, slave)| slave.loss.is_some())?;
        Some((index as SlaveIndex, slave.loss.take()?))
    }

    fn close(&mut self) {
        self.leaving = true;
        for index in 0..self.slaves.len() {
            self.fabric.session_mut(PeerIndex(index)).close(Instant::now());
        }
    }

    fn is_closed(&self) -> bool {
        (0..self.slaves.len()).all(|index| self.fabric.session(PeerIndex(index)).is_closed())
    }

    fn session(&self, slave: SlaveIndex) -> SessionInfo {
        let session = self.fabric.session(PeerIndex(slave as usize));
        SessionInfo { mtu_bytes: session.mtu(), is_sealed: session.is_sealed() }
    }

    fn unreached(&self) -> Option<SlaveIndex> {
        (0..self.slaves.len()).find(|&i| !self.fabric.session(PeerIndex(i)).is_open()).map(|i| i as SlaveIndex)
    }
}

impl Slave {
    fn take(&mut self, event: ClientEvent<'_>, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        match event {
            ClientEvent::Opened { incarnation } => self.opened(incarnation),
            ClientEvent::Reset => {
                self.reset = true;
                for pending in self.pending.drain(..) {
                    // A call may be made again in the new session; contents that were in flight are lost if there
                    // was a page behind them, which `opened` tells.
                    if matches!(pending.purpose, Purpose::Call) {
                        sink(pending.tag, RemoteEvent::Failed(RemoteFailure::SlaveRestarted));
                    }
                }
            }
            ClientEvent::Fragment { request, offset, bytes } => {
                let Some(pending) = self.pending.iter_mut().find(|p| p.request == request) else { return };
                pending.fragment(offset, bytes, sink);
            }
            ClientEvent::Complete { request, len } => {
                let Some(at) = self.pending.iter().position(|p| p.request == request) else { return };
                self.pending.swap_remove(at).complete(len, sink);
            }
        }
    }

    /// A session begins. If it is not the first, what this client had on the slave is gone: another process answers
    /// there, or the same one after the client's lease ran out.
    fn opened(&mut self, incarnation: Incarnation) {
        match self.incarnation.replace(incarnation) {
            None => {}
            Some(same) if same == incarnation => self.loss = Some(RemoteFailure::Fenced),
            Some(_) => self.loss = Some(RemoteFailure::SlaveRestarted),
        }
    }
}

/// Copies the part of a fragment that belongs to the head of a response, and returns the rest.
pub fn copy_head<'a>(head: &mut [u8], offset: usize, bytes: &'a [u8]) -> (usize, &'a [u8]) {
    let in_head = head.len().saturating_sub(offset).min(bytes.len());
    if in_head > 0 {
        head[offset..offset + in_head].copy_from_slice(&bytes[..in_head]);
    }
    ((offset + in_head).saturating_sub(head.len()), &bytes[in_head..])
}

impl Pending {
    fn fragment(&mut self, offset: usize, bytes: &[u8], sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        let (offset, bytes) = match &mut self.purpose {
            Purpose::Read { head, .. } => copy_head(head, offset, bytes),
            Purpose::Write { head } => (0, &copy_head(head, offset, bytes).1[..0]),
            Purpose::Call => (offset, bytes),
        };
        if !bytes.is_empty() {
            sink(self.tag, RemoteEvent::Bytes { offset, bytes });
        }
    }

    fn complete(self, len: usize, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        let event = match self.purpose {
            Purpose::Call => RemoteEvent::Done { len },
            Purpose::Write { head } => match decode_empty_response(&head[..len.min(head.len())]) {
                Ok(()) => RemoteEvent::Done { len: 0 },
                Err(error) => RemoteEvent::Failed(failure(&error)),
            },
            Purpose::Read { count, head } => match read_outcome(&head[..len.min(head.len())], count, len) {
                Ok(data_pages) => RemoteEvent::ReadDone { data_pages },
                Err(failure) => RemoteEvent::Failed(failure),
            },
        };
        sink(self.tag, event);
    }
}

/// Which pages of a read have data.
pub fn read_outcome(head: &[u8], count: usize, len: usize) -> Result<u64, RemoteFailure> {
    let head = ReadResponseHead::decode(head, count).map_err(|error| failure(&error))?;
    if head.response_bytes() != len {
        return Err(RemoteFailure::Refused("an answer of a wrong length"));
    }
    Ok((0..count).filter(|&i| head.kind(i) == PageKind::Data).fold(0, |pages, i| pages | 1 << i))
}

/// What a refusal means for the pages concerned.
pub fn failure(error: &ResponseError) -> RemoteFailure {
    match error {
        ResponseError::Refused(Status::Fenced) => RemoteFailure::Fenced,
        ResponseError::Refused(Status::StaleExtent | Status::NotOwner) => {
            RemoteFailure::Refused("the memory has been given to another client or freed by one")
        }
        ResponseError::Refused(_) => RemoteFailure::Refused("its answer says so"),
        _ => RemoteFailure::Refused("its answer is malformed"),
    }
}
