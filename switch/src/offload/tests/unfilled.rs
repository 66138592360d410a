//! What a kernel leaves undone without a word is recognised, and nothing else is.

use super::frames::{KINDS, Recipe, look_at};
use crate::offload::checksum::complete;
use crate::offload::unfilled::state_of;
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::{HeapBuf, PacketBuf};
use crate::wire::checksum::{Sum, udp_never_zero};
use proptest::prelude::*;

/// As many bytes as an outer header has, which nobody looks into.
const INNER: usize = 50;
/// What the overlay carries.
const MTU: usize = 1450;

/// A packet in the tunnel.
struct Packet {
    bytes: Vec<u8>,
    /// Where its transport header begins, and where its checksum is.
    l4: usize,
    field: usize,
}

impl Packet {
    /// As a kernel leaves it.
    fn unfilled(recipe: &Recipe) -> Self {
        let (frame, l4) = recipe.bytes();
        let bytes = [&[0x5a; INNER][..], &frame].concat();
        Self { bytes, l4: INNER + l4, field: INNER + l4 + usize::from(recipe.field()) }
    }

    /// As it is sent over a wire.
    fn filled(recipe: &Recipe) -> Self {
        let mut packet = Self::unfilled(recipe);
        packet.set_checksum(udp_never_zero(!packet.sum()));
        packet
    }

    /// Of everything from the transport header on. Unfilled, that has the pseudo-header's sum in it.
    fn sum(&self) -> u16 {
        Sum::new().add(&self.bytes[self.l4..]).fold()
    }

    fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.bytes[self.field], self.bytes[self.field + 1]])
    }

    fn set_checksum(&mut self, checksum: u16) {
        self.bytes[self.field..self.field + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn state(&self, told: Option<u16>) -> Offload {
        state_of(&HeapBuf::from_bytes(&self.bytes), INNER, MTU, told)
    }
}

fn recipe(kind: GsoKind, v6: bool, payload: usize) -> Recipe {
    Recipe::new(kind, v6, payload, 1)
}

#[test]
fn a_checksum_that_was_never_filled_in_is_partial_and_completes_to_the_right_one() {
    for (kind, v6) in KINDS {
        for payload in [0, 3, 4] {
            let recipe = recipe(kind, v6, payload);
            let filled = Packet::filled(&recipe);
            assert_eq!(filled.state(None), Offload::default());
            let packet = Packet::unfilled(&recipe);
            let checksum = Checksum::Partial { start: packet.l4 as u16, offset: recipe.field() };
            assert_eq!(packet.state(None), Offload { checksum, gso: None });
            let mut buf = HeapBuf::from_bytes(&packet.bytes);
            buf.set_offload(packet.state(None));
            complete(&mut buf).unwrap();
            assert_eq!(buf.to_vec(), filled.bytes);
            buf.trim_front(INNER);
            look_at(&buf);
        }
    }
}

#[test]
fn a_right_checksum_that_equals_the_pseudo_headers_sum_is_left() {
    for (kind, v6) in KINDS {
        // The last word of the payload makes the whole sum what the field is to be.
        let mut packet = Packet::unfilled(&recipe(kind, v6, 8));
        let pseudo = packet.checksum();
        let end = packet.bytes.len();
        packet.bytes[end - 2..].fill(0);
        let missing = !Sum::new().add_u16(packet.sum()).add_u16(pseudo).fold();
        packet.bytes[end - 2..].copy_from_slice(&missing.to_be_bytes());
        assert_eq!(
            Sum::new().add_u16(packet.sum()).add_u16(pseudo).fold(),
            0xffff,
            "the test's own arithmetic"
        );
        assert_eq!(packet.state(None), Offload::default());
    }
}

#[test]
fn larger_than_the_overlay_carries_is_several() {
    for (kind, v6) in [(GsoKind::Tcp4, false), (GsoKind::Tcp6, true)] {
        let headers = recipe(kind, v6, 0).bytes().0.len() - 14;
        let gso = |payload, told| Packet::unfilled(&recipe(kind, v6, payload)).state(told).gso;
        assert_eq!(gso(MTU - headers, None), None);
        let size = (MTU - headers) as u16;
        let several = |size| Some(Gso { kind, size, ecn: false });
        assert_eq!(gso(MTU + 1 - headers, None), several(size));
        assert_eq!(gso(60_000, None), several(size));
        assert_eq!(gso(60_000, Some(500)), several(500));
        assert_eq!(gso(60_000, Some(9000)), several(size));
        let congested = Recipe { flags: 0x80 | 0x18, ..recipe(kind, v6, 3000) };
        assert_eq!(Packet::unfilled(&congested).state(None).gso, Some(Gso { kind, size, ecn: true }));
        // Filled in, it is a large packet and nothing else.
        assert_eq!(Packet::filled(&recipe(kind, v6, 3000)).state(None), Offload::default());
    }
}

#[test]
fn of_datagrams_only_the_kernel_knows_that_they_are_several() {
    for v6 in [false, true] {
        let packet = Packet::unfilled(&recipe(GsoKind::Udp, v6, 3000));
        assert_eq!(packet.state(None).gso, None);
        assert!(matches!(packet.state(None).checksum, Checksum::Partial { .. }));
        let gso = Gso { kind: GsoKind::Udp, size: 1000, ecn: false };
        assert_eq!(packet.state(Some(1000)).gso, Some(gso));
        assert_eq!(packet.state(Some(3000)).gso, None, "one");
    }
}

#[test]
fn nothing_is_said_of_fragments_other_protocols_and_what_is_cut_off() {
    let changed = |kind, change: fn(&mut Packet)| {
        let mut packet = Packet::unfilled(&recipe(kind, false, 5));
        change(&mut packet);
        packet.state(None)
    };
    for kind in [GsoKind::Tcp4, GsoKind::Udp] {
        assert_eq!(changed(kind, |packet| packet.bytes[INNER + 14 + 6] = 0x20), Offload::default());
        assert_eq!(changed(kind, |packet| packet.bytes[INNER + 14 + 9] = 1), Offload::default());
        assert_eq!(changed(kind, |packet| packet.bytes.truncate(packet.l4 + 3)), Offload::default());
        assert_eq!(changed(kind, |packet| packet.bytes.clear()), Offload::default());
        assert_eq!(changed(kind, |packet| packet.set_checksum(0)), Offload::default());
    }
    // A packet that ends before its checksum, in a frame that goes on.
    let short = changed(GsoKind::Tcp4, |packet| {
        let len = 20 + 17;
        packet.bytes[INNER + 16..INNER + 18].copy_from_slice(&u16::to_be_bytes(len));
        let addresses = Sum::new().add(&packet.bytes[INNER + 26..INNER + 34]);
        packet.set_checksum(addresses.add_u16(6).add_u16(17).fold());
    });
    assert_eq!(short, Offload::default());
}

proptest! {
    #[test]
    fn a_wrong_checksum_is_not_repaired(kind in prop::sample::select(&KINDS[..]), payload in 0usize..200, field: u16) {
        let mut packet = Packet::unfilled(&recipe(kind.0, kind.1, payload));
        let pseudo = packet.checksum();
        packet.set_checksum(field);
        let right = Sum::new().add_u16(packet.sum()).add_u16(pseudo).fold() == 0xffff;
        let partial = matches!(packet.state(None).checksum, Checksum::Partial { .. });
        prop_assert_eq!(partial, field == pseudo && !right);
    }

    #[test]
    fn any_bytes_are_looked_at_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300), inner in 0usize..200, mtu in 0usize..2000, told: Option<u16>,
    ) {
        let cut = bytes.len() / 2;
        let buf = HeapBuf::from_segments(&[&bytes[..cut], &bytes[cut..]]);
        state_of(&buf, inner, mtu, told);
    }

    #[test]
    fn chains_are_as_one_piece(payload in 0usize..400, at in 0usize..400) {
        let packet = Packet::unfilled(&recipe(GsoKind::Tcp4, false, payload));
        let (a, b) = packet.bytes.split_at(at.min(packet.bytes.len()));
        let chain = HeapBuf::from_segments(&[a, b]);
        prop_assert_eq!(state_of(&chain, INNER, MTU, None), packet.state(None));
    }
}
