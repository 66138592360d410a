//! What the switch itself says: its answers to who is behind a port, and its own questions.

use std::net::{IpAddr, Ipv6Addr};

use weft_switch::tables::NextHop;
use weft_switch::types::MacAddr;

use crate::look::{Seen, SeenIp};
use crate::tables::{GATEWAY, HOST, Node, Station, gateways};
use crate::verdict::{Came, ensure};

const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// The address of 16 bytes at `at` in the upper layer.
fn address(frame: &[u8], ip: &SeenIp, at: usize) -> Result<IpAddr, String> {
    let bytes = frame[ip.upper.clone()].get(at..at + 16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    Ok(Ipv6Addr::from(bytes.ok_or("a message cut off")?).into())
}

/// Whether a frame answers somebody who has sent something by the port of index `to`.
pub(crate) fn is_answer(
    node: &Node,
    came: &Came,
    to: usize,
    frame: &[u8],
    seen: &Seen,
) -> Result<(), String> {
    let known = came.sources.contains(&(to, seen.dst));
    if seen.ethertype == 0x0806 {
        let message = frame.get(seen.l3..seen.l3 + 28).ok_or("an ARP message cut off")?;
        let named = IpAddr::from([message[14], message[15], message[16], message[17]]);
        ensure(known && message[6..8] == [0, 2] && message[8..14] == seen.src.0, "no ARP answer")?;
        return holds(node, to, named, seen.src);
    }
    let ip = seen.ip.as_ref().ok_or("no answer")?;
    match (ip.src.is_ipv4(), ip.icmp(frame)) {
        (false, Some(136)) => {
            ensure(known || seen.dst == ALL_NODES, "an advertisement for nobody")?;
            ensure(ip.hops == 255, "an advertisement that has been forwarded")?;
            ensure(ip.checksum_right(frame) == Some(true), "an advertisement with a wrong checksum")?;
            let option = frame[ip.upper.clone()].get(24..32).ok_or("no link-layer address")?;
            ensure(option[..2] == [2, 1] && option[2..] == seen.src.0, "of another station")?;
            holds(node, to, address(frame, ip, 8)?, seen.src)
        }
        (true, Some(0)) | (false, Some(129)) => {
            let asked = known && node.doors[to].station.pod().is_some();
            ensure(asked && gateways().contains(&ip.src), "an echo reply that is not the gateway's")
        }
        (true, Some(3 | 11)) | (false, Some(1..=3)) => {
            let host = node.doors[to].station == Station::Host && seen.dst == HOST;
            // Behind a trusted port the way back may be another than the packet came.
            let way = node.doors[to].station.is_trusted() && node.leads_to(ip.dst, seen.dst, to);
            ensure((known || host || way) && seen.src == GATEWAY, "an error for nobody")?;
            ensure(gateways().contains(&ip.src), "an error that is not the gateway's")?;
            ensure(node.limits.icmp.per_second > 0, "an error where none is to be made")?;
            ensure(ip.checksum_right(frame) == Some(true), "an error with a wrong checksum")
        }
        _ => Err("no answer".to_owned()),
    }
}

/// What the switch answers for somebody else is right.
fn holds(node: &Node, to: usize, address: IpAddr, mac: MacAddr) -> Result<(), String> {
    let right = match node.neighbour(address) {
        _ if gateways().contains(&address) => mac == GATEWAY,
        Some((own, at)) => own == mac && at != to,
        None => mac == GATEWAY && !node.in_subnet(address) && node.route(address).is_some(),
    };
    ensure(right, "an answer that is not so")
}

/// Whether a frame is the router's question for an address of the node's subnets that no table has.
pub(crate) fn is_question(node: &Node, to: usize, frame: &[u8], seen: &Seen) -> Result<(), String> {
    ensure(seen.src == GATEWAY && seen.tags == 0 && seen.dst.is_multicast(), "no question")?;
    let (asker, target) = if seen.ethertype == 0x0806 {
        let message = frame.get(seen.l3..seen.l3 + 28).ok_or("an ARP message cut off")?;
        ensure(message[6..8] == [0, 1] && message[8..14] == GATEWAY.0, "no ARP question")?;
        let at = |at: usize| IpAddr::from([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        (at(14), at(24))
    } else {
        let ip = seen.ip.as_ref().filter(|ip| ip.icmp(frame) == Some(135)).ok_or("no solicitation")?;
        ensure(ip.hops == 255 && ip.checksum_right(frame) == Some(true), "a wrong solicitation")?;
        (ip.src, address(frame, ip, 8)?)
    };
    ensure(gateways().contains(&asker), "a question from another than the gateway")?;
    ensure(node.doors[to].for_unknown, "asked where nobody unknown can be")?;
    ensure(node.limits.solicit.per_second > 0, "asked where nothing is to be asked")?;
    ensure(node.in_subnet(target) && node.ways(target).contains(&NextHop::Local), "asked for what is away")?;
    ensure(node.neighbour(target).is_none(), "asked for what is known")
}
