//! The bridge: what is learned behind trusted ports, for how long and how much of it; what is flooded, how far and how often.

mod trusted;
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use trusted::{
    At, Came, OTHER, OTHER_MAC, POD, ROUTER, ROUTER_MAC, Room, STATION, VM, VM_MAC, forget_trusted,
};
use weft_switch::drop_reason::DropReason;
use weft_switch::limits::Limit;
use weft_switch::offload::{Checksum, Gso, GsoKind, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::TxCaps;
use weft_switch::tables::Role;
use weft_switch::types::{MacAddr, Mtu};
use world::{GATEWAY, HOST_MAC, POD_MAC, ipv4_frame};

const BROADCAST: [u8; 6] = [0xff; 6];

fn station(last: u16) -> [u8; 6] {
    let [a, b] = last.to_be_bytes();
    [2, 0, 0, 0x77, a, b]
}

/// A frame between two stations, of no known protocol.
fn frame(src: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
    [&dst[..], &src, &[0x88, 0xb5], b"some words between two stations of a segment"].concat()
}

fn learned(room: &Room) -> Vec<([u8; 6], At)> {
    let at = |port| At::ALL.into_iter().find(|at| at.id() == port).unwrap();
    let now = (room.now / 1000) as u32;
    let mut all: Vec<_> =
        room.node.switch.learned().unwrap().iter(now).map(|s| (s.mac.0, at(s.port))).collect();
    all.sort();
    all
}

#[test]
fn an_unknown_station_is_looked_for_behind_trusted_ports_only_until_it_speaks() {
    let mut room = Room::new();
    let to = frame(POD_MAC[0], STATION);
    assert_eq!(room.send(At::Pod, &to), Came::carried(&to, &[At::Vm, At::Router]));
    let from = frame(STATION, POD_MAC[0]);
    assert_eq!(room.send(At::Router, &from), Came::carried(&from, &[At::Pod]));
    assert_eq!(learned(&room), [(STATION, At::Router)]);
    assert_eq!(room.send(At::Pod, &to), Came::carried(&to, &[At::Router]));
    assert_eq!(room.counter(|c| &c.learned), 1);
    // What is behind the port that asks is not sent back.
    let inside = frame(station(1), STATION);
    assert_eq!(room.send(At::Router, &inside), Came::dropped(DropReason::SamePort));
}

#[test]
fn nothing_is_learned_from_pods_the_host_or_the_tunnel() {
    let mut room = Room::new();
    let to_pod = frame(POD_MAC[0], OTHER_MAC);
    assert_eq!(room.send(At::Pod, &to_pod), Came::carried(&to_pod, &[At::Other]));
    let spoofed = frame(STATION, OTHER_MAC);
    assert_eq!(room.send(At::Pod, &spoofed), Came::dropped(DropReason::SpoofedMac));
    assert_eq!(room.send(At::Host, &spoofed), Came::carried(&spoofed, &[At::Other]));
    let own = frame(VM_MAC, ROUTER_MAC);
    assert_eq!(room.send(At::Vm, &own), Came::carried(&own, &[At::Router]));
    assert_eq!(learned(&room), [], "a configured address is not learned either");
}

#[test]
fn without_trusted_ports_an_unknown_station_is_nowhere() {
    let mut room = Room::untrusting();
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], STATION)), Came::dropped(DropReason::FdbMiss));
    assert_eq!(room.send(At::Vm, &frame(STATION, POD_MAC[0])), Came::dropped(DropReason::SpoofedMac));
    // The asker's own port does not count.
    let mut room = Room::new();
    room.publish(|tables| tables.trusted.retain(|port| *port == At::Vm.id()));
    assert_eq!(room.send(At::Vm, &frame(VM_MAC, STATION)), Came::dropped(DropReason::FdbMiss));
}

