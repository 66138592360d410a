//! What the router tells senders whose packets it does not forward: which message, from where, to whom, about what; and about
//! what it keeps silent.

mod world;

use std::net::{IpAddr, Ipv6Addr};

use etherparse::PacketBuilder;
use weft_switch::drop_reason::DropReason;
use weft_switch::limits::{Limit, Limits};
use weft_switch::offload::{Checksum, Gso, GsoKind, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Neighbour, NextHop, Place, Port, Role, Snapshot};
use weft_switch::types::{MacAddr, Mtu, PortId};

use world::told::told;
use world::{
    FIRST_POD, GATEWAY, HOST_MAC, Node, POD_MAC, Underlay, VTEP_MAC, World, fill_ipv4_checksum, ipv4_frame,
};

const POD: [u8; 4] = [10, 244, 0, 5];
const FAR: [u8; 4] = [10, 244, 1, 7];
const NOBODY: [u8; 4] = [10, 244, 0, 99];
const GATEWAY4: [u8; 4] = [10, 244, 0, 1];
const OUTSIDE: [u8; 4] = [192, 0, 2, 9];

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn node() -> Node {
    Node::new(0, Underlay::V4, 1, TxCaps::NONE)
}

/// A node with tables that differ from the usual ones.
fn node_with(change: impl FnOnce(&mut Snapshot)) -> Node {
    let mut node = node();
    let mut tables = node.tables();
    change(&mut tables);
    node.switch.publish(tables);
    node
}

/// An IPv4 packet from the pod through its gateway.
fn routed4(to: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_frame(POD_MAC[0], GATEWAY[0], POD, to, ttl, payload)
}

/// The same for IPv6.
fn routed6(to: &str, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]);
    let builder = builder.ipv6(v6("fd00:10:244::5").octets(), v6(to).octets(), hops);
    builder.write(&mut frame, etherparse::IpNumber(253), payload).unwrap();
    frame
}

/// With the don't-fragment flag.
fn whole(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    fill_ipv4_checksum(&mut frame[14..34]);
    frame
}

/// Sends the frame, and fails unless it is dropped for `reason` and the pod hears one message: which.
fn refused(node: &mut Node, port: &MemPort, frame: &[u8], reason: &str) -> world::told::Told {
    let before = node.counts();
    port.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
    let expected = [("rx", 1), (reason, 1), ("originated", 1), ("icmp_sent", 1), ("tx", 1)];
    node.assert_changed(&before, &expected, reason);
    told(&port.take())
}

/// Sends the frame from the pod, and fails unless it is dropped for `reason` and nobody hears of it.
fn silent(node: &mut Node, frame: &[u8], reason: &str, what: &str) {
    let before = node.counts();
    node.pod.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
    node.assert_changed(&before, &[("rx", 1), (reason, 1)], what);
    assert!(
        node.pod.take().is_empty() && node.host.take().is_empty() && node.uplink.take().is_empty(),
        "{what}"
    );
}

#[test]
fn a_used_up_ttl_is_told_from_the_gateway() {
    let mut node = node();
    let pod = node.pod.clone();
    for ttl in [0, 1] {
        let sent = routed4(FAR, ttl, b"the end of the way");
        let told = refused(&mut node, &pod, &sent, "ttl_exceeded");
        assert_eq!((told.src, told.dst), (GATEWAY4.into(), POD.into()));
        assert_eq!(told.macs, (POD_MAC[0], GATEWAY[0]));
        assert_eq!((told.type_and_code(), told.ttl, told.tos), ((11, 0), 64, 0xc0));
        assert_eq!(told.quote, sent[14..], "as it was sent, the TTL too");
    }
}

#[test]
fn a_used_up_hop_limit_is_told_from_the_gateway() {
    let mut node = node();
    let pod = node.pod.clone();
    for hops in [0, 1] {
        let sent = routed6("fd00:10:244:1::5", hops, b"the end of the way");
        let told = refused(&mut node, &pod, &sent, "ttl_exceeded");
        assert_eq!((told.src, told.dst), (v6("fd00:10:244::1").into(), v6("fd00:10:244::5").into()));
        assert_eq!(told.macs, (POD_MAC[0], GATEWAY[0]));
        assert_eq!((told.type_and_code(), told.ttl, told.tos), ((3, 0), 64, 0));
        assert_eq!(told.quote, sent[14..]);
    }
}

