//! What ballots, sets of members and quorums have to be, for all of them.

use paxos::{Ballot, Change, Configuration, Life, MAX_MEMBERS, MemberId, MemberSet};
use proptest::{collection::vec, prelude::*};

fn member() -> impl Strategy<Value = MemberId> {
    (0..MAX_MEMBERS as u8).prop_map(|place| MemberId::new(place).unwrap())
}

fn set() -> impl Strategy<Value = MemberSet> {
    any::<u16>().prop_map(MemberSet::from_bits)
}

fn configuration() -> impl Strategy<Value = Configuration> {
    (1u16.., any::<u16>()).prop_map(|(voters, others)| Configuration {
        voters: MemberSet::from_bits(voters),
        learners: MemberSet::from_bits(others & !voters),
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (0..4u64, member(), 0..3u32).prop_map(|(round, member, life)| Ballot { round, member, life: Life(life) })
}

fn change() -> impl Strategy<Value = Change> {
    (member(), 0..3).prop_map(|(member, kind)| match kind {
        0 => Change::AddLearner(member),
        1 => Change::Promote(member),
        _ => Change::Remove(member),
    })
}

proptest! {
    #[test]
    fn ballots_are_in_a_total_order_by_round_first(a in ballot(), b in ballot()) {
        prop_assert_eq!(a == b, a.cmp(&b).is_eq());
        if a.round < b.round {
            prop_assert!(a < b);
        }
    }

    #[test]
    fn nobody_else_and_no_other_life_draws_the_same_ballot(a in ballot(), b in ballot()) {
        let (next, other) = (a.following(a.member, a.life), b.following(b.member, b.life));
        prop_assert!(next > a && next > Ballot::ZERO);
        if (a.member, a.life) != (b.member, b.life) {
            prop_assert_ne!(next, other);
        }
    }

    #[test]
    fn a_set_counts_each_member_once(members in vec(member(), 0..40)) {
        let naive: std::collections::BTreeSet<_> = members.iter().copied().collect();
        let set: MemberSet = members.iter().copied().collect();
        prop_assert_eq!(set.len(), naive.len());
        prop_assert_eq!(set.iter().collect::<Vec<_>>(), naive.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(MemberSet::from_bits(set.bits()), set);
        let mut again = set;
        for member in members {
            prop_assert!(set.contains(member) && !again.insert(member));
        }
    }

    #[test]
    fn sets_behave_like_sets(a in set(), b in set(), one in member()) {
        for member in (0..MAX_MEMBERS as u8).filter_map(MemberId::new) {
            prop_assert_eq!(a.union(b).contains(member), a.contains(member) || b.contains(member));
            prop_assert_eq!(a.intersection(b).contains(member), a.contains(member) && b.contains(member));
            prop_assert_eq!(a.without(one).contains(member), a.contains(member) && member != one);
        }
        prop_assert_eq!(a.is_empty(), a.iter().next().is_none());
    }

    #[test]
    fn any_two_quorums_share_a_voter(configuration in configuration(), a in set(), b in set()) {
        if configuration.is_quorum(a) && configuration.is_quorum(b) {
            prop_assert!(!a.intersection(b).intersection(configuration.voters).is_empty());
        }
        prop_assert!(configuration.is_quorum(configuration.voters));
    }

    #[test]
    fn learners_and_strangers_do_not_count(configuration in configuration(), set in set()) {
        prop_assert_eq!(
            configuration.is_quorum(set),
            configuration.is_quorum(set.intersection(configuration.voters))
        );
    }

    #[test]
    fn who_recovers_asks_somebody_of_every_quorum_that_it_was_in(
        configuration in configuration(), member in member(), quorum in set(), answered in set()
    ) {
        let answered = answered.intersection(configuration.voters).without(member);
        if configuration.is_quorum(quorum)
            && (configuration.voters.len() > 1 || !configuration.voters.contains(member))
            && answered.len() >= configuration.recovery_quorum(member)
        {
            prop_assert!(!quorum.intersection(answered).is_empty());
        }
    }

    #[test]
    fn quorums_before_and_after_a_change_share_a_voter(
        before in configuration(), change in change(), a in set(), b in set()
    ) {
        if let Ok(after) = before.after(change) {
            prop_assert!(after.voters.intersection(after.learners).is_empty());
            prop_assert!(!after.voters.is_empty());
            if before.is_quorum(a) && after.is_quorum(b) {
                prop_assert!(!a.intersection(b).is_empty());
            }
        }
    }

    #[test]
    fn a_change_makes_its_member_what_it_says(before in configuration(), change in change()) {
        let (member, is_voter, is_learner) = match change {
            Change::AddLearner(member) => (member, false, true),
            Change::Promote(member) => (member, true, false),
            Change::Remove(member) => (member, false, false),
        };
        match before.after(change) {
            Ok(after) => {
                prop_assert_eq!(after.voters.contains(member), is_voter);
                prop_assert_eq!(after.learners.contains(member), is_learner);
                prop_assert_eq!(after.members().without(member), before.members().without(member));
            }
            Err(_) => {
                let (was_voter, was_learner) = (before.voters.contains(member), before.learners.contains(member));
                let makes_sense = match change {
                    Change::AddLearner(_) => !was_voter && !was_learner,
                    Change::Promote(_) => was_learner,
                    Change::Remove(_) => was_learner || was_voter && before.voters.len() > 1,
                };
                prop_assert!(!makes_sense);
            }
        }
    }
}
