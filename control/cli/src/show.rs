//! The answers as tables.

use weft_api::{Drops, Origin, Pod, PodPort, PodState, Pods, State, Stats, Status, VhostMode};

use crate::purge::Report;
use crate::table::{Table, bytes, duration, list, or_dash, printable};

/// What can be printed for people.
pub(crate) trait Show {
    /// Lines, each ended.
    fn show(&self) -> String;
}

impl Show for Status {
    fn show(&self) -> String {
        let mut lines: Vec<(&str, String)> = vec![(
            "state",
            match self.state {
                State::Ready => "ready".to_owned(),
                State::Degraded => "degraded".to_owned(),
            },
        )];
        lines.extend(self.problems.iter().map(|problem| ("problem", problem.clone())));
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        lines.push(("node", self.node.clone()));
        lines.push(("weftd", format!("{}, pid {}, up {}", self.version, self.pid, duration(self.uptime_s))));
        lines.push(("generation", self.generation.to_string()));
        lines.push(("source", source_line(self)));
        if let Some(error) = &self.source.last_error {
            lines.push(("source error", error.clone()));
        }
        let memory = &self.memory;
        lines.push((
            "memory",
            format!(
                "{} of {} packet buffers free{}, {} resident",
                memory.packet_buffers_free,
                memory.packet_buffers_total,
                if memory.hugepages { " (huge pages)" } else { "" },
                bytes(memory.rss_bytes)
            ),
        ));
        let uplink = &self.uplink;
        let addresses = list(&uplink.addresses);
        lines.push((
            "uplink",
            format!("{} ({}), MTU {}, {addresses}", uplink.interface, uplink.kind, uplink.mtu),
        ));
        let network = &self.network;
        let nets: Vec<String> = network
            .ipv4
            .iter()
            .map(ToString::to_string)
            .chain(network.ipv6.iter().map(ToString::to_string))
            .collect();
        lines.push((
            "network",
            format!(
                "{}, VNI {}, UDP port {}, pod MTU {}",
                list(&nets),
                network.vni,
                network.port,
                network.pod_mtu
            ),
        ));
        lines.push(("workers", self.workers.to_string()));
        lines.push(("host port", or_dash(self.host_port.as_ref())));
        lines.push(("pods", self.pods.to_string()));
        lines.push(("peers", self.peers.len().to_string()));

        let mut out = String::new();
        for (key, value) in lines {
            out += &format!("{key:<14}{}\n", printable(&value));
        }
        if !self.peers.is_empty() {
            let mut table =
                Table::new(&["PEER", "SUBNETS", "PUBLIC IPS", "VTEP MAC", "NEXT HOP", "RESOLVED"]);
            for peer in &self.peers {
                table.row(vec![
                    peer.name.clone(),
                    list(&peer.subnets),
                    list(&peer.public_ips),
                    or_dash(peer.vtep_mac),
                    or_dash(peer.next_hop),
                    if peer.resolved { "yes" } else { "no" }.to_owned(),
                ]);
            }
            out += &format!("\n{}", table.render());
        }
        out
    }
}

fn source_line(status: &Status) -> String {
    let source = &status.source;
    let mut line = source.kind.clone();
    if let Some(path) = &source.path {
        line += &format!(" {}", path.display());
    }
    // By the daemon's clocks: its node's time may have been set meanwhile, ours may be another.
    let now = status.started_at.saturating_add(status.uptime_s);
    match source.last_loaded {
        Some(loaded) => line += &format!(", loaded {} ago", duration(now.saturating_sub(loaded))),
        None => line += ", never loaded",
    }
    line
}

