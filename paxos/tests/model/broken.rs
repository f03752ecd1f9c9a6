//! Replicas that are wrong on purpose: the explorations have to notice those flaws whose consequences are few steps away. The
//! simulation notices the others.

use paxos::Flaw;

use crate::{Exploration, agreement, amnesia, ended, explore, group::Break, half_missed, missed};

/// States within which a mistake has to be noticed; a replica without flaws is right in as many.
const STATES: usize = 3_000_000;

fn assert_noticed(flaw: Flaw, exploration: fn(Break) -> Exploration, break_by: Break) {
    let found = explore(exploration(break_by), STATES);
    match found.wrong {
        Some((property, actions)) => {
            println!("{flaw:?}: not {property:?} after {} states, {:.1?}: {actions}", found.states, found.took);
        }
        None => panic!("{flaw:?} was not noticed in {} states up to {} steps", found.states, found.depth),
    }
}

macro_rules! noticed {
    ($($test:ident: $exploration:ident, $flaw:ident;)*) => {
        $(#[test]
        fn $test() {
            assert_noticed(Flaw::$flaw, $exploration, |replica| replica.break_by(Flaw::$flaw));
        })*
    };
}

noticed! {
    forgetting_promises: agreement, ForgetsPromise;
    keeping_old_ballots: agreement, KeepsOldBallots;
    trusting_old_ballots: agreement, TrustsOldBallots;
    taking_any_value: agreement, TakesAnyValue;
    voting_blank: amnesia, VotesBlank;
    ignoring_leases: half_missed, IgnoresLease;
    leases_from_answers: missed, LeaseFromAnswer;
    ignoring_drift: ended, IgnoresDrift;
    restarting_unbound: half_missed, RestartsUnbound;
}
