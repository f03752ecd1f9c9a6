//! The result of a run, as JSON.

use std::time::Duration;

use rum_core::grid::Grid;
use serde::Serialize;

use crate::questions::{Found, WORDS};

/// What a run found and how long it took.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    records: usize,
    /// Of names and texts.
    payload_bytes: usize,
    pub seed: u64,
    /// Look-ups that found something.
    found: usize,
    /// For each word the packages that contain it.
    word_counts: Vec<(&'static str, usize)>,
    /// Over all answers, as hexadecimal digits.
    answers: String,
    load_s: f64,
    lookups_s: f64,
    search_s: f64,
    free_s: f64,
    total_s: f64,
    /// Most memory that the process had in use, as the kernel counts it.
    process_peak_bytes: u64,
    /// What RUM counted; absent in plain memory.
    pub far: Option<Far>,
}

impl Report {
    /// `times` are those of loading, looking up, searching and freeing.
    pub fn new(
        records: usize,
        payload_bytes: usize,
        found: Found,
        counts: [usize; WORDS.len()],
        times: [Duration; 4],
    ) -> Self {
        let [load_s, lookups_s, search_s, free_s] = times.map(|time| time.as_secs_f64());
        let counted: String = counts.iter().map(|count| format!("-{count:x}")).collect();
        Self {
            records,
            payload_bytes,
            seed: 0,
            found: found.count,
            word_counts: WORDS.into_iter().zip(counts).collect(),
            answers: format!("{:016x}{counted}", found.digest),
            load_s,
            lookups_s,
            search_s,
            free_s,
            total_s: load_s + lookups_s + search_s + free_s,
            process_peak_bytes: process_peak_bytes(),
            far: None,
        }
    }
}

/// The counters of `rum_core::grid::Stats`, and what the grid runs on.
#[derive(Clone, Debug, Serialize)]
pub struct Far {
    engine: String,
    links: Vec<String>,
    /// Whether the sessions with all slaves are.
    is_sealed: bool,
    /// What the program held when it had read everything, as it asked for it.
    heap_bytes: u64,
    faults: u64,
    fetch_faults: u64,
    pages_fetched: u64,
    pages_written: u64,
    pages_evicted: u64,
    pages_clean: u64,
    resident_peak_bytes: u64,
    budget_bytes: u64,
    reserved_bytes: u64,
    metadata_bytes: u64,
    fault_p50_ns: u64,
    fault_p99_ns: u64,
    fault_longest_ns: u64,
    fault_mean_ns: u64,
}

impl Far {
    /// The grid's counters now.
    pub fn of(grid: &Grid, heap_bytes: u64) -> Self {
        let stats = grid.stats();
        Self {
            engine: grid.engine().to_string(),
            links: grid.links(),
            is_sealed: grid.is_sealed(),
            heap_bytes,
            faults: stats.faults,
            fetch_faults: stats.fetch_faults,
            pages_fetched: stats.pages_fetched,
            pages_written: stats.pages_written,
            pages_evicted: stats.pages_evicted,
            pages_clean: stats.pages_clean,
            resident_peak_bytes: stats.resident_peak_bytes,
            budget_bytes: stats.budget_bytes,
            reserved_bytes: stats.reserved_bytes,
            metadata_bytes: stats.metadata_bytes,
            fault_p50_ns: stats.fault_p50_ns,
            fault_p99_ns: stats.fault_p99_ns,
            fault_longest_ns: stats.fault_longest_ns,
            fault_mean_ns: stats.fault_mean_ns,
        }
    }
}

fn process_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
