//! vhost-user ports with a guest in the same process: DPDK's `net_virtio_user`, which speaks the protocol over a real
//! socket from its own side. EAL starts once in a process, so this is one test with sections.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_ffi::dpdk::*;

/// Asks again until it is so; a minute at most.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the queue's descriptor gets readable within `timeout` milliseconds.
fn readable(rx: &VhostRx, timeout: i32) -> bool {
    let mut poll = libc::pollfd { fd: rx.wait_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, timeout) == 1 }
}

fn bytes_of(packet: &Mbuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.for_each_segment(|segment| bytes.extend_from_slice(segment));
    bytes
}

/// One packet of each length, and its bytes.
fn packets(pool: &Mempool, lengths: &[usize]) -> (Burst, Vec<Vec<u8>>) {
    let mut burst = Burst::new();
    let mut copies = Vec::new();
    for (seed, &len) in lengths.iter().enumerate() {
        let bytes: Vec<u8> =
            (0..len).map(|at| (at as u8).wrapping_mul(29).wrapping_add(seed as u8)).collect();
        let mut packet = pool.alloc(len).unwrap();
        assert!(packet.write_at(0, &bytes));
        burst.push(packet);
        copies.push(bytes);
    }
    (burst, copies)
}

struct Guest {
    rx: EthRx,
    tx: EthTx,
    port: EthPort,
}

impl Guest {
    fn new(eal: &Eal, pool: &Mempool, devargs: &str) -> Self {
        let config =
            EthConfig { mtu: 9000, rx_descriptors: 256, tx_descriptors: 256, ..EthConfig::default() };
        let mut port = EthPort::attach(eal, devargs, pool, &config).unwrap();
        let (mut rx, mut tx) = port.split();
        Self { rx: rx.remove(0), tx: tx.remove(0), port }
    }

    /// Sends all of it.
    fn send(&mut self, mut burst: Burst) {
        wait_for("the guest to send", || {
            self.tx.tx(&mut burst);
            burst.is_empty()
        });
    }
}

struct Lab {
    eal: Eal,
    pool: Mempool,
    folder: tempfile::TempDir,
}

impl Lab {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn port(&self, path: &str, mode: VhostMode) -> (VhostPort, VhostRx, VhostTx) {
        let config = VhostConfig::default();
        let mut port = VhostPort::register(&self.eal, Path::new(path), mode, &config).unwrap();
        let (mut rx, mut tx) = port.split();
        assert_eq!((rx.len(), tx.len()), (1, 1));
        (port, rx.remove(0), tx.remove(0))
    }

    fn register_error(&self, path: &str, mode: VhostMode) -> VhostError {
        VhostPort::register(&self.eal, Path::new(path), mode, &VhostConfig::default()).unwrap_err()
    }
}

#[test]
fn guests() {
    let eal = Eal::start(&EalConfig { memory: 48 << 20, ..EalConfig::default() }).unwrap();
    let pool = Mempool::new(&eal, "test", 8192, 256, DATA_ROOM).unwrap();
    let lab = Lab { eal, pool, folder: tempfile::tempdir().unwrap() };
    paths_that_cannot_be(&lab);
    stale_sockets_are_replaced(&lab);
    packets_in_both_directions(&lab);
    sleeping_wakes_up(&lab);
    client_reconnects(&lab);
    guests_come_and_go_under_load(&lab);
    wait_for("every buffer to be back", || lab.pool.in_use() == 0);
}

fn paths_that_cannot_be(lab: &Lab) {
    let long = lab.path(&"x".repeat(108));
    assert!(matches!(lab.register_error(&long, VhostMode::Server), VhostError::Path(_)));
    let nowhere = lab.path("nowhere/socket");
    assert!(matches!(
        lab.register_error(&nowhere, VhostMode::Server),
        VhostError::Refused { step: "listen", .. }
    ));
    let file = lab.path("file");
    File::create(&file).unwrap();
    assert!(matches!(lab.register_error(&file, VhostMode::Server), VhostError::InUse { .. }));
    assert!(Path::new(&file).exists(), "somebody's file was removed");
    let config = VhostConfig { queue_pairs: 9 };
    let pairs = VhostPort::register(&lab.eal, Path::new("p"), VhostMode::Client, &config);
    assert!(matches!(pairs, Err(VhostError::QueuePairs { pairs: 9, .. })));
}

