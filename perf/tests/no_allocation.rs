//! The packet path takes no memory: not for a packet, not for a burst, not later on.

use weft_perf::lane::Lane;
use weft_perf::scene::{FrameSize, Way};

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

#[test]
fn the_counting_counts() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
}
