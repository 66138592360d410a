//! A tunnel packet was too big for a router of the underlay: the control side is told, which makes the way smaller, and
//! so is the sender of the packet in it, where enough of it is quoted (RFC 4459, section 3.2; RFC 2003, section 5.1).

use super::icmp_error::{Quote, may_be_told};
use super::{Applier, Outcome};
use crate::classify::{IcmpError, Way, way_to};
use crate::event::Event;
use crate::packet::{BufPool, PacketBuf};
use crate::parse::{L3, Parsed, TooBig, parse, too_big};
use crate::tables::Snapshot;
use crate::wire::ipv4::Ipv4View;
use crate::wire::vxlan::{VXLAN_LEN, VxlanView};

/// Of the quoted inner packet's payload so much has to be there: what its sender tells its connections apart by (RFC 792).
const TRANSPORT: usize = 8;
/// No IPv4 link carries less (RFC 791).
const LEAST_V4: u16 = 68;

impl<P: BufPool> Applier<'_, P> {
    /// Reads the message, which classify has believed, once more: an action does not carry it.
    #[cold]
    pub(super) fn path_mtu(&mut self, packet: &P::Buf, out: &mut impl Outcome<P>) {
        out.consume();
        let Some(told) = too_big(packet, self.tables) else { return };
        // A limit of its own, before that of what the sender is told: whoever invents such messages keeps neither other
        // events away nor, for long, a true one, which routers repeat.
        if !self.buckets.path_mtu.take(self.tables.limits.path_mtu, self.now) {
            self.counters.events_limited.add(1);
        } else if !self.events.tell(Event::PathMtu { peer: told.peer, mtu: told.mtu }) {
            self.counters.events_lost.add(1);
        }
        let Some((inner, quote, way)) = inner(self.tables, packet.head(), &told) else { return };
        let mtu = told.mtu.saturating_sub(told.overhead).max(LEAST_V4);
        self.tell_sender(packet, &inner, quote, IcmpError::TooBig { mtu }, way, out);
    }
}

/// The packet in the quoted tunnel packet and the way to its sender, if it is one that this node put in there and whose
/// sender is here to be told.
fn inner(tables: &Snapshot, head: &[u8], told: &TooBig) -> Option<(Parsed, Quote, Way)> {
    let seen = head.get(..told.end.min(head.len()))?;
    let vxlan = VxlanView::new_checked(seen.get(told.vxlan..)?).ok().filter(|vxlan| vxlan.is_strict())?;
    let ours = |own: &&crate::tables::LocalVtep| own.vni == vxlan.vni() && own.address == told.local;
    let local = tables.local_vteps.iter().find(ours)?;
    // A quote is a packet that is cut off: its length says more than is there.
    let parsed = parse(seen, usize::MAX, told.vxlan + VXLAN_LEN).ok()?;
    let at = parsed.l3_offset();
    let near = |way: &Way| matches!(way, Way::Neighbour(_));
    let (l4, whole, way, cuttable) = match parsed.l3 {
        L3::V4(ip) => {
            let view = Ipv4View::new_header_checked(seen.get(at..)?).ok()?;
            (ip.l4, ip.len, way_to(tables, ip.src, near)?, !view.dont_fragment())
        }
        L3::V6(ip) => (ip.l4, ip.len, way_to(tables, ip.src, near)?, false),
        _ => return None,
    };
    // What may be cut will be, as soon as the way is known to be smaller.
    let tellable = parsed.src == local.mac && !cuttable && usize::from(l4) + TRANSPORT <= seen.len();
    let quote = Quote { at, len: (told.end - at).min(whole as usize) };
    (tellable && may_be_told(tables, seen, &parsed)).then_some((parsed, quote, way))
}
