//! Ports that one of DPDK's drivers moves packets for: NICs, and virtual devices such as `net_memif`, `net_pcap`,
//! `net_null` and `net_ring`. They are attached and closed while the process runs.

mod error;

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::sync::Arc;

pub use error::EthError;

use super::eal::check;
use super::mbuf::{adopt_behind, forget_front, free_room};
use super::{BURST, Burst, Eal, Mbuf, Mempool, error_text, sys};

/// Drivers with vector instructions take so many packets at a time; asked for fewer, some of them bring none (rte_ethdev.h,
/// `rte_eth_rx_burst`).
const AT_A_TIME: usize = 8;
/// Ethernet header and two 802.1Q tags: what a frame has beside its MTU.
const L2_OVERHEAD: u32 = 14 + 8;

/// How to set up a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EthConfig {
    /// Receive queues, 1 to what the driver has.
    pub rx_queues: u16,
    /// Transmit queues, 1 to what the driver has.
    pub tx_queues: u16,
    /// Descriptors of each receive queue; rounded to what the driver can. More ride out longer pauses of the worker and
    /// cost a buffer each.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; rounded to what the driver can.
    pub tx_descriptors: u16,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Use what the device does itself: checksums both ways, segmentation.
    pub offloads: bool,
}

impl Default for EthConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            offloads: true,
        }
    }
}

/// What the driver counts. Zero where it counts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EthStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Dropped by the device because no descriptor was free.
    pub imissed: u64,
    /// Received wrong.
    pub ierrors: u64,
    /// Not sent.
    pub oerrors: u64,
    /// Not received because no buffer was free.
    pub rx_nombuf: u64,
}

/// The state of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthLink {
    /// There is a link.
    pub up: bool,
    /// In Mbit/s. 0 or 4294967295 where the driver knows none.
    pub speed: u32,
}

/// What a device does with packets that it sends, as it was set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EthOffloads {
    /// Fills in the checksums of TCP and UDP.
    pub checksum: bool,
    /// Cuts TCP, over IPv4 and IPv6.
    pub tso: bool,
    /// Segments that a packet to be cut may have.
    pub tso_segments: usize,
    /// While cutting, fills in the checksum of each IPv4 header.
    pub ip_checksum: bool,
}

/// The device, shared by the port and its queues.
struct Device {
    id: u16,
    name: String,
    /// Takes chains at tx.
    tx_chains: bool,
    offloads: EthOffloads,
    max_len: usize,
    /// Its rx rings are full of buffers from here. Through it the device keeps EAL running.
    _pool: Mempool,
}

/// A port. Made, asked and closed on control threads.
#[derive(Debug)]
pub struct EthPort {
    eal: Eal,
    /// `None` after closing.
    device: Option<Arc<Device>>,
    queues: Option<(Vec<EthRx>, Vec<EthTx>)>,
}

/// A receive queue of an [`EthPort`].
#[derive(Debug)]
pub struct EthRx {
    device: Arc<Device>,
    queue: u16,
    malformed: u32,
    /// Whether the driver has said something of a packet of the last burst.
    has_told: bool,
}

/// A transmit queue of an [`EthPort`].
#[derive(Debug)]
pub struct EthTx {
    device: Arc<Device>,
    queue: u16,
}

impl EthPort {
    /// Attaches the device that `devargs` names (a virtual device with its arguments, or a PCI address), sets it up with
    /// buffers from `pool`, and starts it in promiscuous mode. May take as long as the driver needs.
    pub fn attach(eal: &Eal, devargs: &str, pool: &Mempool, config: &EthConfig) -> Result<Self, EthError> {
        eal.close_orphans();
        let _one_at_a_time = eal.control();
        let (name, c_devargs) = device_name(devargs)?;
        // SAFETY: EAL runs; counts the ports in use.
        if u32::from(unsafe { sys::rte_eth_dev_count_avail() }) >= sys::WEFT_MAX_ETHPORTS {
            return Err(EthError::TooMany { name });
        }
        if port_by_name(&name).is_some() {
            return Err(EthError::Exists { name });
        }
        // SAFETY: EAL runs; the text is NUL-terminated and copied.
        let probed = unsafe { sys::rte_dev_probe(c_devargs.as_ptr()) };
        match (probed, port_by_name(&name)) {
            (0, Some(id)) => {
                let device = Device::set_up(id, name, pool, config).inspect_err(|_| remove(id))?;
                let device = Arc::new(device);
                let rx = (0..config.rx_queues)
                    .map(|queue| EthRx { device: Arc::clone(&device), queue, malformed: 0, has_told: false })
                    .collect();
                let tx =
                    (0..config.tx_queues).map(|queue| EthTx { device: Arc::clone(&device), queue }).collect();
                Ok(Self { eal: eal.clone(), device: Some(device), queues: Some((rx, tx)) })
            }
            (0, None) => Err(EthError::Probe { name, reason: "it is no network device".to_owned() }),
            (code, _) if -code == libc::EEXIST => Err(EthError::Exists { name }),
            (code, _) => Err(EthError::Probe { name, reason: error_text(code) }),
        }
    }

