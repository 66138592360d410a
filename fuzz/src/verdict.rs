//! Whether a frame may leave by a port. Each port's frames need one explanation: an answer of the switch to who is
//! behind the port, or a frame of somebody else that the tables let through to it. What the switch learns to do one day
//! needs its explanation here.

use std::net::{IpAddr, Ipv6Addr};

use weft_switch::offload::finish::takes;
use weft_switch::offload::{Checksum, GsoKind, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::tables::NextHop;
use weft_switch::types::{MacAddr, Mtu};

use crate::answers::{is_answer, is_question};
use crate::look::{self, Seen, SeenIp};
use crate::tables::{Door, GATEWAY, HOST, Node, OWN_VTEPS, Station, UPLINK, gateways};
use crate::{cut, sum};

/// What was sent into the switch before it came to rest.
#[derive(Debug, Default)]
pub struct Came {
    /// By which ports.
    pub doors: Vec<usize>,
    /// From whom, by port.
    pub sources: Vec<(usize, MacAddr)>,
    /// Some of it may be a tunnel packet that is taken.
    pub tunnel: bool,
    /// Stations that were learned before or are now, and behind which port.
    pub heard: Vec<(MacAddr, usize)>,
    /// Those of them that have been found behind one port all the time, which is trusted.
    pub settled: Vec<(MacAddr, usize)>,
    /// The host has sent from a pod's address at some time, so that the answers to that may have been pinned to it.
    pub pinned: bool,
    /// All of it was as its senders must make it.
    pub sound: bool,
}

/// Judges a frame that has left by the port of index `to`.
pub fn judge(node: &Node, came: &Came, to: usize, packet: &HeapBuf) {
    let door = &node.doors[to];
    assert!(door.published && !door.workers.is_empty(), "a port that the switch does not have");
    assert!(takes(door.caps, packet), "{:?} does not take {:?}", door.caps, packet.offload());
    let (frame, offload) = (packet.to_vec(), packet.offload());
    let inner = cut::inner_of(&frame).filter(|_| door.station == Station::Uplink);
    match inner.filter(|inner| cut::is_unfinished(offload, *inner)) {
        None => judge_frame(node, came, to, &frame, offload, false),
        Some(inner) => {
            assert!(door.tunnel_gso, "{offload:?} by an uplink that gets finished packets\n{frame:02x?}");
            assert_outer(&frame, inner);
            match cut::tunnel_packets(&frame, offload) {
                Ok(packets) => packets
                    .iter()
                    .for_each(|packet| judge_frame(node, came, to, packet, Offload::default(), true)),
                // Whoever sends it leaves it.
                Err(why) => assert!(
                    !came.sound || matches!(why, cut::OPENS | cut::MANY),
                    "{why}: {offload:?}\n{frame:02x?}"
                ),
            }
        }
    }
}

/// The outer headers of a packet whose inner frame is unfinished: lengths are cut off at 16 bits, and there is no checksum
/// so far.
fn assert_outer(frame: &[u8], inner: usize) {
    let (udp, word) = (inner - 16, |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]));
    assert_eq!((word(udp + 4), word(udp + 6)), ((frame.len() - udp) as u16, 0), "{frame:02x?}");
    if frame[14] >> 4 == 4 {
        assert_eq!(word(14 + 2), (frame.len() - 14) as u16, "{frame:02x?}");
        assert_eq!(sum::folded(&frame[14..34]), 0xffff, "{frame:02x?}");
    } else {
        assert_eq!(word(14 + 4), (frame.len() - udp) as u16, "{frame:02x?}");
    }
}

