//! A client: it asks who leads, as `rum-core` does, and knows what its pages hold.

use std::time::Duration;

use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    rpc::Incarnation,
    wire::message::{
        ExtentRef, FREE_NAME_REQUEST_BYTES, NameHash, OPEN_NAME_REQUEST_BYTES, OpenName, OpenedName, PageContent,
        PageKind, PageRef, READ_REQUEST_MAX_BYTES, REQUEST_HEAD_BYTES, RESERVE_REQUEST_BYTES, ReadResponse, Status,
        WRITE_HEAD_MAX_BYTES, ask_head, command_head, decode_not_leader, decode_reserve_response, encode_bye,
        encode_free_name, encode_read, encode_release, encode_renew, encode_reserve, encode_write_head,
        release_request_bytes,
    },
};
use rum_slave::account::AccountId;

use crate::{
    checker::{Checker, Value},
    weather::{MS, Rng},
};

/// A slave that has not answered for so long is asked no more before others have been.
const PATIENCE: Duration = Duration::from_millis(100);
/// Pages of an extent that are used.
pub const PAGES: [u8; 10] = [0, 1, 2, 3, 63, 64, 65, 128, 254, 255];
pub const NAMES: usize = 2;
const MAX_EXTENTS: usize = 3;
const MAX_OPERATIONS: usize = 5;
/// What a fenced client asks for before it gives up.
const LATE_OPERATIONS: u32 = 4;

#[derive(Clone, Debug)]
enum Kind {
    Reserve { count: usize },
    Write { extent: ExtentRef, pages: Vec<(usize, Value)>, is_shared: bool },
    Read { extent: ExtentRef, pages: Vec<usize>, is_shared: bool },
    Release { extent: ExtentRef },
    Open { name: usize },
    Free { name: usize },
    Renew,
    Bye,
}

#[derive(Debug)]
struct Operation {
    kind: Kind,
    /// With its envelope.
    message: Vec<u8>,
    /// 0 for a request that changes nothing.
    sequence: u64,
    /// To whom, as what, and when.
    sent: Option<(usize, u64, Duration)>,
    not_before: Duration,
    began: Duration,
    /// The client knew that it is fenced.
    is_late: bool,
}

struct Held {
    extent: ExtentRef,
    pages: [Value; PAGES.len()],
    busy: [bool; PAGES.len()],
}

/// A request on its way.
pub struct Sent {
    pub to: usize,
    pub request: u64,
    pub message: Vec<u8>,
    pub is_command: bool,
}

pub struct Client {
    pub incarnation: Incarnation,
    pub account: AccountId,
    pub quota: u64,
    pub asleep_until: Duration,
    pub next_sign: Duration,
    /// It has ended, one way or another.
    pub is_gone: bool,
    pub is_fenced: bool,
    leader: usize,
    sequence: u64,
    operations: Vec<Operation>,
    extents: Vec<Held>,
    /// Those that it had when it was fenced.
    former: Vec<ExtentRef>,
    names: [Vec<ExtentRef>; NAMES],
    late: u32,
    pub answered: u64,
    is_verified: bool,
}

pub fn name(number: usize) -> NameHash {
    [number as u8 + 1; 32]
}

/// What a page holds that was written with this value.
fn content(value: Value) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let mut word = value;
    for place in page.as_chunks_mut::<8>().0 {
        *place = word.to_le_bytes();
        word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(value);
    }
    page
}

fn value_of(found: PageContent<'_>) -> Value {
    match found {
        PageContent::Zeros => 0,
        PageContent::Data(bytes) => {
            let value = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
            assert!(*bytes == content(value), "a page that nobody wrote, of value {value:x} or not");
            value
        }
    }
}

impl Client {
    pub fn new(incarnation: Incarnation, account: AccountId, quota: u64, now: Duration) -> Self {
        Self {
            incarnation,
            account,
            quota,
            asleep_until: now,
            next_sign: now,
            is_gone: false,
            is_fenced: false,
            leader: 0,
            sequence: 0,
            operations: Vec::new(),
            extents: Vec::new(),
            former: Vec::new(),
            names: Default::default(),
            late: 0,
            answered: 0,
            is_verified: false,
        }
    }

    /// Extents that it has, and has not begun to give back.
    pub fn extents(&self) -> impl Iterator<Item = ExtentRef> {
        self.extents.iter().map(|held| held.extent)
    }

