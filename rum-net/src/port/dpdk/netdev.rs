//! What the kernel says about its network interfaces, in the calling thread's network namespace.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

/// A network interface of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: usize,
    /// Whether it is administratively up.
    pub is_up: bool,
}

/// Whether `name` may be an interface's name, and is harmless among DPDK's device arguments.
pub fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b',' | b'=' | b':' | b'[' | b']'))
}

/// Looks an interface up by ioctl: unlike /sys, that answers for the network namespace of this thread.
pub fn lookup(name: &str) -> io::Result<Interface> {
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let index = query(&socket, name, libc::SIOCGIFINDEX)?;
    let mtu = query(&socket, name, libc::SIOCGIFMTU)?;
    let flags = query(&socket, name, libc::SIOCGIFFLAGS)?;
    // SAFETY: each ioctl filled its own member of the union; all of them are plain integers.
    unsafe {
        Ok(Interface {
            index: u32::try_from(index.ifr_ifru.ifru_ifindex).map_err(io::Error::other)?,
            mtu: usize::try_from(mtu.ifr_ifru.ifru_mtu).map_err(io::Error::other)?,
            is_up: i32::from(flags.ifr_ifru.ifru_flags) & libc::IFF_UP != 0,
        })
    }
}

fn query(socket: &OwnedFd, name: &str, request: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros is a valid ifreq.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the three requests used here read the name from, and write to, an ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut ifreq) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ifreq)
}

/// Whether this process may open packet sockets (CAP_NET_RAW).
pub fn may_open_packet_socket() -> io::Result<bool> {
    // SAFETY: no pointers. Protocol 0: the socket receives nothing.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw >= 0 {
        // SAFETY: the descriptor was just opened and has no other owner.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        error => Err(error),
    }
}

/// Whether a default route, IPv4 or IPv6, leaves by `interface` or by the bridge or bond it belongs to.
pub fn carries_default_route(interface: &str) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (ipv4, ipv6) = (read("/proc/thread-self/net/route"), read("/proc/thread-self/net/ipv6_route"));
    let carries = |name: &str| has_ipv4_default(&ipv4, name) || has_ipv6_default(&ipv6, name);
    if carries(interface) {
        return true;
    }
    fs::read_link(Path::new("/sys/class/net").join(interface).join("master"))
        .ok()
        .and_then(|master| Some(carries(master.file_name()?.to_str()?)))
        .unwrap_or(false)
}

const RTF_UP: u32 = 1;
const RTF_REJECT: u32 = 0x200;

/// Lines of /proc/net/route: interface, destination, gateway, flags, refcnt, use, metric, mask, … in hexadecimal.
fn has_ipv4_default(table: &str, interface: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 7
            && fields[0] == interface
            && fields[1] == "00000000"
            && fields[7] == "00000000"
            && is_usable(fields[3])
    })
}

/// Lines of /proc/net/ipv6_route: destination, its prefix length, source, its prefix length, next hop, metric,
/// refcnt, use, flags, interface, in hexadecimal.
fn has_ipv6_default(table: &str, interface: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9
            && fields[9] == interface
            && fields[0].bytes().all(|digit| digit == b'0')
            && fields[1] == "00"
            && is_usable(fields[8])
    })
}

fn is_usable(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & RTF_UP != 0 && flags & RTF_REJECT == 0)
}

/// The descriptors of this process that are sockets of `domain`, in ascending order.
pub fn sockets_of_domain(domain: libc::c_int) -> io::Result<Vec<RawFd>> {
    let mut found: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| socket_option(fd, libc::SO_DOMAIN) == Some(domain))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// An integer option of level SOL_SOCKET; `None` when `fd` is not a socket. Reading SO_ERROR also clears it.
pub fn socket_option(fd: RawFd, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`; a stale `fd` gives an error.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut len) };
    (result == 0).then_some(value)
}

/// The interface a packet socket is bound to; `None` once that interface has been removed.
pub fn bound_interface(fd: RawFd) -> Option<u32> {
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `address`.
    let result = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &mut len) };
    (result == 0).then(|| u32::try_from(address.sll_ifindex).ok()).flatten()
}

/// Tells a packet socket not to receive what other sockets of this machine send by its interface (Linux 4.20).
pub fn ignore_outgoing(fd: RawFd) {
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let one: libc::c_int = 1;
    // SAFETY: the kernel reads an integer. A failure (an old kernel) is harmless: such packets are also filtered
    // by their source address.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        );
    }
}

/// Closes `fd` in programs that this process executes: a driver's socket is a privilege that they must not inherit.
pub fn close_on_exec(fd: RawFd) {
    // SAFETY: no pointers; a failure leaves the descriptor as it was.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        eth2\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth3\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n";

    const IPV6: &str = "\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn default_routes_are_found_by_interface() {
        assert!(has_ipv4_default(IPV4, "eth0"));
        assert!(!has_ipv4_default(IPV4, "eth1"), "not a default route");
        assert!(!has_ipv4_default(IPV4, "eth2"), "an unreachable route");
        assert!(!has_ipv4_default(IPV4, "eth3"), "a half of the address space");
        assert!(!has_ipv4_default(IPV4, "eth"), "a prefix of a name");
        assert!(has_ipv6_default(IPV6, "eth0"));
        assert!(!has_ipv6_default(IPV6, "eth1"));
        assert!(!has_ipv6_default(IPV6, "lo"), "the unreachable route that every machine has");
        assert!(!has_ipv4_default("", "eth0") && !has_ipv6_default("garbage\n\n", "eth0"));
    }

    #[test]
    fn interface_names_cannot_smuggle_device_arguments() {
        assert!(is_interface_name("enp0s31f6") && is_interface_name("eth0.5") && is_interface_name("a-b_c"));
        for bad in ["", ".", "..", "eth0,qpairs=9", "a=b", "a/b", "a b", "sixteen-letters-", "ä"] {
            assert!(!is_interface_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn loopback_is_known() {
        let lo = lookup("lo").expect("every namespace has it");
        assert!(lo.index >= 1 && lo.mtu > 0);
        assert_eq!(lookup("no-such-iface").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
