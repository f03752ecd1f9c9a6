//! Random numbers, and what they decide about a run.

use std::time::Duration;

use paxos::{MAX_CLOCK_DRIFT_PERMILLE, Settings};

pub const MS: Duration = Duration::from_millis(1);
pub const US: Duration = Duration::from_micros(1);

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

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// From almost nothing to twice the mean.
    pub fn around(&mut self, mean: Duration) -> Duration {
        Duration::from_nanos(1 + self.next() % (2 * mean.as_nanos() as u64))
    }
}

/// How network, clocks, slaves and clients of one run behave. A mean of nothing: never.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// How long things go wrong.
    pub sick_for: Duration,
    pub latency: Duration,
    /// Of messages of slaves and clients.
    pub loss: f64,
    /// Of pieces of state.
    pub piece_loss: f64,
    /// Pieces that take longer than that.
    pub slow_pieces: f64,
    /// Messages that take much longer than others.
    pub late: f64,
    pub lateness: Duration,
    /// Between two looks of a slave at what is due.
    pub turn: Duration,
    /// A slave does what is due as soon as something comes.
    pub is_prompt: bool,
    /// By how much clocks are fast or slow, in parts of a thousand.
    pub drift_permille: u32,
    /// Between faults of each kind.
    pub crash: Option<Duration>,
    pub pause: Option<Duration>,
    pub partition: Option<Duration>,
    /// A client is cut off from a slave, or all.
    pub cut: Option<Duration>,
    pub death: Option<Duration>,
    pub sleep: Option<Duration>,
    pub hand_over: Option<Duration>,
    /// All slaves lose power at once.
    pub power: Option<Duration>,
    /// For how long.
    pub down: Duration,
    pub paused: Duration,
    pub slept: Duration,
    /// Commands of which another copy arrives later, anywhere.
    pub ghosts: f64,
    pub lease: Duration,
    /// Between two looks of a client at what it may do.
    pub pause_of_clients: Duration,
    /// Pieces of state that a slave sends in one turn.
    pub room: usize,
    /// How many slaves have a disk, how long that takes for a job, and after how many bytes of its journal a checkpoint is made.
    pub disks: f64,
    pub disk_latency: Duration,
    /// Of slaves that crash, those whose disk is damaged.
    pub damage: f64,
    pub checkpoint_bytes: u64,
}

impl Weather {
    pub fn draw(rng: &mut Rng) -> Self {
        let often = |rng: &mut Rng, chance: f64, means: &[u32]| rng.chance(chance).then(|| rng.pick(means) * MS);
        Self {
            sick_for: rng.pick(&[500 * MS, 500 * MS, 1000 * MS, 2500 * MS]),
            latency: rng.pick(&[30 * US, 200 * US, MS, 4 * MS]),
            loss: rng.pick(&[0.0, 0.0, 0.01, 0.1]),
            piece_loss: rng.pick(&[0.0, 0.0, 0.1, 0.5]),
            slow_pieces: rng.pick(&[0.0, 0.0, 0.2, 0.6]),
            late: rng.pick(&[0.0, 0.01, 0.1]),
            lateness: rng.pick(&[5 * MS, 50 * MS, 400 * MS]),
            turn: rng.pick(&[200 * US, MS, 3 * MS]),
            is_prompt: rng.chance(0.7),
            drift_permille: rng.pick(&[0, MAX_CLOCK_DRIFT_PERMILLE]),
            crash: often(rng, 0.7, &[100, 300, 900]),
            pause: often(rng, 0.5, &[150, 500]),
            partition: often(rng, 0.7, &[60, 200, 500]),
            cut: often(rng, 0.4, &[100, 400]),
            death: often(rng, 0.6, &[150, 500]),
            sleep: often(rng, 0.6, &[150, 500]),
            hand_over: often(rng, 0.3, &[100, 400]),
            power: often(rng, 0.6, &[300, 900]),
            down: rng.pick(&[4 * MS, 50 * MS, 300 * MS]),
            paused: rng.pick(&[30 * MS, 250 * MS, 500 * MS]),
            slept: rng.pick(&[100 * MS, 700 * MS]),
            ghosts: rng.pick(&[0.0, 0.1, 0.5]),
            lease: rng.pick(&[300 * MS, 600 * MS]),
            pause_of_clients: rng.pick(&[MS, 4 * MS, 10 * MS]),
            room: rng.pick(&[1, 1, 6]),
            disks: rng.pick(&[0.0, 1.0, 1.0, 0.5]),
            disk_latency: rng.pick(&[100 * US, MS, 10 * MS]),
            damage: rng.pick(&[0.0, 0.2, 0.5]),
            checkpoint_bytes: rng.pick(&[10_000, 100_000, 1 << 30]),
        }
    }

    /// Nothing goes wrong any more; clocks and slaves stay what they are.
    pub fn well(self) -> Self {
        Self {
            latency: self.latency.min(MS),
            loss: 0.0,
            piece_loss: 0.0,
            slow_pieces: 0.0,
            late: 0.0,
            crash: None,
            pause: None,
            partition: None,
            cut: None,
            death: None,
            sleep: None,
            hand_over: None,
            power: None,
            ghosts: 0.0,
            ..self
        }
    }
}

/// Times are the default ones; limits are small in most runs, so that they are reached.
pub fn draw_settings(rng: &mut Rng) -> Settings {
    let max_batch_entries = rng.pick(&[1, 4, 32]);
    let max_in_flight_entries = max_batch_entries * rng.pick(&[1, 4, 16]);
    Settings {
        max_batch_entries,
        max_in_flight_entries,
        max_log_entries: max_in_flight_entries * rng.pick(&[1, 2, 16]),
        max_log_bytes: rng.pick(&[4096, 200_000, 16 << 20]),
        transfer_timeout: rng.pick(&[20 * MS, 100 * MS, 500 * MS]),
        ..Settings::default()
    }
}
