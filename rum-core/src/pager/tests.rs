//! The pager over a memory and a grid that are plain maps: answers come late and out of order, from a seed.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    thread,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rum_net::{EXTENT_PAGES, PAGE_BYTES, wire::message::ExtentRef};

use super::{
    Pager,
    remote::{ExtentHome, Remote, RemoteEvent, SlaveIndex, Tag},
    state::PageState,
};
use crate::fault::{FaultHandler, FaultOutcome, FrameNumber, Memory, PageNumber, TakeError};

type Page = Box<[u8; PAGE_BYTES]>;

/// Pages and frames as the program and the pager see them.
#[derive(Default)]
struct Mapped {
    pages: HashMap<u32, Page>,
    frames: HashMap<u32, Page>,
    busy: Option<u32>,
}

#[derive(Clone, Default)]
struct FakeMemory(Arc<Mutex<Mapped>>, Mirror);

/// `Memory::frame` lends bytes, which a lock cannot: frames live here while they are loaded.
#[derive(Clone, Default)]
struct Mirror(Vec<u8>);

const PAGES: usize = 4 * EXTENT_PAGES;
const FRAMES: usize = 512;

impl FakeMemory {
    fn new() -> Self {
        Self(Arc::default(), Mirror(vec![0; FRAMES * PAGE_BYTES]))
    }
}

impl Memory for FakeMemory {
    fn base(&self) -> *mut u8 {
        std::ptr::null_mut()
    }
    fn pages(&self) -> usize {
        PAGES
    }
    fn frames(&self) -> usize {
        FRAMES
    }
    fn load_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        for frame in first.0..first.0 + count as u32 {
            assert!(self.0.lock().unwrap().frames.insert(frame, Box::new([0; PAGE_BYTES])).is_none());
            self.frame_mut(FrameNumber(frame)).fill(0);
        }
        Ok(())
    }
    fn unload_frames(&mut self, first: FrameNumber, count: usize) -> io::Result<()> {
        for frame in first.0..first.0 + count as u32 {
            assert!(self.0.lock().unwrap().frames.remove(&frame).is_some());
        }
        Ok(())
    }
    fn frame(&self, frame: FrameNumber) -> &[u8; PAGE_BYTES] {
        self.frame_run(frame, 1).try_into().unwrap()
    }
    fn frame_run(&self, first: FrameNumber, count: usize) -> &[u8] {
        for frame in first.0..first.0 + count as u32 {
            assert!(self.0.lock().unwrap().frames.contains_key(&frame), "frame {frame} is empty");
        }
        let at = first.0 as usize * PAGE_BYTES;
        &self.1.0[at..at + count * PAGE_BYTES]
    }
    fn frame_mut(&mut self, frame: FrameNumber) -> &mut [u8; PAGE_BYTES] {
        assert!(self.0.lock().unwrap().frames.contains_key(&frame.0), "frame {frame:?} is empty");
        let at = frame.0 as usize * PAGE_BYTES;
        (&mut self.1.0[at..at + PAGE_BYTES]).try_into().unwrap()
    }
    fn install(&mut self, first: PageNumber, from: FrameNumber, count: usize) -> io::Result<()> {
        for index in 0..count as u32 {
            let contents = Box::new(*self.frame(FrameNumber(from.0 + index)));
            let mut mapped = self.0.lock().unwrap();
            mapped.frames.remove(&(from.0 + index)).expect("a loaded frame");
            assert!(mapped.pages.insert(first.0 + index, contents).is_none(), "page mapped twice");
        }
        Ok(())
    }
    fn install_zeros(&mut self, first: PageNumber, count: usize) -> io::Result<()> {
        for page in first.0..first.0 + count as u32 {
            self.0.lock().unwrap().pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
        }
        Ok(())
    }
    fn take(&mut self, first: PageNumber, to: FrameNumber, count: usize) -> Result<(), TakeError> {
        for index in 0..count as u32 {
            let contents = {
                let mut mapped = self.0.lock().unwrap();
                if mapped.busy == Some(first.0 + index) {
                    return Err(TakeError::Busy { done: index as usize });
                }
                let contents = mapped.pages.remove(&(first.0 + index)).expect("a mapped page");
                assert!(mapped.frames.insert(to.0 + index, contents.clone()).is_none(), "frame is loaded");
                contents
            };
            *self.frame_mut(FrameNumber(to.0 + index)) = *contents;
        }
        Ok(())
    }
    fn discard(&mut self, first: PageNumber, count: usize) -> io::Result<()> {
        for page in first.0..first.0 + count as u32 {
            self.0.lock().unwrap().pages.remove(&page);
        }
        Ok(())
    }
    fn wake(&self, _page: PageNumber) {}
}

