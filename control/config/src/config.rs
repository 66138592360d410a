//! weftd's own configuration: what this node's daemon is like. What the cluster is like comes from the
//! source. Every setting has a default, so an empty file is a good one; `docs/examples/weftd.toml` shows them
//! all.

mod read;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use crate::settings::FileError as ConfigError;

/// Where the configuration is, if the command line does not say.
pub const DEFAULT_PATH: &str = "/etc/weft/weftd.toml";

/// The configuration of a daemon. Read once at the start.
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
    /// `[control]`
    pub control: Control,
    /// `[state]`
    pub state: State,
    /// `[host_port]`
    pub host_port: HostPort,
    /// `[log]`
    pub log: Log,
}

/// `[node]`: who this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// This node's name in the source. Default: the host's name, see [`Config::node_name`]. Set it where the
    /// cluster knows the node by another name.
    pub name: Option<String>,
}

/// `[dataplane]`: the workers that move packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Worker threads, 1 to 64. Default: as many as there are `cores`, or else 1. Each costs a core under
    /// load and some memory. More help when one is busy all the time and there are several flows; one flow
    /// stays on one worker.
    pub workers: usize,
    /// The CPU cores of the workers, one each, 0 to 1023, no two the same. Default: none are named, and weftd
    /// takes the last ones that it may run on. Name them where cores are isolated for it (`isolcpus`), or to
    /// stay on the NIC's NUMA node.
    pub cores: Vec<usize>,
    /// Memory for packet buffers in bytes, 16 MiB to 64 GiB; in the file an integer, or text with KiB, MiB or
    /// GiB. Default 48 MiB. It is taken at the start and kept. More where the counters say that buffers ran
    /// out: many ports with deep queues, or jumbo frames.
    pub memory: u64,
    /// Whether packet buffers live in huge pages. Default `auto`.
    pub hugepages: Hugepages,
    /// What a worker does when nothing comes. Default `adaptive`.
    pub idle: Idle,
    /// How long a worker polls without work before it sleeps, in microseconds, 0 to 10000. Default 20. More
    /// costs CPU time when there is little traffic; it saves the wake-up, a few microseconds, for packets
    /// that come that close behind others. Without meaning when `idle` is `poll`.
    pub spin_us: u32,
    /// How often ports without a file descriptor (DPDK devices, and guests that cannot notify) are polled while the worker
    /// sleeps, in microseconds, 10 to 100000. Default 500. It is the most that a first packet from them
    /// waits; less costs CPU time while idle. Without meaning when `idle` is `poll`.
    pub poll_beat_us: u32,
}

/// Whether packet buffers live in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// In huge pages if enough are free, else in ordinary ones.
    #[default]
    Auto,
    /// In ordinary pages always: nothing to set up, some percent slower. vhost-user and physical devices may
    /// need huge ones.
    Never,
    /// Refuse to start without, where the speed matters more than the start.
    Require,
}

/// What a worker does when nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls for `spin_us`, then sleeps until a port has something. Costs next to nothing while idle.
    #[default]
    Adaptive,
    /// Polls always: a whole core for each worker, for the lowest latency.
    Poll,
}

/// `[uplink]`: the way to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// How weft is joined to the underlay. Default, and the only one: `af_packet`.
    pub kind: UplinkKind,
    /// The underlay's interface. Default: that of the default route. Set it on a node with several networks.
    pub interface: Option<String>,
    /// The UDP checksum of tunnel packets over IPv4. Default `zero`. Over IPv6 it is always valid.
    pub outer_checksum: OuterChecksum,
    /// Take tunnel packets from the nodes in the source only. Default true. Turning it off lets anyone who
    /// reaches the UDP port send packets to pods: only for tests, and while nodes are missing in the source.
    pub known_vteps_only: bool,
}

/// How weft is joined to the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkKind {
    /// A packet socket on any interface, which stays the kernel's.
    #[default]
    AfPacket,
}

/// The UDP checksum of tunnel packets over IPv4 (RFC 7348, section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OuterChecksum {
    /// Zero, that is none: the RFC asks for it, the inner packet has its own. Costs nothing.
    #[default]
    Zero,
    /// Computed, as the kernel does for flannel: costs a pass over each packet that no device takes over. For
    /// underlays that drop or misread a zero checksum.
    Valid,
}

/// `[source]`: where the desired state comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// `kind = "file"`, the default and the only one.
    File {
        /// The cluster file, absolute. Default `/etc/weft/cluster.toml`. It is watched: changes take effect
        /// at once.
        path: PathBuf,
    },
}

/// `[control]`: the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The UNIX socket of the API, absolute, at most 107 bytes. Default `/run/weft/weftd.sock`. `weft` and
    /// `weft-cni` must be told if it is changed.
    pub socket: PathBuf,
    /// The group that may use the socket (its mode is 0660). Default: the daemon's own group. Whoever is in
    /// it can change every port of the node.
    pub group: Option<String>,
}

/// `[state]`: what weftd keeps over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The folder, absolute; made if it is missing. Default `/var/lib/weft`. A few kilobytes, written when
    /// pods come and go. On a file system that outlives a reboot, or the VTEP's MAC address changes with
    /// each.
    pub dir: PathBuf,
}

/// `[host_port]`: the way to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The name of the TAP interface, at most 15 bytes. Default `weft0`. Change it if the host has one of
    /// that name, or has firewall rules for another.
    pub name: String,
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is logged. Default `info`. Packets are never logged at any level.
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
            spin_us: 20,
            poll_beat_us: 500,
        }
    }
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            kind: UplinkKind::default(),
            interface: None,
            outer_checksum: OuterChecksum::default(),
            known_vteps_only: true,
        }
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self::File { path: "/etc/weft/cluster.toml".into() }
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
