//! A real etcd on loopback, in a folder and on ports of its own, which ends with the test; a way to it that can be cut; and
//! etcdctl, whose eyes are not weft's.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use weft_flannel::etcd::{Etcd, Settings, Timing, Tls};
use weft_flannel::store::{Cluster, Own, Store, Update};

pub(crate) const PREFIX: &str = "/coreos.com/network";
pub(crate) const CONF: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
/// How long anything may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// An etcd of one member.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    peer_port: u16,
    more: Vec<String>,
    /// Which data folder is in use.
    data: PathBuf,
    child: Option<Child>,
    pub(crate) ctl: Ctl,
}

/// How etcdctl reaches it.
#[derive(Clone, Default)]
pub(crate) struct Ctl {
    pub(crate) endpoint: String,
    pub(crate) args: Vec<String>,
}

impl Server {
    /// Started, with `config` as the network's configuration.
    pub(crate) fn start(config: &str) -> Self {
        let server = Self::start_with("http", &[]);
        server.ctl.run(&["put", &format!("{PREFIX}/config"), config]);
        server
    }

    /// Started with further arguments.
    pub(crate) fn start_with(scheme: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let (port, peer_port) = (free_port(), free_port());
        let ctl = Ctl { endpoint: format!("{scheme}://127.0.0.1:{port}"), args: Vec::new() };
        let more = more.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { folder, port, peer_port, more, data, child: None, ctl };
        server.run();
        server
    }

    /// Runs it with the data that it has.
    pub(crate) fn run(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        // Whatever becomes of the test: the server ends with it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", "test", "--log-level", "warn", "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &self.ctl.endpoint, "--advertise-client-urls", &self.ctl.endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd runs: scripts/setup installs etcd-server, etcd-client and setpriv");
        self.child = Some(child);
        let end = Instant::now() + SOON;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < end, "etcd: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once, as a lost machine ends.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a backup.
    pub(crate) fn backup(&self) {
        let _ = std::fs::remove_file(self.path("backup"));
        self.ctl.run(&["snapshot", "save", &self.path("backup").to_string_lossy()]);
    }

    /// Ends it, and runs it with what is in the backup, as an operator restores it.
    pub(crate) fn restore(&mut self) {
        self.kill();
        self.data = self.path("restored");
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        self.ctl.run(&[
            "snapshot",
            "restore",
            &text(&self.path("backup")),
            "--name",
            "test",
            "--data-dir",
            &text(&self.data),
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("test={peer}"),
        ]);
        self.run();
    }

    /// How weft reaches it.
    pub(crate) fn settings(&self) -> Settings {
        settings(&self.ctl.endpoint)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Ctl {
    /// What etcdctl answers.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        match self.try_run(args) {
            Ok(text) => text,
            Err(text) => panic!("etcdctl {args:?}: {text}"),
        }
    }

    pub(crate) fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).output().expect("etcdctl runs: scripts/setup installs etcd-client");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint, "--dial-timeout", "10s", "--command-timeout", "20s"])
            .args(&self.args)
            .args(args);
        command
    }

    /// Gives etcdctl something to read.
    pub(crate) fn feed(&self, args: &[&str], text: &str) {
        use std::io::Write;
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("etcdctl runs");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success(), "etcdctl {args:?}");
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.run(&["put", &format!("{PREFIX}/subnets/{key}"), value]);
    }

    pub(crate) fn delete(&self, key: &str) {
        assert_eq!(self.run(&["del", &format!("{PREFIX}/subnets/{key}")]).trim(), "1");
    }

    /// The value of a lease's key; empty where there is none.
    pub(crate) fn get(&self, key: &str) -> String {
        let key = format!("{PREFIX}/subnets/{key}");
        self.run(&["get", "--print-value-only", &key]).trim_end_matches('\n').to_owned()
    }

    /// The last parts of all leases' keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        let all = format!("{PREFIX}/subnets/");
        let text = self.run(&["get", "--prefix", "--keys-only", &all]);
        text.lines().filter_map(|line| Some(line.strip_prefix(&all)?.to_owned())).collect()
    }

    /// One number of a lease's key, as JSON has it.
    pub(crate) fn number(&self, key: &str, name: &str) -> i64 {
        let key = format!("{PREFIX}/subnets/{key}");
        let json: serde_json::Value =
            serde_json::from_str(&self.run(&["get", "-w", "json", &key])).expect("JSON");
        json["kvs"][0][name].as_i64().unwrap_or(0)
    }

    /// What was granted to the etcd lease of a key, and what is left of it, in seconds.
    pub(crate) fn time_to_live(&self, key: &str) -> (i64, i64) {
        let id = format!("{:x}", self.number(key, "lease"));
        let json: serde_json::Value =
            serde_json::from_str(&self.run(&["lease", "timetolive", &id, "-w", "json"])).expect("JSON");
        (json["granted-ttl"].as_i64().unwrap_or(0), json["ttl"].as_i64().unwrap_or(0))
    }

    pub(crate) fn revision(&self) -> i64 {
        let text = self.run(&["get", "nothing", "-w", "json"]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["header"]["revision"].as_i64().expect("a revision")
    }
}

