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

/// Sends to whoever is connected; how many packets that were.
fn send_to(tx: &mut VhostTx, burst: &mut Burst) -> usize {
    tx.guest().map_or(0, |guest| tx.tx(guest, burst))
}

struct InProcess {
    rx: EthRx,
    tx: EthTx,
    port: EthPort,
}

impl InProcess {
    /// One that wants no offloads. (With them its driver negotiates twice, which looks like two guests.)
    fn new(eal: &Eal, pool: &Mempool, devargs: &str) -> Self {
        Self::with(eal, pool, devargs, 9000, false)
    }

    fn with(eal: &Eal, pool: &Mempool, devargs: &str, mtu: u16, offloads: bool) -> Self {
        let config =
            EthConfig { mtu, rx_descriptors: 256, tx_descriptors: 256, offloads, ..EthConfig::default() };
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
    // The first: before any port there is no thread for guests' messages.
    ports_that_come_at_once(&lab);
    paths_that_cannot_be(&lab);
    stale_sockets_are_replaced(&lab);
    packets_in_both_directions(&lab);
    features_are_as_the_guest_wants_them(&lab);
    unfinished_frames_in_both_directions(&lab);
    sleeping_wakes_up(&lab);
    client_reconnects(&lab);
    guests_come_and_go_under_load(&lab);
    wait_for("every buffer to be back", || lab.pool.in_use() == 0);
}

/// As at weftd's start: there is one thread that reads guests' messages, whoever made it.
fn ports_that_come_at_once(lab: &Lab) {
    let all_there = std::sync::Barrier::new(8);
    thread::scope(|scope| {
        let register = |number: usize| {
            let (path, all_there) = (lab.path(&format!("at-once-{number}")), &all_there);
            scope.spawn(move || {
                all_there.wait();
                let config = VhostConfig::default();
                VhostPort::register(&lab.eal, Path::new(&path), VhostMode::Server, &config).map(drop)
            })
        };
        let registered: Vec<_> = (0..8).map(register).collect();
        for port in registered {
            port.join().unwrap().unwrap();
        }
    });
    let names = std::fs::read_dir("/proc/self/task").unwrap().map(|task| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default().trim().to_owned()
    });
    assert_eq!(names.filter(|name| name == "vhost-events").count(), 1);
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
    assert_eq!(send_to(&mut tx, &mut waiting), 0);
    assert_eq!(waiting.len(), 1, "without a guest everything stays");

    let mut guest =
        InProcess::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path},queue_size=256"));
    wait_for("the guest to be connected", || port.connected());
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
            send_to(&mut tx, &mut burst);
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
    assert_eq!(send_to(&mut tx, &mut waiting), 0);
    assert!(rx.arm());
}

/// Feature bits of virtio 1.2, section 5.1.3.
const CHECKSUMS: u64 = 1 << 0 | 1 << 1;
const TSO: u64 = 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;

fn features_are_as_the_guest_wants_them(lab: &Lab) {
    let path = lab.path("features");
    let (port, _rx, mut tx) = lab.port(&path, VhostMode::Server);
    assert!(tx.guest().is_none());
    let all = format!("net_virtio_user0,path={path}");
    let single = format!("net_virtio_user0,path={path},mrg_rxbuf=0");
    let mut before = None;
    // (arguments, the guest uses what it is offered): takes partial checksums, TCP to be segmented
    for (args, offloads, partial, tso) in [
        (&all, true, true, true),
        (&all, false, false, false),
        (&single, true, true, false),
        (&all, true, true, true),
    ] {
        // Without buffers that a frame may span, only what fits one.
        let mtu = if args == &all { 9000 } else { 1500 };
        let guest = InProcess::with(&lab.eal, &lab.pool, args, mtu, offloads);
        wait_for("the guest to be connected", || tx.guest().is_some());
        let features = port.features();
        assert_eq!(features & CHECKSUMS == CHECKSUMS, offloads, "{args}: {features:#x}");
        assert_eq!(features & TSO == TSO, offloads, "{args}: {features:#x}");
        assert_eq!(features & (1 << 6 | 1 << 10 | 1 << 14 | 1 << 34), 0, "never offered: {features:#x}");
        let now = tx.guest().unwrap();
        assert_eq!(
            (now.takes_partial(), now.takes_tso4(), now.takes_tso6(), now.spans_buffers()),
            (partial, tso, tso, args == &all)
        );
        // What was found out about a guest is not used for the next.
        let (mut burst, _) = packets(&lab.pool, &[60]);
        if let Some(before) = before.replace(now) {
            assert_eq!(tx.tx(before, &mut burst), 0);
        }
        assert_eq!(tx.tx(now, &mut burst), 1);
        drop(guest);
        wait_for("the guest to be gone", || tx.guest().is_none());
    }
}

