//! The daemon: one task that owns the desired state, the node's facts and the dataplane, and brings the last into line with
//! the first two.
//!
//! Level-triggered: whatever happened (a new model, a change on the underlay, a request, a retry), [`Daemon::reconcile`]
//! compares what should be with what is. Order of its steps: open what is missing, compile, publish, let the new ports
//! receive, close what is no longer wanted. So no packet meets a port that is half there, and none is lost by a change
//! that does not concern it.

mod pods;
mod report;
mod requests;
mod rights;
mod start;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use weft_api::ApiError;
use weft_ffi::kernel::udp_claim::UdpClaim;
use weft_node::{Device as StoredDevice, HostPort, Lock, Mirror, State, configure_host_port};
use weft_switch::drivers::Rx;
use weft_switch::tables::{Place, SourcePorts};
use weft_switch::types::{MacAddr, Mtu, PortId};

use crate::compile::{self, Facts, OpenPort, Way, compile, gateway_mac, peer_addresses, pod_mtu};
use crate::config::{Config, OuterChecksum};
use crate::dataplane::Dataplane;
use crate::model::{Model, Pod, gateway};
use crate::ports::{open_tap, open_uplink};
use crate::source::SourceError;

pub use requests::Client;
pub use start::{StartError, Started, start};

/// How often what could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Over how long the workers' busy share is taken.
const SAMPLE: Duration = Duration::from_secs(1);

/// A pod's port that is open.
struct PodPort {
    pod: Pod,
    port: OpenPort,
    /// The MTU that it was opened for, in bytes.
    mtu: u32,
    /// The network namespace that its interface was made in.
    netns: Option<pods::NetnsId>,
}

struct UplinkPort {
    id: PortId,
    index: u32,
    vxlan_port: u16,
}

/// How the source fares.
#[derive(Default)]
struct SourceState {
    loaded: Option<SystemTime>,
    error: Option<String>,
}

/// The daemon's state.
pub struct Daemon {
    config: Config,
    node: String,
    started: (Instant, SystemTime),
    _lock: Lock,
    claim: Option<UdpClaim>,
    dataplane: Dataplane,
    mirror: Mirror,
    state: State,
    vtep_mac: MacAddr,
    /// What the source said last that was right.
    model: Model,
    source: SourceState,
    /// Pods that were added through the API; they outlive a restart.
    added: BTreeMap<String, Pod>,
    pods: BTreeMap<String, PodPort>,
    /// Pods whose port could not be opened, and why.
    failed: BTreeMap<String, String>,
    uplink: Option<UplinkPort>,
    host: Option<(OpenPort, HostPort)>,
    /// What is wrong beside that.
    problems: Vec<String>,
    ways: HashMap<IpAddr, Way>,
    /// Receive queues, with worker and port, that wait until a snapshot names their port.
    fresh: Vec<(usize, PortId, Rx)>,
}

/// What a client of the API asks the daemon.
enum Request {
    Status(oneshot::Sender<weft_api::Status>),
    Pods(oneshot::Sender<weft_api::Pods>),
    Add(weft_api::PodSpec, oneshot::Sender<Result<weft_api::Pod, ApiError>>),
    Delete(String, oneshot::Sender<Result<weft_api::Pod, ApiError>>),
    Stats(oneshot::Sender<weft_api::Stats>),
    Drops(bool, oneshot::Sender<weft_api::Drops>),
}

/// What the daemon hears from.
pub struct Inputs {
    updates: mpsc::Receiver<Result<Model, SourceError>>,
    underlay: watch::Receiver<u64>,
    requests: mpsc::Receiver<Request>,
}

