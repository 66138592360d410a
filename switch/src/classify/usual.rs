//! The usual case, read and decided by comparing numbers: an untagged frame, not to be cut, with TCP or UDP over IP without options, whole,
//! to one station. Nearly every packet is one. [`crate::parse`] and [`super::classify`] say the same at greater length; whatever is
//! answered here is what they would answer (`tests` holds both against each other), and what is not is left to them.
//!
//! A burst is gone through in passes, so that table lines that are far away are all on their way before the first is needed: [`Usual::look`]
//! reads the headers, [`Usual::decide`] looks into the tables, and, only where the VTEPs are many, [`Usual::confirm`] looks at them. What the packet before had found is kept in front of each table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bridge::refuse_new_source;
use super::guard::{DHCP, DHCPV6, is_from_server};
use super::next_hop::{Target, resolve};
use super::route::Family;
use super::{Action, ECN_CE, ECN_NOT_ECT, Ingress};
use crate::offload::checksum::udp_checksum_ok;
use crate::packet::PacketBuf;
use crate::parse::{Brief, Carries, Ip, L3, Parsed};
use crate::tables::{LocalVtep, NEAR, Neighbour, PodGuard, Role, Snapshot, v4_key};
use crate::types::{MacAddr, PortId};
use crate::wire::checksum::{ipv4_header_ok, udp4_ok};
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UdpHeader;
use crate::wire::vxlan::{FLAG_VNI, VXLAN_LEN};

/// Of the transport header so much must be there: as much as UDP has.
const TRANSPORT: usize = UdpHeader::LEN;
/// Headers of a frame over IPv4, and over IPv6.
const PLAIN4: usize = ETHERNET_LEN + IPV4_LEN + TRANSPORT;
const PLAIN6: usize = ETHERNET_LEN + IPV6_LEN + TRANSPORT;
/// Where, in a tunnel packet over IPv4, the UDP header begins, the inner frame and the inner IP header.
const OUTER_UDP: usize = ETHERNET_LEN + IPV4_LEN;
const INNER: usize = OUTER_UDP + UdpHeader::LEN + VXLAN_LEN;
const INNER_IP: usize = INNER + ETHERNET_LEN;
/// Headers of a tunnel packet with IPv4 inside and outside.
const TUNNEL4: usize = INNER + PLAIN4;

/// No MAC address has so many bits.
const NOBODY: u64 = u64::MAX;

