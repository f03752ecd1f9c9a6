//! A client for tests: one session over one port, one request after another or many at once.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod process;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    port::{LinkId, MacAddr, Port},
    rpc::{
        ClientStats, Incarnation, MAX_MESSAGE_BYTES,
        client::{Client, ClientConfig, ClientEvent, RequestId},
    },
    seal::ClientKey,
    wire::{
        ethernet::EthernetHeader,
        hello::Verdict,
        message::{
            ExtentRef, OPEN_NAME_REQUEST_BYTES, OpenName, OpenNameRefusal, OpenedName, PageContent, PageKind, PageRef,
            READ_REQUEST_MAX_BYTES, RESERVE_REQUEST_BYTES, ReadResponse, ResponseError, Stat, WRITE_HEAD_MAX_BYTES,
            decode_empty_response, decode_reserve_response, encode_bye, encode_read, encode_release, encode_reserve,
            encode_stat, encode_write_head, release_request_bytes,
        },
    },
};

/// How long any condition is waited for: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The slave does not know the session any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reset;

/// One session with a slave.
pub struct TestClient {
    port: Box<dyn Port>,
    rpc: Client,
    /// Of the slave, once open.
    pub slave: Option<Incarnation>,
    responses: HashMap<RequestId, Vec<u8>>,
    complete: Vec<RequestId>,
    was_reset: bool,
}

impl TestClient {
    /// Opens a session as a new process would.
    pub fn connect(port: Box<dyn Port>) -> Self {
        let incarnation = Incarnation(rand::random());
        let mut client = Self::opening(port, incarnation);
        client.wait_until_open();
        client
    }

    /// The same session goes on over another port.
    pub fn move_to(&mut self, port: Box<dyn Port>) {
        self.port = port;
    }

    /// A session that is not open yet.
    pub fn opening(port: Box<dyn Port>, incarnation: Incarnation) -> Self {
        Self::opening_with(port, incarnation, None)
    }

    /// A session that is not open yet, sealed if there is a key.
    pub fn opening_with(port: Box<dyn Port>, incarnation: Incarnation, key: Option<ClientKey>) -> Self {
        let config =
            ClientConfig { incarnation, channel: 0, mtu: port.mtu(), slots: 16, max_request_bytes: MAX_MESSAGE_BYTES };
        Self {
            rpc: Client::new(config, key, Instant::now()),
            port,
            slave: None,
            responses: HashMap::new(),
            complete: Vec::new(),
            was_reset: false,
        }
    }

    fn wait_until_open(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.rpc.is_open() {
            assert!(Instant::now() < deadline, "the slave does not answer");
            self.pump();
        }
    }

    /// After `Reset`: a new session of the same incarnation.
    pub fn reopen(&mut self) {
        self.was_reset = false;
        self.rpc.reopen(Instant::now());
        self.wait_until_open();
    }

    pub fn is_open(&self) -> bool {
        self.rpc.is_open()
    }

    /// What the slave said last, if it does not let the client in.
    pub fn refusal(&self) -> Option<Verdict> {
        self.rpc.refusal()
    }

    pub fn stats(&self) -> ClientStats {
        self.rpc.stats()
    }

    /// Begins to end the session.
    pub fn close(&mut self) {
        self.rpc.close(Instant::now());
    }

    /// Whether the slave knows that the session has ended.
    pub fn is_closed(&self) -> bool {
        self.rpc.is_closed()
    }

    /// Takes and sends what there is; sleeps a little when there is nothing.
    pub fn pump(&mut self) {
        if self.turn() == 0 {
            self.port.wait(Duration::from_millis(1), None).unwrap();
        }
    }

