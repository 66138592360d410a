//! Tells a sender that its packet was not forwarded: ICMP errors (RFC 792, RFC 1812 section 4.3; RFC 4443).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Applier, Outcome, encap, set_macs};
use crate::classify::{IcmpError, Way, way_back};
use crate::drop_reason::DropReason;
use crate::packet::{BufPool, PacketBuf};
use crate::parse::{self, Brief, Ip, L3, Parsed};
use crate::tables::{Gateway, Snapshot};
use crate::types::PortId;
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};
use crate::wire::icmp::{self, ICMP_LEN, IcmpHeader, IcmpView};
use crate::wire::icmpv6::{self, ICMPV6_LEN, Icmpv6Header, Icmpv6View};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{IPV4_LEN, Ipv4Header, Ipv4View};
use crate::wire::ipv6::{self, IPV6_LEN, Ipv6Header, Ipv6View};

/// An error about an IPv4 packet quotes as much of it as fits into so many bytes (RFC 1812, section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// The same for IPv6, which is also what every link must carry (RFC 4443, section 2.4(c)).
const LONGEST_V6: usize = 1280;
const TTL: u8 = 64;
/// Internetwork control: what goes wrong in the network is told before the rest (RFC 1812, section 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;
/// Of the type of service what lies between precedence and ECN: the provoking packet's is kept.
const SERVICE: u8 = 0x1c;

/// The packet that an error is about: which bytes of the buffer.
#[derive(Clone, Copy)]
pub(super) struct Quote {
    /// Where its IP header begins.
    pub(super) at: usize,
    /// How much of it is there.
    pub(super) len: usize,
}

