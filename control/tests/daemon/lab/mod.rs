//! A node to run weftd in, and the underlay's other end.

mod counters;
pub(crate) mod frames;
pub(crate) mod guest;
pub(crate) mod http;
pub(crate) mod kubernetes;
mod namespace;
pub(crate) mod routed;
pub(crate) mod segment;
mod weftd;
mod wire;

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_api::{Client, ClientError, Pod, PodPort, PodSpec, Pods, Stats, Status};

pub(crate) use counters::Deltas;
pub(crate) use namespace::Namespace;
pub(crate) use weftd::Weftd;
pub(crate) use wire::{Frame, Wire};

/// How long a wait may take on a slow machine before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Labs that may be up at a time: each weftd takes some 100 MiB.
const AT_ONCE: usize = 3;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to have a lab up.
struct Slot;

impl Slot {
    fn take() -> Self {
        let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = TAKEN.1.wait_while(taken, |taken| *taken >= AT_ONCE);
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        TAKEN.1.notify_one();
    }
}

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A socket of a port that the test may have had before: a process that another test starts holds that one too, until it has become a
/// program of its own.
pub(crate) fn once_free<T>(bind: impl Fn() -> io::Result<T>) -> T {
    wait_for("the port to be free", || match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        socket => Some(socket.expect("a socket")),
    })
}

/// The node `a` with the interface `up0`, and the node `b`, a kernel's, at the other end of the wire.
///
/// | | underlay | pods |
/// |---|---|---|
/// | a | 172.16.0.1, fd00:172:16::1 | 10.244.0.0/24, fd00:10:244::/64 |
/// | b | 172.16.0.2, fd00:172:16::2 | 10.244.1.0/24, fd00:10:244:1::/64 |
pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) dir: TempDir,
    runtime: tokio::runtime::Runtime,
    // The last to go: what a next lab needs is free then.
    _slot: Slot,
}

/// The VTEP's MAC addresses of a and b.
pub(crate) const VTEP_MACS: [&str; 2] = ["02:00:5e:00:04:01", "02:00:5e:00:04:02"];

impl Lab {
    /// With the files that weftd needs, and without any pod.
    pub(crate) fn new() -> Self {
        Self::of(Namespace::new)
    }

    /// The same, but the kernels send nothing by themselves through weft: for tests that count frames. Pods are to be
    /// in namespaces that are quiet or mute too.
    pub(crate) fn quiet() -> Self {
        Self::of(Namespace::quiet)
    }

    fn of(namespace: impl Fn(&str) -> Namespace) -> Self {
        let slot = Slot::take();
        let (node, peer) = (namespace("a"), namespace("b"));
        let dir = tempfile::Builder::new().prefix("weft-t-").tempdir().expect("a temporary directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let lab = Self { node, peer, dir, runtime, _slot: slot };
        lab.plug_in();
        lab.configure("", "", "");
        lab.write_cluster("");
        lab
    }

    /// Joins the two nodes by a pair of interfaces.
    pub(crate) fn plug_in(&self) {
        self.node.ip(&format!("link add up0 type veth peer name up0 netns {}", self.peer.name()));
        for (namespace, host) in [(&self.node, 1), (&self.peer, 2)] {
            namespace.ip_batch(&[
                &format!("addr add 172.16.0.{host}/24 dev up0"),
                &format!("addr add fd00:172:16::{host}/64 dev up0 nodad"),
                "link set up0 up",
            ]);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("weftd.sock")
    }

    /// Writes `weftd.toml` with further settings of the sections dataplane and uplink, and further sections. The uplink is a packet socket
    /// unless they say otherwise: then every byte of the tunnel is weft's own.
    pub(crate) fn configure(&self, dataplane: &str, uplink: &str, more: &str) {
        let at = self.dir.path().display();
        let kind = if uplink.contains("kind =") { "" } else { "kind = \"af_packet\"\n" };
        let text = format!(
            "[node]\nname = \"a\"\n[dataplane]\nmemory = \"16MiB\"\n{dataplane}\n[uplink]\ninterface = \"up0\"\n{kind}{uplink}\n\
             [source]\npath = \"{at}/cluster.toml\"\n[control]\nsocket = \"{at}/weftd.sock\"\n[state]\ndir = \"{at}/state\"\n{more}\n"
        );
        fs::write(self.path("weftd.toml"), text).expect("the configuration can be written");
    }

    /// Replaces `cluster.toml` as editors do, with these pods (see [`tap_pod`]) beside the two nodes.
    pub(crate) fn write_cluster(&self, pods: &str) {
        self.replace_cluster(&format!("{}{pods}", nodes(&[0, 1])));
    }

    /// Replaces `cluster.toml` by this text.
    pub(crate) fn replace_cluster(&self, text: &str) {
        let new = self.path("cluster.toml.new");
        fs::write(&new, text).expect("the cluster file can be written");
        fs::rename(new, self.path("cluster.toml")).expect("the cluster file can be replaced");
    }

    /// Starts weftd and waits until it is ready.
    pub(crate) fn start(&self) -> Weftd {
        Weftd::spawn(self, &[], &self.path("weftd.toml")).ready()
    }

    /// Starts weftd with this configuration, waits until it has failed, and returns what it said on standard error,
    /// less what is information: one message.
    pub(crate) fn fails_with(&self, config: &Path) -> String {
        Weftd::spawn(self, &[], config).failed()
    }

    pub(crate) fn fails(&self) -> String {
        self.fails_with(&self.path("weftd.toml"))
    }

    /// Nothing of weft's is on the node: no host port, no socket.
    pub(crate) fn assert_clean(&self) {
        assert!(!self.node.has_interface("weft0"), "the host port was left behind");
        assert!(!self.socket().exists(), "the socket was left behind");
    }

    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(Client) -> T) -> T {
        self.wait_on(question(Client::new(self.socket())))
    }

    pub(crate) fn wait_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn status(&self) -> Status {
        self.ask(async |weftd| weftd.status().await).expect("a status")
    }

    pub(crate) fn pods(&self) -> Pods {
        self.ask(async |weftd| weftd.pods().await).expect("the pods")
    }

    pub(crate) fn stats(&self) -> Stats {
        self.ask(async |weftd| weftd.stats().await).expect("the counters")
    }

    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let drops = self.ask(async |weftd| weftd.drops(true).await).expect("the drops");
        drops.total.iter().find(|drop| drop.reason == reason).expect("a reason of this name").count
    }

