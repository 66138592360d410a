//! Whatever comes in by whichever port, in whichever segments and offload state: no panic, every frame ends in exactly
//! one counter, and nothing leaves that the tables exclude.
//!
//! Frames are what real senders send, with bytes changed, cut off and put behind, so that they get past the first
//! checks. The offload state comes from a virtio-net header that is as wrong, through the parser that every door
//! uses. What comes out is read by etherparse.

mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice, PacketBuilder};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use weft_switch::offload::finish::takes;
use weft_switch::offload::virtio;
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Neighbour, NextHop, Port};
use weft_switch::types::{MacAddr, Mtu, PortId};

use world::{
    FIRST_POD, GATEWAY, HOST, HOST_MAC, Node, POD_MAC, UPLINK, UPLINK_MAC, Underlay, VTEP_MAC, ipv4_frame,
};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const OWN: [[u8; 4]; 2] = [[10, 244, 0, 5], [10, 244, 0, 6]];
const FAR: [u8; 4] = [10, 244, 1, 7];
const INNER: ([u8; 6], [u8; 6]) = (VTEP_MAC[1], VTEP_MAC[0]);

/// Where a burst comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Pod,
    /// The second pod, whose queues the second worker has.
    Other,
    Host,
    Uplink,
}

fn own6(pod: usize) -> Ipv6Addr {
    format!("fd00:10:244::{}", pod + 5).parse().unwrap()
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// What the owner of this port sends, all in order.
fn good_frames(from: From) -> Vec<Vec<u8>> {
    match from {
        From::Pod => pod_frames(POD_MAC[0], OWN[0], own6(0).octets(), (OTHER_MAC, OWN[1], own6(1).octets())),
        From::Other => {
            pod_frames(OTHER_MAC, OWN[1], own6(1).octets(), (POD_MAC[0], OWN[0], own6(0).octets()))
        }
        From::Host => ip_frames(HOST_MAC[0], GATEWAY[0], [10, 244, 0, 1], v6("fd00:10:244::1")),
        From::Uplink => {
            let inner = ip_frames(INNER.0, INNER.1, FAR, v6("fd00:10:244:1::5"));
            inner
                .iter()
                .flat_map(|inner| [Underlay::V4, Underlay::V6].map(|under| tunnelled(under, inner)))
                .collect()
        }
    }
}

type Station = ([u8; 6], [u8; 4], [u8; 16]);

fn pod_frames(mac: [u8; 6], ip: [u8; 4], ip6: [u8; 16], (peer, peer_ip, peer_ip6): Station) -> Vec<Vec<u8>> {
    let mut frames = ip_frames(mac, GATEWAY[0], ip, ip6);
    frames.extend(ip_frames(mac, peer, ip, ip6));
    for (op, target) in [(1, [10, 244, 0, 1]), (1, peer_ip), (1, ip), (2, peer_ip)] {
        let mut frame =
            [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, op], &mac, &ip, &[0; 6], &target].concat();
        frame.resize(60, 0);
        frames.push(frame);
    }
    for (kind, target) in
        [(135, v6("fd00:10:244::1")), (135, peer_ip6), (136, ip6), (133, [0; 16]), (134, [0; 16])]
    {
        let body = [&target[..], &[1, 1], &mac].concat();
        for to in [peer, [0x33, 0x33, 0xff, 0, 0, 1]] {
            let packet =
                PacketBuilder::ethernet2(mac, to).ipv6(ip6, peer_ip6, 255).icmpv6_raw(kind, 0, [0; 4]);
            frames.push(written(|frame| packet.write(frame, &body).unwrap()));
        }
    }
    for to in [peer, [0xff; 6]] {
        let tag = PacketBuilder::ethernet2(mac, to)
            .single_vlan(etherparse::VlanId::ZERO)
            .ipv4(ip, peer_ip, 9)
            .udp(1, 2);
        frames.push(written(|frame| tag.write(frame, b"tagged").unwrap()));
    }
    // Each of them in two VLANs as well.
    let tagged: Vec<_> = frames.iter().rev().take(20).map(|frame| behind_tags(frame)).collect();
    frames.extend(tagged);
    frames.push([&peer[..], &mac, &[0x88, 0x47], &[7; 90]].concat());
    frames
}

