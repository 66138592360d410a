//! The ends of the tunnels: where encapsulated packets go, and whose are taken.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU8;
use std::ops::Deref;

use weft_sync::prefetch::prefetch_read;

use super::{Map, NEAR};
use crate::types::{MacAddr, Mtu, PortId, Vni};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// Outer headers of a VXLAN packet over IPv4, with the inner Ethernet header: one block.
pub(crate) const BLOCK_V4: usize = ETHERNET_LEN + 20 + 8 + VXLAN_LEN + ETHERNET_LEN;
/// As [`BLOCK_V4`], over IPv6.
const BLOCK_V6: usize = ETHERNET_LEN + 40 + 8 + VXLAN_LEN + ETHERNET_LEN;

/// The addresses that the outer header of packets to one peer carries.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// MAC address of the uplink.
    pub src_mac: MacAddr,
    /// MAC address of the next hop on the underlay.
    pub dst_mac: MacAddr,
    /// This node's underlay address.
    pub src: IpAddr,
    /// The peer's underlay address, of the same family.
    pub dst: IpAddr,
    /// The tunnel's UDP port, 8472 by default.
    pub port: u16,
}

/// The outer headers of packets to one peer, prepared: what differs from packet to packet (lengths, the IPv4
/// identification, ECN, the UDP source port) is patched in.
///
/// Over IPv4 the block is one cache line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct Encap {
    block: [u8; BLOCK_V6],
    /// How much of `block` is used.
    len: NonZeroU8,
    /// IPv4: sum over the header as prepared. IPv6: sum over the pseudo-header without its length. Folded.
    sum: u16,
    /// IPv4: sum over the UDP pseudo-header without its length. IPv6: as `sum`. Folded.
    pseudo: u16,
}

impl Encap {
    /// Prepares the headers: outer Ethernet, IP (TTL 64, DF clear), UDP, VXLAN, and the inner Ethernet header from
    /// `inner_src` (this node's VTEP) to `inner_dst` (the peer's). `None` when the underlay addresses are of two
    /// families.
    pub fn new(outer: &Outer, vni: Vni, inner_src: MacAddr, inner_dst: MacAddr) -> Option<Self> {
        let mut block = [0u8; BLOCK_V6];
        block[0..6].copy_from_slice(&outer.dst_mac.0);
        block[6..12].copy_from_slice(&outer.src_mac.0);
        let (len, sum, pseudo) = match (outer.src, outer.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                block[12..14].copy_from_slice(&[0x08, 0x00]);
                let ip = &mut block[14..34];
                ip[0] = 0x45;
                ip[8] = 64;
                ip[9] = 17;
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                (BLOCK_V4, Sum::new().add(ip), Sum::new().add(&ip[12..20]).add_u16(17))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                block[12..14].copy_from_slice(&[0x86, 0xdd]);
                let ip = &mut block[14..54];
                ip[0] = 0x60;
                ip[6] = 17;
                ip[7] = 64;
                ip[8..24].copy_from_slice(&src.octets());
                ip[24..40].copy_from_slice(&dst.octets());
                let pseudo = Sum::new().add(&ip[8..40]).add_u16(17);
                (BLOCK_V6, pseudo, pseudo)
            }
            _ => return None,
        };
        let udp = len - ETHERNET_LEN - VXLAN_LEN - 8;
        block[udp + 2..udp + 4].copy_from_slice(&outer.port.to_be_bytes());
        let vxlan = udp + 8;
        block[vxlan] = 0x08;
        block[vxlan + 4..vxlan + 7].copy_from_slice(&vni.get().to_be_bytes()[1..]);
        let inner = vxlan + VXLAN_LEN;
        block[inner..inner + 6].copy_from_slice(&inner_dst.0);
        block[inner + 6..inner + 12].copy_from_slice(&inner_src.0);
        let len = NonZeroU8::new(len as u8)?;
        Some(Self { block, len, sum: sum.fold(), pseudo: pseudo.fold() })
    }

    /// Bytes of outer headers before the inner IP packet, the outer Ethernet header not counted: what a path has to carry more.
    #[inline]
    pub fn overhead(&self) -> usize {
        usize::from(self.len.get()) - ETHERNET_LEN
    }

    /// True over an IPv4 underlay.
    #[inline]
    pub(crate) fn is_v4(&self) -> bool {
        usize::from(self.len.get()) == BLOCK_V4
    }

    /// All headers as prepared.
    #[inline]
    pub(crate) fn block(&self) -> &[u8] {
        &self.block[..usize::from(self.len.get())]
    }

    /// The same over an IPv4 underlay.
    #[inline]
    pub(crate) fn block_v4(&self) -> &[u8; BLOCK_V4] {
        const { assert!(BLOCK_V4 == 64 && BLOCK_V4 <= BLOCK_V6) };
        self.block.first_chunk().unwrap_or(&[0; BLOCK_V4])
    }

    /// The checksum of the outer IPv4 header with these fields patched in.
    #[inline]
    pub(crate) fn checksum(&self, total_len: u16, ident: u16, ecn: u8) -> u16 {
        header_checksum(self.sum, total_len, ident, ecn)
    }

    /// What the field of an outer UDP checksum holds that is not filled in yet.
    #[inline]
    pub(crate) fn pseudo(&self, udp_len: u16) -> u16 {
        let sum = u32::from(self.pseudo) + u32::from(udp_len);
        ((sum >> 16) + sum) as u16
    }
}

