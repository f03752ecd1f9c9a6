//! Sequential read-ahead: recognises streams of faults and says how many pages to bring along.

use crate::fault::PageNumber;

const STREAMS: usize = 32;
/// A stream may leave out this many pages: objects of other sizes lie between.
const SLACK: u32 = 8;
/// The longest read-ahead, in pages.
pub const MAX_WINDOW: usize = 32;
const FIRST_WINDOW: usize = 4;

#[derive(Clone, Copy, Default)]
struct Stream {
    /// The page that continues the stream: the next fault, if all read ahead is used.
    next: u32,
    window: usize,
    used: u64,
}

/// The streams seen last. Threads need not be told apart: each scans at its own place.
#[derive(Default)]
pub struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
}

impl Streams {
    /// A fault at `page`: how many pages, this one included, to fetch.
    pub fn window(&mut self, page: PageNumber) -> usize {
        self.clock += 1;
        let clock = self.clock;
        let found = self.streams.iter_mut().find(|s| s.used > 0 && page.0.wrapping_sub(s.next) < SLACK);
        if let Some(stream) = found {
            stream.window = (stream.window * 2).clamp(FIRST_WINDOW, MAX_WINDOW);
            stream.used = clock;
            stream.next = page.0;
            return stream.window;
        }
        let oldest = self.streams.iter_mut().min_by_key(|s| s.used).expect("there are streams");
        *oldest = Stream { next: page.0 + 1, window: 0, used: clock };
        1
    }

    /// `count` pages from `page` on were really brought: the stream goes on behind them.
    pub fn advanced(&mut self, page: PageNumber, count: usize) {
        let found = self.streams.iter_mut().find(|s| s.used > 0 && (s.next == page.0 || s.next == page.0 + 1));
        if let Some(stream) = found {
            stream.next = page.0 + count as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_read_ahead_ever_further() {
        let mut streams = Streams::default();
        let (mut page, mut windows) = (100, vec![]);
        for _ in 0..6 {
            let window = streams.window(PageNumber(page));
            streams.advanced(PageNumber(page), window);
            page += window as u32;
            windows.push(window);
        }
        assert_eq!(windows, [1, 4, 8, 16, 32, 32]);
    }

    #[test]
    fn random_faults_bring_hardly_more_than_one_page() {
        let mut streams = Streams::default();
        let brought: usize = (0..10_000u64)
            .map(|i| PageNumber((i.wrapping_mul(6_364_136_223_846_793_005) >> 40) as u32 % 100_003))
            .map(|page| {
                let window = streams.window(page);
                streams.advanced(page, window);
                window
            })
            .sum();
        assert!(brought < 10_500, "{brought} pages for 10,000 random faults");
    }

    #[test]
    fn several_scans_are_kept_apart() {
        let mut streams = Streams::default();
        let mut pages = [0u32, 10_000, 20_000, 30_000];
        for _ in 0..8 {
            for page in &mut pages {
                let window = streams.window(PageNumber(*page));
                streams.advanced(PageNumber(*page), window);
                *page += window as u32;
            }
        }
        assert!(pages.iter().zip([0, 10_000, 20_000, 30_000]).all(|(page, start)| page - start > 100));
    }
}
