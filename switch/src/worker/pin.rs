//! Connection pins: what comes from the host port with a pod's source pins the flow of the answers, and what is pinned goes to the host port.
//! See [`crate::pins`] for who needs that.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use weft_sync::pins::Hashed;

use super::read::Read;
use crate::classify::pinned::{in_question, is_here, is_sent_on, source, to_host};
use crate::counters::WorkerCounters;
use crate::packet::PacketBuf;
use crate::pins::{Change, Flow, Pins, Sign, Subject, subject};
use crate::port::BURST;
use crate::tables::{Role, Snapshot};
use crate::types::PortId;

/// Looks after the pins of a burst that has come by the port `from`. Before anything of it is sent, so that no answer is quicker.
#[inline]
pub(super) fn heed_pins<B: PacketBuf>(
    tables: &Snapshot,
    pins: &Pins,
    now: u32,
    from: PortId,
    (frames, reads): (&[B], &mut [Read]),
    counters: &WorkerCounters,
) {
    match tables.ports.get(from).map(|port| &port.role) {
        Some(Role::Host) => pin(tables, pins, now, (frames, reads), counters),
        Some(_) if !pins.is_empty() => turn(tables, pins, now, (frames, reads), counters),
        _ => {}
    }
}

/// Pins the answers to what the host sends from the addresses of pods.
fn pin<B: PacketBuf>(
    tables: &Snapshot,
    pins: &Pins,
    now: u32,
    (frames, reads): (&[B], &[Read]),
    counters: &WorkerCounters,
) {
    // Packets of one source, and of one flow, come in a row.
    let (mut last_source, mut last): (Option<(IpAddr, bool)>, Option<Flow>) = (None, None);
    let mut change = Change::default();
    for (frame, read) in frames.iter().zip(reads) {
        let Some(source) = source(frame.head(), &read.brief) else { continue };
        let here = match last_source {
            Some((last, here)) if last == source => here,
            _ => is_here(tables, source),
        };
        last_source = Some((source, here));
        if !here || !is_sent_on(read.action) {
            continue;
        }
        // Nobody answers an error.
        let (Some(Subject::Packet(flow)) | Some(Subject::First(flow))) = subject(frame.head(), &read.brief)
        else {
            continue;
        };
        if last != Some(flow) {
            last = Some(flow);
            change += pins.pin(&flow, now);
        }
    }
    if change != Change::default() {
        counters.pinned.add(change.pinned);
        counters.pins_evicted.add(change.evicted);
    }
}

/// Has what is pinned go to the host: first all lines of the table that are needed are on their way, then they are looked at.
#[inline(never)]
fn turn<B: PacketBuf>(
    tables: &Snapshot,
    pins: &Pins,
    now: u32,
    (frames, reads): (&[B], &mut [Read]),
    counters: &WorkerCounters,
) {
    let Some(host) = tables.gateway.host else { return };
    let mut asked = ArrayVec::<_, BURST>::new();
    for (index, (frame, read)) in frames.iter().zip(&*reads).enumerate() {
        let Some(subject) = in_question(tables, host, frame.head(), &read.brief, read.action) else {
            continue;
        };
        let key = match asked.last() {
            Some((_, last, key)) if *last == subject => *key,
            _ => pins.prepare(&match subject {
                Subject::Packet(flow) | Subject::About(flow) => flow,
                // As the fragments that follow go, which do not say what they are of.
                Subject::First(flow) => flow.fragments(),
            }),
        };
        asked.push((index, subject, key));
    }
    let (mut last, mut turned) = (None, 0);
    for (index, subject, key) in asked {
        let pinned = match last {
            Some((same, pinned)) if same == subject => pinned,
            _ => is_pinned(pins, &subject, &key, now),
        };
        last = Some((subject, pinned));
        if let Some(read) = reads.get_mut(index).filter(|_| pinned) {
            read.action = to_host(host);
            turned += 1;
        }
    }
    if turned > 0 {
        counters.to_host_pinned.add(turned);
    }
}

fn is_pinned(pins: &Pins, subject: &Subject, key: &Hashed, now: u32) -> bool {
    match subject {
        Subject::Packet(flow) => pins.has(key, Some(flow.sign), now),
        Subject::About(_) => pins.has(key, None, now),
        Subject::First(flow) => {
            let pinned = pins.has(key, Some(Sign::Fragment), now);
            if pinned {
                // The connection is alive, and perhaps nothing but fragments says so.
                pins.has(&pins.prepare(flow), Some(flow.sign), now);
            }
            pinned
        }
    }
}
