//! The correctness suite of a client: the same work whatever is between it and its slaves.

use std::{alloc::Layout, collections::HashMap, time::Instant};

use rum_core::{collections::FarAllocator, grid::Grid};

use super::{
    MIB, PAGE,
    dice::Dice,
    far::Far,
    player::{argument, say},
    resident::Region,
    shadow::{self, Plan, Watch},
};

/// The data of a run, of which a tenth may be resident.
pub const DATA: usize = 20 * MIB;
pub const BUDGET_MIB: usize = 2;

/// How much is done; what is done is always the same.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Operations of each thread.
    pub ops: usize,
    /// One in so many goes anywhere.
    pub far_one_in: usize,
    /// Pages that threads want together.
    pub together: usize,
    /// Allocations and frees.
    pub churn: usize,
    /// Numbers pushed to vectors.
    pub pushes: u64,
    /// Words counted.
    pub words: usize,
}

pub const WHOLE: Effort =
    Effort { ops: 2_000_000, far_one_in: 120, together: 6_000, churn: 6_000, pushes: 640_000, words: 60_000 };

/// For networks that are much slower than memory.
pub const SHORT: Effort =
    Effort { ops: 100_000, far_one_in: 120, together: 600, churn: 1_200, pushes: 320_000, words: 12_000 };

/// Does all of it, compares all with plain memory, and checks that the budget was kept.
pub fn run(grid: &Grid, seed: u64, link: &str, effort: Effort) {
    assert_eq!(grid.engine().to_string(), argument("engine"), "the engine asked for, and no other");
    let started = Instant::now();
    let outcome = shadow::run(grid, Plan { seed, bytes: DATA, ops: effort.ops, far_one_in: effort.far_one_in });
    let stats = outcome.stats;
    say(&format!(
        "{} over {link}: {} operations in {:.1?}, {} fetches (p50 {:.1} us), {} written, {} clean, resident {} KiB",
        grid.engine(),
        outcome.ops,
        outcome.took,
        stats.fetch_faults,
        stats.fault_p50_ns as f64 / 1e3,
        stats.pages_written,
        stats.pages_clean,
        outcome.peak_resident_bytes >> 10,
    ));
    assert!(
        outcome.ops >= effort.ops * shadow::THREADS && stats.pages_evicted > 1_000 && stats.pages_written > 1_000,
        "{stats:?}"
    );
    let mut dice = Dice::new(seed);
    let anywhere = Far::zeroed(grid, PAGE);
    let watch = Watch::new(grid, Region::of(grid, anywhere.base()));
    watch.during(|| {
        shadow::touch_together(grid, seed, 8 * MIB / PAGE, effort.together);
        zero_pages(grid);
        partial_writes(grid);
        rewritten_after_eviction(grid);
        free_and_reuse(grid, &mut dice, effort.churn);
        growing_vectors(grid, effort.pushes);
        hash_map_of_strings(grid, &mut dice, effort.words);
    });
    watch.check_budget();
    say(&format!("{} over {link}: all in {:.1?}", grid.engine(), started.elapsed()));
}

/// Pages of zeros are not stored: neither those only read, nor those filled with zeros, nor those that become zeros.
fn zero_pages(grid: &Grid) {
    let before = grid.stats();
    let data = Far::zeroed(grid, 16 * MIB);
    for page in 0..data.len() / PAGE {
        if page % 2 == 0 {
            data.fill(page * PAGE, PAGE, 0);
        } else {
            assert_eq!(data.byte(page * PAGE + page % PAGE), 0);
        }
    }
    evict_all(grid);
    let after = grid.stats();
    assert_eq!(after.pages_written, before.pages_written, "zeros were sent");
    assert!(after.pages_evicted - before.pages_evicted > 2_000, "{after:?}");
    (0..data.len()).step_by(PAGE).for_each(|at| data.set_word(at + 8, at as u64 + 1));
    evict_all(grid);
    (0..data.len()).step_by(PAGE).for_each(|at| {
        assert_eq!(data.word(at + 8), at as u64 + 1);
        data.set_word(at + 8, 0);
    });
    evict_all(grid);
    (0..data.len()).step_by(512).for_each(|at| assert_eq!(data.word(at), 0));
    grid.free(data.base()).expect("allocated");
}

/// Touches other pages until nothing else can be resident.
fn evict_all(grid: &Grid) {
    let budget = grid.stats().budget_bytes as usize;
    let other = Far::zeroed(grid, 2 * budget);
    (0..other.len()).step_by(PAGE).for_each(|at| other.set_byte(at, 0));
    grid.free(other.base()).expect("allocated");
}

