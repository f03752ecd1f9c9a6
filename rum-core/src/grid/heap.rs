//! Extents for the allocators: a piece of the region, and memory of slaves behind it.

#![allow(unsafe_code)]

use std::{
    ptr::NonNull,
    sync::{Arc, Mutex, OnceLock},
};

use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    placement::Placement,
    rpc::Incarnation,
    wire::message::{
        ExtentRef, MAX_BATCH_EXTENTS, RESERVE_REQUEST_BYTES, ResponseError, Status, decode_reserve_response,
        encode_release, encode_reserve, release_request_bytes,
    },
};

use super::{
    lock,
    space::{Owner, Owners, Space},
};
use crate::{
    alloc::{Allocator, AllocatorStats, ExtentSource, ReserveError},
    pager::{
        Pager,
        remote::{ExtentHome, SlaveIndex},
        say::say,
    },
};

/// Heaps of one client at most: the default one, and one for each location asked for.
const MAX_HEAPS: usize = 254;

/// The region and the grid behind it, as the heaps and the named objects share them.
pub struct Territory {
    pub pager: Arc<Pager>,
    pub placement: Placement,
    pub space: Mutex<Space>,
    pub owners: Owners,
    pub client: Incarnation,
    pub region_bytes: usize,
}

impl Territory {
    /// Takes `count` extents of the region, side by side.
    pub fn take_space(&self, count: usize, owner: Owner) -> Option<usize> {
        let first = lock(&self.space).take(count)?;
        self.owners.set(first, count, owner);
        Some(first)
    }

    /// Gives extents of the region back.
    pub fn give_space(&self, first: usize, count: usize) {
        self.owners.set(first, count, Owner::Free);
        lock(&self.space).give(first, count);
    }

    /// Reserves `count` extents on one slave, all or none.
    fn reserve_on(&self, slave: SlaveIndex, count: usize) -> Option<Vec<ExtentHome>> {
        let mut message = [0; RESERVE_REQUEST_BYTES];
        let answer = self.pager.call(slave, encode_reserve(count, &mut message)).ok()?;
        match decode_reserve_response(&answer, count) {
            Ok(extents) => Some(extents.iter().map(|extent| ExtentHome { slave, extent }).collect()),
            Err(ResponseError::Refused(Status::Full)) => None,
            Err(error) => {
                say(format_args!("slave {} gave no memory: {error}", slave + 1));
                None
            }
        }
    }

    /// Reserves memory of slaves for `count` extents from `first` on, each where its shard belongs if there is room,
    /// else on the next slave of its ranking; on `pinned` only, if given. All or none.
    fn reserve(&self, first: usize, count: usize, pinned: Option<SlaveIndex>) -> Option<Vec<ExtentHome>> {
        let mut homes: Vec<Option<ExtentHome>> = vec![None; count];
        let ranking = |extent: usize| match pinned {
            Some(slave) => vec![slave],
            None => self.placement.ranking(Placement::extent_shard(self.client, first + extent)),
        };
        let rankings: Vec<_> = (0..count).map(ranking).collect();
        for choice in 0..rankings.first().map_or(0, Vec::len) {
            let slaves = rankings.iter().map(|ranking| ranking[choice]).max().map_or(0, |last| last + 1);
            for slave in 0..slaves {
                let wanted: Vec<usize> =
                    (0..count).filter(|&i| homes[i].is_none() && rankings[i][choice] == slave).collect();
                self.fill(slave, &wanted, &mut homes);
            }
        }
        if homes.iter().all(Option::is_some) {
            return Some(homes.into_iter().flatten().collect());
        }
        self.release_homes(&homes.into_iter().flatten().collect::<Vec<_>>());
        None
    }

    /// Gets memory of a slave for the `wanted` extents, or for as many as it has room for.
    fn fill(&self, slave: SlaveIndex, mut wanted: &[usize], homes: &mut [Option<ExtentHome>]) {
        let mut batch = wanted.len().min(MAX_BATCH_EXTENTS);
        while !wanted.is_empty() && batch > 0 {
            batch = batch.min(wanted.len());
            match self.reserve_on(slave, batch) {
                Some(got) => {
                    wanted[..batch].iter().zip(got).for_each(|(&index, home)| homes[index] = Some(home));
                    wanted = &wanted[batch..];
                }
                None => batch /= 2,
            }
        }
    }

