//! How many entries of 4 KiB a second one core takes through three replicas in one process: what the protocol itself costs, without
//! network and disk. `cargo run --release -p paxos --example throughput`

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use paxos::{Command, Configuration, Effect, Entry, MemberId, Message, Replica, Settings, Start};

const ENTRIES: u64 = 5_000_000;

/// A page's bytes; never copied.
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
    applied: [u64; 3],
    delivered: u64,
}

impl Group {
    fn new() -> Self {
        let members: Vec<MemberId> = (0..3).filter_map(MemberId::new).collect();
        let configuration = Configuration::of(members.iter().copied().collect());
        let replicas = members.iter().map(|id| {
            let start = Start::New(configuration);
            let seed = u64::from(id.get());
            Replica::new(*id, Settings::default(), start, Duration::ZERO, seed).expect("default settings are good")
        });
        Self { replicas: replicas.collect(), messages: VecDeque::new(), applied: [0; 3], delivered: 0 }
    }

    fn drain(&mut self, place: usize) {
        while let Some(effect) = self.replicas[place].next_effect() {
            match effect {
                Effect::Send { to, message } => {
                    for to in to.iter() {
                        self.messages.push_back((to, message.clone()));
                    }
                }
                Effect::Apply { command: Command::Entry(_), .. } => self.applied[place] += 1,
                _ => {}
            }
        }
    }

    fn deliver_all(&mut self, now: Duration) {
        while let Some((to, message)) = self.messages.pop_front() {
            self.delivered += 1;
            self.replicas[usize::from(to.get())].handle(now, message);
            self.drain(usize::from(to.get()));
        }
    }
}

/// Entries a second when so many are proposed at a time.
fn run(at_a_time: u64) -> (f64, f64) {
    let mut group = Group::new();
    let mut due = Duration::ZERO;
    while !group.replicas[0].is_leader() {
        due = group.replicas[0].next_timeout().unwrap_or_default();
        group.replicas[0].tick(due);
        group.drain(0);
        group.deliver_all(due);
    }
    let page = Page(Arc::new([7; 4096]));
    let delivered = group.delivered;
    let began = Instant::now();
    while group.applied[0] < ENTRIES {
        let now = due + began.elapsed();
        for _ in 0..at_a_time {
            group.replicas[0].propose(page.clone()).expect("there is room");
        }
        group.drain(0);
        group.deliver_all(now);
        if group.replicas[0].next_timeout().is_some_and(|at| at <= now) {
            group.replicas[0].tick(now);
        }
    }
    let took = began.elapsed().as_secs_f64();
    (ENTRIES as f64 / took, (group.delivered - delivered) as f64 / took)
}

fn main() {
    for at_a_time in [1, 4, 32, 256] {
        let (entries, messages) = run(at_a_time);
        println!("{at_a_time:>4} at a time: {:.2} M entries/s, {:.2} M messages/s", entries / 1e6, messages / 1e6);
    }
}
