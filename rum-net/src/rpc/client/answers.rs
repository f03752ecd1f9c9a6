//! What a client does with what the server says of its requests: responses, and how far a request is.

use std::time::{Duration, Instant};

use super::{Client, ClientEvent, Slot};
use crate::{
    rpc::{
        ack_every,
        congestion::Delay,
        fragment::{FragmentSet, Layout},
    },
    wire::header::{Header, flag},
};

impl Client {
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        header: &Header,
        payload: &[u8],
        sink: &mut dyn FnMut(ClientEvent<'_>),
    ) {
        let Some(index) = self.slot_of(header.request) else {
            self.stats.drops.stale += 1;
            return;
        };
        let slot = &mut self.slot[index];
        let layout = Layout::new(header.message_bytes, self.fragment_bytes);
        let fragment = layout.and_then(|layout| layout.index(header.offset, payload.len()));
        let (Some(layout), Some(fragment)) = (layout, fragment) else {
            self.stats.drops.malformed += 1;
            return;
        };
        let is_first = slot.response.is_none();
        if *slot.response.get_or_insert(layout) != layout {
            self.stats.drops.malformed += 1;
            return;
        }
        if !slot.received.insert(fragment) {
            self.stats.drops.duplicate += 1;
            return;
        }
        self.learn_delay(now, index, header);
        if is_first {
            self.on_first_fragment(now, index, layout);
        }
        let slot = &mut self.slot[index];
        let request = slot.request;
        let is_complete = slot.received == layout.all();
        if !is_complete {
            slot.attempts = 0;
            slot.deadline = now + self.rtt.timeout(0);
        }
        self.set_progress_of_request(index, self.slot[index].layout.all());
        if !layout.is_single() {
            self.note_response(now, index, is_complete, header.flags & flag::WANTS_ACK != 0);
        }
        if is_complete {
            let bit = 1 << index;
            self.completed += 1;
            self.busy &= !bit;
            self.bodies[index] = None;
            self.probe &= !bit;
            self.ack &= !bit;
            if self.busy == 0 {
                self.earliest = None;
            }
        }
        if !payload.is_empty() {
            sink(ClientEvent::Fragment { request, offset: header.offset as usize, bytes: payload });
        }
        if is_complete {
            sink(ClientEvent::Complete { request, len: layout.message_bytes() as usize });
        }
    }

    /// An answer begins to come: what its delay tells of the way, and its coming of the requests before it.
    fn on_first_fragment(&mut self, now: Instant, index: usize, layout: Layout) {
        // Of a request that was sent twice the first copy may be what is answered.
        let Slot { sequence, first_sequence, repeated, .. } = self.slot[index];
        let sequence = if repeated { first_sequence } else { sequence };
        self.waiting &= !(1 << index);
        self.response_packets = layout.count();
        self.overtake(now, sequence);
    }

    /// How long the request and this fragment of its response were on their way, which is the time since the request was
    /// sent, without that for which the server had it.
    fn learn_delay(&mut self, now: Instant, index: usize, header: &Header) {
        let Some(sent_at) = self.slot[index].answered(header).filter(|_| header.idle != u32::MAX) else { return };
        let expected = self.in_flight + self.response_packets * self.busy.count_ones();
        let is_limiting = 2 * expected >= self.congestion.window();
        let delay = self.delay_since(now, sent_at, Duration::from_nanos(u64::from(header.idle)));
        if delay.is_certain() {
            self.rtt.sample(delay.most);
        }
        self.congestion.on_answer(now, delay, 1, is_limiting);
    }

    /// The delay of what is handled now and was sent then, and of which the server had the request for `idle`: it came after
    /// the port was last seen empty.
    fn delay_since(&self, now: Instant, sent_at: Instant, idle: Duration) -> Delay {
        let until = |at: Instant| at.saturating_duration_since(sent_at).saturating_sub(idle);
        Delay { least: until(self.looked.unwrap_or(now)), most: until(now) }
    }

    /// A fragment of a response of several packets came: tells the server now and then.
    fn note_response(&mut self, now: Instant, index: usize, is_complete: bool, wants_ack: bool) {
        self.unacked += 1;
        if is_complete {
            self.release = true;
            self.progress &= !(1 << index);
        } else {
            self.progress |= 1 << index;
            self.find_lost_response(now, index);
        }
        if wants_ack || self.unacked >= ack_every(self.congestion.window()) {
            self.ack |= self.progress;
            self.release_due |= self.release;
            self.unacked = 0;
        }
    }

    pub(super) fn on_status(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        let Some(index) = self.slot_of(header.request) else {
            self.stats.drops.stale += 1;
            return;
        };
        let Ok(bits) = payload.try_into() else {
            self.stats.drops.malformed += 1;
            return;
        };
        let slot = &mut self.slot[index];
        let all = slot.layout.all();
        if header.flags & flag::EXECUTING != 0 {
            slot.executing = true;
            return self.set_progress_of_request(index, all);
        }
        let acked = slot.acked.union(FragmentSet(u128::from_le_bytes(bits)).intersection(all));
        let news = acked.without(slot.acked).len();
        if news > 0 {
            slot.attempts = 0;
            slot.deadline = now + self.rtt.timeout(0);
            self.arrived += news;
            self.learn_delay_of_request(now, index, acked);
        }
        self.set_progress_of_request(index, acked);
        if header.flags & flag::ANSWERS_PROBE != 0 {
            let lost = self.slot[index].sent.without(acked);
            if !lost.is_empty() {
                self.congestion.on_loss(now, self.rtt.smoothed().unwrap_or_default());
            }
            self.send_again(index, FragmentSet::all());
        } else {
            self.find_lost_fragments(now, index);
        }
    }

    /// The server has the fragment that it was asked to tell of at once.
    fn learn_delay_of_request(&mut self, now: Instant, index: usize, acked: FragmentSet) {
        let Some((id, fragment, sent_at)) = self.marked else { return };
        let slot = &self.slot[index];
        if slot.id != id || !acked.contains(fragment) {
            return;
        }
        self.marked = None;
        if !slot.repeated {
            let is_limiting = 2 * self.under_way() >= self.congestion.window();
            let arrived = std::mem::take(&mut self.arrived);
            let delay = self.delay_since(now, sent_at, Duration::ZERO);
            self.congestion.on_answer(now, delay, arrived, is_limiting);
        }
    }
}
