//! Where the desired state comes from, and what is found there first: a file, or one of flannel's stores with a lease. A store
//! that does not answer is not waited for where it is known what it said last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::{info, warn};
use weft_ffi::kernel::udp_claim::UdpClaim;
use weft_flannel::etcd::{Etcd, Settings as EtcdSettings, Timing, Tls};
use weft_flannel::flags::Flags;
use weft_flannel::kube::{Access, Advice, Kube, Options as KubeOptions, Patience, Pods, ThisNode};
use weft_flannel::net_conf::NetConf;
use weft_flannel::store::{Can, Cluster, Own as FlannelOwn, Status, Store, StoreError};
use weft_flannel::subnet_env::SubnetEnv;
use weft_node::{Choice, Mirror, Uplink, choose_uplink};
use weft_switch::types::MacAddr;

use super::StartError;
use super::bandwidth::{KubePods, no_pods};
use super::remembered::Remembered;
use super::uplink::claim_first;
use crate::cluster;
use crate::config::{Config, SourceKind};
use crate::model::{DirectRouting, Model};
use crate::source::SourceError;
use crate::source::flannel::{Joined, Leaves, Own, Translation, carriage};

/// How long a store that can't be reached is waited for where something is remembered, and one that only says nothing.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGER_PATIENCE: Duration = Duration::from_secs(4);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// After how long a store that refuses is asked again.
const AGAIN: Duration = Duration::from_secs(5);

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
    told: Arc<Told>,
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
    /// It said that something is wrong, which an operator may mend meanwhile.
    Refused(StoreError),
}

/// What is heard of whichever store it is.
struct Told {
    status: watch::Sender<Status>,
    pods: watch::Sender<Arc<Pods>>,
}

/// What is found before the lease: the store, this node's name, and what was said of it before.
struct Opened {
    store: Store,
    node: String,
    advice: Advice,
}

/// This node, as it meets its store.
pub(super) struct Here<'a> {
    pub(super) config: &'a Config,
    pub(super) flags: &'a Flags,
    pub(super) mirror: &'a Mirror,
    /// The address by which the uplink was chosen.
    pub(super) chosen: Option<IpAddr>,
    pub(super) vtep_mac: MacAddr,
}

/// What the source said first.
pub(super) struct Origin {
    pub(super) model: Model,
    pub(super) follow: Follow,
    /// What peers know this node's VTEP by.
    pub(super) vtep_mac: MacAddr,
    /// On the tunnel's port, or on the one that is remembered; a store that names another by now was told nothing before that one was found free.
    pub(super) claim: Option<UdpClaim>,
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
    pub(super) leaves: watch::Receiver<Leaves>,
    /// The addresses that the other nodes are told of this one.
    pub(super) published: Vec<IpAddr>,
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
        let (pods, kube_pods) = watch::channel(Arc::default());
        let told = Arc::new(Told { status: said, pods });
        let mut opening = tokio::spawn(open(config.clone(), flags.clone(), Arc::clone(&told)));
        let opened = match &remembered {
            None => Some(ended((&mut opening).await)),
            Some(_) => patience(&mut opening, &mut status.clone()).await,
        };
        let (opening, known) = match (opened, &remembered) {
            (Some(Ok(Opened { store, node, advice })), _) => {
                (Opening::Open(Box::new(store)), Some((node, advice)))
            }
            (Some(Err(error)), None) => return Err(error.into()),
            (Some(Err(error)), Some(_)) => (Opening::Refused(error), None),
            (None, _) => (Opening::Later(opening), None),
        };
        let of_before = || remembered.as_ref().map(|before| (before.node.clone(), before.advice(vtep_mac)));
        let (node, advice) = known.or_else(of_before).unwrap_or_default();
        Ok(Self::Store(Box::new(Meeting { opening, told, status, kube_pods, node, advice, remembered })))
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
    pub(super) async fn meet(self, here: Here<'_>) -> Result<Origin, StartError> {
        match self {
            Self::File(model, _) => {
                let follow = Follow::File(here.config.source.path.clone());
                Ok(Origin { model: *model, follow, vtep_mac: here.vtep_mac, claim: None })
            }
            Self::Store(meeting) => meeting.meet(here).await,
        }
    }
}

