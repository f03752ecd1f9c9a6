//! An ethdev of DPDK and its pool of packet buffers: made, started, and given back.

use std::{
    ffi::CString,
    os::{fd::RawFd, raw::c_int},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use dpdk_sys as sys;

use super::{
    DpdkError,
    eal::{Control, EalError, with_signals_blocked},
    netdev,
    plan::{DeviceName, Plan, Socket},
};
use crate::port::{MacAddr, spec::PortSpec};

/// Numbers devices and pools; no number is used twice.
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// A started ethdev with one queue in each direction.
pub struct Device {
    id: u16,
    pool: NonNull<sys::rte_mempool>,
    mac: MacAddr,
    mtu: usize,
    poll_fd: Option<RawFd>,
    _parts: Parts,
}

/// What has to be given back, in this order: the device, then the pool that it used.
#[derive(Default)]
struct Parts {
    probed: Option<Probed>,
    pool: Option<Pool>,
}

impl Device {
    /// Probes the device, sets it up by `plan` and starts it.
    pub fn open(spec: &PortSpec, plan: &Plan) -> Result<Self, DpdkError> {
        // Before `control`, so that a failure gives them back after it has let go of the lock that they need.
        let mut parts = Parts::default();
        let control = Control::start(plan.mode).map_err(|error| match error {
            EalError::Forked => DpdkError::Forked { spec: spec.clone() },
            EalError::StartedWithoutPci => DpdkError::StartedWithoutPci { spec: spec.clone() },
            EalError::Failed(detail) => DpdkError::Eal { spec: spec.clone(), detail },
        })?;
        let domain = match plan.socket {
            Socket::Packet(_) => Some(libc::AF_PACKET),
            Socket::Xdp => Some(libc::AF_XDP),
            Socket::None => None,
        };
        let sockets = || domain.map(|domain| netdev::sockets_of_domain(domain).unwrap_or_default()).unwrap_or_default();
        let before = sockets();
        let step = Step { spec, control: &control };
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = parts.probed.insert(Probed::new(&step, plan, number)?).id;
        let pool = parts.pool.insert(Pool::new(&step, plan, number, id)?).0;
        let mtu = step.configure(id, plan, pool)?;
        let mac = step.mac(id, plan)?;
        let mut new_sockets = sockets();
        new_sockets.retain(|fd| !before.contains(fd));
        new_sockets.iter().for_each(|&fd| netdev::close_on_exec(fd));
        let poll_fd = match plan.socket {
            Socket::Packet(index) => new_sockets.into_iter().find(|&fd| netdev::bound_interface(fd) == Some(index)),
            Socket::Xdp => new_sockets.first().copied(),
            Socket::None => None,
        };
        if let (Socket::Packet(_), Some(fd)) = (plan.socket, poll_fd) {
            netdev::ignore_outgoing(fd);
        }
        Ok(Self { id, pool, mac, mtu, poll_fd, _parts: parts })
    }

    /// DPDK's number of the port.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Where buffers to send are taken from.
    pub fn pool(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }

    /// Its hardware address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its MTU in bytes.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// A descriptor that becomes readable when packets wait, if the driver has one.
    pub fn poll_fd(&self) -> Option<RawFd> {
        self.poll_fd
    }
}

/// A device known to DPDK. Dropped, it is stopped, closed and removed.
struct Probed {
    bus: CString,
    name: CString,
    id: u16,
}

impl Probed {
    fn new(step: &Step<'_>, plan: &Plan, number: u32) -> Result<Self, DpdkError> {
        let limit = sys::RTE_MAX_ETHPORTS as usize;
        // SAFETY: EAL runs.
        if usize::from(unsafe { sys::rte_eth_dev_count_avail() }) >= limit {
            return Err(DpdkError::TooManyPorts { spec: step.spec.clone(), limit });
        }
        let device = match &plan.device {
            DeviceName::Given(name) => name.clone(),
            DeviceName::Numbered(driver) => format!("{driver}{number}"),
        };
        let text = |text: &str| CString::new(text).expect("the plan has no NUL in its texts");
        let (bus, name, arguments) = (text(plan.bus), text(&device), text(&plan.arguments));
        // SAFETY: three NUL-terminated strings, which EAL copies; only one thread does this at a time (Control).
        let result = with_signals_blocked(|| unsafe {
            sys::rte_eal_hotplug_add(bus.as_ptr(), name.as_ptr(), arguments.as_ptr())
        });
        if result < 0 {
            let detail = step.control.explain(result);
            return Err(DpdkError::NoDriver { spec: step.spec.clone(), device, detail });
        }
        let mut id = 0;
        // SAFETY: a NUL-terminated string and a place for the number.
        let result = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) };
        if result < 0 {
            // SAFETY: undoes the hotplug above.
            unsafe { sys::rte_eal_hotplug_remove(bus.as_ptr(), name.as_ptr()) };
            let detail = "it has no Ethernet port of its name".to_owned();
            return Err(DpdkError::NoDriver { spec: step.spec.clone(), device, detail });
        }
        Ok(Self { bus, name, id })
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        // In a forked child the device is the parent's.
        let Some(_control) = Control::again() else { return };
        // SAFETY: the device was probed by this value and nobody else closes it; its queues are not in use, for the
        // port that owns this is being dropped. Failures leave the device to the process's end.
        unsafe {
            sys::rte_eth_dev_stop(self.id);
            sys::rte_eth_dev_close(self.id);
            sys::rte_eal_hotplug_remove(self.bus.as_ptr(), self.name.as_ptr());
        }
    }
}

