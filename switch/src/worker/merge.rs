//! Merging: packets of a burst that follow each other in a flow become one frame, where the port that they go to takes such frames.
//! It is what a receiver gains most by: a stack's cost is per frame.
//!
//! Which packets are merged is decided before anything is touched, by the port first, so that a burst for ports that take none costs
//! next to nothing. A flow stays in order: a packet that does not continue its flow's run ends it, and a run is sent where its first
//! packet was.

use arrayvec::ArrayVec;

use super::read::Read;
use super::takes::Takes;
use crate::classify::Action;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::offload::merge::{Piece, Run};
use crate::packet::{MAX_CHAIN, PacketBuf};
use crate::parse::{L3, Parsed};
use crate::port::{BURST, Burst};
use crate::types::PortId;

/// Flows that are followed at a time.
const FLOWS: usize = 8;

/// Whose packets must stay in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    /// Of the addresses: who has the same may be another.
    hash: u32,
    /// 0 for what has none.
    ports: u32,
}

impl Flow {
    #[inline]
    fn of(parsed: &Parsed) -> Option<Self> {
        let mix =
            |src: u64, dst: u64| ((src.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ dst) >> 16) as u32 ^ dst as u32;
        let fold = |address: u128| (address >> 64) as u64 ^ (address as u64).rotate_left(7);
        match parsed.l3 {
            L3::V4(ip) => {
                Some(Self { hash: mix(ip.src.to_bits().into(), ip.dst.to_bits().into()), ports: ip.ports })
            }
            L3::V6(ip) => {
                Some(Self { hash: mix(fold(ip.src.to_bits()), fold(ip.dst.to_bits())), ports: ip.ports })
            }
            _ => None,
        }
    }
}

/// A run and where its packets are in the burst.
#[derive(Debug, Clone, Copy)]
struct Thread {
    flow: Flow,
    action: Action,
    run: Run,
    first: u8,
    last: u8,
    segments: usize,
}

/// What is to be merged.
struct Plan {
    /// Runs that may go on, the latest last.
    open: ArrayVec<Thread, FLOWS>,
    /// Runs of two or more that have ended.
    done: ArrayVec<Thread, { BURST / 2 }>,
    /// By index of a packet that continues another: that one's index.
    before: [u8; BURST],
}

impl Plan {
    fn end(&mut self, at: usize) {
        let thread = self.open.remove(at);
        if thread.run.pieces() > 1 {
            self.done.push(thread);
        }
    }

    /// Ends every run that `which` is true of.
    fn end_all(&mut self, mut which: impl FnMut(&Thread) -> bool) {
        for at in (0..self.open.len()).rev() {
            if which(&self.open[at]) {
                self.end(at);
            }
        }
    }

    fn begin(&mut self, flow: Flow, action: Action, piece: Piece, index: usize, segments: usize) {
        let Some(run) = Run::of(piece) else { return };
        if self.open.is_full() {
            self.end(0);
        }
        self.open.push(Thread { flow, action, run, first: index as u8, last: index as u8, segments });
    }
}

/// Where a frame goes that is sent as it is, or as a router does.
#[inline]
fn port_of(action: Action) -> Option<PortId> {
    match action {
        Action::Bridge(to) => Some(to),
        Action::Deliver { to, .. } => Some(to.port),
        _ => None,
    }
}

/// Merges what can be merged of the burst, and returns how many packets were lost by that. `reads` stays in step with `frames`; what is
/// behind the last of them means nothing then.
#[inline]
pub(super) fn merge<B: PacketBuf>(
    takes: &Takes,
    frames: &mut Burst<B>,
    reads: &mut [Read],
    counters: &WorkerCounters,
) -> usize {
    let mut last = None;
    let some = |read: &Read| {
        let to = port_of(read.action);
        // Few ports, many packets: the same one need not be asked about again.
        to != last && {
            last = to;
            to.is_some_and(|port| !takes.of(port).is_none())
        }
    };
    let Some(first) = reads.iter().position(some) else { return 0 };
    if first + 1 < reads.len() { merge_from(first, takes, frames, reads, counters) } else { 0 }
}

