//! Copies of one frame to several ports: the frame itself is one of them, the others come from the pool.

use super::{Applier, Outcome};
use crate::classify::Scope;
use crate::classify::bridge::payload_len;
use crate::drop_reason::DropReason;
use crate::offload::segment::copy;
use crate::packet::{BufPool, PacketBuf};
use crate::parse::Parsed;

impl<P: BufPool> Applier<'_, P> {
    /// Sends the frame to all ports of `scope` but the one that it came in by, as far as each carries its size. The copies are
    /// limited for each port that frames come in by, since one frame may become hundreds.
    #[cold]
    pub(super) fn flood(&mut self, packet: P::Buf, parsed: &Parsed, scope: Scope, out: &mut impl Outcome<P>) {
        let (tables, from) = (self.tables, self.from);
        let copies = scope.ports(tables).filter(|to| *to != from).count() as u32;
        let mut limit = tables.limits.flood;
        // After a pause one frame can go to the whole segment, however small the limit.
        limit.burst = limit.burst.max(tables.segment.len() as u32);
        if !self.buckets.flood.take_all(copies, limit, self.now) {
            return out.drop(DropReason::FloodLimited);
        }
        let len = payload_len(packet.head(), parsed, packet.offload().gso);
        let ports = scope.ports(tables).filter(|to| *to != from);
        let mut ports = ports.filter_map(|to| Some((to, tables.ports.get(to)?.mtu.get()))).peekable();
        let mut frame = Some(packet);
        while let Some((to, mtu)) = ports.next() {
            // The last of them gets the frame itself.
            let another = ports.peek().is_some();
            if another {
                out.originate(1);
            }
            let made = if len > mtu {
                Err(DropReason::FloodTooBig)
            } else if another {
                frame.as_ref().and_then(|frame| duplicate(self.pool, frame)).ok_or(DropReason::TxNoBuffer)
            } else {
                frame.take().ok_or(DropReason::TxNoBuffer)
            };
            match made {
                Ok(made) => out.send(self.pool, to, made),
                Err(reason) => out.drop_copy(to, reason),
            }
            if !another {
                return;
            }
        }
        out.drop(DropReason::NotForwarded);
    }
}

/// The same bytes in the same state.
fn duplicate<P: BufPool>(pool: &mut P, packet: &P::Buf) -> Option<P::Buf> {
    let mut made = pool.alloc(packet.len())?;
    copy(packet, 0, &mut made, 0);
    made.set_offload(packet.offload());
    Some(made)
}
