//! Stations behind trusted ports: MAC addresses that were learned from what they send. One table for the whole switch, shared by
//! all workers, which survives snapshots; configured addresses ([`crate::tables::Snapshot::fdb`]) go before it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use weft_sync::learned::{Learn, LearnTable, Rules};

use crate::types::{MAX_PORTS, MacAddr, PortId};

/// Addresses that are learned at most, on all ports together.
pub const MOST: usize = 16_384;

/// What was learned. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Stations(Arc<LearnTable>);

/// One station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The port that it is behind.
    pub port: PortId,
    /// Seconds since it was heard.
    pub age: u32,
}

impl Default for Stations {
    fn default() -> Self {
        // The standard library's hasher is seeded by the kernel's random numbers.
        let seed = RandomState::new().hash_one(MOST);
        Self(Arc::new(LearnTable::new(MOST, MAX_PORTS, seed)))
    }
}

/// A worker's time in milliseconds as the table's seconds.
#[inline]
pub fn seconds(now: u64) -> u32 {
    (now / 1000) as u32
}

impl Stations {
    /// The port that `mac` was heard behind within the last `ageing` seconds before second `now`.
    #[inline]
    pub fn lookup(&self, mac: MacAddr, now: u32, ageing: u32) -> Option<PortId> {
        let port = self.0.lookup(mac.0, now, ageing)?;
        PortId::new(port.into()).ok()
    }

    /// `mac` was heard behind `port` in second `now`. `may_move` is asked where it was behind another port until then.
    #[inline]
    pub fn learn(
        &self,
        mac: MacAddr,
        port: PortId,
        now: u32,
        rules: Rules,
        may_move: impl FnOnce() -> bool,
    ) -> Learn {
        self.0.learn(mac.0, port.index() as u16, now, rules, may_move)
    }

    /// Forgets the stations behind `port`, which no worker receives from any more: its number will be another's.
    pub fn forget_port(&self, port: PortId) {
        self.0.forget_port(port.index() as u16);
    }

    /// Forgets the stations that were not heard for `ageing` seconds before second `now`; how many that were. Nobody finds them
    /// after that time anyway: this makes room.
    pub fn sweep(&self, now: u32, ageing: u32) -> usize {
        self.0.sweep(now, ageing)
    }

    /// The stations as of second `now`, in no order.
    pub fn iter(&self, now: u32) -> impl Iterator<Item = Station> + '_ {
        self.0.iter().filter_map(move |entry| {
            let port = PortId::new(entry.port.into()).ok()?;
            Some(Station { mac: MacAddr(entry.mac), port, age: now.saturating_sub(entry.heard) })
        })
    }

    /// How many stations were learned behind `port`.
    pub fn count(&self, port: PortId) -> u32 {
        self.0.count_of(port.index() as u16)
    }
}
