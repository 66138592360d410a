//! Connections that the host's kernel translates: what it sends on from a pod's address pins the answers, which come to it wherever they would
//! have gone. The test is the kernel: what comes to the host port it translates and puts back.

mod world;

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use weft_switch::drop_reason::DropReason;
use weft_switch::ip_tunnel::mac_of;
use weft_switch::packet::HeapBuf;
use weft_switch::pins::{Kind, PARTS, Pins};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Neighbour, NextHop, Place, Port, Role};
use weft_switch::types::{Mtu, PortId, Vni};

use world::{
    GATEWAY, HOST_MAC, Node, POD_MAC, UPLINK, Underlay, VTEP_MAC, World, fill_ipv4_checksum, ipv4_frame,
};

/// Of node 1: its first pod, a second one, and a pod of node 0.
const P: [u8; 4] = [10, 244, 1, 7];
const Q: [u8; 4] = [10, 244, 1, 8];
const R: [u8; 4] = [10, 244, 0, 5];
/// A service, the gateway's and the node's own address, and somebody outside.
const C: [u8; 4] = [10, 96, 0, 10];
const GATEWAY_IP: [u8; 4] = [10, 244, 1, 1];
const X: [u8; 4] = [192, 0, 2, 9];
const Q_MAC: [u8; 6] = [2, 0, 0, 0, 1, 8];

const NODE: usize = 1;

type Mac = [u8; 6];

fn udp(macs: (Mac, Mac), from: ([u8; 4], u16), to: ([u8; 4], u16), ttl: u8, len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0, to.0, ttl).udp(from.1, to.1);
    builder.write(&mut frame, &vec![7; len]).unwrap();
    frame
}

fn udp6(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2(macs.0, macs.1).ipv6(address(from.0), address(to.0), 9).udp(from.1, to.1);
    builder.write(&mut frame, b"six").unwrap();
    frame
}

fn tcp(macs: (Mac, Mac), from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0, to.0, 9).tcp(from.1, to.1, 1, 500);
    builder.write(&mut frame, b"").unwrap();
    // The switch looks at no checksum but IP's.
    frame[47] = flags;
    frame
}

/// The node with both pods; the second one at a worker of its own where there are two.
struct Room {
    node: Node,
    second: MemPort,
}

/// The ways that frames come by.
const FROM_HOST: (Mac, Mac) = (HOST_MAC[NODE], GATEWAY[NODE]);
const TO_HOST: (Mac, Mac) = (GATEWAY[NODE], HOST_MAC[NODE]);
const FROM_P: (Mac, Mac) = (POD_MAC[NODE], GATEWAY[NODE]);
const TO_P: (Mac, Mac) = (GATEWAY[NODE], POD_MAC[NODE]);
const Q_TO_P: (Mac, Mac) = (Q_MAC, POD_MAC[NODE]);
const INNER: (Mac, Mac) = (VTEP_MAC[0], VTEP_MAC[NODE]);

impl Room {
    fn new(workers: usize) -> Self {
        let (mut node, second) = (Node::new(NODE, Underlay::V4, workers, TxCaps::NONE), MemPort::default());
        node.add_pod(workers - 1, Q, Q_MAC, &second);
        Self { node, second }
    }

    fn pins(&self) -> &Pins {
        self.node.switch.pins().expect("a worker")
    }

    fn by(&mut self, port: &MemPort, frame: &[u8]) {
        port.inject(HeapBuf::from_bytes(frame));
        while self.node.switch.step() > 0 {}
    }

    fn host_sends(&mut self, frame: &[u8]) {
        let port = self.node.host.clone();
        self.by(&port, frame);
    }

    fn p_sends(&mut self, frame: &[u8]) {
        let port = self.node.pod.clone();
        self.by(&port, frame);
    }

    fn q_sends(&mut self, frame: &[u8]) {
        let port = self.second.clone();
        self.by(&port, frame);
    }

    /// Out of node 0's tunnel.
    fn peer_sends(&mut self, inner: &[u8]) {
        let frame = World::new(Underlay::V4, TxCaps::NONE).encapsulated_by_kernel(inner);
        let port = self.node.uplink.clone();
        self.by(&port, &frame);
    }

    /// What has arrived at the host, P, Q and the uplink.
    fn arrived(&self) -> [Vec<Vec<u8>>; 4] {
        [&self.node.host, &self.node.pod, &self.second, &self.node.uplink]
            .map(|port| port.take().iter().map(HeapBuf::to_vec).collect())
    }