/// IP packets to everywhere: both pods, the far pod, the gateway, the world.
fn ip_frames(mac: [u8; 6], to: [u8; 6], ip: [u8; 4], ip6: [u8; 16]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for target in [OWN[0], OWN[1], FAR, [10, 244, 0, 1], [192, 0, 2, 1], [10, 244, 9, 9]] {
        let l3 = || PacketBuilder::ethernet2(mac, to).ipv4(ip, target, 7);
        let udp = written(|frame| l3().udp(4000, 53).write(frame, &[1; 700]).unwrap());
        frames.push(may_be_cut(&udp));
        frames.push(udp);
        let tcp = written(|frame| l3().tcp(4000, 80, 1, 9000).write(frame, &[2; 3000]).unwrap());
        frames.push(may_be_cut(&tcp));
        frames.push(tcp);
        frames.push(written(|frame| l3().icmpv4_echo_request(1, 1).write(frame, &[3; 56]).unwrap()));
        frames.push(ipv4_frame(mac, to, ip, target, 1, b"at the end of its way"));
    }
    let targets = ["fd00:10:244::5", "fd00:10:244::6", "fd00:10:244:1::5", "fd00:10:244::1", "2001:db8::1"];
    for target in targets.map(v6) {
        let l3 = || PacketBuilder::ethernet2(mac, to).ipv6(ip6, target, 7);
        frames.push(written(|frame| l3().udp(4000, 53).write(frame, &[1; 700]).unwrap()));
        frames.push(written(|frame| l3().tcp(4000, 80, 1, 9000).write(frame, &[2; 3000]).unwrap()));
        let echo = written(|frame| l3().icmpv6_echo_request(1, 1).write(frame, &[3; 56]).unwrap());
        frames.push(behind_options(&echo, 2));
        frames.push(behind_options(&echo, 30));
        frames.push(echo);
    }
    frames
}

/// The IPv4 frame without the don't-fragment flag.
fn may_be_cut(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[20] = 0;
    world::fill_ipv4_checksum(&mut frame[14..34]);
    frame
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

/// The frame with a service and a customer tag.
fn behind_tags(frame: &[u8]) -> Vec<u8> {
    let tags =
        if frame[12..14] == [0x81, 0] { &[0x88, 0xa8, 0, 9][..] } else { &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 5] };
    [&frame[..12], tags, &frame[12..]].concat()
}

/// The IPv6 frame with a destination options header of so many units of 8 bytes in front of its payload.
fn behind_options(frame: &[u8], units: usize) -> Vec<u8> {
    let mut options = vec![0; units * 8];
    (options[0], options[1]) = (frame[20], units as u8 - 1);
    let mut longer = [&frame[..54], &options, &frame[54..]].concat();
    longer[20] = 60;
    let len = (longer.len() - 54) as u16;
    longer[18..20].copy_from_slice(&len.to_be_bytes());
    longer
}

fn tunnelled(underlay: Underlay, inner: &[u8]) -> Vec<u8> {
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0], inner].concat();
    let eth = PacketBuilder::ethernet2(UPLINK_MAC[1], UPLINK_MAC[0]);
    written(|frame| match underlay {
        Underlay::V4 => {
            eth.ipv4([172, 16, 0, 2], [172, 16, 0, 1], 64).udp(40000, 8472).write(frame, &payload).unwrap();
        }
        Underlay::V6 => {
            let (src, dst) = (v6("fd00:172:16::2"), v6("fd00:172:16::1"));
            eth.ipv6(src, dst, 64).udp(40000, 8472).write(frame, &payload).unwrap();
        }
    })
}

/// What is done to a good frame before it is sent.
#[derive(Debug, Clone)]
struct Harm {
    which: Index,
    /// Bytes written over: near the headers.
    bytes: Vec<(usize, u8)>,
    cut: Option<Index>,
    behind: usize,
    /// Makes the IPv4 header's checksum right again, so that what is wrong in it is looked at.
    checksum: bool,
    /// Takes the outer UDP checksum away, so that the inner frame is looked at.
    no_outer_checksum: bool,
    segments: Vec<usize>,
    state: Option<State>,
}

