//! Samples of flows: what a packet was and what became of it.

mod world;

use weft_switch::drop_reason::DropReason;
use weft_switch::event::{Event, FlowSample, Verdict};
use weft_switch::packet::HeapBuf;
use weft_switch::port::TxCaps;
use weft_switch::types::PortId;
use world::{FIRST_POD, GATEWAY, Node, POD_MAC, UPLINK, Underlay, World, ipv4_frame};

fn samples(node: &Node) -> Vec<FlowSample> {
    let handles = node.switch.handles();
    let events = handles.flat_map(|handle| std::iter::from_fn(|| handle.events().take()));
    events.filter_map(|event| if let Event::Flow(flow) = event { Some(flow) } else { None }).collect()
}

fn send(world: &mut World, to: [u8; 4], count: usize) {
    for _ in 0..count {
        let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], to, 64, b"payload");
        world.a.pod.inject(HeapBuf::from_bytes(&frame));
    }
    world.carry();
}

#[test]
fn a_sample_says_what_the_packet_was_and_what_became_of_it() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    for node in [&world.a, &world.b] {
        node.switch.handles().for_each(|handle| handle.sample_flows(1));
    }
    send(&mut world, [10, 244, 1, 7], 1);
    send(&mut world, [10, 244, 9, 9], 1);
    let pod = PortId::new(FIRST_POD).unwrap();
    let sent = FlowSample {
        port: pod,
        src: [10, 244, 0, 5].into(),
        dst: [10, 244, 1, 7].into(),
        protocol: 253,
        ports: (0, 0),
        bytes: 27,
        verdict: Verdict::Tunnel(0),
    };
    let lost = FlowSample {
        dst: [10, 244, 9, 9].into(),
        verdict: Verdict::Dropped(DropReason::RouteUnreachable.index() as u8),
        ..sent
    };
    assert_eq!(samples(&world.a), [sent, lost]);
    // On b it comes out of the tunnel.
    let uplink = PortId::new(UPLINK).unwrap();
    assert_eq!(samples(&world.b), [FlowSample { port: uplink, verdict: Verdict::Port(pod), ..sent }]);
}

#[test]
fn one_in_so_many_is_sampled_and_none_at_zero() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let sample = |world: &World, one_in| world.a.switch.handles().for_each(|h| h.sample_flows(one_in));
    send(&mut world, [10, 244, 1, 7], 100);
    assert_eq!(samples(&world.a), []);
    sample(&world, 10);
    send(&mut world, [10, 244, 1, 7], 1000);
    assert_eq!(samples(&world.a).len(), 100);
    sample(&world, 0);
    send(&mut world, [10, 244, 1, 7], 100);
    assert_eq!(samples(&world.a), []);
}

#[test]
fn samples_that_nobody_takes_are_lost_with_a_count() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    world.a.switch.handles().for_each(|handle| handle.sample_flows(1));
    send(&mut world, [10, 244, 1, 7], 5000);
    let lost: u64 = world.a.switch.handles().map(|handle| handle.counters().events_lost.get()).sum();
    assert_eq!(samples(&world.a).len() as u64 + lost, 5000);
    assert!(lost > 0);
    world.assert_balanced();
}
