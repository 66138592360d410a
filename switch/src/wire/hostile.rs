//! Hostile bytes against every format: cut off at every length, random, and valid with a few bytes changed. Nothing
//! panics; whatever `new_checked` lets through, every getter and `parse` can take.

use super::arp::{ArpPacket, ArpView};
use super::ethernet::{EthernetHeader, EthernetView};
use super::icmp::{IcmpHeader, IcmpView};
use super::icmpv6::{Icmpv6Header, Icmpv6View};
use super::ipv4::{Ipv4Header, Ipv4View};
use super::ipv6::{Ipv6Header, Ipv6View, transport};
use super::ndp::{
    NeighbourAdvert, NeighbourAdvertView, NeighbourSolicit, NeighbourSolicitView, RouterSolicitView,
};
use super::samples::{self, hex};
use super::sctp::{SctpHeader, SctpView};
use super::tcp::{TcpHeader, TcpView};
use super::udp::{UdpHeader, UdpView};
use super::vlan::{VlanTag, VlanView};
use super::vxlan::{VxlanHeader, VxlanView};
use super::{Format, WireError};
use proptest::collection::vec;
use proptest::prelude::*;
use std::hint::black_box;
use std::net::Ipv6Addr;

type Probe = fn(&[u8]) -> Result<(), WireError>;

/// Calls all getters of a view.
macro_rules! get {
    ($view:expr, $($getter:ident),+) => {{
        let view = &$view;
        $(let _ = black_box(view.$getter());)+
    }};
}

fn ethernet(bytes: &[u8]) -> Result<(), WireError> {
    let view = EthernetView::new_checked(bytes)?;
    get!(view, dst, src, ethertype, payload);
    EthernetHeader::parse(&view).map(drop)
}

fn vlan(bytes: &[u8]) -> Result<(), WireError> {
    let view = VlanView::new_checked(bytes)?;
    get!(view, pcp, dei, vid, ethertype, payload);
    VlanTag::parse(&view).map(drop)
}

fn arp(bytes: &[u8]) -> Result<(), WireError> {
    let view = ArpView::new_checked(bytes)?;
    get!(view, op, sender_mac, sender_ip, target_mac, target_ip);
    ArpPacket::parse(&view).map(drop)
}

fn ipv4_getters(view: Ipv4View<&[u8]>) -> Result<(), WireError> {
    get!(view, header_len, dscp, ecn, total_len, ident, dont_fragment, more_fragments, fragment_offset);
    get!(view, is_fragment, ttl, protocol, checksum, src, dst, options, payload, verify_checksum);
    let mut copy = view.into_inner().to_vec();
    let mut changed = Ipv4View::new_header_checked(&mut copy[..])?;
    changed.decrement_ttl();
    changed.set_ecn_updating(3);
    changed.fill_checksum();
    black_box(changed.payload_mut());
    Ipv4Header::parse(&view).map(drop)
}

fn ipv4(bytes: &[u8]) -> Result<(), WireError> {
    ipv4_getters(Ipv4View::new_checked(bytes)?)
}

fn ipv4_header(bytes: &[u8]) -> Result<(), WireError> {
    ipv4_getters(Ipv4View::new_header_checked(bytes)?)
}

fn ipv6_getters(view: Ipv6View<&[u8]>) -> Result<(), WireError> {
    get!(view, version, traffic_class, dscp, ecn, flow_label, payload_len, next_header, hop_limit, src, dst);
    Ipv6Header::parse(&view)?;
    let found = transport(view.payload(), view.next_header())?;
    assert!(found.offset <= view.payload().len());
    Ok(())
}

fn ipv6(bytes: &[u8]) -> Result<(), WireError> {
    ipv6_getters(Ipv6View::new_checked(bytes)?)
}

fn ipv6_header(bytes: &[u8]) -> Result<(), WireError> {
    ipv6_getters(Ipv6View::new_header_checked(bytes)?)
}

fn icmp(bytes: &[u8]) -> Result<(), WireError> {
    let view = IcmpView::new_checked(bytes)?;
    get!(view, icmp_type, code, checksum, rest, echo_ident, echo_seq, is_error, payload);
    IcmpHeader::parse(&view).map(drop)
}

fn icmpv6(bytes: &[u8]) -> Result<(), WireError> {
    let view = Icmpv6View::new_checked(bytes)?;
    get!(
        view,
        icmp_type,
        code,
        checksum,
        rest,
        echo_ident,
        echo_seq,
        is_error,
        is_neighbour_discovery,
        payload
    );
    Icmpv6Header::parse(&view, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST).map(drop)
}

fn solicit(bytes: &[u8]) -> Result<(), WireError> {
    let view = NeighbourSolicitView::new_checked(bytes)?;
    get!(view, target, source_link_layer);
    for option in view.options() {
        black_box(option?.mac());
    }
    NeighbourSolicit::parse(&view).map(drop)
}

fn advert(bytes: &[u8]) -> Result<(), WireError> {
    let view = NeighbourAdvertView::new_checked(bytes)?;
    get!(view, router, solicited, override_, target, target_link_layer);
    for option in view.options() {
        black_box(option?.mac());
    }
    NeighbourAdvert::parse(&view).map(drop)
}

