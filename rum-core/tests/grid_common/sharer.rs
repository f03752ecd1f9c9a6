//! A part of several processes: each writes and reads whole pages of one named object, and keeps when it did. What all of them saw has to be
//! linearizable, page by page.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use rum_core::grid::{Grid, ObjectHash};

use super::{
    PAGE,
    dice::Dice,
    far::Far,
    player::say,
    registers::{Registers, Value},
};

/// Of the object: few, so that they meet.
const PAGES: usize = 12;
const WORDS: usize = PAGE / 8;
const OBJECT: ObjectHash = ObjectHash([0x5a; 32]);

/// The clock that all processes of a machine share.
fn now() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it"))
}

/// A page's bytes say which value all of them belong to. 0 is a page of zeros.
fn word(value: Value, at: usize) -> u64 {
    if value == 0 {
        0
    } else {
        value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at as u32 & 63) ^ at as u64 ^ value
    }
}

struct Sharer<'a> {
    grid: &'a Grid,
    object: Far,
    /// A line for each operation.
    history: String,
    longest: Duration,
    operations: u64,
}

impl Sharer<'_> {
    fn note(&mut self, kind: char, page: usize, value: Value, from: Duration) {
        let to = now();
        self.longest = self.longest.max(to - from);
        self.operations += 1;
        writeln!(self.history, "{kind} {page} {value} {} {}", from.as_nanos(), to.as_nanos()).expect("memory");
    }

    /// Returns when the page is stored. Nothing is evicted meanwhile: this is the only thread, and it touches one page.
    fn write(&mut self, page: usize, value: Value) {
        let from = now();
        let mut bytes = [0; PAGE];
        bytes
            .chunks_exact_mut(8)
            .zip(1..)
            .for_each(|(chunk, at)| chunk.copy_from_slice(&word(value, at).to_le_bytes()));
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        self.object.write(page * PAGE, &bytes);
        self.grid.flush();
        self.note('w', page, value, from);
    }

    fn read(&mut self, page: usize) {
        let from = now();
        // Forgets what was here.
        self.grid.flush();
        let mut bytes = [0; PAGE];
        self.object.read(page * PAGE, &mut bytes);
        let mut words = bytes.chunks_exact(8).map(|chunk| Value::from_le_bytes(chunk.try_into().expect("8 bytes")));
        let value = words.next().expect("a page has words");
        assert!(
            words.zip(2..).all(|(found, at)| found == word(value, at)),
            "page {page} is torn: it begins with {value:x}"
        );
        self.note('r', page, value, from);
    }
}

/// Reads and writes until `is_over`, and writes what it saw to a file.
pub fn share(grid: &Grid, seed: u64, number: u64, file: &Path, is_over: &mut dyn FnMut() -> bool) {
    let opened = grid.alloc_named(&OBJECT, PAGES * PAGE, None).expect("room");
    let object = Far::of(opened.pointer, PAGES * PAGE);
    let mut sharer = Sharer { grid, object, history: String::new(), longest: Duration::ZERO, operations: 0 };
    let mut dice = Dice::new(seed ^ number << 48);
    say("sharing");
    for count in 1.. {
        let page = dice.below(PAGES);
        if dice.below(2) == 0 {
            sharer.write(page, number << 48 | count)
        } else {
            sharer.read(page)
        }
        if is_over() {
            break;
        }
    }
    (0..PAGES).for_each(|page| sharer.read(page));
    std::fs::write(file, &sharer.history).expect("a folder");
    say(&format!("shared {} operations, the longest {:.1?}", sharer.operations, sharer.longest));
}

/// Whether all that several of them saw could be. Returns how many operations that was.
pub fn check(files: &[impl AsRef<Path>]) -> usize {
    let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).expect("it was written")).collect();
    let line = |line: &str| {
        let (kind, numbers) = line.split_at(1);
        let mut numbers = numbers.split_ascii_whitespace().map(|number| number.parse::<u64>().expect("a number"));
        let mut next = || numbers.next().expect("four numbers");
        (kind == "w", next(), next(), Duration::from_nanos(next()), Duration::from_nanos(next()))
    };
    let operations: Vec<_> = texts.iter().flat_map(|text| text.lines()).map(line).collect();
    let (started, mut registers) = (Instant::now(), Registers::default());
    for &(is_write, page, value, from, _) in &operations {
        if is_write {
            registers.begin_write(page, value, from);
        }
    }
    for &(is_write, page, value, from, to) in &operations {
        if is_write { registers.written(page, value, to) } else { registers.read(page, value, (from, to)) }
    }
    registers.check().unwrap_or_else(|problem| panic!("{problem}"));
    println!("{} operations were linearizable, checked in {:.1?}", operations.len(), started.elapsed());
    operations.len()
}