enum Answer {
    Read(Tag, Vec<(u32, u32)>, usize),
    Write(Tag),
}

#[derive(Default)]
struct Slave {
    pages: HashMap<(u32, u32), Page>,
    /// Flip a bit in this many reads.
    corrupt: usize,
    /// Fail everything.
    restarted: bool,
    /// Answer nothing.
    silent: bool,
    /// How many slaves there are, which keep the same but for `wrong` pages, and those that give no answers when asked alone.
    copies: usize,
    wrong: HashMap<(u32, u32), Vec<usize>>,
    mute: Vec<usize>,
}

struct FakeRemote {
    slave: Arc<Mutex<Slave>>,
    pending: Vec<Answer>,
    random: StdRng,
}

impl Remote for FakeRemote {
    fn room(&self, _slave: SlaveIndex) -> usize {
        9usize.saturating_sub(self.pending.len())
    }
    fn start_read(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize) -> bool {
        let pages = (page..page + count as u32).map(|page| (home.extent.index, page)).collect();
        self.pending.push(Answer::Read(tag, pages, 0));
        true
    }
    fn copies(&self) -> u32 {
        self.slave.lock().unwrap().copies.max(1) as u32
    }
    fn start_read_copy(&mut self, tag: Tag, home: &ExtentHome, page: u32, attempt: u32) -> bool {
        let copy = attempt as usize % self.copies() as usize;
        self.pending.push(Answer::Read(tag, vec![(home.extent.index, page)], copy));
        true
    }
    fn start_write(&mut self, tag: Tag, home: &ExtentHome, page: u32, count: usize, data: &[u8]) -> bool {
        if self.room(0) == 0 {
            return false;
        }
        let mut slave = self.slave.lock().unwrap();
        for index in 0..count {
            let key = (home.extent.index, page + index as u32);
            slave.wrong.remove(&key);
            if data.is_empty() {
                slave.pages.remove(&key);
            } else {
                let contents: [u8; PAGE_BYTES] = data[index * PAGE_BYTES..][..PAGE_BYTES].try_into().unwrap();
                slave.pages.insert(key, Box::new(contents));
            }
        }
        self.pending.push(Answer::Write(tag));
        true
    }
    fn start_call(&mut self, tag: Tag, _slave: SlaveIndex, _message: &[u8]) -> bool {
        self.pending.push(Answer::Write(tag));
        true
    }
    fn poll(&mut self, sink: &mut dyn FnMut(Tag, RemoteEvent<'_>)) {
        if self.slave.lock().unwrap().silent {
            return;
        }
        while !self.pending.is_empty() && self.random.random_bool(0.5) {
            let which = self.random.random_range(0..self.pending.len());
            let answer = self.pending.swap_remove(which);
            let mut slave = self.slave.lock().unwrap();
            if slave.restarted {
                let (Answer::Read(tag, ..) | Answer::Write(tag)) = answer;
                sink(tag, RemoteEvent::Failed(super::RemoteFailure::SlaveRestarted));
                continue;
            }
            match answer {
                Answer::Write(tag) => sink(tag, RemoteEvent::Done { len: 0 }),
                Answer::Read(tag, pages, copy) => {
                    if slave.mute.contains(&copy) {
                        sink(tag, RemoteEvent::Failed(super::RemoteFailure::Refused("no answer")));
                        continue;
                    }
                    let (mut data, mut data_pages) = (vec![], 0);
                    for (index, page) in pages.iter().enumerate() {
                        let is_wrong = slave.wrong.get(page).is_some_and(|copies| copies.contains(&copy));
                        if is_wrong {
                            data.extend_from_slice(&[0xEE; PAGE_BYTES]);
                            data_pages |= 1 << index;
                        } else if let Some(contents) = slave.pages.get(page) {
                            data.extend_from_slice(&contents[..]);
                            data_pages |= 1 << index;
                        }
                    }
                    if slave.corrupt > 0 && !data.is_empty() {
                        slave.corrupt -= 1;
                        let at = self.random.random_range(0..data.len());
                        data[at] ^= 4;
                    }
                    let cut = self.random.random_range(0..=data.len());
                    sink(tag, RemoteEvent::Bytes { offset: cut, bytes: &data[cut..] });
                    sink(tag, RemoteEvent::Bytes { offset: 0, bytes: &data[..cut] });
                    sink(tag, RemoteEvent::ReadDone { data_pages });
                }
            }
        }
    }
    fn idle(&mut self) {}
}

struct Machine {
    pager: Arc<Pager>,
    mapped: Arc<Mutex<Mapped>>,
    slave: Arc<Mutex<Slave>>,
}

impl Machine {
    fn new(seed: u64, budget_pages: usize) -> Self {
        Self::with_copies(seed, budget_pages, 1)
    }