#[test]
fn unreachable_destinations_have_their_codes() {
    let mut node = node_with(|tables| {
        for (third, next_hop) in [(21, NextHop::Unreachable), (22, NextHop::Prohibit), (23, NextHop::Hop(9))]
        {
            tables.routes4.insert([10, 244, third, 0].into(), 24, next_hop);
            tables.routes6.insert(v6(&format!("fd00:10:244:{third}::")), 64, next_hop);
        }
    });
    let pod = node.pod.clone();
    for (to4, to6, reason, about4, about6) in [
        (NOBODY, "fd00:10:244::99", "no_pod", (3, 1), (1, 3)),
        ([10, 244, 21, 1], "fd00:10:244:21::1", "route_unreachable", (3, 1), (1, 3)),
        ([10, 244, 22, 1], "fd00:10:244:22::1", "route_prohibited", (3, 13), (1, 1)),
        ([10, 244, 23, 1], "fd00:10:244:23::1", "no_route", (3, 0), (1, 0)),
    ] {
        // Also with the TTL at its end: there is no way, however far.
        for ttl in [64, 1] {
            let sent = routed4(to4, ttl, b"?");
            let told = refused(&mut node, &pod, &sent, reason);
            assert_eq!((told.type_and_code(), told.mtu), (about4, 0), "{to4:?}");
            assert_eq!((told.src, told.quote), (GATEWAY4.into(), sent[14..].to_vec()));
            let sent = routed6(to6, ttl, b"?");
            let told = refused(&mut node, &pod, &sent, reason);
            assert_eq!((told.type_and_code(), told.mtu), (about6, 0), "{to6}");
            assert_eq!((told.src, told.quote), (v6("fd00:10:244::1").into(), sent[14..].to_vec()));
        }
    }
}

#[test]
fn without_a_host_port_there_is_no_route_outside() {
    let mut node = node_with(|tables| tables.gateway.host = None);
    let pod = node.pod.clone();
    assert_eq!(refused(&mut node, &pod, &routed4(OUTSIDE, 64, b""), "no_route").type_and_code(), (3, 0));
    assert_eq!(
        refused(&mut node, &pod, &routed6("2001:db8::1", 64, b""), "no_route").type_and_code(),
        (1, 0)
    );
}

#[test]
fn a_black_hole_and_a_way_that_is_being_looked_for_are_silent() {
    let mut node = node_with(|tables| {
        tables.routes4.insert([10, 244, 30, 0].into(), 24, NextHop::Blackhole);
        tables.routes6.insert(v6("fd00:10:244:30::"), 64, NextHop::Blackhole);
        tables.vteps.edit(0, |vtep| vtep.encap = None);
    });
    silent(&mut node, &routed4([10, 244, 30, 1], 64, b""), "route_blackhole", "IPv4");
    silent(&mut node, &routed6("fd00:10:244:30::1", 64, b""), "route_blackhole", "IPv6");
    silent(&mut node, &routed4(FAR, 64, b""), "vtep_unresolved", "IPv4");
    silent(&mut node, &routed6("fd00:10:244:1::5", 64, b""), "vtep_unresolved", "IPv6");
}

#[test]
fn what_does_not_fit_is_told_with_the_mtu_of_the_way() {
    for (underlay, mtu) in [(Underlay::V4, 1450), (Underlay::V6, 1430)] {
        let mut node = Node::new(0, underlay, 1, TxCaps::NONE);
        let pod = node.pod.clone();
        let sent = whole(routed4(FAR, 64, &vec![7; mtu - 20 + 1]));
        let told = refused(&mut node, &pod, &sent, "mtu_exceeded");
        assert_eq!((told.type_and_code(), told.mtu), ((3, 4), mtu as u32), "{underlay:?}");
        assert_eq!((told.len, told.quote), (576, sent[14..14 + 548].to_vec()), "as much as fits 576 bytes");
        let sent = routed6("fd00:10:244:1::5", 64, &vec![7; mtu - 40 + 1]);
        let told = refused(&mut node, &pod, &sent, "mtu_exceeded");
        assert_eq!((told.type_and_code(), told.mtu), ((2, 0), mtu as u32), "{underlay:?}");
        assert_eq!(
            (told.len, told.quote),
            (1280, sent[14..14 + 1232].to_vec()),
            "as much as fits 1280 bytes"
        );
        // What just fits goes.
        for frame in
            [whole(routed4(FAR, 64, &vec![7; mtu - 20])), routed6("fd00:10:244:1::5", 64, &vec![7; mtu - 40])]
        {
            node.pod.inject(HeapBuf::from_bytes(&frame));
            node.switch.step();
            let sent = node.uplink.take();
            assert_eq!((sent.len(), sent[0].len()), (1, 1514), "the whole of the underlay's 1500");
        }
        node.assert_balanced();
    }
}

