//! What an entry costs of the heap on its way through three replicas: nothing when it travels alone, one batch when many travel together.

#[path = "../../rum-net/tests/counting/mod.rs"]
mod counting;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use counting::allocations;
use paxos::{Command, Configuration, Effect, Entry, MemberId, Message, Replica, Settings, Start};

#[derive(Clone)]
struct Page(Arc<[u8; 4096]>);

impl Entry for Page {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }
}

struct Group {
    replicas: Vec<Replica<Page>>,
    messages: VecDeque<(MemberId, Message<Page>)>,
    applied: u64,
    page: Page,
    now: Duration,
}

impl Group {
    fn new() -> Self {
        let members: Vec<MemberId> = (0..3).filter_map(MemberId::new).collect();
        let configuration = Configuration::of(members.iter().copied().collect());
        let new = |id: &MemberId| {
            let seed = u64::from(id.get());
            Replica::new(*id, Settings::default(), Start::New(configuration), Duration::ZERO, seed).unwrap()
        };
        let replicas = members.iter().map(new).collect();
        let page = Page(Arc::new([7; 4096]));
        let mut group = Self { replicas, messages: VecDeque::new(), applied: 0, page, now: Duration::ZERO };
        while !group.replicas[0].is_leader() {
            group.now = group.replicas[0].next_timeout().unwrap();
            let now = group.now;
            group.replicas[0].tick(now);
            group.settle();
        }
        group
    }

    fn settle(&mut self) {
        loop {
            for replica in &mut self.replicas {
                while let Some(effect) = replica.next_effect() {
                    match effect {
                        Effect::Send { to, message } => {
                            self.messages.extend(to.iter().map(|to| (to, message.clone())));
                        }
                        Effect::Apply { command: Command::Entry(_), .. } => self.applied += 1,
                        _ => {}
                    }
                }
            }
            let Some((to, message)) = self.messages.pop_front() else { return };
            self.replicas[usize::from(to.get())].handle(self.now, message);
        }
    }

    fn propose(&mut self, at_a_time: u64, times: u64) {
        for _ in 0..times {
            for _ in 0..at_a_time {
                self.replicas[0].propose(self.page.clone()).unwrap();
            }
            self.settle();
            self.now += Duration::from_micros(10);
        }
    }
}

#[test]
fn an_entry_alone_takes_nothing_from_the_heap() {
    let mut group = Group::new();
    group.propose(1, 10_000);
    let ((), number) = allocations(|| group.propose(1, 10_000));
    assert!(group.applied >= 40_000);
    assert_eq!(number, 0);
}

#[test]
fn entries_together_take_one_piece_of_the_heap_for_all_members() {
    let mut group = Group::new();
    group.propose(32, 1000);
    let ((), number) = allocations(|| group.propose(32, 1000));
    // Each is taken and given back.
    assert_eq!(number, 2 * 1000);
}
