//! Limits as Kubernetes' annotations say them, from an API server to what passes.

#[path = "../../../flannel/tests/kube/server.rs"]
#[allow(dead_code, reason = "the tests of the store need all of it")]
mod server;

use std::ffi::OsStr;
use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use weft_api::{Bandwidth, Cni};

use super::{Streams, TCP, rate};
use crate::lab::{Lab, Namespace, Weftd, tap_spec, wait_for};
use server::Server;

const NET_CONF: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// The node `a` as the kubelet registers it.
fn node() -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.1"}], "conditions": []}
    })
}

/// A pod of this node, with what it may receive.
fn pod(name: &str, address: &str, ingress: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "shop", "name": name, "annotations": {"kubernetes.io/ingress-bandwidth": ingress}},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    })
}

/// An API server on the lab's node.
fn api_server(lab: &Lab) -> Server {
    let namespace = File::open(lab.node.path()).expect("the namespace is there");
    let enter = move || setns(namespace, CloneFlags::CLONE_NEWNET).expect("it can be entered");
    let server = Server::start_at(([172, 16, 0, 1], 0).into(), None, enter);
    server.put("nodes", node());
    server
}

fn start(lab: &Lab, server: &Server) -> Weftd {
    let at = lab.dir.path().display();
    fs::write(lab.path("net-conf.json"), NET_CONF).expect("a file");
    let text = format!(
        "[dataplane]\nmemory = \"16MiB\"\n[uplink]\ninterface = \"up0\"\nkind = \"af_packet\"\n[source]\nkind = \"kubernetes\"\n\
         [kubernetes]\napi_url = \"{}\"\nnet_conf = \"{at}/net-conf.json\"\n[flannel]\nsubnet_file = \"{at}/subnet.env\"\n\
         [control]\nsocket = \"{at}/weftd.sock\"\n[state]\ndir = \"{at}/state\"\n",
        server.url()
    );
    fs::write(lab.path("kubernetes.toml"), text).expect("a file");
    let before = ["env", "NODE_NAME=a"].map(OsStr::new);
    Weftd::spawn(lab, &before, &lab.path("kubernetes.toml")).ready()
}

#[test]
fn annotations_limit_a_pod_go_before_its_runtime_and_may_change() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let server = api_server(&lab);
    let weftd = start(&lab, &server);
    // What a runtime said when it made the pod.
    let runtimes = Bandwidth {
        ingress_rate: Some(400_000_000),
        egress_rate: Some(1_000_000_000),
        ..Bandwidth::default()
    };
    for (name, host, netns, bandwidth) in [("db", 3, &db, runtimes), ("web", 2, &web, Bandwidth::default())] {
        let mut spec = tap_spec(&format!("c-{name}"), host, &netns.path());
        spec.addresses.truncate(1);
        spec.bandwidth = bandwidth;
        spec.cni = Some(Cni {
            network: "cbr0".to_owned(),
            container: format!("c-{name}"),
            ifname: "eth0".to_owned(),
            netns: netns.path(),
            namespace: Some("shop".to_owned()),
            pod: Some(name.to_owned()),
        });
        lab.add(&spec).expect("it is added");
    }
    let in_force = |name: &str| {
        let pods = lab.pods().pods;
        pods.into_iter().find(|pod| pod.name == name).expect("the pod").bandwidth
    };
    assert_eq!(in_force("c-db"), runtimes);
    let until = |wanted: Bandwidth| wait_for("the limit", || (in_force("c-db") == wanted).then_some(()));
    let flow = Streams::start(&web, &db, "10.244.0.3", 1);

    // One that this node has no pod of.
    server.put("pods", pod("web-2", "10.244.0.2", "1M"));
    server.put("pods", pod("db", "10.244.0.3", "10M"));
    for bits in [10_000_000, 40_000_000] {
        server.change("pods", "shop/db", |pod| {
            pod["metadata"]["annotations"]["kubernetes.io/ingress-bandwidth"] = json!(bits.to_string());
        });
        until(Bandwidth { ingress_rate: Some(bits), ..runtimes });
        let share = rate(&flow.read) * TCP / bits as f64;
        assert!((0.97..1.03).contains(&share), "{share:.3} of {bits} bit/s");
    }
    assert!(in_force("c-web").is_unlimited());

    // weftd starts anew: it asks again.
    weftd.stop();
    let _weftd = start(&lab, &server);
    until(Bandwidth { ingress_rate: Some(40_000_000), ..runtimes });
    // What is no rate does not count, and what is taken away neither: the runtime's limit is left.
    for change in [json!({"kubernetes.io/ingress-bandwidth": "a lot"}), json!({})] {
        server.change("pods", "shop/db", |pod| {
            pod["metadata"]["annotations"] = json!({"kubernetes.io/ingress-bandwidth": "1G"});
        });
        until(Bandwidth { ingress_rate: Some(1_000_000_000), ..runtimes });
        server.change("pods", "shop/db", |pod| pod["metadata"]["annotations"] = change);
        until(runtimes);
    }
}
