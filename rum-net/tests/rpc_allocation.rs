//! The client side of the RPC protocol runs in fault handlers: after `new` it must not allocate, whatever happens.

mod counting;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use counting::allocations;
use rum_net::{
    port::Address,
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES,
        client::{Client, ClientConfig, ClientEvent},
        server::{Server, ServerConfig, ServerEvent},
    },
    seal::KeyFile,
};

#[test]
fn a_client_never_allocates_after_new() {
    requests_without_allocation(None);
}

/// Only `prepare` does, which is not called in a fault handler.
#[test]
fn a_sealed_client_never_allocates_after_new() {
    let line = format!("client {}", "5a".repeat(32));
    requests_without_allocation(Some(Arc::new(KeyFile::parse("keys", &line).unwrap())));
}

fn requests_without_allocation(keys: Option<Arc<KeyFile>>) {
    let key = keys.as_ref().map(|keys| keys.clients()[0].clone());
    let mut now = Instant::now();
    let incarnation = Incarnation(3);
    let config = ClientConfig { incarnation, channel: 0, mtu: 1500, slots: 32, max_request_bytes: MAX_MESSAGE_BYTES };
    let mut client = Client::new(config, key, now);
    let server_config =
        ServerConfig { incarnation, mtu: 1500, session_timeout: Duration::from_secs(5), max_sessions: 9 };
    let mut server = Server::new(server_config, keys.clone(), [7; 32], now);
    let body = vec![6; MAX_MESSAGE_BYTES - 64];
    let mut packet_buffer = vec![0; 2000];
    let mut to_client: Vec<Vec<u8>> = Vec::new();
    let (mut allocated, mut completed, mut resets, mut packets) = (0, 0, 0, 0u32);
    let mut is_void = false;
    for round in 0..3000 {
        if round % 700 == 699 {
            server = Server::new(
                ServerConfig { incarnation: Incarnation(round), ..server_config },
                keys.clone(),
                [7; 32],
                now,
            );
        }
        let ((), number) = allocations(|| {
            let body_bytes = if round % 50 == 0 { body.len() } else { 100 };
            let _ = client.request(now, &[0; 64], &body[..body_bytes]);
            client.keep_alive(now);
        });
        allocated += number;
        loop {
            let (len, number) = allocations(|| {
                let packet = client.poll_transmit(now)?;
                let mut len = 0;
                for part in packet.iter() {
                    packet_buffer[len..len + part.len()].copy_from_slice(part);
                    len += part.len();
                }
                Some(len)
            });
            allocated += number;
            let Some(len) = len else { break };
            packets += 1;
            if packets % 11 == 3 {
                allocated += allocations(|| client.not_sent()).1;
                break;
            }
            if packets % 13 == 0 {
                continue;
            }
            server.handle(now, Address::default(), &packet_buffer[..len], &mut |responder, event| {
                if let ServerEvent::Request { message, .. } = event {
                    responder.response().head.resize(if message.len() % 3 == 0 { 5000 } else { 40 }, 1);
                }
            });
        }
        to_client.clear();
        while let Some((_, packet)) = server.poll_transmit(now) {
            to_client.push(packet.to_vec());
        }
        for packet in &mut to_client {
            packets += 1;
            if packets % 17 == 0 {
                packet[20] ^= 1;
            }
            let ((), number) = allocations(|| {
                client.handle(now, packet, &mut |event| match event {
                    ClientEvent::Complete { .. } => completed += 1,
                    ClientEvent::Reset => (resets, is_void) = (resets + 1, true),
                    ClientEvent::Opened { .. } | ClientEvent::Fragment { .. } => {}
                });
                if std::mem::take(&mut is_void) {
                    client.reopen(now);
                }
            });
            allocated += number;
        }
        client.prepare();
        now += Duration::from_millis(2);
    }
    allocated += allocations(|| client.close(now)).1;
    assert!(completed > 1000 && resets > 2, "{completed} completed, {resets} resets: the test shows nothing");
    assert!(client.stats().timeouts > 0 && client.stats().drops.checksum + client.stats().drops.forged > 0);
    assert_eq!(allocated, 0);
}
