//! `weft-rig core` from outside: weft's own worker between DPDK's devices. Every frame of a capture comes out once, in its order, as a
//! switch has to send it, by another implementation; and what it prints adds up.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use serde_json::Value;
use tempfile::TempDir;
use weft_perf::capture;
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};
use weft_switch::types::MacAddr;

const FLOWS: u32 = 300;

fn rig(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-rig")).args(words).output().unwrap()
}

/// What a run has printed.
fn result(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A CPU that this process may run on.
fn cpu() -> String {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    (0..1024).find(|cpu| allowed.is_set(*cpu) == Ok(true)).unwrap().to_string()
}

/// The frames of a way, and what became of each.
fn through(way: Way, size: FrameSize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let dir = TempDir::new().unwrap();
    let (from, to) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let (flows, frame) = (FLOWS.to_string(), size.to_string());
    let written =
        rig(&["frames", "--way", way.name(), "--flows", &flows, "--frame", &frame, "--out", text(&from)]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let line = result(&rig(&[
        "core",
        "--way",
        way.name(),
        "--pcap",
        text(&from),
        "--core",
        &cpu(),
        "--no-huge",
        "--sink-pcap",
        text(&to),
    ]));
    let read = |path| capture::read(path).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let (sent, came): (Vec<_>, Vec<_>) = (read(&from), read(&to));
    let scene = Scene::new(Sizes::default()).unwrap();
    assert_eq!(sent, scene.frames(way, FLOWS, size).collect::<Vec<_>>(), "`frames` writes the scene's");
    assert_eq!((sent.len(), came.len()), (FLOWS as usize, FLOWS as usize));
    assert_eq!((&line["rx"], &line["tx"], &line["sink"]), (&FLOWS.into(), &FLOWS.into(), &FLOWS.into()));
    sent.into_iter().zip(came).collect()
}

/// An IPv4 packet's header with the checksum checked, the bytes behind it, and the UDP payload of those.
fn ip(frame: &[u8]) -> (etherparse::Ipv4Header, Vec<u8>, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
        panic!("no UDP over IPv4: {frame:02x?}");
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    (header, frame[34..].to_vec(), udp.payload().to_vec())
}

fn macs(frame: &[u8]) -> (MacAddr, MacAddr) {
    (MacAddr::from_slice(&frame[6..]), MacAddr::from_slice(frame))
}

fn mac(value: &Value) -> MacAddr {
    value.as_str().unwrap().parse().unwrap()
}

/// By the plan: the pods' MAC addresses, and the VTEPs by the first three bytes of their pods' addresses.
struct Plan {
    plan: Value,
    pods: HashMap<Ipv4Addr, MacAddr>,
    vteps: HashMap<[u8; 3], Value>,
}

fn plan() -> Plan {
    let plan = result(&rig(&["plan"]));
    let pods = plan["others"].as_array().unwrap().iter();
    let pods = pods.map(|pod| (pod["ip"].as_str().unwrap().parse().unwrap(), mac(&pod["mac"]))).collect();
    let mut vteps = HashMap::new();
    for vtep in plan["vteps"].as_array().unwrap() {
        for subnet in vtep["subnets"].as_array().unwrap() {
            let network: Ipv4Addr = subnet.as_str().unwrap().strip_suffix("/24").unwrap().parse().unwrap();
            let [a, b, c, _] = network.octets();
            vteps.insert([a, b, c], vtep.clone());
        }
    }
    Plan { plan, pods, vteps }
}

/// One hop on: TTL less one, all else of the packet as it was.
fn assert_routed(was: &[u8], is: &[u8]) {
    let ((was, was_rest, _), (is, is_rest, _)) = (ip(was), ip(is));
    assert_eq!(is.time_to_live, was.time_to_live - 1);
    let expected = etherparse::Ipv4Header { header_checksum: is.header_checksum, time_to_live: 63, ..was };
    assert_eq!((is, is_rest), (expected, was_rest));
}

#[test]
fn bridged_frames_are_as_they_were() {
    for (was, is) in through(Way::Bridge, FrameSize::Imix) {
        assert_eq!(was, is);
    }
}

#[test]
fn routed_frames_go_to_the_pod_from_the_gateway() {
    let plan = plan();
    for (was, is) in through(Way::Route, FrameSize::MIN) {
        assert_routed(&was, &is);
        let to: Ipv4Addr = ip(&is).0.destination.into();
        assert_eq!(macs(&is), (mac(&plan.plan["gateway"]["mac"]), plan.pods[&to]));
    }
}

#[test]
fn encapsulated_frames_go_to_the_vtep_of_their_destination() {
    let plan = plan();
    let local = &plan.plan["local_vtep"];
    for (was, is) in through(Way::Encap, FrameSize::Imix) {
        assert_eq!(is.len(), was.len() + 50);
        let (outer, _, payload) = ip(&is);
        let [a, b, c, _] = ip(&was).0.destination;
        let far = &plan.vteps[&[a, b, c]];
        assert_eq!(macs(&is), (mac(&local["uplink_mac"]), mac(&far["uplink_mac"])));
        assert_eq!(Ipv4Addr::from(outer.source).to_string(), local["ip"].as_str().unwrap());
        assert_eq!(Ipv4Addr::from(outer.destination).to_string(), far["ip"].as_str().unwrap());
        assert_eq!(payload[..8], [8, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(macs(&payload[8..]), (mac(&local["mac"]), mac(&far["mac"])));
        assert_routed(&was, &payload[8..]);
    }
}

#[test]
fn frames_out_of_the_tunnel_go_to_their_pod() {
    let plan = plan();
    for way in [Way::Decap, Way::DecapValid] {
        for (was, is) in through(way, FrameSize::MIN) {
            assert_routed(&ip(&was).2[8..], &is);
            let to: Ipv4Addr = ip(&is).0.destination.into();
            assert_eq!(macs(&is), (mac(&plan.plan["gateway"]["mac"]), plan.pods[&to]));
        }
    }
}

#[test]
fn a_run_without_end_adds_up_and_other_frames_than_those_of_the_way_are_refused() {
    let dir = TempDir::new().unwrap();
    let pcap = dir.path().join("in.pcap");
    rig(&["frames", "--way", "route", "--flows", "100", "--out", text(&pcap)]);
    let core = |way| {
        rig(&[
            "core",
            "--way",
            way,
            "--pcap",
            text(&pcap),
            "--core",
            &cpu(),
            "--no-huge",
            "--seconds",
            "1",
            "--warm-up",
            "0",
        ])
    };
    let line = result(&core("route"));
    let number = |name: &str| line[name].as_f64().unwrap();
    assert!(number("packets") > 0.0 && number("packets") <= number("tx"));
    assert!(line["rx"] == line["tx"] && line["tx"] == line["sink"] && line["drops"] == serde_json::json!({}));
    let (mpps, cycles) = (number("packets") / number("seconds") / 1e6, number("tsc_hz") * number("seconds"));
    assert!((number("mpps") / mpps - 1.0).abs() < 1e-6);
    assert!((number("cycles_per_packet") / (cycles / number("packets")) - 1.0).abs() < 1e-6);

    let wrong = core("decap");
    assert!(!wrong.status.success() && wrong.stdout.is_empty());
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("nothing came out") && said.contains("not_tunnel"), "{said}");
}