    /// Nothing is in flight, and all pages were seen to be right since `verify`.
    pub fn is_verified(&self) -> bool {
        self.is_gone || self.is_verified && self.operations.is_empty()
    }

    /// It has said bye, or is gone.
    pub fn is_leaving(&self) -> bool {
        self.is_gone || self.operations.iter().any(|operation| matches!(operation.kind, Kind::Bye))
    }

    pub fn describe(&self) -> String {
        let Self { incarnation, is_gone, is_fenced, operations, answered, .. } = self;
        let operations: Vec<_> =
            operations.iter().map(|operation| (&operation.kind, operation.sequence, operation.sent)).collect();
        format!("{:x} gone {is_gone} fenced {is_fenced} answered {answered} {operations:?}", incarnation.0)
    }

    /// Reads everything that it has, once what is in flight is answered.
    pub fn verify(&mut self, now: Duration) {
        if self.is_gone || self.is_verified || !self.operations.is_empty() {
            return;
        }
        self.is_verified = true;
        for index in 0..self.extents.len() {
            let pages: Vec<usize> = (0..PAGES.len()).collect();
            self.extents[index].busy = [true; PAGES.len()];
            self.begin(now, Kind::Read { extent: self.extents[index].extent, pages, is_shared: false });
        }
    }

    fn begin(&mut self, now: Duration, kind: Kind) {
        let request = encode(&kind);
        let is_command = !matches!(kind, Kind::Read { .. } | Kind::Renew);
        let (sequence, mut message) = if is_command {
            self.sequence += 1;
            let others = self.operations.iter().filter(|other| other.sequence > 0);
            let settled = others.map(|other| other.sequence - 1).min().unwrap_or(self.sequence - 1);
            (self.sequence, command_head(0, self.sequence, settled).to_vec())
        } else {
            (0, ask_head(0).to_vec())
        };
        message.extend_from_slice(&request);
        let is_late = self.is_fenced;
        self.operations.push(Operation { kind, message, sequence, sent: None, not_before: now, began: now, is_late });
    }

    /// Draws something to do.
    pub fn draw(&mut self, now: Duration, rng: &mut Rng, value: &mut Value, checker: &mut Checker) {
        if self.is_gone || self.operations.len() >= MAX_OPERATIONS || self.late >= LATE_OPERATIONS {
            return;
        }
        self.late += u32::from(self.is_fenced);
        if self.is_leaving() {
            return;
        }
        match rng.below(100) {
            0..70 => self.draw_pages(now, rng, value, checker),
            70..80 if self.extents.len() < MAX_EXTENTS => self.begin(now, Kind::Reserve { count: 1 + rng.below(2) }),
            80..84 => self.draw_release(now, rng),
            84..90 => self.begin(now, Kind::Open { name: rng.below(NAMES) }),
            90..91 => self.begin(now, Kind::Free { name: rng.below(NAMES) }),
            91..93 => self.begin(now, Kind::Renew),
            93..94 if self.operations.is_empty() && rng.chance(0.2) => self.begin(now, Kind::Bye),
            _ => self.draw_pages(now, rng, value, checker),
        }
    }

    fn draw_release(&mut self, now: Duration, rng: &mut Rng) {
        if self.is_fenced && !self.former.is_empty() {
            return self.begin(now, Kind::Release { extent: rng.pick(&self.former) });
        }
        if self.extents.is_empty() {
            return;
        }
        let index = rng.below(self.extents.len());
        if self.extents[index].busy.iter().all(|busy| !busy) {
            let held = self.extents.swap_remove(index);
            self.begin(now, Kind::Release { extent: held.extent });
        }
    }

