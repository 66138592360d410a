//! Questions of the router's own: who has an address of the node's subnet that nobody is configured to have. Whoever has it is behind a
//! trusted port, and its answer comes in as any other ARP or neighbour discovery message does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Applier, Outcome};
use crate::classify::{IcmpError, Scope};
use crate::drop_reason::DropReason;
use crate::packet::{BufPool, PacketBuf};
use crate::parse::{L3, Parsed};
use crate::types::MacAddr;
use crate::wire::WireError;
use crate::wire::arp::{self, ArpPacket};
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv6::{IPV6_LEN, Ipv6Header};
use crate::wire::ndp::{HOP_LIMIT, NeighbourSolicit, multicast_mac, solicited_node};

impl<P: BufPool> Applier<'_, P> {
    /// Asks behind every trusted port for the destination of a packet, which itself is dropped: its sender sends again. It is told when
    /// nobody answers.
    #[cold]
    pub(super) fn solicit(&mut self, packet: &P::Buf, parsed: &Parsed, out: &mut impl Outcome<P>) {
        let wanted: IpAddr = match parsed.l3 {
            L3::V4(ip) => ip.dst.into(),
            L3::V6(ip) => ip.dst.into(),
            L3::Arp | L3::Other => return out.drop(DropReason::NotIp),
        };
        if self.tables.gateway.is_nobodys(wanted) {
            return out.drop(DropReason::NoPod);
        }
        let due = self.questions.due(wanted, self.now);
        if due.question && self.buckets.solicit.take(self.tables.limits.solicit, self.now) {
            self.questions.asked(wanted, self.now);
            for to in Scope::Trusted.ports(self.tables) {
                if let Some(question) = self.question(parsed) {
                    out.originate(1);
                    out.send(self.pool, to, question);
                }
            }
        }
        if due.refusal {
            self.reject(packet, parsed, (DropReason::NoPod, IcmpError::HostUnreachable), out);
        } else {
            out.drop(DropReason::NeighbourPending);
        }
    }

    /// The question for the packet's destination, from the gateway's address in its subnet.
    fn question(&mut self, parsed: &Parsed) -> Option<P::Buf> {
        let gateway = &self.tables.gateway;
        match parsed.l3 {
            L3::V4(ip) => {
                let from = gateway.for_v4(ip.dst)?;
                let mut question = self.pool.alloc(ETHERNET_LEN + arp::ARP_LEN)?;
                ask4(question.head_mut(), gateway.mac, from, ip.dst).ok()?;
                Some(question)
            }
            L3::V6(ip) => {
                let from = gateway.for_v6(ip.dst)?;
                let message = NeighbourSolicit { target: ip.dst, source_mac: Some(gateway.mac) };
                let mut question = self.pool.alloc(ETHERNET_LEN + IPV6_LEN + message.len())?;
                ask6(question.head_mut(), gateway.mac, from, &message).ok()?;
                Some(question)
            }
            _ => None,
        }
    }
}

/// An ARP request (RFC 826).
fn ask4(to: &mut [u8], mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Result<(), WireError> {
    let eth = EthernetHeader { dst: MacAddr::BROADCAST, src: mac, ethertype: EtherType::ARP };
    let message = ArpPacket {
        op: arp::REQUEST,
        sender_mac: mac,
        sender_ip: from,
        target_mac: MacAddr::ZERO,
        target_ip: target,
    };
    eth.emit(to)?;
    message.emit(&mut to[ETHERNET_LEN..])?;
    Ok(())
}

/// A neighbour solicitation to the target's group (RFC 4861, section 7.2.2).
fn ask6(to: &mut [u8], mac: MacAddr, from: Ipv6Addr, message: &NeighbourSolicit) -> Result<(), WireError> {
    let group = solicited_node(message.target);
    let eth = EthernetHeader { dst: multicast_mac(group), src: mac, ethertype: EtherType::IPV6 };
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: message.len() as u16,
        next_header: IpProtocol::ICMPV6,
        hop_limit: HOP_LIMIT,
        src: from,
        dst: group,
    };
    eth.emit(to)?;
    header.emit(&mut to[ETHERNET_LEN..])?;
    message.emit(&mut to[ETHERNET_LEN + IPV6_LEN..], from, group)?;
    Ok(())
}
