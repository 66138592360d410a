//! ARP (RFC 826, RFC 1027, RFC 5227) and neighbour discovery (RFC 4861, RFC 4862): who says what, whether it may be said, and who
//! is to hear of it.
//!
//! weft answers for the gateway and for what it routes to with the gateway's MAC address, and for pods of the node
//! with their own. Only stations behind trusted ports can have addresses that it does not know before they speak:
//! questions that it cannot answer go there and nowhere else.
//!
//! | a message | from an untrusted pod | from a trusted port |
//! |---|---|---|
//! | claims an address of another | dropped, and told if somebody has it | dropped and told |
//! | asks for what is known | answered | answered, and the asker's own address is told |
//! | probes for what another has | answered and told | the same |
//! | probes for its own | to the trusted ports and the host | the same |
//! | announces its own | to the whole segment | the same; told |
//! | asks for an unknown address | to the trusted ports | the same |
//! | is for one station | bridged | bridged |

use std::net::{IpAddr, Ipv6Addr};

use super::bridge::bridge;
use super::{Action, Ingress, LastHits, News, Reply, Scope, Then};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::parse::{Ip, L3, Parsed};
use crate::tables::{Neighbour, NextHop, PodGuard, Role, Snapshot};
use crate::types::{MacAddr, PortId};
use crate::wire::arp::{self, ArpView};
use crate::wire::checksum::Sum;
use crate::wire::icmpv6::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, REDIRECT, ROUTER_SOLICITATION};
use crate::wire::ip::IpProtocol;
use crate::wire::ndp::{NeighbourAdvertView, NeighbourSolicitView, RouterSolicitView};

/// What a message says, in either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    /// Where its sender says that an address is.
    claim: Option<(IpAddr, MacAddr)>,
    /// The address that it asks for.
    asks: Option<IpAddr>,
    /// It asks from no address: whether anybody else has it.
    probe: bool,
}

/// Who answers for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The gateway.
    Gateway,
    /// A configured pod of the node.
    Pod(Neighbour),
    /// A station behind a trusted port.
    Station(Neighbour),
    /// Somebody behind a next hop.
    Away,
}

/// The tables, and what the message came in by and in.
struct Context<'a> {
    tables: &'a Snapshot,
    from: &'a Ingress<'a>,
    head: &'a [u8],
    parsed: &'a Parsed,
}

/// What is to be done with an ARP message.
pub(super) fn arp(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
) -> Action {
    let Some((said, sender)) = read_arp(head, parsed) else { return Action::Drop(DropReason::ArpMalformed) };
    if let Role::Pod(guard) = &from.port.role {
        // In a probe too, which claims no address.
        if guard.mac != sender && said.claim.is_none() {
            return Action::Drop(DropReason::SpoofedNeighbour);
        }
    }
    Context { tables, from, head, parsed }.decide(last, said)
}

fn read_arp(head: &[u8], parsed: &Parsed) -> Option<(Said, MacAddr)> {
    let message = ArpView::new_checked(head.get(parsed.l3_offset()..)?).ok()?;
    let (sender, target) = (message.sender_ip(), message.target_ip());
    let probe = sender.is_unspecified();
    // Who asks for its own address tells it.
    let asks = (message.op() == arp::REQUEST && sender != target).then_some(IpAddr::V4(target));
    let claim = (!probe).then_some((IpAddr::V4(sender), message.sender_mac()));
    Some((Said { claim, asks, probe }, message.sender_mac()))
}

/// True for the messages of neighbour discovery, and for those whose type cannot be seen: [`nd`] drops them, where
/// another port's receiver would find it behind the first segment.
#[inline]
pub(super) fn is_nd(ip: &Ip<Ipv6Addr>, head: &[u8]) -> bool {
    ip.protocol == IpProtocol::ICMPV6
        && !ip.fragment
        && matches!(head.get(usize::from(ip.l4)), Some(ROUTER_SOLICITATION..=REDIRECT) | None)
}

