//! The pager's operations as requests to groups of slaves, each of which keeps the same pages: finds who leads a group, and asks again,
//! and elsewhere, until there is an answer. A group has the number of the slave that leads it while it can.

use std::time::{Duration, Instant};

use rum_net::{
    fabric::{Fabric, PeerIndex, SLOTS},
    placement::{Placement, SlaveIndex},
    rpc::client::{ClientEvent, RequestId},
    wire::message::{
        ASK_HEAD_BYTES, COMMAND_HEAD_BYTES, MAX_BATCH_PAGES, PageKind, READ_REQUEST_MAX_BYTES,
        READ_RESPONSE_HEAD_BYTES, WRITE_HEAD_MAX_BYTES, ask_any_head, ask_head, command_head, decode_empty_response,
        decode_not_leader, encode_read, encode_write_head,
    },
};

use super::{
    reach::{KeepAlive, Reach},
    transport::{IDLE, MAX_REQUEST_BYTES, copy_head, failure, page_refs, read_outcome},
};
use crate::pager::remote::{ExtentHome, MAX_OPERATIONS, Remote, RemoteEvent, RemoteFailure, SessionInfo, Tag};

/// A slave that has not answered for so long is asked no more before others have been.
const PATIENCE: Duration = Duration::from_millis(100);
/// Nobody leads, or the leader takes nothing more: it is asked again so much later.
const PAUSE: Duration = Duration::from_millis(1);
/// When all members have given a wrong page, they are asked again so much later: what one of them lacks may have come.
const ROUND: Duration = Duration::from_millis(50);
/// How often operations are looked through for those that wait too long.
const LOOK: Duration = Duration::from_millis(1);
/// Bytes of one operation's request.
const ROOM: usize = MAX_REQUEST_BYTES;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read { count: usize },
    Write,
    Call,
}

/// Who is to do what an operation asks for.
#[derive(Clone, Copy)]
enum Whom {
    /// All members, in agreement.
    All,
    /// The leader; nothing changes.
    Leader,
    /// This member alone, not before then; nothing changes.
    Member(SlaveIndex, Instant),
}

/// An operation in flight. Its request lies in `Replicated::requests` until it is answered.
#[derive(Clone, Copy)]
struct Operation {
    group: SlaveIndex,
    purpose: Purpose,
    bytes: usize,
    /// 0 for a request that changes nothing.
    sequence: u64,
    /// To whom it was sent, as what, and when.
    sent: Option<(SlaveIndex, RequestId, Instant)>,
    /// It is not sent before.
    not_before: Option<Instant>,
    /// What this member has is wanted, and nobody else's, until then.
    copy: Option<(SlaveIndex, Instant)>,
    /// The first bytes of the answer.
    head: [u8; READ_RESPONSE_HEAD_BYTES],
}

struct Group {
    members: Vec<SlaveIndex>,
    /// Who leads, as far as is known.
    leader: SlaveIndex,
    /// Of the last command.
    sequence: u64,
    in_flight: usize,
}

impl Group {
    /// The member after `slave`.
    fn after(&self, slave: SlaveIndex) -> SlaveIndex {
        let at = self.members.iter().position(|&member| member == slave).map_or(0, |at| at + 1);
        self.members[at % self.members.len()]
    }
}

/// The slaves of a grid whose pages are replicated.
pub struct Replicated {
    fabric: Fabric,
    groups: Vec<Group>,
    operations: Vec<Option<Operation>>,
    /// A place of `ROOM` bytes for each operation; the kernel backs those that are used.
    requests: Box<[u8]>,
    /// Of each slave, which requests are whose.
    pending: Vec<Vec<(RequestId, Tag)>>,
    reset: Vec<bool>,
    /// Operations that wait to be sent.
    unsent: usize,
    next_look: Instant,
    keep_alive: KeepAlive,
    leaving: bool,
}

impl Replicated {
    /// Over a fabric whose peers are the slaves in the order of machines.csv, of which `factor` keep each page.
    pub fn new(fabric: Fabric, placement: &Placement, factor: usize) -> Self {
        let slaves = fabric.peers();
        let group = |first: SlaveIndex| Group {
            members: placement.group(first, factor),
            leader: first,
            sequence: 0,
            in_flight: 0,
        };
        Self {
            groups: (0..slaves as SlaveIndex).map(group).collect(),
            operations: vec![None; MAX_OPERATIONS],
            requests: vec![0; MAX_OPERATIONS * ROOM].into_boxed_slice(),
            pending: (0..slaves).map(|_| Vec::with_capacity(SLOTS)).collect(),
            reset: vec![false; slaves],
            unsent: 0,
            next_look: Instant::now(),
            keep_alive: KeepAlive::new(),
            leaving: false,
            fabric,
        }
    }

