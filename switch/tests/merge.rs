//! Packets of a flow that follow each other become one frame, for a port that takes such frames. Whatever is merged is cut into the
//! same packets again; what must not be merged is not; nothing changes its place in its flow.

mod packets;
mod world;

use std::collections::BTreeMap;

use packets::{Packet, Seen, TCP, UDP, read};
use proptest::prelude::*;
use proptest::sample::select;
use weft_switch::offload::Offload;
use weft_switch::offload::finish::finish;
use weft_switch::packet::{HeapBuf, HeapPool, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::types::PortId;

use world::{FIRST_POD, GATEWAY, Node, POD_MAC, Underlay, World};

const FROM: [&str; 2] = ["10.244.0.5", "fd00:10:244::5"];
const TO: [&str; 2] = ["10.244.1.7", "fd00:10:244:1::5"];

/// From the pod on A to the one on B.
fn across(protocol: u8, v6: bool, payload: usize) -> Packet {
    let at = usize::from(v6);
    Packet { dst_mac: GATEWAY[0], src_mac: POD_MAC[0], ..Packet::new(protocol, FROM[at], TO[at], payload) }
}

/// What arrives at B's pod, whose far side takes `caps`, when A's pod sends this in one burst.
fn arrives(underlay: Underlay, caps: TxCaps, frames: &[HeapBuf]) -> (Vec<HeapBuf>, u64) {
    let mut world = World::new(underlay, caps);
    frames.iter().for_each(|frame| world.a.pod.inject(frame.clone()));
    world.carry();
    world.assert_balanced();
    let merged = world.b.switch.handles().map(|handle| handle.counters().merged.get()).sum();
    (world.b.pod.take(), merged)
}

fn seen(frame: &HeapBuf) -> Seen {
    read(&frame.to_vec(), frame.offload())
}

/// A stream of packets with so many bytes each.
fn stream(first: &Packet, payloads: &[usize]) -> Vec<Packet> {
    let mut packets = vec![Packet { payload: packets::pattern(0, payloads[0]), ..first.clone() }];
    for payload in &payloads[1..] {
        packets.push(packets[packets.len() - 1].next(*payload));
    }
    packets
}

fn complete(packets: &[Packet]) -> Vec<HeapBuf> {
    packets.iter().map(Packet::complete).collect()
}

#[test]
fn a_stream_out_of_the_tunnel_arrives_in_one_frame() {
    for underlay in [Underlay::V4, Underlay::V6] {
        for (protocol, v6) in [(TCP, false), (TCP, true), (UDP, false), (UDP, true)] {
            let sent = stream(&across(protocol, v6, 0), &[[1000; 39].as_slice(), &[200]].concat());
            let (arrived, merged) = arrives(underlay, TxCaps::ALL, &complete(&sent));
            assert_eq!((arrived.len(), merged), (1, 39), "{underlay:?} {protocol} v6 {v6}");
            let seen = seen(&arrived[0]);
            assert_eq!((seen.size, seen.partial), (Some(1000), true));
            assert_eq!(seen.packet.payload, packets::pattern(0, 39_200));
            assert_eq!(seen.packet.ttl, 62, "two hops");
        }
    }
}

/// A NIC that cuts takes no more pieces than it has descriptors for.
#[test]
fn a_frame_in_more_pieces_than_its_port_takes_is_cut_again() {
    let sent = stream(&across(TCP, false, 0), &[1000; 20]);
    for (segments, frames) in [(20, 1), (19, 20)] {
        let caps = TxCaps { segments, ..TxCaps::ALL };
        let (arrived, merged) = arrives(Underlay::V4, caps, &complete(&sent));
        assert_eq!((arrived.len(), merged), (frames, 19), "{segments} at most");
        let payload: Vec<u8> = arrived.iter().flat_map(|frame| seen(frame).packet.payload).collect();
        assert_eq!(payload, packets::pattern(0, 20_000));
    }
}

/// A port that takes frames to be cut of one kind only gets no others.
#[test]
fn a_port_gets_what_it_takes() {
    let only_udp = TxCaps { gso_tcp4: false, gso_tcp6: false, ..TxCaps::ALL };
    let only_tcp4 = TxCaps { gso_tcp6: false, gso_udp: false, ..TxCaps::ALL };
    let without_checksum = TxCaps { partial_checksum: false, ..TxCaps::ALL };
    for (caps, takes) in [
        (TxCaps::NONE, [false; 4]),
        (only_udp, [false, false, true, true]),
        (only_tcp4, [true, false, false, false]),
        (without_checksum, [false; 4]),
        (TxCaps::ALL, [true; 4]),
    ] {
        for (at, (protocol, v6)) in [(TCP, false), (TCP, true), (UDP, false), (UDP, true)].iter().enumerate()
        {
            let sent = stream(&across(*protocol, *v6, 0), &[100; 5]);
            let (arrived, _) = arrives(Underlay::V4, caps, &complete(&sent));
            assert_eq!(arrived.len(), if takes[at] { 1 } else { 5 }, "{caps:?} {protocol} v6 {v6}");
        }
    }
}

/// Each of these in the third of four packets.
#[test]
fn what_is_never_merged() {
    type Change = fn(&mut Packet);
    let tcp: &[(&str, Change)] = &[
        ("a gap", |p| p.seq += 1),
        ("a packet again", |p| p.seq -= 100),
        ("another acknowledgement", |p| p.ack += 1),
        ("another window", |p| p.window += 1),
        ("other options", |p| p.options[7] += 1),
        ("more options", |p| p.options.extend([1, 1, 1, 0])),
        ("CWR", |p| p.flags |= 0x80),
        ("ECE", |p| p.flags |= 0x40),
        ("URG", |p| p.flags |= 0x20),
        ("SYN", |p| p.flags |= 0x02),
        ("FIN", |p| p.flags |= 0x01),
        ("RST", |p| p.flags |= 0x04),
        ("no ACK", |p| p.flags &= !0x10),
        ("more payload than the first", |p| p.payload.push(0)),
    ];
    let both: &[(&str, Change)] =
        &[("TTL", |p| p.ttl += 1), ("class of service", |p| p.tos = 0x20), ("ECN", |p| p.tos = 1)];
    let v4: &[(&str, Change)] =
        &[("identification", |p| p.ident += 5), ("may be fragmented", |p| p.fragment = 0)];
    for (protocol, v6) in [(TCP, false), (TCP, true), (UDP, false), (UDP, true)] {
        let own = if protocol == TCP { tcp } else { &[] };
        let of_v4 = if v6 { &[] } else { v4 };
        for (name, change) in own.iter().chain(both).chain(of_v4) {
            let mut sent = stream(&across(protocol, v6, 0), &[100; 4]);
            change(&mut sent[2]);
            let (arrived, _) = arrives(Underlay::V4, TxCaps::ALL, &complete(&sent));
            let (plain, _) = arrives(Underlay::V4, TxCaps::NONE, &complete(&sent));
            let lens: Vec<usize> = arrived.iter().map(|frame| seen(frame).packet.payload.len()).collect();
            assert_eq!(lens[..2], [200, sent[2].payload.len()], "{name}: {protocol} v6 {v6}");
            assert_eq!(cut(&arrived), cut(&plain), "{name}: {protocol} v6 {v6}");
        }
    }
}

#[test]
fn the_end_of_a_run() {
    for (v6, payloads, push, lens) in [
        (false, [100, 100, 60, 100, 100], None, vec![260, 200]),
        (true, [100, 100, 100, 100, 100], Some(1), vec![200, 300]),
        (true, [100, 100, 100, 100, 100], Some(0), vec![100, 400]),
        (false, [100, 100, 100, 100, 100], Some(4), vec![500]),
    ] {
        let mut sent = stream(&across(TCP, v6, 0), &payloads);
        if let Some(push) = push {
            sent[push as usize].flags |= 0x08;
        }
        let (arrived, _) = arrives(Underlay::V4, TxCaps::ALL, &complete(&sent));
        let arrived: Vec<Seen> = arrived.iter().map(seen).collect();
        assert_eq!(arrived.iter().map(|seen| seen.packet.payload.len()).collect::<Vec<_>>(), lens);
        let pushed = arrived.iter().any(|seen| seen.packet.flags & 0x08 != 0);
        assert_eq!(pushed, push.is_some(), "the sender's push arrives");
    }
}

/// Identifications that stay are those of a sender that knows that they mean nothing.
#[test]
fn identifications_that_stay() {
    for (fragment, frames) in [(0x4000, 1), (0, 3)] {
        let mut sent = stream(&across(TCP, false, 0), &[100; 3]);
        sent.iter_mut().for_each(|packet| (packet.ident, packet.fragment) = (7, fragment));
        let (arrived, _) = arrives(Underlay::V4, TxCaps::ALL, &complete(&sent));
        assert_eq!(arrived.len(), frames);
    }
}

/// The receiver is to see it, and to ask for it again.
#[test]
fn a_wrong_checksum_is_not_made_right() {
    for (protocol, v6) in [(TCP, false), (TCP, true), (UDP, false), (UDP, true)] {
        for wrong in 0..3 {
            let mut sent = complete(&stream(&across(protocol, v6, 0), &[100; 4]));
            let last = sent[wrong].len() - 1;
            sent[wrong].head_mut()[last] ^= 1;
            let (arrived, _) = arrives(Underlay::V4, TxCaps::ALL, &sent);
            let (expected, l4) = (sent[wrong].to_vec(), if v6 { 54 } else { 34 });
            let whole = arrived
                .iter()
                .any(|frame| frame.offload() == Offload::default() && frame.to_vec()[l4..] == expected[l4..]);
            assert!(whole, "{protocol} v6 {v6}: packet {wrong} as it was");
        }
    }
}

/// A UDP sender without checksums has none to be filled in.
#[test]
fn no_checksum() {
    let mut sent = complete(&stream(&across(UDP, false, 0), &[100; 3]));
    sent.iter_mut().for_each(|frame| frame.head_mut()[40..42].fill(0));
    let (arrived, merged) = arrives(Underlay::V4, TxCaps::ALL, &sent);
    assert_eq!((arrived.len(), merged), (3, 0));
}

/// Ethernet padding is no payload.
#[test]
fn short_packets_are_padded() {
    let mut sent = complete(&stream(&across(UDP, false, 0), &[5; 6]));
    for frame in &mut sent {
        *frame = HeapBuf::from_bytes(&[frame.to_vec(), vec![0xee; 13]].concat());
    }
    // In the tunnel there is no padding; between two pods of a node there is.
    let mut node = Node::new(0, Underlay::V4, 1, TxCaps::ALL);
    let other = MemPort::with_caps(TxCaps::ALL);
    node.add_pod(0, [10, 244, 0, 9], [2, 0, 0, 0, 0, 9], &other);
    let local = Packet { dst_mac: [2, 0, 0, 0, 0, 9], ..across(UDP, false, 0) };
    let local = Packet { dst: vec![10, 244, 0, 9], ..local };
    for packet in stream(&local, &[5; 6]) {
        node.pod.inject(HeapBuf::from_bytes(&[packet.bytes(), vec![0xee; 13]].concat()));
    }
    node.switch.step();
    for arrived in [other.take(), arrives(Underlay::V4, TxCaps::ALL, &sent).0] {
        assert_eq!(arrived.len(), 1);
        assert_eq!(seen(&arrived[0]).packet.payload, packets::pattern(0, 30));
    }
    node.assert_balanced();
}

#[test]
fn the_largest_frame() {
    // 65,535 bytes of IP packet; what does not fit begins the next.
    for (v6, sizes) in [(false, [1390; 60]), (true, [1370; 60])] {
        let sent = stream(&across(TCP, v6, 0), &sizes);
        let (arrived, _) = arrives(Underlay::V4, TxCaps::ALL, &complete(&sent));
        assert_eq!(arrived.len(), 2);
        assert!(arrived.iter().all(|frame| frame.len() <= 65_535 + 14));
        assert!(arrived[0].len() > 65_535 - 1400);
        assert_eq!(cut(&arrived).iter().map(|packet| packet.payload.len()).sum::<usize>(), 60 * sizes[0]);
    }
}

/// Flows that alternate are merged each by itself; more of them than are followed at a time are not mixed up.
#[test]
fn flows_that_alternate() {
    for flows in [2, 8, 20] {
        let mut streams: Vec<_> = (0..flows)
            .map(|flow| {
                let first = Packet { ports: (1000 + flow, 80), ..across(TCP, flow % 2 == 1, 0) };
                stream(&first, &[50; 3]).into_iter()
            })
            .collect();
        let mut sent = Vec::new();
        while let Some(packets) = streams.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>() {
            sent.extend(packets);
        }
        let (arrived, merged) = arrives(Underlay::V6, TxCaps::ALL, &complete(&sent));
        if flows <= 8 {
            assert_eq!((arrived.len(), merged), (usize::from(flows), u64::from(flows) * 2));
        }
        let (plain, _) = arrives(Underlay::V6, TxCaps::NONE, &complete(&sent));
        assert_eq!(by_flow(&arrived), by_flow(&plain));
    }
}

/// The port's queue is another worker's.
#[test]
fn the_port_of_another_worker() {
    let mut node = Node::new(0, Underlay::V4, 2, TxCaps::NONE);
    let other = MemPort::with_caps(TxCaps::ALL);
    node.add_pod(1, [10, 244, 0, 9], [2, 0, 0, 0, 0, 9], &other);
    let to_other = Packet { dst: vec![10, 244, 0, 9], ..across(TCP, false, 0) };
    node.switch.step();
    let send = |node: &mut Node| {
        complete(&stream(&to_other, &[500; 20])).into_iter().for_each(|frame| node.pod.inject(frame));
        while node.switch.step() > 0 {}
        node.assert_balanced();
        other.take().len()
    };
    assert_eq!(send(&mut node), 1);
    // It comes back with other features: what was merged for it in the meantime is cut again.
    other.set_caps(TxCaps::NONE);
    assert_eq!(send(&mut node), 20, "merged by what was known, and cut by what is");
    assert_eq!(send(&mut node), 20);
    other.set_caps(TxCaps::ALL);
    assert_eq!(send(&mut node), 20, "not known yet");
    assert_eq!(send(&mut node), 1);
    let id = PortId::new(FIRST_POD + 1).unwrap();
    let gone = node.switch.detach(1, id);
    node.switch.step();
    assert!(gone.try_recv().is_ok());
}

/// Fragments of a flow stay where they are in it.
#[test]
fn a_fragment_stays_in_its_place() {
    let mut sent = stream(&across(UDP, false, 0), &[160; 6]);
    sent[3].fragment = 0x2000;
    let mark: Vec<u8> = sent[3].payload.clone();
    let (arrived, merged) = arrives(Underlay::V4, TxCaps::ALL, &complete(&sent));
    assert_eq!(merged, 2 + 1);
    let places: Vec<usize> = arrived.iter().map(|frame| frame.len()).collect();
    assert_eq!(places.len(), 3);
    assert!(arrived[1].to_vec().ends_with(&mark), "between the two");
}

/// Cut into what goes over a wire, by the switch's own hand, read by the reader's.
fn cut(frames: &[HeapBuf]) -> Vec<Packet> {
    let mut packets = Vec::new();
    for frame in frames {
        let by_reader = seen(frame).cut();
        let mut by_switch = Vec::new();
        finish(&mut HeapPool::default(), frame.clone(), TxCaps::NONE, |_, piece: HeapBuf| {
            by_switch.push(read(&piece.to_vec(), Offload::default()).packet);
        })
        .unwrap();
        assert_eq!(by_switch, by_reader);
        packets.extend(by_switch);
    }
    packets
}

/// Addresses and ports.
type Flow = (Vec<u8>, Vec<u8>, (u16, u16));

/// The packets of each flow in their order, without identifications of packets that are not to be fragmented.
fn by_flow(frames: &[HeapBuf]) -> BTreeMap<Flow, Vec<Packet>> {
    let mut flows: BTreeMap<_, Vec<Packet>> = BTreeMap::new();
    for mut packet in cut(frames) {
        if packet.fragment & 0x4000 != 0 {
            packet.ident = 0;
        }
        flows.entry((packet.src.clone(), packet.dst.clone(), packet.ports)).or_default().push(packet);
    }
    flows
}

/// What is done to one packet of a stream on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mishap {
    None,
    Lost,
    Twice,
    Earlier,
    Push,
    Fin,
    Ack,
    Ecn,
    Ttl,
    Ident,
    FixedIdent,
    MayFragment,
    Short,
    Empty,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    use Mishap::*;
    prop_oneof![
        8 => Just(None),
        3 => select(vec![Lost, Twice, Earlier, Push, Fin, Ack, Ecn, Ttl, Ident, FixedIdent, MayFragment, Short, Empty]),
    ]
}

