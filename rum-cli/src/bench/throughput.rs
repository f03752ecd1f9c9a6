//! R2: sequential reads through RUM over the bare port's streaming of pages.

use std::{hint::black_box, time::Instant};

use rum_core::fault::EngineKind;
use rum_net::PAGE_BYTES;

use super::{
    data,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    worker::{WorkerError, join, measured},
};

const WORKING_SET_PAGES: usize = 65_536;
/// What is in local memory at once, on both sides.
pub const LOCAL_PAGES: usize = WORKING_SET_PAGES / 4;
const BUDGET_BYTES: u64 = (LOCAL_PAGES * PAGE_BYTES) as u64;
const PASSES: usize = 3;
const GOAL: f64 = 0.3;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let path = stage.folder().join("echo");
    let path = path.to_string_lossy().into_owned();
    let _echo = stage.answerer("echo", &[&path])?;
    let mut pairs = Vec::new();
    for _ in 0..stage.runs {
        let base = value(&stage.worker("stream", &[&path], BUDGET_BYTES)?, "gbps")?;
        let ours = value(&stage.worker("scan", &["uffd-inline"], BUDGET_BYTES)?, "gbps")?;
        pairs.push((ours, base));
    }
    let what = "sequential read at 25 % local, uffd-inline ÷ the port's streaming of pages copied once, one slave";
    Ok(vec![Label::new("R2", what, "GB/s").at_least(GOAL).figure(&pairs)])
}

/// Reads far memory from its start to its end, several times.
pub fn worker(engine: EngineKind) -> Result<Measured, WorkerError> {
    let grid = join(engine)?;
    let words = data::far_words(&grid, WORKING_SET_PAGES * data::PAGE_WORDS)?;
    let expected = data::sum(&words);
    let started = Instant::now();
    for _ in 0..PASSES {
        if data::sum(black_box(&words)) != expected {
            return Err(WorkerError::Wrong("far memory has changed".into()));
        }
    }
    let bytes = (PASSES * WORKING_SET_PAGES * PAGE_BYTES) as f64;
    Ok(measured([("gbps", bytes / started.elapsed().as_nanos() as f64)]))
}
