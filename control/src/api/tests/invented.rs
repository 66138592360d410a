//! An invented backend: something of everything.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use weft_api::{
    Conflict, Drop as DropCount, FdbEntry, FdbKind, Flow, FlowVerdict, LocalVtep, Memory, Neighbour,
    NeighbourKind, NeighbourState, Network, Origin, Pending, Pin, PodState, Port, PortRole, Route, RouteKind,
    Sections, Source, State, Total, Uplink, Vtep, Worker, WorkerStats,
};

use crate::api::*;

/// A daemon whose pods are made of nothing.
#[derive(Default)]
pub(super) struct Invented {
    pods: Mutex<Vec<Pod>>,
    /// A pod named `slow` is made when this is notified.
    pub(super) go_on: Notify,
    pub(super) begun: Notify,
    pub(super) made: AtomicUsize,
}

impl Backend for Invented {
    async fn status(&self) -> Result<Status, ApiError> {
        Ok(Status {
            version: "9.9.9".to_owned(),
            pid: 1,
            node: "n1".to_owned(),
            state: State::Ready,
            problems: Vec::new(),
            notes: Vec::new(),
            started_at: 1,
            uptime_s: 2,
            generation: 3,
            source: Source {
                kind: "file".to_owned(),
                path: None,
                last_loaded: None,
                last_error: None,
                store: None,
            },
            memory: Memory {
                hugepages: false,
                packet_buffers_total: 2,
                packet_buffers_free: 1,
                rss_bytes: 4096,
            },
            uplink: Uplink {
                interface: "u0".to_owned(),
                kind: "socket".to_owned(),
                mtu: 1500,
                addresses: Vec::new(),
                large_frames: weft_api::LargeFrames::Kernel,
                whole_frames: 0,
            },
            network: Network { ipv4: None, ipv6: None, vni: 1, port: 8472, pod_mtu: 1450 },
            workers: 1,
            host_port: None,
            peers: Vec::new(),
            pods: self.pods.lock().unwrap().len(),
        })
    }

    async fn pods(&self, name: Option<String>) -> Result<Pods, ApiError> {
        let mut pods = self.pods.lock().unwrap().clone();
        pods.retain(|pod| name.as_ref().is_none_or(|name| pod.name == *name));
        Ok(Pods { pods })
    }

    async fn add_pod(&self, spec: PodSpec) -> Result<Pod, ApiError> {
        match spec.name.as_str() {
            "slow" => {
                self.begun.notify_one();
                self.go_on.notified().await;
            }
            "panic" => panic!("asked for"),
            "refused" => return Err(ApiError::refused("not in this node's subnet")),
            "early" => return Err(ApiError::not_ready("no network yet")),
            _ => {}
        }
        let mut pods = self.pods.lock().unwrap();
        if pods.iter().any(|pod| pod.name == spec.name) {
            return Err(ApiError::conflict(format!("there is a pod {} already", spec.name)));
        }
        let pod = Pod {
            name: spec.name,
            node: "n1".to_owned(),
            port: spec.port,
            addresses: spec.addresses,
            mac: spec.mac.unwrap_or(Mac([2, 0, 0, 0, 0, 1])),
            trusted: spec.trusted,
            port_id: Some(3),
            mtu: 1450,
            origin: Origin::Api,
            state: PodState::Up,
            error: None,
            cni: spec.cni,
            bandwidth: spec.bandwidth,
        };
        pods.push(pod.clone());
        self.made.fetch_add(1, Ordering::SeqCst);
        Ok(pod)
    }

    async fn delete_pod(&self, name: String) -> Result<Pod, ApiError> {
        let mut pods = self.pods.lock().unwrap();
        match pods.iter().position(|pod| pod.name == name) {
            Some(index) => Ok(pods.remove(index)),
            None => Err(ApiError::not_found(format!("there is no pod {name:?}"))),
        }
    }

    async fn ports(&self, name: Option<String>) -> Result<Ports, ApiError> {
        let port = Port {
            id: 3,
            name: name.unwrap_or_else(|| "u0".to_owned()),
            kind: "uplink".to_owned(),
            role: PortRole::Uplink,
            mtu: 1500,
            worker: None,
            connected: true,
            rx_packets: 1,
            rx_bytes: 2,
            tx_packets: 3,
            tx_bytes: 4,
            rx_drops: 5,
            tx_drops: 6,
            delayed: 0,
            paused: 0,
            learned: 0,
        };
        Ok(Ports { ports: vec![port] })
    }