/// How it comes in.
#[derive(Debug, Clone, Copy)]
enum Form {
    Complete,
    Verified,
    Partial,
    Split(usize),
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        Just(Form::Complete),
        Just(Form::Verified),
        Just(Form::Partial),
        (1usize..200).prop_map(Form::Split)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes, a port that takes everything gets the same packets in the same order in each flow as one that takes nothing.
    #[test]
    fn merging_changes_nothing(
        sizes in [(1usize..1350), (1usize..200), (1usize..1350), (1usize..200)],
        what in prop::collection::vec((0usize..4, mishap(), form()), 1..64),
        tunnel: bool, v6_underlay: bool,
    ) {
        let kinds = [(TCP, false), (TCP, true), (UDP, false), (UDP, true)];
        let mut next: Vec<Packet> = kinds
            .iter()
            .zip(sizes)
            .map(|((protocol, v6), size)| {
                let mut packet = across(*protocol, *v6, size);
                if !tunnel {
                    packet.dst = if *v6 {
                        "fd00:10:244::6".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()
                    } else {
                        vec![10, 244, 0, 9]
                    };
                }
                packet
            })
            .collect();
        let mut sent: Vec<HeapBuf> = Vec::new();
        for (flow, mishap, form) in what {
            let mut packet = next[flow].clone();
            let size = sizes[flow];
            let mut times = 1;
            match mishap {
                Mishap::None | Mishap::Earlier => {}
                Mishap::Lost => times = 0,
                Mishap::Twice => times = 2,
                Mishap::Push => packet.flags |= 0x08,
                Mishap::Fin => packet.flags |= 0x01,
                Mishap::Ack => packet.ack += 1,
                Mishap::Ecn => packet.tos ^= 2,
                Mishap::Ttl => packet.ttl -= 1,
                Mishap::Ident => packet.ident = packet.ident.wrapping_add(9),
                Mishap::FixedIdent => packet.ident = packet.ident.wrapping_sub(1),
                Mishap::MayFragment => packet.fragment ^= 0x4000,
                Mishap::Short => packet.payload.truncate(size / 2),
                Mishap::Empty => packet.payload.clear(),
            }
            let usual = &next[flow];
            next[flow] = Packet {
                flags: usual.flags,
                ack: usual.ack,
                tos: usual.tos,
                ttl: usual.ttl,
                fragment: usual.fragment,
                ident: usual.ident.wrapping_add(1),
                ..packet.next(size)
            };
            for _ in 0..times {
                let frame = match form {
                    Form::Complete => packet.complete(),
                    Form::Verified => packet.verified(),
                    Form::Partial => packet.partial(),
                    Form::Split(at) => {
                        let bytes = packet.bytes();
                        let (front, back) = bytes.split_at(at.min(bytes.len()));
                        HeapBuf::from_segments(&[front, back])
                    }
                };
                match sent.len() {
                    len if mishap == Mishap::Earlier && len > 0 => sent.insert(len - 1, frame),
                    _ => sent.push(frame),
                }
            }
        }
        sent.truncate(64);
        let underlay = if v6_underlay { Underlay::V6 } else { Underlay::V4 };
        let [all, none] = [TxCaps::ALL, TxCaps::NONE].map(|caps| {
            if tunnel {
                return arrives(underlay, caps, &sent).0;
            }
            let mut node = Node::new(0, underlay, 1, TxCaps::NONE);
            let other = MemPort::with_caps(caps);
            node.add_pod(0, [10, 244, 0, 9], [2, 0, 0, 0, 0, 9], &other);
            sent.iter().for_each(|frame| node.pod.inject(frame.clone()));
            node.switch.step();
            node.assert_balanced();
            other.take()
        });
        let finished = none.iter().all(|frame| frame.offload().is_finished());
        prop_assert!(finished);
        prop_assert_eq!(by_flow(&all), by_flow(&none));
    }
}
