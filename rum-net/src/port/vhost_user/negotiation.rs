//! What a client says before (and while) its rings run: the slave's handler of vhost-user messages.

use std::{
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
        VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
        VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
    },
};

use super::{
    CloseReason, F_MRG_RXBUF, F_VERSION_1, device_ring::DeviceRing, memory_map::MemoryMap, notify, ring::MAX_SIZE,
};

/// The number of the ring that the slave puts packets into.
pub(super) const TO_CLIENT: usize = 0;
/// The number of the ring that the slave takes packets from.
pub(super) const FROM_CLIENT: usize = 1;

/// What is known of a ring so far.
#[derive(Debug, Default)]
struct RingSetup {
    size: u16,
    base: u16,
    /// User addresses of descriptors, available and used ring.
    addresses: Option<[u64; 3]>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
}

/// A ring ready to run.
#[derive(Debug)]
pub(super) struct ReadyRing {
    pub(super) ring: DeviceRing,
    pub(super) kick: OwnedFd,
    pub(super) call: Option<OwnedFd>,
}

/// All a client has told. Behind a mutex only because the protocol's crate asks for it; it is never contended.
#[derive(Debug)]
pub(super) struct Negotiation {
    max_memory_bytes: u64,
    owned: bool,
    features: Option<u64>,
    memory: Option<Arc<MemoryMap>>,
    rings: [RingSetup; 2],
    /// While the rings run, how far the slave has come in each, for GET_VRING_BASE.
    pub(super) running: Option<[u16; 2]>,
    /// GET_VRING_BASE asked for a ring to stop.
    pub(super) stop: bool,
    /// SET_VRING_CALL changed a running ring's descriptor.
    pub(super) new_call: [Option<Option<OwnedFd>>; 2],
    /// Set beside an error: why the connection must close.
    pub(super) reason: Option<CloseReason>,
}

pub(super) type SharedNegotiation = Arc<Mutex<Negotiation>>;

impl Negotiation {
    pub(super) fn new(max_memory_bytes: u64) -> Self {
        Self {
            max_memory_bytes,
            owned: false,
            features: None,
            memory: None,
            rings: Default::default(),
            running: None,
            stop: false,
            new_call: [None, None],
            reason: None,
        }
    }

    pub(super) fn mergeable(&self) -> bool {
        self.features.is_some_and(|features| features & F_MRG_RXBUF != 0)
    }

    /// Both rings, once all was said that they need.
    pub(super) fn start(&mut self) -> std::result::Result<Option<[ReadyRing; 2]>, CloseReason> {
        let complete = |ring: &RingSetup| ring.size != 0 && ring.addresses.is_some() && ring.kick.is_some();
        if self.running.is_some() || !self.owned || self.features.is_none() || !self.rings.iter().all(complete) {
            return Ok(None);
        }
        let Some(memory) = self.memory.clone() else { return Ok(None) };
        let mut ready = Vec::with_capacity(2);
        for setup in &mut self.rings {
            let (Some(addresses), Some(kick)) = (setup.addresses, setup.kick.take()) else { return Ok(None) };
            let ring =
                DeviceRing::new(memory.clone(), setup.size, addresses, setup.base).ok_or(CloseReason::BadRingSetup)?;
            ready.push(ReadyRing { ring, kick, call: setup.call.take() });
        }
        self.running = Some([0; 2]);
        Ok(ready.try_into().ok())
    }

    fn refuse<T>(&mut self, reason: CloseReason, why: &dyn std::fmt::Display) -> Result<T> {
        tracing::debug!("vhost-user client refused: {reason}: {why}");
        self.reason = Some(reason);
        Err(Error::InvalidParam)
    }

    /// The setup of a ring that does not run.
    fn ring(&mut self, index: u32) -> Result<&mut RingSetup> {
        if self.running.is_some() || index as usize >= self.rings.len() {
            return self.refuse(CloseReason::BadRingSetup, &format_args!("ring {index} does not exist or runs"));
        }
        Ok(&mut self.rings[index as usize])
    }