    /// Reads or writes some pages of one extent.
    fn draw_pages(&mut self, now: Duration, rng: &mut Rng, value: &mut Value, checker: &mut Checker) {
        let named = rng.pick(&[0, 1]);
        let is_shared = rng.chance(0.3) && !self.names[named].is_empty();
        let extent = if is_shared {
            rng.pick(&self.names[named])
        } else if self.is_fenced && !self.former.is_empty() {
            rng.pick(&self.former)
        } else if self.extents.is_empty() {
            return;
        } else {
            self.extents[rng.below(self.extents.len())].extent
        };
        let (first, count) = (rng.below(PAGES.len()), 1 + rng.below(3));
        let mut pages: Vec<usize> = (first..PAGES.len().min(first + count)).collect();
        if let Some(held) = self.extents.iter_mut().find(|held| held.extent == extent) {
            pages.retain(|&page| !held.busy[page]);
            pages.iter().for_each(|&page| held.busy[page] = true);
        }
        if pages.is_empty() {
            return;
        }
        if rng.chance(0.4) {
            return self.begin(now, Kind::Read { extent, pages, is_shared });
        }
        let zeros = !is_shared && rng.chance(0.1);
        let mut written = Vec::new();
        for page in pages {
            *value += 1;
            let value = if zeros { 0 } else { *value };
            if is_shared {
                checker.on_write_begun((extent, PAGES[page]), value, now);
            }
            if self.is_fenced && value != 0 {
                checker.forbid(value);
            }
            written.push((page, value));
        }
        self.begin(now, Kind::Write { extent, pages: written, is_shared });
    }

    /// Sends what has to be sent: to the leader, or whoever may know it.
    pub fn send(&mut self, now: Duration, slaves: usize, number: &mut u64) -> Vec<Sent> {
        let mut sent = Vec::new();
        for index in 0..self.operations.len() {
            if let Some((by, _, at)) = self.operations[index].sent
                && now - at >= PATIENCE
            {
                self.send_again(index, now, by, None, slaves);
            }
            let operation = &mut self.operations[index];
            if operation.sent.is_none() && operation.not_before <= now {
                *number += 1;
                operation.sent = Some((self.leader, *number, now));
                let (message, is_command) = (operation.message.clone(), operation.sequence > 0);
                sent.push(Sent { to: self.leader, request: *number, message, is_command });
            }
        }
        sent
    }

    fn send_again(&mut self, index: usize, now: Duration, by: usize, leader: Option<usize>, slaves: usize) {
        let operation = &mut self.operations[index];
        operation.sent = None;
        if self.leader == by {
            self.leader = leader.unwrap_or((by + 1) % slaves);
        }
        operation.not_before = if leader.is_some_and(|leader| leader != by) { now } else { now + MS };
    }

    /// An answer has come from a slave.
    pub fn answer(
        &mut self,
        now: Duration,
        by: usize,
        request: u64,
        bytes: &[u8],
        slaves: usize,
        checker: &mut Checker,
    ) {
        let is_it = |operation: &Operation| operation.sent.is_some_and(|(_, sent, _)| sent == request);
        let Some(index) = self.operations.iter().position(is_it) else { return };
        if let Some(leader) = decode_not_leader(bytes) {
            return self.send_again(index, now, by, leader.map(usize::from), slaves);
        }
        self.leader = by;
        self.answered += 1;
        let operation = self.operations.swap_remove(index);
        let status = Status::ALL.into_iter().find(|status| *status as u8 == bytes[0]).expect("a status");
        if status == Status::Fenced {
            return self.on_fenced(&operation);
        }
        assert!(!operation.is_late, "a fenced client got {status} for {:?}", operation.kind);
        self.finish(now, operation, status, bytes, checker);
    }

    fn on_fenced(&mut self, operation: &Operation) {
        self.is_fenced = true;
        self.former.extend(self.extents.drain(..).map(|held| held.extent));
        let is_over = self.late >= LATE_OPERATIONS && self.operations.is_empty();
        self.is_gone |= is_over || matches!(operation.kind, Kind::Bye);
    }

