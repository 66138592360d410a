//! Starting: everything that can be wrong is found before anything is made. The order is that of what is cheapest to check.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use weft_ffi::kernel::udp_claim::{ClaimError, UdpClaim};
use weft_flannel::etcd::{Etcd, Settings as EtcdSettings, Timing, Tls};
use weft_flannel::flags::Flags;
use weft_flannel::kube::{Access, Advice, Kube, Options as KubeOptions, Patience, ThisNode};
use weft_flannel::store::{Own as FlannelOwn, Store, StoreError};
use weft_flannel::subnet_env::SubnetEnv;
use weft_node::{Choice, Deleted, Lock, Mirror, Neighbours, Rules, State, choose_uplink};

use super::direct::Direct;
use super::flows::Watches;
use super::learned::Learned;
use super::settings::{SetLogLevel, Settings};
use super::spread::Spread;
use super::uplink::needs_claim;
use super::vteps::Macs;
use super::{Client, Daemon, Inputs, SourceState, Ways, attachments, descriptors, rights};
use crate::api::{BindError, SocketFile, bind};
use crate::cluster;
use crate::config::{Config, SourceKind, UplinkKind};
use crate::dataplane::{self, Dataplane, file_prefix};
use crate::metrics::{self, Served};
use crate::model::Model;
use crate::reload::{ConfigFile, Reload};
use crate::rules::{Keeping, Wanted};
use crate::source::flannel::{self, Own, Translation};
use crate::source::{Source, SourceError};
use crate::supervisor::Supervisor;

/// The control socket: its owner and the configured group may use it.
const SOCKET_MODE: u32 = 0o660;

