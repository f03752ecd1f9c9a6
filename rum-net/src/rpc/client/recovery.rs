//! How a client finds out what was lost. Within a round trip where later packets show it: three later fragments of
//! the same message, or answers to three later requests (the packet threshold of RFC 9002, section 6.1.1). Else, for
//! the last packets of a burst, by a timeout of about a round trip (RFC 6298), after which a probe asks the
//! server what it has.

use std::time::{Duration, Instant};

use super::{Client, FragmentSet, Retry, State, take_lowest};
use crate::{
    rpc::{PACKET_THRESHOLD, flaws::Flaw},
    wire::header::flag,
};

/// A server that has not heard of this client for so long may be asleep, and takes the second time to wake up.
const MAY_SLEEP_AFTER: Duration = Duration::from_micros(150);
const WAKES_WITHIN: Duration = Duration::from_micros(200);
/// Timeouts in a row after which a session sends one packet at a time.
const SILENT_AFTER: u32 = 3;
/// A request up to this size is sent again as a whole rather than asked after.
const SMALL_REQUEST_BYTES: u32 = 256;
/// Hello and bye are not repeated faster.
pub(super) const MIN_RETRY: Duration = Duration::from_millis(1);

impl Client {
    /// How long to wait for an answer that was already waited for `attempts` times.
    pub(super) fn timeout(&self, now: Instant, attempts: u32) -> Duration {
        let timeout = self.rtt.timeout(attempts);
        let is_idle = self.last_heard.is_none_or(|heard| now.saturating_duration_since(heard) > MAY_SLEEP_AFTER);
        if is_idle { timeout + WAKES_WITHIN } else { timeout }
    }

    /// The server has these fragments of the request.
    pub(super) fn set_progress_of_request(&mut self, index: usize, acked: FragmentSet) {
        let slot = &mut self.slot[index];
        if !slot.layout.is_single() {
            self.in_flight -= slot.unacked();
            self.in_flight += slot.sent.without(acked).len();
        }
        slot.acked = acked;
        slot.sent = slot.sent.union(acked);
        self.note_sent(index);
    }

    /// Keeps the sets of slots that have something to send, and of those that wait for an answer.
    pub(super) fn note_sent(&mut self, index: usize) {
        let (slot, bit) = (&self.slot[index], 1 << index);
        let (is_sent, is_single) = (slot.is_sent(), slot.layout.is_single());
        let is_under_way = is_sent && slot.response.is_none() && !slot.executing;
        let set = |bits: &mut u32, on: bool| *bits = if on { *bits | bit } else { *bits & !bit };
        set(&mut self.waiting, is_under_way);
        set(&mut self.single, !is_sent && is_single);
        set(&mut self.bulk, !is_sent && !is_single);
    }

    /// What the server does not have of these fragments of the request is lost.
    pub(super) fn send_again(&mut self, index: usize, lost: FragmentSet) {
        let slot = &mut self.slot[index];
        let lost = slot.sent.without(slot.acked).intersection(lost);
        if lost.is_empty() {
            return;
        }
        slot.repeated = true;
        slot.sent = slot.sent.without(lost);
        if slot.layout.is_single() {
            slot.tries = slot.tries.saturating_add(1).min(flag::NO_ATTEMPT - 1);
        } else {
            self.in_flight -= lost.len();
        }
        self.stats.sent_again += u64::from(lost.len());
        self.note_sent(index);
    }

    /// The server said which fragments it has: those well before the last of them are lost, unless they were sent again
    /// already.
    pub(super) fn find_lost_fragments(&mut self, now: Instant, index: usize) {
        let slot = &mut self.slot[index];
        let passed = FragmentSet::first(slot.acked.end().saturating_sub(PACKET_THRESHOLD));
        let lost = slot.sent.intersection(passed).without(slot.acked).without(slot.resent);
        if lost.is_empty() {
            return;
        }
        slot.resent = slot.resent.union(lost);
        self.send_again(index, lost);
        self.on_loss(now);
    }

    /// Fragments of the response well before the last that came, which were not asked for again yet, are lost.
    pub(super) fn find_lost_response(&mut self, now: Instant, index: usize) {
        let slot = &mut self.slot[index];
        let passed = FragmentSet::first(slot.received.end().saturating_sub(PACKET_THRESHOLD));
        let lost = passed.without(slot.received).without(slot.asked_again);
        if lost.is_empty() {
            return;
        }
        slot.asked_again = slot.asked_again.union(lost);
        slot.lost = slot.lost.union(lost);
        self.ack |= 1 << index;
        self.on_loss(now);
    }

