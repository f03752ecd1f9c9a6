//! Joining a grid.

use std::{
    process,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use rum_net::{
    EXTENT_BYTES, PAGE_BYTES,
    fabric::Fabric,
    placement::Placement,
    port::Port,
    station::LinkError,
    wire::{
        hello::Verdict,
        message::{REQUEST_HEAD_BYTES, ResponseError, Stat, Status, encode_stat},
    },
};

use super::{
    Grid,
    heap::{Heaps, Territory},
    keeper::Keeper,
    named::NamedObjects,
    reach::Reach,
    replicated::Replicated,
    space::{Owners, Space},
    transport::{MAX_REQUEST_BYTES, Transport, draw_incarnation},
    types::JoinError,
};
use crate::{
    config::{Config, Machine},
    fault::{self, EngineKind},
    pager::{MIN_BUDGET_PAGES, Pager},
};

/// A slave that does not answer is waited for this long.
const REACH_PATIENCE: Duration = Duration::from_secs(3);
/// The region's size: room for what the grid has now, several times, and for what may join.
const MIN_REGION_BYTES: usize = 64 << 30;
const MAX_REGION_BYTES: usize = 1 << 40;
/// Frames of the staging area: addresses only, physical pages are within the budget.
const FRAMES: usize = 1024;

/// Ports that are open already, one for each machine, instead of those that machines.csv names.
pub type OpenPorts = Vec<Box<dyn Port>>;

impl Grid {
    /// Joins over ports that are open already, one for each machine: for grids in one process.
    pub fn join_over(config: Config, ports: OpenPorts) -> Result<Self, JoinError> {
        assert_eq!(ports.len(), config.machines.len(), "one port a machine");
        let mut fabric = Fabric::new(draw_incarnation().map_err(JoinError::Random)?, config.key.clone());
        for (machine, port) in config.machines.iter().zip(ports) {
            fabric.add_peer_on(port, machine.mac, MAX_REQUEST_BYTES);
        }
        finish(config, fabric)
    }
}

pub fn join(config: Config) -> Result<Grid, JoinError> {
    let mut fabric = Fabric::new(draw_incarnation().map_err(JoinError::Random)?, config.key.clone());
    let deadline = Instant::now() + REACH_PATIENCE;
    for machine in &config.machines {
        attach(&mut fabric, machine, deadline, config.replication_factor)?;
    }
    finish(config, fabric)
}

/// Opens the way to a slave, which may be starting at the same time.
fn attach(fabric: &mut Fabric, machine: &Machine, deadline: Instant, factor: usize) -> Result<(), JoinError> {
    let ip = machine.ip.parse().ok();
    loop {
        let error = match fabric.add_peer(&machine.link, machine.mac, ip, MAX_REQUEST_BYTES) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if factor > 1 && error.may_pass() {
            // The others may do without it.
            fabric.add_absent_peer(&machine.link, machine.mac, MAX_REQUEST_BYTES);
            return Ok(());
        }
        if !error.may_pass() || Instant::now() >= deadline {
            return Err(unreachable(machine, error));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn unreachable(machine: &Machine, error: LinkError) -> JoinError {
    if error.may_pass() {
        return JoinError::Unreachable { link: machine.link.to_string(), waited: REACH_PATIENCE };
    }
    JoinError::Link { link: machine.link.to_string(), why: error.to_string() }
}

/// Waits until every slave has answered.
fn reach_all(transport: &mut dyn Reach, machines: &[Machine]) -> Result<(), JoinError> {
    let deadline = Instant::now() + REACH_PATIENCE;
    while let Some(slave) = transport.unreached() {
        transport.poll(&mut |_, _| {});
        let link = || machines[slave as usize].link.to_string();
        match transport.refusal(slave) {
            // A full slave may have room in a moment.
            None | Some(Verdict::Granted | Verdict::Full) => {}
            Some(why) => return Err(JoinError::Refused { link: link(), why: why.to_string() }),
        }
        if Instant::now() >= deadline {
            let link = link();
            return Err(match transport.sought_address(slave) {
                Some(ip) => JoinError::NoNeighbour { link, ip, waited: REACH_PATIENCE },
                None => JoinError::Unreachable { link, waited: REACH_PATIENCE },
            });
        }
        transport.idle();
    }
    Ok(())
}

fn finish(config: Config, fabric: Fabric) -> Result<Grid, JoinError> {
    let client = fabric.incarnation();
    let transports = fabric.transports();
    let placement = Placement::new(&config.machines);
    let mut transport: Box<dyn Reach> = match config.replication_factor {
        1 => Box::new(Transport::new(fabric)),
        factor => Box::new(Replicated::new(fabric, &placement, factor)),
    };
    reach_all(&mut *transport, &config.machines)?;
    let capacity = capacity_extents(&mut *transport, &config.machines, config.replication_factor)? * EXTENT_BYTES;
    let keep_alive = transport.keep_alive().period();
    let region_bytes = capacity.saturating_mul(4).clamp(MIN_REGION_BYTES, MAX_REGION_BYTES);
    let (memory, pending) = fault::start(config.engine, region_bytes, FRAMES)?;
    let base = memory.base() as usize;
    let budget_pages = (config.local_budget_bytes as usize / PAGE_BYTES).max(MIN_BUDGET_PAGES);
    let own_threads = 1 + u64::from(pending.kind() == EngineKind::UffdThread);
    let pager = Pager::new(memory, transport, budget_pages, own_threads);
    let engine = pending.run(pager.clone());
    let keeper = Keeper::start(pager.clone(), keep_alive)?;
    let extents = region_bytes / EXTENT_BYTES;
    let territory = Arc::new(Territory {
        pager,
        placement,
        space: Mutex::new(Space::new(extents)),
        owners: Owners::new(extents),
        client,
        region_bytes,
    });
    Ok(Grid {
        heaps: Heaps::new(&territory, config.machines.len()),
        territory,
        named: Mutex::new(NamedObjects::default()),
        machines: config.machines,
        transports,
        base,
        bytes: region_bytes,
        budget_bytes: (budget_pages * PAGE_BYTES) as u64,
        process: process::id(),
        left: AtomicBool::new(false),
        _keeper: keeper,
        engine,
    })
}

/// A slave that replicates is asked otherwise than one that does not: each refuses what is meant for the other.
fn not_understood(error: &ResponseError, factor: usize) -> String {
    match (error, factor) {
        (ResponseError::Refused(Status::Unsupported), 1) => {
            "this slave replicates its pages: give machines.csv the line `# rf=N` that the slaves' file has".to_owned()
        }
        (ResponseError::Refused(Status::Unsupported), _) => format!(
            "this slave replicates nothing, but machines.csv says rf={factor}: start it with --machines and this file"
        ),
        _ => error.to_string(),
    }
}

/// Asks every slave, or the leader of every group, how much memory there is, and learns how long leases are.
fn capacity_extents(transport: &mut dyn Reach, machines: &[Machine], factor: usize) -> Result<usize, JoinError> {
    let mut capacity = 0;
    for (slave, machine) in machines.iter().enumerate() {
        let link = || machine.link.to_string();
        let mut message = [0; REQUEST_HEAD_BYTES];
        let answer = transport
            .call_alone(slave as u16, encode_stat(&mut message), REACH_PATIENCE)
            .ok_or_else(|| JoinError::Unreachable { link: link(), waited: REACH_PATIENCE })?;
        let stat = Stat::decode_response(&answer)
            .map_err(|error| JoinError::Protocol { link: link(), why: not_understood(&error, factor) })?;
        capacity += stat.capacity_extents as usize;
        transport.keep_alive().renew_within(stat.lease);
    }
    Ok(capacity)
}
