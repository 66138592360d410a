//! What the workers tell: where stations behind trusted ports are, who claims another's address, and how large a packet the
//! way to a peer carries. It lives here between the events and the next snapshot, and is forgotten in time.
//!
//! Everything in it comes from packets, so all of it is bounded.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use weft_switch::event::Event;
use weft_switch::types::{MacAddr, PortId};

use super::Daemon;
use super::conflicts::{Claim, Conflict, Conflicts};

/// Neighbours that are kept for one port at most.
const NEIGHBOURS: usize = 256;
/// How long a path's MTU is believed (RFC 1191, section 6.3; RFC 8201, section 4): then a larger packet tries it again.
const PATH_MTU_KEPT: Duration = Duration::from_secs(600);
/// Events that are taken from the workers at a time: a worker that tells without end does not keep the daemon.
pub(super) const EVENTS: usize = 16_384;

/// A station's address that was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedNeighbour {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The trusted port that it is behind.
    pub port: PortId,
    /// When it was heard.
    pub heard: Instant,
    /// Where the address was before: two that take turns have the same address.
    before: Option<(MacAddr, PortId)>,
}

#[derive(Debug, Clone, Copy)]
struct PathMtu {
    bytes: u32,
    until: Instant,
}

/// All that was told.
#[derive(Debug, Default)]
pub(super) struct Learned {
    neighbours: BTreeMap<IpAddr, LearnedNeighbour>,
    /// Neighbours of each port.
    counts: HashMap<PortId, usize>,
    conflicts: Conflicts,
    /// Claims that are worth a line of the log, with the port and who claims what.
    news: Vec<(Claim, MacAddr)>,
    path_mtus: HashMap<IpAddr, PathMtu>,
    /// A path's MTU fell: to be published with what is forgotten, so that forged messages cost a table a second at most.
    paths_changed: bool,
}

impl Learned {
    /// Takes an event; true when the tables change by it. `is_peer`: whether an underlay address is a peer's.
    pub(super) fn take(&mut self, event: Event, now: Instant, is_peer: impl Fn(IpAddr) -> bool) -> bool {
        match event {
            Event::Neighbour { port, mac, address } => self.neighbour(port, mac, address, now),
            Event::Conflict { port, mac, address } => {
                self.conflict(Claim { port, address }, mac, now);
                false
            }
            Event::PathMtu { peer, mtu } => {
                if is_peer(peer) {
                    self.path_mtu(peer, mtu.into(), now);
                }
                false
            }
            // Whoever watches has it.
            Event::Flow(_) => false,
        }
    }

    fn neighbour(&mut self, port: PortId, mac: MacAddr, address: IpAddr, now: Instant) -> bool {
        let known = self.neighbours.get_mut(&address);
        if let Some(known) = known {
            if (known.mac, known.port) == (mac, port) {
                known.heard = now;
                return false;
            }
            let before = Some((known.mac, known.port));
            if known.before == Some((mac, port)) {
                self.conflict(Claim { port, address }, mac, now);
            }
            self.remove(address);
            // Also where the new port has its fill: the old place is wrong.
            self.insert(address, LearnedNeighbour { mac, port, heard: now, before });
            return true;
        }
        self.insert(address, LearnedNeighbour { mac, port, heard: now, before: None })
    }

    fn insert(&mut self, address: IpAddr, neighbour: LearnedNeighbour) -> bool {
        let count = self.counts.entry(neighbour.port).or_default();
        if *count >= NEIGHBOURS {
            return false;
        }
        *count += 1;
        self.neighbours.insert(address, neighbour);
        true
    }