/// The checksum of an outer IPv4 header whose sum as prepared is this, with these fields patched in.
#[inline]
fn header_checksum(sum: u16, total_len: u16, ident: u16, ecn: u8) -> u16 {
    // Four numbers of 16 bits: two folds are enough.
    let sum = u32::from(sum) + u32::from(total_len) + u32::from(ident) + u32::from(ecn);
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) + sum) as u16
}

/// The far end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// The headers to put in front; `None` as long as the kernel has no MAC address for the way there.
    pub encap: Option<Encap>,
    /// Where encapsulated packets leave.
    pub uplink: PortId,
    /// The largest inner IP packet: the underlay's MTU less 50 bytes (IPv4) or 70 (IPv6).
    pub mtu: Mtu,
    /// Over an IPv4 underlay, whether to fill the outer UDP checksum in. Over IPv6 it always is.
    pub checksum: bool,
}

/// All that is usually needed of a far end beside its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quick {
    mtu: u16,
    /// [`Vtep::uplink`].
    pub(crate) uplink: PortId,
    /// [`Encap`]'s.
    sum: u16,
    state: State,
}

/// What is the case with a far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing can be sent there at this time.
    Unresolved,
    /// Over IPv4, without an outer checksum.
    Plain,
    /// All else.
    Other,
}

const _: () = assert!(size_of::<Quick>() == 8);

impl Quick {
    fn of(vtep: &Vtep) -> Self {
        let state = match &vtep.encap {
            None => State::Unresolved,
            Some(encap) if encap.is_v4() && !vtep.checksum => State::Plain,
            Some(_) => State::Other,
        };
        let sum = vtep.encap.as_ref().map_or(0, |encap| encap.sum);
        Self { mtu: vtep.mtu.get().min(usize::from(u16::MAX)) as u16, uplink: vtep.uplink, sum, state }
    }

    /// Whether something can be sent there at this time.
    #[inline(always)]
    pub(crate) fn is_resolved(self) -> bool {
        self.state != State::Unresolved
    }

    /// Whether an IP packet of so many bytes can be sent there at this time.
    #[inline(always)]
    pub(crate) fn takes(self, len: u32) -> bool {
        self.is_resolved() && len <= u32::from(self.mtu)
    }
}

/// One cache line of prepared headers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(align(64))]
struct Block([u8; BLOCK_V4]);

const _: () = assert!(size_of::<Block>() == 64);

/// Prepared headers over IPv4, for a packet that gets no outer checksum.
pub(crate) struct Plain<'a> {
    block: &'a [u8; BLOCK_V4],
    sum: u16,
}

impl Plain<'_> {
    #[inline(always)]
    pub(crate) fn block(&self) -> &[u8; BLOCK_V4] {
        self.block
    }

    /// As [`Encap::checksum`].
    #[inline(always)]
    pub(crate) fn checksum(&self, total_len: u16, ident: u16, ecn: u8) -> u16 {
        header_checksum(self.sum, total_len, ident, ecn)
    }
}

/// The far ends. What most packets need lies close together: a line of headers and eight bytes for each, so that thousands stay in a
/// near cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vteps {
    all: Vec<Vtep>,
    quick: Vec<Quick>,
    blocks: Vec<Block>,
}

impl Deref for Vteps {
    type Target = [Vtep];
    fn deref(&self) -> &[Vtep] {
        &self.all
    }
}

impl Vteps {
    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.all.reserve(more);
        self.quick.reserve(more);
        self.blocks.reserve(more);
    }

    /// One more, with the next index.
    pub fn push(&mut self, vtep: Vtep) {
        self.quick.push(Quick::of(&vtep));
        self.blocks.push(Self::block(&vtep));
        self.all.push(vtep);
    }

    /// Changes the one of this index, if there is one.
    pub fn edit(&mut self, index: usize, change: impl FnOnce(&mut Vtep)) {
        if let Some(vtep) = self.all.get_mut(index) {
            change(vtep);
            self.quick[index] = Quick::of(vtep);
            self.blocks[index] = Self::block(vtep);
        }
    }

    fn block(vtep: &Vtep) -> Block {
        Block(vtep.encap.as_ref().map_or([0; BLOCK_V4], |encap| *encap.block_v4()))
    }

    #[inline(always)]
    pub(crate) fn quick(&self, index: u32) -> Option<Quick> {
        self.quick.get(index as usize).copied()
    }

    /// The headers for one that is over IPv4 and wants no outer checksum.
    #[inline(always)]
    pub(crate) fn plain(&self, index: u32, quick: Quick) -> Option<Plain<'_>> {
        let Block(block) = self.blocks.get(index as usize).filter(|_| quick.state == State::Plain)?;
        Some(Plain { block, sum: quick.sum })
    }

    /// True for a table that may not be in the caches next to the core.
    #[inline]
    pub(crate) fn are_far(&self) -> bool {
        size_of_val(&*self.blocks) > NEAR
    }

    /// Fetches what encapsulating usually needs.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32) {
        if let (Some(quick), Some(block)) = (self.quick.get(index as usize), self.blocks.get(index as usize))
        {
            prefetch_read(quick);
            prefetch_read(block);
        }
    }
}

