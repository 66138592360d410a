//! Bursts through the whole pipeline, against tables drawn by lot. Nothing panics; rx + originated = tx + consumed +
//! merged + Σ drops, and the counters are of what was seen at the ports; no frame leaves that the tables exclude.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::frames::{frame, received, spoil, tunnelled};
use weft_fuzz::tables::{Node, Station};
use weft_fuzz::verdict::{Came, judge};
use weft_switch::memory::MemSwitch;
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::types::MacAddr;
use weft_switch::wire::ethernet::EthernetView;

/// Packets that go in with one burst: more than a worker takes at once.
const COPIES: usize = 70;

fuzz_target!(|data: &[u8]| {
    // Whatever the lot can't be made of ends there.
    let _ = run(&mut Unstructured::new(data));
});

/// What was seen at the ports.
#[derive(Debug, Default)]
struct Seen {
    came: u64,
    left: u64,
    left_bytes: u64,
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut node = Node::arbitrary(u)?;
    let mut switch = node.switch();
    let mut seen = Seen::default();
    for _ in 0..8 {
        if u.is_empty() {
            break;
        }
        match u.int_in_range(0..=15)? {
            0 | 1 => {
                node.change(u)?;
                switch.publish(node.tables());
            }
            2 => {
                let room = if u.arbitrary()? { None } else { Some(u.int_in_range(0..=3)?) };
                node.doors[u.choose_index(node.doors.len())?].wire.limit(room);
            }
            3 | 4 => node.pass(u, &mut switch)?,
            5 => node.drain(u, &mut switch)?,
            _ => burst(u, &node, &mut switch, &mut seen)?,
        }
    }
    Ok(())
}

fn burst(u: &mut Unstructured<'_>, node: &Node, switch: &mut MemSwitch, seen: &mut Seen) -> Result<()> {
    let mut came = Came { sound: true, ..Came::default() };
    let kept = stations(node, switch, u32::MAX);
    let before = stations(node, switch, node.ageing);
    // One frame that is spoilt says nothing of whose checksums must be right: half of all bursts have none.
    let spoilt: bool = u.arbitrary()?;
    for _ in 0..*u.choose(&[1, 1, 1, 2, 3])? {
        let from = u.choose_index(node.doors.len())?;
        came.doors.push(from);
        for _ in 0..u.int_in_range(1..=6)? {
            let Some(packet) = packet(u, node, from, spoilt, &mut came)? else { continue };
            let copies = if u.ratio(1, 16)? { COPIES } else { 1 };
            let polled = node.doors[from].workers.len().min(1) * copies;
            for _ in 0..polled {
                node.doors[from].wire.inject(packet.clone());
            }
            seen.came += polled as u64;
        }
    }
    // Now and then one worker is slow.
    for _ in 0..u.int_in_range(0..=2)? {
        switch.step_worker(u.int_in_range(0..=node.workers - 1)?);
    }
    let mut rounds = 0;
    while switch.step() > 0 {
        rounds += 1;
        assert!(rounds < 10_000, "it never comes to rest");
    }
    let after = stations(node, switch, node.ageing);
    assert_learned(node, &kept, &stations(node, switch, u32::MAX), &came);
    let settled = after.iter().filter(|station| before.contains(station));
    let elsewhere = |mac, at| came.sources.iter().any(|(from, source)| *source == mac && *from != at);
    came.settled =
        settled.copied().filter(|(mac, at)| is_found(node, *at) && !elsewhere(*mac, *at)).collect();
    came.heard = [before, after].concat();
    came.pinned = switch.handles().any(|handle| handle.counters().pinned.get() > 0);
    assert!(switch.pins().is_none_or(|pins| pins.count() <= pins.capacity()));
    for (to, door) in node.doors.iter().enumerate() {
        for packet in door.wire.take() {
            seen.left += 1;
            seen.left_bytes += packet.len() as u64;
            judge(node, &came, to, &packet);
        }
    }
    assert_counted(node, switch, seen);
    Ok(())
}

/// The stations that were heard in the last `ageing` seconds, and behind which port.
fn stations(node: &Node, switch: &MemSwitch, ageing: u32) -> Vec<(MacAddr, usize)> {
    let all = switch.learned().into_iter().flat_map(|learned| learned.iter((node.now / 1000) as u32));
    all.filter(|station| station.age < ageing).map(|station| (station.mac, station.port.index())).collect()
}

/// What was learned behind the port is believed.
fn is_found(node: &Node, at: usize) -> bool {
    node.doors.get(at).is_some_and(|door| door.published && door.station.is_trusted())
}

/// Stations are learned from what they send by trusted ports, never another's address, and not too many.
fn assert_learned(node: &Node, before: &[(MacAddr, usize)], after: &[(MacAddr, usize)], came: &Came) {
    for (mac, at) in after.iter().filter(|station| !before.contains(station)) {
        assert!(came.sources.contains(&(*at, *mac)), "{mac} was not heard by {at}: {came:?}");
        assert!(is_found(node, *at) && node.configured(*mac).is_none(), "{mac} by {at}: {came:?}");
        assert!(mac.is_unicast() && !node.is_anothers(*mac, *at), "{mac} by {at}: {came:?}");
    }
    for at in 0..node.doors.len() {
        let count = |of: &[(MacAddr, usize)]| of.iter().filter(|(_, port)| *port == at).count();
        let (now, then) = (count(after), count(before));
        assert!(now <= then.max(node.learn_limit as usize), "{now} stations behind {at}: {came:?}");
    }
}

/// A frame as the station behind the port would send it, or nearly so.
fn packet(
    u: &mut Unstructured<'_>,
    node: &Node,
    from: usize,
    spoilt: bool,
    came: &mut Came,
) -> Result<Option<HeapBuf>> {
    let mut made = frame(u, &node.cast(from))?;
    if node.doors[from].station == Station::Uplink && !u.ratio(1, 16)? {
        if spoilt {
            spoil(u, &mut made)?;
        }
        let wrap = node.wrap(u)?;
        came.tunnel |= spoilt || node.takes(&wrap);
        made = tunnelled(u, &wrap, made)?;
    }
    if spoilt {
        spoil(u, &mut made)?;
    }
    let Some(packet) = received(u, &made)? else { return Ok(None) };
    came.sound &= made.sound;
    let source = EthernetView::new_checked(&made.bytes[..]).map_or(MacAddr::ZERO, |ethernet| ethernet.src());
    came.sources.push((from, source));
    Ok(Some(packet))
}

fn assert_counted(node: &Node, switch: &MemSwitch, seen: &Seen) {
    let (mut rx, mut originated, mut tx, mut consumed, mut merged, mut drops) = (0, 0, 0, 0, 0, 0);
    let (mut ports_rx, mut ports_tx, mut ports_bytes) = (0, 0, 0);
    for counters in switch.handles().map(|handle| handle.counters()) {
        rx += counters.rx.get();
        originated += counters.originated.get();
        tx += counters.tx.get();
        consumed += counters.consumed.get();
        merged += counters.merged.get();
        drops += counters.all_drops();
        for index in 0..node.doors.len() {
            let port = counters.port(Node::id(index));
            ports_rx += port.rx_packets.get();
            ports_tx += port.tx_packets.get();
            ports_bytes += port.tx_bytes.get();
        }
    }
    assert_eq!(rx + originated, tx + consumed + merged + drops, "{seen:?}");
    assert_eq!((rx, tx), (seen.came, seen.left));
    assert_eq!((ports_rx, ports_tx, ports_bytes), (rx, tx, seen.left_bytes));
}
