//! The control socket: any bytes from a client, in any pieces. Nothing panics; the answer is complete HTTP or the
//! connection is closed without one; the daemon answers the next client.
#![no_main]

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use weft_api::{
    ApiError, ConfigReport, Drop as DropCount, Drops, Fdb, FdbEntry, FdbKind, Flows, LargeFrames, Mac,
    Memory, Neighbours, Network, Origin, Pins, Pod, PodSpec, PodState, Pods, Ports, Route, RouteKind, Routes,
    Sections, Source, State, Stats, Status, Total, Uplink, Vteps, Workers,
};
use weft_control::api::{Backend, Limits, serve_with};
use weft_fuzz::wire::number;

/// A client that has sent all that it wants is never kept waiting so long, and shorter than the daemon's own limits: who
/// waits for these has not seen the end of the request.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pieces that a request comes in at most.
const PIECES: usize = 16;

/// Answers from memory.
#[derive(Default)]
struct Invented {
    pods: Mutex<Vec<Pod>>,
}

impl Invented {
    fn pods(&self) -> std::sync::MutexGuard<'_, Vec<Pod>> {
        self.pods.lock().expect("nothing panics")
    }
}

impl Backend for Invented {
    async fn status(&self) -> Result<Status, ApiError> {
        let source =
            Source { kind: "file".to_owned(), path: None, last_loaded: None, last_error: None, store: None };
        let memory =
            Memory { hugepages: false, packet_buffers_total: 2, packet_buffers_free: 1, rss_bytes: 4096 };
        let (interface, kind) = ("u0".to_owned(), "af_packet".to_owned());
        Ok(Status {
            version: "0".to_owned(),
            pid: 1,
            node: "n1".to_owned(),
            state: State::Ready,
            problems: Vec::new(),
            notes: Vec::new(),
            started_at: 1,
            uptime_s: 2,
            generation: 3,
            source,
            memory,
            uplink: Uplink {
                interface,
                kind,
                mtu: 1500,
                addresses: Vec::new(),
                large_frames: LargeFrames::Cut,
                whole_frames: 0,
            },
            network: Network { ipv4: None, ipv6: None, vni: 1, port: 8472, pod_mtu: 1450 },
            workers: 1,
            host_port: None,
            peers: Vec::new(),
            pods: self.pods().len(),
        })
    }

    async fn pods(&self, name: Option<String>) -> Result<Pods, ApiError> {
        let mut pods = self.pods().clone();
        pods.retain(|pod| name.as_ref().is_none_or(|name| pod.name == *name));
        Ok(Pods { pods })
    }

    async fn ports(&self, _: Option<String>) -> Result<Ports, ApiError> {
        Ok(Ports { ports: Vec::new() })
    }

    async fn fdb(&self, port: Option<String>, mac: Option<Mac>) -> Result<Fdb, ApiError> {
        let mac = mac.unwrap_or(Mac([2, 0, 0, 0, 0, 1]));
        Ok(Fdb {
            entries: vec![FdbEntry { mac, port_id: Some(3), port, kind: FdbKind::Learned, age_s: Some(7) }],
        })
    }

    async fn neighbours(&self, _: Option<IpAddr>) -> Result<Neighbours, ApiError> {
        Ok(Neighbours { entries: Vec::new(), conflicts: Vec::new() })
    }

    async fn vteps(&self, node: Option<String>) -> Result<Vteps, ApiError> {
        match node {
            Some(node) => Err(ApiError::not_found(format!("there is no node {node:?}"))),
            None => Ok(Vteps { vteps: Vec::new(), local: Vec::new() }),
        }
    }

    async fn routes(&self, address: Option<IpAddr>) -> Result<Routes, ApiError> {
        let Some(address) = address else { return Ok(Routes { routes: Vec::new() }) };
        let (to, kind, via) = (address.into(), RouteKind::Host, vec![address]);
        let route = Route { to, kind, via, node: None, network: None, port: None, mtu: None, dropped: None };
        Ok(Routes { routes: vec![route] })
    }

    async fn pins(&self, _: Option<IpAddr>, _: usize) -> Result<Pins, ApiError> {
        Ok(Pins { count: 0, capacity: 0, memory_bytes: 0, evicted: 0, entries: Vec::new() })
    }

