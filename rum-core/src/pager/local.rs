//! The local half of the pager: which pages are here, in which frames, and what completed operations do to them.

use hdrhistogram::Histogram;
use rum_net::{EXTENT_PAGES, PAGE_BYTES};
use twox_hash::XxHash3_128;

use super::{
    Counters,
    ahead::{Ahead, Batch},
    mend::Mending,
    operations::{Operation, Operations},
    page_table::{PageHash, PageTable},
    remote::{ExtentHome, RemoteEvent, Tag},
    say::say,
    staging::{FrameRun, Staging},
    state::{PageEvent, PageState},
    stream::Streams,
};
use crate::fault::{FrameNumber, Memory, PageNumber};

/// Bytes the answer of a call may have.
pub const MAX_ANSWER_BYTES: usize = rum_net::rpc::MAX_MESSAGE_BYTES;

/// Runs of pages that are spared as neighbours of an evicted one.
const RECENT: usize = 8;

/// An extent of the region in use.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    pub home: ExtentHome,
    /// Part of a named object, which other clients may change.
    pub named: bool,
}

/// A page's hash; of zeros it is `zero_hash`.
pub fn hash_page(bytes: &[u8]) -> PageHash {
    XxHash3_128::oneshot(bytes)
}

pub struct Local {
    pub memory: Box<dyn Memory>,
    pub table: PageTable,
    pub staging: Staging,
    pub operations: Operations,
    pub streams: Streams,
    pub ahead: Ahead,
    pub extents: Vec<Option<Binding>>,
    pub counters: Counters,
    pub fault_times: Histogram<u64>,
    pub answer: Vec<u8>,
    /// Reads to be sent: there was no room, or their contents were wrong.
    pub unsent: Vec<Tag>,
    pub budget_pages: usize,
    /// Mapped in the region.
    pub resident: usize,
    pub zero_hash: PageHash,
    /// How many slaves keep each page.
    pub copies: u32,
    /// Runs mapped last: their threads may not have touched them yet.
    recent: [(u32, u32); RECENT],
    next_recent: usize,
    /// A failure after which the contents of far memory are lost.
    pub lost: bool,
}

impl Local {
    pub fn new(memory: Box<dyn Memory>, budget_pages: usize) -> Self {
        let pages = memory.pages();
        let frames = memory.frames();
        Self {
            memory,
            table: PageTable::new(pages),
            staging: Staging::new(frames),
            operations: Operations::new(),
            streams: Streams::default(),
            ahead: Ahead::default(),
            extents: vec![None; pages.div_ceil(EXTENT_PAGES)],
            counters: Counters::default(),
            fault_times: Histogram::new_with_bounds(64, 60_000_000_000, 2).expect("the bounds are sound"),
            answer: vec![0; MAX_ANSWER_BYTES],
            unsent: Vec::with_capacity(super::remote::MAX_OPERATIONS),
            budget_pages,
            resident: 0,
            zero_hash: hash_page(&[0; PAGE_BYTES]),
            copies: 1,
            recent: [(0, 0); RECENT],
            next_recent: 0,
            lost: false,
        }
    }

    pub fn binding(&self, page: PageNumber) -> Option<Binding> {
        *self.extents.get(page.0 as usize / EXTENT_PAGES)?
    }

    /// Pages of local memory in use: mapped in the region and in loaded frames.
    pub fn used_pages(&self) -> usize {
        self.resident + self.staging.loaded()
    }

    pub fn note_peak(&mut self) {
        self.counters.peak_pages = self.counters.peak_pages.max(self.used_pages());
    }

    /// Marks pages that were just mapped.
    pub fn now_resident(&mut self, first: PageNumber, count: usize, event: PageEvent) {
        for page in first.0..first.0 + count as u32 {
            self.table.apply(PageNumber(page), event);
            self.table.enqueue(PageNumber(page));
        }
        self.resident += count;
        debug_assert_eq!(self.resident, self.table.queued(), "every resident page waits for its eviction");
        self.note_recent(first, count);
        self.note_peak();
    }