/// The MTU of the port to another pod, and never one that no IPv6 link has.
#[test]
fn the_mtu_of_a_small_port_is_told_but_not_below_what_ipv6_demands() {
    let mut node = node();
    let other = MemPort::default();
    node.add_pod(0, [10, 244, 0, 6], [2, 0, 0, 0, 0, 6], &other);
    let pod = node.pod.clone();
    for (mtu, told_v6) in [(1400, 1400), (1000, 1280), (576, 1280)] {
        let mut tables = node.tables();
        let id = PortId::new(FIRST_POD + 1).unwrap();
        let port = Port { mtu: Mtu::new(mtu).unwrap(), ..tables.ports.get(id).unwrap().clone() };
        tables.ports.insert(id, port);
        node.switch.publish(tables);
        let told = refused(&mut node, &pod, &whole(routed4([10, 244, 0, 6], 9, &[1; 1401])), "mtu_exceeded");
        assert_eq!((told.type_and_code(), told.mtu), ((3, 4), mtu));
        let told = refused(&mut node, &pod, &routed6("fd00:10:244::6", 9, &[1; 1401]), "mtu_exceeded");
        assert_eq!((told.type_and_code(), told.mtu), ((2, 0), told_v6));
    }
    // A bridge says nothing.
    let frame = whole(ipv4_frame(POD_MAC[0], [2, 0, 0, 0, 0, 6], POD, [10, 244, 0, 6], 9, &[1; 1401]));
    silent(&mut node, &frame, "mtu_exceeded", "bridged");
}

#[test]
fn a_message_is_no_longer_than_its_way_carries() {
    let mut node = node_with(|tables| {
        let id = PortId::new(FIRST_POD).unwrap();
        let port = Port { mtu: Mtu::new(1000).unwrap(), ..tables.ports.get(id).unwrap().clone() };
        tables.ports.insert(id, port);
    });
    let pod = node.pod.clone();
    let told = refused(&mut node, &pod, &routed6("fd00:10:244:1::5", 1, &[1; 1300]), "ttl_exceeded");
    assert_eq!(told.len, 1000);
}

/// ICMPv4 with so many bytes of message behind the type and code.
fn icmp4(kind: u8, code: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, FAR, 1);
    builder.icmpv4_raw(kind, code, [0; 4]).write(&mut frame, &[0; 30]).unwrap();
    frame
}

fn icmp6(kind: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]);
    let builder = builder.ipv6(v6("fd00:10:244::5").octets(), v6("fd00:10:244:1::5").octets(), 1);
    builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &[0; 60]).unwrap();
    frame
}

#[test]
fn an_error_is_never_about_an_error() {
    let mut node = node();
    let pod = node.pod.clone();
    // A redirect, type 5, is not forwarded at all.
    for kind in [3, 4, 11, 12] {
        silent(&mut node, &icmp4(kind, 0), "ttl_exceeded", &format!("ICMP type {kind}"));
    }
    for kind in [1, 2, 3, 4, 100, 127] {
        silent(&mut node, &icmp6(kind), "ttl_exceeded", &format!("ICMPv6 type {kind}"));
    }
    for kind in [0, 8, 13, 17] {
        assert_eq!(refused(&mut node, &pod, &icmp4(kind, 0), "ttl_exceeded").type_and_code(), (11, 0));
    }
    for kind in [128, 129, 143, 200] {
        assert_eq!(refused(&mut node, &pod, &icmp6(kind), "ttl_exceeded").type_and_code(), (3, 0));
    }
}

