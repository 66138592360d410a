//! Where routes lead: through a pod that routes on, to one of several next hops, nowhere; several networks and subnets on one
//! node; and options and extension headers, which are the ends' business.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use etherparse::PacketBuilder;
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Encap, LocalVtep, Neighbour, NextHop, Outer, Snapshot, Vtep};
use weft_switch::types::{MacAddr, Mtu, PortId, Vni};

use world::{
    FIRST_POD, GATEWAY, Node, POD_MAC, UPLINK, UPLINK_MAC, Underlay, VTEP_MAC, World, fill_ipv4_checksum,
    ipv4_frame,
};

const POD: [u8; 4] = [10, 244, 0, 5];
const OTHER: [u8; 4] = [10, 244, 0, 6];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const FAR: [u8; 4] = [10, 244, 1, 7];
/// Behind next hops.
const BEHIND: [u8; 4] = [198, 51, 100, 9];

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A node with a second pod, which routes on, and with tables that differ from the usual ones.
fn node(change: impl FnOnce(&mut Snapshot)) -> (Node, MemPort) {
    let mut node = Node::new(0, Underlay::V4, 1, TxCaps::NONE);
    let other = MemPort::default();
    node.add_pod(0, OTHER, OTHER_MAC, &other);
    let mut tables = node.tables();
    tables.hops.push(Neighbour { mac: MacAddr(OTHER_MAC), port: PortId::new(FIRST_POD + 1).unwrap() });
    change(&mut tables);
    node.switch.publish(tables);
    (node, other)
}

fn behind(tables: &mut Snapshot, next_hop: NextHop) {
    tables.routes4.insert([198, 51, 100, 0].into(), 24, next_hop);
    tables.routes6.insert(v6("2001:db8:9::"), 48, next_hop);
}

/// A further far end of the tunnel, told by the last byte of its underlay address.
fn vtep(last: u8, vni: u32, inner: [u8; 6]) -> Vtep {
    let outer = Outer {
        src_mac: MacAddr(UPLINK_MAC[0]),
        dst_mac: MacAddr(UPLINK_MAC[1]),
        src: IpAddr::from([172, 16, 0, 1]),
        dst: IpAddr::from([172, 16, 0, last]),
        port: 8472,
    };
    let encap = Encap::new(&outer, Vni::new(vni).unwrap(), MacAddr(inner), MacAddr([2, 0xf, 0, 0, 9, last]));
    Vtep { encap, uplink: PortId::new(UPLINK).unwrap(), mtu: Mtu::new(1450).unwrap(), checksum: false }
}

fn routed(to: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_frame(POD_MAC[0], GATEWAY[0], POD, to, ttl, payload)
}

fn routed6(to: &str, hops: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]);
    let builder = builder.ipv6(v6("fd00:10:244::5").octets(), v6(to).octets(), hops);
    builder.udp(1000, 2000).write(&mut frame, b"six").unwrap();
    frame
}

fn udp(to: [u8; 4], from_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, to, 64);
    builder.udp(from_port, 53).write(&mut frame, b"flow").unwrap();
    frame
}

fn inject(node: &mut Node, port: &MemPort, frame: &[u8]) {
    port.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
}

fn taken(port: &MemPort) -> Vec<Vec<u8>> {
    port.take().iter().map(HeapBuf::to_vec).collect()
}

#[test]
fn a_pod_that_routes_on_gets_what_is_behind_it() {
    let (mut node, other) = node(|tables| behind(tables, NextHop::Hop(0)));
    let pod = node.pod.clone();
    inject(&mut node, &pod, &routed(BEHIND, 9, b"on its way"));
    assert_eq!(taken(&other), [ipv4_frame(GATEWAY[0], OTHER_MAC, POD, BEHIND, 8, b"on its way")]);
    let sent = routed6("2001:db8:9::1", 9);
    inject(&mut node, &pod, &sent);
    let mut expected = [&OTHER_MAC[..], &GATEWAY[0], &sent[12..]].concat();
    expected[21] = 8;
    assert_eq!(taken(&other), [expected]);
    node.assert_balanced();
}

