//! The grid handle: what a program holds after it joined.
//!
//! `join` reaches the slaves and starts the pager, `heap` reserves extents for the allocators, `named` finds objects
//! by their hash, `transport` turns the pager's operations into requests.

mod heap;
mod join;
mod keeper;
mod named;
pub mod objects;
mod reach;
mod replicated;
mod space;
mod transport;
mod types;

use std::{
    alloc::Layout,
    process,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    placement::Placement,
    wire::message::{REQUEST_HEAD_BYTES, Stat, encode_stat},
};

pub use types::{AllocError, FreeError, JoinError, Location, NamedObject, ObjectHash, ReallocError, Stats};

pub use self::transport::draw_incarnation;
pub use crate::pager::remote::SessionInfo;

use self::{
    heap::{Heaps, Territory},
    keeper::Keeper,
    named::NamedObjects,
    space::Owner,
};
use crate::{
    alloc::{AllocateError, Allocator, Block},
    config::{Config, Machine},
    fault::{Engine, EngineKind},
    pager::{Pager, page_metadata_bytes, remote::SlaveIndex},
};

/// A good-bye is waited for this long.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// A grid that this process has joined. Dropping it flushes named objects and leaves.
pub struct Grid {
    territory: Arc<Territory>,
    heaps: Heaps,
    named: Mutex<NamedObjects>,
    machines: Vec<Machine>,
    transports: Vec<String>,
    base: usize,
    bytes: usize,
    budget_bytes: u64,
    process: u32,
    left: AtomicBool,
    _keeper: Keeper,
    engine: Engine,
}

