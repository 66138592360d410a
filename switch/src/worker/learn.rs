//! Learning: which stations are behind a trusted port, by the source addresses of what it sends. What an untrusted pod may send from
//! is configured, so its frames never come here.

use weft_sync::learned::{Learn, Rules};

use super::burst::Read;
use crate::classify::Action;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::limits::Limit;
use crate::stations::Stations;
use crate::tables::Snapshot;
use crate::types::{MacAddr, PortId};

/// Learns the sources of a burst from the trusted port `from`. `may_move` takes from what the port has left of moves.
pub(super) fn learn(
    tables: &Snapshot,
    stations: &Stations,
    now: u32,
    from: PortId,
    reads: &[Read],
    may_move: &mut impl FnMut(Limit) -> bool,
    counters: &WorkerCounters,
) {
    let rules = Rules { ageing: tables.ageing, limit: tables.learn_limit };
    let mut last = MacAddr::ZERO;
    for read in reads {
        let source = read.parsed.src;
        // Frames of one station come in a row. One that could not be read has no source.
        if source == last || !source.is_unicast() || is_anothers(read.action) {
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

fn is_anothers(action: Action) -> bool {
    matches!(action, Action::Drop(DropReason::MacOfPod | DropReason::MacOfGateway | DropReason::MacOfHost))
}
