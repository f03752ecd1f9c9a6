//! What a replica refuses, and what it keeps and sends at most.

mod group;

use std::time::Duration;

use group::{Group, member};
use paxos::{Change, ChangeError, MemberSet, ProposeError, ReadError, Settings, SettingsError};

const MS: Duration = Duration::from_millis(1);

fn settings() -> Settings {
    Settings { max_batch_entries: 4, max_in_flight_entries: 16, max_log_entries: 64, ..Settings::default() }
}

/// Proposes until there is no more room.
fn fill(group: &mut Group) -> u64 {
    let page = group.page.clone();
    let mut taken = 0;
    while group.replicas[0].propose(page.clone()).is_ok() {
        taken += 1;
        assert!(taken < 10_000, "there is always room");
    }
    assert_eq!(group.replicas[0].propose(page), Err(ProposeError::Busy));
    taken
}

#[test]
fn a_leader_says_that_it_is_busy_until_something_is_decided() {
    let mut group = Group::new(settings());
    assert_eq!(fill(&mut group), 16);
    group.settle();
    assert_eq!(fill(&mut group), 16);
    let mut few_bytes = Group::new(Settings { max_in_flight_bytes: 5 * 4096, ..settings() });
    assert_eq!(fill(&mut few_bytes), 5);
}

#[test]
fn a_dead_member_costs_neither_memory_nor_much_traffic() {
    let mut group = Group::new(Settings { max_log_bytes: 50 * 4096, ..settings() });
    group.dead = MemberSet::only(member(2));
    for _ in 0..100 {
        fill(&mut group);
        group.settle();
        group.pass(10 * MS);
        for replica in &group.replicas[..2] {
            assert!(replica.status().log_bytes <= 50 * 4096, "{:?}", replica.status());
        }
    }
    assert!(group.applied >= 3200);
    let (entries, messages) = group.wasted;
    // What was in flight when it died, once or twice, and a sign of life each 25 ms.
    assert!(entries <= 48, "{entries} entries were sent to the dead");
    assert!(messages <= 120, "{messages} messages were sent to the dead");
}

#[test]
fn a_leader_that_nobody_answers_stops_reading_and_then_leading() {
    let mut group = Group::new(settings());
    group.pass(100 * MS);
    assert_eq!(group.replicas[0].check_read(group.now), Ok(()));
    group.dead = [1, 2].into_iter().map(member).collect();
    group.pass(200 * MS);
    assert_eq!(group.replicas[0].check_read(group.now), Err(ReadError::NoLease));
    group.pass(250 * MS);
    assert!(!group.replicas[0].is_leader());
    assert_eq!(group.replicas[0].check_read(group.now), Err(ReadError::NotLeader { leader: None }));
}

#[test]
fn changes_that_would_do_harm_are_refused() {
    let mut group = Group::new(settings());
    group.pass(50 * MS);
    let leader = &mut group.replicas[0];
    let refused = |error: ChangeError| Err(ProposeError::Change(error));
    assert_eq!(leader.reconfigure(Change::Remove(member(0))), refused(ChangeError::Leads(member(0))));
    assert_eq!(leader.reconfigure(Change::Promote(member(3))), refused(ChangeError::NoLearner(member(3))));
    assert_eq!(leader.reconfigure(Change::AddLearner(member(1))), refused(ChangeError::AlreadyMember(member(1))));
    assert!(leader.reconfigure(Change::AddLearner(member(3))).is_ok());
    assert_eq!(leader.reconfigure(Change::Remove(member(1))), Err(ProposeError::Busy));
    group.settle();
    let behind = group.replicas[0].reconfigure(Change::Promote(member(3)));
    assert!(matches!(behind, Err(ProposeError::Change(ChangeError::Behind { .. }))), "{behind:?}");
    // With the last but one removed and the other dead, nothing could be decided any more.
    group.dead = MemberSet::only(member(2));
    group.pass(240 * MS);
    let too_few = group.replicas[0].reconfigure(Change::Remove(member(1)));
    assert!(matches!(too_few, Err(ProposeError::Change(ChangeError::TooFewAlive { .. }))), "{too_few:?}");
    let follower = group.replicas[1].reconfigure(Change::Remove(member(2)));
    assert_eq!(follower, Err(ProposeError::NotLeader { leader: Some(member(0)) }));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let good = Settings::default();
    assert_eq!(good.check(), Ok(()));
    let heartbeat = Settings { heartbeat: 60 * MS, ..good };
    assert!(matches!(heartbeat.check(), Err(SettingsError::SlowHeartbeat { .. })));
    let timeout = Settings { max_election_timeout: 100 * MS, ..good };
    assert!(matches!(timeout.check(), Err(SettingsError::ShortTimeout { .. })));
    let limits = Settings { max_log_entries: 10, ..good };
    assert!(matches!(limits.check(), Err(SettingsError::Limits { .. })));
}
