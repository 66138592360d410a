//! The scene from outside: its frames are what they say they are, by another implementation; its plan is its tables; and each
//! frame goes its way through a switch with these tables.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use serde_json::Value;
use weft_perf::scene::{FrameSize, Scene, SceneError, Sizes, Way};
use weft_switch::tables::NextHop;
use weft_switch::types::MacAddr;

const OUTER: usize = 50;

/// What a frame says: MAC addresses, IP addresses, UDP ports; everything that can be checked is right.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Said {
    macs: (MacAddr, MacAddr),
    ips: (IpAddr, IpAddr),
    ports: (u16, u16),
    checksum: u16,
}

fn read(frame: &[u8]) -> (Said, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
    let udp_header = udp.to_header();
    let (ips, hops, len, sum) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let ips: (Ipv4Addr, Ipv4Addr) = (header.source.into(), header.destination.into());
            let sum = udp_header.calc_checksum_ipv4(&header, udp.payload()).unwrap();
            ((ips.0.into(), ips.1.into()), header.time_to_live, usize::from(header.total_len), sum)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            let ips: (Ipv6Addr, Ipv6Addr) = (header.source.into(), header.destination.into());
            let sum = udp_header.calc_checksum_ipv6(&header, udp.payload()).unwrap();
            ((ips.0.into(), ips.1.into()), header.hop_limit, 40 + usize::from(header.payload_length), sum)
        }
        _ => panic!("no IP"),
    };
    assert_eq!((14 + len, hops), (frame.len(), 64), "no padding, nothing missing");
    assert_eq!(usize::from(udp_header.length), 8 + udp.payload().len());
    if udp_header.checksum != 0 {
        assert_eq!(udp_header.checksum, sum);
    }
    let said = Said {
        macs: (MacAddr::from_slice(&frame[6..]), MacAddr::from_slice(frame)),
        ips,
        ports: (udp_header.source_port, udp_header.destination_port),
        checksum: udp_header.checksum,
    };
    (said, udp.payload().to_vec())
}

fn scene() -> Scene {
    Scene::new(Sizes::default()).unwrap()
}

