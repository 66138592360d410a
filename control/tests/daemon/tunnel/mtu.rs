//! Underlays of several sizes, with whole kernels at both ends: what just fits goes through in one piece, and streams use it.

use super::{kernel_node, stream};
use crate::lab::{Lab, Namespace, Wire, tap_pod};

struct Sized {
    lab: Lab,
    web: Namespace,
    far: Namespace,
    _weftd: crate::lab::Weftd,
    /// Inside pods.
    mtu: u32,
}

fn sized(underlay: u32) -> Sized {
    let (lab, mtu) = (Lab::quiet(), underlay - 50);
    for node in [&lab.node, &lab.peer] {
        node.ip(&format!("link set up0 mtu {underlay}"));
    }
    let (web, far) = (Namespace::quiet("web"), kernel_node(&lab, mtu));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let weftd = lab.start();
    lab.peer_resolved();
    let link = web.json("link show dev eth0").remove(0);
    assert_eq!(link["mtu"].as_u64(), Some(u64::from(mtu)), "the pod was told its MTU");
    Sized { lab, web, far, _weftd: weftd, mtu }
}

/// Echo requests of just the size that fits, both ways and in both families, and one byte more.
fn just_fits(underlay: u32) {
    let sized = sized(underlay);
    let Sized { lab, web, far, mtu, .. } = &sized;
    let mut wire = Wire::open(&lab.peer, "up0");
    for (from, to) in
        [(web, "10.244.1.2"), (far, "10.244.0.2"), (web, "fd00:10:244:1::2"), (far, "fd00:10:244::2")]
    {
        let headers = if to.contains(':') { 48 } else { 28 };
        let asks = |size, patience| {
            let ping = format!("ping -n -q -c 1 -W {patience} -M do -s {size} {to}");
            from.exec(&ping).status.success()
        };
        wire.drain();
        assert!(asks(mtu - headers, 20.0), "{} does not reach {to} with {mtu} bytes", from.name());
        // Question or answer, it fills the underlay to the last byte.
        let length = 14 + underlay as usize;
        wire.receive("packet of the underlay's MTU", |frame| (frame.bytes.len() == length).then_some(()));
        // Its own kernel refuses it, so there is nothing to wait for.
        assert!(!asks(mtu - headers + 1, 0.01), "{} sends {to} more than {mtu} bytes", from.name());
    }
    lab.counters_balance();
    for reason in ["mtu_exceeded", "rx_too_long", "outer_fragment"] {
        assert_eq!(lab.drops(reason), 0, "{reason}");
    }
}

/// Streams both ways and in both families; the kernel's come as frames that stand for several.
fn streams(underlay: u32) {
    let sized = sized(underlay);
    let Sized { lab, web, far, .. } = &sized;
    let mut wire = Wire::open(&lab.node, "up0");
    stream(far, web, "10.244.0.2");
    let gso = wire.receive("frame that stands for several", |frame| frame.gso);
    assert!(u32::from(gso) <= underlay - 50 - 40, "segments of {gso} bytes");
    stream(web, far, "10.244.1.2");
    stream(far, web, "fd00:10:244::2");
    stream(web, far, "fd00:10:244:1::2");
    lab.counters_balance();
    let bad = ["gso_malformed", "mtu_exceeded", "rx_bad_offload", "outer_udp_checksum", "outer_fragment"];
    bad.iter().for_each(|reason| assert_eq!(lab.drops(reason), 0, "{reason}"));
    assert_eq!(lab.peer.snmp("Udp", "InErrors"), 0);
}

macro_rules! sizes {
    ($($fits:ident, $streams:ident: $underlay:literal;)+) => {
        $(
            #[test] fn $fits() { just_fits($underlay); }
            #[test] fn $streams() { streams($underlay); }
        )+
    };
}

sizes! {
    an_underlay_of_1450_is_filled, streams_over_1450: 1450;
    an_underlay_of_1500_is_filled, streams_over_1500: 1500;
    an_underlay_of_9000_is_filled, streams_over_9000: 9000;
}
