//! Neighbour discovery for IPv6 (RFC 4861): neighbour solicitation and advertisement, router solicitation, options.
//!
//! Every view here is over a whole ICMPv6 message, from its type byte to its end (bound the slice by IPv6's length).
//! Length contract: `new_checked` wants type and code of the message, its fixed part (24 bytes; 8 for a router
//! solicitation) and a target that is not multicast (sections 7.1.1 and 7.1.2). Options are checked as they are walked;
//! the walk ends with the first error. A message with a bad option is to be dropped as a whole: the getters of the
//! link-layer address and `parse` walk all options. Hop limit 255 and the checksum are the caller's to check.

use super::bytes::{array, check, need, put, room};
use super::icmpv6::{
    ICMPV6_LEN, Icmpv6View, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION,
};
use super::{Format, WireError};
use crate::types::MacAddr;
use std::net::Ipv6Addr;
use std::ops::Range;

/// Bytes of a neighbour message without options.
pub const NEIGHBOUR_LEN: usize = 24;
/// Bytes of a link-layer address option for Ethernet.
pub const LINK_LAYER_LEN: usize = 8;
/// The hop limit of every message: nobody has forwarded it (section 3.1).
pub const HOP_LIMIT: u8 = 255;
/// Option: the sender's link-layer address (section 4.6.1).
pub const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address (section 4.6.1).
pub const TARGET_LINK_LAYER: u8 = 2;

const FLAGS: usize = 4;
const TARGET: Range<usize> = 8..24;
const OPTION: Range<usize> = NEIGHBOUR_LEN..NEIGHBOUR_LEN + LINK_LAYER_LEN;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// The multicast group in which whoever has `target` is asked for it (RFC 4291, section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The MAC address that frames to a multicast group have (RFC 2464, section 7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NdpOption<'a> {
    /// Which.
    pub kind: u8,
    /// Its bytes after type and length, padding included: 8 times the length field, less 2.
    pub data: &'a [u8],
}

impl NdpOption<'_> {
    /// The Ethernet address of a link-layer address option (RFC 2464, section 6). `None` in one of another length.
    pub fn mac(&self) -> Option<MacAddr> {
        Some(MacAddr(self.data.try_into().ok()?))
    }
}

/// The options of a message in order. Ends after the first error.
#[derive(Debug, Clone)]
pub struct NdpOptions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for NdpOptions<'a> {
    type Item = Result<NdpOption<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        Some(split_option(rest).map(|(option, after)| {
            self.rest = after;
            option
        }))
    }
}

fn split_option(bytes: &[u8]) -> Result<(NdpOption<'_>, &[u8]), WireError> {
    need(Format::Ndp, bytes, 2)?;
    let (kind, length) = (bytes[0], bytes[1]);
    check(length != 0, Format::Ndp, "option length", length)?;
    let len = usize::from(length) * 8;
    need(Format::Ndp, bytes, len)?;
    let (option, after) = bytes.split_at(len);
    Ok((NdpOption { kind, data: &option[2..] }, after))
}

/// The address in the first option of this kind, with all options checked.
fn link_layer(options: NdpOptions<'_>, kind: u8) -> Result<Option<MacAddr>, WireError> {
    let mut found = None;
    for option in options {
        let option = option?;
        if option.kind == kind && found.is_none() {
            let units = (option.data.len() + 2) / 8;
            check(option.mac().is_some(), Format::Ndp, "link-layer option length", units as u64)?;
            found = option.mac();
        }
    }
    Ok(found)
}

fn check_message(bytes: &[u8], kind: u8, len: usize) -> Result<(), WireError> {
    need(Format::Ndp, bytes, len)?;
    let header = Icmpv6View::new_checked(bytes)?;
    check(header.icmp_type() == kind, Format::Ndp, "icmp_type", header.icmp_type())?;
    check(header.code() == 0, Format::Ndp, "code", header.code())
}

fn check_neighbour(bytes: &[u8], kind: u8) -> Result<(), WireError> {
    check_message(bytes, kind, NEIGHBOUR_LEN)?;
    check(bytes[TARGET.start] != 0xff, Format::Ndp, "target", bytes[TARGET.start])
}

/// A neighbour solicitation (section 4.3).
#[derive(Debug, Clone, Copy)]
pub struct NeighbourSolicitView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> NeighbourSolicitView<T> {
    /// Over bytes that are known to hold a solicitation.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that a solicitation is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        check_neighbour(bytes.as_ref(), NEIGHBOUR_SOLICITATION)?;
        Ok(Self { bytes })
    }

    /// About whom.
    #[inline]
    pub fn target(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.bytes.as_ref(), TARGET))
    }

    /// The options.
    #[inline]
    pub fn options(&self) -> NdpOptions<'_> {
        NdpOptions { rest: &self.bytes.as_ref()[NEIGHBOUR_LEN..] }
    }

    /// The asker's MAC address, if it says one. An error when any option is malformed.
    pub fn source_link_layer(&self) -> Result<Option<MacAddr>, WireError> {
        link_layer(self.options(), SOURCE_LINK_LAYER)
    }
}

