//! What is answered here is what parse and classify answer, for whatever bytes.

use super::*;
use crate::classify::pinned::in_question;
use crate::classify::{LastHits, classify, classify_tunnel};
use crate::ip_tunnel::mac_of;
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::HeapBuf;
use crate::parse::{parse, parse_tunnel};
use crate::pins::{Flow, Pins, Sign, Subject};
use crate::stations::Stations;
use crate::tables::{Encap, Gateway, Link, Neighbour, NextHop, Outer, Place, Port, Vtep};
use crate::types::{Mtu, Vni};
use crate::wire::checksum::{Sum, udp_never_zero};
use proptest::prelude::*;
use weft_sync::learned::{Learn, Rules};

/// So many VTEPs that what is decided about them is confirmed.
const MANY: usize = 2000;
const UPLINK: usize = 0;
const POD: usize = 1;
const OTHER: usize = 2;
const TRUSTED: usize = 3;
const HOST: usize = 4;
/// Not a port's, but a station's behind one.
const LEARNED: usize = 5;
/// Other nodes are behind it, whose packets its driver takes out of the tunnel.
const NODES: usize = 6;

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const VTEP: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];

/// The underlay's other family.
const OWN6: &str = "fd10::1";
const PEER6: &str = "fd10::2";

const PARTIAL: Checksum = Checksum::Partial { start: 34, offset: 6 };
const STATES: [Offload; 4] = [
    Offload { checksum: Checksum::Unverified, gso: None },
    Offload { checksum: Checksum::Verified, gso: None },
    Offload { checksum: PARTIAL, gso: None },
    Offload { checksum: PARTIAL, gso: Some(Gso { kind: GsoKind::Udp, size: 8, ecn: false }) },
];

fn id(port: usize) -> PortId {
    PortId::new(port).unwrap()
}

fn pod_mac(pod: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, pod as u8])
}

/// Of a node in a tunnel of plain packets: 2 is known.
fn node_mac(host: u8) -> MacAddr {
    mac_of([172, 16, 0, host].into())
}

fn addresses(pod: usize) -> [IpAddr; 2] {
    [[10, 244, 0, pod as u8].into(), format!("fd00::{pod}").parse().unwrap()]
}

