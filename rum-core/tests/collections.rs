//! Collections in far memory, with a slave in a thread of this process and far too little local memory.

use std::alloc::Layout;

use allocator_api2::{
    alloc::{AllocError, Allocator},
    boxed::Box,
    vec::Vec,
};
use rum_core::{
    collections::FarAllocator,
    config::{Config, Machine},
    grid::Grid,
};
use rum_net::port::{MacAddr, spec::PortSpec};
use rum_slave::{Options, Slave, SlaveHandle};

const MIB: u64 = 1 << 20;

/// A grid of one slave; its fields end in this order.
struct Setup {
    grid: Grid,
    _slave: SlaveHandle,
    _folder: tempfile::TempDir,
}

fn setup(memory_bytes: u64, budget_bytes: u64) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let link = PortSpec::Vhost(folder.path().join("slave"));
    let port = rum_slave::port::open(&link, false).unwrap();
    let slave = Slave::start(vec![port], Options::new(memory_bytes)).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let machine = Machine { ip: "127.0.0.1".into(), mac, link: link.into(), name: None, memory_bytes: None };
    let config = Config {
        machines: vec![machine],
        replication_factor: 1,
        local_budget_bytes: budget_bytes,
        engine: None,
        key: None,
    };
    Setup { grid: Grid::join(config).unwrap(), _slave: slave, _folder: folder }
}

#[test]
fn a_vector_grows_past_the_local_budget_and_shrinks() {
    let setup = setup(256 * MIB, 2 * MIB);
    let far = FarAllocator::new(&setup.grid);
    let mut numbers = Vec::new_in(far);
    for number in 0..2_000_000u64 {
        numbers.push(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    assert!(setup.grid.is_far(numbers.as_ptr().cast(), 16_000_000));
    let right = (0u64..).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    assert!(numbers.iter().copied().eq(right.take(2_000_000)));
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert_eq!(numbers.capacity(), 10);
    assert_eq!(numbers[9], 9u64.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let stats = setup.grid.stats();
    assert!(stats.pages_fetched > 1_000, "{stats:?}");
    assert!(stats.resident_peak_bytes <= 2 * MIB + 2 * MIB / 50 + MIB, "{stats:?}");
    drop(numbers);
    assert_eq!(setup.grid.stats().allocated_bytes, 0);
}

#[test]
fn boxes_hold_nothing_little_and_much() {
    let setup = setup(64 * MIB, 4 * MIB);
    let far = FarAllocator::new(&setup.grid);
    let nothing: Box<[u8], _> = Vec::new_in(far).into_boxed_slice();
    let unit = Box::new_in((), far);
    assert!(nothing.is_empty());
    assert_eq!(*unit, ());
    let mut boxes = std::vec::Vec::new();
    for size in [1usize, 16, 17, 4096, 4097, 1 << 20] {
        let mut bytes = Vec::with_capacity_in(size, far);
        bytes.extend((0..size).map(|at| (at * 31 + size) as u8));
        boxes.push(bytes.into_boxed_slice());
    }
    for held in &boxes {
        assert!(held.iter().enumerate().all(|(at, byte)| *byte == (at * 31 + held.len()) as u8));
    }
}

#[test]
fn alignments_are_kept_when_an_allocation_moves() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(align(4096))]
    struct Page(u64);

    let setup = setup(64 * MIB, 4 * MIB);
    let mut pages = Vec::new_in(FarAllocator::new(&setup.grid));
    for number in 0..300 {
        pages.push(Page(number));
        assert_eq!(pages.as_ptr().addr() % 4096, 0);
    }
    assert!(pages.iter().zip(0..).all(|(page, number)| page.0 == number));
}

#[test]
fn zeroed_memory_is_zero_even_where_something_lay() {
    let setup = setup(64 * MIB, 4 * MIB);
    let far = FarAllocator::new(&setup.grid);
    for _ in 0..3 {
        let mut dirty = Vec::with_capacity_in(100_000, far);
        dirty.resize(100_000, 0xffu8);
        drop(dirty);
        let zeroed = far.allocate_zeroed(Layout::array::<u8>(100_000).unwrap()).unwrap();
        // SAFETY: the allocator has just given 100,000 bytes, all of them written, to this thread alone.
        assert!(unsafe { zeroed.as_ref() }.iter().all(|byte| *byte == 0));
        // SAFETY: allocated above with the same layout, and not used any more.
        unsafe { far.deallocate(zeroed.cast(), Layout::array::<u8>(100_000).unwrap()) };
    }
}

#[test]
fn a_full_grid_is_an_error() {
    let setup = setup(8 * MIB, 4 * MIB);
    let far = FarAllocator::new(&setup.grid);
    let mut bytes: Vec<u8, _> = Vec::new_in(far);
    assert!(bytes.try_reserve_exact(64 << 20).is_err());
    assert_eq!(far.allocate(Layout::from_size_align(isize::MAX as usize - 4095, 1).unwrap()), Err(AllocError));
    assert!(bytes.try_reserve_exact(1 << 20).is_ok(), "what fits still fits");
}
