//! Limits as Kubernetes' annotations say them, from an API server to what passes.

use serde_json::{Value, json};
use weft_api::{Bandwidth, Cni};

use super::{Streams, TCP, assert_share, rate};
use crate::lab::kubernetes::{api_server, start};
use crate::lab::{Lab, Namespace, tap_spec, wait_for};

/// A pod of this node, with what it may receive.
fn pod(name: &str, address: &str, ingress: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "shop", "name": name, "annotations": {"kubernetes.io/ingress-bandwidth": ingress}},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    })
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
    server.put("pods", pod("db", "10.244.0.3", "50M"));
    for bits in [50_000_000, 200_000_000] {
        server.change("pods", "shop/db", |pod| {
            pod["metadata"]["annotations"]["kubernetes.io/ingress-bandwidth"] = json!(bits.to_string());
        });
        until(Bandwidth { ingress_rate: Some(bits), ..runtimes });
        assert_share(|| rate(&flow.read) * TCP / bits as f64, &format!("{bits} bit/s"));
    }
    assert!(in_force("c-web").is_unlimited());

    // weftd starts anew: it asks again.
    weftd.stop();
    let _weftd = start(&lab, &server);
    until(Bandwidth { ingress_rate: Some(200_000_000), ..runtimes });
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
