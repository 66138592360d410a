//! What routers and servers say, and pods do not, unless they are trusted.

use crate::lab::frames::{Checksum, ICMP, ICMPV6, Ip, Mac, UDP, icmp, tagged, udp};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, Pod, Segment, Station, heard, multicast_mac, nd_body, nd_frame,
};

fn plain_and_trusted() -> (Segment, [Station; 3]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("vm")])
}

/// A router advertisement with a prefix.
fn router_advertisement(dst: Mac, src: Mac, ips: (&str, &str)) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    body.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    nd_frame(dst, src, ips, 134, [64, 0, 0x07, 0x08], &body)
}

/// A redirect of either family: better go to the last address.
fn redirect(dst: Mac, src: Mac, (from, to): (&str, &str), (wanted, better): (&str, &str)) -> Vec<u8> {
    if wanted.contains(':') {
        let body = [nd_body(better, None), nd_body(wanted, None)].concat();
        return nd_frame(dst, src, (from, to), 137, [0; 4], &body);
    }
    let ip = Ip::new(from, to);
    let about = Ip::new(to, wanted).with(UDP, &[0; 8]);
    let better = better.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    ip.frame(dst, src, ICMP, &icmp(&ip, (5, 1), better, &about))
}

/// A UDP packet that a DHCP server sends: with the ports of either family.
fn from_server(dst: Mac, src: Mac, from: &str, to: &str) -> Vec<u8> {
    let ip = Ip::new(from, to);
    let ports = if ip.src.is_ipv4() { (67, 68) } else { (547, 546) };
    ip.frame(dst, src, UDP, &udp(&ip, ports, Checksum::Valid, &[2; 240]))
}

/// Dropped where they come from `plain`, carried where they come from `vm`.
fn only_trusted(
    segment: &Segment,
    [plain, right, vm]: &mut [Station; 3],
    reason: &str,
    make: impl Fn(&Station, Mac) -> Vec<Vec<u8>>,
) {
    let frames = make(plain, right.mac);
    segment.drops_each(plain, reason, &frames);
    heard(right, plain, &[]);
    heard(vm, plain, &[]);
    let frames = make(vm, right.mac);
    for frame in &frames {
        let all = ["left", "right", "weft0"];
        segment.carries(vm, if frame[0] & 1 == 1 { &all } else { &["right"] }, frame);
    }
    let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    heard(right, vm, &expected);
}

