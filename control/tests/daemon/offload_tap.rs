//! Ordinary pods hand over large frames and unfinished checksums, and each worker has a queue of their interfaces.

use std::ffi::OsStr;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use crate::lab::{Lab, Namespace, Weftd, once_free, tap_pod, tap_spec, wait_for};
use crate::tunnel::stream;

/// Of a port's counters: frames and bytes received from it, and sent to it.
fn counted(lab: &Lab, port: &str) -> [u64; 4] {
    let stats = lab.stats();
    let port = stats.ports.iter().find(|there| there.name == port).expect("the port");
    [port.rx_packets, port.rx_bytes, port.tx_packets, port.tx_bytes]
}

#[test]
fn a_transfer_between_pods_stays_in_large_frames() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    let host = lab.status().host_port.expect("a host port");
    for (to, port, address) in [
        (&db, "db", "10.244.0.3"),
        (&db, "db", "fd00:10:244::3"),
        (&lab.node, host.as_str(), "10.244.0.1"),
        (&lab.node, host.as_str(), "fd00:10:244::1"),
    ] {
        let before = (counted(&lab, "web"), counted(&lab, port));
        stream(&web, to, address);
        let after = (counted(&lab, "web"), counted(&lab, port));
        let [packets, bytes, ..] = [0, 1].map(|at| after.0[at] - before.0[at]);
        assert!(bytes > 4 << 20, "{bytes} bytes");
        assert!(bytes / packets > 2 * 1500, "{packets} frames for {bytes} bytes from the pod");
        let [packets, bytes] = [2, 3].map(|at| after.1[at] - before.1[at]);
        assert!(bytes / packets > 2 * 1500, "{packets} frames for {bytes} bytes to {port}");
    }
    lab.counters_balance();
    assert_eq!(lab.drops("rx_bad_offload") + lab.drops("gso_malformed"), 0);
}

/// Whether the kernel has TAPs hand over UDP GSO frames.
fn kernel_has_uso() -> bool {
    let release = nix::sys::utsname::uname().expect("a kernel").release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6u32, 2u32)
}

#[test]
fn datagrams_that_are_sent_together_stay_together() {
    const SIZE: usize = 1000;
    const COUNT: usize = 40;
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    for (from, to) in [("10.244.0.2", "10.244.0.3"), ("fd00:10:244::2", "fd00:10:244::3")] {
        let [from, to] = [from, to].map(|address| SocketAddr::new(address.parse().unwrap(), 5300));
        assert!(web.pings(&to.ip().to_string()));
        let receiver = db.enter(move || once_free(|| UdpSocket::bind(to))).join().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let sent: Vec<u8> = (0..SIZE * COUNT).map(|at| (at / 7 % 251) as u8).collect();
        let before = (lab.received("web"), counted(&lab, "db")[2]);
        let whole = sent.clone();
        web.enter(move || {
            let socket = once_free(|| UdpSocket::bind(from));
            setsockopt(&socket, UdpGsoSegment, &(SIZE as i32)).expect("a kernel with UDP GSO");
            assert_eq!(socket.send_to(&whole, to).expect("a way"), whole.len());
        })
        .join()
        .unwrap();
        for datagram in sent.chunks(SIZE) {
            let mut buffer = [0; 2 * SIZE];
            let length = receiver.recv(&mut buffer).expect("all of them arrive");
            assert!(buffer[..length] == *datagram, "to {to}: {length} bytes, or others");
        }
        let frames = (lab.received("web") - before.0, counted(&lab, "db")[2] - before.1);
        let most = if kernel_has_uso() { COUNT as u64 / 2 } else { COUNT as u64 + 10 };
        assert!(frames.0 <= most && frames.1 <= most, "{frames:?} frames");
    }
}

/// Whether each worker has a queue of the port.
fn is_spread(lab: &Lab, port: &str) -> bool {
    let ports = lab.ask(async |weftd| weftd.ports(Some(port)).await).expect("the port");
    ports.ports.iter().all(|port| port.worker.is_none())
}

