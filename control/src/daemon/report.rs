//! What the API and the metrics show: the daemon's state and counters. Everything here only looks, takes time in proportion to
//! what is shown, and is turned into text by the asker's task.

mod learned;
mod tables;
mod ways;

use std::net::IpAddr;

use ipnet::IpNet;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_api::{
    Drop, Drops, Mac, Memory, Network, Origin, Peer, PodState, Pods, PortStats, Source, State, Stats, Status,
    Store, Total, Uplink, Worker, WorkerState, WorkerStats, Workers,
};
use weft_ffi::dpdk::MemoryKind;
use weft_ffi::kernel::clock::{tsc, tsc_hz};
use weft_switch::drop_reason::DropReason;
use weft_switch::tables::Place;

use super::origin::not_the_uplinks;
use super::{Daemon, attachments};
use crate::compile::{Mtus, tunnel_address};
use crate::config::{SourceKind, UplinkKind};
use crate::dataplane::WorkerSide;
use crate::metrics::Scrape;
use crate::model::{DirectRouting, Encapsulation, NetworkIndex, Node, Pod};

impl Daemon {
    pub(super) fn status(&self) -> Status {
        let uplink = self.mirror.uplink();
        let model = &self.model;
        let networks = NetworkIndex::new(model);
        let (large_frames, whole_frames) = self.large_frames();
        // The first network; a valid model has one.
        let network = model.networks.first();
        let problems = self.all_problems();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.node.clone(),
            state: if problems.is_empty() { State::Ready } else { State::Degraded },
            problems,
            notes: self
                .restart_notes()
                .into_iter()
                .chain(self.uplink_notes())
                .chain(self.spread_notes())
                .chain(self.conflict_notes())
                .collect(),
            started_at: unix_seconds(self.started.1),
            uptime_s: self.started.0.elapsed().as_secs(),
            generation: self.dataplane.generation().0,
            source: Source {
                kind: self.config.source.kind.as_str().to_owned(),
                path: (self.config.source.kind == SourceKind::File).then(|| self.config.source.path.clone()),
                last_loaded: self.source.loaded.map(unix_seconds),
                last_error: self.source.error.clone(),
                store: self.store_state(),
            },
            memory: self.memory(),
            uplink: Uplink {
                interface: uplink.name.clone(),
                kind: match model.encapsulation {
                    Encapsulation::Vxlan => self.uplink_kind().as_str().to_owned(),
                    other => other.as_str().to_owned(),
                },
                mtu: uplink.mtu,
                addresses: uplink.addresses.iter().map(|net| net.addr()).collect(),
                large_frames,
                whole_frames,
            },
            network: Network {
                ipv4: network.and_then(|network| network.ipv4),
                ipv6: network.and_then(|network| network.ipv6),
                vni: network.map_or(0, |network| network.vni.get()),
                port: self.vxlan_port(model),
                pod_mtu: Mtus::new(model, uplink.mtu).of_network(0),
            },
            workers: self.dataplane.workers().len(),
            host_port: self.host.as_ref().map(|_| self.config.host_port.name.clone()),
            peers: model
                .nodes
                .iter()
                .filter(|node| node.name != self.node)
                .map(|node| self.peer(node, &networks))
                .collect(),
            pods: self.pods.len(),
        }
    }

    fn store_state(&self) -> Option<Store> {
        let (status, own) = self.store.as_ref()?;
        let status = status.borrow();
        Some(Store {
            connected: status.lost.is_none(),
            since: unix_seconds(status.since),
            error: status.lost.clone(),
            subnets: [own.v4.map(IpNet::V4), own.v6.map(IpNet::V6)].into_iter().flatten().collect(),
            lease_until: status.lease_until.map(unix_seconds),
            position: status.position.clone(),
        })
    }

    /// What an operator must know of the store. Traffic does not depend on it.
    fn store_problems(&self) -> Vec<String> {
        let Some((status, _)) = &self.store else { return Vec::new() };
        let status = status.borrow();
        let lost = status.lost.iter().map(|reason| format!("{reason}; what it said last stays in force"));
        lost.chain(status.trouble.clone()).collect()
    }

    /// The underlay addresses that a node is sent to.
    fn ends_of(&self, node: &Node) -> Vec<IpAddr> {
        let mut ends: Vec<IpAddr> =
            node.subnets.iter().filter_map(|subnet| tunnel_address(node, subnet)).collect();
        ends.dedup();
        ends
    }

    /// Whether the ways to a node are known down to the next hop's MAC address, or that is the kernel's business.
    fn is_resolved(&self, node: &Node, networks: &NetworkIndex) -> bool {
        let socket = self.uplink_kind() == UplinkKind::Socket;
        let known =
            |end: IpAddr| self.ways.by_peer.get(&end).is_some_and(|way| socket || way.next_hop_mac.is_some());
        let direct = self.direct.subnets();
        node.subnets.iter().all(|subnet| {
            let tunnel = networks.of(subnet).is_none_or(|(_, network)| {
                self.model.networks[network].direct_routing != DirectRouting::Always
            });
            direct.contains(subnet) || tunnel && tunnel_address(node, subnet).is_none_or(known)
        })
    }

    fn peer(&self, node: &Node, networks: &NetworkIndex) -> Peer {
        let ends = self.ends_of(node);
        let direct = self.direct.subnets();
        Peer {
            name: node.name.clone(),
            subnets: node.subnets.clone(),
            direct: node.subnets.iter().copied().filter(|subnet| direct.contains(subnet)).collect(),
            public_ips: [node.public_ip.map(IpAddr::V4), node.public_ipv6.map(IpAddr::V6)]
                .into_iter()
                .flatten()
                .collect(),
            vtep_mac: node.vtep_mac.map(|mac| Mac(mac.0)),
            resolved: self.is_resolved(node, networks),
            next_hop: ends.first().and_then(|end| self.ways.by_peer.get(end)).map(|way| way.next_hop),
        }
    }

    /// Everything that is not well, a sentence each.
    fn all_problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.ways.problems.iter().cloned());
        problems.extend(self.failed.iter().map(|(name, error)| format!("pod {name}: {error}")));
        problems.extend(self.unfit.iter().map(|(_, why)| why.clone()));
        problems.extend(self.source.error.iter().map(|error| format!("source: {error}")));
        problems.extend(self.settings.error.iter().map(|error| format!("settings: {error}")));
        problems.extend(self.task_problems.iter().filter_map(|problem| problem.borrow().clone()));
        problems.extend(self.store_problems());
        let uplink = self.mirror.uplink();
        if !uplink.up {
            problems.push(format!("uplink {} is down", uplink.name));
        }
        problems.extend(not_the_uplinks(&self.published, &self.model, &uplink));
        problems
    }

    /// Why this node can't carry its pods' traffic now; nothing when it can.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.source.loaded.is_none() {
            reasons.push("no configuration is in force".to_owned());
        }
        let uplink = self.mirror.uplink();
        if self.uplink.is_none() {
            reasons.push(format!("uplink {} is not open", uplink.name));
        } else if !uplink.up {
            reasons.push(format!("uplink {} is down", uplink.name));
        }
        reasons
    }

    fn memory(&self) -> Memory {
        Memory {
            hugepages: self.dataplane.eal().memory() == MemoryKind::Hugepages,
            packet_buffers_total: self.dataplane.buffers() as u64,
            packet_buffers_free: self.dataplane.free_buffers() as u64,
            rss_bytes: resident_bytes(),
        }
    }

    /// The pods of this node; only the one called `name`, if one is given.
    pub(super) fn list_pods(&self, name: Option<&str>) -> Pods {
        let mtus = Mtus::new(&self.model, self.mirror.uplink().mtu);
        let wanted = self.model.pods_of(&self.node).filter(|pod| name.is_none_or(|name| pod.name == name));
        let mut shown: Vec<_> = wanted.map(|pod| self.show_pod(pod, &mtus)).collect();
        shown.sort_by(|a, b| a.name.cmp(&b.name));
        Pods { pods: shown }
    }

    /// One pod, of the desired state or not.
    pub(super) fn show_one(&self, pod: &Pod) -> weft_api::Pod {
        self.show_pod(pod, &Mtus::new(&self.model, self.mirror.uplink().mtu))
    }

    fn show_pod(&self, pod: &Pod, mtus: &Mtus) -> weft_api::Pod {
        let open = self.pods.get(&pod.name);
        let error = self.failed.get(&pod.name).cloned();
        let connected = open.is_none_or(|open| self.is_connected(open.port.id));
        weft_api::Pod {
            name: pod.name.clone(),
            node: pod.node.clone(),
            port: attachments::shown(&pod.attachment),
            addresses: pod.addresses.iter().map(|net| net.addr()).collect(),
            mac: Mac(pod.mac_or_derived().0),
            trusted: pod.trusted,
            port_id: open.map(|open| open.port.id.index() as u16),
            mtu: open.map_or_else(|| mtus.of_pod(pod), |open| open.mtu),
            origin: if self.added.contains_key(&pod.name) { Origin::Api } else { Origin::File },
            state: match open {
                Some(_) if error.is_none() && connected => PodState::Up,
                Some(_) if error.is_none() => PodState::Waiting,
                _ => PodState::Failed,
            },
            error,
            cni: self.cni.get(&pod.name).cloned(),
            bandwidth: attachments::shown_bandwidth(&self.bandwidth_of(pod)),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let workers = self.dataplane.workers().iter().enumerate().map(|(id, side)| worker_stats(id, side));
        Stats { ports: self.port_stats(), workers: workers.collect(), total: self.total() }
    }

    fn port_stats(&self) -> Vec<PortStats> {
        let ports = self.named_ports().into_iter().map(|port| {
            let totals = self.dataplane.port_totals(port.id);
            PortStats {
                id: port.id.index() as u16,
                name: port.name,
                kind: port.kind.to_owned(),
                rx_packets: totals.rx.0,
                rx_bytes: totals.rx.1,
                tx_packets: totals.tx.0,
                tx_bytes: totals.tx.1,
                rx_drops: totals.drops.0,
                tx_drops: totals.drops.1,
                delayed: totals.held.0,
                paused: totals.held.1,
            }
        });
        ports.collect()
    }

    pub(super) fn list_workers(&self) -> Workers {
        let (tables, names) = (self.dataplane.snapshot(), self.named_ports());
        let workers = self.dataplane.workers().iter().enumerate().map(|(id, side)| {
            let owns = |place| match place {
                Place::Each => true,
                Place::Worker(owner) => usize::from(owner) == id,
            };
            let ports = names.iter().filter(|port| tables.ports.get(port.id).is_some_and(|p| owns(p.place)));
            Worker {
                stats: worker_stats(id, side),
                ports: ports.map(|port| port.name.clone()).collect(),
                generation: self.dataplane.generation_of(id).map(|generation| generation.0),
            }
        });
        Workers { workers: workers.collect() }
    }

    /// Everything that is measured, as of one moment.
    pub(super) fn scrape(&self) -> Scrape {
        let pods = self.list_pods(None).pods;
        let in_state = |state| pods.iter().filter(|pod| pod.state == state).count() as u64;
        let peers = self.model.nodes.iter().filter(|node| node.name != self.node);
        let (networks, direct) = (NetworkIndex::new(&self.model), self.direct.subnets());
        let is_direct = |node: &&Node| node.subnets.iter().any(|subnet| direct.contains(subnet));
        Scrape {
            node: self.node.clone(),
            started_at: unix_seconds(self.started.1),
            generation: self.dataplane.generation().0,
            problems: self.all_problems().len() as u64,
            ready: self.not_ready().is_empty(),
            whole_frames: self.large_frames().1,
            source: self.config.source.kind.as_str(),
            source_in_force: self.source.error.is_none(),
            source_loaded: self.source.loaded.map(unix_seconds),
            memory: self.memory(),
            pods: [PodState::Up, PodState::Waiting, PodState::Failed].map(in_state),
            peers: peers.clone().count() as u64,
            peers_direct: peers.clone().filter(is_direct).count() as u64,
            peers_resolved: peers.filter(|node| self.is_resolved(node, &networks)).count() as u64,
            learned: self.stations().len() as u64,
            conflicts: self.claims().len() as u64,
            pins: self.dataplane.pin_counts(),
            stats: self.stats(),
            drops: self.drops(true),
        }
    }

    pub(super) fn total(&self) -> Total {
        let mut total = Total::default();
        for counters in self.dataplane.workers().iter().map(WorkerSide::counters) {
            total.rx += counters.rx.get();
            total.originated += counters.originated.get();
            total.tx += counters.tx.get();
            total.consumed += counters.consumed.get();
            total.merged += counters.merged.get();
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
    let (asleep, sleeps_now) = counters.asleep.until(tsc());
    WorkerStats {
        id: id as u16,
        core: side.core,
        rx_packets: packets,
        tx_packets: counters.tx.get(),
        consumed: counters.consumed.get(),
        originated: counters.originated.get(),
        merged: counters.merged.get(),
        drops: counters.all_drops(),
        bursts: counters.bursts.get(),
        cycles_per_packet,
        busy_seconds: counters.busy_cycles.get() as f64 / tsc_hz() as f64,
        busy: side.busy(),
        state: if sleeps_now { WorkerState::Sleeping } else { WorkerState::Polling },
        asleep_seconds: asleep as f64 / tsc_hz() as f64,
        asleep: side.asleep(),
        sleeps: counters.sleeps.get(),
        wakes: counters.wakes.get(),
        handed_over: counters.handed_over.get(),
        icmp_sent: counters.icmp_sent.get(),
        icmp_limited: counters.icmp_limited.get(),
        learned: counters.learned.get(),
        moved: counters.moved.get(),
        moves_limited: counters.moves_limited.get(),
        learn_limited: counters.learn_limited.get(),
        pinned: counters.pinned.get(),
        pins_evicted: counters.pins_evicted.get(),
        to_host_pinned: counters.to_host_pinned.get(),
        events_lost: counters.events_lost.get(),
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
