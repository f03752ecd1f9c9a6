//! R10: what the client's metadata takes, and small objects with all that belongs to them.

use std::alloc::Layout;

use rum_core::fault::EngineKind;

use super::{
    data,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    worker::{WorkerError, join, measured},
};

const MIB: u64 = 1 << 20;
const REGION_BYTES: usize = 256 << 20;
const BUDGET_BYTES: u64 = 64 * MIB;
const OBJECTS: usize = 4_000_000;
const OBJECT_BYTES: usize = 16;
const GOAL: f64 = 0.007;
const GOAL_SMALL: f64 = 1.5;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let mut pairs = [const { Vec::new() }; 3];
    for _ in 0..stage.runs {
        let large = stage.worker("metadata", &["uffd-inline", "large"], BUDGET_BYTES)?;
        let small = stage.worker("metadata", &["uffd-inline", "small"], BUDGET_BYTES)?;
        pairs[0].push((value(&large, "metadata")?, value(&large, "reserved")?));
        pairs[1].push((value(&large, "overhead")?, value(&large, "reserved")?));
        pairs[2].push((value(&small, "reserved")? + value(&small, "metadata")?, value(&small, "payload")?));
    }
    let label = |id, what| Label::new(id, what, "MiB");
    Ok(vec![
        label("R10", "client metadata ÷ region bytes in use, 256 MiB").at_most(GOAL).figure(&pairs[0]),
        label(
            "R10.rss",
            "for information: what the client grows by since it joined, without resident pages ÷ region bytes in use",
        )
        .at_most(GOAL)
        .figure(&pairs[1]),
        label("R10.small", "memory, metadata included ÷ payload for 4 million objects of 16 bytes")
            .at_most(GOAL_SMALL)
            .figure(&pairs[2]),
    ])
}

/// Memory of this process that the kernel counts.
fn rss_bytes() -> Result<u64, WorkerError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| WorkerError::Wrong("no VmRSS in /proc/self/status".into()))
}

/// Fills memory with one large object or with many small ones, and looks at what it takes, in MiB.
pub fn worker(engine: EngineKind, kind: &str) -> Result<Measured, WorkerError> {
    let grid = join(engine)?;
    let before = rss_bytes()?.saturating_sub(grid.stats().resident_bytes);
    let words = match kind {
        "large" => Some(data::far_words(&grid, REGION_BYTES / 8)?),
        _ => None,
    };
    if words.is_none() {
        let layout = Layout::from_size_align(OBJECT_BYTES, 8).map_err(|_| WorkerError::Usage)?;
        for _ in 0..OBJECTS {
            grid.alloc(layout).map_err(|error| WorkerError::Full(error.to_string()))?;
        }
    }
    let stats = grid.stats();
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    Ok(measured([
        ("metadata", mib(stats.metadata_bytes)),
        ("reserved", mib(stats.reserved_bytes)),
        ("overhead", mib(rss_bytes()?.saturating_sub(before + stats.resident_bytes))),
        ("payload", mib((OBJECTS * OBJECT_BYTES) as u64)),
    ]))
}
