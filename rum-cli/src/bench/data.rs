//! The data that is measured on: half of each page looks random, half is zeros, so that it compresses to a half.

use allocator_api2::vec::Vec as FarVec;
use rum_core::{collections::FarAllocator, grid::Grid};
use rum_net::PAGE_BYTES;

use super::{stats::Random, worker::WorkerError};

/// Words of 8 bytes in a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// Words in far memory.
pub type FarWords<'g> = FarVec<u64, FarAllocator<'g>>;

/// The word at `index`, the same wherever the data lies.
pub fn word(index: usize) -> u64 {
    if index % PAGE_WORDS < PAGE_WORDS / 2 { Random(index as u64).next() } else { 0 }
}

/// `count` words of the data in far memory.
pub fn far_words(grid: &Grid, count: usize) -> Result<FarWords<'_>, WorkerError> {
    let mut words = FarVec::new_in(FarAllocator::new(grid));
    words.try_reserve_exact(count).map_err(|error| WorkerError::Full(error.to_string()))?;
    words.extend((0..count).map(word));
    Ok(words)
}

/// The sum of all words, as a program that reads them would find it.
pub fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}
