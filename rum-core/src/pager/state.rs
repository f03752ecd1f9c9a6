//! What a page may be, and how it comes to be something else: pure, without memory or network.

/// Where a page's contents are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageState {
    /// Never written, or discarded: reads as zeros, costs nothing.
    Absent = 0,
    /// On slaves only.
    Remote = 1,
    /// On its way here: a read is in flight.
    Fetching = 2,
    /// In local memory, mapped in the region.
    Resident = 3,
    /// Taken out of the region; a write to the slaves is in flight.
    WritingBack = 4,
    /// Read ahead: its contents lie in a frame, checked, and are mapped at the first touch.
    Ready = 5,
}

/// What happens to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageEvent {
    /// A read of it was sent.
    FetchStarted,
    /// Its contents arrived, were checked and are mapped.
    Fetched,
    /// Its contents arrived and were checked, before anybody touched it.
    Arrived,
    /// Its contents, which nobody has touched, were let go: the slaves have them.
    LetGo,
    /// It was mapped as zeros.
    ZerosMapped,
    /// It was taken out of the region; the slaves hold the same contents.
    EvictedClean,
    /// It was taken out of the region; it is all zeros and the slaves hold nothing of it.
    EvictedZeros,
    /// It was taken out of the region, and a write was sent.
    EvictedDirty,
    /// The slaves acknowledged its contents.
    Stored,
    /// The slaves acknowledged that it is zeros and hold nothing of it.
    StoredZeros,
    /// The program gave it up, and the slaves hold nothing of it: its contents are forgotten.
    Discarded,
    /// The program gave it up, and a message that it is zeros now was sent.
    DiscardStarted,
    /// Another client may have changed it: what is here is forgotten, the slaves know.
    Invalidated,
}

/// An event that cannot happen in a state: a mistake in the pager.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a page that is {state:?} cannot take {event:?}")]
pub struct IllegalTransition {
    /// The state.
    pub state: PageState,
    /// The event.
    pub event: PageEvent,
}

impl PageState {
    /// The state after `event`.
    pub const fn after(self, event: PageEvent) -> Result<Self, IllegalTransition> {
        use PageEvent as E;
        use PageState as S;
        Ok(match (self, event) {
            (S::Remote, E::FetchStarted) => S::Fetching,
            (S::Fetching | S::Ready, E::Fetched) => S::Resident,
            (S::Fetching, E::Arrived) => S::Ready,
            (S::Ready, E::LetGo) => S::Remote,
            (S::Absent, E::ZerosMapped) => S::Resident,
            (S::Resident, E::EvictedClean) => S::Remote,
            (S::Resident, E::EvictedZeros) => S::Absent,
            (S::Resident, E::EvictedDirty) => S::WritingBack,
            (S::WritingBack, E::Stored) => S::Remote,
            (S::WritingBack, E::StoredZeros) => S::Absent,
            (S::Absent | S::Remote | S::Resident, E::Discarded) => S::Absent,
            (S::Absent | S::Remote | S::Resident, E::DiscardStarted) => S::WritingBack,
            (S::Absent | S::Remote, E::Invalidated) => S::Remote,
            (state, event) => return Err(IllegalTransition { state, event }),
        })
    }

    /// Whether a request for the page is in flight, so that it must be waited for.
    pub const fn in_flight(self) -> bool {
        matches!(self, Self::Fetching | Self::WritingBack)
    }

    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Absent,
            1 => Self::Remote,
            2 => Self::Fetching,
            3 => Self::Resident,
            4 => Self::WritingBack,
            _ => Self::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [PageState; 6] = [
        PageState::Absent,
        PageState::Remote,
        PageState::Fetching,
        PageState::Resident,
        PageState::WritingBack,
        PageState::Ready,
    ];
    const EVENTS: [PageEvent; 13] = [
        PageEvent::FetchStarted,
        PageEvent::Fetched,
        PageEvent::Arrived,
        PageEvent::LetGo,
        PageEvent::ZerosMapped,
        PageEvent::EvictedClean,
        PageEvent::EvictedZeros,
        PageEvent::EvictedDirty,
        PageEvent::Stored,
        PageEvent::StoredZeros,
        PageEvent::Discarded,
        PageEvent::DiscardStarted,
        PageEvent::Invalidated,
    ];

    /// The original opened a page before its data had arrived.
    #[test]
    fn a_page_is_resident_only_after_its_contents_arrived() {
        for state in STATES {
            for event in EVENTS {
                if state.after(event) == Ok(PageState::Resident) {
                    assert!(matches!(
                        (state, event),
                        (PageState::Fetching | PageState::Ready, PageEvent::Fetched)
                            | (PageState::Absent, PageEvent::ZerosMapped)
                    ));
                }
            }
        }
    }

    #[test]
    fn a_page_in_flight_can_be_neither_discarded_nor_evicted() {
        for state in STATES.into_iter().filter(|s| s.in_flight()) {
            for event in [
                PageEvent::Discarded,
                PageEvent::DiscardStarted,
                PageEvent::EvictedClean,
                PageEvent::EvictedDirty,
                PageEvent::FetchStarted,
            ] {
                assert!(state.after(event).is_err(), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn every_state_can_be_left_and_reached() {
        for state in STATES {
            assert!(EVENTS.iter().any(|&e| state.after(e).is_ok_and(|next| next != state)));
            assert!(STATES.iter().any(|s| EVENTS.iter().any(|&e| *s != state && s.after(e) == Ok(state))));
            assert_eq!(PageState::from_bits(state as u8), state);
        }
    }
}
