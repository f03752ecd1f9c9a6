//! Random numbers, and what they decide about a run.

use std::time::Duration;

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
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
    pub fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of the word.
pub fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

/// How the network, the processes and the attacker of one run behave.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: f64,
    /// Chance that a burst of losses begins with a packet.
    pub burst: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    pub truncate: f64,
    /// Packets that take much longer than others, and so overtake and are overtaken.
    pub late: f64,
    pub latency: Duration,
    pub lateness: Duration,
    /// What each direction of each server's link carries; 0: no limit.
    pub bytes_per_us: u64,
    /// What waits for that link at most; more is dropped.
    pub queue_bytes: u64,
    /// Longer packets never arrive.
    pub path_mtu: usize,
    /// The port takes no packet.
    pub full: f64,
    pub server_crash: Option<Duration>,
    pub client_crash: Option<Duration>,
    pub attack: Option<Duration>,
}

impl Weather {
    pub fn draw(rng: &mut Rng) -> Self {
        let ms = |number: u64| (number > 0).then(|| Duration::from_millis(number));
        Self {
            loss: rng.pick(&[0.0, 0.01, 0.1, 0.3]),
            burst: rng.pick(&[0.0, 0.0, 0.005]),
            duplicate: rng.pick(&[0.0, 0.02, 0.2]),
            corrupt: rng.pick(&[0.0, 0.02, 0.1]),
            truncate: rng.pick(&[0.0, 0.02]),
            late: rng.pick(&[0.0, 0.05, 0.3]),
            latency: Duration::from_micros(rng.pick(&[2, 50, 800])),
            lateness: Duration::from_micros(rng.pick(&[100, 3_000, 100_000])),
            bytes_per_us: rng.pick(&[0, 0, 12, 125]),
            queue_bytes: rng.pick(&[30_000, 200_000]),
            path_mtu: rng.pick(&[usize::MAX, usize::MAX, 1252, 1500, 4400]),
            full: rng.pick(&[0.0, 0.0, 0.1]),
            server_crash: ms(rng.pick(&[0, 700, 200, 30])),
            client_crash: ms(rng.pick(&[0, 0, 300, 50])),
            attack: ms(rng.pick(&[0, 1, 5])),
        }
    }

    /// The same network once it is well: its cables are as long and as wide as before, but it loses nothing that fits.
    pub fn well(self) -> Self {
        Self {
            loss: 0.0,
            burst: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            truncate: 0.0,
            late: 0.0,
            full: 0.0,
            queue_bytes: 1 << 30,
            server_crash: None,
            client_crash: None,
            attack: None,
            ..self
        }
    }
}
