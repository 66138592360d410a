//! What routers of the underlay say about tunnel packets that were too big for them: believed only about packets that this
//! node can have sent, told to the control side, and told on to whose packet it was.

mod world;

use std::net::{IpAddr, Ipv6Addr};

use etherparse::PacketBuilder;
use proptest::collection::vec;
use proptest::prelude::*;
use weft_switch::event::Event;
use weft_switch::limits::Limit;
use weft_switch::packet::HeapBuf;
use weft_switch::port::TxCaps;
use weft_switch::tables::{Place, Port, Role};
use weft_switch::types::Mtu;

use world::told::told;
use world::{
    GATEWAY, HOST_MAC, Node, POD_MAC, UPLINK_MAC, Underlay, World, fill_ipv4_checksum, ipv4_frame, ipv6_frame,
};

const POD: [u8; 4] = [10, 244, 0, 5];
const FAR: [u8; 4] = [10, 244, 1, 7];
const ROUTER: [u8; 4] = [172, 16, 9, 9];

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// What the first node puts on the wire for this frame from its pod.
fn on_wire(underlay: Underlay, frame: &[u8]) -> Vec<u8> {
    let mut world = World::new(underlay, TxCaps::NONE);
    world.a.pod.inject(HeapBuf::from_bytes(frame));
    world.carry().remove(0)
}

/// A router's message to the first node about one of its frames, quoting `quote` bytes of the IP packet.
fn too_big(wire: &[u8], mtu: u16, quote: usize) -> Vec<u8> {
    let mut message = Vec::new();
    let quoted = &wire[14..(14 + quote).min(wire.len())];
    let builder = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], UPLINK_MAC[0]);
    let [high, low] = mtu.to_be_bytes();
    if wire[12] == 0x08 {
        let builder = builder.ipv4(ROUTER, [172, 16, 0, 1], 60);
        builder.icmpv4_raw(3, 4, [0, 0, high, low]).write(&mut message, quoted).unwrap();
    } else {
        let builder = builder.ipv6(v6("fd00:172:99::9").octets(), v6("fd00:172:16::1").octets(), 60);
        builder.icmpv6_raw(2, 0, [0, 0, high, low]).write(&mut message, quoted).unwrap();
    }
    message
}

/// With the don't-fragment flag.
fn whole(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    fill_ipv4_checksum(&mut frame[14..34]);
    frame
}

fn without_flag(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] &= !0x40;
    fill_ipv4_checksum(&mut frame[14..34]);
    frame
}

fn large4() -> Vec<u8> {
    whole(ipv4_frame(POD_MAC[0], GATEWAY[0], POD, FAR, 64, &[7; 1380]))
}

fn large6() -> Vec<u8> {
    ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 1, 64, &[7; 1380])
}

fn node(underlay: Underlay) -> Node {
    Node::new(0, underlay, 1, TxCaps::NONE)
}

fn inject(node: &mut Node, frame: &[u8]) {
    node.uplink.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
}

const MADE: [(&str, u64); 5] = [("rx", 1), ("consumed", 1), ("originated", 1), ("icmp_sent", 1), ("tx", 1)];
const TAKEN: [(&str, u64); 2] = [("rx", 1), ("consumed", 1)];
const REFUSED: [(&str, u64); 2] = [("rx", 1), ("not_tunnel", 1)];

fn peer(underlay: Underlay) -> IpAddr {
    if underlay == Underlay::V4 { IpAddr::from([172, 16, 0, 2]) } else { v6("fd00:172:16::2").into() }
}

#[test]
fn it_is_told_to_the_control_side_and_to_the_sender() {
    for (underlay, mtu, overhead) in [(Underlay::V4, 1400, 50), (Underlay::V6, 1380, 70)] {
        let mut node = node(underlay);
        let wire = on_wire(underlay, &large4());
        inject(&mut node, &too_big(&wire, mtu, 548));
        node.assert_changed(&Default::default(), &MADE, "IPv4 inside");
        assert_eq!(node.take_events(), [Event::PathMtu { peer: peer(underlay), mtu }]);
        let heard = told(&node.pod.take());
        assert_eq!((heard.src, heard.dst), (IpAddr::from([10, 244, 0, 1]), POD.into()));
        assert_eq!((heard.type_and_code(), heard.mtu), ((3, 4), u32::from(mtu - overhead)));
        assert_eq!(heard.macs, (POD_MAC[0], GATEWAY[0]));
        let inner = &wire[14 + usize::from(overhead)..];
        assert_eq!(heard.quote, inner[..548 - usize::from(overhead)], "as much of it as there was");

        let before = node.counts();
        let wire = on_wire(underlay, &large6());
        inject(&mut node, &too_big(&wire, mtu, 1200));
        node.assert_changed(&before, &MADE, "IPv6 inside");
        let heard = told(&node.pod.take());
        assert_eq!((heard.src, heard.dst), (v6("fd00:10:244::1").into(), v6("fd00:10:244::5").into()));
        assert_eq!((heard.type_and_code(), heard.mtu), ((2, 0), u32::from(mtu - overhead)));
        assert_eq!(heard.quote, wire[14 + usize::from(overhead)..14 + 1200]);
    }
}

