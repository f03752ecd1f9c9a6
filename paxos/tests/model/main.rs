//! Every behaviour of three replicas, up to some number of elections, proposals, crashes, doubled messages: every order in which messages
//! can arrive, and every message lost. Stateright visits the states of the replicas themselves, not of a model of them.
//! Checked in every state: one value a slot, only proposed values and none twice, one leader a ballot, order; and that no replica
//! answers a read without what was answered before.
//!
//! Each exploration begins in a group that has a leader, and is bounded by states and time: it visits them breadth first, so that
//! whatever is wrong is found in as few steps as possible.

mod group;

use std::time::{Duration, Instant};

use group::{Break, Budget, Group, REPLICAS};
use paxos::Settings;
use stateright::{Checker, HasDiscoveries, Model, Property};

const MS: Duration = Duration::from_millis(1);
const NS: Duration = Duration::from_nanos(1);

/// What time is in an exploration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Time {
    /// Clocks show anything, so that no lease is good for anything, and a timeout may come whenever it likes. What does
    /// not rest on clocks has to hold all the same.
    Arbitrary,
    /// All clocks advance together by about a quarter of a lease, that of the first replica as slowly and the others as fast as allowed.
    Common,
}

#[derive(Clone)]
struct Exploration {
    settings: Settings,
    budget: Budget,
    time: Time,
    break_by: Break,
    beginnings: &'static [&'static [Opening]],
}

/// What an exploration can begin with.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Opening {
    Propose(usize),
    Timeout(usize),
    Step,
    /// Whatever is on its way from one to the other arrives.
    Between(usize, usize),
    /// Somebody is asked whether it would vote, and says so.
    PreVote(usize),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Action {
    Deliver(usize),
    /// And leave it under way.
    Double(usize),
    Timeout(usize),
    Propose(usize),
    Crash(usize),
    Restart(usize),
    Step,
}

impl Model for Exploration {
    type State = Group;
    type Action = Action;

    fn init_states(&self) -> Vec<Group> {
        let mut group = Group::new(self.settings, self.budget, self.break_by);
        group.time_out(0);
        group.settle();
        assert!(group.replicas[0].is_leader(), "the first replica has been elected");
        // Followers hear that the first entry is decided.
        group.time_out(0);
        group.settle();
        let mut groups = Vec::new();
        for actions in self.beginnings {
            let mut group = group.clone();
            for action in *actions {
                let next = match action {
                    Opening::Propose(index) => self.next_state(&group, Action::Propose(*index)),
                    Opening::Timeout(index) => self.next_state(&group, Action::Timeout(*index)),
                    Opening::Step => self.next_state(&group, Action::Step),
                    Opening::Between(from, to) => {
                        group.deliver_between(*from, *to);
                        continue;
                    }
                    Opening::PreVote(index) => {
                        group.deliver_pre_votes(*index, 10 * NS);
                        continue;
                    }
                };
                group = next.expect("can be done");
            }
            groups.push(group);
        }
        groups
    }

    fn actions(&self, group: &Group, actions: &mut Vec<Action>) {
        let Budget { timeouts, proposals, duplicates, crashes, restarts, steps } = group.budget;
        for at in 0..group.flying.len() {
            actions.push(Action::Deliver(at));
            if duplicates > 0 {
                actions.push(Action::Double(at));
            }
        }
        for index in 0..REPLICAS {
            if timeouts > 0 {
                actions.push(Action::Timeout(index));
            }
            if proposals > 0 && group.replicas[index].is_leader() {
                actions.push(Action::Propose(index));
            }
            if crashes > 0 {
                actions.push(Action::Crash(index));
            }
            if restarts > 0 {
                actions.push(Action::Restart(index));
            }
        }
        if steps > 0 {
            actions.push(Action::Step);
        }
    }

