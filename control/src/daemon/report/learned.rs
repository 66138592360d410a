//! What the workers have learned and noticed, as the API shows it. The rest of the report asks here only.

use std::collections::HashMap;
use std::net::IpAddr;

use weft_switch::event::FlowSample;
use weft_switch::types::{MacAddr, PortId};

use crate::daemon::Daemon;

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
        Vec::new()
    }

    /// The neighbours of the snapshot that stations have told of, with the seconds since then.
    pub(super) fn told_neighbours(&self) -> HashMap<IpAddr, u64> {
        HashMap::new()
    }

    /// Who claims whose address.
    pub(super) fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// What the path to a peer carries, where a router has said so, in bytes of outer IP packet.
    pub(super) fn path_mtu(&self, _peer: IpAddr) -> Option<u32> {
        None
    }

    /// Has the workers sample one packet in so many; 0: none.
    pub(in crate::daemon) fn sample_flows(&self, _one_in: u32) {}

    /// The samples that have come since the last call.
    pub(in crate::daemon) fn take_flows(&mut self) -> Vec<FlowSample> {
        Vec::new()
    }
}
