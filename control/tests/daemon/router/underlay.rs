//! What routers of the underlay say about the tunnel's packets: who is believed, and who is told.

use super::too_big::narrow;
use crate::lab::frames::{Checksum, ICMP, Ip, UDP, icmp, udp};
use crate::lab::routed::{BOTH, Net, Routed, Side, V4, V6, assert_error};
use crate::lab::{Frame, wait_for};

/// Sends a packet of so many bytes, which must not be cut, from web to the far pod; it, and the tunnel packet that carries
/// it, less its Ethernet header.
fn tunnelled(router: &mut Routed, net: Net, length: usize) -> (Vec<u8>, Vec<u8>) {
    let ip = Ip { fragment: 0x4000, ..Ip::new(net.web, net.far) };
    let payload = vec![0x66; length - net.pick(28, 48)];
    let packet = ip.with(UDP, &udp(&ip, (1000, 2000), Checksum::Valid, &payload));
    router.far.drain();
    router.send(Side::Web, &packet).assert_only(&[("tx", 1)]);
    let is_tunnel =
        |frame: &Frame| frame.bytes.get(36..38).is_some_and(|port| *port == 8472u16.to_be_bytes());
    let outer =
        router.far.receive("tunnel packet", |frame| is_tunnel(frame).then(|| frame.bytes[14..].to_vec()));
    // What a router sees and the sender does not know of is a hop less; what it quotes is the packet as it came.
    let inner = Ip { ttl: 63, ..ip.clone() }.with(UDP, &udp(&ip, (1000, 2000), Checksum::Valid, &payload));
    (inner, outer)
}

/// The frame in which a router says that its link carries `mtu` bytes, with a quote.
fn too_big(router: &Routed, mtu: u16, quote: &[u8]) -> Vec<u8> {
    let ip = Ip::new("172.16.0.254", "172.16.0.1");
    let [high, low] = mtu.to_be_bytes();
    // As routers do: 576 bytes in all.
    let message = icmp(&ip, (3, 4), [0, 0, high, low], &quote[..quote.len().min(548)]);
    framed(router, &ip, &message)
}

fn framed(router: &Routed, ip: &Ip, message: &[u8]) -> Vec<u8> {
    let tunnel = router.tunnel();
    ip.frame(tunnel.dst, tunnel.src, ICMP, message)
}

/// The path's MTU is known to be so many bytes: the next packet of one byte more is refused with it.
fn carries(router: &mut Routed, net: Net, mtu: u16) {
    let ip = Ip { fragment: 0x4000, ..Ip::new(net.web, net.far) };
    let payload = vec![0x67; usize::from(mtu) + 1 - net.pick(28, 48)];
    let packet = ip.with(UDP, &udp(&ip, (1000, 2000), Checksum::Valid, &payload));
    // The control side has to publish it first.
    wait_for("the path's MTU to be learned", || {
        router.web.drain();
        let deltas = router.send(Side::Web, &packet);
        (deltas.of("mtu_exceeded") == 1).then_some(())
    });
    let error = router.receive(Side::Web, "ICMP error", |answer| Some(answer.to_vec()));
    assert_error(&error, net.gateway, &packet, net.too_big(mtu));
}

#[test]
fn a_router_of_the_underlay_is_believed_and_the_pod_is_told() {
    for net in BOTH {
        let mut router = Routed::new();
        let (inner, outer) = tunnelled(&mut router, net, 1450);
        let frame = too_big(&router, 1400, &outer[..528]);
        let deltas = router.send_frame(Side::Far, &frame);
        deltas.assert_only(&[("consumed", 1), ("originated", 1), ("tx", 1)]);
        deltas.assert_ports(&[("up0.rx", 1), ("web.tx", 1)]);
        let error = router.receive(Side::Web, "ICMP error", |packet| Some(packet.to_vec()));
        // What was quoted of the inner packet is quoted on.
        let inner = &inner[..528 - 50];
        let said = net.too_big(1350);
        let at = net.pick(20, 40);
        assert_eq!(((error[at], error[at + 1]), &error[at + 4..at + 8]), (said.kind, &said.rest[..]));
        assert_eq!(error[at + 8..], inner[..inner.len().min(error.len() - at - 8)]);
        assert!(error.len() - at - 8 >= 8 + net.pick(20, 40), "the quote tells nothing: {error:02x?}");
        carries(&mut router, net, 1350);
        let vteps = router.lab.ask(async |weftd| weftd.vteps(None).await).expect("the tunnels' ends").vteps;
        assert!(!vteps.is_empty());
        assert!(vteps.iter().all(|vtep| (vtep.mtu, vtep.path_mtu) == (Some(1350), Some(1400))), "{vteps:?}");
    }
}