    /// Whether a slave can be asked, as far as is known.
    fn is_open(&self, slave: SlaveIndex) -> bool {
        let peer = PeerIndex(usize::from(slave));
        self.fabric.session(peer).is_open() && self.fabric.is_port_open(peer)
    }

    /// Whether a slave takes another request: one that gives no answers does not for ever.
    fn has_room(&self, slave: SlaveIndex) -> bool {
        self.is_open(slave) && self.fabric.session(PeerIndex(usize::from(slave))).free_slots() > 0
    }

    /// Enters an operation and sends it if that is possible. Its request is `parts`, one behind the other.
    fn begin(&mut self, tag: Tag, group: SlaveIndex, purpose: Purpose, whom: Whom, parts: [&[u8]; 2]) -> bool {
        let number = usize::from(group);
        if self.groups[number].in_flight == SLOTS {
            return false;
        }
        let place = &mut self.requests[usize::from(tag.0) * ROOM..][..ROOM];
        let (mut sequence, mut head_bytes, mut not_before, mut copy) = (0, ASK_HEAD_BYTES, None, None);
        match whom {
            Whom::All => {
                sequence = self.groups[number].sequence + 1;
                let others =
                    self.operations.iter().flatten().filter(|other| other.group == group && other.sequence > 0);
                let settled = others.map(|other| other.sequence - 1).min().unwrap_or(sequence - 1);
                place[..COMMAND_HEAD_BYTES].copy_from_slice(&command_head(group, sequence, settled));
                self.groups[number].sequence = sequence;
                head_bytes = COMMAND_HEAD_BYTES;
            }
            Whom::Leader => place[..ASK_HEAD_BYTES].copy_from_slice(&ask_head(group)),
            Whom::Member(member, at) => {
                place[..ASK_HEAD_BYTES].copy_from_slice(&ask_any_head(group));
                (not_before, copy) = (Some(at), Some((member, at + PATIENCE)));
            }
        }
        let mut bytes = head_bytes;
        for part in parts {
            place[bytes..bytes + part.len()].copy_from_slice(part);
            bytes += part.len();
        }
        let head = [0; READ_RESPONSE_HEAD_BYTES];
        let operation = Operation { group, purpose, bytes, sequence, sent: None, not_before, copy, head };
        self.operations[usize::from(tag.0)] = Some(operation);
        self.groups[number].in_flight += 1;
        self.unsent += 1;
        if not_before.is_none_or(|at| at <= Instant::now()) {
            self.send(tag);
        }
        true
    }

    /// Sends an operation to the leader of its group; to another member if the leader takes no requests.
    fn send(&mut self, tag: Tag) {
        let index = usize::from(tag.0);
        let Some(Operation { group, bytes, sent: None, copy, .. }) = self.operations[index] else { return };
        let group = &self.groups[usize::from(group)];
        let mut to = copy.map_or(group.leader, |(member, _)| member);
        for _ in 0..group.members.len() {
            if self.has_room(to) || copy.is_some() {
                break;
            }
            to = group.after(to);
        }
        let request = &self.requests[index * ROOM..][..bytes];
        let (head, body) = request.split_at(bytes.min(COMMAND_HEAD_BYTES));
        let Ok(request) = self.fabric.request(PeerIndex(usize::from(to)), head, body) else { return };
        self.pending[usize::from(to)].push((request, tag));
        self.unsent -= 1;
        if let Some(operation) = &mut self.operations[index] {
            operation.sent = Some((to, request, Instant::now()));
        }
    }

    /// An operation has to be sent again: not to `by`, if somebody else may lead.
    fn send_again(&mut self, tag: Tag, by: SlaveIndex, leader: Option<SlaveIndex>) {
        let Some(Operation { group, .. }) = self.operations[usize::from(tag.0)] else { return };
        let group = usize::from(group);
        let Group { leader: known, members, .. } = &self.groups[group];
        let named = leader.filter(|leader| *leader != by && members.contains(leader) && self.is_open(*leader));
        let (is_named, is_lost) = (named.is_some(), !self.is_open(*known));
        let group = &mut self.groups[group];
        match named {
            Some(named) => group.leader = named,
            // It leads, and takes nothing more at the moment.
            None if leader == Some(by) => {}
            // Many operations may find the same: the first of them moves on.
            None if group.leader == by || is_lost => group.leader = group.after(by),
            None => {}
        }
        self.unsent += 1;
        if let Some(operation) = &mut self.operations[usize::from(tag.0)] {
            operation.sent = None;
            operation.not_before = if is_named { None } else { Some(Instant::now() + PAUSE) };
        }
    }

