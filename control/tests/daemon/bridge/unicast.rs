//! Frames from pod to pod, by MAC address: they arrive as they were sent, or not at all.

use crate::lab::Lab;
use crate::lab::frames::{Checksum, Ip, UDP, ethernet, mac, udp};
use crate::lab::segment::{
    GATEWAY_MAC, Pod, Segment, Station, UNKNOWN, heard, host_heard, pattern, plain, stranger,
};

const V4: (&str, &str) = ("10.244.0.2", "10.244.0.3");
const V6: (&str, &str) = ("fd00:10:244::2", "fd00:10:244::3");

fn two() -> (Segment, [Station; 2]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right")])
}

#[test]
fn a_frame_of_an_unknown_protocol_is_not_touched() {
    let (segment, [mut left, mut right]) = two();
    let frame = ethernet(right.mac, left.mac, UNKNOWN, &pattern(700));
    segment.carries(&mut left, &["right"], &frame);
    right.receive_bytes("frame", &frame);
    // A length instead of a protocol (IEEE 802.3), here of a frame of the spanning tree's kind.
    let frame = ethernet(right.mac, left.mac, 39, &pattern(46));
    segment.carries(&mut left, &["right"], &frame);
    heard(&mut right, &mut left, &[&frame]);
    heard(&mut left, &mut right, &[]);
}

#[test]
fn what_follows_the_ip_packet_stays_behind_it() {
    let (segment, [mut left, mut right]) = two();
    for (from, to) in [V4, V6] {
        let ip = Ip::new(from, to);
        let packet = ip.frame(right.mac, left.mac, UDP, &udp(&ip, (5, 6), Checksum::Valid, b"x"));
        let frame = [&packet[..], b"a trailer that is no part of the packet"].concat();
        segment.carries(&mut left, &["right"], &frame);
        heard(&mut right, &mut left, &[&frame]);
    }
}

#[test]
fn the_bridge_is_no_hop() {
    let (segment, [mut left, mut right]) = two();
    let mut expected = Vec::new();
    for (from, to) in [V4, V6] {
        let mut ip = Ip::new(from, to);
        (ip.ttl, ip.tos, ip.ident, ip.flow) = (1, 0xb9, 0x1234, 0xabcde);
        if ip.src.is_ipv4() {
            // No operation, end of list: a router would look at them.
            ip.options = vec![1, 1, 1, 0];
        }
        expected.push(ip.frame(right.mac, left.mac, UDP, &udp(&ip, (1, 2), Checksum::Wrong, b"as it is")));
        // A protocol that is not looked into, and a first fragment.
        expected.push(ip.frame(right.mac, left.mac, 253, &pattern(99)));
        ip.fragment = 0x2000;
        let fragment = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &pattern(64)].concat();
        let protocol = if ip.src.is_ipv4() { UDP } else { 44 };
        expected.push(ip.frame(right.mac, left.mac, protocol, &fragment));
    }
    // Another's destination address is no concern of the bridge.
    let ip = Ip::new(V4.0, "198.51.100.1");
    expected.push(ip.frame(right.mac, left.mac, UDP, &udp(&ip, (1, 2), Checksum::Absent, b"")));
    for frame in &expected {
        segment.carries(&mut left, &["right"], frame);
    }
    let expected: Vec<_> = expected.iter().map(Vec::as_slice).collect();
    heard(&mut right, &mut left, &expected);
}

#[test]
fn a_frame_may_be_as_long_as_the_mtu_and_no_longer() {
    let (segment, [mut left, mut right]) = two();
    // Larger than what weft gave it: a pod can do that to its own interface.
    left.namespace.ip("link set eth0 mtu 9000");
    let unknown = |len| ethernet(right.mac, left.mac, UNKNOWN, &pattern(len));
    let packet = |len: usize| {
        let ip = Ip::new(V4.0, V4.1);
        ip.frame(right.mac, left.mac, UDP, &udp(&ip, (1, 2), Checksum::Valid, &pattern(len - 28)))
    };
    let (fits, packet_fits) = (unknown(1450), packet(1450));
    let too_long = [unknown(1451), packet(1451), unknown(9000), packet(9000)];
    segment.carries(&mut left, &["right"], &fits);
    segment.carries(&mut left, &["right"], &packet_fits);
    segment.drops_each(&mut left, "mtu_exceeded", &too_long);
    heard(&mut right, &mut left, &[&fits, &packet_fits]);
}

#[test]
fn jumbo_frames_are_carried_whole() {
    let lab = Lab::quiet();
    for end in [&lab.node, &lab.peer] {
        end.ip("link set up0 mtu 9000");
    }
    let (segment, [mut left, mut right]) = Segment::start(lab, [Pod::Plain("left"), Pod::Plain("right")]);
    left.namespace.ip("link set eth0 mtu 9000");
    let frame = |len| ethernet(right.mac, left.mac, UNKNOWN, &pattern(len));
    let (fits, too_long) = (frame(8950), frame(8951));
    segment.carries(&mut left, &["right"], &fits);
    segment.drops(&mut left, "mtu_exceeded", &too_long);
    heard(&mut right, &mut left, &[&fits]);
}

#[test]
fn a_frame_to_its_own_sender_goes_nowhere() {
    let (segment, [mut left, mut right]) = two();
    let frame = plain(left.mac, left.mac, "to myself");
    segment.drops(&mut left, "same_port", &frame);
    heard(&mut left, &mut right, &[]);
}

#[test]
fn a_frame_to_nobody_goes_nowhere() {
    let (segment, [mut left, mut right]) = two();
    let mut host = segment.host();
    for nobody in [stranger(1), mac("00:00:00:00:00:00"), mac("02:00:5e:00:04:02")] {
        let frame = plain(nobody, left.mac, "to nobody");
        segment.drops(&mut left, "fdb_miss", &frame);
    }
    heard(&mut right, &mut left, &[]);
    host_heard(&mut host, &mut left, &[]);
}

#[test]
fn only_ip_goes_to_the_gateway() {
    let (segment, [mut left, _right]) = two();
    let frame = plain(GATEWAY_MAC, left.mac, "to the gateway");
    segment.drops(&mut left, "not_ip", &frame);
}

#[test]
fn a_frame_that_is_no_frame_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    for group in ["01:00:5e:00:00:01", "33:33:00:00:00:01", "ff:ff:ff:ff:ff:ff"] {
        let frame = plain(right.mac, mac(group), "from a group");
        segment.drops(&mut left, "eth_malformed", &frame);
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn an_ip_packet_that_is_cut_off_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    for ((from, to), reason, checksum) in
        [(V4, "ipv4_malformed", "ipv4_checksum"), (V6, "ipv6_malformed", "ipv6_malformed")]
    {
        let ip = Ip::new(from, to);
        let whole = ip.frame(right.mac, left.mac, UDP, &udp(&ip, (1, 2), Checksum::Valid, &pattern(20)));
        for len in [14, 15, 33, whole.len() - 1] {
            segment.drops(&mut left, reason, &whole[..len]);
        }
        let mut turned = whole.clone();
        // The version, or a bit of the header that only a checksum protects.
        turned[14] ^= 0x70;
        segment.drops(&mut left, reason, &turned);
        if ip.src.is_ipv4() {
            turned = whole.clone();
            turned[14 + 8] ^= 1;
            segment.drops(&mut left, checksum, &turned);
        }
    }
    heard(&mut right, &mut left, &[]);
}
