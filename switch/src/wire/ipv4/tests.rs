use super::*;
use crate::wire::samples::{self, hex};
use proptest::prelude::*;

fn captured() -> Vec<u8> {
    hex(samples::UDP4)[14..].to_vec()
}

#[test]
fn a_captured_header_both_ways() {
    let bytes = captured();
    let view = Ipv4View::new_checked(&bytes[..]).unwrap();
    let header = Ipv4Header {
        dscp: 0,
        ecn: 0,
        payload_len: 12,
        ident: 0xd8d6,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::UDP,
        src: Ipv4Addr::new(10, 244, 1, 2),
        dst: Ipv4Addr::new(10, 244, 1, 9),
        options: ArrayVec::new(),
    };
    assert!(view.verify_checksum() && !view.is_fragment());
    assert_eq!((view.header_len(), view.total_len(), view.checksum()), (20, 32, 0x4a04));
    assert_eq!(view.payload(), &bytes[20..]);
    assert_eq!(Ipv4Header::parse(&view), Ok(header.clone()));
    let mut out = [0xa5; 20];
    assert_eq!(header.emit(&mut out), Ok(20));
    assert_eq!(out, bytes[..20]);
}

#[test]
fn padding_is_legal_and_a_first_segment_too() {
    let mut padded = captured();
    padded.resize(46, 0);
    assert_eq!(Ipv4View::new_checked(&padded[..]).unwrap().payload().len(), 12);
    let first = &captured()[..25];
    let cut = WireError::Truncated { format: Format::Ipv4, need: 32, have: 25 };
    assert_eq!(Ipv4View::new_checked(first).unwrap_err(), cut);
    assert_eq!(Ipv4View::new_header_checked(first).unwrap().payload(), &first[20..]);
}

#[test]
fn contradictions_are_named() {
    let wrong = |at: usize, value: u8| {
        let mut bytes = captured();
        bytes[at] = value;
        Ipv4View::new_checked(bytes).map(|_| ()).unwrap_err()
    };
    let bad = |field, value| WireError::BadField { format: Format::Ipv4, field, value };
    assert_eq!(wrong(0, 0x65), bad("version", 6));
    assert_eq!(wrong(0, 0x44), bad("header_len", 16));
    assert_eq!(wrong(3, 19), bad("total_len", 19));
    assert_eq!(wrong(0, 0x4f), WireError::Truncated { format: Format::Ipv4, need: 60, have: 32 });
    let mut sum = captured();
    sum[10] ^= 1;
    let sum = Ipv4Header::parse(&Ipv4View::new_checked(sum).unwrap());
    assert_eq!(sum, Err(bad("checksum", 0x4b04)));
}

#[test]
fn a_ttl_of_zero_stays() {
    let mut view = Ipv4View::new_checked(captured()).unwrap();
    view.set_ttl(1);
    view.fill_checksum();
    assert_eq!((view.decrement_ttl(), view.decrement_ttl(), view.ttl()), (0, 0, 0));
    assert!(view.verify_checksum());
}

#[test]
fn what_does_not_fit_is_not_written() {
    let view = Ipv4View::new_checked(captured()).unwrap();
    let good = Ipv4Header::parse(&view).unwrap();
    let field = |header: Ipv4Header| match header.emit(&mut [0; 60]) {
        Err(WireError::BadField { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(Ipv4Header { dscp: 64, ..good.clone() }), "dscp");
    assert_eq!(field(Ipv4Header { ecn: 4, ..good.clone() }), "ecn");
    assert_eq!(field(Ipv4Header { fragment_offset: 4, ..good.clone() }), "fragment_offset");
    assert_eq!(field(Ipv4Header { payload_len: 65516, ..good.clone() }), "total_len");
    assert_eq!(field(Ipv4Header { options: [1; 3].into_iter().collect(), ..good.clone() }), "header_len");
    let room = WireError::NoRoom { format: Format::Ipv4, need: 20, have: 19 };
    assert_eq!(good.emit(&mut [0; 19]), Err(room));
}

proptest! {
    #[test]
    fn emit_then_parse(header in any_ipv4()) {
        let mut bytes = vec![0xa5; header.len()];
        prop_assert_eq!(header.emit(&mut bytes), Ok(header.len()));
        prop_assert_eq!(Ipv4Header::parse(&Ipv4View::new_header_checked(&bytes).unwrap()), Ok(header));
    }

    #[test]
    fn changes_on_the_way_keep_the_checksum_right(header in any_ipv4(), hops in 0usize..4, ecn: u8) {
        let mut bytes = vec![0; header.len()];
        header.emit(&mut bytes).unwrap();
        let mut view = Ipv4View::new_header_checked(&mut bytes[..]).unwrap();
        for _ in 0..hops {
            view.decrement_ttl();
        }
        view.set_ecn_updating(ecn);
        prop_assert!(view.verify_checksum());
        prop_assert_eq!(view.ecn(), ecn & 3);
        prop_assert_eq!(usize::from(view.ttl()), usize::from(header.ttl).saturating_sub(hops));
        let expected = Ipv4Header { ttl: view.ttl(), ecn: ecn & 3, ..header };
        prop_assert_eq!(Ipv4Header::parse(&view), Ok(expected));
    }
}
