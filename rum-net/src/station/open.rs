//! Opens stations by the name of their link.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{
    SLAVE_UDP_PORT, Station,
    kernel::{PortHold, interface_address},
    spec::{Framing, LinkSpec, OwnAddress},
};
use crate::port::{Port, open::OpenError, open_client};

/// Which end of a link this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Sends from any UDP port.
    Client,
    /// Has the UDP port [`SLAVE_UDP_PORT`].
    Slave,
}

/// The address and the UDP port that this process has on a link. The port is held while this lives.
#[derive(Debug)]
pub struct OwnEnd {
    own: OwnAddress,
    hold: PortHold,
}

/// Why a link could not be opened, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// Its port.
    #[error(transparent)]
    Port(#[from] OpenError),
    /// `udp:` on an interface without an address.
    #[error(
        "{interface} has no IPv4 address: give it one (ip address add ADDRESS/PREFIX dev {interface}), or name one as in udp@10.0.0.2/24:{port}"
    )]
    NoAddress {
        /// The interface.
        interface: String,
        /// The link without its framing.
        port: String,
    },
    /// Somebody has the UDP port.
    #[error("UDP port {port} of {ip} is in use: is another slave running there?")]
    PortTaken {
        /// The own address.
        ip: Ipv4Addr,
        /// The UDP port.
        port: u16,
    },
    /// The system refused to tell an address or to give a port.
    #[error("cannot use the address of {link}: {why}")]
    System {
        /// The link.
        link: String,
        /// What happened.
        why: String,
    },
    /// A slave of a UDP link without an address.
    #[error("no IPv4 address of the slave is given for {0}")]
    NoPeerAddress(LinkSpec),
    /// A slave with this process's own address.
    #[error("{0} is this machine's own address on {1}, and cannot be the slave's")]
    OwnPeerAddress(Ipv4Addr, LinkSpec),
    /// A slave behind a router, whose hardware address ARP cannot find.
    #[error("{peer} is not a neighbour of {own}: name the router's hardware address in its mac column")]
    Routed {
        /// The slave.
        peer: Ipv4Addr,
        /// This process.
        own: OwnAddress,
    },
    /// One port with two framings: the packets of one would get lost among those of the other.
    #[error("{0} and {1} are one port with two framings: use one for all slaves behind it")]
    TwoFramings(LinkSpec, LinkSpec),
}

impl LinkError {
    /// Whether it may go away by itself: the slave may be starting.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Port(error) if error.may_pass())
    }
}

impl OwnEnd {
    /// Finds the own address on a link and takes its UDP port; `None` in raw framing. To be done before the port is
    /// opened, so that the kernel never says that nobody listens.
    pub fn claim(link: &LinkSpec, side: Side) -> Result<Option<Self>, LinkError> {
        let Framing::Udp(named) = link.framing else { return Ok(None) };
        let system = |error: std::io::Error| LinkError::System { link: link.to_string(), why: error.to_string() };
        let found = match link.interface() {
            Some(interface) => interface_address(interface, named.map(|own| own.ip)).map_err(system)?,
            None => None,
        };
        let own = match (named, found) {
            (Some(OwnAddress { ip, prefix: None }), Some(found)) => OwnAddress { ip, ..found },
            (Some(named), _) => named,
            (None, Some(found)) => found,
            (None, None) => {
                let interface = link.interface().unwrap_or_default().to_owned();
                return Err(LinkError::NoAddress { interface, port: link.port.to_string() });
            }
        };
        let port = match side {
            Side::Client => 0,
            Side::Slave => SLAVE_UDP_PORT,
        };
        let hold = PortHold::take(own.ip, port).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => LinkError::PortTaken { ip: own.ip, port },
            _ => system(error),
        })?;
        Ok(Some(Self { own, hold }))
    }

    /// An end without a port in the kernel: for ports within this process.
    #[cfg(test)]
    pub fn unheld(own: OwnAddress, port: u16) -> Self {
        Self { own, hold: PortHold::nobodys(port) }
    }

    /// The address and the port.
    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.own.ip, self.hold.port())
    }

    /// Whether `ip` means all hosts of the own network.
    pub fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        self.own.is_broadcast(ip)
    }

    /// Whether packets to a slave at `ip` can be sent, and its hardware address asked for if `needs_arp`.
    pub fn check_peer(&self, ip: Ipv4Addr, needs_arp: bool, link: &LinkSpec) -> Result<(), LinkError> {
        if ip == self.own.ip {
            return Err(LinkError::OwnPeerAddress(ip, link.clone()));
        }
        if needs_arp && !self.own.is_neighbour(ip) {
            return Err(LinkError::Routed { peer: ip, own: self.own });
        }
        Ok(())
    }
}

impl Station {
    /// A client's station on `link`, whose port is open already.
    pub fn client_over(link: &LinkSpec, port: Box<dyn Port>) -> Result<Self, LinkError> {
        let own = OwnEnd::claim(link, Side::Client)?;
        Ok(Self::new(format!("{}{}", link.framing, port.name()), port, own))
    }

    /// Opens `link` for a client. Never takes another transport than the one named.
    pub fn open_client(link: &LinkSpec) -> Result<Self, LinkError> {
        let own = OwnEnd::claim(link, Side::Client)?;
        let port = open_client(&link.port)?;
        Ok(Self::new(format!("{}{}", link.framing, port.name()), port, own))
    }

    /// A slave's station on `link`, whose port `open` opens. `refused` puts a mistake of the framing into words.
    pub fn serve<E>(
        link: &LinkSpec,
        open: impl FnOnce() -> Result<Box<dyn Port>, E>,
        refused: impl FnOnce(LinkError) -> E,
    ) -> Result<Self, E> {
        let own = OwnEnd::claim(link, Side::Slave).map_err(refused)?;
        let port = open()?;
        Ok(Self::new(format!("{}{}", link.framing, port.name()), port, own))
    }
}
