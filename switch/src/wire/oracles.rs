//! Independent witnesses: what we write, etherparse and smoltcp read to the same values, and their checksums are ours.

use super::checksum::{Sum, udp_never_zero};
use super::ip::IpProtocol;
use super::ipv6::transport;
use super::samples::{ipv4, ipv6, payload};
use super::{arp, ethernet, icmp, icmpv6, ipv4, ipv6, ndp, tcp, udp, vlan};
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire as smol;
use std::net::{IpAddr, Ipv6Addr};

/// Either family, for what is the same over both.
fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        (ipv4(), ipv4()).prop_map(|(src, dst)| (IpAddr::V4(src), IpAddr::V4(dst))),
        (ipv6(), ipv6()).prop_map(|(src, dst)| (IpAddr::V6(src), IpAddr::V6(dst))),
    ]
}

fn pseudo(src: IpAddr, dst: IpAddr, protocol: IpProtocol, len: usize) -> Sum {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::pseudo_v4(src, dst, protocol, len),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::pseudo_v6(src, dst, protocol, len),
        _ => unreachable!("both ends are of one family"),
    }
}

/// Both ways to say "no difference" in one's complement arithmetic are the same sum.
fn same_sum(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

proptest! {
    #[test]
    fn ethernet_and_vlan(header in ethernet::any_ethernet(), tag in vlan::any_vlan()) {
        let mut bytes = [0; 18];
        header.emit(&mut bytes).unwrap();
        tag.emit(&mut bytes[14..]).unwrap();
        let (theirs, rest) = etherparse::Ethernet2Header::from_slice(&bytes).unwrap();
        prop_assert_eq!((theirs.destination, theirs.source), (header.dst.0, header.src.0));
        prop_assert_eq!(theirs.ether_type.0, header.ethertype.0);
        let (theirs, _) = etherparse::SingleVlanHeader::from_slice(rest).unwrap();
        prop_assert_eq!(theirs.pcp.value(), tag.pcp);
        prop_assert_eq!(theirs.drop_eligible_indicator, tag.dei);
        prop_assert_eq!(theirs.vlan_id.value(), tag.vid.get());
        prop_assert_eq!(theirs.ether_type.0, tag.ethertype.0);
    }

    #[test]
    fn arp_packet(packet in arp::any_arp(), reply: bool) {
        let packet = arp::ArpPacket { op: if reply { arp::REPLY } else { arp::REQUEST }, ..packet };
        let mut bytes = [0; arp::ARP_LEN];
        packet.emit(&mut bytes).unwrap();
        let theirs = smol::ArpRepr::parse(&smol::ArpPacket::new_checked(&bytes).unwrap()).unwrap();
        let expected = smol::ArpRepr::EthernetIpv4 {
            operation: if reply { smol::ArpOperation::Reply } else { smol::ArpOperation::Request },
            source_hardware_addr: smol::EthernetAddress(packet.sender_mac.0),
            source_protocol_addr: packet.sender_ip,
            target_hardware_addr: smol::EthernetAddress(packet.target_mac.0),
            target_protocol_addr: packet.target_ip,
        };
        prop_assert_eq!(theirs, expected);
    }

    #[test]
    fn ipv4_header(header in ipv4::any_ipv4()) {
        let mut bytes = vec![0; header.len() + usize::from(header.payload_len)];
        header.emit(&mut bytes).unwrap();
        let view = ipv4::Ipv4View::new_checked(&bytes).unwrap();

        let (theirs, rest) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        prop_assert_eq!(rest.len(), usize::from(header.payload_len));
        prop_assert_eq!((theirs.dscp.value(), theirs.ecn.value()), (header.dscp, header.ecn));
        prop_assert_eq!((theirs.total_len, theirs.identification), (view.total_len(), header.ident));
        prop_assert_eq!(theirs.dont_fragment, header.dont_fragment);
        prop_assert_eq!(theirs.more_fragments, header.more_fragments);
        prop_assert_eq!(theirs.fragment_offset.value() * 8, header.fragment_offset);
        prop_assert_eq!(theirs.is_fragmenting_payload(), view.is_fragment());
        prop_assert_eq!((theirs.time_to_live, theirs.protocol.0), (header.ttl, header.protocol.0));
        prop_assert_eq!((theirs.source, theirs.destination), (header.src.octets(), header.dst.octets()));
        prop_assert_eq!(&theirs.options[..], &header.options[..]);
        prop_assert_eq!(theirs.header_checksum, theirs.calc_header_checksum());

        let theirs = smol::Ipv4Packet::new_checked(&bytes).unwrap();
        prop_assert!(theirs.verify_checksum());
        prop_assert_eq!(theirs.checksum(), view.checksum());
        prop_assert_eq!((theirs.src_addr(), theirs.dst_addr()), (header.src, header.dst));
        prop_assert_eq!(theirs.payload(), view.payload());
    }

    #[test]
    fn a_forwarded_ipv4_header(header in ipv4::any_ipv4(), ecn in 0u8..4) {
        prop_assume!(header.ttl > 0);
        let mut bytes = vec![0; header.len()];
        header.emit(&mut bytes).unwrap();
        let mut view = ipv4::Ipv4View::new_header_checked(&mut bytes).unwrap();
        view.decrement_ttl();
        view.set_ecn_updating(ecn);
        let (theirs, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        prop_assert_eq!((theirs.time_to_live, theirs.ecn.value()), (header.ttl - 1, ecn));
        prop_assert!(same_sum(theirs.header_checksum, theirs.calc_header_checksum()));
    }

    #[test]
    fn ipv6_header(header in ipv6::any_ipv6()) {
        let mut bytes = vec![0; ipv6::IPV6_LEN + usize::from(header.payload_len)];
        header.emit(&mut bytes).unwrap();
        let (theirs, _) = etherparse::Ipv6Header::from_slice(&bytes).unwrap();
        prop_assert_eq!(theirs.traffic_class, header.traffic_class);
        prop_assert_eq!(theirs.flow_label.value(), header.flow_label);
        prop_assert_eq!(theirs.payload_length, header.payload_len);
        prop_assert_eq!((theirs.next_header.0, theirs.hop_limit), (header.next_header.0, header.hop_limit));
        prop_assert_eq!((theirs.source, theirs.destination), (header.src.octets(), header.dst.octets()));
        let theirs = smol::Ipv6Packet::new_checked(&bytes).unwrap();
        prop_assert_eq!((theirs.src_addr(), theirs.dst_addr()), (header.src, header.dst));
        prop_assert_eq!(theirs.payload().len(), usize::from(header.payload_len));
    }

    /// Chains of extension headers, hop-by-hop options also where they may not be.
    #[test]
    fn extension_headers(
        chain in vec((prop_oneof![Just(43u8), Just(51), Just(60), Just(0)], 0u8..3), 0..6),
        last in prop_oneof![Just(6u8), Just(17), Just(58), Just(59), Just(50), Just(132)],
        fragment: Option<bool>,
        cut: prop::sample::Index,
    ) {
        let mut kinds: Vec<(u8, u8)> = chain;
        // At most one fragment header, which etherparse does not ask for.
        if let Some(more) = fragment {
            kinds.push((44, u8::from(more)));
        }
        let first = kinds.first().map_or(last, |(kind, _)| *kind);
        let mut bytes = Vec::new();
        for (index, &(kind, size)) in kinds.iter().enumerate() {
            let next = kinds.get(index + 1).map_or(last, |(kind, _)| *kind);
            match kind {
                44 => bytes.extend_from_slice(&[next, 0, 0, size, 1, 2, 3, 4]),
                // In 4-byte words less 2, of at least 12 bytes.
                51 => {
                    let words = 3 + usize::from(size) * 2;
                    bytes.extend_from_slice(&[next, words as u8 - 2]);
                    bytes.resize(bytes.len() + words * 4 - 2, 0xee);
                }
                _ => {
                    bytes.extend_from_slice(&[next, size]);
                    bytes.resize(bytes.len() + (usize::from(size) + 1) * 8 - 2, 0xee);
                }
            }
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len() + 1)]] {
            let theirs = etherparse::Ipv6ExtensionsSlice::from_slice(etherparse::IpNumber(first), bytes);
            match (transport(bytes, IpProtocol(first)), theirs) {
                (Ok(ours), Ok((extensions, protocol, rest))) => {
                    prop_assert_eq!(ours.protocol.0, protocol.0);
                    prop_assert_eq!(ours.offset, bytes.len() - rest.len());
                    let parts = ours.fragment.is_some_and(|f| f.more || f.offset != 0);
                    prop_assert_eq!(parts, extensions.is_fragmenting_payload());
                }
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} but {:?}", ours, theirs),
            }
        }
    }

    #[test]
    fn udp_datagram((src, dst) in ends(), header in udp::any_udp(), payload in payload()) {
        let len = udp::UDP_LEN + payload.len();
        let mut bytes = [&[0; 8], &payload[..]].concat();
        udp::UdpHeader { len: len as u16, ..header }.emit(&mut bytes).unwrap();
        let mut view = udp::UdpView::new_checked(&mut bytes[..]).unwrap();
        view.fill_checksum(pseudo(src, dst, IpProtocol::UDP, len));
        prop_assert!(view.verify_checksum(pseudo(src, dst, IpProtocol::UDP, len)));

        let (theirs, rest) = etherparse::UdpHeader::from_slice(&bytes).unwrap();
        prop_assert_eq!((theirs.source_port, theirs.destination_port), (header.src_port, header.dst_port));
        let sum = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => theirs.calc_checksum_ipv4_raw(s.octets(), d.octets(), rest),
            (IpAddr::V6(s), IpAddr::V6(d)) => theirs.calc_checksum_ipv6_raw(s.octets(), d.octets(), rest),
            _ => unreachable!("both ends are of one family"),
        };
        prop_assert_eq!(theirs.checksum, udp_never_zero(sum.unwrap()));

        let theirs = smol::UdpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert!(theirs.verify_checksum(&src.into(), &dst.into()));
        prop_assert_eq!(theirs.payload(), &payload[..]);
    }

    #[test]
    fn tcp_segment((src, dst) in ends(), header in tcp::any_tcp(), payload in payload()) {
        let len = header.len() + payload.len();
        let mut bytes = vec![0; len];
        header.emit(&mut bytes).unwrap();
        bytes[header.len()..].copy_from_slice(&payload);
        let mut view = tcp::TcpView::new_checked(&mut bytes[..]).unwrap();
        view.fill_checksum(pseudo(src, dst, IpProtocol::TCP, len));
        prop_assert!(view.verify_checksum(pseudo(src, dst, IpProtocol::TCP, len)));

        let (theirs, rest) = etherparse::TcpHeader::from_slice(&bytes).unwrap();
        prop_assert_eq!((theirs.source_port, theirs.destination_port), (header.src_port, header.dst_port));
        prop_assert_eq!((theirs.sequence_number, theirs.acknowledgment_number), (header.seq, header.ack));
        prop_assert_eq!((theirs.window_size, theirs.urgent_pointer), (header.window, header.urgent));
        let flags = [
            theirs.fin, theirs.syn, theirs.rst, theirs.psh, theirs.ack, theirs.urg, theirs.ece, theirs.cwr,
        ];
        let flags = flags.iter().enumerate().fold(0, |all, (bit, set)| all | u8::from(*set) << bit);
        prop_assert_eq!(flags, header.flags.0);
        prop_assert_eq!(theirs.options.as_slice(), &header.options[..]);
        prop_assert_eq!(rest, &payload[..]);
        let sum = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => theirs.calc_checksum_ipv4_raw(s.octets(), d.octets(), rest),
            (IpAddr::V6(s), IpAddr::V6(d)) => theirs.calc_checksum_ipv6_raw(s.octets(), d.octets(), rest),
            _ => unreachable!("both ends are of one family"),
        };
        prop_assert_eq!(theirs.checksum, sum.unwrap());

        let theirs = smol::TcpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert!(theirs.verify_checksum(&src.into(), &dst.into()));
        prop_assert_eq!(theirs.payload(), &payload[..]);
    }

    #[test]
    fn icmp_message(header in icmp::any_icmp(), payload in payload()) {
        let mut bytes = [&[0; 8], &payload[..]].concat();
        header.emit(&mut bytes).unwrap();
        let theirs = smol::Icmpv4Packet::new_checked(&bytes[..]).unwrap();
        prop_assert!(theirs.verify_checksum());
        prop_assert_eq!((theirs.msg_code(), u8::from(theirs.msg_type())), (header.code, header.icmp_type));
    }

    #[test]
    fn icmp_echo(ident: u16, seq: u16, payload in payload()) {
        let mut bytes = [&[0; 8], &payload[..]].concat();
        let mut view = icmp::IcmpView::new_checked(&mut bytes[..]).unwrap();
        view.set_icmp_type(icmp::ECHO_REPLY);
        view.set_echo_ident(ident);
        view.set_echo_seq(seq);
        view.fill_checksum();
        let (theirs, rest) = etherparse::Icmpv4Header::from_slice(&bytes).unwrap();
        let echo = etherparse::IcmpEchoHeader { id: ident, seq };
        prop_assert_eq!(&theirs.icmp_type, &etherparse::Icmpv4Type::EchoReply(echo));
        prop_assert_eq!(theirs.checksum, theirs.icmp_type.calc_checksum(rest));
    }

    #[test]
    fn icmpv6_message(header in icmpv6::any_icmpv6(), src in ipv6(), dst in ipv6(), payload in payload()) {
        let mut bytes = [&[0; 8], &payload[..]].concat();
        header.emit(&mut bytes, src, dst).unwrap();
        let (theirs, rest) = etherparse::Icmpv6Header::from_slice(&bytes).unwrap();
        let sum = theirs.icmp_type.calc_checksum(src.octets(), dst.octets(), rest).unwrap();
        // etherparse reads some types with code 0 only and drops the reserved bytes of others; where it kept all,
        // the sums are equal.
        let mut kept = Vec::new();
        theirs.write(&mut kept).unwrap();
        if kept[..] == bytes[..8] {
            prop_assert_eq!(theirs.checksum, sum);
        }
        let ours = icmpv6::Icmpv6View::new_checked(&bytes).unwrap();
        prop_assert!(etherparse::Icmpv6Slice::from_slice(&bytes).unwrap().is_checksum_valid(src.octets(), dst.octets()));
        prop_assert!(ours.verify_checksum(src, dst));
    }

    #[test]
    fn neighbour_advertisement(advert in ndp::any_advert(), src in ipv6(), dst in ipv6()) {
        let mut bytes = vec![0; advert.len()];
        advert.emit(&mut bytes, src, dst).unwrap();
        let mut flags = smol::NdiscNeighborFlags::empty();
        flags.set(smol::NdiscNeighborFlags::ROUTER, advert.router);
        flags.set(smol::NdiscNeighborFlags::SOLICITED, advert.solicited);
        flags.set(smol::NdiscNeighborFlags::OVERRIDE, advert.override_);
        let expected = smol::NdiscRepr::NeighborAdvert {
            flags,
            target_addr: advert.target,
            lladdr: advert.target_mac.map(|mac| smol::EthernetAddress(mac.0).into()),
        };
        prop_assert_eq!(smol_ndp(&bytes, src, dst), Ok(smol::Icmpv6Repr::Ndisc(expected)));
        // And what smoltcp writes, we read.
        let mut theirs = vec![0; expected.buffer_len()];
        smol::Icmpv6Repr::Ndisc(expected)
            .emit(&src, &dst, &mut smol::Icmpv6Packet::new_unchecked(&mut theirs[..]), &ChecksumCapabilities::default());
        prop_assert_eq!(theirs, bytes);
    }

    #[test]
    fn neighbour_solicitation(solicit in ndp::any_solicit(), src in ipv6(), dst in ipv6()) {
        let mut bytes = vec![0; solicit.len()];
        solicit.emit(&mut bytes, src, dst).unwrap();
        let expected = smol::NdiscRepr::NeighborSolicit {
            target_addr: solicit.target,
            lladdr: solicit.source_mac.map(|mac| smol::EthernetAddress(mac.0).into()),
        };
        prop_assert_eq!(smol_ndp(&bytes, src, dst), Ok(smol::Icmpv6Repr::Ndisc(expected)));
    }
}

/// As smoltcp reads it, its checksum verified.
fn smol_ndp(bytes: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> Result<smol::Icmpv6Repr<'_>, smol::Error> {
    let packet = smol::Icmpv6Packet::new_checked(bytes)?;
    smol::Icmpv6Repr::parse(&src, &dst, &packet, &ChecksumCapabilities::default())
}
