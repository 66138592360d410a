//! The daemon: one task that owns the desired state, the node's facts and the dataplane, and brings the last into line with
//! the first two.
//!
//! Level-triggered: whatever happened (a new model, a change on the underlay, a request, a retry), [`Daemon::reconcile`]
//! compares what should be with what is. Order of its steps: open what is missing, compile, publish, let the new ports
//! receive, close what is no longer wanted. So no packet meets a port that is half there, and none is lost by a change
//! that does not concern it.

mod attachments;
mod bandwidth;
mod conflicts;
mod descriptors;
mod desired;
mod direct;
mod flows;
mod host;
mod learned;
mod origin;
mod pods;
mod remembered;
mod report;
mod requests;
mod rights;
pub mod settings;
mod spread;
mod start;
mod uplink;
mod vteps;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use weft_api::Cni;
use weft_ffi::kernel::udp_claim::UdpClaim;
use weft_flannel::lease::Subnets;
use weft_flannel::store::Status as StoreStatus;
use weft_node::{Device as StoredDevice, Lock, Mirror, State, StoredPod};
use weft_switch::drivers::Rx;
use weft_switch::limits::{Limit, Limits};
use weft_switch::tables::SourcePorts;
use weft_switch::types::{MacAddr, Mtu, PortId};

use crate::compile::{self, Facts, OpenPort, PeerWays, Way, compile, peer_addresses};
use crate::config::{Config, ConfigError, OuterChecksum, UplinkKind};
use crate::dataplane::{Closing, Dataplane};
use crate::model::{Bandwidth, Model, Pod};
use crate::source::SourceError;
use crate::supervisor::Supervisor;

use remembered::Memory;
pub use requests::Client;
use requests::Request;
pub use start::{Setup, StartError, Started, start};

/// How often what could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Over how long the workers' busy share is taken, and how soon a port that broke is noticed.
const SAMPLE: Duration = Duration::from_secs(1);
/// How often the workers are asked for what they have to tell: how soon a station that has spoken is known.
const EVENTS: Duration = Duration::from_millis(100);
/// How many requests are taken at a time: pods that come together share one compilation.
const AT_ONCE: usize = 128;
/// How often the kernel's side of the host port is looked after, unasked.
const HOST_CHECK: Duration = Duration::from_secs(5);

/// A pod's port that is open.
struct PodPort {
    pod: Pod,
    port: OpenPort,
    /// The MTU that the interface inside was given, in bytes.
    mtu: u32,
    /// The network namespace that its interface was made in.
    netns: Option<pods::NetnsId>,
}

/// What the state directory holds, in the daemon's own terms.
struct Saved {
    vtep_macs: vteps::Macs,
    added: BTreeMap<String, Pod>,
    cni: BTreeMap<String, Cni>,
    unfit: usize,
    devices: BTreeSet<pods::Device>,
}

/// The ways to the peers, as the kernel said last.
#[derive(Default)]
struct Ways {
    /// The mirror's number of what it said, and of which addresses.
    of: (u64, Vec<IpAddr>),
    by_peer: Arc<PeerWays>,
    /// What is wrong with others.
    problems: Vec<String>,
}

/// How the source fares.
#[derive(Default)]
struct SourceState {
    loaded: Option<SystemTime>,
    error: Option<String>,
}

