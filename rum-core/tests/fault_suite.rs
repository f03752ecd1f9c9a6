//! What every fault engine does alike: one suite over all engines that this machine allows.

mod fault_common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fault_common::{Dice, PAGE, Rig, State, Variant};
use rum_core::fault::{EngineKind, FrameNumber, PageNumber, TakeError, start};

fn each(test: impl Fn(Variant)) {
    for variant in Variant::allowed() {
        println!("engine {}", variant.name());
        test(variant);
    }
}

#[test]
fn untouched_pages_read_as_zeros_and_keep_what_is_written() {
    each(|variant| {
        let rig = Rig::new(variant, 16);
        assert_eq!(rig.read(3, 0), 0);
        assert_eq!(rig.faults(), 1);
        rig.write(3, 511, 7);
        rig.write(15, 0, 8);
        assert_eq!((rig.read(3, 511), rig.read(15, 0), rig.read(15, 511)), (7, 8, 0));
        assert_eq!(rig.faults(), 2, "a mapped page does not fault");
    });
}

#[test]
fn contents_survive_being_taken_and_installed() {
    each(|variant| {
        let mut dice = Dice::from_environment();
        let pages = 130;
        let rig = Rig::new(variant, pages);
        let mut shadow = vec![[0u64; 512]; pages];
        for _ in 0..3_000 {
            let (page, word, value) = (dice.below(pages), dice.below(512), dice.next());
            match dice.below(8) {
                0..=3 => {
                    rig.write(page, word, value);
                    shadow[page][word] = value;
                }
                4..=6 => assert_eq!(rig.read(page, word), shadow[page][word], "page {page} word {word}"),
                _ => {
                    let run = (page..pages.min(page + 1 + dice.below(64)))
                        .take_while(|&page| rig.state(page) == State::Mapped)
                        .count();
                    rig.take(page, run).unwrap();
                    let inner = rig.lock();
                    for (page, expected) in shadow.iter().enumerate().skip(page).take(run) {
                        let bytes = inner.memory.frame(FrameNumber(page as u32));
                        let words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
                        assert!(words.eq(expected.iter().copied()), "page {page} in its frame");
                    }
                }
            }
        }
        for (page, words) in shadow.iter().enumerate() {
            for (word, value) in words.iter().enumerate() {
                assert_eq!(rig.read(page, word), *value, "page {page} word {word}");
            }
        }
    });
}

#[test]
fn frames_filled_by_the_pager_appear_in_the_region() {
    each(|variant| {
        let rig = Rig::new(variant, 64);
        for run in [1, 8, 32] {
            let mut inner = rig.lock();
            inner.memory.load_frames(FrameNumber(0), run).unwrap();
            for frame in 0..run {
                let bytes = inner.memory.frame_mut(FrameNumber(frame as u32));
                assert!(bytes.iter().all(|&byte| byte == 0), "a frame is loaded with zeros");
                bytes.fill((run + frame) as u8);
            }
            let side_by_side = inner.memory.frame_run(FrameNumber(0), run);
            assert_eq!(side_by_side.len(), run * PAGE);
            assert!(side_by_side.iter().enumerate().all(|(at, &byte)| byte == (run + at / PAGE) as u8));
            inner.memory.install(PageNumber(8), FrameNumber(0), run).unwrap();
            assert!(inner.memory.load_frames(FrameNumber(0), run).is_ok(), "installed frames are empty");
            inner.memory.unload_frames(FrameNumber(0), run).unwrap();
            drop(inner);
            for page in 0..run {
                assert_eq!(rig.read(8 + page, 5), u64::from_ne_bytes([(run + page) as u8; 8]));
            }
            rig.lock().memory.discard(PageNumber(8), run).unwrap();
        }
        assert_eq!(rig.faults(), 0);
    });
}

#[test]
fn zero_pages_are_taken_as_zeros() {
    each(|variant| {
        let rig = Rig::new(variant, 32);
        for page in 0..32 {
            assert_eq!(rig.read(page, 9), 0);
        }
        rig.write(5, 9, 55);
        rig.take(0, 32).unwrap();
        {
            let mut inner = rig.lock();
            for page in 0..32 {
                let bytes = inner.memory.frame(FrameNumber(page));
                assert_eq!(bytes.iter().all(|&byte| byte == 0), page != 5, "page {page}");
            }
            inner.memory.frame_mut(FrameNumber(6))[72] = 66;
        }
        assert_eq!((rig.read(5, 9), rig.read(6, 9), rig.read(7, 9)), (55, 66, 0));
    });
}

