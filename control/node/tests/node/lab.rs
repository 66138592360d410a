//! Network namespaces that vanish with the test, and iproute2 in them.

use serde_json::Value;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a wait may take on a slow machine before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A network namespace.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-t-{}-{number}", std::process::id());
        run(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name for `ip link ... netns NAME`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` with these words, in here.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(words.split_whitespace());
        run(&all)
    }

    /// Runs `tc` with these words, in here.
    pub(crate) fn tc(&self, words: &str) -> String {
        let mut all = vec!["netns", "exec", self.name.as_str(), "tc"];
        all.extend(words.split_whitespace());
        run(&all)
    }

    /// The answer of `ip` as JSON.
    pub(crate) fn json(&self, words: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j {words}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        // iproute2 prints an empty object for an empty list of some kinds.
        let lines: Vec<Value> = serde_json::from_str(&text).expect("ip -j prints a list");
        lines.into_iter().filter(|line| line.as_object().is_some_and(|o| !o.is_empty())).collect()
    }

    /// Sets `net/...` under `/proc/sys`, in here.
    pub(crate) async fn sysctl(&self, name: &str, value: &str) {
        let (path, value) = (PathBuf::from("/proc/sys/net").join(name), value.to_owned());
        self.run(move || async move { std::fs::write(&path, value).expect("the setting can be set") }).await;
    }

    /// Runs asynchronous work with a thread and a runtime that are in here.
    pub(crate) async fn run<T, W, F>(&self, work: W) -> T
    where
        T: Send + 'static,
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = T>,
    {
        weft_node::inside(&self.path(), |_| async { Ok::<_, weft_node::Error>(work().await) })
            .await
            .expect("the work in the namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {} failed (root is needed): {complaint}", words.join(" "));
    String::from_utf8(output.stdout).expect("ip prints text")
}

/// Two namespaces joined by a veth pair: `up0` here with 192.0.2.1/24 and `up0` there with 192.0.2.2/24. All routes that the kernel
/// makes by itself are there.
pub(crate) fn joined() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    here.ip(&format!("link add up0 type veth peer name up0 netns {}", there.name()));
    for (namespace, host) in [(&here, 1), (&there, 2)] {
        namespace.ip(&format!("addr add 192.0.2.{host}/24 dev up0"));
        namespace.ip(&format!("addr add 2001:db8::{host}/64 dev up0 nodad"));
        namespace.ip("link set up0 up");
    }
    // An end is told late that the other one is up.
    for namespace in [&here, &there] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let routes = namespace.ip("route show dev up0") + &namespace.ip("-6 route show dev up0");
            if routes.contains("fe80::/64") && !routes.contains("linkdown") {
                break;
            }
            assert!(Instant::now() < deadline, "no link: {routes}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    (here, there)
}

/// The MAC address of an interface.
pub(crate) fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let link = namespace.json(&format!("link show dev {interface}"));
    let text = link[0]["address"].as_str().expect("it has a MAC address");
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// Waits until `condition` gives something.
pub(crate) async fn wait_for<T, C, F>(what: &str, mut condition: C) -> T
where
    C: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