    /// Spares pages, for a while, from being evicted as neighbours of others.
    pub fn note_recent(&mut self, first: PageNumber, count: usize) {
        self.recent[self.next_recent] = (first.0, count as u32);
        self.next_recent = (self.next_recent + 1) % RECENT;
    }

    /// Whether a page is of the runs mapped last: evicting it now would make its thread fault again at once.
    pub fn is_recent(&self, page: u32) -> bool {
        self.recent.iter().any(|&(first, count)| page.wrapping_sub(first) < count)
    }

    /// Something went wrong that no retry mends: says so once.
    pub fn lose(&mut self, message: std::fmt::Arguments<'_>) {
        if !self.lost {
            say(message);
        }
        self.lost = true;
    }

    /// Takes an event of an operation in flight.
    pub fn complete(&mut self, tag: Tag, event: RemoteEvent<'_>) {
        let Some(operation) = self.operations.get(tag) else { return };
        match (operation, event) {
            (Operation::Read { frames, mending, .. }, RemoteEvent::Bytes { offset, bytes }) => {
                self.fill(mending.map_or(frames, |mending| mending.frame(frames)), offset, bytes);
            }
            (Operation::Call { .. }, RemoteEvent::Bytes { offset, bytes }) => {
                self.answer[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            (Operation::Read { first, frames, mending: None, .. }, RemoteEvent::ReadDone { data_pages }) => {
                self.read_done(tag, first, frames, data_pages);
            }
            (Operation::Read { first, frames, mending: Some(mending), .. }, RemoteEvent::ReadDone { data_pages }) => {
                self.copy_done(tag, first, frames, mending, data_pages);
            }
            (Operation::Read { first, mending: Some(mending), .. }, RemoteEvent::Done { .. }) => {
                self.mended(tag, first, mending);
            }
            (Operation::Read { first, mending: Some(mending), .. }, RemoteEvent::Failed(failure)) => {
                self.copy_failed(tag, first, mending, failure);
            }
            (Operation::Write { first, count, zeros }, RemoteEvent::Done { .. }) => {
                let event = if zeros { PageEvent::StoredZeros } else { PageEvent::Stored };
                for page in first.0..first.0 + count as u32 {
                    self.table.apply(PageNumber(page), event);
                    self.table.set_stored(PageNumber(page), !zeros);
                }
                self.operations.remove(tag);
            }
            (Operation::Call { .. }, RemoteEvent::Done { len }) => {
                self.operations.set(tag, Operation::Call { answer: Some(Ok(len)) });
            }
            (Operation::Call { .. }, RemoteEvent::Failed(failure)) => {
                self.operations.set(tag, Operation::Call { answer: Some(Err(failure)) });
            }
            (Operation::Read { first, .. } | Operation::Write { first, .. }, RemoteEvent::Failed(failure)) => {
                self.operations.remove(tag);
                let slave = self.slave_number(first);
                self.lose(format_args!("far memory on slave {slave} is lost: {failure}"));
            }
            (operation, event) => unreachable!("{event:?} does not belong to {operation:?}"),
        }
    }

    /// The line of machines.csv, counted from 1 without comments, that serves a page.
    pub fn slave_number(&self, page: PageNumber) -> usize {
        self.binding(page).map_or(0, |binding| binding.home.slave as usize + 1)
    }

    /// Copies bytes of a read's data into its frames.
    fn fill(&mut self, frames: FrameRun, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, at) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
            if index >= frames.count {
                return;
            }
            let len = bytes.len().min(PAGE_BYTES - at);
            let frame = self.memory.frame_mut(FrameNumber(frames.first.0 + index as u32));
            frame[at..at + len].copy_from_slice(&bytes[..len]);
            (offset, bytes) = (offset + len, &bytes[len..]);
        }
    }

