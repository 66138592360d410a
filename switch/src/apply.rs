//! Apply: carries out the action. Knows nothing but the action, the parsed headers and the tables that the action names.
//! Allocates only where one packet becomes several, or an answer does not fit in the question.

mod decap;
mod encap;
mod flood;
mod fragment;
mod hairpin;
mod icmp_error;
mod path_mtu;
mod priority_tag;
mod solicit;

use crate::classify::{Action, News, Reply, neighbour};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::event::Events;
use crate::limits::{Buckets, NEWS};
use crate::offload::finish::finish;
use crate::offload::{Checksum, Offload};
use crate::packet::{BufPool, PacketBuf};
use crate::parse::{L3, Outer, Parsed};
use crate::port::TxCaps;
use crate::questions::Questions;
use crate::tables::{Neighbour, Snapshot, Vtep};
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::{ETHERNET_LEN, EthernetView};
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::Ipv6View;

/// Where packets end: sent, consumed or dropped.
pub trait Outcome<P: BufPool> {
    /// To be sent to this port. `pool` is for a way out that must cut the packet up.
    fn send(&mut self, pool: &mut P, to: PortId, packet: P::Buf);
    /// Dropped: the packet that came in, or a piece of it.
    fn drop(&mut self, reason: DropReason);
    /// Dropped: the copy for this port of a frame that others may get.
    fn drop_copy(&mut self, to: PortId, reason: DropReason);
    /// It was for weft itself.
    fn consume(&mut self);
    /// The switch has made this many frames more than came in.
    fn originate(&mut self, count: usize);
}

/// What applying needs besides the packet.
pub struct Applier<'a, P: BufPool> {
    /// The current snapshot.
    pub tables: &'a Snapshot,
    /// Where further packets come from.
    pub pool: &'a mut P,
    /// The identification of the last IPv4 header that was made.
    pub ident: &'a mut u16,
    /// Where the burst came in.
    pub from: PortId,
    /// The time of the burst in milliseconds.
    pub now: u64,
    /// What the port has left of what is limited.
    pub buckets: &'a mut Buckets,
    /// What the worker has asked for.
    pub questions: &'a mut Questions,
    /// For what is counted beside the packets' ends.
    pub counters: &'a WorkerCounters,
    /// The way to the control side.
    pub events: &'a Events,
}