    fn remove(&mut self, address: IpAddr) {
        let Some(neighbour) = self.neighbours.remove(&address) else { return };
        if let Entry::Occupied(mut count) = self.counts.entry(neighbour.port) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn remove_if(&mut self, goes: impl Fn(&LearnedNeighbour) -> bool) -> bool {
        let gone: Vec<_> =
            self.neighbours.iter().filter(|(_, known)| goes(known)).map(|(address, _)| *address).collect();
        gone.iter().for_each(|address| self.remove(*address));
        !gone.is_empty()
    }

    fn conflict(&mut self, claim: Claim, mac: MacAddr, now: Instant) {
        if self.conflicts.take(claim, mac, now) {
            self.news.push((claim, mac));
        }
    }

    /// A path's MTU is lowered at once, and rises when nothing was heard for a while.
    fn path_mtu(&mut self, peer: IpAddr, bytes: u32, now: Instant) {
        // What every link has to carry (RFC 8200, section 5), and over IPv4 what leaves `Mtu::SMALLEST` inside the tunnel, which
        // the tables know nothing below: a forged message does no more harm than that.
        let bytes = bytes.max(if peer.is_ipv4() { 626 } else { 1280 });
        let until = now + PATH_MTU_KEPT;
        let known = self.path_mtus.entry(peer).or_insert(PathMtu { bytes: u32::MAX, until });
        if bytes > known.bytes {
            return;
        }
        let lower = bytes < known.bytes;
        *known = PathMtu { bytes, until };
        if lower {
            info!("the way to {peer} carries {bytes} bytes");
        }
        self.paths_changed |= lower;
    }

    /// Forgets what is old; true when the tables change by it. A neighbour whose station still sends (`sends`) is not old.
    pub(super) fn forget_old(
        &mut self,
        now: Instant,
        ageing: Duration,
        sends: impl Fn(&LearnedNeighbour) -> bool,
    ) -> bool {
        for known in self.neighbours.values_mut() {
            if now.saturating_duration_since(known.heard) >= ageing && sends(known) {
                known.heard = now;
            }
        }
        let gone = self.remove_if(|known| now.saturating_duration_since(known.heard) >= ageing);
        self.conflicts.forget_old(now);
        let before = self.path_mtus.len();
        self.path_mtus.retain(|_, path| path.until > now);
        let paths_changed = std::mem::take(&mut self.paths_changed);
        gone || paths_changed || self.path_mtus.len() < before
    }

    /// Forgets the neighbours behind ports that are not open any more.
    pub(super) fn keep_ports(&mut self, is_open: impl Fn(PortId) -> bool) {
        self.remove_if(|known| !is_open(known.port));
        self.conflicts.keep_ports(is_open);
    }

    /// The neighbours, for the tables.
    pub(super) fn neighbours(&self) -> Vec<(IpAddr, MacAddr, PortId)> {
        self.neighbours.iter().map(|(address, known)| (*address, known.mac, known.port)).collect()
    }

    /// The ways that carry less than the uplink, in bytes of outer IP packet, for the tables.
    pub(super) fn path_mtus(&self) -> HashMap<IpAddr, u32> {
        self.path_mtus.iter().map(|(peer, path)| (*peer, path.bytes)).collect()
    }
}

impl Daemon {
    /// Takes what the workers have told, and publishes what has changed by it.
    pub(super) fn take_events(&mut self) {
        let (now, mut changed) = (Instant::now(), false);
        for event in self.dataplane.take_events().take(EVENTS) {
            if let Event::Flow(sample) = event {
                self.flows.take(&sample);
            }
            changed |= self.learned.take(event, now, |peer| self.ways.by_peer.contains_key(&peer));
        }
        self.log_conflicts();
        self.publish_if(changed);
    }

    /// Says who claims what is another's.
    fn log_conflicts(&mut self) {
        if self.learned.news.is_empty() {
            return;
        }
        let names = self.port_names();
        for (Claim { port, address }, mac) in self.learned.news.drain(..) {
            let name = names.get(&port).cloned().unwrap_or_else(|| port.to_string());
            warn!(
                "{mac} behind {name} claims {address}, which is another's; further claims are in weft neigh"
            );
        }
    }

    /// Forgets what is old, and publishes what has changed by it.
    pub(super) fn forget_old(&mut self) {
        let ageing = Duration::from_secs(self.dataplane.ageing().into());
        let dataplane = &self.dataplane;
        let sends = |known: &LearnedNeighbour| dataplane.has_learned(known.mac, known.port);
        let changed = self.learned.forget_old(Instant::now(), ageing, sends);
        self.publish_if(changed);
    }

    fn publish_if(&mut self, changed: bool) {
        if changed {
            self.publish(&Arc::clone(&self.model));
        }
    }

    /// The neighbours that were learned behind trusted ports.
    pub fn learned_neighbours(&self) -> impl Iterator<Item = (IpAddr, &LearnedNeighbour)> {
        self.learned.neighbours.iter().map(|(address, known)| (*address, known))
    }

    /// Who claims what is another's.
    pub fn conflicts(&self) -> impl Iterator<Item = (&Claim, &Conflict)> {
        self.learned.conflicts.iter()
    }

    /// The ways to peers that carry less than the uplink does, in bytes of outer IP packet.
    pub fn path_mtus(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.learned.path_mtus.iter().map(|(peer, path)| (*peer, path.bytes))
    }
}

#[cfg(test)]
mod tests;