fn tables(vteps: usize) -> Snapshot {
    let mut tables = Snapshot { vxlan_port: 8472, learn_limit: 8, ageing: 300, ..Snapshot::default() };
    let guard = |pod| Role::Pod(PodGuard::new(pod_mac(pod), &addresses(pod)));
    for (port, role) in [
        (UPLINK, Role::Uplink),
        (POD, guard(POD)),
        (OTHER, guard(OTHER)),
        (TRUSTED, Role::Trusted),
        (HOST, Role::Host),
        (NODES, Role::IpTunnel(Vni::new(1).unwrap())),
    ] {
        let mtu = Mtu::new(if port == OTHER { 600 } else { 1450 }).unwrap();
        tables.ports.insert(id(port), Port { role, mtu, place: Place::Each, tunnel_gso: false });
    }
    for pod in [POD, OTHER, TRUSTED] {
        tables.add_pod(id(pod), pod_mac(pod), &addresses(pod));
    }
    let host = Some(Neighbour { mac: pod_mac(HOST), port: id(HOST) });
    tables.gateway =
        Gateway { mac: MacAddr(GATEWAY), v4: vec![[10, 244, 0, 1].into()], host, ..Gateway::default() };
    tables.hops.push(Neighbour { mac: pod_mac(TRUSTED), port: id(TRUSTED) });
    tables.groups.push([NextHop::Vtep(0), NextHop::Hop(0)].into());
    tables.routes4.insert([10, 244, 0, 0].into(), 24, NextHop::Local);
    tables.routes4.insert([10, 244, 1, 0].into(), 24, NextHop::Vtep(0));
    tables.routes4.insert([10, 244, 2, 0].into(), 24, NextHop::Vtep(1));
    tables.routes4.insert([10, 244, 3, 0].into(), 24, NextHop::Hop(0));
    tables.routes4.insert([10, 244, 4, 0].into(), 24, NextHop::Group(0));
    tables.routes4.insert([10, 244, 5, 0].into(), 24, NextHop::Blackhole);
    tables.routes4.insert([10, 244, 6, 0].into(), 24, NextHop::Direct(0));
    tables.routes4.insert([10, 244, 7, 0].into(), 24, NextHop::OnLink(0));
    tables.routes4.insert([10, 244, 8, 0].into(), 24, NextHop::Hop(1));
    tables.hops.push(Neighbour { mac: node_mac(2), port: id(NODES) });
    tables.links.push(Link { to: Neighbour { mac: pod_mac(8), port: id(UPLINK) }, vtep: 0 });
    tables.routes6.insert("fd00::".parse().unwrap(), 112, NextHop::Local);
    tables.routes6.insert("fd00::1:0".parse().unwrap(), 112, NextHop::Vtep(0));
    let (vni, own) = (Vni::new(1).unwrap(), [172, 16, 0, 1].into());
    let peer: IpAddr = [172, 16, 0, 2].into();
    let outer = Outer { src_mac: pod_mac(9), dst_mac: pod_mac(8), src: own, dst: peer, port: 8472 };
    let encap = Encap::new(&outer, vni, MacAddr(VTEP), pod_mac(0xab));
    for index in 0..vteps {
        let encap = encap.clone().filter(|_| index != 1);
        tables.vteps.push(Vtep { encap, uplink: id(UPLINK), mtu: Mtu::new(600).unwrap(), checksum: false });
    }
    tables.peers.insert(peer, vni);
    tables.local_vteps.push(LocalVtep { vni, mac: MacAddr(VTEP), address: own });
    tables.peers.insert(PEER6.parse().unwrap(), vni);
    let own = OWN6.parse().unwrap();
    tables.local_vteps.push(LocalVtep { vni, mac: MacAddr(VTEP), address: own });
    tables
}

/// The station [`LEARNED`] is behind the trusted port.
fn stations(tables: &Snapshot) -> Stations {
    let stations = Stations::default();
    let rules = Rules { ageing: tables.ageing, limit: tables.learn_limit };
    assert_eq!(stations.learn(pod_mac(LEARNED), id(TRUSTED), 0, rules, || false), Learn::Learned);
    stations
}

/// An IPv4 packet with `payload`, of which the first 8 bytes are a UDP header's.
fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip.extend(src);
    ip.extend(dst);
    ip.extend(payload);
    ip
}

/// With its checksum.
fn right_ip(mut ip: Vec<u8>) -> Vec<u8> {
    let checksum = Sum::new().add(&ip[..20]).checksum();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip
}

fn v6(dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    v6_from("fd00::1", dst, protocol, payload)
}

fn v6_from(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64];
    ip.extend(src.parse::<Ipv6Addr>().unwrap().octets());
    ip.extend(dst.parse::<Ipv6Addr>().unwrap().octets());
    ip.extend(payload);
    ip
}

fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype, payload].concat()
}

/// What a pod or the host may send, more or less.
fn any_plain() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![Just(18usize), 0..30usize, Just(590)];
    let dst = prop_oneof![Just(GATEWAY), (1u8..6).prop_map(|pod| [2, 0, 0, 0, 0, pod]), any::<[u8; 6]>()];
    let protocol = prop_oneof![Just(6u8), Just(17), Just(1), any::<u8>()];
    (dst, 0u8..9, 0u8..5, protocol, payload, any::<bool>()).prop_map(
        |(mac, net, host, protocol, len, is_v4)| {
            let payload = vec![0x11; len];
            let src = pod_mac(POD).0;
            if is_v4 {
                ethernet(
                    mac,
                    src,
                    [8, 0],
                    &v4([10, 244, 0, POD as u8], [10, 244, net, host], protocol, &payload),
                )
            } else {
                let dst = format!("fd00::{}:{host}", net % 2);
                ethernet(mac, src, [0x86, 0xdd], &v6(&dst, protocol, &payload[..len.min(200)]))
            }
        },
    )
}

