//! What a bare page fault costs with each engine: the handler installs a prepared frame at once. Then the cost of
//! installing and taking runs. Medians of several rounds; engines take turns, as the machine's speed may change.
//!
//! `cargo run --release -p rum-core --example fault_cost`

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rum_core::fault::{Engine, EngineKind, FaultHandler, FaultOutcome, FrameNumber, Memory, PageNumber, start};

const PAGE: usize = 4096;
const PAGES: usize = 4096;
const ROUNDS: usize = 7;
const ENGINES: [EngineKind; 3] = [EngineKind::UffdInline, EngineKind::UffdThread, EngineKind::Sigsegv];

/// Installs the frame of the same number.
struct Prepared(Mutex<Box<dyn Memory>>);

impl FaultHandler for Prepared {
    fn fault(&self, page: PageNumber) -> FaultOutcome {
        let installed = self.0.lock().unwrap().install(page, FrameNumber(page.0), 1);
        if installed.is_ok() { FaultOutcome::Resolved } else { FaultOutcome::Lost }
    }
}

/// A region whose pages all lie prepared in their frames, and its engine.
fn prepared(kind: EngineKind) -> Option<(Arc<Prepared>, Engine, usize)> {
    let (mut memory, pending) = match start(Some(kind), PAGES * PAGE, PAGES) {
        Ok(started) => started,
        Err(error) => {
            println!("{error}");
            return None;
        }
    };
    memory.load_frames(FrameNumber(0), PAGES).unwrap();
    for frame in 0..PAGES {
        memory.frame_mut(FrameNumber(frame as u32))[0] = 1;
    }
    let base = memory.base() as usize;
    let handler = Arc::new(Prepared(Mutex::new(memory)));
    let engine = pending.run(Arc::clone(&handler) as Arc<dyn FaultHandler>);
    Some((handler, engine, base))
}

/// Touches each page in turn, with so many threads, each its own share; returns the time of each touch.
fn touch_all(base: usize, threads: usize) -> Vec<Duration> {
    let share = PAGES / threads;
    let touch = move |thread: usize| {
        // Every other page of the share first, so that sigsegv does not profit from its neighbours' mappings.
        let order = (0..share).step_by(2).chain((1..share).step_by(2));
        let mut times = Vec::with_capacity(share);
        for index in order {
            let address = base + (thread * share + index) * PAGE;
            let begin = Instant::now();
            // SAFETY: a byte of the region; the engine serves the touch.
            black_box(unsafe { (address as *const u8).read_volatile() });
            times.push(begin.elapsed());
        }
        times
    };
    let workers: Vec<_> = (0..threads).map(|thread| thread::spawn(move || touch(thread))).collect();
    workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    microseconds(times[((times.len() - 1) as f64 * share) as usize])
}

fn faults(threads: usize) {
    println!("bare fault, {threads} threads: p50 / p99 / mean µs; faults a second");
    for kind in ENGINES {
        let mut times = Vec::new();
        let mut wall = Duration::ZERO;
        for _ in 0..ROUNDS {
            let Some((_handler, _engine, base)) = prepared(kind) else { return };
            let begin = Instant::now();
            times.extend(touch_all(base, threads));
            wall += begin.elapsed();
        }
        let mean = microseconds(times.iter().sum::<Duration>()) / times.len() as f64;
        let rate = times.len() as f64 / wall.as_secs_f64();
        let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        println!("  {kind:12} {p50:6.2} / {p99:6.2} / {mean:6.2}   {rate:9.0}/s");
    }
}

fn runs() {
    println!("install and take, µs a page");
    for kind in ENGINES {
        for run in [1, 8, 32, 64] {
            let mut installing = Vec::new();
            let mut taking = Vec::new();
            let Some((handler, _engine, _base)) = prepared(kind) else { return };
            let mut memory = handler.0.lock().unwrap();
            for _ in 0..ROUNDS {
                // Twice as far apart as they are long: runs of sigsegv stay apart, too.
                for first in (0..PAGES - run).step_by(2 * run) {
                    let begin = Instant::now();
                    memory.install(PageNumber(first as u32), FrameNumber(first as u32), run).unwrap();
                    let installed = Instant::now();
                    memory.take(PageNumber(first as u32), FrameNumber(first as u32), run).unwrap();
                    installing.push((installed - begin) / run as u32);
                    taking.push(installed.elapsed() / run as u32);
                }
            }
            let (install, take) = (quantile(&mut installing, 0.5), quantile(&mut taking, 0.5));
            println!("  {kind:12} run {run:2}: install {install:6.3}  take {take:6.3}");
        }
    }
}

fn main() {
    faults(1);
    faults(2);
    runs();
}
