//! Where the desired state comes from, and what is found there first: a file, or one of flannel's stores with a lease. A store
//! that does not answer is not waited for where it is known what it said last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::{info, warn};
use weft_flannel::etcd::{Etcd, Settings as EtcdSettings, Timing, Tls};
use weft_flannel::flags::Flags;
use weft_flannel::kube::{Access, Advice, Kube, Options as KubeOptions, Patience, Pods, ThisNode};
use weft_flannel::store::{Cluster, Own as FlannelOwn, Status, Store, StoreError};
use weft_flannel::subnet_env::SubnetEnv;
use weft_node::{Choice, Mirror, choose_uplink};
use weft_switch::types::MacAddr;

use super::StartError;
use super::bandwidth::{KubePods, no_pods};
use super::remembered::{PATIENCE, Remembered};
use crate::cluster;
use crate::config::{Config, SourceKind};
use crate::model::Model;
use crate::source::SourceError;
use crate::source::flannel::{self, Joined, Own, Translation};

/// What is known before the kernel's side of the node is looked at.
pub(super) enum Beginning {
    /// A file says everything.
    File(Box<Model>, String),
    /// One of flannel's stores.
    Store(Box<Meeting>),
}

/// A store that is about to give a lease.
pub(super) struct Meeting {
    opening: Opening,
    status: watch::Receiver<Status>,
    kube_pods: KubePods,
    /// This node's name in the cluster.
    node: String,
    advice: Advice,
    remembered: Option<Remembered>,
}

/// A store that is open, or still to be.
enum Opening {
    Open(Box<Store>),
    Later(JoinHandle<Result<Opened, StoreError>>),
}

/// What is found before the lease: the store, this node's name, and what was said of it before.
struct Opened {
    store: Store,
    node: String,
    advice: Advice,
}

/// What the source said first.
pub(super) struct Origin {
    pub(super) model: Model,
    pub(super) follow: Follow,
}

/// How it goes on.
pub(super) enum Follow {
    File(PathBuf),
    Store(Box<StoreOrigin>),
}

/// A store of flannel's, with the lease that this node has there, or had when it was reached last.
pub(super) struct StoreOrigin {
    pub(super) joined: Joined,
    pub(super) status: watch::Receiver<Status>,
    pub(super) translation: Translation,
    pub(super) env: SubnetEnv,
    /// The node's rules are to be made by nftables.
    pub(super) nftables: bool,
}

impl Beginning {
    /// Reads the file.
    pub(super) async fn file(config: &Config) -> Result<Self, StartError> {
        let node = config.node_name().map_err(StartError::Name)?;
        let path = config.source.path.clone();
        let (shown, local) = (path.display().to_string(), node.clone());
        let loaded = tokio::task::spawn_blocking(move || cluster::load(&path, &local)).await;
        let model = loaded.map_err(|_| SourceError::Interrupted(shown))?;
        Ok(Self::File(Box::new(model.map_err(SourceError::from)?), node))
    }

    /// Opens the store.
    pub(super) async fn store(config: &Config, flags: &Flags, vtep_mac: MacAddr) -> Result<Self, StartError> {
        let kind = config.source.kind.as_str();
        let remembered = Remembered::load(&config.state.dir, config.source.kind);
        let (said, status) = watch::channel(Status::new(kind));
        let (told, kube_pods) = watch::channel(Arc::default());
        let mut opening = tokio::spawn(open(config.clone(), flags.clone(), said, told));
        let meeting = match (patient(&mut opening, remembered.is_some()).await?, remembered) {
            (Some(Opened { store, node, advice }), remembered) => {
                let opening = Opening::Open(Box::new(store));
                Meeting { opening, status, kube_pods, node, advice, remembered }
            }
            (None, remembered) => {
                let known = remembered.as_ref();
                let node = known.map(|known| known.node.clone()).unwrap_or_default();
                let advice = known.map(|known| known.advice(vtep_mac)).unwrap_or_default();
                Meeting { opening: Opening::Later(opening), status, kube_pods, node, advice, remembered }
            }
        };
        Ok(Self::Store(Box::new(meeting)))
    }

    /// This node's name: Kubernetes knows it by one of its own.
    pub(super) fn node(&self) -> &str {
        match self {
            Self::File(_, node) => node,
            Self::Store(meeting) => &meeting.node,
        }
    }

    /// What was said of this node before, whoever said it.
    pub(super) fn advice(&self) -> Advice {
        match self {
            Self::File(..) => Advice::default(),
            Self::Store(meeting) => meeting.advice.clone(),
        }
    }

    /// What Kubernetes knows of this node's pods, from when on it is asked.
    pub(super) fn kube_pods(&self) -> KubePods {
        match self {
            Self::File(..) => no_pods(),
            Self::Store(meeting) => meeting.kube_pods.clone(),
        }
    }

    /// How many pods the source names for this node.
    pub(super) fn pods(&self) -> usize {
        match self {
            Self::File(model, node) => model.pods_of(node).count(),
            Self::Store(_) => 0,
        }
    }

    /// What the source says first; a store gives a lease with it.
    pub(super) async fn meet(
        self,
        config: &Config,
        mirror: &Mirror,
        chosen: Option<IpAddr>,
        vtep_mac: MacAddr,
    ) -> Result<Origin, StartError> {
        match self {
            Self::File(model, _) => {
                Ok(Origin { model: *model, follow: Follow::File(config.source.path.clone()) })
            }
            Self::Store(meeting) => meeting.meet(config, mirror, chosen, vtep_mac).await,
        }
    }
}

