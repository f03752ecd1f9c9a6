//! Endpoints that are wrong on purpose: the simulation has to notice each. The mistakes are in the endpoints themselves, behind
//! the feature `broken`, since outside of them no key, cookie or record of requests can be had. Only checksums are
//! ignored here: a damaged packet gets a new one, which is what an endpoint that does not look at it would take.

use rum_net::rpc::{client::Client, server::Server};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    IgnoresChecksums,
    #[cfg(feature = "broken")]
    By(rum_net::rpc::Flaw),
}

impl Broken {
    pub fn apply_to_server(broken: Option<Self>, _server: &mut Server) {
        match broken {
            #[cfg(feature = "broken")]
            Some(Self::By(flaw)) => _server.break_by(flaw),
            _ => {}
        }
    }

    pub fn apply_to_client(broken: Option<Self>, _client: &mut Client) {
        match broken {
            #[cfg(feature = "broken")]
            Some(Self::By(flaw)) => _client.break_by(flaw),
            _ => {}
        }
    }
}

/// Seeds within which a mistake has to be noticed.
const SEEDS: u64 = 400;

fn assert_noticed(broken: Broken, expected: &[&str]) {
    for seed in 0..SEEDS {
        if let Err(failure) = crate::try_seed(seed, Some(broken)) {
            let is_expected = expected.iter().any(|text| failure.message.contains(text));
            assert!(is_expected, "{broken:?}, seed {seed}: noticed by another check: {}", failure.message);
            println!("{broken:?}: seed {seed}: {}", failure.message.lines().next().unwrap_or_default());
            return;
        }
    }
    panic!("{broken:?} was not noticed in {SEEDS} seeds");
}

#[test]
fn an_endpoint_that_ignores_checksums_is_noticed() {
    assert_noticed(Broken::IgnoresChecksums, &[""]);
}

#[cfg(feature = "broken")]
#[test]
fn every_other_flaw_is_noticed() {
    use rum_net::rpc::Flaw;
    let flaws: [(Flaw, &[&str]); 8] = [
        (Flaw::RunsDuplicates, &["ran twice"]),
        (Flaw::IgnoresReplays, &["kept alive by replays", "go to the attacker"]),
        (Flaw::TakesAnyCookie, &["never asked to prove itself"]),
        (Flaw::BelievesResets, &["talked out of a sealed session"]),
        (Flaw::TakesUnsealed, &[""]),
        (Flaw::ReusesSessions, &["another incarnation was executed", "drawn twice"]),
        (Flaw::KeepsResponses, &["that have arrived are kept"]),
        (Flaw::NeverRepeats, &["requests hang"]),
    ];
    for (flaw, expected) in flaws {
        assert_noticed(Broken::By(flaw), expected);
    }
}
