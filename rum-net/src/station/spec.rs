//! How a link is named in machines.csv and on the command line: a port, and the framing of packets on it.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use crate::port::spec::{PortSpec, PortSpecError};

/// How RUM's packets are framed, and by whose address: the prefix of a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Framing {
    /// Raw Ethernet with an ethertype of its own.
    Raw,
    /// IPv4 and UDP, for networks that pass nothing else, from this address: `None` is the interface's first.
    Udp(Option<OwnAddress>),
}

/// An IPv4 address of this host, and how many of its leading bits the neighbours share with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OwnAddress {
    /// The address.
    pub ip: Ipv4Addr,
    /// 0 to 32; `None` if not told: then the interface's, or else everybody is a neighbour.
    pub prefix: Option<u8>,
}

impl OwnAddress {
    /// The bits that neighbours share.
    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.unwrap_or(0).min(32))).unwrap_or(0)
    }

    /// Whether `other` is reached without a router.
    pub fn is_neighbour(&self, other: Ipv4Addr) -> bool {
        self.ip.to_bits() & self.mask() == other.to_bits() & self.mask()
    }

    /// Whether `other` is all hosts of the own network. A network of one or two hosts has no such address (RFC 3021).
    pub fn is_broadcast(&self, other: Ipv4Addr) -> bool {
        self.prefix.is_some_and(|prefix| prefix < 31)
            && self.is_neighbour(other)
            && other.to_bits() | self.mask() == u32::MAX
    }
}

impl FromStr for OwnAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ip, prefix) = match text.split_once('/') {
            None => (text, None),
            // A number as it would be printed: no sign, no leading zeros.
            Some((ip, prefix)) => (ip, Some(prefix.parse().ok().filter(|p: &u8| *p <= 32 && p.to_string() == prefix))),
        };
        let ip: Ipv4Addr = ip.parse().map_err(drop)?;
        let prefix = match prefix {
            Some(None) => return Err(()),
            Some(Some(prefix)) => Some(prefix),
            None => None,
        };
        if is_one_host(ip) { Ok(Self { ip, prefix }) } else { Err(()) }
    }
}

impl fmt::Display for OwnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

/// Whether an address can be one host's: not of a group, not everybody's, not nobody's.
pub fn is_one_host(ip: Ipv4Addr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
}

/// A port and the framing on it, as in `vhost:/run/rum/0`, `udp:af_packet:eth1` or `udp@10.0.0.2/24:pci:03:00.0`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LinkSpec {
    /// Of the packets.
    pub framing: Framing,
    /// What they are sent by.
    pub port: PortSpec,
}

impl LinkSpec {
    /// Whether there is one slave at most at the other end.
    pub fn is_point_to_point(&self) -> bool {
        matches!(self.port, PortSpec::Vhost(_))
    }

    /// Whether packets are framed as UDP.
    pub fn is_udp(&self) -> bool {
        matches!(self.framing, Framing::Udp(_))
    }

    /// The interface of the kernel that the packets go by, if it is one.
    pub fn interface(&self) -> Option<&str> {
        match &self.port {
            PortSpec::AfPacket(name) | PortSpec::AfXdp(name) => Some(name),
            PortSpec::Vhost(_) | PortSpec::VhostListen(_) | PortSpec::Pci(_) | PortSpec::Vdev(_) => None,
        }
    }
}

impl From<PortSpec> for LinkSpec {
    /// Raw framing.
    fn from(port: PortSpec) -> Self {
        Self { framing: Framing::Raw, port }
    }
}

/// A text that names no link.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkSpecError {
    /// No such transport.
    #[error(transparent)]
    Port(#[from] PortSpecError),
    /// Between `udp@` and the port.
    #[error(
        "{0:?} is no IPv4 address of a host: expected udp@ADDRESS[/PREFIX]: and a port, as in udp@10.0.0.2/24:vdev:…"
    )]
    Address(String),
    /// A port that has no address of its own.
    #[error(
        "udp:{0} does not say this host's address: expected udp@ADDRESS[/PREFIX]:{0}, for only a kernel's interface has one"
    )]
    NoAddress(PortSpec),
}

impl FromStr for LinkSpec {
    type Err = LinkSpecError;

