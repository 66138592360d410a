//! The usual case, read and decided by comparing numbers: an untagged frame, not to be cut, with TCP or UDP over IP without options, whole,
//! to one station. Nearly every packet is one. [`crate::parse`] and [`super::classify`] say the same at greater length; whatever is
//! answered here is what they would answer (`tests` holds both against each other), and what is not is left to them.
//!
//! A burst is gone through in passes, so that table lines that are far away are all on their way before the first is needed: [`Usual::look`]
//! reads the headers, [`Usual::decide`] looks into the tables, and, only where the VTEPs are many, [`Usual::confirm`] looks at them. What the packet before had found is kept in front of each table.
//! Where IPv6 is inside or outside, all of that is done at once ([`Usual::decide_v6`], [`Usual::decide_v6_inside`]).

mod headers;
mod way;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bridge::{refuse_new_source, unconfigured};
use super::guard::{DHCP, DHCPV6, is_from_server};
use super::route::Family;
use super::{Action, ECN_CE, ECN_NOT_ECT, Ingress};
use crate::offload::checksum::udp_checksum_ok;
use crate::packet::PacketBuf;
use crate::parse::{Brief, Ip, L3, Parsed};
use crate::tables::{LocalVtep, NEAR, PodGuard, Role, Snapshot};
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::{ETHERNET_LEN, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::udp::UdpHeader;
use crate::wire::vxlan::FLAG_VNI;
use headers::{Headers, Seen, is_multicast, is_routable, is_to_be_cut, is_unicast, macs, part};
use way::By;

/// A frame's headers, and which way it wants to go. Filled in where it stays: a copy right after it would wait for the writes.
#[derive(Debug, Clone, Copy)]
pub struct Look<A> {
    ip: Ip<A>,
    wish: Wish,
    /// Bytes from the (inner) Ethernet header to the end.
    len: u32,
    outer_ecn: u8,
}

#[derive(Debug, Clone, Copy)]
enum Wish {
    /// It is no usual frame; nothing else holds.
    Unknown,
    /// To the station of this MAC address, as a number.
    Bridge(u64),
    Route,
    /// Out of the tunnel from this peer ([`crate::tables::v4_key`]).
    Decap(u64),
}

impl Look<Ipv4Addr> {
    /// Of no frame yet.
    pub const UNKNOWN: Self = {
        let (src, dst, protocol) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, IpProtocol(0));
        let ip = Ip { src, dst, ttl: 0, ecn: 0, protocol, fragment: false, l4: 0, ports: 0, len: 0 };
        Self { ip, wish: Wish::Unknown, len: 0, outer_ecn: 0 }
    };

    /// What parsing the plain frame would give, whose first bytes `head` are; `None` where that is not known from here.
    pub(crate) fn parsed(&self, head: &[u8]) -> Option<Parsed> {
        if !matches!(self.wish, Wish::Bridge(_) | Wish::Route) {
            return None;
        }
        let eth = EthernetView::new_checked(head).ok()?;
        let (dst, src, l3) = (eth.dst(), eth.src(), L3::V4(self.ip));
        Some(Parsed { l2: 0, len: self.len, dst, src, tags: 0, priority: false, l3 })
    }

    /// Others have decided about the frame: there is nothing to confirm.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.wish = Wish::Unknown;
    }
}

/// Reads and decides the usual frames of one burst. Keyed on all that an answer depends on, and made anew for every burst, so never
/// stale.
pub struct Usual<'a> {
    tables: &'a Snapshot,
    from: &'a Ingress<'a>,
    gateway: u64,
    /// The port is an untrusted pod's.
    guarded: bool,
    /// What comes from the port is forwarded by a router: a hop.
    hop: bool,
    /// A table may be far from the core's caches.
    far: bool,
    /// The VTEPs are: what is decided about them is confirmed later ([`Self::confirm`]), when they have been fetched.
    far_vteps: bool,
    v4: Seen<Ipv4Addr>,
    v6: Seen<Ipv6Addr>,
    bridged: Option<(u64, PortId, usize)>,
}

/// What a tunnel packet carries.
struct Inside<O, I> {
    ip: Ip<I>,
    /// Whose it is.
    peer: O,
    /// Where the inner frame ends.
    end: usize,
    outer_ecn: u8,
}

impl<'a> Usual<'a> {
    /// For a burst from this port.
    pub fn new(tables: &'a Snapshot, from: &'a Ingress<'a>) -> Self {
        Self {
            tables,
            from,
            gateway: tables.gateway.mac.to_bits(),
            guarded: matches!(from.port.role, Role::Pod(_)),
            hop: !matches!(from.port.role, Role::Host),
            far: tables.fdb.is_far()
                || tables.neighbours4.is_far()
                || tables.routes4.is_far()
                || tables.peers.are_far(),
            far_vteps: size_of_val(&*tables.vteps) > NEAR,
            v4: Seen::default(),
            v6: Seen::default(),
            bridged: None,
        }
    }