#[test]
fn what_cannot_be_seen_to_be_no_error_counts_as_one() {
    let mut node = node();
    // The message is cut off in front of its type, or behind it.
    for len in 0..8 {
        let mut frame = icmp4(8, 0);
        frame.truncate(34 + len);
        frame[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
        fill_ipv4_checksum(&mut frame[14..34]);
        silent(&mut node, &frame, "ttl_exceeded", &format!("{len} bytes of ICMP"));
        if len > 0 {
            let mut frame = icmp6(128);
            frame.truncate(54 + len);
            frame[18..20].copy_from_slice(&(len as u16).to_be_bytes());
            silent(&mut node, &frame, "ttl_exceeded", &format!("{len} bytes of ICMPv6"));
        }
    }
}

#[test]
fn of_fragments_only_the_first_is_told_of() {
    let mut node = node();
    let pod = node.pod.clone();
    let fragment4 = |word: u16| {
        let mut frame = routed4(FAR, 1, &[0; 64]);
        frame[20..22].copy_from_slice(&word.to_be_bytes());
        fill_ipv4_checksum(&mut frame[14..34]);
        frame
    };
    assert_eq!(refused(&mut node, &pod, &fragment4(0x2000), "ttl_exceeded").type_and_code(), (11, 0));
    silent(&mut node, &fragment4(0x2009), "ttl_exceeded", "in the middle");
    silent(&mut node, &fragment4(0x0009), "ttl_exceeded", "the last");

    // IPv6's are told of where what they carry is seen to be no ICMP (RFC 4443).
    let fragment6 = |next: u8, offset: u16, first_byte: u8| {
        let [high, low] = (offset | 1).to_be_bytes();
        let payload = [&[next, 0, high, low, 0, 0, 0, 7, first_byte][..], &[0; 63]].concat();
        let mut frame = routed6("fd00:10:244:1::5", 1, &payload);
        frame[20] = 44;
        frame
    };
    for (next, offset, first_byte) in [(17, 0, 0), (17, 64, 0), (6, 64, 0), (58, 0, 128)] {
        let told = refused(&mut node, &pod, &fragment6(next, offset, first_byte), "ttl_exceeded");
        assert_eq!(told.type_and_code(), (3, 0), "{next} at {offset}");
    }
    for (next, offset, first_byte) in [(58, 64, 128), (60, 64, 0), (58, 0, 1), (0, 64, 0)] {
        silent(
            &mut node,
            &fragment6(next, offset, first_byte),
            "ttl_exceeded",
            &format!("{next} at {offset}"),
        );
    }
}

#[test]
fn an_error_behind_extension_headers_is_still_one() {
    let mut node = node();
    let behind = |kind: u8| {
        let mut frame = icmp6(kind);
        frame[20] = 60;
        frame.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
        let len = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame
    };
    silent(&mut node, &behind(1), "ttl_exceeded", "destination unreachable");
    let pod = node.pod.clone();
    assert_eq!(refused(&mut node, &pod, &behind(128), "ttl_exceeded").type_and_code(), (3, 0));
}

#[test]
fn broadcasts_and_what_is_nobodys_are_silent() {
    let mut node = node();
    silent(&mut node, &routed4([10, 244, 0, 255], 64, b""), "no_pod", "the subnet's broadcast");
    silent(&mut node, &routed4([255; 4], 1, b""), "not_routable", "broadcast");
    silent(&mut node, &routed4([224, 0, 0, 9], 1, b""), "not_routable", "multicast");
    silent(&mut node, &routed6("ff0e::1", 1, b""), "not_routable", "multicast");
    silent(&mut node, &routed6("fe80::99", 1, b""), "not_routable", "link-local");
    let spoofed = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 6], FAR, 1, b"");
    silent(&mut node, &spoofed, "spoofed_ip", "another's address");
    // From the host, whose source addresses nobody checks.
    for src in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [240, 0, 0, 1], [10, 244, 0, 255]] {
        let before = node.counts();
        let frame = ipv4_frame(HOST_MAC[0], GATEWAY[0], src, NOBODY, 64, b"");
        node.host.inject(HeapBuf::from_bytes(&frame));
        node.switch.step();
        let reason = if src == [10, 244, 0, 255] { "no_pod" } else { "not_routable" };
        node.assert_changed(&before, &[("rx", 1), (reason, 1)], &format!("{src:?}"));
    }
}

