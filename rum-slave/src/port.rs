//! Opens the ports that a slave serves.

use rum_net::port::{
    Port,
    dpdk::{DpdkError, DpdkOptions, DpdkPort},
    inject::{Faults, Inject},
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

/// How to open a port.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PortOptions {
    /// Take an interface even if the default route leaves by it.
    pub force: bool,
    /// Faults to put in front of the port, for tests.
    pub faults: Option<Faults>,
}

/// Opens a port for serving; a vhost-user socket is created. Never takes another transport than the one named.
pub fn open(spec: &PortSpec, options: PortOptions) -> Result<Box<dyn Port>, PortError> {
    match spec {
        PortSpec::Vhost(path) | PortSpec::VhostListen(path) => {
            let port = VhostListenPort::bind(path, ListenOptions::default());
            Ok(boxed(port.map_err(|why| PortError::Vhost { port: spec.clone(), why })?, options.faults))
        }
        PortSpec::AfPacket(_) | PortSpec::AfXdp(_) | PortSpec::Pci(_) | PortSpec::Vdev(_) => {
            let dpdk = DpdkOptions { force: options.force, ..DpdkOptions::default() };
            Ok(boxed(DpdkPort::open(spec, &dpdk)?, options.faults))
        }
    }
}

fn boxed<P: Port + 'static>(port: P, faults: Option<Faults>) -> Box<dyn Port> {
    match faults {
        Some(faults) => Box::new(Inject::new(port, faults)),
        None => Box::new(port),
    }
}
