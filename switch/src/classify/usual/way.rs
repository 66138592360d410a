//! The router's part of the usual case: where a destination leads, if that is the same for all packets to it.

use super::super::next_hop::{Target, resolve};
use super::super::route::{Family, nowhere};
use super::super::{Action, Ingress};
use crate::parse::Ip;
use crate::tables::{Neighbour, Role, Snapshot};
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

/// More than there can be.
const NO_VTEP: u32 = u32::MAX;

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
            _ => match self.way_out(ip.dst) {
                Ok(out) => {
                    *last = Some((ip.dst, out));
                    out
                }
                Err(action) => return action,
            },
        };
        (ip.len <= out.mtu && (ip.ttl > 1 || !out.hop)).then(|| out.action())
    }

    /// Where `dst` leads, if that is the same for all packets; else what is done with this one, if that is known from here.
    #[inline(always)]
    fn way_out<A: Family>(&self, dst: A) -> Result<Out, Option<Action>> {
        let Self { tables, from, hop, confirmed } = *self;
        let to = match resolve(tables, dst) {
            Target::Neighbour(to) => to,
            Target::Hop(to) if to.port != from.id => to,
            // Its kernel routes on, and has an MTU of its own to tell of.
            Target::Host => {
                let to = tables.gateway.host.filter(|to| to.port != from.id).ok_or(None)?;
                let mac = to.mac.to_bits();
                return Ok(Out { mac, port: to.port, vtep: NO_VTEP, mtu: u32::MAX, hop: false });
            }
            Target::Vtep(vtep) if !matches!(from.port.role, Role::Uplink) => {
                let far = tables.vteps.get(vtep as usize).ok_or(None)?;
                far.prefetch();
                let mtu = if confirmed {
                    u32::MAX
                } else {
                    far.encap.as_ref().ok_or(None)?;
                    A::tunnel_mtu(tables, far).get() as u32
                };
                return Ok(Out { mac: 0, port: from.id, vtep, mtu, hop });
            }
            // Who looks for somebody finds these again and again.
            Target::Nowhere(reason) => return Err(Some(nowhere(reason))),
            Target::Unknown => return Err(Some(Action::Solicit)),
            _ => return Err(None),
        };
        let mtu = tables.ports.get(to.port).ok_or(None)?.mtu.get() as u32;
        Ok(Out { mac: to.mac.to_bits(), port: to.port, vtep: NO_VTEP, mtu, hop })
    }
}