/// This node's end of the tunnel of one network over one underlay family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalVtep {
    /// The network.
    pub vni: Vni,
    /// The MAC address that peers send inner frames to.
    pub mac: MacAddr,
    /// The underlay address that peers send to.
    pub address: IpAddr,
}

/// Whose tunnel packets are taken.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Peers {
    known4: Map<u64, ()>,
    known6: Map<(Ipv6Addr, u32), ()>,
    accept_unknown: bool,
}

impl Peers {
    /// Nobody yet; with `accept_unknown` everybody, for underlays that translate addresses.
    pub fn new(accept_unknown: bool) -> Self {
        Self { accept_unknown, ..Self::default() }
    }

    /// Takes packets from `address` in network `vni` from now on.
    pub fn insert(&mut self, address: IpAddr, vni: Vni) {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.known4.insert(v4_key(v4.to_bits(), vni.get()), ()),
            IpAddr::V6(v6) => self.known6.insert((v6, vni.get()), ()),
        };
    }

    /// Makes room for so many more over IPv4.
    pub fn reserve_v4(&mut self, more: usize) {
        self.known4.reserve(more);
    }

    /// Whether packets from `address` in network `vni` are taken.
    #[inline]
    pub fn accepts(&self, address: IpAddr, vni: Vni) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.accepts_v4(v4_key(v4.to_bits(), vni.get())),
            IpAddr::V6(v6) => self.accept_unknown || self.known6.contains_key(&(v6, vni.get())),
        }
    }

    /// As [`Self::accepts`], by a [`v4_key`].
    #[inline]
    pub(crate) fn accepts_v4(&self, key: u64) -> bool {
        self.accept_unknown || self.known4.contains_key(&key)
    }

    /// True where there are so many that they may not be in the caches next to the core.
    pub(crate) fn are_far(&self) -> bool {
        self.known4.is_far()
    }

    /// Fetches what [`Self::accepts_v4`] will look at.
    #[inline]
    pub(crate) fn prefetch_v4(&self, key: u64) {
        self.known4.prefetch(&key);
    }
}

/// IPv4 address and network as one number: the key of a peer, and of this node's own ends of tunnels.
#[inline]
pub fn v4_key(address: u32, vni: u32) -> u64 {
    u64::from(vni) << 32 | u64::from(address)
}

/// The range that the tunnel's UDP source ports come from, `low` to `high` without `high`, as Linux takes them from
/// `net.ipv4.ip_local_port_range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourcePorts {
    low: u16,
    count: u16,
}

impl Default for SourcePorts {
    fn default() -> Self {
        Self::new(32768, 60999)
    }
}

impl SourcePorts {
    /// The range from `low` to `high`; at least one port whatever they are.
    pub fn new(low: u16, high: u16) -> Self {
        Self { low: low.max(1), count: high.saturating_sub(low.max(1)).max(1) }
    }

    /// The port for a flow with this hash: the same for the same hash.
    #[inline]
    pub fn pick(self, hash: u32) -> u16 {
        self.low + ((u64::from(hash) * u64::from(self.count)) >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_stay_in_range() {
        let ports = SourcePorts::new(32768, 60999);
        assert_eq!(ports.pick(0), 32768);
        assert_eq!(ports.pick(u32::MAX), 60998);
        assert_eq!(SourcePorts::new(0, 0).pick(u32::MAX), 1);
        assert_eq!(SourcePorts::new(65535, 65535).pick(u32::MAX), 65535);
    }

    #[test]
    fn an_ipv4_peer_is_not_its_mapped_ipv6_address_by_chance() {
        let mut peers = Peers::default();
        let vni = Vni::new(1).unwrap();
        peers.insert("172.16.0.2".parse().unwrap(), vni);
        assert!(peers.accepts("172.16.0.2".parse().unwrap(), vni));
        assert!(!peers.accepts("172.16.0.3".parse().unwrap(), vni));
        assert!(!peers.accepts("172.16.0.2".parse().unwrap(), Vni::new(2).unwrap()));
    }
}