/// A port that is given out once only, and by nobody else: a server that was ended finds its own again. The kernel's, which it gives to
/// connections, are above.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() * 128 + GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (number % 20_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn settings(endpoint: &str) -> Settings {
    Settings {
        endpoints: vec![endpoint.to_owned()],
        prefix: PREFIX.to_owned(),
        tls: Tls::default(),
        user: None,
        timing: Timing { again: Duration::from_secs(1), ..Timing::default() },
    }
}

/// A node with this number.
pub(crate) fn node(number: u8) -> Own {
    Own {
        public_ip: Some(Ipv4Addr::new(192, 0, 2, number)),
        vtep_mac: Some(weft_types::MacAddr([2, 0, 0, 0, 0, number])),
        vtep_mac_v6: Some(weft_types::MacAddr([2, 0, 0, 0, 6, number])),
        ..Own::default()
    }
}

/// What a node of this number has in etcd.
pub(crate) fn value(number: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{number}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{number:02x}"}}}}"#
    )
}

/// A node that follows its cluster.
pub(crate) struct Follower {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) updates: mpsc::Receiver<Update>,
    pub(crate) status: watch::Receiver<weft_flannel::store::Status>,
    pub(crate) lost: usize,
    pub(crate) back: usize,
}

impl Follower {
    /// Takes a lease and follows.
    pub(crate) async fn start(settings: Settings, own: &Own) -> Self {
        let mut store = Store::Etcd(Etcd::new(settings).expect("right settings"));
        let cluster = Arc::new(
            tokio::time::timeout(SOON, store.acquire(own)).await.expect("in time").expect("a lease"),
        );
        let (sender, updates) = mpsc::channel(1);
        let status = store.status();
        tokio::spawn(store.run(sender));
        Self { cluster, updates, status, lost: 0, back: 0 }
    }

    pub(crate) fn key(&self) -> String {
        self.cluster.own.key().expect("a key")
    }

    /// Takes updates until it is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !wanted(self) {
                match self.updates.recv().await.expect("it goes on") {
                    Update::Cluster(cluster) => self.cluster = cluster,
                    Update::Lost(_) => self.lost += 1,
                    Update::Back => self.back += 1,
                }
            }
        };
        if tokio::time::timeout(SOON, waiting).await.is_err() {
            panic!("{what}: {:?}, {:?}", self.cluster, *self.status.borrow());
        }
    }

    pub(crate) async fn until_peers(&mut self, keys: &[&str]) {
        self.until(&format!("peers {keys:?}"), |f| f.peers() == keys).await;
    }

    pub(crate) fn peers(&self) -> Vec<&str> {
        self.cluster.peers.iter().map(|peer| peer.name.as_str()).collect()
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !wanted() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A way to a server that can be cut.
pub(crate) struct Cable {
    pub(crate) endpoint: String,
    plugged: watch::Sender<bool>,
    /// Whether the answer to the next write is to be lost.
    loses: Arc<AtomicBool>,
}

impl Cable {
    pub(crate) async fn to(server: &Server) -> Self {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let plugged = watch::Sender::new(true);
        let mut state = plugged.subscribe();
        let loses = Arc::new(AtomicBool::new(false));
        let loses_one = Arc::clone(&loses);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if !*state.borrow_and_update() {
                    continue;
                }
                let (mut cut, loses) = (state.clone(), Arc::clone(&loses_one));
                tokio::spawn(async move {
                    let Ok(mut to) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = carry(&mut from, &mut to, &loses) => {}
                        _ = cut.wait_for(|plugged| !plugged) => {}
                    }
                });
            }
        });
        Self { endpoint, plugged, loses }
    }

    /// Has the next lease that is written reach the server, and nothing of what it answers come back.
    pub(crate) fn lose_an_answer(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_lost_it(&self) -> bool {
        !self.loses.load(Ordering::SeqCst)
    }

    pub(crate) fn plug(&self, plugged: bool) {
        self.plugged.send_replace(plugged);
    }
}

/// Carries both ways until an end is closed. After a write whose answer is to be lost it is silent for a second, and cut.
async fn carry(
    from: &mut tokio::net::TcpStream,
    to: &mut tokio::net::TcpStream,
    loses: &AtomicBool,
) -> std::io::Result<()> {
    let ((mut ask, mut hear), (mut say, mut listen)) = (from.split(), to.split());
    let (mut up, mut down) = ([0; 16 << 10], [0; 16 << 10]);
    loop {
        tokio::select! {
            got = ask.read(&mut up) => match got? {
                0 => return Ok(()),
                count => {
                    listen.write_all(&up[..count]).await?;
                    let writes = up[..count].windows(8).any(|text| text == b"PublicIP");
                    if writes && loses.swap(false, Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        return Ok(());
                    }
                }
            },
            got = say.read(&mut down) => match got? {
                0 => return Ok(()),
                count => hear.write_all(&down[..count]).await?,
            },
        }
    }
}
