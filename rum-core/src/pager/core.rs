//! The pager's whole state, local and remote, as it is used under its lock: fetching, evicting, waiting.

use std::time::Instant;

use rum_net::{EXTENT_PAGES, PAGE_BYTES};

use super::{
    ahead::Batch,
    local::{Local, hash_page},
    operations::Operation,
    remote::{Remote, RemoteFailure, SlaveIndex, Tag},
    staging::FrameRun,
    state::{PageEvent, PageState},
    stream::MAX_WINDOW,
};
use crate::fault::{FrameNumber, PageNumber, TakeError};

/// The longest run of pages evicted at once.
const MAX_EVICTION: usize = 64;
/// With several threads running each removal interrupts the others: runs of at least this many are worth it.
const THREADED_EVICTION: usize = 32;
/// The part of the budget that one fetch may fill, and all batches read ahead together.
const WINDOW_SHARE: usize = 8;
/// Streams are read ahead from this window on: before, they may be short.
const AHEAD_WINDOW: usize = 8;

pub struct Core {
    pub local: Local,
    pub remote: Box<dyn Remote>,
    /// Loaded free frames to keep, so that a fault need not wait for an eviction.
    pub reserve: usize,
    /// Whether several threads of the program run.
    pub threaded: bool,
}

/// What a step towards a mapped page came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The page is mapped.
    Mapped,
    /// It is on its way: poll.
    Wait,
    /// It is not part of an allocation.
    Unallocated,
    /// Its contents are lost.
    Lost,
}

impl Core {
    /// Receives, sends, and completes what can be completed.
    pub fn poll(&mut self) {
        let Self { local, remote, .. } = self;
        remote.poll(&mut |tag, event| local.complete(tag, event));
        while let Some((slave, failure)) = self.remote.take_loss() {
            if self.local.extents.iter().flatten().any(|binding| binding.home.slave == slave) {
                let slave = slave + 1;
                self.local.lose(format_args!("far memory on slave {slave} is lost: {failure}"));
            } else if failure == RemoteFailure::Fenced {
                self.remote.start_anew(slave);
            }
        }
        while let Some(tag) = self.local.unsent.pop() {
            if !self.send_read(tag) {
                break;
            }
        }
    }

    /// Does what can be done at once towards mapping `page`, and starts what has to be waited for.
    pub fn step(&mut self, page: PageNumber) -> Step {
        if self.local.lost {
            return Step::Lost;
        }
        if page.0 as usize >= self.local.table.len() || self.local.binding(page).is_none() {
            return Step::Unallocated;
        }
        match self.local.table.state(page) {
            PageState::Resident => Step::Mapped,
            PageState::Absent => self.map_zeros(page),
            PageState::Remote => self.start_fetch(page),
            PageState::Ready => self.map_ready(page),
            PageState::Fetching => self.reach(page),
            PageState::WritingBack => Step::Wait,
        }
    }

    /// How many pages from `page` on are worth having.
    fn window(&mut self, page: PageNumber) -> usize {
        self.local.streams.window(page).min(self.local.budget_pages / WINDOW_SHARE)
    }

    /// Maps an absent page, and absent ones behind it when they are written one after the other.
    fn map_zeros(&mut self, page: PageNumber) -> Step {
        let wanted = self.window(page);
        let mut count = self.local.run_of(page, PageState::Absent, wanted);
        let room = self.local.budget_pages.saturating_sub(self.local.used_pages() + self.reserve);
        let mapped = if room >= count && self.local.memory.install_limit().is_none_or(|limit| limit > count) {
            self.local.memory.install_zeros(page, count)
        } else {
            self.make_room(count);
            let Some(frames) = self.local.staging.take_loaded(count) else { return Step::Wait };
            count = frames.count;
            for index in 0..count as u32 {
                self.local.memory.frame_mut(FrameNumber(frames.first.0 + index)).fill(0);
            }
            let installed = self.local.memory.install(page, frames.first, count);
            self.local.staging.now_empty(frames);
            installed
        };
        if let Err(error) = mapped {
            self.local.lose(format_args!("cannot map a page of zeros: {error}"));
            return Step::Lost;
        }
        self.local.streams.advanced(page, count);
        self.local.now_resident(page, count, PageEvent::ZerosMapped);
        self.make_room(self.reserve);
        Step::Mapped
    }

