//! Tunnels of plain packets: the other nodes are neighbours behind one port, whose driver does the rest.

mod world;

use std::net::Ipv4Addr;

use weft_switch::ip_tunnel::mac_of;
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Neighbour, NextHop, Peers, Place, Port, Role, Shared, Snapshot};
use weft_switch::types::{MacAddr, Mtu, PortId, Vni};

use world::{GATEWAY, HOST_MAC, Node, POD_MAC, UPLINK, Underlay, World, ipv4_frame};

const POD: [[u8; 4]; 2] = [[10, 244, 0, 5], [10, 244, 1, 7]];
const ZERO: [[u8; 4]; 2] = [[10, 244, 0, 0], [10, 244, 1, 0]];
const NOBODY: [u8; 4] = [10, 244, 9, 9];
/// What the underlay leaves behind an IPv4 and a UDP header.
const MTU: usize = 1472;

/// A node's MAC address for the others.
fn node_mac(node: usize) -> [u8; 6] {
    mac_of(Ipv4Addr::new(172, 16, 0, node as u8 + 1)).0
}

/// The tables of a node that reaches the other one so.
fn tables(node: &Node) -> Snapshot {
    let far = 1 - node.number;
    let mut tables = node.tables();
    let (uplink, vni) = (PortId::new(UPLINK).unwrap(), Vni::new(1).unwrap());
    let mtu = Mtu::new(MTU as u32).unwrap();
    let port = Port { role: Role::IpTunnel(vni), mtu, place: Place::Worker(0), tunnel_gso: false };
    tables.ports.insert(uplink, port);
    tables.hops.push(Neighbour { mac: MacAddr(node_mac(far)), port: uplink });
    tables.routes4.insert(ZERO[far].into(), 24, NextHop::Hop(0));
    tables
}

fn world() -> World {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    for node in [&mut world.a, &mut world.b] {
        let tables = tables(node);
        node.switch.publish(tables);
    }
    world
}

fn inject(node: &mut Node, port: &MemPort, frame: &[u8]) {
    port.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
}

fn taken(port: &MemPort) -> Vec<Vec<u8>> {
    port.take().iter().map(HeapBuf::to_vec).collect()
}

/// What b's driver makes of a packet from the node with this number.
fn come_in(node: usize, from: [u8; 4], to: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_frame(node_mac(node), GATEWAY[1], from, to, ttl, payload)
}

#[test]
fn packets_go_to_the_node_by_its_address_and_each_node_is_one_hop() {
    let mut world = world();
    let (pod, uplink) = (world.a.pod.clone(), world.a.uplink.clone());
    let sent = ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], POD[1], 9, b"plain");
    inject(&mut world.a, &pod, &sent);
    let on_the_wire = ipv4_frame(GATEWAY[0], node_mac(1), POD[0], POD[1], 8, b"plain");
    assert_eq!(taken(&uplink), [on_the_wire]);

    let uplink = world.b.uplink.clone();
    inject(&mut world.b, &uplink, &come_in(0, POD[0], POD[1], 8, b"plain"));
    assert_eq!(taken(&world.b.pod), [ipv4_frame(GATEWAY[1], POD_MAC[1], POD[0], POD[1], 7, b"plain")]);
    world.assert_balanced();
    assert_eq!(world.a.all_drops() + world.b.all_drops(), 0);
}

/// The host's packets have been routed by its kernel, or are its own.
#[test]
fn the_host_takes_part() {
    let mut world = world();
    let (host, uplink) = (world.a.host.clone(), world.a.uplink.clone());
    inject(&mut world.a, &host, &ipv4_frame(HOST_MAC[0], GATEWAY[0], ZERO[0], POD[1], 64, b"from"));
    assert_eq!(taken(&uplink), [ipv4_frame(GATEWAY[0], node_mac(1), ZERO[0], POD[1], 64, b"from")]);
    let back = ipv4_frame(node_mac(1), GATEWAY[0], POD[1], [10, 244, 0, 1], 9, b"to");
    inject(&mut world.a, &uplink, &back);
    assert_eq!(
        taken(&world.a.host),
        [ipv4_frame(GATEWAY[0], HOST_MAC[0], POD[1], [10, 244, 0, 1], 9, b"to")]
    );
    // A client outside, whose packet its node has not translated: the tunnel says who sends, not what from.
    inject(&mut world.a, &uplink, &ipv4_frame(node_mac(1), GATEWAY[0], [192, 0, 2, 9], POD[0], 9, b"client"));
    let arrived = ipv4_frame(GATEWAY[0], POD_MAC[0], [192, 0, 2, 9], POD[0], 8, b"client");
    assert_eq!(taken(&world.a.pod), [arrived]);
    world.a.assert_balanced();
}

