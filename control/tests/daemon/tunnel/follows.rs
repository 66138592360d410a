//! What changes while weftd runs is followed: the same process, from one packet to the next.

use super::pair::assert_bytes;
use super::{Inside, Pair, Setup, To};
use crate::lab::frames::{Checksum, ETHERTYPE_ARP, Ip, Mac, Tunnel, UDP, arp, ethernet, mac, udp, vxlan};
use crate::lab::{VTEP_MACS, tap_pod, wait_for};
use crate::uplink_xdp::{Nodes, keeps_its_port};

const NEW_VTEP_MAC: &str = "02:00:5e:00:04:77";

fn packet(pair: &Pair, to: To) -> (Ip, Vec<u8>) {
    let ip = pair.packet(to, Inside::V4);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"followed");
    (ip, segment)
}

/// The cluster file is replaced, with these words for those.
fn rewrite(pair: &Pair, changes: &[(&str, &str)]) {
    let text = Setup::default().nodes() + &tap_pod("web", 2, &pair.pods[0]);
    let text = changes.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old} is not in the file");
        text.replace(old, new)
    });
    pair.lab.replace_cluster(&text);
}

/// web sends until a packet on the wire is as expected. `expected` gets what the sender may choose.
fn leaves_as(pair: &mut Pair, what: &str, expected: impl Fn(&Pair, &[u8]) -> Vec<u8>) {
    let (ip, segment) = packet(pair, To::Kernel);
    wait_for(what, || {
        pair.pod_sends(To::Kernel, &ip, UDP, &segment);
        let found = std::iter::from_fn(|| pair.b.next()).map(|frame| frame.finished());
        let frames: Vec<_> = found.collect();
        frames.iter().any(|frame| frame.len() > 50 && *frame == expected(pair, frame)).then_some(())
    });
    // From now on each is so: the change is not undone, and nothing is left of what was before.
    pair.b.drain();
    pair.pod_sends(To::Kernel, &ip, UDP, &segment);
    let frame = pair.captured(To::Kernel).finished();
    assert_bytes(what, &frame, &expected(pair, &frame));
    pair.weftd.assert_alive();
}

/// The packet that web sends, in these outer headers and with these inner MAC addresses.
fn in_tunnel(pair: &Pair, tunnel: &Tunnel, frame: &[u8], (dst, src): (Mac, Mac)) -> Vec<u8> {
    let (ip, segment) = packet(pair, To::Kernel);
    let inner = Ip { ttl: 63, ..ip }.frame(dst, src, UDP, &segment);
    super::pair::as_chosen(tunnel, frame).with(&inner)
}

fn vteps() -> (Mac, Mac) {
    let [a, b] = VTEP_MACS.map(mac);
    (b, a)
}

/// Sent to weft until the pod gets it.
fn is_taken(pair: &mut Pair, what: &str, frame: &[u8]) {
    let (ip, segment) = packet(pair, To::Weft);
    let expected = pair.delivered(To::Weft, &ip, UDP, &segment);
    wait_for(what, || {
        // Counted before the next one is sent, so that none is on its way when this is over.
        let Pair { lab, b, .. } = &mut *pair;
        lab.deltas(1, || b.send(frame));
        std::iter::from_fn(|| pair.web.next()).any(|frame| frame.bytes == expected).then_some(())
    });
}

/// Sent to weft once: it is dropped for this reason.
fn is_refused(pair: &mut Pair, reason: &str, frame: &[u8]) {
    let Pair { lab, b, .. } = pair;
    lab.deltas(1, || b.send(frame)).assert_dropped("up0", reason, 1);
}