/// The daemon's state.
pub struct Daemon {
    /// What is in force.
    config: Config,
    node: String,
    started: (Instant, SystemTime),
    _lock: Lock,
    claim: Option<UdpClaim>,
    dataplane: Dataplane,
    mirror: Mirror,
    /// What the state directory holds.
    saved: Option<Saved>,
    vtep_macs: vteps::Macs,
    /// What the source said last that was right; behind its pods come those that were added. See [`desired`].
    model: Arc<Model>,
    /// What it said after that, if that did not go with the pods that were added.
    pending: Option<Model>,
    source: SourceState,
    /// How the source's store fares, if it has one, and the subnets that this node has there.
    store: Option<(watch::Receiver<StoreStatus>, Subnets)>,
    /// The addresses that the others have by the store.
    published: Vec<IpAddr>,
    /// What the store says is kept for a start without it.
    remembers: Option<Memory>,
    /// Pods that were added through the API; they outlive a restart.
    added: BTreeMap<String, Pod>,
    /// Those of them that are a container runtime's, by their names.
    cni: BTreeMap<String, Cni>,
    /// What Kubernetes knows of them, and the limits that this has put into force, by the pods' names.
    kube_pods: bandwidth::KubePods,
    limited_by_kube: HashMap<String, Bandwidth>,
    /// Pods from before a restart that do not go with the model, as they are stored, and why not.
    unfit: Vec<(StoredPod, String)>,
    /// The TAPs in pods that weft has made and not deleted.
    devices: BTreeSet<pods::Device>,
    pods: BTreeMap<String, PodPort>,
    /// Pods whose port could not be opened, and why.
    failed: BTreeMap<String, String>,
    uplink: Option<uplink::UplinkPort>,
    host: Option<host::HostSide>,
    /// What is wrong beside that.
    problems: Vec<String>,
    ways: Ways,
    /// The kernel's routes that need no tunnel.
    direct: direct::Direct,
    learned: learned::Learned,
    /// Receive queues, with worker and port, that wait until a snapshot names their port.
    fresh: Vec<(usize, PortId, Rx)>,
    /// The queues that open ports are still to get.
    spread: spread::Spread,
    flows: flows::Watches,
    settings: settings::Settings,
    /// Why nobody can ask for the metrics, and for the health, and what is wrong with the node's rules.
    task_problems: [watch::Receiver<Option<String>>; 3],
    /// Who has started weftd.
    supervisor: Supervisor,
}

/// What the daemon hears from.
pub struct Inputs {
    updates: mpsc::Receiver<Result<Model, SourceError>>,
    settings: mpsc::Receiver<Result<Config, ConfigError>>,
    underlay: watch::Receiver<u64>,
    requests: mpsc::Receiver<Request>,
    kube_pods: bandwidth::KubePods,
}