#[test]
fn what_was_learned_ages_and_a_frame_renews_it() {
    let mut room = Room::new();
    let (to, from) = (frame(POD_MAC[0], STATION), frame(STATION, POD_MAC[0]));
    room.send(At::Vm, &from);
    room.pass(299);
    assert_eq!(room.send(At::Pod, &to).to(), [At::Vm]);
    room.send(At::Vm, &from);
    room.pass(299);
    assert_eq!(room.send(At::Pod, &to).to(), [At::Vm], "it was heard 299 seconds ago");
    room.pass(1);
    assert_eq!(room.send(At::Pod, &to).to(), [At::Vm, At::Router], "being sent to does not renew it");
    let table = room.node.switch.learned().unwrap();
    assert_eq!(table.sweep((room.now / 1000) as u32, 300), 1);
    assert_eq!(learned(&room), []);
}

#[test]
fn ageing_follows_the_configuration() {
    let mut room = Room::new();
    room.send(At::Vm, &frame(STATION, POD_MAC[0]));
    room.publish(|tables| tables.ageing = 10);
    room.pass(9);
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], STATION)).to(), [At::Vm]);
    room.pass(1);
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], STATION)).to(), [At::Vm, At::Router]);
}

#[test]
fn a_station_moves_with_its_next_frame_as_often_as_is_allowed() {
    let moves = Limit { per_second: 1, burst: 2 };
    let mut room = Room::with(TxCaps::NONE, |tables| tables.limits.moves = moves);
    let from = frame(STATION, POD_MAC[0]);
    // Each port has two moves: to it, and the third is not made.
    for at in [At::Vm, At::Router, At::Vm, At::Router, At::Vm] {
        assert_eq!(room.send(at, &from).to(), [At::Pod], "the frame itself goes its way");
        assert_eq!(learned(&room), [(STATION, at)]);
    }
    assert_eq!(room.send(At::Router, &from).to(), [At::Pod]);
    assert_eq!(learned(&room), [(STATION, At::Vm)], "Router has had its two");
    assert_eq!((room.counter(|c| &c.moved), room.counter(|c| &c.moves_limited)), (4, 1));
    room.pass(1);
    room.publish(|tables| tables.limits.moves = moves);
    room.send(At::Router, &from);
    assert_eq!(learned(&room), [(STATION, At::Router)]);
}

#[test]
fn a_port_learns_no_more_than_its_limit() {
    let mut room = Room::with(TxCaps::NONE, |tables| tables.learn_limit = 20);
    let many = (0..60).map(|last| HeapBuf::from_bytes(&frame(station(last), POD_MAC[0]))).collect();
    let (came, _) = room.send_all(At::Vm, many);
    assert_eq!(came.out.len(), 60, "not learning is no reason not to carry");
    assert_eq!(learned(&room), (0..20).map(|last| (station(last), At::Vm)).collect::<Vec<_>>());
    assert_eq!((room.counter(|c| &c.learned), room.counter(|c| &c.learn_limited)), (20, 40));
    room.send(At::Router, &frame(station(99), POD_MAC[0]));
    assert_eq!(room.node.switch.learned().unwrap().count(At::Router.id()), 1, "another port has its own");
}

#[test]
fn nobody_speaks_as_the_gateway_the_host_or_a_pod() {
    let mut room = Room::new();
    for (mac, reason) in [
        (GATEWAY[0], DropReason::MacOfGateway),
        (HOST_MAC[0], DropReason::MacOfHost),
        (POD_MAC[0], DropReason::MacOfPod),
        (VM_MAC, DropReason::MacOfPod),
    ] {
        for to in [OTHER_MAC, BROADCAST, GATEWAY[0], STATION] {
            assert_eq!(room.send(At::Router, &frame(mac, to)), Came::dropped(reason));
        }
    }
    assert_eq!(learned(&room), []);
    // What was learned before the pod was added is not used any more.
    room.send(At::Vm, &frame(STATION, OTHER_MAC));
    room.publish(|tables| {
        tables.fdb.insert(MacAddr(STATION), At::Other.id());
    });
    assert_eq!(room.send(At::Vm, &frame(STATION, POD_MAC[0])), Came::dropped(DropReason::MacOfPod));
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], STATION)).to(), [At::Other], "configured goes first");
}