#[test]
fn a_peer_whose_vtep_mac_address_changes() {
    let mut pair = Pair::new();
    let tunnel = pair.tunnel(To::Kernel);
    leaves_as(&mut pair, "the first address", |pair, frame| in_tunnel(pair, &tunnel, frame, vteps()));
    pair.lab.peer.ip(&format!("link set flannel.1 address {NEW_VTEP_MAC}"));
    rewrite(&pair, &[(VTEP_MACS[1], NEW_VTEP_MAC)]);
    let macs = (mac(NEW_VTEP_MAC), vteps().1);
    leaves_as(&mut pair, "the new address", |pair, frame| in_tunnel(pair, &tunnel, frame, macs));
    // The kernel takes it, as its own address.
    pair.far.drain();
    let (ip, segment) = packet(&pair, To::Kernel);
    pair.pod_sends(To::Kernel, &ip, UDP, &segment);
    let arrived = pair.delivered(To::Kernel, &Ip { ttl: 63, ..ip }, UDP, &segment);
    pair.far.receive_bytes("packet at the new address", &arrived);
}

#[test]
fn its_own_vtep_mac_address_changes() {
    let mut pair = Pair::new();
    let (ip, segment) = packet(&pair, To::Weft);
    let sent_to = |dst| ip.frame(dst, mac(VTEP_MACS[1]), UDP, &segment);
    let tunnel = pair.tunnel(To::Weft);
    let (old, new) = (tunnel.with(&sent_to(mac(VTEP_MACS[0]))), tunnel.with(&sent_to(mac(NEW_VTEP_MAC))));
    is_taken(&mut pair, "the old address", &old);
    is_refused(&mut pair, "inner_mac_wrong", &new);
    rewrite(&pair, &[(VTEP_MACS[0], NEW_VTEP_MAC)]);
    is_taken(&mut pair, "the new address", &new);
    is_refused(&mut pair, "inner_mac_wrong", &old);
    let outer = pair.tunnel(To::Kernel);
    let macs = (vteps().0, mac(NEW_VTEP_MAC));
    leaves_as(&mut pair, "the new source", |pair, frame| in_tunnel(pair, &outer, frame, macs));
}

#[test]
fn a_peer_whose_address_changes() {
    let mut pair = Pair::new();
    pair.lab.peer.ip("addr add 172.16.0.22/24 dev up0");
    let moved = "172.16.0.22".parse().expect("an address");
    let inner = {
        let (ip, segment) = packet(&pair, To::Weft);
        pair.inner(To::Weft, &ip, UDP, &segment)
    };
    let mut tunnel = pair.tunnel(To::Weft);
    let old = tunnel.with(&inner);
    tunnel.ip.src = moved;
    let new = tunnel.with(&inner);
    is_taken(&mut pair, "the old address", &old);
    is_refused(&mut pair, "vtep_unknown", &new);

    rewrite(&pair, &[("\"172.16.0.2\"", "\"172.16.0.22\"")]);
    is_taken(&mut pair, "the new address", &new);
    is_refused(&mut pair, "vtep_unknown", &old);
    let mut outer = pair.tunnel(To::Kernel);
    outer.ip.dst = moved;
    leaves_as(&mut pair, "the new address", |pair, frame| in_tunnel(pair, &outer, frame, vteps()));
}

#[test]
fn a_peer_that_leaves_and_comes_back() {
    let mut pair = Pair::new();
    let (ip, segment) = packet(&pair, To::Weft);
    let frame = pair.tunnel(To::Weft).with(&pair.inner(To::Weft, &ip, UDP, &segment));
    is_taken(&mut pair, "the peer", &frame);
    let alone = crate::lab::nodes(&[0]) + &tap_pod("web", 2, &pair.pods[0]);
    pair.lab.replace_cluster(&alone);
    wait_for("the peer to be gone", || pair.lab.status().peers.is_empty().then_some(()));
    is_refused(&mut pair, "vtep_unknown", &frame);
    let (ip, segment) = packet(&pair, To::Kernel);
    pair.pod_sends(To::Kernel, &ip, UDP, &segment);
    wait_for("the drop", || (pair.lab.drops("route_unreachable") == 1).then_some(()));
    rewrite(&pair, &[]);
    is_taken(&mut pair, "the peer", &frame);
    let outer = pair.tunnel(To::Kernel);
    leaves_as(&mut pair, "the peer", |pair, frame| in_tunnel(pair, &outer, frame, vteps()));
}