impl Meeting {
    async fn meet(self, here: Here<'_>) -> Result<Origin, StartError> {
        let Here { config, flags, mirror, chosen, vtep_mac } = here;
        let Self { opening, told, status, node, advice, remembered, .. } = self;
        let uplink = mirror.uplink();
        let v4 = chosen.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let v6 = chosen.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        let (ipv4, ipv6) = (v4.or(uplink.ipv4()), v6.or(uplink.ipv6()));
        let subnet_file = &config.flannel.subnet_file;
        let previous = SubnetEnv::read(subnet_file).unwrap_or_else(|error| {
            warn!("cannot read {}: {error}; the subnet of before is not known", subnet_file.display());
            None
        });
        // A flanneld that ran since then had the last word.
        let previous = previous.map(|env| env.subnets);
        let as_before =
            |before: &Remembered| previous.is_none_or(|subnets| subnets == before.leaves().env.subnets);
        let remembered =
            remembered.filter(|before| as_before(before) && before.was_told_to(ipv4, ipv6, vtep_mac));
        let (public_ip, public_ipv6) = public_addresses(config, &advice);
        let own = FlannelOwn {
            public_ip: public_ip.or(ipv4),
            public_ipv6: public_ipv6.or(ipv6),
            vtep_mac: Some(vtep_mac),
            vtep_mac_v6: Some(vtep_mac),
            // Another than the remembered one was written by a flanneld that ran since then.
            inherits: true,
            previous: previous.or(remembered.as_ref().map(|before| before.leaves().env.subnets)),
        };
        let published = [
            advice.public_ip_overwrite.or(own.public_ip).map(IpAddr::V4),
            advice.public_ipv6_overwrite.or(own.public_ipv6).map(IpAddr::V6),
        ];
        let published: Vec<IpAddr> = published.into_iter().flatten().collect();
        let again = Again { config: config.clone(), flags: flags.clone(), told };
        // Whoever has the tunnel's port is known to the peers, and stays so.
        let mut claim = None;
        let mut can_claim = |config: &NetConf| {
            if claim.as_ref().is_none_or(|claim: &UdpClaim| claim.port() != carriage(config).1) {
                claim = claim_for(config)?;
            }
            Ok(())
        };
        // What is remembered is of no use where its port is another's; the store may name another port by now.
        let remembered = remembered.and_then(|before| {
            let held = claim_first(before.model.encapsulation, before.model.port).ok()?;
            Some((before, held))
        });
        let (joined, before) = match remembered {
            None => (Some(join(opening, &own, &mut can_claim).await?), None),
            Some((before, held)) => {
                let held_port = held.as_ref().map(UdpClaim::port);
                claim = held;
                // The one that weft has is not in its own way.
                let can_claim = move |config: &NetConf| match held_port == Some(carriage(config).1) {
                    true => Ok(()),
                    false => claim_for(config).map(drop),
                };
                let mut joining = tokio::spawn(again.join(opening, own.clone(), can_claim));
                match patience(&mut joining, &mut status.clone()).await {
                    Some(joined) => (Some(joined?), None),
                    // Packets go by the remembered address and port from now on.
                    None => (None, Some((tokio::spawn(as_remembered(joining, own)), before))),
                }
            }
        };
        let inherited = joined.as_ref().and_then(|(store, _)| store.inherited_mac());
        let vtep_mac = inherited.unwrap_or(vtep_mac);
        let mut translation = Translation::new(Own { name: node, ipv4, ipv6, vtep_mac, mtu: uplink.mtu });
        let origin = |model, joined, translation, leaves| {
            for problem in not_the_uplinks(&published, &model, &uplink) {
                warn!("{problem}");
            }
            let status = status.clone();
            let origin = StoreOrigin { joined, status, translation, leaves, published };
            Origin { model, follow: Follow::Store(Box::new(origin)), vtep_mac, claim }
        };
        let ip_masq = config.flannel.ip_masq;
        match (joined, before) {
            (Some((store, cluster)), _) => {
                let model = translation.model(&cluster)?;
                let (_, leaves) = watch::channel(translation.leaves(&cluster, ip_masq));
                Ok(origin(model, Joined::Now(Box::new(store)), translation, leaves))
            }
            (None, Some((joining, before))) => {
                let reason = status.borrow().lost.clone().unwrap_or_default();
                warn!("{}: {reason}; weftd starts with what it said last", config.source.kind.as_str());
                let leaves = before.leaves();
                let translation = translation.keeping(leaves.env.subnets);
                let (told, leaves) = watch::channel(leaves);
                let joined = Joined::Later { joining, told, ip_masq };
                Ok(origin(before.model, joined, translation, leaves))
            }
            (None, None) => Err(interrupted().into()),
        }
    }
}

