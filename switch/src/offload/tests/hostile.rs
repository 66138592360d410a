//! Whatever bytes come with whatever state: an answer, never a panic, and nothing half-finished.

use super::frames::Recipe;
use crate::offload::checksum::{complete, udp_checksum_ok};
use crate::offload::finish::finish;
use crate::offload::virtio::{emit, parse};
use crate::offload::{GsoKind, Offload};
use crate::packet::{HeapBuf, HeapPool, PacketBuf};
use crate::port::TxCaps;
use proptest::prelude::*;

fn try_everything(header: &[u8], mut frame: HeapBuf, pool: usize) {
    let mut out = [0; 12];
    if let Ok(state) = parse(header, &frame) {
        let written = emit(state, &frame, &mut out);
        assert_eq!(written, Ok(()), "what can be read can be written");
        assert_eq!(parse(&out, &frame), Ok(state));
        frame.set_offload(state);
    }
    let _verdict = udp_checksum_ok(&frame, 14, 34);
    for caps in [TxCaps::NONE, TxCaps::ALL] {
        let mut given = 0;
        let mut pool = HeapPool { segment: 2048, left: pool };
        let outcome = finish(&mut pool, frame.clone(), caps, |_, frame| {
            given += 1;
            if caps == TxCaps::NONE {
                assert!(matches!(frame.offload(), Offload { gso: None, .. }));
                assert!(!matches!(frame.offload().checksum, crate::offload::Checksum::Partial { .. }));
            }
        });
        assert_eq!(outcome.unwrap_or_else(|unfinished| unfinished.given), given);
    }
    let _done = complete(&mut frame);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise(header in prop::collection::vec(any::<u8>(), 0..14), segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..5)) {
        let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
        try_everything(&header, HeapBuf::from_segments(&segments), 4);
    }

    #[test]
    fn good_frames_with_a_few_bytes_wrong(
        which in 0usize..4, extra in 0usize..4, payload in 0usize..400, size in 0u16..200,
        cut in 0usize..80, start in 0u16..80, offset in 0u16..20, gso in prop::sample::select(vec![0u8, 1, 4, 5, 0x81, 3]),
        wrong in prop::collection::vec((0usize..100, any::<u8>()), 0..3), split in prop::collection::vec(0usize..60, 0..4),
        right_place: bool, pool in 0usize..500,
    ) {
        let (kind, v6) = [(GsoKind::Tcp4, false), (GsoKind::Tcp6, true), (GsoKind::Udp, false), (GsoKind::Udp, true)][which];
        let recipe = Recipe { extra, split, ..Recipe::new(kind, v6, payload, 1) };
        let mut frame = recipe.frame();
        frame.set_offload(Offload::default());
        for (at, byte) in wrong {
            frame.write_at(at, &[byte]);
        }
        frame.truncate(frame.len() - cut.min(frame.len() - 1));
        let (start, offset) = if right_place { (recipe.bytes().1 as u16, recipe.field()) } else { (start, offset) };
        let mut header = vec![1, gso, 0, 0];
        for word in [size, start, offset] {
            header.extend(word.to_le_bytes());
        }
        try_everything(&header, frame, pool);
    }
}