#[test]
fn a_short_quote_is_enough_to_learn_from() {
    let mut router = Routed::new();
    let (_, outer) = tunnelled(&mut router, V4, 1450);
    // The outer headers with eight bytes behind IP's (RFC 792): nobody can be told from that.
    let frame = too_big(&router, 1300, &outer[..28]);
    let deltas = router.send_frame(Side::Far, &frame);
    deltas.assert_only(&[("consumed", 1)]).assert_ports(&[("up0.rx", 1)]);
    carries(&mut router, V4, 1250);
}

#[test]
fn who_has_not_said_df_is_not_told_but_cut() {
    let mut router = Routed::new();
    let ip = Ip::new(V4.web, V4.far);
    let packet = ip.with(UDP, &udp(&ip, (1000, 2000), Checksum::Valid, &[0x66; 1400]));
    router.send(Side::Web, &packet);
    let outer = router.far.receive("tunnel packet", |frame| {
        frame.bytes.get(36..38).filter(|port| **port == 8472u16.to_be_bytes())?;
        Some(frame.bytes[14..].to_vec())
    });
    let frame = too_big(&router, 1400, &outer);
    router.send_frame(Side::Far, &frame).assert_only(&[("consumed", 1)]);
    wait_for("the datagram to be cut", || {
        let deltas = router.send(Side::Web, &packet);
        (deltas.of("tx") == 2).then_some(())
    });
}

#[test]
fn a_smaller_path_is_believed_and_a_larger_one_is_not() {
    let mut router = Routed::new();
    for (said, carried) in [(1400, 1350), (1300, 1250)] {
        let (_, outer) = tunnelled(&mut router, V4, usize::from(carried) + 1);
        let frame = too_big(&router, said, &outer);
        router.send_frame(Side::Far, &frame);
        carries(&mut router, V4, carried);
    }
    // A late one of before changes nothing.
    let ip = Ip::new("172.16.0.1", "172.16.0.2");
    let quote = ip.with(UDP, &udp(&ip, (40_000, 8472), Checksum::Absent, &[0; 1450]));
    let frame = too_big(&router, 1400, &quote);
    router.send_frame(Side::Far, &frame).assert_only(&[("consumed", 1)]);
    carries(&mut router, V4, 1250);
}

#[test]
fn no_path_is_taken_for_smaller_than_links_may_be() {
    let mut router = Routed::new();
    let (_, outer) = tunnelled(&mut router, V4, 1450);
    let frame = too_big(&router, 68, &outer);
    router.send_frame(Side::Far, &frame);
    // 576 bytes are what pods may count on: the outer packets may be cut on their way.
    carries(&mut router, V4, 576);
}

/// Nothing of it is believed: the path carries what it did.
fn in_vain(router: &mut Routed, what: &str, frame: &[u8]) {
    println!("{what}");
    unseen(router, frame);
    for net in BOTH {
        tunnelled(router, net, 1450);
    }
}

#[test]
fn who_does_not_quote_our_packets_is_not_believed() {
    let mut router = Routed::new();
    let (_, outer) = tunnelled(&mut router, V4, 1450);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut quote = outer.clone();
        change(&mut quote);
        // As it would have been sent.
        quote[10..12].fill(0);
        let checksum = !crate::lab::frames::sum(&[&quote[..20]]);
        quote[10..12].copy_from_slice(&checksum.to_be_bytes());
        quote
    };
    for (what, quote) in [
        ("from another address", with(&|quote| quote[15] = 9)),
        ("to a node that nobody knows", with(&|quote| quote[19] = 77)),
        ("to another port", with(&|quote| quote[23] = 0x19)),
        ("of another protocol", with(&|quote| quote[9] = 6)),
        ("of a later fragment", with(&|quote| quote[7] = 9)),
        (
            "shorter than the MTU that is said",
            with(&|quote| quote[2..4].copy_from_slice(&1400u16.to_be_bytes())),
        ),
    ] {
        let frame = too_big(&router, 1400, &quote);
        in_vain(&mut router, what, &frame);
    }
    for length in [0, 8, 20, 27] {
        let frame = too_big(&router, 1400, &outer[..length]);
        in_vain(&mut router, &format!("{length} bytes quoted"), &frame);
    }
    let frame = too_big(&router, 67, &outer);
    in_vain(&mut router, "an MTU that no link has", &frame);
    let frame = too_big(&router, 0, &outer);
    in_vain(&mut router, "no MTU", &frame);
}