    /// Sends a read for a remote page and those that a stream will want next.
    fn start_fetch(&mut self, page: PageNumber) -> Step {
        let wanted = self.window(page);
        let count = self.local.run_of(page, PageState::Remote, wanted);
        self.make_room(1);
        let Some((_, frames)) = self.fetch(page, count) else { return Step::Wait };
        self.local.counters.fetch_faults += 1;
        if wanted >= AHEAD_WINDOW {
            self.read_ahead(PageNumber(page.0 + frames.count as u32));
        }
        Step::Wait
    }

    /// Sends a read for up to `count` remote pages, as many as there are free frames side by side. `None` when there is none,
    /// or too much is in flight.
    fn fetch(&mut self, first: PageNumber, count: usize) -> Option<(Tag, FrameRun)> {
        let frames = self.local.staging.take_loaded(count)?;
        let operation = Operation::Read { first, frames, started: Instant::now(), mending: None };
        let Some(tag) = self.local.operations.insert(operation) else {
            self.local.staging.put_back(frames);
            return None;
        };
        self.local.streams.advanced(first, frames.count);
        self.local.apply(first, frames.count, PageEvent::FetchStarted);
        self.send_read(tag);
        Some((tag, frames))
    }

    /// Sends for the pages from `page` on, which nobody has touched yet.
    fn read_ahead(&mut self, page: PageNumber) {
        if page.0 as usize >= self.local.table.len() || self.local.binding(page).is_none() {
            return;
        }
        let wanted = self.window(page);
        let count = self.local.run_of(page, PageState::Remote, wanted);
        if count == 0 {
            return;
        }
        let most = self.local.budget_pages / WINDOW_SHARE;
        while self.local.ahead.is_full() || self.local.ahead.pages() + count > most {
            let Some(oldest) = self.local.ahead.take_oldest_ready() else { return };
            self.local.let_go(oldest);
        }
        self.make_room(count);
        self.make_run(count);
        if let Some((tag, frames)) = self.fetch(page, count) {
            let fault = self.local.counters.faults;
            self.local.ahead.insert(Batch { tag, first: page, frames, ready: false, fault });
        }
    }

    /// A page that is on its way is wanted. If it was read ahead, the stream has come this far.
    fn reach(&mut self, page: PageNumber) -> Step {
        let Some(batch) = self.local.ahead.take_at(page) else { return Step::Wait };
        if let Some(Operation::Read { first, frames, mending, .. }) = self.local.operations.get(batch.tag) {
            // What the program waits for begins now.
            let operation = Operation::Read { first, frames, started: Instant::now(), mending };
            self.local.operations.set(batch.tag, operation);
        }
        self.local.counters.fetch_faults += 1;
        self.read_ahead(batch.end());
        Step::Wait
    }

    /// Maps the batch of a page that was read ahead, and sends for the next one.
    fn map_ready(&mut self, page: PageNumber) -> Step {
        let batch = self.local.ahead.take_at(page).expect("a ready page belongs to a batch");
        self.local.counters.fetch_faults += 1;
        self.read_ahead(batch.end());
        self.local.map_fetched(batch.first, batch.frames);
        self.make_room(self.reserve);
        if self.local.lost { Step::Lost } else { Step::Mapped }
    }

    /// Sends the read of an operation, or what mends one of its pages; notes it for later when no more can be in flight now.
    fn send_read(&mut self, tag: Tag) -> bool {
        let Some(Operation::Read { first, frames, mending, .. }) = self.local.operations.get(tag) else { return true };
        let Some(binding) = self.local.binding(first) else { return true };
        let page = first.0 % EXTENT_PAGES as u32;
        let Self { local, remote, .. } = self;
        let sent = match mending {
            None => remote.start_read(tag, &binding.home, page, frames.count),
            Some(mending) => {
                let page = page + mending.index as u32;
                if mending.is_right {
                    let contents = local.right_contents(first, frames, mending);
                    remote.start_write(tag, &binding.home, page, 1, contents)
                } else {
                    remote.start_read_copy(tag, &binding.home, page, mending.attempt)
                }
            }
        };
        if !sent {
            self.local.unsent.push(tag);
        }
        sent
    }

