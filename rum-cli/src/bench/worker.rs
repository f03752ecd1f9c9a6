//! The child processes that measure: `rum bench --worker NAME -- ARGUMENTS`. Each prints one JSON object of numbers.

use std::{io::Write, process::ExitCode};

use rum_core::{
    config::{Config, ConfigError},
    fault::{EngineError, EngineKind, TakeError},
    grid::{Grid, JoinError},
};
use rum_net::port::vhost_user::{BindError, ConnectError};

use super::{
    bare, etcd, failover, fault_latency, locality, metadata, replication, resident, stage::Measured, swap, throughput,
    transport, zram,
};

/// Why a worker failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("unknown worker, or wrong arguments for it")]
    Usage,
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Slaves(#[from] crate::slaves::SlavesError),
    #[error("far memory is full: {0}")]
    Full(String),
    #[error("{0}")]
    Wrong(String),
}

/// Runs the worker `name`.
pub fn run(name: &str, arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(name, &arguments) {
        Ok(measured) => {
            // Whoever asked may have been killed: no reason to panic.
            let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rum bench: worker {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(name: &str, arguments: &[&str]) -> Result<Measured, WorkerError> {
    match (name, arguments) {
        ("echo", [path]) => bare::echo(path.as_ref()),
        ("round-trip", [path]) => bare::round_trip(path.as_ref()),
        ("bare-fault", [engine]) => bare::fault(parse(engine)?),
        ("fault", [engine, kind]) => fault_latency::worker(parse(engine)?, kind),
        ("stream", [path]) => bare::stream(path.as_ref()),
        ("scan", [engine]) => throughput::worker(parse(engine)?),
        ("locality", [engine, workload]) => locality::worker(parse(engine)?, workload),
        ("far-read", [engine]) => swap::far_worker(parse(engine)?),
        ("swap-read", [cgroup]) => swap::swap_worker(cgroup.as_ref()),
        ("zram", [disk_bytes, limit_bytes]) => zram::keeper(disk_bytes, limit_bytes),
        ("metadata", [engine, kind]) => metadata::worker(parse(engine)?, kind),
        ("resident", [engine]) => resident::worker(parse(engine)?),
        ("store", [slave]) => replication::store_worker(slave),
        ("store-replicated", [machines, slaves @ ..]) => {
            replication::store_replicated_worker(machines.as_ref(), slaves)
        }
        ("four-slaves", [folder]) => replication::host_slaves(folder.as_ref(), false),
        ("durable-slaves", [folder]) => replication::host_slaves(folder.as_ref(), true),
        ("quorum", [folder]) => replication::quorum_worker(folder.as_ref()),
        ("page-puts", [folder, clients, seconds]) => etcd::page_puts_worker(folder.as_ref(), clients, seconds),
        ("etcd-puts", [ports, clients, seconds]) => etcd::etcd_puts_worker(ports, clients, seconds),
        ("hold", [machines]) => replication::hold_worker(machines.as_ref()),
        ("bereaved", [machines, slave]) => failover::worker(machines.as_ref(), slave),
        ("host", []) => transport::hosts::keep(None),
        ("host", [peer, cables]) => {
            transport::hosts::keep(Some((peer, cables.parse().map_err(|_| WorkerError::Usage)?)))
        }
        ("answer", [host, role, link]) => transport::answer(host, role, link),
        (name, arguments) => transport::worker(name, arguments),
    }
}

fn parse(engine: &str) -> Result<EngineKind, WorkerError> {
    engine.parse().map_err(|_| WorkerError::Usage)
}

/// Joins the grid that the environment names.
pub fn join(engine: EngineKind) -> Result<Grid, WorkerError> {
    Ok(Grid::join(Config { engine: Some(engine), ..Config::from_env(None)? })?)
}

/// A worker's result.
pub fn measured<const N: usize>(values: [(&str, f64); N]) -> Measured {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
