//! How fast frames may go to a port and come from it.

use crate::types::{BitRate, PortId};

/// A limit: wire bytes count, Ethernet headers among them, and of a frame that stands for several those of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// On average.
    pub per_second: BitRate,
    /// At once after a pause, in bits. None, or less than what the rate brings in [`LEAST_BURST_MS`]: as much as that.
    pub burst: Option<u64>,
}

/// What is saved up at least, in milliseconds of the rate: a worker that comes late by less makes up for it.
pub const LEAST_BURST_MS: u64 = 10;

/// The limits of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortRates {
    /// For what is sent to it: a pod's ingress.
    pub to: Option<Rate>,
    /// For what comes from it: a pod's egress.
    pub from: Option<Rate>,
}

/// The limits of all ports that have some, by the ports' numbers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rates(Vec<(PortId, PortRates)>);

impl Rates {
    /// The port's limits.
    pub fn get(&self, id: PortId) -> PortRates {
        let found = self.0.binary_search_by_key(&id, |(port, _)| *port).ok();
        found.and_then(|at| self.0.get(at)).map(|(_, rates)| *rates).unwrap_or_default()
    }

    /// Sets the port's limits.
    pub fn insert(&mut self, id: PortId, rates: PortRates) {
        match self.0.binary_search_by_key(&id, |(port, _)| *port) {
            Ok(at) => self.0[at].1 = rates,
            Err(at) => self.0.insert(at, (id, rates)),
        }
    }

    /// The ports that have limits.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        self.0.iter().map(|(port, _)| *port)
    }
}
