//! The tests' own wire and counters: what they say must be true before anything is built on them.

use crate::lab::frames::{Checksum, Ip, ethernet, mac, udp};
use crate::lab::{Lab, Namespace, Wire, tap_pod};

#[test]
fn frames_arrive_as_they_were_sent_and_are_counted() {
    let lab = Lab::quiet();
    let (left, right) = (Namespace::mute("left"), Namespace::mute("right"));
    lab.write_cluster(&(tap_pod("left", 2, &left) + &tap_pod("right", 3, &right)));
    let _weftd = lab.start();
    let (mut left, mut right) = (Wire::open(&left, "eth0"), Wire::open(&right, "eth0"));

    for (from, to) in [("10.244.0.2", "10.244.0.3"), ("fd00:10:244::2", "fd00:10:244::3")] {
        let ip = Ip::new(from, to);
        let frame =
            ip.frame(right.mac, left.mac, 17, &udp(&ip, (1000, 2000), Checksum::Valid, b"to the bridge"));
        let deltas = lab.deltas(1, || left.send(&frame));
        deltas.assert_only(&[("tx", 1)]).assert_ports(&[("left.rx", 1), ("right.tx", 1)]);
        let arrived = right.receive_bytes("bridged frame", &frame);
        assert_eq!((arrived.partial, arrived.gso), (None, None));
    }

    let ip = Ip::new("10.244.0.2", "10.244.0.3");
    let segment = udp(&ip, (1000, 2000), Checksum::Absent, b"once more");
    let frame = ip.frame(right.mac, left.mac, 17, &segment);
    // Nobody has this address; the frame that follows shows that it did not come late.
    let stray = ethernet(mac("02:00:00:00:00:99"), left.mac, 0x0800, &ip.with(17, &segment));
    let deltas = lab.deltas(1, || left.send(&stray));
    deltas.assert_dropped("left", "fdb_miss", 1);
    left.send(&frame);
    right.none_before(|seen| seen.bytes == frame, |seen| seen.bytes == stray);
}
