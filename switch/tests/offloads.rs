//! Every kind of frame that comes in, by every way out: what leaves is finished as far as the far side wants it, and says the same.
//! Read by [`packets::read`], which shares nothing with the switch.

mod packets;
mod world;

use packets::{OTHER, Packet, Seen, TCP, UDP, pseudo, read};
use smoltcp::wire::{IpAddress, UdpPacket};
use weft_switch::offload::{Checksum, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::Port;
use weft_switch::types::PortId;

use world::{GATEWAY, HOST_MAC, Node, POD_MAC, UPLINK, UPLINK_MAC, Underlay, VTEP_MAC};

const UNDERLAYS: [Underlay; 2] = [Underlay::V4, Underlay::V6];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 9];
/// Payload bytes of what a frame is cut into.
const SIZE: usize = 1300;

/// How a frame comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Complete,
    Verified,
    Partial,
    Gso,
    Tunnel,
    TunnelVerified,
    TunnelPartial,
    TunnelGso,
}

impl In {
    const ALL: [Self; 8] = [
        Self::Complete,
        Self::Verified,
        Self::Partial,
        Self::Gso,
        Self::Tunnel,
        Self::TunnelVerified,
        Self::TunnelPartial,
        Self::TunnelGso,
    ];

    fn is_tunnel(self) -> bool {
        matches!(self, Self::Tunnel | Self::TunnelVerified | Self::TunnelPartial | Self::TunnelGso)
    }
}

/// By which way it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Out {
    Bridged(TxCaps),
    Routed(TxCaps),
    Host(TxCaps),
    Tunnel { cuts: bool },
}

const TCP_ONLY: TxCaps = TxCaps { gso_udp: false, ..TxCaps::ALL };
const CHECKSUM_ONLY: TxCaps = TxCaps { partial_checksum: true, ..TxCaps::NONE };

fn ways_out() -> Vec<Out> {
    let mut ways = vec![Out::Tunnel { cuts: false }, Out::Tunnel { cuts: true }];
    for caps in [TxCaps::ALL, TCP_ONLY, CHECKSUM_ONLY, TxCaps::NONE] {
        ways.extend([Out::Bridged(caps), Out::Routed(caps), Out::Host(caps)]);
    }
    ways
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// One packet.
    Small,
    /// Several packets' worth, the last shorter: one frame to be cut, or the packets themselves in a row.
    Large,
    Fragment,
}

/// The packets that are sent, as they would be on a wire.
fn sent(protocol: u8, v6: bool, length: Length, from: In, out: Out) -> Vec<Packet> {
    let at = usize::from(v6);
    // Node B is the switch; A is behind its tunnel.
    let (pod, far, other, host) = (
        ["10.244.1.7", "fd00:10:244:1::5"][at],
        ["10.244.0.5", "fd00:10:244::5"][at],
        ["10.244.1.9", "fd00:10:244:1::6"][at],
        ["192.0.2.1", "2001:db8::1"][at],
    );
    let protocol = if protocol == 1 && v6 { 58 } else { protocol };
    let src = if from.is_tunnel() { far } else { pod };
    let dst = match out {
        Out::Bridged(_) | Out::Routed(_) => other,
        Out::Host(_) => host,
        Out::Tunnel { .. } => far,
    };
    let mut packet = Packet::new(protocol, src, dst, 100);
    (packet.dst_mac, packet.src_mac) = match (from.is_tunnel(), out) {
        (true, _) => (VTEP_MAC[1], VTEP_MAC[0]),
        (false, Out::Bridged(_)) => (OTHER_MAC, POD_MAC[1]),
        (false, _) => (GATEWAY[1], POD_MAC[1]),
    };
    match length {
        Length::Small => vec![packet],
        Length::Fragment => {
            (packet.fragment, packet.payload) = (0x2000, packets::pattern(0, 96));
            let last = Packet { fragment: 12, payload: packets::pattern(96, 50), ..packet.clone() };
            vec![packet, last]
        }
        Length::Large => {
            packet.payload = packets::pattern(0, SIZE);
            let mut packets = vec![packet];
            for len in [SIZE, SIZE, SIZE, 700] {
                packets.push(packets[packets.len() - 1].next(len));
            }
            packets.last_mut().unwrap().flags |= 0x08;
            packets
        }
    }
}

/// The frames in which these packets come in.
fn frames(packets: &[Packet], from: In, underlay: Underlay) -> Vec<HeapBuf> {
    let whole = || {
        let last = packets.last().unwrap();
        let payload = packets.iter().flat_map(|packet| packet.payload.iter().copied()).collect();
        vec![Packet { payload, flags: last.flags, ..packets[0].clone() }.gso(SIZE as u16)]
    };
    let each = |form: fn(&Packet) -> HeapBuf| packets.iter().map(form).collect::<Vec<_>>();
    let inner = match from {
        In::Complete | In::Tunnel | In::TunnelVerified => each(Packet::complete),
        In::Verified => each(Packet::verified),
        In::Partial | In::TunnelPartial => each(Packet::partial),
        In::Gso | In::TunnelGso => whole(),
    };
    if !from.is_tunnel() {
        return inner;
    }
    inner.iter().map(|frame| tunnelled(frame, underlay, from)).collect()
}

