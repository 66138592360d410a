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

#[cfg(test)]
pub(crate) fn any_solicit() -> impl proptest::strategy::Strategy<Value = NeighbourSolicit> {
    use super::samples::{ipv6, mac};
    use proptest::prelude::*;
    (ipv6().prop_filter("no group", |ip| !ip.is_multicast()), prop::option::of(mac()))
        .prop_map(|(target, source_mac)| NeighbourSolicit { target, source_mac })
}

#[cfg(test)]
pub(crate) fn any_advert() -> impl proptest::strategy::Strategy<Value = NeighbourAdvert> {
    use super::samples::{ipv6, mac};
    use proptest::prelude::*;
    let target = ipv6().prop_filter("no group", |ip| !ip.is_multicast());
    (any::<[bool; 3]>(), target, prop::option::of(mac())).prop_map(
        |([router, solicited, override_], target, target_mac)| NeighbourAdvert {
            router,
            solicited,
            override_,
            target,
            target_mac,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::ipv6::Ipv6View;
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_captured_solicitation_both_ways() {
        let frame = hex(samples::SOLICIT);
        let ip = Ipv6View::new_checked(&frame[14..]).unwrap();
        let icmp = Icmpv6View::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum(ip.src(), ip.dst()) && icmp.is_neighbour_discovery());
        assert_eq!(ip.hop_limit(), HOP_LIMIT);
        let view = NeighbourSolicitView::new_checked(ip.payload()).unwrap();
        let solicit = NeighbourSolicit { target: "fd00::9".parse().unwrap(), source_mac: Some(MAC) };
        assert_eq!(NeighbourSolicit::parse(&view), Ok(solicit));
        assert_eq!(solicited_node(solicit.target), ip.dst());
        assert_eq!(multicast_mac(ip.dst()).0, frame[..6]);
        let mut out = [0xa5; 33];
        assert_eq!(solicit.emit(&mut out, ip.src(), ip.dst()), Ok(32));
        assert_eq!((&out[..32], out[32]), (ip.payload(), 0xa5));
    }

    #[test]
    fn a_captured_advertisement_both_ways() {
        let frame = hex(samples::ADVERT);
        let ip = Ipv6View::new_checked(&frame[14..]).unwrap();
        let view = NeighbourAdvertView::new_checked(ip.payload()).unwrap();
        let advert = NeighbourAdvert {
            router: false,
            solicited: true,
            override_: false,
            target: "fd00::1".parse().unwrap(),
            target_mac: None,
        };
        assert_eq!(NeighbourAdvert::parse(&view), Ok(advert));
        let mut out = [0xa5; 24];
        assert_eq!(advert.emit(&mut out, ip.src(), ip.dst()), Ok(24));
        assert_eq!(out, ip.payload());
    }

    #[test]
    fn a_router_solicitation_is_recognised() {
        let bytes = hex("8500000000000000 0101020000000001");
        let view = RouterSolicitView::new_checked(&bytes[..]).unwrap();
        assert_eq!(view.source_link_layer(), Ok(Some(MAC)));
        assert!(NeighbourSolicitView::new_checked(&bytes[..]).is_err());
        let wrong = RouterSolicitView::new_checked(hex("8600000000000000")).unwrap_err();
        assert_eq!(wrong, WireError::BadField { format: Format::Ndp, field: "icmp_type", value: 134 });
    }

    /// A solicitation for fd00::9 with these options.
    fn with_options(options: &str) -> Vec<u8> {
        [hex("87000000 00000000 fd000000000000000000000000000009"), hex(options)].concat()
    }

    fn asker(message: Vec<u8>) -> Result<Option<MacAddr>, WireError> {
        NeighbourSolicitView::new_checked(message).unwrap().source_link_layer()
    }

    #[test]
    fn unknown_options_are_passed_over() {
        // A nonce (RFC 3971), which Linux sends for duplicate address detection, then the address.
        assert_eq!(asker(with_options("0e01 112233445566 0101 020000000001")), Ok(Some(MAC)));
        assert_eq!(asker(with_options("0e01 112233445566")), Ok(None));
        assert_eq!(asker(with_options("")), Ok(None));
        // The target's address is no source's.
        assert_eq!(asker(with_options("0201 020000000001")), Ok(None));
    }

    #[test]
    fn a_bad_option_spoils_the_message_and_ends_the_walk() {
        let zero = WireError::BadField { format: Format::Ndp, field: "option length", value: 0 };
        assert_eq!(asker(with_options("0101 020000000001 0e00 112233445566")), Err(zero));
        assert_eq!(asker(with_options("0102 020000000001")), Err(cut(16, 8)));
        assert_eq!(asker(with_options("0101 020000000001 0e")), Err(cut(2, 1)));
        let long = WireError::BadField { format: Format::Ndp, field: "link-layer option length", value: 2 };
        assert_eq!(asker(with_options("0102 0200000000010000000000000000")), Err(long));
        let bytes = with_options("0e01 112233445566 0000 000000000000");
        let view = NeighbourSolicitView::new_checked(&bytes[..]).unwrap();
        let walked: Vec<bool> = view.options().map(|option| option.is_ok()).collect();
        assert_eq!(walked, [true, false]);
    }

    fn cut(need: usize, have: usize) -> WireError {
        WireError::Truncated { format: Format::Ndp, need, have }
    }

    #[test]
    fn the_fixed_part_is_checked_by_name() {
        let bad = |field, value| WireError::BadField { format: Format::Ndp, field, value };
        let wrong = |at: usize, value: u8| {
            let mut message = with_options("");
            message[at] = value;
            NeighbourSolicitView::new_checked(message).unwrap_err()
        };
        assert_eq!(wrong(0, NEIGHBOUR_ADVERTISEMENT), bad("icmp_type", 136));
        assert_eq!(wrong(1, 1), bad("code", 1));
        assert_eq!(wrong(8, 0xff), bad("target", 0xff));
        assert_eq!(NeighbourSolicitView::new_checked([0; 23]).unwrap_err(), cut(24, 23));
        let group = NeighbourSolicit { target: "ff02::1".parse().unwrap(), source_mac: None };
        assert_eq!(group.emit(&mut [0; 24], group.target, group.target), Err(bad("target", 0xff)));
    }

    proptest! {
        #[test]
        fn emit_then_parse_solicit(solicit in any_solicit(), src in samples::ipv6(), dst in samples::ipv6()) {
            let mut bytes = vec![0xa5; solicit.len()];
            prop_assert_eq!(solicit.emit(&mut bytes, src, dst), Ok(solicit.len()));
            prop_assert!(Icmpv6View::new_checked(&bytes).unwrap().verify_checksum(src, dst));
            let view = NeighbourSolicitView::new_checked(&bytes).unwrap();
            prop_assert_eq!(NeighbourSolicit::parse(&view), Ok(solicit));
        }

        #[test]
        fn emit_then_parse_advert(advert in any_advert(), src in samples::ipv6(), dst in samples::ipv6()) {
            let mut bytes = vec![0xa5; advert.len()];
            prop_assert_eq!(advert.emit(&mut bytes, src, dst), Ok(advert.len()));
            prop_assert!(Icmpv6View::new_checked(&bytes).unwrap().verify_checksum(src, dst));
            let view = NeighbourAdvertView::new_checked(&bytes).unwrap();
            prop_assert_eq!(NeighbourAdvert::parse(&view), Ok(advert));
        }
    }
}