/// Nothing comes of the frame, whether or not the uplink's filter keeps it from the switch.
fn unseen(router: &mut Routed, frame: &[u8]) {
    let before = router.lab.counters();
    router.far.send(frame);
    // What comes after it shows that it has been dealt with.
    let (ip, further) = (Ip::new(V4.far, V4.web), Ip { ttl: 63, ..Ip::new(V4.far, V4.web) });
    let marker = router.frame(Side::Far, &ip.with(253, b"marker"));
    router.far.send(&marker);
    router.receive_packet(Side::Web, &further.with(253, b"marker"));
    before.until(&router.lab.counters()).assert_without("consumed").assert_without("originated");
}

#[test]
fn other_errors_and_broken_ones_change_nothing() {
    let mut router = Routed::new();
    let (_, outer) = tunnelled(&mut router, V4, 1450);
    let ip = Ip::new("172.16.0.254", "172.16.0.1");
    for kind in [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (4, 0), (5, 1), (12, 0)] {
        let frame = framed(&router, &ip, &icmp(&ip, kind, [0, 0, 5, 0x78], &outer[..548]));
        unseen(&mut router, &frame);
        for net in BOTH {
            tunnelled(&mut router, net, 1450);
        }
    }
    let mut broken = icmp(&ip, (3, 4), [0, 0, 5, 0x78], &outer[..548]);
    broken[2] ^= 1;
    let frame = framed(&router, &ip, &broken);
    in_vain(&mut router, "a wrong checksum", &frame);
    let other = Ip::new("172.16.0.254", "172.16.0.77");
    let frame = framed(&router, &other, &icmp(&other, (3, 4), [0, 0, 5, 0x78], &outer[..548]));
    unseen(&mut router, &frame);
    for net in BOTH {
        tunnelled(&mut router, net, 1450);
    }
}

#[test]
fn errors_about_tunnel_packets_are_limited_too() {
    let mut router = Routed::with("[router]\nicmp_rate = 1\n", "", |_| ());
    let (_, outer) = tunnelled(&mut router, V4, 1450);
    let frame = too_big(&router, 1400, &outer);
    let Routed { lab, far, .. } = &mut router;
    let deltas = lab.deltas(100, || (0..100).for_each(|_| far.send(&frame)));
    let told = deltas.of("originated");
    assert!((1..50).contains(&told), "{told} of 100");
    deltas.assert_only(&[("consumed", 100), ("originated", told), ("tx", told)]);
    carries_quietly(&mut router, V4, 1350);
}

/// As [`carries`] where no error is left to be sent.
fn carries_quietly(router: &mut Routed, net: Net, mtu: u16) {
    let ip = Ip { fragment: 0x4000, ..Ip::new(net.web, net.far) };
    let packet =
        ip.with(UDP, &udp(&ip, (1, 2), Checksum::Valid, &vec![0; usize::from(mtu) + 1 - net.pick(28, 48)]));
    wait_for("the path's MTU to be learned", || {
        (router.send(Side::Web, &packet).of("mtu_exceeded") == 1).then_some(())
    });
}

#[test]
fn a_path_that_has_grown_narrow_is_so_for_both_families() {
    let mut router = Routed::with("", "", narrow(1450));
    let (_, outer) = tunnelled(&mut router, V6, 1400);
    let frame = too_big(&router, 1420, &outer[..528]);
    router.send_frame(Side::Far, &frame);
    // IPv6 goes through the same tunnel here.
    carries(&mut router, V6, 1370);
    carries(&mut router, V4, 1370);
}
