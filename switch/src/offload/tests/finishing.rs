//! Frames are cut and their checksums filled in: what comes out is what the sender meant, and right to the last bit.

use super::frames::{IDENT, KINDS, Recipe, SEQ, look_at};
use crate::drop_reason::DropReason;
use crate::offload::checksum::{complete, udp_checksum_ok};
use crate::offload::finish::{finish, takes};
use crate::offload::segment::{MAX_FRAMES, Unfinished, segment};
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::{HeapBuf, HeapPool, PacketBuf};
use crate::port::TxCaps;
use proptest::prelude::*;

fn cut(pool: &mut HeapPool, frame: HeapBuf) -> (Result<usize, Unfinished>, Vec<HeapBuf>) {
    let mut frames = Vec::new();
    let outcome = segment(pool, frame, |_, frame| frames.push(frame));
    (outcome, frames)
}

/// Cuts the frame and compares everything with what a sender would have sent frame by frame.
fn check(recipe: &Recipe, segment_of_pool: usize) {
    let mut pool = HeapPool { segment: segment_of_pool, left: usize::MAX };
    let (outcome, frames) = cut(&mut pool, recipe.frame());
    let size = usize::from(recipe.size);
    let count = recipe.payload.div_ceil(size).max(1);
    assert_eq!(outcome, Ok(count), "{recipe:?}");
    assert_eq!(frames.len(), count);
    let headers = recipe.bytes().0.len() - recipe.payload;
    let mut payload = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let seen = look_at(frame);
        let last = index + 1 == count;
        assert_eq!(seen.headers, headers);
        assert!(last || seen.payload.len() == size);
        assert_eq!(seen.ident, (!recipe.v6).then_some(IDENT.wrapping_add(index as u16)));
        if recipe.kind != GsoKind::Udp {
            assert_eq!(seen.seq, Some(SEQ.wrapping_add(payload.len() as u32)));
            let mut flags = recipe.flags;
            flags &= if last { 0xff } else { !0x09 };
            flags &= if index == 0 { 0xff } else { !0x80 };
            assert_eq!(seen.flags, flags, "frame {index} of {count}");
        }
        payload.extend(seen.payload);
    }
    assert_eq!(payload, recipe.payload());
}

#[test]
fn every_kind_around_multiples_of_the_size() {
    for (kind, v6) in KINDS {
        for payload in [0, 1, 999, 1000, 1001, 1999, 2000, 2001, 9999, 10_000] {
            check(&Recipe::new(kind, v6, payload, 1000), 2048);
        }
    }
}

#[test]
fn the_longest_frames() {
    for (kind, v6) in KINDS {
        let headers = if v6 { 0 } else { 20 } + if kind == GsoKind::Udp { 8 } else { 32 };
        check(&Recipe { split: vec![66, 2048, 4096], ..Recipe::new(kind, v6, 65_535 - headers, 1398) }, 2048);
    }
}

#[test]
fn tags_options_and_extension_headers() {
    for (kind, v6) in KINDS {
        for extra in [1, 4, 10] {
            for vlan in [false, true] {
                check(&Recipe { vlan, extra, ..Recipe::new(kind, v6, 3333, 1111) }, 2048);
            }
        }
    }
}

#[test]
fn flags_belong_to_the_first_or_the_last() {
    check(&Recipe { flags: 0x80 | 0x19, ..Recipe::new(GsoKind::Tcp4, false, 2500, 1000) }, 2048);
    check(&Recipe { flags: 0x80 | 0x19, ..Recipe::new(GsoKind::Tcp6, true, 500, 1000) }, 2048);
}

#[test]
fn the_pool_runs_dry_in_the_middle() {
    let mut pool = HeapPool { left: 3, ..HeapPool::default() };
    let recipe = Recipe::new(GsoKind::Tcp4, false, 5000, 1000);
    let (outcome, frames) = cut(&mut pool, recipe.frame());
    assert_eq!(outcome, Err(Unfinished { reason: DropReason::TxNoBuffer, given: 3 }));
    let sent: Vec<u8> = frames.iter().flat_map(|frame| look_at(frame).payload).collect();
    assert_eq!(sent, recipe.payload()[..3000]);
    assert_eq!(outcome.unwrap_err().to_string(), "tx_no_buffer after 3 frames");
}