/// A frame's headers, and which way it wants to go. Filled in where it stays: a copy right after it would wait for the writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look<A> {
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
    pub(crate) const UNKNOWN: Self = {
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

/// A way out, and the longest IP packet that it carries.
#[derive(Debug, Clone, Copy)]
struct Out {
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

/// Reads and decides the usual frames of one burst. Keyed on all that an answer depends on, and made anew for every burst, so never
/// stale.
pub(crate) struct Usual<'a> {
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
}

impl<'a> Usual<'a> {
    pub(crate) fn new(tables: &'a Snapshot, from: &'a Ingress<'a>) -> Self {
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
            source4: (NOBODY, Ipv4Addr::UNSPECIFIED),
            source6: (NOBODY, Ipv6Addr::UNSPECIFIED),
            local: None,
            peer: None,
            bridged: None,
            routed4: None,
            routed6: None,
        }
    }

    /// The headers of a frame from a pod or the host.
    #[inline(always)]
    pub(crate) fn look(&mut self, frame: &impl PacketBuf, look: &mut Look<Ipv4Addr>) {
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
    pub(crate) fn look_through(&mut self, frame: &impl PacketBuf, look: &mut Look<Ipv4Addr>) {
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
    pub(crate) fn prefetch(&self, look: &Look<Ipv4Addr>) {
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
    pub(crate) fn decide(&mut self, look: &Look<Ipv4Addr>, action: &mut Action, brief: &mut Brief) -> bool {
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
        *brief = look.brief(decided, Carries::V4);
        *action = decided;
        true
    }

    /// Whether [`Self::confirm`] has to be asked about what was decided.
    #[inline]
    pub(crate) fn must_confirm(&self) -> bool {
        self.far_vteps
    }

    /// Whether the tunnel over IPv4 takes the packet, if it is to go there. Where not, it is another's to say what is done with it.
    #[inline(always)]
    pub(crate) fn confirm(&self, action: Action, brief: &Brief) -> bool {
        let Action::Encap { vtep, .. } = action else { return true };
        let far = self.tables.vteps.get(vtep as usize);
        brief.carries != Carries::V4
            || far.is_some_and(|far| far.encap.is_some() && brief.ip_len as usize <= far.mtu.get())
    }

    /// As [`Self::look`] and [`Self::decide`], over IPv6: at once, so a table that is far away is waited for.
    #[inline]
    pub(crate) fn decide_v6(&mut self, frame: &impl PacketBuf) -> Option<(Action, Brief)> {
        let look = self.look_v6(frame)?;
        let action = match look.wish {
            Wish::Bridge(mac) => self.bridge(mac, look.len)?,
            Wish::Route => {
                let by = By { tables: self.tables, from: self.from, hop: self.hop, confirmed: false };
                by.forward(&mut self.routed6, &look.ip)?
            }
            Wish::Unknown | Wish::Decap(_) => return None,
        };
        Some((action, look.brief(action, Carries::V6)))
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

impl<A: Family> Look<A> {
    #[inline(always)]
    fn brief(&self, action: Action, carries: Carries) -> Brief {
        let l4 = self.ip.l4;
        let l3 = l4 - if matches!(carries, Carries::V6) { IPV6_LEN } else { IPV4_LEN } as u16;
        let hash = if matches!(action, Action::Encap { .. }) { A::flow_hash(&self.ip) } else { 0 };
        Brief {
            l2: l3 - ETHERNET_LEN as u16,
            l3,
            l4,
            carries,
            ecn: self.ip.ecn,
            outer_ecn: self.outer_ecn,
            priority: false,
            len: self.len,
            ip_len: self.ip.len,
            hash,
        }
    }
}

/// What the router goes by.
struct By<'a> {
    tables: &'a Snapshot,
    from: &'a Ingress<'a>,
    hop: bool,
    /// What is said of a VTEP will be confirmed.
    confirmed: bool,
}

impl By<'_> {
    /// The router's part. `last` is what the packet before has found.
    #[inline(always)]
    fn forward<A: Family>(&self, last: &mut Option<(A, Out)>, ip: &Ip<A>) -> Option<Action> {
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
            Target::Host => {
                let to = tables.gateway.host.filter(|to| to.port != from.id)?;
                let mac = to.mac.to_bits();
                return Some(Out { mac, port: to.port, vtep: NO_VTEP, mtu: u32::MAX, hop: false });
            }
            Target::Vtep(vtep) if !matches!(from.port.role, Role::Uplink) => {
                let far = tables.vteps.get(vtep as usize)?;
                far.prefetch();
                let mtu = if confirmed {
                    u32::MAX
                } else {
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
}

/// It stands for several packets: how long they are is more than a length. What else its state says is not asked here.
#[inline(always)]
fn is_to_be_cut(frame: &impl PacketBuf) -> bool {
    !frame.is_plain() && frame.offload().gso.is_some()
}

/// Whether the checksum of the outer UDP packet, which ends at `end`, is right or need not be looked at.
#[inline(always)]
fn outer_sum_ok(frame: &impl PacketBuf, end: usize) -> bool {
    match frame.head().get(OUTER_UDP - 2 * size_of::<Ipv4Addr>()..end) {
        Some(bytes) if frame.is_plain() => udp4_ok(bytes, (end - OUTER_UDP) as u16),
        _ => udp_checksum_ok(frame, ETHERNET_LEN, OUTER_UDP),
    }
}

#[inline(always)]
fn is_routable<A: Family>(ip: &Ip<A>) -> bool {
    ip.dst.is_destination() && ip.src.is_source()
}

/// An IPv4 header without options and the beginning of what follows, which stand at `at` in a frame of `end` bytes.
#[inline(always)]
fn read_v4(head: &[u8; IPV4_LEN + TRANSPORT], at: usize, end: usize) -> Option<Ip<Ipv4Addr>> {
    let total = u16::from_be_bytes(*part(head, 2));
    let fragment = u16::from_be_bytes(*part(head, 6)) & 0x3fff;
    if head[0] != 0x45
        || fragment != 0
        || usize::from(total) < IPV4_LEN + TRANSPORT
        || at + usize::from(total) > end
        || !ipv4_header_ok(part(head, 0))
    {
        return None;
    }
    Some(Ip {
        src: Ipv4Addr::from_bits(u32::from_be_bytes(*part(head, 12))),
        dst: Ipv4Addr::from_bits(u32::from_be_bytes(*part(head, 16))),
        ttl: head[8],
        ecn: head[1] & 3,
        protocol: IpProtocol(head[9]),
        fragment: false,
        l4: (at + IPV4_LEN) as u16,
        ports: u32::from_be_bytes(*part(head, IPV4_LEN)),
        len: total.into(),
    })
}

/// An IPv6 header with TCP or UDP behind it.
#[inline(always)]
fn read_v6(head: &[u8; IPV6_LEN + TRANSPORT], at: usize, end: usize) -> Option<Ip<Ipv6Addr>> {
    let payload = usize::from(u16::from_be_bytes(*part(head, 4)));
    let protocol = IpProtocol(head[6]);
    if head[0] >> 4 != 6
        || payload < TRANSPORT
        || at + IPV6_LEN + payload > end
        || !matches!(protocol, IpProtocol::TCP | IpProtocol::UDP)
    {
        return None;
    }
    Some(Ip {
        src: Ipv6Addr::from_bits(u128::from_be_bytes(*part(head, 8))),
        dst: Ipv6Addr::from_bits(u128::from_be_bytes(*part(head, 24))),
        ttl: head[7],
        ecn: head[1] >> 4 & 3,
        protocol,
        fragment: false,
        l4: (at + IPV6_LEN) as u16,
        ports: u32::from_be_bytes(*part(head, IPV6_LEN)),
        len: (IPV6_LEN + payload) as u32,
    })
}

/// Destination and source as numbers, and what the frame carries.
#[inline(always)]
fn macs(head: &[u8; ETHERNET_LEN]) -> (u64, u64, u16) {
    let dst = u64::from_be_bytes(*part(head, 0)) >> 16;
    let src = u64::from_be_bytes(*part(head, 6));
    (dst, src >> 16, src as u16)
}

#[inline(always)]
fn is_multicast(mac: u64) -> bool {
    mac & 1 << 40 != 0
}

#[inline(always)]
fn is_unicast(mac: u64) -> bool {
    !is_multicast(mac) && mac != 0
}

/// The `N` bytes at `at`, which are constants: no check is left when it is compiled.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; N])
}

#[cfg(test)]
mod tests;