    /// While a reply is on its way: evicts a little, so that the next fault finds a frame. False when there was
    /// nothing to do.
    pub fn work_ahead(&mut self) -> bool {
        // A run at a time: from single frames nothing could be fetched but single pages.
        let run = (self.reserve / 2).clamp(1, MAX_WINDOW);
        self.local.staging.free_loaded() + run <= self.reserve && self.add_loaded(self.reserve)
    }

    /// Evicts a run if the free frames are many and do not lie side by side.
    fn make_run(&mut self, count: usize) {
        let staging = &self.local.staging;
        if staging.longest_loaded(count) < count && staging.free_loaded() < 2 * self.reserve {
            self.evict_oldest(count);
        }
    }

    /// Loads frames until `wanted` are free, as far as that goes without waiting.
    pub fn make_room(&mut self, wanted: usize) {
        while self.local.staging.free_loaded() < wanted && self.add_loaded(wanted) {}
    }

    /// Loads fresh frames while the budget lasts; evicts a run when it is spent.
    fn add_loaded(&mut self, wanted: usize) -> bool {
        let missing = wanted.saturating_sub(self.local.staging.free_loaded()).max(1);
        let room = self.local.budget_pages.saturating_sub(self.local.used_pages());
        let mappings_left = self.local.memory.install_limit().is_none_or(|limit| limit > wanted + 1);
        if room == 0 || !mappings_left {
            return self.evict(missing);
        }
        let Some(run) = self.local.staging.find_empty(missing.min(room)) else { return false };
        if let Err(error) = self.local.memory.load_frames(run.first, run.count) {
            self.local.lose(format_args!("cannot get local memory for pages: {error}"));
            return false;
        }
        self.local.staging.now_loaded(run);
        self.local.note_peak();
        true
    }

    /// Frees loaded frames: those of what was read ahead in vain, or of a run of pages that starts with the oldest one.
    fn evict(&mut self, wanted: usize) -> bool {
        if let Some(stale) = self.local.ahead.take_stale(self.local.counters.faults) {
            self.local.let_go(stale);
            return true;
        }
        if self.evict_oldest(wanted) {
            return true;
        }
        // Nothing can be evicted now, and a fault needs a frame.
        let is_short = self.local.staging.free_loaded() == 0;
        if !is_short {
            return false;
        }
        let Some(batch) = self.local.ahead.take_oldest_ready() else { return false };
        self.local.let_go(batch);
        true
    }

    fn evict_oldest(&mut self, wanted: usize) -> bool {
        let Some((first, count)) = self.victims(wanted) else { return false };
        let Some(to) = self.local.staging.find_empty(count) else { return false };
        self.evict_run(first, FrameRun { first: to.first, count: to.count.min(count) }) > 0
    }

    /// Takes a run of resident pages out of the region, and sends what the slaves do not have. Returns how many it took:
    /// fewer when one is pinned, or when the slaves have not acknowledged earlier ones yet.
    pub fn evict_run(&mut self, first: PageNumber, frames: FrameRun) -> usize {
        let count = frames.count.min(self.room_for_writes(first, frames.count));
        if count == 0 {
            return 0;
        }
        let taken = match self.local.memory.take(first, frames.first, count) {
            Ok(()) => count,
            Err(TakeError::Busy { done }) => {
                // The page is pinned for now: it goes to the end of the queue, is spared for a while as a
                // neighbour, and another is tried.
                let busy = PageNumber(first.0 + done as u32);
                self.local.table.dequeue(busy);
                self.local.table.enqueue(busy);
                self.local.note_recent(busy, 1);
                done
            }
            Err(TakeError::Os(error)) => {
                self.local.lose(format_args!("cannot evict a page: {error}"));
                return 0;
            }
        };
        for page in first.0..first.0 + taken as u32 {
            self.local.table.dequeue(PageNumber(page));
        }
        self.local.resident -= taken;
        self.local.counters.pages_evicted += taken as u64;
        if taken > 0 {
            self.settle(first, frames.first, taken);
            self.local.staging.now_loaded(FrameRun { first: frames.first, count: taken });
        }
        taken
    }

