//! What disappears under a running weftd: it lives on, says so, takes no CPU for it, and goes on when it is back.

use std::process::{Child, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_api::{PodState, State};

use crate::lab::{Lab, Namespace, tap_pod, tap_spec, wait_for};

#[test]
fn the_uplink_vanishes_and_comes_back() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let mut weftd = lab.start();
    lab.peer_resolved();
    // b's kernel answers by its own stack: an address of its subnet is all it needs behind a VTEP.
    let far = || {
        let [near, own] = crate::lab::VTEP_MACS;
        lab.peer.ip(&format!(
            "link add flannel.1 address {own} mtu 1450 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"
        ));
        lab.peer.ip("addr add 10.244.1.0/32 dev flannel.1");
        lab.peer.ip("link set flannel.1 up");
        lab.peer.ip(&format!("neigh add 10.244.0.0 lladdr {near} dev flannel.1 nud permanent"));
        lab.peer.ip("route add 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink");
        lab.peer.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
    };
    far();
    assert!(web.pings("10.244.1.0"));

    lab.node.ip("link set up0 down");
    let status =
        wait_for("a word about the uplink", || Some(lab.status()).filter(|s| s.state == State::Degraded));
    assert!(status.problems.iter().any(|problem| problem.contains("up0")), "{:?}", status.problems);
    weftd.assert_calm();
    lab.node.ip("link set up0 up");
    // The kernel drops an interface's IPv6 addresses when it goes down.
    lab.node.ip("addr add fd00:172:16::1/64 dev up0 nodad");
    wait_for("traffic over the uplink that is up again", || web.reaches("10.244.1.0").then_some(()));

    lab.node.ip("link del up0");
    let status =
        wait_for("a word about the uplink", || Some(lab.status()).filter(|s| s.state == State::Degraded));
    assert!(status.problems.iter().any(|problem| problem.contains("up0")), "{:?}", status.problems);
    weftd.assert_calm();
    assert!(web.pings("10.244.0.3"), "other pods' traffic");
    assert!(lab.node.pings("10.244.0.3"), "the node's traffic");

    lab.plug_in();
    // flannel.1 went with the interface that it ran over.
    if !lab.peer.has_interface("flannel.1") {
        far();
    }
    wait_for("traffic over the new uplink", || web.reaches("10.244.1.0").then_some(()));
    let status = wait_for("all to be well", || Some(lab.status()).filter(|s| s.state == State::Ready));
    assert_eq!(status.problems, Vec::<String>::new());
    assert!(web.pings("10.244.1.0"));
    weftd.assert_calm();
    lab.counters_balance();
}

#[test]
fn a_pods_namespace_is_deleted_and_comes_back() {
    let lab = Lab::new();
    let (web, db, gone) = (Namespace::new("web"), Namespace::new("db"), Namespace::new("gone"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let mut weftd = lab.start();
    lab.add(&tap_spec("gone", 4, &gone.path())).unwrap();
    assert!(web.pings("10.244.0.4"));

    let stream = web.stream("10.244.0.3");
    lab.flows_from("web");
    gone.delete();
    let status =
        wait_for("a word about the pod", || Some(lab.status()).filter(|s| s.state == State::Degraded));
    let named =
        |problem: &String| problem.contains("pod gone") && problem.contains(gone.path().to_str().unwrap());
    assert!(status.problems.iter().any(named), "{:?}", status.problems);
    let pod = |name: &str| lab.pods().pods.into_iter().find(|pod| pod.name == name).expect("the pod");
    assert_eq!(pod("gone").state, PodState::Failed);
    assert_eq!((pod("web").state, pod("db").state), (PodState::Up, PodState::Up));
    lab.flows_from("web");
    stream.assert_unbroken();
    weftd.assert_calm();

    gone.make();
    wait_for("the pod to be there again", || (pod("gone").state == PodState::Up).then_some(()));
    assert!(gone.pings("10.244.0.2") && web.pings("10.244.0.4"));
    lab.delete("gone").unwrap();
    assert_eq!(gone.interfaces(), Vec::<String>::new());
    lab.counters_balance();
}

#[test]
fn a_pods_interface_is_deleted_and_the_pod_can_be_removed() {
    let lab = Lab::new();
    let (web, gone) = (Namespace::new("web"), Namespace::new("gone"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let mut weftd = lab.start();
    lab.add(&tap_spec("gone", 4, &gone.path())).unwrap();
    assert!(web.pings("10.244.0.4"));
    gone.ip("link del eth0");
    weftd.assert_calm();
    assert!(web.pings("10.244.0.1"));
    lab.delete("gone").unwrap();
    lab.add(&tap_spec("gone", 4, &gone.path())).unwrap();
    assert!(web.pings("10.244.0.4"));
    lab.counters_balance();
}

#[test]
fn a_pods_interface_is_deleted_and_made_again() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    assert!(db.pings("10.244.0.2"));
    web.ip("link del eth0");
    wait_for("the interface to be back", || db.reaches("10.244.0.2").then_some(()));
    let (_, _, addresses) = web.identity("eth0");
    assert!(addresses.len() == 2 && addresses[0].contains("10.244.0.2"), "{addresses:?}");

    lab.node.ip("link del weft0");
    wait_for("the host port to be back", || lab.node.reaches("10.244.0.2").then_some(()));
    lab.node.ip("addr flush dev weft0");
    wait_for("the host port's addresses to be back", || lab.node.reaches("10.244.0.2").then_some(()));
    wait_for("all to be well", || Some(lab.status()).filter(|status| status.state == State::Ready));
    lab.counters_balance();
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let lab = Lab::new();
    let mut command = lab.node.command(env!("CARGO_BIN_EXE_weftd"));
    command.arg("--config").arg(lab.path("weftd.toml")).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut weftd = Unread(command.spawn().expect("iproute2 is installed"));
    let pipe = weftd.0.stderr.take().expect("a pipe");
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    wait_for("weftd to answer", || lab.ask(async |weftd| weftd.status().await).ok());
    // Each costs a line of the log: together more than the pipe takes.
    for number in 0..25 {
        let section = format!("nonsense-{number}-{}", "x".repeat(200));
        lab.replace_cluster(&format!("[{section}]\n"));
        wait_for("the refusal", || lab.status().source.last_error.filter(|error| error.contains(&section)));
    }
    kill(Pid::from_raw(weftd.0.id() as i32), Signal::SIGTERM).expect("it is there");
    let code = wait_for("the end", || weftd.0.try_wait().expect("the child's state"));
    assert_eq!(code.code(), Some(0));
    drop(pipe);
}

/// A weftd that is killed when the test is done with it.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        // It has ended already, where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
