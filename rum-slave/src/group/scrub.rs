//! Compares the copies of pages in the background: the leader says, of a few pages at a time, which slot wrote each and what its hash is; the others
//! answer what they have of the same slots. Pages of different slots are on their way and not compared. What the same slot wrote is the same
//! everywhere, whoever leads by now, so that contents which a majority of the members has are the right ones: who has others gets these, in the place of
//! what the same slot wrote, and of nothing else.
//!
//! No I/O and no clock. There are no hashes at rest: they are computed when pages are compared.

use std::time::Duration;

use paxos::MemberId;
use rum_net::{
    PAGE_BYTES,
    port::page::Page,
    wire::message::{ExtentRef, PageRef},
};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::{
    Group,
    image::{PageBytes, PageImage},
    message::Content,
    state::State,
};

/// Pages compared at a time.
const BATCH_PAGES: usize = 64;
/// Members that have not answered after so long are done without.
const PATIENCE: Duration = Duration::from_secs(1);
/// More entries than this between two comparisons: the group is busy.
const BUSY_ENTRIES: u64 = 64;
/// A busy group compares once where an idle one does so often.
const BUSY_SHARE: u32 = 16;

/// How much is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubOptions {
    /// Bytes of pages in a second, for each group that a slave leads; 0 for nothing at all. A sixteenth of it while the group is busy.
    pub bytes_per_second: u64,
    /// All pages are compared once in this time, or as often as the rate allows.
    pub round: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { bytes_per_second: 4 << 20, round: Duration::from_secs(60) }
    }
}

impl ScrubOptions {
    fn period(self) -> Duration {
        Duration::from_secs_f64((BATCH_PAGES * PAGE_BYTES) as f64 / self.bytes_per_second as f64)
    }
}

/// What members say to each other about pages that should be the same.
#[derive(Debug, Serialize, Deserialize)]
pub enum ScrubMessage {
    /// The leader has these pages.
    Compare {
        /// Counts the leader's comparisons.
        number: u64,
        /// The pages.
        pages: Vec<PageHash>,
    },
    /// What a member has of them.
    Compared {
        /// Which comparison it is.
        number: u64,
        /// Of the pages, in order: the hash if the same slot wrote the member's page, too.
        hashes: Vec<Option<u128>>,
    },
    /// The leader's pages are wrong: it asks for those of a member that has them right.
    Want {
        /// The pages, with the right hashes.
        pages: Vec<PageHash>,
    },
    /// The right contents of a page of this slot.
    Replace {
        /// What it is to hold.
        page: PageImage,
        /// Its hash.
        hash: u128,
    },
}

/// What a page holds, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageHash {
    /// Its extent's place.
    pub index: u32,
    /// Its extent's generation.
    pub generation: u32,
    /// Its number in the extent.
    pub page: u8,
    /// The slot that wrote it last.
    pub slot: u64,
    /// The XXH3-128 of its contents.
    pub hash: u128,
}

impl PageHash {
    fn name(&self) -> PageRef {
        let extent = ExtentRef { index: self.index, generation: self.generation };
        PageRef { extent, page: self.page.into() }
    }
}

/// The hash of a page's contents; nothing are zeros.
fn hash_of(page: Option<&Page>) -> u128 {
    page.map_or_else(|| XxHash3_128::oneshot(&[0; PAGE_BYTES]), |page| XxHash3_128::oneshot(&page[..]))
}

/// What was compared and repaired.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrubCounts {
    /// Pages that this slave, as a leader, compared with others'.
    pub compared: u64,
    /// Pages of this slave that were wrong, and were replaced.
    pub repaired: u64,
    /// Pages of which no majority of the members had the same contents; once for each comparison.
    pub undecided: u64,
}

/// A comparison under way.
#[derive(Debug)]
struct Comparison {
    began: Duration,
    pages: Vec<PageHash>,
    answers: Vec<(MemberId, Vec<Option<u128>>)>,
}

/// One slave's part in comparing.
#[derive(Debug)]
pub struct Scrub {
    options: ScrubOptions,
    counts: ScrubCounts,
    number: u64,
    next: Duration,
    round_began: Option<Duration>,
    /// Where the next comparison begins.
    cursor: (u32, u16),
    applied: u64,
    /// Comparisons that were put off.
    put_off: u32,
    open: Option<Comparison>,
}