#[test]
fn errors_are_limited_by_time() {
    let limits = Limits { icmp: Limit { per_second: 10, burst: 3 }, ..Limits::default() };
    let mut node = node_with(|tables| tables.limits = limits);
    for (now, sent) in [(5_000, 3), (5_050, 0), (5_150, 1), (60_000, 3)] {
        node.switch.set_time(now);
        let before = node.counts();
        for _ in 0..10 {
            node.pod.inject(HeapBuf::from_bytes(&routed4(NOBODY, 64, b"")));
        }
        node.switch.step();
        assert_eq!(node.pod.take().len(), sent, "at {now}");
        let mut expected = vec![("rx", 10), ("no_pod", 10), ("icmp_limited", 10 - sent as u64)];
        if sent > 0 {
            expected.extend(["originated", "icmp_sent", "tx"].map(|name| (name, sent as u64)));
        }
        node.assert_changed(&before, &expected, &format!("at {now}"));
    }
    // Those that are not to be made cost nothing of the limit.
    node.switch.set_time(100_000);
    for _ in 0..50 {
        silent(&mut node, &icmp4(3, 0), "ttl_exceeded", "about an error");
    }
    let pod = node.pod.clone();
    refused(&mut node, &pod, &routed4(NOBODY, 64, b""), "no_pod");
}

#[test]
fn a_limit_of_zero_allows_none() {
    let mut node = node_with(|tables| tables.limits.icmp = Limit::per_second(0));
    let before = node.counts();
    node.pod.inject(HeapBuf::from_bytes(&routed4(NOBODY, 64, b"")));
    node.switch.step();
    node.assert_changed(&before, &[("rx", 1), ("no_pod", 1), ("icmp_limited", 1)], "none");
}

/// As in a traceroute: the second hop is the far node, and what it says comes back through the tunnel.
#[test]
fn what_came_out_of_the_tunnel_is_answered_through_it() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let mut world = World::new(underlay, TxCaps::NONE);
        let sent = routed4(FAR, 2, b"two hops");
        world.a.pod.inject(HeapBuf::from_bytes(&sent));
        let wire = world.carry();
        assert_eq!(wire.len(), 2, "there and back");
        let heard = told(&world.a.pod.take());
        assert_eq!((heard.src, heard.dst), (IpAddr::from([10, 244, 1, 1]), POD.into()));
        assert_eq!((heard.type_and_code(), heard.macs), ((11, 0), (POD_MAC[0], GATEWAY[0])));
        assert_eq!(heard.ttl, 63, "one hop: the near node's");
        assert_eq!(heard.quote[8], 1, "as the far node got it");
        assert_eq!(heard.quote[12..], sent[14 + 12..]);
        world.b.assert_changed(
            &Default::default(),
            &[("rx", 1), ("ttl_exceeded", 1), ("originated", 1), ("icmp_sent", 1), ("tx", 1)],
            "the far node",
        );

        world.a.pod.inject(HeapBuf::from_bytes(&routed6("fd00:10:244:1::5", 2, b"two hops")));
        world.carry();
        let heard = told(&world.a.pod.take());
        assert_eq!((heard.type_and_code(), heard.src), ((3, 0), v6("fd00:10:244:1::1").into()));
        // Nobody has the address over there.
        world.a.pod.inject(HeapBuf::from_bytes(&routed4([10, 244, 1, 200], 64, b"")));
        world.carry();
        assert_eq!(told(&world.a.pod.take()).type_and_code(), (3, 1));
        world.assert_balanced();
    }
}

