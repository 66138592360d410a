//! A node whose cluster is in Kubernetes: a scripted API server, and weftd that follows it.

#[path = "../../../flannel/tests/kube/server.rs"]
#[allow(dead_code, reason = "the tests of the store need all of it")]
mod server;

use std::ffi::OsStr;
use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::{Lab, Weftd};
pub(crate) use server::Server;

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

/// An API server on the lab's node.
pub(crate) fn api_server(lab: &Lab) -> Server {
    let namespace = File::open(lab.node.path()).expect("the namespace is there");
    let enter = move || setns(namespace, CloneFlags::CLONE_NEWNET).expect("it can be entered");
    let server = Server::start_at(([172, 16, 0, 1], 0).into(), None, enter);
    server.put("nodes", node());
    server
}

/// weftd as node `a`, with its first address and no pods.
pub(crate) fn start(lab: &Lab, server: &Server) -> Weftd {
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