impl Daemon {
    /// Runs until `stop` is ready; then the workers end, and the pods' devices and the state stay.
    pub async fn run(mut self, mut inputs: Inputs, stop: impl Future<Output = ()>) {
        let mut retry = tokio::time::interval(RETRY);
        let mut sample = tokio::time::interval(SAMPLE);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(update) = inputs.updates.recv() => self.take_model(update).await,
                Ok(()) = inputs.underlay.changed() => self.reconcile().await,
                Some(request) = inputs.requests.recv() => self.answer(request).await,
                _ = retry.tick(), if self.has_problems() => self.reconcile().await,
                _ = sample.tick() => {
                    self.dataplane.sample();
                    // The kernel does not tell, and weft's own descriptor keeps what is left of the namespace alive.
                    if self.pods.values().any(PodPort::has_lost_netns) {
                        self.reconcile().await;
                    }
                }
            }
        }
        info!("ending: pods keep their devices, a new weftd takes them up");
        let dataplane = self.dataplane;
        // The workers end within a burst; joining them is not for the runtime's thread.
        let _ = tokio::task::spawn_blocking(move || dataplane.stop()).await;
    }

    async fn take_model(&mut self, update: Result<Model, SourceError>) {
        match update {
            Ok(model) if model == self.model => self.source.error = None,
            Ok(model) => match self.with_added(&model) {
                Ok(_) => {
                    self.model = model;
                    self.source = SourceState { loaded: Some(SystemTime::now()), error: None };
                    self.reconcile().await;
                    info!("new configuration is in force, generation {}", self.dataplane.generation().0);
                }
                Err(error) => self.refuse(error),
            },
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn refuse(&mut self, error: String) {
        warn!("the new configuration is refused, the old one stays in force: {error}");
        self.source.error = Some(error);
    }

    fn has_problems(&self) -> bool {
        !self.failed.is_empty() || !self.problems.is_empty()
    }

    /// The whole desired state: what the source says, and the pods that were added through the API.
    fn desired(&self) -> Model {
        let mut model = self.model.clone();
        model.pods.extend(self.added.values().cloned());
        model
    }

    /// A source's model together with the pods that were added, if they go together.
    fn with_added(&self, model: &Model) -> Result<Model, String> {
        let mut all = model.clone();
        all.pods.extend(self.added.values().cloned());
        pods::check(&all, &self.node)?;
        Ok(all)
    }

    /// Brings the dataplane and the kernel into line with the desired state.
    async fn reconcile(&mut self) {
        let model = self.desired();
        self.problems.clear();
        self.open_uplink_port(&model).await;
        self.close_changed(&model).await;
        let unwanted = self.take_unwanted(&model);
        self.open_missing(&model).await;
        self.open_host_port(&model).await;
        self.look_up_ways(&model).await;
        self.publish(&model);
        for id in unwanted {
            self.dataplane.remove(id, true).await;
        }
        self.save();
    }

    /// Compiles and publishes.
    fn publish(&mut self, model: &Model) {
        let uplink = self.mirror.uplink();
        let Some(port) = self.uplink.as_ref().map(|uplink| uplink.id) else { return };
        let facts = Facts {
            node: self.node.clone(),
            vtep_mac: self.vtep_mac,
            uplink: compile::Uplink {
                port,
                mac: MacAddr(uplink.mac),
                mtu: uplink.mtu,
                addresses: uplink.addresses.iter().map(|net| net.addr()).collect(),
            },
            host: self.host.as_ref().map(|(port, wanted)| (*port, MacAddr(wanted.mac))),
            ports: self.pods.iter().map(|(name, open)| (name.clone(), open.port)).collect(),
            ways: self.ways.clone(),
            source_ports: weft_node::local_port_range()
                .map_or_else(|_| SourcePorts::default(), |(low, high)| SourcePorts::new(low, high)),
            outer_checksum: self.config.uplink.outer_checksum == OuterChecksum::Valid,
            accept_unknown: !self.config.uplink.known_vteps_only,
        };
        self.dataplane.publish(|generation| compile(model, &facts, generation));
        for (worker, id, queue) in self.fresh.drain(..) {
            self.dataplane.attach_rx(worker, id, queue);
        }
    }

    /// Asks the kernel for the ways to the peers.
    async fn look_up_ways(&mut self, model: &Model) {
        let peers = peer_addresses(model, &self.node);
        let paths = self.mirror.paths(&peers).await;
        self.ways.clear();
        for (peer, path) in peers.into_iter().zip(paths) {
            match path {
                Ok(path) => {
                    let way = Way {
                        source: path.source,
                        next_hop: path.next_hop,
                        next_hop_mac: path.next_hop_mac.map(MacAddr),
                        mtu: path.mtu,
                    };
                    self.ways.insert(peer, way);
                }
                Err(error) => self.problems.push(format!("peer {peer}: {error}")),
            }
        }
    }

    /// Opens the uplink's sockets; opens them anew when the interface is another one than before.
    async fn open_uplink_port(&mut self, model: &Model) {
        let uplink = self.mirror.uplink();
        let same = |open: &UplinkPort| open.index == uplink.index && open.vxlan_port == model.network.port;
        if self.uplink.as_ref().is_some_and(same) {
            return;
        }
        if self.claim.as_ref().is_none_or(|claim| claim.port() != model.network.port) {
            self.claim = None;
            match UdpClaim::bind(model.network.port) {
                Ok(claim) => self.claim = Some(claim),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
        match open_uplink(&uplink.name, model.network.port, self.dataplane.workers().len()) {
            Err(error) => self.problems.push(error.to_string()),
            Ok(queues) => {
                let Some(id) = self.dataplane.new_port() else { return };
                if let Some(old) = self.uplink.replace(UplinkPort {
                    id,
                    index: uplink.index,
                    vxlan_port: model.network.port,
                }) {
                    self.publish(model);
                    self.dataplane.remove(old.id, false).await;
                }
                for (worker, (rx, tx)) in queues.into_iter().enumerate() {
                    self.dataplane.attach_tx(worker, id, tx);
                    self.fresh.push((worker, id, rx));
                }
                info!("uplink {}: MTU {}, VXLAN port {}", uplink.name, uplink.mtu, model.network.port);
            }
        }
    }

    /// Opens the host port and brings its addresses and routes into line.
    async fn open_host_port(&mut self, model: &Model) {
        let Some(own) = model.node(&self.node) else { return };
        let mtu = pod_mtu(model, self.mirror.uplink().mtu);
        let networks = [model.network.ipv4.map(ipnet::IpNet::V4), model.network.ipv6.map(ipnet::IpNet::V6)];
        let wanted = HostPort {
            name: self.config.host_port.name.clone(),
            mac: host_mac(gateway_mac(own)).0,
            mtu,
            zero_addresses: own.subnets.iter().map(|subnet| subnet.network()).collect(),
            gateway_addresses: own.subnets.iter().filter_map(gateway).collect(),
            local_subnets: own.subnets.clone(),
            networks: networks.into_iter().flatten().collect(),
            gateway_mac: gateway_mac(own).0,
        };
        if self.host.as_ref().is_some_and(|(_, configured)| *configured == wanted) {
            return;
        }
        // A port takes frames of the size that it was opened for.
        if let Some((port, _)) = self.host.take_if(|(_, configured)| configured.mtu != wanted.mtu) {
            self.publish(model);
            self.dataplane.remove(port.id, false).await;
        }
        let problem = match &self.host {
            Some(_) => None,
            None => self.make_host_port(&wanted).await.err(),
        };
        if let Some(problem) = problem {
            self.problems.push(problem);
            return;
        }
        match configure_host_port(wanted.clone()).await {
            Ok(()) => {
                if let Some((_, configured)) = &mut self.host {
                    *configured = wanted;
                }
            }
            Err(error) => self.problems.push(format!("host port: {error}")),
        }
    }

    async fn make_host_port(&mut self, wanted: &HostPort) -> Result<(), String> {
        let opened = open_tap(None, &wanted.name, MacAddr(wanted.mac), tap_mtu(wanted.mtu)).await;
        let opened = opened.map_err(|e| format!("host port: {e}"))?;
        let id = self.dataplane.new_port().ok_or("host port: the switch has no free port number")?;
        self.dataplane.attach_tx(0, id, opened.tx);
        self.fresh.push((0, id, opened.rx));
        let unconfigured = HostPort { networks: Vec::new(), zero_addresses: Vec::new(), ..wanted.clone() };
        self.host = Some((OpenPort { id, place: Place::Worker(0) }, unconfigured));
        Ok(())
    }

    /// Writes down what a later weftd, or `weft node purge`, must know.
    fn save(&mut self) {
        let taps = self.pods.values().filter_map(|open| match &open.pod.attachment {
            crate::model::Attachment::Tap { netns, ifname } => {
                Some(StoredDevice { netns: Some(netns.clone()), name: ifname.clone() })
            }
            _ => None,
        });
        let state = State {
            vtep_mac: Some(self.vtep_mac.to_string()),
            pods: self.added.values().map(pods::store).collect(),
            devices: taps.collect(),
        };
        if state == self.state {
            return;
        }
        match state.save(&self.config.state.dir) {
            Ok(()) => self.state = state,
            Err(error) => self.problems.push(format!("state: {error}")),
        }
    }
}

/// The MAC address of the host's side of the host port, made from the gateway's.
fn host_mac(gateway: MacAddr) -> MacAddr {
    let [_, _, tail @ ..] = gateway.0;
    let [a, b, c, d] = tail;
    MacAddr([0x0a, 0x59, a, b, c, d])
}

/// A TAP's MTU as the switch's types hold it.
fn tap_mtu(bytes: u32) -> Mtu {
    Mtu::new(bytes.min(65535)).unwrap_or(Mtu::SMALLEST)
}