    fn finish(&mut self, now: Duration, operation: Operation, status: Status, bytes: &[u8], checker: &mut Checker) {
        let is_ok = status == Status::Ok;
        let Operation { kind, began, .. } = operation;
        match &kind {
            Kind::Reserve { count } if is_ok => {
                let extents = decode_reserve_response(bytes, *count).expect("extents");
                for extent in extents.iter() {
                    checker.on_given(extent, self.incarnation.0);
                    if self.is_fenced {
                        self.former.push(extent);
                    } else {
                        let (pages, busy) = ([0; PAGES.len()], [false; PAGES.len()]);
                        self.extents.push(Held { extent, pages, busy });
                    }
                }
            }
            Kind::Reserve { .. } => assert_eq!(status, Status::Full),
            Kind::Write { extent, pages, is_shared: true } => {
                assert!(is_ok || status == Status::StaleExtent, "{status}: {kind:?}");
                for &(page, value) in pages.iter().filter(|_| is_ok) {
                    checker.writes += 1;
                    checker.on_written((*extent, PAGES[page]), value, now);
                }
            }
            Kind::Read { extent, pages, is_shared: true } => {
                assert!(is_ok || status == Status::StaleExtent, "{status}: {kind:?}");
                if is_ok {
                    let found = ReadResponse::decode(bytes, pages.len()).expect("pages");
                    for (&page, found) in pages.iter().zip(found.iter()) {
                        checker.reads += 1;
                        checker.on_shared_read((*extent, PAGES[page]), value_of(found), (began, now));
                    }
                }
            }
            Kind::Write { extent, pages, .. } => {
                assert!(is_ok, "{:x} may not write what it owns: {status}, {kind:?}", self.incarnation.0);
                let Some(held) = self.extents.iter_mut().find(|held| held.extent == *extent) else { return };
                for &(page, value) in pages {
                    checker.writes += 1;
                    (held.pages[page], held.busy[page]) = (value, false);
                }
            }
            Kind::Read { extent, pages, .. } => {
                assert!(is_ok, "{:x} may not read what it owns: {status}, {kind:?}", self.incarnation.0);
                let found = ReadResponse::decode(bytes, pages.len()).expect("pages");
                let Some(held) = self.extents.iter_mut().find(|held| held.extent == *extent) else { return };
                for (&page, found) in pages.iter().zip(found.iter()) {
                    checker.reads += 1;
                    let (found, expected) = (value_of(found), held.pages[page]);
                    assert_eq!(found, expected, "page {page} of {extent:?} of {:x}", self.incarnation.0);
                    held.busy[page] = false;
                }
            }
            Kind::Release { .. } | Kind::Renew => assert!(is_ok, "{status}: {kind:?}"),
            Kind::Open { name } if is_ok => {
                let opened = OpenedName::decode_response(bytes).expect("an object");
                assert_eq!((opened.size_bytes, opened.extents.len()), (size_of(*name), *name + 1));
                self.names[*name] = opened.extents.iter().collect();
                // Whoever opens it sees the same extents until it is freed; no client ever has one of them.
                opened.extents.iter().for_each(|extent| checker.on_given(extent, *name as u128));
            }
            Kind::Open { .. } => assert_eq!(status, Status::Full),
            Kind::Free { .. } => assert!(is_ok || status == Status::NoSuchName, "{status}"),
            Kind::Bye => {
                assert!(is_ok, "{status}");
                self.is_gone = true;
            }
        }
    }
}

fn size_of(name: usize) -> u64 {
    name as u64 * EXTENT_BYTES as u64 + 1
}

fn page_ref(extent: ExtentRef, page: usize) -> PageRef {
    PageRef { extent, page: PAGES[page].into() }
}

fn encode(kind: &Kind) -> Vec<u8> {
    match kind {
        Kind::Reserve { count } => encode_reserve(*count, &mut [0; RESERVE_REQUEST_BYTES]).to_vec(),
        Kind::Write { extent, pages, .. } => {
            let kind = |value| if value == 0 { PageKind::Zeros } else { PageKind::Data };
            let refs: Vec<_> = pages.iter().map(|&(page, value)| (page_ref(*extent, page), kind(value))).collect();
            let mut message = encode_write_head(&refs, &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
            let data = pages.iter().filter(|(_, value)| *value != 0);
            data.for_each(|&(_, value)| message.extend_from_slice(&content(value)));
            message
        }
        Kind::Read { extent, pages, .. } => {
            let refs: Vec<_> = pages.iter().map(|&page| page_ref(*extent, page)).collect();
            encode_read(&refs, &mut [0; READ_REQUEST_MAX_BYTES]).to_vec()
        }
        Kind::Release { extent } => encode_release(&[*extent], &mut [0; release_request_bytes(1)]).to_vec(),
        Kind::Open { name: number } => {
            let open = OpenName { hash: name(*number), create_bytes: Some(size_of(*number)) };
            open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]).to_vec()
        }
        Kind::Free { name: number } => encode_free_name(&name(*number), &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec(),
        Kind::Renew => encode_renew(&mut [0; REQUEST_HEAD_BYTES]).to_vec(),
        Kind::Bye => encode_bye(&mut [0; REQUEST_HEAD_BYTES]).to_vec(),
    }
}
