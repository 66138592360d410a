//! The router's part of the usual case: where a destination leads, if that is the same for all packets to it.

use super::super::next_hop::{Target, resolve};
use super::super::route::{Family, nowhere};
use super::super::{Action, Ingress};
use crate::parse::Ip;
use crate::tables::{NO_VTEP, Neighbour, Role, Snapshot};
use crate::types::{MacAddr, PortId};

/// A way out, and the longest IP packet that it carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    /// A neighbour's, as a number.
    mac: u64,
    port: PortId,
    /// This VTEP's instead, if it is below [`NO_VTEP`].
    vtep: u32,
    mtu: u32,
    /// TTL or hop limit less one.
    hop: bool,
}

impl Out {
    #[inline(always)]
    fn action(&self) -> Action {
        let hop = self.hop;
        if self.vtep == NO_VTEP {
            Action::Deliver { to: Neighbour { mac: MacAddr::from_bits(self.mac), port: self.port }, hop }
        } else {
            Action::Encap { vtep: self.vtep, hop }
        }
    }
}

/// What the router goes by.
pub(super) struct By<'a> {
    pub(super) tables: &'a Snapshot,
    pub(super) from: &'a Ingress<'a>,
    pub(super) hop: bool,
    /// What is said of a VTEP will be confirmed.
    pub(super) confirmed: bool,
}

impl By<'_> {
    /// The router's part. `last` is what the packet before has found.
    #[inline(always)]
    pub(super) fn forward<A: Family>(&self, last: &mut Option<(A, Out)>, ip: &Ip<A>) -> Option<Action> {
        let out = match last {
            Some((dst, out)) if *dst == ip.dst => *out,
            _ => {
                let out = self.way_out(ip.dst)?;
                *last = Some((ip.dst, out));
                out
            }
        };
        (ip.len <= out.mtu && (ip.ttl > 1 || !out.hop)).then(|| out.action())
    }

    /// Where `dst` leads, if that is the same for all packets.
    #[inline(always)]
    fn way_out<A: Family>(&self, dst: A) -> Option<Out> {
        let Self { tables, from, hop, confirmed } = *self;
        let to = match resolve(tables, dst) {
            Target::Neighbour(to) => to,
            Target::Hop(to) if to.port != from.id => to,
            // Its kernel routes on, and has an MTU of its own to tell of.
            Target::Direct(_) if matches!(from.port.role, Role::Uplink) => return None,
            Target::Host | Target::Direct(_) => {
                let to = tables.gateway.host.filter(|to| to.port != from.id)?;
                let mac = to.mac.to_bits();
                return Some(Out { mac, port: to.port, vtep: NO_VTEP, mtu: u32::MAX, hop: false });
            }
            Target::Vtep(vtep) if !matches!(from.port.role, Role::Uplink) => {
                tables.vteps.prefetch(vtep);
                let mtu = if confirmed {
                    u32::MAX
                } else {
                    let far = tables.vteps.get(vtep as usize)?;
                    far.encap.as_ref()?;
                    A::tunnel_mtu(tables, far).get() as u32
                };
                return Some(Out { mac: 0, port: from.id, vtep, mtu, hop });
            }
            _ => return None,
        };
        let mtu = tables.ports.get(to.port)?.mtu.get() as u32;
        Some(Out { mac: to.mac.to_bits(), port: to.port, vtep: NO_VTEP, mtu, hop })
    }

    /// What is done with a packet to nobody: who tries addresses sends them again and again.
    pub(super) fn nowhere<A: Family>(&self, dst: A) -> Option<Action> {
        match resolve(self.tables, dst) {
            Target::Nowhere(reason) => Some(nowhere(reason)),
            Target::Unknown => Some(Action::Solicit),
            _ => None,
        }
    }
}