#[test]
fn only_known_nodes_are_heard_unless_all_may_speak() {
    let mut b = Node::new(1, Underlay::V4, 1, TxCaps::NONE);
    let tables_of_b = tables(&b);
    b.switch.publish(tables_of_b);
    let uplink = b.uplink.clone();
    let stranger = come_in(7, POD[0], POD[1], 9, b"stranger");
    let not_a_node = ipv4_frame(POD_MAC[0], GATEWAY[1], POD[0], POD[1], 9, b"not a node");
    for (frame, what) in [(&stranger, "a node that is not known"), (&not_a_node, "no node's MAC address")] {
        let before = b.counts();
        inject(&mut b, &uplink, frame);
        b.assert_changed(&before, &[("rx", 1), ("vtep_unknown", 1)], what);
    }
    assert!(b.pod.take().is_empty());

    let mut for_all = tables(&b);
    for_all.peers = Shared::new(Peers::new(true));
    b.switch.publish(for_all);
    inject(&mut b, &uplink, &stranger);
    assert_eq!(taken(&b.pod), [ipv4_frame(GATEWAY[1], POD_MAC[1], POD[0], POD[1], 8, b"stranger")]);
}

/// A node is no way to a third one, nor back.
#[test]
fn what_came_from_a_node_goes_to_none() {
    let mut b = Node::new(1, Underlay::V4, 1, TxCaps::NONE);
    let tables_of_b = tables(&b);
    b.switch.publish(tables_of_b);
    let uplink = b.uplink.clone();
    let before = b.counts();
    inject(&mut b, &uplink, &come_in(0, POD[0], [10, 244, 0, 9], 9, b"back"));
    b.assert_changed(&before, &[("rx", 1), ("same_port", 1)], "back");
    assert!(b.uplink.take().is_empty());
}

#[test]
fn a_packet_that_is_too_big_for_the_tunnel_is_cut_or_refused() {
    let mut world = world();
    let (pod, uplink) = (world.a.pod.clone(), world.a.uplink.clone());
    let with_flags = |flags: u8| {
        let mut frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], POD[1], 9, &[7; MTU]);
        frame[20] = flags;
        world::fill_ipv4_checksum(&mut frame[14..34]);
        frame
    };
    inject(&mut world.a, &pod, &with_flags(0));
    let pieces = taken(&uplink);
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|piece| piece.len() <= 14 + MTU && piece[..6] == node_mac(1)));

    inject(&mut world.a, &pod, &with_flags(0x40));
    let told = taken(&world.a.pod);
    // Fragmentation Needed, with the MTU.
    assert_eq!(
        (told.len(), &told[0][34..36], &told[0][40..42]),
        (1, &[3, 4][..], &(MTU as u16).to_be_bytes()[..])
    );
    assert!(taken(&uplink).is_empty());
    world.a.assert_balanced();
}

/// As flanneld answers: that there is no net, from the subnet's first address, with 8 hops to go, and about ICMP nothing. The host is told
/// from an address that is not its own.
#[test]
fn the_udp_backend_says_that_no_node_has_a_destination() {
    let mut a = Node::new(0, Underlay::V4, 1, TxCaps::NONE);
    let mut tables_of_a = tables(&a);
    tables_of_a.udp_proxy = Some(ZERO[0].into());
    a.switch.publish(tables_of_a);
    let (pod, host) = (a.pod.clone(), a.host.clone());
    for (port, src, teller, ttl) in
        [(&pod, (POD_MAC[0], POD[0]), ZERO[0], 7), (&host, (HOST_MAC[0], ZERO[0]), [10, 244, 0, 1], 8)]
    {
        let about = ipv4_frame(src.0, GATEWAY[0], src.1, NOBODY, 9, &[7; 40]);
        inject(&mut a, port, &about);
        let told = taken(port);
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((&told[..6], &told[6..12]), (&src.0[..], &GATEWAY[0][..]));
        let (ip, icmp) = (&told[14..34], &told[34..]);
        assert_eq!((ip[1], ip[8], ip[9]), (0, ttl, 1), "service, TTL, protocol");
        assert_eq!((&ip[12..16], &ip[16..20]), (&teller[..], &src.1[..]));
        assert_eq!((&icmp[..2], &icmp[8..]), (&[3, 0][..], &about[14..14 + 28]), "what is quoted");
    }
    let before = a.counts();
    let mut ping = ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], NOBODY, 9, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    ping[23] = 1;
    world::fill_ipv4_checksum(&mut ping[14..34]);
    inject(&mut a, &pod, &ping);
    a.assert_changed(&before, &[("rx", 1), ("route_unreachable", 1)], "an echo request");
    a.assert_balanced();
}
