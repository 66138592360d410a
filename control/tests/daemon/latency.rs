//! How long the first packet after a pause takes through a worker that sleeps, and what weftd costs while nothing comes.
//! Measurements for a quiet machine, not tests of the ordinary run:
//! `cargo test -p weft-control --test daemon --release -- --ignored --nocapture --test-threads 1 latency`.

use std::time::{Duration, Instant};

use crate::lab::frames::{Checksum, Ip, UDP, udp};
use crate::lab::segment::{Pod, Segment, Station};
use crate::lab::{Lab, Namespace, PATIENCE, tap_pod, wait_for};

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

#[test]
#[ignore = "measures, for half a minute"]
fn latency_costs_nothing_while_nothing_comes() {
    const OVER: Duration = Duration::from_secs(30);
    let lab = Lab::quiet();
    let pods: Vec<_> = (2..12).map(|host| Namespace::quiet(&format!("p{host}"))).collect();
    let text: Vec<_> = (2..).zip(&pods).map(|(host, pod)| tap_pod(&format!("p{host}"), host, pod)).collect();
    lab.write_cluster(&text.concat());
    let weftd = lab.start();
    lab.peer_resolved();
    std::thread::sleep(Duration::from_secs(3));
    let before = weftd.run_times();
    std::thread::sleep(OVER);
    let after = weftd.run_times();
    let total = |times: &[(String, Duration)]| times.iter().map(|(_, time)| *time).sum::<Duration>();
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        println!("{name}: {:?}", *after - *before);
    }
    let all = total(&after).saturating_sub(total(&before));
    println!(
        "weftd with {} pods: {:.3} % of a core",
        pods.len(),
        all.as_secs_f64() / OVER.as_secs_f64() * 100.0
    );
}