#[derive(Debug, Clone)]
struct State {
    flags: u8,
    gso: u8,
    size: u16,
    /// The place; `None`: the right one for UDP or TCP without options.
    place: Option<(u16, u16)>,
}

fn any_state() -> impl Strategy<Value = State> {
    let flags = select(vec![1u8, 1, 1, 2, 0, 0xff]);
    let gso = select(vec![0u8, 0, 1, 4, 5, 0x81, 0x84, 3, 9]);
    let place = prop::option::weighted(0.3, (0u16..150, 0u16..20));
    (flags, gso, prop_oneof![8u16..1500, any::<u16>()], place).prop_map(|(flags, gso, size, place)| State {
        flags,
        gso,
        size,
        place,
    })
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let byte = (
        prop_oneof![0usize..60, 0usize..160],
        prop_oneof![any::<u8>(), select(vec![0u8, 1, 58, 60, 135, 0xff])],
    );
    let harm = (any::<Index>(), vec(byte, 0..4), prop::option::weighted(0.2, any::<Index>()));
    let size = prop_oneof![4 => Just(0usize), 1 => 1usize..40, 1 => Just(3000usize)];
    let segments = vec(prop_oneof![0usize..90, 0usize..600], 0..5);
    (harm, size, any::<bool>(), any::<bool>(), segments, prop::option::of(any_state())).prop_map(
        |((which, bytes, cut), behind, checksum, no_outer_checksum, segments, state)| Harm {
            which,
            bytes,
            cut,
            behind,
            checksum,
            no_outer_checksum,
            segments,
            state,
        },
    )
}

