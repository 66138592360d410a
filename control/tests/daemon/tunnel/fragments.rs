//! Outer packets in pieces, as a kernel sends them where the underlay carries less than it was told. weft takes none, and
//! counts one for each: the first piece, since only that says whose it is.

use super::pair::BOTH_FAMILIES;
use super::{Inside, Pair, Setup, To};
use crate::lab::frames::{Checksum, Ip, Tunnel, UDP, udp};
use crate::lab::wait_for;

/// A tunnel packet to weft in two pieces, cut at this many bytes of the UDP packet.
fn pieces(tunnel: &Tunnel, inner: &[u8], at: usize) -> [Vec<u8>; 2] {
    let segment = udp(&tunnel.ip, tunnel.ports, Checksum::Valid, &[&tunnel.vxlan[..], inner].concat());
    let piece = |bytes: &[u8], offset: usize, more: bool| {
        if tunnel.ip.src.is_ipv4() {
            let fragment = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            let ip = Ip { fragment, ident: 77, ..tunnel.ip.clone() };
            return ip.frame(tunnel.dst, tunnel.src, UDP, bytes);
        }
        let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
        let bytes = [&[UDP, 0, high, low, 0, 0, 0, 77][..], bytes].concat();
        tunnel.ip.frame(tunnel.dst, tunnel.src, 44, &bytes)
    };
    [piece(&segment[..at], 0, true), piece(&segment[at..], at, false)]
}

/// The pieces of a sound packet, then a whole one: only the first piece and the whole one are seen, and only the whole one is
/// taken.
fn one_is_counted(pair: &mut Pair, inside: Inside, change: impl Fn(&mut Tunnel), counted: &[(&str, u64)]) {
    let ip = pair.packet(To::Weft, inside);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"in pieces");
    let inner = pair.inner(To::Weft, &ip, UDP, &segment);
    let whole = pair.tunnel(To::Weft);
    let mut tunnel = whole.clone();
    change(&mut tunnel);
    let frames = pieces(&tunnel, &inner, 32);
    let dropped: u64 = counted.iter().map(|(_, count)| count).sum();
    let Pair { lab, b, .. } = pair;
    let deltas = lab.deltas(1 + dropped, || {
        frames.iter().rev().for_each(|frame| b.send(frame));
        frames.iter().for_each(|frame| b.send(frame));
        b.send(&whole.with(&inner));
    });
    deltas.assert_only(&[counted, &[("tx", 1)]].concat());
    let delivered = pair.delivered(To::Weft, &ip, UDP, &segment);
    pair.web.receive_bytes("whole packet", &delivered);
    assert_eq!(pair.web.next(), None, "one of the three is whole");
}

#[test]
fn a_packet_in_pieces_is_counted_once() {
    let mut pair = Pair::new();
    for inside in BOTH_FAMILIES {
        one_is_counted(&mut pair, inside, |_| (), &[("outer_fragment", 2)]);
    }
}

#[test]
fn over_ipv6_too() {
    let mut pair = Pair::with(Setup { over_v6: true, ..Setup::default() });
    one_is_counted(&mut pair, Inside::V6, |_| (), &[("outer_fragment", 2)]);
}

#[test]
fn pieces_of_something_else_are_not_counted() {
    let mut pair = Pair::new();
    // The host's own name resolution, for one.
    one_is_counted(&mut pair, Inside::V4, |tunnel| tunnel.ports = (53, 40_000), &[]);
    one_is_counted(&mut pair, Inside::V4, |tunnel| tunnel.ports = (8472, 8473), &[]);
}

#[test]
fn pieces_of_something_else_over_ipv6_are_not_counted() {
    let mut pair = Pair::with(Setup { over_v6: true, ..Setup::default() });
    one_is_counted(&mut pair, Inside::V6, |tunnel| tunnel.ports = (8472, 53), &[]);
}

#[test]
fn pieces_for_an_address_that_is_not_the_nodes_are_no_tunnels() {
    let mut pair = Pair::new();
    let elsewhere = "172.16.0.99".parse().expect("an address");
    one_is_counted(&mut pair, Inside::V4, |tunnel| tunnel.ip.dst = elsewhere, &[("not_tunnel", 2)]);
}

#[test]
fn what_the_kernel_cuts_is_counted() {
    let mut pair = Pair::new();
    // The underlay has shrunk behind b's back: its VXLAN device still promises 1,430 bytes.
    pair.lab.peer.ip("link set up0 mtu 1400");
    let ip = pair.packet(To::Weft, Inside::V4);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, &[0x55; 1380]);
    pair.pod_sends(To::Weft, &ip, UDP, &segment);
    wait_for("the first piece", || (pair.lab.drops("outer_fragment") == 1).then_some(()));
    let small = udp(&ip, (1000, 2000), Checksum::Valid, b"small");
    pair.pod_sends(To::Weft, &ip, UDP, &small);
    let delivered = pair.delivered(To::Weft, &Ip { ttl: 63, ..ip }, UDP, &small);
    let first = pair.web.receive("packet", |frame| Some(frame.bytes.clone()));
    assert_eq!(first, delivered, "nothing before the small one");
    pair.lab.counters_balance();
    assert_eq!(pair.lab.stats().total.drops, 1);
}
