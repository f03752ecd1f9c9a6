//! What a port asks of DPDK, worked out and checked before EAL starts: so that a wrong name or a missing privilege
//! is said in a line, and costs nothing.

use std::{fs, io, path::Path};

use super::{DpdkError, DpdkOptions, eal::Mode, netdev};
use crate::port::spec::PortSpec;

/// The length of an Ethernet header.
const HEADER_BYTES: usize = 14;
/// What a frame may carry beyond header and MTU: a VLAN tag, and a second.
const TAG_BYTES: usize = 8;
/// What a virtio device puts in front of a frame, and counts as a part of it.
const VIRTIO_BYTES: usize = 12;
/// The MTU of a device that has none of its own, and of which none was asked.
const DEFAULT_MTU: usize = 1500;
/// Of af_xdp: a frame shares its buffer with the kernel's headroom of 256 bytes.
const AF_XDP_MAX_MTU: usize = 3400;
/// With DPDK's headers (64 of the pool, 128 of the mbuf, a headroom of 128) a page. The driver tells the kernel that
/// the pool's memory is buffers without gaps, but without hugepages no buffer crosses a page: only buffers that fill
/// pages have no gaps. Otherwise the kernel drops what lies in the last ones.
const AF_XDP_BUFFER_BYTES: usize = 4096 - 64 - 128 - 128;

/// Slots of a packet socket's ring in each direction.
const PACKET_SLOTS: usize = 512;

/// What the driver's socket is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket {
    /// A packet socket that can be polled, bound to the interface of this number.
    Packet(u32),
    /// An XDP socket that can be polled.
    Xdp,
    /// None that we know of.
    None,
}

/// A device to be probed and set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub mode: Mode,
    /// DPDK's bus of the device.
    pub bus: &'static str,
    /// The name of the device; `None` for a driver's next free one.
    pub device: DeviceName,
    /// The device arguments after its name.
    pub arguments: String,
    /// The MTU in bytes; `None` when the driver knows it best.
    pub mtu: Option<usize>,
    /// Bytes of data in an mbuf, its headroom not counted.
    pub buffer_bytes: usize,
    /// Mbufs in the port's pool.
    pub buffers: u32,
    /// Descriptors asked for in each direction.
    pub descriptors: u16,
    pub socket: Socket,
}

/// How the device is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceName {
    /// This name.
    Given(String),
    /// This driver's name and a number that no other port has.
    Numbered(&'static str),
}

impl Plan {
    /// Works out how to open `spec`, or why it cannot be.
    pub fn new(spec: &PortSpec, options: &DpdkOptions) -> Result<Self, DpdkError> {
        match spec {
            PortSpec::AfPacket(interface) => Self::af_packet(spec, options, interface),
            PortSpec::AfXdp(interface) => Self::af_xdp(spec, options, interface),
            PortSpec::Pci(address) => Self::pci(spec, options, address),
            PortSpec::Vdev(devargs) => Self::vdev(spec, options, devargs),
            PortSpec::Vhost(_) | PortSpec::VhostListen(_) => Err(DpdkError::NotDpdk(spec.clone())),
        }
    }

    fn af_packet(spec: &PortSpec, options: &DpdkOptions, name: &str) -> Result<Self, DpdkError> {
        let interface = usable_interface(spec, options, name)?;
        if !netdev::may_open_packet_socket().map_err(|error| setup(spec, "socket(AF_PACKET)", &error))? {
            let setcap = "cap_net_raw+ep";
            return Err(DpdkError::Permission { spec: spec.clone(), capability: "CAP_NET_RAW", setcap });
        }
        let slot = packet_slot_bytes(interface.mtu);
        // The driver takes slot n to be at n × slot: blocks must be slots and pages without a rest. Slots are a
        // multiple of 512 bytes, so that eight of them are.
        let block = 8 * slot;
        Ok(Self {
            mode: Mode::Plain,
            bus: "vdev",
            device: DeviceName::Numbered("net_af_packet"),
            arguments: format!("iface={name},framesz={slot},blocksz={block},framecnt={PACKET_SLOTS},qdisc_bypass=1"),
            mtu: Some(interface.mtu),
            buffer_bytes: slot,
            buffers: 255,
            descriptors: 512,
            socket: Socket::Packet(interface.index),
        })
    }

