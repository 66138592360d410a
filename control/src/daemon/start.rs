//! Starting: everything that can be wrong is found before anything is made. The order is that of what is cheapest to check.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;
use weft_ffi::kernel::udp_claim::{ClaimError, UdpClaim};
use weft_flannel::store::StoreError;
use weft_node::{Deleted, Lock, Mirror, Neighbours, State};

use super::direct::Direct;
use super::flows::Watches;
use super::learned::Learned;
use super::origin::{Beginning, Follow, Here, Origin, StoreOrigin, interface};
use super::remembered::Memory;
use super::settings::{SetLogLevel, Settings};
use super::spread::Spread;
use super::uplink::needs_claim;
use super::vteps::Macs;
use super::{Client, Daemon, Inputs, SourceState, Ways, attachments, descriptors, rights};
use crate::api::{BindError, SocketFile, bind};
use crate::config::{Config, Flannel, SourceKind, UplinkKind};
use crate::dataplane::{self, Closing, Dataplane, file_prefix};
use crate::metrics::{self, Served};
use crate::reload::{ConfigFile, Reload};
use crate::rules::{Keeping, Wanted};
use crate::source::flannel::{self, Leaves};
use crate::source::{Source, SourceError};
use crate::supervisor::Supervisor;

/// The control socket: its owner and the configured group may use it.
const SOCKET_MODE: u32 = 0o660;

/// Why the node is not ready while weftd only takes its time.
const STARTING: &str = "weftd is starting";

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

