//! Collections in far memory, and a far buffer in a system call. Under `rum local --budget 4M -- hello` most of the data
//! are on the slaves.

use std::{io::Write, sync::Arc};

use allocator_api2::vec::Vec;
use rum::{Config, FarAllocator, Grid};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let grid = Arc::new(Grid::join(Config::from_env(None)?)?); // The grid of RUM_MACHINES.
    let _ = rum::attach(grid.clone()); // From here on std::fs and std::net take far buffers.

    let mut squares = Vec::new_in(FarAllocator::new(&grid));
    squares.extend((0..2_000_000u64).map(|i| i * i));
    println!("hello from far memory: {}", squares.iter().sum::<u64>());

    let mut text = Vec::new_in(FarAllocator::new(&grid));
    for square in &squares {
        writeln!(text, "{square}")?;
    }
    std::fs::File::create("/dev/null")?.write_all(&text)?;

    drop((squares, text));
    rum::detach();
    Ok(())
}