#[test]
fn a_next_hop_gets_nothing_back_that_it_sent() {
    let (mut node, other) = node(|tables| behind(tables, NextHop::Hop(0)));
    let before = node.counts();
    inject(&mut node, &other, &ipv4_frame(OTHER_MAC, GATEWAY[0], OTHER, BEHIND, 64, b""));
    node.assert_changed(&before, &[("rx", 1), ("same_port", 1)], "through itself");
    assert!(other.take().is_empty());
}

#[test]
fn what_comes_out_of_the_tunnel_goes_on_through_a_pod() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let mut tables = world.b.tables();
    tables.hops.push(Neighbour { mac: MacAddr(POD_MAC[1]), port: PortId::new(FIRST_POD).unwrap() });
    tables.routes4.insert([198, 51, 100, 0].into(), 24, NextHop::Hop(0));
    world.b.switch.publish(tables);
    let mut tables = world.a.tables();
    tables.routes4.insert([198, 51, 100, 0].into(), 24, NextHop::Vtep(0));
    world.a.switch.publish(tables);
    world.a.pod.inject(HeapBuf::from_bytes(&routed(BEHIND, 64, b"far and on")));
    world.carry();
    let expected = ipv4_frame(GATEWAY[1], POD_MAC[1], POD, BEHIND, 62, b"far and on");
    assert_eq!(taken(&world.b.pod), [expected]);
    world.assert_balanced();
}

/// Three next hops: the pod beside, and two far ends.
fn three(tables: &mut Snapshot) {
    tables.vteps.push(vtep(3, 1, VTEP_MAC[0]));
    tables.groups.push([NextHop::Hop(0), NextHop::Vtep(0), NextHop::Vtep(1)].into());
    behind(tables, NextHop::Group(0));
}

/// By which way a frame left: 0 for the pod beside, else the last byte of the far end's address.
fn ways(node: &Node, other: &MemPort) -> Vec<u8> {
    let mut ways = vec![0; other.take().len()];
    ways.extend(node.uplink.take().iter().map(|frame| frame.to_vec()[33]));
    ways
}

#[test]
fn flows_are_spread_over_equal_next_hops_and_stay_on_theirs() {
    let (mut node, other) = node(three);
    let pod = node.pod.clone();
    let mut chosen = BTreeMap::new();
    for round in 0..3 {
        for port in 0..600 {
            inject(&mut node, &pod, &udp(BEHIND, 1000 + port));
            let way = ways(&node, &other);
            assert_eq!(way.len(), 1);
            let first = *chosen.entry(port).or_insert(way[0]);
            assert_eq!(way[0], first, "flow {port} in round {round}");
        }
    }
    for way in [0, 2, 3] {
        let flows = chosen.values().filter(|other| **other == way).count();
        assert!((150..250).contains(&flows), "{flows} of 600 flows by way {way}");
    }
    node.assert_balanced();
}

/// Packets of one burst to one destination: what was found for the one before is the group, not its choice.
#[test]
fn the_choice_is_made_for_each_packet_of_a_burst() {
    let (mut node, other) = node(three);
    let alone: Vec<u8> = (0..60)
        .map(|port| {
            let pod = node.pod.clone();
            inject(&mut node, &pod, &udp(BEHIND, port));
            ways(&node, &other)[0]
        })
        .collect();
    (0..60).for_each(|port| node.pod.inject(HeapBuf::from_bytes(&udp(BEHIND, port))));
    node.switch.step();
    let mut together = ways(&node, &other);
    let mut expected = alone;
    together.sort_unstable();
    expected.sort_unstable();
    assert_eq!(together, expected);
    assert!(expected[0] == 0 && expected[59] == 3);
}

