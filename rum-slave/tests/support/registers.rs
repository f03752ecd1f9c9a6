//! Whether registers were linearizable, such as pages that several clients use, if each value is written once at most.

use std::{collections::HashMap, fmt::Debug, hash::Hash, time::Duration};

/// What a register holds: 0 at the beginning, all other values are written once.
pub type Value = u64;

/// All operations with one value of one register.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    written_from: Duration,
    first_end: Duration,
    last_start: Duration,
    is_seen: bool,
}

/// What was done with registers.
pub struct Registers<R> {
    registers: HashMap<R, HashMap<Value, Cluster>>,
}

impl<R> Default for Registers<R> {
    fn default() -> Self {
        Self { registers: HashMap::new() }
    }
}

impl<R: Copy + Eq + Hash + Debug> Registers<R> {
    fn cluster(&mut self, register: R, value: Value) -> &mut Cluster {
        let first = Cluster {
            written_from: Duration::ZERO,
            first_end: Duration::ZERO,
            last_start: Duration::ZERO,
            is_seen: true,
        };
        let values = self.registers.entry(register).or_default();
        values.entry(0).or_insert(first);
        let unwritten = Cluster { written_from: Duration::MAX, first_end: Duration::MAX, is_seen: false, ..first };
        values.entry(value).or_insert(unwritten)
    }

    /// Somebody begins to write. It counts if it is written, or read, later.
    pub fn begin_write(&mut self, register: R, value: Value, now: Duration) {
        let cluster = self.cluster(register, value);
        (cluster.written_from, cluster.last_start) = (now, now);
    }

    /// It is written.
    pub fn written(&mut self, register: R, value: Value, now: Duration) {
        let cluster = self.cluster(register, value);
        cluster.first_end = cluster.first_end.min(now);
        cluster.is_seen = true;
    }

    /// A value was read between two moments. Its writing has to be known by now.
    pub fn read(&mut self, register: R, value: Value, (from, now): (Duration, Duration)) {
        let cluster = self.cluster(register, value);
        assert!(cluster.written_from <= now, "{register:?} held {value:x} before it was written, or it is another's");
        cluster.first_end = cluster.first_end.min(now);
        cluster.last_start = cluster.last_start.max(from);
        cluster.is_seen = true;
    }

    /// Whether each register was linearizable: for values that are written once, the zones of values must not overlap
    /// (Gibbons and Korach, "Testing shared memories", SIAM J. Comput. 26(4), 1997).
    pub fn check(&self) -> Result<(), String> {
        for (register, values) in &self.registers {
            let (mut forward, mut backward) = (Vec::new(), Vec::new());
            for &Cluster { first_end, last_start, .. } in values.values().filter(|cluster| cluster.is_seen) {
                if first_end < last_start {
                    forward.push((first_end, last_start));
                } else {
                    backward.push((last_start, first_end));
                }
            }
            forward.sort_unstable();
            if let Some(pair) = forward.windows(2).find(|pair| pair[0].1 > pair[1].0) {
                return Err(format!("{register:?} was not linearizable: {pair:?}"));
            }
            for (from, to) in backward {
                // Forward zones lie one behind the other: the last that begins before is the only one that may be around.
                let before = forward.partition_point(|zone| zone.0 < from);
                if let Some(around) = forward[..before].last().filter(|zone| to < zone.1) {
                    return Err(format!("{register:?} was not linearizable: {around:?} around {:?}", (from, to)));
                }
            }
        }
        Ok(())
    }
}

/// Writes and reads of one register, each with its beginning and its end in milliseconds.
fn is_linearizable(writes: &[(Value, u64, u64)], reads: &[(Value, u64, u64)]) -> bool {
    let mut registers = Registers::default();
    let time = Duration::from_millis;
    writes.iter().for_each(|&(value, from, _)| registers.begin_write(0, value, time(from)));
    writes.iter().for_each(|&(value, _, to)| registers.written(0, value, time(to)));
    reads.iter().for_each(|&(value, from, to)| registers.read(0, value, (time(from), time(to))));
    registers.check().is_ok()
}

#[test]
fn stale_reads_are_noticed() {
    let writes = [(1, 10, 20), (2, 30, 40)];
    assert!(is_linearizable(&writes, &[(0, 5, 15), (1, 15, 35), (1, 32, 36), (2, 33, 34), (2, 50, 60)]));
    assert!(!is_linearizable(&writes, &[(1, 50, 60)]), "stale");
    assert!(!is_linearizable(&writes, &[(0, 25, 26)]), "lost");
    assert!(!is_linearizable(&writes, &[(2, 31, 32), (1, 33, 34)]), "first the new value, then the old one");
    assert!(!is_linearizable(&[(1, 10, 20), (2, 12, 14)], &[(1, 15, 16), (2, 17, 18), (1, 19, 22)]), "back and forth");
}
