//! smoltcp as a judge of what the router makes: it puts the fragments together and reads the errors.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv4TimeExceeded,
    Icmpv6Packet, Icmpv6Repr, IpCidr, Ipv4Packet, Ipv6Packet,
};

use super::too_big::narrow;
use crate::lab::VTEP_MACS;
use crate::lab::frames::{Checksum, Ip, UDP, ethernet, mac, udp};
use crate::lab::routed::{Routed, Side, V4, V6};

/// Frames that smoltcp finds on its wire; what it sends is of no interest.
#[derive(Default)]
struct Frames(VecDeque<Vec<u8>>);

struct Received(Vec<u8>);
struct Ignored;

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Ignored {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        fill(&mut vec![0; length])
    }
}

impl Device for Frames {
    type RxToken<'a> = Received;
    type TxToken<'a> = Ignored;

    fn receive(&mut self, _: Instant) -> Option<(Received, Ignored)> {
        self.0.pop_front().map(|frame| (Received(frame), Ignored))
    }
    fn transmit(&mut self, _: Instant) -> Option<Ignored> {
        Some(Ignored)
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1514);
        capabilities
    }
}

/// What a socket of the far pod gets out of these packets.
fn delivered(packets: Vec<Vec<u8>>) -> Vec<u8> {
    let own = mac(VTEP_MACS[1]);
    let frames = packets.iter().map(|packet| ethernet(own, mac(VTEP_MACS[0]), 0x0800, packet));
    let mut device = Frames(frames.collect());
    let mut interface = Interface::new(Config::new(EthernetAddress(own).into()), &mut device, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(V4.far.parse().expect("an address"), 24)).expect("room for an address");
    });
    let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; 4], vec![0; 8192]);
    let mut sockets = SocketSet::new(Vec::new());
    let mut socket = Socket::new(buffer(), buffer());
    socket.bind(2000).expect("a port");
    let handle = sockets.add(socket);
    while !device.0.is_empty() {
        interface.poll(Instant::ZERO, &mut device, &mut sockets);
    }
    let (payload, _) = sockets.get_mut::<Socket>(handle).recv().expect("a whole datagram");
    payload.to_vec()
}

#[test]
fn smoltcp_puts_fragments_together() {
    let mut router = Routed::with("", "", narrow(626));
    for (ident, length) in [(1, 1000), (2, 1100), (3, 1101), (4, 1422)] {
        let ip = Ip { ident, ..Ip::new(V4.web, V4.far) };
        let payload: Vec<u8> = (0..length).map(|byte| (byte ^ byte >> 8) as u8).collect();
        let packet = ip.with(UDP, &udp(&ip, (1000, 2000), Checksum::Valid, &payload));
        let count = router.send(Side::Web, &packet).of("tx");
        assert!(count > 1, "nothing was cut");
        let pieces = (0..count)
            .map(|_| router.receive(Side::Far, "fragment", |packet| Some(packet.to_vec())))
            .collect::<Vec<_>>();
        assert_eq!(delivered(pieces.clone()), payload);
        // In any order.
        assert_eq!(delivered(pieces.into_iter().rev().collect()), payload);
    }
}

#[test]
fn smoltcp_reads_the_errors_of_ipv4() {
    let mut router = Routed::with("", "", narrow(1450));
    let checked = ChecksumCapabilities::default();
    let ip = Ip { fragment: 0x4000, ..Ip::new(V4.web, V4.far) };
    let expired = Ip { ttl: 1, ..ip.clone() };
    let nowhere = Ip::new(V4.web, V4.no_node);
    for (ip, length, reason, said) in [
        (&expired, 500, "ttl_exceeded", V4.time_exceeded().into()),
        (&nowhere, 500, "route_unreachable", V4.host_unreachable().into()),
        (&ip, 1400, "mtu_exceeded", V4.too_big(1400)),
    ] {
        let packet = ip.with(UDP, &udp(ip, (1000, 2000), Checksum::Valid, &vec![1; length]));
        let error = router.tells(Side::Web, &packet, reason, said);
        let outer = Ipv4Packet::new_checked(&error[..]).expect("a packet");
        assert!(outer.verify_checksum());
        let message = Icmpv4Packet::new_checked(outer.payload()).expect("a message");
        if length == 1400 {
            // A quote that is not the whole packet smoltcp does not read.
            let kind = (message.msg_type(), Icmpv4DstUnreachable::from(message.msg_code()));
            assert_eq!(kind, (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::FragRequired));
            assert!(message.verify_checksum());
            continue;
        }
        let header = match Icmpv4Repr::parse(&message, &checked).expect("an error") {
            Icmpv4Repr::TimeExceeded { reason: Icmpv4TimeExceeded::TtlExpired, header, .. } => header,
            Icmpv4Repr::DstUnreachable { reason: Icmpv4DstUnreachable::HostUnreachable, header, .. } => {
                header
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((header.src_addr.to_string(), header.hop_limit), (V4.web.to_owned(), ip.ttl));
    }
}

#[test]
fn smoltcp_reads_the_errors_of_ipv6() {
    let mut router = Routed::with("", "", narrow(1450));
    let checked = ChecksumCapabilities::default();
    let ip = Ip::new(V6.web, V6.far);
    let expired = Ip { ttl: 1, ..ip.clone() };
    let nowhere = Ip::new(V6.web, V6.no_node);
    for (ip, reason, said) in [
        (&expired, "ttl_exceeded", V6.time_exceeded().into()),
        (&nowhere, "route_unreachable", V6.host_unreachable().into()),
        (&ip, "mtu_exceeded", V6.too_big(1400)),
    ] {
        let packet = ip.with(UDP, &udp(ip, (1000, 2000), Checksum::Valid, &[1; 1400]));
        let error = router.tells(Side::Web, &packet, reason, said);
        let outer = Ipv6Packet::new_checked(&error[..]).expect("a packet");
        let message = Icmpv6Packet::new_checked(outer.payload()).expect("a message");
        let read =
            Icmpv6Repr::parse(&outer.src_addr(), &outer.dst_addr(), &message, &checked).expect("an error");
        let header = match read {
            Icmpv6Repr::TimeExceeded { header, .. } | Icmpv6Repr::DstUnreachable { header, .. } => header,
            Icmpv6Repr::PktTooBig { mtu: 1400, header, .. } => header,
            other => panic!("{other:?}"),
        };
        assert_eq!((header.src_addr.to_string(), header.hop_limit), (V6.web.to_owned(), ip.ttl));
    }
}
