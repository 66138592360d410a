//! A large cluster.

use serde_json::json;

use crate::lab::{Lab, VXLAN, annotate, backend_data, bare_node, node};
use crate::server::Server;

/// As many nodes as a cluster of Kubernetes has, with lists of images.
#[tokio::test]
async fn five_thousand_nodes() {
    const NODES: u16 = 5_000;
    let lab = Lab::empty(Server::start(), VXLAN);
    let images: Vec<_> = (0..10)
        .map(|image| {
            let name = format!("registry.example/team/application-{image}");
            json!({"names": [format!("{name}@sha256:{image:064}"), format!("{name}:v1")], "sizeBytes": 12_345_678})
        })
        .collect();
    for index in 1..=NODES {
        let mut node = if index == 1 { bare_node(1) } else { node(index) };
        node["status"]["images"] = json!(images);
        lab.server.put("nodes", node);
    }
    let mut running = lab.run().await;
    assert_eq!(running.last.peers.len(), usize::from(NODES) - 1);
    lab.server
        .change("nodes", "n4000", |node| annotate(node, "backend-data", &backend_data("02:00:00:00:99:99")));
    running.until("one node's change", |r| r.data("n4000") == backend_data("02:00:00:00:99:99")).await;
    for index in 2..=NODES {
        lab.server.change("nodes", &format!("n{index}"), |node| {
            annotate(
                node,
                "backend-data",
                &backend_data(&format!("02:00:00:01:{:02x}:{:02x}", index >> 8, index & 255)),
            );
        });
    }
    let last = backend_data("02:00:00:01:13:88");
    running.until("all nodes' changes", |r| r.data("n5000") == last).await;
    assert_eq!(*running.last, lab.fresh().await);
}