/// Waits for what a task comes to where there is something to go on with: not for long, and not at all for an operator. A store that
/// only takes its time is waited for a little longer.
async fn patience<T>(
    task: &mut JoinHandle<Result<T, StoreError>>,
    status: &mut watch::Receiver<Status>,
) -> Option<Result<T, StoreError>> {
    let first = Status::new("").lost;
    let begin = Instant::now();
    loop {
        if let Ok(done) = timeout(LOOK, &mut *task).await {
            return Some(ended(done));
        }
        let failed = status.borrow_and_update().lost != first;
        if begin.elapsed() >= if failed { PATIENCE } else { LONGER_PATIENCE } {
            return None;
        }
    }
}

/// What joining comes to, for a node that keeps its MAC address whatever its lease had before.
async fn as_remembered(
    joining: JoinHandle<Result<(Store, Cluster), StoreError>>,
    own: FlannelOwn,
) -> Result<(Store, Cluster), StoreError> {
    let (mut store, cluster) = ended(joining.await)?;
    if store.inherited_mac().is_none_or(|mac| own.vtep_mac == Some(mac)) {
        return Ok((store, cluster));
    }
    let cluster = match store.acquire(&FlannelOwn { inherits: false, ..own }).await {
        Ok(cluster) => cluster,
        Err(error) => {
            warn!(
                "{error}; the other nodes send to a MAC address that this one does not have: restart weftd"
            );
            cluster
        }
    };
    Ok((store, cluster))
}

fn ended<T>(task: Result<Result<T, StoreError>, JoinError>) -> Result<T, StoreError> {
    task.unwrap_or_else(|_| Err(interrupted()))
}

/// What opens a store once more.
struct Again {
    config: Config,
    flags: Flags,
    told: Arc<Told>,
}