/// Why weftd could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// This node's name.
    #[error("cannot find this node's name: {0}; set node.name in the configuration")]
    Name(std::io::Error),
    /// The desired state.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// flannel's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Capabilities.
    #[error("weftd lacks {}: start it as root, or give it these capabilities", .0.join(", "))]
    Rights(Vec<&'static str>),
    /// The state directory or the kernel's side of the node.
    #[error(transparent)]
    Node(#[from] weft_node::Error),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The tunnel's UDP port.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// DPDK and the workers.
    #[error(transparent)]
    Dataplane(#[from] dataplane::StartError),
    /// What the daemon cannot be without.
    #[error("{0}")]
    Port(String),
}

/// A started daemon, with what serves its API.
pub struct Started {
    /// The daemon.
    pub daemon: Daemon,
    /// What it hears from.
    pub inputs: Inputs,
    /// The API's side of it.
    pub client: Client,
    /// The control socket.
    pub listener: UnixListener,
    /// Removes the control socket when it is dropped.
    pub socket: SocketFile,
}

/// What a daemon starts with.
pub struct Setup {
    /// The settings in force.
    pub config: Config,
    /// Where they come from.
    pub file: ConfigFile,
    /// Has both files read again.
    pub reload: Reload,
    /// Sets how much is logged.
    pub set_log_level: SetLogLevel,
    /// Who has started weftd, and is told how it is.
    pub supervisor: Supervisor,
}

/// Where the desired state comes from, with what it said first.
struct Origin {
    model: Model,
    follow: Follow,
}

/// How it goes on.
enum Follow {
    File(PathBuf),
    Store(Box<StoreOrigin>),
}

/// A store of flannel's, with the lease that this node has there.
struct StoreOrigin {
    store: Store,
    translation: Translation,
    env: SubnetEnv,
    rules: Rules,
}

/// Starts everything. On return traffic flows.
pub async fn start(setup: Setup) -> Result<Started, StartError> {
    let Setup { config, file, reload, set_log_level, supervisor } = setup;
    let started = (Instant::now(), SystemTime::now());
    let mut kube = None;
    let mut advice = Advice::default();
    if config.source.kind == SourceKind::Kubernetes {
        let connected = Kube::connect(kube_options(&config)?).await?;
        advice = connected.advice().await?;
        kube = Some(connected);
    }
    // Kubernetes knows this node by a name of its own, and peers by theirs.
    let node = match &kube {
        Some(kube) => kube.node().to_owned(),
        None => config.node_name().map_err(StartError::Name)?,
    };
    // A file is read before anything else: its mistakes are the most usual ones.
    let from_file = match config.source.kind {
        SourceKind::File => Some(load(config.source.path.clone(), node.clone()).await?),
        SourceKind::Etcd | SourceKind::Kubernetes => None,
    };
    for line in file.flags.without_effect() {
        warn!("--{line}");
    }
    let missing = rights::missing();
    if !missing.is_empty() {
        return Err(StartError::Rights(missing));
    }
    let lock = Lock::take(&config.state.dir)?;
    let (state, warning) = State::load(&config.state.dir)?;
    if let Some(warning) = warning {
        warn!("{warning}");
    }
    let pods = from_file.as_ref().map_or(0, |model| model.pods_of(&node).count()) + state.pods.len();
    descriptors::raise(pods, config.dataplane.workers);
    let kind = config.uplink.kind;
    let neighbours = if kind == UplinkKind::Socket { Neighbours::Leave } else { Neighbours::Keep };
    let (interface, address) = interface(&config, &file.flags, &advice).await?;
    let (mirror, underlay) = Mirror::start(interface.as_deref(), neighbours).await?;
    let mut vtep_macs = Macs::restore(&state);
    // What peers know this node by is kept, also if it was flanneld that said it.
    vtep_macs.first = advice.vtep_mac.unwrap_or(vtep_macs.first);
    let Origin { model, follow } = match from_file {
        Some(model) => Origin { model, follow: Follow::File(config.source.path.clone()) },
        None => {
            let store = match kube {
                Some(kube) => Store::Kube(Box::new(kube)),
                None => {
                    info!("taking a lease in etcd at {}", config.etcd.endpoints);
                    Store::Etcd(Etcd::new(etcd_settings(&config, &file.flags)?)?)
                }
            };
            meet(&config, store, &advice, &node, &mirror, address, &vtep_macs).await?
        }
    };
    // Who finds the socket is answered soon: until there is a lease, nobody would be.
    let (listener, socket) = bind(&config.control.socket, SOCKET_MODE, config.control.group.as_deref())?;
    let claim = needs_claim(kind).then(|| UdpClaim::bind(model.port)).transpose()?;
    let settings = config.dataplane.clone();
    let prefix = file_prefix(&config.state.dir);
    // DPDK takes its time, and so may its failure.
    let dataplane = tokio::task::spawn_blocking(move || Dataplane::start(&settings, &prefix)).await;
    let dataplane = dataplane.map_err(|e| StartError::Port(format!("starting DPDK broke off: {e}")))??;

    let (updates, incoming) = mpsc::channel(1);
    let (ready, forwards) = oneshot::channel();
    let (store, told) = match follow {
        Follow::File(path) => {
            tokio::spawn(Source::File { path }.run(node.clone(), updates, reload.cluster));
            (None, None)
        }
        Follow::Store(origin) => {
            let StoreOrigin { store, translation, env, rules } = *origin;
            let status = store.status();
            tokio::spawn(flannel::follow(store, translation, forwards, updates));
            (Some((status, env.subnets)), Some((env, rules)))
        }
    };
    let (said, settings) = mpsc::channel(1);
    tokio::spawn(file.clone().follow(said, reload.config));
    let (client, requests) = Client::new();
    let (own_settings, listen) = Settings::new(&config, file, set_log_level);
    let (problem, metrics_problem) = watch::channel(None);
    tokio::spawn(metrics::serve(Served::Metrics, listen, client.clone(), problem));
    let (problem, health_problem) = watch::channel(None);
    let (_, healthz) = watch::channel(config.flannel.healthz);
    tokio::spawn(metrics::serve(Served::Health, healthz, client.clone(), problem));
    let (problem, rules_problem) = watch::channel(None);
    let own = config.flannel.clone();
    let mut daemon = Daemon {
        added: BTreeMap::new(),
        cni: BTreeMap::new(),
        config,
        node,
        started,
        _lock: lock,
        claim,
        dataplane,
        mirror,
        vtep_macs,
        model: Arc::new(model),
        pending: None,
        unfit: Vec::new(),
        devices: state.devices.iter().map(|device| (device.netns.clone(), device.name.clone())).collect(),
        source: SourceState { loaded: Some(SystemTime::now()), error: None },
        store,
        pods: BTreeMap::new(),
        failed: BTreeMap::new(),
        uplink: None,
        host: None,
        problems: Vec::new(),
        ways: Ways::default(),
        direct: Direct::default(),
        learned: Learned::default(),
        fresh: Vec::new(),
        spread: Spread::new(),
        flows: Watches::default(),
        settings: own_settings,
        task_problems: [metrics_problem, health_problem, rules_problem],
        supervisor,
        saved: None,
    };
    // What the daemon cannot be without comes first: if it fails, no pod has been touched.
    let model = Arc::clone(&daemon.model);
    daemon.open_uplink_port(&model).await;
    if daemon.uplink.is_some() {
        daemon.open_host_port(&model).await;
    }
    if !daemon.problems.is_empty() {
        return Err(daemon.give_up().await);
    }
    daemon.restore(&state);
    daemon.reconcile().await;
    // Nobody waits for it where the source is a file.
    let _ = ready.send(());
    if let Some((env, rules)) = told {
        let wanted = Wanted {
            rules,
            blackhole: own.blackhole_route,
            every: Duration::from_secs(own.resync_s.into()),
            state_dir: daemon.config.state.dir.clone(),
        };
        let mut keeping = Keeping::new(wanted, problem);
        keeping.look().await;
        tokio::spawn(keeping.run());
        // The last step: CNI plugins take it for the word that pods may come.
        if let Err(error) = env.write(&own.subnet_file) {
            warn!(
                "cannot write {}: {error}; CNI plugins wait for it: mend that and restart weftd",
                own.subnet_file.display()
            );
        }
    }
    Ok(Started {
        daemon,
        inputs: Inputs { updates: incoming, settings, underlay, requests },
        client,
        listener,
        socket,
    })
}

/// The uplink's interface, and the address by which it was chosen: none leaves both to the default route.
async fn interface(
    config: &Config,
    flags: &Flags,
    advice: &Advice,
) -> Result<(Option<String>, Option<IpAddr>), StartError> {
    if config.uplink.interface.is_some() || config.source.kind == SourceKind::File {
        return Ok((config.uplink.interface.clone(), None));
    }
    let (v4, v6) = public_addresses(config, advice);
    let given = v4.map(IpAddr::V4).or(v6.map(IpAddr::V6));
    let choice = Choice {
        names: flags.iface.clone().unwrap_or_default(),
        patterns: flags.iface_regex.clone().unwrap_or_default(),
        can_reach: flags.iface_can_reach,
        address: given,
    };
    let (uplink, address) = choose_uplink(&choice).await?;
    Ok((Some(uplink.name), address))
}

/// What this node is to publish, where that is given: in its settings, or as its node's annotations.
fn public_addresses(config: &Config, advice: &Advice) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    (config.flannel.public_ip.or(advice.public_ip), config.flannel.public_ipv6.or(advice.public_ipv6))
}

fn kube_options(config: &Config) -> Result<KubeOptions, StoreError> {
    let kubernetes = &config.kubernetes;
    Ok(KubeOptions {
        access: Access { url: kubernetes.api_url.clone(), kubeconfig: kubernetes.kubeconfig.clone() },
        node: ThisNode::from_variables(|name| std::env::var(name).ok())?,
        annotation_prefix: kubernetes.annotation_prefix.clone(),
        net_conf: kubernetes.net_conf.clone(),
        set_network_unavailable: kubernetes.set_network_unavailable,
        patience: Patience::default(),
    })
}

/// Takes a lease.
async fn meet(
    config: &Config,
    mut store: Store,
    advice: &Advice,
    node: &str,
    mirror: &Mirror,
    chosen: Option<IpAddr>,
    vtep_macs: &Macs,
) -> Result<Origin, StartError> {
    let uplink = mirror.uplink();
    let v4 = chosen.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
    let v6 = chosen.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
    let (ipv4, ipv6) = (v4.or(uplink.ipv4()), v6.or(uplink.ipv6()));
    let subnet_file = &config.flannel.subnet_file;
    let previous = SubnetEnv::read(subnet_file).unwrap_or_else(|error| {
        warn!("cannot read {}: {error}; the subnet of before is not known", subnet_file.display());
        None
    });
    let vtep_mac = vtep_macs.first;
    let (public_ip, public_ipv6) = public_addresses(config, advice);
    let own = FlannelOwn {
        public_ip: public_ip.or(ipv4),
        public_ipv6: public_ipv6.or(ipv6),
        vtep_mac: Some(vtep_mac),
        vtep_mac_v6: Some(vtep_mac),
        previous: previous.map(|env| env.subnets),
    };
    let cluster = store.acquire(&own).await?;
    let own = Own { name: node.to_owned(), ipv4, ipv6, vtep_mac, mtu: uplink.mtu };
    let mut translation = Translation::new(own);
    let model = translation.model(&cluster)?;
    let env = flannel::subnet_env(&cluster, uplink.mtu, config.flannel.ip_masq);
    let rules = flannel::rules(&cluster, &config.flannel);
    Ok(Origin { model, follow: Follow::Store(Box::new(StoreOrigin { store, translation, env, rules })) })
}

fn etcd_settings(config: &Config, flags: &Flags) -> Result<EtcdSettings, StoreError> {
    let etcd = &config.etcd;
    let password = match (&flags.etcd_password, &etcd.password_file) {
        (Some(password), _) => password.clone(),
        (None, Some(path)) => read_password(path)?,
        (None, None) => String::new(),
    };
    Ok(EtcdSettings {
        endpoints: etcd.endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect(),
        prefix: etcd.prefix.clone(),
        tls: Tls {
            ca: etcd.ca_file.clone(),
            certificate: etcd.cert_file.clone(),
            key: etcd.key_file.clone(),
        },
        user: etcd.username.clone().map(|name| (name, password)),
        timing: Timing {
            margin: Duration::from_secs(60 * u64::from(etcd.renew_margin_min)),
            ..Timing::default()
        },
    })
}

fn read_password(path: &Path) -> Result<String, StoreError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| StoreError::Settings(format!("cannot read {} for etcd: {error}", path.display())))?;
    Ok(text.trim_end().to_owned())
}

