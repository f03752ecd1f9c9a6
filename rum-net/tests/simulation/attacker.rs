//! Somebody who sees every packet that arrives, repeats what was seen, and forges what needs no key.

use std::collections::VecDeque;

use rum_net::{
    port::{Address, LinkId},
    rpc::MIN_MTU,
    wire::{
        header::{HEADER_BYTES, Header, Kind, flag},
        hello::{Hello, HelloAck, HelloRetry, Verdict},
    },
};

use crate::{packet, weather::Rng, world::World};

/// Where the attacker receives.
pub const LINK: LinkId = LinkId(u64::MAX);
/// Packets remembered at once.
const MEMORY: usize = 96;

pub struct Seen {
    pub to_host: bool,
    pub host: usize,
    pub link: LinkId,
    bytes: Vec<u8>,
}

#[derive(Default)]
pub struct Attacker {
    seen: Vec<Seen>,
    /// Hellos are rarer than other packets, and worth more.
    hellos: VecDeque<Seen>,
    /// A hello-retry to the attacker's own address: client, attempt, cookie.
    cookie: Option<(u128, u64, [u8; 16])>,
    pub done: u64,
}

impl Attacker {
    pub fn see(&mut self, rng: &mut Rng, to_host: bool, host: usize, link: LinkId, bytes: &[u8]) {
        let is_hello = matches!(packet::kind(bytes), packet::HELLO | packet::HELLO_ACK);
        if !is_hello && self.seen.len() == MEMORY && rng.below(4) > 0 {
            return;
        }
        let seen = |bytes| Seen { to_host, host, link, bytes };
        if is_hello {
            if self.hellos.len() == 8 {
                self.hellos.pop_front();
            }
            self.hellos.push_back(seen(bytes.to_vec()));
        } else if self.seen.len() < MEMORY {
            self.seen.push(seen(bytes.to_vec()));
        } else {
            let old = &mut self.seen[rng.below(MEMORY as u64) as usize];
            old.bytes.clear();
            old.bytes.extend_from_slice(bytes);
            (old.to_host, old.host, old.link) = (to_host, host, link);
        }
    }

    /// Takes a packet that was sent to the attacker's own address.
    pub fn receive(&mut self, bytes: &[u8]) {
        if let Ok(parsed) = Header::decode(bytes)
            && parsed.header.kind == Kind::HelloRetry
            && let Some(retry) = HelloRetry::decode(parsed.payload)
        {
            self.cookie = Some((retry.client, parsed.header.request, retry.cookie));
        }
    }
}

fn any_header(rng: &mut Rng, kind: Kind, session: u64) -> Header {
    let mut header = Header::new(kind, session, rng.below(200));
    header.message_bytes = rng.below(3000) as u32;
    header.offset = rng.pick(&[0, 0, 1456, 7]);
    header.idle = rng.next() as u32;
    header.ahead = rng.next() as u16;
    header.window = rng.next() as u16;
    header.flags = rng.next() as u16 & !flag::SEALED;
    header
}

impl World {
    pub fn attack(&mut self) {
        self.attacker.done += 1;
        let choice = self.net.rng.below(10);
        match choice {
            0..3 => self.replay(),
            3..6 => self.forge(),
            6 => self.replay_hello(),
            7 | 8 => self.knock(),
            _ => self.mislead(),
        }
    }

    /// An old packet once more: from where it came or, where keys protect the sessions, from elsewhere.
    fn replay(&mut self) {
        let Self { attacker, net, .. } = self;
        if attacker.seen.is_empty() {
            return;
        }
        let seen = &attacker.seen[net.rng.below(attacker.seen.len() as u64) as usize];
        let packet = net.packet(&[&seen.bytes]);
        let (to_host, host, mut link) = (seen.to_host, seen.host, seen.link);
        if !to_host {
            return net.send_to_asker(self.now, host, link, packet, true);
        }
        if self.sealed && net.rng.chance(0.5) {
            link = LINK;
        }
        net.send_to_host(self.now, host, Address { link, ..Address::default() }, packet, true);
    }

    /// A packet in the clear of a session that is not the attacker's.
    fn forge(&mut self) {
        let Self { attacker, net, .. } = self;
        if attacker.seen.is_empty() {
            return;
        }
        let seen = &attacker.seen[net.rng.below(attacker.seen.len() as u64) as usize];
        let (host, link, session) = (seen.host, seen.link, packet::session(&seen.bytes));
        let address = Address { link, ..Address::default() };
        // Without keys a session can be ended by anybody, but what it says must not be made up here.
        let to_host = net.rng.chance(0.5);
        let kind = match (self.sealed, to_host) {
            (true, true) => net.rng.pick(&[Kind::Bye, Kind::Request, Kind::Probe, Kind::Ack, Kind::KeepAlive]),
            (true, false) => net.rng.pick(&[Kind::Reset, Kind::Reset, Kind::Bye, Kind::Response, Kind::Status]),
            (false, true) => Kind::Bye,
            (false, false) => Kind::Reset,
        };
        let header = any_header(&mut net.rng, kind, session);
        let payload = [net.rng.next() as u8; 64];
        let mut packet = packet::forge(&header, &payload[..net.rng.pick(&[0, 16, 32, 64])], 60);
        if self.sealed && net.rng.chance(0.3) {
            // As if it was sealed.
            packet[42] |= flag::SEALED as u8;
            packet[..4].fill(0);
            packet.resize(packet.len() + 24, net.rng.next() as u8);
        }
        match to_host {
            true => net.send_to_host(self.now, host, address, packet, true),
            false => net.send_to_asker(self.now, host, link, packet, true),
        }
    }

