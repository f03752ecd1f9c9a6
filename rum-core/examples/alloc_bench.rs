//! Nanoseconds a malloc/free pair of the allocator, beside the system's in the same run. The allocator's "memory" is
//! offsets only: neither side's objects are touched.
//!
//! `cargo run --release -p rum-core --example alloc_bench [rounds]`

use std::{
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    time::Instant,
};

use rum_core::alloc::{Allocator, ExtentSource, ReserveError};
use rum_net::EXTENT_BYTES;

/// An endless grid that costs nothing.
#[derive(Default)]
struct Endless(AtomicUsize);

impl ExtentSource for Endless {
    fn reserve(&self, extents: usize) -> Result<usize, ReserveError> {
        Ok(self.0.fetch_add(extents, Ordering::Relaxed) * EXTENT_BYTES)
    }
    fn release(&self, _offset: usize, _extents: usize) {}
    fn discard(&self, _offset: usize, _bytes: usize) {}
}

trait Heap: Sync {
    fn allocate(&self, size: usize) -> usize;
    fn free(&self, at: usize);
}

impl Heap for Allocator {
    fn allocate(&self, size: usize) -> usize {
        Allocator::allocate(self, size, 16).expect("an endless grid").offset
    }
    fn free(&self, at: usize) {
        Allocator::free(self, at).expect("allocated before");
    }
}

struct System;

impl Heap for System {
    #[allow(unsafe_code)]
    fn allocate(&self, size: usize) -> usize {
        // SAFETY: malloc may be called with any size.
        unsafe { libc::malloc(size) as usize }
    }
    #[allow(unsafe_code)]
    fn free(&self, at: usize) {
        // SAFETY: each address comes from `allocate`, and is freed once.
        unsafe { libc::free(at as *mut libc::c_void) }
    }
}

type Workload = fn(&dyn Heap, usize);

/// One object, again and again.
fn pairs(heap: &dyn Heap, count: usize) {
    for _ in 0..count {
        heap.free(black_box(heap.allocate(black_box(64))));
    }
}

/// Many, then free all in the order they came.
fn batch(heap: &dyn Heap, count: usize) {
    let mut live = Vec::with_capacity(10_000);
    for _ in 0..count / 10_000 {
        live.extend((0..10_000).map(|_| heap.allocate(black_box(48))));
        live.drain(..).for_each(|at| heap.free(at));
    }
}

/// 10,000 objects of 16 to 1,000 bytes live; a random one is replaced.
fn churn(heap: &dyn Heap, count: usize) {
    let mut random = 88_172_645_463_325_252_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mut live: Vec<_> = (0..10_000).map(|_| heap.allocate(16 + next() % 985)).collect();
    for _ in 0..count {
        let at = next() % live.len();
        heap.free(std::mem::replace(&mut live[at], heap.allocate(16 + next() % 985)));
    }
    live.into_iter().for_each(|at| heap.free(at));
}

/// Runs of pages.
fn large(heap: &dyn Heap, count: usize) {
    let mut live: Vec<_> = (0..100).map(|_| heap.allocate(65_536)).collect();
    for round in 0..count {
        heap.free(std::mem::replace(&mut live[round * 37 % 100], heap.allocate(40_000 + round * 4096 % 50_000)));
    }
    live.into_iter().for_each(|at| heap.free(at));
}

/// Nanoseconds a pair of `threads` threads that each do `count`, in wall time.
fn time(heap: &dyn Heap, work: Workload, threads: usize, count: usize) -> f64 {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    work(heap, count);
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        handles.into_iter().for_each(|handle| handle.join().expect("a workload"));
        start.elapsed().as_nanos() as f64 / count as f64
    })
}

/// One thread allocates, another frees.
fn hand_over(heap: &dyn Heap, count: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<usize>>(16);
        scope.spawn(move || receiver.into_iter().flatten().for_each(|at| heap.free(at)));
        for _ in 0..count / 1000 {
            let batch = (0..1000).map(|_| heap.allocate(48)).collect();
            sender.send(batch).expect("the other thread lives");
        }
    });
    start.elapsed().as_nanos() as f64 / count as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let count = 2_000_000;
    let rum: Arc<Allocator> = Arc::new(Allocator::new(Arc::new(Endless::default()), 1 << 40));
    let report = |name: &str, run: &dyn Fn(&dyn Heap) -> f64| {
        // Turn by turn, so that both meet the same state of the machine.
        let (ours, base): (Vec<_>, Vec<_>) = (0..rounds).map(|_| (run(&*rum), run(&System))).unzip();
        let (ours, base) = (median(ours), median(base));
        println!("{name:<32} {ours:>8.1} {base:>8.1} {:>8.2}", ours / base);
    };
    println!("{:<32} {:>8} {:>8} {:>8}", "ns a malloc/free pair", "rum", "system", "ratio");
    for (name, work, count) in [
        ("pair", pairs as Workload, count),
        ("batch of 10,000", batch, count),
        ("churn, 16 to 1,000 bytes", churn, count),
        ("40 to 90 KB", large, count / 20),
    ] {
        report(name, &|heap| time(heap, work, 1, count));
        report(&format!("{name}, 2 threads"), &|heap| time(heap, work, 2, count));
    }
    report("one allocates, one frees", &|heap| hand_over(heap, count));
    println!("{:?}", rum.stats());
}
