//! Nodes that are reached without the tunnel: through the node's own stack, or on the uplink's link by weft itself.

mod world;

use weft_switch::drop_reason::DropReason;
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Link, NO_VTEP, Neighbour, NextHop, Snapshot};
use weft_switch::types::{MacAddr, PortId};

use world::{
    GATEWAY, HOST_MAC, Node, POD_MAC, UPLINK, UPLINK_MAC, Underlay, VTEP_MAC, World, fill_ipv4_checksum,
    ipv4_frame, ipv6_frame,
};

const POD: [[u8; 4]; 2] = [[10, 244, 0, 5], [10, 244, 1, 7]];

/// The tables of a node for which the other one is on the link.
fn on_link(node: &Node, vtep: u32) -> Snapshot {
    let far = 1 - node.number;
    let mut tables = node.tables();
    let to = Neighbour { mac: MacAddr(UPLINK_MAC[far]), port: PortId::new(UPLINK).unwrap() };
    tables.links.push(Link { to, vtep });
    tables.uplink_mac = MacAddr(UPLINK_MAC[node.number]);
    lead(&mut tables, far, NextHop::OnLink(0));
    tables
}

fn lead(tables: &mut Snapshot, far: usize, next_hop: NextHop) {
    tables.routes4.insert([10, 244, far as u8, 0].into(), 24, next_hop);
    tables.routes6.insert(format!("fd00:10:244:{far}::").parse().unwrap(), 64, next_hop);
}

/// Both nodes without the tunnel.
fn world() -> World {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    for node in [&mut world.a, &mut world.b] {
        let tables = on_link(node, 0);
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

/// A pod's packet on the wire, from a to b.
fn on_the_wire(ttl: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_frame(UPLINK_MAC[0], UPLINK_MAC[1], POD[0], POD[1], ttl, payload)
}

#[test]
fn packets_go_as_they_are_and_each_node_is_one_hop() {
    let mut world = world();
    let sent = ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], POD[1], 9, b"as it is");
    world.a.pod.inject(HeapBuf::from_bytes(&sent));
    assert_eq!(world.carry(), [on_the_wire(8, b"as it is")]);
    let arrived = ipv4_frame(GATEWAY[1], POD_MAC[1], POD[0], POD[1], 7, b"as it is");
    assert_eq!(taken(&world.b.pod), [arrived]);

    let sent = ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 1, 9, b"six");
    world.a.pod.inject(HeapBuf::from_bytes(&sent));
    assert_eq!(world.carry(), [ipv6_frame(UPLINK_MAC[0], UPLINK_MAC[1], 0, 1, 8, b"six")]);
    assert_eq!(taken(&world.b.pod), [ipv6_frame(GATEWAY[1], POD_MAC[1], 0, 1, 7, b"six")]);
    world.assert_balanced();
    assert_eq!(world.a.all_drops() + world.b.all_drops(), 0);
}

/// The host's packets for them have been routed by its kernel, and what comes for the host's addresses goes there.
#[test]
fn the_host_takes_part() {
    let mut world = world();
    let host = world.a.host.clone();
    let sent = ipv4_frame(HOST_MAC[0], GATEWAY[0], [10, 244, 0, 1], POD[1], 9, b"from the host");
    inject(&mut world.a, &host, &sent);
    let plain = ipv4_frame(UPLINK_MAC[0], UPLINK_MAC[1], [10, 244, 0, 1], POD[1], 9, b"from the host");
    assert_eq!(world.carry(), [plain]);
    taken(&world.b.pod);
    let uplink = world.a.uplink.clone();
    let back = ipv4_frame(UPLINK_MAC[1], UPLINK_MAC[0], POD[1], [10, 244, 0, 1], 9, b"to the host");
    inject(&mut world.a, &uplink, &back);
    let expected = ipv4_frame(GATEWAY[0], HOST_MAC[0], POD[1], [10, 244, 0, 1], 9, b"to the host");
    assert_eq!(taken(&world.a.host), [expected]);
    world.assert_balanced();
}

