//! ARP and neighbour discovery messages, written and read by smoltcp, and the events that they are to make.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress,
};
use weft_switch::event::Event;
use weft_switch::types::MacAddr;

use crate::trusted::At;

pub const BROADCAST: [u8; 6] = [0xff; 6];
pub const NOBODY: [u8; 4] = [0; 4];
pub const GATEWAY_IP: [u8; 4] = [10, 244, 0, 1];
pub const STATION_IP: [u8; 4] = [10, 244, 0, 50];
pub const AWAY: [u8; 4] = [10, 244, 1, 7];

pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    let repr = EthernetRepr { src_addr: EthernetAddress(src), dst_addr: EthernetAddress(dst), ethertype };
    repr.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    frame[14..].copy_from_slice(payload);
    frame
}

/// An ARP message; `sender` is where it says that its address is.
pub fn arp_as(
    operation: ArpOperation,
    dst: [u8; 6],
    src: [u8; 6],
    sender: ([u8; 6], [u8; 4]),
    target: [u8; 4],
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0),
        source_protocol_addr: sender.1.into(),
        target_hardware_addr: EthernetAddress(if operation == ArpOperation::Request { [0; 6] } else { dst }),
        target_protocol_addr: target.into(),
    };
    let mut payload = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut payload));
    ethernet(dst, src, EthernetProtocol::Arp, &payload)
}

pub fn asks(mac: [u8; 6], ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    arp_as(ArpOperation::Request, BROADCAST, mac, (mac, ip), target)
}

pub fn answers(dst: [u8; 6], mac: [u8; 6], ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    arp_as(ArpOperation::Reply, dst, mac, (mac, ip), target)
}

/// Operation, sender and target of an ARP message, as smoltcp reads it.
pub fn read_arp(frame: &[u8]) -> (ArpOperation, [u8; 6], [u8; 4], [u8; 6], [u8; 4]) {
    let eth = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!(eth.ethertype(), EthernetProtocol::Arp);
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&ArpPacket::new_checked(eth.payload()).unwrap()).unwrap()
    else {
        panic!("not about Ethernet and IPv4");
    };
    assert_eq!(eth.src_addr(), source_hardware_addr);
    (
        operation,
        source_hardware_addr.0,
        source_protocol_addr.octets(),
        target_hardware_addr.0,
        target_protocol_addr.octets(),
    )
}

pub fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An address of the node's IPv6 subnet.
pub fn own6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, last)
}

pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

pub fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

pub fn icmpv6(
    dst_mac: [u8; 6],
    mac: [u8; 6],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    message: NdiscRepr<'_>,
) -> Vec<u8> {
    let icmp = Icmpv6Repr::Ndisc(message);
    let ip = Ipv6Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: 255,
    };
    let mut payload = vec![0; 40 + icmp.buffer_len()];
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut payload[..]));
    icmp.emit(
        &src,
        &dst,
        &mut Icmpv6Packet::new_unchecked(&mut payload[40..]),
        &ChecksumCapabilities::default(),
    );
    ethernet(dst_mac, mac, EthernetProtocol::Ipv6, &payload)
}

pub fn lladdr(mac: [u8; 6]) -> Option<RawHardwareAddress> {
    Some(EthernetAddress(mac).into())
}

/// A neighbour solicitation to the target's group; from the unspecified address it names no MAC address.
pub fn asks6(mac: [u8; 6], src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let message = NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: if src.is_unspecified() { None } else { lladdr(mac) },
    };
    icmpv6(group_mac(group), mac, src, group, message)
}

pub fn says6(
    to: ([u8; 6], Ipv6Addr),
    mac: [u8; 6],
    src: Ipv6Addr,
    target: Ipv6Addr,
    told: [u8; 6],
) -> Vec<u8> {
    let flags =
        if to.1.is_multicast() { NdiscNeighborFlags::OVERRIDE } else { NdiscNeighborFlags::SOLICITED };
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: lladdr(told) };
    icmpv6(to.0, mac, src, to.1, message)
}

pub fn all_nodes() -> ([u8; 6], Ipv6Addr) {
    ([0x33, 0x33, 0, 0, 0, 1], v6("ff02::1"))
}

/// Reads a neighbour discovery message with smoltcp, which checks its checksum; its addresses come first.
pub fn with_nd<T>(frame: &[u8], see: impl FnOnce(Ipv6Addr, Ipv6Addr, NdiscRepr<'_>) -> T) -> T {
    let eth = EthernetFrame::new_checked(frame).unwrap();
    let ip = Ipv6Packet::new_checked(eth.payload()).unwrap();
    assert_eq!((ip.hop_limit(), ip.next_header()), (255, IpProtocol::Icmpv6));
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    let repr = Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::Ndisc(message) = repr else { panic!("{repr:?}") };
    see(src, dst, message)
}

/// The MAC address that a neighbour advertisement gives for `target`.
pub fn told6(frame: &[u8], target: Ipv6Addr) -> [u8; 6] {
    with_nd(frame, |src, _, message| match message {
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
            assert_eq!((src, target_addr), (target, target));
            lladdr.unwrap().as_bytes().try_into().unwrap()
        }
        other => panic!("{other:?}"),
    })
}

pub fn neighbour(at: At, mac: [u8; 6], address: impl Into<IpAddr>) -> Event {
    Event::Neighbour { port: at.id(), mac: MacAddr(mac), address: address.into() }
}

pub fn conflict(at: At, mac: [u8; 6], address: impl Into<IpAddr>) -> Event {
    Event::Conflict { port: at.id(), mac: MacAddr(mac), address: address.into() }
}