impl<P: BufPool> Applier<'_, P> {
    /// Carries out `action` on `packet`, with every outcome told to `out`.
    #[inline]
    pub fn apply(
        &mut self,
        mut packet: P::Buf,
        parsed: &Parsed,
        outer: Option<&Outer>,
        action: Action,
        out: &mut impl Outcome<P>,
    ) {
        let untagged;
        let mut parsed = parsed;
        if parsed.priority && action.rewrites() {
            untagged = match priority_tag::strip(&mut packet, parsed) {
                Ok(untagged) => untagged,
                Err(reason) => return out.drop(reason),
            };
            parsed = &untagged;
        }
        let done = match action {
            Action::Drop(reason) => Err(reason),
            Action::Reject { reason, error } => {
                return self.reject(&packet, parsed, (reason, error), out);
            }
            Action::PathMtu => return self.path_mtu(&packet, out),
            Action::Flood(scope) => return self.flood(packet, parsed, scope, out),
            Action::Solicit => return self.solicit(&packet, parsed, out),
            Action::Tell { news, then } => {
                self.tell(&packet, parsed, news);
                return self.apply(packet, parsed, outer, then.into(), out);
            }
            Action::Consume => {
                out.consume();
                return;
            }
            Action::Bridge(to) => Ok(to),
            Action::Hairpin(reply) => self.reply(&mut packet, parsed, reply).map(|()| self.from),
            Action::Deliver { to, hop } => {
                self.deliver(&mut packet, parsed, outer, to, hop).map(|()| to.port)
            }
            Action::Encap { vtep, hop } => {
                return match self.tables.vteps.get(vtep as usize) {
                    Some(vtep) => self.tunnel(packet, parsed, vtep, hop, out),
                    None => out.drop(DropReason::VtepUnresolved),
                };
            }
            Action::Fragment { way, hop, mtu } => {
                return self.fragment(packet, parsed, outer, (way, hop, mtu), out);
            }
        };
        match done {
            Ok(to) => out.send(self.pool, to, packet),
            Err(reason) => out.drop(reason),
        }
    }

    /// Has the control side hear of a claimed address, unless it hears too much already.
    #[cold]
    fn tell(&mut self, packet: &P::Buf, parsed: &Parsed, news: News) {
        let Some(event) = neighbour::event(packet.head(), parsed, self.from, news) else { return };
        if !self.buckets.news.take(NEWS, self.now) {
            self.counters.events_limited.add(1);
        } else if !self.events.tell(event) {
            self.counters.events_lost.add(1);
        }
    }

    fn reply(&mut self, packet: &mut P::Buf, parsed: &Parsed, reply: Reply) -> Result<(), DropReason> {
        match reply {
            Reply::Arp(mac) => hairpin::arp(packet, parsed, mac),
            Reply::Neighbour { mac, router, proxy } => {
                hairpin::neighbour(self.pool, packet, parsed, mac, (router, proxy))
            }
            Reply::Echo4 | Reply::Echo6 => {
                trim_to_ip(packet, parsed);
                hairpin::echo(packet, parsed)
            }
        }
    }

    /// An IP packet to a pod or the host: out of the tunnel where it came from there, then as a router does.
    #[inline]
    fn deliver(
        &mut self,
        packet: &mut P::Buf,
        parsed: &Parsed,
        outer: Option<&Outer>,
        to: Neighbour,
        hop: bool,
    ) -> Result<(), DropReason> {
        trim_to_ip(packet, parsed);
        if let Some(outer) = outer {
            decap::decap(packet, parsed, outer)?;
        }
        set_macs(packet, to.mac, self.tables.gateway.mac)?;
        if hop { decrement(&mut packet.head_mut()[ETHERNET_LEN..], parsed) } else { Ok(()) }
    }

    #[inline]
    fn tunnel(
        &mut self,
        mut packet: P::Buf,
        parsed: &Parsed,
        vtep: &Vtep,
        hop: bool,
        out: &mut impl Outcome<P>,
    ) {
        trim_to_ip(&mut packet, parsed);
        let hopped = if hop { decrement(&mut packet.head_mut()[ETHERNET_LEN..], parsed) } else { Ok(()) };
        if let Err(reason) = hopped {
            return out.drop(reason);
        }
        if !packet.offload().is_finished() && !self.takes_unfinished(vtep, packet.offload()) {
            return self.tunnel_unfinished(packet, parsed, vtep, out);
        }
        match encap::encap(&mut packet, parsed, vtep, self.tables.source_ports, self.ident) {
            Ok(()) => out.send(self.pool, vtep.uplink, packet),
            Err(reason) => out.drop(reason),
        }
    }

    /// Whether the uplink cuts while it sends. A frame to be cut whose checksum is filled in already is nothing that it is told how to.
    #[inline]
    fn takes_unfinished(&self, vtep: &Vtep, offload: Offload) -> bool {
        matches!(offload.checksum, Checksum::Partial { .. })
            && self.tables.ports.get(vtep.uplink).is_some_and(|uplink| uplink.tunnel_gso)
    }

    /// The outer checksum cannot be known, and the outer header not be repeated, before the inner packet is finished.
    #[cold]
    fn tunnel_unfinished(&mut self, packet: P::Buf, parsed: &Parsed, vtep: &Vtep, out: &mut impl Outcome<P>) {
        let (ports, ident) = (self.tables.source_ports, &mut *self.ident);
        let finished = finish(self.pool, packet, TxCaps::NONE, |pool, mut piece| {
            match encap::encap(&mut piece, parsed, vtep, ports, ident) {
                Ok(()) => out.send(pool, vtep.uplink, piece),
                Err(reason) => out.drop(reason),
            }
        });
        let ends = match finished {
            Ok(given) => given,
            Err(unfinished) => {
                out.drop(unfinished.reason);
                unfinished.given + 1
            }
        };
        out.originate(ends.saturating_sub(1));
    }
}

#[inline]
fn set_macs<B: PacketBuf>(packet: &mut B, dst: MacAddr, src: MacAddr) -> Result<(), DropReason> {
    let mut eth = EthernetView::new_checked(packet.head_mut()).map_err(|_| DropReason::EthMalformed)?;
    eth.set_dst(dst);
    eth.set_src(src);
    Ok(())
}

/// Cuts off what follows the IP packet: Ethernet padding, or what a tunnel packet's outer lengths left over.
#[inline]
fn trim_to_ip<B: PacketBuf>(packet: &mut B, parsed: &Parsed) {
    let len = match parsed.l3 {
        L3::V4(ip) => ip.len,
        L3::V6(ip) => ip.len,
        _ => return,
    };
    let end = parsed.l3_offset() + len as usize;
    if packet.len() > end {
        packet.truncate(end);
    }
}

/// One hop further.
#[inline]
fn decrement(ip: &mut [u8], parsed: &Parsed) -> Result<(), DropReason> {
    match parsed.l3 {
        L3::V4(_) => {
            Ipv4View::new_header_checked(ip).map_err(|_| DropReason::Ipv4Malformed)?.decrement_ttl();
        }
        L3::V6(_) => {
            Ipv6View::new_header_checked(ip).map_err(|_| DropReason::Ipv6Malformed)?.decrement_hop_limit();
        }
        _ => {}
    }
    Ok(())
}
