//! The state itself: as a number, moved, from and to a virtio-net header.

use proptest::prelude::*;

use super::frames::Recipe;
use crate::offload::virtio::{self, VirtioError, emit, parse};
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::{HeapBuf, PacketBuf};

fn any_state() -> impl Strategy<Value = Offload> {
    let checksum = prop_oneof![
        Just(Checksum::Unverified),
        Just(Checksum::Verified),
        any::<(u16, u16)>().prop_map(|(start, offset)| Checksum::Partial { start, offset }),
    ];
    let kind = prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)];
    let gso = prop::option::of((kind, 1..=u16::MAX, any::<bool>()));
    (checksum, gso).prop_map(|(checksum, gso)| Offload {
        checksum,
        gso: gso.map(|(kind, size, ecn)| Gso { kind, size, ecn }),
    })
}

proptest! {
    #[test]
    fn packing_keeps_everything(state in any_state()) {
        prop_assert_eq!(Offload::unpack(state.pack()), state);
    }

    #[test]
    fn any_number_unpacks_to_a_state_that_packs(packed: u64) {
        let state = Offload::unpack(packed);
        prop_assert_eq!(Offload::unpack(state.pack()), state);
        prop_assert!(state.gso.is_none_or(|gso| gso.size > 0));
    }
}

#[test]
fn the_default_is_zero() {
    assert_eq!(Offload::default().pack(), 0);
    assert_eq!(Offload::unpack(0), Offload::default());
    assert_eq!(Offload::unpack(3), Offload::default());
}

#[test]
fn the_place_moves_with_the_frame_or_is_lost() {
    let at = |start| Offload { checksum: Checksum::Partial { start, offset: 16 }, gso: None };
    assert_eq!(at(34).shift(50), Some(at(84)));
    assert_eq!(at(84).shift(-50), Some(at(34)));
    assert_eq!(at(50).shift(-50), Some(at(0)));
    assert_eq!(at(49).shift(-50), None);
    assert_eq!(at(u16::MAX).shift(1), None);
    assert_eq!(at(1).shift(isize::MAX), None);
    let verified = Offload { checksum: Checksum::Verified, gso: None };
    assert_eq!(verified.shift(-50), Some(Offload::default()));
    assert_eq!(verified.shift(0), Some(verified));
}

