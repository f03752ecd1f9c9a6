//! How a port is named in machines.csv and on the command line.

use std::{fmt, path::PathBuf, str::FromStr};

/// A transport and its parameter, as in `vhost:/run/rum/0` or `af_packet:eth1`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PortSpec {
    /// A vhost-user socket that the slave serves and the client connects to.
    Vhost(PathBuf),
    /// A vhost-user socket that this process serves to a software switch.
    VhostListen(PathBuf),
    /// A kernel interface through DPDK's af_packet driver.
    AfPacket(String),
    /// A kernel interface through DPDK's af_xdp driver.
    AfXdp(String),
    /// A PCI device that DPDK owns.
    Pci(String),
    /// Any other DPDK virtual device, as its device arguments.
    Vdev(String),
}

/// A port text that names no known transport.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "unknown link {0:?}: expected vhost:PATH, vhost-listen:PATH, af_packet:IFACE, af_xdp:IFACE, pci:ADDR or vdev:DEVARGS"
)]
pub struct PortSpecError(pub String);

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || PortSpecError(text.to_owned());
        let (kind, value) = text.split_once(':').ok_or_else(unknown)?;
        if value.is_empty() {
            return Err(unknown());
        }
        match kind {
            "vhost" => Ok(Self::Vhost(value.into())),
            "vhost-listen" => Ok(Self::VhostListen(value.into())),
            "af_packet" => Ok(Self::AfPacket(value.into())),
            "af_xdp" => Ok(Self::AfXdp(value.into())),
            "pci" => Ok(Self::Pci(value.into())),
            "vdev" => Ok(Self::Vdev(value.into())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vhost(path) => write!(f, "vhost:{}", path.display()),
            Self::VhostListen(path) => write!(f, "vhost-listen:{}", path.display()),
            Self::AfPacket(interface) => write!(f, "af_packet:{interface}"),
            Self::AfXdp(interface) => write!(f, "af_xdp:{interface}"),
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::Vdev(devargs) => write!(f, "vdev:{devargs}"),
        }
    }
}