/// What is to be said to whom.
type Said = Vec<(MemberId, ScrubMessage)>;

impl Scrub {
    /// Nothing was compared yet. `seed` tells the comparisons of this process from those of the one before.
    pub fn new(options: ScrubOptions, seed: u64) -> Self {
        Self {
            options,
            counts: ScrubCounts::default(),
            number: seed,
            next: Duration::ZERO,
            round_began: None,
            cursor: (0, 0),
            applied: 0,
            put_off: 0,
            open: None,
        }
    }

    /// What was compared and repaired.
    pub fn counts(&self) -> ScrubCounts {
        self.counts
    }

    /// When `is_due` has to be asked next.
    pub(super) fn next(&self) -> Duration {
        if self.options.bytes_per_second == 0 { Duration::MAX } else { self.next }
    }

    /// Whether a leader is to begin or end a comparison now; `applied` is its last slot.
    fn is_due(&mut self, now: Duration, applied: u64) -> bool {
        if self.options.bytes_per_second == 0 || now < self.next {
            return false;
        }
        self.next = now + self.options.period();
        let is_busy = applied.saturating_sub(self.applied) > BUSY_ENTRIES;
        self.applied = applied;
        self.put_off = if is_busy { self.put_off + 1 } else { BUSY_SHARE };
        if self.put_off < BUSY_SHARE {
            return false;
        }
        self.put_off = 0;
        true
    }

    /// Of a leader: decides what the last comparison has shown, and begins the next with `others`.
    fn step(&mut self, now: Duration, others: &[MemberId], state: &mut State) -> Said {
        if let Some(open) = &self.open
            && open.answers.len() < others.len()
            && now < open.began + PATIENCE
        {
            return Vec::new();
        }
        let mut said = self.decide(others.len() + 1, state);
        let Some(pages) = self.next_pages(now, state) else { return said };
        self.number = self.number.wrapping_add(1);
        for &member in others {
            said.push((member, ScrubMessage::Compare { number: self.number, pages: pages.clone() }));
        }
        self.open = Some(Comparison { began: now, pages, answers: Vec::new() });
        said
    }

    fn next_pages(&mut self, now: Duration, state: &State) -> Option<Vec<PageHash>> {
        if self.cursor == (0, 0) {
            if self.round_began.is_some_and(|began| now < began + self.options.round) {
                return None;
            }
            self.round_began = Some(now);
        }
        let mut pages = Vec::with_capacity(BATCH_PAGES);
        let is_more = state.store().copies(&mut self.cursor, BATCH_PAGES, &mut |extent, page, slot, data| {
            let hash = hash_of(data.as_ref());
            pages.push(PageHash { index: extent.index, generation: extent.generation, page, slot, hash });
        });
        if !is_more {
            self.cursor = (0, 0);
        }
        (!pages.is_empty()).then_some(pages)
    }

    /// What the answers to the comparison mean; `members` are all, this one included.
    fn decide(&mut self, members: usize, state: &State) -> Said {
        let Some(Comparison { pages, answers, .. }) = self.open.take() else { return Vec::new() };
        let mut said: Said = Vec::new();
        let mut wanted: Vec<(MemberId, Vec<PageHash>)> = Vec::new();
        for (index, page) in pages.iter().enumerate() {
            let votes = answers.iter().filter_map(|(member, hashes)| Some((*member, (*hashes.get(index)?)?)));
            let votes: Vec<(MemberId, u128)> = votes.collect();
            self.counts.compared += u64::from(!votes.is_empty());
            if votes.iter().all(|(_, hash)| *hash == page.hash) {
                continue;
            }
            let having =
                |hash: u128| usize::from(page.hash == hash) + votes.iter().filter(|vote| vote.1 == hash).count();
            let all = votes.iter().map(|vote| vote.1).chain([page.hash]);
            let Some(right) = all.into_iter().find(|&hash| having(hash) > members / 2) else {
                self.counts.undecided += 1;
                tracing::warn!("page {:?} differs between slaves, and no majority has the same", page.name());
                continue;
            };
            if right == page.hash {
                let wrong = votes.iter().filter(|vote| vote.1 != right).map(|vote| vote.0);
                said.extend(wrong.filter_map(|member| Some((member, replacement(page, state)?))));
            } else if let Some(&(member, _)) = votes.iter().find(|vote| vote.1 == right) {
                let page = PageHash { hash: right, ..*page };
                match wanted.iter_mut().find(|(of, _)| *of == member) {
                    Some((_, pages)) => pages.push(page),
                    None => wanted.push((member, vec![page])),
                }
            }
        }
        said.extend(wanted.into_iter().map(|(member, pages)| (member, ScrubMessage::Want { pages })));
        said
    }

