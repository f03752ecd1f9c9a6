use rum_net::wire::message::{
    PageKind, RESERVE_REQUEST_BYTES, WRITE_HEAD_MAX_BYTES, decode_reserve_response, encode_reserve, encode_write_head,
};

use super::*;
use crate::{
    account::{AccountId, Accounts},
    group::entry::{Operation, Run},
};

const PAGES: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);

/// Members whose messages arrive at once, and in order; the first leads.
struct Members {
    states: Vec<State>,
    scrubs: Vec<Scrub>,
    slot: u64,
    now: Duration,
    extent: ExtentRef,
    /// Who hears nothing.
    deaf: Vec<usize>,
}

fn member(place: usize) -> MemberId {
    MemberId::new(place as u8).unwrap()
}

impl Members {
    fn new(count: usize) -> Self {
        let options = ScrubOptions { bytes_per_second: 1 << 30, round: Duration::ZERO };
        let mut members = Self {
            states: (0..count).map(|_| State::new(Accounts::default())).collect(),
            scrubs: (0..count).map(|place| Scrub::new(options, place as u64)).collect(),
            slot: 0,
            now: SECOND,
            extent: ExtentRef { index: 0, generation: 0 },
            deaf: Vec::new(),
        };
        let answer = members.run(encode_reserve(1, &mut [0; RESERVE_REQUEST_BYTES]).to_vec());
        members.extent = decode_reserve_response(&answer, 1).unwrap().iter().next().unwrap();
        (0..PAGES).for_each(|page| members.write(0..count, page, page as u8 | 1));
        members
    }

    fn command(&mut self, request: Vec<u8>) -> Operation {
        self.slot += 1;
        Operation::Run(Box::new(Run {
            client: 7,
            account: AccountId::NOBODY,
            sequence: self.slot,
            settled: self.slot - 1,
            capacity: 9,
            quota: 9,
            first_generation: 50,
            request: request.into(),
        }))
    }

    fn run(&mut self, request: Vec<u8>) -> Vec<u8> {
        let command = self.command(request);
        let slot = self.slot;
        let answers: Vec<_> = self.states.iter_mut().map(|state| state.apply(slot, &command).unwrap()).collect();
        answers[0].clone()
    }

    /// An entry that these members have applied, and the others not yet.
    fn write(&mut self, members: std::ops::Range<usize>, page: u32, byte: u8) {
        let mut buffer = [0; WRITE_HEAD_MAX_BYTES];
        let head = encode_write_head(&[(PageRef { extent: self.extent, page }, PageKind::Data)], &mut buffer);
        let command = self.command([head, &[byte; PAGE_BYTES]].concat());
        let slot = self.slot;
        self.states[members].iter_mut().for_each(|state| drop(state.apply(slot, &command)));
    }

    /// What a member's page holds.
    fn byte(&self, place: usize, page: u32) -> u8 {
        let page = self.states[place].store().copy(PageRef { extent: self.extent, page }).unwrap().1;
        page.map_or(0, |page| page[9])
    }

    fn damage(&mut self, place: usize, page: u32, byte: u8) {
        let written = page as u8 | 1;
        let mut seen = 0;
        // Pages are visited in order.
        self.states[place].tamper(&mut |bytes| {
            if seen == page {
                assert_eq!(bytes[9], written);
                *bytes = [byte; PAGE_BYTES];
            }
            seen += 1;
        });
    }

    /// Compares until all pages have been, and what was found has been mended.
    fn scrub(&mut self) {
        for _ in 0..3 * PAGES as usize / BATCH_PAGES + 3 {
            self.now += 2 * PATIENCE;
            let others: Vec<MemberId> = (1..self.states.len()).map(member).collect();
            let said = self.scrubs[0].step(self.now, &others, &mut self.states[0]);
            let mut way: Vec<_> = said.into_iter().map(|(to, message)| (0, to, message)).collect();
            while let Some((from, to, message)) = way.pop() {
                let place = usize::from(to.get());
                if self.deaf.contains(&place) {
                    continue;
                }
                let bytes = postcard::to_stdvec(&message).unwrap();
                let message = postcard::from_bytes(&bytes).unwrap();
                let said = self.scrubs[place].take(member(from), message, &mut self.states[place]);
                way.extend(said.into_iter().map(|(to, message)| (place, to, message)));
            }
        }
    }

    fn counts(&self) -> Vec<(u64, u64)> {
        self.scrubs.iter().map(|scrub| (scrub.counts.repaired, scrub.counts.undecided)).collect()
    }
}

#[test]
fn equal_copies_are_compared_and_left_alone() {
    let mut members = Members::new(3);
    members.scrub();
    assert!(members.scrubs[0].counts.compared >= PAGES.into());
    assert_eq!(members.counts(), [(0, 0); 3]);
}