impl std::fmt::Debug for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grid").field("engine", &self.engine).field("machines", &self.machines).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Grid {
    /// Joins: reaches every slave, maps the region, starts the fault engine.
    pub fn join(config: Config) -> Result<Self, JoinError> {
        join::join(config)
    }

    fn pager(&self) -> &Pager {
        &self.territory.pager
    }

    fn pointer(&self, offset: usize) -> NonNull<u8> {
        NonNull::new((self.base + offset) as *mut u8).expect("the region is not at address 0")
    }

    fn offset(&self, pointer: NonNull<u8>) -> Result<usize, FreeError> {
        let address = pointer.as_ptr() as usize;
        let offset = address.checked_sub(self.base).filter(|&offset| offset < self.bytes);
        offset.ok_or(FreeError::Foreign(address))
    }

    fn slave_at(&self, location: &Location) -> Result<SlaveIndex, AllocError> {
        // On a UDP link the address alone is the slave's name.
        let is_it = |m: &Machine| m.ip == location.ip && (m.mac == location.mac || m.link.is_udp());
        let found = self.machines.iter().position(is_it);
        found.map(|index| index as SlaveIndex).ok_or(AllocError::UnknownLocation)
    }

    fn allocate(&self, heap: &Allocator, layout: Layout) -> Result<Block, AllocError> {
        heap.allocate(layout.size(), layout.align()).map_err(|error| match error {
            AllocateError::BadLayout { .. } if layout.size() > self.bytes => {
                AllocError::OutOfMemory(format!("{} bytes are more than the region has", layout.size()))
            }
            AllocateError::BadLayout { .. } => AllocError::BadLayout,
            AllocateError::Reserve(full) => AllocError::OutOfMemory(full.to_string()),
        })
    }

    /// Allocates `layout.size()` bytes (at least 1), zeroed only if fresh: contents are unspecified.
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        Ok(self.pointer(self.allocate(self.heaps.default_heap(), layout)?.offset))
    }

    /// As `alloc`, with all bytes zero.
    pub fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let block = self.allocate(self.heaps.default_heap(), layout)?;
        let pointer = self.pointer(block.offset);
        if !block.zeroed {
            heap::zero_fresh(pointer, layout.size());
        }
        Ok(pointer)
    }

    /// As `alloc`, on the slave named.
    pub fn alloc_at(&self, layout: Layout, location: &Location) -> Result<NonNull<u8>, AllocError> {
        let heap = self.heaps.pinned_to(&self.territory, self.slave_at(location)?);
        Ok(self.pointer(self.allocate(&heap, layout)?.offset))
    }

    /// The heap that an address belongs to. A named object's memory belongs to none.
    fn heap_of(&self, offset: usize) -> Option<Arc<Allocator>> {
        match self.territory.owners.get(offset / EXTENT_BYTES) {
            Owner::Heap(heap) => self.heaps.get(heap),
            Owner::Free | Owner::Named => None,
        }
    }

    /// Changes the size of an allocation, in place or by moving it. A moved one may be on another slave.
    pub fn realloc(&self, pointer: NonNull<u8>, size: usize) -> Result<NonNull<u8>, ReallocError> {
        self.realloc_aligned(pointer, size, 16)
    }

    /// As `realloc`, for an allocation with this alignment, which is kept.
    pub fn realloc_aligned(
        &self,
        pointer: NonNull<u8>,
        size: usize,
        align: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        let offset = self.offset(pointer)?;
        let not_allocated = || FreeError::NotAllocated(pointer.as_ptr() as usize);
        let heap = self.heap_of(offset).ok_or_else(not_allocated)?;
        let usable = heap.usable_size(offset).ok_or_else(not_allocated)?;
        if heap.resize_in_place(offset, size) {
            return Ok(pointer);
        }
        let layout = Layout::from_size_align(size, align).map_err(|_| AllocError::BadLayout)?;
        let moved = self.pointer(self.allocate(&heap, layout)?.offset);
        heap::copy_to_fresh(pointer, moved, usable.min(size));
        heap.free(offset).map_err(|_| not_allocated())?;
        Ok(moved)
    }

    /// Frees an allocation (not a named object).
    pub fn free(&self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        let offset = self.offset(pointer)?;
        let freed = match self.territory.owners.get(offset / EXTENT_BYTES) {
            Owner::Heap(0) => self.heaps.default_heap().free(offset).is_ok(),
            _ => self.heap_of(offset).is_some_and(|heap| heap.free(offset).is_ok()),
        };
        if freed { Ok(()) } else { Err(FreeError::NotAllocated(pointer.as_ptr() as usize)) }
    }

    /// The bytes that may be used at `pointer`, the start of an allocation.
    pub fn usable_size(&self, pointer: NonNull<u8>) -> Option<usize> {
        let offset = self.offset(pointer).ok()?;
        self.heap_of(offset)?.usable_size(offset)
    }

    fn slaves_for_name(&self, hash: &ObjectHash, location: Option<&Location>) -> Result<SlaveIndex, AllocError> {
        match location {
            Some(location) => self.slave_at(location),
            None => Ok(self.territory.placement.ranking(Placement::name_shard(&hash.0))[0]),
        }
    }

    /// Creates a named object of `size` bytes, zeroed, or finds the existing one of the same size.
    pub fn alloc_named(
        &self,
        hash: &ObjectHash,
        size: usize,
        location: Option<&Location>,
    ) -> Result<NamedObject, AllocError> {
        let slave = self.slaves_for_name(hash, location)?;
        let opened = lock(&self.named).open(&self.territory, slave, hash, Some(size.max(1) as u64))?;
        let opened = opened.ok_or_else(|| AllocError::OutOfMemory("the slave made no object".into()))?;
        Ok(self.named_object(opened))
    }

    fn named_object(&self, opened: named::Opened) -> NamedObject {
        NamedObject { pointer: self.pointer(opened.offset), size: opened.size, existed: opened.existed }
    }

    /// Finds a named object; `None` when there is none. What other clients have flushed before is seen.
    pub fn get_named(&self, hash: &ObjectHash, location: Option<&Location>) -> Option<NamedObject> {
        let slave = self.slaves_for_name(hash, location).ok()?;
        let opened = lock(&self.named).open(&self.territory, slave, hash, None).ok()??;
        Some(self.named_object(opened))
    }

    /// Frees a named object for everyone. False when there is none.
    pub fn free_named(&self, hash: &ObjectHash, location: Option<&Location>) -> bool {
        let Ok(slave) = self.slaves_for_name(hash, location) else { return false };
        lock(&self.named).free(&self.territory, slave, hash)
    }

    /// Writes the changed pages of named objects back, and forgets them, so that a later `get_named` by any client
    /// sees them and this client sees others'.
    pub fn flush(&self) {
        lock(&self.named).flush(&self.territory);
    }

    /// Whether any of `len` bytes at `address` lie in the region.
    pub fn is_far(&self, address: *const u8, len: usize) -> bool {
        let (start, end) = (address as usize, (address as usize).saturating_add(len));
        start < self.base + self.bytes && end > self.base && len > 0
    }

    /// Whether system calls may be handed far buffers (engine `uffd-thread` under full userfaultfd).
    pub fn serves_system_calls(&self) -> bool {
        self.engine.serves_kernel_faults()
    }

    /// The engine in use.
    pub fn engine(&self) -> EngineKind {
        self.engine.kind()
    }

    /// The slaves' links, as machines.csv gives them.
    pub fn links(&self) -> Vec<String> {
        self.machines.iter().map(|machine| machine.link.to_string()).collect()
    }

    /// The transports in use, in words: `vhost`, or with the own address `udp:af_packet:eth1, ip 10.0.0.1`.
    pub fn transports(&self) -> &[String] {
        &self.transports
    }

    /// The session with each slave as it is now, in the order of machines.csv.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        (0..self.machines.len() as SlaveIndex).map(|slave| self.pager().session(slave)).collect()
    }

    /// Whether the sessions with all slaves are sealed: nobody on the way can read or change a page.
    pub fn is_sealed(&self) -> bool {
        self.sessions().iter().all(|session| session.is_sealed)
    }

    /// What each slave says of itself, in the order of machines.csv; `None` for one that gives no answer.
    pub fn slaves(&self) -> Vec<Option<Stat>> {
        let ask = |slave| {
            let mut message = [0; REQUEST_HEAD_BYTES];
            let answer = self.pager().call(slave, encode_stat(&mut message)).ok()?;
            Stat::decode_response(&answer).ok()
        };
        (0..self.machines.len() as SlaveIndex).map(ask).collect()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        let pager = self.pager().stats();
        let heaps = self.heaps.stats();
        let counters = pager.counters;
        let extent_pages = EXTENT_BYTES / PAGE_BYTES;
        Stats {
            faults: counters.faults,
            fetch_faults: counters.fetch_faults,
            pages_fetched: counters.pages_fetched,
            pages_written: counters.pages_written,
            pages_evicted: counters.pages_evicted,
            pages_clean: counters.pages_clean,
            pages_wrong: counters.hash_mismatches,
            pages_repaired: counters.pages_repaired,
            resident_bytes: (pager.used_pages * PAGE_BYTES) as u64,
            resident_peak_bytes: (counters.peak_pages * PAGE_BYTES) as u64,
            budget_bytes: self.budget_bytes,
            reserved_bytes: (pager.extents * EXTENT_BYTES) as u64,
            allocated_bytes: heaps.allocated_bytes as u64,
            metadata_bytes: (page_metadata_bytes(pager.extents * extent_pages) + heaps.metadata_bytes) as u64,
            fault_p50_ns: pager.fetch_p50_ns,
            fault_p99_ns: pager.fetch_p99_ns,
            fault_longest_ns: counters.longest_fault_ns,
            fault_mean_ns: counters.fault_ns.checked_div(counters.faults).unwrap_or(0),
        }
    }

    /// Flushes and says good-bye to the slaves; the region must not be touched afterwards. Drop does it otherwise.
    pub fn leave(&self) {
        // A forked child has the handle but neither the region nor the sessions.
        if process::id() != self.process || self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.flush();
        self.pager().close(LEAVE_PATIENCE);
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.leave();
    }
}