impl Again {
    /// Takes a lease, however long it takes an operator to mend what the store refuses.
    async fn join(
        self,
        opening: Opening,
        own: FlannelOwn,
        mut can_claim: impl FnMut(&NetConf) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(Store, Cluster), StoreError> {
        let mut joined = join(opening, &own, &mut can_claim).await;
        loop {
            let error = match joined {
                Ok(joined) => return Ok(joined),
                Err(error) => error,
            };
            warn!("{error}; it is tried again");
            self.told.status.send_modify(|status| *status = status.lost(error.to_string()));
            tokio::time::sleep(AGAIN).await;
            let opened = open(self.config.clone(), self.flags.clone(), Arc::clone(&self.told)).await;
            joined = match opened {
                Ok(opened) => join(Opening::Open(Box::new(opened.store)), &own, &mut can_claim).await,
                Err(error) => Err(error),
            };
        }
    }
}

/// Claims the port that the network's configuration names.
fn claim_for(config: &NetConf) -> Result<Option<UdpClaim>, StoreError> {
    let (encapsulation, port) = carriage(config);
    claim_first(encapsulation, port).map_err(|error| StoreError::Settings(error.to_string()))
}

fn interrupted() -> StoreError {
    StoreError::Settings("asking the store came to no end; report this".to_owned())
}

/// Opens the store, however long it takes.
async fn open(config: Config, flags: Flags, told: Arc<Told>) -> Result<Opened, StoreError> {
    let opened = if config.source.kind == SourceKind::Kubernetes {
        let kube = Kube::connect(kube_options(&config)?).await?;
        tokio::spawn(pass_on(kube.status(), Arc::clone(&told), |told| &told.status));
        tokio::spawn(pass_on(kube.pods(), told, |told| &told.pods));
        let (node, advice) = (kube.node().to_owned(), kube.advice().await?);
        Opened { store: Store::Kube(Box::new(kube)), node, advice }
    } else {
        info!("taking a lease in etcd at {}", config.etcd.endpoints);
        let etcd = Etcd::new(etcd_settings(&config, &flags)?)?;
        tokio::spawn(pass_on(etcd.status(), told, |told| &told.status));
        let node =
            config.node_name().map_err(|error| StoreError::Settings(StartError::Name(error).to_string()))?;
        Opened { store: Store::Etcd(etcd), node, advice: Advice::default() }
    };
    Ok(opened)
}

/// Takes a lease, if this node can do what is asked for.
async fn join(opening: Opening, own: &FlannelOwn, can: Can<'_>) -> Result<(Store, Cluster), StoreError> {
    let mut store = match opening {
        Opening::Open(store) => *store,
        Opening::Later(opening) => ended(opening.await)?.store,
        Opening::Refused(error) => return Err(error),
    };
    let cluster = store.acquire_if(own, can).await?;
    Ok((store, cluster))
}

/// Says what is said, until nobody says or hears any more.
async fn pass_on<T: Clone>(
    mut from: watch::Receiver<T>,
    told: Arc<Told>,
    to: impl Fn(&Told) -> &watch::Sender<T>,
) {
    while !to(&told).is_closed() {
        to(&told).send_replace(from.borrow_and_update().clone());
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

/// What is wrong with the published addresses, as [`is_not_the_uplinks`] has it.
pub(super) fn not_the_uplinks(published: &[IpAddr], model: &Model, uplink: &Uplink) -> Vec<String> {
    published.iter().filter_map(|address| is_not_the_uplinks(*address, model, uplink)).collect()
}

/// What is wrong where the other nodes send pods' packets without a tunnel to an address that the uplink does not have.
fn is_not_the_uplinks(address: IpAddr, model: &Model, uplink: &Uplink) -> Option<String> {
    let bare = model.networks.iter().any(|network| {
        let carries = if address.is_ipv4() { network.ipv4.is_some() } else { network.ipv6.is_some() };
        carries && network.direct_routing == DirectRouting::Always
    });
    let has: Vec<IpAddr> = uplink.addresses.iter().map(IpNet::addr).collect();
    if !bare || has.contains(&address) {
        return None;
    }
    let has: Vec<String> = has.iter().map(IpAddr::to_string).collect();
    Some(format!(
        "backend host-gw: this node publishes {address}, and its uplink {} has {}: the other nodes take {address} for the next hop to this \
         node's pods, which it is only on their own link and without translation; publish an address of the uplink (flannel.public_ip, or the \
         node's annotations), or use the backend vxlan",
        uplink.name,
        if has.is_empty() { "no address".to_owned() } else { has.join(", ") }
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Encapsulation, Network};

    #[test]
    fn host_gw_wants_the_uplinks_own_address_to_be_published() {
        let uplink = Uplink {
            index: 2,
            name: "eth0".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: vec!["172.16.0.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
            up: true,
        };
        let model = |direct_routing| Model {
            networks: vec![Network {
                name: Network::DEFAULT_NAME.to_owned(),
                ipv4: Some("10.244.0.0/16".parse().unwrap()),
                ipv6: None,
                vni: Network::DEFAULT_VNI,
                mtu: None,
                direct_routing,
            }],
            port: Model::DEFAULT_PORT,
            encapsulation: Encapsulation::Vxlan,
            nodes: Vec::new(),
            pods: Vec::new(),
            routes: Vec::new(),
        };
        let told = |address: &str, direct| {
            is_not_the_uplinks(address.parse().unwrap(), &model(direct), &uplink).is_some()
        };
        assert!(told("203.0.113.7", DirectRouting::Always));
        assert!(!told("172.16.0.1", DirectRouting::Always));
        assert!(!told("2001:db8::7", DirectRouting::Always), "no pod has IPv6");
        // These nodes have the tunnel as well, which may be translated.
        assert!(!told("203.0.113.7", DirectRouting::OnLink));
        assert!(!told("203.0.113.7", DirectRouting::Never));
    }
}