    async fn flows(&self, _: Duration, limit: usize) -> Result<Flows, ApiError> {
        Ok(Flows { flows: Vec::new(), seen: limit as u64, sampled_one_in: 1, lost: 0 })
    }

    async fn workers(&self) -> Result<Workers, ApiError> {
        Ok(Workers { workers: Vec::new() })
    }

    async fn config(&self) -> Result<ConfigReport, ApiError> {
        Ok(ConfigReport {
            path: "/etc/weft/weftd.toml".into(),
            running: Sections::new(),
            file: Sections::new(),
            error: None,
            restart_needed: Vec::new(),
        })
    }

    async fn add_pod(&self, spec: PodSpec) -> Result<Pod, ApiError> {
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
        self.pods().push(pod.clone());
        Ok(pod)
    }

    async fn delete_pod(&self, name: String) -> Result<Pod, ApiError> {
        let found = self.pods().iter().position(|pod| pod.name == name);
        let index = found.ok_or_else(|| ApiError::not_found(format!("there is no pod {name:?}")))?;
        Ok(self.pods().remove(index))
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        Ok(Stats { ports: Vec::new(), workers: Vec::new(), total: Total::default() })
    }

    async fn drops(&self, all: bool) -> Result<Drops, ApiError> {
        let count = u64::from(all);
        Ok(Drops { total: vec![DropCount { reason: "no_route".to_owned(), count, explain: String::new() }] })
    }
}

struct Daemon {
    runtime: Runtime,
    backend: Arc<Invented>,
    folder: TempDir,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let backend = Arc::new(Invented::default());
        let limits = Limits {
            head: 10 * PATIENCE,
            body: 10 * PATIENCE,
            connection: 10 * PATIENCE,
            ..Limits::default()
        };
        runtime.block_on(async {
            let listener = UnixListener::bind(folder.path().join("weftd.sock")).expect("a socket");
            tokio::spawn(serve_with(limits, listener, Arc::clone(&backend), std::future::pending()));
        });
        Self { runtime, backend, folder }
    }

    /// Sends a request in pieces and reads until the daemon closes. What it does not want any more is lost.
    async fn raw(&self, request: &[u8], pieces: usize) -> Vec<u8> {
        let socket = self.folder.path().join("weftd.sock");
        let mut stream = UnixStream::connect(socket).await.expect("the daemon accepts");
        for piece in request.chunks(request.len().div_ceil(pieces).max(1)) {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the daemon hangs");
        answer
    }
}

fuzz_target!(|data: &[u8]| {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    let daemon = DAEMON.get_or_init(Daemon::start);
    daemon.backend.pods().clear();
    daemon.runtime.block_on(async {
        let answer = daemon.raw(data, 1 + number(data) as usize % PIECES).await;
        let head_only = data.trim_ascii_start().starts_with(b"HEAD ");
        assert_complete(&answer, head_only);
        let status = daemon.raw(b"GET /v1/status HTTP/1.1\r\nHost: weft\r\n\r\n", 1).await;
        assert!(status.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&status));
        assert_complete(&status, false);
    });
});

/// One whole answer, as long as it says that it is, or nothing.
fn assert_complete(answer: &[u8], head_only: bool) {
    if answer.is_empty() {
        return;
    }
    let shown = String::from_utf8_lossy(answer);
    let (head, body) = shown.split_once("\r\n\r\n").unwrap_or_else(|| panic!("cut off: {shown:?}"));
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|code| code.parse::<u16>().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP: {shown:?}"));
    if status < 200 {
        return assert_complete(&answer[head.len() + 4..], head_only);
    }
    assert!((200..600).contains(&status), "{shown:?}");
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    // The daemon's own answers all say how long they are.
    let length = length.unwrap_or_else(|| panic!("of no length: {shown:?}"));
    let whole = answer.len() - head.len() - 4;
    assert!(whole == length || (head_only && whole == 0), "{whole} bytes of {length}: {shown:?}");
    if whole > 0 {
        assert!(
            lower.contains("content-type: application/json") && body.starts_with(['{', '[']),
            "{shown:?}"
        );
    }
}
