//! Why a DPDK port could not be opened.

use crate::port::spec::PortSpec;

/// Why a DPDK port could not be opened, and what to do about it, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DpdkError {
    /// The spec is of another transport.
    #[error("{0} is not a DPDK port: expected af_packet:IFACE, af_xdp:IFACE, pci:ADDR or vdev:DEVARGS")]
    NotDpdk(PortSpec),
    /// The name cannot be one of an interface or device.
    #[error("{spec}: {name:?} cannot be the name of {what}")]
    BadName {
        /// The port.
        spec: PortSpec,
        /// The part that is wrong.
        name: String,
        /// What it should name.
        what: &'static str,
    },
    /// The process is a fork of the one that started EAL.
    #[error(
        "{spec}: DPDK was started before this process was forked and cannot be used in a forked child; \
         open the port after the fork, or use vhost:PATH"
    )]
    Forked {
        /// The port.
        spec: PortSpec,
    },
    /// No network interface of that name in this network namespace.
    #[error("{spec}: no network interface {interface:?} here; `ip link` lists them")]
    NoSuchInterface {
        /// The port.
        spec: PortSpec,
        /// The interface asked for.
        interface: String,
    },
    /// The interface is administratively down.
    #[error("{spec}: the interface is down; run: ip link set {interface} up")]
    InterfaceDown {
        /// The port.
        spec: PortSpec,
        /// The interface asked for.
        interface: String,
    },
    /// The machine's default route leaves by this interface.
    #[error(
        "{spec}: {interface} carries the default route, and taking it may cut this machine off; \
         name another interface, or force it (--force)"
    )]
    DefaultRoute {
        /// The port.
        spec: PortSpec,
        /// The interface with the default route.
        interface: String,
    },
    /// A capability is missing.
    #[error("{spec}: permission denied: needs {capability}; run as root, or: setcap {setcap} PROGRAM")]
    Permission {
        /// The port.
        spec: PortSpec,
        /// What is missing.
        capability: &'static str,
        /// The argument of setcap that would grant it.
        setcap: &'static str,
    },
    /// The interface's MTU is more than the driver can carry.
    #[error("{spec}: MTU {mtu} is too large, at most {limit} here; run: ip link set {interface} mtu {limit}")]
    MtuTooLarge {
        /// The port.
        spec: PortSpec,
        /// The interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: usize,
        /// The most the driver can carry.
        limit: usize,
    },
    /// No such PCI device.
    #[error("{spec}: no PCI device {address} on this machine; `lspci -D` lists them")]
    NoSuchDevice {
        /// The port.
        spec: PortSpec,
        /// The full address.
        address: String,
    },
    /// No hugepages are free.
    #[error("{spec}: no free hugepages; run as root: sysctl vm.nr_hugepages=512")]
    NoHugepages {
        /// The port.
        spec: PortSpec,
    },
    /// The kernel has no VFIO.
    #[error("{spec}: this kernel offers no VFIO (/dev/vfio/vfio is missing); run as root: modprobe vfio-pci")]
    NoVfio {
        /// The port.
        spec: PortSpec,
    },
    /// The device belongs to a kernel driver.
    #[error(
        "{spec}: the device is bound to the kernel driver {driver}; run as root: dpdk-devbind.py -b vfio-pci {address}"
    )]
    KernelDriver {
        /// The port.
        spec: PortSpec,
        /// The full address.
        address: String,
        /// The driver it is bound to.
        driver: String,
    },
    /// EAL runs without hugepages and PCI already.
    #[error("{spec}: DPDK was started without hugepages for another link of this process; name the pci: link first")]
    StartedWithoutPci {
        /// The port.
        spec: PortSpec,
    },
    /// `rte_eal_init` failed, now or earlier: it cannot be tried again in the same process.
    #[error("{spec}: DPDK does not start: {detail}")]
    Eal {
        /// The port.
        spec: PortSpec,
        /// What DPDK said.
        detail: String,
    },
    /// The process has as many ports as DPDK can hold.
    #[error("{spec}: this process has {limit} DPDK ports already, and DPDK holds no more")]
    TooManyPorts {
        /// The port.
        spec: PortSpec,
        /// DPDK's limit.
        limit: usize,
    },
    /// DPDK found no driver for the device, or the driver refused it.
    #[error("{spec}: no DPDK driver takes the device {device} (is its librte-net-* package installed?): {detail}")]
    NoDriver {
        /// The port.
        spec: PortSpec,
        /// The device's name.
        device: String,
        /// What DPDK said.
        detail: String,
    },
    /// A step of setting the device up failed.
    #[error("{spec}: {step} failed: {detail}")]
    Setup {
        /// The port.
        spec: PortSpec,
        /// The DPDK function or the system call.
        step: &'static str,
        /// What DPDK or the kernel said.
        detail: String,
    },
}