    fn af_xdp(spec: &PortSpec, options: &DpdkOptions, name: &str) -> Result<Self, DpdkError> {
        let interface = usable_interface(spec, options, name)?;
        if interface.mtu > AF_XDP_MAX_MTU {
            let (interface, mtu) = (name.to_owned(), interface.mtu);
            return Err(DpdkError::MtuTooLarge { spec: spec.clone(), interface, mtu, limit: AF_XDP_MAX_MTU });
        }
        if !nix::unistd::geteuid().is_root() {
            let setcap = "cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+ep";
            return Err(DpdkError::Permission { spec: spec.clone(), capability: "root", setcap });
        }
        Ok(Self {
            mode: Mode::Plain,
            bus: "vdev",
            device: DeviceName::Numbered("net_af_xdp"),
            arguments: format!("iface={name}"),
            mtu: Some(interface.mtu),
            buffer_bytes: AF_XDP_BUFFER_BYTES,
            // The driver takes 2,048 before anything is received, and keeps a ring of those to be sent.
            buffers: 4095,
            descriptors: 1024,
            socket: Socket::Xdp,
        })
    }

    fn pci(spec: &PortSpec, options: &DpdkOptions, address: &str) -> Result<Self, DpdkError> {
        let full = full_pci_address(address).ok_or_else(|| DpdkError::BadName {
            spec: spec.clone(),
            name: address.to_owned(),
            what: "a PCI device (expected 03:00.0 or 0000:03:00.0)",
        })?;
        let device = Path::new("/sys/bus/pci/devices").join(&full);
        if !device.exists() {
            return Err(DpdkError::NoSuchDevice { spec: spec.clone(), address: full });
        }
        for entry in fs::read_dir(device.join("net")).into_iter().flatten().flatten() {
            refuse_default_route(spec, options, &entry.file_name().to_string_lossy())?;
        }
        check_pci_needs(spec, &device, full.clone())?;
        let mtu = options.mtu.unwrap_or(DEFAULT_MTU);
        Ok(Self {
            mode: Mode::Pci,
            bus: "pci",
            device: DeviceName::Given(full),
            arguments: String::new(),
            mtu: Some(mtu),
            // Some drivers count buffers in kilobytes.
            buffer_bytes: (mtu + HEADER_BYTES + TAG_BYTES).next_multiple_of(1024).max(2048),
            buffers: 4095,
            descriptors: 1024,
            socket: Socket::None,
        })
    }

    fn vdev(spec: &PortSpec, options: &DpdkOptions, devargs: &str) -> Result<Self, DpdkError> {
        let (name, arguments) = devargs.split_once(',').unwrap_or((devargs, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || !plain(devargs) {
            let what = "a DPDK device (expected a name such as net_memif0, a comma and its arguments)";
            return Err(DpdkError::BadName { spec: spec.clone(), name: devargs.to_owned(), what });
        }
        let interfaces = arguments.split(',').filter_map(|argument| {
            let (key, value) = argument.split_once('=')?;
            matches!(key, "iface" | "remote" | "rx_iface" | "tx_iface").then_some(value)
        });
        for interface in interfaces {
            refuse_default_route(spec, options, interface)?;
        }
        let mtu = options.mtu.unwrap_or(DEFAULT_MTU);
        Ok(Self {
            mode: Mode::Plain,
            bus: "vdev",
            device: DeviceName::Given(name.to_owned()),
            arguments: arguments.to_owned(),
            mtu: options.mtu,
            buffer_bytes: (mtu + HEADER_BYTES + TAG_BYTES + VIRTIO_BYTES).max(2048),
            buffers: 4095,
            descriptors: 1024,
            socket: Socket::None,
        })
    }
}

/// A slot of a packet socket's ring: the kernel's header (TPACKET2_HDRLEN and alignment, under 96 bytes), then a
/// frame.
fn packet_slot_bytes(mtu: usize) -> usize {
    (96 + HEADER_BYTES + TAG_BYTES + mtu).next_multiple_of(512)
}

fn setup(spec: &PortSpec, step: &'static str, error: &io::Error) -> DpdkError {
    DpdkError::Setup { spec: spec.clone(), step, detail: error.to_string() }
}

fn usable_interface(spec: &PortSpec, options: &DpdkOptions, name: &str) -> Result<netdev::Interface, DpdkError> {
    if !netdev::is_interface_name(name) {
        return Err(DpdkError::BadName { spec: spec.clone(), name: name.to_owned(), what: "a network interface" });
    }
    let interface = netdev::lookup(name).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => DpdkError::NoSuchInterface { spec: spec.clone(), interface: name.to_owned() },
        _ => setup(spec, "the look-up of the interface", &error),
    })?;
    refuse_default_route(spec, options, name)?;
    if !interface.is_up {
        return Err(DpdkError::InterfaceDown { spec: spec.clone(), interface: name.to_owned() });
    }
    Ok(interface)
}

