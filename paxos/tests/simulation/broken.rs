//! Replicas that are wrong on purpose: the simulation has to notice each. The mistakes are in the replica itself, behind the
//! feature `broken`. Two of them need circumstances that are too rare here, and are noticed by the model (`tests/model`): a leader that
//! uses the part of its lease that drift may have eaten, and a voter that restarts and does not wait out what it granted. One more,
//! counting promises of former lives, has a test of its own (`tests/former_lives.rs`).

use paxos::Replica;

use crate::machine::Write;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    #[cfg(feature = "broken")]
    By(paxos::Flaw),
}

impl Broken {
    pub fn apply(broken: Option<Self>, _replica: &mut Replica<Write>) {
        match broken {
            #[cfg(feature = "broken")]
            Some(Self::By(flaw)) => _replica.break_by(flaw),
            _ => {}
        }
    }
}

/// Seeds within which a mistake has to be noticed; `RUM_SIM_SEEDS` says otherwise.
#[cfg(feature = "broken")]
const SEEDS: u64 = 5_000;

#[cfg(feature = "broken")]
#[test]
fn every_flaw_is_noticed() {
    use crate::world::World;
    use paxos::Flaw;
    let only = std::env::var("RUM_SIM_FLAW").ok();
    let flaws: &[(Flaw, &[&str])] = &[
        (Flaw::CountsDuplicates, &[""]),
        (Flaw::ForgetsPromise, &[""]),
        (Flaw::TakesAnyValue, &[""]),
        (Flaw::KeepsOldBallots, &[""]),
        (Flaw::TrustsOldBallots, &[""]),
        (Flaw::VotesBlank, &[""]),
        (Flaw::ReturnsEarly, &[""]),
        (Flaw::IgnoresLease, &["stale"]),
        (Flaw::LeaseFromAnswer, &["stale"]),
        (Flaw::KeepsLease, &["stale"]),
        (Flaw::ReadsEarly, &["stale"]),
        (Flaw::TruncatesEarly, &[""]),
        (Flaw::AppliesOutOfOrder, &["out of order", "another than the replica thinks"]),
        (Flaw::CountsLearners, &[""]),
        (Flaw::AcksBeforeDurable, &[""]),
    ];
    let seeds = std::env::var("RUM_SIM_SEEDS").ok().map_or(SEEDS, |text| text.parse().expect("RUM_SIM_SEEDS"));
    let mut unnoticed = Vec::new();
    for (flaw, expected) in flaws {
        if only.as_ref().is_some_and(|only| *only != format!("{flaw:?}")) {
            continue;
        }
        let began = std::time::Instant::now();
        match crate::try_seeds(World::new, 0, seeds, Some(Broken::By(*flaw))).1 {
            Some((seed, failure)) => {
                let is_expected = expected.iter().any(|text| failure.message.contains(text));
                let line = failure.message.lines().next().unwrap_or_default();
                assert!(is_expected, "{flaw:?}, seed {seed}: noticed by another check: {}", failure.message);
                println!("{flaw:?}: seed {seed}, {:.1?}: {line}", began.elapsed());
            }
            None => {
                println!("{flaw:?}: not noticed, {:.1?}", began.elapsed());
                unnoticed.push(flaw);
            }
        }
    }
    assert!(unnoticed.is_empty(), "not noticed in {seeds} seeds: {unnoticed:?}");
}