    /// Takes what `from` says, and says what there is to answer.
    fn take(&mut self, from: MemberId, message: ScrubMessage, state: &mut State) -> Said {
        match message {
            ScrubMessage::Compare { number, pages } => {
                let hashes = pages.iter().take(BATCH_PAGES).map(|page| {
                    let (_, data) = state.store().copy(page.name()).filter(|(slot, _)| *slot == page.slot)?;
                    Some(hash_of(data.as_ref()))
                });
                vec![(from, ScrubMessage::Compared { number, hashes: hashes.collect() })]
            }
            ScrubMessage::Compared { number, hashes } => {
                if let Some(open) = &mut self.open
                    && number == self.number
                    && open.answers.iter().all(|(member, _)| *member != from)
                {
                    open.answers.push((from, hashes));
                }
                Vec::new()
            }
            ScrubMessage::Want { pages } => {
                let pages = pages.iter().take(BATCH_PAGES);
                pages.filter_map(|page| Some((from, replacement(page, state)?))).collect()
            }
            ScrubMessage::Replace { page, hash } => {
                self.replace(from, &page, hash, state);
                Vec::new()
            }
        }
    }

    fn replace(&mut self, from: MemberId, page: &PageImage, hash: u128, state: &mut State) {
        let bytes = page.data.as_ref().map_or(&[0; PAGE_BYTES][..], |data| data);
        if XxHash3_128::oneshot(bytes) != hash {
            return;
        }
        if state.replace_page(page) {
            self.counts.repaired += 1;
            tracing::warn!(
                "scrub: page {} of extent {} was wrong here: replaced by that of member {}, as written by slot {}",
                page.page,
                page.index,
                from.get(),
                page.slot
            );
        }
    }
}

/// The right contents of a page, if they are here still.
fn replacement(right: &PageHash, state: &State) -> Option<ScrubMessage> {
    let PageHash { index, generation, page, slot, hash } = *right;
    let (here, data) = state.store().copy(right.name())?;
    if here != slot || hash_of(data.as_ref()) != hash {
        return None;
    }
    let data = data.map(PageBytes::Stored);
    Some(ScrubMessage::Replace { page: PageImage { index, generation, page, slot, data }, hash })
}

impl Group {
    /// The group whose leader compares as much as this.
    #[must_use]
    pub fn with_scrub(self, options: ScrubOptions) -> Self {
        Self { scrub: Scrub::new(options, self.seed), ..self }
    }

    /// Compares some pages, if it is time: only who leads, and has all.
    pub(super) fn scrub(&mut self, now: Duration) {
        if !self.is_leader() || !self.scrub.is_due(now, self.state.as_of()) || !self.is_whole() {
            return;
        }
        let others = (0..self.slaves.len() as u8).filter_map(MemberId::new).filter(|seat| *seat != self.seat);
        let said = self.scrub.step(now, &others.collect::<Vec<_>>(), &mut self.state);
        self.say_of_scrub(said);
    }

    /// Takes what another member says about pages. A slave that lacks pages says nothing, and takes none.
    pub(super) fn take_scrub(&mut self, from: MemberId, message: ScrubMessage) {
        if self.is_whole() {
            let said = self.scrub.take(from, message, &mut self.state);
            self.say_of_scrub(said);
        }
    }

    fn say_of_scrub(&mut self, said: Said) {
        for (to, message) in said {
            self.send(vec![self.slaves[usize::from(to.get())]], Content::Scrub(message));
        }
    }
}

#[cfg(test)]
mod tests;