#[test]
fn one_segment_needs_no_buffer() {
    let mut pool = HeapPool { left: 0, ..HeapPool::default() };
    let (outcome, frames) = cut(&mut pool, Recipe::new(GsoKind::Udp, true, 700, 1000).frame());
    assert_eq!((outcome, look_at(&frames[0]).payload.len()), (Ok(1), 700));
}

#[test]
fn a_udp_sender_without_checksums_keeps_its_choice() {
    let recipe = Recipe::new(GsoKind::Udp, false, 2000, 1000);
    let (mut bytes, l4) = recipe.bytes();
    bytes[l4 + 6..l4 + 8].fill(0);
    let mut frame = HeapBuf::from_bytes(&bytes);
    frame.set_offload(Offload { checksum: Checksum::Unverified, ..recipe.state() });
    let (outcome, frames) = cut(&mut HeapPool::default(), frame);
    assert_eq!(outcome, Ok(2));
    for frame in frames {
        assert_eq!(frame.to_vec()[l4 + 6..l4 + 8], [0, 0]);
        look_at(&frame);
    }
}

#[test]
fn contradictions_give_nothing_out() {
    let tcp = Recipe::new(GsoKind::Tcp4, false, 3000, 1000);
    let (bytes, l4) = tcp.bytes();
    let state = tcp.state();
    let gso = state.gso.unwrap();
    let refused = |what: &str, bytes: &[u8], state: Offload| {
        let mut frame = HeapBuf::from_bytes(bytes);
        frame.set_offload(state);
        let (outcome, frames) = cut(&mut HeapPool::default(), frame);
        assert_eq!(outcome, Err(Unfinished { reason: DropReason::GsoMalformed, given: 0 }), "{what}");
        assert!(frames.is_empty());
    };
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    for kind in [GsoKind::Tcp6, GsoKind::Udp] {
        refused("another kind", &bytes, Offload { gso: Some(Gso { kind, ..gso }), ..state });
    }
    refused("no GSO", &bytes, Offload { gso: None, ..state });
    refused("size 0", &bytes, Offload { gso: Some(Gso { size: 0, ..gso }), ..state });
    let elsewhere = Checksum::Partial { start: l4 as u16 + 50, offset: 16 };
    refused("the state of an inner packet", &bytes, Offload { checksum: elsewhere, ..state });
    refused("ARP", &changed(13, 6), state);
    refused("version", &changed(14, 0x65), state);
    refused("header length", &changed(14, 0x44), state);
    refused("total length", &changed(17, 1), state);
    refused("a fragment", &changed(20, 0x20), state);
    refused("data offset too small", &changed(l4 + 12, 0x40), state);
    refused("SYN", &changed(l4 + 13, 0x02), state);
    refused("cut off", &bytes[..l4 + 12], state);
    let many = Recipe::new(GsoKind::Tcp4, false, MAX_FRAMES + 1, 1);
    refused("too many", &many.bytes().0, many.state());
    check(&Recipe::new(GsoKind::Tcp4, false, MAX_FRAMES, 1), 2048);
}

#[test]
fn a_checksum_is_filled_in_over_a_chain() {
    for (kind, v6) in KINDS {
        for payload in [0, 1, 2, 1399, 1400] {
            let recipe = Recipe { split: vec![54, 7, 1, 501], ..Recipe::new(kind, v6, payload, 1) };
            let mut frame = recipe.frame();
            // An IPv4 header's own checksum is the sender's business in every state.
            let mut header = recipe.bytes().0;
            if !v6 {
                let sum = etherparse::Ipv4Header::from_slice(&header[14..]).unwrap().0.calc_header_checksum();
                header[24..26].copy_from_slice(&sum.to_be_bytes());
                frame.write_at(24, &header[24..26]);
            }
            frame.set_offload(Offload { gso: None, ..recipe.state() });
            assert_eq!(complete(&mut frame), Ok(()));
            assert_eq!(look_at(&frame).payload, recipe.payload());
            let before = frame.to_vec();
            assert_eq!(complete(&mut frame), Ok(()));
            assert_eq!(frame.to_vec(), before, "nothing left to be done");
        }
    }
}

#[test]
fn a_sum_of_zero_is_written_as_all_ones() {
    let mut frame = HeapBuf::from_bytes(&[0xff; 20]);
    frame.set_offload(Offload { checksum: Checksum::Partial { start: 10, offset: 6 }, gso: None });
    complete(&mut frame).unwrap();
    assert_eq!(frame.to_vec()[16..18], [0xff, 0xff]);
}

