//! What only routers and servers may say, and what hides what it is: from untrusted pods it goes nowhere, each under its own reason.

mod messages;
mod trusted;
mod world;

use std::net::Ipv6Addr;

use messages::*;
use smoltcp::wire::{Icmpv6Packet, Ipv6Packet, NdiscRepr, NdiscRouterFlags};
use trusted::{At, Came, OTHER, OTHER_MAC, POD, Room, STATION};
use weft_switch::drop_reason::DropReason;
use world::{GATEWAY, POD_MAC, ipv4_frame};

/// The ICMPv6 message made another type, with its checksum right.
fn retyped(mut frame: Vec<u8>, kind: u8) -> Vec<u8> {
    frame[54] = kind;
    fill_icmpv6(&mut frame);
    frame
}

fn fill_icmpv6(frame: &mut [u8]) {
    let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&src, &dst);
}

fn advertisement(mac: [u8; 6], src: Ipv6Addr) -> Vec<u8> {
    let message = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: smoltcp::time::Duration::from_secs(1800),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: lladdr(mac),
        mtu: None,
        prefix_info: None,
    };
    icmpv6(all_nodes().0, mac, src, all_nodes().1, message)
}

fn udp4(mac: [u8; 6], dst: [u8; 6], ports: (u16, u16)) -> Vec<u8> {
    let ip = if mac == POD_MAC[0] { POD } else { STATION_IP };
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(mac, dst).ipv4(ip, OTHER, 64);
    builder.udp(ports.0, ports.1).write(&mut frame, &[0; 300]).unwrap();
    frame
}

fn udp6(mac: [u8; 6], src: Ipv6Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder =
        etherparse::PacketBuilder::ethernet2(mac, OTHER_MAC).ipv6(src.octets(), own6(6).octets(), 64);
    builder.udp(ports.0, ports.1).write(&mut frame, &[0; 300]).unwrap();
    frame
}

fn redirect4(mac: [u8; 6], ip: [u8; 4], dst: [u8; 6]) -> Vec<u8> {
    let mut frame = ipv4_frame(mac, dst, ip, OTHER, 64, &[5, 1, 0, 0, 10, 244, 0, 5, 0x45, 0, 0, 20]);
    frame[23] = 1;
    world::fill_outer_checksum(&mut frame);
    frame
}