/// A tunnel packet with this IP packet inside; without a checksum yet.
fn tunnelled(inner: &[u8], inner_is_v6: bool, outer_is_v6: bool) -> Vec<u8> {
    let ethertype = |is_v6| if is_v6 { [0x86, 0xdd] } else { [8, 0] };
    let inner = ethernet(VTEP, pod_mac(0xab).0, ethertype(inner_is_v6), inner);
    let mut udp = vec![0x99, 0x99, 0x21, 0x18, 0, (16 + inner.len()) as u8, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0];
    udp.extend(inner);
    let outer = if outer_is_v6 {
        v6_from(PEER6, OWN6, 17, &udp)
    } else {
        v4([172, 16, 0, 2], [172, 16, 0, 1], 17, &udp)
    };
    ethernet(pod_mac(9).0, pod_mac(8).0, ethertype(outer_is_v6), &outer)
}

/// What a peer sends.
fn any_tunnelled() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop_oneof![4 => Just(17u8), 2 => Just(6), 1 => Just(58), 1 => any::<u8>()];
    (0u8..8, 0u8..5, 0usize..30, protocol, any::<bool>(), any::<bool>()).prop_map(
        |(net, host, len, protocol, inner_is_v6, outer_is_v6)| {
            let payload = vec![0x11; len];
            let inner = if inner_is_v6 {
                v6_from("fd00::1:7", &format!("fd00::{}:{host}", net % 2), protocol, &payload)
            } else {
                v4([10, 244, 1, 7], [10, 244, net, host], protocol, &payload)
            };
            tunnelled(&inner, inner_is_v6, outer_is_v6)
        },
    )
}

/// Some bytes are others, and the frame is longer or shorter; then, mostly, the headers' checksums are right.
fn any_change() -> impl Strategy<Value = (Vec<(usize, u8)>, i8, bool)> {
    let at = prop_oneof![0..140usize, 12..24usize, 62..74usize, 82..96usize];
    (
        prop::collection::vec((at, any::<u8>()), 0..3),
        prop_oneof![3 => Just(0i8), 1 => -20..20i8],
        prop::bool::weighted(0.9),
    )
}

