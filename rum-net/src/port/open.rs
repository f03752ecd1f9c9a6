//! Opens the port that a link names, for a client.

use super::{
    Port,
    dpdk::{DpdkError, DpdkOptions, DpdkPort},
    middleware::{MiddlewareError, Middlewares},
    spec::PortSpec,
    vhost_user::{BindError, ConnectError, VhostClientPort, VhostSwitchPort},
};

/// Why a client's port could not be opened, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// A DPDK port.
    #[error(transparent)]
    Dpdk(#[from] DpdkError),
    /// A vhost-user port.
    #[error(transparent)]
    Vhost(#[from] ConnectError),
    /// What the environment asks to be stacked on the port.
    #[error(transparent)]
    Middleware(#[from] MiddlewareError),
    /// A socket for a switch.
    #[error(transparent)]
    Switch(#[from] BindError),
}

impl OpenError {
    /// Whether it may go away by itself: the slave may be starting.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Vhost(ConnectError::NotServed(_) | ConnectError::NoSuchPath(_) | ConnectError::NoAnswer(_))
        )
    }
}

/// Opens `spec` for a client. Never takes another transport than the one named. Faults and a capture that the
/// environment asks for (see `Middlewares::from_env`) are stacked on it and said on stderr.
pub fn open_client(spec: &PortSpec) -> Result<Box<dyn Port>, OpenError> {
    let middlewares = Middlewares::from_env()?;
    let port = open_bare(spec)?;
    if middlewares.is_empty() {
        return Ok(port);
    }
    let port = middlewares.put_on(port).map_err(MiddlewareError::from)?;
    eprintln!("rum: port {}", port.name());
    Ok(port)
}

fn open_bare(spec: &PortSpec) -> Result<Box<dyn Port>, OpenError> {
    match spec {
        PortSpec::Vhost(path) => Ok(Box::new(VhostClientPort::connect(path)?)),
        PortSpec::VhostListen(port) => Ok(Box::new(VhostSwitchPort::bind(&port.path, &port.options)?)),
        PortSpec::AfPacket(_) | PortSpec::AfXdp(_) | PortSpec::Pci(_) | PortSpec::Vdev(_) => {
            Ok(Box::new(DpdkPort::open(spec, &DpdkOptions::default())?))
        }
    }
}
