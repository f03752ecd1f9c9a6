//! Which slave holds which shard, and which extent falls to which shard.

use twox_hash::XxHash3_64;

use crate::{machines::Machine, port::MacAddr, rpc::Incarnation};

/// A slave, by its place in machines.csv.
pub type SlaveIndex = u16;

/// Shards in a grid.
pub const SHARDS: u64 = 64;

/// Ranks the slaves for each shard by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to
/// increase hit rates", 1998): when a slave is added or removed, only its own shards move.
pub struct Placement {
    slaves: Vec<u64>,
}

impl Placement {
    /// A placement over the slaves of machines.csv.
    pub fn new(machines: &[Machine]) -> Self {
        let hash = XxHash3_64::oneshot_with_seed;
        let id = |machine: &Machine| {
            // On a UDP link the address alone is the slave's name: the hardware address may be unknown, or a router's.
            let mac = if machine.link.is_udp() { MacAddr::default() } else { machine.mac };
            hash(hash(0, &mac.0), machine.ip.as_bytes())
        };
        Self { slaves: machines.iter().map(id).collect() }
    }

    /// The shard of a client's extent.
    pub fn extent_shard(client: Incarnation, extent: usize) -> u64 {
        XxHash3_64::oneshot_with_seed(extent as u64, &client.0.to_le_bytes()) % SHARDS
    }

    /// The shard of a named object.
    pub fn name_shard(name: &[u8; 32]) -> u64 {
        XxHash3_64::oneshot(name) % SHARDS
    }

    /// The slaves that keep what the `first` of them leads while it lives, `first` at the head: a group of `factor`. There is
    /// one for each slave, so that a grid has as many groups as slaves.
    pub fn group(&self, first: SlaveIndex, factor: usize) -> Vec<SlaveIndex> {
        let others = self.ranking(SHARDS + u64::from(first)).into_iter().filter(|&slave| slave != first);
        std::iter::once(first).chain(others).take(factor).collect()
    }

    /// All slaves, the one that a shard belongs to first.
    pub fn ranking(&self, shard: u64) -> Vec<SlaveIndex> {
        let mut ranking: Vec<SlaveIndex> = (0..self.slaves.len() as SlaveIndex).collect();
        ranking.sort_by_key(|&slave| {
            let weight = XxHash3_64::oneshot_with_seed(self.slaves[slave as usize], &shard.to_le_bytes());
            (std::cmp::Reverse(weight), slave)
        });
        ranking
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn machines(count: u8) -> Vec<Machine> {
        (1..=count)
            .map(|n| Machine {
                ip: format!("10.0.0.{n}"),
                mac: MacAddr([2, 0, 0, 0, 0, n]),
                link: format!("vhost:/s{n}").parse().unwrap(),
                name: None,
                memory_bytes: None,
            })
            .collect()
    }

    #[test]
    fn removing_a_slave_moves_only_its_shards() {
        let (five, four) = (Placement::new(&machines(5)), Placement::new(&machines(4)));
        for shard in 0..SHARDS {
            let ranking = five.ranking(shard);
            let without: Vec<_> = ranking.into_iter().filter(|&slave| slave != 4).collect();
            assert_eq!(without, four.ranking(shard));
        }
    }

    #[test]
    fn a_group_has_its_first_and_as_many_as_asked_for() {
        let placement = Placement::new(&machines(5));
        for first in 0..5 {
            let group = placement.group(first, 3);
            let distinct: std::collections::HashSet<_> = group.iter().collect();
            assert!(group[0] == first && distinct.len() == 3, "{group:?}");
            assert_eq!(placement.group(first, 5).len(), 5);
        }
    }

    #[test]
    fn every_slave_gets_its_share() {
        let placement = Placement::new(&machines(3));
        let mut counts = HashMap::new();
        for extent in 0..3000 {
            let shard = Placement::extent_shard(Incarnation(77), extent);
            *counts.entry(placement.ranking(shard)[0]).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|&count| count > 500), "{counts:?}");
    }
}