#[test]
fn what_was_learned_behind_a_port_goes_with_it_and_with_its_trust() {
    let mut room = Room::new();
    room.send(At::Vm, &frame(STATION, POD_MAC[0]));
    room.publish(|tables| {
        let mut port = tables.ports.get(At::Vm.id()).unwrap().clone();
        port.role = tables.ports.get(At::Other.id()).unwrap().role.clone();
        assert!(matches!(port.role, Role::Pod(_)));
        tables.ports.insert(At::Vm.id(), port);
        tables.trusted.retain(|port| *port != At::Vm.id());
    });
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], STATION)).to(), [At::Router], "looked for anew");
    room.node.switch.learned().unwrap().forget_port(At::Vm.id());
    assert_eq!(learned(&room), []);
}

#[test]
fn broadcasts_and_multicasts_cross_the_segment_and_never_the_uplink() {
    let mut room = Room::new();
    let all = [At::Host, At::Pod, At::Other, At::Vm, At::Router];
    for dst in [BROADCAST, [1, 0, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 0xfb]] {
        for (from, mac) in [
            (At::Host, HOST_MAC[0]),
            (At::Pod, POD_MAC[0]),
            (At::Other, OTHER_MAC),
            (At::Vm, STATION),
            (At::Router, ROUTER_MAC),
        ] {
            let others: Vec<_> = all.into_iter().filter(|at| *at != from).collect();
            let sent = frame(mac, dst);
            assert_eq!(room.send(from, &sent), Came::carried(&sent, &others), "from {from:?}");
        }
    }
    let ip = ipv4_frame(POD_MAC[0], BROADCAST, POD, [255; 4], 1, b"to everybody");
    assert_eq!(room.send(At::Pod, &ip).to().len(), 4);
}

#[test]
fn the_host_is_a_station_of_the_segment() {
    let mut room = Room::new();
    let to_host = frame(STATION, HOST_MAC[0]);
    assert_eq!(room.send(At::Vm, &to_host), Came::carried(&to_host, &[At::Host]));
    let to_station = frame(HOST_MAC[0], STATION);
    assert_eq!(room.send(At::Host, &to_station), Came::carried(&to_station, &[At::Vm]));
    let unknown = frame(HOST_MAC[0], station(3));
    assert_eq!(room.send(At::Host, &unknown), Came::carried(&unknown, &[At::Vm, At::Router]));
}

#[test]
fn reserved_addresses_go_nowhere_from_any_port() {
    let mut room = Room::new();
    for (from, mac) in [(At::Pod, POD_MAC[0]), (At::Vm, STATION), (At::Host, HOST_MAC[0])] {
        for last in 0..=15 {
            let bpdu = frame(mac, [1, 0x80, 0xc2, 0, 0, last]);
            assert_eq!(room.send(from, &bpdu), Came::dropped(DropReason::ReservedAddress), "{last}");
        }
        assert_eq!(room.send(from, &frame(mac, [1, 0x80, 0xc2, 0, 0, 16])).to().len(), 4);
    }
}

#[test]
fn alone_on_the_segment_a_broadcast_has_its_reason() {
    let mut room = Room::new();
    room.publish(|tables| tables.segment.retain(|port| *port == At::Pod.id()));
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], BROADCAST)), Came::dropped(DropReason::NotForwarded));
}