    /// An answer came to a request whose last packet had the number `sequence`: requests sent before it and still
    /// without an answer may be lost.
    pub(super) fn overtake(&mut self, now: Instant, sequence: u64) {
        if sequence <= self.oldest {
            // As a rule answers come in the order of their requests, and nothing is overtaken.
            self.oldest = self.oldest.max(sequence + 1);
            return;
        }
        self.oldest = sequence + 1;
        let mut waiting = self.waiting;
        while let Some(index) = take_lowest(&mut waiting) {
            let slot = &mut self.slot[index];
            if slot.sequence > sequence {
                continue;
            }
            self.oldest = self.oldest.min(slot.sequence);
            slot.overtaken += 1;
            if u32::from(slot.overtaken) < PACKET_THRESHOLD {
                continue;
            }
            slot.overtaken = 0;
            let is_there = !slot.acked.is_empty();
            if slot.layout.message_bytes() <= SMALL_REQUEST_BYTES && !is_there {
                self.send_again(index, FragmentSet::all());
            } else {
                self.probe |= 1 << index;
                self.missed |= 1 << index;
                // Not again before the answer to this could be here.
                self.sequence += 1;
                slot.sequence = self.sequence;
            }
            // A server may well answer a request that it has after others.
            if !is_there {
                self.on_loss(now);
            }
        }
    }

    fn on_loss(&mut self, now: Instant) {
        self.stats.losses += 1;
        self.congestion.on_loss(now, self.rtt.smoothed().unwrap_or_default());
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        self.earliest = None;
        if let State::Opening(Retry { due, deadline, .. }) | State::Closing(Retry { due, deadline, .. }) =
            &mut self.state
        {
            if *deadline <= now {
                *due = true;
            } else {
                self.earliest = Some(*deadline);
            }
            return;
        }
        if let Some(since) = self.doubted {
            // Is the session there? The answer is sealed, or comes again.
            self.keep_alive_due = true;
            self.wake_at(since.max(now) + Duration::from_millis(1));
        }
        let mut busy = self.busy;
        // The time of one that waits for the window begins when it is sent.
        busy &= !self.unsent;
        while let Some(index) = take_lowest(&mut busy) {
            if self.slot[index].deadline <= now {
                self.on_slot_timeout(now, index);
            }
            self.wake_at(self.slot[index].deadline);
        }
    }

    /// A request has had no answer, or no further fragment of one, for too long.
    fn on_slot_timeout(&mut self, now: Instant, index: usize) {
        if self.flaws.has(Flaw::NeverRepeats) {
            self.slot[index].deadline = now + self.timeout(now, 10);
            return;
        }
        if let Some(later) = self.turn_begins(now, index) {
            self.slot[index].deadline = later;
            return;
        }
        let slot = &mut self.slot[index];
        self.stats.timeouts += 1;
        slot.attempts += 1;
        slot.asked_again = FragmentSet::default();
        slot.resent = FragmentSet::default();
        slot.overtaken = 0;
        let (attempts, is_unheard) = (slot.attempts, slot.acked.is_empty() && slot.received.is_empty());
        let timeout = self.timeout(now, attempts);
        let slot = &mut self.slot[index];
        slot.deadline = now + timeout;
        if slot.layout.is_single() && is_unheard && slot.is_sent() {
            self.send_again(index, FragmentSet::all());
        } else {
            // Also when the window holds the request back: the server may hold others back for the answer to this one.
            self.probe |= 1 << index;
        }
        // Nothing is known to be lost: the server may have much to answer before this. Unless it says nothing at all.
        let is_silent = self.last_heard.is_none_or(|heard| now.saturating_duration_since(heard) >= timeout);
        if attempts >= SILENT_AFTER && is_silent {
            self.congestion.on_silence();
        }
    }

    /// While the server answers requests that were under way before this one it is no wonder that it does not answer this:
    /// until when to wait on, if at all.
    fn turn_begins(&self, now: Instant, index: usize) -> Option<Instant> {
        let later = self.last_heard? + self.rtt.timeout(0);
        (later > now && self.completed < self.slot[index].turn).then_some(later)
    }

    /// The turn of a request comes when as many were answered as there are others now.
    pub(super) fn queue_behind_others(&mut self, index: usize) {
        self.slot[index].turn = self.completed + u64::from(self.busy.count_ones()) - 1;
    }

    pub(super) fn wake_at(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }
}