fn wait_until_spread(lab: &Lab, ports: &[&str]) {
    for port in ports {
        wait_for(&format!("{port} to be every worker's"), || is_spread(lab, port).then_some(()));
    }
}

/// The queues that somebody has open.
fn open_queues(namespace: &Namespace, device: &str) -> u64 {
    let link = namespace.json(&format!("-d link show dev {device}")).remove(0);
    link["linkinfo"]["info_data"]["numqueues"].as_u64().expect("it can have several")
}

/// An echo each way for so many flows of their own.
fn exchange(from: &Namespace, to: &Namespace, address: &'static str, flows: usize) {
    let server = to.enter(move || once_free(|| UdpSocket::bind((address, 5400)))).join().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let clients = from.enter(move || {
        let clients: Vec<_> = (0..flows)
            .map(|_| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
                socket.connect((address, 5400)).expect("an address");
                socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
                socket
            })
            .collect();
        for round in 0..5u8 {
            clients.iter().for_each(|client| assert_eq!(client.send(&[round]).expect("a way"), 1));
            for client in &clients {
                let mut buffer = [0; 8];
                assert_eq!(client.recv(&mut buffer).expect("an answer"), 1);
                assert_eq!(buffer[0], round, "answers come in order");
            }
        }
    });
    for _ in 0..flows * 5 {
        let mut buffer = [0; 8];
        let (length, client) = server.recv_from(&mut buffer).expect("all of them arrive");
        server.send_to(&buffer[..length], client).expect("a way back");
    }
    clients.join().expect("the clients");
}

#[test]
fn every_worker_gets_a_queue_of_each_pod() {
    let lab = Lab::new();
    lab.configure("workers = 2", "", "");
    let (web, db, old) = (Namespace::new("web"), Namespace::new("db"), Namespace::new("old"));
    // Somebody has made this one, for one queue.
    old.ip("tuntap add dev eth0 mode tap");
    let pods = [("web", 2, &web), ("db", 3, &db), ("old", 4, &old)];
    lab.write_cluster(&pods.map(|(name, host, netns)| tap_pod(name, host, netns)).concat());
    let weftd = lab.start();
    let host = lab.status().host_port.expect("a host port");
    let pings = web.stream("10.244.0.3");
    let spread = ["web", "db", host.as_str()];
    wait_until_spread(&lab, &spread);
    lab.flows_from("web");
    pings.assert_whole();
    for (namespace, device) in [(&web, "eth0"), (&db, "eth0"), (&lab.node, host.as_str())] {
        assert_eq!(open_queues(namespace, device), 2, "{device}");
    }
    assert!(!is_spread(&lab, "old"));

    let received = || lab.stats().workers.iter().map(|worker| worker.rx_packets).collect::<Vec<_>>();
    let before = received();
    exchange(&web, &db, "10.244.0.3", 32);
    exchange(&lab.node, &db, "10.244.0.3", 32);
    exchange(&old, &web, "10.244.0.2", 8);
    let after = received();
    for (worker, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(after >= &(before + 50), "worker {worker}: {before} to {after} frames of some 700");
    }
    stream(&web, &db, "10.244.0.3");
    stream(&old, &db, "fd00:10:244::3");

    // Another number of workers: the devices stay what they are.
    weftd.crash();
    for workers in [1, 2] {
        lab.configure(&format!("workers = {workers}"), "", "");
        let weftd = lab.start();
        if workers == 2 {
            wait_until_spread(&lab, &spread);
        }
        assert_eq!((open_queues(&web, "eth0"), open_queues(&db, "eth0")), (workers, workers));
        assert!(web.pings("10.244.0.3") && lab.node.pings("10.244.0.2") && old.pings("10.244.0.2"));
        weftd.stop();
    }
}

/// Weftd with these limits of open files, the soft one and the hard one.
fn limited(lab: &Lab, soft: u64, hard: u64) -> Weftd {
    let limit = format!("--nofile={soft}:{hard}");
    Weftd::spawn(lab, &[OsStr::new("prlimit"), OsStr::new(&limit)], &lab.path("weftd.toml")).ready()
}