#[test]
fn a_storm_is_held_to_the_rate_of_its_port() {
    let flood = Limit { per_second: 100, burst: 8 };
    let limited = |tables: &mut weft_switch::tables::Snapshot| tables.limits.flood = flood;
    let mut room = Room::with(TxCaps::NONE, limited);
    let storm = || (0..50).map(|_| HeapBuf::from_bytes(&frame(POD_MAC[0], BROADCAST))).collect();
    let (came, _) = room.send_all(At::Pod, storm());
    assert_eq!((came.out.len(), came.originated), (8, 6), "two frames to four ports");
    assert_eq!(came.drops, [("flood_limited", 48)].into());
    // Others have theirs, and what is for one station is not held up.
    assert_eq!(room.send(At::Other, &frame(OTHER_MAC, BROADCAST)).to().len(), 4);
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], OTHER_MAC)).to(), [At::Other]);
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], STATION)).drops, [("flood_limited", 1)].into());
    room.now += 50;
    room.node.switch.set_time(room.now);
    let (came, _) = room.send_all(At::Pod, storm());
    assert_eq!(came.drops, [("flood_limited", 49)].into(), "a twentieth of a second gives five copies");
    // However small the limit, after a pause one frame gets to all.
    room.publish(|tables| tables.limits.flood = Limit { per_second: 100, burst: 1 });
    room.pass(10);
    let (came, _) = room.send_all(At::Pod, storm());
    assert_eq!((came.out.len(), came.drops), (4, [("flood_limited", 49)].into()));
    room.publish(|tables| tables.limits.flood = Limit::per_second(0));
    room.pass(10);
    assert_eq!(room.send(At::Pod, &frame(POD_MAC[0], BROADCAST)), Came::dropped(DropReason::FloodLimited));
}

#[test]
fn copies_of_chains_and_of_unfinished_frames_are_whole_and_in_the_same_state() {
    let mut room = Room::with(TxCaps::ALL, |_| {});
    let mut sent = Vec::new();
    let udp = etherparse::PacketBuilder::ethernet2(POD_MAC[0], BROADCAST).ipv4(POD, [255; 4], 9).udp(7, 7);
    udp.write(&mut sent, &(0..9000).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 6 },
        gso: Some(Gso { kind: GsoKind::Udp, size: 1400, ecn: false }),
    };
    let pieces: Vec<&[u8]> = sent.chunks(1999).collect();
    let mut chain = HeapBuf::from_segments(&pieces);
    chain.set_offload(offload);
    let (came, out) = room.send_all(At::Pod, vec![chain]);
    assert_eq!(came.originated, 3 + 6, "three copies, and seven pieces for the host, which takes no GSO");
    assert_eq!(out.iter().filter(|(at, _)| *at == At::Host).count(), 7);
    for (at, copy) in out.iter().filter(|(at, _)| *at != At::Host) {
        assert_eq!((copy.to_vec(), copy.offload()), (sent.clone(), offload), "{at:?}");
    }
    for (_, piece) in out.iter().filter(|(at, _)| *at == At::Host) {
        let ip = etherparse::SlicedPacket::from_ethernet(piece.head()).unwrap();
        let Some(etherparse::TransportSlice::Udp(udp)) = ip.transport else { panic!("{ip:?}") };
        let header = etherparse::Ipv4HeaderSlice::from_slice(&piece.head()[14..]).unwrap();
        let sum = udp.to_header().calc_checksum_ipv4(&header.to_header(), udp.payload()).unwrap();
        assert_eq!(udp.checksum(), sum);
    }
}

