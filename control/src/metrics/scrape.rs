//! What is measured, as OpenMetrics text. Names and units by Prometheus' conventions: `weft_` in front, base units (bytes,
//! seconds) at the end, `_total` behind what only grows. Nothing has a label for each peer: with thousands of nodes that
//! would be millions of series.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use weft_api::{Drops, Memory, PortStats, Stats, WorkerStats};

/// Everything that is measured, as of one moment.
#[derive(Debug)]
pub struct Scrape {
    pub(crate) node: String,
    /// In seconds since 1970-01-01 UTC.
    pub(crate) started_at: u64,
    pub(crate) generation: u64,
    pub(crate) problems: u64,
    pub(crate) ready: bool,
    /// The source's kind.
    pub(crate) source: &'static str,
    /// Whether its newest content is in force.
    pub(crate) source_in_force: bool,
    pub(crate) source_loaded: Option<u64>,
    pub(crate) memory: Memory,
    /// Up, waiting, failed.
    pub(crate) pods: [u64; 3],
    pub(crate) peers: u64,
    pub(crate) peers_resolved: u64,
    pub(crate) peers_direct: u64,
    pub(crate) whole_frames: u64,
    /// MAC addresses that are learned now.
    pub(crate) learned: u64,
    /// Addresses that two stations claim now.
    pub(crate) conflicts: u64,
    /// Connection pins, and how many there is room for.
    pub(crate) pins: (u64, u64),
    pub(crate) stats: Stats,
    pub(crate) drops: Drops,
}

/// What a port counts: name, unit, what it means.
type PortCounter = (&'static str, Option<Unit>, &'static str, fn(&PortStats) -> u64);

const PORT_COUNTERS: [PortCounter; 8] = [
    ("weft_port_rx_packets", None, "Frames received from the port. A GSO frame counts once.", |port| {
        port.rx_packets
    }),
    (
        "weft_port_rx",
        Some(Unit::Bytes),
        "Bytes of frames received from the port, Ethernet headers included.",
        |port| port.rx_bytes,
    ),
    ("weft_port_rx_drops", None, "Frames received from the port and dropped.", |port| port.rx_drops),
    ("weft_port_tx_packets", None, "Frames sent to the port. A GSO frame counts once.", |port| {
        port.tx_packets
    }),
    (
        "weft_port_tx",
        Some(Unit::Bytes),
        "Bytes of frames sent to the port, Ethernet headers included.",
        |port| port.tx_bytes,
    ),
    (
        "weft_port_tx_drops",
        None,
        "Frames that were to be sent to the port and dropped because it did not take them.",
        |port| port.tx_drops,
    ),
    (
        "weft_port_delayed_packets",
        None,
        "Frames to the port that had to wait because of its limit.",
        |port| port.delayed,
    ),
    (
        "weft_port_pauses",
        None,
        "How often nothing more was taken from the port for a while because of its limit.",
        |port| port.paused,
    ),
];

/// What a worker counts: name, what it means.
type WorkerCounter = (&'static str, &'static str, fn(&WorkerStats) -> u64);

const WORKER_COUNTERS: [WorkerCounter; 20] = [
    ("weft_worker_rx_packets", "Frames that the worker received.", |worker| worker.rx_packets),
    ("weft_worker_tx_packets", "Frames that the worker sent.", |worker| worker.tx_packets),
    ("weft_worker_consumed_packets", "Frames that were for the switch itself.", |worker| worker.consumed),
    ("weft_worker_originated_packets", "Frames that the switch made itself.", |worker| worker.originated),
    (
        "weft_worker_merged_packets",
        "Frames that became part of the one before them in their flow.",
        |worker| worker.merged,
    ),
    ("weft_worker_dropped_packets", "Frames that the worker dropped, whatever the reason.", |worker| {
        worker.drops
    }),
    (
        "weft_worker_handed_over_packets",
        "Frames handed to the worker that owns the transmit queue.",
        |worker| worker.handed_over,
    ),
    ("weft_worker_bursts", "Bursts with at least one frame.", |worker| worker.bursts),
    ("weft_worker_sleeps", "How often the worker slept because nothing came.", |worker| worker.sleeps),
    ("weft_worker_wakes", "How often a port, another worker or a command woke the worker.", |worker| {
        worker.wakes
    }),
    ("weft_icmp_errors_sent", "ICMP and ICMPv6 errors that the router made.", |worker| worker.icmp_sent),
    (
        "weft_icmp_errors_limited",
        "ICMP and ICMPv6 errors that were not made because too many were.",
        |worker| worker.icmp_limited,
    ),
    ("weft_fdb_learned", "MAC addresses that were learned.", |worker| worker.learned),
    ("weft_fdb_moves", "Learned MAC addresses that moved to another port.", |worker| worker.moved),
    ("weft_fdb_moves_limited", "Moves that were not made because too many were.", |worker| {
        worker.moves_limited
    }),
    (
        "weft_fdb_learn_limited",
        "MAC addresses that were not learned because the port, or the table, had its fill.",
        |worker| worker.learn_limited,
    ),
    (
        "weft_pins_made",
        "Connections whose answers were pinned to the host port, and address pairs whose fragments were.",
        |worker| worker.pinned,
    ),
    ("weft_pins_evicted", "Connection pins that had to go before their time, for others.", |worker| {
        worker.pins_evicted
    }),
    (
        "weft_pinned_packets",
        "Frames for pods that went to the host port, since their flow was pinned.",
        |worker| worker.to_host_pinned,
    ),
    ("weft_events_lost", "Events for the control side that were lost because too many waited.", |worker| {
        worker.events_lost
    }),
];

