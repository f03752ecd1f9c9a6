//! What the kernel of this host knows of the station's address.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{setsockopt, sockopt::RcvBuf},
};

use super::spec::OwnAddress;

/// The first IPv4 address of a kernel's interface, or the one that is `wanted`, with its prefix.
pub fn interface_address(interface: &str, wanted: Option<Ipv4Addr>) -> io::Result<Option<OwnAddress>> {
    let ipv4 = |address: Option<nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
    let found = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| Some((ipv4(entry.address)?, ipv4(entry.netmask)?)))
        .find(|(ip, _)| wanted.is_none_or(|wanted| wanted == *ip));
    Ok(found.map(|(ip, mask)| OwnAddress { ip, prefix: Some(mask.to_bits().leading_ones() as u8) }))
}

/// Whoever has a UDP port of an address in this network namespace. Where the address is the kernel's own, the kernel
/// sees the packets, too, and would answer that nobody listens (ICMP, port unreachable): so a socket is bound, and never
/// read. Where it is not, there is nothing to hold.
#[derive(Debug)]
pub struct PortHold {
    port: u16,
    _socket: Option<UdpSocket>,
}

/// Ports for clients where the kernel does not give one (RFC 6335, section 6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

impl PortHold {
    /// Takes `port`, or any for 0.
    pub fn take(ip: Ipv4Addr, port: u16) -> io::Result<Self> {
        match UdpSocket::bind(SocketAddrV4::new(ip, port)) {
            Ok(socket) => {
                // What lands here is lost: the less the better. The kernel takes its own minimum instead.
                setsockopt(&socket, RcvBuf, &0)?;
                Ok(Self { port: socket.local_addr()?.port(), _socket: Some(socket) })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                let port = if port == 0 { rand::random_range(DYNAMIC_PORTS) } else { port };
                Ok(Self { port, _socket: None })
            }
            Err(error) => Err(error),
        }
    }

    /// A port that the kernel knows nothing of.
    #[cfg(test)]
    pub fn nobodys(port: u16) -> Self {
        Self { port, _socket: None }
    }

    /// The port taken.
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For documentation only (RFC 5737): no interface has it.
    const NOBODYS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    #[test]
    fn loopback_has_its_address() {
        let own = OwnAddress { ip: Ipv4Addr::LOCALHOST, prefix: Some(8) };
        assert_eq!(interface_address("lo", None).unwrap(), Some(own));
        assert_eq!(interface_address("lo", Some(Ipv4Addr::LOCALHOST)).unwrap(), Some(own));
        assert_eq!(interface_address("lo", Some(NOBODYS)).unwrap(), None);
        assert_eq!(interface_address("no-such-iface", None).unwrap(), None);
    }

    #[test]
    fn a_port_of_an_own_address_is_held_while_the_hold_lives() {
        let hold = PortHold::take(Ipv4Addr::LOCALHOST, 0).unwrap();
        let port = hold.port();
        assert_eq!(PortHold::take(Ipv4Addr::LOCALHOST, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(hold);
        assert_eq!(PortHold::take(Ipv4Addr::LOCALHOST, port).unwrap().port(), port);
    }

    #[test]
    fn a_foreign_address_needs_no_hold() {
        assert!(DYNAMIC_PORTS.contains(&PortHold::take(NOBODYS, 0).unwrap().port()));
        assert_eq!(PortHold::take(NOBODYS, 7).unwrap().port(), 7);
    }
}