    /// What was received from a port, in frames.
    pub(crate) fn received(&self, port: &str) -> u64 {
        self.stats().ports.iter().find(|there| there.name == port).map_or(0, |port| port.rx_packets)
    }

    /// Waits until traffic from a port has been seen from now on.
    pub(crate) fn flows_from(&self, port: &str) {
        let before = self.received(port);
        wait_for("the stream to flow", || (self.received(port) >= before + 10).then_some(()));
    }

    /// Waits until no frame is on its way, so that the counters must add up.
    pub(crate) fn counters_balance(&self) {
        wait_for("rx + originated = tx + consumed + merged + drops", || {
            (self.stats().total.in_flight() == 0).then_some(())
        });
    }

    pub(crate) fn add(&self, spec: &PodSpec) -> Result<Pod, ClientError> {
        self.ask(async |weftd| weftd.add_pod(spec).await)
    }

    pub(crate) fn delete(&self, name: &str) -> Result<Pod, ClientError> {
        self.ask(async |weftd| weftd.delete_pod(name).await)
    }

    /// Waits until the way to b is known, so that packets to it are not dropped.
    pub(crate) fn peer_resolved(&self) {
        wait_for("the way to b to be known", || {
            self.status().peers.iter().all(|peer| peer.resolved).then_some(())
        });
    }
}

/// The head of a cluster file, with these of the two nodes.
pub(crate) fn nodes(which: &[usize]) -> String {
    let mut text = "[network]\nipv4 = \"10.244.0.0/16\"\nipv6 = \"fd00:10:244::/48\"\n".to_owned();
    for node in which {
        let (name, host) = (["a", "b"][*node], node + 1);
        let _ = write!(
            text,
            "[[node]]\nname = \"{name}\"\nsubnets = [\"10.244.{node}.0/24\", \"fd00:10:244:{node}::/64\"]\n\
             public_ip = \"172.16.0.{host}\"\nvtep_mac = \"{}\"\n",
            VTEP_MACS[*node]
        );
    }
    text
}

/// A pod of a in the cluster file, an ordinary one.
pub(crate) fn tap_pod(name: &str, host: u8, netns: &Namespace) -> String {
    format!(
        "[[pod]]\nname = \"{name}\"\nnode = \"a\"\nkind = \"tap\"\nnetns = \"{}\"\n\
         addresses = [\"10.244.0.{host}\", \"fd00:10:244::{host:x}\"]\n",
        netns.path().display()
    )
}

/// The same for the API.
pub(crate) fn tap_spec(name: &str, host: u8, netns: &Path) -> PodSpec {
    spec(name, host, PodPort::Tap { netns: netns.to_owned(), ifname: "eth0".to_owned() })
}

/// A pod of any kind for the API.
pub(crate) fn spec(name: &str, host: u8, port: PodPort) -> PodSpec {
    let addresses = vec![[10, 244, 0, host].into(), [0xfd00, 0x10, 0x244, 0, 0, 0, 0, host.into()].into()];
    let name = name.to_owned();
    let bandwidth = Default::default();
    PodSpec {
        name,
        port,
        addresses,
        mac: None,
        trusted: false,
        mtu: None,
        routes: None,
        cni: None,
        bandwidth,
    }
}
