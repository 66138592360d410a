//! Ports of several kinds, and several workers.

use std::fs;
use std::io::Write;

use weft_api::PodPort;

use crate::lab::{Lab, Namespace, spec, tap_pod, wait_for};

#[test]
fn pods_on_different_workers_talk() {
    let lab = Lab::new();
    lab.configure("workers = 2", "", "");
    let pods: Vec<_> = ["one", "two", "three"].into_iter().map(Namespace::new).collect();
    // Made for one queue, so that each stays with one worker.
    pods.iter().for_each(|pod| drop(pod.ip("tuntap add dev eth0 mode tap")));
    let text: Vec<_> = (2..).zip(&pods).map(|(host, pod)| tap_pod(&format!("p{host}"), host, pod)).collect();
    lab.write_cluster(&text.concat());
    let _weftd = lab.start();
    assert_eq!(lab.status().workers, 2);
    for from in &pods {
        for to in ["10.244.0.2", "10.244.0.3", "fd00:10:244::4", "10.244.0.0"] {
            assert!(from.pings(to), "{} to {to}", from.name());
        }
    }
    lab.counters_balance();
    let workers = lab.stats().workers;
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker.handed_over > 0), "{workers:?}");
}

/// A file as tcpdump writes it, with `count` times an ARP request for the gateway.
fn write_pcap(path: &std::path::Path, mac: [u8; 6], host: u8, count: usize) {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 244, 0, host]);
    frame.extend([0; 6]);
    frame.extend([10, 244, 0, 1]);
    frame.resize(60, 0);
    let mut file = Vec::new();
    let mut word = |number: u32| file.write_all(&number.to_le_bytes()).expect("memory");
    // Version 2.4, up to 64 KiB a frame, Ethernet.
    [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1].into_iter().for_each(&mut word);
    for _ in 0..count {
        let length = frame.len() as u32;
        for number in [0, 0, length, length] {
            file.extend(u32::to_le_bytes(number));
        }
        file.extend(&frame);
    }
    fs::write(path, file).expect("the pcap can be written");
}

#[test]
fn a_dpdk_device_comes_and_goes_while_others_talk() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    let mac = [0x02, 0, 0, 0, 0x07, 0x07];
    write_pcap(&lab.path("in.pcap"), mac, 7, 100);

    let stream = web.stream("10.244.0.3");
    lab.flows_from("web");
    let at = lab.dir.path().display();
    let devargs = format!("net_pcap0,rx_pcap={at}/in.pcap,tx_pcap={at}/out.pcap");
    let mut wanted = spec("app", 7, PodPort::Dpdk { devargs });
    wanted.mac = Some(weft_api::Mac(mac));
    let pod = lab.add(&wanted).unwrap();
    assert_eq!((pod.port.kind(), pod.mac.0), ("dpdk", mac));
    let of = |name: &str| lab.stats().ports.into_iter().find(|port| port.name == name).expect("the port");
    wait_for("all frames to be received and answered", || {
        let port = of("app");
        (port.rx_packets == 100 && port.tx_packets >= 100 && port.rx_drops == 0).then_some(())
    });
    // One to it: the pod behind a file does not answer, but it is sent to.
    let before = of("app").tx_packets;
    web.reaches("10.244.0.7");
    wait_for("it to be sent to", || (of("app").tx_packets > before).then_some(()));
    lab.delete("app").unwrap();
    assert!(lab.stats().ports.iter().all(|port| port.name != "app"));
    lab.flows_from("web");
    stream.assert_unbroken();
    lab.counters_balance();
    // 24 bytes of head, then each frame of 60 bytes or 42 behind a head of 16.
    assert!(fs::metadata(lab.path("out.pcap")).unwrap().len() >= 24 + 100 * (16 + 42));

    // The device's name is free again.
    lab.add(&wanted).unwrap();
    wait_for("the frames once more", || (of("app").rx_packets == 100).then_some(()));
}
