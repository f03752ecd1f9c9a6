//! Grids whose slaves keep all on disk: they may end all at once, and their files may be damaged.

mod grid_common;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn,
    dice::{Dice, seed},
    far::Far,
    local_grid::{LONG_LEASE, SlaveProcess, VhostGrid, client, join_as_told, play_slave},
    player::{number, role, say},
    shadow::{self, Plan},
};
use rum_core::grid::ObjectHash;

const MEMORY: usize = 96 * MIB;
const LONGEST: Duration = Duration::from_secs(120);
/// So small that checkpoints are made all the time.
const OFTEN: u64 = 4 << 20;

fn kill_all(grid: &mut VhostGrid) {
    grid.slaves.iter_mut().for_each(SlaveProcess::kill);
}

fn start_all(grid: &mut VhostGrid) {
    grid.slaves.iter_mut().for_each(SlaveProcess::start);
}

#[test]
fn a_program_does_not_notice_that_all_slaves_are_killed_at_once() {
    let _turn = Turn::wait();
    let seed = seed();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut grid = VhostGrid::with_disks((3, 3), MEMORY, LONG_LEASE, Some(OFTEN));
    let mut client = client("work", &grid.machines(), 1, &[("seed", seed.to_string()), ("seconds", "8".to_owned())]);
    client.hear("working");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(300 + dice.below(900) as u64));
        kill_all(&mut grid);
        start_all(&mut grid);
    }
    println!("longest stall {}", client.hear("worked"));
    client.succeed(LONGEST);
}

/// Pages of a named object that are known by their number.
const OBJECT: usize = 24 * MIB;

fn fill(object: &Far, round: u64) {
    (0..object.len()).step_by(PAGE).for_each(|at| object.set_word(at, at as u64 ^ round << 40 | 1));
}

fn check(object: &Far, round: u64) {
    for at in (0..object.len()).step_by(PAGE) {
        assert_eq!(object.word(at), at as u64 ^ round << 40 | 1, "page at {at}");
    }
}

/// Flips a bit in each of `count` places of a file, which are drawn.
fn damage(path: &Path, dice: &mut Dice, count: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let length = file.metadata().expect("a file").len() as usize;
    for _ in 0..count {
        // Only what is not zeros was ever written.
        let at = (0..).map(|_| dice.below(length) as u64).find(|at| byte(&file, *at) != 0).expect("data");
        file.write_all_at(&[byte(&file, at) ^ 4], at).expect("a byte");
    }
}

fn byte(file: &File, at: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    byte[0]
}

/// Files of a data folder whose names begin so.
fn files(folder: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).collect()
}

#[test]
fn damaged_files_are_repaired_from_the_other_slaves() {
    let _turn = Turn::wait();
    let seed = seed();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut slaves = VhostGrid::with_disks((3, 3), MEMORY, LONG_LEASE, Some(OFTEN));
    let hash = ObjectHash([9; 32]);
    for (round, prefix) in ["pages-", "log-", "checkpoint", "pages-"].into_iter().enumerate() {
        let grid = slaves.join(2 * MIB);
        let named = grid.alloc_named(&hash, OBJECT, None).expect("room");
        let object = Far::of(named.pointer, OBJECT);
        if round > 0 {
            check(&object, round as u64 - 1);
        }
        fill(&object, round as u64);
        grid.flush();
        drop(grid);
        kill_all(&mut slaves);
        let victim = dice.below(3);
        let (folder, _) = slaves.slaves[victim].disk.clone().expect("a data folder");
        let found = files(&folder, prefix);
        assert!(!found.is_empty(), "{prefix} of slave {victim}");
        found.iter().for_each(|path| damage(path, &mut dice, 3));
        println!("round {round}: slave {victim}, {prefix}");
        if round == 3 {
            // Cut short, in the place of a few wrong bits.
            let cut = OpenOptions::new().write(true).open(&found[0]).expect("a file");
            cut.set_len(cut.metadata().expect("a file").len() / 2).expect("cut");
        }
        start_all(&mut slaves);
        // Until it has again what it should have: the next round damages another.
        slaves.slaves.iter_mut().for_each(SlaveProcess::recover);
    }
    let grid = slaves.join(2 * MIB);
    let named = grid.alloc_named(&hash, OBJECT, None).expect("the object");
    check(&Far::of(named.pointer, OBJECT), 3);
}

#[test]
fn a_slave_that_comes_back_gets_only_what_it_missed() {
    let _turn = Turn::wait();
    let mut slaves = VhostGrid::with_disks((3, 3), MEMORY, LONG_LEASE, Some(OFTEN));
    let grid = slaves.join(2 * MIB);
    let named = grid.alloc_named(&ObjectHash([3; 32]), OBJECT, None).expect("room");
    let object = Far::of(named.pointer, OBJECT);
    fill(&object, 1);
    grid.flush();
    for slave in 0..3 {
        slaves.slaves[slave].kill();
        (0..MIB).step_by(PAGE).for_each(|at| object.set_word(at, at as u64 ^ 1 << 40 | 1));
        grid.flush();
        slaves.slaves[slave].start();
        let began = Instant::now();
        slaves.slaves[slave].recover();
        println!("slave {slave} is back after {:?}", began.elapsed());
        check(&object, 1);
    }
}

fn play_work() {
    let grid = join_as_told();
    let plan = Plan { seed: number("seed"), bytes: 8 * MIB, ops: 20_000, far_one_in: 10 };
    say("working");
    let end = Instant::now() + Duration::from_secs(number("seconds"));
    let mut round = 0;
    while Instant::now() < end {
        shadow::run(&grid, Plan { seed: plan.seed + round, ..plan });
        round += 1;
    }
    say(&format!("worked {:?}", Duration::from_nanos(grid.stats().fault_longest_ns)));
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("work") => play_work(),
        Some(other) => panic!("no role {other:?}"),
    }
}