#[test]
fn many_queues_are_more_files_than_programs_are_started_with() {
    let lab = Lab::new();
    lab.configure("workers = 2", "", "");
    let pods =
        [("a", 2), ("b", 3), ("c", 4), ("d", 5)].map(|(name, host)| (name, host, Namespace::new(name)));
    lab.write_cluster(
        &pods.iter().map(|(name, host, netns)| tap_pod(name, *host, netns)).collect::<String>(),
    );
    let weftd = limited(&lab, 16, 2048);
    wait_until_spread(&lab, &["a", "b", "c", "d"]);
    assert!(pods[0].2.pings("10.244.0.5") && pods[3].2.pings("fd00:10:244::2"));
    let said = weftd.said();
    assert!(said.contains("2048 open files are allowed") && !said.contains("LimitNOFILE"), "{said}");
    weftd.stop();
    // Enough for these pods, but not for as many as there may be.
    let weftd = limited(&lab, 16, 512);
    assert!(pods[0].2.pings("10.244.0.5"));
    let said = weftd.said();
    assert!(said.contains("no more than 512 open files are allowed: 250 pods"), "{said}");
}

#[test]
fn a_queue_that_could_not_be_opened_is_tried_again() {
    let lab = Lab::new();
    lab.configure("workers = 2", "", "");
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let weftd = lab.start();
    wait_until_spread(&lab, &["web"]);
    let says = |note: &String| note.contains("db") && note.contains("tried again");
    wait_for("a queue that cannot be opened", || {
        lab.add(&tap_spec("db", 3, &db.path())).unwrap();
        // Before its second queue is opened, which may be too late on a machine that is busy.
        weftd.starve();
        for _ in 0..20 {
            if lab.status().notes.iter().any(says) {
                return Some(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        weftd.feed();
        lab.delete("db").unwrap();
        None
    });
    assert!(!is_spread(&lab, "db"));
    assert!(web.pings("10.244.0.3"), "its first queue serves");
    weftd.feed();
    wait_until_spread(&lab, &["db"]);
    assert!(!lab.status().notes.iter().any(says), "{:?}", lab.status().notes);
    assert_eq!(open_queues(&db, "eth0"), 2);
    exchange(&web, &db, "10.244.0.3", 16);
}

#[test]
fn pods_that_keep_on_coming_put_nothing_off_for_ever() {
    let lab = Lab::new();
    lab.configure("workers = 2", "", "");
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    // One every tenth of a second, so that it is never quiet.
    wait_for("every worker to have a queue of the first pod", || {
        lab.add(&tap_spec("db", 3, &db.path())).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        lab.delete("db").unwrap();
        is_spread(&lab, "web").then_some(())
    });
}

#[test]
fn ports_end_at_any_time_whatever_queues_they_have() {
    let lab = Lab::new();
    lab.configure("workers = 3", "", "");
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    // Before, while and after its further queues are opened.
    for wait in [0, 200, 240, 250, 255, 260, 270, 300, 400] {
        lab.add(&tap_spec("db", 3, &db.path())).unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        lab.delete("db").unwrap();
        assert_eq!(db.interfaces(), Vec::<String>::new(), "after {wait} ms");
    }
    lab.add(&tap_spec("db", 3, &db.path())).unwrap();
    wait_until_spread(&lab, &["web", "db"]);
    assert!(web.pings("10.244.0.3"));

    db.ip("link del eth0");
    wait_for("the interface to be back", || web.reaches("10.244.0.3").then_some(()));
    wait_until_spread(&lab, &["db"]);
    assert_eq!(open_queues(&db, "eth0"), 3);
    exchange(&web, &db, "10.244.0.3", 16);
    lab.delete("db").unwrap();
    assert_eq!(db.interfaces(), Vec::<String>::new());
    lab.counters_balance();
}
