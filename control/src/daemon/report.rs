//! What the API shows: the daemon's state and counters.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_api::{
    Drop, Drops, Mac, Memory, Network, Origin, Peer, PodPort as ApiPort, PodState, Pods, PortStats, Source,
    State, Stats, Status, Total, Uplink, WorkerStats,
};
use weft_ffi::dpdk::MemoryKind;
use weft_switch::drop_reason::DropReason;
use weft_switch::types::PortId;

use super::{Daemon, pods};
use crate::compile::{Mtus, tunnel_address};
use crate::config::SourceConfig;
use crate::dataplane::{Device, WorkerSide};
use crate::model::{Attachment, Node, Pod, VhostMode};

impl Daemon {
    pub(super) fn status(&self) -> Status {
        let uplink = self.mirror.uplink();
        let model = &self.model;
        // The first network; a valid model has one.
        let network = model.networks.first();
        let mut problems = self.problems.clone();
        problems.extend(self.failed.iter().map(|(name, error)| format!("pod {name}: {error}")));
        problems.extend(self.unfit.iter().map(|(_, why)| why.clone()));
        problems.extend(self.source.error.iter().map(|error| format!("source: {error}")));
        if !uplink.up {
            problems.push(format!("uplink {} is down", uplink.name));
        }
        let SourceConfig::File { path } = &self.config.source;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.node.clone(),
            state: if problems.is_empty() { State::Ready } else { State::Degraded },
            problems,
            started_at: unix_seconds(self.started.1),
            uptime_s: self.started.0.elapsed().as_secs(),
            generation: self.dataplane.generation().0,
            source: Source {
                kind: "file".to_owned(),
                path: Some(path.clone()),
                last_loaded: self.source.loaded.map(unix_seconds),
                last_error: self.source.error.clone(),
            },
            memory: Memory {
                hugepages: self.dataplane.eal().memory() == MemoryKind::Hugepages,
                packet_buffers_total: self.dataplane.buffers() as u64,
                packet_buffers_free: self.dataplane.pool().available() as u64,
                rss_bytes: resident_bytes(),
            },
            uplink: Uplink {
                interface: uplink.name.clone(),
                kind: "af_packet".to_owned(),
                mtu: uplink.mtu,
                addresses: uplink.addresses.iter().map(|net| net.addr()).collect(),
            },
            network: Network {
                ipv4: network.and_then(|network| network.ipv4),
                ipv6: network.and_then(|network| network.ipv6),
                vni: network.map_or(0, |network| network.vni.get()),
                port: model.port,
                pod_mtu: Mtus::new(model, uplink.mtu).of_network(0),
            },
            workers: self.dataplane.workers().len(),
            host_port: self.host.as_ref().map(|_| self.config.host_port.name.clone()),
            peers: model
                .nodes
                .iter()
                .filter(|node| node.name != self.node)
                .map(|node| self.peer(node))
                .collect(),
            pods: self.pods.len(),
        }
    }

    fn peer(&self, node: &Node) -> Peer {
        let mut ends: Vec<IpAddr> =
            node.subnets.iter().filter_map(|subnet| tunnel_address(node, subnet)).collect();
        ends.dedup();
        let resolved = |end: &IpAddr| self.ways.get(end).is_some_and(|way| way.next_hop_mac.is_some());
        Peer {
            name: node.name.clone(),
            subnets: node.subnets.clone(),
            public_ips: [node.public_ip.map(IpAddr::V4), node.public_ipv6.map(IpAddr::V6)]
                .into_iter()
                .flatten()
                .collect(),
            vtep_mac: node.vtep_mac.map(|mac| Mac(mac.0)),
            resolved: ends.iter().all(resolved),
            next_hop: ends.first().and_then(|end| self.ways.get(end)).map(|way| way.next_hop),
        }
    }

    pub(super) fn list_pods(&self) -> Pods {
        let mtus = Mtus::new(&self.model, self.mirror.uplink().mtu);
        let mut shown: Vec<_> =
            self.desired().pods_of(&self.node).map(|pod| self.show_pod(pod, &mtus)).collect();
        shown.sort_by(|a, b| a.name.cmp(&b.name));
        Pods { pods: shown }
    }

    fn show_pod(&self, pod: &Pod, mtus: &Mtus) -> weft_api::Pod {
        let open = self.pods.get(&pod.name);
        let error = self.failed.get(&pod.name).cloned();
        let connected = open.is_none_or(|open| match self.dataplane.device(open.port.id) {
            Some(Device::Vhost(port)) => port.connected(),
            _ => true,
        });
        weft_api::Pod {
            name: pod.name.clone(),
            node: pod.node.clone(),
            port: api_port(&pod.attachment),
            addresses: pod.addresses.iter().map(|net| net.addr()).collect(),
            mac: Mac(pod.mac_or_derived().0),
            port_id: open.map(|open| open.port.id.index() as u16),
            mtu: open.map_or_else(|| mtus.of_pod(pod), |open| open.mtu),
            origin: if self.added.contains_key(&pod.name) { Origin::Api } else { Origin::File },
            state: match open {
                Some(_) if error.is_none() && connected => PodState::Up,
                Some(_) if error.is_none() => PodState::Waiting,
                _ => PodState::Failed,
            },
            error,
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let workers = self.dataplane.workers().iter().enumerate().map(|(id, side)| worker_stats(id, side));
        Stats { ports: self.port_stats(), workers: workers.collect(), total: self.total() }
    }

    fn port_stats(&self) -> Vec<PortStats> {
        let uplink = self.uplink.as_ref().map(|u| (u.id, self.mirror.uplink().name, "uplink"));
        let host = self.host.as_ref().map(|host| (host.port.id, self.config.host_port.name.clone(), "host"));
        let pods = self
            .pods
            .values()
            .map(|open| (open.port.id, open.pod.name.clone(), pods::kind(&open.pod.attachment)));
        uplink
            .into_iter()
            .chain(host)
            .chain(pods)
            .map(|(id, name, kind)| self.one_port(id, name, kind))
            .collect()
    }

    fn one_port(&self, id: PortId, name: String, kind: &str) -> PortStats {
        let totals = self.dataplane.port_totals(id);
        PortStats {
            id: id.index() as u16,
            name,
            kind: kind.to_owned(),
            rx_packets: totals.rx.0,
            rx_bytes: totals.rx.1,
            tx_packets: totals.tx.0,
            tx_bytes: totals.tx.1,
            rx_drops: totals.drops.0,
            tx_drops: totals.drops.1,
        }
    }

    fn total(&self) -> Total {
        let mut total = Total::default();
        for counters in self.dataplane.workers().iter().map(WorkerSide::counters) {
            total.rx += counters.rx.get();
            total.originated += counters.originated.get();
            total.tx += counters.tx.get();
            total.consumed += counters.consumed.get();
            total.drops += counters.all_drops();
        }
        total
    }

    pub(super) fn drops(&self, all: bool) -> Drops {
        let reasons = DropReason::ALL.iter().map(|reason| Drop {
            reason: reason.name().to_owned(),
            count: self.dataplane.drops(*reason),
            explain: reason.explain().to_owned(),
        });
        Drops { total: reasons.filter(|drop| all || drop.count > 0).collect() }
    }
}

