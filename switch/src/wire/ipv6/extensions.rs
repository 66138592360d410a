//! The walk over IPv6's extension headers (RFC 8200, section 4).
//!
//! Length contract: [`transport`] wants every extension header that it passes in the slice, not what comes after.
//! It copies nothing and is bounded by [`MAX_EXTENSIONS`].

use crate::wire::bytes::{be16, be32, check, need};
use crate::wire::ip::IpProtocol;
use crate::wire::{Format, WireError};

/// How many extension headers [`transport`] passes before it gives up. RFC 8200, section 4.1, foresees seven.
pub const MAX_EXTENSIONS: usize = 8;

/// A fragment header's contents (RFC 8200, section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where in the fragmentable part this fragment stands, in bytes; a multiple of 8.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Identification of the packet's fragments.
    pub ident: u32,
}

/// Where the extension headers end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// What follows them. In a fragment other than the first this is what the fragmentable part begins with, which
    /// can be an extension header.
    pub protocol: IpProtocol,
    /// Where it stands, in bytes after the fixed header.
    pub offset: usize,
    /// Set if there is a fragment header; an atomic fragment (offset 0, no more) has one too.
    pub fragment: Option<Fragment>,
}

impl Transport {
    /// False when no header of [`Self::protocol`] is at the offset: in all fragments but the first, and after "no
    /// next header".
    #[inline]
    pub fn has_header(&self) -> bool {
        self.fragment.is_none_or(|f| f.offset == 0) && self.protocol != IpProtocol::NO_NEXT
    }
}

/// Walks over hop-by-hop options, routing, fragment, destination options and authentication headers. `payload` begins
/// after the fixed header and is bounded by the payload length. It stops at anything else, ESP among it, and after
/// the fragment header of a fragment that is not the first.
///
/// Errors: an extension header that is cut off, hop-by-hop options that are not first (RFC 8200, section 4.1), two
/// fragment headers, more than [`MAX_EXTENSIONS`] headers.
#[inline]
pub fn transport(payload: &[u8], next_header: IpProtocol) -> Result<Transport, WireError> {
    // The ordinary packet has no extension header: keep that inline and short.
    if is_extension(next_header) {
        walk(payload, next_header)
    } else {
        Ok(Transport { protocol: next_header, offset: 0, fragment: None })
    }
}

#[inline]
fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOPOPT
            | IpProtocol::IPV6_ROUTE
            | IpProtocol::IPV6_FRAG
            | IpProtocol::DSTOPTS
            | IpProtocol::AH
    )
}