fn outer_addresses(underlay: Underlay, from_b: bool) -> (Vec<u8>, Vec<u8>) {
    let node = |number: u8| match underlay {
        Underlay::V4 => vec![172, 16, 0, number],
        Underlay::V6 => {
            format!("fd00:172:16::{number}").parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()
        }
    };
    if from_b { (node(2), node(1)) } else { (node(1), node(2)) }
}

/// As A's VTEP sends it, or as its kernel hands it over on the same machine.
fn tunnelled(inner: &HeapBuf, underlay: Underlay, from: In) -> HeapBuf {
    let (src, dst) = outer_addresses(underlay, false);
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner.to_vec()].concat();
    let mut outer = Packet { src, dst, ..Packet::new(UDP, "172.16.0.1", "172.16.0.2", 0) };
    (outer.dst_mac, outer.src_mac) = (UPLINK_MAC[1], UPLINK_MAC[0]);
    (outer.ports, outer.fragment, outer.payload) = ((40_000, 8472), 0, payload);
    let mut frame = outer.complete();
    let Offload { checksum, gso } = inner.offload();
    let checksum = match checksum {
        Checksum::Partial { start, offset } => {
            Checksum::Partial { start: start + outer.l4() as u16 + 16, offset }
        }
        _ if from == In::TunnelVerified => Checksum::Verified,
        checksum => checksum,
    };
    frame.set_offload(Offload { checksum, gso });
    frame
}

/// Takes the outer headers off a packet that left by the tunnel, and checks them.
fn untunnelled(frame: &HeapBuf, underlay: Underlay, cuts: bool) -> (Vec<u8>, Offload) {
    let bytes = frame.to_vec();
    let (src, dst) = outer_addresses(underlay, true);
    let l4 = if underlay == Underlay::V4 { 34 } else { 54 };
    let state = frame.offload();
    let udp = &bytes[l4..];
    assert_eq!((&bytes[..6], &bytes[6..12]), (&UPLINK_MAC[0][..], &UPLINK_MAC[1][..]));
    assert_eq!((&udp[2..4], &udp[8..16]), (&8472u16.to_be_bytes()[..], &[8, 0, 0, 0, 0, 0, 1, 0][..]));
    let inner = bytes[l4 + 16..].to_vec();
    let length = (u16::from_be_bytes([udp[4], udp[5]]), (udp.len() & 0xffff) as u16);
    assert_eq!(length.0, length.1, "the outer UDP length");
    let unfinished = state != Offload::default();
    assert!(cuts || (state.gso.is_none() && !unfinished), "{state:?}");
    let Checksum::Partial { start, offset } = state.checksum else {
        // Over IPv6 the checksum must be there, over IPv4 it is not.
        let view = UdpPacket::new_checked(udp).unwrap();
        let address = |bytes: &[u8]| -> IpAddress {
            std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into()
        };
        match underlay {
            Underlay::V4 => assert_eq!(view.checksum(), 0),
            Underlay::V6 => assert!(view.verify_checksum(&address(&src), &address(&dst))),
        }
        assert!(bytes.len() <= 14 + 1500, "no more than the underlay carries");
        return (inner, state);
    };
    if usize::from(start) == l4 {
        // Only the outer one is missing.
        assert_eq!((offset, state.gso), (6, None));
        assert_eq!(u16::from_be_bytes([udp[6], udp[7]]), pseudo(&src, &dst, UDP, udp.len()));
        return (inner, Offload::default());
    }
    assert_eq!(udp[6..8], [0, 0], "left to who sends it");
    assert!(state.gso.is_some() || bytes.len() <= 14 + 1500);
    let checksum = Checksum::Partial { start: start - (l4 + 16) as u16, offset };
    (inner, Offload { checksum, gso: state.gso })
}

fn node(underlay: Underlay, out: Out) -> (Node, MemPort) {
    let caps = match out {
        Out::Bridged(caps) | Out::Routed(caps) | Out::Host(caps) => caps,
        Out::Tunnel { .. } => TxCaps::NONE,
    };
    let mut node = Node::new(1, underlay, 1, TxCaps::NONE);
    let other = MemPort::with_caps(caps);
    node.host.set_caps(caps);
    node.add_pod(0, [10, 244, 1, 9], OTHER_MAC, &other);
    if out == (Out::Tunnel { cuts: true }) {
        node.uplink.set_caps(TxCaps::TUNNEL);
        let mut tables = node.tables();
        let id = PortId::new(UPLINK).unwrap();
        let uplink = Port { tunnel_gso: true, ..tables.ports.get(id).unwrap().clone() };
        tables.ports.insert(id, uplink);
        node.switch.publish(tables);
    }
    node.switch.step();
    (node, other)
}