fn router_solicit(bytes: &[u8]) -> Result<(), WireError> {
    let view = RouterSolicitView::new_checked(bytes)?;
    view.source_link_layer().map(drop)
}

fn udp_getters(view: UdpView<&[u8]>) -> Result<(), WireError> {
    get!(view, src_port, dst_port, len, checksum, payload);
    black_box(view.verify_checksum(Default::default()));
    UdpHeader::parse(&view).map(drop)
}

fn udp(bytes: &[u8]) -> Result<(), WireError> {
    udp_getters(UdpView::new_checked(bytes)?)
}

fn udp_header(bytes: &[u8]) -> Result<(), WireError> {
    udp_getters(UdpView::new_header_checked(bytes)?)
}

fn tcp(bytes: &[u8]) -> Result<(), WireError> {
    let view = TcpView::new_checked(bytes)?;
    get!(view, src_port, dst_port, seq, ack, header_len, flags, window, checksum, urgent, options, payload);
    black_box(view.verify_checksum(Default::default()));
    TcpHeader::parse(&view).map(drop)
}

fn sctp(bytes: &[u8]) -> Result<(), WireError> {
    let view = SctpView::new_checked(bytes)?;
    get!(view, src_port, dst_port, verification_tag, checksum, payload);
    SctpHeader::parse(&view).map(drop)
}

fn vxlan(bytes: &[u8]) -> Result<(), WireError> {
    let view = VxlanView::new_checked(bytes)?;
    get!(view, flags, reserved1, reserved2, vni, is_strict, payload);
    VxlanHeader::parse(&view).map(drop)
}

/// Each format with a valid message and how many of its bytes it needs to be one.
fn formats() -> Vec<(Probe, Vec<u8>, usize)> {
    let l2 = |frame: &str| hex(frame);
    let l3 = |frame: &str| hex(frame)[14..].to_vec();
    let over4 = |frame: &str| hex(frame)[34..].to_vec();
    let over6 = |frame: &str| hex(frame)[54..].to_vec();
    vec![
        (ethernet, l2(samples::ARP), 14),
        (vlan, vec![0x20, 5, 8, 0, 0x45], 4),
        (arp, l3(samples::ARP), 28),
        (ipv4, l3(samples::TCP4), 60),
        (ipv4_header, l3(samples::TCP4), 20),
        (ipv6, l3(samples::LISTENER_REPORT), 76),
        (ipv6_header, l3(samples::LISTENER_REPORT), 48),
        (ipv6_header, l3(samples::TCP6), 40),
        (icmp, over4(samples::ICMP), 16),
        (icmpv6, loopback_echo(), 16),
        (solicit, over6(samples::SOLICIT), 24),
        (advert, over6(samples::ADVERT), 24),
        (router_solicit, hex("8500000000000000 0101020000000001"), 8),
        (udp, over4(samples::UDP4), 12),
        (udp_header, over4(samples::UDP4), 8),
        (tcp, over4(samples::TCP4), 40),
        (sctp, hex("8e3c960c 01020304 aabbccdd 00"), 12),
        (vxlan, hex(samples::VXLAN)[42..].to_vec(), 8),
    ]
}

fn loopback_echo() -> Vec<u8> {
    let mut message = vec![0; 16];
    let header = Icmpv6Header { icmp_type: super::icmpv6::ECHO_REQUEST, code: 0, rest: [0, 7, 0, 1] };
    header.emit(&mut message, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST).unwrap();
    message
}

#[test]
fn cut_off_at_every_length() {
    for (index, (probe, bytes, need)) in formats().into_iter().enumerate() {
        assert_eq!(probe(&bytes), Ok(()), "format {index}");
        for cut in 0..bytes.len() {
            let result = probe(&bytes[..cut]);
            if cut < need {
                let error = result.expect_err("cut off");
                // A message that is checked as a whole says that its checksum is wrong when its end is missing.
                let typed = matches!(error, WireError::Truncated { have, .. } if have <= cut)
                    || matches!(error, WireError::BadField { field: "checksum", .. });
                assert!(typed, "format {index} cut at {cut}: {error}");
            }
        }
    }
}

#[test]
fn every_format_has_a_name() {
    use Format::*;
    let all = [Ethernet, Vlan, Arp, Ipv4, Ipv6, Ipv6Extension, Icmp, Icmpv6, Ndp, Udp, Tcp, Sctp, Vxlan];
    let names: std::collections::HashSet<String> = all.iter().map(Format::to_string).collect();
    assert_eq!(names.len(), all.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..160)) {
        for (probe, ..) in formats() {
            let _ = probe(&bytes);
        }
    }

    #[test]
    fn valid_with_some_bytes_changed(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), cut: prop::sample::Index,
    ) {
        for (probe, mut bytes, _) in formats() {
            for (at, value) in &changes {
                let len = bytes.len();
                bytes[at.index(len)] = *value;
            }
            let _ = probe(&bytes);
            let _ = probe(&bytes[..cut.index(bytes.len() + 1)]);
        }
    }
}