    /// The queues, each for one worker. Empty the second time.
    pub fn split(&mut self) -> (Vec<EthRx>, Vec<EthTx>) {
        self.queues.take().unwrap_or_default()
    }

    /// Stops, closes and removes the device. With queues still in use nothing happens but the error; try again when
    /// the workers have let go of them. Closing what is closed does nothing.
    pub fn close(&mut self) -> Result<(), EthError> {
        self.queues = None;
        self.eal.close_orphans();
        let Some(device) = self.device.take() else { return Ok(()) };
        match Arc::try_unwrap(device) {
            Ok(device) => {
                let _one_at_a_time = self.eal.control();
                device.close();
                Ok(())
            }
            Err(device) => {
                let busy =
                    EthError::Busy { name: device.name.clone(), queues: Arc::strong_count(&device) - 1 };
                self.device = Some(device);
                Err(busy)
            }
        }
    }

    /// DPDK's name of the device.
    pub fn name(&self) -> &str {
        self.device.as_ref().map_or("", |device| &device.name)
    }

    /// Whether packets of several segments are sent as they are. Where not, [`EthTx::tx`] copies them into one.
    pub fn sends_chains(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.tx_chains)
    }

    /// What the device does with packets that it sends.
    pub fn offloads(&self) -> EthOffloads {
        self.device.as_ref().map_or_else(EthOffloads::default, |device| device.offloads)
    }

    /// What the driver has counted since the start.
    pub fn stats(&self) -> EthStats {
        let Some(device) = &self.device else { return EthStats::default() };
        let mut raw = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: the port is attached, and the structure is plain numbers.
        let raw = unsafe {
            sys::rte_eth_stats_get(device.id, raw.as_mut_ptr());
            raw.assume_init()
        };
        EthStats {
            rx_packets: raw.ipackets,
            rx_bytes: raw.ibytes,
            tx_packets: raw.opackets,
            tx_bytes: raw.obytes,
            imissed: raw.imissed,
            ierrors: raw.ierrors,
            oerrors: raw.oerrors,
            rx_nombuf: raw.rx_nombuf,
        }
    }

    /// The device's own MAC address; zeros where it has none.
    pub fn mac(&self) -> [u8; 6] {
        let Some(device) = &self.device else { return [0; 6] };
        let mut raw = MaybeUninit::<sys::rte_ether_addr>::zeroed();
        // SAFETY: the port is attached; an address is six plain bytes, zero until they are written.
        unsafe {
            sys::rte_eth_macaddr_get(device.id, raw.as_mut_ptr());
            raw.as_ptr().cast::<[u8; 6]>().read()
        }
    }

    /// Whether there is a link, as the driver knows it now.
    pub fn link(&self) -> EthLink {
        let mut raw = MaybeUninit::<sys::rte_eth_link>::zeroed();
        let Some(device) = &self.device else { return EthLink { up: false, speed: 0 } };
        // SAFETY: the port is attached, and the structure is plain numbers.
        let raw = unsafe {
            sys::rte_eth_link_get_nowait(device.id, raw.as_mut_ptr());
            raw.assume_init()
        };
        EthLink { up: raw.link_status() != 0, speed: raw.link_speed }
    }
}

impl Drop for EthPort {
    fn drop(&mut self) {
        self.queues = None;
        let Some(device) = self.device.take() else { return };
        match Arc::try_unwrap(device) {
            Ok(device) => {
                let _one_at_a_time = self.eal.control();
                device.close();
            }
            // A worker must not be the one to close it: that waits for hardware and takes locks.
            Err(device) => self.eal.orphans().push(Orphan(device)),
        }
    }
}

