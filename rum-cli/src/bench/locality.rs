//! R3: real workloads with locality, with a part of their data local over all of it local.

use std::{
    hash::{BuildHasher, RandomState},
    hint::black_box,
    time::Instant,
};

use hashbrown::HashMap;
use rum_core::{collections::FarAllocator, fault::EngineKind, grid::Grid};

use super::{
    data::{self, FarWords},
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    stats::Random,
    worker::{WorkerError, join, measured},
};

const MIB: u64 = 1 << 20;
/// Bytes that each workload uses, nearly.
const DATA_BYTES: u64 = 128 * MIB;
const WORDS: usize = (DATA_BYTES / 8) as usize;
/// With the key, in a table of a power of two: as many bytes as the others.
const RECORDS: usize = 900_000;
const RECORD_WORDS: usize = 15;
const LOOK_UPS: usize = 4_000_000;
const SCANS: usize = 8;
const WORKLOADS: [&str; 3] = ["map", "sort", "scan"];

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let mut pairs: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (percent, id) in [(50, "R3.50"), (25, "R3.25")] {
        pairs.push((id.to_owned(), Vec::new()));
        pairs.extend(WORKLOADS.map(|workload| (format!("{id}.{workload}"), Vec::new())));
        for _ in 0..stage.runs {
            let ours = run(stage, DATA_BYTES * percent / 100)?;
            let base = run(stage, DATA_BYTES * 3 / 2)?;
            let all = [(geometric_mean(&ours), geometric_mean(&base))];
            let each = ours.iter().copied().zip(base);
            let at = pairs.len() - WORKLOADS.len() - 1;
            all.into_iter().chain(each).zip(&mut pairs[at..]).for_each(|(pair, (_, list))| list.push(pair));
        }
    }
    let figure = |(id, list): &(String, Vec<(f64, f64)>)| {
        let (percent, goal) = if id.starts_with("R3.50") { (50, 1.2) } else { (25, 1.6) };
        let what = match id.rsplit_once('.') {
            Some((_, "map")) => "of them a hash map with look-ups by Zipf's law",
            Some((_, "sort")) => "of them a sort of random numbers",
            Some((_, "scan")) => "of them repeated sequential sums",
            _ => "run time of workloads with locality (geometric mean)",
        };
        Label::new(id, format!("{what}, {percent} % local ÷ all local, uffd-inline"), "s").at_most(goal).figure(list)
    };
    Ok(pairs.iter().map(figure).collect())
}

fn run(stage: &mut Stage, budget_bytes: u64) -> Result<[f64; 3], BenchError> {
    let mut seconds = [0.0; 3];
    for (workload, seconds) in WORKLOADS.iter().zip(&mut seconds) {
        *seconds = value(&stage.worker("locality", &["uffd-inline", workload], budget_bytes)?, "seconds")?;
    }
    Ok(seconds)
}

fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// Runs one workload. Filling its data is not measured.
pub fn worker(engine: EngineKind, workload: &str) -> Result<Measured, WorkerError> {
    let grid = join(engine)?;
    let seconds = match workload {
        "map" => map(&grid)?,
        "sort" => sort(&grid)?,
        "scan" => scan(&grid)?,
        _ => return Err(WorkerError::Usage),
    };
    Ok(measured([("seconds", seconds)]))
}

/// Numbers below a limit, small ones more often: P(k) ~ 1/(k+1), by inverting the integral of the density.
struct Zipf {
    random: Random,
    log_count: f64,
}

impl Zipf {
    fn next(&mut self) -> usize {
        let uniform = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        (uniform * self.log_count).exp() as usize - 1
    }
}

fn map(grid: &Grid) -> Result<f64, WorkerError> {
    let mut map: HashMap<u64, [u64; RECORD_WORDS], RandomState, FarAllocator> =
        HashMap::with_hasher_in(RandomState::new(), FarAllocator::new(grid));
    map.try_reserve(RECORDS).map_err(|_| WorkerError::Full("the map does not fit".into()))?;
    for key in 0..RECORDS as u64 {
        map.insert(key, [key; RECORD_WORDS]);
    }
    let mut zipf = Zipf { random: Random(3), log_count: (RECORDS as f64).ln() };
    let started = Instant::now();
    let mut sum = 0u64;
    for _ in 0..LOOK_UPS {
        let key = zipf.next() as u64;
        let record = map.get(&key).ok_or_else(|| WorkerError::Wrong(format!("record {key} is missing")))?;
        sum = sum.wrapping_add(record[RECORD_WORDS - 1] ^ key);
    }
    let seconds = started.elapsed().as_secs_f64();
    black_box(map.hasher().hash_one(sum));
    if sum == 0 { Ok(seconds) } else { Err(WorkerError::Wrong("a record has changed".into())) }
}

fn random_words(grid: &Grid) -> Result<FarWords<'_>, WorkerError> {
    let mut words = FarWords::new_in(FarAllocator::new(grid));
    words.try_reserve_exact(WORDS).map_err(|error| WorkerError::Full(error.to_string()))?;
    let mut random = Random(5);
    words.extend((0..WORDS).map(|_| random.next()));
    Ok(words)
}

fn sort(grid: &Grid) -> Result<f64, WorkerError> {
    let mut words = random_words(grid)?;
    let started = Instant::now();
    words.sort_unstable();
    let seconds = started.elapsed().as_secs_f64();
    if words.is_sorted() { Ok(seconds) } else { Err(WorkerError::Wrong("not sorted".into())) }
}

fn scan(grid: &Grid) -> Result<f64, WorkerError> {
    let words = random_words(grid)?;
    let expected = data::sum(&words);
    let started = Instant::now();
    for _ in 0..SCANS {
        if data::sum(black_box(&words)) != expected {
            return Err(WorkerError::Wrong("far memory has changed".into()));
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_come_more_often() {
        let mut zipf = Zipf { random: Random(1), log_count: 1000f64.ln() };
        let drawn: Vec<usize> = (0..10_000).map(|_| zipf.next()).collect();
        assert!(drawn.iter().all(|number| *number < 1000));
        let small = drawn.iter().filter(|number| **number < 31).count();
        assert!((4_500..5_500).contains(&small), "{small} of 10,000 below the square root");
    }
}
