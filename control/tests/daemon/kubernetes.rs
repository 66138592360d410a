//! weftd in flanneld's place on a node of Kubernetes: what it says of itself there, and what it makes of the others.

use std::fs;

use serde_json::{Value, json};
use weft_api::{State, Status};

use crate::lab::kubernetes::{Server, api_server, start};
use crate::lab::{Lab, wait_for};

const PREFIX: &str = "flannel.alpha.coreos.com";

/// The node `b` as its flanneld has annotated it.
fn peer(mac: &str) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "b", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {
            format!("{PREFIX}/backend-data"): format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#),
            format!("{PREFIX}/backend-type"): "vxlan",
            format!("{PREFIX}/kube-subnet-manager"): "true",
            format!("{PREFIX}/public-ip"): "172.16.0.2",
        }},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.2"}], "conditions": []}
    })
}

fn until(lab: &Lab, what: &str, wanted: impl Fn(&Status) -> bool) {
    wait_for(what, || wanted(&lab.status()).then_some(()));
}

fn is_lost(status: &Status) -> bool {
    status.source.store.as_ref().is_some_and(|store| !store.connected)
}

/// The MAC address that frames for `b` are sent to.
fn mac_of_b(lab: &Lab) -> Option<String> {
    let vteps = lab.ask(async |client| client.vteps(Some("b")).await).expect("they are listed");
    vteps.vteps.first().and_then(|vtep| vtep.mac).map(|mac| mac.to_string())
}

fn annotations(server: &Server) -> Value {
    server.get("nodes", "a")["metadata"]["annotations"].clone()
}

#[test]
fn a_node_is_annotated_follows_the_others_and_starts_without_the_server() {
    let lab = Lab::new();
    let server = api_server(&lab);
    server.put("nodes", peer("02:00:00:00:00:0b"));
    let weftd = start(&lab, &server);

    // What the others, and whoever schedules pods, see of it.
    wait_for("the node's condition", || {
        let conditions = server.get("nodes", "a")["status"]["conditions"].clone();
        let of_network =
            conditions.as_array()?.iter().find(|one| one["type"] == "NetworkUnavailable")?.clone();
        (of_network["status"] == "False" && of_network["reason"] == "FlannelIsUp").then_some(())
    });
    let said = annotations(&server);
    let data = said[format!("{PREFIX}/backend-data")].as_str().expect("a text").to_owned();
    let mac = data.strip_prefix(r#"{"VNI":1,"VtepMAC":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
    assert!(mac.is_some_and(|mac| mac.len() == 17), "{data}");
    for (name, value) in
        [("backend-type", "vxlan"), ("kube-subnet-manager", "true"), ("public-ip", "172.16.0.1")]
    {
        assert_eq!(said[format!("{PREFIX}/{name}")], value, "{name}");
    }
    assert_eq!(
        fs::read_to_string(lab.path("subnet.env")).expect("the subnet file"),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );

    // A node that comes back with another MAC address leaves nothing of the old one behind; one that goes leaves nothing.
    assert_eq!(mac_of_b(&lab).as_deref(), Some("02:00:00:00:00:0b"));
    server.put("nodes", peer("02:00:00:00:00:bb"));
    wait_for("the new address", || (mac_of_b(&lab).as_deref() == Some("02:00:00:00:00:bb")).then_some(()));
    server.remove("nodes", "b");
    until(&lab, "the node's end", |status| status.peers.is_empty());
    server.put("nodes", peer("02:00:00:00:00:bc"));
    until(&lab, "the node again", |status| status.peers.len() == 1);
    let kept = lab.state_dir().join("cluster.json");
    wait_for("what the server says to be kept", || {
        fs::read_to_string(&kept).ok().filter(|text| text.contains("02:00:00:00:00:bc"))
    });

    // The server is away when weftd dies.
    server.set_up(false);
    until(&lab, "the loss", is_lost);
    weftd.crash();
    let _weftd = start(&lab, &server);
    assert_eq!(mac_of_b(&lab).as_deref(), Some("02:00:00:00:00:bc"));
    assert!(is_lost(&lab.status()));
    server.set_up(true);
    until(&lab, "the server", |status| !is_lost(status));
    server.remove("nodes", "b");
    until(&lab, "the node's end", |status| status.peers.is_empty() && status.state == State::Ready);
    assert_eq!(annotations(&server), said, "it is who it was");
}