fn pod_table<'a>(pods: impl Iterator<Item = &'a Pod>) -> String {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "KIND",
        "ADDRESSES",
        "MAC",
        ">PORT",
        ">MTU",
        "ORIGIN",
        "ATTACHED TO",
        "ERROR",
    ]);
    for pod in pods {
        table.row(vec![
            pod.name.clone(),
            match pod.state {
                PodState::Up => "up",
                PodState::Waiting => "waiting",
                PodState::Failed => "failed",
            }
            .to_owned(),
            pod.port.kind().to_owned(),
            list(&pod.addresses),
            pod.mac.to_string(),
            or_dash(pod.port_id),
            pod.mtu.to_string(),
            match pod.origin {
                Origin::File => "file",
                Origin::Api => "api",
            }
            .to_owned(),
            match &pod.port {
                PodPort::Tap { netns, ifname } => format!("{ifname} in {}", netns.display()),
                PodPort::VhostUser { socket, mode } => {
                    let mode = match mode {
                        VhostMode::Client => "client",
                        VhostMode::Server => "server",
                    };
                    format!("{} ({mode})", socket.display())
                }
                PodPort::Dpdk { devargs } => devargs.clone(),
            },
            pod.error.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

impl Show for Pod {
    fn show(&self) -> String {
        pod_table(std::iter::once(self))
    }
}

impl Show for Pods {
    fn show(&self) -> String {
        if self.pods.is_empty() { "no pods\n".to_owned() } else { pod_table(self.pods.iter()) }
    }
}

impl Show for Stats {
    fn show(&self) -> String {
        let mut ports = Table::new(&[
            ">PORT",
            "NAME",
            "KIND",
            ">RX PACKETS",
            ">RX BYTES",
            ">RX DROPS",
            ">TX PACKETS",
            ">TX BYTES",
            ">TX DROPS",
        ]);
        for port in &self.ports {
            ports.row(vec![
                port.id.to_string(),
                port.name.clone(),
                port.kind.clone(),
                port.rx_packets.to_string(),
                bytes(port.rx_bytes),
                port.rx_drops.to_string(),
                port.tx_packets.to_string(),
                bytes(port.tx_bytes),
                port.tx_drops.to_string(),
            ]);
        }
        let mut workers = Table::new(&[
            ">WORKER",
            ">CORE",
            ">RX PACKETS",
            ">TX PACKETS",
            ">CONSUMED",
            ">ORIGINATED",
            ">DROPS",
            ">BURSTS",
            ">CYCLES/PACKET",
            ">BUSY",
            ">SLEEPS",
            ">HANDED OVER",
        ]);
        for worker in &self.workers {
            workers.row(vec![
                worker.id.to_string(),
                or_dash(worker.core),
                worker.rx_packets.to_string(),
                worker.tx_packets.to_string(),
                worker.consumed.to_string(),
                worker.originated.to_string(),
                worker.drops.to_string(),
                worker.bursts.to_string(),
                format!("{:.0}", worker.cycles_per_packet),
                format!("{:.1}%", worker.busy * 100.0),
                worker.sleeps.to_string(),
                worker.handed_over.to_string(),
            ]);
        }
        let total = &self.total;
        format!(
            "{}\n{}\nbalance: rx {} + originated {} = tx {} + consumed {} + drops {} + in flight {}\n",
            ports.render(),
            workers.render(),
            total.rx,
            total.originated,
            total.tx,
            total.consumed,
            total.drops,
            total.in_flight()
        )
    }
}

impl Show for Drops {
    fn show(&self) -> String {
        if self.total.is_empty() {
            return "no drops\n".to_owned();
        }
        let mut total = Table::new(&["REASON", ">COUNT", "MEANING"]);
        for drop in &self.total {
            total.row(vec![drop.reason.clone(), drop.count.to_string(), drop.explain.clone()]);
        }
        total.render()
    }
}

impl Show for Report {
    fn show(&self) -> String {
        if self.devices.is_empty() && self.files.is_empty() {
            return "nothing of weft's was left\n".to_owned();
        }
        let devices = self.devices.iter().map(|device| format!("removed device {}\n", printable(device)));
        let files = self.files.iter().map(|file| format!("removed {}\n", printable(&file.to_string_lossy())));
        devices.chain(files).collect()
    }
}