/// A peer that invents a source address has the switch say nothing to whose address it is.
#[test]
fn what_came_out_of_the_tunnel_is_answered_nowhere_else() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    // From this node's own pod, from the host, from outside.
    for src in [[10, 244, 1, 7], [10, 244, 1, 1], OUTSIDE] {
        let inner = ipv4_frame(VTEP_MAC[0], VTEP_MAC[1], src, [10, 244, 1, 99], 64, b"");
        let frame = world.encapsulated_by_kernel(&inner);
        let before = world.b.counts();
        world.b.uplink.inject(HeapBuf::from_bytes(&frame));
        world.b.switch.step();
        world.b.assert_changed(&before, &[("rx", 1), ("no_pod", 1)], &format!("from {src:?}"));
    }
}

/// The host's kernel takes nothing that comes from one of its own addresses, which the gateway's are; and what it sends for
/// others it may have translated.
#[test]
fn the_host_is_told_from_an_address_that_it_has_not() {
    let mut node = node_with(|tables| tables.gateway.v4.insert(0, [169, 254, 1, 1].into()));
    let host = node.host.clone();
    for src in [[10, 244, 0, 1], POD, OUTSIDE] {
        let sent = ipv4_frame(HOST_MAC[0], GATEWAY[0], src, NOBODY, 64, b"from the host");
        let told = refused(&mut node, &host, &sent, "no_pod");
        assert_eq!((told.src, told.dst), (IpAddr::from([169, 254, 1, 1]), src.into()));
        assert_eq!((told.type_and_code(), told.macs), ((3, 1), (HOST_MAC[0], GATEWAY[0])));
    }
    // A pod hears the gateway of its subnet all the same.
    let pod = node.pod.clone();
    assert_eq!(refused(&mut node, &pod, &routed4(NOBODY, 64, b""), "no_pod").src, IpAddr::from(GATEWAY4));
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(HOST_MAC[0], GATEWAY[0]);
    let builder = builder.ipv6(v6("fd00:10:244::1").octets(), v6("fd00:10:244::99").octets(), 64);
    builder.write(&mut frame, etherparse::IpNumber(253), b"").unwrap();
    let told = refused(&mut node, &host, &frame, "no_pod");
    assert_eq!((told.type_and_code(), told.src), ((1, 3), v6("fd00:10:244::1").into()));
}

#[test]
fn each_subnet_hears_its_own_gateway() {
    let mut node = node();
    let second = MemPort::default();
    node.add_pod(0, [10, 8, 3, 9], [2, 0, 0, 0, 3, 9], &second);
    let mut tables = node.tables();
    tables.gateway.v4.push([10, 8, 3, 1].into());
    tables.gateway.subnets4.push(([10, 8, 3, 0].into(), 24, [10, 8, 3, 1].into()));
    // One subnet inside another: the nearer gateway speaks.
    tables.gateway.subnets4.push(([10, 8, 0, 0].into(), 16, [10, 8, 0, 1].into()));
    node.switch.publish(tables);
    let frame = ipv4_frame([2, 0, 0, 0, 3, 9], GATEWAY[0], [10, 8, 3, 9], NOBODY, 64, b"");
    assert_eq!(refused(&mut node, &second, &frame, "no_pod").src, IpAddr::from([10, 8, 3, 1]));
    let pod = node.pod.clone();
    assert_eq!(refused(&mut node, &pod, &routed4(NOBODY, 64, b""), "no_pod").src, IpAddr::from(GATEWAY4));
}

/// Behind a trusted port may be a router: each station is told where the tables say, and the port itself where they do not know.
#[test]
fn stations_behind_a_trusted_port_are_told_where_they_are() {
    let mut node = node();
    let trusted = MemPort::default();
    let id = PortId::new(9).unwrap();
    let mut tables = node.tables();
    let (mtu, place) = (Mtu::new(1450).unwrap(), Place::Worker(0));
    tables.ports.insert(id, Port { role: Role::Trusted, mtu, place, tunnel_gso: false });
    let router = Neighbour { mac: MacAddr([2, 0, 0, 0, 9, 9]), port: id };
    tables.hops.push(router);
    tables.routes4.insert([198, 51, 100, 0].into(), 24, NextHop::Hop(0));
    node.switch.publish(tables);
    node.switch.attach(0, id, &trusted);
    // Behind the router; unknown so far on the segment; and with the pod's address, which the pod is told of.
    for (src, mac) in [([198, 51, 100, 7], [2, 0, 0, 0, 9, 9]), ([10, 244, 0, 77], [2, 0, 0, 0, 9, 8])] {
        let frame = ipv4_frame(mac, GATEWAY[0], src, NOBODY, 64, b"");
        let told = refused(&mut node, &trusted, &frame, "no_pod");
        assert_eq!((told.dst, told.macs.0), (IpAddr::from(src), mac));
    }
    let frame = ipv4_frame([2, 0, 0, 0, 9, 8], GATEWAY[0], POD, NOBODY, 64, b"");
    trusted.inject(HeapBuf::from_bytes(&frame));
    node.switch.step();
    assert!(trusted.take().is_empty());
    assert_eq!(told(&node.pod.take()).macs.0, POD_MAC[0]);
}