/// The sum of 16-bit words, folded (RFC 1071).
fn sum_of(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A TCP frame with so much payload whose checksum is to be filled in, and what a driver is to be told of it.
fn unfinished(pool: &Mempool, v6: bool, payload: usize, segment: Option<u16>) -> (Mbuf, TxWork, Vec<u8>) {
    let len = (20 + payload) as u16;
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let addresses: &[u8] = if v6 { &[0x20; 32] } else { &[10; 8] };
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(len.to_be_bytes());
        bytes.extend([6, 64]);
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((20 + len).to_be_bytes());
        bytes.extend([0, 1, 0, 0, 64, 6]);
        let checksum = !sum_of(&[&bytes[14..], addresses].concat());
        bytes.extend(checksum.to_be_bytes());
    }
    bytes.extend(addresses);
    let pseudo = sum_of(&[addresses, &[0, 6], &len.to_be_bytes()].concat());
    bytes.extend([0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 5 << 4, 0x10, 1, 0]);
    bytes.extend(pseudo.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend((0..payload).map(|at| (at as u8).wrapping_mul(31)));
    let mut packet = pool.alloc(bytes.len()).unwrap();
    assert!(packet.write_at(0, &bytes));
    let (l3_len, upper) = (if v6 { 40 } else { 20 }, Upper::Tcp);
    let work = TxWork { l2_len: 14, l3_len, l4_len: 20, v6, upper, segment, ip_checksum: false };
    (packet, work, bytes)
}

fn unfinished_frames_in_both_directions(lab: &Lab) {
    let path = lab.path("unfinished");
    let (port, mut rx, mut tx) = lab.port(&path, VhostMode::Server);
    let args = format!("net_virtio_user0,path={path},queue_size=256");
    let mut guest = InProcess::with(&lab.eal, &lab.pool, &args, 9000, true);
    wait_for("the guest to be connected", || port.connected());
    let offloads = guest.port.offloads();
    assert!(offloads.checksum && offloads.tso && !offloads.ip_checksum);
    for v6 in [false, true] {
        for (payload, segment) in [
            (0, None),
            (1000, None),
            (8900, None),
            (100, Some(1448)),
            (20_000, Some(1448)),
            (65_000, Some(536)),
        ] {
            let (mut packet, work, bytes) = unfinished(&lab.pool, v6, payload, segment);
            assert!(packet.set_tx_work(Some(&work)));
            let mut burst = Burst::new();
            burst.push(packet);
            guest.send(burst);
            let mut burst = Burst::new();
            wait_for("the guest's frame", || rx.rx(&lab.pool, &mut burst) == 1);
            assert_eq!(burst[0].rx_checksum(), RxChecksum::Missing);
            assert_eq!(burst[0].rx_segment(), segment);
            assert_eq!(bytes_of(&burst[0]), bytes, "{v6} {payload} {segment:?}");

            let packet = &mut burst[0];
            assert!(packet.pull_up(work.l2_len + work.l3_len + work.l4_len));
            assert!(packet.set_tx_work(Some(&work)));
            if segment.is_some() {
                assert!(VhostTx::keep_sum(packet, work.l2_len + work.l3_len + work.l4_len));
            }
            assert_eq!(bytes_of(packet), bytes);
            wait_for("room in the guest", || send_to(&mut tx, &mut burst) == 1);
            wait_for("the frame in the guest", || guest.rx.rx(&mut burst) == 1);
            assert_eq!(burst[0].rx_checksum(), RxChecksum::Missing);
            assert_eq!(burst[0].rx_segment(), segment);
            // With the sum over the length too, which the library leaves out of frames to be segmented.
            assert_eq!(bytes_of(&burst[0]), bytes, "{v6} {payload} {segment:?}");
        }
    }
    // What was to be done to a packet is not done to the next one.
    let (mut packet, work, bytes) = unfinished(&lab.pool, false, 1000, None);
    assert!(packet.set_tx_work(Some(&work)) && packet.set_tx_work(None));
    let mut burst = Burst::new();
    burst.push(packet);
    assert_eq!(send_to(&mut tx, &mut burst), 1);
    wait_for("the frame in the guest", || guest.rx.rx(&mut burst) == 1);
    assert_eq!((burst[0].rx_checksum(), burst[0].rx_segment()), (RxChecksum::Unknown, None));
    assert_eq!(bytes_of(&burst[0]), bytes);
    burst.clear();

    // Lengths that do not fit their fields, and headers that are not in one piece.
    let (mut packet, work, _) = unfinished(&lab.pool, false, 100, None);
    for wrong in [
        TxWork { l2_len: 128, ..work },
        TxWork { l3_len: 512, ..work },
        TxWork { l4_len: 256, ..work },
        TxWork { l2_len: usize::MAX, ..work },
        TxWork { l4_len: 200, ..work },
    ] {
        assert!(!packet.set_tx_work(Some(&wrong)), "{wrong:?}");
    }
    assert!(!VhostTx::keep_sum(&mut packet, 0) && !VhostTx::keep_sum(&mut packet, 1000));
    assert_eq!(packet.segment_count(), 1);
    let dry = Mempool::new(&lab.eal, "dry-heads", 1, 0, DATA_ROOM).unwrap();
    let mut last = dry.alloc(100).unwrap();
    assert!(!last.split_head(50));
    assert_eq!((last.len(), last.segment_count(), dry.available()), (100, 1, 0));
}

fn sleeping_wakes_up(lab: &Lab) {
    let path = lab.path("sleep");
    let (port, mut rx, mut tx) = lab.port(&path, VhostMode::Server);
    let fd = rx.wait_fd().as_raw_fd();
    assert!(rx.arm());
    assert!(!readable(&rx, 0), "awake without a guest");
    let mut burst = Burst::new();
    for round in 1..=3 {
        let mut guest = InProcess::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path}"));
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
            assert_eq!(send_to(&mut tx, &mut burst), 1);
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
        let mut guest =
            InProcess::new(&lab.eal, &lab.pool, &format!("net_virtio_user0,path={path},server=1"));
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
        assert_eq!(send_to(&mut tx, &mut burst), 2);
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
                carried.fetch_add(send_to(&mut tx, &mut burst) as u64, Ordering::Relaxed);
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
        let args = format!("net_virtio_user0,path={path}");
        let mut guest = InProcess::with(&lab.eal, &lab.pool, &args, 9000, true);
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