    /// One frame has arrived, at the host.
    fn assert_host(&self, frame: &[u8], what: &str) {
        assert_eq!(self.arrived(), [vec![frame.to_vec()], vec![], vec![], vec![]], "{what}");
    }

    /// One frame has arrived, at P.
    fn assert_p(&self, frame: &[u8], what: &str) {
        assert_eq!(self.arrived(), [vec![], vec![frame.to_vec()], vec![], vec![]], "{what}");
    }

    fn counter(&self, read: fn(&weft_switch::counters::WorkerCounters) -> u64) -> u64 {
        self.node.switch.handles().map(|handle| read(handle.counters())).sum()
    }
}

/// P asks a service that a pod of another node serves.
#[test]
fn from_another_node_the_answer_comes_to_the_kernel_first() {
    let mut room = Room::new(1);
    room.p_sends(&udp(FROM_P, (P, 40_000), (C, 53), 64, 9));
    room.assert_host(&udp(TO_HOST, (P, 40_000), (C, 53), 64, 9), "the kernel knows the service");
    assert_eq!(room.pins().count(), 0);
    room.host_sends(&udp(FROM_HOST, (P, 40_000), (R, 5353), 63, 9));
    let [host, p, q, uplink] = room.arrived();
    assert_eq!((host.len(), p.len(), q.len(), uplink.len()), (0, 0, 0, 1), "into the tunnel");

    // No hop: the kernel takes one.
    room.peer_sends(&udp(INNER, (R, 5353), (P, 40_000), 63, 20));
    room.assert_host(&udp(TO_HOST, (R, 5353), (P, 40_000), 63, 20), "it is pinned");
    room.host_sends(&udp(FROM_HOST, (C, 53), (P, 40_000), 62, 20));
    room.assert_p(&udp(TO_P, (C, 53), (P, 40_000), 62, 20), "translated back");
    assert_eq!(
        room.counter(|c| c.pinned.get()),
        2,
        "the flow and its fragments; nothing for the service's answer"
    );
    assert_eq!(room.counter(|c| c.to_host_pinned.get()), 1);

    // What is not pinned goes its own way, one hop further.
    for (from, to) in
        [((R, 5354), (P, 40_000)), ((R, 5353), (P, 40_001)), (([10, 244, 0, 6], 5353), (P, 40_000))]
    {
        room.peer_sends(&udp(INNER, from, to, 63, 20));
        room.assert_p(&udp(TO_P, from, to, 62, 20), "another flow");
    }
    assert_eq!(room.node.all_drops(), 0);
    room.node.assert_balanced();
}

/// A pod of the same node serves: its answer is a frame to P itself.
#[test]
fn on_the_same_node_the_bridge_gives_it_to_the_kernel() {
    for workers in [1, 2] {
        let mut room = Room::new(workers);
        room.host_sends(&tcp(FROM_HOST, (P, 40_000), (Q, 8080), 2));
        let [_, _, q, _] = room.arrived();
        assert_eq!(q, [tcp((GATEWAY[NODE], Q_MAC), (P, 40_000), (Q, 8080), 2)]);
        let answer = |macs, flags| tcp(macs, (Q, 8080), (P, 40_000), flags);
        room.q_sends(&answer(Q_TO_P, 0x12));
        room.assert_host(&answer(TO_HOST, 0x12), "a frame to the station");
        room.q_sends(&answer((Q_MAC, GATEWAY[NODE]), 0x10));
        room.assert_host(&answer(TO_HOST, 0x10), "a frame to the gateway");
        room.q_sends(&tcp(Q_TO_P, (Q, 8081), (P, 40_000), 0x12));
        room.assert_p(&tcp(Q_TO_P, (Q, 8081), (P, 40_000), 0x12), "another flow is bridged as it is");
        // P is spoken to by Q as well: that is another flow.
        room.p_sends(&tcp((POD_MAC[NODE], Q_MAC), (P, 40_000), (Q, 8080), 0x10));
        assert_eq!(room.arrived()[2].len(), 1);
        room.node.assert_balanced();
    }
}