#[test]
fn the_majority_wins_whoever_is_wrong() {
    let mut members = Members::new(3);
    // The leader, a follower, and one page that its member has lost altogether.
    for (place, page, byte) in [(0, 3, 77), (1, 100, 78), (2, PAGES - 1, 79), (1, 5, 0)] {
        members.damage(place, page, byte);
    }
    members.scrub();
    for page in 0..PAGES {
        assert!((0..3).all(|place| members.byte(place, page) == page as u8 | 1), "page {page}");
    }
    assert_eq!(members.counts(), [(1, 0), (2, 0), (1, 0)]);
}

#[test]
fn of_five_two_may_be_wrong_the_leader_among_them() {
    let mut members = Members::new(5);
    for (place, byte) in [(0, 77), (3, 77)] {
        members.damage(place, 9, byte);
    }
    members.scrub();
    assert!((0..5).all(|place| members.byte(place, 9) == 9));
}

#[test]
fn without_a_majority_nothing_is_changed() {
    let mut members = Members::new(3);
    members.damage(1, 9, 77);
    members.damage(2, 9, 78);
    members.damage(2, 10, 79);
    members.deaf = vec![1];
    members.scrub();
    assert_eq!([0, 1, 2].map(|place| members.byte(place, 9)), [9, 77, 78]);
    assert_eq!(members.byte(2, 10), 79, "the leader and one other do not agree, and the third is not there");
    assert!(members.scrubs[0].counts.undecided >= 2);
    // It is, and has the page as the leader has it.
    members.deaf.clear();
    members.scrub();
    assert_eq!([0, 1, 2].map(|place| members.byte(place, 10)), [11; 3]);
    assert_eq!([0, 1, 2].map(|place| members.byte(place, 9)), [9, 77, 78]);
}

/// What another slot wrote differs, and is on its way: neither is it damage, nor does it count for a majority.
#[test]
fn pages_of_other_slots_are_not_compared() {
    let mut members = Members::new(3);
    members.write(0..1, 20, 200);
    members.write(0..2, 21, 201);
    members.damage(1, 22, 77);
    members.write(2..3, 22, 202);
    members.scrub();
    assert_eq!([0, 1, 2].map(|place| members.byte(place, 20)), [200, 21, 21]);
    assert_eq!([0, 1, 2].map(|place| members.byte(place, 21)), [201, 201, 21]);
    assert_eq!([0, 1, 2].map(|place| members.byte(place, 22)), [23, 77, 202]);
    assert_eq!(members.counts().iter().map(|count| count.0).sum::<u64>(), 0);
}

#[test]
fn a_replacement_is_of_the_same_slot_and_whole() {
    let mut members = Members::new(3);
    let page = PageRef { extent: members.extent, page: 7 };
    let (slot, data) = members.states[0].store().copy(page).unwrap();
    let hash = hash_of(data.as_ref());
    let image = |slot, data: Option<Vec<u8>>| PageImage {
        index: page.extent.index,
        generation: page.extent.generation,
        page: 7,
        slot,
        data: data.map(|data| PageBytes::Come(data.into())),
    };
    let right = data.unwrap().to_vec();
    members.damage(1, 7, 77);
    let mut damaged = right.clone();
    damaged[5] ^= 1;
    let cut = right[..100].to_vec();
    let cut_hash = XxHash3_128::oneshot(&cut);
    for (slot, data, hash) in [
        (slot + 1, Some(right.clone()), hash),
        (slot - 1, Some(right.clone()), hash),
        (slot, Some(damaged), hash),
        (slot, None, hash),
        (slot, Some(cut), cut_hash),
    ] {
        let message = ScrubMessage::Replace { page: image(slot, data), hash };
        assert!(members.scrubs[1].take(member(0), message, &mut members.states[1]).is_empty());
        assert_eq!(members.byte(1, 7), 77);
    }
    let message = ScrubMessage::Replace { page: image(slot, Some(right)), hash };
    members.scrubs[1].take(member(0), message, &mut members.states[1]);
    assert_eq!((members.byte(1, 7), members.scrubs[1].counts.repaired), (7, 1));
}

#[test]
fn a_busy_group_compares_a_sixteenth() {
    let mut scrub = Scrub::new(ScrubOptions::default(), 0);
    let period = ScrubOptions::default().period();
    let mut due = |entries: u64| {
        let mut applied = 0;
        let times = (1..=160).filter(|_| {
            applied += entries;
            let now = scrub.next + period;
            scrub.is_due(now, applied)
        });
        times.count()
    };
    assert_eq!(due(1000), 10);
    scrub.applied = 0;
    let mut due = |entries: u64| (1..=160).filter(|time| scrub.is_due(SECOND * 100 * *time, entries)).count();
    assert_eq!(due(1), 160);
    scrub.options.bytes_per_second = 0;
    assert!(!scrub.is_due(SECOND * 1_000_000, 0), "nothing at all");
}
