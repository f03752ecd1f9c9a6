//! Opens the ports that a slave serves.

use rum_net::{
    port::{
        Port,
        capture::CaptureError,
        dpdk::{DpdkError, DpdkOptions, DpdkPort},
        middleware::Middlewares,
        spec::PortSpec,
        split::split,
        vhost_user::{BindError, ListenOptions, VhostListenPort, VhostSwitchPort},
    },
    station::{LinkError, Station, spec::LinkSpec},
};

use crate::group::peers::OwnPort;

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
    /// A capture file.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Its framing.
    #[error("cannot serve {link}: {why}")]
    Framing {
        /// As it was named.
        link: LinkSpec,
        /// What happened.
        why: Box<LinkError>,
    },
    /// Two links of one port: each would get a part of its packets.
    #[error("cannot serve {0} and {1} at once: they are one port")]
    SamePort(LinkSpec, LinkSpec),
}

/// Opens links for serving, each port once, and stacks `middlewares` on each port.
pub fn open_links(links: &[LinkSpec], force: bool, middlewares: &Middlewares) -> Result<Vec<Station>, PortError> {
    for (index, link) in links.iter().enumerate() {
        if let Some(earlier) = links[..index].iter().find(|earlier| earlier.port == link.port) {
            return Err(PortError::SamePort(earlier.clone(), link.clone()));
        }
    }
    links.iter().map(|link| open_link(link, force, middlewares)).collect()
}

/// As `open_links`, for a slave that replicates: the first port on a network is also the one by which it reaches others, and comes twice.
pub fn open_links_to_others(
    links: &[LinkSpec],
    force: bool,
    middlewares: &Middlewares,
) -> Result<(Vec<Station>, Option<OwnPort>), PortError> {
    let network = links.iter().position(|link| !link.is_point_to_point());
    let Some(at) = network else { return Ok((open_links(links, force, middlewares)?, None)) };
    let link = &links[at];
    let (serving, asking) = split(open_with(&link.port, force, middlewares)?);
    let framing = |why| PortError::Framing { link: link.clone(), why: Box::new(why) };
    let station = Station::serve(link, || Ok(Box::new(serving) as Box<dyn Port>), framing)?;
    let others: Vec<LinkSpec> = links.iter().filter(|other| *other != link).cloned().collect();
    let mut stations = open_links(&others, force, middlewares)?;
    stations.insert(0, station);
    Ok((stations, Some((link.clone(), Box::new(asking)))))
}

/// As `open_links`, for one.
pub fn open_link(link: &LinkSpec, force: bool, middlewares: &Middlewares) -> Result<Station, PortError> {
    let framing = |why| PortError::Framing { link: link.clone(), why: Box::new(why) };
    Station::serve(link, || open_with(&link.port, force, middlewares), framing)
}

/// Opens a port for serving; a vhost-user socket is created. `force` takes an interface even if the default route leaves
/// by it. Never takes another transport than the one named.
pub fn open(spec: &PortSpec, force: bool) -> Result<Box<dyn Port>, PortError> {
    match spec {
        PortSpec::VhostListen(switch) => {
            let port = VhostSwitchPort::bind(&switch.path, &switch.options);
            Ok(Box::new(port.map_err(|why| PortError::Vhost { port: spec.clone(), why })?))
        }
        PortSpec::Vhost(path) => {
            let port = VhostListenPort::bind(path, ListenOptions::default());
            Ok(Box::new(port.map_err(|why| PortError::Vhost { port: spec.clone(), why })?))
        }
        PortSpec::AfPacket(_) | PortSpec::AfXdp(_) | PortSpec::Pci(_) | PortSpec::Vdev(_) => {
            Ok(Box::new(DpdkPort::open(spec, &DpdkOptions { force, ..DpdkOptions::default() })?))
        }
    }
}

/// As `open`, with faults and a capture stacked on the port.
pub fn open_with(spec: &PortSpec, force: bool, middlewares: &Middlewares) -> Result<Box<dyn Port>, PortError> {
    Ok(middlewares.put_on(open(spec, force)?)?)
}