impl Harm {
    fn frame(&self, good: &[Vec<u8>]) -> HeapBuf {
        let mut bytes = self.which.get(good).clone();
        if self.no_outer_checksum && bytes[12..14] == [8, 0] && bytes[23] == 17 {
            bytes[40..42].fill(0);
        }
        for (at, byte) in &self.bytes {
            if let Some(place) = bytes.get_mut(*at) {
                *place = *byte;
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(vec![0x87; self.behind]);
        if self.checksum && bytes.len() >= 34 && bytes[14] == 0x45 {
            world::fill_ipv4_checksum(&mut bytes[14..34]);
        }
        let mut segments = Vec::new();
        let mut rest = bytes.as_slice();
        for len in &self.segments {
            let (segment, after) = rest.split_at((*len).min(rest.len()));
            segments.push(segment);
            rest = after;
        }
        segments.push(rest);
        let mut frame = HeapBuf::from_segments(&segments);
        if let Some(state) = &self.state {
            let l4 = if bytes.get(12) == Some(&0x86) { 54 } else { 34 };
            let field = if bytes.get(l4 - 11) == Some(&6) || bytes.get(20) == Some(&6) { 16 } else { 6 };
            let (start, offset) = state.place.unwrap_or((l4 as u16, field));
            let words = [0, state.size, start, offset].map(u16::to_le_bytes).concat();
            if let Ok(offload) = virtio::parse(&[&[state.flags, state.gso], &words[..]].concat(), &frame) {
                frame.set_offload(offload);
            }
        }
        frame
    }
}

struct Room {
    node: Node,
    other: MemPort,
    underlay: Underlay,
    caps: TxCaps,
    /// What the pods' ports and the tunnel carry.
    mtu: usize,
}

impl Room {
    fn new(underlay: Underlay, caps: TxCaps) -> Self {
        let mut node = Node::new(0, underlay, 2, caps);
        let other = MemPort::with_caps(caps);
        node.add_pod(1, OWN[1], OTHER_MAC, &other);
        let overhead = if underlay == Underlay::V4 { 50 } else { 70 };
        Self { node, other, underlay, caps, mtu: 1500 - overhead }
    }

    /// With a smaller MTU on all ways, and with routes through a pod, to several, and to none.
    fn with_mtu(underlay: Underlay, caps: TxCaps, mtu: usize) -> Self {
        let mut room = Self::new(underlay, caps);
        room.mtu = room.mtu.min(mtu);
        let small = Mtu::new(room.mtu as u32).unwrap();
        let mut tables = room.node.tables();
        for id in [FIRST_POD, FIRST_POD + 1].map(|id| PortId::new(id).unwrap()) {
            let port = Port { mtu: small, ..tables.ports.get(id).unwrap().clone() };
            tables.ports.insert(id, port);
        }
        tables.vteps.edit(0, |vtep| vtep.mtu = small);
        tables.hops.push(Neighbour { mac: MacAddr(OTHER_MAC), port: PortId::new(FIRST_POD + 1).unwrap() });
        tables.groups.push([NextHop::Hop(0), NextHop::Local, NextHop::Host].into());
        tables.routes4.insert([192, 0, 2, 0].into(), 24, NextHop::Group(0));
        tables.routes4.insert([10, 244, 9, 0].into(), 24, NextHop::Blackhole);
        tables.routes6.insert("2001:db8::".parse().unwrap(), 32, NextHop::Hop(0));
        room.node.switch.publish(tables);
        room
    }

    fn port(&self, from: From) -> &MemPort {
        match from {
            From::Pod => &self.node.pod,
            From::Other => &self.other,
            From::Host => &self.node.host,
            From::Uplink => &self.node.uplink,
        }
    }

    fn burst(&mut self, from: From, frames: Vec<HeapBuf>) {
        for frame in frames {
            self.port(from).inject(frame);
        }
        while self.node.switch.step() > 0 {}
        self.node.assert_balanced();
        self.assert_drops_were_received();
        for to in [From::Pod, From::Other, From::Host, From::Uplink] {
            let caps = if matches!(to, From::Pod | From::Other) { self.caps } else { TxCaps::NONE };
            for frame in self.port(to).take() {
                assert!(takes(caps, &frame), "{:?} to {to:?}", frame.offload());
                let bytes = frame.to_vec();
                let (tags, bytes) = without_tags(&bytes);
                // Through the tunnel, what every IPv6 link has to carry fits too.
                let mtu =
                    if to == From::Uplink { self.mtu.max(1280) + self.overhead() } else { self.mtu } + 14;
                assert!(
                    to == From::Host || frame.offload().gso.is_some() || bytes.len() <= mtu,
                    "{}",
                    bytes.len()
                );
                let seen = look_at(&bytes);
                match to {
                    From::Uplink => self.assert_tunnelled(from, &bytes),
                    _ if from == to => assert_eq!(seen.dst, mac_of(from), "an answer, or a packet to itself"),
                    _ => assert_own(from, to, &seen, tags > 0, &bytes),
                }
            }
        }
    }

    /// What a port has lost of what it received is not more than that, into however many pieces it was cut.
    fn assert_drops_were_received(&self) {
        for port in [UPLINK, HOST, FIRST_POD, FIRST_POD + 1].map(|id| PortId::new(id).unwrap()) {
            let counts = self.node.switch.handles().map(|handle| {
                let port = handle.counters().port(port);
                (port.rx_packets.get(), port.rx_drops.get())
            });
            let (received, dropped) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert!(dropped <= received, "{dropped} of {received} from {port:?}");
        }
    }

    fn overhead(&self) -> usize {
        if self.underlay == Underlay::V4 { 50 } else { 70 }
    }

    fn assert_tunnelled(&self, from: From, bytes: &[u8]) {
        let outer = look_at(bytes);
        assert_eq!((outer.dst, outer.src), (UPLINK_MAC[1], UPLINK_MAC[0]));
        let far: [IpAddr; 2] = match self.underlay {
            Underlay::V4 => [[172, 16, 0, 1].into(), [172, 16, 0, 2].into()],
            Underlay::V6 => [v6("fd00:172:16::1").into(), v6("fd00:172:16::2").into()],
        };
        let ip = outer.ip.expect("IP");
        assert_eq!((ip.src, ip.dst, ip.protocol), (far[0], far[1], 17));
        let udp = &bytes[self.overhead() - 16..];
        assert_eq!(udp[2..4], 8472u16.to_be_bytes());
        assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
        assert_eq!(udp[8..16], [8, 0, 0, 0, 0, 0, 1, 0]);
        let inner = look_at(&bytes[self.overhead()..]);
        assert_eq!((inner.dst, inner.src), INNER);
        let ip = inner.ip.expect("IP");
        assert!(from != From::Uplink || ip.told, "from the tunnel and to the tunnel");
        assert_source(from, ip.src);
        let far = match ip.dst {
            IpAddr::V4(v4) => v4.octets()[..3] == FAR[..3],
            IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 0x10, 0x244, 1],
        };
        assert!(far, "{}", ip.dst);
    }
}

fn mac_of(from: From) -> [u8; 6] {
    match from {
        From::Pod => POD_MAC[0],
        From::Other => OTHER_MAC,
        From::Host => HOST_MAC[0],
        From::Uplink => UPLINK_MAC[0],
    }
}

/// The frame without its 802.1Q tags, and how many those were: two at most.
fn without_tags(bytes: &[u8]) -> (usize, Vec<u8>) {
    let mut untagged = bytes.to_vec();
    let mut tags = 0;
    while matches!(untagged.get(12..14), Some([0x81, 0] | [0x88, 0xa8])) {
        untagged.drain(12..16);
        tags += 1;
    }
    assert!(tags <= 2);
    (tags, untagged)
}

/// What a port gets that did not send it: a frame for its own station, or one for a group.
fn assert_own(from: From, to: From, seen: &Seen, tagged: bool, bytes: &[u8]) {
    let group = seen.dst[0] & 1 != 0;
    assert!(group || seen.dst == mac_of(to), "{:x?}", seen.dst);
    assert!(seen.dst[..5] != [1, 0x80, 0xc2, 0, 0] || seen.dst[5] > 15, "{:x?}", seen.dst);
    let pod = matches!(from, From::Pod | From::Other);
    let routed = seen.src == GATEWAY[0];
    assert!(routed || !pod || seen.src == mac_of(from), "{:x?}", seen.src);
    assert!(from != From::Uplink || routed, "not routed, from the tunnel");
    assert!(!(tagged && pod && routed), "routed with a tag");
    if seen.ethertype == 0x0806 && pod {
        assert_eq!(bytes[22..28], mac_of(from), "the sender");
        let own = OWN[usize::from(from == From::Other)];
        assert!(bytes[28..32] == own || bytes[28..32] == [0; 4], "{:?}", &bytes[28..32]);
        let question = bytes[20..22] == [0, 1] && bytes[28..32] != bytes[38..42];
        assert!(tagged || !group || to == From::Host || !question, "pods are not asked");
    }
    if let Some(ip) = &seen.ip {
        assert_source(from, ip.src);
        assert!(!pod || !matches!(ip.nd, Some(134 | 137)), "a router's message");
        let pods_business = ip.nd != Some(133) && !ip.asks;
        assert!(!pod || tagged || !group || to == From::Host || pods_business, "pods are not asked");
        assert!(!routed || from == From::Host || ip.routable, "{ip:?}");
    } else {
        assert!(!routed || from == From::Host, "routed, but not IP");
    }
}

/// Pods send from their own addresses only; a link-local one does not leave the segment, which is asserted by `routable`.
fn assert_source(from: From, src: IpAddr) {
    let pod = match from {
        From::Pod => 0,
        From::Other => 1,
        From::Host | From::Uplink => return,
    };
    let own = match src {
        IpAddr::V4(v4) => v4 == Ipv4Addr::from(OWN[pod]),
        IpAddr::V6(v6) => v6 == own6(pod) || v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    assert!(own, "{src} is not of {from:?}");
}

#[derive(Debug)]
struct Seen {
    dst: [u8; 6],
    src: [u8; 6],
    ethertype: u16,
    ip: Option<SeenIp>,
}

#[derive(Debug)]
struct SeenIp {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// The ICMPv6 type, of what is no fragment.
    nd: Option<u8>,
    /// A neighbour solicitation for another's address.
    asks: bool,
    /// The gateway's own word: an ICMP error.
    told: bool,
    routable: bool,
}

/// Reads a frame with etherparse; fails where an IP header contradicts itself or the frame.
fn look_at(bytes: &[u8]) -> Seen {
    let (eth, payload) = etherparse::Ethernet2Header::from_slice(bytes).expect("an Ethernet header");
    let ip = match eth.ether_type.0 {
        0x0800 => {
            let ip = Ipv4HeaderSlice::from_slice(payload).expect("an IPv4 header");
            // Over the bytes: etherparse's own forgets the reserved flag.
            let words = ip.slice().chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            assert_eq!(words.sum::<u32>() % 0xffff, 0, "the header's checksum");
            assert!(usize::from(ip.total_len()) <= payload.len());
            let (src, dst) = (ip.source_addr(), ip.destination_addr());
            let routable =
                [src, dst].iter().all(|a| !a.is_loopback() && !a.is_multicast() && !a.is_unspecified());
            let told = src.octets() == [10, 244, 0, 1]
                && ip.protocol().0 == 1
                && matches!(payload.get(ip.slice().len()), Some(3 | 11));
            let protocol = ip.protocol().0;
            Some(SeenIp { src: src.into(), dst: dst.into(), protocol, nd: None, asks: false, told, routable })
        }
        0x86dd => {
            let ip = Ipv6HeaderSlice::from_slice(payload).expect("an IPv6 header");
            assert!(40 + usize::from(ip.payload_length()) <= payload.len());
            let (src, dst) = (ip.source_addr(), ip.destination_addr());
            let after = &payload[40..40 + usize::from(ip.payload_length())];
            let (extensions, protocol, rest, _) =
                Ipv6ExtensionsSlice::from_slice_lax(ip.next_header(), after);
            let whole = protocol.0 == 58 && !extensions.is_fragmenting_payload();
            let nd = rest.first().copied().filter(|_| whole);
            let asks = nd == Some(135) && rest.get(8..24) != Some(&src.octets()[..]);
            let told = src.octets() == v6("fd00:10:244::1") && matches!(nd, Some(1..=3));
            let routable = [src, dst]
                .iter()
                .all(|a| !a.is_loopback() && !a.is_multicast() && !a.is_unicast_link_local());
            Some(SeenIp { src: src.into(), dst: dst.into(), protocol: protocol.0, nd, asks, told, routable })
        }
        _ => None,
    };
    Seen { dst: eth.destination, src: eth.source, ethertype: eth.ether_type.0, ip }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn nothing_leaves_that_the_tables_exclude(
        underlay in select(vec![Underlay::V4, Underlay::V6]),
        mtu in select(vec![576usize, 1000, 1500]),
        caps in select(vec![TxCaps::NONE, TxCaps::ALL, TxCaps { partial_checksum: true, ..TxCaps::NONE }]),
        bursts in vec((select(vec![From::Pod, From::Other, From::Host, From::Uplink]), vec(any_harm(), 1..70)), 1..4),
    ) {
        let mut room = if mtu == 1500 { Room::new(underlay, caps) } else { Room::with_mtu(underlay, caps, mtu) };
        for (from, harms) in bursts {
            let good = good_frames(from);
            room.burst(from, harms.iter().map(|harm| harm.frame(&good)).collect());
        }
    }

    #[test]
    fn noise_goes_nowhere(
        from in select(vec![From::Pod, From::Other, From::Host, From::Uplink]),
        frames in vec(vec(vec(any::<u8>(), 0..100), 1..4), 1..70),
    ) {
        let mut room = Room::new(Underlay::V4, TxCaps::NONE);
        let frames = frames.iter().map(|segments| {
            let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
            HeapBuf::from_segments(&segments)
        });
        room.burst(from, frames.collect());
    }
}

/// What is done to the frames above must not be so much that none gets through.
#[test]
fn the_good_frames_are_good() {
    for (from, least) in [(From::Pod, 40), (From::Other, 40), (From::Host, 20), (From::Uplink, 10)] {
        let mut room = Room::new(Underlay::V4, TxCaps::NONE);
        let good = good_frames(from);
        let drops = |room: &Room| room.node.all_drops();
        let passed = good
            .iter()
            .filter(|bytes| {
                let before = drops(&room);
                room.burst(from, vec![HeapBuf::from_bytes(bytes)]);
                drops(&room) == before
            })
            .count();
        assert!(passed >= least, "{passed} of {} from {from:?}", good.len());
    }
}
