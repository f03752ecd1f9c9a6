//! Slabs: runs of pages cut into slots of one class. What a slab knows lies here, outside the region.
//!
//! A slot is taken by reserving one in the slab's state (a count), then claiming a clear bit of its bitmap; it is
//! given back in the opposite order. So as many bits are clear as reservations are free, a slab whose count is zero
//! has no user left, and neither step takes a lock. A bit that is already clear betrays a wrong free.

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use super::{lock, metadata::Metadata, size_class::SizeClass};

/// Slabs in a chunk.
const CHUNK_SLABS: usize = 64;
/// Chunks in a block of the table.
const BLOCK_CHUNKS: usize = 512;
/// Bitmaps have 2^0 to 2^5 words.
const WORD_KINDS: usize = 6;
/// No slab.
pub(super) const NO_SLAB: u32 = u32::MAX;

/// What a slab is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// It has no pages.
    Dead = 0,
    /// A stripe allocates from it.
    Active = 1,
    /// Nobody allocates from it: it is full, or waits in the list of its class.
    Detached = 2,
}

/// A slab's state in one word, so that all of it changes at once: bytes asked for in bits 0..24, slots in use in
/// 24..40, class in 40..48, phase in 48..56.
///
/// Which slot asked for how much is not remembered: a freed slot counts as the mean of its slab, so that the sum
/// stays within what the class allows, and is exact for slots asked for alike, and when all are free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(u64);

impl State {
    fn new(class: SizeClass, phase: Phase) -> Self {
        Self((class.index() as u64) << 40 | (phase as u64) << 48)
    }
    #[inline]
    pub(super) fn requested(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }
    #[inline]
    pub(super) fn live(self) -> u32 {
        (self.0 >> 24) as u32 & 0xffff
    }
    #[inline]
    pub(super) fn class(self) -> SizeClass {
        SizeClass::from_index((self.0 >> 40) as u8)
    }
    #[inline]
    pub(super) fn phase(self) -> Phase {
        match (self.0 >> 48) as u8 {
            0 => Phase::Dead,
            1 => Phase::Active,
            _ => Phase::Detached,
        }
    }
    /// Whether `class` may be allocated from it.
    #[inline]
    fn serves(self, class: SizeClass) -> bool {
        self.0 >> 40 == (class.index() as u64 | (Phase::Active as u64) << 8)
    }
    #[inline]
    fn with_one_more(self, requested: usize) -> Self {
        Self(self.0 + (1 << 24 | requested as u64))
    }
    #[inline]
    fn with_one_less(self) -> Self {
        Self(self.0 - (1 << 24 | u64::from(self.mean())))
    }
    fn with_phase(self, phase: Phase) -> Self {
        Self(self.0 & !(0xff << 48) | (phase as u64) << 48)
    }
    #[inline]
    fn mean(self) -> u32 {
        self.requested() / self.live().max(1)
    }
    /// Which list of its class a detached slab belongs to.
    #[inline]
    pub(super) fn shelf(self) -> Shelf {
        let (live, capacity) = (self.live(), self.class().info().capacity);
        if live == 0 {
            Shelf::Empty
        } else if live == capacity {
            Shelf::Full
        } else {
            Shelf::Partial((live * SHELVES as u32 / capacity) as u8)
        }
    }
}

/// How many lists of partly filled slabs a class has.
const SHELVES: usize = 4;

/// Where a detached slab belongs, by how full it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shelf {
    /// Nowhere: its pages are to be given back.
    Empty,
    /// In the list with this number; the last is the fullest.
    Partial(u8),
    /// Nowhere: nothing can be taken from it.
    Full,
}

/// What is known of a slab.
#[derive(Debug)]
struct Header {
    state: AtomicU64,
    first_page: AtomicU32,
    /// Neighbours in the list of the class; guarded by the class's lock, like `shelf`.
    before: AtomicU32,
    after: AtomicU32,
    /// No word of the bitmap before this one has a clear bit, as a rule.
    hint: AtomicU16,
    /// Slots from this one on were never handed out, and are absent.
    fresh: AtomicU16,
    /// The list it is in.
    shelf: AtomicU8,
}

/// In no list.
const NO_SHELF: u8 = u8::MAX;

/// Headers of slabs and their bitmaps, all of one number of words.
#[derive(Debug)]
struct Chunk {
    headers: [Header; CHUNK_SLABS],
    words: Box<[AtomicU64]>,
    words_log2: u32,
    stripe: usize,
}

type Block = [OnceLock<Box<Chunk>>; BLOCK_CHUNKS];

/// A slot handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    /// The first page of its slab.
    pub(super) first_page: u32,
    /// Its number there.
    pub(super) slot: u32,
    /// Whether it was never handed out since its pages were absent.
    pub(super) zeroed: bool,
}

