//! A guest with vhost-user, played by this process: DPDK's `net_virtio_user` speaks the protocol over the pod's socket from
//! the other side.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use weft_ffi::dpdk::*;

use super::frames::Mac;
use super::{Frame, Lab, PATIENCE, wait_for};

/// DPDK can be started once in a process.
pub(crate) fn buffers() -> &'static (Eal, Mempool) {
    static BUFFERS: OnceLock<(Eal, Mempool)> = OnceLock::new();
    BUFFERS.get_or_init(|| {
        let eal = Eal::start(&EalConfig { memory: 32 << 20, ..EalConfig::default() }).expect("DPDK");
        let pool = Mempool::new(&eal, "guests", 8192, 0, DATA_ROOM).expect("buffers");
        (eal, pool)
    })
}

/// What the guest's driver can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Driver {
    /// Checksums and TCP segmentation, both ways.
    pub(crate) offloads: bool,
    /// Frames may span several of its buffers (of 2 KiB).
    pub(crate) spans: bool,
    pub(crate) mtu: u16,
}

/// A running guest.
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) mac: Mac,
    _port: EthPort,
    rx: EthRx,
    tx: EthTx,
}

/// The guest's MAC address.
fn mac(host: u8) -> Mac {
    [2, 0, 0, 0, 9, host]
}

/// A guest's pod of a in the cluster file, at 10.244.0.`host` and fd00:10:244::`host`. weftd makes the socket.
pub(crate) fn guest_pod(lab: &Lab, name: &str, host: u8) -> String {
    let mut text =
        format!("[[pod]]\nname = \"{name}\"\nnode = \"a\"\nkind = \"vhost-user\"\nmode = \"server\"\n");
    let _ = write!(
        text,
        "socket = \"{}\"\nmac = \"02:00:00:00:09:{host:02x}\"\naddresses = [\"10.244.0.{host}\", \"fd00:10:244::{host:x}\"]\n",
        lab.path(name).display()
    );
    text
}

impl Guest {
    /// Boots it, and waits until weftd knows.
    pub(crate) fn start(lab: &Lab, name: &'static str, host: u8, driver: Driver) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = lab.path(name);
        wait_for("the guest's socket", || path.exists().then_some(()));
        let (eal, pool) = buffers();
        let spans = u8::from(driver.spans);
        let devargs = format!(
            "net_virtio_user{number},path={},mac=02:00:00:00:09:{host:02x},queue_size=256,mrg_rxbuf={spans}",
            path.display()
        );
        let config = EthConfig {
            rx_descriptors: 256,
            tx_descriptors: 256,
            mtu: driver.mtu,
            offloads: driver.offloads,
            ..EthConfig::default()
        };
        let mut port = EthPort::attach(eal, &devargs, pool, &config).expect("a guest");
        let (mut rx, mut tx) = port.split();
        wait_for("the guest to be seen", || {
            let ports = lab.ask(async |weftd| weftd.ports(Some(name)).await).expect("its port");
            ports.ports.iter().all(|port| port.connected).then_some(())
        });
        Self { name, mac: mac(host), _port: port, rx: rx.remove(0), tx: tx.remove(0) }
    }

    /// Sends a frame; with `work`, one that is unfinished.
    pub(crate) fn send(&mut self, frame: &[u8], work: Option<TxWork>) {
        let mut packet = buffers().1.alloc(frame.len()).expect("a buffer");
        assert!(packet.write_at(0, frame));
        assert!(packet.set_tx_work(work.as_ref()));
        let mut burst = Burst::new();
        burst.push(packet);
        let deadline = Instant::now() + PATIENCE;
        while self.tx.tx(&mut burst) == 0 {
            assert!(Instant::now() < deadline, "{}: its ring is full", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Bytes of the frames that have come in.
    pub(crate) fn take(&mut self) -> usize {
        let mut bytes = 0;
        loop {
            let mut burst = Burst::new();
            if self.rx.rx(&mut burst) == 0 {
                return bytes;
            }
            bytes += burst.iter().map(Mbuf::len).sum::<usize>();
        }
    }

    /// The frames that come in until `enough` says so; those of another protocol than TCP are passed over.
    pub(crate) fn receive(&mut self, what: &str, mut enough: impl FnMut(&[Frame]) -> bool) -> Vec<Frame> {
        let (deadline, mut frames) = (Instant::now() + PATIENCE, Vec::new());
        while !enough(&frames) {
            let mut burst = Burst::new();
            if self.rx.rx(&mut burst) == 0 {
                let lengths: Vec<_> = frames.iter().map(|frame: &Frame| frame.bytes.len()).collect();
                assert!(Instant::now() < deadline, "{}: no {what}, but frames of {lengths:?}", self.name);
                std::thread::sleep(Duration::from_millis(1));
            }
            frames.extend(burst.iter().filter_map(tcp_frame));
        }
        frames
    }
}

/// A TCP frame with what is still to be done about it.
fn tcp_frame(packet: &Mbuf) -> Option<Frame> {
    let mut bytes = Vec::new();
    packet.for_each_segment(|segment| bytes.extend_from_slice(segment));
    let l4 = match (bytes.get(12..14)?, bytes.get(23), bytes.get(20)) {
        ([8, 0], Some(6), _) => 34,
        ([0x86, 0xdd], _, Some(6)) => 54,
        _ => return None,
    };
    let partial = (packet.rx_checksum() == RxChecksum::Missing).then_some((l4, 16));
    Some(Frame { bytes, partial, gso: packet.rx_segment() })
}
