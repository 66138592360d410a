//! weftd's own configuration: what this node's daemon is like. What the cluster is like comes from the
//! source. Every setting has a default, so an empty file is a good one; `docs/examples/weftd.toml` shows them
//! all.
//!
//! The types are here; [`table`] is the list of all settings, from which they are read, shown, compared and explained.

mod read;
mod setting;
pub mod table;
mod value;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use crate::settings::FileError as ConfigError;
pub use setting::{Effect, Form, Setting};
pub use value::Value;

/// Where the configuration is, if the command line does not say.
pub const DEFAULT_PATH: &str = "/etc/weft/weftd.toml";

/// The configuration of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[dataplane]`
    pub dataplane: Dataplane,
    /// `[uplink]`
    pub uplink: Uplink,
    /// `[source]`
    pub source: SourceConfig,
    /// `[etcd]`
    pub etcd: Etcd,
    /// `[kubernetes]`
    pub kubernetes: Kubernetes,
    /// `[flannel]`
    pub flannel: Flannel,
    /// `[control]`
    pub control: Control,
    /// `[state]`
    pub state: State,
    /// `[host_port]`
    pub host_port: HostPort,
    /// `[bridge]`
    pub bridge: Bridge,
    /// `[router]`
    pub router: Router,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[log]`
    pub log: Log,
}

/// `[node]`: who this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// This node's name in the source. None: the host's name, see [`Config::node_name`].
    pub name: Option<String>,
}

/// `[dataplane]`: the workers that move packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Worker threads.
    pub workers: usize,
    /// The CPU cores of the workers, one each. Empty: weftd chooses.
    pub cores: Vec<usize>,
    /// Memory for packet buffers, in bytes.
    pub memory: u64,
    /// Whether packet buffers live in huge pages.
    pub hugepages: Hugepages,
    /// What a worker does when nothing comes.
    pub idle: Idle,
    /// How long a worker polls without work before it sleeps, in microseconds.
    pub spin_us: u32,
    /// How often ports without a file descriptor are polled while the worker sleeps, in microseconds.
    pub poll_beat_us: u32,
    /// How many connections there is room for whose answers go to the host port.
    pub pins: u32,
}

/// Whether packet buffers live in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// In huge pages if enough are free, else in ordinary ones.
    #[default]
    Auto,
    /// In ordinary pages always.
    Never,
    /// Refuse to start without.
    Require,
}

/// What a worker does when nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls for `spin_us`, then sleeps until a port has something.
    #[default]
    Adaptive,
    /// Polls always.
    Poll,
}

/// `[uplink]`: the way to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// How weft is joined to the underlay.
    pub kind: UplinkKind,
    /// The underlay's interface. None: that of the default route.
    pub interface: Option<String>,
    /// The UDP checksum of tunnel packets over IPv4. Over IPv6 it is always valid.
    pub outer_checksum: OuterChecksum,
    /// Whether large frames go into the kernel whole, where the uplink is sockets.
    pub tunnel_gso: TunnelGso,
    /// Take tunnel packets from the nodes in the source only.
    pub known_vteps_only: bool,
}

/// How weft is joined to the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkKind {
    /// UDP sockets in the kernel, which routes, resolves and filters.
    #[default]
    Socket,
    /// A packet socket on any interface, which stays the kernel's.
    AfPacket,
    /// An XDP program that takes the tunnel's packets off an interface, which stays the kernel's.
    AfXdp,
}

/// Whether large frames go into the kernel whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelGso {
    /// Where no NIC is behind the uplink's interface.
    #[default]
    Auto,
    /// Wherever the kernel takes them.
    Always,
    /// Nowhere.
    Never,
}

/// The UDP checksum of tunnel packets over IPv4 (RFC 7348, section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OuterChecksum {
    /// Zero, that is none: the RFC asks for it, the inner packet has its own.
    #[default]
    Zero,
    /// Computed, as the kernel does for flannel.
    Valid,
}

/// `[source]`: where the desired state comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// What it is.
    pub kind: SourceKind,
    /// The cluster file, absolute, where that is the source.
    pub path: PathBuf,
}

/// What the desired state comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceKind {
    /// The cluster file.
    #[default]
    File,
    /// flannel's keys in etcd.
    Etcd,
    /// Kubernetes' nodes.
    Kubernetes,
}

/// `[etcd]`: how etcd is reached, where that is the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The members, with commas.
    pub endpoints: String,
    /// What all keys begin with.
    pub prefix: String,
    /// Who may have signed the members' certificates. None: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this node shows.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The user name.
    pub username: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// How many minutes before its end a lease is renewed.
    pub renew_margin_min: u32,
}

/// `[kubernetes]`: how Kubernetes is reached, where that is the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The API server, in place of the kubeconfig's.
    pub api_url: Option<String>,
    /// The server and our credentials. Neither: what our pod was given.
    pub kubeconfig: Option<PathBuf>,
    /// What the annotations of nodes begin with.
    pub annotation_prefix: String,
    /// The network's configuration, absolute.
    pub net_conf: PathBuf,
    /// Whether the node's condition `NetworkUnavailable` is set to `False`.
    pub set_network_unavailable: bool,
}

/// `[flannel]`: this node among flannel's, where the source is one of flannel's stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flannel {
    /// The IPv4 address that peers send to. None: that of the uplink.
    pub public_ip: Option<Ipv4Addr>,
    /// The IPv6 address that peers send to. None: that of the uplink.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The file for CNI plugins, absolute.
    pub subnet_file: PathBuf,
    /// Whether packets of pods that leave the pod network are masqueraded.
    pub ip_masq: bool,
    /// Whether the port of a masqueraded packet is chosen at random.
    pub ip_masq_random: bool,
    /// Whether the node's filter is told to let pods' packets through.
    pub forward_rules: bool,
    /// How often rules and blackhole routes are looked at, in seconds.
    pub resync_s: u32,
    /// Whether there is a route to nowhere behind that to the node's own pods.
    pub blackhole_route: bool,
    /// Where `/healthz` and `/readyz` are beside `metrics.listen`. None: nowhere.
    pub healthz: Option<SocketAddr>,
}

/// `[control]`: the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The UNIX socket of the API, absolute, at most 107 bytes.
    pub socket: PathBuf,
    /// The group that may use the socket. None: the daemon's own group.
    pub group: Option<String>,
}

/// `[state]`: what weftd keeps over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The folder, absolute; made if it is missing.
    pub dir: PathBuf,
}

/// `[host_port]`: the way to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The name of the TAP interface, at most 15 bytes.
    pub name: String,
}

/// `[bridge]`: frames by their MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Seconds after which a learned MAC address that sends nothing is forgotten.
    pub ageing_s: u32,
    /// How many MAC addresses are learned behind one port at most.
    pub learn_limit: u32,
    /// Copies a second, of what one port sends to several, at most.
    pub flood_rate: u32,
    /// Learned MAC addresses that move to a port at most, a second.
    pub move_rate: u32,
}

/// `[router]`: packets by their IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// ICMP errors a second about packets from one port at most.
    pub icmp_rate: u32,
}

/// `[metrics]`: what is measured, for Prometheus and supervisors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where `/metrics`, `/healthz` and `/readyz` are. None: nowhere.
    pub listen: Option<SocketAddr>,
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is logged.
    pub level: LogLevel,
}

/// How important a line of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Something needs looking after.
    Warn,
    /// What an operator wants to know of an ordinary day.
    #[default]
    Info,
    /// Each step of the control side.
    Debug,
    /// All there is.
    Trace,
}

impl LogLevel {
    /// As it is written in the file, which is what tracing's filter takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            workers: 1,
            cores: Vec::new(),
            memory: 48 << 20,
            hugepages: Hugepages::default(),
            idle: Idle::default(),
            spin_us: 100,
            poll_beat_us: 500,
            pins: 131_072,
        }
    }
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            kind: UplinkKind::default(),
            interface: None,
            outer_checksum: OuterChecksum::default(),
            tunnel_gso: TunnelGso::default(),
            known_vteps_only: true,
        }
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self { kind: SourceKind::default(), path: "/etc/weft/cluster.toml".into() }
    }
}

impl Default for Etcd {
    /// flanneld's.
    fn default() -> Self {
        Self {
            endpoints: "http://127.0.0.1:4001,http://127.0.0.1:2379".to_owned(),
            prefix: "/coreos.com/network".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password_file: None,
            renew_margin_min: 60,
        }
    }
}

impl Default for Kubernetes {
    /// flanneld's.
    fn default() -> Self {
        Self {
            api_url: None,
            kubeconfig: None,
            annotation_prefix: "flannel.alpha.coreos.com".to_owned(),
            net_conf: "/etc/kube-flannel/net-conf.json".into(),
            set_network_unavailable: true,
        }
    }
}

impl Default for Flannel {
    fn default() -> Self {
        Self {
            public_ip: None,
            public_ipv6: None,
            subnet_file: "/run/flannel/subnet.env".into(),
            ip_masq: false,
            // flanneld's defaults.
            ip_masq_random: true,
            forward_rules: true,
            resync_s: 5,
            blackhole_route: false,
            healthz: None,
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: "/run/weft/weftd.sock".into(), group: None }
    }
}

impl Default for State {
    fn default() -> Self {
        Self { dir: "/var/lib/weft".into() }
    }
}

impl Default for HostPort {
    fn default() -> Self {
        Self { name: "weft0".to_owned() }
    }
}

impl Default for Bridge {
    fn default() -> Self {
        Self { ageing_s: 300, learn_limit: 256, flood_rate: 10_000, move_rate: 10 }
    }
}

impl Default for Router {
    fn default() -> Self {
        Self { icmp_rate: 1000 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9477)) }
    }
}

/// Reads a text; `path` is for the messages.
pub(crate) fn parse(path: &Path, text: String) -> Result<Config, ConfigError> {
    read::parse(path, text)
}

impl Config {
    /// Reads a file that must be there: one that the command line names.
    ///
    /// # Errors
    /// The file can't be read, or anything in it is wrong: then all mistakes are listed, each with its line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        read::parse(path, crate::settings::read(path)?)
    }

    /// Reads the file at its default place, where a missing one means the defaults.
    ///
    /// # Errors
    /// As [`Config::load`], but for [`ConfigError::Missing`].
    pub fn load_or_default(path: &Path) -> Result<Self, ConfigError> {
        match Self::load(path) {
            Err(ConfigError::Missing { .. }) => Ok(Self::default()),
            result => result,
        }
    }

    /// This node's name: the configured one, or else the host's in lower case, as the kubelet does it.
    ///
    /// # Errors
    /// The kernel does not say the host's name (no `/proc`).
    pub fn node_name(&self) -> std::io::Result<String> {
        match &self.node.name {
            Some(name) => Ok(name.clone()),
            None => Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase()),
        }
    }
}
