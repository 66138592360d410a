//! The stages that only read: parse, look up, classify. Frame by frame where it is an unusual one, and in phases for all others
//! (`classify::usual`).

use arrayvec::ArrayVec;
use weft_sync::prefetch::prefetch_bytes;

use crate::classify::usual::{Look, Usual};
use crate::classify::{Action, Ingress, LastHits, classify, classify_tunnel};
use crate::drop_reason::DropReason;
use crate::packet::PacketBuf;
use crate::parse::{Brief, HEADERS, parse, parse_tunnel, too_big};
use crate::port::{BURST, Burst};
use crate::stations::Stations;
use crate::tables::{Role, Snapshot};
use crate::types::PortId;

/// What the stages before apply have found out about a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) brief: Brief,
    pub(super) action: Action,
}

impl Read {
    /// Of what could not be read, or is nothing that is sent on.
    fn none(action: Action) -> Self {
        Self { brief: Brief::UNREAD, action }
    }
}

/// Has the first bytes of every frame fetched and its headers contiguous; how many bytes all have.
#[inline]
pub(super) fn make_ready<B: PacketBuf>(frames: &mut Burst<B>) -> u64 {
    let mut bytes = 0;
    for frame in frames.iter_mut() {
        prefetch_bytes(frame.head());
        let (have, len) = (frame.head().len(), frame.len());
        bytes += len as u64;
        if have < HEADERS && have < len {
            // Where the first segment has no room for them, parse finds what is missing.
            frame.pull_up(HEADERS.min(len));
        }
    }
    bytes
}

/// Parses and classifies every frame, whose headers are contiguous.
#[inline]
pub(super) fn read_burst<B: PacketBuf>(
    tables: &Snapshot,
    stations: &Stations,
    now: u32,
    from: PortId,
    frames: &Burst<B>,
) -> ArrayVec<Read, BURST> {
    let Some(port) = tables.ports.get(from) else {
        let unknown = Read::none(Action::Drop(DropReason::RxPortUnknown));
        return frames.iter().map(|_| unknown).collect();
    };
    let ingress = Ingress { id: from, port, stations, now };
    if matches!(port.role, Role::Uplink) {
        read_in_phases(tables, &ingress, frames, Usual::look_through, |last, _, frame| {
            read_tunnel(tables, last, &ingress, frame)
        })
    } else {
        read_in_phases(tables, &ingress, frames, Usual::look, |last, usual, frame| {
            match usual.decide_v6(frame) {
                Some((action, brief)) => Read { action, brief },
                None => read_plain(tables, last, &ingress, frame),
            }
        })
    }
}

/// Reads all headers, then looks into all tables. `look` reads what is usual, `read` everything else.
#[inline(always)]
fn read_in_phases<'a, B: PacketBuf>(
    tables: &'a Snapshot,
    from: &'a Ingress<'a>,
    frames: &Burst<B>,
    look: impl Fn(&mut Usual<'a>, &B) -> Option<Look<std::net::Ipv4Addr>>,
    read: impl Fn(&mut LastHits, &mut Usual<'a>, &B) -> Read,
) -> ArrayVec<Read, BURST> {
    let mut usual = Usual::new(tables, from);
    let mut looks = ArrayVec::<_, BURST>::new();
    for frame in frames {
        let look = look(&mut usual, frame);
        if let Some(look) = &look {
            usual.prefetch(look);
        }
        looks.push(look);
    }
    let mut last = LastHits::default();
    let mut reads = ArrayVec::new();
    for (frame, look) in frames.iter().zip(&looks) {
        reads.push(match look.as_ref().and_then(|look| usual.decide(look)) {
            Some((action, brief)) => Read { action, brief },
            None => read(&mut last, &mut usual, frame),
        });
    }
    reads
}

/// Any frame from a pod or the host.
#[inline(never)]
fn read_plain<B: PacketBuf>(tables: &Snapshot, last: &mut LastHits, from: &Ingress<'_>, frame: &B) -> Read {
    match parse(frame.head(), frame.len(), 0) {
        Ok(parsed) => {
            let action = classify(tables, last, from, frame.head(), &parsed, frame.offload().gso);
            Read { brief: Brief::of(&parsed, None), action }
        }
        Err(reason) => Read::none(Action::Drop(reason)),
    }
}

/// Any frame from the underlay.
#[inline(never)]
fn read_tunnel<B: PacketBuf>(tables: &Snapshot, last: &mut LastHits, from: &Ingress<'_>, frame: &B) -> Read {
    match parse_tunnel(frame, tables) {
        Ok((parsed, outer)) => {
            let gso = frame.offload().gso;
            let action = classify_tunnel(tables, last, from, frame.head(), &parsed, &outer, gso);
            Read { brief: Brief::of(&parsed, Some(&outer)), action }
        }
        Err(DropReason::NotTunnel) => Read::none(not_tunnel(tables, frame)),
        Err(reason) => Read::none(Action::Drop(reason)),
    }
}

/// No tunnel packet, but what a router says about one may be.
#[cold]
fn not_tunnel<B: PacketBuf>(tables: &Snapshot, frame: &B) -> Action {
    match too_big(frame, tables) {
        Some(_) => Action::PathMtu,
        None => Action::Drop(DropReason::NotTunnel),
    }
}