/// The smallest MTU of each: what is left inside the tunnel is told, and to IPv6 no less than every link carries.
#[test]
fn small_mtus_are_told_as_far_as_they_are_some() {
    let mut small = node(Underlay::V4);
    for (mtu, inside) in [(576, 526), (118, 68), (100, 68), (68, 68)] {
        inject(&mut small, &too_big(&on_wire(Underlay::V4, &large4()), mtu, 200));
        assert_eq!(told(&small.pod.take()).mtu, inside, "{mtu}");
        assert_eq!(small.take_events(), [Event::PathMtu { peer: peer(Underlay::V4), mtu }]);
    }
    for (underlay, mtu) in [(Underlay::V4, 900), (Underlay::V6, 1280)] {
        let mut node = node(underlay);
        inject(&mut node, &too_big(&on_wire(underlay, &large6()), mtu, 300));
        assert_eq!(told(&node.pod.take()).mtu, 1280);
    }
    for (underlay, mtus) in [(Underlay::V4, &[0, 1, 67][..]), (Underlay::V6, &[0, 576, 1279])] {
        for mtu in mtus {
            let mut node = node(underlay);
            inject(&mut node, &too_big(&on_wire(underlay, &large4()), *mtu, 200));
            node.assert_changed(&Default::default(), &REFUSED, &format!("{mtu} is no MTU"));
            assert!(node.take_events().is_empty());
        }
    }
}

/// A packet from the pod to the far node, of so many bytes, that must not be cut.
fn of_size(v4: bool, len: usize) -> Vec<u8> {
    if v4 {
        whole(ipv4_frame(POD_MAC[0], GATEWAY[0], POD, FAR, 64, &vec![7; len - 20]))
    } else {
        ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 1, 64, &vec![7; len - 40])
    }
}

/// IPv6 senders make no smaller packets than of 1280 bytes. Where the way to a peer is known to carry less those are sent all the
/// same, as long as the uplink takes the tunnel packet.
#[test]
fn a_small_path_takes_what_every_ipv6_link_has_to_carry() {
    for (underlay, overhead) in [(Underlay::V4, 50), (Underlay::V6, 70)] {
        for (uplink, path, v6_fits) in [
            (1500, 1210, true),
            (1500, 576, true),
            (1280 + overhead, 1279, true),
            (1279 + overhead, 1279, false),
        ] {
            let mut node = node(underlay);
            let mut tables = node.tables();
            let (up, mtu) = (tables.vteps[0].uplink, Mtu::new(uplink).unwrap());
            tables
                .ports
                .insert(up, Port { role: Role::Uplink, mtu, place: Place::Worker(0), tunnel_gso: false });
            tables.vteps.edit(0, |vtep| vtep.mtu = Mtu::new(path).unwrap());
            node.switch.publish(tables);
            let mut send = |frame: Vec<u8>| {
                node.pod.inject(HeapBuf::from_bytes(&frame));
                node.switch.step();
                (node.uplink.take().len(), node.pod.take())
            };
            let what = format!("{uplink}, {path}, {underlay:?}");
            let (sent, answers) = send(of_size(false, 1280));
            assert_eq!((sent, answers.len()), (usize::from(v6_fits), usize::from(!v6_fits)), "{what}");
            let (sent, answers) = send(of_size(false, 1281));
            assert_eq!((sent, told(&answers).mtu), (0, 1280), "{what}");
            assert_eq!(send(of_size(true, path as usize)).0, 1, "{what}");
            let (sent, answers) = send(of_size(true, path as usize + 1));
            assert_eq!((sent, told(&answers).mtu), (0, path), "{what}");
            node.assert_balanced();
        }
    }
}

/// RFC 792 demands the IP header and 8 bytes: enough for the control side, not for the sender of what was inside.
#[test]
fn a_short_quote_is_told_to_the_control_side_only() {
    for (underlay, header) in [(Underlay::V4, 20), (Underlay::V6, 40)] {
        for (frame, inner) in [(large4(), 20), (large6(), 40)] {
            let wire = on_wire(underlay, &frame);
            let enough = header + 8 + 8 + 14 + inner + 8;
            for quote in header..enough + 4 {
                let mut node = node(underlay);
                inject(&mut node, &too_big(&wire, 1400, quote));
                let (counts, events): (&[_], _) = match quote {
                    _ if quote < header + 8 => (&REFUSED, 0),
                    _ if quote < enough => (&TAKEN, 1),
                    _ => (&MADE, 1),
                };
                node.assert_changed(&Default::default(), counts, &format!("{quote} bytes, {underlay:?}"));
                assert_eq!(node.take_events().len(), events);
            }
        }
    }
}

