//! The packet path takes no memory: not for a packet, not for a burst, not later on.

use std::sync::Arc;

use weft_perf::fixed::{New, Source};
use weft_perf::lane::Lane;
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};

#[test]
fn nothing_is_allocated_on_any_way() {
    for way in Way::ALL {
        for flows in [1, 1000, 10_000] {
            let mut lane = Lane::new(way, flows, FrameSize::Bytes(256)).unwrap();
            // From the first burst on: nothing is put off to it either.
            let seen = allocation_counter::measure(|| {
                for _ in 0..5000 {
                    assert_eq!(lane.burst(), 64);
                }
            });
            assert_eq!(seen.count_total, 0, "{way:?}, {flows} flows");
            assert_eq!(lane.counts(), (5000 * 64, 5000 * 64, 0), "{way:?}: every frame went its way");
        }
    }
}

/// Nor does who floods it.
#[test]
fn nothing_is_allocated_under_a_flood() {
    let trusted = Sizes { trusted: true, ..Sizes::default() };
    for (what, way, sizes) in [
        (New::Ports(34), Way::Encap, Sizes::default()),
        (New::Destination, Way::Route, Sizes::default()),
        (New::Station, Way::Bridge, trusted),
    ] {
        let scene = Scene::new(sizes).unwrap();
        let frames = Arc::new(scene.frames(way, 1000, FrameSize::MIN).collect());
        let mut lane = Lane::of(&scene, way, Source::new(frames).with_new(what)).unwrap();
        let seen = allocation_counter::measure(|| {
            for _ in 0..5000 {
                assert_eq!(lane.burst(), 64);
            }
        });
        assert_eq!(seen.count_total, 0, "{what:?}");
        let (came, sent, dropped) = lane.counts();
        let to_nobody = matches!(what, New::Destination);
        assert_eq!(came, 5000 * 64);
        // Among all ports there are a few that a pod may not send from.
        assert!(if to_nobody { dropped == came } else { dropped < 100 }, "{what:?}: {dropped} dropped");
        // A few ICMP errors beside them.
        assert!(sent == came - dropped || to_nobody && (1..100).contains(&sent), "{what:?}: {sent} sent");
    }
}

#[test]
fn the_counting_counts() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
}
