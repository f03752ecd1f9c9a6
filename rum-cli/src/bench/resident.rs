//! R11: loads and stores to resident pages over the same to plain memory.

use std::{hint::black_box, time::Instant};

use nix::sys::prctl::set_thp_disable;
use rum_core::fault::EngineKind;
use rum_net::PAGE_BYTES;

use super::{
    data,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    stats::{Random, quantile},
    worker::{WorkerError, join, measured},
};

const SET_BYTES: usize = 32 << 20;
const WORDS: usize = SET_BYTES / 8;
const BUDGET_BYTES: u64 = 4 * SET_BYTES as u64;
const TOUCHES: usize = 500_000;
const ROUNDS: usize = 25;
/// The goal is 1.00 ± 0.03.
const GOAL: f64 = 1.03;

type Pattern = fn(&mut [u64], u64) -> u64;

const PATTERNS: [(&str, Pattern); 4] =
    [("load", random_loads), ("store", random_stores), ("scan", sequential_loads), ("fill", sequential_stores)];

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let mut pairs = vec![Vec::new(); PATTERNS.len() + 1];
    for _ in 0..stage.runs {
        let measured = stage.worker("resident", &["uffd-inline"], BUDGET_BYTES)?;
        let (mut far, mut near) = (0.0, 0.0);
        for ((name, _), pairs) in PATTERNS.iter().zip(&mut pairs[1..]) {
            let pair = (value(&measured, &format!("far.{name}"))?, value(&measured, &format!("near.{name}"))?);
            pairs.push(pair);
            (far, near) = (far + pair.0, near + pair.1);
        }
        pairs[0].push((far, near));
    }
    let what = "random and sequential loads and stores to 32 MiB of resident pages ÷ plain memory, no huge pages";
    let mut figures = vec![Label::new("R11", what, "ms").at_most(GOAL).figure(&pairs[0])];
    for ((name, _), pairs) in PATTERNS.iter().zip(&pairs[1..]) {
        let what = match *name {
            "load" => "of it random loads",
            "store" => "of it random stores",
            "scan" => "of it sequential loads",
            _ => "of it sequential stores",
        };
        figures.push(Label::new(format!("R11.{name}"), what, "ms").at_most(GOAL).figure(pairs));
    }
    Ok(figures)
}

#[inline(never)]
fn random_loads(words: &mut [u64], seed: u64) -> u64 {
    let mut random = Random(seed);
    (0..TOUCHES).fold(0, |sum: u64, _| sum.wrapping_add(words[random.below(WORDS as u64) as usize]))
}

#[inline(never)]
fn random_stores(words: &mut [u64], seed: u64) -> u64 {
    let mut random = Random(seed);
    (0..TOUCHES).for_each(|index| words[random.below(WORDS as u64) as usize] = index as u64);
    0
}

#[inline(never)]
fn sequential_loads(words: &mut [u64], _seed: u64) -> u64 {
    data::sum(words)
}

#[inline(never)]
fn sequential_stores(words: &mut [u64], seed: u64) -> u64 {
    for word in words {
        *word = seed;
    }
    0
}

/// Short rounds on either memory in turn, and the median of each.
pub fn worker(engine: EngineKind) -> Result<Measured, WorkerError> {
    // The region's pages are small ones: so are the other side's.
    set_thp_disable(true).map_err(std::io::Error::from)?;
    let grid = join(engine)?;
    let mut far = data::far_words(&grid, WORDS)?;
    // Large allocations of far memory start with a page, those of malloc 16 bytes behind: vectors would cross lines.
    let mut near = vec![0; WORDS + data::PAGE_WORDS];
    let skip = near.as_ptr().align_offset(PAGE_BYTES);
    let near = &mut near[skip..skip + WORDS];
    near.iter_mut().enumerate().for_each(|(index, word)| *word = data::word(index));
    let mut measured = measured([]);
    let before = grid.stats().faults;
    for (name, pattern) in PATTERNS {
        let mut times = [const { Vec::new() }; 2];
        for round in 0..2 * ROUNDS {
            // Which comes first changes, as each finds the caches as the other left them.
            let side = (round + round / 2) % 2;
            let words: &mut [u64] = if side == 0 { &mut far } else { &mut *near };
            let begin = Instant::now();
            black_box(pattern(black_box(words), round as u64 / 2));
            times[side].push(begin.elapsed().as_nanos() as u64);
        }
        for (side, times) in ["far", "near"].iter().zip(&mut times) {
            measured.insert(format!("{side}.{name}"), quantile(times, 0.5) / 1e6);
        }
    }
    let faults = grid.stats().faults - before;
    if faults > 0 { Err(WorkerError::Wrong(format!("{faults} faults in resident memory"))) } else { Ok(measured) }
}
