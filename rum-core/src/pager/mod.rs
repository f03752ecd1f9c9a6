//! The pager: keeps the pages that the program uses in local memory, within a budget, and the rest on slaves.
//!
//! `state` is what a page may be, pure; `page_table` and `staging` hold it for all pages and frames; `core` fetches,
//! evicts and writes back under one lock, which is free while a thread waits for the network; `remote` is the way
//! to the slaves.

mod ahead;
mod core;
mod local;
mod mend;
mod operations;
mod page_table;
pub mod remote;
pub(crate) mod say;
mod staging;
pub mod state;
mod stream;

use std::{
    hint, process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use rum_net::EXTENT_PAGES;

use self::{
    core::{Core, Step},
    local::{Binding, Local},
    remote::{ExtentHome, Remote, RemoteFailure, SessionInfo, SlaveIndex},
    say::say,
    staging::FrameRun,
    state::{PageEvent, PageState},
};
use crate::fault::{FaultHandler, FaultOutcome, Memory, PageNumber};

/// Loaded frames kept free, as a share of the budget and at most.
const RESERVE_SHARE: usize = 16;
const MAX_RESERVE: usize = 64;
/// The least budget that works, in pages.
pub const MIN_BUDGET_PAGES: usize = 64;
/// Spin this long for a reply before giving the CPU away between polls.
const SPIN: Duration = Duration::from_micros(20);
/// Sleep between polls after waiting this long.
const PATIENCE: Duration = Duration::from_millis(2);
/// Sleep this long without the lock when others want it.
const TURN: Duration = Duration::from_micros(50);
/// Try to get the lock so often before sleeping between attempts.
const LOCK_SPINS: u32 = 512;
/// The user is told about a wait this long, and again each time it has passed.
const COMPLAINT: Duration = Duration::from_secs(5);
/// Looks at the number of the process's threads once in so many faults.
const THREADS_CHECK: u64 = 1024;

/// What the pager has done since the start.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    /// Faults served.
    pub faults: u64,
    /// Faults that fetched.
    pub fetch_faults: u64,
    /// Pages fetched.
    pub pages_fetched: u64,
    /// Pages written back, without zero pages.
    pub pages_written: u64,
    /// Pages evicted.
    pub pages_evicted: u64,
    /// Of them, those that needed no write.
    pub pages_clean: u64,
    /// Pages that arrived with contents other than those stored.
    pub hash_mismatches: u64,
    /// Of those, pages that another replica had right, and that were written back.
    pub pages_repaired: u64,
    /// The most pages of local memory ever in use.
    pub peak_pages: usize,
    /// Time in all faults, evictions included, in nanoseconds.
    pub fault_ns: u64,
    /// The longest of them.
    pub longest_fault_ns: u64,
}

/// What the pager has done and holds.
#[derive(Clone, Copy, Default, Debug)]
pub struct PagerStats {
    /// Since the start.
    pub counters: Counters,
    /// Pages of local memory in use: mapped, and in loaded frames.
    pub used_pages: usize,
    /// Extents in use.
    pub extents: usize,
    /// Median from the request to the mapped page, in nanoseconds.
    pub fetch_p50_ns: u64,
    /// 99th percentile of the same.
    pub fetch_p99_ns: u64,
}

/// Bytes of metadata for so many pages in use.
pub fn page_metadata_bytes(pages: usize) -> usize {
    pages * page_table::PageTable::BYTES_PER_PAGE + pages.div_ceil(EXTENT_PAGES) * size_of::<Option<Binding>>()
}

/// The pager of one region.
pub struct Pager {
    core: Mutex<Core>,
    /// Threads that wait for `core`: who waits for the network then lets them have it.
    contenders: AtomicUsize,
    /// Held during a call: there is one buffer for answers.
    calls: Mutex<()>,
    /// Threads of RUM's own in the process, which mostly sleep.
    own_threads: u64,
}

/// Blocks all signals of this thread: a signal handler of the program's may touch the region, and must not do so while
/// its own thread holds the pager's lock.
struct SignalsBlocked(SigSet);

