//! Pods with network stacks of their own: vhost-user and memif.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_ffi::dpdk::{Burst, EthConfig, EthPort};

use super::{Container, Runtime};
use crate::lab::guest::buffers;
use crate::lab::{Lab, Namespace, PATIENCE};

/// An application in the pod: asks for the gateway's MAC address by ARP, until it is answered.
fn talks(device: &str, mac: &str, address: [u8; 4]) {
    let (eal, pool) = buffers();
    let config = EthConfig { rx_descriptors: 256, tx_descriptors: 256, mtu: 1450, ..EthConfig::default() };
    let mut port =
        EthPort::attach(eal, device, pool, &config).unwrap_or_else(|error| panic!("{device}: {error}"));
    let (mut rx, mut tx) = port.split();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mut frame = vec![0xff; 6];
    frame.extend(&mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(&mac);
    frame.extend(address);
    frame.extend([0; 6]);
    frame.extend([10, 244, 0, 1]);
    frame.resize(60, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut packet = pool.alloc(frame.len()).expect("a buffer");
        assert!(packet.write_at(0, &frame));
        let mut burst = Burst::new();
        burst.push(packet);
        tx[0].tx(&mut burst);
        std::thread::sleep(Duration::from_millis(10));
        let mut burst = Burst::new();
        rx[0].rx(&mut burst);
        let answered = burst.iter().any(|packet| {
            let mut bytes = Vec::new();
            packet.for_each_segment(|segment| bytes.extend_from_slice(segment));
            bytes.get(12..14) == Some(&[8, 6]) && bytes.get(20..22) == Some(&[0, 2])
        });
        if answered {
            return;
        }
        assert!(Instant::now() < deadline, "{device}: the gateway does not answer");
    }
}

fn read(path: &std::path::Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn applications_find_their_sockets_and_talk_by_them() {
    let lab = Lab::new();
    let netns = Namespace::new("app");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let info = lab.path("devinfo/cni/x.json");
    let shared = lab.path("shared");
    let folder = lab.path("pods/c-1");
    let vhost = |mode: &str| json!({"attach": "vhost-user", "socketMode": mode});
    let memif = json!({"host": {"engine": "vpp", "iftype": "memif", "netType": "interface",
        "memif": {"role": "master", "mode": "ethernet"}}, "container": {"engine": "vpp"}, "sharedDir": shared});
    for (number, more, kind, seen) in [
        (0, vhost("server"), "vhost-user", json!({"mode": "client"})),
        (1, vhost("client"), "vhost-user", json!({"mode": "server"})),
        (2, memif, "memif", json!({"role": "slave", "mode": "ethernet"})),
    ] {
        let mut conf = runtime.conf("1.1.0");
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        conf["runtimeConfig"] = json!({"CNIDeviceInfoFile": info});
        let one = Container { id: "c-1", netns: &netns };
        let result = runtime.add(&conf, one);
        let interface = &result["interfaces"][0];
        let path = interface["socketPath"].as_str().unwrap();
        assert_eq!(path, folder.join("eth0.sock").to_str().unwrap());
        let mut seen = seen;
        seen["path"] = json!(path);
        assert_eq!(read(&info), json!({"type": kind, "version": "1.1.0", kind: seen}));
        let mac = interface["mac"].as_str().unwrap();
        let device = match number {
            0 => format!("net_virtio_user_cni0,path={path},mac={mac},queue_size=256"),
            1 => format!("net_virtio_user_cni1,path={path},mac={mac},queue_size=256,server=1"),
            _ => format!("net_memif_cni2,role=client,socket={path},socket-abstract=no,id=0,mac={mac}"),
        };
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        talks(&device, mac, address.parse::<std::net::Ipv4Addr>().unwrap().octets());
        if number == 2 {
            let data = read(&shared.join("configData-c-1-eth0.json"));
            assert_eq!(
                data["config"]["memif"],
                json!({"role": "slave", "mode": "ethernet", "socketfile": "eth0.sock"})
            );
            assert_eq!((&data["containerId"], &data["ipResult"]["ips"]), (&json!("c-1"), &result["ips"]));
        }
        conf["prevResult"] = result;
        runtime.call("CHECK", &conf, one).result();
        runtime.del(&conf, one);
        runtime.del(&conf, one);
        assert!(!folder.exists() && !shared.join("configData-c-1-eth0.json").exists());
        runtime.assert_clean(&[&netns]);
    }
}