/// What giving a slot back did to its slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Freed {
    /// Its class.
    pub(super) class: SizeClass,
    /// Whether the slab now belongs on another shelf.
    pub(super) misplaced: bool,
}

/// All slabs of an allocator, by number. Numbers are used again, their headers never move or go away.
#[derive(Debug)]
pub(super) struct SlabTable {
    blocks: Box<[OnceLock<Box<Block>>]>,
    numbers: Mutex<Numbers>,
}

/// Slab numbers that are not in use, by stripe and number of words. A stripe has chunks of its own, so that threads
/// on different stripes write to different cache lines.
#[derive(Debug)]
struct Numbers {
    unused: Box<[[Vec<u32>; WORD_KINDS]]>,
    chunks: usize,
}

impl SlabTable {
    pub(super) fn new(region_pages: u32, stripes: usize, metadata: &Metadata) -> Self {
        // Each slab has at least four pages. Numbers fit one kind of bitmap, of which there are six.
        let chunks = region_pages as usize / 4 / CHUNK_SLABS * WORD_KINDS + stripes * WORD_KINDS;
        Self {
            blocks: metadata.table(chunks.div_ceil(BLOCK_CHUNKS), OnceLock::new),
            numbers: Mutex::new(Numbers { unused: metadata.table(stripes, Default::default), chunks: 0 }),
        }
    }

    #[inline]
    fn chunk(&self, slab: u32) -> &Chunk {
        let chunk = slab as usize / CHUNK_SLABS;
        self.blocks[chunk / BLOCK_CHUNKS]
            .get()
            .and_then(|block| block[chunk % BLOCK_CHUNKS].get())
            .expect("a slab's chunk is made before its number is given out")
    }

    #[inline]
    fn header(&self, slab: u32) -> &Header {
        self.chunk(slab).header(slab)
    }

    pub(super) fn state(&self, slab: u32) -> State {
        State(self.header(slab).state.load(Ordering::Acquire))
    }

    pub(super) fn first_page(&self, slab: u32) -> u32 {
        self.header(slab).first_page.load(Ordering::Relaxed)
    }

    /// A number for a slab of `class`, near others of `stripe`. `None` when the table is full.
    pub(super) fn number(&self, class: SizeClass, stripe: usize, metadata: &Metadata) -> Option<u32> {
        let kind = class.info().words_log2() as usize;
        let mut numbers = lock(&self.numbers);
        if let Some(slab) = numbers.unused[stripe][kind].pop() {
            return Some(slab);
        }
        if let Some(slab) = numbers.unused.iter_mut().find_map(|stripe| stripe[kind].pop()) {
            return Some(slab);
        }
        let chunk = numbers.chunks;
        let block = metadata.once(self.blocks.get(chunk / BLOCK_CHUNKS)?, || [const { OnceLock::new() }; BLOCK_CHUNKS]);
        metadata.once(&block[chunk % BLOCK_CHUNKS], || Chunk {
            headers: std::array::from_fn(|_| Header::dead()),
            words: metadata.table(CHUNK_SLABS << kind, || AtomicU64::new(0)),
            words_log2: kind as u32,
            stripe,
        });
        numbers.chunks += 1;
        let first = (chunk * CHUNK_SLABS) as u32;
        numbers.unused[stripe][kind].extend((first + 1..first + CHUNK_SLABS as u32).rev());
        Some(first)
    }

    /// Gives the number of a dead slab back.
    pub(super) fn forget(&self, slab: u32) {
        let chunk = self.chunk(slab);
        lock(&self.numbers).unused[chunk.stripe][chunk.words_log2 as usize].push(slab);
    }

    /// Brings a dead slab to life, active, on the class's number of pages from `first_page` on.
    pub(super) fn start(&self, slab: u32, class: SizeClass, first_page: u32, zeroed: bool) {
        let chunk = self.chunk(slab);
        let (header, words) = (chunk.header(slab), chunk.words(slab));
        let capacity = class.info().capacity;
        for (index, word) in words.iter().enumerate() {
            let slots = (capacity as usize).saturating_sub(index * 64).min(64);
            // Bits past the last slot are never clear.
            word.store(if slots == 64 { 0 } else { u64::MAX << slots }, Ordering::Relaxed);
        }
        header.first_page.store(first_page, Ordering::Relaxed);
        header.hint.store(0, Ordering::Relaxed);
        header.fresh.store(if zeroed { 0 } else { capacity as u16 }, Ordering::Relaxed);
        header.shelf.store(NO_SHELF, Ordering::Relaxed);
        header.state.store(State::new(class, Phase::Active).0, Ordering::Release);
    }