/// The first has the ports and the others not: all take one way.
#[test]
fn fragments_of_a_datagram_stay_together() {
    let (mut node, other) = node(three);
    let pod = node.pod.clone();
    let mut seen = BTreeSet::new();
    for last in 1..60 {
        let mut chosen = BTreeSet::new();
        for word in [0x2000u16, 0x2001, 0x0002] {
            let mut frame = udp([198, 51, 100, last], 7);
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            fill_ipv4_checksum(&mut frame[14..34]);
            inject(&mut node, &pod, &frame);
            chosen.extend(ways(&node, &other));
        }
        assert_eq!(chosen.len(), 1, "{chosen:?}");
        seen.extend(chosen);
    }
    assert_eq!(seen.len(), 3, "but datagrams to others take others");
}

#[test]
fn an_unresolved_next_hop_is_passed_over_and_the_other_flows_stay() {
    let chosen = |change: fn(&mut Snapshot)| -> Vec<u8> {
        let (mut node, other) = node(|tables| {
            three(tables);
            change(tables);
        });
        let pod = node.pod.clone();
        (1000..1300)
            .map(|port| {
                inject(&mut node, &pod, &udp(BEHIND, port));
                let ways = ways(&node, &other);
                assert_eq!(ways.len(), 1);
                ways[0]
            })
            .collect()
    };
    let all = chosen(|_| {});
    let without = chosen(|tables| tables.vteps.edit(1, |vtep| vtep.encap = None));
    let mut taken_over = BTreeMap::<u8, usize>::new();
    for (before, after) in all.iter().zip(&without) {
        if *before == 3 {
            *taken_over.entry(*after).or_default() += 1;
        } else {
            assert_eq!(before, after);
        }
    }
    assert!(taken_over[&0] > 25 && taken_over[&2] > 25 && taken_over.len() == 2, "{taken_over:?}");
    // A hop whose port is gone too.
    let without = chosen(|tables| tables.hops[0].port = PortId::new(77).unwrap());
    assert!(without.iter().all(|way| *way != 0));
}

#[test]
fn a_group_of_which_none_can_be_used_drops() {
    let (mut node, _) = node(|tables| {
        tables.vteps.edit(0, |vtep| vtep.encap = None);
        tables.groups.push([NextHop::Vtep(0)].into());
        tables.groups.push([NextHop::Group(0)].into());
        tables.groups.push([].into());
        behind(tables, NextHop::Group(0));
        for (third, group) in [(101, 1), (102, 2), (103, 9)] {
            tables.routes4.insert([198, 51, third, 0].into(), 24, NextHop::Group(group));
        }
    });
    let pod = node.pod.clone();
    let before = node.counts();
    inject(&mut node, &pod, &udp(BEHIND, 1));
    node.assert_changed(&before, &[("rx", 1), ("vtep_unresolved", 1)], "unresolved");
    // Tables that no control side makes: in another group, in none, in one that is not there.
    for third in 101..=103 {
        let before = node.counts();
        inject(&mut node, &pod, &udp([198, 51, third, 9], 1));
        let moved = [("rx", 1), ("no_route", 1), ("originated", 1), ("icmp_sent", 1), ("tx", 1)];
        node.assert_changed(&before, &moved, "no way");
    }
}

#[test]
fn out_of_the_tunnel_only_the_next_hops_of_this_node_count() {
    let (mut node, other) = node(three);
    let world = World::new(Underlay::V4, TxCaps::NONE);
    for port in 0..50 {
        let mut inner = Vec::new();
        let builder = PacketBuilder::ethernet2(VTEP_MAC[1], VTEP_MAC[0]).ipv4(FAR, BEHIND, 60);
        builder.udp(port, 53).write(&mut inner, b"").unwrap();
        let mut frame = world.encapsulated_by_kernel(&inner);
        // Turned round: from the other node to this one.
        frame[26..34].copy_from_slice(&[172, 16, 0, 2, 172, 16, 0, 1]);
        fill_ipv4_checksum(&mut frame[14..34]);
        let uplink = node.uplink.clone();
        inject(&mut node, &uplink, &frame);
        assert_eq!(ways(&node, &other), [0]);
    }
    node.assert_balanced();
}