#[test]
fn a_peer_that_gets_another_card() {
    let mut pair = Pair::new();
    let card = mac("02:00:00:00:00:22");
    pair.lab.peer.ip("link set up0 address 02:00:00:00:00:22");
    let mut outer = pair.tunnel(To::Kernel);
    outer.dst = card;
    let told =
        ethernet([0xff; 6], card, ETHERTYPE_ARP, &arp(1, (card, "172.16.0.2"), ([0; 6], "172.16.0.2")));
    leaves_as(&mut pair, "the new card", |pair, frame| {
        if frame[..6] != card {
            // A kernel that gets another card tells everybody (gratuitous ARP).
            let mut wire = crate::lab::Wire::open(&pair.lab.peer, "up0");
            wire.send(&told);
        }
        in_tunnel(pair, &outer, frame, vteps())
    });
}

#[test]
fn its_own_card_changes() {
    let mut pair = Pair::new();
    pair.lab.node.ip("link set up0 address 02:00:00:00:00:11");
    let mut outer = pair.tunnel(To::Kernel);
    outer.src = mac("02:00:00:00:00:11");
    leaves_as(&mut pair, "the new card", |pair, frame| in_tunnel(pair, &outer, frame, vteps()));
}

#[test]
fn a_peer_that_moves_behind_a_router_and_back() {
    let mut pair = Pair::new();
    let (near, mut behind) = (pair.tunnel(To::Kernel), pair.tunnel(To::Kernel));
    behind.dst = mac("02:00:00:00:00:fe");
    pair.lab.node.ip("neigh add 172.16.0.254 lladdr 02:00:00:00:00:fe dev up0 nud permanent");
    pair.lab.node.ip("route add 172.16.0.2/32 via 172.16.0.254 dev up0");
    // Such frames are for another card, but the wire's end sees them all.
    leaves_as(&mut pair, "the router", |pair, frame| in_tunnel(pair, &behind, frame, vteps()));
    pair.lab.node.ip("route del 172.16.0.2/32 via 172.16.0.254 dev up0");
    leaves_as(&mut pair, "the link", |pair, frame| in_tunnel(pair, &near, frame, vteps()));
}

#[test]
fn a_network_that_gets_another_vni() {
    let mut pair = Pair::new();
    let (ip, segment) = packet(&pair, To::Weft);
    let inner = pair.inner(To::Weft, &ip, UDP, &segment);
    let (old, mut new) = (pair.tunnel(To::Weft), pair.tunnel(To::Weft));
    new.vxlan = vxlan(4096);
    rewrite(&pair, &[("vni = 1\n", "vni = 4096\n")]);
    is_taken(&mut pair, "the new network", &new.with(&inner));
    is_refused(&mut pair, "vni_unknown", &old.with(&inner));
    let outer = Tunnel { vxlan: vxlan(4096), ..pair.tunnel(To::Kernel) };
    leaves_as(&mut pair, "the new network", |pair, frame| in_tunnel(pair, &outer, frame, vteps()));
}

#[test]
fn a_peer_that_gets_another_subnet() {
    let mut pair = Pair::new();
    rewrite(&pair, &[("10.244.1.0/24", "10.244.9.0/24")]);
    let ip = Ip::new("10.244.0.2", "10.244.9.2");
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"followed");
    let inner = Ip { ttl: 63, ..ip.clone() }.with(UDP, &segment);
    wait_for("the new subnet", || {
        pair.pod_sends(To::Kernel, &ip, UDP, &segment);
        std::iter::from_fn(|| pair.b.next()).any(|frame| frame.bytes.ends_with(&inner)).then_some(())
    });
    let dropped = pair.lab.drops("route_unreachable");
    let (ip, segment) = packet(&pair, To::Kernel);
    pair.pod_sends(To::Kernel, &ip, UDP, &segment);
    wait_for("the old subnet's drop", || (pair.lab.drops("route_unreachable") == dropped + 1).then_some(()));
}

#[test]
fn a_port_that_somebody_has_leaves_the_uplink_as_it_is() {
    keeps_its_port(&Nodes::with("af_packet", ""));
}