    /// The headers of a frame from a pod or the host.
    #[inline(always)]
    pub fn look(&mut self, frame: &impl PacketBuf, look: &mut Look<Ipv4Addr>) {
        look.wish = Wish::Unknown;
        if let Some((ip, wish)) = self.look_v4(frame) {
            *look = Look { ip, wish, len: frame.len() as u32, outer_ecn: 0 };
        }
    }

    #[inline(always)]
    fn look_v4(&mut self, frame: &impl PacketBuf) -> Option<(Ip<Ipv4Addr>, Wish)> {
        let head: &[u8; Ipv4Addr::PLAIN] = frame.head().first_chunk()?;
        let (dst, src, ethertype) = macs(part(head, 0));
        if ethertype != Ipv4Addr::ETHERTYPE || is_to_be_cut(frame) {
            return None;
        }
        let ip = Ipv4Addr::read(head, ETHERNET_LEN, frame.len())?;
        if !matches!(ip.protocol, IpProtocol::TCP | IpProtocol::UDP) {
            return None;
        }
        let (mac, address) = self.v4.source;
        if (src != mac || self.guarded && ip.src != address) && !self.admit_v4(src, ip.src) {
            return None;
        }
        if self.guarded && ip.protocol == IpProtocol::UDP && is_from_server(ip.ports, DHCP) {
            return None;
        }
        Some((ip, self.wish(dst, &ip)?))
    }

    /// As [`Self::look`], over IPv6.
    #[inline(always)]
    fn look_v6(&mut self, frame: &impl PacketBuf) -> Option<Look<Ipv6Addr>> {
        let head: &[u8; Ipv6Addr::PLAIN] = frame.head().first_chunk()?;
        let (dst, src, ethertype) = macs(part(head, 0));
        if ethertype != Ipv6Addr::ETHERTYPE || is_to_be_cut(frame) {
            return None;
        }
        let len = frame.len();
        let ip = Ipv6Addr::read(head, ETHERNET_LEN, len)?;
        let (mac, address) = self.v6.source;
        if (src != mac || self.guarded && ip.src != address) && !self.admit_v6(src, &ip) {
            return None;
        }
        if self.guarded && ip.protocol == IpProtocol::UDP && is_from_server(ip.ports, DHCPV6) {
            return None;
        }
        let wish = self.wish(dst, &ip)?;
        Some(Look { ip, wish, len: len as u32, outer_ecn: 0 })
    }

    /// The headers of a tunnel packet, with everything that a receiver must check of the outer ones but who sends it.
    #[inline(always)]
    pub fn look_through(&mut self, frame: &impl PacketBuf, look: &mut Look<Ipv4Addr>) {
        look.wish = Wish::Unknown;
        if let Some(Inside { ip, peer, end, outer_ecn }) = self.look_inside::<Ipv4Addr, Ipv4Addr>(frame) {
            *look = Look { ip, wish: Wish::Decap(peer), len: (end - Ipv4Addr::INNER) as u32, outer_ecn };
        }
    }

    #[inline(always)]
    fn look_inside<O: Headers, I: Headers>(&mut self, frame: &impl PacketBuf) -> Option<Inside<O::Vtep, I>> {
        let (least, inner_ip) = (O::INNER + I::PLAIN, O::INNER + ETHERNET_LEN);
        let head = frame.head().get(..least)?;
        let (_, src, ethertype) = macs(part(head, 0));
        if ethertype != O::ETHERTYPE || !is_unicast(src) || is_to_be_cut(frame) {
            return None;
        }
        let outer = O::read(head, ETHERNET_LEN, frame.len())?;
        let [.., len_high, len_low, sum_high, sum_low] = *part::<8>(head, O::UDP);
        let udp_len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let vxlan = u64::from_be_bytes(*part(head, O::UDP + UdpHeader::LEN));
        let end = O::UDP + udp_len;
        if outer.protocol != IpProtocol::UDP
            || outer.ports as u16 != self.tables.vxlan_port
            || end < least
            || end > ETHERNET_LEN + outer.len as usize
            || vxlan & !(0xff_ffff << 8) != u64::from(FLAG_VNI) << 56
        {
            return None;
        }
        let unsummed = O::UNSUMMED && [sum_high, sum_low] == [0, 0];
        if !unsummed && !udp_checksum_ok(frame, ETHERNET_LEN, O::UDP) {
            return None;
        }
        let vni = (vxlan >> 8) as u32;
        let local = self.local_mac(outer.dst, vni)?;
        let (dst, src, ethertype) = macs(part(head, O::INNER));
        if dst != local || src == local || !is_unicast(src) || ethertype != I::ETHERTYPE {
            return None;
        }
        let ip = I::read(head, inner_ip, end)?;
        if outer.ecn == ECN_CE && ip.ecn == ECN_NOT_ECT || !is_routable(&ip) {
            return None;
        }
        Some(Inside { ip, peer: outer.src.vtep(vni), end, outer_ecn: outer.ecn })
    }