#[test]
fn a_member_of_the_group_sends_through_the_others() {
    let (mut node, other) = node(three);
    for port in 0..50 {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(OTHER_MAC, GATEWAY[0]).ipv4(OTHER, BEHIND, 60);
        builder.udp(port, 53).write(&mut frame, b"").unwrap();
        inject(&mut node, &other, &frame);
        let way = ways(&node, &other);
        assert!(way == [2] || way == [3], "{way:?}");
    }
}

#[test]
fn source_routes_are_not_followed() {
    let (mut node, _) = node(|_| {});
    let pod = node.pod.clone();
    for (options, reason) in [
        (&[131u8, 7, 4, 10, 244, 1, 9, 0][..], "source_routed"),
        (&[1, 137, 7, 4, 10, 244, 1, 9], "source_routed"),
        (&[148, 4, 0, 0, 131, 3, 4, 0], "source_routed"),
        (&[148, 0, 0, 0], "ipv4_options"),
        (&[148, 9, 0, 0], "ipv4_options"),
        (&[1, 1, 1, 148], "ipv4_options"),
    ] {
        // Wherever they go: to the far node, to the host, to the gateway itself.
        for to in [FAR, [192, 0, 2, 1], [10, 244, 0, 1]] {
            let before = node.counts();
            inject(&mut node, &pod, &with_options(routed(to, 9, b""), options));
            node.assert_changed(&before, &[("rx", 1), (reason, 1)], &format!("{options:?} to {to:?}"));
        }
    }
}

#[test]
fn other_options_are_forwarded_as_they_are() {
    let (mut node, other) = node(|_| {});
    let pod = node.pod.clone();
    for options in [
        // Record route, timestamp, router alert, security, one that nobody knows, and all the room there is.
        &[7u8, 7, 4, 0, 0, 0, 0, 0][..],
        &[68, 8, 5, 0, 0, 0, 0, 0],
        &[148, 4, 0, 0],
        &[130, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0],
        &[222, 4, 9, 9],
        // Behind the end of the list anything may stand.
        &[0, 131, 7, 4],
        &[1; 40],
    ] {
        let sent = with_options(routed(OTHER, 9, b"with options"), options);
        inject(&mut node, &pod, &sent);
        let mut expected = [&OTHER_MAC[..], &GATEWAY[0], &sent[12..]].concat();
        expected[22] = 8;
        fill_ipv4_checksum(&mut expected[14..34 + options.len()]);
        assert_eq!(taken(&other), [expected], "{options:?}");
    }
    node.assert_balanced();
}

fn with_options(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + (options.len() / 4) as u8;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    fill_ipv4_checksum(&mut frame[14..34 + options.len()]);
    frame
}

/// An extension header of `units` times 8 bytes that announces `next`.
fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![0; usize::from(units) * 8];
    (header[0], header[1]) = (next, units - 1);
    // One option that pads: the rest.
    (header[2], header[3]) = (1, units * 8 - 4);
    header
}