fn refuse_default_route(spec: &PortSpec, options: &DpdkOptions, interface: &str) -> Result<(), DpdkError> {
    if !options.force && netdev::carries_default_route(interface) {
        return Err(DpdkError::DefaultRoute { spec: spec.clone(), interface: interface.to_owned() });
    }
    Ok(())
}

/// A device that shares the NIC with its kernel driver (mlx5 and kin) needs no VFIO.
const BIFURCATED_DRIVERS: [&str; 4] = ["mlx4_core", "mlx5_core", "mana", "hv_netvsc"];
const USER_DRIVERS: [&str; 3] = ["vfio-pci", "igb_uio", "uio_pci_generic"];

fn check_pci_needs(spec: &PortSpec, device: &Path, address: String) -> Result<(), DpdkError> {
    let spec = spec.clone();
    let driver = fs::read_link(device.join("driver"))
        .ok()
        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    let driver = driver.as_deref().unwrap_or("none");
    if !BIFURCATED_DRIVERS.contains(&driver) {
        if !USER_DRIVERS.contains(&driver) && !Path::new("/dev/vfio/vfio").exists() {
            return Err(DpdkError::NoVfio { spec });
        }
        if !USER_DRIVERS.contains(&driver) {
            return Err(DpdkError::KernelDriver { spec, address, driver: driver.to_owned() });
        }
    }
    if !has_free_hugepages(Path::new("/sys/kernel/mm/hugepages")) {
        return Err(DpdkError::NoHugepages { spec });
    }
    Ok(())
}

fn has_free_hugepages(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|size| {
        fs::read_to_string(size.path().join("free_hugepages"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .is_some_and(|free| free > 0)
    })
}

/// `03:00.0` or `0000:03:00.0`, in full and in lower case; `None` when it is neither.
fn full_pci_address(address: &str) -> Option<String> {
    let full = if address.matches(':').count() == 1 { format!("0000:{address}") } else { address.to_owned() };
    let full = full.to_ascii_lowercase();
    let (slot, function) = full.split_once('.')?;
    let parts: Vec<&str> = slot.split(':').collect();
    let is_hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_address = parts.len() == 3
        && is_hex(parts[0], 4)
        && is_hex(parts[1], 2)
        && is_hex(parts[2], 2)
        && matches!(function.as_bytes(), [b'0'..=b'7']);
    is_address.then_some(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> DpdkError {
        let spec = text.parse().expect("a link");
        Plan::new(&spec, &DpdkOptions::default()).expect_err(text)
    }

    #[test]
    fn pci_addresses_are_completed_and_checked() {
        assert_eq!(full_pci_address("03:00.0").as_deref(), Some("0000:03:00.0"));
        assert_eq!(full_pci_address("0001:AF:1f.7").as_deref(), Some("0001:af:1f.7"));
        for bad in ["", "eth0", "03:00", "03:00.8", "3:00.0", "0000:03:00.0,x=1", "0000:03:00.00", "g3:00.0"] {
            assert_eq!(full_pci_address(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn packet_slots_fit_frame_and_header_and_divide_blocks() {
        for mtu in [68, 1500, 3400, 4096, 9000, 9216, 65_535] {
            let slot = packet_slot_bytes(mtu);
            assert!(slot >= mtu + 14 + 8 + 96);
            assert_eq!(8 * slot % 4096, 0);
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let text = refusal("af_packet:no-such-iface").to_string();
        assert!(text.contains("no-such-iface") && text.contains("ip link"), "{text}");
        assert!(matches!(refusal("af_packet:eth0,x=1"), DpdkError::BadName { .. }));
        assert!(matches!(refusal("pci:eth0"), DpdkError::BadName { .. }));
        assert!(matches!(refusal("pci:ffff:ff:1f.7"), DpdkError::NoSuchDevice { .. }));
        assert!(matches!(refusal("vdev:net_x y"), DpdkError::BadName { .. }));
        assert!(matches!(refusal("vhost:/run/x"), DpdkError::NotDpdk(_)));
        for error in [refusal("af_packet:no-such-iface"), refusal("pci:eth0"), refusal("vhost:/run/x")] {
            assert!(!error.to_string().contains('\n'));
        }
    }
}