/// A device whose port is gone and whose queues are not.
pub(super) struct Orphan(Arc<Device>);

impl Orphan {
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(super) fn close(self, eal: &Eal) {
        let _one_at_a_time = eal.control();
        if let Ok(device) = Arc::try_unwrap(self.0) {
            device.close();
        }
    }
}

impl Device {
    fn set_up(id: u16, name: String, pool: &Mempool, config: &EthConfig) -> Result<Self, EthError> {
        let step =
            |step, code| check(code).map_err(|reason| EthError::Setup { name: name.clone(), step, reason });
        let mut info = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
        // SAFETY: the port exists; zeroed is a valid value of this structure of numbers and pointers.
        step("query", unsafe { sys::rte_eth_dev_info_get(id, info.as_mut_ptr()) })?;
        // SAFETY: zeroed, and filled.
        let info = unsafe { info.assume_init() };
        for (direction, has, wanted) in
            [("rx", info.max_rx_queues, config.rx_queues), ("tx", info.max_tx_queues, config.tx_queues)]
        {
            if wanted == 0 || wanted > has {
                return Err(EthError::Queues { name: name.clone(), direction, has, wanted });
            }
        }
        // Drivers that know no limit say 0 or 65535.
        let max = if info.max_mtu == 0 { u16::MAX } else { info.max_mtu };
        if config.mtu < info.min_mtu || config.mtu > max {
            let (min, wanted) = (info.min_mtu, config.mtu);
            return Err(EthError::Mtu { name: name.clone(), min, max, wanted });
        }

        let mut setup = MaybeUninit::<sys::rte_eth_conf>::zeroed();
        // SAFETY: all zero is DPDK's default of this structure.
        let setup = unsafe {
            setup.assume_init_mut().rxmode.mtu = u32::from(config.mtu);
            setup.assume_init_mut()
        };
        // A frame that needs more than one buffer is received only by drivers that can scatter it.
        let fits =
            u32::from(config.mtu) + L2_OVERHEAD <= pool.data_room() as u32 - u32::from(super::HEADROOM);
        if !fits {
            setup.rxmode.offloads |= info.rx_offload_capa & sys::WEFT_RX_SCATTER;
        }
        let tx_chains =
            info.tx_offload_capa & sys::WEFT_TX_MULTI_SEGS != 0 || driver_is(&info, &TAKES_CHAINS_SILENTLY);
        setup.txmode.offloads |= info.tx_offload_capa & sys::WEFT_TX_MULTI_SEGS;
        let tso_segments = match info.tx_desc_lim.nb_seg_max {
            0 => usize::MAX,
            limit => usize::from(limit),
        };
        let mut offloads = EthOffloads { tso_segments, ..EthOffloads::default() };
        if config.offloads && !driver_is(&info, &OFFLOADS_IN_SOFTWARE) {
            let has = |capa: u64, all: u64| capa & all == all;
            if has(info.rx_offload_capa, sys::WEFT_RX_CHECKSUMS) {
                setup.rxmode.offloads |= sys::WEFT_RX_CHECKSUMS;
                if driver_is(&info, &PASSES_GSO_ON) {
                    setup.rxmode.offloads |= info.rx_offload_capa & sys::WEFT_RX_LRO;
                }
            }
            offloads.checksum = has(info.tx_offload_capa, sys::WEFT_TX_CHECKSUMS);
            offloads.tso = offloads.checksum
                && tx_chains
                && tso_segments >= LEAST_TSO_SEGMENTS
                && has(info.tx_offload_capa, sys::WEFT_TX_TSO);
            offloads.ip_checksum = offloads.tso && has(info.tx_offload_capa, sys::WEFT_TX_IP_CHECKSUM);
            for (used, flags) in [
                (offloads.checksum, sys::WEFT_TX_CHECKSUMS),
                (offloads.tso, sys::WEFT_TX_TSO),
                (offloads.ip_checksum, sys::WEFT_TX_IP_CHECKSUM),
            ] {
                setup.txmode.offloads |= if used { flags } else { 0 };
            }
        }
        let (mut rx_descriptors, mut tx_descriptors) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: the port exists and is not started; all structures live until the calls return, and drivers copy them.
        // The pool is kept by the Device.
        unsafe {
            step("configure", sys::rte_eth_dev_configure(id, config.rx_queues, config.tx_queues, setup))?;
            step(
                "descriptors",
                sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx_descriptors, &mut tx_descriptors),
            )?;
            let socket = sys::rte_eth_dev_socket_id(id) as u32;
            let mut rx_setup = info.default_rxconf;
            rx_setup.offloads = setup.rxmode.offloads;
            for queue in 0..config.rx_queues {
                let code =
                    sys::rte_eth_rx_queue_setup(id, queue, rx_descriptors, socket, &rx_setup, pool.as_ptr());
                step("rx queue", code)?;
            }
            let mut tx_setup = info.default_txconf;
            tx_setup.offloads = setup.txmode.offloads;
            for queue in 0..config.tx_queues {
                step("tx queue", sys::rte_eth_tx_queue_setup(id, queue, tx_descriptors, socket, &tx_setup))?;
            }
            step("start", sys::rte_eth_dev_start(id))?;
            // Some virtual devices have no such mode, and deliver everything anyway.
            match sys::rte_eth_promiscuous_enable(id) {
                code if -code == libc::ENOTSUP => {}
                code => step("promiscuous mode", code)?,
            }
        }
        // Some drivers deliver more than the MTU; what the switch can't carry ends here.
        let max_len = usize::from(u16::MAX) + L2_OVERHEAD as usize + 64;
        Ok(Self { id, name, tx_chains, offloads, max_len, _pool: pool.clone() })
    }

    fn close(self) {
        // No queue handle is left: `self` was the only reference.
        remove(self.id);
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name).field("id", &self.id).finish()
    }
}

