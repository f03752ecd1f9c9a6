//! What a client is told from outside: machines.csv and the environment.

use std::path::Path;

use rum_net::port::{MacAddr, spec::PortSpec};

use crate::fault::EngineKind;

/// A slave, as a line of machines.csv names it: `ip,mac[,link[,name[,memory]]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// First column, not interpreted beyond being an address.
    pub ip: String,
    /// Second column.
    pub mac: MacAddr,
    /// Third column: how the client reaches it.
    pub link: PortSpec,
    /// Fourth column.
    pub name: Option<String>,
    /// Fifth column: its capacity in bytes, for information.
    pub memory_bytes: Option<u64>,
}

/// All that `Grid::join` needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The slaves.
    pub machines: Vec<Machine>,
    /// The most bytes of the region that may be resident.
    pub local_budget_bytes: u64,
    /// The engine asked for, or `None` for the best this machine allows.
    pub engine: Option<EngineKind>,
}

/// What is wrong with machines.csv or the environment; one line that names file, line and column.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A line is wrong.
    #[error("{path}:{line}:{column}: {what}; expected {expected}")]
    Line {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column of the field's first character, from 1.
        column: usize,
        /// What stands there.
        what: String,
        /// What should.
        expected: String,
    },
    /// An environment variable is wrong.
    #[error("{name}={value:?}: expected {expected}")]
    Environment {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What should stand there.
        expected: String,
    },
    /// No file was named.
    #[error("no machines.csv: pass its path, set RUM_MACHINES, or run the program under `rum local -- PROGRAM`")]
    NoMachines,
}

impl Config {
    /// Reads `machines`, or the file that `RUM_MACHINES` names, and `RUM_LOCAL_BUDGET`, `RUM_FAULT_ENGINE`, `RUM_PORT`.
    pub fn from_env(_machines: Option<&Path>) -> Result<Self, ConfigError> {
        todo!()
    }
}

/// Reads a size such as `512M`, `1.5G`, `4096` into bytes.
pub fn parse_bytes(_text: &str) -> Option<u64> {
    todo!()
}