impl SignalsBlocked {
    fn new() -> Self {
        let mut previous = SigSet::empty();
        // Fails only for a wrong `how`.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut previous));
        Self(previous)
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// How a wait for the network goes on: spin, then yield, then sleep; now and then a word to the user.
struct Patience {
    since: Instant,
    told: Duration,
    rounds: u32,
}

impl Patience {
    fn new(since: Instant) -> Self {
        Self { since, told: Duration::ZERO, rounds: 0 }
    }

    /// Called between two polls, without the lock. True when the caller should sleep on the network.
    fn pass(&mut self) -> bool {
        hint::spin_loop();
        self.rounds += 1;
        if !self.rounds.is_multiple_of(8) {
            return false;
        }
        let waited = self.since.elapsed();
        if waited < SPIN {
            return false;
        }
        thread::yield_now();
        if waited >= self.told + COMPLAINT {
            self.told = waited;
            say(format_args!("waiting for a slave to answer, for {} s so far", waited.as_secs()));
        }
        waited >= PATIENCE
    }
}

impl Pager {
    /// A pager over `memory` that keeps at most `budget_pages` in local memory.
    pub fn new(memory: Box<dyn Memory>, remote: Box<dyn Remote>, budget_pages: usize, own_threads: u64) -> Arc<Self> {
        let budget_pages = budget_pages.max(MIN_BUDGET_PAGES);
        let reserve = (budget_pages / RESERVE_SHARE).min(MAX_RESERVE);
        let mut local = Local::new(memory, budget_pages);
        local.copies = remote.copies();
        let core = Mutex::new(Core { local, remote, reserve, threaded: false });
        Arc::new(Self { core, contenders: AtomicUsize::new(0), calls: Mutex::new(()), own_threads })
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        let mut rounds = 0u32;
        loop {
            match self.core.try_lock() {
                Ok(core) => {
                    if rounds > 0 {
                        self.contenders.fetch_sub(1, Ordering::Relaxed);
                    }
                    return core;
                }
                Err(TryLockError::Poisoned(_)) => {
                    say(format_args!("the pager has failed before; far memory cannot be trusted"));
                    process::abort();
                }
                Err(TryLockError::WouldBlock) => {
                    if rounds == 0 {
                        self.contenders.fetch_add(1, Ordering::Relaxed);
                    }
                    rounds += 1;
                    if rounds > LOCK_SPINS {
                        thread::sleep(TURN);
                    } else if rounds.is_multiple_of(64) {
                        thread::yield_now();
                    }
                    hint::spin_loop();
                }
            }
        }
    }

    /// Sleeps until a packet may have come; without the lock if others want it, who would never get it otherwise where
    /// they share a CPU with this thread.
    fn sleep(&self) -> MutexGuard<'_, Core> {
        if self.contenders.load(Ordering::Relaxed) > 0 {
            thread::sleep(TURN);
            return self.lock();
        }
        let mut core = self.lock();
        core.remote.idle();
        core
    }

    /// Repeats `attempt` under the lock, and polls in between, until it gives a value.
    fn until<T>(&self, mut attempt: impl FnMut(&mut Core) -> Option<T>) -> T {
        let _signals = SignalsBlocked::new();
        let mut patience = Patience::new(Instant::now());
        loop {
            let mut core = self.lock();
            core.poll();
            if core.local.lost {
                process::abort();
            }
            if let Some(value) = attempt(&mut core) {
                return value;
            }
            drop(core);
            if patience.pass() {
                drop(self.sleep());
            }
        }
    }

    /// Makes extents of the region usable: from `first` on, one for each of `homes`. Fresh ones read as zeros; others'
    /// contents are on the slaves.
    pub fn bind(&self, first: usize, homes: &[ExtentHome], named: bool, fresh: bool) {
        self.until(|core| {
            for (index, home) in homes.iter().enumerate() {
                let slot = &mut core.local.extents[first + index];
                assert!(slot.is_none(), "extent {} is in use", first + index);
                *slot = Some(Binding { home: *home, named });
                if !fresh {
                    core.invalidate(first + index);
                }
            }
            Some(())
        });
    }

    /// Ends the use of extents; their contents here are forgotten. Returns where they lived.
    pub fn unbind(&self, first: usize, count: usize) -> Vec<ExtentHome> {
        let mut homes = Vec::with_capacity(count);
        for extent in first..first + count {
            let page = PageNumber((extent * EXTENT_PAGES) as u32);
            homes.extend(self.until(|core| {
                if !core.local.settle(page, EXTENT_PAGES) {
                    return None;
                }
                core.discard(page, EXTENT_PAGES, false);
                Some(core.local.extents[extent].take().map(|binding| binding.home))
            }));
        }
        homes
    }

    /// Makes pages absent again, here and on the slaves.
    pub fn discard(&self, first_page: usize, pages: usize) {
        let (mut from, end) = (first_page, first_page + pages);
        while from < end {
            let count = (EXTENT_PAGES - from % EXTENT_PAGES).min(end - from);
            let page = PageNumber(from as u32);
            from += self.until(|core| {
                let done = if core.local.settle(page, count) { core.discard(page, count, true) } else { 0 };
                (done > 0).then_some(done)
            });
        }
    }

    /// Writes the changed pages of named objects among these extents back and forgets them, so that they are read anew.
    pub fn flush_named(&self, extents: std::ops::Range<usize>) {
        for extent in extents {
            if self.until(|core| Some(core.local.extents[extent].is_some_and(|b| b.named))) {
                self.flush_extent(extent);
            }
        }
    }

    fn flush_extent(&self, extent: usize) {
        let page = PageNumber((extent * EXTENT_PAGES) as u32);
        self.until(|core| core.evict_extent(extent).then_some(()));
        self.until(|core| core.local.settle(page, EXTENT_PAGES).then(|| core.invalidate(extent)));
    }

    /// Sends a message to a slave and waits for the answer. Calls of several threads follow one another.
    pub fn call(&self, slave: SlaveIndex, message: &[u8]) -> Result<Vec<u8>, RemoteFailure> {
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tag = None;
        self.until(|core| {
            tag = tag.or_else(|| core.start_call(slave, message));
            core.take_answer(tag?).map(|answer| answer.map(<[u8]>::to_vec))
        })
    }

    /// Called about once a second by a thread of the grid's: leases, lost packets, slaves that have gone.
    pub fn tick(&self) {
        self.until(|core| {
            core.remote.tick();
            Some(())
        });
    }

    /// The first slave that has not answered yet.
    pub fn unreached(&self) -> Option<SlaveIndex> {
        self.until(|core| Some(core.remote.unreached()))
    }

    /// The session with a slave as it is now.
    pub fn session(&self, slave: SlaveIndex) -> SessionInfo {
        self.until(|core| Some(core.remote.session(slave)))
    }

    /// Says good-bye to all slaves; waits for their answers at most `longest`.
    pub fn close(&self, longest: Duration) {
        let started = Instant::now();
        self.until(|core| {
            core.remote.close();
            Some(())
        });
        self.until(|core| (core.remote.is_closed() || started.elapsed() > longest).then_some(()));
    }

    /// Waits until no operation is in flight.
    pub fn drain(&self) {
        self.until(|core| (core.local.operations.in_flight() == 0).then_some(()));
    }

    /// Counts and gauges.
    pub fn stats(&self) -> PagerStats {
        self.until(|core| Some(core.stats()))
    }

    fn wait_for(&self, page: PageNumber, started: Instant) -> FaultOutcome {
        let mut patience = Patience::new(started);
        let mut core = self.lock();
        core.count_fault(self.own_threads);
        if core.is_resident(page) {
            core.map_again(page);
        }
        loop {
            match core.step(page) {
                Step::Mapped => {
                    let took = started.elapsed().as_nanos() as u64;
                    let counters = &mut core.local.counters;
                    counters.fault_ns += took;
                    counters.longest_fault_ns = counters.longest_fault_ns.max(took);
                    return FaultOutcome::Resolved;
                }
                Step::Unallocated => return FaultOutcome::Unallocated,
                Step::Lost => return FaultOutcome::Lost,
                Step::Wait => {}
            }
            core.work_ahead();
            core.poll();
            if matches!(core.local.table.state(page), PageState::Resident | PageState::Ready) {
                continue;
            }
            drop(core);
            core = if patience.pass() { self.sleep() } else { self.lock() };
        }
    }
}

impl FaultHandler for Pager {
    fn fault(&self, page: PageNumber) -> FaultOutcome {
        self.wait_for(page, Instant::now())
    }
}

impl Core {
    fn count_fault(&mut self, own_threads: u64) {
        self.local.counters.faults += 1;
        if self.local.counters.faults % THREADS_CHECK == 1 {
            self.threaded = threads::count().is_some_and(|threads| threads > own_threads + 1);
        }
    }

