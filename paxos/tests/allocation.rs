//! What an entry costs of the heap on its way through three replicas: nothing when it travels alone, one batch when many travel together.

#[path = "../../rum-net/tests/counting/mod.rs"]
mod counting;
#[allow(dead_code, reason = "other tests use the rest")]
mod group;

use std::time::Duration;

use counting::allocations;
use group::Group;
use paxos::Settings;

fn propose(group: &mut Group, at_a_time: u64, times: u64) {
    for _ in 0..times {
        for _ in 0..at_a_time {
            let page = group.page.clone();
            group.replicas[0].propose(page).unwrap();
        }
        group.settle();
        group.now += Duration::from_micros(10);
    }
}

#[test]
fn an_entry_alone_takes_nothing_from_the_heap() {
    let mut group = Group::new(Settings::default());
    propose(&mut group, 1, 10_000);
    let ((), number) = allocations(|| propose(&mut group, 1, 10_000));
    assert!(group.applied >= 40_000);
    assert_eq!(number, 0);
}

#[test]
fn entries_together_take_one_piece_of_the_heap_for_all_members() {
    let mut group = Group::new(Settings::default());
    propose(&mut group, 32, 1000);
    let ((), number) = allocations(|| propose(&mut group, 32, 1000));
    // Each is taken and given back.
    assert_eq!(number, 2 * 1000);
}
