//! ICMP, ICMPv6 and neighbour discovery. What a wrong checksum would end is tried with a right one too.
#![no_main]

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire::{assert_sensible, both_ways, number};
use weft_fuzz::{get, set, sum};
use weft_switch::wire::icmp::{IcmpHeader, IcmpView};
use weft_switch::wire::icmpv6::{Icmpv6Header, Icmpv6View};
use weft_switch::wire::ndp::{
    LINK_LAYER_LEN, NEIGHBOUR_LEN, NdpOptions, NeighbourAdvert, NeighbourAdvertView, NeighbourSolicit,
    NeighbourSolicitView, RouterSolicitView, multicast_mac, solicited_node,
};

fuzz_target!(|data: &[u8]| {
    icmp(data);
    icmpv6(data);
    solicitation(data);
    advertisement(data);
    router_solicitation(data);
    // The same as the message that its rest would be.
    for kind in [133, 135, 136] {
        let mut message = data.to_vec();
        if let Some(first) = message.first_chunk_mut() {
            *first = [kind, 0];
        }
        solicitation(&message);
        advertisement(&message);
        router_solicitation(&message);
    }
});

/// Addresses out of the input.
fn ends(data: &[u8]) -> (Ipv6Addr, Ipv6Addr) {
    let n = u128::from(number(data));
    ((n << 64 | n >> 3).into(), (n.rotate_left(99)).into())
}

fn icmp(data: &[u8]) {
    let view = match IcmpView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, icmp_type, code, checksum, rest, echo_ident, echo_seq, is_error, payload);
    assert_eq!(view.verify_checksum(), sum::folded(data) == 0xffff);
    if let Err(error) = IcmpHeader::parse(&view) {
        assert_sensible(error, data.len());
        assert!(!view.verify_checksum(), "{error}");
    }
    let mut copy = data.to_vec();
    let mut view = IcmpView::new_checked(&mut copy[..]).expect("a copy");
    view.fill_checksum();
    let header = IcmpHeader::parse(&view).expect("a message whose checksum is right");
    let mut written = copy.clone();
    written[..8].fill(0xa5);
    assert_eq!(header.emit(&mut written), Ok(8));
    assert_eq!(written, copy);

    let n = number(data);
    let mut view = IcmpView::new_checked(&mut copy[..]).expect("a copy");
    set!(view, set_icmp_type(n as u8) = icmp_type, set_code((n >> 8) as u8) = code);
    set!(view, set_checksum(n as u16) = checksum, set_rest((n as u32).to_be_bytes()) = rest);
    set!(view, set_echo_ident((n >> 16) as u16) = echo_ident, set_echo_seq((n >> 32) as u16) = echo_seq);
}

fn icmpv6(data: &[u8]) {
    let view = match Icmpv6View::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(
        view,
        icmp_type,
        code,
        checksum,
        rest,
        echo_ident,
        echo_seq,
        is_error,
        is_neighbour_discovery,
        payload
    );
    let (src, dst) = ends(data);
    assert_eq!(view.verify_checksum(src, dst), sum::is_right(src.into(), dst.into(), 58, data));
    if let Err(error) = Icmpv6Header::parse(&view, src, dst) {
        assert_sensible(error, data.len());
        assert!(!view.verify_checksum(src, dst), "{error}");
    }
    let mut copy = data.to_vec();
    let mut view = Icmpv6View::new_checked(&mut copy[..]).expect("a copy");
    view.fill_checksum(src, dst);
    let header = Icmpv6Header::parse(&view, src, dst).expect("a message whose checksum is right");
    let mut written = copy.clone();
    written[..8].fill(0xa5);
    assert_eq!(header.emit(&mut written, src, dst), Ok(8));
    assert_eq!(written, copy);

    let n = number(data);
    let mut view = Icmpv6View::new_checked(&mut copy[..]).expect("a copy");
    set!(view, set_icmp_type(n as u8) = icmp_type, set_code((n >> 8) as u8) = code);
    set!(view, set_checksum(n as u16) = checksum, set_rest((n as u32).to_be_bytes()) = rest);
    set!(view, set_echo_ident((n >> 16) as u16) = echo_ident, set_echo_seq((n >> 32) as u16) = echo_seq);
}

/// The options end within the message; whether all of them are sound.
fn options(options: NdpOptions<'_>, room: usize) -> bool {
    let (mut seen, mut sound) = (0, true);
    for option in options {
        assert!(sound, "the walk ends with the first error");
        match option {
            Ok(option) => {
                get!(option, mac);
                assert_eq!((option.data.len() + 2) % 8, 0);
                seen += option.data.len() + 2;
            }
            Err(error) => {
                assert_sensible(error, room);
                sound = false;
            }
        }
    }
    assert!(seen <= room && (!sound || seen == room));
    sound
}

fn solicitation(data: &[u8]) {
    let view = match NeighbourSolicitView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, target, source_link_layer);
    let sound = options(view.options(), data.len() - NEIGHBOUR_LEN);
    let Ok(message) = NeighbourSolicit::parse(&view) else { return };
    assert!(sound);
    let (src, dst) = ends(data);
    let written = both_ways(
        &message,
        message.len(),
        |message, to| message.emit(to, src, dst),
        |bytes| NeighbourSolicit::parse(&NeighbourSolicitView::new_checked(bytes)?),
    );
    assert_eq!(written.len(), NEIGHBOUR_LEN + message.source_mac.map_or(0, |_| LINK_LAYER_LEN));
    assert!(sum::is_right(src.into(), dst.into(), 58, &written));
    let group = solicited_node(message.target);
    assert!(group.is_multicast() && multicast_mac(group).is_multicast());
}

fn advertisement(data: &[u8]) {
    let view = match NeighbourAdvertView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, router, solicited, override_, target, target_link_layer);
    let sound = options(view.options(), data.len() - NEIGHBOUR_LEN);
    let Ok(message) = NeighbourAdvert::parse(&view) else { return };
    assert!(sound);
    let (src, dst) = ends(data);
    let written = both_ways(
        &message,
        message.len(),
        |message, to| message.emit(to, src, dst),
        |bytes| NeighbourAdvert::parse(&NeighbourAdvertView::new_checked(bytes)?),
    );
    assert!(sum::is_right(src.into(), dst.into(), 58, &written));
}

fn router_solicitation(data: &[u8]) {
    let view = match RouterSolicitView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, source_link_layer);
    let sound = options(view.options(), data.len() - 8);
    assert!(sound || view.source_link_layer().is_err());
}