impl EthRx {
    /// Appends what has come in, as far as the burst has room; how many that was.
    #[inline]
    pub fn rx(&mut self, burst: &mut Burst) -> usize {
        self.rx_few(burst, BURST)
    }

    /// As [`Self::rx`], but no more than `few`, rounded up to what every driver can be asked for: the rest stays with the device.
    #[inline]
    pub fn rx_few(&mut self, burst: &mut Burst, few: usize) -> usize {
        let room = burst.remaining_capacity().min(few.min(BURST).next_multiple_of(AT_A_TIME));
        if room == 0 {
            return 0;
        }
        let old = burst.len();
        // SAFETY: the device is started as long as `self.device` lives; the queue exists and is used by nobody else
        // (`&mut self`, one handle a queue); there is room for `room` pointers, of which the driver fills `count` with
        // chains that it gives away.
        unsafe {
            let count = sys::weft_eth_rx_burst(self.device.id, self.queue, free_room(burst), room as u16);
            let adopted = adopt_behind(burst, usize::from(count).min(room), self.device.max_len);
            self.malformed = self.malformed.saturating_add(adopted.malformed + adopted.too_long);
            self.has_told = adopted.tells();
        }
        burst.len() - old
    }

    /// Whether the driver has said something of a packet of the last [`Self::rx`] that brought any: [`Mbuf::rx_checksum`], [`Mbuf::rx_segment`].
    #[inline]
    pub fn has_told(&self) -> bool {
        self.has_told
    }

    /// How many packets were thrown away since last time because their lengths contradicted each other.
    pub fn take_malformed(&mut self) -> u32 {
        std::mem::take(&mut self.malformed)
    }
}

impl EthTx {
    /// What the device does with packets that ask for it ([`Mbuf::set_tx_work`]).
    #[inline]
    pub fn offloads(&self) -> EthOffloads {
        self.device.offloads
    }

    /// Sends from the front of the burst and leaves what the device did not take; how many it took. Packets in several
    /// segments that do not fit one, for a device that sends no chains, are left as well, and so are those with work for the
    /// device that it refuses.
    #[inline]
    pub fn tx(&mut self, burst: &mut Burst) -> usize {
        let mut unfit = Burst::new();
        if !self.device.tx_chains {
            join_segments(burst, &mut unfit);
        }
        // Only what was set up is asked of a device.
        if self.device.offloads.checksum && burst.iter().any(Mbuf::has_tx_work) {
            self.prepare(burst, &mut unfit);
        }
        // SAFETY: the device is started as long as `self.device` lives; the queue exists and is used by nobody else; the
        // burst's pointers are well-formed chains, of which the driver owns the first `count` from now on.
        let count = unsafe {
            let pointers = burst.as_mut_ptr().cast();
            sys::weft_eth_tx_burst(self.device.id, self.queue, pointers, burst.len() as u16)
        };
        let count = usize::from(count).min(burst.len());
        forget_front(burst, count);
        burst.extend(unfit);
        count
    }
}