    /// All bytes of a read have arrived.
    fn read_done(&mut self, tag: Tag, first: PageNumber, frames: FrameRun, data: u64) {
        self.spread(frames, data);
        for index in 0..frames.count as u32 {
            self.table.set_stored(PageNumber(first.0 + index), data & (1 << index) != 0);
        }
        self.verify(tag, 0);
    }

    /// Checks the contents of a read's pages from one on, and maps all if they are right.
    pub fn verify(&mut self, tag: Tag, from: usize) {
        let Some(Operation::Read { first, frames, started, .. }) = self.operations.get(tag) else { return };
        let named = self.binding(first).is_some_and(|binding| binding.named);
        for index in from..frames.count {
            let page = PageNumber(first.0 + index as u32);
            let hash = hash_page(self.memory.frame(FrameNumber(frames.first.0 + index as u32)));
            // What another client may have written since is not to be compared with what this one stored.
            let known = self.table.hash(page).filter(|_| !named);
            if known.is_some_and(|known| known != hash) {
                self.counters.hash_mismatches += 1;
                return self.mend(tag, Mending::new(index));
            }
            self.table.set_hash(page, Some(hash));
        }
        self.operations.remove(tag);
        self.counters.pages_fetched += frames.count as u64;
        if self.ahead.arrived(tag) {
            return self.apply(first, frames.count, PageEvent::Arrived);
        }
        self.map_fetched(first, frames);
        let nanoseconds = started.elapsed().as_nanos() as u64;
        self.fault_times.saturating_record(nanoseconds);
    }

    /// Maps pages whose contents lie in frames.
    pub fn map_fetched(&mut self, first: PageNumber, frames: FrameRun) {
        if let Err(error) = self.memory.install(first, frames.first, frames.count) {
            return self.lose(format_args!("cannot map a fetched page: {error}"));
        }
        self.staging.now_empty(frames);
        self.now_resident(first, frames.count, PageEvent::Fetched);
    }

    /// Frees the frames of a batch that is ready.
    pub fn let_go(&mut self, batch: Batch) {
        self.apply(batch.first, batch.frames.count, PageEvent::LetGo);
        self.staging.put_back(batch.frames);
    }

    /// The same happens to pages side by side.
    pub fn apply(&mut self, first: PageNumber, count: usize, event: PageEvent) {
        (first.0..first.0 + count as u32).for_each(|page| self.table.apply(PageNumber(page), event));
    }

    /// Data pages arrived one after the other; where some pages are zeros, moves each to its own frame.
    pub fn spread(&mut self, frames: FrameRun, data: u64) {
        let all = u64::MAX >> (64 - frames.count);
        if data & all == all {
            return;
        }
        let mut source = (data & all).count_ones();
        for index in (0..frames.count as u32).rev() {
            let target = FrameNumber(frames.first.0 + index);
            if data & (1 << index) == 0 {
                self.memory.frame_mut(target).fill(0);
                continue;
            }
            source -= 1;
            if source != index {
                let contents = *self.memory.frame(FrameNumber(frames.first.0 + source));
                *self.memory.frame_mut(target) = contents;
            }
        }
    }

    /// Lets go what was read ahead in a range. True when none of its pages is in flight.
    pub fn settle(&mut self, first: PageNumber, count: usize) -> bool {
        while let Some(batch) = self.ahead.take_ready_among(first, count) {
            self.let_go(batch);
        }
        !(first.0..first.0 + count as u32).any(|page| self.table.state(PageNumber(page)).in_flight())
    }

    /// How many pages from `first` on are in `state`, at most `limit`, without leaving the extent.
    pub fn run_of(&self, first: PageNumber, state: PageState, limit: usize) -> usize {
        let end_of_extent = (first.0 as usize / EXTENT_PAGES + 1) * EXTENT_PAGES;
        let end = (first.0 as usize + limit).min(end_of_extent).min(self.table.len());
        (first.0..end as u32).take_while(|&page| self.table.state(PageNumber(page)) == state).count()
    }
}
