//! Counters of what a station did not take.

/// Packets dropped before any of RUM's own bytes were looked at, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FramingDrops {
    /// Shorter than their headers, or than those say.
    pub short: u64,
    /// Of another protocol: another ethertype, another IP protocol, another UDP port.
    pub not_ours: u64,
    /// Headers that contradict themselves.
    pub malformed: u64,
    /// A wrong checksum of the IPv4 header.
    pub ip_checksum: u64,
    /// A wrong checksum of the UDP datagram.
    pub udp_checksum: u64,
    /// Parts of IPv4 packets.
    pub fragment: u64,
    /// For another address, or for a group.
    pub wrong_destination: u64,
    /// From an address that no single host has, or from the station's own: an answer would go astray.
    pub bad_source: u64,
    /// ARP replies that nobody asked for.
    pub unasked_arp: u64,
    /// ARP requests that came faster than they are answered.
    pub crowded_arp: u64,
}

impl FramingDrops {
    /// Calls `sink` with the name and value of each.
    pub fn counters(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        sink("dropped_short", self.short);
        sink("dropped_not_ours", self.not_ours);
        sink("dropped_malformed", self.malformed);
        sink("dropped_ip_checksum", self.ip_checksum);
        sink("dropped_udp_checksum", self.udp_checksum);
        sink("dropped_fragment", self.fragment);
        sink("dropped_wrong_destination", self.wrong_destination);
        sink("dropped_bad_source", self.bad_source);
        sink("dropped_unasked_arp", self.unasked_arp);
        sink("dropped_crowded_arp", self.crowded_arp);
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let mut total = 0;
        self.counters(&mut |_, count| total += count);
        total
    }
}