fn walk(payload: &[u8], next_header: IpProtocol) -> Result<Transport, WireError> {
    const FORMAT: Format = Format::Ipv6Extension;
    /// Every extension header is at least this long.
    const SHORTEST: usize = 8;
    let mut at = Transport { protocol: next_header, offset: 0, fragment: None };
    let mut passed = 0;
    while is_extension(at.protocol) {
        check(passed < MAX_EXTENSIONS, FORMAT, "next_header", at.protocol.0)?;
        check(at.protocol != IpProtocol::HOPOPT || passed == 0, FORMAT, "next_header", at.protocol.0)?;
        passed += 1;
        let header = payload.get(at.offset..).unwrap_or_default();
        need(FORMAT, header, SHORTEST)?;
        let length = usize::from(header[1]);
        let len = match at.protocol {
            IpProtocol::IPV6_FRAG => SHORTEST,
            // RFC 4302, section 2.2: in 4-byte words, less 2.
            IpProtocol::AH => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        // An authentication header has 12 bytes before its check value.
        check(at.protocol != IpProtocol::AH || length > 0, FORMAT, "length", length as u64)?;
        need(FORMAT, header, len)?;
        if at.protocol == IpProtocol::IPV6_FRAG {
            check(at.fragment.is_none(), FORMAT, "next_header", at.protocol.0)?;
            let word = be16(header, 2..4);
            at.fragment =
                Some(Fragment { offset: word & !7, more: word & 1 != 0, ident: be32(header, 4..8) });
        }
        at.protocol = IpProtocol(header[0]);
        at.offset += len;
        if at.fragment.is_some_and(|f| f.offset != 0) {
            break;
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv6::Ipv6View;
    use crate::wire::samples::{self, hex};
    use proptest::prelude::*;

    fn at(protocol: IpProtocol, offset: usize) -> Transport {
        Transport { protocol, offset, fragment: None }
    }

    /// An extension header of `units` times 8 bytes that announces `next`.
    fn options(next: IpProtocol, units: u8) -> Vec<u8> {
        let mut header = vec![0; usize::from(units) * 8];
        (header[0], header[1]) = (next.0, units - 1);
        header
    }

    fn fragment(next: IpProtocol, offset: u16, more: bool) -> Vec<u8> {
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        vec![next.0, 0, high, low, 0xde, 0xad, 0xbe, 0xef]
    }

    #[test]
    fn a_captured_listener_report_is_icmpv6_behind_options() {
        let frame = hex(samples::LISTENER_REPORT);
        let ip = Ipv6View::new_checked(&frame[14..]).unwrap();
        let found = transport(ip.payload(), ip.next_header()).unwrap();
        assert_eq!(found, at(IpProtocol::ICMPV6, 8));
        assert_eq!(ip.payload()[found.offset], 143);
    }

    #[test]
    fn without_extensions_nothing_is_read() {
        for protocol in [IpProtocol::TCP, IpProtocol::ESP, IpProtocol::NO_NEXT, IpProtocol(253)] {
            assert_eq!(transport(&[], protocol), Ok(at(protocol, 0)));
        }
        assert!(!at(IpProtocol::NO_NEXT, 0).has_header());
        assert!(at(IpProtocol::TCP, 0).has_header());
    }

    #[test]
    fn every_kind_is_passed_in_the_order_of_the_rfc() {
        let mut authentication = vec![IpProtocol::DSTOPTS.0, 4];
        authentication.resize(24, 0);
        let chain = [
            options(IpProtocol::DSTOPTS, 1),
            options(IpProtocol::IPV6_ROUTE, 2),
            options(IpProtocol::IPV6_FRAG, 3),
            fragment(IpProtocol::AH, 0, true),
            authentication,
            options(IpProtocol::SCTP, 1),
        ]
        .concat();
        let expected = Transport {
            protocol: IpProtocol::SCTP,
            offset: chain.len(),
            fragment: Some(Fragment { offset: 0, more: true, ident: 0xdead_beef }),
        };
        assert_eq!(transport(&chain, IpProtocol::HOPOPT), Ok(expected));
        assert!(expected.has_header());
        for cut in 0..chain.len() {
            let error = transport(&chain[..cut], IpProtocol::HOPOPT).unwrap_err();
            assert!(matches!(error, WireError::Truncated { format: Format::Ipv6Extension, .. }), "{cut}");
        }
    }

    #[test]
    fn a_later_fragment_ends_the_walk() {
        // What follows looks like an extension header but is data from the middle of the packet.
        let bytes = [fragment(IpProtocol::DSTOPTS, 1480, false), vec![0xff; 8]].concat();
        let found = transport(&bytes, IpProtocol::IPV6_FRAG).unwrap();
        assert_eq!((found.protocol, found.offset), (IpProtocol::DSTOPTS, 8));
        assert_eq!(found.fragment, Some(Fragment { offset: 1480, more: false, ident: 0xdead_beef }));
        assert!(!found.has_header());
    }

    #[test]
    fn encryption_and_nothing_end_the_walk() {
        for last in [IpProtocol::ESP, IpProtocol::NO_NEXT] {
            assert_eq!(transport(&options(last, 1), IpProtocol::DSTOPTS), Ok(at(last, 8)));
        }
    }

    #[test]
    fn what_no_sender_makes_is_refused() {
        let bad = |field, value| Err(WireError::BadField { format: Format::Ipv6Extension, field, value });
        let late = options(IpProtocol::HOPOPT, 1);
        assert_eq!(transport(&late, IpProtocol::DSTOPTS), bad("next_header", 0));
        let twice = [fragment(IpProtocol::IPV6_FRAG, 0, true), fragment(IpProtocol::UDP, 0, true)].concat();
        assert_eq!(transport(&twice, IpProtocol::IPV6_FRAG), bad("next_header", 44));
        assert_eq!(transport(&[IpProtocol::UDP.0, 0, 0, 0, 0, 0, 0, 0], IpProtocol::AH), bad("length", 0));
        let long = options(IpProtocol::DSTOPTS, 1).repeat(MAX_EXTENSIONS + 1);
        assert_eq!(transport(&long, IpProtocol::DSTOPTS), bad("next_header", 60));
    }

    #[test]
    fn as_many_headers_as_allowed_pass() {
        let mut chain = options(IpProtocol::DSTOPTS, 1).repeat(MAX_EXTENSIONS);
        chain[(MAX_EXTENSIONS - 1) * 8] = IpProtocol::UDP.0;
        assert_eq!(transport(&chain, IpProtocol::DSTOPTS), Ok(at(IpProtocol::UDP, MAX_EXTENSIONS * 8)));
    }

    proptest! {
        #[test]
        fn random_bytes_end_within_the_slice_or_with_an_error(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(60), Just(44), Just(0), Just(51)], 0..200),
            first in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60)],
        ) {
            if let Ok(found) = transport(&bytes, IpProtocol(first)) {
                prop_assert!(found.offset <= bytes.len());
                prop_assert!(found.offset >= 8);
            }
        }
    }
}
