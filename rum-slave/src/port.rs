//! Opens the ports that a slave serves.

use rum_net::port::{Port, spec::PortSpec};

/// A port that cannot be served, in one line that says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot serve {port}: {why}")]
pub struct PortError {
    /// As it was named.
    pub port: PortSpec,
    /// What happened and what to do.
    pub why: String,
}

/// Opens a port for serving. Never takes another transport than the one named.
pub fn open(spec: &PortSpec) -> Result<Box<dyn Port>, PortError> {
    Err(PortError { port: spec.clone(), why: "not built in yet".to_owned() })
}
