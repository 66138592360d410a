//! How long the first packet after a pause takes through a worker that sleeps. A measurement for a quiet machine, not a test of
//! the ordinary run: `cargo test -p weft-control --test daemon --release -- --ignored --nocapture latency`.

use std::time::{Duration, Instant};

use crate::lab::frames::{Checksum, Ip, UDP, udp};
use crate::lab::segment::{Pod, Segment, Station};
use crate::lab::{PATIENCE, wait_for};

/// From the sender's system call until the receiver, who polls, has the frame.
fn passage(left: &mut Station, right: &mut Station, number: u16) -> Duration {
    let ip = Ip::new("10.244.0.2", "10.244.0.3");
    let payload = udp(&ip, (1000, 1000 + number), Checksum::Valid, b"first after a pause");
    let frame = ip.frame(right.mac, left.mac, UDP, &payload);
    let begin = Instant::now();
    left.send(&frame);
    loop {
        if right.next().is_some_and(|there| there.bytes == frame) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < PATIENCE, "slept through");
        std::hint::spin_loop();
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("{what}: p50 {p50:?}, p99 {p99:?}, max {max:?} of {}", times.len());
}

#[test]
#[ignore = "measures, for half a minute"]
fn latency_of_the_first_packet_after_a_pause() {
    let (segment, [mut left, mut right]) = Segment::of([Pod::Plain("left"), Pod::Plain("right")]);
    for (pause, count) in [
        (Duration::ZERO, 2000),
        (Duration::from_millis(1), 2000),
        (Duration::from_millis(20), 500),
        (Duration::from_secs(1), 15),
    ] {
        let times = (0..count).map(|number| {
            std::thread::sleep(pause);
            passage(&mut left, &mut right, number)
        });
        report(&format!("after {pause:?}"), times.collect());
    }
    wait_for("the worker to sleep", || {
        let workers = segment.lab.stats().workers;
        workers.iter().all(|worker| worker.state == weft_api::WorkerState::Sleeping).then_some(())
    });
}