/// What is to be done with a neighbour discovery message.
pub(super) fn nd(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    ip: &Ip<Ipv6Addr>,
) -> Action {
    let Some(body) = body_of(head, parsed, ip).filter(|_| ip.ttl == 255) else {
        return Action::Drop(DropReason::NdMalformed);
    };
    if Sum::pseudo_v6(ip.src, ip.dst, IpProtocol::ICMPV6, body.len()).add(body).fold() != 0xffff {
        return Action::Drop(DropReason::NdChecksum);
    }
    let context = Context { tables, from, head, parsed };
    let trusted = !matches!(from.port.role, Role::Pod(_));
    match body.first() {
        Some(&ROUTER_SOLICITATION) => context.router_solicitation(last, body, ip),
        Some(&(NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT)) => match read_nd(body, parsed, ip) {
            Some(said) => context.decide(last, said),
            None => Action::Drop(DropReason::NdMalformed),
        },
        Some(&REDIRECT) if !trusted => Action::Drop(DropReason::Redirect),
        _ if !trusted => Action::Drop(DropReason::RouterAdvertisement),
        _ => context.carry(last, Scope::Segment).into(),
    }
}

fn body_of<'a>(head: &'a [u8], parsed: &Parsed, ip: &Ip<Ipv6Addr>) -> Option<&'a [u8]> {
    head.get(usize::from(ip.l4)..parsed.l3_offset() + ip.len as usize)
}

/// A neighbour solicitation or advertisement. One that names its sender's MAC address in no option claims nothing; an
/// advertisement without the option, which answers a unicast question, speaks of the MAC address that it comes from.
fn read_nd(body: &[u8], parsed: &Parsed, ip: &Ip<Ipv6Addr>) -> Option<Said> {
    if body.first() == Some(&NEIGHBOUR_SOLICITATION) {
        let message = NeighbourSolicitView::new_checked(body).ok()?;
        let source = message.source_link_layer().ok()?;
        let probe = ip.src.is_unspecified();
        // RFC 4861, section 7.1.1.
        if probe && source.is_some() {
            return None;
        }
        let target = message.target();
        let asks = (target != ip.src).then_some(IpAddr::V6(target));
        return Some(Said { claim: source.map(|mac| (IpAddr::V6(ip.src), mac)), asks, probe });
    }
    let message = NeighbourAdvertView::new_checked(body).ok()?;
    let mac = message.target_link_layer().ok()?.unwrap_or(parsed.src);
    // RFC 4861, section 7.1.2.
    if ip.dst.is_multicast() && message.solicited() {
        return None;
    }
    Some(Said { claim: Some((IpAddr::V6(message.target()), mac)), asks: None, probe: false })
}

/// What the control side is told by the message, which the tables made `news` of.
pub fn event(head: &[u8], parsed: &Parsed, port: PortId, news: News) -> Option<Event> {
    let said = match parsed.l3 {
        L3::Arp => read_arp(head, parsed)?.0,
        L3::V6(ip) => read_nd(body_of(head, parsed, &ip)?, parsed, &ip)?,
        _ => return None,
    };
    let (address, mac) = match news {
        News::Probed => (said.asks?, parsed.src),
        News::Neighbour | News::Claimed => said.claim?,
    };
    Some(match news {
        News::Neighbour => Event::Neighbour { port, mac, address },
        News::Claimed | News::Probed => Event::Conflict { port, mac, address },
    })
}

