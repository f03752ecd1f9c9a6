//! Which faults, how often, and how they are written: `loss=0.01,out.rate=1Gbit,seed=7`.

use std::{fmt, str::FromStr, time::Duration};

use crate::units::parse_bytes;

/// Bytes that wait for a limited rate when nobody said how many.
const DEFAULT_QUEUE_BYTES: u64 = 64 << 10;
/// The longest latency or jitter.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Packets lost in bursts: the model of Gilbert ("Capacity of a burst-noise channel", 1960) as Elliott put it
/// ("Estimates of error rates for codes on burst-noise channels", 1963), with no loss in the good state and nothing but
/// loss in the bad one. Of all packets `enter × mean ÷ (1 − enter + enter × mean)` are lost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Burst {
    /// The probability that a packet in the good state begins a burst: it is the first that is lost.
    pub enter: f64,
    /// How many packets a burst takes in the mean, at least 1; the number is distributed geometrically.
    pub mean_packets: f64,
}

/// A bottleneck: packets leave it at a rate, the others wait in a queue, and what does not fit into that is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Bits of Ethernet frames a second, without preamble and gap.
    pub bits_per_second: u64,
    /// Bytes that may wait.
    pub queue_bytes: u64,
}

/// Faults of one direction of a port. The probabilities are for each packet.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct LaneFaults {
    /// The packet vanishes.
    pub loss: f64,
    /// Packets in a row vanish.
    pub burst: Option<Burst>,
    /// The packet comes twice.
    pub dup: f64,
    /// The packet comes after one to four later ones.
    pub reorder: f64,
    /// One to four bits are flipped.
    pub corrupt: f64,
    /// The packet loses a part of its end.
    pub truncate: f64,
    /// The packet comes after up to 32 later ones.
    pub delay: f64,
    /// Every packet comes so much later.
    pub latency: Duration,
    /// Every packet's latency differs by up to so much, either way. Packets keep their order all the same, as those
    /// in a queue do: `reorder` changes it.
    pub jitter: Duration,
    /// No more than so much passes.
    pub rate: Option<Rate>,
}

/// Faults of a port, and the seed that decides which packets they hit.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    /// Of what the port sends.
    pub outgoing: LaneFaults,
    /// Of what the port receives.
    pub incoming: LaneFaults,
    /// Where the pseudo-random numbers start.
    pub seed: u64,
}

/// A text that is no list of faults.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no fault: expected loss=P, dup=P, reorder=P, corrupt=P, truncate=P, delay=P (each 0 to 1), burst=P:PACKETS, \
     latency=50us, jitter=10us, rate=1Gbit or rate=125MB (a second), queue=64K or seed=N, separated by commas; out. or in. \
     before a name means what is sent or received alone"
)]
pub struct FaultsError(pub String);

impl FromStr for Faults {
    type Err = FaultsError;

    /// Reads `loss=0.01,dup=0.01,seed=7`; without a seed one is drawn. Of two items with one name the later counts.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut faults = Self { seed: rand::random(), ..Self::default() };
        // A queue may be named before its rate.
        let mut queues: [Option<u64>; 2] = [None; 2];
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let wrong = || FaultsError(item.to_owned());
            let (name, value) = item.split_once('=').ok_or_else(wrong)?;
            if name == "seed" {
                faults.seed = value.parse().map_err(|_| wrong())?;
                continue;
            }
            let (name, directions) = match name.split_once('.') {
                None => (name, [true, true]),
                Some(("out", name)) => (name, [true, false]),
                Some(("in", name)) => (name, [false, true]),
                Some(_) => return Err(wrong()),
            };
            let lanes = [&mut faults.outgoing, &mut faults.incoming];
            for ((lane, queue), is_meant) in lanes.into_iter().zip(&mut queues).zip(directions) {
                if !is_meant {
                    continue;
                }
                if name == "queue" {
                    *queue = Some(parse_bytes(value).ok_or_else(wrong)?);
                } else {
                    lane.set(name, value).ok_or_else(wrong)?;
                }
            }
        }
        for (lane, queue) in [&mut faults.outgoing, &mut faults.incoming].into_iter().zip(queues) {
            match (&mut lane.rate, queue) {
                (Some(rate), Some(bytes)) => rate.queue_bytes = bytes,
                (None, Some(_)) => return Err(FaultsError("queue without rate".to_owned())),
                (_, None) => {}
            }
        }
        Ok(faults)
    }
}