    /// The oldest page and its neighbours that may go with it in one system call.
    fn victims(&self, wanted: usize) -> Option<(PageNumber, usize)> {
        let table = &self.local.table;
        let oldest = table.oldest()?;
        let limit = if self.threaded { wanted.max(THREADED_EVICTION) } else { wanted }.min(MAX_EVICTION);
        let limit = limit.min(self.local.budget_pages / 8);
        if self.threaded {
            return Some(self.neighbours(oldest, limit));
        }
        let (mut last, mut count) = (oldest, 1);
        while count < limit && table.next_newer(last) == Some(PageNumber(last.0 + 1)) {
            last = PageNumber(last.0 + 1);
            count += 1;
        }
        Some((oldest, count))
    }

    /// The run of resident pages around `page`, at most `limit` long.
    fn neighbours(&self, page: PageNumber, limit: usize) -> (PageNumber, usize) {
        let resident = |page: u32| {
            (page as usize) < self.local.table.len()
                && self.local.table.state(PageNumber(page)) == PageState::Resident
                && !self.local.is_recent(page)
        };
        let (mut first, mut end) = (page.0, page.0 + 1);
        while ((end - first) as usize) < limit && resident(end) {
            end += 1;
        }
        while ((end - first) as usize) < limit && first > 0 && resident(first - 1) {
            first -= 1;
        }
        (PageNumber(first), (end - first) as usize)
    }

    /// Decides for each page taken whether the slaves have it, and sends it if not.
    fn settle(&mut self, first: PageNumber, frame: FrameNumber, count: usize) {
        let mut index = 0;
        while index < count {
            let page = PageNumber(first.0 + index as u32);
            let fate = self.fate(page, FrameNumber(frame.0 + index as u32));
            self.local.table.apply(page, fate);
            if fate != PageEvent::EvictedDirty {
                self.local.counters.pages_clean += 1;
                index += 1;
                continue;
            }
            let zeros = self.local.table.hash(page) == Some(self.local.zero_hash);
            let run = if zeros { 1 } else { 1 + self.dirty_behind(first, frame, index, count) };
            self.send_write(page, run, (!zeros).then_some(FrameNumber(frame.0 + index as u32)));
            index += run;
        }
    }

    /// How many pages behind `index` are dirty, too, and go with it in one message; marks them.
    fn dirty_behind(&mut self, first: PageNumber, frame: FrameNumber, index: usize, count: usize) -> usize {
        let page = first.0 as usize + index;
        let end = count.min(index + rum_net::wire::message::MAX_BATCH_PAGES);
        let end = end.min(index + EXTENT_PAGES - page % EXTENT_PAGES);
        let mut more = 0;
        for next in index + 1..end {
            let page = PageNumber(first.0 + next as u32);
            let previous = (self.local.table.hash(page), self.local.table.is_stored(page));
            let fate = self.fate(page, FrameNumber(frame.0 + next as u32));
            if fate != PageEvent::EvictedDirty || self.local.table.hash(page) == Some(self.local.zero_hash) {
                // Looked at again as the start of the next run: as it was.
                self.local.table.set_hash(page, previous.0);
                break;
            }
            self.local.table.apply(page, fate);
            more += 1;
        }
        more
    }

    /// Hashes a page that was taken out, remembers the hash, and says what is to become of it.
    fn fate(&mut self, page: PageNumber, frame: FrameNumber) -> PageEvent {
        let hash = hash_page(self.local.memory.frame(frame));
        let stored = self.local.table.is_stored(page);
        let known = self.local.table.hash(page);
        self.local.table.set_hash(page, Some(hash));
        match (stored, known == Some(hash), hash == self.local.zero_hash) {
            (false, _, true) => PageEvent::EvictedZeros,
            (true, true, _) => PageEvent::EvictedClean,
            _ => PageEvent::EvictedDirty,
        }
    }

    /// How many writes of pages in this run, of at most two extents, may be started now. Nobody waits under the lock for
    /// more: the thread that brings a slave's port back needs it.
    fn room_for_writes(&self, first: PageNumber, count: usize) -> usize {
        let last = PageNumber(first.0 + count as u32 - 1);
        let slaves = [first, last].map(|page| self.local.binding(page).map(|binding| binding.home.slave));
        let room = slaves.into_iter().flatten().map(|slave| self.remote.room(slave)).min();
        room.unwrap_or(0).min(self.local.operations.room())
    }