#[test]
fn extension_headers_are_forwarded_untouched() {
    let (mut node, other) = node(|_| {});
    let mut world = World::new(Underlay::V6, TxCaps::NONE);
    let routing = |kind: u8, next: u8| {
        vec![next, 2, kind, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]
    };
    let fragment = |next: u8, offset: u8| vec![next, 0, 0, offset | 1, 0, 0, 0, 7];
    let authentication = |next: u8| [&[next, 4][..], &[0; 22]].concat();
    let chains: [(u8, Vec<u8>); 12] = [
        (0, extension(17, 1)),
        (0, extension(17, 25)),
        (60, extension(17, 2)),
        // Segment routing; and type 0, which is for the node that the packet is addressed to to refuse (RFC 5095).
        (43, routing(4, 17)),
        (43, routing(0, 17)),
        (51, authentication(17)),
        (44, fragment(17, 0)),
        (44, fragment(17, 64)),
        (44, fragment(60, 64)),
        (
            0,
            [
                extension(60, 1),
                extension(43, 1),
                routing(4, 44),
                fragment(51, 0),
                authentication(60),
                extension(17, 1),
            ]
            .concat(),
        ),
        // Mobility, and a number that nobody has: whatever follows is the receiver's to understand.
        (135, extension(17, 1)),
        (253, vec![0xff; 8]),
    ];
    for (first, chain) in chains {
        for (to, far) in [("fd00:10:244::6", false), ("fd00:10:244:1::5", true)] {
            let mut sent = routed6(to, 9);
            sent.splice(54..54, chain.iter().copied());
            sent[20] = first;
            let len = (sent.len() - 54) as u16;
            sent[18..20].copy_from_slice(&len.to_be_bytes());
            let got = if far {
                world.a.pod.inject(HeapBuf::from_bytes(&sent));
                world.carry();
                taken(&world.b.pod)
            } else {
                node.pod.inject(HeapBuf::from_bytes(&sent));
                node.switch.step();
                taken(&other)
            };
            let (mac, gateway, hops) =
                if far { (POD_MAC[1], GATEWAY[1], 7) } else { (OTHER_MAC, GATEWAY[0], 8) };
            let mut expected = [&mac[..], &gateway, &sent[12..]].concat();
            expected[21] = hops;
            assert_eq!(got, [expected], "{first} to {to}");
        }
    }
    node.assert_balanced();
    world.assert_balanced();
}

/// The node has a part of a second network, with its own VNI, VTEP and peers.
fn two_networks(tables: &mut Snapshot) {
    let second = MacAddr([2, 0xe, 0, 0, 0, 0]);
    let vni = Vni::new(77).unwrap();
    tables.local_vteps.push(LocalVtep { vni, mac: second, address: IpAddr::from([172, 16, 0, 1]) });
    tables.vteps.push(vtep(2, 77, second.0));
    tables.peers.insert(IpAddr::from([172, 16, 0, 2]), vni);
    tables.routes4.insert([10, 8, 0, 0].into(), 24, NextHop::Local);
    tables.routes4.insert([10, 8, 0, 1].into(), 32, NextHop::Host);
    tables.routes4.insert([10, 8, 1, 0].into(), 24, NextHop::Vtep(1));
    tables.gateway.v4.push([10, 8, 0, 1].into());
    tables.gateway.subnets4.push(([10, 8, 0, 0].into(), 24, [10, 8, 0, 1].into()));
}

/// The second pod, in the second network.
fn second_network() -> (Node, MemPort) {
    let mut node = Node::new(0, Underlay::V4, 1, TxCaps::NONE);
    let other = MemPort::default();
    node.add_pod(0, [10, 8, 0, 6], OTHER_MAC, &other);
    let mut tables = node.tables();
    two_networks(&mut tables);
    node.switch.publish(tables);
    (node, other)
}

fn vni_of(wire: &[u8]) -> [u8; 3] {
    [wire[46], wire[47], wire[48]]
}

#[test]
fn each_network_has_its_own_tunnel() {
    let (mut node, other) = second_network();
    let pod = node.pod.clone();
    inject(&mut node, &pod, &routed(FAR, 9, b"one"));
    inject(&mut node, &other, &ipv4_frame(OTHER_MAC, GATEWAY[0], [10, 8, 0, 6], [10, 8, 1, 4], 9, b"two"));
    let wire = taken(&node.uplink);
    assert_eq!([vni_of(&wire[0]), vni_of(&wire[1])], [[0, 0, 1], [0, 0, 77]]);
    assert_eq!(
        wire[1][50..62],
        [2, 0xf, 0, 0, 9, 2, 2, 0xe, 0, 0, 0, 0],
        "between the second network's VTEPs"
    );
    // One routing domain: the networks' pods reach each other through the gateway.
    inject(&mut node, &pod, &routed([10, 8, 0, 6], 9, b"across"));
    assert_eq!(taken(&other).len(), 1);
    inject(&mut node, &pod, &routed([10, 8, 1, 4], 9, b"across and far"));
    assert_eq!(vni_of(&taken(&node.uplink)[0]), [0, 0, 77]);
    node.assert_balanced();
}