/// The labels of one sample.
type Labels = Vec<(&'static str, String)>;

impl Scrape {
    /// As OpenMetrics text.
    ///
    /// # Errors
    /// None that is known: writing to memory has success.
    pub(super) fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn of_daemon(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let version = label("version", env!("CARGO_PKG_VERSION"));
        let info = vec![version, label("node", &self.node)];
        gauges(
            to,
            "weft_build_info",
            None,
            "The daemon's version, and its node's name in the cluster.",
            [(info, 1)],
        )?;
        gauge(
            to,
            "process_start_time",
            Some(Unit::Seconds),
            "When the daemon started, since 1970.",
            self.started_at,
        )?;
        let rss = self.memory.rss_bytes;
        gauge(to, "process_resident_memory", Some(Unit::Bytes), "Resident memory of the daemon.", rss)?;
        gauge(
            to,
            "weft_ready",
            None,
            "1 while a configuration is in force and the uplink is up.",
            self.ready.into(),
        )?;
        gauge(
            to,
            "weft_problems",
            None,
            "How many things are not as they are desired: see `weft status`.",
            self.problems,
        )?;
        gauge(to, "weft_snapshot_generation", None, "The number of the snapshot in force.", self.generation)?;
        let kind = vec![label("kind", self.source)];
        let help = "1 while the source's newest content is in force, 0 while an older one is.";
        gauges(to, "weft_source_in_force", None, help, [(kind.clone(), u64::from(self.source_in_force))])?;
        let loaded = self.source_loaded.map(|at| (kind, at));
        let help = "When the source's content was last taken over, since 1970.";
        gauges(to, "weft_source_loaded_timestamp", Some(Unit::Seconds), help, loaded)?;
        let total = self.memory.packet_buffers_total;
        gauge(to, "weft_packet_buffers", None, "Packet buffers that there are.", total)?;
        let free = self.memory.packet_buffers_free;
        gauge(to, "weft_packet_buffers_free", None, "Packet buffers that nobody holds.", free)?;
        let pods = ["up", "waiting", "failed"].into_iter().zip(self.pods);
        let pods = pods.map(|(state, count)| (vec![label("state", state)], count));
        gauges(to, "weft_pods", None, "Pods of this node by state.", pods)?;
        gauge(to, "weft_peers", None, "Other nodes.", self.peers)?;
        let help = "Other nodes whose way is known down to the next hop's MAC address.";
        gauge(to, "weft_peers_resolved", None, help, self.peers_resolved)?;
        let help = "Other nodes of which pods are reached without the tunnel.";
        gauge(to, "weft_peers_direct", None, help, self.peers_direct)?;
        let help =
            "Frames that the kernel got whole, since the uplink was opened: one tunnel packet for many.";
        let mut encoder =
            to.encode_descriptor("weft_uplink_whole_frames", help, None, MetricType::Counter)?;
        encoder.encode_counter::<Labels, u64, f64>(&self.whole_frames, None)?;
        let help = "MAC addresses that are learned behind trusted ports now.";
        gauge(to, "weft_fdb_learned_entries", None, help, self.learned)?;
        let help = "Addresses that a second station claims: see `weft neigh`.";
        gauge(to, "weft_neighbour_conflicts", None, help, self.conflicts)?;
        let help = "Connections whose answers go to the host port: see `weft pins`.";
        gauge(to, "weft_pins", None, help, self.pins.0)?;
        gauge(to, "weft_pins_capacity", None, "Connection pins that there is room for.", self.pins.1)
    }

    fn of_ports(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, unit, help, read) in PORT_COUNTERS {
            let samples = self.stats.ports.iter();
            let samples =
                samples.map(|port| (vec![label("port", &port.name), label("kind", &port.kind)], read(port)));
            counters(to, name, unit, help, samples)?;
        }
        Ok(())
    }

    fn of_workers(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = |worker: &WorkerStats| vec![label("worker", &worker.id.to_string())];
        for (name, help, read) in WORKER_COUNTERS {
            let samples = self.stats.workers.iter().map(|worker| (labels(worker), read(worker)));
            counters(to, name, None, help, samples)?;
        }
        let help = "Time that the worker spent on rounds that found work.";
        let samples = self.stats.workers.iter().map(|worker| (labels(worker), worker.busy_seconds));
        counters(to, "weft_worker_busy", Some(Unit::Seconds), help, samples)?;
        let help = "Time that the worker slept.";
        let samples = self.stats.workers.iter().map(|worker| (labels(worker), worker.asleep_seconds));
        counters(to, "weft_worker_asleep", Some(Unit::Seconds), help, samples)
    }

    fn of_drops(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let samples = self.drops.total.iter().map(|drop| (vec![label("reason", &drop.reason)], drop.count));
        counters(
            to,
            "weft_drops",
            None,
            "Frames dropped, by reason: `weft drops --all` explains them.",
            samples,
        )
    }
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.of_daemon(&mut to)?;
        self.of_ports(&mut to)?;
        self.of_workers(&mut to)?;
        self.of_drops(&mut to)
    }
}

/// A label, with the characters escaped that would end its value; the encoder writes it as it is.
fn label(name: &'static str, value: &str) -> (&'static str, String) {
    (name, value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn gauge(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    unit: Option<Unit>,
    help: &str,
    value: u64,
) -> fmt::Result {
    let mut encoder = to.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    encoder.encode_gauge(&value)
}

fn gauges<V: EncodeGaugeValue>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    unit: Option<Unit>,
    help: &str,
    samples: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    let mut encoder = to.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    samples.into_iter().try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value))
}

fn counters<V: EncodeCounterValue>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    unit: Option<Unit>,
    help: &str,
    samples: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    let mut encoder = to.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    samples.into_iter().try_for_each(|(labels, value)| {
        encoder.encode_family(&labels)?.encode_counter::<Labels, V, f64>(&value, None)
    })
}
