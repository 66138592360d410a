//! Learning: which stations are behind a trusted port, by the source addresses of what it sends. What an untrusted pod may send from
//! is configured, so its frames never come here.

use weft_sync::learned::{Learn, Rules};

use super::read::Read;
use crate::classify::Action;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::limits::Limit;
use crate::packet::PacketBuf;
use crate::parse::Carries;
use crate::stations::Stations;
use crate::tables::Snapshot;
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::EthernetView;

/// Learns the sources of a burst from the trusted port `from`. `may_move` takes from what the port has left of moves.
pub(super) fn learn<B: PacketBuf>(
    tables: &Snapshot,
    stations: &Stations,
    now: u32,
    from: PortId,
    (frames, reads): (&[B], &[Read]),
    may_move: &mut impl FnMut(Limit) -> bool,
    counters: &WorkerCounters,
) {
    let rules = Rules { ageing: tables.ageing, limit: tables.learn_limit };
    let mut last = MacAddr::ZERO;
    for (frame, read) in frames.iter().zip(reads) {
        // One that could not be read has no source.
        let Some(source) = source(frame).filter(|_| read.brief.carries != Carries::Unread) else { continue };
        // Frames of one station come in a row.
        if source == last || is_anothers(read.action) {
            continue;
        }
        last = source;
        if tables.fdb.contains_key(&source) {
            continue;
        }
        match stations.learn(source, from, now, rules, || may_move(tables.limits.moves)) {
            Learn::Known | Learn::Busy => {}
            Learn::Learned => counters.learned.add(1),
            Learn::Moved => counters.moved.add(1),
            Learn::MoveRefused => counters.moves_limited.add(1),
            Learn::PortFull | Learn::Full => counters.learn_limited.add(1),
        }
    }
}

fn source(frame: &impl PacketBuf) -> Option<MacAddr> {
    EthernetView::new_checked(frame.head()).ok().map(|eth| eth.src())
}

fn is_anothers(action: Action) -> bool {
    matches!(action, Action::Drop(DropReason::MacOfPod | DropReason::MacOfGateway | DropReason::MacOfHost))
}