/// What left, as the far side gets it.
fn left(node: &Node, other: &MemPort, underlay: Underlay, out: Out) -> Vec<Seen> {
    match out {
        Out::Bridged(_) | Out::Routed(_) => {
            other.take().iter().map(|frame| read(&frame.to_vec(), frame.offload())).collect()
        }
        Out::Host(_) => node.host.take().iter().map(|frame| read(&frame.to_vec(), frame.offload())).collect(),
        Out::Tunnel { cuts } => {
            let left = node.uplink.take();
            left.iter()
                .map(|frame| {
                    let (inner, state) = untunnelled(frame, underlay, cuts);
                    read(&inner, state)
                })
                .collect()
        }
    }
}

/// What a far side that takes `caps` may be given of these packets, which came in as `frames` frames.
fn assert_taken(seen: &[Seen], caps: TxCaps, what: &str) {
    for Seen { packet, size, partial } in seen {
        assert!(!partial || caps.partial_checksum || caps.gso_tunnel, "{what}");
        let takes = caps.gso_tunnel
            || match (packet.protocol, packet.v6()) {
                (UDP, _) => caps.gso_udp,
                (_, false) => caps.gso_tcp4,
                (_, true) => caps.gso_tcp6,
            };
        assert!(size.is_none() || takes, "{what}");
    }
}

#[test]
fn every_frame_by_every_way_out() {
    let mut cells = 0;
    for underlay in UNDERLAYS {
        for from in In::ALL {
            for out in ways_out() {
                for (protocol, v6) in [
                    (TCP, false),
                    (TCP, true),
                    (UDP, false),
                    (UDP, true),
                    (1, false),
                    (1, true),
                    (OTHER, false),
                    (OTHER, true),
                ] {
                    for length in [Length::Small, Length::Large, Length::Fragment] {
                        let cuttable = matches!(protocol, TCP | UDP);
                        let unfinished = matches!(from, In::Partial | In::TunnelPartial);
                        let gso = matches!(from, In::Gso | In::TunnelGso);
                        let impossible = from.is_tunnel() && matches!(out, Out::Tunnel { .. } | Out::Bridged(_))
                            // What is no packet of its own has no checksum to be filled in, and is not cut.
                            || length == Length::Fragment && (unfinished || gso)
                            || gso && (!cuttable || length == Length::Small)
                            || unfinished && protocol == OTHER;
                        if impossible {
                            continue;
                        }
                        cell(underlay, from, out, (protocol, v6), length);
                        cells += 1;
                    }
                }
            }
        }
    }
    assert!(cells > 2000, "{cells}");
}

fn cell(underlay: Underlay, from: In, out: Out, (protocol, v6): (u8, bool), length: Length) {
    let what = format!("{underlay:?}: {from:?} {length:?}, protocol {protocol} v6 {v6}, by {out:?}");
    let packets = sent(protocol, v6, length, from, out);
    let frames = frames(&packets, from, underlay);
    let (mut node, other) = node(underlay, out);
    let came = if from.is_tunnel() { &node.uplink } else { &node.pod };
    frames.iter().for_each(|frame| came.inject(frame.clone()));
    node.switch.step();
    node.assert_balanced();
    assert_eq!(node.all_drops(), 0, "{what}");

    let seen = left(&node, &other, underlay, out);
    // What goes to the host is routed by its kernel.
    let hops = u8::from(matches!(out, Out::Routed(_) | Out::Tunnel { .. }));
    let expected: Vec<Packet> = packets
        .iter()
        .map(|packet| {
            let mut packet = read(&packet.bytes(), Offload::default()).packet;
            packet.ttl -= hops;
            (packet.dst_mac, packet.src_mac) = match out {
                Out::Bridged(_) => (OTHER_MAC, POD_MAC[1]),
                Out::Routed(_) => (OTHER_MAC, GATEWAY[1]),
                Out::Host(_) => (HOST_MAC[1], GATEWAY[1]),
                Out::Tunnel { .. } => (VTEP_MAC[0], VTEP_MAC[1]),
            };
            packet
        })
        .collect();
    let got: Vec<Packet> = seen.iter().flat_map(Seen::cut).collect();
    assert_eq!(got, expected, "{what}");

    let caps = match out {
        Out::Bridged(caps) | Out::Routed(caps) | Out::Host(caps) => caps,
        Out::Tunnel { cuts } => {
            if cuts {
                TxCaps::TUNNEL
            } else {
                TxCaps::NONE
            }
        }
    };
    assert_taken(&seen, caps, &what);
    // Who takes large frames gets them, also where packets came in.
    let tunnel_gso = caps.gso_tunnel && matches!(from, In::Gso);
    let takes = match protocol {
        UDP => caps.gso_udp,
        TCP => caps.gso_tcp4,
        _ => false,
    };
    let whole = length == Length::Large && (takes || tunnel_gso);
    let frames = if whole { 1 } else { packets.len() };
    assert_eq!(seen.len(), frames, "{what}");
    let unfinished = matches!(from, In::Partial | In::TunnelPartial | In::Gso | In::TunnelGso);
    if unfinished && (caps.gso_tunnel || caps.partial_checksum && frames == 1) {
        assert!(seen.iter().all(|seen| seen.partial), "{what}: passed on as it came");
    }
}