    /// Fetches what [`Self::decide`] will look at, if that is far away.
    #[inline(always)]
    pub fn prefetch(&self, look: &Look<Ipv4Addr>) {
        if self.far {
            self.prefetch_far(look);
        }
    }

    fn prefetch_far(&self, look: &Look<Ipv4Addr>) {
        let tables = self.tables;
        match look.wish {
            Wish::Unknown => return,
            Wish::Bridge(mac) => return tables.fdb.prefetch(&MacAddr::from_bits(mac)),
            Wish::Decap(peer) => tables.peers.prefetch_v4(peer),
            Wish::Route => {}
        }
        tables.routes4.prefetch(look.ip.dst);
        tables.neighbours4.prefetch(&look.ip.dst);
    }

    /// What is to be done with the frame. False, with nothing said, where that is another's to say.
    #[inline(always)]
    pub fn decide(&mut self, look: &Look<Ipv4Addr>, action: &mut Action, to: &mut Brief) -> bool {
        let decided = match look.wish {
            Wish::Unknown => None,
            Wish::Bridge(mac) => self.bridge(mac, look.len),
            Wish::Decap(peer) if !self.accepts::<Ipv4Addr>(peer) => None,
            Wish::Route | Wish::Decap(_) => {
                let by = self.by(self.far_vteps);
                by.forward(&mut self.v4.routed, &look.ip)
            }
        };
        let Some(decided) = decided else { return false };
        *to = brief(look, decided);
        *action = decided;
        true
    }

