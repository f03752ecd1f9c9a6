//! How a port is named in machines.csv and on the command line.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{MacAddr, vhost_user::SwitchPortOptions};
use crate::rpc::MIN_MTU;

/// A transport and its parameter, as in `vhost:/run/rum/0` or `af_packet:eth1`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PortSpec {
    /// A vhost-user socket that the slave serves and the client connects to.
    Vhost(PathBuf),
    /// A vhost-user socket that this process serves to a software switch.
    VhostListen(SwitchPortSpec),
    /// A kernel interface through DPDK's af_packet driver.
    AfPacket(String),
    /// A kernel interface through DPDK's af_xdp driver.
    AfXdp(String),
    /// A PCI device that DPDK owns.
    Pci(String),
    /// Any other DPDK virtual device, as its device arguments.
    Vdev(String),
}

/// `vhost-listen:PATH[,mac=MAC][,mtu=BYTES][,mode=OCTAL]`; the path has no comma.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SwitchPortSpec {
    /// Of the socket.
    pub path: PathBuf,
    /// What comes after it.
    pub options: SwitchPortOptions,
}

impl SwitchPortSpec {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(',');
        let path = fields.next().filter(|path| !path.is_empty())?.into();
        let mut options = SwitchPortOptions::default();
        for field in fields {
            match field.split_once('=')? {
                ("mac", value) => options.mac = Some(parse_station_mac(value)?),
                ("mtu", value) => {
                    let mtu = value.parse().ok()?;
                    options.mtu = Some(mtu).filter(|mtu| (MIN_MTU..=SwitchPortOptions::MAX_MTU).contains(mtu))?;
                }
                ("mode", value) => {
                    options.mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777)?;
                }
                _ => return None,
            }
        }
        Some(Self { path, options })
    }
}

impl fmt::Display for SwitchPortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (options, usual) = (&self.options, SwitchPortOptions::default());
        write!(f, "{}", self.path.display())?;
        if let Some(mac) = options.mac {
            write!(f, ",mac={mac}")?;
        }
        if options.mtu != usual.mtu {
            write!(f, ",mtu={}", options.mtu)?;
        }
        if options.mode != usual.mode {
            write!(f, ",mode={:o}", options.mode)?;
        }
        Ok(())
    }
}

/// The address of one machine: six bytes in hexadecimal, neither a group's nor nobody's.
fn parse_station_mac(text: &str) -> Option<MacAddr> {
    let is_byte = |byte: &&str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(Some(byte).filter(is_byte)?, 16).ok());
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    (bytes.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(MacAddr(mac))
}

/// A port text that names no known transport.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "unknown link {0:?}: expected vhost:PATH, vhost-listen:PATH[,mac=MAC][,mtu=BYTES][,mode=OCTAL], af_packet:IFACE, af_xdp:IFACE, pci:ADDR or vdev:DEVARGS"
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
            "vhost-listen" => SwitchPortSpec::parse(value).map(Self::VhostListen).ok_or_else(unknown),
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
            Self::VhostListen(spec) => write!(f, "vhost-listen:{spec}"),
            Self::AfPacket(interface) => write!(f, "af_packet:{interface}"),
            Self::AfXdp(interface) => write!(f, "af_xdp:{interface}"),
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::Vdev(devargs) => write!(f, "vdev:{devargs}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_port_has_options_behind_its_path() {
        for text in ["/run/rum/c0", "c0,mac=02:00:00:00:00:0a,mtu=9000,mode=660", "/c0,mtu=4608", "/c0,mode=666"] {
            let text = format!("vhost-listen:{text}");
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        let spec: PortSpec = "vhost-listen:/c0,mtu=9000".parse().unwrap();
        let options = SwitchPortOptions { mtu: 9000, ..SwitchPortOptions::default() };
        assert_eq!(spec, PortSpec::VhostListen(SwitchPortSpec { path: "/c0".into(), options }));
    }

    #[test]
    fn wrong_options_of_a_switch_port_are_refused() {
        let wrong = [
            "",
            ",mtu=1500",
            "/c0,",
            "/c0,mtu",
            "/c0,mtu=",
            "/c0,mtu=10",
            "/c0,mtu=9703",
            "/c0,mtu=-1",
            "/c0,mode=9",
            "/c0,mode=1777",
            "/c0,mac=01:00:00:00:00:01",
            "/c0,mac=00:00:00:00:00:00",
            "/c0,mac=2:0:0:0:0:1",
            "/c0,mac=02:00:00:00:00",
            "/c0,mac=02:00:00:00:00:01:02",
            "/c0,mac=02:00:00:00:00:+1",
            "/c0,size=1",
        ];
        for text in wrong {
            let error = format!("vhost-listen:{text}").parse::<PortSpec>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("unknown link \"vhost-listen:{text}\": expected vhost:PATH")),
                "{error}"
            );
        }
    }
}
