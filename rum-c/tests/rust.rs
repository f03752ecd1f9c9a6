//! A Rust program that links this crate: std's own files and sockets on far buffers, under every engine.

mod common;

use std::{
    alloc::Layout,
    fs::{self, File},
    io::{Read, Seek, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use common::{Grid, engines};
use rum_core::{config::Config, grid::Grid as CoreGrid};

const BYTES: usize = 10 << 20;

/// Valid for as long as the grid is.
fn far_buffer(grid: &CoreGrid) -> &'static mut [u8] {
    let pointer = grid.alloc_zeroed(Layout::array::<u8>(BYTES).unwrap()).unwrap();
    // SAFETY: BYTES fresh bytes that only this slice reaches, and only before the grid goes.
    unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), BYTES) }
}

fn fill(buffer: &mut [u8], seed: usize) {
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = ((index.wrapping_mul(2_654_435_761) + seed) >> 13) as u8;
    }
}

fn is_filled(buffer: &[u8], seed: usize) -> bool {
    buffer.iter().enumerate().all(|(index, byte)| *byte == ((index.wrapping_mul(2_654_435_761) + seed) >> 13) as u8)
}

fn work_on_far_buffers(grid: &CoreGrid, directory: &std::path::Path) {
    let (out, back) = (far_buffer(grid), far_buffer(grid));
    let path = directory.join("data");
    fill(out, 1);
    fs::write(&path, &*out).unwrap();
    let mut file = File::open(&path).unwrap();
    assert_eq!(file.read(back).unwrap(), BYTES);
    assert!(is_filled(back, 1));
    back.fill(0);
    file.rewind().unwrap();
    file.read_exact(back).unwrap();
    assert!(is_filled(back, 1));

    let (mut left, mut right) = UnixStream::pair().unwrap();
    fill(out, 2);
    thread::scope(|scope| {
        scope.spawn(|| left.write_all(out).unwrap());
        right.read_exact(back).unwrap();
    });
    assert!(is_filled(back, 2));
}

#[test]
fn std_works_on_far_buffers_under_every_engine() {
    let grid = Grid::start(1, 64);
    for engine in engines() {
        let mut config = Config::from_env(Some(&grid.machines())).unwrap();
        config.local_budget_bytes = 2 << 20;
        config.engine = Some(engine.parse().unwrap());
        let far = Arc::new(CoreGrid::join(config).unwrap());
        assert_eq!(far.engine().to_string(), engine);
        rum::attach(far.clone()).unwrap();
        assert!(rum::attach(far.clone()).is_err(), "one grid at a time");
        work_on_far_buffers(&far, grid.directory.path());
        assert!(rum::detach().is_some());
        assert!(rum::detach().is_none());
    }
}