    /// An old hello, or the answer to one, as it was, or with what the attacker may know put into it.
    fn replay_hello(&mut self) {
        let Self { attacker, net, .. } = self;
        if attacker.hellos.is_empty() {
            return;
        }
        let seen = &attacker.hellos[net.rng.below(attacker.hellos.len() as u64) as usize];
        let mut packet = net.packet(&[&seen.bytes]);
        let (host, mut link) = (seen.host, seen.link);
        if !seen.to_host {
            if self.sealed && net.rng.chance(0.5) {
                let at = net.rng.pick(&[8, 16, HEADER_BYTES + 16, HEADER_BYTES + 20, HEADER_BYTES + 60]);
                let at = at % packet.len();
                packet[at] ^= 1;
                packet::mend(&mut packet);
            }
            return net.send_to_asker(self.now, host, link, packet, true);
        }
        if self.sealed && net.rng.chance(0.7) {
            // From the attacker's own address, with a cookie made for it.
            link = LINK;
            let attempt = u64::from_le_bytes(packet[16..24].try_into().unwrap());
            match attacker.cookie {
                Some((client, of, cookie)) if client == packet::client(&packet) && of == attempt => {
                    packet[packet::COOKIE].copy_from_slice(&cookie);
                }
                _ => packet[packet::COOKIE].fill(0),
            }
            packet::mend(&mut packet);
        }
        net.send_to_host(self.now, host, Address { link, ..Address::default() }, packet, true);
    }

    /// A hello of the attacker's own: without a cookie, with a good one, and with what is no handshake.
    fn knock(&mut self) {
        let Self { attacker, net, askers, .. } = self;
        let host = net.rng.below(self.hosts.len() as u64) as usize;
        let victim = askers[net.rng.below(askers.len() as u64) as usize].incarnation().0;
        let (client, attempt, cookie) = match attacker.cookie {
            Some(known) if net.rng.chance(0.7) => known,
            // Without keys a client's name is anybody's.
            _ if self.sealed => (victim, net.rng.below(5), [net.rng.below(2) as u8; 16]),
            _ => (net.rng.wide(), 1, [0; 16]),
        };
        let junk = [net.rng.next() as u8; 80];
        let (name, handshake) = if self.sealed { (&b"client-0"[..], &junk[..]) } else { (&[][..], &[][..]) };
        let hello = Hello {
            client,
            mtu: MIN_MTU as u32,
            slots: 1 + net.rng.below(40) as u32,
            channel: 0,
            cookie,
            name,
            handshake,
        };
        let mut payload = [0; 256];
        let length = hello.encode(&mut payload);
        let packet = packet::forge(&Header::new(Kind::Hello, 0, attempt), &payload[..length], MIN_MTU);
        net.send_to_host(self.now, host, Address { link: LINK, ..Address::default() }, packet, true);
    }

    /// Wrong answers to a client that asks for a session.
    fn mislead(&mut self) {
        let Self { attacker, net, askers, .. } = self;
        let Some(seen) = attacker.hellos.back().filter(|seen| seen.to_host) else { return };
        let attempt = u64::from_le_bytes(seen.bytes[16..24].try_into().unwrap());
        let client = packet::client(&seen.bytes);
        let Some(asker) = askers.iter().find(|asker| asker.incarnation().0 == client) else { return };
        let packet = if net.rng.chance(0.5) {
            let cookie = [net.rng.next() as u8; 16];
            packet::forge(&Header::new(Kind::HelloRetry, 0, attempt), &HelloRetry { client, cookie }.encode(), 60)
        } else {
            let junk = [net.rng.next() as u8; 80];
            let (verdict, handshake) = match self.sealed && net.rng.chance(0.5) {
                true => (Verdict::Granted, &junk[..]),
                false => (net.rng.pick(&[Verdict::Full, Verdict::KeyRefused, Verdict::Taken]), &[][..]),
            };
            let mut payload = [0; 256];
            let length = HelloAck { client, verdict, grant: None, handshake }.encode(&mut payload);
            packet::forge(&Header::new(Kind::HelloAck, 5, attempt), &payload[..length], MIN_MTU)
        };
        net.send_to_asker(self.now, asker.host, asker.link, packet, true);
    }
}
