//! The usual case, read and decided by comparing numbers: an untagged frame, not to be cut, with TCP or UDP over IP without options, whole,
//! to one station. Nearly every packet is one. [`crate::parse`] and [`super::classify`] say the same at greater length; whatever is
//! answered here is what they would answer (`tests` holds both against each other), and what is not is left to them.
//!
//! A burst is gone through in passes, so that table lines that are far away are all on their way before the first is needed: [`Usual::look`]
//! reads the headers, [`Usual::decide`] looks into the tables, and, only where the VTEPs are many, [`Usual::confirm`] looks at them. What the packet before had found is kept in front of each table.
//! IPv6, and what leads to no pod, is decided apart from these passes ([`Usual::decide_other`]).

mod headers;
mod inside;
mod way;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bridge::{refuse_new_source, unconfigured};
use super::guard::{DHCP, DHCPV6, is_from_server};
use super::route::Family;
use super::{Action, ECN_CE, ECN_NOT_ECT, Ingress};
use crate::packet::PacketBuf;
use crate::parse::{Brief, Carries, Ip, L3, Parsed};
use crate::tables::{LocalVtep, PodGuard, Role, Snapshot, v4_key};
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UdpHeader;
use crate::wire::vxlan::FLAG_VNI;
use headers::{
    INNER, INNER_IP, OUTER_UDP, PLAIN4, PLAIN6, TUNNEL4, is_multicast, is_routable, is_to_be_cut, is_unicast,
    macs, outer_sum_ok, part, read_v4, read_v6,
};
use inside::Inside;
use way::{By, Out};

/// No MAC address has so many bits.
const NOBODY: u64 = u64::MAX;

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
    /// Out of the tunnel from this peer ([`v4_key`]).
    Decap(u64),
}

impl Look<Ipv4Addr> {
    /// Of no frame yet.
    pub const UNKNOWN: Self = {
        let (src, dst, protocol) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, IpProtocol(0));
        let ip = Ip { src, dst, ttl: 0, ecn: 0, protocol, fragment: false, l4: 0, ports: 0, len: 0 };
        Self { ip, wish: Wish::Unknown, len: 0, outer_ecn: 0 }
    };
}

impl Look<Ipv4Addr> {
    /// What parsing the plain frame would give, whose first bytes `head` are; `None` where that is not known from here.
    pub(crate) fn parsed(&self, head: &[u8]) -> Option<Parsed> {
        if !matches!(self.wish, Wish::Bridge(_) | Wish::Route) {
            return None;
        }
        let eth = EthernetView::new_checked(head).ok()?;
        let (dst, src, l3) = (eth.dst(), eth.src(), L3::V4(self.ip));
        Some(Parsed { l2: 0, len: self.len, dst, src, tags: 0, priority: false, l3 })
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
    /// The last source that was let through: MAC and IP address.
    source4: (u64, Ipv4Addr),
    source6: (u64, Ipv6Addr),
    /// The local VTEP of the last tunnel packet: address and network, and its MAC address.
    local: Option<(u64, u64)>,
    /// Whose it was.
    peer: Option<u64>,
    bridged: Option<(u64, PortId, usize)>,
    routed4: Option<(Ipv4Addr, Out)>,
    routed6: Option<(Ipv6Addr, Out)>,
    inside: Inside,
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
            far_vteps: tables.vteps.are_far(),
            source4: (NOBODY, Ipv4Addr::UNSPECIFIED),
            source6: (NOBODY, Ipv6Addr::UNSPECIFIED),
            local: None,
            peer: None,
            bridged: None,
            routed4: None,
            routed6: None,
            inside: Inside::default(),
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
        let head: &[u8; PLAIN4] = frame.head().first_chunk()?;
        let (dst, src, ethertype) = macs(part(head, 0));
        if ethertype != EtherType::IPV4.0 || is_to_be_cut(frame) {
            return None;
        }
        let ip = read_v4(part(head, ETHERNET_LEN), ETHERNET_LEN, frame.len())?;
        if !matches!(ip.protocol, IpProtocol::TCP | IpProtocol::UDP) {
            return None;
        }
        let (mac, address) = self.source4;
        if (src != mac || self.guarded && ip.src != address) && !self.admit_v4(src, ip.src) {
            return None;
        }
        if self.guarded && ip.protocol == IpProtocol::UDP && is_from_server(ip.ports, DHCP) {
            return None;
        }
        Some((ip, self.wish(dst, &ip)?))
    }