    fn with_copies(seed: u64, budget_pages: usize, copies: usize) -> Self {
        let memory = FakeMemory::new();
        let mapped = memory.0.clone();
        let slave = Arc::new(Mutex::new(Slave { copies, ..Slave::default() }));
        let remote = FakeRemote { slave: slave.clone(), pending: vec![], random: StdRng::seed_from_u64(seed) };
        let pager = Pager::new(Box::new(memory), Box::new(remote), budget_pages, 0);
        Self { pager, mapped, slave }
    }

    fn bind(&self, extent: usize, fresh: bool, named: bool) {
        let home = ExtentHome { slave: 0, extent: ExtentRef { index: extent as u32 + 100, generation: 1 } };
        self.pager.bind(extent, &[home], named, fresh);
    }

    fn access<T>(&self, page: u32, access: impl FnOnce(&mut Page) -> T) -> T {
        if !self.mapped.lock().unwrap().pages.contains_key(&page) {
            assert_eq!(self.pager.fault(PageNumber(page)), FaultOutcome::Resolved);
        }
        access(self.mapped.lock().unwrap().pages.get_mut(&page).expect("the fault mapped the page"))
    }
}

/// LESSONS 1 to 4 and 6: read then write, partial writes, writes after a flush, data before mapping, the budget.
#[test]
fn a_random_program_sees_its_own_memory() {
    let seeds = std::env::var("RUM_SEED").map_or(0..40, |seed| {
        let seed = seed.parse().unwrap();
        seed..seed + 1
    });
    for seed in seeds {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let budget = random.random_range(64..400);
        let machine = Machine::new(seed, budget);
        machine.bind(0, true, false);
        machine.bind(1, true, true);
        machine.bind(2, true, false);
        let mut shadow: HashMap<(u32, usize), u8> = HashMap::new();
        let mut at = 0;
        // From hardly any order to long scans, which are read ahead.
        let run = [4, 32, 256][seed as usize % 3];
        for _ in 0..4000 {
            at = match random.random_range(0..run) {
                0 => random.random_range(0..3 * EXTENT_PAGES as u32),
                _ => (at + 1) % (3 * EXTENT_PAGES as u32),
            };
            let byte = random.random_range(0..PAGE_BYTES);
            match random.random_range(0..100) {
                0 => {
                    machine.mapped.lock().unwrap().busy = None;
                    machine.pager.flush_named(0..4);
                }
                1 => {
                    let count = random.random_range(1..40).min(3 * EXTENT_PAGES as u32 - at);
                    machine.pager.discard(at as usize, count as usize);
                    shadow.retain(|(page, _), _| !(at..at + count).contains(page));
                }
                2 => machine.mapped.lock().unwrap().busy = random.random_bool(0.5).then_some(at),
                3..40 => {
                    let value = random.random_range(0..3);
                    machine.access(at, |page| page[byte] = value);
                    shadow.insert((at, byte), value);
                }
                _ => {
                    let expected = shadow.get(&(at, byte)).copied().unwrap_or(0);
                    assert_eq!(machine.access(at, |page| page[byte]), expected, "seed {seed} page {at}");
                }
            }
            let mapped = machine.mapped.lock().unwrap();
            assert!(mapped.pages.len() + mapped.frames.len() <= budget, "seed {seed}: over budget");
        }
        machine.mapped.lock().unwrap().busy = None;
        for ((page, byte), value) in shadow {
            assert_eq!(machine.access(page, |page| page[byte]), value, "seed {seed} page {page}");
        }
    }
}

#[test]
fn clean_and_zero_pages_are_not_sent() {
    let machine = Machine::new(1, 64);
    (0..4).for_each(|extent| machine.bind(extent, true, false));
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[0], 0)));
    machine.pager.drain();
    assert_eq!(machine.slave.lock().unwrap().pages.len(), 0);
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[5] = 1));
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[5], 1)));
    let written = machine.pager.stats().counters.pages_written;
    assert_eq!(written, PAGES as u64);
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[5], 1)));
    assert_eq!(machine.pager.stats().counters.pages_written, written);
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[5] = 0));
    (0..64).for_each(|page| machine.access(page, |bytes| bytes[5] = 0));
    machine.pager.drain();
    assert!(machine.slave.lock().unwrap().pages.len() <= 64, "zeros cost nothing on the slave");
}