/// Judges a frame as it has left, or one of those that an unfinished tunnel packet stands for.
fn judge_frame(node: &Node, came: &Came, to: usize, frame: &[u8], offload: Offload, by_sender: bool) {
    let door = &node.doors[to];
    let seen = look::read(frame);
    assert_size(door, offload, frame, &seen);
    let partial = matches!(offload.checksum, Checksum::Partial { .. });
    if let Some(ip) = seen.ip.as_ref().filter(|_| came.sound && !partial) {
        assert_ne!(ip.checksum_right(frame), Some(false), "the checksum of {ip:?}");
    }
    let verdict = match door.station {
        Station::Uplink => tunnelled(node, came, (offload, by_sender), frame, &seen),
        Station::Pod { .. } | Station::Trusted { .. } | Station::Host => {
            on_segment(node, came, to, frame, &seen)
        }
    };
    if let Err(why) = verdict {
        panic!("{why}: {seen:?}\n{frame:02x?}\ncame {came:?}, left by {to}: {door:?}");
    }
}

fn assert_size(door: &Door, offload: Offload, frame: &[u8], seen: &Seen) {
    // The host takes whatever its TAP takes; its kernel says so where it can't pass a packet on.
    if door.station == Station::Host {
        return;
    }
    let len = match (offload.gso, &seen.ip) {
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
    let mut whys = vec![is_question(node, to, frame, seen)];
    for from in &came.doors {
        if *from == to {
            whys.push(is_answer(node, came, to, frame, seen));
        }
        whys.push(bridged(node, came, *from, to, frame, seen));
        whys.push(routed(node, came, *from, to, frame, seen));
        whys.push(pinned(node, came, *from, to, frame, seen));
    }
    if whys.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("no explanation: {whys:?}")) }
}

pub(crate) fn ensure(fine: bool, why: &str) -> Result<(), String> {
    if fine { Ok(()) } else { Err(why.to_owned()) }
}

/// Whether the bridge carries this frame from one port to the other.
fn bridged(
    node: &Node,
    came: &Came,
    from: usize,
    to: usize,
    frame: &[u8],
    seen: &Seen,
) -> Result<(), String> {
    let (station, door) = (&node.doors[from].station, &node.doors[to]);
    ensure(*station != Station::Uplink, "bridged out of the tunnel")?;
    ensure(from != to, "bridged back")?;
    ensure(came.sources.contains(&(from, seen.src)), "bridged, but sent by nobody")?;
    ensure(seen.tags <= 2, "with more tags than are looked through")?;
    ensure(!seen.dst.is_reserved() && seen.dst != GATEWAY, "bridged to what bridges do not forward")?;
    match station {
        Station::Pod { mac, addresses } => {
            ensure(seen.src == *mac, "from another's MAC address")?;
            own_source(addresses, *mac, frame, seen)?;
        }
        Station::Trusted { .. } => {
            ensure(!node.is_anothers(seen.src, from), "from another's MAC address")?;
            own_claim(node, from, frame, seen)?;
        }
        Station::Host | Station::Uplink => {}
    }
    let flooded = node.limits.flood.per_second > 0;
    if seen.dst.is_multicast() {
        ensure(flooded, "flooded where nothing is to be")?;
        if matches!(station, Station::Pod { .. }) && !in_vlan(frame, seen) && asks_or_tells(frame, seen) {
            let announced = door.on_segment && announces(frame, seen);
            let may_ask = door.for_unknown || door.station == Station::Host;
            return ensure(may_ask || announced, "other pods need not hear it");
        }
        // A question for somebody unknown goes to the trusted ports, whatever the list of the segment says.
        let asked = door.for_unknown && asks_or_tells(frame, seen);
        return ensure(door.on_segment || asked, "flooded out of the segment");
    }
    if let Some(own) = node.configured(seen.dst) {
        return ensure(own == to, "bridged to another's port");
    }
    if let Some((_, at)) = came.settled.iter().find(|(mac, _)| *mac == seen.dst) {
        return ensure(*at == to, "bridged past where the station is");
    }
    // Also for as long as it took to be heard behind another port.
    let was_heard = came.heard.contains(&(seen.dst, to)) || came.sources.contains(&(to, seen.dst));
    let learned = door.station.is_trusted() && was_heard;
    ensure(learned || (door.for_unknown && flooded), "an unknown station is not looked for there")
}

