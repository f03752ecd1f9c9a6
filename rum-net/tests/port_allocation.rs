//! Middlewares are on a client's way through a page fault: after they are made they must not allocate, whatever happens.

mod counting;

use std::time::Duration;

use counting::allocations;
use rum_net::port::{
    LinkId, Port,
    memory::{MemoryHub, MemoryPort},
    middleware::Middlewares,
};

fn exchange(client: &mut dyn Port, listener: &mut MemoryPort, rounds: u32) -> u64 {
    let mut arrived = 0;
    for round in 0..rounds {
        for size in [0, 46, 1500] {
            let _ = client.transmit(LinkId(0), &[&round.to_le_bytes(), &[0; 10], vec_of(size)]);
        }
        client.flush();
        listener.receive(64, &mut |_, _| ());
        listener.transmit(LinkId(1), &[&[7; 1000]]).unwrap();
        listener.flush();
        client.wait(Duration::ZERO, None).unwrap();
        arrived += client.receive(64, &mut |_, _| ()) as u64;
    }
    arrived
}

/// Bytes without the heap.
fn vec_of(size: usize) -> &'static [u8] {
    &[3; 1500][..size]
}

#[test]
fn faults_and_captures_do_not_allocate_after_start() {
    for faults in [
        "loss=0.1,burst=0.01:5,dup=0.2,reorder=0.2,corrupt=0.1,truncate=0.1,delay=0.1,seed=1",
        "latency=50us,jitter=40us,dup=0.5,reorder=0.2,seed=2",
        "rate=1Gbit,queue=16K,loss=0.1,seed=3",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (hub, mut listener) = MemoryHub::new(1500).unwrap();
        let middlewares =
            Middlewares { faults: Some(faults.parse().unwrap()), capture: Some(directory.path().join("a.pcapng")) };
        let mut client = middlewares.put_on(Box::new(hub.connect().unwrap())).unwrap();
        // The in-process ports themselves make some of their memory at the first packets.
        exchange(&mut client, &mut listener, 10);
        let (arrived, allocated) = allocations(|| exchange(&mut client, &mut listener, 5000));
        assert!(arrived > 1000, "{faults}: {arrived} arrived");
        assert_eq!(allocated, 0, "{faults}");
    }
}