impl LaneFaults {
    /// Whether packets may have to wait for their time.
    pub(super) fn takes_time(&self) -> bool {
        !self.latency.is_zero() || !self.jitter.is_zero() || self.rate.is_some()
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "loss" => self.loss = probability(value)?,
            "dup" => self.dup = probability(value)?,
            "reorder" => self.reorder = probability(value)?,
            "corrupt" => self.corrupt = probability(value)?,
            "truncate" => self.truncate = probability(value)?,
            "delay" => self.delay = probability(value)?,
            "burst" => {
                let (enter, mean_packets) = value.split_once(':')?;
                let mean_packets: f64 = mean_packets.parse().ok()?;
                if !(1.0..=1e9).contains(&mean_packets) {
                    return None;
                }
                self.burst = Some(Burst { enter: probability(enter)?, mean_packets });
            }
            "latency" => self.latency = delay(value)?,
            "jitter" => self.jitter = delay(value)?,
            "rate" => {
                self.rate = Some(Rate { bits_per_second: bits_per_second(value)?, queue_bytes: DEFAULT_QUEUE_BYTES });
            }
            _ => return None,
        }
        Some(())
    }

    /// The faults as items, each with `prefix` before its name.
    fn write(&self, prefix: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let probabilities = [
            ("loss", self.loss),
            ("dup", self.dup),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
            ("truncate", self.truncate),
            ("delay", self.delay),
        ];
        for (name, probability) in probabilities.into_iter().filter(|(_, probability)| *probability > 0.0) {
            write!(f, "{prefix}{name}={probability},")?;
        }
        if let Some(Burst { enter, mean_packets }) = self.burst {
            write!(f, "{prefix}burst={enter}:{mean_packets},")?;
        }
        for (name, time) in [("latency", self.latency), ("jitter", self.jitter)] {
            if !time.is_zero() {
                let (number, unit) = with_unit(time.as_nanos() as u64, &[(1_000_000, "ms"), (1000, "us"), (1, "ns")]);
                write!(f, "{prefix}{name}={number}{unit},")?;
            }
        }
        if let Some(Rate { bits_per_second, queue_bytes }) = self.rate {
            let units = [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1000, "Kbit"), (1, "bit")];
            let (rate, unit) = with_unit(bits_per_second, &units);
            let (queue, queue_unit) =
                with_unit(queue_bytes, &[(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"), (1, "")]);
            write!(f, "{prefix}rate={rate}{unit},{prefix}queue={queue}{queue_unit},")?;
        }
        Ok(())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.outgoing == self.incoming {
            self.outgoing.write("", f)?;
        } else {
            self.outgoing.write("out.", f)?;
            self.incoming.write("in.", f)?;
        }
        write!(f, "seed={}", self.seed)
    }
}

fn probability(text: &str) -> Option<f64> {
    text.parse().ok().filter(|probability| (0.0..=1.0).contains(probability))
}

/// A time such as `50us`, `1.5ms` or `2s`.
fn delay(text: &str) -> Option<Duration> {
    let nanoseconds = scaled(text, &[("ns", 1), ("us", 1000), ("µs", 1000), ("ms", 1_000_000), ("s", 1_000_000_000)])?;
    Some(Duration::from_nanos(nanoseconds)).filter(|delay| *delay <= MAX_DELAY)
}

/// A rate: bits (`1Gbit`, `100Mbit`) or bytes (`125MB`) a second, by powers of 1,000. The unit has to be named, so that
/// nobody gets an eighth of what was meant.
fn bits_per_second(text: &str) -> Option<u64> {
    let bits = [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("Kbit", 1000), ("bit", 1)];
    let bytes = [("GB", 8_000_000_000), ("MB", 8_000_000), ("KB", 8000), ("B", 8)];
    let rate = scaled(text, &bits).or_else(|| scaled(text, &bytes))?;
    // Under a kilobit a packet takes seconds; over a terabit nothing is limited.
    (1000..=1_000_000_000_000).contains(&rate).then_some(rate)
}

/// A number, with a decimal point or not, and one of `units`: the first whose name ends the text.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, scale) = units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_decimal = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !is_decimal(whole) || !is_decimal(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let part = u128::from(part) * u128::from(scale) / 10u128.pow(fraction.len() as u32);
    whole.checked_add(part as u64)
}