#[test]
fn a_port_with_a_smaller_mtu_is_passed_over_and_counted() {
    let mut room = Room::new();
    let small = |at: At| {
        move |tables: &mut weft_switch::tables::Snapshot| {
            let mut port = tables.ports.get(at.id()).unwrap().clone();
            port.mtu = Mtu::new(600).unwrap();
            tables.ports.insert(at.id(), port);
        }
    };
    let big = ipv4_frame(POD_MAC[0], BROADCAST, POD, [255; 4], 9, &[7; 1000]);
    // In the middle and at the end, where the frame itself would have gone.
    for (at, others) in
        [(At::Vm, [At::Host, At::Other, At::Router]), (At::Router, [At::Host, At::Other, At::Vm])]
    {
        room.publish(small(at));
        let came = room.send(At::Pod, &big);
        assert_eq!((came.to(), came.originated), (others.to_vec(), 3));
        assert_eq!(came.drops, [("flood_too_big", 1)].into());
        // The port that did not get it counts it, not the one that it came from.
        let count = |read: fn(&weft_switch::counters::PortCounters) -> u64, at: At| -> u64 {
            room.node.switch.handles().map(|handle| read(handle.counters().port(at.id()))).sum()
        };
        assert_eq!((count(|c| c.rx_drops.get(), At::Pod), count(|c| c.tx_drops.get(), at)), (0, 1));
    }
}

#[test]
fn with_an_empty_pool_one_port_still_gets_the_frame() {
    let sent = frame(POD_MAC[0], BROADCAST);
    let mut node = world::Node::new(0, world::Underlay::V4, 1, TxCaps::NONE);
    let other = weft_switch::port::MemPort::default();
    node.add_pod(0, OTHER, OTHER_MAC, &other);
    node.switch.set_pool(0, weft_switch::packet::HeapPool { left: 0, ..Default::default() });
    node.pod.inject(HeapBuf::from_bytes(&sent));
    node.switch.step();
    assert_eq!(node.drops(DropReason::TxNoBuffer), 1);
    assert_eq!(node.host.take().len() + other.take().len(), 1);
    node.assert_balanced();
}

/// A trusted port is trusted with addresses, not with the switch.
#[test]
fn whatever_a_trusted_port_sends_the_counters_add_up_and_configured_stations_stay() {
    let macs =
        [STATION, GATEWAY[0], HOST_MAC[0], POD_MAC[0], VM_MAC, BROADCAST, [0; 6], [1, 0x80, 0xc2, 0, 0, 2]];
    let types = [0x0800u16, 0x0806, 0x8100, 0x88a8, 0x86dd, 0x88b5, 0x0007];
    let frames = vec(
        (
            select(macs.to_vec()),
            select(macs.to_vec()),
            vec(select(types.to_vec()), 1..4),
            vec(any::<u8>(), 0..120),
        ),
        1..60,
    );
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let ran = runner.run(&frames, |frames| {
        let mut room = Room::new();
        let bufs = frames.iter().map(|(dst, src, types, rest)| {
            // Types in a row are tags with what they announce, where they are tags.
            let mut bytes = [&dst[..], src].concat();
            types.iter().for_each(|kind| bytes.extend([kind.to_be_bytes(), [0, 7]].concat()));
            bytes.extend(rest);
            HeapBuf::from_bytes(&bytes)
        });
        let (came, _) = room.send_all(At::Vm, bufs.collect());
        prop_assert!(
            came.out
                .iter()
                .all(|(to, bytes)| *to != At::Vm || bytes[6..12] == GATEWAY[0] || bytes[12..14] == [8, 6])
        );
        prop_assert!(came.out.iter().all(|(_, bytes)| bytes[..5] != [1, 0x80, 0xc2, 0, 0]));
        prop_assert!(learned(&room).iter().all(|station| *station == (STATION, At::Vm)));
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn no_longer_trusted_means_no_longer_flooded_to() {
    let mut room = Room::new();
    room.publish(forget_trusted);
    let sent = ipv4_frame(VM_MAC, BROADCAST, VM, [255; 4], 9, b"");
    assert_eq!(room.send(At::Vm, &sent), Came::carried(&sent, &[At::Host, At::Pod, At::Other, At::Router]));
    let foreign = ipv4_frame(VM_MAC, BROADCAST, ROUTER, [255; 4], 9, b"");
    assert_eq!(room.send(At::Vm, &foreign), Came::dropped(DropReason::SpoofedIp));
}