    /// Ends a slab that nobody allocates from and of which no slot is in use; returns how many of its pages, from
    /// the first on, may hold old contents.
    pub(super) fn end(&self, slab: u32) -> u32 {
        let header = self.header(slab);
        let state = State(header.state.load(Ordering::Relaxed));
        debug_assert!(state.live() == 0 && state.phase() == Phase::Detached);
        header.state.store(state.with_phase(Phase::Dead).0, Ordering::Release);
        let info = state.class().info();
        let written = u32::from(header.fresh.load(Ordering::Relaxed)) * info.bytes;
        if written / info.bytes == info.capacity { info.pages } else { written.div_ceil(rum_net::PAGE_BYTES as u32) }
    }

    /// Takes a slot, if `slab` is active, of `class`, and has one.
    #[inline]
    pub(super) fn allocate(&self, slab: u32, class: SizeClass, requested: usize) -> Option<Slot> {
        let chunk = self.chunk(slab);
        let header = chunk.header(slab);
        let capacity = class.info().capacity;
        let mut state = State(header.state.load(Ordering::Acquire));
        loop {
            if !state.serves(class) || state.live() >= capacity {
                return None;
            }
            let more = state.with_one_more(requested);
            match header.state.compare_exchange_weak(state.0, more.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => state = State(now),
            }
        }
        // From here on the slab cannot end, and one clear bit is ours.
        let slot = header.claim(chunk.words(slab));
        let zeroed = slot >= u32::from(header.fresh.load(Ordering::Relaxed));
        if zeroed {
            header.fresh.fetch_max(slot as u16 + 1, Ordering::Relaxed);
        }
        Some(Slot { first_page: header.first_page.load(Ordering::Relaxed), slot, zeroed })
    }

    /// Gives the slot that starts `offset` bytes into the slab's pages back. `None` when no slot in use starts there.
    #[inline]
    pub(super) fn free(&self, slab: u32, offset_in_region: usize) -> Option<Freed> {
        let chunk = self.chunk(slab);
        let header = chunk.header(slab);
        let (class, slot) = header.slot_at(offset_in_region)?;
        let word = slot as usize / 64;
        let bit = 1 << (slot % 64);
        if chunk.words(slab)[word].fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
            return None;
        }
        if word < usize::from(header.hint.load(Ordering::Relaxed)) {
            header.hint.store(word as u16, Ordering::Relaxed);
        }
        let mut state = State(header.state.load(Ordering::Acquire));
        loop {
            let less = state.with_one_less();
            match header.state.compare_exchange_weak(state.0, less.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let misplaced = state.phase() == Phase::Detached && state.shelf() != less.shelf();
                    return Some(Freed { class, misplaced });
                }
                Err(now) => state = State(now),
            }
        }
    }

    /// The class of the slot in use that starts at an offset.
    pub(super) fn find(&self, slab: u32, offset_in_region: usize) -> Option<SizeClass> {
        let chunk = self.chunk(slab);
        let (class, slot) = chunk.header(slab).slot_at(offset_in_region)?;
        let word = chunk.words(slab)[slot as usize / 64].load(Ordering::Acquire);
        (word >> (slot % 64) & 1 == 1).then_some(class)
    }

    /// Counts a slot in use as asked for with another size.
    pub(super) fn request_again(&self, slab: u32, requested: usize) {
        let again = |state: u64| Some(State(state).with_one_less().with_one_more(requested).0);
        let _ = self.header(slab).state.fetch_update(Ordering::AcqRel, Ordering::Acquire, again);
    }

    /// Moves a slab to another phase, whatever its count. Only under the lock of its class.
    pub(super) fn set_phase(&self, slab: u32, phase: Phase) -> State {
        let moved = |state: u64| Some(State(state).with_phase(phase).0);
        let before = self.header(slab).state.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
        State(before.unwrap_or_else(|state| state)).with_phase(phase)
    }

    /// The states of all slabs that have pages.
    pub(super) fn states(&self) -> impl Iterator<Item = State> {
        let chunks = self.blocks.iter().filter_map(OnceLock::get).flat_map(|block| block.iter());
        chunks
            .filter_map(OnceLock::get)
            .flat_map(|chunk| chunk.headers.iter())
            .map(|header| State(header.state.load(Ordering::Relaxed)))
            .filter(|state| state.phase() != Phase::Dead)
    }

    /// Bytes of the lists of numbers.
    pub(super) fn metadata_bytes(&self) -> usize {
        lock(&self.numbers).unused.iter().flatten().map(|numbers| numbers.capacity() * size_of::<u32>()).sum()
    }
}

