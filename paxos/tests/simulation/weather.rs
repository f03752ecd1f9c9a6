//! Random numbers, and what they decide about a run.

use std::time::Duration;

use paxos::{MAX_CLOCK_DRIFT_PERMILLE, Settings};

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = self.0;
        let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// From almost nothing to twice the mean.
    pub fn around(&mut self, mean: Duration) -> Duration {
        Duration::from_nanos(1 + self.below(2 * mean.as_nanos() as u64))
    }
}

/// How network, disks, clocks and processes of one run behave. A mean of nothing: never.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub latency: Duration,
    pub loss: f64,
    pub duplicate: f64,
    /// Messages that take much longer than others.
    pub late: f64,
    pub lateness: Duration,
    /// Between faults of each kind.
    pub crash: Option<Duration>,
    pub pause: Option<Duration>,
    pub partition: Option<Duration>,
    pub hand_over: Option<Duration>,
    pub change: Option<Duration>,
    /// For how long a process is down.
    pub down: Duration,
    pub paused: Duration,
    pub fsync: Duration,
    /// Of a disk that is slow for once.
    pub slow_fsync: Duration,
    pub slow: f64,
    /// A process that restarts has lost its disk, or has none.
    pub loses_memory: f64,
    /// The share of hosts that have a disk, if that is not to be drawn.
    pub disks: Option<f64>,
    /// By how much clocks are fast or slow, in parts of a thousand.
    pub drift_permille: u32,
    /// Of a client that gets no answer.
    pub patience: Duration,
    /// Between a client's requests.
    pub pause_of_clients: Duration,
}

impl Weather {
    pub fn draw(rng: &mut Rng) -> Self {
        let often = |rng: &mut Rng, chance: f64, means: &[u32]| rng.chance(chance).then(|| rng.pick(means) * MS);
        Self {
            latency: rng.pick(&[20 * US, 100 * US, MS, 4 * MS]),
            loss: rng.pick(&[0.0, 0.0, 0.01, 0.1, 0.3]),
            duplicate: rng.pick(&[0.0, 0.01, 0.2]),
            late: rng.pick(&[0.0, 0.01, 0.1]),
            lateness: rng.pick(&[5 * MS, 50 * MS, 600 * MS]),
            crash: often(rng, 0.8, &[40, 100, 400, 1500]),
            pause: often(rng, 0.3, &[200, 700]),
            partition: often(rng, 0.7, &[50, 200, 600]),
            hand_over: often(rng, 0.4, &[50, 300, 1000]),
            change: often(rng, 0.4, &[30, 200, 600]),
            down: rng.pick(&[4 * MS, 20 * MS, 200 * MS, 800 * MS]),
            paused: rng.pick(&[30 * MS, 250 * MS, 600 * MS]),
            fsync: rng.pick(&[50 * US, MS, 5 * MS]),
            slow_fsync: rng.pick(&[20 * MS, 300 * MS]),
            slow: rng.pick(&[0.0, 0.02]),
            loses_memory: rng.pick(&[0.0, 0.3, 1.0]),
            disks: None,
            drift_permille: rng.pick(&[0, MAX_CLOCK_DRIFT_PERMILLE, MAX_CLOCK_DRIFT_PERMILLE]),
            patience: 300 * MS,
            pause_of_clients: rng.pick(&[300 * US, 2 * MS, 10 * MS]),
        }
    }

    /// A quiet network of fast machines.
    pub fn calm() -> Self {
        Self {
            latency: 100 * US,
            loss: 0.0,
            duplicate: 0.0,
            late: 0.0,
            lateness: MS,
            crash: None,
            pause: None,
            partition: None,
            hand_over: None,
            change: None,
            down: 1000 * MS,
            paused: MS,
            fsync: MS,
            slow_fsync: MS,
            slow: 0.0,
            loses_memory: 1.0,
            disks: None,
            drift_permille: MAX_CLOCK_DRIFT_PERMILLE,
            patience: 10 * MS,
            pause_of_clients: 300 * US,
        }
    }

    /// Processes without disks that crash all the time, and messages that arrive in the life after that of their receivers.
    pub fn forgetful() -> Self {
        Self {
            latency: MS,
            loss: 0.1,
            late: 0.3,
            lateness: 200 * MS,
            crash: Some(150 * MS),
            partition: Some(300 * MS),
            down: 4 * MS,
            disks: Some(0.0),
            patience: 50 * MS,
            ..Self::calm()
        }
    }

    /// Nothing goes wrong any more; clocks and disks stay what they are.
    pub fn well(self) -> Self {
        Self {
            latency: self.latency.min(MS),
            loss: 0.0,
            duplicate: 0.0,
            late: 0.0,
            crash: None,
            pause: None,
            partition: None,
            hand_over: None,
            change: None,
            slow: 0.0,
            ..self
        }
    }
}

/// Times are the default ones in most runs; limits are small, so that they are reached.
pub fn draw_settings(rng: &mut Rng) -> Settings {
    let max_batch_entries = rng.pick(&[1, 4, 32]);
    let max_in_flight_entries = max_batch_entries * rng.pick(&[1, 4, 16]);
    Settings {
        election_spread: rng.pick(&[MS, 20 * MS, 60 * MS]),
        max_batch_entries,
        max_batch_bytes: rng.pick(&[1, 10_000, 128 << 10]),
        max_in_flight_entries,
        max_in_flight_bytes: rng.pick(&[4096, 8 << 20]),
        max_log_entries: max_in_flight_entries * rng.pick(&[1, 2, 16]),
        max_log_bytes: rng.pick(&[4096, 200_000, 16 << 20]),
        transfer_timeout: 100 * MS,
        ..Settings::default()
    }
}