fn text<T: std::str::FromStr>(value: &Value) -> T {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn frames_are_right_and_every_flow_is_another() {
    for way in Way::ALL {
        let mut flows = HashSet::new();
        for frame in scene().frames(way, 100_000, FrameSize::MIN) {
            let (said, payload) = read(&frame);
            let len = if way.is_v6() { 62 } else { 60 };
            let inner = if way.is_tunnelled() {
                assert_eq!((frame.len(), said.ports.1), (len + OUTER, 8472));
                assert_eq!(said.checksum != 0, way == Way::DecapValid);
                assert_eq!(payload[..8], [8, 0, 0, 0, 0, 0, 1, 0], "VXLAN, network 1");
                read(&payload[8..]).0
            } else {
                assert_eq!(frame.len(), len);
                said
            };
            assert_ne!(inner.checksum, 0);
            assert!(flows.insert((inner.ips, inner.ports)), "{inner:?} is there twice");
        }
        assert_eq!(flows.len(), 100_000);
    }
}

#[test]
fn a_million_flows_are_distinct() {
    let frames = scene().frames(Way::Route, 1_000_000, FrameSize::MIN);
    let flows: HashSet<_> = frames.map(|frame| frame[26..38].to_vec()).collect();
    assert_eq!(flows.len(), 1_000_000);
}

#[test]
fn flows_are_spread_over_all_destinations() {
    let spread = |way, at: std::ops::Range<usize>| {
        let mut count = HashMap::<Vec<u8>, usize>::new();
        for frame in scene().frames(way, 1000, FrameSize::MIN) {
            *count.entry(frame[at.clone()].to_vec()).or_default() += 1;
        }
        (count.len(), count.values().copied().min(), count.values().copied().max())
    };
    assert_eq!(spread(Way::Bridge, 0..6), (249, Some(4), Some(5)));
    assert_eq!(spread(Way::Route, 30..34), (249, Some(4), Some(5)));
    assert_eq!(spread(Way::Decap, 80..84), (249, Some(4), Some(5)));
    assert_eq!(spread(Way::Encap, 30..33), (99, Some(10), Some(11)), "one /24 for each VTEP");
    assert_eq!(spread(Way::Decap, 26..30), (99, Some(10), Some(11)));
}

#[test]
fn imix_has_its_shares_and_every_flow() {
    let mut lengths = HashMap::<usize, usize>::new();
    let mut flows = HashSet::new();
    let mut frames = 0;
    for frame in scene().frames(Way::Encap, 1000, FrameSize::Imix) {
        *lengths.entry(frame.len() + 4).or_default() += 1;
        flows.insert(read(&frame).0.ports);
        frames += 1;
    }
    assert_eq!((frames, flows.len()), (1008, 1000));
    assert_eq!(lengths, HashMap::from([(64, 588), (594, 336), (1464, 84)]));
    assert_eq!(scene().frames(Way::Bridge, 1, FrameSize::Imix).count(), 12);
}

#[test]
fn frame_sizes_are_those_on_the_wire() {
    assert_eq!("64".parse(), Ok(FrameSize::MIN));
    assert_eq!("1468".parse(), Ok(FrameSize::Bytes(1464)));
    assert_eq!(FrameSize::Bytes(1464).to_string().parse(), Ok(FrameSize::Bytes(1464)));
    assert_eq!("imix".parse(), Ok(FrameSize::Imix));
    for wrong in ["63", "1469", "", "-1", "IMIX"] {
        assert_eq!(wrong.parse::<FrameSize>(), Err(SceneError::FrameSize(wrong.to_owned())));
    }
}

#[test]
fn no_node_has_impossible_sizes() {
    let full = Sizes::default();
    for wrong in [
        Sizes { pods: 1, ..full },
        Sizes { pods: 253, macs: 253, ..full },
        Sizes { vteps: 0, ..full },
        Sizes { routes: 98, ..full },
        Sizes { macs: 249, ..full },
        Sizes { ports: 0, ..full },
        Sizes { ports: 250, ..full },
    ] {
        assert_eq!(Scene::new(wrong).err(), Some(SceneError::Sizes(wrong)));
    }
}

/// Whoever follows the plan does what the tables do.
#[test]
fn the_plan_is_the_tables() {
    let sizes = Sizes { macs: 300, routes: 200, ..Sizes::default() };
    let scene = Scene::new(sizes).unwrap();
    let (tables, plan) = (scene.tables().unwrap(), scene.plan());
    let others = scene.sinks(Way::Bridge).unwrap()[0];

    assert_eq!(text::<MacAddr>(&plan["gateway"]["mac"]), tables.gateway.mac);
    assert_eq!(vec![text::<Ipv4Addr>(&plan["gateway"]["ip"])], tables.gateway.v4);
    let pods = plan["others"].as_array().unwrap();
    for pod in pods {
        let (mac, ip) = (text::<MacAddr>(&pod["mac"]), text::<Ipv4Addr>(&pod["ip"]));
        assert_eq!(tables.fdb.get(&mac), Some(&others));
        assert_eq!(tables.neighbour(ip.into()).map(|there| there.mac), Some(mac));
    }
    let stations = plan["stations"].as_array().unwrap();
    assert!(stations.iter().all(|mac| tables.fdb.get(&text::<MacAddr>(mac)) == Some(&others)));
    let sender = text::<MacAddr>(&plan["sender"]["mac"]);
    assert_eq!(tables.fdb.get(&sender).copied(), Scene::source(Way::Bridge).ok());
    assert_eq!(1 + pods.len() + stations.len(), tables.fdb.len(), "nobody else");

    let local = &tables.local_vteps[0];
    assert_eq!(text::<MacAddr>(&plan["local_vtep"]["mac"]), local.mac);
    assert_eq!(IpAddr::from(text::<Ipv4Addr>(&plan["local_vtep"]["ip"])), local.address);
    assert_eq!(plan["vni"], local.vni.get());
    let vteps = plan["vteps"].as_array().unwrap();
    assert_eq!(vteps.len(), tables.vteps.len());
    let mut subnets = 0;
    for (index, vtep) in vteps.iter().enumerate() {
        assert!(tables.peers.accepts(text::<Ipv4Addr>(&vtep["ip"]).into(), local.vni));
        for subnet in vtep["subnets"].as_array().unwrap() {
            let network = subnet.as_str().unwrap().strip_suffix("/24").unwrap().parse().unwrap();
            assert_eq!(tables.routes4.get(network, 24), Some(NextHop::Vtep(index as u32)));
            subnets += 1;
        }
    }
    let routes = tables.routes4.iter().filter(|route| matches!(route.2, NextHop::Vtep(_))).count();
    assert_eq!((subnets, routes), (200, 200));
}

/// What comes out of the switch has the addresses that the plan gives; so the plan's other readers can be compared with it.
#[test]
fn frames_are_of_those_in_the_plan() {
    let plan = scene().plan();
    let list = |name: &str| plan[name].as_array().unwrap().clone();
    let pods: HashMap<IpAddr, MacAddr> =
        list("others").iter().map(|pod| (text(&pod["ip"]), text(&pod["mac"]))).collect();
    let vteps: HashMap<IpAddr, Value> =
        list("vteps").into_iter().map(|vtep| (text(&vtep["ip"]), vtep)).collect();
    let sender: (MacAddr, IpAddr) = (text(&plan["sender"]["mac"]), text(&plan["sender"]["ip"]));
    let gateway: MacAddr = text(&plan["gateway"]["mac"]);
    let net = |ip: IpAddr| {
        let IpAddr::V4(ip) = ip else { panic!("{ip}: the plan is of IPv4") };
        format!("{}/24", Ipv4Addr::from_bits(ip.to_bits() & !0xff))
    };
    for way in Way::ALL.into_iter().filter(|way| !way.is_v6()) {
        for frame in scene().frames(way, 2000, FrameSize::MIN) {
            let (said, payload) = read(&frame);
            if !way.is_tunnelled() {
                assert_eq!((said.macs.0, said.ips.0), sender);
            }
            match way {
                Way::Bridge => assert_eq!(pods.get(&said.ips.1), Some(&said.macs.1)),
                Way::Route => assert!(said.macs.1 == gateway && pods.contains_key(&said.ips.1)),
                Way::Encap => {
                    let to = net(said.ips.1);
                    let has =
                        |vtep: &&Value| vtep["subnets"].as_array().unwrap().contains(&to.as_str().into());
                    assert!(said.macs.1 == gateway && vteps.values().filter(has).count() == 1);
                }
                Way::Decap | Way::DecapValid | Way::Merge => {
                    let vtep = &vteps[&said.ips.0];
                    assert_eq!(said.macs.0, text(&vtep["uplink_mac"]));
                    assert_eq!(said.macs.1, text(&plan["local_vtep"]["uplink_mac"]));
                    assert_eq!(said.ips.1, text::<IpAddr>(&plan["local_vtep"]["ip"]));
                    let (inner, _) = read(&payload[8..]);
                    assert_eq!(inner.macs.0, text(&vtep["mac"]));
                    assert_eq!(inner.macs.1, text(&plan["local_vtep"]["mac"]));
                    assert!(vtep["subnets"].as_array().unwrap().contains(&net(inner.ips.0).into()));
                    assert!(pods.contains_key(&inner.ips.1));
                }
                Way::Bridge6 | Way::Route6 | Way::Encap6 | Way::Decap6 => unreachable!(),
            }
        }
    }
}

/// Over IPv6 the same pods and nodes speak to each other as over IPv4, flow by flow.
#[test]
fn ipv6_goes_where_ipv4_goes() {
    let tables = scene().tables().unwrap();
    let inner = |way: Way, frame: Vec<u8>| {
        if way.is_tunnelled() { read(&read(&frame).1[8..]).0 } else { read(&frame).0 }
    };
    let mac_of = |ip| tables.neighbour(ip).map(|there| there.mac);
    let vtep_of = |ip| match ip {
        IpAddr::V4(ip) => tables.routes4.lookup(ip),
        IpAddr::V6(ip) => tables.routes6.lookup(ip),
    };
    for (over4, over6) in [
        (Way::Bridge, Way::Bridge6),
        (Way::Route, Way::Route6),
        (Way::Encap, Way::Encap6),
        (Way::Decap, Way::Decap6),
    ] {
        let frames = |way| scene().frames(way, 2000, FrameSize::MIN).map(move |frame| inner(way, frame));
        for (old, new) in frames(over4).zip(frames(over6)) {
            assert_eq!((old.macs, old.ports), (new.macs, new.ports));
            for (old, new) in [(old.ips.0, new.ips.0), (old.ips.1, new.ips.1)] {
                assert!(old.is_ipv4() && new.is_ipv6());
                assert_eq!((mac_of(old), vtep_of(old)), (mac_of(new), vtep_of(new)));
                assert!(mac_of(new).is_some() || matches!(vtep_of(new), Some(NextHop::Vtep(_))));
            }
        }
    }
}