#[test]
fn a_corrupt_page_is_read_again_and_never_shown() {
    let machine = Machine::new(2, 64);
    (0..4).for_each(|extent| machine.bind(extent, true, false));
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[page as usize % PAGE_BYTES] = 1));
    machine.slave.lock().unwrap().corrupt = 3;
    for page in 0..PAGES as u32 {
        machine.access(page, |bytes| assert_eq!(bytes.iter().map(|&b| b as usize).sum::<usize>(), 1));
    }
    assert_eq!(machine.pager.stats().counters.hash_mismatches, 3);
}

/// A grid of three copies whose pages 10, 11, … are all stored.
fn three_copies(seed: u64) -> Machine {
    let machine = Machine::with_copies(seed, 64, 3);
    (0..4).for_each(|extent| machine.bind(extent, true, false));
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[1] = page as u8 | 1));
    machine.pager.drain();
    machine
}

fn all_are_right(machine: &Machine) {
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[1], page as u8 | 1)));
}

#[test]
fn wrong_pages_come_from_the_replicas_that_have_them_right_and_are_written_back() {
    for seed in 0..20 {
        let machine = three_copies(seed);
        // Of one read, pages that different replicas have right.
        let wrong = [(100, 10, vec![0]), (100, 12, vec![0, 1]), (100, 13, vec![0, 2])];
        let wrong = wrong.into_iter().map(|(extent, page, copies)| ((extent, page), copies)).collect();
        machine.slave.lock().unwrap().wrong = wrong;
        let before = machine.pager.stats().counters;
        all_are_right(&machine);
        let after = machine.pager.stats().counters;
        assert_eq!(after.pages_repaired - before.pages_repaired, 3, "seed {seed}");
        assert!(after.hash_mismatches - before.hash_mismatches >= 4, "seed {seed}");
        let slave = machine.slave.lock().unwrap();
        assert!(slave.wrong.is_empty() && slave.pages[&(100, 12)][1] == 13);
    }
}

#[test]
fn a_page_that_is_wrong_on_all_replicas_is_loss() {
    let machine = three_copies(1);
    machine.slave.lock().unwrap().wrong.insert((100, 0), vec![0, 1, 2]);
    assert_eq!(machine.pager.fault(PageNumber(0)), FaultOutcome::Lost);
}

#[test]
fn a_replica_that_does_not_answer_is_waited_for_and_its_page_taken() {
    let machine = three_copies(2);
    machine.slave.lock().unwrap().wrong.insert((100, 0), vec![0, 1]);
    machine.slave.lock().unwrap().mute = vec![2];
    thread::scope(|scope| {
        let fault = scope.spawn(|| machine.pager.fault(PageNumber(0)));
        while machine.pager.stats().counters.hash_mismatches < 20 {
            thread::yield_now();
        }
        machine.slave.lock().unwrap().mute.clear();
        assert_eq!(fault.join().unwrap(), FaultOutcome::Resolved);
    });
    all_are_right(&machine);
}

#[test]
fn a_page_that_stays_corrupt_or_a_slave_that_forgot_is_loss_not_zeros() {
    for (corrupt, restarted) in [(usize::MAX, false), (0, true)] {
        let machine = Machine::new(3, 64);
        (0..4).for_each(|extent| machine.bind(extent, true, false));
        (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[0] = 1));
        machine.pager.drain();
        machine.slave.lock().unwrap().corrupt = corrupt;
        machine.slave.lock().unwrap().restarted = restarted;
        assert_eq!(machine.pager.fault(PageNumber(0)), FaultOutcome::Lost);
    }
}

#[test]
fn wild_addresses_are_not_served() {
    let machine = Machine::new(4, 64);
    machine.bind(1, true, false);
    assert_eq!(machine.pager.fault(PageNumber(0)), FaultOutcome::Unallocated);
    assert_eq!(machine.pager.fault(PageNumber(PAGES as u32)), FaultOutcome::Unallocated);
    machine.access(EXTENT_PAGES as u32, |bytes| bytes[0] = 9);
    assert_eq!(machine.pager.unbind(1, 1).len(), 1);
    assert_eq!(machine.pager.fault(PageNumber(EXTENT_PAGES as u32)), FaultOutcome::Unallocated);
    machine.bind(1, true, false);
    machine.access(EXTENT_PAGES as u32, |bytes| assert_eq!(bytes[0], 0, "a freed page came back with its contents"));
}

