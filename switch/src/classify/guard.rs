//! What an untrusted pod may send: only from its own addresses, and nothing that is a server's or a router's to say. Looks
//! through 802.1Q tags, since receivers take those of VLAN 0 as none.

use super::route::Family;
use crate::drop_reason::DropReason;
use crate::parse::{Ip, L3, Parsed};
use crate::tables::PodGuard;
use crate::wire::icmpv6;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::{self, Ipv6View};
use std::net::{Ipv4Addr, Ipv6Addr};

/// UDP ports of DHCP: from the first servers and relays send, to the second clients listen (RFC 2131, section 4.1; RFC 8415,
/// section 7.2). A client takes what comes to its port from any.
pub(super) const DHCP: (u16, u16) = (67, 68);
pub(super) const DHCPV6: (u16, u16) = (547, 546);
/// ICMP type (RFC 792).
const REDIRECT: u8 = 5;
/// Bytes of a UDP or ICMP header, and of the least that a fragment in the middle carries.
const SHORT_HEADER: usize = 8;

/// Why the pod may not send this, apart from ARP and neighbour discovery messages.
#[inline]
pub(super) fn refuse(guard: &PodGuard, head: &[u8], parsed: &Parsed) -> Option<DropReason> {
    match parsed.l3 {
        L3::V4(ip) if !ip.src.allowed(guard, ip.protocol) => Some(DropReason::SpoofedIp),
        L3::V6(ip) if !ip.src.allowed(guard, ip.protocol) => Some(DropReason::SpoofedIp),
        L3::V4(ip) if ip.fragment => refuse_fragment4(head, parsed, &ip),
        L3::V6(ip) if ip.fragment => refuse_fragment6(head, parsed, &ip),
        L3::V4(ip) => match ip.protocol {
            IpProtocol::UDP if is_from_server(ip.ports, DHCP) => Some(DropReason::DhcpServer),
            IpProtocol::ICMP if head.get(usize::from(ip.l4)) == Some(&REDIRECT) => Some(DropReason::Redirect),
            _ => None,
        },
        // Extension headers may push the ports behind the first segment: what is not seen may be a server's.
        L3::V6(ip) if ip.protocol == IpProtocol::UDP => {
            let l4 = usize::from(ip.l4);
            let hidden = head.get(l4..l4 + 4).is_none();
            (hidden || is_from_server(ip.ports, DHCPV6)).then_some(DropReason::DhcpServer)
        }
        L3::V6(_) => None,
        L3::Arp | L3::Other => None,
    }
}

#[inline]
pub(super) fn is_from_server(ports: u32, (server, client): (u16, u16)) -> bool {
    (ports >> 16) as u16 == server || ports as u16 == client
}

/// The ports in a UDP header of which at least [`SHORT_HEADER`] bytes are there.
fn ports(udp: &[u8]) -> u32 {
    u32::from_be_bytes([udp[0], udp[1], udp[2], udp[3]])
}

/// Only the first fragment has the transport header; without it the others come to nothing.
#[cold]
fn refuse_fragment4(head: &[u8], parsed: &Parsed, ip: &Ip<Ipv4Addr>) -> Option<DropReason> {
    let header = Ipv4View::new_header_checked(head.get(parsed.l3_offset()..)?).ok()?;
    if header.fragment_offset() != 0 {
        return None;
    }
    let end = parsed.l3_offset() + ip.len as usize;
    let transport = head.get(usize::from(ip.l4)..end.min(head.len())).unwrap_or_default();
    match ip.protocol {
        IpProtocol::UDP | IpProtocol::TCP | IpProtocol::ICMP if transport.len() < SHORT_HEADER => {
            Some(DropReason::FirstFragmentShort)
        }
        IpProtocol::UDP if is_from_server(ports(transport), DHCP) => Some(DropReason::DhcpServer),
        IpProtocol::ICMP if transport[0] == REDIRECT => Some(DropReason::Redirect),
        _ => None,
    }
}

#[cold]
fn refuse_fragment6(head: &[u8], parsed: &Parsed, ip: &Ip<Ipv6Addr>) -> Option<DropReason> {
    let at = parsed.l3_offset();
    let next = Ipv6View::new_header_checked(head.get(at..)?).ok()?.next_header();
    let end = at + ip.len as usize;
    let chain = head.get(at + ipv6::IPV6_LEN..end.min(head.len())).unwrap_or_default();
    let first = ipv6::transport(chain, next).ok()?.fragment.is_some_and(|fragment| fragment.offset == 0);
    if !first {
        return None;
    }
    let transport = head.get(usize::from(ip.l4)..end.min(head.len())).unwrap_or_default();
    let header = match ip.protocol {
        IpProtocol::TCP => 20,
        IpProtocol::SCTP => 12,
        IpProtocol::UDP | IpProtocol::ICMPV6 => SHORT_HEADER,
        _ => 0,
    };
    if transport.len() < header {
        return Some(DropReason::FirstFragmentShort);
    }
    match ip.protocol {
        IpProtocol::UDP if is_from_server(ports(transport), DHCPV6) => Some(DropReason::DhcpServer),
        IpProtocol::ICMPV6 if (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&transport[0]) => {
            Some(DropReason::NdFragment)
        }
        _ => None,
    }
}