    /// Fails the reads of members that do not answer.
    fn give_up(&mut self, now: Instant, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        for index in 0..MAX_OPERATIONS {
            let Some(Operation { group, sent, copy: Some((_, until)), .. }) = self.operations[index] else { continue };
            if now < until {
                continue;
            }
            match sent {
                Some((slave, request, _)) => {
                    self.pending[usize::from(slave)].retain(|&(pending, _)| pending != request);
                }
                None => self.unsent -= 1,
            }
            self.operations[index] = None;
            self.groups[usize::from(group)].in_flight -= 1;
            sink(Tag(index as u16), RemoteEvent::Failed(RemoteFailure::Refused("no answer")));
        }
    }

    /// Looks for operations that wait to be sent, or too long for an answer.
    fn look(&mut self, now: Instant) {
        self.next_look = now + LOOK;
        for index in 0..MAX_OPERATIONS {
            let Some(operation) = &self.operations[index] else { continue };
            let tag = Tag(index as u16);
            if let Some((slave, request, at)) = operation.sent
                && now.saturating_duration_since(at) >= PATIENCE
            {
                // Its answer is still welcome to the session, not to the operation.
                self.pending[usize::from(slave)].retain(|&(pending, _)| pending != request);
                self.send_again(tag, slave, None);
            }
            let Some(operation) = &self.operations[index] else { continue };
            if operation.sent.is_none() && operation.not_before.is_none_or(|at| at <= now) {
                self.send(tag);
            }
        }
    }
}

/// What is to be done about an answer.
enum Outcome {
    Done,
    Again { by: SlaveIndex, leader: Option<SlaveIndex> },
}

impl Operation {
    fn complete(&self, tag: Tag, by: SlaveIndex, len: usize, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) -> Outcome {
        let head = &self.head[..len.min(self.head.len())];
        match decode_not_leader(head) {
            Some(leader) if self.copy.is_none() => return Outcome::Again { by, leader },
            Some(_) => {
                sink(tag, RemoteEvent::Failed(RemoteFailure::Refused("it is not of the group")));
                return Outcome::Done;
            }
            None => {}
        }
        let event = match self.purpose {
            Purpose::Call => RemoteEvent::Done { len },
            Purpose::Write => match decode_empty_response(head) {
                Ok(()) => RemoteEvent::Done { len: 0 },
                Err(error) => RemoteEvent::Failed(failure(&error)),
            },
            Purpose::Read { count } => match read_outcome(head, count, len) {
                Ok(data_pages) => RemoteEvent::ReadDone { data_pages },
                Err(failure) => RemoteEvent::Failed(failure),
            },
        };
        sink(tag, event);
        Outcome::Done
    }

    fn fragment(&mut self, tag: Tag, offset: usize, bytes: &[u8], sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        let (behind, rest) = copy_head(&mut self.head, offset, bytes);
        let (offset, bytes) = match self.purpose {
            Purpose::Read { .. } => (behind, rest),
            Purpose::Write => return,
            Purpose::Call => (offset, bytes),
        };
        if !bytes.is_empty() {
            sink(tag, RemoteEvent::Bytes { offset, bytes });
        }
    }
}

impl Remote for Replicated {
    fn room(&self, group: SlaveIndex) -> usize {
        SLOTS - self.groups[usize::from(group)].in_flight
    }

    fn start_read(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize) -> bool {
        let mut head = [0; READ_REQUEST_MAX_BYTES];
        let head = encode_read(&page_refs(home, page)[..count], &mut head);
        self.begin(tag, home.slave, Purpose::Read { count }, Whom::Leader, [head, &[]])
    }

    fn copies(&self) -> u32 {
        self.groups.first().map_or(1, |group| group.members.len() as u32)
    }

    fn start_read_copy(&mut self, tag: Tag, home: &ExtentHome, page: u32, attempt: u32) -> bool {
        let group = &self.groups[usize::from(home.slave)];
        let (number, members) = (home.slave, group.members.len());
        let member = group.members[attempt as usize % members];
        let is_new_round = attempt as usize > members && attempt as usize % members == 1;
        let mut head = [0; READ_REQUEST_MAX_BYTES];
        let head = encode_read(&page_refs(home, page)[..1], &mut head);
        let not_before = Instant::now() + if is_new_round { ROUND } else { Duration::ZERO };
        self.begin(tag, number, Purpose::Read { count: 1 }, Whom::Member(member, not_before), [head, &[]])
    }

