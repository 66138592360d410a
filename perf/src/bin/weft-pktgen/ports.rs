//! DPDK, its buffers and the one or two ports.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_ffi::dpdk::{
    DATA_ROOM, Eal, EalConfig, EthConfig, EthPort, EthRx, EthStats, EthTx, HEADROOM, Mempool,
};

/// An address that no device has: with it in DPDK's list of those allowed, none is taken unasked.
const NO_DEVICE: &str = "ffff:ff:1f.7";
/// Buffers that the sending thread keeps at hand.
const CACHE: u32 = 256;
/// An Ethernet header: what frames have beside their MTU.
const ETHERNET: usize = 14;

/// How ports are set up.
pub(crate) struct Setup {
    /// The port that sends and the one that receives, or one for both.
    pub(crate) devices: Vec<String>,
    pub(crate) buffers: u32,
    pub(crate) descriptors: u16,
    /// The longest frame, without FCS.
    pub(crate) longest: usize,
    pub(crate) link_wait: Duration,
    pub(crate) hugepages: bool,
}

/// Open ports.
pub(crate) struct Ports {
    // Closed before the environment ends: in this order.
    ports: Vec<EthPort>,
    pub(crate) pool: Mempool,
    pub(crate) eal: Eal,
}

impl Ports {
    /// Starts DPDK and opens the ports; their queues are the sending one's tx and the receiving one's rx.
    pub(crate) fn open(setup: &Setup) -> Result<(Self, EthTx, EthRx)> {
        let room = (setup.longest + usize::from(HEADROOM)).max(DATA_ROOM.into()).next_multiple_of(64) as u16;
        let pci = setup.devices.iter().any(|device| is_pci(device));
        let extra = if pci { vec!["-a".to_owned(), NO_DEVICE.to_owned()] } else { Vec::new() };
        let memory = Mempool::bytes_for(setup.buffers, room);
        let config = EalConfig { memory, pci, extra, hugepages: setup.hugepages, ..EalConfig::default() };
        let eal = Eal::start(&config)?;
        let pool = Mempool::new(&eal, "pktgen", setup.buffers, CACHE, room)?;
        let config = EthConfig {
            rx_descriptors: setup.descriptors,
            tx_descriptors: setup.descriptors,
            mtu: (setup.longest - ETHERNET).max(1500) as u16,
            offloads: false,
            ..EthConfig::default()
        };
        let mut ports = Vec::new();
        let mut queues = Vec::new();
        for device in &setup.devices {
            let mut port = EthPort::attach(&eal, device, &pool, &config)
                .with_context(|| format!("cannot open the port {device:?}"))?;
            queues.push(port.split());
            ports.push(port);
        }
        let tx = queues.first_mut().and_then(|(_, tx)| tx.pop());
        let rx = queues.last_mut().and_then(|(rx, _)| rx.pop());
        let (Some(tx), Some(rx)) = (tx, rx) else { bail!("no port was given") };
        Ok((Self { ports, pool, eal }, tx, rx))
    }

    /// Whether packets find buffers in hugepages.
    pub(crate) fn memory(&self) -> String {
        self.eal.memory().to_string()
    }

    /// Returns when all ports have a link. `may_wait` says whether to go on waiting.
    pub(crate) fn wait_for_links(&self, patience: Duration, may_wait: impl Fn() -> Result<()>) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            may_wait()?;
            let Some(down) = self.ports.iter().find(|port| !port.link().up) else { return Ok(()) };
            if Instant::now() >= end {
                bail!(
                    "the port {} has no link after {} s: start what is at its other end, or wait longer with --link-wait",
                    down.name(),
                    patience.as_secs_f64()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the drivers have counted: of the port that sends, and of the one that receives.
    pub(crate) fn stats(&self) -> (EthStats, EthStats) {
        let stats = |port: Option<&EthPort>| port.map_or_else(EthStats::default, EthPort::stats);
        (stats(self.ports.first()), stats(self.ports.last()))
    }
}

/// Whether device arguments name a PCI device, such as 0000:03:00.0 or 03:00.0.
fn is_pci(device: &str) -> bool {
    let name = device.split(',').next().unwrap_or_default();
    name.contains(':') && name.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_names() {
        for address in ["0000:03:00.0", "03:00.1", "0000:3b:00.0,representor=0"] {
            assert!(is_pci(address), "{address}");
        }
        for name in ["net_ring0", "net_memif0,socket=/run/a:b", "eth_pcap", ""] {
            assert!(!is_pci(name), "{name}");
        }
    }
}