#[test]
fn a_plain_frame_is_taken_from_such_a_node_to_a_pod_here_and_no_other() {
    let mut b = Node::new(1, Underlay::V4, 1, TxCaps::NONE);
    let uplink = b.uplink.clone();
    let refused = |b: &mut Node, frame: &[u8], what: &str| {
        let before = b.counts();
        inject(b, &uplink, frame);
        b.assert_changed(&before, &[("rx", 1), ("not_tunnel", 1)], what);
        assert!(b.pod.take().is_empty() && b.host.take().is_empty() && b.uplink.take().is_empty(), "{what}");
    };
    let good = on_the_wire(9, b"plain");
    refused(&mut b, &good, "every node has the tunnel");
    let tables = on_link(&b, 0);
    b.switch.publish(tables);

    let macs = |src, dst| ipv4_frame(src, dst, POD[0], POD[1], 9, b"plain");
    let between = |src, dst| ipv4_frame(UPLINK_MAC[0], UPLINK_MAC[1], src, dst, 9, b"plain");
    let mut tagged = good.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    for (frame, what) in [
        (macs(UPLINK_MAC[0], GATEWAY[1]), "to another station"),
        (macs(UPLINK_MAC[0], [0xff; 6]), "a broadcast"),
        (tagged, "in a VLAN"),
        (between([192, 0, 2, 9], POD[1]), "from outside"),
        (between([10, 244, 9, 9], POD[1]), "from no node"),
        (between([10, 244, 1, 8], POD[1]), "from a pod of this node"),
        (between(POD[0], [192, 0, 2, 9]), "to outside"),
        (between(POD[0], [10, 244, 0, 9]), "to a pod of that node"),
        (between(POD[0], [10, 244, 1, 255]), "to all"),
    ] {
        refused(&mut b, &frame, what);
    }
    let uplink = uplink_of(&b);
    let before = b.drops(DropReason::OuterIpMalformed);
    inject(&mut b, &uplink, &good[..20]);
    assert_eq!(b.drops(DropReason::OuterIpMalformed), before + 1, "cut off");
    inject(&mut b, &uplink, &good);
    assert_eq!(taken(&b.pod), [ipv4_frame(GATEWAY[1], POD_MAC[1], POD[0], POD[1], 8, b"plain")]);
    b.assert_balanced();
}

fn uplink_of(node: &Node) -> MemPort {
    node.uplink.clone()
}

/// What a router says goes back as the packet came: plain, or into the tunnel.
#[test]
fn senders_are_told_on_the_way_that_they_came_by() {
    let mut world = world();
    let uplink = uplink_of(&world.b);
    for (frame, reason) in [
        (on_the_wire(1, &[7; 40]), "ttl_exceeded"),
        (ipv4_frame(UPLINK_MAC[0], UPLINK_MAC[1], POD[0], [10, 244, 1, 99], 9, &[7; 40]), "no_pod"),
    ] {
        let before = world.b.counts();
        inject(&mut world.b, &uplink, &frame);
        world.b.assert_changed(
            &before,
            &[("rx", 1), (reason, 1), ("originated", 1), ("tx", 1), ("icmp_sent", 1)],
            reason,
        );
        let [told] = &taken(&world.b.uplink)[..] else { panic!("{reason}: one message") };
        assert_eq!((&told[..6], &told[6..12]), (&UPLINK_MAC[0][..], &UPLINK_MAC[1][..]));
        assert_eq!((&told[26..30], &told[30..34]), (&[10, 244, 1, 1][..], &POD[0][..]), "{reason}");
        assert_eq!(told[23], 1, "ICMP");
    }
    // Both forms are taken, and answered in kind.
    let inner = ipv4_frame(VTEP_MAC[0], VTEP_MAC[1], POD[0], POD[1], 9, b"in the tunnel");
    let tunnelled = world.encapsulated_by_kernel(&inner);
    inject(&mut world.b, &uplink, &tunnelled);
    assert_eq!(
        taken(&world.b.pod),
        [ipv4_frame(GATEWAY[1], POD_MAC[1], POD[0], POD[1], 8, b"in the tunnel")]
    );
    let spent = ipv4_frame(VTEP_MAC[0], VTEP_MAC[1], POD[0], POD[1], 1, &[7; 40]);
    let spent = world.encapsulated_by_kernel(&spent);
    inject(&mut world.b, &uplink, &spent);
    let [told] = &taken(&world.b.uplink)[..] else { panic!("one message") };
    assert_eq!((told[23], &told[30..34]), (17, &[172, 16, 0, 1][..]), "in the tunnel");
    // From one node to another is no way, in whichever form.
    let on = ipv4_frame(VTEP_MAC[0], VTEP_MAC[1], POD[0], [10, 244, 0, 9], 9, b"back");
    let on = world.encapsulated_by_kernel(&on);
    let before = world.b.counts();
    inject(&mut world.b, &uplink, &on);
    world.b.assert_changed(&before, &[("rx", 1), ("tunnel_to_tunnel", 1)], "to where it came from");
    world.assert_balanced();
}