fn worker_stats(id: usize, side: &WorkerSide) -> WorkerStats {
    let counters = side.counters();
    let packets = counters.rx.get();
    let cycles_per_packet =
        if packets == 0 { 0.0 } else { counters.busy_cycles.get() as f64 / packets as f64 };
    WorkerStats {
        id: id as u16,
        core: side.core,
        rx_packets: packets,
        tx_packets: counters.tx.get(),
        consumed: counters.consumed.get(),
        originated: counters.originated.get(),
        drops: counters.all_drops(),
        bursts: counters.bursts.get(),
        cycles_per_packet,
        busy: side.busy(),
        sleeps: counters.sleeps.get(),
        handed_over: counters.handed_over.get(),
    }
}

fn api_port(attachment: &Attachment) -> ApiPort {
    match attachment {
        Attachment::Tap { netns, ifname } => ApiPort::Tap { netns: netns.clone(), ifname: ifname.clone() },
        Attachment::VhostUser { socket, mode } => ApiPort::VhostUser {
            socket: socket.clone(),
            mode: match mode {
                VhostMode::Client => weft_api::VhostMode::Client,
                VhostMode::Server => weft_api::VhostMode::Server,
            },
        },
        Attachment::Dpdk { devargs } => ApiPort::Dpdk { devargs: devargs.clone() },
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// This process's resident memory, as the kernel counts it; 0 where it does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
