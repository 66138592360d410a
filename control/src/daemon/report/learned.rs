//! What the workers have learned and noticed, as the API shows it. The rest of the report asks here only.

use std::collections::HashMap;
use std::net::IpAddr;

use weft_api::{Pin, Pins};
use weft_switch::pins;
use weft_switch::stations;
use weft_switch::types::{MacAddr, PortId};

use super::unix_seconds;
use crate::daemon::{Daemon, conflicts};

/// Claims that the status tells of at most.
const NOTES: usize = 10;

/// A station behind a trusted port.
pub(super) struct Station {
    pub(super) mac: MacAddr,
    pub(super) port: PortId,
    /// Seconds since a frame came from it.
    pub(super) age_s: u64,
}

/// A station that claims another's address.
pub(super) struct Claim {
    pub(super) address: IpAddr,
    pub(super) mac: MacAddr,
    pub(super) port: PortId,
    pub(super) count: u64,
    /// In seconds since 1970-01-01 UTC.
    pub(super) last_seen: u64,
}

impl Daemon {
    /// The MAC addresses that are learned now.
    pub(super) fn stations(&self) -> Vec<Station> {
        let station = |s: stations::Station| Station { mac: s.mac, port: s.port, age_s: s.age.into() };
        self.dataplane.learned().map(station).collect()
    }

    /// The connections whose answers go to the host: those from or to `address`, if one is given, and the youngest.
    pub(in crate::daemon) fn list_pins(&self, address: Option<IpAddr>, limit: usize) -> Pins {
        let (count, capacity) = self.dataplane.pin_counts();
        let evicted = self.dataplane.workers().iter().map(|side| side.counters().pins_evicted.get()).sum();
        let wanted = |pin: &pins::Pin| address.is_none_or(|address| pin.src == address || pin.dst == address);
        let mut found: Vec<_> = self.dataplane.pins().filter(wanted).collect();
        found.sort_unstable_by_key(|pin| (pin.age, pin.dst, pin.src, pin.protocol, pin.ports));
        let entry = |pin: &pins::Pin| Pin {
            src: pin.src,
            dst: pin.dst,
            protocol: pin.protocol,
            src_port: pin.ports.0,
            dst_port: pin.ports.1,
            state: pin.kind.name().to_owned(),
            age_s: pin.age.into(),
            expires_s: pin.kind.life().saturating_sub(pin.age).into(),
        };
        let memory_bytes = capacity * pins::BYTES as u64;
        Pins {
            count,
            capacity,
            memory_bytes,
            evicted,
            entries: found.iter().take(limit).map(entry).collect(),
        }
    }

    /// The neighbours of the snapshot that stations have told of, with the seconds since then.
    pub(super) fn told_neighbours(&self) -> HashMap<IpAddr, u64> {
        self.learned_neighbours().map(|(address, known)| (address, known.heard.elapsed().as_secs())).collect()
    }

    /// Who claims whose address.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let claim = |(claim, conflict): (&conflicts::Claim, &conflicts::Conflict)| Claim {
            address: claim.address,
            mac: conflict.mac,
            port: claim.port,
            count: conflict.count,
            last_seen: unix_seconds(conflict.last_seen),
        };
        self.conflicts().map(claim).collect()
    }

    /// Who claims whose address, a sentence each; the most recent first, and no more than a person reads.
    pub(super) fn conflict_notes(&self) -> Vec<String> {
        let (mut claims, names) = (self.claims(), self.port_names());
        claims.sort_by_key(|claim| std::cmp::Reverse(claim.last_seen));
        let more = claims.len().saturating_sub(NOTES);
        let name = |id: &PortId| names.get(id).cloned().unwrap_or_else(|| id.to_string());
        let note = |claim: &Claim| {
            let Claim { address, mac, port, count, .. } = claim;
            format!("{mac} behind {} claims {address}, which is another's ({count} times)", name(port))
        };
        let mut notes: Vec<_> = claims.iter().take(NOTES).map(note).collect();
        if more > 0 {
            notes.push(format!("{more} more claims of others' addresses: weft neigh lists them"));
        }
        notes
    }

    /// What the path to a peer carries, where a router has said so, in bytes of outer IP packet.
    pub(super) fn path_mtu(&self, peer: IpAddr) -> Option<u32> {
        self.path_mtus().find(|(to, _)| *to == peer).map(|(_, bytes)| bytes)
    }
}