/// Tagged, and not with a priority tag alone, which is none.
fn in_vlan(frame: &[u8], seen: &Seen) -> bool {
    // A customer's tag with a priority only; a provider's is one, whatever it says.
    let names_none = |tag: &[u8]| tag[..2] == [0x81, 0x00] && tag[2] & 0x0f == 0 && tag[3] == 0;
    let priority = seen.tags == 1 && frame.get(12..16).is_some_and(names_none);
    seen.tags > 0 && !priority
}

/// An ARP message that names its sender and asks for nobody else (whatever else it is), an advertisement, or a solicitation for the sender's own address: caches keep it.
fn announces(frame: &[u8], seen: &Seen) -> bool {
    let advert = |ip: &SeenIp| match (ip.src, ip.icmp(frame)) {
        (IpAddr::V6(_), Some(136)) => true,
        // Who asks for its own address tells it.
        (IpAddr::V6(src), Some(135)) => {
            let at = ip.upper.start + 8;
            frame.get(at..at + 16).is_some_and(|target| target == src.octets())
        }
        _ => false,
    };
    let arp = |message: &[u8]| {
        message[14..18] != [0; 4] && (message[6..8] != [0, 1] || message[14..18] == message[24..28])
    };
    (seen.ethertype == 0x0806 && frame.get(seen.l3..seen.l3 + 28).is_some_and(arp))
        || seen.ip.as_ref().is_some_and(advert)
}

/// ARP, a solicitation or a neighbour advertisement.
fn asks_or_tells(frame: &[u8], seen: &Seen) -> bool {
    let nd = |ip: &SeenIp| !ip.src.is_ipv4() && matches!(ip.icmp(frame), Some(133 | 135 | 136));
    seen.ethertype == 0x0806 || seen.ip.as_ref().is_some_and(nd)
}

/// Whether the router sends this frame, which came by one port, out of the other.
fn routed(node: &Node, came: &Came, from: usize, to: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    ensure(seen.src == GATEWAY, "not from the gateway")?;
    let ip = seen.ip.as_ref().filter(|_| seen.tags == 0).ok_or("routed, but not IP")?;
    ensure(routable(ip), "routed from or to where nothing is routed")?;
    ensure(frame.len() - seen.l3 == ip.len, "routed with what follows the packet")?;
    match &node.doors[from].station {
        Station::Pod { mac, addresses } => own_source(addresses, *mac, frame, seen)?,
        Station::Uplink => ensure(came.tunnel, "out of a tunnel that there is not")?,
        Station::Trusted { .. } | Station::Host => {}
    }
    ensure(node.leads_to(ip.dst, seen.dst, to), "routed against the routes")?;
    // Only a neighbour may be behind the port that the packet came by.
    let near = node.ways(ip.dst).contains(&NextHop::Local) && node.neighbour(ip.dst) == Some((seen.dst, to));
    ensure(from != to || near, "routed back")
}

/// Whether the frame, which came by one port, may be an answer that the host's kernel is to translate.
fn pinned(node: &Node, came: &Came, from: usize, to: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    ensure(came.pinned, "nothing is pinned")?;
    ensure(node.doors[to].station == Station::Host && from != to, "not to the host")?;
    ensure(seen.src == GATEWAY && seen.dst == HOST, "not from the gateway to the host")?;
    let ip = seen.ip.as_ref().filter(|_| seen.tags == 0).ok_or("pinned, but not IP")?;
    ensure(frame.len() - seen.l3 == ip.len, "pinned with what follows the packet")?;
    match &node.doors[from].station {
        Station::Pod { mac, addresses } => own_source(addresses, *mac, frame, seen),
        Station::Uplink => ensure(came.tunnel, "out of a tunnel that there is not"),
        Station::Trusted { .. } | Station::Host => Ok(()),
    }
}

