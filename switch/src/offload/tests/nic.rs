//! Flags and lengths against the frames that they are of.

use super::frames::{KINDS, Recipe, look_at};
use crate::offload::finish::finish;
use crate::offload::nic::{Told, Untold, Work, taken, told};
use crate::offload::virtio::VirtioError;
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::{HeapBuf, HeapPool, PacketBuf};
use crate::port::TxCaps;
use proptest::prelude::*;

/// The frame without its state and with something else in the checksum's field.
fn bare(recipe: &Recipe) -> (HeapBuf, usize) {
    let mut frame = recipe.frame();
    let (_, l4) = recipe.bytes();
    frame.set_offload(Offload::default());
    assert!(frame.write_at(l4 + usize::from(recipe.field()), &[0xde, 0xad]));
    (frame, l4)
}

#[test]
fn a_missing_checksum_is_the_one_of_the_frame() {
    for (kind, v6) in KINDS {
        for vlan in [false, true] {
            let recipe = Recipe { vlan, ..Recipe::new(kind, v6, 300, 100) };
            let (mut frame, l4) = bare(&recipe);
            let checksum = Checksum::Partial { start: l4 as u16, offset: recipe.field() };
            let state = Offload { checksum, gso: None };
            assert_eq!(taken(Told::Missing, None, &mut frame), Ok(state));
            assert_eq!(frame.to_vec(), recipe.bytes().0, "the pseudo-header's sum is in its place");
            frame.set_offload(state);
            finish(&mut HeapPool::default(), frame, TxCaps::NONE, |_, frame| _ = look_at(&frame)).unwrap();
        }
    }
}

#[test]
fn what_stands_for_several_is_tcp_of_the_frames_own_version() {
    for (kind, v6) in KINDS {
        let recipe = Recipe { split: vec![20, 100], ..Recipe::new(kind, v6, 3000, 1000) };
        for said in [Told::Missing, Told::Unknown, Told::Right] {
            let (mut frame, _) = bare(&recipe);
            let state = taken(said, Some(1000), &mut frame);
            if kind == GsoKind::Udp {
                assert_eq!(state, Err(VirtioError::GsoType(3)));
                continue;
            }
            assert_eq!(state, Ok(recipe.state()));
            assert_eq!(frame.to_vec(), recipe.bytes().0);
            assert_eq!(taken(said, Some(0), &mut frame), Err(VirtioError::GsoSize));
        }
    }
    let recipe = Recipe { flags: 0x98, ..Recipe::new(GsoKind::Tcp4, false, 3000, 1000) };
    let state = taken(Told::Missing, Some(1000), &mut recipe.frame()).unwrap();
    assert!(state.gso.is_some_and(|gso| gso.ecn), "a sender that reduces its window uses ECN");
}

#[test]
fn another_destination_may_be_meant_behind_options() {
    for (kind, v6) in KINDS {
        let recipe = Recipe { extra: 2, ..Recipe::new(kind, v6, 300, 100) };
        let (mut frame, l4) = bare(&recipe);
        let before = frame.to_vec();
        let checksum = Checksum::Partial { start: l4 as u16, offset: recipe.field() };
        assert_eq!(taken(Told::Missing, None, &mut frame), Ok(Offload { checksum, gso: None }));
        assert_eq!(frame.to_vec(), before, "the sender's sum is kept");
        frame.set_offload(Offload { checksum, gso: None });
        assert!(!told(&frame).unwrap().unwrap().plain);
    }
}

#[test]
fn what_contradicts_the_frame_is_refused() {
    let whole = Recipe::new(GsoKind::Tcp4, false, 100, 50).bytes().0;
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    for (what, bytes) in [
        ("not IP", with(12, 0x88)),
        ("another version", with(14, 0x65)),
        ("a header of 16 bytes", with(14, 0x44)),
        ("a fragment", with(20, 0x20)),
        ("ICMP", with(23, 1)),
        ("SCTP, whose checksum is another", with(23, 132)),
        ("behind an authentication header", with(23, 51)),
        ("shorter than its headers", with(16, 0)[..16].to_vec()),
        ("a length that is shorter than the header", {
            let mut bytes = with(16, 0);
            bytes[17] = 19;
            bytes
        }),
        ("cut off before the field", whole[..50].to_vec()),
        ("nothing", Vec::new()),
    ] {
        for segment in [None, Some(50)] {
            let mut frame = HeapBuf::from_bytes(&bytes);
            let result = taken(Told::Missing, segment, &mut frame);
            assert!(matches!(result, Err(VirtioError::ChecksumPlace { .. })), "{what}: {result:?}");
            assert_eq!(frame.to_vec(), bytes, "{what}");
        }
        for (said, checksum) in [(Told::Unknown, Checksum::Unverified), (Told::Right, Checksum::Verified)] {
            let mut frame = HeapBuf::from_bytes(&bytes);
            assert_eq!(taken(said, None, &mut frame), Ok(Offload { checksum, gso: None }), "{what}");
            assert_eq!(frame.to_vec(), bytes, "{what}");
        }
    }
}

