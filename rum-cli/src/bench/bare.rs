//! The floors that R1 and R2 are compared with: the vhost-user port alone, and a fault engine alone.

use std::{
    hint, io,
    path::Path,
    time::{Duration, Instant},
};

use rum_core::fault::{BareFaults, EngineKind};
use rum_net::{
    PAGE_BYTES,
    port::{
        LinkId, Port,
        vhost_user::{ListenOptions, VhostClientPort, VhostListenPort},
    },
};

use super::{
    stage::{Measured, worker_ready},
    stats::{Random, mean, quantile},
    throughput::LOCAL_PAGES,
    worker::{WorkerError, measured},
};

const REQUEST_BYTES: usize = 64;
const HEADER_BYTES: usize = 14;
const ROUND_TRIPS: usize = 200_000;
const WARM_UP: usize = 20_000;
/// Empty polls until the echo sleeps: it must not take the slave's CPU while others are measured.
const ECHO_POLLS: u32 = 100_000;
const FAULT_PAGES: usize = 16_384;
const FAULT_ROUNDS: usize = 4;
/// On a loaded machine the samples that come in so long have to do.
pub const LONGEST: Duration = Duration::from_secs(2);
const STREAM_TIME: Duration = Duration::from_millis(700);
/// A round trip that takes longer has been lost.
const LOST: Duration = Duration::from_secs(5);

/// Answers each packet with a page, until it is killed.
pub fn echo(path: &Path) -> Result<Measured, WorkerError> {
    let mut port = VhostListenPort::bind(path, ListenOptions::default())?;
    println!("{}", worker_ready());
    let page = [7u8; PAGE_BYTES];
    let mut requests: Vec<(LinkId, [u8; HEADER_BYTES])> = Vec::with_capacity(64);
    let mut empty = 0u32;
    loop {
        requests.clear();
        let received = port.receive(64, &mut |link, packet| {
            if let Some(header) = packet.first_chunk() {
                requests.push((link, *header));
            }
        });
        for (link, header) in &requests {
            let _ = port.transmit(*link, &[header, &page]);
        }
        port.flush();
        empty = if received == 0 { empty + 1 } else { 0 };
        if empty > ECHO_POLLS {
            // It does not sleep while somebody has not been told of these.
            port.link_changes(&mut |_, _| {});
            port.wait(Duration::from_secs(1), None)?;
            empty = 0;
        }
    }
}

/// Sends a request and waits for its page.
fn ask(port: &mut VhostClientPort, request: &[u8], last: &mut u8) -> Result<(), WorkerError> {
    let lost = || WorkerError::Wrong("the port lost a packet".into());
    port.transmit(LinkId(0), &[request]).map_err(|_| lost())?;
    port.flush();
    let mut sink = |_: LinkId, packet: &[u8]| *last = packet[packet.len() - 1];
    let mut polls = 0u32;
    let mut since = None;
    while port.receive(1, &mut sink) == 0 {
        hint::spin_loop();
        polls += 1;
        if polls.is_multiple_of(1 << 20) && since.get_or_insert_with(Instant::now).elapsed() > LOST {
            return Err(lost());
        }
    }
    Ok(())
}

/// The port's round trip: a request of 64 bytes, a page back.
pub fn round_trip(path: &Path) -> Result<Measured, WorkerError> {
    let mut port = VhostClientPort::connect(path)?;
    let request = [0x55u8; REQUEST_BYTES];
    let mut last = 0;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let started = Instant::now();
    for _ in 0..WARM_UP {
        ask(&mut port, &request, &mut last)?;
        if started.elapsed() > LONGEST {
            break;
        }
    }
    let started = Instant::now();
    while times.len() < ROUND_TRIPS && started.elapsed() < LONGEST {
        let begin = Instant::now();
        ask(&mut port, &request, &mut last)?;
        times.push(begin.elapsed().as_nanos() as u64);
    }
    if last != 7 {
        return Err(io::Error::other("the echo answered with something else").into());
    }
    Ok(measured([("mean", mean(&times)), ("p50", quantile(&mut times, 0.5)), ("p99", quantile(&mut times, 0.99))]))
}

/// A fault whose handler installs a prepared frame at once.
pub fn fault(engine: EngineKind) -> Result<Measured, WorkerError> {
    let mut bare = BareFaults::start(engine, FAULT_PAGES)?;
    let mut random = Random(7);
    let mut times = Vec::with_capacity(FAULT_PAGES * FAULT_ROUNDS);
    bare.touch(&random.permutation(FAULT_PAGES), &mut times)?;
    times.clear();
    for _ in 0..FAULT_ROUNDS {
        bare.touch(&random.permutation(FAULT_PAGES), &mut times)?;
    }
    Ok(measured([("mean", mean(&times)), ("p50", quantile(&mut times, 0.5)), ("p99", quantile(&mut times, 0.99))]))
}

/// The port's streaming: many requests under way, each page copied once into local memory of the size that RUM has.
pub fn stream(path: &Path) -> Result<Measured, WorkerError> {
    const WINDOW: u64 = 128;
    let mut port = VhostClientPort::connect(path)?;
    let mut local = vec![1u8; LOCAL_PAGES * PAGE_BYTES];
    let request = [0x55u8; REQUEST_BYTES];
    let (mut sent, mut got, mut at) = (0u64, 0u64, 0usize);
    let started = Instant::now();
    while started.elapsed() < STREAM_TIME {
        for _ in 0..64 {
            while sent - got < WINDOW && port.transmit(LinkId(0), &[&request]).is_ok() {
                sent += 1;
            }
            port.flush();
            got += port.receive(64, &mut |_, packet| {
                let page = &packet[packet.len() - PAGE_BYTES..];
                local[at..at + PAGE_BYTES].copy_from_slice(page);
                at = (at + PAGE_BYTES) % (LOCAL_PAGES * PAGE_BYTES);
            }) as u64;
        }
    }
    let rate = got as f64 * PAGE_BYTES as f64 / started.elapsed().as_nanos() as f64;
    hint::black_box(&local);
    Ok(measured([("gbps", rate)]))
}