/// The link carries its whole MTU; what is more is cut or told of.
#[test]
fn the_links_mtu_counts() {
    let mut world = world();
    let pod = world.a.pod.clone();
    let fits = ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], POD[1], 9, &[7; 1480]);
    inject(&mut world.a, &pod, &fits);
    assert_eq!(taken(&world.a.uplink), [on_the_wire(8, &[7; 1480])]);

    let mut may_be_cut = ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], POD[1], 9, &[7; 1488]);
    may_be_cut[20] = 0;
    fill_ipv4_checksum(&mut may_be_cut[14..34]);
    inject(&mut world.a, &pod, &may_be_cut);
    let pieces = taken(&world.a.uplink);
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [14 + 1500, 14 + 20 + 8]);
    for piece in &pieces {
        assert_eq!((&piece[..6], &piece[6..12]), (&UPLINK_MAC[1][..], &UPLINK_MAC[0][..]));
        assert_eq!(piece[22], 8, "TTL");
    }
    let mut whole = may_be_cut;
    whole[20] = 0x40;
    fill_ipv4_checksum(&mut whole[14..34]);
    inject(&mut world.a, &pod, &whole);
    let [told] = &taken(&world.a.pod)[..] else { panic!("one message") };
    assert_eq!((told[34], told[35], &told[40..42]), (3, 4, &1500u16.to_be_bytes()[..]));
    world.assert_balanced();
}

/// Where the kernel forwards, it is the hop.
#[test]
fn through_the_nodes_own_stack_nothing_changes_but_the_stations() {
    let mut a = Node::new(0, Underlay::V4, 1, TxCaps::NONE);
    let mut tables = a.tables();
    lead(&mut tables, 1, NextHop::Direct(0));
    a.switch.publish(tables);
    let (pod, host, uplink) = (a.pod.clone(), a.host.clone(), a.uplink.clone());
    // As many bytes as the host's interface brings, and TTLs that no router would send on: both are its kernel's to judge.
    for (ttl, len) in [(9, 10), (1, 10), (9, 3000)] {
        let payload = vec![7; len];
        inject(&mut a, &pod, &ipv4_frame(POD_MAC[0], GATEWAY[0], POD[0], POD[1], ttl, &payload));
        assert_eq!(taken(&host), [ipv4_frame(GATEWAY[0], HOST_MAC[0], POD[0], POD[1], ttl, &payload)]);
    }
    inject(&mut a, &pod, &ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 1, 9, b"six"));
    assert_eq!(taken(&host), [ipv6_frame(GATEWAY[0], HOST_MAC[0], 0, 1, 9, b"six")]);
    // What comes from there, plain, has been routed by the kernel as well.
    inject(&mut a, &host, &ipv4_frame(HOST_MAC[0], GATEWAY[0], POD[1], POD[0], 9, b"back"));
    assert_eq!(taken(&pod), [ipv4_frame(GATEWAY[0], POD_MAC[0], POD[1], POD[0], 9, b"back")]);
    let before = a.counts();
    inject(&mut a, &host, &ipv4_frame(HOST_MAC[0], GATEWAY[0], [10, 244, 0, 0], POD[1], 9, b"round"));
    a.assert_changed(&before, &[("rx", 1), ("same_port", 1)], "it has a route of its own");
    assert!(taken(&uplink).is_empty());

    // Out of the tunnel all the same: to pods here, with an answer there, and never on to another node.
    let world = World::new(Underlay::V4, TxCaps::NONE);
    let kernel = |src: [u8; 4], dst, ttl| {
        let inner = ipv4_frame(VTEP_MAC[1], VTEP_MAC[0], src, dst, ttl, &[7; 40]);
        let mut frame = world.encapsulated_by_kernel(&inner);
        frame[26..34].copy_from_slice(&[172, 16, 0, 2, 172, 16, 0, 1]);
        frame[40..42].fill(0);
        fill_ipv4_checksum(&mut frame[14..34]);
        frame
    };
    inject(&mut a, &uplink, &kernel(POD[1], POD[0], 9));
    assert_eq!(taken(&pod).len(), 1);
    inject(&mut a, &uplink, &kernel(POD[1], POD[0], 1));
    let [told] = &taken(&uplink)[..] else { panic!("one message") };
    assert_eq!((told[23], &told[30..34]), (17, &[172, 16, 0, 2][..]), "in the tunnel");
    let before = a.counts();
    inject(&mut a, &uplink, &kernel(POD[1], [10, 244, 1, 9], 9));
    a.assert_changed(&before, &[("rx", 1), ("tunnel_to_tunnel", 1)], "back to where it came from");
    let mut tables = a.tables();
    lead(&mut tables, 1, NextHop::Direct(NO_VTEP));
    a.switch.publish(tables);
    let before = a.counts();
    inject(&mut a, &uplink, &kernel(POD[1], POD[0], 1));
    a.assert_changed(&before, &[("rx", 1), ("ttl_exceeded", 1)], "there is no tunnel to answer by");
    a.assert_balanced();
}
