//! IPv4 with options and IPv6 with extension headers. What a wrong checksum would end is tried with a right one too.
#![no_main]

use etherparse::{Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire::{assert_sensible, both_ways, number};
use weft_fuzz::{get, set, sum};
use weft_switch::wire::ip::IpProtocol;
use weft_switch::wire::ipv4::{Ipv4Header, Ipv4View};
use weft_switch::wire::ipv6::{Ipv6Header, Ipv6View, transport};

fuzz_target!(|data: &[u8]| {
    ipv4(data);
    ipv6(data);
});

fn ipv4(data: &[u8]) {
    let whole = Ipv4View::new_checked(data);
    let view = match Ipv4View::new_header_checked(data) {
        Ok(view) => view,
        Err(error) => {
            assert_eq!(whole.err(), Some(error));
            return assert_sensible(error, data.len());
        }
    };
    assert_eq!(whole.is_ok(), usize::from(view.total_len()) <= data.len());
    get!(view, header_len, dscp, ecn, total_len, ident, dont_fragment, more_fragments, fragment_offset);
    get!(view, is_fragment, ttl, protocol, checksum, src, dst, options, payload);
    let header = &data[..view.header_len()];
    assert_eq!(view.verify_checksum(), sum::folded(header) == 0xffff);
    assert!(view.options().len() + view.payload().len() + 20 <= data.len());

    let other = Ipv4HeaderSlice::from_slice(data).expect("etherparse reads it too");
    assert_eq!((view.src(), view.dst()), (other.source_addr(), other.destination_addr()));
    assert_eq!((view.ttl(), view.protocol().0), (other.ttl(), other.protocol().0));
    assert_eq!((view.total_len(), view.options()), (other.total_len(), other.options()));
    assert_eq!(view.fragment_offset(), other.fragments_offset().value() * 8);
    assert_eq!(view.is_fragment(), other.is_fragmenting_payload());

    if let Err(error) = Ipv4Header::parse(&view) {
        assert_sensible(error, data.len());
        assert!(!view.verify_checksum(), "{error}");
    }
    let mut copy = data.to_vec();
    let mut fixed = Ipv4View::new_header_checked(&mut copy[..]).expect("a copy");
    fixed.fill_checksum();
    let header = Ipv4Header::parse(&fixed).expect("a header whose checksum is right");
    let parse = |bytes: &[u8]| Ipv4Header::parse(&Ipv4View::new_header_checked(bytes)?);
    let written = both_ways(&header, header.len(), Ipv4Header::emit, parse);
    if data[6] & 0x80 == 0 {
        // The reserved flag is not kept.
        assert_eq!(written, copy[..header.len()]);
    }
    ipv4_changed(copy, number(data));
}

/// Setters do what they say, and those that mend the checksum mend it.
fn ipv4_changed(mut copy: Vec<u8>, n: u64) {
    let mut view = Ipv4View::new_header_checked(&mut copy[..]).expect("a copy");
    let ttl = view.ttl();
    assert_eq!(view.decrement_ttl(), ttl.saturating_sub(1));
    assert!(view.verify_checksum(), "one hop less");
    view.set_ecn_updating(n as u8);
    assert_eq!(view.ecn(), n as u8 & 3);
    assert!(view.verify_checksum(), "ECN");
    set!(
        view,
        set_dscp(n as u8 >> 2) = dscp,
        set_ecn(n as u8 & 3) = ecn,
        set_ident(n as u16) = ident,
        set_dont_fragment(n & 1 != 0) = dont_fragment,
        set_more_fragments(n & 2 != 0) = more_fragments,
        set_fragment_offset(n as u16 & 0xfff8) = fragment_offset,
        set_ttl(n as u8) = ttl,
        set_protocol(IpProtocol(n as u8)) = protocol,
        set_src((n as u32).into()) = src,
        set_dst(((n >> 8) as u32).into()) = dst,
        set_checksum(n as u16) = checksum,
    );
    assert_eq!((view.dont_fragment(), view.more_fragments()), (n & 1 != 0, n & 2 != 0));
    view.payload_mut().fill(0);
    view.options_mut().fill(1);
    view.fill_checksum();
    assert!(view.verify_checksum());
    let whole = view.header_len();
    set!(
        view,
        set_total_len((n as u16).max(60)) = total_len,
        set_header_len(20 + n as usize % 11 * 4) = header_len
    );
    // A setter of a length can break what was checked; it says so, and checking again finds it.
    let longer = view.header_len() > whole;
    let again = Ipv4View::new_header_checked(&copy[..]);
    assert!(again.is_ok() || longer, "{again:?}");
}

fn ipv6(data: &[u8]) {
    let whole = Ipv6View::new_checked(data);
    let view = match Ipv6View::new_header_checked(data) {
        Ok(view) => view,
        Err(error) => {
            assert_eq!(whole.err(), Some(error));
            // The walk takes a payload from anywhere.
            walk(data, IpProtocol(data.first().copied().unwrap_or(60)));
            return assert_sensible(error, data.len());
        }
    };
    assert_eq!(whole.is_ok(), 40 + usize::from(view.payload_len()) <= data.len());
    get!(
        view,
        version,
        traffic_class,
        dscp,
        ecn,
        flow_label,
        payload_len,
        next_header,
        hop_limit,
        src,
        dst,
        payload
    );
    let other = Ipv6HeaderSlice::from_slice(data).expect("etherparse reads it too");
    assert_eq!((view.src(), view.dst()), (other.source_addr(), other.destination_addr()));
    assert_eq!(
        (view.traffic_class(), view.flow_label()),
        (other.traffic_class(), other.flow_label().value())
    );
    assert_eq!((view.payload_len(), view.hop_limit()), (other.payload_length(), other.hop_limit()));

    let header = Ipv6Header::parse(&view).expect("a header that was checked");
    let parse = |bytes: &[u8]| Ipv6Header::parse(&Ipv6View::new_header_checked(bytes)?);
    assert_eq!(both_ways(&header, Ipv6Header::LEN, Ipv6Header::emit, parse), data[..40]);
    walk(view.payload(), view.next_header());

    let n = number(data);
    let mut copy = data.to_vec();
    let mut view = Ipv6View::new_header_checked(&mut copy[..]).expect("a copy");
    let hops = view.hop_limit();
    assert_eq!(view.decrement_hop_limit(), hops.saturating_sub(1));
    set!(
        view,
        set_traffic_class(n as u8) = traffic_class,
        set_dscp(n as u8 >> 2) = dscp,
        set_ecn(n as u8 & 3) = ecn,
        set_flow_label(n as u32 & 0xf_ffff) = flow_label,
        set_payload_len(n as u16) = payload_len,
        set_next_header(IpProtocol(n as u8)) = next_header,
        set_hop_limit(n as u8) = hop_limit,
        set_src((u128::from(n) << 64 | 7).into()) = src,
        set_dst(u128::from(n).into()) = dst,
    );
    view.payload_mut().fill(0);
    assert_eq!((view.dscp(), view.ecn(), view.version()), (n as u8 >> 2, n as u8 & 3, 6));
}

/// The walk over extension headers ends within the payload, and where etherparse's ends.
fn walk(payload: &[u8], next_header: IpProtocol) {
    let found = match transport(payload, next_header) {
        Ok(found) => found,
        Err(error) => return assert_sensible(error, payload.len()),
    };
    assert!(found.offset <= payload.len());
    get!(found, has_header);
    if let Some(fragment) = found.fragment {
        assert_eq!(fragment.offset % 8, 0);
        if fragment.offset > 0 {
            assert!(!found.has_header());
            return;
        }
    }
    let (_, protocol, rest, error) = Ipv6ExtensionsSlice::from_slice_lax(next_header.0.into(), payload);
    if error.is_none() && !is_extension(protocol.0) {
        assert_eq!((protocol.0, payload.len() - rest.len()), (found.protocol.0, found.offset));
    }
}

/// Also of those that weft does not look through: etherparse does.
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}
