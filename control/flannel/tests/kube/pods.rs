//! The pods of this node.

use std::sync::Arc;

use serde_json::{Value, json};
use weft_flannel::kube::Pods;

use crate::lab::{Lab, Log, VXLAN, node, wait_for};
use crate::server::{Fault, Verb};

fn pod(name: &str, on: &str, address: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}, "annotations": {}},
        "spec": {"nodeName": on, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}, {"ip": "fd00:10:0:1::2"}]}
    })
}

#[tokio::test]
async fn the_pods_of_this_node_are_known_and_no_others() {
    let log = Log::begin();
    let lab = Lab::new(VXLAN);
    lab.server.put("pods", pod("web", "n1", "10.0.1.2"));
    lab.server.put("pods", pod("far", "n2", "10.0.2.2"));
    let running = lab.run().await;
    let mut pods = running.pods.clone();
    pods.wait_for(|pods| !pods.is_empty()).await.unwrap();
    {
        let pods = pods.borrow();
        assert_eq!(pods.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["shop/web"]);
        let web = pods.get("shop/web").unwrap();
        assert_eq!(web.labels["app"], "web");
        assert_eq!(
            web.addresses,
            ["10.0.1.2".parse::<std::net::IpAddr>().unwrap(), "fd00:10:0:1::2".parse().unwrap()]
        );
        assert_eq!((web.ingress_bandwidth, web.egress_bandwidth), (None, None));
        assert_eq!(pods.with_address("fd00:10:0:1::2".parse().unwrap()).unwrap().0, "shop/web");
    }
    let lists = lab.server.asked().into_iter().filter(|asked| asked.uri.starts_with("/api/v1/pods"));
    lists.for_each(|asked| assert!(asked.uri.contains("fieldSelector=spec.nodeName%3Dn1"), "{}", asked.uri));

    lab.server.change("pods", "shop/web", |pod| {
        pod["metadata"]["annotations"]["kubernetes.io/ingress-bandwidth"] = json!("10M");
        pod["metadata"]["annotations"]["kubernetes.io/egress-bandwidth"] = json!("a lot");
    });
    let limited = |pods: &Arc<Pods>| pods.get("shop/web").unwrap().ingress_bandwidth.map(|rate| rate.get());
    pods.wait_for(|pods| limited(pods) == Some(10_000_000)).await.unwrap();
    assert_eq!(pods.borrow().get("shop/web").unwrap().egress_bandwidth, None);
    assert_eq!(log.about("a lot").len(), 1, "{:?}", log.about(""));

    let mut of_the_host = pod("proxy", "n1", "172.16.0.1");
    of_the_host["spec"]["hostNetwork"] = json!(true);
    lab.server.put("pods", of_the_host);
    lab.server.put("pods", pod("db", "n1", "10.0.1.3"));
    pods.wait_for(|pods| pods.len() == 2).await.unwrap();
    assert!(pods.borrow().get("shop/db").is_some());
    lab.server.change("pods", "shop/web", |pod| pod["status"]["phase"] = json!("Succeeded"));
    pods.wait_for(|pods| pods.len() == 1).await.unwrap();
    lab.server.remove("pods", "shop/db");
    pods.wait_for(|pods| pods.is_empty()).await.unwrap();
}

#[tokio::test]
async fn who_may_not_see_pods_still_sees_nodes() {
    let log = Log::begin();
    let lab = Lab::new(VXLAN);
    lab.server.put("pods", pod("web", "n1", "10.0.1.2"));
    for _ in 0..5 {
        lab.server.fail(Verb::List, "pods", Fault::Status(403, None));
    }
    let mut running = lab.run().await;
    lab.server.put("nodes", node(4));
    running.until("the news", |r| r.names() == ["n2", "n3", "n4"]).await;
    assert_eq!((running.lost, running.back), (0, 0));
    wait_for("the pods in the end", || (running.pods.borrow().len() == 1).then_some(())).await;
    assert_eq!(log.about(", pods:").len(), 1, "{:?}", log.about(""));
}