    async fn fdb(&self, port: Option<String>, mac: Option<Mac>) -> Result<Fdb, ApiError> {
        let mac = mac.unwrap_or(Mac([2, 0, 0, 0, 0, 1]));
        let learned = FdbEntry { mac, port_id: Some(3), port, kind: FdbKind::Learned, age_s: Some(7) };
        let gateway = FdbEntry { mac, port_id: None, port: None, kind: FdbKind::Gateway, age_s: None };
        Ok(Fdb { entries: vec![learned, gateway] })
    }

    async fn neighbours(&self, address: Option<IpAddr>) -> Result<Neighbours, ApiError> {
        let address = address.unwrap_or(IpAddr::from([10, 0, 0, 1]));
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let entry = Neighbour {
            address,
            mac: None,
            port_id: Some(3),
            port: Some("u0".to_owned()),
            kind: NeighbourKind::Underlay,
            state: Some(NeighbourState::Unresolved),
            age_s: None,
        };
        let conflict = Conflict { address, mac, port: "a".to_owned(), count: 2, last_seen: 1 };
        Ok(Neighbours { entries: vec![entry], conflicts: vec![conflict] })
    }

    async fn pins(&self, address: Option<IpAddr>, limit: usize) -> Result<Pins, ApiError> {
        let dst = address.unwrap_or(IpAddr::from([10, 244, 0, 5]));
        let pin = Pin {
            src: dst,
            dst,
            protocol: 6,
            src_port: 80,
            dst_port: 40_000,
            state: "established".to_owned(),
            age_s: 1,
            expires_s: 431_999,
        };
        let entries = vec![pin; limit.min(2)];
        Ok(Pins { count: 2, capacity: 131_072, memory_bytes: 131_072 * 48, evicted: 0, entries })
    }

    async fn vteps(&self, node: Option<String>) -> Result<Vteps, ApiError> {
        let (address, mac) = (IpAddr::from([192, 0, 2, 2]), Mac([2, 0, 0, 0, 0, 2]));
        let far = Vtep {
            index: Some(0),
            node: node.unwrap_or_else(|| "n2".to_owned()),
            network: "default".to_owned(),
            vni: 1,
            address,
            mac: Some(mac),
            next_hop: Some(address),
            next_hop_mac: None,
            source: None,
            mtu: Some(1450),
            path_mtu: None,
            resolved: false,
        };
        let own = LocalVtep { network: "default".to_owned(), vni: 1, address, mac };
        Ok(Vteps { vteps: vec![far], local: vec![own] })
    }

    async fn routes(&self, address: Option<IpAddr>) -> Result<Routes, ApiError> {
        let route = Route {
            to: address.map_or_else(|| "10.0.0.0/8".parse().unwrap(), Into::into),
            kind: RouteKind::Vtep,
            via: vec![IpAddr::from([192, 0, 2, 2])],
            node: Some("n2".to_owned()),
            network: None,
            port: None,
            mtu: Some(1450),
            dropped: Some("no_pod".into()),
        };
        Ok(Routes { routes: vec![route] })
    }

    async fn flows(&self, lasts: Duration, limit: usize) -> Result<Flows, ApiError> {
        let flow = Flow {
            port: "a".to_owned(),
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            protocol: 6,
            sport: 1,
            dport: 2,
            packets: lasts.as_secs(),
            bytes: limit as u64,
            verdict: FlowVerdict::Dropped,
            to: Some("no_route".to_owned()),
        };
        Ok(Flows { flows: vec![flow], seen: 1, sampled_one_in: 4, lost: 0 })
    }

    async fn workers(&self) -> Result<Workers, ApiError> {
        let stats = WorkerStats { id: 0, core: None, ..WorkerStats::default() };
        Ok(Workers { workers: vec![Worker { stats, ports: vec!["u0".to_owned()], generation: None }] })
    }

    async fn config(&self) -> Result<ConfigReport, ApiError> {
        let sections = |cores| {
            let dataplane = [("workers".to_owned(), 1.into()), ("cores".to_owned(), cores)];
            Sections::from([("dataplane".to_owned(), dataplane.into())])
        };
        Ok(ConfigReport {
            path: "/etc/weft/weftd.toml".into(),
            running: sections(serde_json::Value::Null),
            file: sections(vec![3].into()),
            error: None,
            restart_needed: vec![Pending {
                setting: "dataplane.cores".to_owned(),
                running: serde_json::Value::Null,
                file: vec![3].into(),
            }],
        })
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        Ok(Stats {
            ports: Vec::new(),
            workers: Vec::new(),
            total: Total { rx: 7, tx: 7, ..Total::default() },
        })
    }

    async fn drops(&self, all: bool) -> Result<Drops, ApiError> {
        let drop =
            |reason: &str, count| DropCount { reason: reason.to_owned(), count, explain: String::new() };
        let mut total = vec![drop("fdb_miss", 2), drop("no_route", 0)];
        total.retain(|drop| all || drop.count > 0);
        Ok(Drops { total })
    }
}
