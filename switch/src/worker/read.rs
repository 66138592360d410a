//! The stages that only read: parse, look up, classify. Frame by frame where it is an unusual one, and in phases for all others
//! (`classify::usual`).

use std::net::Ipv4Addr;

use crate::classify::usual::{Look, Usual};
use crate::classify::{Action, Ingress, LastHits, classify, classify_tunnel};
use crate::drop_reason::DropReason;
use crate::packet::PacketBuf;
use crate::parse::{Brief, HEADERS, Parsed, parse, parse_tunnel, too_big};
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
    const fn none(action: Action) -> Self {
        Self { brief: Brief::UNREAD, action }
    }
}

/// Makes the headers of a frame contiguous; how many bytes it has.
#[inline(always)]
fn make_ready<B: PacketBuf>(frame: &mut B) -> u64 {
    let (have, len) = (frame.head().len(), frame.len());
    if have < HEADERS && have < len {
        // Where the first segment has no room for them, parse finds what is missing.
        frame.pull_up(HEADERS.min(len));
    }
    len as u64
}

/// Where a worker keeps what it has found out about a burst: written in place, not made anew.
pub(super) struct Notes {
    looks: [Look<Ipv4Addr>; BURST],
    reads: [Read; BURST],
}

impl Default for Notes {
    fn default() -> Self {
        Self { looks: [Look::UNKNOWN; BURST], reads: [Read::none(Action::Consume); BURST] }
    }
}

/// Makes the headers of all frames contiguous, and parses and classifies every one: a [`Read`] for each, and the bytes of all.
#[inline]
pub(super) fn read_burst<'n, B: PacketBuf>(
    tables: &Snapshot,
    stations: &Stations,
    now: u32,
    from: PortId,
    frames: &mut Burst<B>,
    notes: &'n mut Notes,
) -> (&'n mut [Read], u64) {
    let Notes { looks, reads } = notes;
    let (looks, reads) = (&mut looks[..frames.len()], &mut reads[..frames.len()]);
    let Some(port) = tables.ports.get(from) else {
        reads.fill(Read::none(Action::Drop(DropReason::RxPortUnknown)));
        return (reads, frames.iter().map(|frame| frame.len() as u64).sum());
    };
    let ingress = Ingress { id: from, port, stations, now };
    let (mut usual, mut last) = (Usual::new(tables, &ingress), LastHits::default());
    let from_underlay = matches!(port.role, Role::Uplink);
    let mut bytes = 0;
    if from_underlay {
        for (frame, look) in frames.iter_mut().zip(&mut *looks) {
            bytes += make_ready(frame);
            usual.look_through(frame, look);
            usual.prefetch(look);
        }
    } else {
        for (frame, look) in frames.iter_mut().zip(&mut *looks) {
            bytes += make_ready(frame);
            usual.look(frame, look);
            usual.prefetch(look);
        }
    }
    for ((frame, look), read) in frames.iter().zip(looks).zip(&mut *reads) {
        if !usual.decide(look, &mut read.action, &mut read.brief) {
            *read = if let Some((action, brief)) = usual.decide_other(frame, look) {
                Read { brief, action }
            } else if from_underlay {
                read_tunnel(tables, &mut last, &ingress, frame)
            } else {
                // What nobody has, or what may not be sent: the headers need not be read a second time to say so.
                read_plain(tables, &mut last, &ingress, frame, look.parsed(frame.head()))
            };
        }
    }
    if usual.must_confirm() && !from_underlay {
        for (frame, read) in frames.iter().zip(&mut *reads) {
            if !usual.confirm(frame, read.action, &read.brief) {
                *read = read_plain(tables, &mut last, &ingress, frame, None);
            }
        }
    }
    (reads, bytes)
}

/// Any frame from a pod or the host; `parsed` where that is known already.
#[inline(never)]
fn read_plain<B: PacketBuf>(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    frame: &B,
    parsed: Option<Parsed>,
) -> Read {
    match parsed.map_or_else(|| parse(frame.head(), frame.len(), 0), Ok) {
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
