//! What an endpoint can be told to do wrong, so that the simulation can show that it would notice. Without the feature
//! `broken` nothing can be told, and nothing of this is left in the code.

#[cfg_attr(not(feature = "broken"), allow(dead_code, reason = "some are made in code that only the feature has"))]
/// A mistake that an endpoint of this kind could have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// The server runs a request of one packet each time that it arrives.
    RunsDuplicates,
    /// The server takes a sealed packet as often as it comes.
    IgnoresReplays,
    /// The server keeps state for peers that have not shown that they receive at their address.
    TakesAnyCookie,
    /// In a sealed session the client believes at once whoever says that it is gone.
    BelievesResets,
    /// Both sides take packets in the clear in a sealed session.
    TakesUnsealed,
    /// A server that restarts draws the same session ids again.
    ReusesSessions,
    /// The server keeps responses that their clients have.
    KeepsResponses,
    /// Timeouts never make the client send again.
    NeverRepeats,
}

/// The flaw of an endpoint, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flaws {
    #[cfg(feature = "broken")]
    flaw: Option<Flaw>,
}

impl Flaws {
    #[cfg(feature = "broken")]
    pub fn of(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw) }
    }

    #[cfg(feature = "broken")]
    pub fn has(self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    #[cfg(not(feature = "broken"))]
    #[inline(always)]
    pub fn has(self, _flaw: Flaw) -> bool {
        false
    }
}