impl<P: BufPool> Applier<'_, P> {
    /// Drops the packet and tells its sender, where that is allowed and not too often.
    #[cold]
    pub(super) fn reject(
        &mut self,
        packet: &P::Buf,
        parsed: &Parsed,
        (reason, error): (DropReason, IcmpError),
        out: &mut impl Outcome<P>,
    ) {
        let at = parsed.l3_offset();
        let len = match parsed.l3 {
            L3::V4(ip) => ip.len,
            L3::V6(ip) => ip.len,
            _ => 0,
        };
        let quote = Quote { at, len: (len as usize).min(packet.len().saturating_sub(at)) };
        if may_be_told(self.tables, packet.head(), parsed) {
            if let Some(way) = way_back(self.tables, self.from, parsed) {
                self.tell_sender(packet, parsed, quote, error, way, out);
            }
        }
        out.drop(reason);
    }

    /// Sends an error about `quote` on its `way`, unless there were too many. Without a free buffer it is not made.
    pub(super) fn tell_sender(
        &mut self,
        packet: &P::Buf,
        parsed: &Parsed,
        quote: Quote,
        error: IcmpError,
        way: Way,
        out: &mut impl Outcome<P>,
    ) {
        if !self.buckets.icmp.take(self.tables.limits.icmp, self.now) {
            self.counters.icmp_limited.add(1);
            return;
        }
        let Some(mut message) = self.message(packet, parsed, quote, error, way) else { return };
        let port = match way {
            Way::Neighbour(to) => {
                set_macs(&mut message, to.mac, self.tables.gateway.mac).ok().map(|()| to.port)
            }
            Way::OnLink(to) => set_macs(&mut message, to.mac, self.tables.uplink_mac).ok().map(|()| to.port),
            Way::Vtep(vtep) => self.tunnel_message(&mut message, vtep),
        };
        let Some(port) = port else { return };
        self.counters.icmp_sent.add(1);
        out.originate(1);
        out.send(self.pool, port, message);
    }

    fn tunnel_message(&mut self, message: &mut P::Buf, vtep: u32) -> Option<PortId> {
        let uplink = self.vteps.get(vtep as usize)?.uplink;
        let parsed = parse::parse(message.head(), message.len(), 0).ok()?;
        let (brief, ports) = (Brief::of(&parsed, None), self.tables.source_ports);
        encap::encap(message, &brief, self.vteps, vtep, ports, self.ident).ok()?;
        Some(uplink)
    }

    /// The error as a frame, its MAC addresses still open.
    fn message(
        &mut self,
        packet: &P::Buf,
        parsed: &Parsed,
        quote: Quote,
        error: IcmpError,
        way: Way,
    ) -> Option<P::Buf> {
        let (ethertype, headers, longest) = match parsed.l3 {
            L3::V4(_) => (EtherType::IPV4, IPV4_LEN + ICMP_LEN, LONGEST_V4),
            L3::V6(_) => (EtherType::IPV6, IPV6_LEN + ICMPV6_LEN, LONGEST_V6),
            _ => return None,
        };
        let mtu = match way {
            Way::Neighbour(to) | Way::OnLink(to) => self.tables.ports.get(to.port)?.mtu,
            Way::Vtep(vtep) => self.tables.vteps.get(vtep as usize)?.mtu,
        };
        let quoted = quote.len.min(longest.min(mtu.get()).checked_sub(headers)?);
        let mut message = self.pool.alloc(ETHERNET_LEN + headers + quoted)?;
        let head = message.head_mut();
        let quote_at = ETHERNET_LEN + headers;
        if packet.read_at(quote.at, head.get_mut(quote_at..quote_at + quoted)?) != quoted {
            return None;
        }
        let macs = EthernetHeader { dst: parsed.src, src: self.tables.gateway.mac, ethertype };
        macs.emit(head).ok()?;
        let ip = &mut head[ETHERNET_LEN..];
        match parsed.l3 {
            L3::V4(about) => {
                let service = *packet.head().get(quote.at + 1)? & SERVICE;
                *self.ident = self.ident.wrapping_add(1).max(1);
                let header = Ipv4Header {
                    dscp: (PRECEDENCE | service) >> 2,
                    ecn: 0,
                    payload_len: (ICMP_LEN + quoted) as u16,
                    ident: *self.ident,
                    dont_fragment: false,
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: TTL,
                    protocol: IpProtocol::ICMP,
                    src: source_v4(&self.tables.gateway, about.src, way)?,
                    dst: about.src,
                    options: Default::default(),
                };
                header.emit(ip).ok()?;
                header_v4(error).emit(&mut ip[IPV4_LEN..]).ok()?;
            }
            L3::V6(about) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: (ICMPV6_LEN + quoted) as u16,
                    next_header: IpProtocol::ICMPV6,
                    hop_limit: TTL,
                    src: source_v6(&self.tables.gateway, about.src)?,
                    dst: about.src,
                };
                header.emit(ip).ok()?;
                header_v6(error).emit(&mut ip[IPV6_LEN..], header.src, header.dst).ok()?;
            }
            _ => return None,
        }
        Some(message)
    }
}

fn header_v4(error: IcmpError) -> IcmpHeader {
    let unreachable = |code| IcmpHeader::error(icmp::DESTINATION_UNREACHABLE, code);
    match error {
        IcmpError::TimeExceeded => IcmpHeader::error(icmp::TIME_EXCEEDED, icmp::CODE_TTL_EXCEEDED),
        IcmpError::NoRoute => unreachable(icmp::CODE_NET_UNREACHABLE),
        IcmpError::HostUnreachable => unreachable(icmp::CODE_HOST_UNREACHABLE),
        // IPv4 has no code for a source's scope: no rejection has it.
        IcmpError::Prohibited | IcmpError::BeyondScope => unreachable(icmp::CODE_PROHIBITED),
        IcmpError::TooBig { mtu } => IcmpHeader::fragmentation_needed(mtu),
    }
}

fn header_v6(error: IcmpError) -> Icmpv6Header {
    let unreachable = |code| Icmpv6Header::error(icmpv6::DESTINATION_UNREACHABLE, code);
    match error {
        IcmpError::TimeExceeded => {
            Icmpv6Header::error(icmpv6::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXCEEDED)
        }
        IcmpError::NoRoute => unreachable(icmpv6::CODE_NO_ROUTE),
        IcmpError::HostUnreachable => unreachable(icmpv6::CODE_ADDRESS_UNREACHABLE),
        IcmpError::Prohibited => unreachable(icmpv6::CODE_PROHIBITED),
        IcmpError::BeyondScope => unreachable(icmpv6::CODE_BEYOND_SCOPE),
        // Less is no MTU of an IPv6 link, and receivers don't believe it (RFC 8200, section 5; RFC 8201, section 4).
        IcmpError::TooBig { mtu } => Icmpv6Header::packet_too_big(u32::from(mtu).max(LONGEST_V6 as u32)),
    }
}