fn stale_sockets_are_replaced(lab: &Lab) {
    let path = lab.path("stale");
    let listener = UnixListener::bind(&path).unwrap();
    assert!(matches!(lab.register_error(&path, VhostMode::Server), VhostError::InUse { .. }));
    drop(listener);
    let (port, ..) = lab.port(&path, VhostMode::Server);
    assert!(matches!(lab.register_error(&path, VhostMode::Server), VhostError::Exists(_)));
    assert!(Path::new(port.path()).exists());
    drop(port);
    assert!(!Path::new(&path).exists(), "the socket was left behind");
    // And again, as if nothing had been.
    drop(lab.port(&path, VhostMode::Client));
    drop(lab.port(&path, VhostMode::Server));
}

fn packets_in_both_directions(lab: &Lab) {
    let path = lab.path("pair");
    let (port, mut rx, mut tx) = lab.port(&path, VhostMode::Server);
    let mut burst = Burst::new();
    assert!(!port.connected() && !tx.connected());
    assert_eq!((rx.rx(&lab.pool, &mut burst), port.features()), (0, 0));
    let (mut waiting, _) = packets(&lab.pool, &[60]);
    assert_eq!(tx.tx(&mut waiting), 0);
    assert_eq!(waiting.len(), 1, "without a guest everything stays");

    let mut guest = Guest::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path},queue_size=256"));
    wait_for("the guest to be connected", || port.connected());
    assert_eq!(port.features() & 0x7f83, 0, "an offload was negotiated: {:#x}", port.features());
    assert_ne!(port.features() & 1 << 32, 0, "VIRTIO_F_VERSION_1 is missing: {:#x}", port.features());
    assert_ne!(port.features() & 1 << 15, 0, "VIRTIO_NET_F_MRG_RXBUF is missing: {:#x}", port.features());

    let lengths = [60, 61, 1514, 2048, 2049, 4300, 9014];
    for _ in 0..100 {
        let (out, sent) = packets(&lab.pool, &lengths);
        guest.send(out);
        burst.clear();
        wait_for("the guest's packets", || {
            rx.rx(&lab.pool, &mut burst);
            burst.len() == lengths.len()
        });
        assert_eq!(burst.iter().map(bytes_of).collect::<Vec<_>>(), sent);
        assert!(burst.iter().all(|packet| packet.meta() == 0));

        wait_for("room in the guest", || {
            tx.tx(&mut burst);
            burst.is_empty()
        });
        wait_for("the packets in the guest", || {
            guest.rx.rx(&mut burst);
            burst.len() == lengths.len()
        });
        assert_eq!(burst.iter().map(bytes_of).collect::<Vec<_>>(), sent);
    }
    assert_eq!((rx.take_malformed(), rx.take_too_long()), (0, 0));
    burst.clear();

    // A guest may send what it likes; 64 KiB is carried, more is not.
    let (out, sent) = packets(&lab.pool, &[65535 + 18, 65535 + 19, 60]);
    guest.send(out);
    wait_for("the long packet and the one behind", || {
        rx.rx(&lab.pool, &mut burst);
        burst.len() == 2
    });
    assert_eq!(burst.iter().map(bytes_of).collect::<Vec<_>>(), [sent[0].clone(), sent[2].clone()]);
    assert_eq!((rx.take_malformed(), rx.take_too_long()), (0, 1));
    burst.clear();

    // An empty pool leaves the packets where they are.
    let dry = Mempool::new(&lab.eal, "dry", 1, 0, DATA_ROOM).unwrap();
    let last = dry.alloc(1).unwrap();
    guest.send(packets(&lab.pool, &[60]).0);
    assert_eq!(rx.rx(&dry, &mut burst), 0);
    drop(last);
    assert_eq!(rx.rx(&dry, &mut burst), 1);
    burst.clear();

    // The port goes while the guest is there; the queues stay and find nobody.
    drop(port);
    assert_eq!(rx.rx(&lab.pool, &mut burst), 0);
    assert_eq!(tx.tx(&mut waiting), 0);
    assert!(rx.arm());
}