    fn next_state(&self, last: &Group, action: Action) -> Option<Group> {
        let mut group = last.clone();
        match action {
            Action::Deliver(at) | Action::Double(at) => {
                if self.time == Time::Arbitrary && group.asks_for_vote(at) {
                    // Whatever lease was granted is over.
                    group.clocks[group.flying[at].to.get() as usize] += 10 * NS;
                }
                let keep = matches!(action, Action::Double(_));
                group.budget.duplicates -= u8::from(keep);
                group.deliver(at, keep);
            }
            Action::Timeout(index) => {
                group.budget.timeouts -= 1;
                match self.time {
                    Time::Arbitrary => group.time_out(index),
                    Time::Common => group.call(index, |replica, clock| replica.tick(clock)),
                }
            }
            Action::Propose(index) => {
                let value = group.next_value;
                let mut is_taken = false;
                group.next_value += 1;
                group.call(index, |replica, _| is_taken = replica.propose(group::Write(value)).is_ok());
                if !is_taken {
                    return None;
                }
                group.budget.proposals -= 1;
            }
            Action::Crash(index) => {
                group.budget.crashes -= 1;
                group.restart(index, true, self.settings, self.break_by);
            }
            Action::Restart(index) => {
                group.budget.restarts -= 1;
                group.restart(index, false, self.settings, self.break_by);
            }
            Action::Step => {
                group.budget.steps -= 1;
                for (index, clock) in group.clocks.iter_mut().enumerate() {
                    *clock += self.settings.lease / 4 * if index == 0 { 990 } else { 1010 } / 1000;
                }
                // A leader's timeouts come when they come: it may not have been running.
                for index in (0..REPLICAS).filter(|index| !last.replicas[*index].is_leader()) {
                    group.call(index, |replica, clock| replica.tick(clock));
                }
            }
        }
        // Like a message that is never delivered.
        (group != *last).then_some(group)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one value a slot, proposed once, in order", |_, group: &Group| group.wrong.is_none()),
            Property::always("no stale read", |_, group: &Group| !group.reads_stale()),
            Property::sometimes("a second leader", |_, group: &Group| group.leaders.len() > 1),
            Property::sometimes("an answer", |_, group: &Group| group.answered > 0),
        ]
    }
}

fn settings(time: Time) -> Settings {
    let common = Settings { election_spread: Duration::ZERO, has_disk: true, ..Settings::default() };
    match time {
        Time::Arbitrary => Settings {
            heartbeat: NS,
            lease: 4 * NS,
            max_election_timeout: 4 * NS,
            resend: 1000 * NS,
            transfer_timeout: 1_000_000 * NS,
            ..common
        },
        Time::Common => Settings {
            heartbeat: 50 * MS,
            lease: 200 * MS,
            max_election_timeout: 200 * MS,
            resend: 1000 * MS,
            transfer_timeout: 1000 * MS,
            ..common
        },
    }
}

const NO_FLAW: Break = |_| {};
const NOTHING: Budget = Budget { timeouts: 0, proposals: 0, duplicates: 0, crashes: 0, restarts: 0, steps: 0 };

const NOTHING_YET: &[Opening] = &[];

/// The leader proposes, and another replica is about to ask for promises.
const CONTEST: &[Opening] = &[Opening::Propose(0), Opening::Timeout(1), Opening::PreVote(1)];

/// It has won, too, and decided something else; the third is about to ask for promises.
const CONTEST_AGAIN: &[Opening] = &[
    Opening::Propose(0),
    Opening::Timeout(1),
    Opening::PreVote(1),
    Opening::Between(1, 2),
    Opening::Between(2, 1),
    Opening::Between(1, 2),
    Opening::Between(2, 1),
    Opening::Timeout(2),
    Opening::PreVote(2),
];

/// The second replica misses the leader, to which the third has just granted a lease.
const HALF_MISSED: &[Opening] = &[
    Opening::Step,
    Opening::Step,
    Opening::Timeout(0),
    Opening::Between(0, 2),
    Opening::Between(2, 0),
    Opening::Step,
    Opening::Step,
];