#[test]
fn router_advertisements() {
    let (segment, mut stations) = plain_and_trusted();
    let all = multicast_mac("ff02::1");
    only_trusted(&segment, &mut stations, "router_advertisement", |from, right| {
        vec![
            router_advertisement(all, from.mac, ("fe80::2", "ff02::1")),
            router_advertisement(all, from.mac, (&from.ips[1], "ff02::1")),
            router_advertisement(right, from.mac, ("fe80::2", "fd00:10:244::3")),
        ]
    });
    let [mut left, mut right, _vm] = stations;
    // To the gateway's MAC address, and behind options.
    let frame = router_advertisement(GATEWAY_MAC, left.mac, ("fe80::2", "fe80::1"));
    segment.drops(&mut left, "router_advertisement", &frame);
    let mut ip = Ip::new("fe80::2", "ff02::1");
    ip.ttl = 255;
    let message = icmp(&ip, (134, 0), [64, 0, 7, 8], &[0; 8]);
    for next in [0, 60] {
        let behind = [&[ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
        let frame = ip.frame(all, left.mac, next, &behind);
        segment.drops(&mut left, "router_advertisement", &frame);
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn redirects() {
    let (segment, mut stations) = plain_and_trusted();
    only_trusted(&segment, &mut stations, "redirect", |from, right| {
        vec![
            redirect(right, from.mac, (&from.ips[0], "10.244.0.3"), ("10.244.1.2", &from.ips[0])),
            redirect(right, from.mac, ("fe80::2", "fd00:10:244::3"), ("fd00:10:244:1::2", "fe80::2")),
            redirect(right, from.mac, (&from.ips[1], "fd00:10:244::3"), ("2001:db8::1", &from.ips[1])),
        ]
    });
    // By the router, to another node and to the host.
    let [mut left, ..] = stations;
    for to in ["10.244.1.2", "10.244.0.3", "10.244.0.1"] {
        let frame = redirect(GATEWAY_MAC, left.mac, ("10.244.0.2", to), ("198.51.100.1", "10.244.0.2"));
        segment.drops(&mut left, "redirect", &frame);
    }
}

#[test]
fn answers_of_dhcp_servers() {
    let (segment, mut stations) = plain_and_trusted();
    only_trusted(&segment, &mut stations, "dhcp_server", |from, right| {
        vec![
            from_server(BROADCAST, from.mac, &from.ips[0], "255.255.255.255"),
            from_server(right, from.mac, &from.ips[0], "10.244.0.3"),
            from_server(right, from.mac, &from.ips[1], "fd00:10:244::3"),
            from_server(right, from.mac, "fe80::2", "fe80::3"),
        ]
    });
    // By the router, as relays do.
    let [mut left, ..] = stations;
    for (from, to) in [("10.244.0.2", "10.244.1.2"), ("fd00:10:244::2", "fd00:10:244:1::2")] {
        let frame = from_server(GATEWAY_MAC, left.mac, from, to);
        segment.drops(&mut left, "dhcp_server", &frame);
    }
}

#[test]
fn fragments_do_not_hide_a_server() {
    let (segment, [mut left, mut right, _vm]) = plain_and_trusted();
    // The first fragment of a larger one.
    let mut ip = Ip::new("10.244.0.2", "255.255.255.255");
    ip.fragment = 0x2000;
    let offer = udp(&ip, (67, 68), Checksum::Valid, &[2; 240]);
    let frame = ip.frame(BROADCAST, left.mac, UDP, &offer);
    segment.drops(&mut left, "dhcp_server", &frame);
    segment.drops(&mut left, "dhcp_server", &tagged(&frame, 0x8100, 5));
    // Too short to tell: no sender has a reason to make one.
    let frame = ip.frame(BROADCAST, left.mac, UDP, &offer[..1]);
    segment.drops(&mut left, "first_fragment_short", &frame);
    let mut to_right = Ip::new("10.244.0.2", "10.244.0.3");
    to_right.fragment = 0x2000;
    let redirect = icmp(&to_right, (5, 1), [10, 244, 0, 2], &[0; 28]);
    let frame = to_right.frame(right.mac, left.mac, ICMP, &redirect);
    segment.drops(&mut left, "redirect", &frame);

    let ip = Ip::new("fd00:10:244::2", "ff02::1");
    let offer = udp(&ip, (547, 546), Checksum::Valid, &[2; 240]);
    for (length, reason) in [(offer.len(), "dhcp_server"), (7, "first_fragment_short")] {
        let body = [&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &offer[..length]].concat();
        let frame = ip.frame(multicast_mac("ff02::1"), left.mac, 44, &body);
        segment.drops(&mut left, reason, &frame);
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn clients_and_others_are_not_servers() {
    let (segment, [mut left, mut right, _vm]) = plain_and_trusted();
    let own = left.mac;
    let make = |ip: &Ip, mac, ports| ip.frame(mac, own, UDP, &udp(ip, ports, Checksum::Valid, &[1; 240]));
    let (v4, v6) = (Ip::new("10.244.0.2", "10.244.0.3"), Ip::new("fd00:10:244::2", "fd00:10:244::3"));
    let frames = [
        make(&v4, right.mac, (68, 67)),
        make(&v6, right.mac, (546, 547)),
        // The other family's number means nothing.
        make(&v4, right.mac, (547, 546)),
        make(&v6, right.mac, (67, 68)),
    ];
    for frame in &frames {
        segment.carries(&mut left, &["right"], frame);
    }
    // A client that has an address looks for servers on the segment.
    let question = make(&Ip::new("fe80::2", "ff02::1:2"), multicast_mac("ff02::1:2"), (546, 547));
    segment.carries(&mut left, &["right", "vm", "weft0"], &question);
    let expected: Vec<_> = frames.iter().chain([&question]).map(Vec::as_slice).collect();
    heard(&mut right, &mut left, &expected);
    // Other ICMP messages than redirects.
    let error = v4.frame(right.mac, left.mac, ICMP, &icmp(&v4, (3, 1), [0; 4], &[0x45; 28]));
    segment.carries(&mut left, &["right"], &error);
}

#[test]
fn questions_for_routers() {
    let ask = |from: &Station| {
        let all = multicast_mac("ff02::2");
        let [a, b, c, d, e, f] = from.mac;
        let option = [1, 1, a, b, c, d, e, f];
        nd_frame(all, from.mac, (&from.ips[1], "ff02::2"), 133, [0; 4], &option)
    };
    let (segment, [mut left, mut right]) = Segment::of([Pod::Plain("left"), Pod::Plain("right")]);
    let question = ask(&left);
    segment.drops(&mut left, "router_solicitation", &question);
    heard(&mut right, &mut left, &[]);
    drop(segment);

    // A router may be behind a trusted port, and nowhere else.
    let (segment, [mut left, mut right, mut vm]) = plain_and_trusted();
    let question = ask(&left);
    segment.carries(&mut left, &["vm"], &question);
    heard(&mut right, &mut left, &[]);
    heard(&mut vm, &mut left, &[&question]);
}