    fn start_write(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize, data: &[u8]) -> bool {
        let mut head = [0; WRITE_HEAD_MAX_BYTES];
        let kind = if data.is_empty() { PageKind::Zeros } else { PageKind::Data };
        let pages: [_; MAX_BATCH_PAGES] = page_refs(home, page).map(|page| (page, kind));
        let head = encode_write_head(&pages[..count], &mut head);
        self.begin(tag, home.slave, Purpose::Write, Whom::All, [head, data])
    }

    fn start_call(&mut self, tag: Tag, group: SlaveIndex, message: &[u8]) -> bool {
        use rum_net::wire::message::Opcode;
        let opcode = message.first().copied().unwrap_or_default();
        let asks = [Opcode::Stat, Opcode::NameExtents, Opcode::Renew, Opcode::Read, Opcode::Names];
        let changes = !asks.map(|opcode| opcode as u8).contains(&opcode);
        let whom = if changes { Whom::All } else { Whom::Leader };
        self.begin(tag, group, Purpose::Call, whom, [message, &[]])
    }

    fn poll(&mut self, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        let Self { fabric, operations, groups, pending, reset, .. } = self;
        let mut again = [None; MAX_OPERATIONS];
        let mut is_again = false;
        fabric.poll(&mut |peer, event| {
            let (slave, pending) = (peer.0 as SlaveIndex, &mut pending[peer.0]);
            match event {
                ClientEvent::Opened { .. } => {}
                ClientEvent::Fragment { request, offset, bytes } => {
                    let Some(&(_, tag)) = pending.iter().find(|(pending, _)| *pending == request) else { return };
                    if let Some(operation) = &mut operations[usize::from(tag.0)] {
                        operation.fragment(tag, offset, bytes, sink);
                    }
                }
                ClientEvent::Complete { request, len } => {
                    let Some(at) = pending.iter().position(|(pending, _)| *pending == request) else { return };
                    let (_, tag) = pending.swap_remove(at);
                    // The pager may use the tag again as soon as it knows.
                    let Some(operation) = operations[usize::from(tag.0)].take() else { return };
                    match operation.complete(tag, slave, len, sink) {
                        Outcome::Done => {
                            let group = &mut groups[usize::from(operation.group)];
                            group.in_flight -= 1;
                            if operation.copy.is_none() {
                                group.leader = slave;
                            }
                        }
                        Outcome::Again { by, leader } => {
                            operations[usize::from(tag.0)] = Some(operation);
                            again[usize::from(tag.0)] = Some((by, leader));
                            is_again = true;
                        }
                    }
                }
                ClientEvent::Reset => reset[peer.0] = true,
            }
        });
        if is_again {
            for (tag, (by, leader)) in again.iter().enumerate().filter_map(|(tag, again)| Some((tag, (*again)?))) {
                self.send_again(Tag(tag as u16), by, leader);
            }
        }
        for slave in 0..self.reset.len() {
            if std::mem::take(&mut self.reset[slave]) {
                while let Some((_, tag)) = self.pending[slave].pop() {
                    self.send_again(tag, slave as SlaveIndex, None);
                }
                if !self.leaving {
                    self.fabric.session_mut(PeerIndex(slave)).reopen(Instant::now());
                }
            }
        }
        if self.unsent > 0 || self.groups.iter().any(|group| group.in_flight > 0) {
            let now = Instant::now();
            if self.unsent > 0 || now >= self.next_look {
                self.give_up(now, sink);
                self.look(now);
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

    fn close(&mut self) {
        self.leaving = true;
        for slave in 0..self.pending.len() {
            self.fabric.session_mut(PeerIndex(slave)).close(Instant::now());
        }
    }

    fn is_closed(&self) -> bool {
        // One that cannot be reached will find out by itself.
        (0..self.pending.len()).all(|slave| {
            let session = self.fabric.session(PeerIndex(slave));
            session.is_closed() || !self.fabric.is_port_open(PeerIndex(slave))
        })
    }

    fn session(&self, slave: SlaveIndex) -> SessionInfo {
        let session = self.fabric.session(PeerIndex(usize::from(slave)));
        SessionInfo { mtu_bytes: session.mtu(), is_sealed: session.is_sealed() }
    }

    /// A slave of a group of which no majority can be reached.
    fn unreached(&self) -> Option<SlaveIndex> {
        let is_short = |group: &&Group| {
            let open = group.members.iter().filter(|&&member| self.is_open(member)).count();
            open <= group.members.len() / 2
        };
        let short = self.groups.iter().find(is_short)?;
        short.members.iter().copied().find(|&member| !self.is_open(member))
    }
}

impl Reach for Replicated {
    fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    fn keep_alive(&mut self) -> &mut KeepAlive {
        &mut self.keep_alive
    }
}
