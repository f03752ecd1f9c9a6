//! Which frames of the staging area are loaded and which are in use: runs of frames, so that runs of pages move in
//! and out by one system call.

use crate::fault::FrameNumber;

/// Frames in a chunk: the longest run.
pub const CHUNK_FRAMES: usize = 64;

#[derive(Clone, Copy, Default)]
struct Chunk {
    loaded: u64,
    busy: u64,
}

/// The frames of the staging area. A frame is busy while a fetch fills it.
pub struct Staging {
    chunks: Vec<Chunk>,
    loaded: usize,
    free_loaded: usize,
}

/// A run of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRun {
    pub first: FrameNumber,
    pub count: usize,
}

fn mask(start: usize, count: usize) -> u64 {
    debug_assert!(start + count <= 64 && count > 0);
    (u64::MAX >> (64 - count)) << start
}

/// The longest run of ones in `bits`, at most `wanted` long, and where it starts.
fn longest_run(bits: u64, wanted: usize) -> Option<(usize, usize)> {
    // After n rounds a bit is set where n more ones follow it.
    let (mut starts, mut count) = (bits, 1);
    if starts == 0 {
        return None;
    }
    while count < wanted {
        let longer = starts & (bits >> count);
        if longer == 0 {
            break;
        }
        starts = longer;
        count += 1;
    }
    Some((starts.trailing_zeros() as usize, count))
}

impl Staging {
    /// `frames` empty frames, rounded up to whole chunks.
    pub fn new(frames: usize) -> Self {
        Self { chunks: vec![Chunk::default(); frames.div_ceil(CHUNK_FRAMES)], loaded: 0, free_loaded: 0 }
    }

    /// Frames that own a physical page.
    pub fn loaded(&self) -> usize {
        self.loaded
    }

    /// Loaded frames that are not in use.
    pub fn free_loaded(&self) -> usize {
        self.free_loaded
    }

    fn best(&self, wanted: usize, last_first: bool, bits: impl Fn(&Chunk) -> u64) -> Option<(usize, usize, usize)> {
        let mut best: Option<(usize, usize, usize)> = None;
        for step in 0..self.chunks.len() {
            let at = if last_first { self.chunks.len() - 1 - step } else { step };
            if let Some((start, count)) = longest_run(bits(&self.chunks[at]), wanted)
                && best.is_none_or(|(_, _, best)| count > best)
            {
                best = Some((at, start, count));
                if count == wanted {
                    break;
                }
            }
        }
        best
    }

    /// How many free loaded frames lie side by side, at most `wanted`.
    pub fn longest_loaded(&self, wanted: usize) -> usize {
        self.best(wanted.min(CHUNK_FRAMES), wanted > 1, |c| c.loaded & !c.busy).map_or(0, |(_, _, count)| count)
    }

    /// Takes up to `wanted` loaded frames side by side, as many as there are. Single frames come from the low end and
    /// runs from the high end, so that single ones do not break up the runs.
    pub fn take_loaded(&mut self, wanted: usize) -> Option<FrameRun> {
        let (at, start, count) = self.best(wanted.min(CHUNK_FRAMES), wanted > 1, |c| c.loaded & !c.busy)?;
        self.chunks[at].busy |= mask(start, count);
        self.free_loaded -= count;
        Some(FrameRun { first: FrameNumber((at * CHUNK_FRAMES + start) as u32), count })
    }

    /// Finds up to `wanted` empty frames side by side, as many as there are.
    pub fn find_empty(&self, wanted: usize) -> Option<FrameRun> {
        let (at, start, count) = self.best(wanted.min(CHUNK_FRAMES), wanted > 1, |c| !c.loaded & !c.busy)?;
        Some(FrameRun { first: FrameNumber((at * CHUNK_FRAMES + start) as u32), count })
    }

    fn split(run: FrameRun) -> (usize, u64) {
        let at = run.first.0 as usize;
        (at / CHUNK_FRAMES, mask(at % CHUNK_FRAMES, run.count))
    }

    /// Empty frames have received pages and are free to be used.
    pub fn now_loaded(&mut self, run: FrameRun) {
        let (at, mask) = Self::split(run);
        let chunk = &mut self.chunks[at];
        assert!(chunk.loaded & mask == 0 && chunk.busy & mask == 0, "frames {run:?} were not empty");
        chunk.loaded |= mask;
        self.loaded += run.count;
        self.free_loaded += run.count;
    }

    /// Frames that were taken have given their pages away.
    pub fn now_empty(&mut self, run: FrameRun) {
        let (at, mask) = Self::split(run);
        let chunk = &mut self.chunks[at];
        assert!(chunk.loaded & chunk.busy & mask == mask, "frames {run:?} were not taken");
        chunk.loaded &= !mask;
        chunk.busy &= !mask;
        self.loaded -= run.count;
    }

    /// Frames that were taken are free again, with their pages.
    pub fn put_back(&mut self, run: FrameRun) {
        let (at, mask) = Self::split(run);
        let chunk = &mut self.chunks[at];
        assert!(chunk.loaded & chunk.busy & mask == mask, "frames {run:?} were not taken");
        chunk.busy &= !mask;
        self.free_loaded += run.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_is_found() {
        assert_eq!(longest_run(0, 4), None);
        assert_eq!(longest_run(0b1011_1001, 8), Some((3, 3)));
        assert_eq!(longest_run(0b1011_1001, 2), Some((3, 2)));
        assert_eq!(longest_run(u64::MAX, 64), Some((0, 64)));
    }

    #[test]
    fn frames_are_counted_through_their_life() {
        let mut staging = Staging::new(128);
        let run = staging.find_empty(100).unwrap();
        assert_eq!(run.count, 64);
        staging.now_loaded(run);
        let taken = staging.take_loaded(10).unwrap();
        assert_eq!((taken.count, staging.loaded(), staging.free_loaded()), (10, 64, 54));
        staging.now_empty(taken);
        let single = staging.take_loaded(1).unwrap();
        staging.put_back(single);
        assert_eq!((staging.loaded(), staging.free_loaded()), (54, 54));
    }

    #[test]
    #[should_panic(expected = "were not taken")]
    fn a_free_frame_cannot_be_emptied() {
        let mut staging = Staging::new(64);
        let run = staging.find_empty(1).unwrap();
        staging.now_loaded(run);
        staging.now_empty(run);
    }
}
