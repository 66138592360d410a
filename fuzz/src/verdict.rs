//! Whether a frame may leave by a port. Each port's frames need one explanation: an answer of the switch to who is
//! behind the port, or a frame of somebody else that the tables let through to it. What the switch learns to do one day
//! needs its explanation here.

use std::net::IpAddr;

use weft_switch::offload::finish::takes;
use weft_switch::offload::{Checksum, GsoKind};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::tables::NextHop;
use weft_switch::types::{MacAddr, Mtu};

use crate::look::{self, Seen, SeenIp};
use crate::tables::{Door, GATEWAY, HOST, Node, Station, gateways};

const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// What was sent into the switch before it came to rest.
#[derive(Debug, Default)]
pub struct Came {
    /// By which ports.
    pub doors: Vec<usize>,
    /// From whom, by port.
    pub sources: Vec<(usize, MacAddr)>,
    /// All of it was as its senders must make it.
    pub sound: bool,
}

/// Judges a frame that has left by the port of index `to`.
pub fn judge(node: &Node, came: &Came, to: usize, packet: &HeapBuf) {
    let door = &node.doors[to];
    assert!(door.published && !door.workers.is_empty(), "a port that the switch does not have");
    assert!(takes(door.caps, packet), "{:?} does not take {:?}", door.caps, packet.offload());
    let frame = packet.to_vec();
    let seen = look::read(&frame);
    assert_size(door, packet, &frame, &seen);
    let partial = matches!(packet.offload().checksum, Checksum::Partial { .. });
    if let Some(ip) = seen.ip.as_ref().filter(|_| came.sound && !partial) {
        assert_ne!(ip.checksum_right(&frame), Some(false), "the checksum of {ip:?}");
    }
    let verdict = match door.station {
        Station::Uplink => tunnelled(node, came, packet, &frame, &seen),
        Station::Pod { .. } | Station::Host => on_segment(node, came, to, &frame, &seen),
    };
    if let Err(why) = verdict {
        panic!("{why}: {seen:?}\ncame {came:?}, left by {to}: {door:?}");
    }
}

fn assert_size(door: &Door, packet: &HeapBuf, frame: &[u8], seen: &Seen) {
    // The host takes whatever its TAP takes; its kernel says so where it can't pass a packet on.
    if door.station == Station::Host {
        return;
    }
    let len = match (packet.offload().gso, &seen.ip) {
        (Some(gso), Some(ip)) => {
            let header = match gso.kind {
                GsoKind::Udp => 8,
                GsoKind::Tcp4 | GsoKind::Tcp6 => {
                    frame.get(ip.upper.start + 12).map_or(20, |byte| usize::from(byte >> 4) * 4)
                }
            };
            (ip.upper.start - seen.l3 + header + usize::from(gso.size)).min(ip.len)
        }
        _ => frame.len() - seen.l3,
    };
    assert!(len <= door.mtu.get(), "{len} bytes where {} fit", door.mtu.get());
}

/// A frame to a pod or to the host.
fn on_segment(node: &Node, came: &Came, to: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    let mut whys = Vec::new();
    for from in &came.doors {
        let allowed = if *from == to {
            let answer = is_answer(node, came, to, frame, seen);
            if answer.is_ok() || node.doors[to].station == Station::Host {
                answer
            } else {
                forwarded(node, *from, to, frame, seen)
            }
        } else {
            forwarded(node, *from, to, frame, seen)
        };
        match allowed {
            Ok(()) => return Ok(()),
            Err(why) => whys.push(why),
        }
    }
    Err(format!("no explanation: {whys:?}"))
}

fn is_answer(node: &Node, came: &Came, to: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    let known = came.sources.contains(&(to, seen.dst));
    match (seen.ethertype, &seen.ip) {
        (0x0806, _) => {
            let op = frame.get(seen.l3 + 6..seen.l3 + 8);
            let sender = frame.get(seen.l3 + 8..seen.l3 + 14);
            // Whoever the answer names is of this node.
            let named = sender.is_some_and(|mac| node.macs().iter().any(|known| known.0 == mac));
            ensure(known && op == Some(&[0, 2]) && sender == Some(&seen.src.0) && named, "no ARP answer")
        }
        (_, Some(ip)) => match (ip.src.is_ipv4(), ip.icmp(frame)) {
            (false, Some(136)) => {
                ensure(known || seen.dst == ALL_NODES, "an advertisement for nobody")?;
                ensure(ip.hops == 255, "an advertisement that has been forwarded")?;
                ensure(ip.checksum_right(frame) == Some(true), "an advertisement with a wrong checksum")
            }
            (true, Some(0)) | (false, Some(129)) => {
                ensure(known && gateways().contains(&ip.src), "an echo reply that is not the gateway's")
            }
            (true, Some(3 | 11)) | (false, Some(1..=3)) => {
                ensure(known && gateways().contains(&ip.src), "an error that is not the gateway's")?;
                ensure(ip.checksum_right(frame) == Some(true), "an error with a wrong checksum")
            }
            _ => Err("no answer".to_owned()),
        },
        _ => Err("no answer".to_owned()),
    }
}

fn ensure(fine: bool, why: &str) -> Result<(), String> {
    if fine { Ok(()) } else { Err(why.to_owned()) }
}