/// Masqueraded by the kernel, or from outside: the answers lead to the host by themselves.
#[test]
fn what_leads_to_the_host_anyway_is_not_pinned() {
    let mut room = Room::new(1);
    for (from, what) in [
        (GATEWAY_IP, "masqueraded"),
        (X, "from outside, by a node port or a host port"),
        (C, "a service's answer"),
    ] {
        room.host_sends(&udp(FROM_HOST, (from, 1234), (P, 8080), 63, 9));
        room.assert_p(&udp(TO_P, (from, 1234), (P, 8080), 63, 9), what);
        room.p_sends(&udp(FROM_P, (P, 8080), (from, 1234), 64, 9));
        room.assert_host(&udp(TO_HOST, (P, 8080), (from, 1234), 64, 9), what);
    }
    // Another node's pod by way of this node's kernel, and an address that nobody has.
    room.host_sends(&udp(FROM_HOST, (R, 1234), (P, 8080), 63, 9));
    room.assert_p(&udp(TO_P, (R, 1234), (P, 8080), 63, 9), "from another node");
    room.host_sends(&udp(FROM_HOST, ([10, 244, 1, 99], 1234), (P, 8080), 63, 9));
    room.arrived();
    // Nowhere to go: there will be no answer.
    room.host_sends(&udp(FROM_HOST, (P, 1234), ([10, 244, 1, 99], 8080), 63, 9));
    room.host_sends(&udp(FROM_HOST, (P, 1234), (X, 8080), 63, 9));
    room.arrived();
    assert_eq!((room.pins().count(), room.counter(|c| c.pinned.get())), (0, 0));
}

/// Where other nodes are neighbours behind a port, their pods are none of this node's: a packet of theirs that the kernel sends on pins
/// nothing, and the answers go by the tunnel.
#[test]
fn the_pods_behind_a_tunnel_of_plain_packets_are_not_here() {
    let mut room = Room::new(1);
    let mut tables = room.node.tables();
    let (uplink, vni) = (PortId::new(UPLINK).unwrap(), Vni::new(1).unwrap());
    let mtu = Mtu::new(1472).unwrap();
    let port = Port { role: Role::IpTunnel(vni), mtu, place: Place::Worker(0), tunnel_gso: false };
    tables.ports.insert(uplink, port);
    let far = mac_of(Ipv4Addr::new(172, 16, 0, 1));
    tables.hops.push(Neighbour { mac: far, port: uplink });
    tables.routes4.insert([10, 244, 0, 0].into(), 24, NextHop::Hop(0));
    room.node.switch.publish(tables);
    let far = (GATEWAY[NODE], far.0);

    // R asks a host port or a node port of this node, served by P.
    room.host_sends(&udp(FROM_HOST, (R, 1234), (P, 8080), 63, 9));
    room.assert_p(&udp(TO_P, (R, 1234), (P, 8080), 63, 9), "from another node");
    assert_eq!(room.pins().count(), 0, "R is not here");
    room.p_sends(&udp(FROM_P, (P, 8080), (R, 1234), 64, 9));
    let [host, _, _, uplink] = room.arrived();
    assert_eq!((host.len(), uplink), (0, vec![udp(far, (P, 8080), (R, 1234), 63, 9)]));

    // P asks a service that R serves.
    room.host_sends(&udp(FROM_HOST, (P, 40_000), (R, 5353), 63, 9));
    assert_eq!(room.arrived()[3].len(), 1, "into the tunnel");
    let port = room.node.uplink.clone();
    room.by(&port, &udp((far.1, GATEWAY[NODE]), (R, 5353), (P, 40_000), 63, 9));
    room.assert_host(&udp(TO_HOST, (R, 5353), (P, 40_000), 63, 9), "it is pinned");
    room.node.assert_balanced();
}

/// Who may send what is asked first, and a frame from the host is never given back to it.
#[test]
fn a_pin_lets_nobody_through_and_nothing_go_round() {
    let mut room = Room::new(1);
    room.host_sends(&udp(FROM_HOST, (P, 1), (Q, 2), 63, 9));
    room.arrived();
    room.p_sends(&udp((POD_MAC[NODE], GATEWAY[NODE]), (Q, 2), (P, 1), 64, 9));
    assert_eq!(room.node.drops(DropReason::SpoofedIp), 1);
    room.q_sends(&udp((Q_MAC, HOST_MAC[NODE]), (P, 2), (P, 1), 64, 9));
    assert_eq!(room.node.drops(DropReason::SpoofedIp), 2);
    assert_eq!(room.arrived(), [const { Vec::<Vec<u8>>::new() }; 4]);
    // The kernel forwards what it does not translate: it arrives.
    room.q_sends(&udp(Q_TO_P, (Q, 2), (P, 1), 64, 9));
    room.assert_host(&udp(TO_HOST, (Q, 2), (P, 1), 64, 9), "pinned");
    room.host_sends(&udp(FROM_HOST, (Q, 2), (P, 1), 63, 9));
    room.assert_p(&udp(TO_P, (Q, 2), (P, 1), 63, 9), "from the host");
    room.node.assert_balanced();
}