#[test]
fn the_service_is_kept_and_the_precedence_raised() {
    let mut node = node();
    let pod = node.pod.clone();
    for (sent, heard) in [(0x00, 0xc0), (0x1c, 0xdc), (0x03, 0xc0), (0xff, 0xdc), (0x10, 0xd0)] {
        let mut frame = routed4(FAR, 1, b"");
        frame[15] = sent;
        fill_ipv4_checksum(&mut frame[14..34]);
        assert_eq!(refused(&mut node, &pod, &frame, "ttl_exceeded").tos, heard, "{sent:#x}");
    }
}

/// A frame that stands for several is too big if its packets are, and is told of once.
#[test]
fn a_gso_frame_is_judged_by_its_packets() {
    let mut node = node();
    let mut bytes = Vec::new();
    let builder =
        PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, FAR, 64).tcp(1000, 80, 7, 100).ack(9);
    builder.write(&mut bytes, &[3; 9000]).unwrap();
    let bytes = whole(bytes);
    for (size, fits) in [(1410, true), (1411, false)] {
        let mut frame = HeapBuf::from_bytes(&bytes);
        let gso = Some(Gso { kind: GsoKind::Tcp4, size, ecn: false });
        frame.set_offload(Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso });
        node.pod.inject(frame);
        let before = node.counts();
        node.switch.step();
        if fits {
            node.assert_changed(&before, &[("rx", 1), ("originated", 6), ("tx", 7)], "seven packets");
        } else {
            let expected = [("rx", 1), ("mtu_exceeded", 1), ("originated", 1), ("icmp_sent", 1), ("tx", 1)];
            node.assert_changed(&before, &expected, "too big");
            let told = told(&node.pod.take());
            assert_eq!((told.type_and_code(), told.mtu, told.len), ((3, 4), 1450, 576));
            assert_eq!(told.quote, bytes[14..14 + 548]);
        }
    }
}

/// A frame of 9,000 bytes of payload with its state, and what it has in front of them: IP header and options or extension
/// headers, and the transport's.
fn large(tcp: bool, over_v6: bool, options: usize, tcp_options: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]);
    let builder = if over_v6 {
        builder.ipv6(v6("fd00:10:244::5").octets(), v6("fd00:10:244:1::5").octets(), 64)
    } else {
        builder.ipv4(POD, FAR, 64)
    };
    if tcp {
        let builder = builder.tcp(1000, 80, 7, 100).ack(9).options_raw(&vec![1; tcp_options]).unwrap();
        builder.write(&mut bytes, &[3; 9000]).unwrap();
    } else {
        builder.udp(1000, 80).write(&mut bytes, &[3; 9000]).unwrap();
    }
    let l4 = if over_v6 { 54 } else { 34 };
    let mut extra = vec![1; options];
    if over_v6 && options > 0 {
        // Destination options that are all padding.
        extra[..4].copy_from_slice(&[bytes[20], (options / 8 - 1) as u8, 1, (options - 4) as u8]);
        bytes[20] = 60;
    }
    bytes.splice(l4..l4, extra);
    let len = if over_v6 { bytes.len() - 54 } else { bytes.len() - 14 } as u16;
    let at = if over_v6 { 18 } else { 16 };
    bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
    if !over_v6 {
        bytes[14] = 0x45 + (options / 4) as u8;
        bytes[20] |= 0x40;
        bytes[24..26].fill(0);
        let header = l4 + options;
        fill_ipv4_checksum(&mut bytes[14..header]);
    }
    let headers = bytes.len() - 14 - 9000;
    (bytes, headers)
}

