//! Opens the ports that a slave serves.

use rum_net::port::{
    Port,
    dpdk::{DpdkError, DpdkOptions, DpdkPort},
    spec::PortSpec,
    vhost_user::{BindError, ListenOptions, VhostListenPort},
};

/// A port that cannot be served, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A vhost-user socket.
    #[error("cannot serve {port}: {why}")]
    Vhost {
        /// As it was named.
        port: PortSpec,
        /// What happened.
        why: BindError,
    },
    /// A DPDK port, which names itself.
    #[error("cannot serve {0}")]
    Dpdk(#[from] DpdkError),
}

/// Opens a port for serving: vhost-user sockets are created, whoever connects. `force` takes an interface even if the
/// default route leaves by it. Never takes another transport than the one named.
pub fn open(spec: &PortSpec, force: bool) -> Result<Box<dyn Port>, PortError> {
    match spec {
        PortSpec::Vhost(path) | PortSpec::VhostListen(path) => {
            let port = VhostListenPort::bind(path, ListenOptions::default());
            Ok(Box::new(port.map_err(|why| PortError::Vhost { port: spec.clone(), why })?))
        }
        PortSpec::AfPacket(_) | PortSpec::AfXdp(_) | PortSpec::Pci(_) | PortSpec::Vdev(_) => {
            Ok(Box::new(DpdkPort::open(spec, &DpdkOptions { force, ..DpdkOptions::default() })?))
        }
    }
}