/// A pod sends only from its own addresses, in ARP and in tagged frames too, and is no router and no server.
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
    let upper = &frame[ip.upper.clone()];
    if ip.protocol == 17 && !ip.fragment && upper.len() >= 4 {
        let server: u16 = if ip.src.is_ipv4() { 67 } else { 547 };
        ensure(upper[..2] != server.to_be_bytes(), "a pod that is a DHCP server")?;
    }
    match (ip.src.is_ipv4(), ip.icmp(frame)) {
        (true, Some(5)) => Err("a pod that redirects".to_owned()),
        (false, Some(134 | 137)) => Err("a pod that says it is a router".to_owned()),
        (false, Some(136)) => {
            let target = upper.get(8..24).ok_or("an advertisement cut off")?;
            let target: [u8; 16] = target.try_into().map_err(|_| "an advertisement cut off")?;
            let [a, b, c, d, e, f] = mac.0;
            let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
            let own = target == link_local || addresses.contains(&Ipv6Addr::from(target).into());
            ensure(own, "an advertisement of another's address")
        }
        _ => Ok(()),
    }
}

/// Nobody claims in ARP what a configured pod or the gateway has, trusted or not. Another VLAN is another segment.
fn own_claim(node: &Node, from: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    if seen.ethertype != 0x0806 || seen.tags > 0 {
        return Ok(());
    }
    let message = frame.get(seen.l3..seen.l3 + 28).ok_or("an ARP message cut off")?;
    let sender = [message[14], message[15], message[16], message[17]].into();
    let has = |door: &Door| door.station.pod().is_some_and(|(_, addresses)| addresses.contains(&sender));
    let configured = node.doors.iter().any(has);
    let own = node.neighbour(sender).is_some_and(|(mac, at)| at == from && mac.0 == message[8..14]);
    ensure(!gateways().contains(&sender) && (!configured || own), "a claim of another's address")
}

fn routable(ip: &SeenIp) -> bool {
    let multicast = |a: &IpAddr| a.is_multicast() || a.is_unspecified() || a.is_loopback();
    let local = |a: &IpAddr| matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
    ![ip.src, ip.dst].iter().any(|address| multicast(address) || local(address))
}

/// A frame to the underlay: a tunnel packet to a peer whose subnet the inner packet is for. With it comes its state, and whether
/// whoever sends it has finished it.
fn tunnelled(
    node: &Node,
    came: &Came,
    (offload, by_sender): (Offload, bool),
    frame: &[u8],
    seen: &Seen,
) -> Result<(), String> {
    ensure(seen.src == UPLINK && seen.tags == 0, "not from the uplink")?;
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
    let inner_frame = &udp[16..];
    let inner = look::read(inner_frame);
    let at = node.vteps.iter().position(|far| far.address == outer.dst && far.mac == inner.dst);
    let at = at.ok_or("to a peer that there is not")?;
    let far = &node.vteps[at];
    let vni = node.vnis[far.network].get().to_be_bytes();
    ensure(udp[8..16] == [8, 0, 0, 0, vni[1], vni[2], vni[3], 0], "the VXLAN header")?;
    ensure(node.next_hop_mac(far) == Some(seen.dst), "not to the next hop")?;
    ensure(inner.src == OWN_VTEPS[far.network], "between other VTEPs")?;
    // Who finishes a packet knows by itself whether it fills the outer checksum in.
    let wanted = far.checksum && !by_sender;
    match (offload.checksum, outer.src.is_ipv4() && !wanted) {
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
    ensure(node.ways(ip.dst).contains(&NextHop::Vtep(at as u32)), "routed against the routes")?;
    let explained = came.doors.iter().any(|from| match &node.doors[*from].station {
        Station::Pod { mac, addresses } => own_source(addresses, *mac, inner_frame, &inner).is_ok(),
        Station::Trusted { .. } | Station::Host => true,
        // What is said about a packet out of the tunnel goes back there, and nothing else.
        Station::Uplink => {
            let error = match ip.icmp(inner_frame) {
                Some(kind) if ip.src.is_ipv4() => matches!(kind, 3 | 11),
                kind => matches!(kind, Some(1..=3)),
            };
            let told = node.limits.icmp.per_second > 0 && came.tunnel;
            told && error && ip.hops == 64 && gateways().contains(&ip.src)
        }
    });
    ensure(explained, "from nobody who may send it")
}