fn header(flags: u8, gso_type: u8, size: u16, start: u16, offset: u16) -> [u8; 10] {
    let (size, start, offset) = (size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
    // The length of the headers is a lie.
    [flags, gso_type, 0xff, 0xff, size[0], size[1], start[0], start[1], offset[0], offset[1]]
}

#[test]
fn headers_of_tap_and_guests_both_ways() {
    for (kind, v6, number, headers) in [
        (GsoKind::Tcp4, false, 1, 14 + 20 + 32),
        (GsoKind::Tcp6, true, 4, 14 + 40 + 32),
        (GsoKind::Udp, false, 5, 14 + 20 + 8),
        (GsoKind::Udp, true, 5, 14 + 40 + 8),
    ] {
        let recipe = Recipe::new(kind, v6, 5000, 1400);
        let frame = recipe.frame();
        let l4 = recipe.bytes().1 as u16;
        assert_eq!(parse(&header(1, number, 1400, l4, recipe.field()), &frame), Ok(recipe.state()));
        let mut out = [0xee; 12];
        emit(recipe.state(), &frame, &mut out).unwrap();
        let mut expected = header(1, number, 1400, l4, recipe.field()).to_vec();
        expected[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
        expected.extend([1, 0]);
        assert_eq!(out.as_slice(), expected);
        assert_eq!(parse(&out, &frame), Ok(recipe.state()));
    }
}

#[test]
fn plain_checked_and_ecn() {
    let recipe = Recipe::new(GsoKind::Tcp4, false, 3000, 1000);
    let frame = recipe.frame();
    let verified = Offload { checksum: Checksum::Verified, gso: None };
    for (state, first) in [(Offload::default(), 0), (verified, 2)] {
        let mut out = [0xee; 10];
        emit(state, &frame, &mut out).unwrap();
        assert_eq!(out, [first, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&out, &frame), Ok(state));
    }
    let state = parse(&header(1, 0x81, 1000, 34, 16), &frame).unwrap();
    assert!(state.gso.unwrap().ecn);
    let mut out = [0; 10];
    emit(state, &frame, &mut out).unwrap();
    assert_eq!(out[1], 0x81);
}

#[test]
fn contradictions_are_named() {
    let frame = Recipe::new(GsoKind::Tcp4, false, 100, 1400).frame();
    let place = |start, offset| Err(VirtioError::ChecksumPlace { start, offset, len: frame.len() });
    let len = frame.len() as u16;
    assert_eq!(parse(&[0; 9], &frame), Err(VirtioError::HeaderLength(9)));
    assert_eq!(parse(&header(1, 0, 0, len - 8, 7), &frame), place(len - 8, 7));
    assert!(parse(&header(1, 0, 0, len - 8, 6), &frame).is_ok());
    assert_eq!(parse(&header(1, 0, 0, u16::MAX, u16::MAX), &frame), place(u16::MAX, u16::MAX));
    assert_eq!(parse(&header(1, 1, 0, 34, 16), &frame), Err(VirtioError::GsoSize));
    assert_eq!(parse(&header(0, 1, 1400, 34, 16), &frame), Err(VirtioError::GsoWithoutChecksum));
    assert_eq!(parse(&header(2, 1, 1400, 34, 16), &frame), Err(VirtioError::GsoWithoutChecksum));
    for number in [2, 3, 6, 0x83, 0x7f] {
        assert_eq!(parse(&header(1, number, 1400, 34, 16), &frame), Err(VirtioError::GsoType(number)));
    }
    let gso = Offload { checksum: Checksum::Unverified, gso: frame.offload().gso };
    assert_eq!(emit(gso, &frame, &mut [0; 10]), Err(VirtioError::GsoWithoutChecksum));
    assert_eq!(emit(gso, &frame, &mut [0; 11]), Err(VirtioError::HeaderLength(11)));
}

/// Else a pod's packet would pass the check of its source, and then have the source written over by its checksum.
#[test]
fn a_checksum_is_not_written_over_an_address() {
    let ipv4 = Recipe { extra: 2, ..Recipe::new(GsoKind::Udp, false, 100, 1400) }.frame();
    for start in 0..42 {
        assert!(parse(&header(1, 0, 0, start, 6), &ipv4).is_err(), "{start}");
    }
    assert!(parse(&header(1, 0, 0, 42, 6), &ipv4).is_ok());
    let ipv6 = Recipe { vlan: true, ..Recipe::new(GsoKind::Tcp6, true, 100, 1400) };
    assert!(parse(&header(1, 0, 0, 57, 0), &ipv6.frame()).is_err());
    assert!(parse(&header(1, 0, 0, 58, 16), &ipv6.frame()).is_ok());

    let options = Recipe { extra: 1, ..Recipe::new(GsoKind::Tcp6, true, 100, 1400) }.frame();
    for start in 0..62 {
        assert!(
            parse(&header(1, 0, 0, start, 0), &options).is_err(),
            "{start}: an extension header says what follows"
        );
    }
    assert!(parse(&header(1, 0, 0, 62, 16), &options).is_ok());

    let (mut bytes, _) = ipv6.bytes();
    bytes[18 + 6] = 58;
    assert!(parse(&header(1, 0, 0, 58, 16), &HeapBuf::from_bytes(&bytes)).is_err(), "neighbour discovery");
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 46]].concat();
    assert!(parse(&header(1, 0, 0, 20, 8), &HeapBuf::from_bytes(&arp)).is_err());
}