#[test]
fn a_flushed_named_page_shows_what_another_client_wrote() {
    let machine = Machine::new(5, 64);
    machine.bind(0, true, true);
    machine.access(7, |bytes| bytes[0] = 1);
    machine.pager.flush_named(0..4);
    assert_eq!(machine.slave.lock().unwrap().pages[&(100, 7)][0], 1);
    machine.slave.lock().unwrap().pages.get_mut(&(100, 7)).unwrap()[0] = 2;
    machine.access(7, |bytes| {
        assert_eq!(bytes[0], 2);
        bytes[0] = 3;
    });
    machine.pager.flush_named(0..4);
    assert_eq!(machine.slave.lock().unwrap().pages[&(100, 7)][0], 3, "a write after a flush was lost");
}

/// Pages that nobody has touched are on their way or lie ready when the program changes its mind about them.
#[test]
fn what_was_read_ahead_is_as_if_it_had_not_been() {
    for seed in 0..20 {
        let machine = Machine::new(seed, 512);
        machine.bind(0, true, true);
        machine.bind(1, true, false);
        let all = 0..2 * EXTENT_PAGES as u32;
        all.clone().for_each(|page| machine.access(page, |bytes| bytes[0] = 1));
        machine.pager.flush_named(0..1);
        let before = machine.pager.stats().counters;
        (0..100).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[0], 1)));
        let after = machine.pager.stats().counters;
        assert!(after.fetch_faults - before.fetch_faults <= 12, "{} faults", after.fetch_faults - before.fetch_faults);
        // Another client writes, and this one asks for what is there now.
        (0..EXTENT_PAGES as u32).for_each(|page| {
            machine.slave.lock().unwrap().pages.get_mut(&(100, page)).unwrap()[0] = 2;
        });
        machine.pager.flush_named(0..1);
        (0..150).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[0], 2, "seed {seed} page {page}")));
        // Given up, and bound anew.
        machine.pager.discard(150, 50);
        (150..200).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[0], 0, "seed {seed} page {page}")));
        machine.pager.unbind(0, 1);
        machine.bind(0, true, false);
        (200..256).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[0], 0, "seed {seed} page {page}")));
        // Neither are its frames lost.
        all.clone().for_each(|page| machine.access(page, |bytes| bytes[1] = 3));
        all.for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[1], 3, "seed {seed} page {page}")));
        machine.pager.drain();
    }
}

/// The frames of a stream that ended go to those who need them.
#[test]
fn streams_that_end_hold_no_memory() {
    let machine = Machine::new(6, 512);
    (0..4).for_each(|extent| machine.bind(extent, true, false));
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[0] = 1));
    for stream in 0..8u32 {
        let start = stream * 31;
        (start..start + 20).for_each(|page| machine.access(page, |bytes| assert_eq!(bytes[0], 1)));
        machine.pager.tick();
    }
    let ahead = || machine.pager.lock().local.ahead.pages();
    assert!(ahead() > 0);
    for step in 0..4000 {
        // Elsewhere, and never near what was touched last.
        let page = EXTENT_PAGES + step * 101 % (3 * EXTENT_PAGES);
        machine.access(page as u32, |bytes| assert_eq!(bytes[0], 1));
    }
    assert_eq!(ahead(), 0);
}

/// Threads that cannot even ask, because all frames wait for a slave that has gone, let the one through that brings it back.
#[test]
fn nobody_keeps_the_lock_while_a_slave_is_silent() {
    let machine = Machine::new(7, 64);
    (0..4).for_each(|extent| machine.bind(extent, true, false));
    (0..PAGES as u32).for_each(|page| machine.access(page, |bytes| bytes[0] = 1));
    machine.pager.drain();
    machine.slave.lock().unwrap().silent = true;
    let pages: Vec<u32> = (0..16).map(|thread| thread * 40).collect();
    let asked = |pages: &[u32]| {
        let core = machine.pager.lock();
        let reads = pages.iter().filter(|&&page| core.local.table.state(PageNumber(page)) == PageState::Fetching);
        (reads.count(), core.local.staging.free_loaded())
    };
    thread::scope(|scope| {
        for &page in &pages {
            let pager = &machine.pager;
            scope.spawn(move || assert_eq!(pager.fault(PageNumber(page)), FaultOutcome::Resolved));
        }
        while asked(&pages).1 > 0 {
            thread::yield_now();
        }
        assert!(asked(&pages).0 < pages.len(), "somebody has to wait for a frame");
        machine.pager.tick();
        machine.slave.lock().unwrap().silent = false;
    });
    pages.iter().for_each(|&page| machine.access(page, |bytes| assert_eq!(bytes[0], 1)));
}
