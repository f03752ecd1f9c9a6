//! What the catalogue is asked: names drawn with the locality that real look-ups have, and words to be counted.

use std::hash::{DefaultHasher, Hash, Hasher};

use allocator_api2::alloc::Allocator;

use crate::{catalogue::Catalogue, progress::Progress};

/// The words that are counted, in any case of letters.
pub const WORDS: [&str; 4] = ["library", "network", "database", "transitional"];

/// The popularity of the k-th most popular name is k to the power of minus this: the usual figure for look-ups by key
/// (Cooper et al., Benchmarking Cloud Serving Systems with YCSB, SoCC 2010).
const ZIPF_EXPONENT: f64 = 0.99;
/// One in so many look-ups asks for a name that does not exist.
const ABSENT_EVERY: usize = 50;
/// Progress is told after so many steps.
const STEPS: usize = 256;

/// The names to ask for, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Questions {
    /// Some stand there often, some do not exist.
    pub names: Vec<Vec<u8>>,
}

/// What came of looking names up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Names that were there.
    pub count: usize,
    /// Over all answers in order.
    pub digest: u64,
}

impl Questions {
    /// Draws `count` names out of `known`, the same for the same seed.
    pub fn draw(known: &[Vec<u8>], count: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut by_popularity: Vec<&Vec<u8>> = known.iter().collect();
        for last in (1..by_popularity.len()).rev() {
            by_popularity.swap(last, random.below(last + 1));
        }
        let mut total = 0.0;
        let cumulative: Vec<f64> = (1..=known.len())
            .map(|rank| {
                total += (rank as f64).powf(-ZIPF_EXPONENT);
                total
            })
            .collect();
        let mut names = Vec::with_capacity(count);
        for number in 0..count {
            let point = random.fraction() * total;
            let rank = cumulative.partition_point(|upper| *upper <= point).min(known.len().saturating_sub(1));
            let mut name = by_popularity.get(rank).map_or_else(Vec::new, |name| (*name).clone());
            if number % ABSENT_EVERY == ABSENT_EVERY - 1 {
                name.extend_from_slice(b" (absent)");
            }
            names.push(name);
        }
        Self { names }
    }

    /// Looks all names up, and reads each package found from its first byte to its last.
    pub fn look_up<A: Allocator + Copy>(&self, catalogue: &Catalogue<A>, progress: &Progress) -> Found {
        let mut digest = DefaultHasher::new();
        let mut count = 0;
        for names in self.names.chunks(STEPS) {
            for name in names {
                let text = catalogue.get(name);
                count += usize::from(text.is_some());
                text.hash(&mut digest);
            }
            progress.advance(names.len() as u64);
        }
        Found { count, digest: digest.finish() }
    }

    /// For each of `WORDS` the number of packages whose text contains it.
    pub fn search<A: Allocator + Copy>(&self, catalogue: &Catalogue<A>, progress: &Progress) -> [usize; WORDS.len()] {
        WORDS.map(|word| {
            let mut count = 0;
            for (number, text) in catalogue.texts().enumerate() {
                count += usize::from(contains(text, word.as_bytes()));
                if number % STEPS == STEPS - 1 {
                    progress.advance(STEPS as u64);
                }
            }
            count
        })
    }
}

/// Whether `word`, given in small letters, stands anywhere in `text`, in any case of letters.
fn contains(text: &[u8], word: &[u8]) -> bool {
    let Some((first, rest)) = word.split_first() else { return true };
    let starts = text.len().saturating_sub(rest.len());
    let (small, capital) = (*first, first.to_ascii_uppercase());
    (0..starts).any(|at| {
        (text[at] == small || text[at] == capital) && text[at + 1..at + word.len()].eq_ignore_ascii_case(rest)
    })
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// At least 0 and below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use allocator_api2::alloc::Global;

    use super::*;
    use crate::records::Record;

    fn known() -> Vec<Vec<u8>> {
        (0..1000).map(|number| format!("name-{number}").into_bytes()).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_names() {
        assert_eq!(Questions::draw(&known(), 500, 7), Questions::draw(&known(), 500, 7));
        assert_ne!(Questions::draw(&known(), 500, 7), Questions::draw(&known(), 500, 8));
    }

    #[test]
    fn few_names_are_asked_for_often() {
        let questions = Questions::draw(&known(), 10_000, 1);
        let mut times: HashMap<&[u8], usize> = HashMap::new();
        questions.names.iter().for_each(|name| *times.entry(name).or_default() += 1);
        let most = times.values().max().copied().unwrap_or(0);
        // The most popular of 1,000 has a share of 1 / (1 + 1/2^.99 + …) = 13 %.
        assert!((1_100..1_500).contains(&most), "{most}");
        assert!(times.len() > 500, "{}", times.len());
        assert_eq!(questions.names.iter().filter(|name| name.ends_with(b" (absent)")).count(), 200);
    }

    #[test]
    fn no_names_are_known() {
        assert_eq!(Questions::draw(&[], 3, 1).names, [b"", b"", b""]);
    }

    #[test]
    fn words_in_any_case() {
        assert!(contains(b"A Shared LIBRARY", b"library"));
        assert!(contains(b"library", b"library"));
        assert!(!contains(b"librar", b"library"));
        assert!(!contains(b"", b"library"));
        assert!(contains(b"lliblibrary", b"library"));
        assert!(contains(b"", b""));
    }

    #[test]
    fn answers_depend_on_what_is_stored() {
        let mut catalogue = Catalogue::new_in(Global);
        let text = b"Package: name-1\nDescription: a network Database";
        catalogue.insert(&Record { name: b"name-1", text }).unwrap();
        let questions = Questions { names: vec![b"name-1".to_vec(), b"name-2".to_vec()] };
        let progress = Progress::new("test");
        let found = questions.look_up(&catalogue, &progress);
        assert_eq!(found.count, 1);
        assert_eq!(questions.search(&catalogue, &progress), [0, 1, 1, 0]);
        let mut other = Catalogue::new_in(Global);
        other.insert(&Record { name: b"name-1", text: &text[1..] }).unwrap();
        assert_ne!(questions.look_up(&other, &progress).digest, found.digest);
    }
}