    /// Sends pages that are marked as being written back; `None` sends zeros. There is room for it.
    fn send_write(&mut self, first: PageNumber, count: usize, from: Option<FrameNumber>) {
        let operation = Operation::Write { first, count, zeros: from.is_none() };
        let tag = self.local.operations.insert(operation).expect("room was asked for");
        let binding = self.local.binding(first).expect("a page in use belongs to an extent");
        let data = match from {
            Some(frame) => self.local.memory.frame_run(frame, count),
            None => &[],
        };
        debug_assert!(data.is_empty() || data.len() == count * PAGE_BYTES);
        let page = first.0 % EXTENT_PAGES as u32;
        assert!(self.remote.start_write(tag, &binding.home, page, count, data), "room was asked for");
        if from.is_some() {
            self.local.counters.pages_written += count as u64;
        }
    }

    /// Gives free frames beyond the reserve back to the kernel, one run at a time.
    pub fn trim(&mut self) {
        while self.local.staging.free_loaded() > 2 * self.reserve {
            let excess = self.local.staging.free_loaded() - self.reserve;
            let Some(run) = self.local.staging.take_loaded(excess) else { return };
            if let Err(error) = self.local.memory.unload_frames(run.first, run.count) {
                self.local.lose(format_args!("cannot give local memory back: {error}"));
            }
            self.local.staging.now_empty(run);
        }
    }

    /// Forgets the contents of pages of which none is in flight. Those that slaves hold are made zeros there, too, if
    /// `tell`; then they are in flight. Returns how many pages from `first` on are done: fewer when there is no room for
    /// messages now.
    pub fn discard(&mut self, first: PageNumber, count: usize, tell: bool) -> usize {
        let end = first.0 + count as u32;
        let mut page = first.0;
        while page < end {
            let state = self.local.table.state(PageNumber(page));
            let stored = self.local.table.is_stored(PageNumber(page));
            if stored && tell && self.room_for_writes(PageNumber(page), 1) == 0 {
                break;
            }
            let limit = (end - page) as usize;
            let limit = if stored && tell { limit.min(rum_net::wire::message::MAX_BATCH_PAGES) } else { limit };
            let mut run = self.local.run_of(PageNumber(page), state, limit);
            run = (page..page + run as u32)
                .take_while(|&next| self.local.table.is_stored(PageNumber(next)) == stored)
                .count();
            self.discard_run(PageNumber(page), run, state, stored && tell);
            page += run as u32;
        }
        (page - first.0) as usize
    }

    fn discard_run(&mut self, first: PageNumber, count: usize, state: PageState, tell: bool) {
        if state == PageState::Resident {
            for page in first.0..first.0 + count as u32 {
                self.local.table.dequeue(PageNumber(page));
            }
            self.local.resident -= count;
            if let Err(error) = self.local.memory.discard(first, count) {
                self.local.lose(format_args!("cannot unmap pages: {error}"));
            }
        }
        let event = if tell { PageEvent::DiscardStarted } else { PageEvent::Discarded };
        for page in first.0..first.0 + count as u32 {
            self.local.table.apply(PageNumber(page), event);
            self.local.table.set_hash(PageNumber(page), None);
            if !tell {
                self.local.table.set_stored(PageNumber(page), false);
            }
        }
        if tell {
            self.send_write(first, count, None);
        }
    }

    /// Starts a call; its answer is collected by `take_answer`. `None` when there is no room for it now.
    pub fn start_call(&mut self, slave: SlaveIndex, message: &[u8]) -> Option<Tag> {
        let tag = self.local.operations.insert(Operation::Call { answer: None })?;
        if self.remote.start_call(tag, slave, message) {
            return Some(tag);
        }
        self.local.operations.remove(tag);
        None
    }

    /// The answer of a call, once it is complete.
    pub fn take_answer(&mut self, tag: Tag) -> Option<Result<&[u8], RemoteFailure>> {
        let Some(Operation::Call { answer: Some(answer) }) = self.local.operations.get(tag) else { return None };
        self.local.operations.remove(tag);
        Some(answer.map(|len| &self.local.answer[..len]))
    }
}