impl Daemon {
    /// Runs until `stop` is ready; then the workers end, and the pods' devices and the state stay.
    pub async fn run(mut self, mut inputs: Inputs, stop: impl Future<Output = ()>) {
        let mut retry = tokio::time::interval(RETRY);
        let mut sample = tokio::time::interval(SAMPLE);
        let mut host_check = tokio::time::interval(HOST_CHECK);
        let mut events = tokio::time::interval(EVENTS);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        events.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let mut requests = Vec::new();
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(update) = inputs.updates.recv() => self.take_model(update).await,
                Some(update) = inputs.settings.recv() => {
                    self.take_config(update).await;
                    self.supervisor.reloaded();
                }
                Ok(()) = inputs.underlay.changed() => {
                    self.direct.doubt();
                    self.reconcile().await;
                }
                Ok(()) = inputs.kube_pods.changed() => self.take_annotations(),
                1.. = inputs.requests.recv_many(&mut requests, AT_ONCE) => self.answer(&mut requests).await,
                next = self.spread.next() => self.take_queue(next).await,
                _ = retry.tick(), if self.has_problems() || self.spread.has_failed() => {
                    self.spread.try_again();
                    if self.has_problems() {
                        self.reconcile().await;
                    }
                }
                _ = sample.tick() => {
                    self.look_after().await;
                    self.supervisor.alive();
                }
                _ = events.tick() => {
                    self.take_events();
                    self.answer_watches();
                }
                _ = host_check.tick() => {
                    self.check_host_port().await;
                    self.check_direct_routes().await;
                    self.check_ipip_device().await;
                }
            }
        }
        info!("ending: pods keep their devices, a new weftd takes them up");
        self.remember_last().await;
        let dataplane = self.dataplane;
        // The workers end within a burst; joining them is not for the runtime's thread.
        let _ = tokio::task::spawn_blocking(move || dataplane.stop()).await;
    }

    async fn take_model(&mut self, update: Result<Model, SourceError>) {
        match update {
            Ok(model) if self.has_said(&model) => {
                self.pending = None;
                self.source.error = None;
            }
            Ok(model) => match self.take_source(model) {
                Ok(()) => {
                    self.source = SourceState { loaded: Some(SystemTime::now()), error: None };
                    self.reconcile().await;
                    info!("new configuration is in force, generation {}", self.dataplane.generation().0);
                }
                Err(error) => {
                    self.refuse(format!("it does not go with the pods that were added by hand: {error}"));
                }
            },
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn refuse(&mut self, error: String) {
        warn!("the new configuration is refused, the old one stays in force: {error}");
        self.source.error = Some(error);
    }

    fn has_problems(&self) -> bool {
        !self.failed.is_empty() || !self.problems.is_empty() || !self.ways.problems.is_empty()
    }

    /// Once a second: how busy the workers are, and whether a port has broken.
    async fn look_after(&mut self) {
        self.dataplane.sample();
        self.forget_old();
        self.note_received(self.total().rx);
        self.remember().await;
        let broken = self.dataplane.take_broken();
        // The kernel does not tell of these: weft's own descriptor keeps what is left of the namespace alive.
        let lost = self.pods.values().any(PodPort::has_lost_netns) || self.any_departed();
        if broken.is_empty() {
            if lost {
                self.reconcile().await;
            }
            return;
        }
        for id in &broken {
            if let Some(name) =
                self.pods.values().find(|open| open.port.id == *id).map(|open| open.pod.name.clone())
            {
                warn!("pod {name}: its port is gone from the kernel");
                self.pods.remove(&name);
                self.failed.insert(name, "its interface was deleted from outside".to_owned());
            }
            self.host.take_if(|host| host.port.id == *id);
            self.uplink.take_if(|uplink| uplink.id == *id);
        }
        self.publish(&Arc::clone(&self.model));
        let closing: Vec<_> = broken.into_iter().map(|id| Closing { id, delete: false }).collect();
        self.close_ports(&closing).await;
        self.reconcile().await;
    }

    /// Brings the dataplane and the kernel into line with the desired state.
    async fn reconcile(&mut self) {
        self.drop_departed();
        let model = Arc::clone(&self.model);
        self.problems.clear();
        self.vtep_macs.complete(model.networks.iter().skip(1).map(|network| network.name.as_str()));
        self.open_uplink_port(&model).await;
        self.open_host_port(&model).await;
        self.close_changed(&model).await;
        let unwanted = self.take_unwanted(&model);
        self.open_missing(&model).await;
        self.look_up_ways(&model).await;
        self.put_direct_routes(&model).await;
        self.publish(&model);
        self.drop_direct_routes().await;
        self.close_ports(&unwanted).await;
        self.delete_orphans(&model).await;
        self.save();
    }

    /// Compiles and publishes.
    fn publish(&mut self, model: &Model) {
        let uplink = self.mirror.uplink();
        let socket = self.uplink_kind() == UplinkKind::Socket;
        let port = self.uplink.as_ref().filter(|uplink| uplink.fits(model)).map(|uplink| uplink.id);
        let (pods, host) = (&self.pods, &self.host);
        let ports = || pods.values().map(|open| open.port.id).chain(host.as_ref().map(|host| host.port.id));
        self.learned.keep_ports(|id| ports().any(|open| open == id));
        self.limited_by_kube = self.all_annotated();
        let facts = Facts {
            node: self.node.clone(),
            vtep_macs: self.vtep_macs.by_network(model),
            uplink: compile::Uplink {
                port,
                mac: MacAddr(uplink.mac),
                mtu: uplink.mtu,
                addresses: uplink.addresses.iter().map(|net| net.addr()).collect(),
                vxlan_port: self.vxlan_port(model),
                tunnel_gso: socket,
                kernel_resolves: socket,
                plain: self.uplink.as_ref().is_some_and(uplink::UplinkPort::is_plain),
            },
            host: self.host.as_ref().map(|host| (host.port, host.mac)),
            ports: self.pods.iter().map(|(name, open)| (name.clone(), open.port)).collect(),
            bandwidth: self.limited_by_kube.clone(),
            ways: Arc::clone(&self.ways.by_peer),
            direct: self.direct.subnets().clone(),
            source_ports: weft_node::local_port_range()
                .map_or_else(|_| SourcePorts::default(), |(low, high)| SourcePorts::new(low, high)),
            // Sockets have the kernel fill it in.
            outer_checksum: !socket && self.config.uplink.outer_checksum == OuterChecksum::Valid,
            accept_unknown: !self.config.uplink.known_vteps_only,
            learned: self.learned.neighbours(),
            path_mtus: self.learned.path_mtus(),
            limits: limits(&self.config),
            ageing: self.config.bridge.ageing_s,
            learn_limit: self.config.bridge.learn_limit,
        };
        let (mut own, mut prefixes) = (Vec::new(), Vec::new());
        self.dataplane.publish(|generation| {
            let tables = compile(model, &facts, generation);
            own.extend(tables.local_vteps.iter().map(|vtep| vtep.address));
            prefixes = uplink::plain_prefixes(&tables);
            tables
        });
        self.steer(&own, prefixes);
        for (worker, id, queue) in self.fresh.drain(..) {
            self.dataplane.attach_rx(worker, id, queue);
        }
    }

    /// Has the mirror follow the ways to the peers.
    async fn look_up_ways(&mut self, model: &Model) {
        let peers = peer_addresses(model, &self.node);
        let of = (self.mirror.follow(&peers).await, peers);
        if of == self.ways.of {
            return;
        }
        let (mut by_peer, mut problems) = (PeerWays::with_capacity(of.1.len()), Vec::new());
        self.mirror.each_path(|peer, path| match path {
            Ok(path) => {
                let way = Way {
                    source: path.source,
                    next_hop: path.next_hop,
                    next_hop_mac: path.next_hop_mac.map(MacAddr),
                    mtu: path.mtu,
                };
                by_peer.insert(peer, way);
            }
            Err(error) => problems.push(format!("peer {peer}: {error}")),
        });
        self.ways = Ways { of, by_peer: Arc::new(by_peer), problems };
    }

    /// Writes down what a later weftd, or `weft node purge`, must know.
    fn save(&mut self) {
        let is_saved = self.saved.as_ref().is_some_and(|saved| {
            saved.unfit == self.unfit.len()
                && saved.vtep_macs == self.vtep_macs
                && saved.devices == self.devices
                && saved.added == self.added
                && saved.cni == self.cni
        });
        if is_saved {
            return;
        }
        let unfit = self.unfit.iter().map(|(stored, _)| stored.clone());
        let added = self.added.values().map(|pod| attachments::store(pod, self.cni.get(&pod.name)));
        let devices = self.devices.iter().cloned();
        let state = State {
            vtep_mac: Some(self.vtep_macs.first()),
            vtep_macs: self.vtep_macs.further(),
            pods: added.chain(unfit).collect(),
            devices: devices.map(|(netns, name)| StoredDevice { netns, name }).collect(),
        };
        match state.save(&self.config.state.dir) {
            Ok(()) => {
                self.saved = Some(Saved {
                    vtep_macs: self.vtep_macs.clone(),
                    added: self.added.clone(),
                    cni: self.cni.clone(),
                    unfit: self.unfit.len(),
                    devices: self.devices.clone(),
                });
            }
            Err(error) => self.problems.push(format!("state: {error}")),
        }
    }
}

/// What the configuration limits, as the switch has it.
fn limits(config: &Config) -> Limits {
    let rate = |per_second: u32, share: u32| Limit { per_second, burst: (per_second / share).max(1) };
    Limits {
        flood: rate(config.bridge.flood_rate, 10),
        icmp: rate(config.router.icmp_rate, 20),
        moves: rate(config.bridge.move_rate, 1),
        ..Limits::default()
    }
}

/// An MTU as the switch's types hold it.
fn device_mtu(bytes: u32) -> Mtu {
    Mtu::new(bytes.min(65535)).unwrap_or(Mtu::SMALLEST)
}