/// The size and the last hop of a pinned packet are for the kernel to judge.
#[test]
fn too_big_and_too_far_are_the_kernels() {
    let mut room = Room::new(1);
    room.host_sends(&udp(FROM_HOST, (P, 1), (R, 2), 63, 9));
    room.arrived();
    room.peer_sends(&udp(INNER, (R, 2), (P, 1), 1, 9));
    room.assert_host(&udp(TO_HOST, (R, 2), (P, 1), 1, 9), "its last hop");
    room.peer_sends(&udp(INNER, (R, 2), (P, 1), 9, 1460));
    room.assert_host(&udp(TO_HOST, (R, 2), (P, 1), 9, 1460), "more than a pod's port takes");
    room.host_sends(&udp(FROM_HOST, (P, 1), (Q, 2), 63, 9));
    room.arrived();
    room.q_sends(&udp(Q_TO_P, (Q, 2), (P, 1), 9, 1460));
    room.assert_host(&udp(TO_HOST, (Q, 2), (P, 1), 9, 1460), "more than the bridge takes");
    assert_eq!(room.node.all_drops(), 0);
    room.peer_sends(&udp(INNER, (R, 3), (P, 1), 1, 9));
    assert_eq!(room.node.drops(DropReason::TtlExceeded), 1, "another flow");
    room.node.assert_balanced();
}

fn fragment(macs: (Mac, Mac), from: [u8; 4], to: [u8; 4], field: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ipv4_frame(macs.0, macs.1, from, to, 9, payload);
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    frame[23] = 17;
    fill_ipv4_checksum(&mut frame[14..34]);
    frame
}