fn sleeping_wakes_up(lab: &Lab) {
    let path = lab.path("sleep");
    let (port, mut rx, mut tx) = lab.port(&path, VhostMode::Server);
    let fd = rx.wait_fd().as_raw_fd();
    assert!(rx.arm());
    assert!(!readable(&rx, 0), "awake without a guest");
    let mut burst = Burst::new();
    for round in 1..=3 {
        let mut guest = Guest::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path}"));
        assert!(readable(&rx, 60_000), "a guest came, and nobody woke up");
        wait_for("the guest", || port.connected());
        assert_eq!(port.connects(), round);
        rx.disarm();
        for _ in 0..20 {
            // What is there already keeps the worker from sleeping.
            guest.send(packets(&lab.pool, &[60]).0);
            assert!(!rx.arm());
            rx.disarm();
            wait_for("the packet", || rx.rx(&lab.pool, &mut burst) == 1);
            burst.clear();
            assert!(rx.arm());
            assert!(!readable(&rx, 0), "awake without a packet");
            guest.send(packets(&lab.pool, &[60]).0);
            assert!(readable(&rx, 60_000), "a packet came, and nobody woke up");
            rx.disarm();
            assert!(!readable(&rx, 0), "still readable after disarm");
            wait_for("the packet", || rx.rx(&lab.pool, &mut burst) == 1);
            assert_eq!(tx.tx(&mut burst), 1);
        }
        rx.arm();
        drop(guest);
        wait_for("the guest to be gone", || !port.connected());
        rx.disarm();
        assert!(rx.arm() && !readable(&rx, 0));
        assert_eq!(rx.wait_fd().as_raw_fd(), fd);
    }
}

fn client_reconnects(lab: &Lab) {
    let path = lab.path("client");
    let (port, mut rx, mut tx) = lab.port(&path, VhostMode::Client);
    let mut burst = Burst::new();
    for round in 1..=2 {
        let mut guest = Guest::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path},server=1"));
        // This guest takes a connection when it is asked for its link.
        wait_for("weft to connect", || {
            guest.port.link();
            port.connected()
        });
        assert_eq!(port.connects(), round);
        let (out, sent) = packets(&lab.pool, &[60, 9014]);
        guest.send(out);
        wait_for("the guest's packets", || {
            rx.rx(&lab.pool, &mut burst);
            burst.len() == 2
        });
        assert_eq!(tx.tx(&mut burst), 2);
        wait_for("the packets in the guest", || {
            guest.rx.rx(&mut burst);
            burst.len() == 2
        });
        assert_eq!(burst.iter().map(bytes_of).collect::<Vec<_>>(), sent);
        burst.clear();
        drop(guest);
        wait_for("the guest to be gone", || !port.connected());
        let _ = std::fs::remove_file(&path);
    }
}

/// The library's thread takes devices away while a worker is at work.
fn guests_come_and_go_under_load(lab: &Lab) {
    let path = lab.path("load");
    let (port, mut rx, mut tx) = lab.port(&path, VhostMode::Server);
    let stop = Arc::new(AtomicBool::new(false));
    let carried = Arc::new(AtomicU64::new(0));
    let worker = thread::spawn({
        let (eal, pool, stop, carried) =
            (lab.eal.clone(), lab.pool.clone(), Arc::clone(&stop), Arc::clone(&carried));
        move || {
            let _registered = eal.register_thread().unwrap();
            let mut burst = Burst::new();
            let mut turn = 0u32;
            while !stop.load(Ordering::Relaxed) {
                rx.rx(&pool, &mut burst);
                carried.fetch_add(tx.tx(&mut burst) as u64, Ordering::Relaxed);
                burst.clear();
                turn = turn.wrapping_add(1);
                if turn % 8 == 0 {
                    rx.arm();
                    rx.disarm();
                    thread::yield_now();
                }
            }
        }
    });
    for _ in 0..8 {
        let mut guest = Guest::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path}"));
        let before = carried.load(Ordering::Relaxed);
        let mut burst = Burst::new();
        wait_for("packets to be carried", || {
            lab.pool.alloc_burst(64, 32, &mut burst);
            guest.tx.tx(&mut burst);
            burst.clear();
            guest.rx.rx(&mut burst);
            burst.clear();
            carried.load(Ordering::Relaxed) > before + 500
        });
        drop(guest);
        wait_for("the guest to be gone", || !port.connected());
    }
    drop(port);
    stop.store(true, Ordering::Relaxed);
    worker.join().unwrap();
}
