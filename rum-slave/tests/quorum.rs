//! Lesson 16: a majority is one of distinct slaves. What one of five says counts once, however often it arrives, and nothing is acknowledged
//! before a majority has it.

use std::time::Duration;

use rum_net::{
    rpc::{
        Incarnation,
        server::{RequestToken, SessionId},
    },
    wire::message::{RESERVE_REQUEST_BYTES, decode_reserve_response, encode_reserve},
};
use rum_slave::{
    account::{AccountId, Accounts},
    group::{Caller, Group, Output, message::PeerMessage},
};

const SLAVES: u16 = 5;
const STEP: Duration = Duration::from_millis(1);
const LEASE: Duration = Duration::from_secs(10);

struct Slaves {
    groups: Vec<Group>,
    now: Duration,
}

impl Slaves {
    fn new() -> Self {
        let group = |me: u16| {
            let who = ((0..SLAVES).collect(), me);
            Group::new(0, who, Accounts::default(), 8, LEASE, Duration::ZERO, u64::from(me))
                .expect("a slave of the group")
        };
        Self { groups: (0..SLAVES).map(group).collect(), now: Duration::ZERO }
    }

    /// A millisecond of all. Each message from one to another arrives as often as `times` says. Returns what clients are answered.
    fn step(&mut self, times: &dyn Fn(usize, usize) -> usize) -> Vec<Vec<u8>> {
        self.now += STEP;
        let mut answers = vec![];
        for from in 0..self.groups.len() {
            self.groups[from].tick(self.now, &|_| true);
            self.groups[from].run_effects(self.now);
            self.groups[from].provide(&|_| 1);
            for output in self.groups[from].take_outputs() {
                let (to, message) = match output {
                    Output::Send(to, message) => (to, message.encode()),
                    Output::Answer(_, answer) => {
                        answers.push(answer);
                        continue;
                    }
                    Output::Persist(..) | Output::Forget => unreachable!("these slaves have no disk"),
                };
                for to in to.into_iter().map(usize::from) {
                    for _ in 0..times(from, to) {
                        let (group, now) = (&mut self.groups[to], self.now);
                        PeerMessage::decode_all(&message, &mut |message| {
                            group.handle(now, from as u16, message.content)
                        });
                    }
                }
            }
        }
        answers
    }

    fn leader(&self) -> Option<usize> {
        let is_whole = self.groups.iter().all(Group::is_whole);
        self.groups.iter().position(Group::is_leader).filter(|_| is_whole)
    }
}

#[test]
fn what_one_slave_says_again_and_again_is_no_majority() {
    let mut slaves = Slaves::new();
    while slaves.leader().is_none() {
        slaves.step(&|_, _| 1);
        assert!(slaves.now < Duration::from_secs(10), "nobody leads");
    }
    let leader = slaves.leader().expect("just seen");
    // So that nothing older is on its way.
    (0..100).for_each(|_| drop(slaves.step(&|_, _| 1)));
    assert_eq!(slaves.leader(), Some(leader));
    let caller = Caller { client: Incarnation(7), account: AccountId::NOBODY, quota: 8 };
    let asker = (0, RequestToken { session: SessionId(0), request: 1 });
    let mut request = [0; RESERVE_REQUEST_BYTES];
    slaves.groups[leader].command(asker, caller, (1, 0), encode_reserve(1, &mut request), 1);

    // One follower alone is reached, and says everything five times.
    let follower = (leader + 1) % usize::from(SLAVES);
    let one_only = |from: usize, to: usize| match (from == follower, to == follower) {
        (true, _) if to == leader => 5,
        (_, true) if from == leader => 1,
        _ => 0,
    };
    for _ in 0..100 {
        let answers = slaves.step(&one_only);
        assert!(answers.is_empty(), "two of five are no majority: {answers:?}");
    }
    assert_eq!(slaves.groups[leader].state().store().quota().reserved(), 0, "nothing was decided");

    let mut answers = vec![];
    while answers.is_empty() {
        answers = slaves.step(&|_, _| 1);
        assert!(slaves.now < Duration::from_secs(20), "a majority decides");
    }
    assert!(decode_reserve_response(&answers[0], 1).is_ok(), "the leader was without a majority for a moment only");
    (0..200).for_each(|_| drop(slaves.step(&|_, _| 1)));
    let has_it = |group: &Group| group.state().store().quota().reserved() == 1;
    assert!(slaves.groups.iter().all(has_it), "all slaves come to know");
}
