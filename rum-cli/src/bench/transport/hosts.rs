//! Two hosts on cables of their own: network namespaces, each kept by a process, with veth pairs between them. They have no
//! names, and go with their processes.

use std::{fs, fs::File, io, thread};

use nix::sched::{CloneFlags, setns, unshare};
use rum_net::port::MacAddr;

use super::super::{
    stage::{Measured, worker_ready},
    worker::WorkerError,
};
use crate::demo::ip;

/// The hardware address at the answering end of each cable.
pub const ANSWERING_MAC: MacAddr = MacAddr([0x02, 0x52, 0x55, 0x4d, 0x01, 0x01]);
/// Bytes in a packet after its Ethernet header: a page and its headers fit in one.
const MTU: &str = "9000";
/// Of a worker that stays on the host that it was started on.
pub const NO_HOST: &str = "-";

/// The interface at each end of a cable.
pub fn interface(cable: usize) -> String {
    format!("rum{cable}")
}

/// Lets the calling thread, and what it starts, be on the host that process `host` keeps.
pub fn enter(host: &str) -> Result<(), WorkerError> {
    if host == NO_HOST {
        return Ok(());
    }
    let namespace = File::open(format!("/proc/{host}/ns/net"))?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?)
}

/// Keeps a host until it is killed; with a `peer`, lays `cables` cables to the host that process `peer` keeps.
pub fn keep(peer: Option<(&str, usize)>) -> Result<Measured, WorkerError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| WorkerError::Wrong(format!("cannot make a network namespace ({error}); run it as root")))?;
    // No neighbour discovery among what is measured.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    if let Some((peer, cables)) = peer {
        for cable in 0..cables {
            let (name, mac) = (interface(cable), ANSWERING_MAC.to_string());
            ip(&[
                "link", "add", "name", &name, "mtu", MTU, "type", "veth", //
                "peer", "name", &name, "mtu", MTU, "address", &mac, "netns", peer,
            ])?;
            ip(&["link", "set", "dev", &name, "up"])?;
        }
        let peer = peer.to_owned();
        let other_end = thread::spawn(move || {
            enter(&peer)?;
            Ok::<_, WorkerError>(
                (0..cables).try_for_each(|cable| ip(&["link", "set", "dev", &interface(cable), "up"]))?,
            )
        });
        other_end.join().map_err(|_| WorkerError::Usage)??;
    }
    println!("{}", worker_ready());
    loop {
        thread::park();
    }
}
