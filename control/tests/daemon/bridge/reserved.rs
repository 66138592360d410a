//! Addresses that bridges keep to themselves (IEEE 802.1Q, table 8-1).

use crate::lab::frames::{Mac, mac, tagged};
use crate::lab::segment::{Pod, Segment, assert_copies, heard, host_heard, plain};

fn reserved(last: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

#[test]
fn each_of_the_reserved_addresses_is_dropped() {
    let (segment, [mut left, mut vm]) = Segment::of([Pod::Plain("left"), Pod::Trusted("vm")]);
    let mut host = segment.host();
    for last in 0..16 {
        let frame = plain(reserved(last), left.mac, "to the bridge itself");
        segment.drops(&mut left, "reserved_address", &frame);
        segment.drops(&mut left, "reserved_address", &tagged(&frame, 0x8100, 3));
        let frame = plain(reserved(last), vm.mac, "trusted or not");
        segment.drops(&mut vm, "reserved_address", &frame);
    }
    heard(&mut vm, &mut left, &[]);
    host_heard(&mut host, &mut left, &[]);
}

#[test]
fn their_neighbours_are_groups_like_others() {
    let (segment, [mut left, mut vm]) = Segment::of([Pod::Plain("left"), Pod::Trusted("vm")]);
    let groups = [reserved(16), reserved(0xff), mac("01:80:c2:00:01:00"), mac("01:00:0c:cc:cc:cc")];
    let frames = groups.map(|group| plain(group, left.mac, "to a group"));
    for frame in &frames {
        let deltas = segment.lab.deltas(1, || left.send(frame));
        assert_copies(&deltas, "left", &["vm", "weft0"], 1);
    }
    let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    heard(&mut vm, &mut left, &expected);
}
