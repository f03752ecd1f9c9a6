//! R5: random reads at 25 % local over the same on zram swap.

use std::{fs, hint::black_box, path::Path, time::Instant};

use rum_core::fault::EngineKind;
use rum_net::PAGE_BYTES;

use super::{
    bare::LONGEST,
    data,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    stats::Random,
    worker::{WorkerError, join, measured},
    zram::Swap,
};

const SET_BYTES: u64 = 512 << 20;
const WORDS: usize = (SET_BYTES / 8) as usize;
const BUDGET_BYTES: u64 = SET_BYTES / 4;
/// What the process itself needs beside its data: for zram only.
const PROCESS_BYTES: u64 = 4 << 20;
const WARM_UP: usize = 50_000;
const READS: usize = 200_000;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let swap = Swap::set_up(SET_BYTES * 5 / 4, BUDGET_BYTES + PROCESS_BYTES)?;
    let mut pairs = Vec::new();
    for _ in 0..stage.runs {
        let base = stage.worker("swap-read", &[&swap.cgroup], BUDGET_BYTES)?;
        let ours = stage.worker("far-read", &["uffd-inline"], BUDGET_BYTES)?;
        pairs.push((value(&ours, "mean")?, value(&base, "mean")?));
    }
    let what =
        "mean of random reads of 8 bytes at 25 % local of 512 MiB, uffd-inline ÷ zram swap, half-compressible data";
    Ok(vec![Label::new("R5.read", what, "us").at_most(1.0).figure(&pairs)])
}

/// Reads words anywhere, and checks each.
fn read(words: &[u64]) -> Result<Measured, WorkerError> {
    let mut random = Random(11);
    let (mut wrong, mut reads, mut started) = (0u64, 0u64, Instant::now());
    for index in 0..WARM_UP + READS {
        if index == WARM_UP {
            (reads, started) = (0, Instant::now());
        }
        let at = random.below(words.len() as u64) as usize;
        wrong += u64::from(black_box(words[at]) != data::word(at));
        reads += 1;
        if index % 1024 == 0 && index > WARM_UP && started.elapsed() > LONGEST {
            break;
        }
    }
    let mean = started.elapsed().as_nanos() as f64 / 1e3 / reads as f64;
    if wrong > 0 {
        Err(WorkerError::Wrong(format!("{wrong} words have changed")))
    } else {
        Ok(measured([("mean", mean)]))
    }
}

/// In far memory.
pub fn far_worker(engine: EngineKind) -> Result<Measured, WorkerError> {
    let grid = join(engine)?;
    read(&data::far_words(&grid, WORDS)?)
}

/// In plain memory, most of which the cgroup swaps out.
pub fn swap_worker(cgroup: &Path) -> Result<Measured, WorkerError> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
    let words: Vec<u64> = (0..WORDS).map(data::word).collect();
    let measured = read(&words)?;
    let swapped = fs::read_to_string("/proc/self/status")?;
    let swapped = swapped.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    let swapped: u64 = swapped.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
    let expected = (SET_BYTES - BUDGET_BYTES) / PAGE_BYTES as u64 * 9 / 10;
    if swapped / 4 < expected {
        return Err(WorkerError::Wrong(format!("only {} MiB were swapped out", swapped >> 10)));
    }
    Ok(measured)
}
