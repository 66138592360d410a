//! ECN through the tunnel. What is to come of each pair of marks is written here after RFC 3168 section 9.1.1 (into the tunnel,
//! as Linux does it) and RFC 6040 section 4.2 (out of it); the kernel's VTEP is the judge beside it.

use super::Pair;
use super::pair::{BOTH_FAMILIES, BOTH_WAYS};
use crate::lab::frames::{Checksum, Ip, UDP, udp};

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Some DSCP, which is to stay as it is.
const DSCP: u8 = 0x28;

/// A pod's packet with this mark gets that mark on its outer header.
fn into(inner: u8, outer: u8) {
    let mut pair = Pair::new();
    for to in BOTH_WAYS {
        for inside in BOTH_FAMILIES {
            let ip = Ip { tos: DSCP | inner, ..pair.packet(to, inside) };
            let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"marked");
            pair.pod_sends(to, &ip, UDP, &segment);
            let frame = pair.captured(to).finished();
            assert_eq!(frame[15], outer, "{to:?}, {inside:?}");
            let one_hop = Ip { ttl: 63, ..ip };
            assert!(frame.ends_with(&one_hop.with(UDP, &segment)), "{to:?}, {inside:?}: {frame:02x?}");
        }
    }
}

/// A tunnel packet with these marks, outer and inner, is delivered with that mark, or not at all.
fn out_of(outer: u8, inner: u8, delivered: Option<u8>) {
    let mut pair = Pair::new();
    for to in BOTH_WAYS {
        for inside in BOTH_FAMILIES {
            let ip = Ip { tos: DSCP | inner, ..pair.packet(to, inside) };
            let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"marked");
            let mut tunnel = pair.tunnel(to);
            tunnel.ip.tos = outer;
            let frame = tunnel.with(&pair.inner(to, &ip, UDP, &segment));
            let Some(mark) = delivered else {
                pair.assert_not_taken(to, &frame);
                continue;
            };
            pair.underlay_sends(to, &frame);
            let expected = pair.delivered(to, &Ip { tos: DSCP | mark, ..ip }, UDP, &segment);
            pair.pod(to).receive_bytes("packet with the right mark", &expected);
        }
    }
    let illegal = if delivered.is_none() { BOTH_FAMILIES.len() as u64 } else { 0 };
    assert_eq!(pair.lab.drops("ecn_illegal"), illegal);
    assert_eq!(pair.lab.stats().total.drops, illegal);
}

/// One test for each row: its name, the function and what it is given.
macro_rules! rows {
    ($($name:ident: $check:ident($($given:expr),+);)+) => {
        $(#[test] fn $name() { $check($($given),+); })+
    };
}

rows! {
    not_ect_goes_in_as_not_ect: into(NOT_ECT, NOT_ECT);
    ect_1_goes_in_as_ect_1: into(ECT_1, ECT_1);
    ect_0_goes_in_as_ect_0: into(ECT_0, ECT_0);
    ce_goes_in_as_ect_0: into(CE, ECT_0);

    not_ect_in_not_ect_comes_out_as_it_is: out_of(NOT_ECT, NOT_ECT, Some(NOT_ECT));
    ect_1_in_not_ect_comes_out_as_it_is: out_of(NOT_ECT, ECT_1, Some(ECT_1));
    ect_0_in_not_ect_comes_out_as_it_is: out_of(NOT_ECT, ECT_0, Some(ECT_0));
    ce_in_not_ect_comes_out_as_it_is: out_of(NOT_ECT, CE, Some(CE));

    not_ect_in_ect_1_comes_out_as_it_is: out_of(ECT_1, NOT_ECT, Some(NOT_ECT));
    ect_1_in_ect_1_comes_out_as_it_is: out_of(ECT_1, ECT_1, Some(ECT_1));
    ect_0_in_ect_1_comes_out_as_ect_1: out_of(ECT_1, ECT_0, Some(ECT_1));
    ce_in_ect_1_comes_out_as_it_is: out_of(ECT_1, CE, Some(CE));

    not_ect_in_ect_0_comes_out_as_it_is: out_of(ECT_0, NOT_ECT, Some(NOT_ECT));
    ect_1_in_ect_0_comes_out_as_it_is: out_of(ECT_0, ECT_1, Some(ECT_1));
    ect_0_in_ect_0_comes_out_as_it_is: out_of(ECT_0, ECT_0, Some(ECT_0));
    ce_in_ect_0_comes_out_as_it_is: out_of(ECT_0, CE, Some(CE));

    not_ect_in_ce_does_not_come_out: out_of(CE, NOT_ECT, None);
    ect_1_in_ce_comes_out_as_ce: out_of(CE, ECT_1, Some(CE));
    ect_0_in_ce_comes_out_as_ce: out_of(CE, ECT_0, Some(CE));
    ce_in_ce_comes_out_as_it_is: out_of(CE, CE, Some(CE));
}