#[test]
fn a_checksum_outside_of_the_packet_is_refused() {
    let mut frame = HeapBuf::from_bytes(&[0; 60]);
    for (start, offset) in [(34, 25), (60, 0), (61, 0), (0, 59), (u16::MAX, u16::MAX)] {
        frame.set_offload(Offload { checksum: Checksum::Partial { start, offset }, gso: None });
        assert_eq!(complete(&mut frame), Err(DropReason::ChecksumPlace));
        assert_eq!(frame.to_vec(), [0; 60]);
    }
}

#[test]
fn the_outer_udp_checksum() {
    for v6 in [false, true] {
        for payload in [0, 1, 1000, 1001] {
            let recipe = Recipe { split: vec![60, 333], ..Recipe::new(GsoKind::Udp, v6, payload, 1) };
            let udp = recipe.bytes().1;
            let mut frame = recipe.frame();
            assert!(udp_checksum_ok(&frame, 14, udp), "not filled in: nothing to look at");
            frame.set_offload(Offload { gso: None, ..recipe.state() });
            complete(&mut frame).unwrap();
            assert!(udp_checksum_ok(&frame, 14, udp));
            let right = frame.to_vec();
            for wrong in [14 + 13, udp, right.len() - 1] {
                let mut bytes = right.clone();
                bytes[wrong] ^= 0x10;
                assert!(!udp_checksum_ok(&HeapBuf::from_bytes(&bytes), 14, udp), "byte {wrong}");
            }
            let mut none = right.clone();
            none[udp + 6..udp + 8].fill(0);
            assert_eq!(udp_checksum_ok(&HeapBuf::from_bytes(&none), 14, udp), !v6);
            let padded = [&right[..], &[1, 2, 3]].concat();
            assert!(udp_checksum_ok(&HeapBuf::from_bytes(&padded), 14, udp), "bytes behind it do not count");
            for length in [7, payload as u16 + 9] {
                let mut bytes = right.clone();
                bytes[udp + 4..udp + 6].copy_from_slice(&length.to_be_bytes());
                assert!(!udp_checksum_ok(&HeapBuf::from_bytes(&bytes), 14, udp));
            }
        }
    }
}

#[test]
fn a_way_out_gets_what_it_takes() {
    let all = [
        TxCaps::NONE,
        TxCaps::ALL,
        TxCaps { partial_checksum: true, ..TxCaps::NONE },
        TxCaps { partial_checksum: false, ..TxCaps::ALL },
        TxCaps { gso_tcp4: false, ..TxCaps::ALL },
        TxCaps { gso_tcp6: false, ..TxCaps::ALL },
        TxCaps { gso_udp: false, ..TxCaps::ALL },
    ];
    for caps in all {
        for (kind, v6) in KINDS {
            let recipe = Recipe::new(kind, v6, 2500, 1000);
            let whole = match kind {
                GsoKind::Tcp4 => caps.gso_tcp4,
                GsoKind::Tcp6 => caps.gso_tcp6,
                GsoKind::Udp => caps.gso_udp,
            } && caps.partial_checksum;
            for (state, frames) in [
                (recipe.state(), if whole { 1 } else { 3 }),
                (Offload { gso: None, ..recipe.state() }, 1),
                (Offload { checksum: Checksum::Unverified, ..recipe.state() }, 3),
                (Offload { checksum: Checksum::Verified, gso: None }, 1),
            ] {
                let mut frame = recipe.frame();
                frame.set_offload(state);
                let (same, as_it_is) = (frame.clone(), takes(caps, &frame));
                let mut sent = Vec::new();
                let outcome = finish(&mut HeapPool::default(), frame, caps, |_, frame| sent.push(frame));
                assert_eq!((outcome, sent.len()), (Ok(frames), frames), "{caps:?} {state:?}");
                assert!(sent.iter().all(|frame| takes(caps, frame)));
                if as_it_is {
                    assert_eq!(sent[0], same);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_frame_comes_out_as_it_went_in(
        which in 0usize..4, payload in 0usize..6000, size in 20u16..3000, vlan: bool,
        extra in 0usize..=10, tcp_options in 0usize..=10, flags in prop::sample::select(vec![0x10u8, 0x18, 0x19, 0x98, 0xd9]),
        split in prop::collection::vec(1usize..900, 0..8), pool in prop::sample::select(vec![300usize, 501, 2048, 9000]),
    ) {
        let (kind, v6) = KINDS[which];
        check(&Recipe { kind, v6, vlan, extra, tcp_options, payload, flags, size, split }, pool);
    }
}