/// The burst from the packet of index `first` on: what is before it goes to ports that take nothing of the kind.
fn merge_from<B: PacketBuf>(
    first: usize,
    takes: &Takes,
    frames: &mut Burst<B>,
    reads: &mut [Read],
    counters: &WorkerCounters,
) -> usize {
    let mut plan = Plan { open: ArrayVec::new(), done: ArrayVec::new(), before: [0; BURST] };
    for (index, read) in reads.iter().enumerate().skip(first) {
        look_at(index, takes, frames, read, &mut plan);
    }
    plan.end_all(|_| true);
    if plan.done.is_empty() { 0 } else { carry_out(&plan, frames, reads, counters) }
}

#[inline]
fn look_at<B: PacketBuf>(index: usize, takes: &Takes, frames: &Burst<B>, read: &Read, plan: &mut Plan) {
    let (packet, action) = (&frames[index], read.action);
    let Some(to) = port_of(action) else {
        // It may go where one of the runs goes. What is dropped or answered goes nowhere, and the tunnel is no such way.
        if matches!(action, Action::Fragment { .. }) {
            plan.end_all(|_| true);
        }
        return;
    };
    let kinds = takes.of(to);
    if kinds.is_none() {
        return plan.end_all(|thread| port_of(thread.action) == Some(to));
    }
    let Some(parsed) = read.brief.read_again(packet.head()) else { return };
    let Some(flow) = Flow::of(&parsed) else { return };
    let piece = Piece::of(packet, &parsed).filter(|piece| kinds.has(piece.kind()));
    let Some(piece) = piece else {
        // A fragment has no ports, so it may belong to any flow between the two.
        return plan.end_all(|thread| {
            thread.flow.hash == flow.hash && (flow.ports == 0 || flow.ports == thread.flow.ports)
        });
    };
    let segments = packet.segments();
    let Some(at) = plan.open.iter().rposition(|thread| thread.flow == flow) else {
        return plan.begin(flow, action, piece, index, segments);
    };
    let thread = &mut plan.open[at];
    let fits = thread.segments + segments <= MAX_CHAIN && thread.action == action;
    if fits && thread.run.take(&frames[usize::from(thread.first)], &piece, packet) {
        plan.before[index] = thread.last;
        thread.last = index as u8;
        thread.segments += segments;
        if thread.run.is_closed() {
            plan.end(at);
        }
    } else {
        plan.end(at);
        plan.begin(flow, action, piece, index, segments);
    }
}

/// Chains the packets of each run, from its end: so no chain is gone through to find its last segment.
fn carry_out<B: PacketBuf>(
    plan: &Plan,
    frames: &mut Burst<B>,
    reads: &mut [Read],
    counters: &WorkerCounters,
) -> usize {
    let mut lost = 0;
    let mut slots: ArrayVec<Option<B>, BURST> = frames.drain(..).map(Some).collect();
    for Thread { run, first, last, .. } in &plan.done {
        let first = usize::from(*first);
        let (mut at, mut behind, mut whole) = (usize::from(*last), None, true);
        loop {
            let Some(mut packet) = slots[at].take() else { break };
            whole &= run.strip(&mut packet, reads[at].brief.ip_len, at == first);
            if let Some(behind) = behind.take() {
                whole &= packet.append(behind).is_ok();
            }
            behind = Some(packet);
            if at == first {
                break;
            }
            at = plan.before[at].into();
        }
        match behind {
            Some(mut frame) if whole => {
                run.finish(&mut frame, &mut reads[first].brief);
                slots[first] = Some(frame);
                counters.merged.add(run.pieces() as u64 - 1);
            }
            // A buffer that has less room than a chain has.
            _ => lost += run.pieces(),
        }
    }
    counters.drops(DropReason::TxNoBuffer).add(lost as u64);
    for (index, frame) in slots.into_iter().enumerate() {
        let Some(frame) = frame else { continue };
        reads[frames.len()] = reads[index];
        frames.push(frame);
    }
    lost
}