impl Context<'_> {
    fn decide(&self, last: &mut LastHits, said: Said) -> Action {
        let Self { from, parsed, .. } = self;
        let mut public = true;
        let mut news = None;
        if let Some((address, mac)) = said.claim {
            match &from.port.role {
                Role::Pod(guard) => match self.claim_of_pod(guard, address, mac) {
                    Ok(verified) => public = verified,
                    Err(action) => return action,
                },
                // Another VLAN is another segment: what is said there is not known to be about this one.
                Role::Trusted if !parsed.in_vlan() => match self.claim_of_station(address, mac) {
                    Ok(new) => news = new.then_some(News::Neighbour),
                    Err(action) => return action,
                },
                Role::Trusted | Role::Host | Role::Uplink | Role::IpTunnel(_) => {}
            }
        }
        let then = if parsed.in_vlan() {
            if public {
                self.carry(last, Scope::Segment)
            } else {
                Then::Drop(DropReason::NeighbourUnverified)
            }
        } else if let Some(target) = said.asks {
            let (then, taken) = self.answer(last, target, said.probe, public);
            if taken {
                news = Some(News::Probed);
            }
            then
        } else if !public {
            Then::Consume
        } else if said.claim.is_none() && matches!(from.port.role, Role::Pod(_)) {
            // It announces nothing that another could keep.
            self.carry(last, Scope::Probe)
        } else {
            self.carry(last, Scope::Segment)
        };
        match news {
            Some(news) => Action::Tell { news, then },
            None => then.into(),
        }
    }

    /// Whether others may hear what an untrusted pod says of itself.
    fn claim_of_pod(&self, guard: &PodGuard, address: IpAddr, mac: MacAddr) -> Result<bool, Action> {
        let own = match address {
            IpAddr::V4(v4) => guard.has_v4(v4),
            IpAddr::V6(v6) => guard.has_v6(v6) || guard.has_link_local(v6),
        };
        if own && mac == guard.mac {
            return Ok(true);
        }
        let held = self.holder(address);
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if link_local && mac == guard.mac && held.is_none() {
            return Ok(false);
        }
        let spoofed = Then::Drop(DropReason::SpoofedNeighbour);
        // Nobody is harmed by the claim of an address that nobody has.
        Err(match held {
            Some(_) if !self.parsed.in_vlan() => Action::Tell { news: News::Claimed, then: spoofed },
            _ => spoofed.into(),
        })
    }

    /// Whether what a station behind a trusted port says of itself is new.
    fn claim_of_station(&self, address: IpAddr, mac: MacAddr) -> Result<bool, Action> {
        let Self { tables, from, .. } = self;
        let foreign = tables.fdb.get(&mac).is_some_and(|port| *port != from.id);
        let host = tables.gateway.host.is_some_and(|host| host.mac == mac);
        if foreign || host || mac == tables.gateway.mac || !mac.is_unicast() {
            return Err(Action::Drop(DropReason::NeighbourMac));
        }
        if tables.gateway.is_nobodys(address) {
            return Err(Action::Drop(DropReason::NeighbourTaken));
        }
        let here = Neighbour { mac, port: from.id };
        match self.holder(address) {
            None => Ok(tables.in_subnet(address)),
            Some(Holder::Pod(known) | Holder::Station(known)) if known == here => Ok(false),
            Some(Holder::Station(_)) => Ok(true),
            Some(Holder::Pod(_) | Holder::Gateway | Holder::Away) => {
                let then = Then::Drop(DropReason::NeighbourTaken);
                Err(Action::Tell { news: News::Claimed, then })
            }
        }
    }

    /// What is done with a question, and whether it is a probe for an address that another has. `public`: whether another
    /// station may hear it.
    fn answer(&self, last: &mut LastHits, target: IpAddr, probe: bool, public: bool) -> (Then, bool) {
        let Self { tables, from, parsed, .. } = self;
        let own = match (&from.port.role, target) {
            (Role::Pod(guard), IpAddr::V4(v4)) => guard.has_v4(v4),
            (Role::Pod(guard), IpAddr::V6(v6)) => {
                guard.has_v6(v6) || (probe && v6.is_unicast_link_local() && self.holder(target).is_none())
            }
            // The host has the gateway's addresses as well.
            (Role::Host, _) => probe && tables.gateway.has(target),
            (Role::Trusted | Role::Uplink | Role::IpTunnel(_), _) => false,
        };
        if own {
            // Silence means that the address is free: nobody but a trusted station may break it.
            let then = if probe { self.carry(last, Scope::Probe) } else { Then::Consume };
            return (then, false);
        }
        let unicast = !parsed.dst.is_multicast() && parsed.dst != tables.gateway.mac;
        match self.holder(target) {
            Some(Holder::Gateway) => (reply(target, tables.gateway.mac, Holder::Gateway), probe),
            Some(Holder::Away) => (reply(target, tables.gateway.mac, Holder::Away), probe),
            Some(Holder::Pod(to)) if to.port != from.id => (reply(target, to.mac, Holder::Pod(to)), probe),
            // A station that is not there any more would be answered for; it speaks for itself.
            Some(Holder::Station(_)) if probe || unicast => (self.ask(last, public), false),
            Some(Holder::Station(to)) if to.port != from.id => {
                (reply(target, to.mac, Holder::Station(to)), false)
            }
            Some(Holder::Pod(_)) if probe => (self.carry(last, Scope::Probe), false),
            Some(Holder::Pod(_) | Holder::Station(_)) => (Then::Drop(DropReason::SamePort), false),
            None => (self.ask(last, public), false),
        }
    }

    /// Passes a question on that only a station behind a trusted port can answer.
    fn ask(&self, last: &mut LastHits, public: bool) -> Then {
        if !public {
            Then::Drop(DropReason::NeighbourUnverified)
        } else if self.parsed.dst == self.tables.gateway.mac || !self.others(Scope::Trusted) {
            Then::Drop(DropReason::NeighbourUnknown)
        } else {
            self.carry(last, Scope::Trusted)
        }
    }

    /// By its destination: to one station as it is, to a group as far as `scope` goes.
    fn carry(&self, last: &mut LastHits, scope: Scope) -> Then {
        let Self { tables, from, head, parsed } = self;
        if parsed.dst == tables.gateway.mac {
            return if parsed.in_vlan() { Then::Drop(DropReason::VlanTagged) } else { Then::Consume };
        }
        if !parsed.dst.is_multicast() {
            return bridge(tables, last, from, head, parsed, None);
        }
        if self.others(scope) { Then::Flood(scope) } else { Then::Consume }
    }

    fn others(&self, scope: Scope) -> bool {
        scope.ports(self.tables).any(|port| port != self.from.id)
    }

    fn router_solicitation(&self, last: &mut LastHits, body: &[u8], ip: &Ip<Ipv6Addr>) -> Action {
        let source = RouterSolicitView::new_checked(body).ok().and_then(|view| view.source_link_layer().ok());
        let Some(source) = source.filter(|mac| mac.is_none() || !ip.src.is_unspecified()) else {
            return Action::Drop(DropReason::NdMalformed);
        };
        if let (Role::Pod(guard), Some(mac)) = (&self.from.port.role, source) {
            match self.claim_of_pod(guard, ip.src.into(), mac) {
                Ok(true) => {}
                Ok(false) => return Action::Drop(DropReason::NeighbourUnverified),
                Err(action) => return action,
            }
        }
        if self.parsed.dst == self.tables.gateway.mac || !self.others(Scope::Trusted) {
            return Action::Drop(DropReason::RouterSolicitation);
        }
        self.carry(last, Scope::Trusted).into()
    }

    /// Who answers for `address`, if anybody does: never for one that is on the asker's side (RFC 1027).
    fn holder(&self, address: IpAddr) -> Option<Holder> {
        let Self { tables, from, .. } = self;
        if tables.gateway.has(address) {
            return Some(Holder::Gateway);
        }
        if let Some(neighbour) = tables.neighbour(address) {
            let learned = tables.learned.contains_key(&address);
            return Some(if learned { Holder::Station(neighbour) } else { Holder::Pod(neighbour) });
        }
        if tables.in_subnet(address) {
            return None;
        }
        let next_hop = match address {
            IpAddr::V4(v4) => tables.routes4.lookup(v4),
            IpAddr::V6(v6) => tables.routes6.lookup(v6),
        };
        next_hop.is_some_and(|hop| leads_away(tables, from.id, hop)).then_some(Holder::Away)
    }
}

fn reply(target: IpAddr, mac: MacAddr, holder: Holder) -> Then {
    Then::Hairpin(match target {
        IpAddr::V4(_) => Reply::Arp(mac),
        IpAddr::V6(_) => {
            Reply::Neighbour { mac, router: holder == Holder::Gateway, proxy: holder == Holder::Away }
        }
    })
}

/// True for a next hop that is not where the question came from.
fn leads_away(tables: &Snapshot, from: PortId, next_hop: NextHop) -> bool {
    match next_hop {
        NextHop::Vtep(_) | NextHop::OnLink(_) => true,
        NextHop::Direct(_) => tables.gateway.host.is_some_and(|host| host.port != from),
        NextHop::Hop(hop) => tables.hops.get(hop as usize).is_some_and(|hop| hop.port != from),
        NextHop::Group(group) => tables.groups.get(group as usize).is_some_and(|hops| {
            hops.iter().all(|hop| !matches!(hop, NextHop::Group(_)) && leads_away(tables, from, *hop))
        }),
        NextHop::Local | NextHop::Host | NextHop::Unreachable | NextHop::Prohibit | NextHop::Blackhole => {
            false
        }
    }
}