/// From which address the router speaks to `to`: the gateway's in that subnet, else in the first. To the host
/// over IPv4 it is one that the host does not have too, since a kernel takes nothing that comes from its own address: the one
/// that the host's routes name.
fn source_v4(gateway: &Gateway, to: Ipv4Addr, way: Way) -> Option<Ipv4Addr> {
    let host = gateway.host.map(|host| host.port);
    let to_host = matches!(way, Way::Neighbour(to) if Some(to.port) == host);
    let apart = gateway.v4.iter().find(|own| to_host && gateway.for_v4(**own).is_none());
    let first = || gateway.subnets4.first().map(|(_, _, own)| own).or(gateway.v4.first());
    apart.copied().or_else(|| gateway.for_v4(to)).or_else(|| first().copied())
}

/// As [`source_v4`]. To a link-local address it is one itself, if there is one (RFC 6724, section 5, rule 2).
fn source_v6(gateway: &Gateway, to: Ipv6Addr) -> Option<Ipv6Addr> {
    let on_link = |own: &&Ipv6Addr| to.is_unicast_link_local() && own.is_unicast_link_local();
    let first = || gateway.subnets6.first().map(|(_, _, own)| own).or(gateway.v6.first());
    gateway.for_v6(to).or_else(|| gateway.v6.iter().find(on_link).or_else(first).copied())
}

/// Whether an error about this packet may be made (RFC 1812, section 4.3.2.7; RFC 4443, section 2.4(e)). Multicast
/// destinations and sources that are nobody's are not routed, so none of them comes here.
pub(super) fn may_be_told(tables: &Snapshot, head: &[u8], parsed: &Parsed) -> bool {
    let ip = head.get(parsed.l3_offset()..).unwrap_or_default();
    !parsed.dst.is_multicast()
        && match parsed.l3 {
            L3::V4(about) => may_be_told_v4(tables, ip, head, &about),
            L3::V6(about) => may_be_told_v6(ip, head, &about),
            _ => false,
        }
}

fn may_be_told_v4(tables: &Snapshot, ip: &[u8], head: &[u8], about: &Ip<Ipv4Addr>) -> bool {
    let broadcast = |address: Ipv4Addr| {
        let is_last = |net: &Ipv4Addr, len: u8| {
            let hosts = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            len < 31 && address.to_bits() == net.to_bits() | hosts
        };
        tables.gateway.subnets4.iter().any(|(net, len, _)| is_last(net, *len))
    };
    let first = Ipv4View::new_header_checked(ip).is_ok_and(|ip| ip.fragment_offset() == 0);
    let message = head.get(usize::from(about.l4)..).unwrap_or_default();
    let is_error = about.protocol == IpProtocol::ICMP
        && IcmpView::new_checked(message).map_or(true, |message| message.is_error());
    first && !broadcast(about.src) && !broadcast(about.dst) && !is_error
}

fn may_be_told_v6(ip: &[u8], head: &[u8], about: &Ip<Ipv6Addr>) -> bool {
    let Ok(view) = Ipv6View::new_header_checked(ip) else { return false };
    let Ok(transport) = ipv6::transport(view.payload(), view.next_header()) else { return false };
    if !transport.has_header() {
        // What a later fragment belongs to is not seen: it may be an error, unless its header says otherwise.
        return matches!(about.protocol, IpProtocol::TCP | IpProtocol::UDP | IpProtocol::SCTP);
    }
    let message = head.get(usize::from(about.l4)..).unwrap_or_default();
    about.protocol != IpProtocol::ICMPV6
        || Icmpv6View::new_checked(message).is_ok_and(|message| !message.is_error())
}