#[test]
fn a_packet_of_one_network_does_not_go_back_into_the_tunnel_of_another() {
    let (mut node, other) = second_network();
    let world = World::new(Underlay::V4, TxCaps::NONE);
    let tunnelled = |vni: u8, mac: [u8; 6], to: [u8; 4]| {
        let inner = ipv4_frame([2, 0xf, 0, 0, 9, 2], mac, FAR, to, 60, b"x");
        let mut frame = world.encapsulated_by_kernel(&inner);
        frame[26..34].copy_from_slice(&[172, 16, 0, 2, 172, 16, 0, 1]);
        fill_ipv4_checksum(&mut frame[14..34]);
        frame[40..42].fill(0);
        frame[48] = vni;
        frame
    };
    let uplink = node.uplink.clone();
    let second = [2, 0xe, 0, 0, 0, 0];
    // To this node's pods of either network, whichever it came by; to nobody's VNI and MAC not.
    for (vni, mac) in [(1, VTEP_MAC[0]), (77, second)] {
        inject(&mut node, &uplink, &tunnelled(vni, mac, [10, 8, 0, 6]));
        inject(&mut node, &uplink, &tunnelled(vni, mac, POD));
        assert_eq!((taken(&other).len(), taken(&node.pod).len()), (1, 1), "VNI {vni}");
    }
    for (vni, mac, to, reason) in [
        (1, VTEP_MAC[0], [10, 8, 1, 4], "tunnel_to_tunnel"),
        (77, second, FAR, "tunnel_to_tunnel"),
        (77, second, [10, 8, 1, 4], "tunnel_to_tunnel"),
        (77, VTEP_MAC[0], POD, "inner_mac_wrong"),
        (1, second, POD, "inner_mac_wrong"),
        (78, second, POD, "vni_unknown"),
    ] {
        let before = node.counts();
        inject(&mut node, &uplink, &tunnelled(vni, mac, to));
        node.assert_changed(&before, &[("rx", 1), (reason, 1)], &format!("VNI {vni} to {to:?}"));
    }
    assert!(node.uplink.take().is_empty());
}

#[test]
fn every_subnets_gateway_answers() {
    let (mut node, other) = second_network();
    // Also when the question came by the last hop: the gateway is no hop.
    for ttl in [64, 1] {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(OTHER_MAC, GATEWAY[0]).ipv4([10, 8, 0, 6], [10, 8, 0, 1], ttl);
        builder.icmpv4_echo_request(7, 1).write(&mut frame, b"there?").unwrap();
        inject(&mut node, &other, &frame);
        let mut expected = Vec::new();
        let builder = PacketBuilder::ethernet2(GATEWAY[0], OTHER_MAC).ipv4([10, 8, 0, 1], [10, 8, 0, 6], 64);
        builder.icmpv4_echo_reply(7, 1).write(&mut expected, b"there?").unwrap();
        assert_eq!(taken(&other), [expected], "TTL {ttl}");
    }
    // The other subnet's gateway is the same router.
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OTHER_MAC, GATEWAY[0]).ipv4([10, 8, 0, 6], [10, 244, 0, 1], 1);
    builder.icmpv4_echo_request(7, 1).write(&mut frame, b"there?").unwrap();
    inject(&mut node, &other, &frame);
    assert_eq!(taken(&other)[0][26..34], [10, 244, 0, 1, 10, 8, 0, 6]);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]);
    let builder = builder.ipv6(v6("fd00:10:244::5").octets(), v6("fd00:10:244::1").octets(), 1);
    builder.icmpv6_echo_request(7, 1).write(&mut frame, b"there?").unwrap();
    let pod = node.pod.clone();
    inject(&mut node, &pod, &frame);
    let answer = taken(&pod).remove(0);
    assert_eq!((answer[21], answer[54]), (64, 129));
    node.assert_balanced();
}