impl EthTx {
    /// Has the driver prepare the headers of packets with work for it, and takes out those that it refuses.
    fn prepare(&mut self, burst: &mut Burst, unfit: &mut Burst) {
        let limit = self.device.offloads.tso_segments;
        if burst.iter().any(|packet| packet.segment_count() > limit) {
            for packet in std::mem::take(burst) {
                let long = packet.segment_count() > limit;
                if long { unfit.push(packet) } else { burst.push(packet) }
            }
        }
        let mut fit = 0;
        while fit < burst.len() {
            // SAFETY: the device is started as long as `self.device` lives; the burst's pointers from `fit` on are well-formed
            // chains that are ours alone, whose headers the driver writes to.
            let more = unsafe {
                let pointers = burst.as_mut_ptr().add(fit).cast();
                let count = (burst.len() - fit) as u16;
                sys::weft_eth_tx_prepare(self.device.id, self.queue, pointers, count)
            };
            fit += usize::from(more);
            if fit < burst.len() {
                unfit.push(burst.remove(fit));
            }
        }
    }
}

/// Makes chains one segment each, and takes out those that do not fit one.
#[inline]
fn join_segments(burst: &mut Burst, unfit: &mut Burst) {
    if burst.iter().all(|packet| packet.segment_count() == 1) {
        return;
    }
    for mut packet in std::mem::take(burst) {
        let len = packet.len();
        if packet.segment_count() == 1 || packet.pull_up(len) {
            burst.push(packet);
        } else {
            unfit.push(packet);
        }
    }
}

/// Drivers that take chains and do not say so.
const TAKES_CHAINS_SILENTLY: [&CStr; 3] = [c"net_null", c"net_pcap", c"net_ring"];
/// Drivers that check, fill in and cut in software, which the switch does itself and only where it is needed. (What `net_tap`
/// calls TSO cuts no IPv6.)
const OFFLOADS_IN_SOFTWARE: [&CStr; 1] = [c"net_tap"];
/// Drivers of which "large receive" brings what the sender has not cut. Of others it brings what was merged on the way, which
/// nobody can forward as it was.
const PASSES_GSO_ON: [&CStr; 2] = [c"net_virtio", c"net_virtio_user"];
/// A device that cuts takes at least so many segments: 64 KiB in small buffers, and a header.
const LEAST_TSO_SEGMENTS: usize = 34;

fn driver_is(info: &sys::rte_eth_dev_info, names: &[&CStr]) -> bool {
    if info.driver_name.is_null() {
        return false;
    }
    // SAFETY: a driver's name is a NUL-terminated text that lives as long as the driver.
    let name = unsafe { CStr::from_ptr(info.driver_name) };
    names.contains(&name)
}

/// Stops and closes a port, and detaches its device.
fn remove(id: u16) {
    // SAFETY: the port exists and nobody uses its queues. The device is asked for first: closing forgets the port.
    // Stopping what was not started does nothing.
    unsafe {
        let code = sys::rte_eth_dev_stop(id);
        if code != 0 {
            tracing::warn!("port {id} of DPDK did not stop: {}", error_text(code));
        }
        let device = sys::weft_eth_device(id);
        sys::rte_eth_dev_close(id);
        if !device.is_null() {
            let code = sys::rte_dev_remove(device);
            if code != 0 {
                tracing::warn!("DPDK did not remove the device of port {id}: {}", error_text(code));
            }
        }
    }
}

fn device_name(devargs: &str) -> Result<(String, CString), EthError> {
    let wrong = || EthError::Arguments(devargs.to_owned());
    let c_devargs = CString::new(devargs).map_err(|_| wrong())?;
    let mut name = [0u8; sys::WEFT_DEV_NAME_MAX as usize];
    // SAFETY: the text is NUL-terminated; at most `name.len()` bytes are written, with a NUL.
    let code = unsafe { sys::weft_dev_name(c_devargs.as_ptr(), name.as_mut_ptr().cast(), name.len()) };
    if code != 0 {
        return Err(wrong());
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| wrong())?.to_str().map_err(|_| wrong())?;
    if name.is_empty() {
        return Err(wrong());
    }
    Ok((name.to_owned(), c_devargs))
}

fn port_by_name(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: EAL runs; the text is NUL-terminated.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) } == 0).then_some(id)
}
