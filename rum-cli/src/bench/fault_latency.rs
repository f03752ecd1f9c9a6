//! R1: what a page fault costs over the port's round trip and the bare fault of the same engine.

use std::{hint::black_box, time::Instant};

use rum_core::fault::EngineKind;
use rum_net::PAGE_BYTES;

use super::{
    bare::LONGEST,
    data,
    figure::{Figure, Label},
    stage::{BenchError, Measured, Stage, value},
    stats::{Random, mean, quantile},
    worker::{WorkerError, join, measured},
};

const WORKING_SET_PAGES: usize = 65_536;
const BUDGET_BYTES: u64 = (WORKING_SET_PAGES * PAGE_BYTES / 4) as u64;
/// Touches before the measured ones: until the pages written at the start have left local memory.
const WARM_UP: usize = 32_768;
const FAULTS: usize = 131_072;
const GOAL: f64 = 2.0;
const GOAL_P99: f64 = 3.0;

/// What one run of one engine gave.
struct Run {
    fault: Measured,
    bare: Measured,
    round_trip: Measured,
}

impl Run {
    fn pair(&self, name: &str) -> Result<(f64, f64), BenchError> {
        let base = value(&self.bare, name)? + value(&self.round_trip, name)?;
        Ok((value(&self.fault, name)? / 1e3, base / 1e3))
    }

    fn spread(&self) -> Result<(f64, f64), BenchError> {
        Ok((value(&self.fault, "p99")? / 1e3, value(&self.fault, "p50")? / 1e3))
    }
}

fn runs(stage: &mut Stage, echo: &str, engine: EngineKind, kind: &str) -> Result<Vec<Run>, BenchError> {
    let engine = engine.to_string();
    let mut runs = Vec::new();
    for _ in 0..stage.runs {
        runs.push(Run {
            round_trip: stage.worker("round-trip", &[echo], BUDGET_BYTES)?,
            bare: stage.worker("bare-fault", &[&engine], BUDGET_BYTES)?,
            fault: stage.worker("fault", &[&engine, kind], BUDGET_BYTES)?,
        });
    }
    Ok(runs)
}

fn figure(
    label: Label,
    runs: &[Run],
    pair: impl Fn(&Run) -> Result<(f64, f64), BenchError>,
) -> Result<Figure, BenchError> {
    Ok(label.figure(&runs.iter().map(pair).collect::<Result<Vec<_>, _>>()?))
}

/// Measures all engines; `uffd-inline` is the one with a goal.
pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    let path = stage.folder().join("echo");
    let path = path.to_string_lossy().into_owned();
    let _echo = stage.answerer("echo", &[&path])?;
    let inline = runs(stage, &path, EngineKind::UffdInline, "read")?;
    let base = "(the port's 4 KiB round trip + the engine's bare fault), one slave";
    let label = |id: &str, what: String| Label::new(id, what, "us").at_most(GOAL);
    let mut figures = vec![
        figure(label("R1", format!("page fault p50, uffd-inline ÷ {base}")), &inline, |run| run.pair("p50"))?,
        figure(label("R1.mean", format!("page fault mean, uffd-inline ÷ {base}")), &inline, |run| run.pair("mean"))?,
        figure(label("R1.p99", "page fault p99 ÷ p50, uffd-inline".into()).at_most(GOAL_P99), &inline, Run::spread)?,
    ];
    for (id, engine, kind) in [
        ("R1.dirty", EngineKind::UffdInline, "write"),
        ("R1.thread", EngineKind::UffdThread, "read"),
        ("R1.sigsegv", EngineKind::Sigsegv, "read"),
    ] {
        let kind_said = if kind == "write" { "every page changed" } else { "pages only read" };
        let what = format!("for information: page fault mean, {engine}, {kind_said} ÷ {base}");
        match runs(stage, &path, engine, kind) {
            Ok(runs) => figures.push(figure(label(id, what), &runs, |run| run.pair("mean"))?),
            Err(BenchError::Worker { how, .. }) => eprintln!("rum bench: {id}: not measured: {how}"),
            Err(error) => return Err(error),
        }
    }
    Ok(figures)
}

/// Touches pages of a set four times the budget so that each touch is a fault.
pub fn worker(engine: EngineKind, kind: &str) -> Result<Measured, WorkerError> {
    let grid = join(engine)?;
    let mut words = data::far_words(&grid, WORKING_SET_PAGES * data::PAGE_WORDS)?;
    let mut random = Random(42);
    // Whoever evicts the oldest has always evicted a page when its turn in the circle comes again.
    let order = random.permutation(WORKING_SET_PAGES);
    let writes = kind == "write";
    let mut times = Vec::with_capacity(FAULTS);
    let (mut before, mut started) = (grid.stats(), Instant::now());
    for (index, page) in order.iter().cycle().take(WARM_UP + FAULTS).enumerate() {
        if index == WARM_UP {
            before = grid.stats();
            times.clear();
            started = Instant::now();
        } else if started.elapsed() > LONGEST && index > WARM_UP {
            break;
        }
        let at = *page as usize * data::PAGE_WORDS + random.below(data::PAGE_WORDS as u64) as usize;
        let begin = Instant::now();
        if writes {
            words[at] = black_box(index as u64);
        } else {
            black_box(words[at]);
        }
        times.push(begin.elapsed().as_nanos() as u64);
    }
    let stats = grid.stats();
    let missed = stats.fetch_faults - before.fetch_faults;
    if missed < times.len() as u64 * 95 / 100 {
        return Err(WorkerError::Wrong(format!("only {missed} of {} touches were faults", times.len())));
    }
    Ok(measured([
        ("mean", mean(&times)),
        ("p50", quantile(&mut times, 0.5)),
        ("p99", quantile(&mut times, 0.99)),
        ("fetched", (stats.pages_fetched - before.pages_fetched) as f64),
        ("written", (stats.pages_written - before.pages_written) as f64),
    ]))
}