impl Chunk {
    #[inline]
    fn header(&self, slab: u32) -> &Header {
        &self.headers[slab as usize % CHUNK_SLABS]
    }

    /// The slab's bitmap.
    #[inline]
    fn words(&self, slab: u32) -> &[AtomicU64] {
        let slot = slab as usize % CHUNK_SLABS;
        &self.words[slot << self.words_log2..(slot + 1) << self.words_log2]
    }
}

impl Header {
    fn dead() -> Self {
        Self {
            state: AtomicU64::new(0),
            first_page: AtomicU32::new(0),
            before: AtomicU32::new(NO_SLAB),
            after: AtomicU32::new(NO_SLAB),
            hint: AtomicU16::new(0),
            fresh: AtomicU16::new(0),
            shelf: AtomicU8::new(NO_SHELF),
        }
    }

    /// Sets a clear bit, the lowest as a rule. There is one for each caller that counted itself in.
    #[inline]
    fn claim(&self, words: &[AtomicU64]) -> u32 {
        let hint = usize::from(self.hint.load(Ordering::Relaxed));
        let mut index = hint;
        loop {
            let word = &words[index];
            let mut bits = word.load(Ordering::Relaxed);
            while bits != u64::MAX {
                let bit = bits.trailing_ones();
                let mask = 1 << bit;
                // Only the bit is looked at, so that this is one instruction.
                if word.fetch_or(mask, Ordering::AcqRel) & mask == 0 {
                    if index != hint {
                        self.hint.store(index as u16, Ordering::Relaxed);
                    }
                    return index as u32 * 64 + bit;
                }
                bits = word.load(Ordering::Relaxed);
            }
            index = if index + 1 == words.len() { 0 } else { index + 1 };
        }
    }

    #[inline]
    fn slot_at(&self, offset_in_region: usize) -> Option<(SizeClass, u32)> {
        let state = State(self.state.load(Ordering::Acquire));
        if state.phase() == Phase::Dead {
            return None;
        }
        let start = self.first_page.load(Ordering::Relaxed) as usize * rum_net::PAGE_BYTES;
        let offset = u32::try_from(offset_in_region.checked_sub(start)?).ok()?;
        Some((state.class(), state.class().info().slot_at(offset)?))
    }
}

/// The detached slabs of a class that have room, by how full they are; the oldest first in each list.
#[derive(Debug)]
pub(super) struct Lists {
    heads: [u32; SHELVES],
    tails: [u32; SHELVES],
}

impl Lists {
    pub(super) fn new() -> Self {
        Self { heads: [NO_SLAB; SHELVES], tails: [NO_SLAB; SHELVES] }
    }

    /// The oldest of the fullest slabs, taken off its list.
    pub(super) fn take_fullest(&mut self, table: &SlabTable) -> Option<u32> {
        let slab = self.heads.iter().copied().rev().find(|&slab| slab != NO_SLAB)?;
        self.unlink(table, slab);
        Some(slab)
    }

    /// Puts a slab where it belongs now; `Empty` and `Full` mean in no list.
    pub(super) fn place(&mut self, table: &SlabTable, slab: u32, shelf: Shelf) {
        let to = match shelf {
            Shelf::Partial(shelf) => shelf,
            Shelf::Empty | Shelf::Full => NO_SHELF,
        };
        let from = table.header(slab).shelf.load(Ordering::Relaxed);
        if from == to {
            return;
        }
        if from != NO_SHELF {
            self.unlink(table, slab);
        }
        if to != NO_SHELF {
            self.link(table, slab, to);
        }
    }

    fn link(&mut self, table: &SlabTable, slab: u32, shelf: u8) {
        let header = table.header(slab);
        let tail = std::mem::replace(&mut self.tails[usize::from(shelf)], slab);
        header.before.store(tail, Ordering::Relaxed);
        header.after.store(NO_SLAB, Ordering::Relaxed);
        header.shelf.store(shelf, Ordering::Relaxed);
        match tail {
            NO_SLAB => self.heads[usize::from(shelf)] = slab,
            tail => table.header(tail).after.store(slab, Ordering::Relaxed),
        }
    }

    fn unlink(&mut self, table: &SlabTable, slab: u32) {
        let header = table.header(slab);
        let shelf = usize::from(header.shelf.swap(NO_SHELF, Ordering::Relaxed));
        let (before, after) = (header.before.load(Ordering::Relaxed), header.after.load(Ordering::Relaxed));
        match before {
            NO_SLAB => self.heads[shelf] = after,
            before => table.header(before).after.store(after, Ordering::Relaxed),
        }
        match after {
            NO_SLAB => self.tails[shelf] = before,
            after => table.header(after).before.store(before, Ordering::Relaxed),
        }
    }
}