    fn from_str(text: &str) -> Result<Self, LinkSpecError> {
        if let Some(port) = text.strip_prefix("udp:") {
            let link = Self { framing: Framing::Udp(None), port: port.parse()? };
            return if link.interface().is_some() { Ok(link) } else { Err(LinkSpecError::NoAddress(link.port)) };
        }
        let Some(rest) = text.strip_prefix("udp@") else { return Ok(text.parse::<PortSpec>()?.into()) };
        let (address, port) = rest.split_once(':').unwrap_or((rest, ""));
        let own = address.parse().map_err(|()| LinkSpecError::Address(address.to_owned()))?;
        Ok(Self { framing: Framing::Udp(Some(own)), port: port.parse()? })
    }
}

impl fmt::Display for Framing {
    /// As the prefix of a port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => Ok(()),
            Self::Udp(None) => f.write_str("udp:"),
            Self::Udp(Some(own)) => write!(f, "udp@{own}:"),
        }
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.framing, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_printed_as_they_were_named() {
        for text in [
            "vhost:/run/rum/0",
            "vhost-listen:/run/ovs/0",
            "af_packet:eth1",
            "udp:af_packet:eth1",
            "udp:af_xdp:eth1",
            "udp@10.0.0.2:af_packet:eth1",
            "udp@10.0.0.2:vdev:net_memif0,role=client",
            "udp@192.168.7.1/24:pci:0000:03:00.0",
            "udp@10.0.0.2/0:vhost:/run/rum/0",
            "udp@10.0.0.2/32:vhost-listen:/run/ovs/0",
        ] {
            let link: LinkSpec = text.parse().unwrap();
            assert_eq!(link.to_string(), text);
            assert_eq!(link.is_udp(), text.starts_with("udp"));
        }
        let link: LinkSpec = "udp@10.0.0.2/24:vhost:/a:b".parse().unwrap();
        let own = OwnAddress { ip: Ipv4Addr::new(10, 0, 0, 2), prefix: Some(24) };
        assert_eq!(link, LinkSpec { framing: Framing::Udp(Some(own)), port: PortSpec::Vhost("/a:b".into()) });
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("", "unknown link \"\": expected vhost:PATH,"),
            ("udp:", "unknown link \"\": expected vhost:PATH,"),
            ("udp:eth1", "unknown link \"eth1\": expected vhost:PATH,"),
            ("udp:udp:af_packet:eth1", "unknown link \"udp:af_packet:eth1\": expected vhost:PATH,"),
            ("udp:vhost:/a", "udp:vhost:/a does not say this host's address: expected udp@ADDRESS[/PREFIX]:vhost:/a"),
            ("udp@", "\"\" is no IPv4 address of a host: expected udp@"),
            ("udp@10.0.0.2", "unknown link \"\": expected vhost:PATH,"),
            ("udp@::1:vhost:/a", "\"\" is no IPv4 address of a host: expected"),
            ("udp@10.0.0.256:vhost:/a", "\"10.0.0.256\" is no IPv4"),
            ("udp@10.0.0.2/33:vhost:/a", "\"10.0.0.2/33\" is no IPv4"),
            ("udp@10.0.0.2/+4:vhost:/a", "\"10.0.0.2/+4\" is no IPv4"),
            ("udp@10.0.0.2/:vhost:/a", "\"10.0.0.2/\" is no IPv4"),
            ("udp@0.0.0.0:vhost:/a", "\"0.0.0.0\" is no IPv4"),
            ("udp@224.0.0.1:vhost:/a", "\"224.0.0.1\" is no IPv4"),
            ("udp@255.255.255.255:vhost:/a", "\"255.255.255.255\" is no IPv4"),
        ];
        for (text, start) in cases {
            let error = text.parse::<LinkSpec>().unwrap_err().to_string();
            assert!(error.starts_with(start), "{text:?} gives {error:?}");
        }
    }

    #[test]
    fn neighbours_share_the_prefix() {
        let own = |prefix| OwnAddress { ip: Ipv4Addr::new(10, 1, 2, 3), prefix };
        let near = Ipv4Addr::new(10, 1, 2, 200);
        let far = Ipv4Addr::new(192, 168, 0, 1);
        assert!(own(Some(24)).is_neighbour(near) && !own(Some(24)).is_neighbour(far));
        assert!(!own(Some(32)).is_neighbour(near) && own(Some(32)).is_neighbour(own(None).ip));
        assert!(own(Some(0)).is_neighbour(far) && own(None).is_neighbour(far));
        let all = Ipv4Addr::new(10, 1, 2, 255);
        assert!(own(Some(24)).is_broadcast(all) && !own(Some(24)).is_broadcast(near));
        assert!(!own(Some(23)).is_broadcast(Ipv4Addr::new(10, 1, 2, 255)) && !own(None).is_broadcast(all));
        assert!(!own(Some(32)).is_broadcast(own(None).ip));
    }
}