#[test]
fn only_what_this_node_can_have_sent_is_believed() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let wire = on_wire(underlay, &large4());
        let v4 = underlay == Underlay::V4;
        let good = too_big(&wire, 1400, 300);
        // Where the message is, and in it the quoted IP header.
        let (icmp, quote) = if v4 { (34, 42) } else { (54, 62) };
        let (source, destination, protocol) =
            if v4 { (quote + 12, quote + 16, quote + 9) } else { (quote + 8, quote + 24, quote + 6) };
        let udp = quote + if v4 { 20 } else { 40 };
        let spoilt = |at: usize, value: u8| {
            let mut message = good.clone();
            message[at] = value;
            fill_message(&mut message);
            message
        };
        let last = if v4 { 3 } else { 15 };
        for (message, what) in [
            (spoilt(source + last, 7), "about another's packet"),
            (spoilt(destination + last, 77), "to nobody known"),
            (spoilt(protocol, 6), "about TCP"),
            (spoilt(udp + 3, 9), "about another port"),
            (spoilt(quote, 0x15), "about another version"),
            (spoilt(icmp, if v4 { 11 } else { 3 }), "another message"),
            (too_big(&wire, wire.len() as u16 - 14, 300), "it fits"),
            (too_big(&wire, 9000, 300), "it fits well"),
        ] {
            let mut node = node(underlay);
            inject(&mut node, &message);
            node.assert_changed(&Default::default(), &REFUSED, &format!("{what}, {underlay:?}"));
            assert!(node.take_events().is_empty());
        }
        for at in [icmp + 2, icmp + 7, good.len() - 1] {
            let mut message = good.clone();
            message[at] ^= 1;
            let mut node = node(underlay);
            inject(&mut node, &message);
            node.assert_changed(&Default::default(), &REFUSED, &format!("checksum, {at}"));
        }
        let mut node = node(underlay);
        inject(&mut node, &good);
        assert_eq!(node.take_events().len(), 1, "the one that was spoilt is good");
    }
    let mut wire = on_wire(Underlay::V4, &large4());
    wire[20..22].copy_from_slice(&[0, 9]);
    fill_ipv4_checksum(&mut wire[14..34]);
    let mut node = node(Underlay::V4);
    inject(&mut node, &too_big(&wire, 1400, 300));
    node.assert_changed(&Default::default(), &REFUSED, "about a later fragment");
}

/// Fills in the checksum of an ICMP or ICMPv6 message.
fn fill_message(frame: &mut [u8]) {
    let v4 = frame[12] == 0x08;
    let at = if v4 { 34 } else { 54 };
    frame[at + 2..at + 4].fill(0);
    let pseudo = if v4 {
        Vec::new()
    } else {
        let len = (frame.len() - at) as u16;
        [&frame[22..54], &len.to_be_bytes(), &[0, 58]].concat()
    };
    let sum: u32 = pseudo
        .chunks(2)
        .chain(frame[at..].chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[at + 2..at + 4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// The control side hears of it, the sender does not: it may be cut from now on, is an error itself, or is not from here.
#[test]
fn who_need_not_or_must_not_be_told_is_not() {
    let mut error = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, FAR, 64);
    builder.icmpv4_raw(3, 1, [0; 4]).write(&mut error, &[0; 1380]).unwrap();
    let fragment = |word: [u8; 2]| {
        let mut frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, FAR, 64, &[7; 1380]);
        frame[20..22].copy_from_slice(&word);
        fill_ipv4_checksum(&mut frame[14..34]);
        frame
    };
    for (frame, what) in [
        (without_flag(large4()), "it may be cut"),
        (whole(error), "an ICMP error"),
        (fragment([0x40, 9]), "a later fragment"),
    ] {
        let mut node = node(Underlay::V4);
        inject(&mut node, &too_big(&on_wire(Underlay::V4, &frame), 1400, 300));
        node.assert_changed(&Default::default(), &TAKEN, what);
        assert_eq!(node.take_events().len(), 1, "{what}");
        assert!(node.pod.take().is_empty());
    }
    // A quote that this node's tunnel does not write: another VNI, reserved bits, another VTEP inside, a sender who is not here.
    let wire = on_wire(Underlay::V4, &large4());
    let vxlan = 14 + 20 + 8;
    for (at, value, what) in [
        (vxlan + 6, 9, "VNI"),
        (vxlan + 1, 9, "reserved"),
        (vxlan + 8 + 11, 9, "VTEP"),
        (vxlan + 22 + 14, 1, "sender of another node"),
        (vxlan + 22 + 15, 99, "sender who is gone"),
    ] {
        let mut wire = wire.clone();
        wire[at] = value;
        fill_ipv4_checksum(&mut wire[64..84]);
        let mut node = node(Underlay::V4);
        inject(&mut node, &too_big(&wire, 1400, 300));
        node.assert_changed(&Default::default(), &TAKEN, what);
    }
    let mut wire = wire;
    wire[64 + 8] ^= 1;
    let mut node = node(Underlay::V4);
    inject(&mut node, &too_big(&wire, 1400, 300));
    node.assert_changed(&Default::default(), &TAKEN, "the inner header's checksum");
}

#[test]
fn the_host_hears_of_its_own_packets() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let frame = whole(ipv4_frame(HOST_MAC[0], GATEWAY[0], [10, 244, 0, 0], FAR, 64, &[7; 1380]));
    world.a.host.inject(HeapBuf::from_bytes(&frame));
    let wire = world.carry().remove(0);
    world.a.uplink.inject(HeapBuf::from_bytes(&too_big(&wire, 1400, 300)));
    world.a.switch.step();
    let heard = told(&world.a.host.take());
    assert_eq!((heard.type_and_code(), heard.mtu, heard.macs.0), ((3, 4), 1350, HOST_MAC[0]));
    world.assert_balanced();
}