fn change(mut frame: Vec<u8>, (bytes, longer, right): (Vec<(usize, u8)>, i8, bool)) -> Vec<u8> {
    for (at, value) in bytes {
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
    }
    frame.resize((frame.len() as isize + isize::from(longer)).max(0) as usize, 0);
    for at in [84, 64, 14] {
        if let Some(header) = frame.get_mut(at..at + 20).filter(|header| right && header[0] == 0x45) {
            header[10..12].fill(0);
            let checksum = Sum::new().add(header).checksum();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    if right && frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&17) {
        sum_over_v6(&mut frame);
    }
    frame
}

/// Fills the checksum of a UDP datagram over IPv6 in, as far as its length is in the frame.
fn sum_over_v6(frame: &mut [u8]) {
    let Some(Ok(len)) = frame.get(58..60).map(|len| len.try_into().map(u16::from_be_bytes)) else { return };
    let len = usize::from(len);
    if len < 8 || frame.len() < 54 + len {
        return;
    }
    frame[60..62].fill(0);
    let sum = Sum::new().add(&frame[22..54]).add_u32(len as u32).add_u16(17).add(&frame[54..54 + len]);
    frame[60..62].copy_from_slice(&udp_never_zero(sum.checksum()).to_be_bytes());
}

/// The flow that is looked up for a frame, if any is.
fn asked(tables: &Snapshot, host: Neighbour, head: &[u8], brief: &Brief, action: Action) -> Option<Flow> {
    in_question(tables, host, head, brief, action).map(|subject| match subject {
        Subject::Packet(flow) | Subject::About(flow) => flow,
        Subject::First(flow) => flow.fragments(),
    })
}

/// What both say about these frames, one after the other in a burst; how many were usual.
fn compare(port: usize, frames: Vec<Vec<u8>>) -> Result<usize, TestCaseError> {
    let (few, many) = (compare_with(2, port, &frames)?, compare_with(MANY, port, &frames)?);
    prop_assert_eq!(few, many);
    Ok(few)
}

fn compare_with(vteps: usize, port: usize, frames: &[Vec<u8>]) -> Result<usize, TestCaseError> {
    let tables = tables(vteps);
    let stations = stations(&tables);
    let from =
        Ingress { id: id(port), port: tables.ports.get(id(port)).unwrap(), stations: &stations, now: 0 };
    let (mut usual, mut last) = (Usual::new(&tables, &from), LastHits::default());
    let (host, pins) = (tables.gateway.host.unwrap(), Pins::new(64));
    let mut found = 0;
    for (index, bytes) in frames.iter().enumerate() {
        let mut frame = HeapBuf::from_bytes(bytes);
        // Unverified, verified, not filled in; and a frame to be cut, which is none of the usual ones.
        frame.set_offload(STATES[index % STATES.len()]);
        let (head, len) = (frame.head(), frame.len());
        let (mut look, mut action, mut brief) = (Look::UNKNOWN, Action::Consume, Brief::UNREAD);
        if port == UPLINK {
            usual.look_through(&frame, &mut look);
        } else {
            usual.look(&frame, &mut look);
            if let Some(parsed) = look.parsed(head) {
                prop_assert_eq!(Ok(parsed), parse(head, len, 0));
            }
        }
        let answer = if usual.decide(&look, &mut action, &mut brief) {
            Some((action, brief))
        } else {
            usual.decide_other(&frame, &look)
        };
        let Some((action, brief)) = answer else { continue };
        prop_assert_eq!(frame.offload().gso, None);
        if usual.must_confirm() && !usual.confirm(&frame, action, &brief) {
            continue;
        }
        found += 1;
        let (expected, mut expected_brief) = if port == UPLINK {
            let (parsed, outer) =
                parse_tunnel(&frame, &tables).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            let action = classify_tunnel(&tables, &mut last, &from, head, &parsed, &outer, None);
            (action, Brief::of(&parsed, Some(&outer)))
        } else {
            let parsed = parse(head, len, 0).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            (classify(&tables, &mut last, &from, head, &parsed, None), Brief::of(&parsed, None))
        };
        if !matches!(action, Action::Encap { .. }) {
            expected_brief.hash = 0;
        }
        prop_assert_eq!((action, brief), (expected, expected_brief), "{:02x?}", bytes);
        // With the flow pinned and without, both end at the same port; and a pinned one at no pod's.
        let flow = asked(&tables, host, head, &brief, action);
        prop_assert_eq!(flow, asked(&tables, host, head, &expected_brief, expected));
        match (flow, action) {
            (Some(flow), _) => {
                pins.pin(&flow.answer(), 0);
                // Nobody answers a reset, so nobody pins that.
                let pinned = pins.has(&pins.prepare(&flow), None, 0);
                prop_assert!(pinned || flow.sign == Sign::Reset, "{:?}", flow);
            }
            (None, Action::Bridge(to) | Action::Deliver { to: Neighbour { port: to, .. }, .. }) => {
                // Over IPv6 it may be what is about no flow, as ICMP of either may; and a TCP header can be too short to have flags.
                let short = brief.ip_len < u32::from(brief.l4 - brief.l3) + 14;
                let icmp = matches!(head[usize::from(brief.l3) + 9], 1 | 58);
                let to_pods =
                    tables.ports.get(to).is_some_and(|port| !port.role.is_tunnel()) && to != host.port;
                let unasked = !to_pods || short || icmp || matches!(brief.carries, Carries::V6);
                prop_assert!(unasked, "{:02x?}", bytes);
            }
            _ => {}
        }
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pods_and_the_host(
        port in prop_oneof![4 => Just(POD), 1 => Just(TRUSTED), 1 => Just(HOST)],
        frames in prop::collection::vec((any_plain(), any_change()), 1..8),
    ) {
        compare(port, frames.into_iter().map(|(frame, changes)| change(frame, changes)).collect())?;
    }

    #[test]
    fn other_nodes(
        frames in prop::collection::vec((any_plain(), any_change(), 1u8..4), 1..8),
    ) {
        let from_node = |(mut frame, changes, host): (Vec<u8>, _, u8)| {
            frame[6..12].copy_from_slice(&node_mac(host).0);
            change(frame, changes)
        };
        compare(NODES, frames.into_iter().map(from_node).collect())?;
    }

    #[test]
    fn the_tunnel(frames in prop::collection::vec((any_tunnelled(), any_change()), 1..8)) {
        compare(UPLINK, frames.into_iter().map(|(frame, changes)| change(frame, changes)).collect())?;
    }
}

#[test]
fn what_is_usual_is_found_so() {
    let right = |frame| change(frame, (Vec::new(), 0, true));
    let plain = |dst, net, protocol| {
        let ip = v4([10, 244, 0, POD as u8], [10, 244, net, OTHER as u8], protocol, &[0x11; 18]);
        right(ethernet(dst, pod_mac(POD).0, [8, 0], &ip))
    };
    let over_v6 = |dst: [u8; 6]| ethernet(dst, pod_mac(POD).0, [0x86, 0xdd], &v6("fd00::2", 6, &[0x11; 18]));
    let (gateway, other) = (GATEWAY, pod_mac(OTHER).0);
    let usual = vec![
        plain(other, 0, 17),
        plain(other, 9, 6),
        plain(gateway, 0, 6),
        plain(gateway, 1, 17),
        plain(gateway, 3, 17),
        plain(gateway, 9, 17),
        plain(gateway, 5, 6),
        over_v6(other),
        over_v6(gateway),
        // The host's MAC address, and a station's.
        plain(pod_mac(HOST).0, 0, 17),
        plain(pod_mac(LEARNED).0, 0, 17),
        over_v6(pod_mac(LEARNED).0),
    ];
    for frame in usual {
        assert_eq!(compare(POD, vec![frame.clone(), frame.clone(), frame.clone(), frame]).unwrap(), 3);
    }
    // ICMP, a group of next hops, nobody.
    let unusual = vec![plain(other, 0, 1), plain(gateway, 4, 6), plain([2; 6], 0, 6)];
    assert_eq!(compare(POD, unusual).unwrap(), 0);
    let inner4 = right_ip(v4([10, 244, 1, 7], [10, 244, 0, 1], 17, &[0; 18]));
    let inner6 = v6_from("fd00::1:7", "fd00::1", 17, &[0; 18]);
    for (inner, inner_is_v6) in [(inner4, false), (inner6, true)] {
        for outer_is_v6 in [false, true] {
            let frame = right(tunnelled(&inner, inner_is_v6, outer_is_v6));
            let found = compare(UPLINK, vec![frame.clone(), frame.clone(), frame.clone(), frame]).unwrap();
            assert_eq!(found, 3, "IPv6 inside: {inner_is_v6}, outside: {outer_is_v6}");
        }
    }
}

/// Of a frame to be cut others have said what is done: it is longer than the tunnel's MTU, but its pieces are not.
#[test]
fn what_others_decide_is_not_confirmed() {
    let tables = tables(MANY);
    let stations = stations(&tables);
    let from = Ingress { id: id(POD), port: tables.ports.get(id(POD)).unwrap(), stations: &stations, now: 0 };
    let mut usual = Usual::new(&tables, &from);
    let ip = v4([10, 244, 0, POD as u8], [10, 244, 1, 7], 17, &[0x11; 590]);
    let mut frame =
        HeapBuf::from_bytes(&change(ethernet(GATEWAY, pod_mac(POD).0, [8, 0], &ip), (Vec::new(), 0, true)));
    let (mut look, mut action, mut brief) = (Look::UNKNOWN, Action::Consume, Brief::UNREAD);
    usual.look(&frame, &mut look);
    assert!(usual.must_confirm() && usual.decide(&look, &mut action, &mut brief));
    assert_eq!(action, Action::Encap { vtep: 0, hop: true });
    assert!(!usual.confirm(&frame, action, &brief), "the tunnel carries 600 bytes");
    frame.set_offload(STATES[3]);
    assert!(usual.confirm(&frame, action, &brief));
}
