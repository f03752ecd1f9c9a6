//! Readers: each keeps reads of pages under way in its session, and copies what comes into local memory.

use std::time::{Duration, Instant};

use rum_net::{
    PAGE_BYTES,
    rpc::{client::ClientEvent, client::RequestId},
    wire::message::{PageRef, READ_REQUEST_MAX_BYTES, READ_RESPONSE_HEAD_BYTES, encode_read},
};

use super::rig::{PATIENCE, Rig};

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    request: RequestId,
    began: Instant,
    /// Where in local memory its pages go.
    at: usize,
}

/// What one reader does, and what came of it.
pub struct Reader {
    /// Of the rig.
    session: usize,
    pages: Vec<PageRef>,
    next: usize,
    /// Pages a request.
    batch: usize,
    flights: Vec<Option<Flight>>,
    local: Vec<u8>,
    pub outcome: Outcome,
}

/// What happened since it was last reset.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Pages that came.
    pub pages: u64,
    /// How long each request took, in nanoseconds.
    pub latencies: Vec<u64>,
    /// When the last request was completed, or all began.
    last: Option<Instant>,
    /// The longest time without a request completed, in nanoseconds.
    pub stall: u64,
}

impl Outcome {
    fn completed(&mut self, now: Instant, began: Instant, pages: usize) {
        self.pages += pages as u64;
        // A sample is enough, and does not take memory for ever.
        if self.latencies.len() < 1 << 16 {
            self.latencies.push(now.duration_since(began).as_nanos() as u64);
        }
        let since = self.last.replace(now).map_or(0, |last| now.duration_since(last).as_nanos() as u64);
        self.stall = self.stall.max(since);
    }
}

impl Reader {
    /// Reads `pages` in their order, in a circle.
    pub fn new(session: usize, pages: Vec<PageRef>, batch: usize, depth: usize) -> Self {
        let local = vec![1; pages.len().next_multiple_of(batch) * PAGE_BYTES];
        Self { session, pages, next: 0, batch, flights: vec![None; depth], local, outcome: Outcome::default() }
    }

    /// Asks for as much as may be under way.
    fn top_up(&mut self, rig: &mut Rig) {
        if self.flights.iter().all(Option::is_some) {
            return;
        }
        let now = Instant::now();
        for flight in self.flights.iter_mut().filter(|flight| flight.is_none()) {
            let batch = &self.pages[self.next..(self.next + self.batch).min(self.pages.len())];
            let mut message = [0; READ_REQUEST_MAX_BYTES];
            let Some(request) = rig.enqueue(now, self.session, encode_read(batch, &mut message)) else { break };
            *flight = Some(Flight { request, began: now, at: self.next * PAGE_BYTES });
            self.next = (self.next + batch.len()) % self.pages.len();
        }
    }

    fn take(&mut self, now: Instant, event: ClientEvent<'_>) {
        let Self { flights, local, outcome, .. } = self;
        match event {
            ClientEvent::Fragment { request, offset, bytes } => {
                let flight = flights.iter().flatten().find(|flight| flight.request == request);
                let Some(flight) = flight else { return };
                let bytes = &bytes[READ_RESPONSE_HEAD_BYTES.saturating_sub(offset).min(bytes.len())..];
                let at = flight.at + offset.saturating_sub(READ_RESPONSE_HEAD_BYTES);
                if let Some(to) = local.get_mut(at..at + bytes.len()) {
                    to.copy_from_slice(bytes);
                }
            }
            ClientEvent::Complete { request, len } => {
                let flight = flights.iter_mut().find(|f| f.is_some_and(|flight| flight.request == request));
                let Some(flight) = flight.and_then(Option::take) else { return };
                outcome.completed(now, flight.began, len / PAGE_BYTES);
            }
            ClientEvent::Opened { .. } | ClientEvent::Reset => {}
        }
    }

    /// The local memory, so that nothing of the copies is left out.
    pub fn local(&self) -> &[u8] {
        &self.local
    }
}

/// A rig and those who read by it.
pub struct Group {
    pub rig: Rig,
    pub readers: Vec<Reader>,
}

impl Group {
    /// One round of the first `active` readers.
    pub fn step(&mut self, active: usize) {
        let Self { rig, readers } = self;
        for reader in readers.iter_mut().take(active) {
            reader.top_up(rig);
        }
        rig.poll(&mut |session, now, event| {
            if let Some(reader) = readers.iter_mut().find(|reader| reader.session == session) {
                reader.take(now, event);
            }
        });
    }

    /// Waits until nothing is under way.
    pub fn settle(&mut self) {
        let begin = Instant::now();
        while self.readers.iter().flat_map(|r| &r.flights).any(Option::is_some) && begin.elapsed() < SETTLED_WITHIN {
            self.step(0);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.readers.iter_mut().for_each(|reader| reader.outcome = Outcome { last: Some(now), ..Outcome::default() });
    }
}

/// What is under way when a slice ends has come by then, or will not.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// Lets the first `active` readers of all groups together read for so long, and until the first one has something, `beside` being called in each round with all groups. What came is
/// in their outcomes; returns the seconds it took.
pub fn read(groups: &mut [Group], active: usize, time: Duration, beside: &mut dyn FnMut(&mut [Group])) -> f64 {
    let started = Instant::now();
    groups.iter_mut().for_each(|group| group.begin(started));
    let seconds = loop {
        let mut left = active;
        for group in groups.iter_mut() {
            group.step(left);
            left = left.saturating_sub(group.readers.len());
            if left == 0 {
                break;
            }
        }
        beside(groups);
        let elapsed = started.elapsed();
        let has_come = readers(groups).next().is_none_or(|reader| reader.outcome.pages > 0);
        if elapsed >= time && (has_come || elapsed >= PATIENCE) {
            break elapsed.as_secs_f64();
        }
    };
    let outcomes: Vec<Outcome> = readers(groups).map(|reader| reader.outcome.clone()).collect();
    groups.iter_mut().for_each(Group::settle);
    // What came while nothing more was asked for does not count.
    for (reader, outcome) in groups.iter_mut().flat_map(|group| &mut group.readers).zip(outcomes) {
        std::hint::black_box(reader.local());
        reader.outcome = outcome;
    }
    seconds
}

/// The readers of all groups, in their order.
pub fn readers(groups: &[Group]) -> impl Iterator<Item = &Reader> {
    groups.iter().flat_map(|group| &group.readers)
}
