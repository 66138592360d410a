//! Samples of the packets that pass, for the list of flows. Off unless somebody looks: one relaxed load a burst.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::classify::{Action, Way};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::event::{Event, Events, FlowSample, Verdict};
use crate::packet::PacketBuf;
use crate::parse::{Ip, L3};
use crate::types::PortId;

use super::read::Read;

/// Which packets are sampled: one in so many, 0 for none.
#[derive(Debug, Default)]
pub(super) struct Sampling(AtomicU32);

impl Sampling {
    pub(super) fn set(&self, one_in: u32) {
        self.0.store(one_in, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn one_in(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells of one packet in `one_in`; `left` are those until the next one.
#[cold]
pub(super) fn sample<B: PacketBuf>(
    one_in: u32,
    left: &mut u32,
    from: PortId,
    (frames, reads): (&[B], &[Read]),
    events: &Events,
    counters: &WorkerCounters,
) {
    for (frame, read) in frames.iter().zip(reads) {
        *left = left.saturating_sub(1).min(one_in);
        if *left > 0 {
            continue;
        }
        *left = one_in;
        let flow = match read.brief.read_again(frame.head()).map(|parsed| parsed.l3) {
            Some(L3::V4(ip)) => flow(from, &ip, read.action),
            Some(L3::V6(ip)) => flow(from, &ip, read.action),
            _ => continue,
        };
        if !events.tell(Event::Flow(flow)) {
            counters.events_lost.add(1);
        }
    }
}

fn flow<A: Copy + Into<IpAddr>>(port: PortId, ip: &Ip<A>, action: Action) -> FlowSample {
    FlowSample {
        port,
        src: ip.src.into(),
        dst: ip.dst.into(),
        protocol: ip.protocol.0,
        ports: ((ip.ports >> 16) as u16, ip.ports as u16),
        bytes: ip.len,
        verdict: verdict(action),
    }
}

fn verdict(action: Action) -> Verdict {
    match action {
        Action::Drop(reason) | Action::Reject { reason, .. } => Verdict::Dropped(reason.index() as u8),
        Action::Solicit => Verdict::Dropped(DropReason::NeighbourPending.index() as u8),
        Action::Tell { then, .. } => verdict(then.into()),
        Action::Consume | Action::PathMtu => Verdict::Consumed,
        Action::Bridge(to) => Verdict::Port(to),
        Action::Flood(_) => Verdict::Flooded,
        Action::Hairpin(_) => Verdict::Answered,
        Action::Deliver { to, .. }
        | Action::OnLink { to, .. }
        | Action::Fragment { way: Way::Neighbour(to) | Way::OnLink(to), .. } => Verdict::Port(to.port),
        Action::Encap { vtep, .. } | Action::Fragment { way: Way::Vtep(vtep), .. } => Verdict::Tunnel(vtep),
    }
}
