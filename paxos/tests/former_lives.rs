//! The way in which recovery by asking alone goes wrong (Michael, Ports, Sharma and Szekeres, DISC 2017): a member promises, loses its
//! memory, recovers from members that have not promised, and accepts what it should not; then its first promise arrives.

use std::time::Duration;

use paxos::{Body, Command, Configuration, Effect, Entry, MemberId, Message, Replica, Settings, Slot, Start};

const MS: Duration = Duration::from_millis(1);
/// Leads, and hears only the last.
const LEADER: usize = 0;
/// Wants to lead instead.
const CANDIDATE: usize = 1;
/// Forgets.
const FORGETFUL: usize = 2;
/// Promises after it has answered who forgot.
const LATE: usize = 3;
/// Stays with the leader.
const LOYAL: usize = 4;

#[derive(Clone, Copy, PartialEq, Debug)]
struct Write(u8);

impl Entry for Write {
    fn size_bytes(&self) -> usize {
        1
    }
}

type Make = fn(usize, Start<Write>, Duration) -> Replica<Write>;

fn make(place: usize, start: Start<Write>, now: Duration) -> Replica<Write> {
    let settings = Settings { election_spread: Duration::ZERO, ..Settings::default() };
    Replica::new(member(place), settings, start, now, place as u64).unwrap()
}

fn member(place: usize) -> MemberId {
    MemberId::new(place as u8).unwrap()
}

struct Group {
    replicas: Vec<Replica<Write>>,
    flying: Vec<(MemberId, Message<Write>)>,
    now: Duration,
    /// What each has applied.
    applied: [Vec<(Slot, Command<Write>)>; 5],
}

impl Group {
    fn drain(&mut self, place: usize) {
        while let Some(effect) = self.replicas[place].next_effect() {
            match effect {
                Effect::Send { to, message } => self.flying.extend(to.iter().map(|to| (to, message.clone()))),
                Effect::Apply { slot, command } => self.applied[place].push((slot, command)),
                _ => {}
            }
        }
    }

    fn tick(&mut self, place: usize) {
        let now = self.now;
        self.replicas[place].tick(now);
        self.drain(place);
    }

    /// Delivers whatever travels between these, and what comes of it, until nothing does.
    fn connect(&mut self, places: &[usize]) {
        let is_among = |member: MemberId| places.iter().any(|place| usize::from(member.get()) == *place);
        while let Some(at) = self.flying.iter().position(|(to, message)| is_among(*to) && is_among(message.from)) {
            let (to, message) = self.flying.remove(at);
            let (place, now) = (usize::from(to.get()), self.now);
            self.replicas[place].handle(now, message);
            self.drain(place);
        }
    }

    /// Delivers the first message of this kind to that member.
    fn deliver(&mut self, to: usize, is: fn(&Body<Write>) -> bool) {
        let at = self.flying.iter().position(|(who, message)| *who == member(to) && is(&message.body));
        let (_, message) = self.flying.remove(at.expect("it is under way"));
        let now = self.now;
        self.replicas[to].handle(now, message);
        self.drain(to);
    }
}

/// Whether the candidate is elected in the end, without knowing what the leader decided.
fn is_overturned(make: Make) -> bool {
    let configuration = Configuration::of((0..5).map(member).collect());
    let replicas = (0..5).map(|place| make(place, Start::New(configuration), Duration::ZERO)).collect();
    let mut group = Group { replicas, flying: Vec::new(), now: Duration::ZERO, applied: Default::default() };
    group.tick(LEADER);
    group.connect(&[0, 1, 2, 3, 4]);
    assert!(group.replicas[LEADER].is_leader());

    // The leader is heard by one only. The candidate asks for promises, and one is on its way back.
    for _ in 0..9 {
        group.now += 25 * MS;
        group.tick(LEADER);
        group.connect(&[LEADER, LOYAL]);
        group.flying.clear();
    }
    group.tick(CANDIDATE);
    group.tick(CANDIDATE);
    while !group.flying.iter().any(|(_, message)| matches!(message.body, Body::Prepare(_))) {
        group.now += 60 * MS;
        group.tick(LEADER);
        group.tick(CANDIDATE);
        let is_pre_vote = |body: &Body<Write>| matches!(body, Body::PreVote(_));
        for voter in [FORGETFUL, LATE] {
            if group.flying.iter().any(|(to, message)| *to == member(voter) && is_pre_vote(&message.body)) {
                group.deliver(voter, is_pre_vote);
                group.deliver(CANDIDATE, |body| matches!(body, Body::PreVoted { .. }));
            }
        }
    }
    group.deliver(FORGETFUL, |body| matches!(body, Body::Prepare(_)));
    let is_promise = |(_, message): &(MemberId, Message<Write>)| matches!(message.body, Body::Promise(_));
    let at = group.flying.iter().position(is_promise).expect("it has promised");
    let promise = group.flying.remove(at);

    // It forgets that, and recovers from three others, of whom none has promised.
    group.flying.retain(|(to, _)| *to != member(FORGETFUL));
    group.replicas[FORGETFUL] = make(FORGETFUL, Start::Blank(configuration), group.now);
    group.applied[FORGETFUL].clear();
    group.drain(FORGETFUL);
    group.connect(&[LEADER, FORGETFUL, LOYAL]);
    let is_for_late = |body: &Body<Write>| matches!(body, Body::Recover(_));
    for _ in 0..2 {
        group.deliver(LATE, is_for_late);
        group.deliver(FORGETFUL, |body| matches!(body, Body::Recovered(_)));
        group.connect(&[LEADER, FORGETFUL, LOYAL]);
    }
    for _ in 0..3 {
        group.now += 25 * MS;
        group.tick(LEADER);
        group.connect(&[LEADER, FORGETFUL, LOYAL]);
    }

    // It votes again, and something is decided with its vote.
    let decided = group.replicas[LEADER].propose(Write(7)).expect("it still leads");
    group.drain(LEADER);
    group.connect(&[LEADER, FORGETFUL, LOYAL]);
    assert!(group.applied[LEADER].contains(&(decided, Command::Entry(Write(7)))), "it is decided");

    // Now the candidate gets another promise, and the forgotten one.
    group.deliver(LATE, |body| matches!(body, Body::Prepare(_)));
    group.flying.push(promise);
    group.connect(&[CANDIDATE, LATE]);
    group.deliver(CANDIDATE, |body| matches!(body, Body::Promise(_)));
    group.replicas[CANDIDATE].is_leader()
}

#[test]
fn a_promise_that_its_maker_has_forgotten_does_not_count() {
    assert!(!is_overturned(make));
}

#[cfg(feature = "broken")]
#[test]
fn broken_replicas_that_count_it_are_noticed() {
    assert!(is_overturned(|place, start, now| {
        let mut replica = make(place, start, now);
        replica.break_by(paxos::Flaw::CountsFormerLives);
        replica
    }));
}