/// The number in the largest of the units, the largest first, that leaves no rest.
fn with_unit(number: u64, units: &[(u64, &'static str)]) -> (u64, &'static str) {
    let unit = units.iter().find(|(scale, _)| number.is_multiple_of(*scale));
    unit.map_or((number, ""), |(scale, name)| (number / scale, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_lane()(
            chances in prop::array::uniform6(prop_oneof![Just(0.0), 0.0..=1.0f64]),
            burst in prop::option::of((0.0..=1.0f64, 1.0..1e9f64)),
            times in prop::array::uniform2(0..60_000_000_000u64),
            rate in prop::option::of((1000..1_000_000_000_000u64, any::<u64>())),
        ) -> LaneFaults {
            let [loss, dup, reorder, corrupt, truncate, delay] = chances;
            let [latency, jitter] = times.map(Duration::from_nanos);
            let burst = burst.map(|(enter, mean_packets)| Burst { enter, mean_packets });
            let rate = rate.map(|(bits_per_second, queue_bytes)| Rate { bits_per_second, queue_bytes });
            LaneFaults { loss, burst, dup, reorder, corrupt, truncate, delay, latency, jitter, rate }
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(outgoing in any_lane(), incoming in any_lane(), is_same: bool, seed: u64) {
            let incoming = if is_same { outgoing } else { incoming };
            let faults = Faults { outgoing, incoming, seed };
            prop_assert_eq!(faults.to_string().parse(), Ok(faults));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[a-z.=:0-9,GMKbitBus]{0,40}") {
            let _ = text.parse::<Faults>();
        }
    }

    #[test]
    fn texts_are_read_and_printed() {
        for (text, printed) in [
            ("loss=0.01,dup=0.5,seed=7", "loss=0.01,dup=0.5,seed=7"),
            ("seed=1, latency=50us ,jitter=1.5us", "latency=50us,jitter=1500ns,seed=1"),
            ("rate=125MB,seed=1", "rate=1Gbit,queue=64K,seed=1"),
            ("queue=1M,rate=2.5Gbit,seed=1", "rate=2500Mbit,queue=1M,seed=1"),
            ("burst=0.001:8,seed=1", "burst=0.001:8,seed=1"),
            ("loss=0.1,in.loss=0,seed=1", "out.loss=0.1,seed=1"),
            ("out.rate=1Mbit,in.latency=2ms,seed=1", "out.rate=1Mbit,out.queue=64K,in.latency=2ms,seed=1"),
        ] {
            let faults: Faults = text.parse().unwrap();
            assert_eq!(faults.to_string(), printed);
            assert_eq!(printed.parse(), Ok(faults));
        }
    }

    #[test]
    fn what_is_no_fault_is_named() {
        for wrong in [
            "loss",
            "loss=2",
            "loss=-0.1",
            "loss=NaN",
            "lose=0.1",
            "seed=x",
            "to.loss=0.1",
            "burst=0.1",
            "burst=0.1:0",
            "latency=5",
            "latency=61s",
            "jitter=-1us",
            "rate=1G",
            "rate=0bit",
            "rate=1.2.3Gbit",
            "rate=.5Gbit",
            "out.seed=1",
        ] {
            assert_eq!(wrong.parse::<Faults>(), Err(FaultsError(wrong.to_owned())));
        }
        assert!("queue=64K".parse::<Faults>().is_err());
        assert!("queue=x,rate=1Gbit".parse::<Faults>().is_err());
    }
}