#[test]
fn what_the_sender_is_told_has_another_limit_than_what_the_control_side_is_told() {
    let mut node = node(Underlay::V4);
    let mut tables = node.tables();
    tables.limits.icmp = Limit { per_second: 10, burst: 2 };
    node.switch.publish(tables);
    let message = too_big(&on_wire(Underlay::V4, &large4()), 1400, 300);
    (0..5).for_each(|_| node.uplink.inject(HeapBuf::from_bytes(&message)));
    node.switch.step();
    let moved =
        [("rx", 5), ("consumed", 5), ("icmp_sent", 2), ("icmp_limited", 3), ("originated", 2), ("tx", 2)];
    node.assert_changed(&Default::default(), &moved, "two of five");
    assert_eq!(node.take_events().len(), 5);
}

#[test]
fn the_control_side_is_not_told_of_floods() {
    let mut node = node(Underlay::V4);
    let message = too_big(&on_wire(Underlay::V4, &large4()), 1400, 28);
    for _ in 0..500 {
        inject(&mut node, &message);
    }
    let counts = node.counts();
    assert_eq!((counts["events_limited"], counts["consumed"]), (300, 500));
    assert_eq!(node.take_events().len(), 200);
    node.assert_balanced();
}

#[test]
fn a_message_in_segments_is_read_whole() {
    let wire = on_wire(Underlay::V6, &large6());
    let message = too_big(&wire, 1400, 1200);
    let mut node = node(Underlay::V6);
    node.uplink.inject(HeapBuf::from_segments(&[&message[..60], &message[60..301], &message[301..]]));
    node.switch.step();
    node.assert_changed(&Default::default(), &MADE, "in three segments");
    assert_eq!(told(&node.pod.take()).quote, wire[84..14 + 1200]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is changed in such messages, cut off or put behind: no panic, every frame ends once, and what is told is
    /// about a known peer.
    #[test]
    fn hostile_messages_do_no_harm(
        messages in vec((any::<bool>(), any::<bool>(), vec((12usize..200, any::<u8>()), 0..4), any::<u16>(), 28usize..1400, any::<bool>()), 1..20),
        cut in prop::option::of(14usize..200),
    ) {
        for (v4, inner4, changes, mtu, quote, fill) in messages {
            let underlay = if v4 { Underlay::V4 } else { Underlay::V6 };
            let wire = on_wire(underlay, &if inner4 { large4() } else { large6() });
            let mut message = too_big(&wire, mtu, quote);
            for (at, value) in changes {
                if let Some(byte) = message.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some(cut) = cut {
                message.truncate(cut);
            }
            if fill && message.len() > 60 {
                fill_ipv4_checksum(&mut message[14..34]);
                fill_message(&mut message);
            }
            let mut node = node(underlay);
            inject(&mut node, &message);
            node.assert_balanced();
            for event in node.take_events() {
                let Event::PathMtu { peer: about, mtu } = event else { panic!("{event:?}") };
                prop_assert!(about == peer(underlay) && mtu >= 68);
            }
            for frame in node.pod.take() {
                told(&[frame]);
            }
        }
    }
}