#[test]
fn what_is_told_is_where_the_headers_are() {
    for (kind, v6) in KINDS {
        for (vlan, extra, segment) in [(false, 0, true), (true, 0, false), (false, 1, true), (true, 2, false)]
        {
            let recipe = Recipe { vlan, extra, ..Recipe::new(kind, v6, 300, 100) };
            let mut frame = recipe.frame();
            if !segment {
                frame.set_offload(Offload { gso: None, ..recipe.state() });
            }
            let tcp = kind != GsoKind::Udp;
            if segment && !tcp {
                assert_eq!(told(&frame), Err(Untold), "UDP is not cut");
                continue;
            }
            let (l2_len, l4_len) = (if vlan { 18 } else { 14 }, if tcp { 32 } else { 8 });
            let l3_len = if v6 { 40 + extra * 8 } else { 20 + extra * 4 };
            let segment = segment.then_some(100);
            let work = Work { l2_len, l3_len, l4_len, v6, tcp, segment, plain: extra == 0 };
            assert_eq!(told(&frame), Ok(Some(work)));
        }
    }
    let mut frame = HeapBuf::from_bytes(&[0; 60]);
    for checksum in [Checksum::Unverified, Checksum::Verified] {
        frame.set_offload(Offload { checksum, gso: None });
        assert_eq!(told(&frame), Ok(None));
    }
}

#[test]
fn what_cannot_be_told_is_not() {
    let recipe = Recipe::new(GsoKind::Tcp4, false, 300, 100);
    let (start, gso) = (34, Gso { kind: GsoKind::Tcp4, size: 100, ecn: false });
    let partial = |start, offset| Checksum::Partial { start, offset };
    for (what, checksum, gso) in [
        ("a checksum deep in the frame", partial(start + 40, 16), None),
        ("a field that is not TCP's", partial(start, 6), None),
        ("cut without a checksum to be filled in", Checksum::Unverified, Some(gso)),
        ("cut as IPv6", partial(start, 16), Some(Gso { kind: GsoKind::Tcp6, ..gso })),
        ("cut as UDP", partial(start, 16), Some(Gso { kind: GsoKind::Udp, ..gso })),
    ] {
        let mut frame = recipe.frame();
        frame.set_offload(Offload { checksum, gso });
        assert_eq!(told(&frame), Err(Untold), "{what}");
    }
    for (what, at, byte) in
        [("a fragment", 20, 0x20), ("another protocol", 23, 132), ("a TCP header of 16 bytes", 46, 0x40)]
    {
        let mut frame = recipe.frame();
        frame.write_at(at, &[byte]);
        assert_eq!(told(&frame), Err(Untold), "{what}");
    }
    let mut frame = recipe.frame();
    frame.write_at(46, &[0xf0]);
    frame.truncate(34 + 59);
    assert_eq!(told(&frame), Err(Untold), "headers longer than the frame");
}

/// Whatever is said of whatever frame: what is believed lies in the frame, changes nothing but the checksum's field, and can be finished.
fn try_it(said: Told, segment: Option<u16>, mut frame: HeapBuf) {
    let before = frame.to_vec();
    let Ok(offload) = taken(said, segment, &mut frame) else {
        assert_eq!(frame.to_vec(), before);
        return;
    };
    let mut after = frame.to_vec();
    if let Checksum::Partial { start, offset } = offload.checksum {
        let place = usize::from(start + offset);
        after[place..place + 2].copy_from_slice(&before[place..place + 2]);
        frame.set_offload(offload);
        if let Ok(Some(work)) = told(&frame) {
            assert_eq!(work.l2_len + work.l3_len, usize::from(start));
            assert!(work.l2_len + work.l3_len + work.l4_len <= before.len());
            assert_eq!(work.segment, segment);
        }
    } else {
        assert_eq!(segment, None);
    }
    assert_eq!(after, before);
    let mut given = 0;
    let outcome = finish(&mut HeapPool::default(), frame, TxCaps::NONE, |_, _| given += 1);
    assert_eq!(outcome.unwrap_or_else(|unfinished| unfinished.given), given);
}

fn said() -> impl Strategy<Value = Told> {
    prop::sample::select(vec![Told::Unknown, Told::Right, Told::Missing])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise(said in said(), segment: Option<u16>, segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..5)) {
        let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
        try_it(said, segment, HeapBuf::from_segments(&segments));
    }

    #[test]
    fn good_frames_with_a_few_bytes_wrong(
        said in said(), segment in prop::option::of(0u16..200), which in 0usize..4, extra in 0usize..4, vlan: bool,
        payload in 0usize..400, cut in 0usize..80, wrong in prop::collection::vec((0usize..100, any::<u8>()), 0..3),
        split in prop::collection::vec(0usize..60, 0..4),
    ) {
        let (kind, v6) = KINDS[which];
        let mut frame = Recipe { extra, vlan, split, ..Recipe::new(kind, v6, payload, 1) }.frame();
        frame.set_offload(Offload::default());
        for (at, byte) in wrong {
            frame.write_at(at, &[byte]);
        }
        frame.truncate(frame.len() - cut.min(frame.len() - 1));
        try_it(said, segment, frame);
    }
}