/// What becomes of such a frame: sent in so many pieces, told of as too big, or dropped.
fn judged(bytes: &[u8], kind: GsoKind, size: u16, l4: usize) -> Result<u64, String> {
    let mut node = node();
    let mut frame = HeapBuf::from_segments(&[&bytes[..200], &bytes[200..]]);
    let offset = if kind == GsoKind::Udp { 6 } else { 16 };
    let gso = Some(Gso { kind, size, ecn: false });
    frame.set_offload(Offload { checksum: Checksum::Partial { start: l4 as u16, offset }, gso });
    node.pod.inject(frame);
    node.switch.step();
    node.assert_balanced();
    let sent = node.uplink.take();
    assert!(sent.iter().all(|frame| frame.len() <= 1514), "longer than the link's packets");
    let back = node.pod.take();
    if !back.is_empty() {
        assert_eq!(told(&back).mtu, 1450);
        return Err("told".to_owned());
    }
    if sent.is_empty() {
        assert_eq!(node.drops(DropReason::GsoMalformed), 1);
        return Err("dropped".to_owned());
    }
    Ok(sent.len() as u64)
}

#[test]
fn all_headers_of_a_gso_frames_packets_count() {
    for (tcp, over_v6) in [(true, false), (false, false), (true, true), (false, true)] {
        for options in [0, 8, 24] {
            for tcp_options in if tcp { vec![0, 12, 40] } else { vec![0] } {
                let (bytes, headers) = large(tcp, over_v6, options, tcp_options);
                let kind = match (tcp, over_v6) {
                    (true, false) => GsoKind::Tcp4,
                    (true, true) => GsoKind::Tcp6,
                    (false, _) => GsoKind::Udp,
                };
                let l4 = 14 + headers - if tcp { 20 + tcp_options } else { 8 };
                let fits = (1450 - headers) as u16;
                let what = format!("{kind:?} with {options} and {tcp_options} bytes of options");
                assert_eq!(judged(&bytes, kind, fits, l4), Ok(9000_u64.div_ceil(fits.into())), "{what}");
                for size in [fits + 1, 9000, u16::MAX] {
                    assert_eq!(judged(&bytes, kind, size, l4), Err("told".into()), "{what}, {size}");
                }
                // More pieces than one frame is cut into.
                for size in [1, 8] {
                    assert_eq!(judged(&bytes, kind, size, l4), Err("dropped".into()), "{what}, {size}");
                }
            }
        }
    }
}

/// What the state says is not so: the packet counts as it is.
#[test]
fn a_state_that_contradicts_the_packet_makes_it_no_smaller() {
    let (udp, _) = large(false, false, 0, 0);
    let (tcp, _) = large(true, false, 0, 0);
    let (tcp6, _) = large(true, true, 0, 0);
    assert_eq!(judged(&udp, GsoKind::Tcp4, 1000, 34), Err("told".into()));
    assert_eq!(judged(&tcp, GsoKind::Udp, 1000, 34), Err("told".into()));
    assert_eq!(judged(&tcp6, GsoKind::Udp, 1000, 54), Err("told".into()));
    // TCP headers are at least 20 bytes long, whatever they say.
    let mut short = tcp.clone();
    short[34 + 12] = 0;
    assert_eq!(judged(&short, GsoKind::Tcp4, 1411, 34), Err("told".into()));
    assert_eq!(judged(&short, GsoKind::Tcp4, 1400, 34), Err("dropped".into()));
}

/// Padding and what a tunnel packet has behind the inner one is not quoted.
#[test]
fn only_the_packet_is_quoted() {
    let mut node = node();
    let pod = node.pod.clone();
    let sent = routed4(FAR, 1, b"short");
    let padded = [&sent[..], &[0xee; 30]].concat();
    assert_eq!(refused(&mut node, &pod, &padded, "ttl_exceeded").quote, sent[14..]);
    // In whichever segments it lies.
    let long = routed4(FAR, 1, &[9; 1000]);
    pod.inject(HeapBuf::from_segments(&[&long[..50], &long[50..300], &long[300..]]));
    node.switch.step();
    assert_eq!(told(&pod.take()).quote, long[14..14 + 548]);
}
