//! What leases and detectors of 10,000 clients cost that renew every 5 s: `cargo run --release -p heartbeat --example renewals`

use std::time::{Duration, Instant};

use heartbeat::{Detector, DetectorSettings, LeaseSettings, LeaseTable};

const CLIENTS: u64 = 10_000;
const BEATS: u64 = 500;

fn main() {
    let (beat, start) = (LeaseSettings::default().beat, Duration::ZERO);
    let client = |number: u64| u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let mut table = LeaseTable::new(LeaseSettings::default(), start);
    let mut detectors = vec![Detector::new(DetectorSettings::default(), start); CLIENTS as usize];
    for number in 0..CLIENTS {
        table.grant(start, client(number)).expect("nobody is fenced");
    }
    let began = Instant::now();
    for renewal in 0..CLIENTS * BEATS {
        let now = start + beat * (renewal / CLIENTS) as u32 + beat * (renewal % CLIENTS) as u32 / CLIENTS as u32;
        table.renew(now, &client(renewal % CLIENTS)).expect("it is alive");
        assert_eq!(table.next_expired(now), None);
        detectors[(renewal % CLIENTS) as usize].heard(now);
    }
    let each = began.elapsed() / (CLIENTS * BEATS) as u32;
    let share = each.as_secs_f64() * CLIENTS as f64 / beat.as_secs_f64();
    println!("{each:?} a renewal; {CLIENTS} clients that renew every {beat:?} take {:.4} % of a core", share * 100.0);
}