    /// Gives memory back to the slaves. One that cannot be told reclaims it when this client's lease ends.
    fn release_homes(&self, homes: &[ExtentHome]) {
        let mut by_slave: Vec<(SlaveIndex, Vec<ExtentRef>)> = vec![];
        for home in homes {
            match by_slave.iter_mut().find(|(slave, _)| *slave == home.slave) {
                Some((_, extents)) => extents.push(home.extent),
                None => by_slave.push((home.slave, vec![home.extent])),
            }
        }
        for (slave, extents) in by_slave {
            for extents in extents.chunks(MAX_BATCH_EXTENTS) {
                let mut message = vec![0; release_request_bytes(extents.len())];
                let message = encode_release(extents, &mut message);
                if let Err(error) = self.pager.call(slave, message) {
                    say(format_args!("slave {} did not take memory back: {error}", slave + 1));
                }
            }
        }
    }
}

/// A heap's way to the grid.
struct Source {
    territory: Arc<Territory>,
    heap: u8,
    pinned: Option<SlaveIndex>,
}

impl ExtentSource for Source {
    fn reserve(&self, extents: usize) -> Result<usize, ReserveError> {
        let territory = &self.territory;
        let first =
            territory.take_space(extents, Owner::Heap(self.heap)).ok_or(ReserveError::RegionFull { extents })?;
        let Some(homes) = territory.reserve(first, extents, self.pinned) else {
            territory.give_space(first, extents);
            return Err(ReserveError::GridFull { extents });
        };
        territory.pager.bind(first, &homes, false, true);
        Ok(first * EXTENT_BYTES)
    }

    fn release(&self, offset: usize, extents: usize) {
        let first = offset / EXTENT_BYTES;
        let homes = self.territory.pager.unbind(first, extents);
        self.territory.release_homes(&homes);
        self.territory.give_space(first, extents);
    }

    fn discard(&self, offset: usize, bytes: usize) {
        self.territory.pager.discard(offset / PAGE_BYTES, bytes / PAGE_BYTES);
    }
}

/// The heaps of a client: the default one, number 0, and one for each slave that something was pinned to.
pub struct Heaps {
    heaps: Vec<OnceLock<Arc<Allocator>>>,
    default: Arc<Allocator>,
}

impl Heaps {
    pub fn new(territory: &Arc<Territory>, slaves: usize) -> Self {
        let heaps: Vec<_> = (0..=slaves.min(MAX_HEAPS - 1)).map(|_| OnceLock::new()).collect();
        let default = heaps[0].get_or_init(|| Self::make(territory, 0, None)).clone();
        Self { heaps, default }
    }

    fn make(territory: &Arc<Territory>, heap: u8, pinned: Option<SlaveIndex>) -> Arc<Allocator> {
        let source = Source { territory: territory.clone(), heap, pinned };
        Arc::new(Allocator::new(Arc::new(source), territory.region_bytes))
    }

    pub fn default_heap(&self) -> &Allocator {
        &self.default
    }

    pub fn get(&self, heap: u8) -> Option<Arc<Allocator>> {
        self.heaps.get(heap as usize)?.get().cloned()
    }

    pub fn pinned_to(&self, territory: &Arc<Territory>, slave: SlaveIndex) -> Arc<Allocator> {
        let heap = slave as usize + 1;
        match self.heaps.get(heap) {
            Some(slot) => slot.get_or_init(|| Self::make(territory, heap as u8, Some(slave))).clone(),
            // More slaves than heaps: the allocation goes where its shard belongs.
            None => self.default.clone(),
        }
    }

    pub fn stats(&self) -> AllocatorStats {
        let mut sum = AllocatorStats::default();
        for stats in self.heaps.iter().filter_map(OnceLock::get).map(|heap| heap.stats()) {
            sum.allocated_bytes += stats.allocated_bytes;
            sum.metadata_bytes += stats.metadata_bytes;
        }
        sum
    }
}

/// Makes an allocation that was just made, and that nobody has seen yet, zeros.
pub fn zero_fresh(pointer: NonNull<u8>, len: usize) {
    // SAFETY: the only caller got the pointer from its heap for at least `len` bytes a moment ago, and no other
    // thread knows it.
    unsafe { pointer.write_bytes(0, len) }
}

/// Copies an allocation to one that was just made, and that nobody has seen yet.
pub fn copy_to_fresh(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    // SAFETY: the only caller looked both up in their heap, with at least `len` bytes each; they are different
    // allocations; whoever reallocates must not use the old one at the same time.
    unsafe { to.copy_from_nonoverlapping(from, len) }
}