/// Found by fuzzing: the authentication header was not passed over, so its "next header" could be written over.
#[test]
fn a_checksum_is_not_written_over_what_an_authentication_header_announces() {
    let (bytes, l4) = Recipe::new(GsoKind::Udp, true, 100, 1400).bytes();
    let mut authenticated = [&bytes[..l4], &[17, 1], &[0; 10], &bytes[l4..]].concat();
    authenticated[20] = 51;
    authenticated[19] += 12;
    let frame = HeapBuf::from_bytes(&authenticated);
    for (start, offset) in (0..100).flat_map(|start| [(start, 0), (start, 6)]) {
        assert!(parse(&header(1, 0, 0, start, offset), &frame).is_err(), "{start}+{offset}");
    }
}

/// Else what is dropped by its port or its type could be sent as something else and be made that on the way.
#[test]
fn a_checksum_is_not_written_over_a_port_or_a_type() {
    for (protocol, field, rest) in [(6u8, 16, 20), (17, 6, 8), (1, 2, 8)] {
        let (mut bytes, l4) = Recipe::new(GsoKind::Tcp4, false, 100, 1400).bytes();
        bytes[23] = protocol;
        let frame = HeapBuf::from_bytes(&bytes);
        let at = |start: usize, offset| parse(&header(1, 0, 0, start as u16, offset), &frame);
        for offset in (0..40).filter(|offset| *offset != field) {
            assert!(at(l4, offset).is_err(), "protocol {protocol}, {offset}");
        }
        assert!((l4 + 1..l4 + rest).all(|start| at(start, field).is_err()), "protocol {protocol}");
        assert!(at(l4, field).is_ok() && at(l4 + rest, 0).is_ok(), "protocol {protocol}");
    }
}

/// From the kernel's VTEP over a veth: the place is the inner TCP header's.
#[test]
fn a_tunnel_packet_with_an_inner_state() {
    let inner = Recipe::new(GsoKind::Tcp4, false, 9000, 1398);
    let (inner_bytes, inner_l4) = inner.bytes();
    let mut outer = Recipe::new(GsoKind::Udp, false, 0, 1).bytes().0;
    outer.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    outer.extend(inner_bytes);
    let start = (50 + inner_l4) as u16;
    let state = parse(&header(1, 1, 1398, start, 16), &HeapBuf::from_bytes(&outer)).unwrap();
    assert_eq!(state.shift(-50), Some(inner.state()));
}

/// `struct virtio_net_hdr_v1_hash_tunnel` of linux/virtio_net.h, as the kernel reads it.
#[test]
fn a_tunnel_packets_header_says_where_its_headers_are() {
    for (kind, v6, number) in [
        (GsoKind::Tcp4, false, 1),
        (GsoKind::Tcp6, true, 4),
        (GsoKind::Udp, false, 5),
        (GsoKind::Udp, true, 5),
    ] {
        for outer_v6 in [false, true] {
            let inner = Recipe::new(kind, v6, 4000, 1000).frame();
            let Checksum::Partial { start, offset } = inner.offload().checksum else { panic!("partial") };
            let mut packet = inner.clone();
            let before = if outer_v6 { 70 } else { 50 };
            packet.prepend(before).expect("there is headroom");
            packet.set_offload(inner.offload().shift(before as isize).expect("it fits"));
            let udp = before as u16 - 16;
            let places = virtio::TunnelPlaces { v6: outer_v6, udp, inner: before as u16 + 14 };
            let mut header = [0xff; virtio::HEADER_TUNNEL];
            virtio::emit_tunnel(packet.offload(), places, &packet, &mut header).unwrap();
            let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
            assert_eq!(header[0], 1 | 8, "both checksums are to be filled in");
            assert_eq!(header[1], number | if outer_v6 { 0x40 } else { 0x20 });
            let tcp = inner.to_vec()[usize::from(start) + 12] >> 4;
            let l4 = if kind == GsoKind::Udp { 8 } else { u16::from(tcp) * 4 };
            assert_eq!(word(2), before as u16 + start + l4, "all headers");
            assert_eq!((word(4), word(6), word(8)), (1000, before as u16 + start, offset));
            assert_eq!(header[10..20], [0; 10]);
            assert_eq!((word(20), word(22)), (udp, before as u16 + 14));
        }
    }
}