/// A pool of packet buffers. Dropped, it is given back to EAL's memory.
struct Pool(NonNull<sys::rte_mempool>);

impl Pool {
    fn new(step: &Step<'_>, plan: &Plan, number: u32, id: u16) -> Result<Self, DpdkError> {
        let name = CString::new(format!("rum_{number}")).expect("no NUL");
        let room = u16::try_from(plan.buffer_bytes + sys::RTE_PKTMBUF_HEADROOM as usize)
            .map_err(|_| step.failed("sizing the packet buffers", "the MTU is too large for DPDK".to_owned()))?;
        // One thread at a time uses the port, and drivers of the Ethernet links take and give back buffers only inside
        // that thread's calls; an arbitrary virtual device may do so from a thread of its own.
        let operations = match plan.socket {
            Socket::Packet(_) => c"ring_sp_sc",
            Socket::Xdp | Socket::None => c"ring_mp_mc",
        };
        // SAFETY: two NUL-terminated strings, which the pool copies; EAL runs.
        let pool = unsafe {
            let socket = sys::rte_eth_dev_socket_id(id);
            sys::rum_dpdk_pool_create(name.as_ptr(), plan.buffers, room, socket, operations.as_ptr())
        };
        let failed = || step.failed("making the packet buffers", step.control.explain_errno());
        NonNull::new(pool).map(Self).ok_or_else(failed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(_control) = Control::again() else { return };
        // SAFETY: the device that used the pool is closed, and the port has freed its buffers.
        unsafe { sys::rte_mempool_free(self.0.as_ptr()) };
    }
}

/// What the steps of opening have in common: whose they are, and the right to take them.
struct Step<'a> {
    spec: &'a PortSpec,
    control: &'a Control,
}

impl Step<'_> {
    fn failed(&self, step: &'static str, detail: String) -> DpdkError {
        DpdkError::Setup { spec: self.spec.clone(), step, detail }
    }

    fn check(&self, step: &'static str, result: c_int) -> Result<(), DpdkError> {
        if result < 0 { Err(self.failed(step, self.control.explain(result))) } else { Ok(()) }
    }

    /// Sets up one queue in each direction and starts the device; returns its MTU in bytes.
    fn configure(&self, id: u16, plan: &Plan, pool: NonNull<sys::rte_mempool>) -> Result<usize, DpdkError> {
        let mut conf = sys::rte_eth_conf::default();
        let (mut receive, mut transmit) = (plan.descriptors, plan.descriptors);
        // A packet socket takes its MTU from the interface, and its driver none.
        if let (Some(mtu), Socket::None) = (plan.mtu, plan.socket) {
            conf.rxmode.mtu = u32::try_from(mtu).map_err(|error| self.failed("the MTU", error.to_string()))?;
        }
        // SAFETY: `id` is an ethdev that was probed and not yet started; the references live during the calls, null
        // stands for a queue's default settings, and the pool outlives the device (`Parts`).
        unsafe {
            self.check("rte_eth_dev_configure", sys::rte_eth_dev_configure(id, 1, 1, &conf))?;
            let result = sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut receive, &mut transmit);
            self.check("rte_eth_dev_adjust_nb_rx_tx_desc", result)?;
            let socket = sys::rte_eth_dev_socket_id(id).cast_unsigned();
            let result = sys::rte_eth_rx_queue_setup(id, 0, receive, socket, ptr::null(), pool.as_ptr());
            self.check("rte_eth_rx_queue_setup", result)?;
            let result = sys::rte_eth_tx_queue_setup(id, 0, transmit, socket, ptr::null());
            self.check("rte_eth_tx_queue_setup", result)?;
            self.check("rte_eth_dev_start", with_signals_blocked(|| sys::rte_eth_dev_start(id)))?;
        }
        if let (Some(mtu), Socket::Packet(_) | Socket::Xdp) = (plan.mtu, plan.socket) {
            return Ok(mtu);
        }
        let mut mtu = 0;
        // SAFETY: a place for the number.
        self.check("rte_eth_dev_get_mtu", unsafe { sys::rte_eth_dev_get_mtu(id, &mut mtu) })?;
        Ok(usize::from(mtu))
    }

    /// The device's hardware address; a virtual device without one gets one of the locally administered range.
    fn mac(&self, id: u16, plan: &Plan) -> Result<MacAddr, DpdkError> {
        let mut address = sys::rte_ether_addr::default();
        // SAFETY: a place for the address.
        self.check("rte_eth_macaddr_get", unsafe { sys::rte_eth_macaddr_get(id, &mut address) })?;
        if address.addr_bytes == [0; 6] && plan.socket == Socket::None {
            address.addr_bytes = rand::random();
            address.addr_bytes[0] = address.addr_bytes[0] & 0xfc | 0x02;
            // SAFETY: a valid unicast address. A device that cannot keep it hands us all packets anyway.
            unsafe { sys::rte_eth_dev_default_mac_addr_set(id, &mut address) };
        }
        Ok(MacAddr(address.addr_bytes))
    }
}