/// Lesson 2: writing a part of a page keeps the rest.
fn partial_writes(grid: &Grid) {
    let data = Far::zeroed(grid, 4 * MIB);
    let pages = data.len() / PAGE;
    (0..pages).for_each(|page| data.fill(page * PAGE, PAGE, page as u8 | 1));
    evict_all(grid);
    // The first touch of each page is a write now.
    (0..pages).for_each(|page| data.set_byte(page * PAGE + page % PAGE, 0xaa));
    evict_all(grid);
    let mut bytes = [0; PAGE];
    for page in 0..pages {
        data.read(page * PAGE, &mut bytes);
        let mut expected = [page as u8 | 1; PAGE];
        expected[page % PAGE] = 0xaa;
        assert!(bytes == expected, "page {page}");
    }
    grid.free(data.base()).expect("allocated");
}

/// Lessons 1 and 3: what is written after the page was read, or after it was stored once already, is stored, too.
fn rewritten_after_eviction(grid: &Grid) {
    let data = Far::zeroed(grid, 3 * MIB);
    for round in 1..=4u64 {
        for at in (0..data.len()).step_by(PAGE) {
            assert_eq!(data.word(at + 80), if round == 1 { 0 } else { at as u64 + round - 1 });
            data.set_word(at + 80, at as u64 + round);
        }
        evict_all(grid);
    }
    (0..data.len()).step_by(PAGE).for_each(|at| assert_eq!(data.word(at + 80), at as u64 + 4));
    grid.free(data.base()).expect("allocated");
}

/// Allocations of all sizes come and go; each keeps its bytes while it lives, and zeroed ones start as zeros.
fn free_and_reuse(grid: &Grid, dice: &mut Dice, rounds: usize) {
    let mut live: Vec<(Far, u8)> = vec![];
    let mut bytes = 0;
    for round in 0..rounds {
        let is_full = bytes > 12 * MIB;
        if live.is_empty() || (!is_full && dice.below(5) < 3) {
            let scale = 3 + dice.below(15);
            let len = 1 + dice.below(1 << scale);
            let mark = 1 + (round % 255) as u8;
            let layout = Layout::from_size_align(len, 1 << dice.below(8)).expect("a layout");
            let far = if dice.below(4) == 0 {
                let far = Far::of(grid.alloc_zeroed(layout).expect("far memory"), len);
                assert!([0, len / 2, len - 1].iter().all(|&at| far.byte(at) == 0), "{len} bytes are not zero");
                far
            } else {
                Far::of(grid.alloc(layout).expect("far memory"), len)
            };
            far.fill(0, len, mark);
            live.push((far, mark));
            bytes += len;
        } else {
            let (far, mark) = live.swap_remove(dice.below(live.len()));
            release(grid, far, mark);
            bytes -= far.len();
        }
    }
    live.into_iter().for_each(|(far, mark)| release(grid, far, mark));
}

fn release(grid: &Grid, far: Far, mark: u8) {
    let mut bytes = vec![0; far.len()];
    far.read(0, &mut bytes);
    assert!(bytes.iter().all(|&byte| byte == mark), "{} bytes of {mark} were changed", far.len());
    grid.free(far.base()).expect("allocated");
}

/// Many vectors that grow in turns, as in a parser.
fn growing_vectors(grid: &Grid, pushes: u64) {
    let mut vectors: Vec<_> = (0..64).map(|_| allocator_api2::vec::Vec::new_in(FarAllocator::new(grid))).collect();
    for i in 0..pushes {
        vectors[(i * 7 % 64) as usize].push(i);
    }
    for (index, vector) in vectors.iter().enumerate() {
        assert_eq!(vector.len() as u64, pushes / 64);
        let step = (1..64).find(|step| step * 7 % 64 == index as u64).unwrap_or(0);
        assert!(vector.iter().enumerate().all(|(n, &i)| i == step + n as u64 * 64), "vector {index}");
    }
}

/// A map from words to their counts, its keys in far memory, too, compared with one in plain memory.
fn hash_map_of_strings(grid: &Grid, dice: &mut Dice, words: usize) {
    type FarText<'g> = allocator_api2::vec::Vec<u8, FarAllocator<'g>>;
    let mut table: Vec<Vec<(FarText<'_>, u64)>> = (0..4_096).map(|_| vec![]).collect();
    let mut plain: HashMap<Vec<u8>, u64> = HashMap::new();
    for _ in 0..words {
        let number = dice.below(30_000);
        let word = format!("{number:0width$}", width = 5 + number % 60).into_bytes();
        *plain.entry(word.clone()).or_default() += 1;
        let bucket = &mut table[number % 4_096];
        match bucket.iter_mut().find(|(key, _)| key.as_slice() == word) {
            Some((_, count)) => *count += 1,
            None => {
                let mut key = FarText::new_in(FarAllocator::new(grid));
                key.extend_from_slice(&word);
                bucket.push((key, 1));
            }
        }
        // Some words are forgotten again.
        if dice.below(10) == 0
            && let Some((key, _)) = table[dice.below(4_096)].pop()
        {
            plain.remove(key.as_slice());
        }
    }
    let found: HashMap<Vec<u8>, u64> = table.iter().flatten().map(|(key, count)| (key.to_vec(), *count)).collect();
    assert_eq!(found.len(), plain.len());
    assert!(found == plain);
}
