//! The client side of the RPC protocol runs in fault handlers: after `new` it must not allocate, whatever happens.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::{Duration, Instant},
};

use rum_net::{
    port::Address,
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES,
        client::{Client, ClientConfig, ClientEvent},
        server::{Server, ServerConfig, ServerEvent},
    },
};

thread_local! {
    /// Whether allocations of this thread count, and how many there were.
    static COUNTED: Cell<(bool, u64)> = const { Cell::new((false, 0)) };
}

struct CountingAllocator;

fn count() {
    COUNTED.with(|counted| {
        let (is_on, number) = counted.get();
        counted.set((is_on, number + u64::from(is_on)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a constant-initialised thread-local
// without a destructor, which neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs something with counting on; returns how often it allocated or freed.
fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    COUNTED.set((true, 0));
    let result = work();
    let (_, number) = COUNTED.replace((false, 0));
    (result, number)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(5)))).1, 2);
}

#[test]
fn a_client_never_allocates_after_new() {
    let mut now = Instant::now();
    let incarnation = Incarnation(3);
    let config = ClientConfig { incarnation, channel: 0, mtu: 1500, slots: 32, max_request_bytes: MAX_MESSAGE_BYTES };
    let mut client = Client::new(config, None, now);
    let server_config =
        ServerConfig { incarnation, mtu: 1500, session_timeout: Duration::from_secs(5), max_sessions: 9 };
    let mut server = Server::new(server_config, None, [7; 32], now);
    let body = vec![6; MAX_MESSAGE_BYTES - 64];
    let mut packet_buffer = vec![0; 2000];
    let mut to_client: Vec<Vec<u8>> = Vec::new();
    let (mut allocated, mut completed, mut resets, mut packets) = (0, 0, 0, 0u32);
    let mut is_void = false;
    for round in 0..3000 {
        if round % 700 == 699 {
            server = Server::new(ServerConfig { incarnation: Incarnation(round), ..server_config }, None, [7; 32], now);
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
                let len = packet.head.len() + packet.body.len();
                packet_buffer[..packet.head.len()].copy_from_slice(packet.head);
                packet_buffer[packet.head.len()..len].copy_from_slice(packet.body);
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
                    responder.response().resize(if message.len() % 3 == 0 { 5000 } else { 40 }, 1);
                }
            });
        }
        to_client.clear();
        while let Some((_, packet)) = server.poll_transmit(now) {
            to_client.push([packet.head, packet.body].concat());
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
        now += Duration::from_millis(2);
    }
    allocated += allocations(|| client.close(now)).1;
    assert!(completed > 1000 && resets > 2, "{completed} completed, {resets} resets: the test shows nothing");
    assert!(client.stats().timeouts > 0 && client.stats().drops.checksum > 0);
    assert_eq!(allocated, 0);
}