#[test]
fn routers_and_servers_messages_are_for_trusted_ports_only() {
    let mut room = Room::new();
    let redirect6 = |mac, src| {
        let message = NdiscRepr::NeighborSolicit { target_addr: own6(6), lladdr: lladdr(mac) };
        retyped(icmpv6(OTHER_MAC, mac, src, own6(6), message), 137)
    };
    type Make<'a> = &'a dyn Fn([u8; 6], Ipv6Addr, [u8; 4]) -> Vec<u8>;
    let cases: [(Make<'_>, DropReason); 8] = [
        (&|mac, src, _| advertisement(mac, src), DropReason::RouterAdvertisement),
        (&|mac, src, _| redirect6(mac, src), DropReason::Redirect),
        (&|mac, _, ip| redirect4(mac, ip, OTHER_MAC), DropReason::Redirect),
        (&|mac, _, _| udp4(mac, OTHER_MAC, (67, 68)), DropReason::DhcpServer),
        (&|mac, _, _| udp4(mac, BROADCAST, (67, 68)), DropReason::DhcpServer),
        (&|mac, src, _| udp6(mac, src, (547, 546)), DropReason::DhcpServer),
        // A client believes a server whatever its port.
        (&|mac, _, _| udp4(mac, OTHER_MAC, (1234, 68)), DropReason::DhcpServer),
        (&|mac, src, _| udp6(mac, src, (1234, 546)), DropReason::DhcpServer),
    ];
    for (number, (make, reason)) in cases.iter().enumerate() {
        let bad = make(POD_MAC[0], own6(5), POD);
        assert_eq!(room.send(At::Pod, &bad), Came::dropped(*reason), "case {number}");
        let good = make(STATION, own6(50), STATION_IP);
        let came = room.send(At::Vm, &good);
        assert!(came.to().contains(&At::Other) && came.drops.is_empty(), "case {number}: {came:?}");
    }
    // Routed as well as bridged.
    assert_eq!(
        room.send(At::Pod, &redirect4(POD_MAC[0], POD, GATEWAY[0])),
        Came::dropped(DropReason::Redirect)
    );
    let server = udp4(POD_MAC[0], GATEWAY[0], (67, 67));
    assert_eq!(room.send(At::Pod, &server), Came::dropped(DropReason::DhcpServer));
    // Clients are no servers.
    assert_eq!(room.send(At::Pod, &udp4(POD_MAC[0], OTHER_MAC, (68, 67))).to(), [At::Other]);
    assert_eq!(room.send(At::Pod, &udp6(POD_MAC[0], own6(5), (546, 547))).to(), [At::Other]);
}

#[test]
fn router_solicitations_go_where_a_router_may_be() {
    let solicit = |mac, src: Ipv6Addr| {
        let source = if src.is_unspecified() { None } else { lladdr(mac) };
        let message = NdiscRepr::RouterSolicit { lladdr: source };
        icmpv6([0x33, 0x33, 0, 0, 0, 2], mac, src, v6("ff02::2"), message)
    };
    let mut room = Room::new();
    for src in [own6(5), link_local(POD_MAC[0]), Ipv6Addr::UNSPECIFIED] {
        let sent = solicit(POD_MAC[0], src);
        assert_eq!(room.send(At::Pod, &sent), Came::carried(&sent, &[At::Vm, At::Router]), "{src}");
    }
    let private = solicit(POD_MAC[0], v6("fe80::1234"));
    assert_eq!(room.send(At::Pod, &private), Came::dropped(DropReason::NeighbourUnverified));
    let mut room = Room::untrusting();
    let sent = solicit(POD_MAC[0], own6(5));
    assert_eq!(room.send(At::Pod, &sent), Came::dropped(DropReason::RouterSolicitation));
}

/// The frame as an IPv6 fragment of this offset (in bytes) and with more to come or not.
fn fragment6(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    let header = [frame[20], 0, high, low, 0, 0, 0, 7];
    let mut longer = [&frame[..54], &header, &frame[54..]].concat();
    longer[20] = 44;
    let len = (longer.len() - 54) as u16;
    longer[18..20].copy_from_slice(&len.to_be_bytes());
    longer
}

fn fragment4(mut frame: Vec<u8>, offset: u16, more: bool) -> Vec<u8> {
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    world::fill_outer_checksum(&mut frame);
    frame
}

/// Cut to so many bytes behind the Ethernet header, with the IP length to match.
fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(14 + len);
    if frame[12..14] == [8, 0] {
        frame[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        world::fill_outer_checksum(&mut frame);
    } else {
        frame[18..20].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    }
    frame
}

#[test]
fn fragments_hide_nothing() {
    let mut room = Room::new();
    let nd = |kind| {
        let message = NdiscRepr::NeighborSolicit { target_addr: own6(6), lladdr: lladdr(POD_MAC[0]) };
        retyped(icmpv6(OTHER_MAC, POD_MAC[0], own6(5), own6(6), message), kind)
    };
    let server6 = udp6(POD_MAC[0], own6(5), (547, 546));
    let server4 = udp4(POD_MAC[0], OTHER_MAC, (67, 68));
    let mut tcp6 = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(POD_MAC[0], OTHER_MAC)
        .ipv6(own6(5).octets(), own6(6).octets(), 64)
        .tcp(1, 2, 3, 4);
    builder.write(&mut tcp6, &[0; 64]).unwrap();
    for kind in 133..=137 {
        for (offset, more) in [(0, true), (0, false)] {
            let came = room.send(At::Pod, &fragment6(&nd(kind), offset, more));
            assert_eq!(came, Came::dropped(DropReason::NdFragment), "RFC 6980: {kind}");
        }
    }
    for (frame, reason) in [
        (fragment6(&server6, 0, true), DropReason::DhcpServer),
        (fragment4(server4.clone(), 0, true), DropReason::DhcpServer),
        (fragment6(&udp6(POD_MAC[0], own6(5), (1234, 546)), 0, true), DropReason::DhcpServer),
        (fragment4(udp4(POD_MAC[0], OTHER_MAC, (1234, 68)), 0, true), DropReason::DhcpServer),
        (fragment4(redirect4(POD_MAC[0], POD, OTHER_MAC), 0, true), DropReason::Redirect),
        (cut(fragment6(&tcp6, 0, true), 40 + 8 + 19), DropReason::FirstFragmentShort),
        (cut(fragment6(&server6, 0, true), 40 + 8 + 7), DropReason::FirstFragmentShort),
        (cut(fragment6(&nd(135), 0, true), 40 + 8), DropReason::FirstFragmentShort),
        (cut(fragment4(server4.clone(), 0, true), 20 + 7), DropReason::FirstFragmentShort),
    ] {
        assert_eq!(room.send(At::Pod, &frame), Came::dropped(reason));
    }
    // What is not the first fragment has no header, and what looks like one is data.
    for frame in
        [fragment6(&server6, 800, false), fragment4(server4, 800, false), fragment6(&nd(135), 8, false)]
    {
        assert_eq!(room.send(At::Pod, &frame), Came::carried(&frame, &[At::Other]));
    }
    let whole = cut(fragment6(&tcp6, 0, true), 40 + 8 + 20);
    assert_eq!(room.send(At::Pod, &whole), Came::carried(&whole, &[At::Other]));
}

#[test]
fn malformed_discovery_is_believed_from_nobody() {
    let mut room = Room::new();
    let mut probe_with_source = asks6(STATION, own6(50), own6(5));
    probe_with_source[22..38].fill(0);
    fill_icmpv6(&mut probe_with_source);
    let mut solicited_to_all = says6(all_nodes(), STATION, own6(50), own6(50), STATION);
    solicited_to_all[58] |= 0x40;
    fill_icmpv6(&mut solicited_to_all);
    let mut forwarded = asks6(STATION, own6(50), own6(5));
    forwarded[21] = 254;
    for frame in [probe_with_source, solicited_to_all, forwarded] {
        assert_eq!(room.send(At::Vm, &frame), Came::dropped(DropReason::NdMalformed));
    }
    let mut wrong_sum = asks6(STATION, own6(50), own6(5));
    wrong_sum[56] ^= 1;
    assert_eq!(room.send(At::Vm, &wrong_sum), Came::dropped(DropReason::NdChecksum));
    let mut cut = asks(STATION, STATION_IP, POD);
    cut.truncate(41);
    assert_eq!(room.send(At::Vm, &cut), Came::dropped(DropReason::ArpMalformed));
}

#[test]
fn a_dhcpv6_server_does_not_hide_its_port_behind_the_first_segment() {
    let mut room = Room::new();
    let src: Ipv6Addr = "fe80::55".parse().unwrap();
    let mut bytes = [&[0x33, 0x33, 0, 1, 0, 2][..], &POD_MAC[0], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    let ext = 240usize;
    bytes.extend(((ext + 12) as u16).to_be_bytes());
    bytes.extend([60, 64]);
    bytes.extend(src.octets());
    bytes.extend("ff02::1:2".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend([17, (ext / 8 - 1) as u8]);
    bytes.extend(vec![0; ext - 2]);
    let cut = bytes.len();
    bytes.extend([2, 35, 2, 34, 0, 12, 0, 0, 1, 2, 3, 4]);
    for at in [bytes.len(), cut + 3, cut] {
        let chain = weft_switch::packet::HeapBuf::from_segments(&[&bytes[..at], &bytes[at..]]);
        let (came, out) = room.send_all(At::Pod, vec![chain]);
        assert_eq!((came.drops, out.len()), ([("dhcp_server", 1)].into(), 0), "cut at {at}");
    }
    // A client's frame goes its way.
    bytes[cut..cut + 4].copy_from_slice(&[2, 34, 2, 35]);
    let (_, out) = room.send_all(At::Pod, vec![weft_switch::packet::HeapBuf::from_bytes(&bytes)]);
    assert_eq!(out.len(), 4);
}
