//! What is longer than the way out: Fragmentation Needed, Packet Too Big, and the frames that stand for several.

use crate::lab::Lab;
use crate::lab::frames::{Checksum, Ip, UDP, udp};
use crate::lab::routed::{BOTH, Net, Routed, Side, V4, V6};

/// "Don't fragment".
const DF: u16 = 0x4000;

/// The route to b carries so many bytes.
pub(crate) fn narrow(mtu: u16) -> impl FnOnce(&Lab) {
    move |lab| drop(lab.node.ip(&format!("route add 172.16.0.2/32 dev up0 mtu {mtu}")))
}

/// Web can send longer packets than the pods' ports carry.
pub(super) fn wide() -> Routed {
    let router = Routed::new();
    router.pods[0].ip("link set eth0 mtu 1500");
    router
}

/// A UDP packet of exactly so many bytes that must not be cut.
fn packet(ip: &Ip, length: usize) -> Vec<u8> {
    let headers = if ip.src.is_ipv4() { 28 } else { 48 };
    let ip = Ip { fragment: DF, ..ip.clone() };
    ip.with(UDP, &udp(&ip, (1000, 2000), Checksum::Valid, &vec![0x77; length - headers]))
}

/// Up to `mtu` bytes pass, and one more does not.
fn edge(router: &mut Routed, net: Net, (from, to): (Side, Side), mtu: u16) {
    let ip = Ip::new(from.address(net), to.address(net));
    let further = Ip { ttl: if from == Side::Host { 64 } else { 63 }, ..ip.clone() };
    let fits = usize::from(mtu);
    router.forwards(from, to, &packet(&ip, fits), &packet(&further, fits));
    let gateway = if from == Side::Host { net.pick("169.254.1.1", V6.gateway) } else { net.gateway };
    for length in [fits + 1, fits + 7, fits + 8] {
        router.tells_from(gateway, from, &packet(&ip, length), "mtu_exceeded", net.too_big(mtu));
    }
}

#[test]
fn a_pod_is_told_what_the_tunnel_carries() {
    let mut router = Routed::with("", "", narrow(1450));
    for net in BOTH {
        edge(&mut router, net, (Side::Web, Side::Far), 1400);
    }
}

#[test]
fn the_host_is_told_what_the_tunnel_carries() {
    let mut router = Routed::with("", "", narrow(1450));
    for net in BOTH {
        edge(&mut router, net, (Side::Host, Side::Far), 1400);
    }
}

#[test]
fn a_pod_is_told_what_another_pods_port_carries() {
    let mut router = wide();
    for net in BOTH {
        edge(&mut router, net, (Side::Web, Side::Db), 1450);
        let ip = Ip::new(net.web, net.db);
        router.tells(Side::Web, &packet(&ip, 1500), "mtu_exceeded", net.too_big(1450));
    }
}

#[test]
fn a_tunnel_that_carries_little() {
    let mut router = Routed::with("", "", narrow(626));
    edge(&mut router, V4, (Side::Web, Side::Far), 576);
}

/// IPv6 senders make no packets of less than 1280 bytes: the path's routers have to cut the tunnel packets.
#[test]
fn packet_too_big_never_says_less_than_1280_and_so_much_is_sent() {
    // Of IPv4's tunnel 1250 bytes are left.
    let mut router = Routed::with("", "", narrow(1300));
    edge(&mut router, V6, (Side::Web, Side::Far), 1280);
    edge(&mut router, V4, (Side::Web, Side::Far), 1250);
}

#[test]
fn a_packet_to_the_host_is_the_kernels_to_judge() {
    let mut router = wide();
    for net in BOTH {
        let packet = packet(&Ip::new(net.web, net.outside), 1500);
        router.forwards(Side::Web, Side::Host, &packet, &packet);
    }
}

#[test]
fn the_ttl_comes_first() {
    let mut router = Routed::with("", "", narrow(1450));
    for net in BOTH {
        let ip = Ip { ttl: 1, ..Ip::new(net.web, net.far) };
        router.tells(Side::Web, &packet(&ip, 1450), "ttl_exceeded", net.time_exceeded());
    }
}

#[test]
fn nobody_is_told_about_an_error_that_is_too_big() {
    let mut router = Routed::with("", "", narrow(1450));
    for net in BOTH {
        let ip = Ip { fragment: DF, ..Ip::new(net.web, net.far) };
        let about = Ip::new(net.far, net.web).with(UDP, &[0; 1362]);
        let message = crate::lab::frames::icmp(&ip, net.pick((3, 1), (1, 3)), [0; 4], &about);
        router.drops(Side::Web, &ip.with(net.icmp(), &message), "mtu_exceeded");
    }
}