/// Whether the tables let this frame through from one port to the other.
fn forwarded(node: &Node, from: usize, to: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    let (from, to) = (&node.doors[from].station, &node.doors[to].station);
    if let Station::Pod { mac, addresses } = from {
        ensure(seen.src == *mac || seen.src == GATEWAY, "from another's MAC address")?;
        own_source(addresses, *mac, frame, seen)?;
    }
    let routed = seen.src == GATEWAY && *from != Station::Host;
    if !routed {
        ensure(*from != Station::Uplink, "bridged out of the tunnel")?;
        ensure(from != to, "bridged back")?;
        let its_own = match to {
            Station::Pod { mac, .. } => seen.dst == *mac,
            Station::Host => seen.dst == HOST,
            Station::Uplink => false,
        };
        let flooded = seen.dst.is_multicast() || !node.macs().contains(&seen.dst);
        // What the host sends may be routed as well as bridged, and is its own affair.
        return ensure(its_own || flooded || *from == Station::Host, "bridged to another's port");
    }
    let ip = seen.ip.as_ref().filter(|_| seen.tags == 0).ok_or("routed, but not IP")?;
    ensure(routable(ip), "routed from or to where nothing is routed")?;
    match to {
        Station::Pod { mac, addresses } => {
            ensure(seen.dst == *mac && addresses.contains(&ip.dst), "routed to another's pod")?;
            ensure(node.route(ip.dst) == Some(NextHop::Local), "routed against the routes")
        }
        Station::Host => {
            ensure(seen.dst == HOST, "routed to nobody")?;
            ensure(matches!(node.route(ip.dst), None | Some(NextHop::Host)), "routed against the routes")
        }
        Station::Uplink => Err("routed to the underlay".to_owned()),
    }
}

/// A pod sends only from its own addresses, in ARP and in tagged frames too, and is no router.
fn own_source(addresses: &[IpAddr], mac: MacAddr, frame: &[u8], seen: &Seen) -> Result<(), String> {
    if seen.ethertype == 0x0806 {
        let message = frame.get(seen.l3..seen.l3 + 28).ok_or("an ARP message cut off")?;
        ensure(message[8..14] == mac.0, "ARP from another's MAC address")?;
        let sender = [message[14], message[15], message[16], message[17]];
        return ensure(
            sender == [0; 4] || addresses.contains(&IpAddr::from(sender)),
            "ARP from another's address",
        );
    }
    let Some(ip) = &seen.ip else { return Ok(()) };
    let own = addresses.contains(&ip.src)
        || match ip.src {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => v6.is_unicast_link_local() || (v6.is_unspecified() && ip.protocol == 58),
        };
    ensure(own, "from another's address")?;
    ensure(ip.src.is_ipv4() || !matches!(ip.icmp(frame), Some(134 | 137)), "a pod that says it is a router")
}

fn routable(ip: &SeenIp) -> bool {
    let multicast = |a: &IpAddr| a.is_multicast() || a.is_unspecified() || a.is_loopback();
    let local = |a: &IpAddr| matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
    ![ip.src, ip.dst].iter().any(|address| multicast(address) || local(address))
}

/// A frame to the underlay: a tunnel packet to a peer whose subnet the inner packet is for.
fn tunnelled(node: &Node, came: &Came, packet: &HeapBuf, frame: &[u8], seen: &Seen) -> Result<(), String> {
    ensure((seen.src, seen.dst) == node.outer_macs() && seen.tags == 0, "not to the underlay's router")?;
    let outer = seen.ip.as_ref().ok_or("not IP")?;
    ensure(outer.protocol == 17 && !outer.fragment && outer.hops == 64, "no tunnel packet")?;
    ensure(outer.len == frame.len() - 14 && outer.src == node.own_address(outer.dst), "the outer header")?;
    let udp = &frame[outer.upper.clone()];
    let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    ensure(
        udp.len() >= 8 + 8 + 14 && usize::from(word(4)) == udp.len() && word(2) == node.port,
        "the UDP header",
    )?;
    ensure((32768..60999).contains(&word(0)), "the UDP source port")?;
    let vni = node.vni.get().to_be_bytes();
    ensure(udp[8..16] == [8, 0, 0, 0, vni[1], vni[2], vni[3], 0], "the VXLAN header")?;
    let inner_frame = &udp[16..];
    let inner = look::read(inner_frame);
    let at = node.vteps.iter().position(|far| far.address == outer.dst && far.mac == inner.dst);
    let at = at.ok_or("to a peer that there is not")?;
    let far = &node.vteps[at];
    ensure(far.resolved && inner.src == node.own_vtep(), "between other VTEPs")?;
    match (packet.offload().checksum, outer.src.is_ipv4() && !far.checksum) {
        (_, true) => ensure(word(6) == 0, "an outer checksum that is not asked for")?,
        (Checksum::Partial { start, offset }, false) => {
            ensure((usize::from(start), offset) == (outer.upper.start, 6), "the outer checksum's place")?;
        }
        (_, false) => ensure(outer.checksum_right(frame) == Some(true), "the outer checksum")?,
    }
    let ip = inner.ip.as_ref().ok_or("not IP in the tunnel")?;
    if came.sound {
        assert_ne!(ip.checksum_right(inner_frame), Some(false), "the inner checksum of {ip:?}");
    }
    // What every IPv6 link has to carry is sent through a small path too.
    let fits = if ip.src.is_ipv4() { far.mtu } else { far.mtu.max(Mtu::SMALLEST_V6) }.get();
    ensure(ip.len == inner_frame.len() - 14 && ip.len <= fits, "the inner length")?;
    ensure(routable(ip), "routed from or to where nothing is routed")?;
    ensure(node.route(ip.dst) == Some(NextHop::Vtep(at as u32)), "routed against the routes")?;
    let explained = came.doors.iter().any(|from| match &node.doors[*from].station {
        Station::Pod { mac, addresses } => own_source(addresses, *mac, inner_frame, &inner).is_ok(),
        Station::Host => true,
        // What is said about a packet out of the tunnel goes back there.
        Station::Uplink => {
            gateways().contains(&ip.src) && matches!(ip.icmp(inner_frame), Some(0..=3 | 11 | 129))
        }
    });
    ensure(explained, "from nobody who may send it")
}