    fn is_resident(&self, page: PageNumber) -> bool {
        (page.0 as usize) < self.local.table.len() && self.local.table.state(page) == PageState::Resident
    }

    /// Wakes the threads that wait for a page that is mapped. If the program has given it up by madvise of its own, it
    /// is zeros.
    fn map_again(&mut self, page: PageNumber) {
        if let Err(error) = self.local.memory.install_zeros(page, 1) {
            self.local.lose(format_args!("cannot map a page of zeros: {error}"));
        }
        self.local.memory.wake(page);
    }

    /// Forgets what is known of an extent's pages that are not resident: the slaves know.
    fn invalidate(&mut self, extent: usize) {
        let first = (extent * EXTENT_PAGES) as u32;
        for page in (first..first + EXTENT_PAGES as u32).map(PageNumber) {
            if matches!(self.local.table.state(page), PageState::Absent | PageState::Remote) {
                self.local.table.apply(page, PageEvent::Invalidated);
                self.local.table.set_hash(page, None);
                self.local.table.set_stored(page, true);
            }
        }
    }

    /// Evicts the resident pages of an extent. False when some are left for another attempt.
    fn evict_extent(&mut self, extent: usize) -> bool {
        let (mut page, end) = (extent * EXTENT_PAGES, (extent + 1) * EXTENT_PAGES);
        while page < end {
            let first = PageNumber(page as u32);
            let run = self.local.run_of(first, PageState::Resident, staging::CHUNK_FRAMES);
            if run == 0 {
                page += 1;
                continue;
            }
            let Some(to) = self.local.staging.find_empty(run) else { return false };
            let taken = self.evict_run(first, FrameRun { first: to.first, count: to.count.min(run) });
            self.trim();
            if taken == 0 {
                return false;
            }
            page += taken;
        }
        true
    }

    fn stats(&self) -> PagerStats {
        let local = &self.local;
        PagerStats {
            counters: local.counters,
            used_pages: local.used_pages(),
            extents: local.extents.iter().flatten().count(),
            fetch_p50_ns: local.fault_times.value_at_quantile(0.5),
            fetch_p99_ns: local.fault_times.value_at_quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests;

mod threads {
    //! How many threads the process has, without allocation.

    use std::{fs::File, io::Read};

    /// The number in `/proc/self/stat`; `None` where there is no such file.
    pub fn count() -> Option<u64> {
        let mut text = [0; 512];
        let len = File::open("/proc/self/stat").ok()?.read(&mut text).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        // The name, in parentheses, may hold anything; the count is the 18th field behind it.
        text.rsplit_once(')')?.1.split_ascii_whitespace().nth(17)?.parse().ok()
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn a_thread_more_is_counted() {
            let before = super::count().unwrap();
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || wait.recv());
            assert!(super::count().unwrap() > 0 && before > 0);
            drop(done);
            thread.join().unwrap().unwrap_err();
        }
    }
}