impl Meeting {
    async fn meet(
        self,
        config: &Config,
        mirror: &Mirror,
        chosen: Option<IpAddr>,
        vtep_mac: MacAddr,
    ) -> Result<Origin, StartError> {
        let Self { opening, status, node, advice, remembered, .. } = self;
        let uplink = mirror.uplink();
        let v4 = chosen.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let v6 = chosen.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        let (ipv4, ipv6) = (v4.or(uplink.ipv4()), v6.or(uplink.ipv6()));
        let subnet_file = &config.flannel.subnet_file;
        let previous = SubnetEnv::read(subnet_file).unwrap_or_else(|error| {
            warn!("cannot read {}: {error}; the subnet of before is not known", subnet_file.display());
            None
        });
        let (public_ip, public_ipv6) = public_addresses(config, &advice);
        let own = FlannelOwn {
            public_ip: public_ip.or(ipv4),
            public_ipv6: public_ipv6.or(ipv6),
            vtep_mac: Some(vtep_mac),
            vtep_mac_v6: Some(vtep_mac),
            previous: previous.map(|env| env.subnets),
        };
        let remembered = remembered.filter(|known| known.was_told_to(ipv4, ipv6, vtep_mac));
        let translation = Translation::new(Own { name: node, ipv4, ipv6, vtep_mac, mtu: uplink.mtu });
        let mut joining = tokio::spawn(join(opening, own));
        match (patient(&mut joining, remembered.is_some()).await?, remembered) {
            (None, Some(known)) => {
                let reason = status.borrow().lost.clone().unwrap_or_else(|| "it does not answer".to_owned());
                warn!("{}: {reason}; weftd starts with what it said last", config.source.kind.as_str());
                let env = known.subnet_env();
                let translation = translation.keeping(env.subnets);
                let (joined, nftables) = (Joined::Later(joining), known.nftables);
                let origin = StoreOrigin { joined, status, translation, env, nftables };
                Ok(Origin { model: known.model, follow: Follow::Store(Box::new(origin)) })
            }
            (Some((store, cluster)), _) => {
                let mut translation = translation;
                let model = translation.model(&cluster)?;
                let env = flannel::subnet_env(&cluster, uplink.mtu, config.flannel.ip_masq);
                let (joined, nftables) = (Joined::Now(Box::new(store)), cluster.config.nftables);
                let origin = StoreOrigin { joined, status, translation, env, nftables };
                Ok(Origin { model, follow: Follow::Store(Box::new(origin)) })
            }
            (None, None) => Err(interrupted().into()),
        }
    }
}

/// What a task comes to: it is waited for, but not for long if there is something to go on with.
async fn patient<T>(
    task: &mut JoinHandle<Result<T, StoreError>>,
    can_go_on: bool,
) -> Result<Option<T>, StoreError> {
    let done: Result<Result<T, StoreError>, JoinError> = match can_go_on {
        true => match timeout(PATIENCE, task).await {
            Ok(done) => done,
            Err(_) => return Ok(None),
        },
        false => task.await,
    };
    done.unwrap_or_else(|_| Err(interrupted())).map(Some)
}

fn interrupted() -> StoreError {
    StoreError::Settings("asking the store came to no end; report this".to_owned())
}

/// Opens the store, however long it takes.
async fn open(
    config: Config,
    flags: Flags,
    said: watch::Sender<Status>,
    pods: watch::Sender<Arc<Pods>>,
) -> Result<Opened, StoreError> {
    let opened = if config.source.kind == SourceKind::Kubernetes {
        let kube = Kube::connect(kube_options(&config)?).await?;
        tokio::spawn(pass_on(kube.status(), said));
        tokio::spawn(pass_on(kube.pods(), pods));
        let (node, advice) = (kube.node().to_owned(), kube.advice().await?);
        Opened { store: Store::Kube(Box::new(kube)), node, advice }
    } else {
        info!("taking a lease in etcd at {}", config.etcd.endpoints);
        let etcd = Etcd::new(etcd_settings(&config, &flags)?)?;
        tokio::spawn(pass_on(etcd.status(), said));
        let node =
            config.node_name().map_err(|error| StoreError::Settings(StartError::Name(error).to_string()))?;
        Opened { store: Store::Etcd(etcd), node, advice: Advice::default() }
    };
    Ok(opened)
}

/// Takes a lease.
async fn join(opening: Opening, own: FlannelOwn) -> Result<(Store, Cluster), StoreError> {
    let mut store = match opening {
        Opening::Open(store) => *store,
        Opening::Later(opening) => opening.await.unwrap_or_else(|_| Err(interrupted()))?.store,
    };
    let cluster = store.acquire(&own).await?;
    Ok((store, cluster))
}

/// Says what is said, until nobody says or hears any more.
async fn pass_on<T: Clone>(mut from: watch::Receiver<T>, to: watch::Sender<T>) {
    while !to.is_closed() {
        to.send_replace(from.borrow_and_update().clone());
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// The uplink's interface, and the address by which it was chosen: none leaves both to the default route.
pub(super) async fn interface(
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