    #[inline(always)]
    fn by(&self, confirmed: bool) -> By<'a> {
        By { tables: self.tables, from: self.from, hop: self.hop, confirmed }
    }

    /// Whether [`Self::confirm`] has to be asked about what was decided.
    #[inline]
    pub fn must_confirm(&self) -> bool {
        self.far_vteps
    }

    /// Whether the tunnel takes the packet that [`Self::decide`] has sent there. Where not, it is another's to say what is done with
    /// it.
    #[inline(always)]
    pub fn confirm(&self, look: &Look<Ipv4Addr>, action: Action) -> bool {
        let (Action::Encap { vtep, .. }, Wish::Route) = (action, look.wish) else { return true };
        let far = self.tables.vteps.get(vtep as usize);
        far.is_some_and(|far| far.encap.is_some() && look.ip.len as usize <= far.mtu.get())
    }

    /// As [`Self::look`] and [`Self::decide`], over IPv6: at once, so a table that is far away is waited for.
    #[inline]
    pub fn decide_v6(&mut self, frame: &impl PacketBuf) -> Option<(Action, Brief)> {
        let look = self.look_v6(frame)?;
        let action = match look.wish {
            Wish::Bridge(mac) => self.bridge(mac, look.len)?,
            Wish::Route => self.by(false).forward(&mut self.v6.routed, &look.ip)?,
            Wish::Unknown | Wish::Decap(_) => return None,
        };
        Some((action, brief(&look, action)))
    }

    /// As [`Self::look_through`] and [`Self::decide`], where the inner packet or the outer one or both are IPv6.
    pub fn decide_v6_inside(&mut self, frame: &impl PacketBuf) -> Option<(Action, Brief)> {
        let head: &[u8; Ipv6Addr::INNER + ETHERNET_LEN] = frame.head().first_chunk()?;
        let ethertype = |at| macs(part(head, at)).2;
        match (ethertype(0), ethertype(Ipv6Addr::INNER)) {
            (Ipv4Addr::ETHERTYPE, _) => self.through::<Ipv4Addr, Ipv6Addr>(frame),
            (Ipv6Addr::ETHERTYPE, Ipv4Addr::ETHERTYPE) => self.through::<Ipv6Addr, Ipv4Addr>(frame),
            (Ipv6Addr::ETHERTYPE, _) => self.through::<Ipv6Addr, Ipv6Addr>(frame),
            _ => None,
        }
    }

    #[inline(never)]
    fn through<O: Headers, I: Headers>(&mut self, frame: &impl PacketBuf) -> Option<(Action, Brief)> {
        let Inside { ip, peer, end, outer_ecn } = self.look_inside::<O, I>(frame)?;
        if !self.accepts::<O>(peer) {
            return None;
        }
        let action = self.by(false).forward(&mut I::seen(self).routed, &ip)?;
        let look = Look { ip, wish: Wish::Route, len: (end - O::INNER) as u32, outer_ecn };
        Some((action, brief(&look, action)))
    }

    #[inline(always)]
    fn accepts<O: Headers>(&mut self, peer: O::Vtep) -> bool {
        let peers = &self.tables.peers;
        let last = &mut O::seen(self).peer;
        if *last != Some(peer) {
            if !O::accepts(peers, peer) {
                return false;
            }
            *last = Some(peer);
        }
        true
    }

    #[inline(always)]
    fn wish<A: Family>(&self, dst: u64, ip: &Ip<A>) -> Option<Wish> {
        if dst == self.gateway {
            is_routable(ip).then_some(Wish::Route)
        } else {
            (!is_multicast(dst)).then_some(Wish::Bridge(dst))
        }
    }

    /// Whether the port may send from these addresses; remembers them if so.
    #[inline(never)]
    fn admit_v4(&mut self, mac: u64, address: Ipv4Addr) -> bool {
        let admitted = self.admit(mac, |guard| guard.has_v4(address));
        if admitted {
            self.v4.source = (mac, address);
        }
        admitted
    }

    #[inline(never)]
    fn admit_v6(&mut self, mac: u64, ip: &Ip<Ipv6Addr>) -> bool {
        let admitted = self.admit(mac, |guard| ip.src.allowed(guard, ip.protocol));
        if admitted {
            self.v6.source = (mac, ip.src);
        }
        admitted
    }

    fn admit(&self, mac: u64, has: impl FnOnce(&PodGuard) -> bool) -> bool {
        let source = MacAddr::from_bits(mac);
        source.is_unicast()
            && match &self.from.port.role {
                Role::Pod(guard) => guard.mac == source && has(guard),
                Role::Trusted => refuse_new_source(self.tables, self.from, source).is_none(),
                Role::Host => true,
                Role::Uplink => false,
            }
    }

    /// The MAC address of this node's VTEP with this address in this network.
    #[inline(always)]
    fn local_mac<O: Headers>(&mut self, address: O, vni: u32) -> Option<u64> {
        let vtep = address.vtep(vni);
        match O::seen(self).local {
            Some((last, mac)) if last == vtep => Some(mac),
            _ => self.find_local(address, vni),
        }
    }

    #[inline(never)]
    fn find_local<O: Headers>(&mut self, address: O, vni: u32) -> Option<u64> {
        let ip: IpAddr = address.into();
        let ours = |local: &&LocalVtep| local.address == ip && local.vni.get() == vni;
        let mac = self.tables.local_vteps.iter().find(ours)?.mac.to_bits();
        O::seen(self).local = Some((address.vtep(vni), mac));
        Some(mac)
    }

    /// To who is configured to have the address, the host, or a station that was learned.
    #[inline(always)]
    fn bridge(&mut self, mac: u64, len: u32) -> Option<Action> {
        let (to, mtu) = match self.bridged {
            Some((last, to, mtu)) if last == mac => (to, mtu),
            _ => {
                let station = MacAddr::from_bits(mac);
                let configured = self.tables.fdb.get(&station).copied();
                let to = configured.or_else(|| unconfigured(self.tables, self.from, station))?;
                if to == self.from.id {
                    return None;
                }
                let mtu = self.tables.ports.get(to)?.mtu.get();
                self.bridged = Some((mac, to, mtu));
                (to, mtu)
            }
        };
        (len as usize - ETHERNET_LEN <= mtu).then_some(Action::Bridge(to))
    }
}

/// What the stages behind need of a frame that is decided.
#[inline(always)]
fn brief<A: Headers>(look: &Look<A>, action: Action) -> Brief {
    let l4 = look.ip.l4;
    let l3 = l4 - A::LEN as u16;
    let hash = if matches!(action, Action::Encap { .. }) { A::flow_hash(&look.ip) } else { 0 };
    Brief {
        l2: l3 - ETHERNET_LEN as u16,
        l3,
        l4,
        carries: A::CARRIES,
        ecn: look.ip.ecn,
        outer_ecn: look.outer_ecn,
        priority: false,
        len: look.len,
        ip_len: look.ip.len,
        hash,
    }
}

#[cfg(test)]
mod tests;