#[test]
fn discarded_pages_are_forgotten() {
    each(|variant| {
        let rig = Rig::new(variant, 16);
        for page in 0..8 {
            rig.write(page, 0, 1);
        }
        {
            let mut inner = rig.lock();
            // Mapped and unmapped ones alike.
            inner.memory.discard(PageNumber(0), 16).unwrap();
            inner.state.fill(State::Absent);
        }
        let before = rig.faults();
        for page in 0..16 {
            assert_eq!(rig.read(page, 0), 0, "page {page}");
        }
        assert_eq!(rig.faults() - before, 16);
    });
}

#[test]
fn a_page_that_is_mapped_already_keeps_its_contents() {
    each(|variant| {
        let rig = Rig::new(variant, 16);
        rig.write(2, 0, 22);
        rig.write(4, 0, 44);
        let mut inner = rig.lock();
        inner.memory.load_frames(FrameNumber(0), 8).unwrap();
        for frame in 0..8 {
            inner.memory.frame_mut(FrameNumber(frame)).fill(1);
        }
        inner.memory.install(PageNumber(0), FrameNumber(0), 8).unwrap();
        inner.memory.install_zeros(PageNumber(0), 12).unwrap();
        inner.memory.load_frames(FrameNumber(0), 8).expect("all frames are empty");
        inner.memory.unload_frames(FrameNumber(0), 8).unwrap();
        drop(inner);
        let one = u64::from_ne_bytes([1; 8]);
        let words: Vec<_> = (0..10).map(|page| rig.read(page, 0)).collect();
        assert_eq!(words, [one, one, 22, one, 44, one, one, one, 0, 0]);
    });
}

#[test]
fn a_run_with_a_hole_loses_nothing() {
    each(|variant| {
        let rig = Rig::new(variant, 16);
        for page in (0..8).filter(|&page| page != 4) {
            rig.write(page, 0, 100 + page as u64);
        }
        let result = rig.lock().memory.take(PageNumber(0), FrameNumber(0), 8);
        if variant.kind != EngineKind::Sigsegv {
            result.unwrap();
            assert_eq!(rig.lock().memory.frame(FrameNumber(4))[..], [0; PAGE], "a hole is zeros");
            rig.lock().memory.install(PageNumber(0), FrameNumber(0), 8).unwrap();
            rig.lock().memory.discard(PageNumber(4), 1).unwrap();
        } else {
            assert!(matches!(result, Err(TakeError::Os(_))), "{result:?}");
        }
        assert_eq!(rig.faults(), 7);
        for page in (0..8).filter(|&page| page != 4) {
            assert_eq!(rig.read(page, 0), 100 + page as u64, "page {page}");
        }
        assert_eq!(rig.faults(), 7, "all pages are mapped still");
        rig.take(0, 4).unwrap();
        rig.take(5, 3).unwrap();
    });
}

#[test]
fn frames_and_pages_out_of_range_are_refused() {
    each(|variant| {
        let rig = Rig::new(variant, 8);
        rig.write(7, 0, 1);
        let mut inner = rig.lock();
        let memory = &mut inner.memory;
        assert!(memory.load_frames(FrameNumber(7), 2).is_err());
        assert!(memory.unload_frames(FrameNumber(0), 1).is_err(), "an empty frame");
        memory.load_frames(FrameNumber(0), 2).unwrap();
        assert!(memory.load_frames(FrameNumber(1), 1).is_err(), "a loaded frame");
        assert!(memory.install(PageNumber(7), FrameNumber(0), 2).is_err());
        assert!(memory.install(PageNumber(0), FrameNumber(1), 2).is_err());
        assert!(memory.install_zeros(PageNumber(u32::MAX), 2).is_err());
        assert!(memory.discard(PageNumber(8), 1).is_err());
        assert!(memory.take(PageNumber(7), FrameNumber(7), 2).is_err());
        assert!(memory.take(PageNumber(7), FrameNumber(0), 1).is_err(), "into a loaded frame");
        assert!(catch_unwind(AssertUnwindSafe(|| memory.frame(FrameNumber(2))[0])).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| memory.frame_mut(FrameNumber(2))[0] = 1)).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| memory.frame(FrameNumber(8))[0])).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| memory.frame_run(FrameNumber(1), 2).len())).is_err());
        drop(inner);
        assert_eq!(rig.read(7, 0), 1);
    });
}

