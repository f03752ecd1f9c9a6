//! Mistakes of earlier systems in allocating far memory, each held by a test; those of paging, transport, slaves and
//! membership are held by the other tests of grids.

mod grid_common;

use std::{alloc::Layout, thread};

use grid_common::{
    MIB, PAGE, Turn,
    dice::{Dice, seed},
    far::Far,
    local_grid::MemoryGrid,
};
use rum_core::grid::{AllocError, Grid};

const BUDGET: usize = MIB;
/// At the edges of pages and extents, where earlier systems rounded wrongly.
const SIZES: [usize; 14] = [
    1,
    8,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    2 * PAGE - 1,
    2 * PAGE,
    2 * PAGE + 1,
    5 * PAGE + 7,
    MIB - 1,
    MIB,
    MIB + 1,
    2 * MIB - PAGE,
    2 * MIB + 3,
];

fn on_every_engine(test: impl Fn(&Grid)) {
    let _turn = Turn::wait();
    let slaves = MemoryGrid::start(2, 64 * MIB);
    for engine in grid_common::engines() {
        test(&slaves.join(BUDGET, Some(engine), None));
    }
}

fn holds_only(far: &Far, byte: u8) -> bool {
    let mut bytes = vec![0; far.len()];
    far.read(0, &mut bytes);
    bytes.iter().all(|&found| found == byte)
}

fn alloc(grid: &Grid, size: usize) -> Far {
    Far::of(grid.alloc(Layout::from_size_align(size, 16).expect("a layout")).expect("far memory"), size)
}

/// Lesson 5: calloc gives zeros, also where something else was before, and at every size.
#[test]
fn zeroed_memory_is_zeros_after_reuse() {
    on_every_engine(|grid| {
        // These stay, so that what is freed beside them is given out again as it is.
        let _neighbours: Vec<_> = SIZES.iter().map(|&size| alloc(grid, size)).collect();
        for round in 0..3 {
            let used: Vec<_> = SIZES.iter().map(|&size| alloc(grid, size)).collect();
            used.iter().for_each(|far| far.fill(0, far.len(), 0xee));
            used.iter().for_each(|far| grid.free(far.base()).expect("allocated"));
            let zeroed: Vec<_> = SIZES.iter().map(|&size| Far::zeroed(grid, size)).collect();
            for far in &zeroed {
                assert!(holds_only(far, 0), "round {round}: {} bytes are not all zeros", far.len());
                far.fill(0, far.len(), 0xdd);
            }
            zeroed.iter().for_each(|far| grid.free(far.base()).expect("allocated"));
        }
    });
}

/// Lesson 5: an allocation has all the bytes that were asked for, and they are nobody else's.
#[test]
fn sizes_around_pages_are_whole_and_apart() {
    on_every_engine(|grid| {
        let fars: Vec<_> = SIZES.iter().chain(&SIZES).map(|&size| alloc(grid, size)).collect();
        for (mark, far) in fars.iter().enumerate() {
            assert!(grid.usable_size(far.base()).is_some_and(|usable| usable >= far.len()));
            far.fill(0, far.len(), mark as u8 + 1);
        }
        for (mark, far) in fars.iter().enumerate() {
            assert!(holds_only(far, mark as u8 + 1), "{} bytes", far.len());
        }
    });
}

/// Lesson 5: a reallocation has its new size also when it stays in its page, and keeps what was there.
#[test]
fn reallocations_have_their_new_size_and_keep_their_bytes() {
    on_every_engine(|grid| {
        let mut far = alloc(grid, 10);
        far.fill(0, 10, 1);
        let mut held = vec![1; 10];
        for (step, size) in SIZES.iter().chain(SIZES.iter().rev()).chain(&[100, 200, 3000]).enumerate() {
            let neighbour = alloc(grid, 64);
            neighbour.fill(0, 64, 0xcc);
            far = Far::of(grid.realloc(far.base(), *size).expect("room"), *size);
            assert!(grid.usable_size(far.base()).is_some_and(|usable| usable >= *size));
            let kept = held.len().min(*size);
            let mut bytes = vec![0; kept];
            far.read(0, &mut bytes);
            assert!(bytes == held[..kept], "step {step} to {size} bytes");
            held.resize(*size, step as u8 + 2);
            far.write(kept, &held[kept..]);
            assert!(holds_only(&neighbour, 0xcc));
        }
    });
}

/// Lesson 5: a size beyond all bounds is refused, not wrapped.
#[test]
fn sizes_beyond_all_bounds_are_refused() {
    on_every_engine(|grid| {
        for size in [1 << 31, 1 << 32, (1 << 32) + 1, 1 << 46, isize::MAX as usize - 4096] {
            let layout = Layout::from_size_align(size, 16).expect("a layout");
            assert!(matches!(grid.alloc(layout), Err(AllocError::OutOfMemory(_))), "{size}");
            assert!(matches!(grid.alloc_zeroed(layout), Err(AllocError::OutOfMemory(_))), "{size}");
            let small = alloc(grid, 5);
            small.fill(0, 5, 5);
            assert!(grid.realloc(small.base(), size).is_err(), "{size}");
            assert!(holds_only(&small, 5), "a refused reallocation leaves what was there");
        }
    });
}

/// Lesson 7: threads allocate, use and free at once; what one allocated another frees.
#[test]
fn threads_allocate_and_free_each_others_memory() {
    let seed = seed();
    on_every_engine(|grid| {
        let (send, receive) = std::sync::mpsc::channel::<(Far, u8)>();
        let receive = std::sync::Mutex::new(receive);
        thread::scope(|scope| {
            for index in 0..4u64 {
                let (send, receive) = (send.clone(), &receive);
                scope.spawn(move || {
                    let mut dice = Dice::new(seed + index);
                    for round in 0..3_000 {
                        let scale = 1 + dice.below(14);
                        let far = alloc(grid, 1 + dice.below(1 << scale));
                        let mark = (round % 251) as u8 + 1;
                        far.fill(0, far.len(), mark);
                        send.send((far, mark)).expect("the receiver lives");
                        if round >= 100 {
                            let (far, mark) = receive.lock().unwrap().recv().expect("there are more");
                            assert!(holds_only(&far, mark), "{} bytes of {mark}", far.len());
                            grid.free(far.base()).expect("allocated");
                        }
                    }
                });
            }
        });
        let left = receive.lock().unwrap();
        left.try_iter().for_each(|(far, mark)| assert!(holds_only(&far, mark)));
    });
}

/// Lesson 14: clients of one process are told apart, and lesson 15: one that leaves gives back its own memory only.
#[test]
fn a_client_that_leaves_takes_nothing_from_others() {
    let _turn = Turn::wait();
    let slaves = MemoryGrid::start(1, 16 * MIB);
    let (stays, leaves) = (slaves.join(BUDGET, None, None), slaves.join(BUDGET, None, None));
    let kept = alloc(&stays, 4 * MIB);
    kept.fill(0, kept.len(), 7);
    alloc(&leaves, 11 * MIB).fill(0, 11 * MIB, 9);
    leaves.leave();
    let more = alloc(&stays, 11 * MIB);
    assert!((0..more.len()).step_by(64).all(|at| more.byte(at) == 0), "what another client wrote");
    more.fill(0, more.len(), 8);
    assert!(holds_only(&kept, 7) && holds_only(&more, 8));
}