    /// Takes and sends what there is; returns how many packets came.
    pub fn turn(&mut self) -> usize {
        let Self { port, rpc, slave, responses, complete, was_reset, .. } = self;
        let now = Instant::now();
        let received = port.receive(64, &mut |_, frame| {
            let Some((_, packet)) = EthernetHeader::decode(frame) else { return };
            rpc.handle(now, packet, &mut |event| match event {
                ClientEvent::Opened { incarnation } => *slave = Some(incarnation),
                ClientEvent::Fragment { request, offset, bytes } => {
                    let response = responses.entry(request).or_default();
                    response.resize(response.len().max(offset + bytes.len()), 0);
                    response[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                ClientEvent::Complete { request, .. } => complete.push(request),
                _ => *was_reset = true,
            });
        });
        self.send_only();
        received
    }

    /// Sends what there is and takes nothing.
    pub fn send_only(&mut self) {
        let Self { port, rpc, .. } = self;
        let header = EthernetHeader { destination: MacAddr([0xff; 6]), source: port.mac() }.encode();
        while let Some(packet) = rpc.poll_transmit(Instant::now()) {
            if port.transmit(LinkId(0), &packet.behind(&header)).is_err() {
                rpc.not_sent();
                break;
            }
        }
        port.flush();
    }

    /// Sends something that the slave answers, and takes no answer.
    pub fn keep_alive(&mut self) {
        self.rpc.keep_alive(Instant::now());
        self.send_only();
    }

    /// Starts a request; `false` when there is no room for another.
    pub fn begin(&mut self, head: &[u8], body: &[u8]) -> bool {
        self.rpc.request(Instant::now(), head, body).is_ok()
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, head: &[u8], body: &[u8]) -> Result<Vec<u8>, Reset> {
        let deadline = Instant::now() + DEADLINE;
        while !self.rpc.is_open() || self.rpc.free_slots() == 0 {
            self.pump();
            if self.was_reset {
                return Err(Reset);
            }
            assert!(Instant::now() < deadline, "no free slot");
        }
        let request = self.rpc.request(Instant::now(), head, body).expect("a free slot");
        loop {
            self.turn();
            if let Some(at) = self.complete.iter().position(|&complete| complete == request) {
                self.complete.swap_remove(at);
                return Ok(self.responses.remove(&request).unwrap_or_default());
            }
            if self.was_reset {
                return Err(Reset);
            }
            assert!(Instant::now() < deadline, "no answer");
            self.pump();
        }
    }

    pub fn stat(&mut self) -> Stat {
        Stat::decode_response(&self.ask(encode_stat(&mut [0; 4]), &[]).unwrap()).unwrap()
    }

    pub fn reserve(&mut self, count: usize) -> Result<Vec<ExtentRef>, ResponseError> {
        let response = self.ask(encode_reserve(count, &mut [0; RESERVE_REQUEST_BYTES]), &[]).unwrap();
        decode_reserve_response(&response, count).map(|extents| extents.iter().collect())
    }

    pub fn release(&mut self, extents: &[ExtentRef]) -> Result<(), ResponseError> {
        let mut buffer = vec![0; release_request_bytes(extents.len())];
        decode_empty_response(&self.ask(encode_release(extents, &mut buffer), &[]).unwrap())
    }

    pub fn write(&mut self, pages: &[(PageRef, &[u8; PAGE_BYTES])]) -> Result<(), ResponseError> {
        let kinds: Vec<_> = pages.iter().map(|&(page, _)| (page, PageKind::Data)).collect();
        let body: Vec<u8> = pages.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let mut buffer = [0; WRITE_HEAD_MAX_BYTES];
        decode_empty_response(&self.ask(encode_write_head(&kinds, &mut buffer), &body).unwrap())
    }

    /// What the pages hold; zeros are pages of zeros.
    pub fn read(&mut self, pages: &[PageRef]) -> Result<Vec<[u8; PAGE_BYTES]>, ResponseError> {
        let response = self.ask(encode_read(pages, &mut [0; READ_REQUEST_MAX_BYTES]), &[]).unwrap();
        let bytes = |content| match content {
            PageContent::Zeros => [0; PAGE_BYTES],
            PageContent::Data(bytes) => *bytes,
        };
        ReadResponse::decode(&response, pages.len()).map(|read| read.iter().map(bytes).collect())
    }

    /// The object's extents, and whether it existed.
    pub fn open_name(
        &mut self,
        hash: [u8; 32],
        create_bytes: Option<u64>,
    ) -> Result<(Vec<ExtentRef>, bool), OpenNameRefusal> {
        let open = OpenName { hash, create_bytes };
        let response = self.ask(open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]), &[]).unwrap();
        OpenedName::decode_response(&response).map(|opened| (opened.extents.iter().collect(), opened.existed))
    }

    pub fn bye(&mut self) -> Result<(), ResponseError> {
        decode_empty_response(&self.ask(encode_bye(&mut [0; 4]), &[]).unwrap())
    }
}

pub fn page(extent: ExtentRef, page: u32) -> PageRef {
    PageRef { extent, page }
}

/// Page content that says which page it is.
pub fn pattern(seed: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64 | 1).to_le_bytes());
    }
    bytes
}