async fn load(path: PathBuf, node: String) -> Result<Model, StartError> {
    let shown = path.display().to_string();
    let loaded = tokio::task::spawn_blocking(move || cluster::load(&path, &node)).await;
    let model = loaded.map_err(|_| SourceError::Interrupted(shown))?;
    Ok(model.map_err(SourceError::from)?)
}

impl Daemon {
    /// Takes the pods that were added before the restart back in, those that still go with the source's model. The others
    /// are kept as they are, and those that were deleted meanwhile are not.
    fn restore(&mut self, state: &State) {
        let deleted = self.deleted_meanwhile();
        for stored in state.pods.iter().filter(|stored| !deleted.contains(&stored.name)) {
            let restored = attachments::restore(stored, &self.node);
            if let Err(error) = restored.and_then(|(pod, cni)| self.take_pod(pod, cni)) {
                let why = format!("pod {} was added before and does not fit any more: {error}", stored.name);
                warn!("{why}");
                self.unfit.push((stored.clone(), why));
            }
        }
        if !deleted.is_empty() {
            self.save();
            self.heeded(&deleted);
        }
    }

    /// The pods that were deleted while no weftd was there to be told.
    fn deleted_meanwhile(&self) -> Vec<String> {
        Deleted::of(&self.config.state.dir).names().unwrap_or_else(|error| {
            warn!("pods that were deleted while weftd was away stay until they are deleted again: {error}");
            Vec::new()
        })
    }

    /// What they ask for is in the state: the notes may go.
    fn heeded(&self, names: &[String]) {
        let deleted = Deleted::of(&self.config.state.dir);
        let removed = deleted.lock().and_then(|notes| names.iter().try_for_each(|name| notes.remove(name)));
        if let Err(error) = removed {
            warn!("{error}");
        }
    }

    /// Takes back what was made so far.
    async fn give_up(mut self) -> StartError {
        let problems = self.problems.join("; ");
        if let Some(host) = self.host.take() {
            self.publish(&Arc::clone(&self.model));
            self.close_port(host.port.id, host.created).await;
        }
        self.fresh.clear();
        self.dataplane.stop();
        StartError::Port(problems)
    }
}