/// Starts everything. On return traffic flows.
pub async fn start(setup: Setup) -> Result<Started, StartError> {
    let Setup { config, file, reload, set_log_level, supervisor } = setup;
    let started = (Instant::now(), SystemTime::now());
    // A file is read before anything else: its mistakes are the most usual ones.
    let from_file = match config.source.kind {
        SourceKind::File => Some(Beginning::file(&config).await?),
        SourceKind::Etcd | SourceKind::Kubernetes => None,
    };
    for line in file.flags.without_effect(|name| std::env::var_os(name)) {
        warn!("{line}");
    }
    let missing = rights::missing();
    if !missing.is_empty() {
        return Err(StartError::Rights(missing));
    }
    let lock = Lock::take(&config.state.dir)?;
    // Who looks after weftd is to know that it lives, however long the store is away.
    let (starting, at) = watch::channel(Some(match config.source.kind {
        SourceKind::File => STARTING.to_owned(),
        store => format!("waiting for {}: it has given this node no lease yet", store.as_str()),
    }));
    let (client, requests) = Client::new(at);
    let (health_told, health_problem) = watch::channel(None);
    let (_, healthz) = watch::channel(config.flannel.healthz);
    tokio::spawn(metrics::serve(Served::Health, healthz, client.clone(), health_told));
    let (state, warning) = State::load(&config.state.dir)?;
    if let Some(warning) = warning {
        warn!("{warning}");
    }
    let mut vtep_macs = Macs::restore(&state);
    let beginning = match from_file {
        Some(beginning) => beginning,
        None => Beginning::store(&config, &file.flags, vtep_macs.first).await?,
    };
    descriptors::raise(beginning.pods() + state.pods.len(), config.dataplane.workers);
    let (node, advice, kube_pods) = (beginning.node().to_owned(), beginning.advice(), beginning.kube_pods());
    // What peers know this node by is kept, also if it was flanneld that said it.
    vtep_macs.first = advice.vtep_mac.unwrap_or(vtep_macs.first);
    let kind = config.uplink.kind;
    let neighbours = if kind == UplinkKind::Socket { Neighbours::Leave } else { Neighbours::Keep };
    let (interface, address) = interface(&config, &file.flags, &advice).await?;
    let (mirror, underlay) = Mirror::start(interface.as_deref(), neighbours).await?;
    let here = Here {
        config: &config,
        flags: &file.flags,
        mirror: &mirror,
        chosen: address,
        vtep_mac: vtep_macs.first,
    };
    let Origin { model, follow, vtep_mac, claim } = beginning.meet(here).await?;
    vtep_macs.first = vtep_mac;
    starting.send_replace(Some(STARTING.to_owned()));
    // Who finds the socket is answered soon: until there is a lease, nobody would be.
    let (listener, socket) = bind(&config.control.socket, SOCKET_MODE, config.control.group.as_deref())?;
    let claim = match claim.filter(|claim| claim.port() == model.port) {
        None if needs_claim(kind) && model.encapsulation.is_vxlan() => Some(UdpClaim::bind(model.port)?),
        claim => claim,
    };
    let settings = config.dataplane.clone();
    let prefix = file_prefix(&config.state.dir);
    let subnets = model.node(&node).map(|own| own.subnets.clone()).unwrap_or_default();
    // DPDK takes its time, and so may its failure.
    let dataplane = tokio::task::spawn_blocking(move || Dataplane::start(&settings, &prefix, subnets)).await;
    let dataplane = dataplane.map_err(|e| StartError::Port(format!("starting DPDK broke off: {e}")))??;

    let (updates, incoming) = mpsc::channel(1);
    let (ready, forwards) = oneshot::channel();
    let (store, told, published) = match follow {
        Follow::File(path) => {
            tokio::spawn(Source::File { path }.run(node.clone(), updates, reload.cluster));
            (None, None, Vec::new())
        }
        Follow::Store(origin) => {
            let StoreOrigin { joined, status, translation, leaves, published } = *origin;
            tokio::spawn(flannel::follow(joined, translation, forwards, updates));
            let subnets = leaves.borrow().env.subnets;
            (Some((status, subnets)), Some(leaves), published)
        }
    };
    let (said, settings) = mpsc::channel(1);
    tokio::spawn(file.clone().follow(said, reload.config));
    let (own_settings, listen) = Settings::new(&config, file, set_log_level);
    let (problem, metrics_problem) = watch::channel(None);
    tokio::spawn(metrics::serve(Served::Metrics, listen, client.clone(), problem));
    let (problem, rules_problem) = watch::channel(None);
    let own = config.flannel.clone();
    let remembers = told.as_ref().map(|leaves| Memory::new(config.source.kind, advice, leaves.clone()));
    let mut daemon = Daemon {
        added: BTreeMap::new(),
        cni: BTreeMap::new(),
        kube_pods: kube_pods.clone(),
        limited_by_kube: HashMap::new(),
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
        published,
        remembers,
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
    if let Some(leaves) = told {
        leave(leaves, own, daemon.config.state.dir.clone(), problem).await;
    }
    starting.send_replace(None);
    Ok(Started {
        daemon,
        inputs: Inputs { updates: incoming, settings, underlay, requests, kube_pods },
        client,
        listener,
        socket,
    })
}

/// Leaves on the node what flannel does, and keeps it so; once more where a store that was away says something else.
async fn leave(
    mut leaves: watch::Receiver<Leaves>,
    settings: Flannel,
    state_dir: PathBuf,
    problem: watch::Sender<Option<String>>,
) {
    let now = leaves.borrow_and_update().clone();
    let wanted = Wanted {
        rules: flannel::rules(&now, &settings),
        blackhole: settings.blackhole_route,
        every: Duration::from_secs(settings.resync_s.into()),
        state_dir,
    };
    let mut keeping = Keeping::new(wanted, problem);
    keeping.look().await;
    // The last step: CNI plugins take it for the word that pods may come.
    write_env(&now, &settings);
    tokio::spawn(async move {
        loop {
            let changed = tokio::select! {
                changed = leaves.changed() => changed,
                () = keeping.run() => return,
            };
            if changed.is_err() {
                return keeping.run().await;
            }
            let now = leaves.borrow_and_update().clone();
            keeping.want(flannel::rules(&now, &settings));
            keeping.look().await;
            write_env(&now, &settings);
        }
    });
}

fn write_env(leaves: &Leaves, settings: &Flannel) {
    if let Err(error) = leaves.env.write(&settings.subnet_file) {
        warn!(
            "cannot write {}: {error}; CNI plugins wait for it: mend that and restart weftd",
            settings.subnet_file.display()
        );
    }
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
            self.close_ports(&[Closing { id: host.port.id, delete: host.created }]).await;
        }
        self.fresh.clear();
        self.dataplane.stop();
        StartError::Port(problems)
    }
}