#[test]
fn fragments_go_together() {
    let mut room = Room::new(1);
    room.host_sends(&udp(FROM_HOST, (P, 1), (R, 2), 63, 9));
    room.arrived();
    let first = [0, 2, 0, 1, 0, 32, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for (field, payload) in [(2, &[9; 16][..]), (0x2000, &first), (1, &[8; 8])] {
        room.peer_sends(&fragment(INNER, R, P, field, payload));
        room.assert_host(&fragment(TO_HOST, R, P, field, payload), "whichever comes first");
    }
    // From elsewhere they have nothing to do with it.
    let other = [10, 244, 0, 6];
    room.peer_sends(&fragment(INNER, other, P, 2, &[9; 16]));
    assert_eq!(room.arrived()[1].len(), 1);
    room.node.assert_balanced();
}

/// Nobody listens where the kernel has sent it: R says so, or a router does.
#[test]
fn errors_about_a_translated_packet_come_to_the_kernel() {
    let mut room = Room::new(1);
    room.host_sends(&udp(FROM_HOST, (P, 1), (R, 2), 63, 9));
    room.arrived();
    let about = |macs, from, port: u16| {
        let quoted = udp(FROM_HOST, (P, 1), (R, port), 63, 9);
        let mut frame =
            ipv4_frame(macs, GATEWAY[NODE], from, P, 9, &[&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat());
        frame[23] = 1;
        fill_ipv4_checksum(&mut frame[14..34]);
        frame
    };
    let with = |mut frame: Vec<u8>, (src, dst): (Mac, Mac)| {
        frame[..6].copy_from_slice(&dst);
        frame[6..12].copy_from_slice(&src);
        frame
    };
    for from in [R, [10, 244, 0, 1]] {
        let error = about(VTEP_MAC[0], from, 2);
        room.peer_sends(&with(error.clone(), INNER));
        room.assert_host(&with(error, TO_HOST), "about the pinned flow");
    }
    room.peer_sends(&with(about(VTEP_MAC[0], R, 3), INNER));
    assert_eq!(room.arrived()[1].len(), 1, "about another");
    room.node.assert_balanced();
}

#[test]
fn over_ipv6_too() {
    let (p, r, service) = ("fd00:10:244:1::5", "fd00:10:244::5", "fd00:96::a");
    let mut room = Room::new(1);
    room.host_sends(&udp6(FROM_HOST, (p, 40_000), (r, 53)));
    assert_eq!(room.arrived()[3].len(), 1);
    room.peer_sends(&udp6(INNER, (r, 53), (p, 40_000)));
    room.assert_host(&udp6(TO_HOST, (r, 53), (p, 40_000)), "pinned");
    room.host_sends(&udp6(FROM_HOST, (service, 53), (p, 40_000)));
    room.assert_p(&udp6(TO_P, (service, 53), (p, 40_000)), "translated back");
    assert_eq!(room.pins().count(), 2);
    room.node.assert_balanced();
}

/// A pin is forgotten when the kernel forgets; the answer then goes its own way.
#[test]
fn it_lasts_as_long_as_the_connection() {
    let mut room = Room::new(1);
    let answer = |macs| udp(macs, (Q, 2), (P, 1), 9, 9);
    room.node.switch.set_time(1_000_000);
    room.host_sends(&udp(FROM_HOST, (P, 1), (Q, 2), 63, 9));
    room.arrived();
    room.node.switch.set_time(1_029_000);
    room.q_sends(&answer(Q_TO_P));
    room.assert_host(&answer(TO_HOST), "within 30 seconds");
    room.node.switch.set_time(1_148_000);
    room.q_sends(&answer(Q_TO_P));
    room.assert_host(&answer(TO_HOST), "answered, so within 120");
    assert!(room.pins().iter(1148).any(|pin| pin.kind == Kind::Answered && pin.age == 0));
    room.node.switch.set_time(1_268_000);
    room.q_sends(&answer(Q_TO_P));
    room.assert_p(&answer(Q_TO_P), "it is over");
    assert_eq!((0..PARTS).map(|turn| room.pins().sweep(turn, 2000, |_| true)).sum::<usize>(), 2);
}

/// A table that is full gives the places of those that would be forgotten first, and says so.
#[test]
fn more_connections_than_there_is_room_for() {
    let mut room = Room::new(1);
    let room_for = room.pins().capacity();
    let host = room.node.host.clone();
    for port in 0..2 * room_for as u16 {
        host.inject(HeapBuf::from_bytes(&udp(FROM_HOST, (P, 1000 + port), (R, 53), 63, 9)));
        if port % 32 == 31 {
            room.node.switch.step();
            room.arrived();
        }
    }
    while room.node.switch.step() > 0 {}
    room.arrived();
    let (pinned, evicted) = (room.counter(|c| c.pinned.get()), room.counter(|c| c.pins_evicted.get()));
    assert!(room.pins().count() <= room_for && evicted > 0);
    assert_eq!(pinned - evicted, room.pins().count() as u64);
    room.peer_sends(&udp(INNER, (R, 53), (P, 1000 + 2 * room_for as u16 - 1), 9, 9));
    assert_eq!(room.arrived()[0].len(), 1, "the last one is there");
    room.node.assert_balanced();
}

/// A pod that sends and sends without ever being answered takes its own places: neither those of others that are established, nor those
/// of others that have just begun.
#[test]
fn a_flood_of_one_pod_leaves_the_others_theirs() {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    /// Connections of Q, and as many that it begins and questions that it asks when the table is full.
    const OTHERS: u16 = 16;
    let mut room = Room::new(1);
    let room_for = room.pins().capacity() as u16;
    let answer = |port, flags| tcp(INNER, (R, 80), (Q, port), flags);
    let come_to_host = |room: &mut Room, frame: &[u8], what: &str| {
        room.peer_sends(frame);
        assert_eq!(room.arrived()[0].len(), 1, "{what}");
    };
    let q_asks = |room: &mut Room, port, flags| {
        room.host_sends(&tcp(FROM_HOST, (Q, port), (R, 80), flags));
        room.arrived();
    };
    let flood = |room: &mut Room, ports: std::ops::Range<u16>, flags| {
        for port in ports {
            room.host_sends(&tcp(FROM_HOST, (P, port), (R, 80), flags));
            room.arrived();
        }
    };
    room.node.switch.set_time(1000);
    for port in 0..OTHERS {
        q_asks(&mut room, port, SYN);
        come_to_host(&mut room, &answer(port, SYN | ACK), "there is room");
        q_asks(&mut room, port, ACK);
    }
    room.node.switch.set_time(2000);
    flood(&mut room, 1000..1000 + 2 * room_for, ACK);
    assert!(room.counter(|c| c.pins_evicted.get()) > 0);
    room.node.switch.set_time(3000);
    for port in 0..OTHERS {
        q_asks(&mut room, 100 + port, SYN);
        room.host_sends(&udp(FROM_HOST, (Q, 200 + port), (R, 53), 63, 9));
        room.arrived();
    }
    // So few that no bucket gets more of them than it has of those of before.
    flood(&mut room, 10_000..10_000 + room_for / 8, ACK);
    flood(&mut room, 20_000..20_000 + room_for / 8, SYN);
    for port in 0..OTHERS {
        come_to_host(&mut room, &answer(port, ACK), "an established connection");
        come_to_host(&mut room, &answer(100 + port, SYN | ACK), "one that has just begun");
        come_to_host(&mut room, &udp(INNER, (R, 53), (Q, 200 + port), 9, 9), "a question");
    }
    room.node.assert_balanced();
}