    /// As [`Self::look`], over IPv6.
    #[inline(never)]
    fn look_v6(&mut self, frame: &impl PacketBuf) -> Option<Look<Ipv6Addr>> {
        let head: &[u8; PLAIN6] = frame.head().first_chunk()?;
        let (dst, src, ethertype) = macs(part(head, 0));
        if ethertype != EtherType::IPV6.0 || is_to_be_cut(frame) {
            return None;
        }
        let len = frame.len();
        let ip = read_v6(part(head, ETHERNET_LEN), ETHERNET_LEN, len)?;
        let (mac, address) = self.source6;
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
        if let Some((ip, peer, end, outer_ecn)) = self.look_inside(frame) {
            *look = Look { ip, wish: Wish::Decap(peer), len: (end - INNER) as u32, outer_ecn };
        }
    }

    /// The inner packet, the peer, where the frame ends, and the outer ECN field.
    #[inline(always)]
    fn look_inside(&mut self, frame: &impl PacketBuf) -> Option<(Ip<Ipv4Addr>, u64, usize, u8)> {
        let head: &[u8; TUNNEL4] = frame.head().first_chunk()?;
        let (_, src, ethertype) = macs(part(head, 0));
        if ethertype != EtherType::IPV4.0 || !is_unicast(src) || is_to_be_cut(frame) {
            return None;
        }
        let outer = read_v4(part(head, ETHERNET_LEN), ETHERNET_LEN, frame.len())?;
        let [.., len_high, len_low, sum_high, sum_low] = *part::<8>(head, OUTER_UDP);
        let udp_len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let vxlan = u64::from_be_bytes(*part(head, OUTER_UDP + UdpHeader::LEN));
        let end = OUTER_UDP + udp_len;
        if outer.protocol != IpProtocol::UDP
            || outer.ports as u16 != self.tables.vxlan_port
            || end < TUNNEL4
            || end > ETHERNET_LEN + outer.len as usize
            || vxlan & !(0xff_ffff << 8) != u64::from(FLAG_VNI) << 56
        {
            return None;
        }
        if [sum_high, sum_low] != [0, 0] && !outer_sum_ok(frame, end) {
            return None;
        }
        let vni = (vxlan >> 8) as u32;
        let local = self.local_mac(outer.dst, vni)?;
        let (dst, src, ethertype) = macs(part(head, INNER));
        if dst != local || src == local || !is_unicast(src) || ethertype != EtherType::IPV4.0 {
            return None;
        }
        let ip = read_v4(part(head, INNER_IP), INNER_IP, end)?;
        if outer.ecn == ECN_CE && ip.ecn == ECN_NOT_ECT || !is_routable(&ip) {
            return None;
        }
        Some((ip, v4_key(outer.src.to_bits(), vni), end, outer.ecn))
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
            Wish::Decap(peer) if !self.accepts(peer) => None,
            Wish::Route | Wish::Decap(_) => {
                let by =
                    By { tables: self.tables, from: self.from, hop: self.hop, confirmed: self.far_vteps };
                by.forward(&mut self.routed4, &look.ip)
            }
        };
        let Some(decided) = decided else { return false };
        *to = brief(look, decided, Carries::V4);
        *action = decided;
        true
    }

    /// Whether [`Self::confirm`] has to be asked about what was decided.
    #[inline]
    pub fn must_confirm(&self) -> bool {
        self.far_vteps
    }

    /// Whether the tunnel over IPv4 takes the packet, if it is to go there. Where not, it is another's to say what is done with it. Of a
    /// frame that is to be cut that has been said.
    #[inline(always)]
    pub fn confirm(&self, frame: &impl PacketBuf, action: Action, brief: &Brief) -> bool {
        let Action::Encap { vtep, .. } = action else { return true };
        let far = self.tables.vteps.quick(vtep);
        brief.carries != Carries::V4 || is_to_be_cut(frame) || far.is_some_and(|far| far.takes(brief.ip_len))
    }

    /// The same for what [`Self::decide`] says nothing about: IPv6, at once, so a table that is far away is waited for; stations that are in
    /// no table; and addresses that nobody has.
    #[inline]
    pub fn decide_other(&mut self, frame: &impl PacketBuf, look: &Look<Ipv4Addr>) -> Option<(Action, Brief)> {
        match look.wish {
            Wish::Unknown if matches!(self.from.port.role, Role::Uplink) => {
                self.inside.decide(self.tables, self.from, frame)
            }
            Wish::Unknown => self.decide_v6(frame),
            _ => self.decide_stranger(look),
        }
    }

    #[inline(never)]
    fn decide_stranger(&mut self, look: &Look<Ipv4Addr>) -> Option<(Action, Brief)> {
        let action = match look.wish {
            Wish::Bridge(mac) => self.bridge_to_station(mac, look.len)?,
            Wish::Decap(peer) if !self.accepts(peer) => return None,
            Wish::Route | Wish::Decap(_) => self.by().nowhere(look.ip.dst)?,
            Wish::Unknown => return None,
        };
        Some((action, brief(look, action, Carries::V4)))
    }

    fn decide_v6(&mut self, frame: &impl PacketBuf) -> Option<(Action, Brief)> {
        let look = self.look_v6(frame)?;
        let action = match look.wish {
            Wish::Bridge(mac) => {
                self.bridge(mac, look.len).or_else(|| self.bridge_to_station(mac, look.len))?
            }
            Wish::Route => self.by().forward(&mut self.routed6, &look.ip)?,
            Wish::Unknown | Wish::Decap(_) => return None,
        };
        Some((action, brief(&look, action, Carries::V6)))
    }

    fn by(&self) -> By<'a> {
        By { tables: self.tables, from: self.from, hop: self.hop, confirmed: false }
    }

    /// To the host, or to a station that was learned.
    #[inline(never)]
    fn bridge_to_station(&mut self, mac: u64, len: u32) -> Option<Action> {
        let station = MacAddr::from_bits(mac);
        if self.tables.fdb.contains_key(&station) {
            return None;
        }
        let to = unconfigured(self.tables, self.from, station).filter(|to| *to != self.from.id)?;
        let mtu = self.tables.ports.get(to)?.mtu.get();
        self.bridged = Some((mac, to, mtu));
        (len as usize - ETHERNET_LEN <= mtu).then_some(Action::Bridge(to))
    }

    #[inline(always)]
    fn accepts(&mut self, peer: u64) -> bool {
        if self.peer != Some(peer) {
            if !self.tables.peers.accepts_v4(peer) {
                return false;
            }
            self.peer = Some(peer);
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
            self.source4 = (mac, address);
        }
        admitted
    }

    #[inline(never)]
    fn admit_v6(&mut self, mac: u64, ip: &Ip<Ipv6Addr>) -> bool {
        let admitted = self.admit(mac, |guard| ip.src.allowed(guard, ip.protocol));
        if admitted {
            self.source6 = (mac, ip.src);
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
    fn local_mac(&mut self, address: Ipv4Addr, vni: u32) -> Option<u64> {
        let key = v4_key(address.to_bits(), vni);
        match self.local {
            Some((last, mac)) if last == key => Some(mac),
            _ => self.find_local(key, address, vni),
        }
    }

    #[inline(never)]
    fn find_local(&mut self, key: u64, address: Ipv4Addr, vni: u32) -> Option<u64> {
        let ours = |local: &&LocalVtep| local.address == IpAddr::V4(address) && local.vni.get() == vni;
        let mac = self.tables.local_vteps.iter().find(ours)?.mac.to_bits();
        self.local = Some((key, mac));
        Some(mac)
    }

    #[inline(always)]
    fn bridge(&mut self, mac: u64, len: u32) -> Option<Action> {
        let (to, mtu) = match self.bridged {
            Some((last, to, mtu)) if last == mac => (to, mtu),
            _ => {
                let to = *self.tables.fdb.get(&MacAddr::from_bits(mac))?;
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
fn brief<A: Family>(look: &Look<A>, action: Action, carries: Carries) -> Brief {
    let l4 = look.ip.l4;
    let l3 = l4 - if matches!(carries, Carries::V6) { IPV6_LEN } else { IPV4_LEN } as u16;
    let hash = if matches!(action, Action::Encap { .. }) { A::flow_hash(&look.ip) } else { 0 };
    Brief {
        l2: l3 - ETHERNET_LEN as u16,
        l3,
        l4,
        carries,
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
