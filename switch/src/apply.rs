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
use crate::offload::Checksum;
use crate::offload::finish::finish;
use crate::packet::{BufPool, PacketBuf};
use crate::parse::{Brief, Carries, Parsed};
use crate::port::TxCaps;
use crate::questions::Questions;
use crate::tables::{Neighbour, Snapshot, Vteps};
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::{IPV4_LEN, Ipv4View};
use crate::wire::ipv6::{IPV6_LEN, Ipv6View};

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
    /// Its far ends: behind another pointer, which is followed once a burst.
    pub vteps: &'a Vteps,
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
    pub fn apply(&mut self, mut packet: P::Buf, brief: &Brief, action: Action, out: &mut impl Outcome<P>) {
        if let Some(to) = self.way_out(&packet, brief, action) {
            return match self.change(&mut packet, brief, action) {
                Ok(()) => out.send(self.pool, to, packet),
                Err(reason) => out.drop(reason),
            };
        }
        match action {
            Action::Encap { vtep, hop } if !brief.priority => match self.vteps.quick(vtep) {
                Some(far) => self.tunnel_unfinished(packet, brief, (vtep, far.uplink), hop, out),
                None => out.drop(DropReason::VtepUnresolved),
            },
            Action::Drop(reason) => out.drop(reason),
            _ => self.apply_unusual(packet, brief, action, out),
        }
    }

    /// The port that a packet leaves by which stays one packet and is only changed where it lies ([`Self::change`]); `None` where more is
    /// to be done.
    #[inline(always)]
    pub fn way_out(&self, packet: &P::Buf, brief: &Brief, action: Action) -> Option<PortId> {
        match action {
            Action::Bridge(to) => Some(to),
            Action::Deliver { to, .. } if !brief.priority => Some(to.port),
            Action::Encap { vtep, .. } if !brief.priority => {
                let uplink = self.vteps.quick(vtep)?.uplink;
                (packet.is_plain() || self.goes_as_it_is(packet, uplink)).then_some(uplink)
            }
            _ => None,
        }
    }

    /// Makes of a packet that has a way out what leaves by it.
    #[inline(always)]
    pub fn change(&mut self, packet: &mut P::Buf, brief: &Brief, action: Action) -> Result<(), DropReason> {
        match action {
            Action::Deliver { to, hop } => self.deliver(packet, brief, to, hop),
            Action::Encap { vtep, hop } => {
                trim_to_ip(packet, brief);
                if hop {
                    decrement(packet, brief)?;
                }
                encap::encap(packet, brief, self.vteps, vtep, self.tables.source_ports, self.ident)
            }
            _ => Ok(()),
        }
    }

    /// What few packets ask for: most of it needs more of the headers than a [`Brief`] has.
    #[cold]
    #[inline(never)]
    fn apply_unusual(
        &mut self,
        mut packet: P::Buf,
        brief: &Brief,
        action: Action,
        out: &mut impl Outcome<P>,
    ) {
        if action == Action::PathMtu {
            // A router's message about a tunnel packet: not read as a frame, so there is nothing to read again.
            return self.path_mtu(&packet, out);
        }
        // All others were read, and nothing has written to them since.
        let Some(parsed) = brief.read_again(packet.head()) else { return out.drop(DropReason::EthMalformed) };
        if parsed.priority && action.rewrites() {
            return match priority_tag::strip(&mut packet, &parsed) {
                Ok(untagged) => self.apply(packet, &Brief::of(&untagged, None), action, out),
                Err(reason) => out.drop(reason),
            };
        }
        match action {
            Action::Reject { reason, error } => self.reject(&packet, &parsed, (reason, error), out),
            Action::Flood(scope) => self.flood(packet, &parsed, scope, out),
            Action::Solicit => self.solicit(&packet, &parsed, out),
            Action::Tell { news, then } => {
                self.tell(&packet, &parsed, news);
                self.apply(packet, brief, then.into(), out);
            }
            Action::Consume => out.consume(),
            Action::Hairpin(reply) => match self.reply(&mut packet, &parsed, reply) {
                Ok(()) => out.send(self.pool, self.from, packet),
                Err(reason) => out.drop(reason),
            },
            Action::OnLink { to, hop } => match self.send_on(&mut packet, brief, to, hop) {
                Ok(()) => out.send(self.pool, to.port, packet),
                Err(reason) => out.drop(reason),
            },
            Action::Fragment { way, hop, mtu } => self.fragment(packet, brief, (way, hop, mtu), out),
            // What is usual, and has no priority tag any more.
            Action::Drop(_)
            | Action::PathMtu
            | Action::Bridge(_)
            | Action::Deliver { .. }
            | Action::Encap { .. } => self.apply(packet, &Brief { priority: false, ..*brief }, action, out),
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
                trim_to_ip(packet, &Brief::of(parsed, None));
                hairpin::echo(packet, parsed)
            }
        }
    }

    /// An IP packet to a pod or the host: out of the tunnel where it came from there, then as a router does.
    #[inline]
    fn deliver(
        &mut self,
        packet: &mut P::Buf,
        brief: &Brief,
        to: Neighbour,
        hop: bool,
    ) -> Result<(), DropReason> {
        trim_to_ip(packet, brief);
        if brief.is_in_tunnel() {
            decap::decap(packet, brief)?;
        }
        set_macs(packet, to.mac, self.tables.gateway.mac)?;
        if hop { decrement(packet, brief) } else { Ok(()) }
    }

    /// An IP packet as it is to another node. It did not come from one: it is in no tunnel.
    fn send_on(
        &mut self,
        packet: &mut P::Buf,
        brief: &Brief,
        to: Neighbour,
        hop: bool,
    ) -> Result<(), DropReason> {
        trim_to_ip(packet, brief);
        set_macs(packet, to.mac, self.tables.uplink_mac)?;
        if hop { decrement(packet, brief) } else { Ok(()) }
    }

    /// It is finished, or the uplink cuts while it sends. A frame to be cut whose checksum is filled in already is nothing that it is
    /// told how to.
    fn goes_as_it_is(&self, packet: &P::Buf, uplink: PortId) -> bool {
        let offload = packet.offload();
        offload.is_finished()
            || matches!(offload.checksum, Checksum::Partial { .. })
                && self.tables.ports.get(uplink).is_some_and(|uplink| uplink.tunnel_gso)
    }

    /// The outer checksum cannot be known, and the outer header not be repeated, before the inner packet is finished.
    #[cold]
    fn tunnel_unfinished(
        &mut self,
        mut packet: P::Buf,
        brief: &Brief,
        (vtep, uplink): (u32, PortId),
        hop: bool,
        out: &mut impl Outcome<P>,
    ) {
        trim_to_ip(&mut packet, brief);
        let hopped = if hop { decrement(&mut packet, brief) } else { Ok(()) };
        if let Err(reason) = hopped {
            return out.drop(reason);
        }
        let (vteps, ports, ident) = (self.vteps, self.tables.source_ports, &mut *self.ident);
        let finished = finish(self.pool, packet, TxCaps::NONE, |pool, mut piece| {
            match encap::encap(&mut piece, brief, vteps, vtep, ports, ident) {
                Ok(()) => out.send(pool, uplink, piece),
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

/// Both as one write of twelve bytes.
#[inline(always)]
fn set_macs<B: PacketBuf>(packet: &mut B, dst: MacAddr, src: MacAddr) -> Result<(), DropReason> {
    let macs = packet.head_mut().first_chunk_mut::<12>().ok_or(DropReason::EthMalformed)?;
    macs[..6].copy_from_slice(&dst.0);
    macs[6..].copy_from_slice(&src.0);
    Ok(())
}

/// Cuts off what follows the IP packet: Ethernet padding, or what a tunnel packet's outer lengths left over.
#[inline]
fn trim_to_ip<B: PacketBuf>(packet: &mut B, brief: &Brief) {
    let end = brief.ip_end();
    if brief.is_ip() && packet.len() > end {
        packet.truncate(end);
    }
}

/// One hop further. The frame is untagged and out of its tunnel.
#[inline(always)]
fn decrement<B: PacketBuf>(packet: &mut B, brief: &Brief) -> Result<(), DropReason> {
    match brief.carries {
        Carries::V4 => {
            let frame = packet.head_mut().first_chunk_mut::<{ ETHERNET_LEN + IPV4_LEN }>();
            let frame = frame.ok_or(DropReason::Ipv4Malformed)?;
            Ipv4View::new_unchecked(&mut frame[ETHERNET_LEN..]).decrement_ttl();
        }
        Carries::V6 => {
            let frame = packet.head_mut().first_chunk_mut::<{ ETHERNET_LEN + IPV6_LEN }>();
            let frame = frame.ok_or(DropReason::Ipv6Malformed)?;
            Ipv6View::new_unchecked(&mut frame[ETHERNET_LEN..]).decrement_hop_limit();
        }
        Carries::Other | Carries::Unread => {}
    }
    Ok(())
}
