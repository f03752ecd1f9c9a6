use super::*;
use crate::{
    port::LinkId,
    rpc::client::{Client, ClientConfig},
    seal::ClientKey,
};

const HOME: Address = Address { link: LinkId(1), mac: crate::port::MacAddr([2; 6]), udp: None };
const ELSEWHERE: Address = Address { link: LinkId(2), ..HOME };

fn key(name: &str, byte: u8) -> ClientKey {
    ClientKey { name: name.to_owned(), key: Key::from_bytes([byte; 32]), quota_bytes: None }
}

fn server(now: Instant) -> Server {
    let config = crate::rpc::server::ServerConfig {
        incarnation: Incarnation(99),
        mtu: 1500,
        session_timeout: Duration::from_secs(10),
        max_sessions: 4,
    };
    let lines = [key("ada", 1), key("bob", 2)].map(|key| format!("{} {}\n", key.name, &*key.key.to_hex()));
    let keys = KeyFile::parse("keys", &lines.concat()).unwrap();
    Server::new(config, Some(Arc::new(keys)), [7; 32], now)
}

fn client(key: ClientKey, now: Instant) -> Client {
    let config = ClientConfig { incarnation: Incarnation(7), channel: 0, mtu: 1500, slots: 8, max_request_bytes: 4096 };
    Client::new(config, Some(key), now)
}

/// Lets both talk until neither has anything to say; gives the packets of the client, the last of which may be answered
/// elsewhere.
fn talk(client: &mut Client, server: &mut Server, now: Instant, from: Address) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    loop {
        let before = said.len();
        while let Some(packet) = client.poll_transmit(now) {
            said.push(packet.to_vec());
        }
        for packet in &said[before..] {
            server.handle(now, from, packet, &mut |_, _| ());
        }
        while let Some((_, packet)) = server.poll_transmit(now) {
            let packet = packet.to_vec();
            client.handle(now, &packet, &mut |_| ());
        }
        if said.len() == before {
            return said;
        }
    }
}

#[test]
fn a_hello_that_somebody_repeats_does_not_move_a_sealed_session() {
    let now = Instant::now();
    let (mut server, mut client) = (server(now), client(key("ada", 1), now));
    let mut said = talk(&mut client, &mut server, now, HOME);
    assert!(client.is_open());
    // A stranger repeats it with a cookie of its own address.
    let mut hello = said.pop().unwrap();
    server.handle(now, ELSEWHERE, &hello, &mut |_, _| ());
    let (_, retry) = server.poll_transmit(now).unwrap();
    let cookie = retry[0][HEADER_BYTES + 16..][..16].to_vec();
    hello[HEADER_BYTES + 28..][..16].copy_from_slice(&cookie);
    let end = HEADER_BYTES + usize::from(u16::from_le_bytes([hello[40], hello[41]]));
    let checksum = crate::wire::checksum::crc32c(&hello[4..end]);
    hello[..4].copy_from_slice(&checksum.to_le_bytes());
    let sealed = server.sessions.iter().next().unwrap();
    assert_eq!(sealed.address, Some(HOME));
    server.handle(now + PERIOD, ELSEWHERE, &hello, &mut |_, _| ());
    let (to, answer) = server.poll_transmit(now).unwrap();
    assert_eq!((to, answer[0][7]), (ELSEWHERE, Kind::HelloAck as u8), "it is answered as before");
    let session = server.sessions.iter().next().unwrap();
    assert_eq!((session.address, session.heard), (Some(HOME), now));
    // Who holds the keys is followed.
    client.keep_alive(now);
    talk(&mut client, &mut server, now, ELSEWHERE);
    assert_eq!(server.sessions.iter().next().unwrap().address, Some(ELSEWHERE));
}

#[test]
fn another_client_with_the_same_incarnation_is_told_so() {
    let now = Instant::now();
    let (mut server, mut ada, mut bob) = (server(now), client(key("ada", 1), now), client(key("bob", 2), now));
    talk(&mut ada, &mut server, now, HOME);
    talk(&mut bob, &mut server, now, ELSEWHERE);
    assert!(ada.is_open() && !bob.is_open());
    assert_eq!(bob.refusal(), Some(Verdict::Taken));
    assert_eq!(server.stats().drops.key, 1);
}

#[test]
fn a_hello_that_claims_a_seal_to_go_without_a_checksum_is_dropped() {
    let now = Instant::now();
    let (mut server, mut client) = (server(now), client(key("ada", 1), now));
    let packet = client.poll_transmit(now).unwrap();
    let mut hello = packet.to_vec();
    hello[..4].fill(0);
    hello[42] |= crate::wire::header::flag::SEALED as u8;
    server.handle(now, HOME, &hello, &mut |_, _| ());
    assert_eq!(server.stats().drops.malformed, 1);
    assert!(server.poll_transmit(now).is_none());
    // The answers to it are no different.
    let mut honest = server_answer(&mut server, &mut client, now);
    honest[..4].fill(0);
    honest[42] |= crate::wire::header::flag::SEALED as u8;
    honest.resize(honest.len() + TRAILER_BYTES, 0);
    client.handle(now, &honest, &mut |_| ());
    assert_eq!(client.stats().drops.malformed, 1);
}

/// What the server says to the next hello.
fn server_answer(server: &mut Server, client: &mut Client, now: Instant) -> Vec<u8> {
    client.not_sent();
    let packet = client.poll_transmit(now).unwrap();
    let hello = packet.to_vec();
    server.handle(now, HOME, &hello, &mut |_, _| ());
    let (_, packet) = server.poll_transmit(now).unwrap();
    packet.to_vec()
}
