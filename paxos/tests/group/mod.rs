//! Three replicas without disk, and a network that loses nothing but what is for the dead.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use paxos::{Body, Command, Configuration, Effect, Entry, MemberId, MemberSet, Message, Replica, Settings, Start};

#[derive(Clone)]
pub struct Page(pub Arc<[u8; 4096]>);

impl Entry for Page {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }
}

pub struct Group {
    pub replicas: Vec<Replica<Page>>,
    pub now: Duration,
    /// Who gets no messages.
    pub dead: MemberSet,
    /// Entries that were sent to the dead, and messages.
    pub wasted: (u64, u64),
    /// Entries that any member has applied.
    pub applied: u64,
    pub page: Page,
    messages: VecDeque<(MemberId, Message<Page>)>,
}

pub fn member(place: u8) -> MemberId {
    MemberId::new(place).unwrap()
}

impl Group {
    /// The first of three leads.
    pub fn new(settings: Settings) -> Self {
        let configuration = Configuration::of((0..3).map(member).collect());
        let new = |place: u8| {
            let start = Start::New(configuration);
            Replica::new(member(place), settings, start, Duration::ZERO, u64::from(place)).unwrap()
        };
        let mut group = Self {
            replicas: (0..3).map(new).collect(),
            now: Duration::ZERO,
            dead: MemberSet::EMPTY,
            wasted: (0, 0),
            applied: 0,
            page: Page(Arc::new([7; 4096])),
            messages: VecDeque::new(),
        };
        while !group.replicas[0].is_leader() {
            group.now = group.replicas[0].next_timeout().unwrap();
            let now = group.now;
            group.replicas[0].tick(now);
            group.settle();
        }
        group
    }

    /// Until nothing is under way.
    pub fn settle(&mut self) {
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
            if self.dead.contains(to) {
                if let Body::Accept(accept) = &message.body {
                    self.wasted.0 += accept.batch.len() as u64;
                }
                self.wasted.1 += 1;
            } else if let Some(replica) = self.replicas.get_mut(usize::from(to.get())) {
                replica.handle(self.now, message);
            }
        }
    }

    /// The leader is told the time.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.replicas[0].next_timeout().filter(|due| *due <= end) {
            self.now = due;
            self.replicas[0].tick(due);
            self.settle();
        }
        self.now = end;
    }
}
