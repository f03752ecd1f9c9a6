//! Roles of a client that holds data, or nothing, while its slaves are killed.

use std::ops::Range;

use rum_core::grid::Grid;

use super::{
    MIB, PAGE,
    far::Far,
    player::{say, told},
};

/// Each page of some far memory has a number of its own in its first word.
struct Numbered(Far);

impl Numbered {
    fn new(grid: &Grid, bytes: usize) -> Self {
        let data = Far::zeroed(grid, bytes);
        pages(&data).for_each(|at| data.set_word(at, at as u64 | 1));
        Self(data)
    }

    fn check(&self) {
        pages(&self.0).for_each(|at| assert_eq!(self.0.word(at), at as u64 | 1));
    }
}

fn pages(data: &Far) -> std::iter::StepBy<Range<usize>> {
    (0..data.len()).step_by(PAGE)
}

/// Asks for memory when it is told to, and uses it.
pub fn hold_nothing(grid: &Grid) {
    told();
    say("asking");
    Numbered::new(grid, 4 * MIB).check();
    say("allocated");
}

/// Writes, and when it is told to reads for ever; once, if it is told `read once`.
pub fn hold_data(grid: &Grid) {
    let data = Numbered::new(grid, 8 * MIB);
    say("written");
    let once = told() == "read once";
    say("reading");
    loop {
        data.check();
        if once {
            break;
        }
    }
    say("all there");
}