/// A neighbour advertisement (section 4.4).
#[derive(Debug, Clone, Copy)]
pub struct NeighbourAdvertView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> NeighbourAdvertView<T> {
    /// Over bytes that are known to hold an advertisement.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that an advertisement is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        check_neighbour(bytes.as_ref(), NEIGHBOUR_ADVERTISEMENT)?;
        Ok(Self { bytes })
    }

    /// The sender is a router.
    #[inline]
    pub fn router(&self) -> bool {
        self.bytes.as_ref()[FLAGS] & ROUTER != 0
    }

    /// It answers a solicitation.
    #[inline]
    pub fn solicited(&self) -> bool {
        self.bytes.as_ref()[FLAGS] & SOLICITED != 0
    }

    /// It overrides what is cached.
    #[inline]
    pub fn override_(&self) -> bool {
        self.bytes.as_ref()[FLAGS] & OVERRIDE != 0
    }

    /// About whom.
    #[inline]
    pub fn target(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.bytes.as_ref(), TARGET))
    }

    /// The options.
    #[inline]
    pub fn options(&self) -> NdpOptions<'_> {
        NdpOptions { rest: &self.bytes.as_ref()[NEIGHBOUR_LEN..] }
    }

    /// The target's MAC address, if it says one. An error when any option is malformed.
    pub fn target_link_layer(&self) -> Result<Option<MacAddr>, WireError> {
        link_layer(self.options(), TARGET_LINK_LAYER)
    }
}

/// A router solicitation (section 4.1).
#[derive(Debug, Clone, Copy)]
pub struct RouterSolicitView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> RouterSolicitView<T> {
    /// Over bytes that are known to hold a solicitation.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that a solicitation is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        check_message(bytes.as_ref(), ROUTER_SOLICITATION, ICMPV6_LEN)?;
        Ok(Self { bytes })
    }

    /// The options.
    #[inline]
    pub fn options(&self) -> NdpOptions<'_> {
        NdpOptions { rest: &self.bytes.as_ref()[ICMPV6_LEN..] }
    }

    /// The asker's MAC address, if it says one. An error when any option is malformed.
    pub fn source_link_layer(&self) -> Result<Option<MacAddr>, WireError> {
        link_layer(self.options(), SOURCE_LINK_LAYER)
    }
}

/// A neighbour solicitation, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourSolicit {
    /// About whom.
    pub target: Ipv6Addr,
    /// The asker's MAC address; not to be said when asking from the unspecified address.
    pub source_mac: Option<MacAddr>,
}

impl NeighbourSolicit {
    /// Bytes that [`Self::emit`] writes.
    pub fn len(&self) -> usize {
        NEIGHBOUR_LEN + if self.source_mac.is_some() { LINK_LAYER_LEN } else { 0 }
    }

    /// Never: a message has at least 24 bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads it. An error when any option is malformed; options of other kinds are passed over.
    pub fn parse<T: AsRef<[u8]>>(view: &NeighbourSolicitView<T>) -> Result<Self, WireError> {
        let view = NeighbourSolicitView::new_checked(view.bytes.as_ref())?;
        Ok(Self { target: view.target(), source_mac: view.source_link_layer()? })
    }

    /// Writes it with the checksum between these addresses; how many bytes that was.
    pub fn emit(&self, to: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> Result<usize, WireError> {
        let option = self.source_mac.map(|mac| (SOURCE_LINK_LAYER, mac));
        emit(room(Format::Ndp, to, self.len())?, NEIGHBOUR_SOLICITATION, 0, self.target, option, src, dst)
    }
}

/// A neighbour advertisement, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourAdvert {
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It overrides what is cached.
    pub override_: bool,
    /// About whom.
    pub target: Ipv6Addr,
    /// The target's MAC address; to be said in the answer to a multicast solicitation (section 4.4).
    pub target_mac: Option<MacAddr>,
}

impl NeighbourAdvert {
    /// Bytes that [`Self::emit`] writes.
    pub fn len(&self) -> usize {
        NEIGHBOUR_LEN + if self.target_mac.is_some() { LINK_LAYER_LEN } else { 0 }
    }

    /// Never: a message has at least 24 bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads it. An error when any option is malformed; options of other kinds are passed over.
    pub fn parse<T: AsRef<[u8]>>(view: &NeighbourAdvertView<T>) -> Result<Self, WireError> {
        let view = NeighbourAdvertView::new_checked(view.bytes.as_ref())?;
        Ok(Self {
            router: view.router(),
            solicited: view.solicited(),
            override_: view.override_(),
            target: view.target(),
            target_mac: view.target_link_layer()?,
        })
    }

    /// Writes it with the checksum between these addresses; how many bytes that was.
    pub fn emit(&self, to: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> Result<usize, WireError> {
        let flags = if self.router { ROUTER } else { 0 }
            | if self.solicited { SOLICITED } else { 0 }
            | if self.override_ { OVERRIDE } else { 0 };
        let option = self.target_mac.map(|mac| (TARGET_LINK_LAYER, mac));
        emit(
            room(Format::Ndp, to, self.len())?,
            NEIGHBOUR_ADVERTISEMENT,
            flags,
            self.target,
            option,
            src,
            dst,
        )
    }
}

/// Writes a neighbour message over all of `message`, whose length is right.
fn emit(
    message: &mut [u8],
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) -> Result<usize, WireError> {
    check(!target.is_multicast(), Format::Ndp, "target", target.octets()[0])?;
    put(message, TARGET, &target.octets());
    if let Some((which, MacAddr([a, b, c, d, e, f]))) = option {
        put(message, OPTION, &[which, 1, a, b, c, d, e, f]);
    }
    let len = message.len();
    let mut header = Icmpv6View::new_unchecked(message);
    header.set_icmp_type(kind);
    header.set_code(0);
    header.set_rest([flags, 0, 0, 0]);
    header.fill_checksum(src, dst);
    Ok(len)
}