    fn take_eventfd(&mut self, file: Option<File>) -> Result<Option<OwnedFd>> {
        let fd = file.map(OwnedFd::from);
        match fd {
            Some(fd) if !notify::is_eventfd(&fd) => {
                self.refuse(CloseReason::BadRingSetup, &"a kick or call descriptor that is no eventfd")
            }
            fd => Ok(fd),
        }
    }

    fn unserved<T>(&mut self) -> Result<T> {
        self.refuse(CloseReason::BadMessage, &"a message that is not served")
    }
}

impl VhostUserBackendReqHandlerMut for Negotiation {
    fn set_owner(&mut self) -> Result<()> {
        self.owned = true;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(F_VERSION_1 | F_MRG_RXBUF)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if self.running.is_some() || features & F_VERSION_1 == 0 || features & !(F_VERSION_1 | F_MRG_RXBUF) != 0 {
            return self.refuse(CloseReason::BadMessage, &format_args!("features {features:#x}"));
        }
        self.features = Some(features);
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        if self.memory.is_some() {
            return self.refuse(CloseReason::BadMemory, &"a second memory table");
        }
        match MemoryMap::of_client(regions, files, self.max_memory_bytes) {
            Ok(memory) => self.memory = Some(Arc::new(memory)),
            Err(error) => return self.refuse(CloseReason::BadMemory, &error),
        }
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        match u16::try_from(num) {
            Ok(size) if size.is_power_of_two() && size <= MAX_SIZE => {
                self.ring(index)?.size = size;
                Ok(())
            }
            _ => self.refuse(CloseReason::BadRingSetup, &format_args!("a ring of {num} entries")),
        }
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return self.refuse(CloseReason::BadRingSetup, &"dirty logging is not served");
        }
        self.ring(index)?.addresses = Some([descriptor, available, used]);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        match u16::try_from(base) {
            Ok(base) => {
                self.ring(index)?.base = base;
                Ok(())
            }
            Err(_) => self.refuse(CloseReason::BadRingSetup, &format_args!("base {base}")),
        }
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let position = index as usize;
        if position >= self.rings.len() {
            return self.refuse(CloseReason::BadRingSetup, &format_args!("ring {index} does not exist"));
        }
        if let Some(bases) = self.running.take() {
            // Stopping one ring stops both: the pair is one device.
            for (ring, base) in self.rings.iter_mut().zip(bases) {
                ring.base = base;
            }
            self.stop = true;
        }
        self.rings[position].kick = None;
        Ok(VhostUserVringState::new(index, self.rings[position].base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = self.take_eventfd(fd)?;
        self.ring(index.into())?.kick = fd;
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = self.take_eventfd(fd)?;
        if self.running.is_some() && usize::from(index) < self.rings.len() {
            self.new_call[usize::from(index)] = Some(fd);
        } else {
            self.ring(index.into())?.call = fd;
        }
        Ok(())
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        Ok(())
    }

    // None of the following is offered, so no honest client asks for it, and `connection` lets none of them pass.
    fn reset_owner(&mut self) -> Result<()> {
        self.unserved()
    }
    fn reset_device(&mut self) -> Result<()> {
        self.unserved()
    }
    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        self.unserved()
    }
    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        self.unserved()
    }
    fn get_queue_num(&mut self) -> Result<u64> {
        self.unserved()
    }
    fn set_vring_enable(&mut self, _index: u32, _enable: bool) -> Result<()> {
        self.unserved()
    }
    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.unserved()
    }
    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.unserved()
    }
    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        self.unserved()
    }
    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        self.unserved()
    }
    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        self.unserved()
    }
    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        self.unserved()
    }
    fn get_max_mem_slots(&mut self) -> Result<u64> {
        self.unserved()
    }
    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        self.unserved()
    }
    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.unserved()
    }
    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        self.unserved()
    }
    fn check_device_state(&mut self) -> Result<()> {
        self.unserved()
    }
    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.unserved()
    }
    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        self.unserved()
    }
}