/// Both miss the leader, whose lease has just ended; it has not heard their last answers.
const MISSED: &[Opening] = &[
    Opening::Step,
    Opening::Step,
    Opening::Timeout(0),
    Opening::Between(0, 1),
    Opening::Between(0, 2),
    Opening::Step,
    Opening::Step,
    Opening::Step,
    Opening::Step,
];

/// Both miss the leader, whose lease has just ended.
const ENDED: &[Opening] = &[Opening::Step, Opening::Step, Opening::Step, Opening::Step];

fn agreement(break_by: Break) -> Exploration {
    let budget = Budget { timeouts: 4, proposals: 2, duplicates: 1, ..NOTHING };
    let (time, beginnings) = (Time::Arbitrary, &[NOTHING_YET, CONTEST, CONTEST_AGAIN] as _);
    Exploration { settings: settings(time), budget, time, break_by, beginnings }
}

fn amnesia(break_by: Break) -> Exploration {
    let budget = Budget { timeouts: 3, proposals: 1, crashes: 1, ..NOTHING };
    let (time, beginnings) = (Time::Arbitrary, &[NOTHING_YET, CONTEST] as _);
    Exploration { settings: settings(time), budget, time, break_by, beginnings }
}

fn leases(break_by: Break, beginnings: &'static [&'static [Opening]], restarts: u8) -> Exploration {
    let budget = Budget { timeouts: 1, proposals: 1, restarts, steps: 6, ..NOTHING };
    Exploration { settings: settings(Time::Common), budget, time: Time::Common, break_by, beginnings }
}

fn half_missed(break_by: Break) -> Exploration {
    leases(break_by, &[HALF_MISSED], 1)
}

fn missed(break_by: Break) -> Exploration {
    leases(break_by, &[MISSED], 0)
}

fn ended(break_by: Break) -> Exploration {
    leases(break_by, &[ENDED], 0)
}

struct Found {
    states: usize,
    depth: usize,
    took: Duration,
    wrong: Option<(String, String)>,
    seen: Vec<&'static str>,
}

fn explore(exploration: Exploration, states: usize) -> Found {
    let began = Instant::now();
    let checker = exploration
        .checker()
        .target_state_count(states)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(Duration::from_secs(300))
        .spawn_bfs()
        .join();
    let mut wrong = None;
    let mut seen = Vec::new();
    for (name, path) in checker.discoveries() {
        let is_example = matches!(name, "a second leader" | "an answer");
        if is_example {
            seen.push(name);
        } else {
            wrong = Some((name.to_owned(), format!("{:?}", path.into_actions())));
        }
    }
    Found { states: checker.unique_state_count(), depth: checker.max_depth(), took: began.elapsed(), wrong, seen }
}

fn assert_right(name: &str, exploration: Exploration, states: usize) {
    let Found { states, depth, took, wrong, seen } = explore(exploration, states);
    println!("{name}: {states} states up to {depth} steps in {took:.1?}; seen: {seen:?}");
    assert_eq!(wrong, None);
    assert!(seen.contains(&"an answer"), "nothing was ever answered: the exploration shows nothing");
}

/// `RUM_MODEL_STATES=N` visits N states in each exploration.
fn states() -> usize {
    std::env::var("RUM_MODEL_STATES").ok().map_or(400_000, |text| text.parse().expect("RUM_MODEL_STATES"))
}

#[cfg(feature = "broken")]
mod broken;

#[test]
fn replicas_agree() {
    assert_right("agreement", agreement(NO_FLAW), states());
}

#[test]
fn replicas_agree_though_one_loses_its_memory() {
    assert_right("amnesia", amnesia(NO_FLAW), states());
}

#[test]
fn reads_are_never_stale() {
    assert_right("a lease that one has just granted", half_missed(NO_FLAW), states());
    assert_right("a lease whose last answers are late", missed(NO_FLAW), states());
    assert_right("a lease that has just ended", ended(NO_FLAW), states());
}
