//! Ports go while packets are on their way, and workers with nothing to do hold nobody up.

mod world;

use weft_switch::drop_reason::DropReason;
use weft_switch::memory::{MemSwitch, Memory};
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Place, PodGuard, Port, Role, Snapshot};
use weft_switch::types::{MacAddr, Mtu, PortId};
use weft_switch::worker::Handle;

use world::{FIRST_POD, Node, POD_MAC, Underlay, ipv4_frame};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const POD: [u8; 4] = [10, 244, 0, 5];
const OTHER: [u8; 4] = [10, 244, 0, 6];

/// Two pods, each with a worker of its own; the second's is stepped after the first's.
fn node() -> (Node, MemPort) {
    let mut node = Node::new(0, Underlay::V4, 2, TxCaps::NONE);
    let other = MemPort::default();
    node.add_pod(1, OTHER, OTHER_MAC, &other);
    node.switch.step();
    (node, other)
}

fn to_pod(number: u8) -> HeapBuf {
    HeapBuf::from_bytes(&ipv4_frame(OTHER_MAC, POD_MAC[0], OTHER, POD, 64, &[number]))
}

#[test]
fn a_worker_without_packets_passes_boundaries() {
    let (mut node, _) = node();
    node.switch.publish(node.tables());
    assert!(!node.switch.passed(), "the workers have seen the tables before");
    assert_eq!(node.switch.step(), 0);
    assert!(node.switch.passed());
}

#[test]
fn what_was_handed_over_is_sent_before_the_port_goes() {
    let (mut node, other) = node();
    for number in 0..200 {
        other.inject(to_pod(number));
        // One packet in a burst: the ring is filled in small steps.
        if number % 50 == 0 {
            node.switch.step_worker(1);
        }
    }
    for _ in 0..8 {
        node.switch.step_worker(1);
    }
    assert!(node.pod.take().is_empty());
    let id = PortId::new(FIRST_POD).unwrap();
    let queues = node.switch.detach(0, id);
    let next = MemPort::default();
    node.switch.attach(0, id, &next);
    node.switch.step();
    assert!(queues.try_recv().unwrap().tx.is_some());
    assert_eq!(node.pod.take().len(), 200);
    assert!(next.take().is_empty(), "the number's next owner gets nothing that was not meant for it");
    node.assert_balanced();
}

#[test]
fn a_port_without_its_queue_drops_what_is_sent_to_it() {
    let (mut node, other) = node();
    let _queues = node.switch.detach(0, PortId::new(FIRST_POD).unwrap());
    for number in 0..100 {
        other.inject(to_pod(number));
    }
    while node.switch.step() > 0 {}
    assert_eq!(node.drops(DropReason::TxPortGone), 100);
    node.assert_balanced();
}

#[test]
fn a_port_out_of_the_tables_is_silent() {
    let (mut node, other) = node();
    node.switch.publish(Snapshot::default());
    for number in 0..100 {
        other.inject(to_pod(number));
    }
    while node.switch.step() > 0 {}
    assert_eq!(node.drops(DropReason::RxPortUnknown), 100);
    node.assert_balanced();
}

/// However few packets these are.
#[test]
fn a_ring_with_many_bytes_drops_what_does_not_fit() {
    let ports = [MemPort::default(), MemPort::default()];
    let mut switch = MemSwitch::new(2);
    let mut tables = Snapshot::default();
    for (pod, port) in ports.iter().enumerate() {
        let (id, mac) = (PortId::new(pod).unwrap(), MacAddr([2, 0, 0, 0, 0, pod as u8]));
        let (role, place) = (Role::Pod(PodGuard::new(mac, &[])), Place::Worker(pod as u16));
        tables.ports.insert(id, Port { role, mtu: Mtu::new(65535).unwrap(), place, tunnel_gso: false });
        tables.add_pod(id, mac, &[]);
        switch.attach(pod, id, port);
    }
    switch.publish(tables);
    let large = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5][..], &[0; 65_500]].concat();
    let (mut sent, mut arrived) = (0, 0);
    // More than once: what was taken out leaves room.
    for _ in 0..3 {
        for _ in 0..200 {
            ports[0].inject(HeapBuf::from_bytes(&large));
        }
        while switch.step_worker(0) > 0 {}
        while switch.step_worker(1) > 0 {}
        let through = ports[1].take().len();
        assert_eq!(through, (4 << 20) / large.len());
        (sent, arrived) = (sent + 200, arrived + through as u64);
    }
    let drops = |handle: &Handle<Memory>| handle.counters().drops(DropReason::HandoverFull).get();
    assert_eq!(switch.handles().map(drops).sum::<u64>(), sent - arrived);
}

#[test]
fn a_full_ring_drops_what_does_not_fit() {
    let (mut node, other) = node();
    for _ in 0..1100 {
        other.inject(to_pod(0));
    }
    while node.switch.step_worker(1) > 0 {}
    while node.switch.step() > 0 {}
    assert_eq!(node.pod.take().len(), 1024);
    assert_eq!(node.drops(DropReason::HandoverFull), 76);
    node.assert_balanced();
}
