//! Fills far memory with numbers and checks them: the smallest program on RUM.
//!
//! `rum local --budget 64M -- touch 256`

use std::alloc::Layout;

use rum_core::{config::Config, grid::Grid};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mebibytes: usize = std::env::args().nth(1).map_or(Ok(256), |text| text.parse())?;
    let grid = Grid::join(Config::from_env(None)?)?;
    println!("engine {}, over {}", grid.engine(), grid.links().join(" "));
    let count = mebibytes << 17;
    let numbers = grid.alloc(Layout::array::<u64>(count)?)?.cast::<u64>();
    let started = std::time::Instant::now();
    for i in 0..count {
        // SAFETY: the allocation has `count` numbers.
        unsafe { numbers.add(i).write(i as u64 * 3) };
    }
    println!("written in {:?}", started.elapsed());
    let started = std::time::Instant::now();
    for i in 0..count {
        // SAFETY: as above, and all are written.
        assert_eq!(unsafe { numbers.add(i).read() }, i as u64 * 3);
    }
    println!("read in {:?}", started.elapsed());
    let (mut at, rounds, started) = (1u64, 200_000, std::time::Instant::now());
    for _ in 0..rounds {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let i = (at >> 33) as usize % count;
        // SAFETY: as above.
        assert_eq!(unsafe { numbers.add(i).read() }, i as u64 * 3);
    }
    println!("random read: {:?} each", started.elapsed() / rounds);
    println!("{:#?}", grid.stats());
    Ok(())
}
