//! Network namespaces that are gone when a test ends, whether it passed or not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_ffi::kernel::event::{Epoll, Events, Ready};
use weft_ffi::kernel::interface::IfName;
use weft_ffi::kernel::netns::run_in;

/// A network namespace of the test's own, without IPv6 addresses: the kernel says nothing in it of its own accord.
pub(crate) struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weft-t-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let namespace = Self { path: Path::new("/run/netns").join(&name), name };
        namespace.within(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6 noise");
        });
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `ip` in the namespace, with its arguments in one line.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments.split_whitespace());
        ip(&all)
    }

    /// Runs code in the namespace.
    pub(crate) fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        run_in(Some(&self.path), f).expect("the namespace is there")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {errors} (these tests need root)", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub(crate) const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// Two hosts on one cable: `a` with 10.9.0.1 on `a0`, `b` with 10.9.0.2 on `b0`. They know each other's MAC, so there is no ARP.
pub(crate) struct Cable {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
}

impl Cable {
    pub(crate) fn new() -> Self {
        let cable = Self { a: Namespace::new(), b: Namespace::new() };
        cable.a.ip(&format!("link add a0 type veth peer name b0 netns {}", cable.b.name));
        host(&cable.a, "a0", MAC_A, "10.9.0.1", "10.9.0.2", MAC_B);
        host(&cable.b, "b0", MAC_B, "10.9.0.2", "10.9.0.1", MAC_A);
        cable
    }

    /// The same hosts with a third namespace between them, where the cable's ends are `ma0` and `mb0`.
    pub(crate) fn through(middle: &Namespace) -> Self {
        let cable = Self { a: Namespace::new(), b: Namespace::new() };
        middle.ip(&format!("link add ma0 type veth peer name a0 netns {}", cable.a.name));
        middle.ip(&format!("link add mb0 type veth peer name b0 netns {}", cable.b.name));
        middle.ip("link set dev ma0 up");
        middle.ip("link set dev mb0 up");
        host(&cable.a, "a0", MAC_A, "10.9.0.1", "10.9.0.2", MAC_B);
        host(&cable.b, "b0", MAC_B, "10.9.0.2", "10.9.0.1", MAC_A);
        cable
    }
}

fn host(namespace: &Namespace, interface: &str, mac: [u8; 6], address: &str, peer: &str, peer_mac: [u8; 6]) {
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    namespace.ip(&format!("link set {interface} address {} up", text(mac)));
    namespace.ip(&format!("addr add {address}/24 dev {interface}"));
    namespace.ip(&format!("neigh replace {peer} lladdr {} dev {interface} nud permanent", text(peer_mac)));
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().expect("a good name")
}

/// Waits until something is there; fails if it does not come.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sleeps until epoll has something to say. A signal may end a wait early; that is no answer.
pub(crate) fn wait_ready(epoll: &Epoll) -> Vec<Ready> {
    let mut events = Events::with_capacity(4);
    eventually("epoll", || {
        epoll.wait(Some(Duration::from_secs(20)), &mut events).expect("a good descriptor");
        (!events.is_empty()).then(|| events.iter().collect())
    })
}