#[test]
fn two_threads_on_one_page_see_one_page() {
    each(|variant| {
        let rig = Rig::new(variant, 512);
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for page in 0..512 {
                        barrier.wait();
                        // SAFETY: an aligned word of the region.
                        let word = unsafe { AtomicU64::from_ptr(rig.at(page, 8).cast()) };
                        word.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        for page in 0..512 {
            assert_eq!(rig.read(page, 1), 3, "page {page}");
        }
    });
}

/// Threads count in pages that are taken away and come back all the time: no increment may be lost.
#[test]
fn taking_a_page_is_one_instant() {
    const PAGES: usize = 24;
    each(|variant| {
        let mut dice = Dice::from_environment();
        let rig = Rig::new(variant, PAGES);
        let stop = AtomicBool::new(false);
        let started = AtomicU64::new(0);
        let seeds: Vec<_> = (0..3).map(|_| dice.next()).collect();
        let (rig_ref, stop_ref, started_ref) = (&rig, &stop, &started);
        let expected = thread::scope(|scope| {
            let writers: Vec<_> = seeds
                .into_iter()
                .map(|seed| scope.spawn(move || count_until(rig_ref, seed, stop_ref, started_ref)))
                .collect();
            let begin = Instant::now();
            let mut taken = 0;
            while begin.elapsed() < Duration::from_millis(1_500) || taken < 200 || started.load(Ordering::Relaxed) < 3 {
                assert!(begin.elapsed() < Duration::from_secs(60), "only {taken} taken");
                let first = dice.below(PAGES);
                let mut inner = rig.lock();
                let run = (first..PAGES.min(first + 1 + dice.below(8)))
                    .take_while(|&page| inner.state[page] == State::Mapped)
                    .count();
                if run > 0 {
                    inner.memory.take(PageNumber(first as u32), FrameNumber(first as u32), run).unwrap();
                    inner.state[first..first + run].fill(State::Out);
                    taken += run;
                    if dice.below(2) == 0 {
                        inner.memory.install(PageNumber(first as u32), FrameNumber(first as u32), run).unwrap();
                        inner.state[first..first + run].fill(State::Mapped);
                    }
                }
                drop(inner);
                thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            let counted: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            println!("{taken} pages taken, {} increments", counted.iter().flatten().sum::<u64>());
            (0..PAGES).map(|page| counted.iter().map(|pages| pages[page]).sum()).collect::<Vec<u64>>()
        });
        for (page, expected) in expected.into_iter().enumerate() {
            assert_eq!(rig.read(page, 0), expected, "page {page}");
        }
    });
}

/// Adds one to words of random pages; returns how often in each page.
fn count_until(rig: &Rig, seed: u64, stop: &AtomicBool, started: &AtomicU64) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    let mut counted = vec![0; rig.pages];
    started.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let page = dice.below(rig.pages);
            // SAFETY: an aligned word of the region.
            unsafe { AtomicU64::from_ptr(rig.at(page, 0).cast()) }.fetch_add(1, Ordering::Relaxed);
            counted[page] += 1;
        }
    }
    counted
}

#[test]
fn engines_live_side_by_side_and_one_after_the_other() {
    let variants = Variant::allowed();
    for round in 0..20 {
        let rigs: Vec<_> = variants.iter().map(|&variant| Rig::new(variant, 8)).collect();
        for (index, rig) in rigs.iter().enumerate() {
            rig.write(7, 0, index as u64 + round);
        }
        for (index, rig) in rigs.iter().enumerate() {
            rig.take(7, 1).unwrap();
            assert_eq!(rig.read(7, 0), index as u64 + round);
        }
    }
}

#[test]
fn a_region_may_have_a_tebibyte() {
    each(|variant| {
        let pages = (1 << 40) / PAGE;
        let (mut memory, pending) = fault_common::start_sized(variant, pages, 8);
        let last = PageNumber(pages as u32 - 1);
        memory.load_frames(FrameNumber(0), 1).unwrap();
        memory.frame_mut(FrameNumber(0)).fill(9);
        memory.install(last, FrameNumber(0), 1).unwrap();
        // SAFETY: the last byte of the region, which is mapped.
        assert_eq!(unsafe { memory.base().add(pages * PAGE - 1).read_volatile() }, 9);
        memory.take(last, FrameNumber(0), 1).unwrap();
        drop(pending);
    });
}

#[test]
fn sizes_out_of_range_are_errors() {
    for variant in Variant::allowed() {
        for (bytes, frames) in [(0, 1), ((1 << 40) + 1, 1), (usize::MAX, 1), (PAGE, 1 << 32)] {
            let error = start(Some(variant.kind), bytes, frames).err().expect("out of range");
            assert!(error.to_string().contains("1 TiB"), "{error}");
        }
    }
}
